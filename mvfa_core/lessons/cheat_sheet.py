"""The method on one page, drawn by code: `python -m mvfa_core.lessons.cheat_sheet`.

The pictures in it are those of a real few-shot run on the demo; shapes are given for the demo and for the paper.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from torch import Tensor

from mvfa_core.experiment import Experiment
from mvfa_core.figures import save_figure
from mvfa_core.judging import few_shot_verdict
from mvfa_core.lessons.drawing import LINE, arrow, box
from mvfa_core.lessons.shapes import PAPER, Shapes
from mvfa_core.lessons.style import COLOURS, HEAT, OUTLINE, find_project, open_demo, picture
from mvfa_core.prompts import ABNORMAL_STATES, NORMAL_STATES, TEMPLATES

DATASET, SHOTS, EXAMPLE = "Brain", 4, 205
WIDTH, HEIGHT = 120, 80
INK, PALE = "#222222", "#f3f5f7"


@dataclass
class Pictures:
    """One test image on its way: image (3, S, S), mask, both branches' maps and the fused one (S, S).

    support: (K, 3, S, S) normal support images.
    """

    image: Tensor
    mask: Tensor
    text_map: Tensor
    memory_map: Tensor
    fused: Tensor
    support: Tensor

    @classmethod
    def of(cls, experiment: Experiment) -> "Pictures":
        run = experiment.train_few_shot(DATASET, SHOTS)
        support = experiment.support(DATASET, SHOTS, 0).normal
        judge = experiment.judge(DATASET, run.adapters)
        record = experiment.dataset(DATASET).records("test")[EXAMPLE]
        batch = experiment.load(DATASET, [record])
        banks = judge.banks(experiment.support_tokens(DATASET, support)[0])
        branches = judge.branches(experiment.tokens(batch.images), banks)
        verdict = few_shot_verdict(branches, run.ranges, True, experiment.settings.method.memory_weight)
        maps = (branches.text_maps[0], branches.memory_maps[0], verdict.maps[0])
        shown = experiment.load(DATASET, support).images
        return cls(batch.images[0], batch.masks[0], *maps, shown)


def draw(shapes: Shapes, pictures: Pictures) -> Figure:
    """The whole sheet; shapes of the demo stand before the bar, those of the paper behind it."""
    figure = Figure(figsize=(12, 8))
    axis = figure.add_axes((0, 0, 1, 1))
    axis.set_xlim(0, WIDTH)
    axis.set_ylim(0, HEIGHT)
    axis.set_axis_off()
    axis.text(2, 77, "MVFA on one page", fontsize=17, weight="bold", color=INK, va="center")
    key = "shapes: demo | paper (ViT-L/14 at 240 px);  grey: frozen;  coloured: learned or computed"
    axis.text(118, 77, key, fontsize=10.5, color=INK, va="center", ha="right")
    _image_to_tokens(axis, shapes, pictures)
    _levels(axis, shapes)
    _words(axis, shapes)
    _branches(axis, shapes, pictures)
    _result(axis, shapes, pictures)
    _training(axis)
    return figure


def _note(axis: Axes, x: float, y: float, text: str, colour: str = INK, size: float = 10, **options) -> None:
    options = {"ha": "center", "va": "center", "linespacing": 1.25} | options
    axis.text(x, y, text, fontsize=size, color=colour, **options)


def _place(axis: Axes, pixels: np.ndarray, corner: tuple[float, float], side: float, **options) -> None:
    """A square picture with its lower left corner at `corner`."""
    (x, y) = corner
    axis.imshow(pixels, extent=(x, x + side, y, y + side), interpolation="nearest", zorder=2, **options)
    # imshow fits the axis to the picture
    axis.set_xlim(0, WIDTH)
    axis.set_ylim(0, HEIGHT)
    axis.set_aspect("auto")


def _outlined(axis: Axes, values: Tensor, mask: Tensor, corner: tuple[float, float], side: float) -> None:
    """A map with the mask's outline."""
    _place(axis, np.asarray(values), corner, side, cmap=HEAT)
    grid = (np.arange(mask.shape[-1]) + 0.5) / mask.shape[-1] * side
    axis.contour(
        corner[0] + grid,
        corner[1] + side - grid,
        np.asarray(mask),
        [0.5],
        colors=OUTLINE,
        linewidths=1,
        zorder=3,
    )


def _both(ours: object, paper: object) -> str:
    return f"{ours} | {paper}"


def _image_to_tokens(axis: Axes, shapes: Shapes, pictures: Pictures) -> None:
    pixels = picture(pictures.image)
    _place(axis, pixels, (2, 57), 12)
    _note(axis, 8, 70.3, "image", weight="bold", va="baseline")
    _note(axis, 8, 54.3, f"3 × {shapes.image}²\n3 × {PAPER.image}²")
    arrow(axis, (14.3, 63), (17.2, 63))
    side, gap = shapes.side, 3
    step = shapes.patch + gap
    apart = np.full((side * step - gap, side * step - gap, 3), 255, dtype=np.uint8)
    for y, x in np.ndindex(side, side):
        cut = pixels[y * shapes.patch :, x * shapes.patch :][: shapes.patch, : shapes.patch]
        apart[y * step :, x * step :][: shapes.patch, : shapes.patch] = cut
    _place(axis, apart, (17.4, 57), 12)
    _note(axis, 23.4, 70.3, "patches", weight="bold", va="baseline")
    _note(
        axis, 23.4, 54.3, f"{_both(shapes.patches, PAPER.patches)}\nof {_both(shapes.patch, PAPER.patch)} px"
    )
    arrow(axis, (29.7, 63), (32.6, 63))
    for n in range(9):
        colour = COLOURS["frozen"] if n else INK
        box(axis, (34, 67.6 - 1.15 * n), (1.8, 0.75), colour=colour, pad=0)
    _note(axis, 34, 70.3, "tokens", weight="bold", va="baseline")
    _note(axis, 34, 54.3, f"{shapes.tokens} × {shapes.width}\n{PAPER.tokens} × {PAPER.width}")
    arrow(axis, (35.4, 63), (38, 63))


def _levels(axis: Axes, shapes: Shapes) -> None:
    before, last = (0, 0), len(shapes.levels) - 1
    for n, (ours, paper) in enumerate(zip(shapes.levels, PAPER.levels, strict=True)):
        x = 42.4 + 20 * n
        numbers = f"{before[0] + 1}-{ours} | {before[1] + 1}-{paper}"
        box(axis, (x, 63), (7.6, 6), f"frozen\nblocks\n{numbers}", COLOURS["frozen"], 9, INK, pad=0.3)
        _note(axis, x + 8.8, 73.2, f"level {n + 1}", weight="bold")
        for branch, y in (("seg", 68.8), ("det", 57.2)):
            arrow(axis, (x + 4.6, 63), (x + 6.2, y), COLOURS[branch], 1.2)
            box(axis, (x + 8.8, y), (4.6, 2.6), branch, COLOURS[branch], 11, pad=0.3)
        # behind the last level nothing reads the token any more
        if n < last:
            for branch, y, end in (("seg", 68.8, 63.9), ("det", 57.2, 62.1)):
                arrow(axis, (x + 11.4, y), (x + 13.6, end), COLOURS[branch], 1.2)
            arrow(axis, (x + 4, 63), (x + 14, 63), width=2.2)
            axis.add_patch(Circle((x + 14.4, 63), 0.75, color=LINE, zorder=3))
            _note(axis, x + 14.4, 62.95, "+", "white", 11, zorder=4)
            arrow(axis, (x + 15.1, 63), (x + 16.3, 63), width=2.2)
        before = (ours, paper)


def _words(axis: Axes, shapes: Shapes) -> None:
    colour = COLOURS["text"]
    box(axis, (18, 39), (31, 15), colour=PALE, pad=0.6)
    _note(axis, 18, 44.7, "words", colour, 11, weight="bold", va="baseline")
    _note(
        axis,
        18,
        41.6,
        f"organ in {len(NORMAL_STATES)} normal and {len(ABNORMAL_STATES)} abnormal states,\n"
        f"each in {len(TEMPLATES)} templates",
    )
    box(axis, (18, 37.2), (22, 2.2), "frozen text encoder, means", COLOURS["frozen"], 10, INK, pad=0.3)
    _note(axis, 18, 33.4, f"text features, normal and abnormal\n{shapes.text} × 2 | {PAPER.text} × 2")
    arrow(axis, (34.4, 39), (40.2, 39), colour, 2)


def _branches(axis: Axes, shapes: Shapes, pictures: Pictures) -> None:
    for x, name, colour, lines, shown in (
        (
            59,
            "text branch",
            COLOURS["text"],
            "each middle token against\nboth text features:\ncosine × 100, softmax",
            pictures.text_map,
        ),
        (
            99,
            "memory branch",
            COLOURS["memory"],
            "each middle token against\nthe bank of normal ones:\n1 − largest cosine",
            pictures.memory_map,
        ),
    ):
        box(axis, (x, 39), (36, 15), colour=PALE, pad=0.6)
        _note(axis, x - 8.5, 44.7, name, colour, 11, weight="bold", va="baseline")
        _note(axis, x - 8.5, 40.4, lines)
        _note(axis, x - 8.5, 34.3, "upsampled,\nsummed over 4 levels", LINE)
        _outlined(axis, shown, pictures.mask, (x + 4.6, 33.2), 12)
    _note(
        axis,
        78.8,
        50.2,
        f"middle tokens of every adapter: {shapes.tokens} × {shapes.text} | {PAPER.tokens} × {PAPER.text}"
        "    (seg: maps,  det: scores)",
        LINE,
    )
    for x in (59, 99):
        arrow(axis, (x, 54.2), (x, 51.3), LINE, 1.5)
        arrow(axis, (x, 49.1), (x, 46.6), LINE, 1.5)


def _result(axis: Axes, shapes: Shapes, pictures: Pictures) -> None:
    box(axis, (59, 13), (36, 21), colour=PALE, pad=0.6)
    _note(axis, 59, 21.6, "fusion", COLOURS["few-shot"], 11, weight="bold")
    _note(
        axis,
        59,
        15.6,
        "map = ½ minmax(text map)\n+ ½ minmax(memory map),\nranges from the support images",
    )
    _note(
        axis,
        59,
        7.4,
        "score = maximum of the map (masks),\nelse the fused mean of the detection branch;\n"
        "zero-shot: text branch alone",
    )
    arrow(axis, (52, 31), (52, 24.2), COLOURS["text"], 2)
    arrow(axis, (88, 31), (74, 24.2), COLOURS["memory"], 2)
    arrow(axis, (77.6, 13), (81.2, 13), COLOURS["few-shot"], 2.2)
    _outlined(axis, pictures.fused, pictures.mask, (81.8, 5), 16)
    _note(axis, 89.8, 21.9, "anomaly map", weight="bold", va="baseline")
    _note(axis, 89.8, 3.3, f"{shapes.image}² | {PAPER.image}²")
    for n, image in enumerate(pictures.support[:4]):
        _place(axis, picture(image), (102 + 8 * (n % 2), 14 - 8 * (n // 2)), 7.4)
    _note(axis, 109.7, 24.9, "normal support images\nin 11 views fill the bank", size=9.6)
    arrow(axis, (109.7, 26.9), (109.7, 31), COLOURS["memory"], 2)


def _training(axis: Axes) -> None:
    box(axis, (18, 13), (31, 21), colour=PALE, pad=0.6)
    _note(axis, 18, 21.6, "adapter and training", INK, 11, weight="bold")
    lines = (
        ("middle = LeakyReLU(W1 token)", INK),
        ("out = LeakyReLU(W2 middle)", INK),
        ("token ← 0.8 token + 0.1 seg + 0.1 det", INK),
        ("seg: focal + Dice loss with masks", COLOURS["seg"]),
        ("det: cross-entropy with image labels", COLOURS["det"]),
        ("summed over levels; Adam, one a branch", INK),
    )
    for n, (text, colour) in enumerate(lines):
        weight = "normal" if colour == INK else "bold"
        _note(axis, 18, 18.3 - 2.75 * n - (0.5 if n > 2 else 0), text, colour, weight=weight)


def main(folder: str | Path | None = None) -> None:
    """Write `cheat-sheet.svg` and `cheat-sheet.png` into `folder`, by default the project's `docs`."""
    experiment = open_demo()
    torch.set_num_threads(1)
    figure = draw(Shapes.of(experiment), Pictures.of(experiment))
    save_figure(figure, folder or find_project() / "docs", "cheat-sheet")


if __name__ == "__main__":
    main()
