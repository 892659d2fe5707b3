"""Lesson 1: what a frozen CLIP makes of an image, and why that is not enough."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation
from torch import Tensor
from torch.nn import functional as F

from mvfa_core.backbones import Backbone
from mvfa_core.experiment import Experiment
from mvfa_core.lessons.style import COLOURS, bare, canvas, picture, show_image, show_map
from mvfa_core.metrics import auroc
from mvfa_core.scoring import LOGIT_SCALE, patch_logits, text_maps, upsample
from mvfa_core.uncertainty import image_auroc_interval

# --- measuring --------------------------------------------------------------------------------------------


@dataclass
class Features:
    """Images in text space: pooled (N, D) and patches (N, P, D), unit vectors.

    What words say about them is a product with the text features, so new words cost next to nothing.
    """

    pooled: Tensor
    patches: Tensor
    size: int

    def margins(self, text: Tensor) -> NDArray:
        """(N,): abnormal minus normal logit of the pooled feature; the score before it is squeezed into [0, 1].

        It ranks images as the probability does, and does not run out of digits near 1.
        """
        return (LOGIT_SCALE * self.pooled @ (text[:, 1] - text[:, 0])).numpy()

    def scores(self, text: Tensor) -> NDArray:
        """(N,) in [0, 1]: abnormal probability of the pooled feature, the baseline `clip-pooled`."""
        return (LOGIT_SCALE * self.pooled @ text).softmax(dim=-1)[:, 1].numpy()

    def maps(self, text: Tensor) -> Tensor:
        """(N, S, S) in [0, 1]: abnormal probability of each patch, upsampled, the baseline `clip-patch`."""
        return text_maps([self.patches], text, 0, self.size)

    def margin_maps(self, text: Tensor) -> Tensor:
        """(N, S, S): `maps` before the softmax, on the scale of `margins`."""
        logits = upsample(patch_logits(self.patches, text, 0), self.size)
        return logits[:, 1] - logits[:, 0]

    def rows(self, chosen: Sequence[int]) -> "Features":
        return Features(self.pooled[chosen], self.patches[chosen], self.size)


@torch.no_grad()
def features_of(experiment: Experiment, images: Tensor) -> Features:
    """Pass images (N, 3, S, S), in [0, 1] or uint8, through the frozen backbone alone."""
    backbone, start = experiment.backbone, experiment.levels[0]
    pooled, patches = [], []
    for tokens in experiment.tokens(images).split(experiment.settings.evaluation.batch_size):
        last = backbone.run(tokens, start, backbone.depth)
        pooled.append(F.normalize(backbone.pool(last), dim=-1))
        patches.append(F.normalize(backbone.project(last), dim=-1))
    return Features(torch.cat(pooled), torch.cat(patches), backbone.image_size)


@dataclass
class Seen:
    """A data set's test split as the frozen backbone sees it.

    images (N, 3, S, S) uint8, normal ones first. labels (N,) in {0, 1}. masks (N, S, S) or None.
    """

    name: str
    images: Tensor
    labels: NDArray
    masks: Tensor | None
    features: Features

    @classmethod
    def of(cls, experiment: Experiment, name: str) -> "Seen":
        batch = experiment.load(name, experiment.dataset(name).records("test"))
        features = features_of(experiment, batch.images)
        return cls(name, batch.images, batch.labels.numpy().astype(int), batch.masks, features)

    def rows(self, label: int, count: int | None = None) -> list[int]:
        """The first `count` images of a class."""
        return np.flatnonzero(self.labels == label)[:count].tolist()

    def auroc(self, text: Tensor) -> float:
        return auroc(self.labels, self.features.margins(text))


def auroc_table(seen: Sequence[Seen], experiment: Experiment) -> pd.DataFrame:
    """Per data set: mean score of either class, image AUROC of the pooled reading with its 95 % interval."""
    rows = []
    for part in seen:
        text = experiment.text(part.name)
        margins, scores = part.features.margins(text), part.features.scores(text)
        interval = image_auroc_interval(part.labels, margins, experiment.settings.evaluation.bootstrap)
        rows.append(
            {
                "data set": part.name.replace("_", " "),
                "mean score, normal": scores[part.labels == 0].mean(),
                "mean score, abnormal": scores[part.labels == 1].mean(),
                "AUROC": part.auroc(text),
                "low": interval.low,
                "high": interval.high,
            }
        )
    return pd.DataFrame(rows).set_index("data set")


@torch.no_grad()
def neighbours(backbone: Backbone, image: Tensor, patch: int, blocks: Sequence[int]) -> Tensor:
    """(len(blocks), side, side): cosine of one patch's token with every patch token, behind some blocks.

    Args:
        backbone: the frozen model.
        image: (3, S, S) in [0, 1].
        patch: number of the patch, row by row.
        blocks: increasing block numbers; 0 is the input of block 1.
    """
    tokens, done, found = backbone.embed(image[None]), 0, []
    for block in blocks:
        tokens, done = backbone.run(tokens, done, block), block
        unit = F.normalize(tokens[0, backbone.prefix :], dim=-1)
        found.append(unit @ unit[patch])
    side = backbone.image_size // backbone.stride
    return torch.stack(found).reshape(-1, side, side)


def heat_share(maps: Tensor, chosen: Tensor) -> tuple[float, float]:
    """How much of the maps' sum lies on the `chosen` pixels, and how many of all pixels these are."""
    return float(maps[chosen].sum() / maps.sum()), float(chosen.float().mean())


def paint_out(images: Tensor, masks: Tensor, margin: int = 2, ring: int = 4) -> Tensor:
    """Images (N, 3, S, S) in [0, 1] without what the masks (N, S, S) mark.

    A region is widened by `margin` pixels, for its edge is soft, and filled with the mean of the `ring` pixels
    around it.
    """
    healed = images.clone()
    for image, mask in zip(healed, masks.bool().numpy(), strict=True):
        if mask.any():
            inside = binary_dilation(mask, iterations=margin)
            around = torch.from_numpy(binary_dilation(inside, iterations=ring) & ~inside)
            image[:, torch.from_numpy(inside)] = image[:, around].mean(dim=1, keepdim=True)
    return healed


# --- drawing ----------------------------------------------------------------------------------------------


def patch_figure(image: Tensor, patch: int, number: int) -> Figure:
    """An image (3, S, S), the same cut into patches of `patch` pixels, and patch `number` enlarged."""
    figure, axes = canvas(1, 3, 8.4, 3)
    pixels, side = picture(image), image.shape[-1] // patch
    row, column = divmod(number, side)
    show_image(axes[0, 0], image, f"image, {image.shape[-1]} × {image.shape[-1]} px")
    gap = 2
    apart = np.full((side * (patch + gap), side * (patch + gap), 3), 255, dtype=np.uint8)
    for y, x in np.ndindex(side, side):
        block = pixels[y * patch : (y + 1) * patch, x * patch : (x + 1) * patch]
        apart[y * (patch + gap) :, x * (patch + gap) :][:patch, :patch] = block
    show_image(axes[0, 1], apart, f"{side} × {side} = {side**2} patches")
    corner = (column * (patch + gap) - 1.5, row * (patch + gap) - 1.5)
    axes[0, 1].add_patch(_frame(corner, patch + 2))
    axes[0, 0].add_patch(_frame((column * patch - 0.5, row * patch - 0.5), patch))
    one = pixels[row * patch : (row + 1) * patch, column * patch : (column + 1) * patch]
    show_image(axes[0, 2], one, f"patch {number}: {patch} × {patch} px × 3 colours")
    return figure


def _frame(corner: tuple[float, float], side: float) -> Rectangle:
    return Rectangle(corner, side, side, fill=False, edgecolor=COLOURS["abnormal"], linewidth=2)


def neighbour_figure(image: Tensor, found: Tensor, patch: int, blocks: Sequence[int], stride: int) -> Figure:
    """The image with one patch framed, and the cosines of `neighbours` behind each block."""
    figure, axes = canvas(1, 1 + len(blocks), 1.75 * (1 + len(blocks)), 2.2)
    row, column = divmod(patch, found.shape[-1])
    show_image(axes[0, 0], image, f"patch {patch}")
    axes[0, 0].add_patch(_frame((column * stride - 0.5, row * stride - 0.5), stride))
    for axis, cosines, block in zip(axes[0, 1:], found, blocks, strict=True):
        drawn = bare(axis).imshow(np.asarray(cosines), cmap="cividis", vmin=-0.2, vmax=1)
        axis.add_patch(_frame((column - 0.5, row - 0.5), 1))
        axis.set_title(f"behind block {block}" if block else "before block 1", fontsize=10)
    figure.colorbar(drawn, ax=list(axes[0]), fraction=0.04, pad=0.01, label="cosine")
    return figure


def score_figure(seen: Sequence[Seen], experiment: Experiment) -> Figure:
    """Histograms of the margins of normal and abnormal images, a panel a data set."""
    figure, axes = canvas(1, len(seen), 4.2 * len(seen), 2.8)
    for axis, part in zip(axes[0], seen, strict=True):
        text = experiment.text(part.name)
        margins = part.features.margins(text)
        bins = np.linspace(margins.min(), margins.max(), 26)
        for label, kind in enumerate(("normal", "abnormal")):
            chosen = margins[part.labels == label]
            axis.hist(chosen, bins, color=COLOURS[kind], alpha=0.7, label=kind)
        axis.axvline(0, color="black", linewidth=1, linestyle=":")
        axis.set_title(f"{part.name}: AUROC {part.auroc(text):.2f}", fontsize=11)
        axis.set_xlabel("margin: abnormal minus normal logit")
    axes[0, 0].set_ylabel("test images")
    axes[0, 0].legend(frameon=False)
    return figure


def auroc_figure(table: pd.DataFrame) -> Figure:
    """A dot and its interval for each row of `auroc_table`; intervals wholly below chance stand out."""
    figure, axis = canvas(1, 1, 6.5, 0.8 + 0.32 * len(table))
    for y, (_, row) in enumerate(table.iterrows()):
        below = row["high"] < 0.5
        error = [[row["AUROC"] - row["low"]], [row["high"] - row["AUROC"]]]
        colour = COLOURS["few-shot"] if below else COLOURS["clip-pooled"]
        axis.errorbar(row["AUROC"], y, xerr=error, fmt="o", color=colour, markersize=6)
    axis.axvline(0.5, color=COLOURS["chance"], linestyle="--", linewidth=1, zorder=0)
    axis.set_yticks(range(len(table)), table.index)
    axis.invert_yaxis()
    axis.set_xlabel("image AUROC of plain CLIP, 95 % interval (dashed: chance)")
    return figure


def healthy_figure(seen: Sequence[Seen], experiment: Experiment) -> Figure:
    """Per data set: the mean of all normal test images, and the mean of their anomaly maps."""
    figure, axes = canvas(1, 2 * len(seen), 2.3 * 2 * len(seen), 2.6)
    for place, part in enumerate(seen):
        rows = part.rows(0)
        left, right = axes[0, 2 * place], axes[0, 2 * place + 1]
        show_image(left, part.images[rows].float().mean(dim=0) / 255, f"{part.name}: mean normal image")
        mean_map = part.features.maps(experiment.text(part.name))[rows].mean(dim=0)
        drawn = show_map(right, mean_map, "mean anomaly map", span=(0, 0.12))
    figure.colorbar(drawn, ax=list(axes[0]), fraction=0.03, pad=0.01)
    return figure


def painted_figure(before: Tensor, after: Tensor, maps: Tensor, masks: Tensor, change: NDArray) -> Figure:
    """What taking the lesions away does.

    Args:
        before: (N, 3, S, S) with lesions, a few of them.
        after: the same, painted out.
        maps: (2, N, S, S) of both.
        masks: (N, S, S).
        change: (M,) margin with the lesion minus margin without, of all abnormal images.
    """
    figure = Figure(figsize=(9.5, 3.9), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.7, 1))
    axes = left.subplots(len(before), 4, squeeze=False)
    heads = ("image", "its map", "lesion painted out", "its map")
    for line, row in zip(range(len(before)), axes, strict=True):
        show_image(row[0], before[line], mask=masks[line])
        show_map(row[1], maps[0, line], mask=masks[line], span=(0, 1))
        show_image(row[2], after[line])
        show_map(row[3], maps[1, line], span=(0, 1))
    for axis, head in zip(axes[0], heads, strict=True):
        axis.set_title(head, fontsize=10)
    axis = right.subplots()
    bins = np.linspace(-np.abs(change).max(), np.abs(change).max(), 31)
    axis.hist(change[change < 0], bins, color=COLOURS["normal"], label="lesion looks healthier")
    axis.hist(change[change >= 0], bins, color=COLOURS["abnormal"], label="lesion looks damaged")
    axis.axvline(0, color="black", linewidth=1)
    axis.set_xlabel("margin with lesion minus margin without")
    axis.set_ylabel("abnormal test images")
    axis.legend(frameon=False, fontsize=9, loc="lower left", bbox_to_anchor=(0, 1))
    axis.spines[["top", "right"]].set_visible(False)
    return figure
