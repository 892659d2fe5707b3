"""Lesson 2: what a choice of words does to the text features, and through them to maps and AUROC."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from sklearn.decomposition import PCA
from torch import Tensor
from torch.nn import functional as F

from mvfa_core.backbones import Backbone
from mvfa_core.experiment import Experiment
from mvfa_core.lessons.seeing import Seen
from mvfa_core.lessons.style import COLOURS, canvas
from mvfa_core.metrics import auroc
from mvfa_core.prompts import PromptEnsemble, text_features
from mvfa_core.uncertainty import image_auroc_interval

# --- measuring --------------------------------------------------------------------------------------------


@dataclass
class Sentences:
    """Every sentence of an ensemble with its unit text feature: a class feature is a mean over some of them.

    normal: (states, templates, D). abnormal: likewise, with its own number of states.
    """

    ensemble: PromptEnsemble
    normal: Tensor
    abnormal: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, backbone: Backbone, organ: str, ensemble: PromptEnsemble = PromptEnsemble()) -> "Sentences":
        found = []
        for states, sentences in zip(
            (ensemble.normal, ensemble.abnormal), ensemble.sentences(organ), strict=True
        ):
            unit = F.normalize(backbone.encode_text(sentences), dim=-1)
            found.append(unit.unflatten(0, (len(states), len(ensemble.templates))))
        return cls(ensemble, *found)

    def text(
        self,
        normal: Sequence[int] | slice = slice(None),
        abnormal: Sequence[int] | slice = slice(None),
        templates: Sequence[int] | slice = slice(None),
    ) -> Tensor:
        """(D, 2) from some states and templates, by their numbers; all of them give `prompts.text_features`."""
        chosen = (self.normal[normal][:, templates], self.abnormal[abnormal][:, templates])
        return torch.stack([F.normalize(part.flatten(0, 1).mean(dim=0), dim=-1) for part in chosen], dim=1)


def closeness(sentences: Sentences) -> pd.Series:
    """Mean cosines: of two sentences of one class, of two classes, and of the two averaged features."""
    normal, abnormal = sentences.normal.flatten(0, 1), sentences.abnormal.flatten(0, 1)
    text = sentences.text()
    return pd.Series(
        {
            "two normal sentences": _mean_of_pairs(normal),
            "two abnormal sentences": _mean_of_pairs(abnormal),
            "a normal and an abnormal sentence": float((normal @ abnormal.T).mean()),
            "the two averaged features": float(text[:, 0] @ text[:, 1]),
        },
        name="mean cosine",
    )


def _mean_of_pairs(unit: Tensor) -> float:
    """A sentence's cosine with itself is left out."""
    count = len(unit)
    return float(((unit @ unit.T).sum() - count) / (count * (count - 1)))


def positions(backbone: Backbone, organ: str, states: Sequence[str]) -> pd.Series:
    """Where each state lands between the ensemble's normal feature (0) and its abnormal one (1)."""
    normal, abnormal = text_features(backbone, organ).T
    axis = abnormal - normal
    found = {}
    for state in states:
        feature = text_features(backbone, organ, PromptEnsemble((state,), (state,)))[:, 0]
        found[state] = float((feature - normal) @ axis / (axis @ axis))
    return pd.Series(found, name="position")


def single_aurocs(seen: Seen, sentences: Sentences) -> pd.DataFrame:
    """Image AUROC of parts of the ensemble: one template with all states, one pair of states with all templates."""
    ensemble, rows = sentences.ensemble, []
    for t, template in enumerate(ensemble.templates):
        rows.append(("one template", template, seen.auroc(sentences.text(templates=[t]))))
    for (i, normal), (j, abnormal) in (
        (a, b) for a in enumerate(ensemble.normal) for b in enumerate(ensemble.abnormal)
    ):
        rows.append(("one pair of states", f"{normal} / {abnormal}", seen.auroc(sentences.text([i], [j]))))
    return pd.DataFrame(rows, columns=["part", "wording", "AUROC"])


def wording_table(
    experiment: Experiment, seen: Sequence[Seen], wordings: Mapping[str, PromptEnsemble]
) -> pd.DataFrame:
    """Per wording and data set: cosine of its two text features, image AUROC and its 95 % interval."""
    rows = []
    for part in seen:
        organ = experiment.settings.dataset(part.name).organ
        for name, ensemble in wordings.items():
            text = text_features(experiment.backbone, organ, ensemble)
            margins = part.features.margins(text)
            interval = image_auroc_interval(part.labels, margins, experiment.settings.evaluation.bootstrap)
            rows.append(
                {
                    "wording": name,
                    "data set": part.name,
                    "cosine": float(text[:, 0] @ text[:, 1]),
                    "AUROC": part.auroc(text),
                    "low": interval.low,
                    "high": interval.high,
                }
            )
    return pd.DataFrame(rows)


def organ_aurocs(seen: Sequence[Seen], backbone: Backbone, organs: Sequence[str]) -> pd.DataFrame:
    """Image AUROC of each data set (columns) with each word in the organ's place (rows)."""
    texts = {organ: text_features(backbone, organ) for organ in organs}
    return pd.DataFrame(
        {part.name: {organ: part.auroc(text) for organ, text in texts.items()} for part in seen}
    )


def word_search(seen: Seen, backbone: Backbone, organ: str, states: Sequence[str], seed: int) -> pd.DataFrame:
    """Every state as the abnormal one, judged on two random halves of the test images.

    Returns:
        A row a state: AUROC on the half that a searcher looks at, and on the half kept from him.
    """
    halves = np.zeros(len(seen.labels), dtype=bool)
    rng = np.random.default_rng(seed)
    for label in (0, 1):
        rows = np.flatnonzero(seen.labels == label)
        halves[rng.permutation(rows)[: len(rows) // 2]] = True
    found = {}
    for state in states:
        text = text_features(backbone, organ, PromptEnsemble(abnormal=(state,)))
        margins = seen.features.margins(text)
        found[state] = [auroc(seen.labels[part], margins[part]) for part in (halves, ~halves)]
    return pd.DataFrame.from_dict(found, orient="index", columns=["looked at", "kept away"])


# --- drawing ----------------------------------------------------------------------------------------------


def position_figure(places: pd.Series) -> Figure:
    """A ruler from the normal to the abnormal feature, with every state of `positions` on it."""
    places = places.sort_values(kind="stable")
    figure, axis = canvas(1, 1, 7.6, 0.9 + 0.27 * len(places))
    for y, place in enumerate(places):
        colour = COLOURS["abnormal" if place > 0.5 else "normal"]
        axis.plot([0.5, place], [y, y], color=colour, linewidth=1.5)
        axis.scatter(place, y, s=45, color=colour, zorder=3)
    axis.axvline(0.5, color=COLOURS["chance"], linewidth=1, zorder=0)
    axis.set_yticks(range(len(places)), [state.format("Brain") for state in places.index])
    axis.invert_yaxis()
    axis.set_xticks([0, 0.5, 1], ["normal feature", "half way", "abnormal feature"])
    axis.set_title("Where a wording lands between the two text features", fontsize=11)
    return figure


def plane_figure(sentences: Sentences) -> Figure:
    """All sentences in the plane of their two largest principal components, and the two class features."""
    groups = {"normal": sentences.normal, "abnormal": sentences.abnormal}
    flat = torch.cat([part.flatten(0, 1) for part in groups.values()]).numpy()
    plane = PCA(2, svd_solver="full").fit(flat)
    figure, axis = canvas(1, 1, 7, 3.6)
    for number, (kind, part) in enumerate(groups.items()):
        places = plane.transform(part.flatten(0, 1).numpy())
        axis.scatter(*places.T, s=14, color=COLOURS[kind], linewidth=0, label=f"{kind} sentence")
        mean = plane.transform(sentences.text()[:, [number]].T.numpy())[0]
        axis.scatter(
            *mean, s=170, marker="*", color=COLOURS[kind], edgecolor="black", label=f"{kind} feature"
        )
    axis.set_xlabel(f"first component ({plane.explained_variance_ratio_[0]:.0%} of the variance)")
    axis.set_ylabel(f"second component ({plane.explained_variance_ratio_[1]:.0%})")
    axis.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def single_figure(tables: Mapping[str, pd.DataFrame], whole: Mapping[str, float]) -> Figure:
    """The tables of `single_aurocs`, a strip a data set and kind of part, beside the whole ensemble."""
    parts = ("one template", "one pair of states")
    figure, axis = canvas(1, 1, 7.6, 1.2 + 0.62 * len(tables))
    for y, (name, table) in enumerate(tables.items()):
        for shift, part, marker in zip((-0.2, 0.2), parts, "ox", strict=True):
            values = table.loc[table["part"] == part, "AUROC"].to_numpy()
            # spread by number, not at random: the same figure has the same bytes
            lift = np.linspace(-0.13, 0.13, len(values))[np.arange(len(values)) * 17 % len(values)]
            style = {"s": 16, "marker": marker, "color": COLOURS["text"], "linewidth": 0.8, "alpha": 0.6}
            axis.scatter(values, y + shift + lift, label=part if not y else None, **style)
        label = "whole ensemble" if not y else None
        axis.plot(
            [whole[name]] * 2, [y - 0.42, y + 0.42], color=COLOURS["abnormal"], linewidth=2, label=label
        )
    axis.axvline(0.5, color=COLOURS["chance"], linestyle="--", linewidth=1, zorder=0)
    axis.set_yticks(range(len(tables)), [name.replace("_", " ") for name in tables])
    axis.set_ylim(len(tables) - 0.4, -0.6)
    axis.set_xlim(0.3, 0.85)
    axis.set_xlabel("image AUROC of plain CLIP (dashed: chance)")
    axis.legend(frameon=False, fontsize=9, ncols=3, loc="lower left", bbox_to_anchor=(0, 1))
    return figure


def wording_figure(table: pd.DataFrame) -> Figure:
    """AUROC and interval of each wording, a panel a data set."""
    names, datasets = list(table["wording"].unique()), list(table["data set"].unique())
    figure, axes = canvas(1, len(datasets), 2.7 * len(datasets) + 1.8, 0.9 + 0.34 * len(names), sharey=True)
    for axis, dataset in zip(np.atleast_1d(axes).flat, datasets, strict=True):
        for y, row in enumerate(table[table["data set"] == dataset].itertuples()):
            error = [[row.AUROC - row.low], [row.high - row.AUROC]]
            axis.errorbar(row.AUROC, y, xerr=error, fmt="o", color=COLOURS["text" if y else "clip-pooled"])
        axis.axvline(0.5, color=COLOURS["chance"], linestyle="--", linewidth=1, zorder=0)
        axis.set_title(dataset.replace("_", " "), fontsize=11)
        axis.set_xlim(0.2, 0.9)
    first = np.atleast_1d(axes).flat[0]
    first.set_yticks(range(len(names)), names)
    first.set_ylim(len(names) - 0.5, -0.5)
    figure.supxlabel("image AUROC, 95 % interval (dashed: chance)", fontsize=10)
    return figure


def search_figure(table: pd.DataFrame) -> Figure:
    """The two columns of `word_search` against each other; the best on the first half is named."""
    best = table["looked at"].idxmax()
    figure, axis = canvas(1, 1, 4.6, 4)
    axis.scatter(table["looked at"], table["kept away"], s=30, color=COLOURS["frozen"], edgecolor="#555555")
    axis.scatter(*table.loc[best], s=60, color=COLOURS["few-shot"], zorder=3)
    axis.annotate(best.format("..."), table.loc[best], xytext=(-6, 8), textcoords="offset points", ha="right")
    low, high = table.to_numpy().min() - 0.03, table.to_numpy().max() + 0.03
    axis.plot([low, high], [low, high], color=COLOURS["chance"], linestyle=":", zorder=0)
    axis.set_xlabel("AUROC on the half that was looked at")
    axis.set_ylabel("AUROC on the half kept away")
    axis.set_aspect("equal")
    return figure
