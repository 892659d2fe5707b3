"""What the rules for a detector's threshold give on the demo's test splits.

    python -m benchmarks.thresholds     # wants the runs and scores of `dvc repro`; a minute

A detector is made of every zero-shot run and of the first few-shot draw of each data set, as `mvfa export` makes it:
its thresholds come from the `valid` split. They are then applied to the test scores that the evaluation wrote.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer

from mvfa_core.calibration import calibrate
from mvfa_core.experiment import Experiment
from mvfa_core.metrics import at_threshold
from mvfa_core.reference import DEFAULT_RATE, RULES
from mvfa_core.report import save_table

RATES = (DEFAULT_RATE, 0.2)


def rules() -> Iterator[tuple[str, str, float]]:
    """Name for readers, rule and rate of everything that is asked."""
    for rule in RULES:
        for rate in RATES if rule == "false-alarm" else RATES[:1]:
            yield f"{rule}, {rate}" if rule == "false-alarm" else rule, rule, rate


def measured(experiment: Experiment, name: str, runs: Path, results: Path) -> list[dict]:
    """A row a detector and rule of one data set: shares of the test images that are flagged, in [0, 1]."""
    scores = pd.read_csv(results / "scores" / f"{name}.csv")
    rows = []
    for run in experiment.load_runs(name, runs):
        if run.draw:
            continue
        reference = calibrate(experiment, run).reference
        for label, rule, rate in rules():
            found = at_threshold(scores["label"], scores[run.method], reference.threshold(rule, rate))
            rows.append(
                {"data set": name, "method": run.method, "rule": label}
                | {"false alarms": 1 - found["image_spec_at_set"], "found": found["image_sens_at_set"]}
            )
    return rows


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Lowest, median and highest share over detectors, a row a rule, in the order of the table."""
    columns = {"false alarms": "normal images flagged", "found": "abnormal images found"}
    rows = []
    for rule, part in table.groupby("rule", sort=False):
        row: dict[str, object] = {"rule": rule, "detectors": len(part)}
        for column, head in columns.items():
            low, middle, high = np.percentile(part[column], [0, 50, 100])
            row[head] = f"{low:.0%} to {high:.0%} (median {middle:.0%})"
        rows.append(row)
    return pd.DataFrame(rows)


def main(
    params: Annotated[Path, typer.Option(help="Parameter file.")] = Path("params.yaml"),
    runs: Annotated[Path, typer.Option(help="Folder of the trained runs.")] = Path("runs"),
    results: Annotated[Path, typer.Option(help="Folder of the scores.")] = Path("results"),
    output: Annotated[Path, typer.Option(help="Folder of the tables.")] = Path("benchmarks/results"),
) -> None:
    """Measure, print, and write `thresholds` and `thresholds_summary` as CSV, Markdown and LaTeX."""
    experiment = Experiment.open(params, say=lambda line: None)
    rows = []
    for name in experiment.settings.datasets:
        rows += measured(experiment, name, runs, results)
        print(f"{name}: {len(rows)} rows", flush=True)
    table = pd.DataFrame(rows)
    for content, stem in ((table, "thresholds"), (summary(table), "thresholds_summary")):
        save_table(content, output, stem, content.round(3))
    print(summary(table).to_string(index=False))


if __name__ == "__main__":
    typer.run(main)
