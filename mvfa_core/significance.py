"""Evaluations -> is MVFA better than each baseline, on which data sets, and is it chance?

Three kinds of chance are kept apart: other test images (`significance_table`), other support images
(`draws_table`), other data sets (`rank_table`). Every table is long, a row a fact; `wide_...` is for people.
"""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import friedmanchisquare, rankdata, studentized_range

from mvfa_core.baselines import baseline_label
from mvfa_core.evaluation import Evaluation
from mvfa_core.methods import group_of, is_mvfa
from mvfa_core.report import MEAN, METRIC_NAMES, method_label, shared_groups, spread_out
from mvfa_core.uncertainty import bootstrap_interval, bootstrap_p, delong_test, holm, macro_samples

ALPHA = 0.05
METRICS = tuple(METRIC_NAMES)


def label(group: str) -> str:
    """What tables call a method group, the protocol of MVFA's included."""
    return baseline_label(group) or method_label(group, True)


# --- other test images --------------------------------------------------------------------------------------


def significance_table(
    evaluations: Sequence[Evaluation],
    metrics: Sequence[str] = METRICS,
    methods: Sequence[str] | None = None,
    baselines: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Each MVFA group minus each baseline, per data set, with a test that the difference is nought.

    Image AUROC: DeLong's paired test; with several support draws the mean of their AUROCs is tested, on their
    mean placements (see `delong_test`). Pixel AUROC: pixels of an image are not independent, which DeLong's
    test supposes, so p comes from the paired bootstrap over images, as it does for the mean over data sets.
    `p_holm` is Holm's correction over the data sets of one comparison; the mean is one test and stays as it is.

    Args:
        evaluations: one a data set.
        metrics: image_auroc, pixel_auroc.
        methods: MVFA's groups; all of them where None.
        baselines: all other groups where None.

    Returns:
        metric, method, baseline, dataset, value, baseline_value, difference, low, high (95 % paired bootstrap),
        test, p, p_holm, mark (`*` where p_holm is below 0.05). A comparison that is undefined has no row.
    """
    groups = shared_groups(evaluations)
    methods = [g for g in groups if is_mvfa(g)] if methods is None else methods
    baselines = [g for g in groups if not is_mvfa(g)] if baselines is None else baselines
    rows = []
    for metric in metrics:
        for method in methods:
            for baseline in baselines:
                rows += _comparison(evaluations, metric, method, baseline)
    columns = ["metric", "method", "baseline", "dataset", "value", "baseline_value", "difference"]
    columns += ["low", "high", "test", "p", "p_holm", "mark"]
    return pd.DataFrame(rows, columns=columns)


def _comparison(evaluations: Sequence[Evaluation], metric: str, method: str, baseline: str) -> list[dict]:
    rows, differences = [], []
    for evaluation in evaluations:
        pair = [evaluation.metrics[group].get(metric) for group in (method, baseline)]
        if None in pair:
            continue
        first, second = (evaluation.samples[f"{g}:{metric}"].astype(np.float64) for g in (method, baseline))
        test, p = "bootstrap", bootstrap_p(first - second)
        if metric == "image_auroc":
            scores = [_scores(evaluation, group) for group in (method, baseline)]
            found = delong_test(evaluation.scores["label"], *scores)
            test, p = "DeLong", None if found is None else found.p
        if p is None:
            continue
        differences.append(first - second)
        rows.append(_row(evaluation.dataset, *pair, first - second, test, p))
    for row, adjusted in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p_holm"] = float(adjusted)
    if len(rows) > 1:
        means = [float(np.mean([row[key] for row in rows])) for key in ("value", "baseline_value")]
        samples = macro_samples(differences)
        rows.append(_row(MEAN, *means, samples, "bootstrap", bootstrap_p(samples)))
    names = {"metric": metric, "method": method, "baseline": baseline}
    return [names | row | {"mark": "*" if row["p_holm"] < ALPHA else ""} for row in rows]


def _row(dataset: str, value: float, other: float, samples: np.ndarray, test: str, p: float) -> dict:
    interval = bootstrap_interval(samples)
    return {
        "dataset": dataset,
        "value": value,
        "baseline_value": other,
        "difference": value - other,
        "low": interval.low,
        "high": interval.high,
        "test": test,
        "p": p,
        "p_holm": p,
    }


def _scores(evaluation: Evaluation, group: str) -> np.ndarray:
    """(draws, N): the scores of a group's members."""
    members = [method for method in evaluation.scores.columns[2:] if group_of(method) == group]
    return evaluation.scores[members].to_numpy().T


def p_text(p: float) -> str:
    """A p-value as it is printed.

    >>> p_text(0.0004), p_text(0.0312)
    ('p < 0.001', 'p = 0.031')
    """
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def wide_significance(table: pd.DataFrame) -> pd.DataFrame:
    """A row a comparison, a column a data set: difference, `*` where significant, corrected p."""
    cells = table.assign(
        cell=[f"{r.difference:+.3f}{r.mark} ({p_text(r.p_holm)})" for r in table.itertuples()],
        comparison=[
            f"{METRIC_NAMES[r.metric]}: {label(r.method)} - {label(r.baseline)}" for r in table.itertuples()
        ],
    )
    return spread_out(cells, "comparison", "dataset")


# --- other support images -----------------------------------------------------------------------------------


def draws_table(evaluations: Sequence[Evaluation], metrics: Sequence[str] = METRICS) -> pd.DataFrame:
    """Spread over support draws: dataset, method, metric, draws, mean, sd, min, max.

    Groups with one draw have no row: nothing can be said of them. `sd` divides by draws - 1.
    """
    rows = []
    for evaluation in evaluations:
        for group, found in evaluation.metrics.items():
            for metric in metrics:
                if found.get("draws", 1) > 1 and found.get(metric) is not None:
                    spread = [found[f"{metric}_{key}"] for key in ("std", "min", "max")]
                    place = (evaluation.dataset, group, metric, found["draws"])
                    rows.append((*place, found[metric], *spread))
    return pd.DataFrame(rows, columns=["dataset", "method", "metric", "draws", "mean", "sd", "min", "max"])


def wide_draws(table: pd.DataFrame) -> pd.DataFrame:
    """A row a data set, a column a method and metric: `mean (sd; min to max)`."""
    cells = table.assign(
        cell=[f"{r.mean:.3f} (sd {r.sd:.3f}; {r.min:.3f} to {r.max:.3f})" for r in table.itertuples()],
        column=[f"{METRIC_NAMES[r.metric]}: {label(r.method)}" for r in table.itertuples()],
    )
    return spread_out(cells, "dataset", "column")


# --- other data sets ----------------------------------------------------------------------------------------


def rank_table(
    evaluations: Sequence[Evaluation], metrics: Sequence[str] = METRICS, methods: Sequence[str] | None = None
) -> pd.DataFrame:
    """Mean rank of each method over data sets, 1 the best, ties sharing theirs.

    Data sets on which a metric is defined for no method are left out, then methods that lack one of the others.

    Returns:
        metric, method, mean_rank, mean_value, wins (data sets it leads, ties included), datasets; best first.
    """
    rows = []
    for metric in metrics:
        values = _values(evaluations, metric, methods)
        if values.empty:
            continue
        ranks = rankdata(-values.to_numpy(), axis=1)
        for i, method in enumerate(values.columns):
            leads = int((values[method] == values.max(axis=1)).sum())
            rows.append((metric, method, ranks[:, i].mean(), values[method].mean(), leads, len(values)))
    table = pd.DataFrame(rows, columns=["metric", "method", "mean_rank", "mean_value", "wins", "datasets"])
    table["order"] = table["metric"].map(list(metrics).index)
    table = table.sort_values(["order", "mean_rank"], kind="stable", ignore_index=True)
    return table.drop(columns="order")


def _values(evaluations: Sequence[Evaluation], metric: str, methods: Sequence[str] | None) -> pd.DataFrame:
    """A row a data set, a column a method, without gaps."""
    groups = shared_groups(evaluations) if methods is None else list(methods)
    table = pd.DataFrame(
        [[e.metrics[group].get(metric) for group in groups] for e in evaluations],
        index=[e.dataset for e in evaluations],
        columns=groups,
        dtype=float,
    )
    return table.dropna(how="all").dropna(axis=1, how="any")


def critical_difference(methods: int, datasets: int, alpha: float = ALPHA) -> float:
    """How far two mean ranks must lie apart to differ, all pairs considered (Nemenyi's test).

    Source: Demsar, "Statistical Comparisons of Classifiers over Multiple Data Sets", JMLR 7, 2006.

    >>> round(critical_difference(4, 14), 2)
    1.25
    """
    q = studentized_range.ppf(1 - alpha, methods, math.inf) / math.sqrt(2)
    return float(q * math.sqrt(methods * (methods + 1) / (6 * datasets)))


def rank_statements(
    evaluations: Sequence[Evaluation], metrics: Sequence[str] = METRICS, methods: Sequence[str] | None = None
) -> list[str]:
    """One sentence a metric: Friedman's test over data sets, and which methods the best one is told from."""
    sentences = []
    for metric in metrics:
        values = _values(evaluations, metric, methods)
        datasets, count = values.shape
        if datasets < 2 or count < 3:
            continue
        table = rank_table(evaluations, [metric], methods)
        best = table.iloc[0]
        # where all methods tie on all data sets, Friedman's statistic is undefined
        tied = (values.nunique(axis=1) == 1).all()
        p = 1.0 if tied else float(friedmanchisquare(*values.to_numpy().T).pvalue)
        text = (
            f"By {METRIC_NAMES[metric]} over {datasets} data sets, {label(best.method)} has the best mean rank "
            f"({best.mean_rank:.1f} of {count}; it leads on {best.wins})"
        )
        if p >= ALPHA:
            sentences.append(
                f"{text}, but the ranks differ no more than chance allows (Friedman, {p_text(p)})."
            )
            continue
        needed = critical_difference(count, datasets)
        beaten = [label(row.method) for row in table.itertuples() if row.mean_rank - best.mean_rank > needed]
        told = ", ".join(beaten) if beaten else "none of the others"
        sentences.append(
            f"{text}; ranks differ more than chance allows (Friedman, {p_text(p)}). Two must lie {needed:.1f} apart "
            f"(Nemenyi), which sets it apart from {told}."
        )
    return sentences


# --- operating point ----------------------------------------------------------------------------------------


def operating_table(evaluations: Sequence[Evaluation]) -> pd.DataFrame:
    """Sensitivity at 95 % specificity and F1-max, per data set and on average, means over draws.

    Both thresholds are set on the test images themselves, so these are upper bounds of what use would give.
    F1 rises with the share of abnormal images: `f1_all_abnormal` is what calling every image abnormal earns.

    Returns:
        dataset, method, sens_at_95_spec, f1_max, f1_all_abnormal; the last data set is the mean.
    """
    rows = []
    for evaluation in evaluations:
        share = float(evaluation.scores["label"].mean())
        for group in shared_groups(evaluations):
            found = evaluation.metrics[group]
            pair = [found.get("image_sens_at_95_spec"), found.get("image_f1_max")]
            if None not in pair:
                rows.append((evaluation.dataset, group, *pair, 2 * share / (1 + share)))
    figures = ["sens_at_95_spec", "f1_max", "f1_all_abnormal"]
    table = pd.DataFrame(rows, columns=["dataset", "method", *figures])
    means = table.groupby("method", sort=False)[figures].mean().reset_index()
    return pd.concat([table, means.assign(dataset=MEAN)], ignore_index=True)


def wide_operating(table: pd.DataFrame, figure: str = "sens_at_95_spec") -> pd.DataFrame:
    """One of the figures of `operating_table`: a row a data set, a column a method."""
    cells = table.assign(
        cell=[f"{value:.3f}" for value in table[figure]], column=[label(m) for m in table["method"]]
    )
    return spread_out(cells, "dataset", "column")
