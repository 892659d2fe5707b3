"""Lesson 3, drawn: the residual bottleneck, the flow of gradients, maps level by level during training."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from torch import Tensor

from mvfa_core.lessons.adapting import BRANCHES, Snapshot
from mvfa_core.lessons.drawing import LINE, arrow, box
from mvfa_core.lessons.shapes import Shapes
from mvfa_core.lessons.style import COLOURS, canvas, level_colours, show_image, show_map


def bottleneck_figure(shapes: Shapes, residual: Sequence[float]) -> Figure:
    """One level drawn: the kept token, the two adapters beside it, and what leaves at the bottleneck."""
    keep, seg, det = residual
    figure, axis = canvas(1, 1, 9, 3.9)
    axis.set_axis_off()
    axis.set_xlim(0, 9)
    axis.set_ylim(0, 3.95)
    frozen, ink = COLOURS["frozen"], "black"
    box(axis, (0.95, 1.95), (1.35, 0.75), f"frozen\nblocks\nwidth {shapes.width}", frozen, 9, ink)
    box(axis, (8.05, 1.95), (1.35, 0.75), "next\nfrozen\nblocks", frozen, 9, ink)
    arrow(axis, (1.7, 1.95), (6.72, 1.95), width=3)
    axis.text(4.3, 2.02, f"token, kept: × {keep:g}", ha="center", va="bottom", fontsize=9)
    axis.add_patch(Circle((6.8, 1.95), 0.16, color=LINE))
    axis.text(6.8, 1.95, "+", ha="center", va="center", color="white", fontsize=12, weight="bold")
    arrow(axis, (6.98, 1.95), (7.35, 1.95), width=3)
    for branch, y, share, name in (("seg", 3.2, seg, "segmentation"), ("det", 0.7, det, "detection")):
        colour, side = COLOURS[branch], 1 if y > 2 else -1
        arrow(axis, (1.85, 1.95), (2.35, y), colour)
        box(axis, (2.9, y), (0.95, 0.55), f"W1\n{shapes.width} → {shapes.text}", colour, 8.5)
        arrow(axis, (3.45, y), (3.85, y), colour)
        box(axis, (4.3, y), (0.75, 0.55), f"middle\n{shapes.text}", colour, 8.5)
        arrow(axis, (4.75, y), (5.15, y), colour)
        box(axis, (5.7, y), (0.95, 0.55), f"W2\n{shapes.text} → {shapes.width}", colour, 8.5)
        arrow(axis, (6.25, y), (6.75, 1.95 + side * 0.2), colour)
        axis.text(6.75, y - side * 0.35, f"× {share:g}", fontsize=9, ha="left", va="center")
        axis.text(
            2.38, y + side * 0.42, f"{name} adapter", fontsize=9.5, va="center", color=colour, weight="bold"
        )
        arrow(axis, (4.3, y + side * 0.32), (4.3, y + side * 0.62), COLOURS["text"])
        axis.text(
            4.4, y + side * 0.5, "compared with the words", fontsize=9, va="center", color=COLOURS["text"]
        )
    return figure


def flow_figure(table: pd.DataFrame) -> Figure:
    """`gradient_table` drawn on the network, from the losses back to the matrices.

    A thick line leads from each loss to its own level's W1. What later levels' losses send to a level comes back
    along the stream of tokens and enters through W2. Widths of lines into a matrix follow the norms; those into the
    stream are all alike, for no norm is measured there. An unreached matrix is grey.
    """
    count = sum(name.startswith("seg") for name in table.index)
    figure, axis = canvas(1, 1, 9.6, 4.5)
    axis.set_axis_off()
    axis.set_xlim(-0.1, 3 * count + 0.1)
    axis.set_ylim(-2.9, 2.9)
    largest, back = table.to_numpy().max(), LINE

    def line(start, end, norm, colour, bend=0.0):
        if norm > 0:
            # square root: the largest norm is hundreds of times the smallest
            arrow(axis, start, end, colour, 0.7 + 5 * (norm / largest) ** 0.5, bend)

    for n in range(1, count + 1):
        left = 3 * (n - 1)
        box(axis, (left + 0.4, 0), (0.72, 0.62), f"frozen,\nto level {n}", COLOURS["frozen"], 8, "black")
        reaching = {
            branch: table.loc[[i for i in table.index if i != f"{branch} {n}"]] for branch in BRANCHES
        }
        later = 0.0
        for branch, side in (("seg", 1), ("det", -1)):
            own, others = f"{branch} {n}", reaching[branch]
            first, second = (left + 1.25, side * 1.1), (left + 2.15, side * 1.1)
            colour = COLOURS[branch]
            to_first, to_second = (float(others[f"{own} {layer}"].sum()) for layer in ("fc1", "fc2"))
            later += to_second
            for spot, layer, total in ((first, "W1", 1.0), (second, "W2", to_second)):
                fill, ink = (colour, "white") if total > 0 else ("#e4e4e4", "#888888")
                box(axis, spot, (0.55, 0.5), layer, fill, 9, ink)
            axis.text(
                first[0], side * 2.6, f"{branch} loss {n}", ha="center", va="center", fontsize=9, color=colour
            )
            line((first[0], side * 2.4), (first[0], side * 1.42), float(table.loc[own, f"{own} fc1"]), colour)
            line((left + 2.72, side * 0.12), (second[0] + 0.1, side * 0.8), to_second, back)
            line((second[0] - 0.32, second[1]), (first[0] + 0.32, first[1]), to_first, back)
            if n > 1:
                arrow(axis, (first[0], side * 0.8), (left + 0.87, side * 0.12), back, 1)
        if n < count:
            line((left + 3.1, 0), (left + 2.75, 0), later, back)
        axis.plot(
            [left + 0.8, left + (3.05 if n < count else 2.7)], [0, 0], color="#999999", linewidth=1, zorder=0
        )
    figure.suptitle(
        "Coloured: a level's own loss. Grey: losses of later levels, back through the frozen blocks.",
        fontsize=10,
    )
    return figure


def gradient_figure(table: pd.DataFrame) -> Figure:
    """The same as a table in colour: rows losses, columns matrices; white where nothing arrives."""
    figure, axis = canvas(1, 1, 8.4, 3.6)
    values = table.to_numpy()
    shown = np.ma.masked_equal(values, 0)
    norm = LogNorm(shown.min(), shown.max())
    drawn = axis.imshow(shown, cmap="cividis", norm=norm, aspect="auto")
    axis.set_xticks(
        range(values.shape[1]), [c.replace("fc", "W") for c in table.columns], rotation=60, ha="right"
    )
    axis.set_yticks(range(values.shape[0]), table.index)
    axis.set_ylabel("loss")
    axis.set_xlabel("matrix")
    axis.spines[:].set_visible(False)
    axis.axvline(values.shape[1] / 2 - 0.5, color="black", linewidth=1)
    axis.axhline(values.shape[0] / 2 - 0.5, color="black", linewidth=1)
    axis.tick_params(length=0)
    figure.colorbar(drawn, ax=axis, label="norm of the gradient", pad=0.01)
    return figure


def diary_figure(snapshots: Sequence[Snapshot], image: Tensor, mask: Tensor, number: int) -> Figure:
    """Maps of one image: a row an epoch, a column a level, and the sum of all levels."""
    levels = snapshots[0].maps.shape[0]
    figure, axes = canvas(len(snapshots), levels + 2, 1.45 * (levels + 2) + 0.8, 1.5 * len(snapshots) + 0.3)
    for line, shot in enumerate(snapshots):
        show_image(axes[line, 0], image, mask=mask)
        axes[line, 0].set_ylabel(f"epoch {shot.epoch}" if shot.epoch else "untrained", fontsize=10)
        for level in range(levels):
            one = show_map(axes[line, 1 + level], shot.maps[level, number], mask=mask, span=(0, 1))
        show_map(axes[line, -1], shot.maps[:, number].sum(dim=0), mask=mask, span=(0, levels))
    for axis, head in zip(axes[0], ["image", *(f"level {n + 1}" for n in range(levels)), "sum"], strict=True):
        axis.set_title(head, fontsize=10)
    figure.colorbar(
        one, ax=list(axes[:, -1]), fraction=0.08, pad=0.02, label="abnormal probability (sum: mean)"
    )
    return figure


def progress_figure(table: pd.DataFrame, snapshots: Sequence[Snapshot]) -> Figure:
    """Training loss, pixel and image AUROC over epochs, a line a level, and the sum of the levels."""
    names = [level for level in table["level"].unique() if level != "sum"]
    figure, axes = canvas(1, 3, 10, 2.9)
    trained = [shot for shot in snapshots if shot.loss is not None]
    axes[0, 0].plot(
        [s.epoch for s in trained], [s.loss for s in trained], marker="o", color="black", markersize=4
    )
    axes[0, 0].set_title("training loss per image", fontsize=11)
    for axis, metric in zip(axes[0, 1:], ("pixel AUROC", "image AUROC"), strict=True):
        for name, colour in zip(names, level_colours(len(names)), strict=True):
            rows = table[table["level"] == name]
            axis.plot(
                rows["epoch"], rows[metric], marker="o", markersize=4, color=colour, label=f"level {name}"
            )
        rows = table[table["level"] == "sum"]
        axis.plot(rows["epoch"], rows[metric], color=COLOURS["few-shot"], linewidth=2.5, label="sum")
        axis.axhline(0.5, color=COLOURS["chance"], linestyle="--", linewidth=1, zorder=0)
        axis.set_title(metric, fontsize=11)
    for axis in axes[0]:
        axis.set_xlabel("epoch")
        axis.xaxis.get_major_locator().set_params(integer=True)
    axes[0, 2].legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
