"""Evaluations -> is MVFA better than each baseline, on which data sets, and is it chance?

Three kinds of chance are kept apart: other test images (`significance_table`), other support images
(`draws_table`), other data sets (`rank_table`). Every table is long, a row a fact; `wide_...` is for people.
"""

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd
from scipy.stats import friedmanchisquare, rankdata, studentized_range

from mvfa_core.evaluation import Evaluation
from mvfa_core.methods import group_of, is_few_shot, is_mvfa, shots_of
from mvfa_core.metrics import auroc
from mvfa_core.report import (
    MEAN,
    METRIC_NAMES,
    UNDEFINED,
    difference,
    difference_samples,
    groups_of,
    method_label,
    spread_out,
    stronger_reading,
)
from mvfa_core.uncertainty import bootstrap_p, delong_test, holm, macro_samples

ALPHA = 0.05
METRICS = tuple(METRIC_NAMES)

# what tables of this kind call a method group, the protocol of MVFA's included
label = partial(method_label, several_protocols=True)


# --- other test images --------------------------------------------------------------------------------------


def rivals(method: str, groups: Sequence[str]) -> list[str]:
    """The baselines among `groups` that an MVFA group is compared with.

    A few-shot group meets those with as many shots and those without; zero-shot meets them all.

    >>> rivals("4-shot/sound", ["clip-pooled", "2-probe/sound", "4-probe/sound", "zero-shot/sound"])
    ['clip-pooled', '4-probe/sound']
    """
    shots = shots_of(method)
    return [g for g in groups if not is_mvfa(g) and (not shots or shots_of(g) in (0, shots))]


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
        baselines: of each method its `rivals` where None.

    Returns:
        metric, method, baseline, dataset, value, baseline_value, difference, low, high (95 % paired bootstrap),
        test, p, p_holm, mark (`*` where p_holm is below 0.05). No row where either method cannot have the
        metric; a row without figures where a comparison is undefined.
    """
    groups = groups_of(evaluations)
    frames = []
    for metric in metrics:
        for method in [g for g in groups if is_mvfa(g)] if methods is None else methods:
            for baseline in rivals(method, groups) if baselines is None else baselines:
                found = _comparison(evaluations, metric, method, baseline)
                frames.append(found.assign(metric=metric, method=method, baseline=baseline))
    columns = ["metric", "method", "baseline", "dataset", "value", "baseline_value", "difference"]
    columns += ["low", "high", "test", "p", "p_holm", "mark"]
    frames = [frame for frame in frames if len(frame)]
    return pd.concat(frames, ignore_index=True)[columns] if frames else pd.DataFrame(columns=columns)


def _comparison(evaluations: Sequence[Evaluation], metric: str, method: str, baseline: str) -> pd.DataFrame:
    table = difference(evaluations, metric, method, baseline)
    known = {e.dataset: e for e in evaluations}
    defined = [known[name] for name in table.loc[table["difference"].notna(), "dataset"] if name != MEAN]
    tests = {e.dataset: _test(e, metric, method, baseline) for e in defined}
    if defined:
        macro = macro_samples([difference_samples(e, metric, method, baseline) for e in defined])
        tests[MEAN] = ("bootstrap", bootstrap_p(macro))
    nothing = ("", math.nan)
    table["test"] = [tests.get(name, nothing)[0] for name in table["dataset"]]
    table["p"] = [tests.get(name, nothing)[1] for name in table["dataset"]]
    table["p_holm"] = corrected(table)
    table["mark"] = np.where(table["p_holm"] < ALPHA, "*", "")
    return table


def corrected(table: pd.DataFrame) -> pd.Series:
    """Column `p` after Holm's correction over data sets; the mean is one test and stays as it is."""
    p = table["p"].copy()
    each = p.notna() & (table["dataset"] != MEAN)
    p[each] = holm(p[each])
    return p


def _test(evaluation: Evaluation, metric: str, method: str, baseline: str) -> tuple[str, float]:
    """Name and p of the test on one data set; NaN where a class has too few images for it."""
    if metric == "image_auroc":
        scores = [_scores(evaluation, group) for group in (method, baseline)]
        found = delong_test(evaluation.scores["label"], *scores)
        return "DeLong", math.nan if found is None else found.p
    return "bootstrap", bootstrap_p(difference_samples(evaluation, metric, method, baseline))


def _scores(evaluation: Evaluation, group: str) -> np.ndarray:
    """(draws, N): the scores of a group's members."""
    return evaluation.scores[members_of(evaluation, group)].to_numpy().T


def members_of(evaluation: Evaluation, group: str) -> list[str]:
    """The methods of a group, one a support draw."""
    return [method for method in evaluation.scores.columns[2:] if group_of(method) == group]


def marks(evaluations: Sequence[Evaluation], metric: str) -> set[tuple[str, str]]:
    """(dataset, method) of MVFA where it differs from the stronger plain reading, as `significance_table` says."""
    baseline = stronger_reading(evaluations, metric)
    if baseline is None:
        return set()
    table = significance_table(evaluations, [metric], baselines=[baseline])
    return set(table.loc[table["mark"] == "*", ["dataset", "method"]].itertuples(index=False, name=None))


def p_text(p: float) -> str:
    """A p-value as it is printed.

    >>> p_text(0.0004), p_text(0.0312)
    ('p < 0.001', 'p = 0.031')
    """
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def wide_significance(table: pd.DataFrame) -> pd.DataFrame:
    """A row a comparison, a column a data set: difference, `*` where significant, corrected p."""

    def cell(row) -> str:
        if math.isnan(row.difference):
            return UNDEFINED
        told = "too few images to test" if math.isnan(row.p_holm) else p_text(row.p_holm)
        return f"{row.difference:+.3f}{row.mark} ({told})"

    cells = table.assign(
        cell=[cell(row) for row in table.itertuples()],
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


def wide_ranks(table: pd.DataFrame) -> pd.DataFrame:
    """As people read it: a row a method and metric, best first."""
    return pd.DataFrame(
        {
            "metric": table["metric"].map(METRIC_NAMES),
            "method": table["method"].map(label),
            "mean rank": [f"{value:.2f}" for value in table["mean_rank"]],
            "mean value": [f"{value:.3f}" for value in table["mean_value"]],
            "leads on": [f"{r.wins} of {r.datasets}" for r in table.itertuples()],
        }
    )


def wide_draws(table: pd.DataFrame) -> pd.DataFrame:
    """A row a metric and method, a column a data set: `mean (sd; min to max)`."""
    cells = table.assign(
        cell=[f"{r.mean:.3f} (sd {r.sd:.3f}; {r.min:.3f} to {r.max:.3f})" for r in table.itertuples()],
        row=[f"{METRIC_NAMES[r.metric]}: {label(r.method)}" for r in table.itertuples()],
    )
    cells["order"] = cells["metric"].map(list(METRIC_NAMES).index)
    cells = cells.sort_values("order", kind="stable")
    return spread_out(cells, "row", "dataset").rename_axis("metric: method")


def draw_statements(evaluations: Sequence[Evaluation]) -> list[str]:
    """One sentence a few-shot group of MVFA: on which data sets every support draw agrees that it helps."""
    baseline = stronger_reading(evaluations, "image_auroc")
    sentences = []
    for group in filter(is_few_shot, groups_of(evaluations)):
        told: dict[str, list[str]] = {}
        spreads = []
        for evaluation in evaluations:
            reference = evaluation.metrics[baseline]["image_auroc"]
            labels, draws = evaluation.scores["label"], members_of(evaluation, group)
            if reference is None or len(draws) < 2:
                continue
            found = [auroc(labels, evaluation.scores[method]) for method in draws]
            spreads.append(np.std(found, ddof=1))
            above, name = sum(value > reference for value in found), evaluation.dataset
            kind = "every draw" if above == len(draws) else "some draws only" if above else "no draw"
            told.setdefault(kind, []).append(
                name if kind != "some draws only" else f"{name} ({above} of {len(draws)})"
            )
        if told:
            kinds = [kind for kind in ("every draw", "some draws only", "no draw") if kind in told]
            sentences.append(
                f"{label(group)} against {label(baseline)} by image AUROC, over {len(draws)} support draws: better in "
                + "; in ".join(f"{kind} on {', '.join(told[kind])}" for kind in kinds)
                + f". The standard deviation over draws is {min(spreads):.3f} to {max(spreads):.3f}."
            )
    return sentences


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
    groups = groups_of(evaluations) if methods is None else list(methods)
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
