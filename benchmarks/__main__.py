"""One table of speed and memory against a plain loop in the published style.

    python -m benchmarks            # ViT-L/14-336 at 240 px, random weights; under a quarter of an hour
    python -m benchmarks --small    # the demo's network, a minute

Both sides run in turn in one process, so that a slow spell of the machine falls on both. Runs of hours are
computed from their measured parts. On a machine that does other things, `--threads 1 --clock cpu` counts what
one thread works instead of what it waits.
"""

import os
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
import typer

from benchmarks.measuring import CLOCKS, machine
from benchmarks.rows import LongRun, loss_gap, measure, table
from benchmarks.scene import SIZES, Scene
from mvfa_core.report import save_table
from mvfa_core.writing import write_text

MOST_GAP = 1e-5
HEADS = {
    "what": "what",
    "precision": "precision",
    "plain_s": "plain loop, s",
    "ours_s": "ours, s",
    "ratio": "times faster",
    "plain_mib": "plain loop, MiB",
    "ours_mib": "ours, MiB",
    "memory": "memory",
    "tflops": "TFLOP/s",
    "roofline": "of the machine's",
}


def shown(found: pd.DataFrame) -> pd.DataFrame:
    """The table for readers: three digits, memory as a share."""
    found = found.copy()
    found["memory"] = found["ours_mib"] / found["plain_mib"]
    text = pd.DataFrame(index=found.index)
    for name, head in HEADS.items():
        if name in ("what", "precision"):
            text[head] = found[name]
        else:
            form = {"memory": "{:.0%}", "roofline": "{:.0%}", "ratio": "{:.1f}"}.get(name, "{:.3g}")
            if name.endswith("_mib"):
                form = "{:.0f}"
            if name in ("plain_s", "ours_s"):
                form = "{:,.3f}"
            text[head] = [form.format(value) if pd.notna(value) else "" for value in found[name]]
    return text


def words(size: str, run: LongRun, gap: float, clock: str) -> str:
    """What stands above the table."""
    seconds = "seconds of waiting" if clock == "wall" else "seconds of work of one thread"
    return (
        f"{SIZES[size].words}, random weights, {machine()}; medians, {seconds}. The plain loop works in fp32; its "
        f"losses and ours in fp32 differ by {gap:.0e} at most. Evaluation and few-shot runs are computed from "
        f"their measured parts: {run.shots} + {run.shots} images, {run.epochs} epochs, {run.test_images:,} test "
        "images. The plain loop evaluates after every epoch, the sound protocol once.\n"
    )


def main(
    small: Annotated[bool, typer.Option("--small", help="The demo's network: a minute.")] = False,
    rounds: Annotated[int, typer.Option(min=1, help="Turns that are counted.")] = 3,
    threads: Annotated[int, typer.Option(min=1, help="Threads of either side.")] = os.cpu_count() or 1,
    clock: Annotated[str, typer.Option(help=" or ".join(CLOCKS))] = "wall",
    output: Annotated[Path, typer.Option(help="Folder of the tables.")] = Path("benchmarks/results"),
) -> None:
    """Measure, print one table, and write it as CSV, Markdown and LaTeX."""
    if clock not in CLOCKS:
        raise typer.BadParameter(f"clock: '{clock}' is none of {', '.join(CLOCKS)}")
    torch.set_num_threads(threads)
    size, run = "small" if small else "full", LongRun()
    with tempfile.TemporaryDirectory() as folder:
        scene = Scene.in_folder(SIZES[size], Path(folder))
        gap = loss_gap(scene)
        if gap > MOST_GAP:
            sys.exit(f"the two sides compute different losses: they differ by {gap:.1e}, not {MOST_GAP:.0e}")
        found = table(size, measure(scene, run, rounds, clock), run, scene, clock, threads)
    readable, head = shown(found), words(size, run, gap, clock)
    print(head + readable.to_string(index=False))
    save_table(found, output, size, readable)
    write_text(output / f"{size}.md", head + "\n" + (output / f"{size}.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    typer.run(main)
