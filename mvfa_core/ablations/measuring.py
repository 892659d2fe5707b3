"""A question asked on every bench, and the table of what came out."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from mvfa_core.ablations.bench import Bench, Plan
from mvfa_core.ablations.options import Seen
from mvfa_core.ablations.questions import question_called
from mvfa_core.delong import holm
from mvfa_core.experiment import Experiment
from mvfa_core.metrics import auroc
from mvfa_core.pixel_ranking import pixel_auroc
from mvfa_core.report import MEAN, METRIC_NAMES
from mvfa_core.uncertainty import (
    bootstrap_interval,
    bootstrap_p,
    image_auroc_samples,
    macro_samples,
    pixel_auroc_samples,
)

COLUMNS = ("metric", "series", "option", "x", "reference", "dataset", "datasets", "value", "low", "high")
COLUMNS += ("difference", "difference_low", "difference_high", "above", "pairs", "p", "p_holm")


@dataclass(frozen=True)
class Outcome:
    """What one bench says of one option: its AUROCs, and (resamples,) bootstrap values of each over its images."""

    option: str
    series: str
    x: float | None
    reference: bool
    values: dict[str, float]
    samples: dict[str, np.ndarray]

    @classmethod
    def of(cls, seen: Seen, resamples: int, seed: int) -> "Outcome":
        labels, scores = seen.labels.numpy().astype(int), seen.verdict.scores.numpy()
        values = {"image_auroc": auroc(labels, scores)}
        samples = {"image_auroc": image_auroc_samples(labels, scores, resamples, seed)}
        if seen.masks is not None and seen.verdict.maps is not None:
            maps, masks = seen.verdict.maps.numpy(), seen.masks.numpy()
            values["pixel_auroc"] = pixel_auroc(maps, masks)
            samples["pixel_auroc"] = pixel_auroc_samples(maps, masks, labels, resamples, seed)
        return cls(seen.option, seen.series, seen.x, seen.reference, values, samples)


def ask(question: str, plan: Plan, params: str | Path, runs: str | Path) -> pd.DataFrame:
    """Measure `question` on every data set and support draw of the plan; see `outcome_table`.

    Data sets and draws are spread over processes of one thread each: the models of a demo are too small to
    keep several threads busy. With one worker, or on another device than the CPU, this process does it with
    whatever threads it has; as threads decide how sums are rounded, the last digits may then be others.

    Args:
        question: one of `QUESTIONS`.
        plan: the grid.
        params: the benchmark's parameter file.
        runs: folder of the benchmark's own runs, `<data set>/draw-<n>`.

    Raises:
        MvfaError: unknown question or data set, a missing run, or whatever a training raises.
    """
    question_called(question)
    experiment = Experiment.open(params)
    for name in plan.datasets:
        experiment.settings.dataset(name)
    benches = list(product(plan.datasets, range(plan.draws)))
    one = partial(_ask_one, question, plan, Path(params), Path(runs))
    if plan.workers == 1 or experiment.device.type != "cpu":
        found = list(map(one, *zip(*benches, strict=True)))
    else:
        # spawned, not forked: a forked copy of threads and locks may hang
        with ProcessPoolExecutor(
            plan.workers, get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
        ) as pool:
            found = list(pool.map(one, *zip(*benches, strict=True)))
    return outcome_table(dict(zip(benches, found, strict=True)), experiment.settings.seed)


def _ask_one(question: str, plan: Plan, params: Path, runs: Path, name: str, draw: int) -> list[Outcome]:
    experiment = Experiment.open(params, say=lambda line: None)
    bench = Bench(experiment, runs, name, draw, plan)
    settings = experiment.settings
    return [
        Outcome.of(seen, settings.evaluation.bootstrap, settings.seed)
        for seen in question_called(question).measure(bench, plan.options(question))
    ]


def outcome_table(outcomes: Mapping[tuple[str, int], Sequence[Outcome]], seed: int = 0) -> pd.DataFrame:
    """Every option beside the reference of its series, per data set and on average.

    Args:
        outcomes: {(data set, draw): what its bench found}, with the same options in each data set, or fewer.
        seed: of the bootstrap's mean over data sets.

    Returns:
        A row a metric, series, option and data set; the last data set is the mean over those (`datasets` of them)
        that have the option. value: mean over draws, with the 95 % bootstrap interval low, high over images.
        difference, difference_low, difference_high: option minus reference on the same images. above: in how many
        of the `pairs` of data set and draw the option lies above the reference. p: of the mean difference, by the
        bootstrap; p_holm: corrected for the number of options. Images are resampled, runs and draws are not.
    """
    rows = [row for metric in METRIC_NAMES for row in _rows(outcomes, metric, seed)]
    table = pd.DataFrame(rows, columns=COLUMNS)
    tested = table["p"].notna()
    for _, part in table[tested].groupby(["metric", "series"], sort=False):
        table.loc[part.index, "p_holm"] = holm(part["p"].tolist())
    return table


def _rows(outcomes: Mapping, metric: str, seed: int) -> Iterator[dict]:
    first = {}
    for found in outcomes.values():
        for outcome in found:
            if metric in outcome.values:
                first.setdefault((outcome.series, outcome.option), outcome)
    for (series, option), known in first.items():
        per_set = []
        for name in dict.fromkeys(name for name, _ in outcomes):
            pairs = [_pair(found, series, option, metric) for (n, _), found in outcomes.items() if n == name]
            if pairs[0] is not None:
                per_set.append((name, _Cell.over_draws(pairs, metric)))
        cells = [cell for _, cell in per_set]
        head = {
            "metric": metric,
            "series": series,
            "option": option,
            "x": known.x,
            "reference": known.reference,
        }
        for name, cell in [*per_set, (MEAN, _Cell.over_data_sets(cells, seed))]:
            count = len(cells) if name == MEAN else 1
            yield head | {"dataset": name, "datasets": count} | cell.row(known.reference, name == MEAN)


def _pair(found: Sequence[Outcome], series: str, option: str, metric: str) -> tuple[Outcome, Outcome] | None:
    """The option's outcome and its reference's, of one bench; None where it has no such option."""
    mine = [outcome for outcome in found if outcome.series == series and metric in outcome.values]
    this = next((outcome for outcome in mine if outcome.option == option), None)
    return None if this is None else (this, next(outcome for outcome in mine if outcome.reference))


@dataclass(frozen=True)
class _Cell:
    """A value and its difference from the reference, with (resamples,) bootstrap values of both."""

    value: float
    difference: float
    above: int
    pairs: int
    samples: np.ndarray
    difference_samples: np.ndarray

    @classmethod
    def over_draws(cls, pairs: Sequence[tuple[Outcome, Outcome]], metric: str) -> "_Cell":
        # the same images are drawn for every support draw and option, so that means and differences pair them
        this, own = (np.array([pair[i].values[metric] for pair in pairs]) for i in (0, 1))
        samples, others = (np.mean([pair[i].samples[metric] for pair in pairs], axis=0) for i in (0, 1))
        gain = this - own
        return cls(this.mean(), gain.mean(), int((gain > 0).sum()), len(pairs), samples, samples - others)

    @classmethod
    def over_data_sets(cls, cells: Sequence["_Cell"], seed: int) -> "_Cell":
        value, difference = (
            float(np.mean([getattr(c, key) for c in cells])) for key in ("value", "difference")
        )
        above, pairs = (sum(getattr(c, key) for c in cells) for key in ("above", "pairs"))
        drawn = [
            macro_samples([getattr(c, key) for c in cells], seed) for key in ("samples", "difference_samples")
        ]
        return cls(value, difference, above, pairs, *drawn)

    def row(self, reference: bool, tested: bool) -> dict:
        interval = bootstrap_interval(self.samples)
        row = {"value": self.value, "low": interval.low, "high": interval.high}
        if not reference:
            between = bootstrap_interval(self.difference_samples)
            row |= {
                "difference": self.difference,
                "difference_low": between.low,
                "difference_high": between.high,
                "above": self.above,
                "pairs": self.pairs,
                "p": bootstrap_p(self.difference_samples) if tested else None,
            }
        return row


def write_outcomes(table: pd.DataFrame) -> str:
    """The table as CSV, six decimals."""
    return table.to_csv(index=False, float_format="%.6f", lineterminator="\n")
