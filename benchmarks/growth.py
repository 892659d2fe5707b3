"""How time and memory of judging a test set grow with shots, test images and image size.

    python -m benchmarks.growth      # a table and a figure in benchmarks/results, some minutes

Each point is a process of its own, so that its peak of memory is its own too. The network is the demo's with
random weights; the memory bank has the size that a run of as many shots has.
"""

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
import typer
from matplotlib.figure import Figure

from benchmarks.measuring import CLOCKS, alternate, own_peak, peak_of_child
from benchmarks.scene import SIZES, Scene, random_bank
from mvfa_core.augmentation import FOLDS
from mvfa_core.figures import COLOURS, save_figure
from mvfa_core.judging import Banks
from mvfa_core.memory import MemoryBank
from mvfa_core.report import save_table

AXES = {
    "shots": ("shots", (1, 2, 4, 8, 16)),
    "images": ("test images", (32, 64, 128, 256)),
    "side": ("side of the images, px", (64, 96, 128, 192)),
}


@dataclass(frozen=True)
class Point:
    """One test set to judge: `images` of `side` px against the memory of `shots` normal images."""

    shots: int = 4
    images: int = 64
    side: int = 96


def measure(point: Point, clock: str) -> dict[str, float]:
    """Seconds of judging once, maps and both AUROCs included, and the most memory this process held, MiB."""
    size = replace(SIZES["small"], image_size=point.side, train=0, test=point.images)
    scene = Scene(size)
    bank = MemoryBank(random_bank(scene, point.shots * FOLDS))
    banks, judge = Banks(bank, bank), scene.judge(scene.adapters(), "fp32")
    tokens = scene.prefix(scene.images, "fp32")
    sides = {"judging": lambda: scene.evaluate(judge.branches(tokens, banks))}
    return {"seconds": alternate(sides, 1, clock)["judging"], "peak_mib": own_peak()}


def points() -> list[tuple[str, Point]]:
    """Axis and point of everything that is measured."""
    return [
        (axis, replace(Point(), **{axis: value})) for axis, (_, values) in AXES.items() for value in values
    ]


def growth_figure(table: pd.DataFrame) -> Figure:
    """Time above, memory below; a column an axis."""
    figure = Figure(figsize=(9.5, 5), layout="constrained")
    rows = {"seconds": "seconds", "peak_mib": "peak memory, MiB"}
    axes = figure.subplots(len(rows), len(AXES), sharey="row")
    for column, (axis, (label, values)) in enumerate(AXES.items()):
        shown = table[table["axis"] == axis]
        for row, (key, name) in enumerate(rows.items()):
            panel = axes[row][column]
            panel.plot(shown[axis], shown[key], "o-", color=COLOURS["zero-shot"])
            # the panels of a row share this axis: its end is that of the whole table
            panel.set_ylim(0, 1.05 * table[key].max())
            panel.set_xticks(values)
            panel.grid(alpha=0.3)
            panel.spines[["top", "right"]].set_visible(False)
            if not column:
                panel.set_ylabel(name)
        axes[-1][column].set_xlabel(label)
    base = Point()
    figure.suptitle(
        f"Judging a test set; where not varied: {base.shots} shots, {base.images} images of {base.side} px"
    )
    return figure


def main(
    threads: Annotated[int, typer.Option(min=1, help="Threads to work with.")] = os.cpu_count() or 1,
    clock: Annotated[str, typer.Option(help=" or ".join(CLOCKS))] = "wall",
    output: Annotated[Path, typer.Option(help="Folder of table and figure.")] = Path("benchmarks/results"),
    point: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Measure every point and write `growth.csv` and `growth.png`."""
    torch.set_num_threads(threads)
    if point is not None:
        print(json.dumps(measure(Point(**json.loads(point)), clock)))
        return
    rows = []
    for axis, at in points():
        options = ("--threads", str(threads), "--clock", clock, "--point", json.dumps(asdict(at)))
        found = peak_of_child("benchmarks.growth", *options, threads=threads)
        rows.append({"axis": axis, **asdict(at), **found})
        print(
            f"{axis}: {at.shots} shots, {at.images} images of {at.side} px: {found['seconds']:.2f} s",
            flush=True,
        )
    table = pd.DataFrame(rows)
    save_table(table, output, "growth")
    save_figure(growth_figure(table), output, "growth")


if __name__ == "__main__":
    typer.run(main)
