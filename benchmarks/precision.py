"""What bf16 changes in the results of the demo: AUROCs beside those of fp32.

    python -m benchmarks.precision      # wants the runs of `dvc repro`; some minutes

Two questions. What do the trained runs score when only judging is done in bf16? And what does the first few-shot
run of each data set score when it is trained in bf16 too, from the same seed and support images? The first
difference is rounding alone. The second contains what any disturbance of a training does, above all where two
epochs are nearly as good and another one is kept. So there is a control: training in fp32 from initial weights
that were rounded to bf16 once.
"""

from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
import typer

from mvfa_core.adapters import Adapters
from mvfa_core.experiment import Experiment, TestSet
from mvfa_core.judging import Verdict
from mvfa_core.metrics import auroc
from mvfa_core.pixel_ranking import pixel_auroc
from mvfa_core.report import save_table
from mvfa_core.settings import load_settings

MOST = 0.005  # half a point
JUDGED, TRAINED, CONTROL = "judged in bf16", "trained in bf16", "trained in fp32, start rounded"


class RoundedStart(Experiment):
    """Adapters start from weights that bf16 can hold; everything else is as it was."""

    def fresh_adapters(self, draw: int = 0) -> Adapters:
        adapters = super().fresh_adapters(draw)
        with torch.no_grad():
            for weight in adapters.parameters():
                weight.copy_(weight.bfloat16())
        return adapters


def aurocs(verdict: Verdict, test: TestSet) -> dict[str, float]:
    """{`image` or `pixel`: AUROC}, `pixel` where there are masks and a map."""
    found = {"image": auroc(test.batch.labels.numpy(), verdict.scores.numpy())}
    if test.batch.masks is not None and verdict.maps is not None:
        found["pixel"] = pixel_auroc(verdict.maps.numpy(), test.batch.masks.numpy())
    return found


def compared(fp32: Experiment, bf16: Experiment, rounded: Experiment, name: str, runs: Path) -> pd.DataFrame:
    """A row a method and metric of one data set: AUROC in fp32, judged in bf16, trained in bf16, and the control."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    exact, half = fp32.test_set(name), bf16.test_set(name)
    for column, experiment, test in (("fp32", fp32, exact), (JUDGED, bf16, half)):
        verdicts = experiment.verdicts(name, experiment.load_runs(name, runs), test)
        found[column] = {method: aurocs(verdict, test) for method, verdict in verdicts.items()}
    shots, protocol = fp32.settings.few_shot.shots[0], fp32.settings.protocols[0]
    for column, experiment, test in ((TRAINED, bf16, half), (CONTROL, rounded, exact)):
        again = experiment.train_few_shot(name, shots, protocol)
        found[column] = {again.method: aurocs(experiment.verdict(name, again, test), test)}
    rows = [
        {"data set": name, "method": method, "metric": metric}
        | {column: values[method][metric] for column, values in found.items() if method in values}
        for method, metrics in found["fp32"].items()
        for metric in metrics
    ]
    return pd.DataFrame(rows)


def differences(table: pd.DataFrame) -> pd.DataFrame:
    """Per column and metric: the largest difference from fp32, its mean size and its mean over data sets."""
    rows = []
    for column in (JUDGED, TRAINED, CONTROL):
        for metric, part in table.dropna(subset=[column]).groupby("metric"):
            gap = part[column] - part["fp32"]
            rows.append(
                {"what": column, "metric": metric, "values": len(gap), "largest": gap.abs().max()}
                | {"mean size": gap.abs().mean(), "mean": gap.mean()}
            )
    return pd.DataFrame(rows)


def main(
    params: Annotated[Path, typer.Option(help="Parameter file.")] = Path("params.yaml"),
    runs: Annotated[Path, typer.Option(help="Folder of the trained runs.")] = Path("runs"),
    output: Annotated[Path, typer.Option(help="Folder of the tables.")] = Path("benchmarks/results"),
) -> None:
    """Compare, print, and write `precision` and `precision_summary` as CSV, Markdown and LaTeX."""
    settings, base = load_settings(params), params.resolve().parent
    fp32, bf16, rounded = (
        kind(settings.model_copy(update={"dtype": dtype}), base, say=lambda line: None)
        for kind, dtype in ((Experiment, "fp32"), (Experiment, "bf16"), (RoundedStart, "fp32"))
    )
    parts = []
    for name in settings.datasets:
        parts.append(compared(fp32, bf16, rounded, name, runs))
        print(differences(parts[-1]).round(4).to_string(index=False), f"({name})\n", flush=True)
    table = pd.concat(parts, ignore_index=True)
    summary = differences(table)
    for content, stem in ((table, "precision"), (summary, "precision_summary")):
        save_table(content, output, stem, content.round(4))
    print("all data sets\n" + summary.round(4).to_string(index=False))
    judged = summary.loc[summary["what"] == JUDGED, "largest"].max()
    print(f"judging in bf16 moves no AUROC by more than {judged:.4f}; half a point is {MOST}")


if __name__ == "__main__":
    typer.run(main)
