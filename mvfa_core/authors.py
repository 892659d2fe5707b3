"""Adapters that somebody else trained, such as the authors' published ones, as a run of this pipeline."""

import hashlib
from pathlib import Path

import pandas as pd

from mvfa_core.checkpoints import load_adapters
from mvfa_core.evaluation import Evaluation
from mvfa_core.experiment import Experiment
from mvfa_core.runs import Run

ORIGIN = "authors"


def import_adapters(
    experiment: Experiment, file: str | Path, dataset: str, shots: int, draw: int = 0, origin: str = ORIGIN
) -> Run:
    """A run whose adapters come from `file`, to be judged as the `paper` protocol judges.

    A few-shot detector is its adapters and its memory of normal images: the support set is the one that
    `few_shot.support_lists` names, else the one drawn from the seed, which is not what foreign adapters saw.

    Args:
        experiment: settings, backbone and data.
        file: the authors' `<Name>.pth`, or a file of our own.
        dataset: the target.
        shots: 0 for zero-shot.
        draw: repetition of the support list.
        origin: stands in the protocol's place in tables, `4-shot/authors`.

    Raises:
        MvfaError: the file is unreadable or has other levels or widths, or the support set cannot be had.
    """
    adapters = experiment.fresh_adapters()
    load_adapters(file, adapters)
    support = ranges = None
    if shots:
        support = experiment.support(dataset, shots, draw)
        normal, abnormal = (
            experiment.support_tokens(dataset, records)[0] for records in (support.normal, support.abnormal)
        )
        # the paper's protocol does not ask for them, a detector for use does
        ranges = experiment.support_ranges(dataset, adapters, normal, abnormal)
    provenance = experiment.provenance() | {
        "imported": Path(file).name,
        "sha256": hashlib.sha256(Path(file).read_bytes()).hexdigest(),
        "support_from": "lists" if experiment.settings.few_shot.support_lists else "seed",
    }
    return Run(
        dataset,
        shots,
        "paper",
        draw,
        0,
        adapters,
        pd.DataFrame(columns=["epoch", "detection", "focal", "dice", "total", "selection"]),
        support=support.names() if support else None,
        ranges=ranges,
        provenance=provenance,
        origin=origin,
    )


def judge(experiment: Experiment, run: Run) -> pd.DataFrame:
    """AUROCs of `run` and of the plain backbone on the target's test split, with 95 % bootstrap intervals.

    A row a method; columns image_auroc and, for a target with masks, pixel_auroc, each with _low and _high.
    """
    test = experiment.test_set(run.dataset)
    verdicts = experiment.verdicts(run.dataset, [run], test)
    metrics = Evaluation.of(experiment, run.dataset, test, verdicts, [run]).metrics
    columns = [f"{metric}{end}" for metric in ("image_auroc", "pixel_auroc") for end in ("", "_low", "_high")]
    table = pd.DataFrame(metrics).T.reindex(columns=columns).astype(float)
    return table.dropna(axis="columns", how="all")
