"""Lesson 4, few shots and memory: views, nearest neighbours, fusion, and how much the support draw matters."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor
from torch.nn import functional as F

from mvfa_core.augmentation import ROTATIONS_DEGREES, TRANSLATIONS, augment
from mvfa_core.baselines import memory_detector
from mvfa_core.experiment import Experiment, TestSet
from mvfa_core.judging import Branches, FusionRanges, Verdict, few_shot_verdict
from mvfa_core.lessons.style import COLOURS, canvas, show_image, show_map
from mvfa_core.memory import MemoryBank
from mvfa_core.metrics import auroc
from mvfa_core.pixel_ranking import pixel_auroc
from mvfa_core.plain import PlainPass, Support, plain_passes
from mvfa_core.report import PLAIN_READINGS, method_label
from mvfa_core.runs import Run
from mvfa_core.uncertainty import image_auroc_interval, spread

METHODS = {"memory": "memory alone, plain tokens", "few-shot": "MVFA, both branches"}


# --- augmentation -----------------------------------------------------------------------------------------


def view_names() -> list[str]:
    """What `augment` does to an image, in the order of its folds."""
    turns = [f"turned {degrees:+g}°" for degrees in ROTATIONS_DEGREES]
    # the image moves against the shift of the grid that it is read from
    shifts = [f"to the {'left' if x > 0 else 'right'}, {'up' if y > 0 else 'down'}" for x, y in TRANSLATIONS]
    return ["as it is", *turns, *shifts, "mirrored", "upside down"]


def views_figure(image: Tensor) -> Figure:
    """The 11 views of one image (3, S, S) in [0, 1]."""
    figure, axes = canvas(2, 6, width=9, height=3.4)
    for axis in axes.flat:
        axis.set_visible(False)
    for axis, view, name in zip(axes.flat, augment(image[None]), view_names(), strict=False):
        axis.set_visible(True)
        show_image(axis, view)
        axis.set_title(name, fontsize=8)
    return figure


# --- memory bank ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Match:
    """The token of a bank that is most like a patch, at one level.

    distance: 1 - cosine, in [0, 2]. view: its image, as a row of the bank. patch: its place on the patch
    grid, row by row from 0, or None where a prefix token (the class token) is nearest.
    """

    distance: float
    view: int
    patch: int | None


def nearest(bank: MemoryBank, levels: Sequence[Tensor], prefix: int, patch: int) -> list[Match]:
    """Per level, where `MemoryBank.distances` finds its largest cosine for one patch of one image.

    Args:
        bank: the memory.
        levels: per level (L, D) tokens of the image, prefix tokens included.
        prefix: number of prefix tokens.
        patch: place on the patch grid, row by row from 0.
    """
    matches = []
    for known, tokens in zip(bank.levels, levels, strict=True):
        cosines = known.flatten(0, 1) @ F.normalize(tokens[prefix + patch], dim=0)
        view, place = divmod(int(cosines.argmax()), known.shape[1])
        matches.append(Match(1 - float(cosines.max()), view, place - prefix if place >= prefix else None))
    return matches


@torch.no_grad()
def tokens_of(experiment: Experiment, run: Run, tokens: Tensor) -> list[Tensor]:
    """Per level (L, D) tokens of the segmentation adapters for one image, given as prefix tokens (L, width)."""
    return [level[0] for level in run.adapters(experiment.backbone, tokens[None]).seg]


def patch_in(mask: Tensor, side: int) -> int:
    """The patch of a `side` x `side` grid that holds most of `mask` (S, S) in {0, 1}."""
    return int(F.adaptive_avg_pool2d(mask[None].float(), side).flatten().argmax())


def mirrored(patch: int, side: int) -> int:
    """The patch at the same place of the other half, left and right swapped.

    >>> mirrored(13, 12)
    22
    """
    row, column = divmod(patch, side)
    return row * side + side - 1 - column


def neighbours_figure(
    image: Tensor,
    mask: Tensor | None,
    patches: dict[str, int],
    matches: dict[str, list[Match]],
    views: Tensor,
    levels: Sequence[int],
    side: int,
) -> Figure:
    """A row a patch: where it lies in the image, then its nearest remembered patch at each level.

    Args:
        image: (3, S, S).
        mask: (S, S) in {0, 1}, or None.
        patches: {name: place on the patch grid}.
        matches: what `nearest` says of each, under the same names.
        views: (N, 3, S, S) the remembered images, in the order of the bank.
        levels: block numbers, for the titles.
        side: patches a row.
    """
    figure, axes = canvas(len(patches), 1 + len(levels), width=9, height=2.1 * len(patches))
    axes = np.atleast_2d(axes)
    for line, (name, patch) in zip(axes, patches.items(), strict=True):
        show_image(line[0], image, name, mask)
        _frame(line[0], patch, image.shape[-1], side)
        for axis, level, match in zip(line[1:], levels, matches[name], strict=True):
            show_image(axis, views[match.view], f"level {level}: {match.distance:.3f}")
            if match.patch is None:
                axis.set_xlabel("nearest: class token", fontsize=8)
            else:
                _frame(axis, match.patch, image.shape[-1], side)
    return figure


def _frame(axis: Axes, patch: int, size: int, side: int) -> None:
    row, column = divmod(patch, side)
    step = size / side
    corner = column * step - 0.5, row * step - 0.5
    axis.add_patch(Rectangle(corner, step, step, fill=False, edgecolor=COLOURS["few-shot"], linewidth=2.2))


# --- fusion -----------------------------------------------------------------------------------------------


def fusion_figure(
    images: Tensor, masks: Tensor | None, branches: Branches, ranges: FusionRanges, rows: Sequence[int]
) -> Figure:
    """Image, text map, memory map and their mean, a line an image; every map on the scale of the ranges."""
    text, memory = ranges.text_maps(branches.text_maps), ranges.memory_maps(branches.memory_maps)
    figure, axes = canvas(len(rows), 4, width=6.6, height=1.65 * len(rows))
    for number, (line, row) in enumerate(zip(np.atleast_2d(axes), rows, strict=True)):
        mask = None if masks is None else masks[row]
        heads = ["image", "text branch", "memory branch", "fused"] if number == 0 else [""] * 4
        show_image(line[0], images[row], heads[0], mask)
        maps = text[row], memory[row], (text[row] + memory[row]) / 2
        for axis, found, head in zip(line[1:], maps, heads[1:], strict=True):
            drawn = show_map(axis, found, head, mask, span=(0, 1))
        figure.colorbar(drawn, ax=line[3], shrink=0.8, ticks=[0, 1])
    return figure


def fusion_table(
    branches: Branches,
    ranges: FusionRanges,
    labels: Tensor,
    masks: Tensor | None,
    weights: Sequence[float] = (0, 0.25, 0.5, 0.75, 1),
) -> pd.DataFrame:
    """Image AUROC, and pixel AUROC with masks, for several shares of the memory branch."""
    rows = []
    for weight in weights:
        verdict = few_shot_verdict(branches, ranges, masks is not None, weight)
        row = {"memory_weight": weight, "image_auroc": auroc(labels.numpy(), verdict.scores.numpy())}
        if masks is not None:
            row["pixel_auroc"] = pixel_auroc(verdict.maps.numpy(), masks.numpy())
        rows.append(row)
    return pd.DataFrame(rows).set_index("memory_weight")


def memory_table(
    found: Mapping[str, Branches], ranges: FusionRanges, labels: Tensor, masks: Tensor | None
) -> pd.DataFrame:
    """AUROCs of the memory branch alone, a row for each of several banks."""
    rows = {
        bank: fusion_table(branches, ranges, labels, masks, [1]).loc[1] for bank, branches in found.items()
    }
    return pd.DataFrame(rows).T


# --- the draw ---------------------------------------------------------------------------------------------


@torch.no_grad()
def memory_verdict(support: Support, test: Iterable[PlainPass]) -> Verdict:
    """The memory branch without adapters or words: plain tokens of k normal images."""
    detect = memory_detector(support)
    parts = [detect(seen) for seen in test]
    return Verdict(torch.cat([part.scores for part in parts]), torch.cat([part.maps for part in parts]))


def draws_table(
    experiment: Experiment, name: str, shots: Sequence[int], draws: int, test: TestSet
) -> pd.DataFrame:
    """Image AUROC of every support draw, a row each: method (see `METHODS`), shots, draw, value, low, high.

    Runs follow the `strict` protocol, so nothing beside the support images is read. `low` and `high` bound the
    95 % interval over test images.
    """
    labels, resamples = test.batch.labels.numpy(), experiment.settings.evaluation.bootstrap
    plain, rows = list(plain_passes(experiment, test.tokens)), []
    for k in shots:
        for draw in range(draws):
            run = experiment.train_few_shot(name, k, "strict", draw)
            verdicts = {
                "memory": memory_verdict(Support.of(experiment, name, k, draw), plain),
                "few-shot": experiment.verdict(name, run, test),
            }
            for method, verdict in verdicts.items():
                scores = verdict.scores.numpy()
                interval = image_auroc_interval(labels, scores, resamples)
                rows.append(
                    {
                        "method": method,
                        "shots": k,
                        "draw": draw,
                        "value": auroc(labels, scores),
                        "low": interval.low,
                        "high": interval.high,
                    }
                )
    return pd.DataFrame(rows)


def spread_table(table: pd.DataFrame) -> pd.DataFrame:
    """`draws_table` in short: mean, standard deviation and range over draws, and the mean interval's width."""
    rows = []
    for (method, shots), part in table.groupby(["method", "shots"], sort=False):
        width = float((part["high"] - part["low"]).mean())
        over = spread(part["value"])
        rows.append({"method": METHODS[method], "shots": shots, **vars(over), "interval_width": width})
    return pd.DataFrame(rows).sort_values(["method", "shots"]).set_index(["method", "shots"])


def extreme_draws(table: pd.DataFrame, shots: int) -> tuple[int, int]:
    """MVFA's best and worst draw of `draws_table` at `shots`."""
    part = table[(table["method"] == "few-shot") & (table["shots"] == shots)].set_index("draw")["value"]
    return int(part.idxmax()), int(part.idxmin())


def references(verdicts: Mapping[str, Verdict], test: TestSet) -> dict[str, float]:
    """Image AUROC of plain CLIP's two readings, by the names that tables call them."""
    labels = test.batch.labels.numpy()
    return {method_label(m): auroc(labels, verdicts[m].scores.numpy()) for m in PLAIN_READINGS}


def strip_figure(table: pd.DataFrame, references: Mapping[str, float]) -> Figure:
    """A dot a support draw, with its interval over test images; a line a mean. `references`: {label: AUROC}."""
    shots = list(table["shots"].unique())
    figure, axis = canvas(width=8, height=3.8)
    for place, (method, label) in enumerate(METHODS.items()):
        for number, k in enumerate(shots):
            part = table[(table["method"] == method) & (table["shots"] == k)]
            centre = number + 0.4 * (place - 0.5)
            x = centre + np.linspace(-0.13, 0.13, len(part))
            axis.errorbar(
                x,
                part["value"],
                yerr=[part["value"] - part["low"], part["high"] - part["value"]],
                fmt="o",
                markersize=5,
                linewidth=0.8,
                color=COLOURS[method],
                label=label if number == 0 else None,
            )
            axis.plot([centre - 0.17, centre + 0.17], [part["value"].mean()] * 2, color=COLOURS[method], lw=2)
    for (label, value), style in zip(references.items(), ("-", ":"), strict=False):
        axis.axhline(
            value, color=COLOURS["clip-pooled"], linestyle=style, linewidth=1.2, zorder=0, label=label
        )
    axis.set_xticks(range(len(shots)), [f"{k} + {k}" for k in shots])
    axis.set_xlabel("support images, normal + abnormal")
    axis.set_ylabel("image AUROC")
    figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    return figure
