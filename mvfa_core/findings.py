"""Evaluations -> sentences: where MVFA helps, by how much, how sure that is, where it does not, and the limits."""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from mvfa_core.evaluation import Evaluation
from mvfa_core.methods import is_mvfa, shots_of
from mvfa_core.published import phantoms
from mvfa_core.report import (
    MEAN,
    METRIC_NAMES,
    PLAIN_READINGS,
    UNDEFINED,
    groups_of,
    signed,
    stronger_reading,
)
from mvfa_core.settings import Settings
from mvfa_core.significance import ALPHA, METRICS, corrected, label, p_text, significance_table
from mvfa_core.uncertainty import bootstrap_interval

CONTROL = "untrained"
BETTER, WORSE, UNSURE = "better", "worse", "no clear difference"


def fair_baselines(method: str, baselines: Sequence[str]) -> list[str]:
    """Those that saw no more images of the target than an MVFA group did; the control is none of them.

    >>> fair_baselines("zero-shot/sound", ["clip-pooled", "untrained", "4-probe/sound"])
    ['clip-pooled']
    """
    return [g for g in baselines if g != CONTROL and shots_of(g) in (0, shots_of(method))]


def _verdict(difference: float, p: float) -> str:
    return UNSURE if not p < ALPHA else BETTER if difference > 0 else WORSE


def where_table(tests: pd.DataFrame) -> pd.DataFrame:
    """Each MVFA group beside the best of its fair baselines, per data set and by the mean.

    The best is picked on the test images, which favours the baselines: that MVFA is better is the safer for it,
    that it is worse the less safe.

    Args:
        tests: as `significance_table` gives it for all methods and baselines.

    Returns:
        metric, method, dataset, value, baseline, baseline_value, difference, low, high, p_holm (over the data
        sets), verdict (better, worse, no clear difference).
    """
    frames = []
    for (_, method), rows in tests.groupby(["metric", "method"], sort=False):
        rows = rows[rows["baseline"].isin(fair_baselines(method, rows["baseline"].unique()))]
        rows = rows.dropna(subset="difference")
        if rows.empty:
            continue
        best = rows.loc[rows.groupby("dataset", sort=False)["baseline_value"].idxmax()].copy()
        best["p_holm"] = corrected(best)
        verdicts = [_verdict(row.difference, row.p_holm) for row in best.itertuples()]
        frames.append(best.assign(verdict=verdicts))
    columns = ["metric", "method", "dataset", "value", "baseline", "baseline_value", "difference"]
    columns += ["low", "high", "p_holm", "verdict"]
    return pd.concat(frames, ignore_index=True)[columns] if frames else pd.DataFrame(columns=columns)


def wide_where(table: pd.DataFrame) -> pd.DataFrame:
    """As people read it: a row a metric, method and data set."""
    return pd.DataFrame(
        {
            "metric": table["metric"].map(METRIC_NAMES),
            "method": table["method"].map(label),
            "data set": table["dataset"],
            "value": [f"{value:.3f}" for value in table["value"]],
            "best baseline": [f"{label(r.baseline)}, {r.baseline_value:.3f}" for r in table.itertuples()],
            "difference": [
                signed(r.difference, r.low, r.high, r.verdict != UNSURE) for r in table.itertuples()
            ],
            "MVFA is": table["verdict"],
        }
    )


def findings(evaluations: Sequence[Evaluation], tests: pd.DataFrame | None = None) -> list[str]:
    """A few plain sentences for each MVFA group and AUROC.

    Args:
        evaluations: one a data set.
        tests: `significance_table` of them, where it is there already.
    """
    tests = significance_table(evaluations) if tests is None else tests
    best = where_table(tests)
    told = []
    for metric in METRICS:
        plain = stronger_reading(evaluations, metric)
        for method in (g for g in groups_of(evaluations) if is_mvfa(g)):
            mine = tests[(tests["metric"] == metric) & (tests["method"] == method)]
            against = mine[(mine["baseline"] == plain) & mine["difference"].notna()]
            if against.empty:
                continue
            chosen = best[(best["metric"] == metric) & (best["method"] == method)]
            parts = [_against_plain(against), _against_others(mine), _against_best(chosen)]
            told.append(" ".join(part for part in parts if part))
    return told


def _against_plain(rows: pd.DataFrame) -> str:
    """MVFA against the stronger plain reading: on average, then where."""
    total, each = rows.iloc[-1], rows[rows["dataset"] != MEAN]
    place = {BETTER: "above", WORSE: "below", UNSURE: "not distinguishable from"}
    verdicts = [_verdict(row.difference, row.p_holm) for row in each.itertuples()]
    names = {BETTER: "better on", WORSE: "worse on", UNSURE: "no clear difference on"}
    parts = [
        f"{text} {', '.join(each['dataset'][[v == verdict for v in verdicts]])}"
        for verdict, text in names.items()
        if verdict in verdicts
    ]
    return (
        f"{label(total.method)} reaches a mean {METRIC_NAMES[total.metric]} of {total.value:.3f}, "
        f"{place[_verdict(total.difference, total.p_holm)]} the stronger plain reading ({label(total.baseline)}, "
        f"{total.baseline_value:.3f}): difference {signed(total.difference, total.low, total.high, False)}, "
        f"{p_text(total.p_holm)}; {'; '.join(parts)}."
    )


def _against_others(rows: pd.DataFrame) -> str:
    """MVFA against every other fair baseline on average."""
    others = fair_baselines(rows["method"].iloc[0], rows["baseline"].unique())
    rows = rows[
        (rows["dataset"] == MEAN)
        & rows["baseline"].isin(others)
        & ~rows["baseline"].isin(PLAIN_READINGS)
        & rows["difference"].notna()
    ]
    texts = {BETTER: "ahead of", WORSE: "behind", UNSURE: "not distinguishable from"}
    parts = []
    for verdict, text in texts.items():
        found = [r for r in rows.itertuples() if _verdict(r.difference, r.p_holm) == verdict]
        if found:
            # the names hold commas themselves
            parts.append(
                f"{text} {' and '.join(f'{label(r.baseline)} ({r.difference:+.3f})' for r in found)}"
            )
    return f"Of the other baselines it is on average {'; '.join(parts)}." if parts else ""


def _against_best(rows: pd.DataFrame) -> str:
    """Where MVFA leads all baselines, and where the best of them is ahead or cannot be told from it."""
    rows = rows[rows["dataset"] != MEAN]
    texts = {BETTER: "ahead on", WORSE: "behind on", UNSURE: "not distinguishable on"}
    parts = []
    for verdict, text in texts.items():
        found = [
            r.dataset if verdict == BETTER else f"{r.dataset} ({label(r.baseline)}, {r.baseline_value:.3f})"
            for r in rows.itertuples()
            if r.verdict == verdict
        ]
        if found:
            parts.append(f"{text} {', '.join(found)}")
    return f"Against the best baseline of each data set it is {'; '.join(parts)}." if parts else ""


def as_list(sentences: Iterable[str]) -> str:
    """Sentences as a list in Markdown."""
    return "".join(f"- {sentence}\n" for sentence in sentences)


def undefined_cases(evaluations: Sequence[Evaluation]) -> list[str]:
    """One sentence a data set on which AUROCs are undefined, with the reason."""
    sentences = []
    for evaluation in evaluations:
        names = [
            METRIC_NAMES[metric]
            for metric in METRICS
            if any(metric in found and found[metric] is None for found in evaluation.metrics.values())
        ]
        if names:
            sentences.append(f"{evaluation.dataset}: {' and '.join(names)} {UNDEFINED}; it is in no mean.")
    return sentences


def limitations(evaluations: Sequence[Evaluation], settings: Settings) -> list[str]:
    """What the figures of this run do not show."""
    images = [len(evaluation.scores) for evaluation in evaluations]
    number = f"{len(evaluations)} data set" + ("s" if len(evaluations) > 1 else "")
    size = f"{min(images)} to {max(images)}" if min(images) < max(images) else images[0]
    sentences = [
        f"{number}, one backbone, {size} test images each. Intervals and tests speak of "
        "other images from the same sources; they say nothing about another hospital, scanner or population.",
        "Images are resampled one by one. Where several come from one patient, the intervals are too narrow.",
    ]
    drawn = phantoms(evaluations, settings)
    if drawn:
        sentences.insert(
            0,
            f"{', '.join(drawn)}: phantoms drawn by this project, with its own small backbone. The figures show how "
            "the methods compare under these conditions; they are no evidence about patients.",
        )
    intervals = [
        bootstrap_interval(samples)
        for evaluation in evaluations
        for key, samples in evaluation.samples.items()
        if key.endswith(":image_auroc")
    ]
    if intervals:
        width = np.median([interval.high - interval.low for interval in intervals])
        sentences.append(
            f"The median width of an interval of image AUROC is {width:.2f}; on one data set, two methods "
            "that differ by less are told apart by the paired comparison or not at all."
        )
    few = settings.few_shot
    if few.draws > 1:
        sentences.append(
            f"Few-shot figures are means over {few.draws} support draws; intervals and p-values take these draws as "
            "given, so that the spread over draws has to be read beside them."
        )
    else:
        sentences.append("One support draw: how much its images matter is not known.")
    sentences.append(
        "Holm's correction covers the data sets of one comparison, not the number of comparisons: of twenty "
        "comparisons without any difference, one would be marked by chance."
    )
    sentences.append(
        f"Adapters and projectors share one few-shot schedule ({few.epochs} epochs, learning rate "
        f"{few.learning_rate:g}); none of the methods was tuned by itself, the baselines as little as MVFA."
    )
    sentences.append(
        "Sensitivity at 95 % specificity, F1-max and best Dice use the test images to set their threshold and are "
        "upper bounds. The threshold from validation images is free of that, but rests on few images."
    )
    return sentences + undefined_cases(evaluations)
