"""A threshold slider and a prompt box. What they show is computed and drawn by plain functions, tested as such.

Without a kernel behind the page there is nothing to slide: a lesson then shows the same pictures at a few fixed
settings. A lesson's parameter `live` decides; None leaves it to `has_front_end`.
"""

import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import ipywidgets
import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix
from torch import Tensor

from mvfa_core.backbones import Backbone
from mvfa_core.errors import MvfaError
from mvfa_core.lessons.seeing import Features
from mvfa_core.lessons.style import COLOURS, canvas, show_image, show_map
from mvfa_core.metrics import f1_max
from mvfa_core.prompts import PromptEnsemble, text_features

PREDICTED = "#ffffff"
# what JupyterLab and Notebook, VS Code and Colab set for the kernels they start
FRONT_ENDS = ("JPY_SESSION_NAME", "VSCODE_PID", "COLAB_RELEASE_TAG")


def has_front_end() -> bool:
    """Whether a notebook application started this kernel, so that a widget would find somebody to show it."""
    return any(name in os.environ for name in FRONT_ENDS)


# --- threshold --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Confusion:
    """Counts of images at one threshold: what was called abnormal (positive) or normal, rightly or not."""

    hits: int
    misses: int
    false_alarms: int
    passed: int

    @classmethod
    def of(cls, labels: NDArray, scores: NDArray, threshold: float) -> "Confusion":
        """A score at or above `threshold` is called abnormal; labels in {0, 1}."""
        (passed, alarms), (misses, hits) = confusion_matrix(labels, scores >= threshold, labels=[0, 1])
        return cls(int(hits), int(misses), int(alarms), int(passed))

    @property
    def sensitivity(self) -> float | None:
        """Share of the abnormal images that are found; None if there is none."""
        total = self.hits + self.misses
        return self.hits / total if total else None

    @property
    def specificity(self) -> float | None:
        """Share of the normal images that are passed; None if there is none."""
        total = self.passed + self.false_alarms
        return self.passed / total if total else None


@dataclass
class Judged:
    """What the slider needs: scores (N,) and labels (N,) of all images, and a few images with their maps.

    shown: rows of the few. images (K, 3, S, S), maps and masks (K, S, S) belong to them; maps are on the scale of
    the scores, so that one threshold serves both.
    """

    labels: NDArray
    scores: NDArray
    shown: Sequence[int]
    images: Tensor
    maps: Tensor
    masks: Tensor

    @property
    def best(self) -> float:
        """The threshold with the highest F1 on these images."""
        return f1_max(self.labels, self.scores)[1]


def threshold_figure(judged: Judged, threshold: float) -> Figure:
    """Scores with the threshold, the confusion matrix, and the few images with prediction and truth outlined."""
    columns, width = len(judged.shown), 9
    height = width / columns + 0.7
    figure = Figure(figsize=(width, 2.8 + height), layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=(2.8, height))
    left, right = upper.subplots(1, 2, width_ratios=(1.9, 1))
    bins = np.linspace(judged.scores.min(), judged.scores.max(), 31)
    for label, kind in enumerate(("normal", "abnormal")):
        left.hist(judged.scores[judged.labels == label], bins, color=COLOURS[kind], alpha=0.7, label=kind)
    left.axvline(threshold, color="black", linewidth=2)
    left.set_xlabel(f"score; called abnormal from {threshold:.2f} on")
    left.set_ylabel("images")
    left.legend(frameon=False, fontsize=9)
    left.spines[["top", "right"]].set_visible(False)
    _draw_confusion(right, Confusion.of(judged.labels, judged.scores, threshold))
    cells = lower.subplots(1, columns, squeeze=False)[0]
    for axis, row, image, anomaly_map, mask in zip(
        cells, judged.shown, judged.images, judged.maps, judged.masks, strict=True
    ):
        called = "abnormal" if judged.scores[row] >= threshold else "normal"
        right_call = judged.labels[row] == (called == "abnormal")
        show_image(axis, image, f"called {called},\n{'right' if right_call else 'wrong'}", mask)
        predicted = np.asarray(anomaly_map >= threshold)
        if predicted.any() and not predicted.all():
            axis.contour(predicted, levels=[0.5], colors=PREDICTED, linewidths=1, linestyles="--")
    lower.supxlabel("solid: mask, dashed: predicted", fontsize=9)
    return figure


def _draw_confusion(axis, counts: Confusion) -> None:
    table = [[counts.hits, counts.misses], [counts.false_alarms, counts.passed]]
    names = [["hits", "misses"], ["false alarms", "passed"]]
    right = np.eye(2)
    axis.imshow(right, cmap="Greys", vmin=0, vmax=4)
    for (i, j), _ in np.ndenumerate(right):
        axis.text(j, i, f"{table[i][j]}\n{names[i][j]}", ha="center", va="center", fontsize=10)
    axis.set_xticks([0, 1], ["abnormal", "normal"])
    axis.set_yticks([0, 1], ["abnormal", "normal"], rotation=90, va="center")
    axis.set_xlabel("called")
    axis.set_ylabel("is")
    shares = [
        f"{name} {share:.2f}"
        for name, share in (("sensitivity", counts.sensitivity), ("specificity", counts.specificity))
        if share is not None
    ]
    axis.set_title(", ".join(shares), fontsize=10)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)


def threshold_slider(judged: Judged, live: bool | None = None) -> Figure | ipywidgets.VBox:
    """A slider over the scores with `threshold_figure` below it; not `live`: the figure at the best threshold."""
    if not (has_front_end() if live is None else live):
        return threshold_figure(judged, judged.best)
    slider = ipywidgets.FloatSlider(
        value=judged.best,
        min=float(judged.scores.min()),
        max=float(judged.scores.max()),
        step=float(np.ptp(judged.scores)) / 100,
        description="threshold",
        continuous_update=False,
        readout_format=".2f",
        layout={"width": "60%"},
    )
    return _with_picture([slider], lambda: threshold_figure(judged, slider.value))


# --- prompts ----------------------------------------------------------------------------------------------


def wording(normal: str, abnormal: str) -> PromptEnsemble:
    """Two boxes of text, one wording a line, as an ensemble over all templates; `{}` stands for the organ.

    Raises:
        MvfaError: a box is empty, or a line has braces that are no `{}`.
    """
    found = []
    for kind, text in (("normal", normal), ("abnormal", abnormal)):
        lines = tuple(line.strip() for line in text.splitlines() if line.strip())
        if not lines:
            raise MvfaError(f"prompt box: the {kind} side is empty; write at least one wording")
        for line in lines:
            if "{" in line.replace("{}", "") or "}" in line.replace("{}", ""):
                raise MvfaError(f"prompt box: '{line}' has a lone brace; write {{}} where the organ goes")
        found.append(lines)
    return PromptEnsemble(*found)


def prompt_figure(
    backbone: Backbone,
    images: Tensor,
    masks: Tensor | None,
    features: Features,
    organ: str,
    ensemble: PromptEnsemble,
) -> Figure:
    """What a wording makes of a few images (K, 3, S, S): score above, map below, one scale for all."""
    text = text_features(backbone, organ, ensemble)
    scores, maps = features.scores(text), features.maps(text)
    figure, axes = canvas(2, len(images), 1.5 * len(images) + 0.6, 3.7)
    for column, (image, anomaly_map, score) in enumerate(zip(images, maps, scores, strict=True)):
        mask = None if masks is None else masks[column]
        show_image(axes[0, column], image, f"score {score:.2f}", mask)
        drawn = show_map(axes[1, column], anomaly_map, mask=mask, span=(0, 1))
    figure.colorbar(drawn, ax=list(axes[1]), fraction=0.05, pad=0.01)
    shown = [
        " / ".join(side[:2]) + (" ..." if len(side) > 2 else "")
        for side in (ensemble.normal, ensemble.abnormal)
    ]
    cosine = float(text[:, 0] @ text[:, 1])
    figure.suptitle(f"{organ}: '{shown[0]}' against '{shown[1]}', cosine {cosine:.4f}", fontsize=10)
    return figure


def prompt_box(
    backbone: Backbone,
    images: Tensor,
    masks: Tensor | None,
    features: Features,
    organ: str,
    live: bool | None = None,
    normal: str = "flawless {}",
    abnormal: str = "damaged {}",
) -> Figure | ipywidgets.VBox:
    """Boxes for the organ and the wordings with `prompt_figure` below; not `live`: the figure as it opens."""
    draw = partial(prompt_figure, backbone, images, masks, features)
    if not (has_front_end() if live is None else live):
        return draw(organ, wording(normal, abnormal))
    boxes = [
        ipywidgets.Text(organ, description="organ"),
        ipywidgets.Textarea(normal, description="normal"),
        ipywidgets.Textarea(abnormal, description="abnormal"),
    ]
    for box in boxes:
        box.continuous_update = False
    return _with_picture(boxes, lambda: draw(boxes[0].value, wording(boxes[1].value, boxes[2].value)))


# --- both -------------------------------------------------------------------------------------------------


def png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90, metadata={"Software": None})
    return buffer.getvalue()


def _with_picture(controls: Sequence[ipywidgets.Widget], draw: Callable[[], Figure]) -> ipywidgets.VBox:
    """Controls above a picture that is drawn anew whenever one of them changes; a user's error is told below."""
    shown, trouble = ipywidgets.Image(format="png"), ipywidgets.Label()

    def redraw(_=None) -> None:
        try:
            with torch.no_grad():
                shown.value = png(draw())
            trouble.value = ""
        except MvfaError as error:
            trouble.value = str(error)

    for control in controls:
        control.observe(redraw, names="value")
    redraw()
    return ipywidgets.VBox([*controls, trouble, shown])
