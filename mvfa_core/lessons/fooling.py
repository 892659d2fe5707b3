"""Lesson 6, how to fool yourself: luck, small test sets, many comparisons, shared ranges, one class."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.metrics import f1_score
from torch import Tensor

from mvfa_core.experiment import Experiment
from mvfa_core.judging import Branches, FusionRanges, few_shot_verdict
from mvfa_core.lessons.choosing import FRESH, PLACES, SEEN
from mvfa_core.lessons.style import COLOURS, canvas, level_colours
from mvfa_core.metrics import auroc, f1_max
from mvfa_core.uncertainty import delong_test, holm, image_auroc_interval

# --- luck -------------------------------------------------------------------------------------------------


def useless_detectors(per_class: int, tries: int, seed: int) -> tuple[NDArray, NDArray]:
    """Labels (N,) and scores (tries, N) of detectors that draw every score at random; N = 2 x per_class."""
    labels = np.repeat([0, 1], per_class)
    return labels, np.random.default_rng([seed, per_class]).random((tries, 2 * per_class))


def useless_aurocs(per_class: int, tries: int, seed: int) -> NDArray:
    """(tries,) image AUROC of `useless_detectors`."""
    labels, scores = useless_detectors(per_class, tries, seed)
    return np.array([auroc(labels, row) for row in scores])


def best_of(values: Sequence[float], tries: int) -> float:
    """The best of `tries` values, averaged over as many separate groups of them as there are.

    >>> best_of([0.4, 0.6, 0.5, 0.9], 2)
    0.75
    """
    values = np.asarray(values)
    groups = len(values) // tries
    return float(values[: groups * tries].reshape(groups, tries).max(axis=1).mean())


def luck_figure(aurocs: Mapping[int, NDArray], shown: int) -> Figure:
    """Left: AUROCs of useless detectors on `shown` images a class. Right: the best of 1, 2, 4 ... of them.

    `aurocs`: {test images a class: (tries,) AUROCs}.
    """
    figure, axes = canvas(1, 2, width=9, height=3.2)
    left, right = axes[0]
    values = aurocs[shown]
    left.hist(values, 30, color=COLOURS["frozen"])
    left.axvline(values.max(), color=PLACES[SEEN], linewidth=2)
    left.set_title(f"{len(values)} useless detectors, {shown} + {shown} images", fontsize=10)
    left.set_xlabel(f"image AUROC (line: the best, {values.max():.3f})")
    left.set_ylabel("detectors")
    tries = 2 ** np.arange(int(np.log2(len(values))) + 1)
    for (per_class, found), marker, colour in zip(
        aurocs.items(), "os^Dv", level_colours(len(aurocs)), strict=False
    ):
        best = [best_of(found, n) for n in tries]
        label = f"{per_class} + {per_class}"
        right.plot(tries, best, marker=marker, markersize=4, color=colour, label=label)
    right.axhline(0.5, color=COLOURS["chance"], linestyle="--", linewidth=1)
    right.set_xscale("log", base=2)
    right.set_xticks(tries, [str(n) for n in tries], fontsize=8)
    right.set_xlabel("detectors tried")
    right.set_ylabel("AUROC of the best")
    right.legend(title="test images", frameon=False, fontsize=9, title_fontsize=9)
    return figure


def comparisons_table(per_class: int, rivals: int, seed: int) -> pd.DataFrame:
    """A useless baseline against useless rivals on the same images: AUROCs, DeLong's p, and Holm's.

    Sorted by p; no row is a true difference.
    """
    labels, scores = useless_detectors(per_class, rivals + 1, seed)
    tests = [delong_test(labels, row, scores[0]) for row in scores[1:]]
    frame = pd.DataFrame(
        {"baseline": [t.auc_b for t in tests], "rival": [t.auc_a for t in tests], "p": [t.p for t in tests]}
    )
    return frame.assign(p_holm=holm(frame["p"])).sort_values("p", ignore_index=True)


def false_discoveries(per_class: int, rivals: int, studies: int, seed: int) -> dict[str, float]:
    """Share of studies, all without a true difference, in which at least one p is below 0.05."""
    tables = [comparisons_table(per_class, rivals, seed + study) for study in range(studies)]
    return {column: float(np.mean([t[column].min() < 0.05 for t in tables])) for column in ("p", "p_holm")}


# --- small test sets --------------------------------------------------------------------------------------


def subset_table(
    labels: Tensor, scores: Tensor, sizes: Sequence[int], repeats: int, seed: int
) -> pd.DataFrame:
    """One detector on many small test sets drawn without replacement from a large one.

    Columns: per_class, value, and the interval `low`, `high` that one would report from that small set.
    """
    labels, scores = labels.numpy(), scores.numpy()
    rng, rows = np.random.default_rng(seed), []
    for per_class in sizes:
        for _ in range(repeats):
            drawn = [rng.choice(np.flatnonzero(labels == c), per_class, replace=False) for c in (0, 1)]
            chosen = np.concatenate(drawn)
            interval = image_auroc_interval(labels[chosen], scores[chosen], 500)
            value = auroc(labels[chosen], scores[chosen])
            rows.append({"per_class": per_class, "value": value, "low": interval.low, "high": interval.high})
    return pd.DataFrame(rows)


def subset_figure(table: pd.DataFrame, whole: float) -> Figure:
    """A bar for every small test set, from its interval's one end to the other; the line is the large set."""
    sizes = list(table["per_class"].unique())
    figure, axes = canvas(1, len(sizes), width=9, height=3, sharey=True)
    for axis, (size, part) in zip(axes[0], table.groupby("per_class"), strict=True):
        part = part.sort_values("value")
        errors = [part["value"] - part["low"], part["high"] - part["value"]]
        axis.errorbar(range(len(part)), part["value"], errors, fmt="o", ms=3, lw=0.8, color=PLACES[SEEN])
        axis.axhline(whole, color="black", linewidth=1)
        axis.set_title(f"{size} + {size} images", fontsize=10)
        axis.set_xticks([])
    axes[0, 0].set_ylabel("image AUROC")
    figure.supxlabel("one dot a test set, sorted; bars: 95 % intervals; line: all images", fontsize=10)
    return figure


# --- ranges over the test set -----------------------------------------------------------------------------


def rows_of(branches: Branches, rows: Sequence[int]) -> Branches:
    """What the branches say of some of their images."""
    return replace(branches, **{name: value[list(rows)] for name, value in vars(branches).items()})


def score_in_company(
    branches: Branches, image: int, company: Sequence[int], masks: bool, memory_weight: float = 0.5
) -> float:
    """The fused score of one image when ranges are taken over it and its `company`, as the `paper` protocol does."""
    ranges = FusionRanges.of(rows_of(branches, [image, *company]))
    return sound_score(branches, image, ranges, masks, memory_weight)


def sound_score(
    branches: Branches, image: int, ranges: FusionRanges, masks: bool, memory_weight: float = 0.5
) -> float:
    """The fused score of one image with ranges that were fixed beforehand."""
    return float(few_shot_verdict(rows_of(branches, [image]), ranges, masks, memory_weight).scores)


def median_abnormal(branches: Branches, labels: Tensor) -> int:
    """The abnormal image whose text score is in the middle of theirs: neither a clear hit nor a clear miss."""
    rows = torch.nonzero(labels == 1).flatten()
    order = branches.text_scores[rows].argsort(stable=True)
    return int(rows[order[len(order) // 2]])


def company_table(
    branches: Branches,
    labels: Tensor,
    image: int,
    masks: bool,
    size: int = 20,
    repeats: int = 25,
    seed: int = 0,
    memory_weight: float = 0.5,
) -> pd.DataFrame:
    """The score of one image among `size` others, several times for each number of abnormal ones among them."""
    rng, rows = np.random.default_rng(seed), []
    others = [i for i in range(len(labels)) if i != image]
    normal, abnormal = ([i for i in others if labels[i] == label] for label in (0, 1))
    for count in np.linspace(0, size, 5).astype(int):
        for _ in range(repeats):
            company = [
                *rng.choice(abnormal, count, replace=False),
                *rng.choice(normal, size - count, replace=False),
            ]
            score = score_in_company(branches, image, company, masks, memory_weight)
            rows.append({"abnormal": int(count), "score": score})
    return pd.DataFrame(rows)


def company_figure(table: pd.DataFrame, sound: float) -> Figure:
    """A dot a company; the line is the score with ranges from the support images, which asks nobody."""
    figure, axis = canvas(width=8, height=3)
    for place, (_, part) in enumerate(table.groupby("abnormal")):
        axis.plot(place + np.linspace(-0.2, 0.2, len(part)), part["score"], "o", ms=4, color=PLACES[SEEN])
    axis.axhline(sound, color=PLACES[FRESH], linewidth=2, label="ranges from the support images")
    axis.set_xticks(range(table["abnormal"].nunique()), table["abnormal"].unique())
    axis.set_xlabel("abnormal images among its neighbours in the test set")
    axis.set_ylabel("score of the same image")
    figure.legend(loc="outside upper center", frameon=False, fontsize=9)
    return figure


@torch.no_grad()
def with_broken_picture(experiment: Experiment, tokens: Tensor, seed: int = 0) -> Tensor:
    """Tokens (N, L, width) with those of one picture of coloured noise behind them, (N + 1, L, width)."""
    size = experiment.settings.backbone.image_size
    noise = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(seed))
    return torch.cat([tokens, experiment.tokens(noise)])


# --- thresholds and one class -----------------------------------------------------------------------------


def threshold_table(labels: Mapping[str, Tensor], scores: Mapping[str, Tensor]) -> pd.DataFrame:
    """F1 on the study's test set and on fresh images: at the threshold that is best on the former, at the best
    one of each place, and of a detector that calls everything abnormal.
    """
    _, threshold = f1_max(labels[SEEN], scores[SEEN])
    rows = {}
    for place in (SEEN, FRESH):
        truth, called = labels[place].numpy(), scores[place].double().numpy() >= threshold
        rows[place] = {
            "F1 at that threshold": f1_score(truth, called),
            "best F1 there": f1_max(truth, scores[place])[0],
            "all called abnormal": f1_score(truth, np.ones_like(truth)),
        }
    return pd.DataFrame(rows).T


def accuracy_table(images: int, abnormal: Sequence[int]) -> pd.DataFrame:
    """A detector that calls everything normal, and gives everything one score, on test sets of one size.

    `abnormal`: how many of the images are. The AUROC is None, shown as NaN, where it is undefined.
    """
    rows = []
    for count in abnormal:
        labels = np.repeat([0, 1], [images - count, count])
        rows.append(
            {
                "abnormal images": count,
                "accuracy": float(np.mean(labels == 0)),
                "AUROC": auroc(labels, np.zeros(images)),
            }
        )
    return pd.DataFrame(rows).set_index("abnormal images").astype(float)
