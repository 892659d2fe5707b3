"""Evaluations -> tables. Every figure in them comes from the evaluations handed in."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from mvfa_core.evaluation import Evaluation
from mvfa_core.methods import baseline_label, is_mvfa, place_of, several_protocols
from mvfa_core.uncertainty import bootstrap_interval, macro_samples
from mvfa_core.writing import write_text

# Fixed before any result was seen: CLIP's own zero-shot classification for images, and its patch tokens for
# pixels, where the pooled token has nothing to say. The other reading is always shown beside it.
BASELINES = {"image_auroc": "clip-pooled", "pixel_auroc": "clip-patch"}
PLAIN_READINGS = tuple(BASELINES.values())
METRIC_NAMES = {"image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC"}
MEAN = "mean"
UNDEFINED = "undefined: one class only"

_NAMES = {"clip-pooled": "CLIP, pooled", "clip-patch": "CLIP, patches", "untrained": "untrained adapters"}

# What the compare stage saves, in reading order: name of the file, title, one sentence for whoever meets the
# table alone.
TABLES = {
    "image_auroc": (
        "Image AUROC",
        "Value and 95 % bootstrap interval over test images, few-shot values as means over support draws; a "
        "star marks where MVFA differs, for better or worse, from the stronger plain reading of CLIP (p below "
        "0.05, DeLong's test with Holm's correction over data sets).",
    ),
    "pixel_auroc": (
        "Pixel AUROC",
        "As the table of image AUROCs, for data sets with masks; the test is a paired bootstrap over images.",
    ),
    "gain": (
        "Gain over plain CLIP",
        "MVFA minus each plain reading with a paired 95 % interval; a star marks an interval that leaves out "
        "zero, without correction.",
    ),
    "where": (
        "Where MVFA helps and where it does not",
        "MVFA beside the best of all baselines that see no more images of the target, per data set; the best is "
        "picked on the test split, which favours the baselines.",
    ),
    "baselines": (
        "All baselines, image AUROC",
        "Every method on the same backbone, prompts, support images and test images, with 95 % intervals.",
    ),
    "baselines_pixel": (
        "All baselines, pixel AUROC",
        "As above, for methods that give a map and data sets with masks.",
    ),
    "significance": (
        "Is the difference chance?",
        "MVFA minus each baseline and p after Holm's correction over data sets: DeLong's test for images, a "
        "paired bootstrap over images for pixels and means; a star marks p below 0.05.",
    ),
    "draws": (
        "Spread over support draws",
        "Mean, standard deviation and range over different support sets of the same size.",
    ),
    "ranks": (
        "Ranks over data sets",
        "Mean rank of each method, 1 the best, and the number of data sets it leads.",
    ),
    "operating": (
        "Operating point",
        "Sensitivity and specificity with a threshold from validation images that flags at most 5 % of the "
        "normal ones, then sensitivity at 95 % specificity and F1-max, whose thresholds the test images set "
        "themselves: upper bounds.",
    ),
    "more_metrics": (
        "More metrics",
        "Average precision of images and of pixels, per-region overlap up to 30 % false positives, best Dice.",
    ),
    "failures": (
        "Worst misses and false alarms",
        "For each abnormal image the share of normal images that score at least as high, for each normal one "
        "the share of abnormal images that score at most as high; the worst of each data set.",
    ),
    "data": (
        "The test images",
        "How many there are of each data set, whether there are masks, and how hard it is: the best image AUROC of "
        "any method.",
    ),
    "protocols": (
        "What the protocol is worth",
        "Sound and paper protocol of each cell and the optimism, their difference.",
    ),
    "published": (
        "PUBLISHED figures, not measured here",
        "AUROCs in percent as their authors or others printed them, with the source of each; no run of this "
        "project is in this table.",
    ),
    "published_measured": (
        "PUBLISHED figures beside measured ones",
        "Only where the paper's backbone and data were run; percent.",
    ),
}


def method_label(group: str, several_protocols: bool = False) -> str:
    """What tables and figures call a method group.

    >>> method_label("4-shot/sound"), method_label("zero-shot/paper", several_protocols=True)
    ('MVFA 4-shot', 'MVFA zero-shot (paper)')
    >>> method_label("4-memory/sound", several_protocols=True)
    'CLIP + memory, 4 normal'
    """
    known = _NAMES.get(group) or baseline_label(group)
    if known is not None:
        return known
    setting, protocol = group.split("/")
    return f"MVFA {setting}" + (f" ({protocol})" if several_protocols else "")


def groups_of(evaluations: Sequence[Evaluation]) -> list[str]:
    """Method groups that every data set has, in the order of tables."""
    first, *others = (evaluation.metrics for evaluation in evaluations)
    return sorted((group for group in first if all(group in o for o in others)), key=place_of)


def main_groups(evaluations: Sequence[Evaluation]) -> list[str]:
    """Those that the main tables show: CLIP in both readings, untrained adapters, MVFA."""
    return [group for group in groups_of(evaluations) if baseline_label(group) is None]


def stronger_reading(evaluations: Sequence[Evaluation], metric: str) -> str | None:
    """The plain reading of CLIP with the better mean over data sets; None where the metric has none."""
    means = {}
    for group in PLAIN_READINGS:
        values = [e.metrics.get(group, {}).get(metric) for e in evaluations]
        if any(value is not None for value in values):
            means[group] = np.mean([value for value in values if value is not None])
    return max(means, key=means.get) if means else None


def comparison(
    evaluations: Sequence[Evaluation], metric: str, groups: Sequence[str] | None = None
) -> pd.DataFrame:
    """Long table of an AUROC: dataset, method, value, low, high, std, draws; the last data set is their mean.

    Methods that cannot have the metric have no row. Where it is undefined, value and interval are missing. The
    mean is over the data sets that have it, with an interval from their bootstrap samples.

    Args:
        evaluations: one a data set.
        metric: image_auroc or pixel_auroc.
        groups: which methods; the main ones where None.
    """
    rows = []
    for group in main_groups(evaluations) if groups is None else groups:
        known = [e for e in evaluations if metric in e.metrics[group]]
        defined = [e for e in known if e.metrics[group][metric] is not None]
        for evaluation in known:
            found = evaluation.metrics[group]
            figures = [found.get(f"{metric}{end}") for end in ("", "_low", "_high", "_std")]
            rows.append((evaluation.dataset, group, *figures, found["draws"]))
        if defined:
            value = float(np.mean([e.metrics[group][metric] for e in defined]))
            interval = bootstrap_interval(macro_samples([e.samples[f"{group}:{metric}"] for e in defined]))
            draws = defined[-1].metrics[group]["draws"]
            rows.append((MEAN, group, value, interval.low, interval.high, None, draws))
    columns = ["dataset", "method", "value", "low", "high", "std", "draws"]
    table = pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(columns[2:6], float))
    order = [evaluation.dataset for evaluation in evaluations] + [MEAN]
    return table.sort_values("dataset", key=lambda c: c.map(order.index), kind="stable", ignore_index=True)


def difference_samples(evaluation: Evaluation, metric: str, group: str, baseline: str) -> np.ndarray:
    """Bootstrap samples of `group` minus `baseline`: drawn with the same images in the same order, so paired."""
    first, second = (evaluation.samples[f"{g}:{metric}"].astype(np.float64) for g in (group, baseline))
    return first - second


def difference(evaluations: Sequence[Evaluation], metric: str, group: str, baseline: str) -> pd.DataFrame:
    """`group` minus `baseline` per data set and on average, with paired 95 % bootstrap intervals.

    Returns:
        dataset, value, baseline_value, difference, low, high. No row where either cannot have the metric, a
        row without figures where it is undefined; the mean is over the others.
    """
    rows, values, samples = [], [], []
    for evaluation in evaluations:
        metrics = [evaluation.metrics[g] for g in (group, baseline)]
        if not all(metric in found for found in metrics):
            continue
        pair = [found[metric] for found in metrics]
        if None in pair:
            rows.append((evaluation.dataset, *[math.nan] * 5))
            continue
        values.append(pair)
        samples.append(difference_samples(evaluation, metric, group, baseline))
        interval = bootstrap_interval(samples[-1])
        rows.append((evaluation.dataset, *pair, pair[0] - pair[1], interval.low, interval.high))
    if values:
        first, second = np.mean(values, axis=0).tolist()
        interval = bootstrap_interval(macro_samples(samples))
        rows.append((MEAN, first, second, first - second, interval.low, interval.high))
    columns = ["dataset", "value", "baseline_value", "difference", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def spread_out(cells: pd.DataFrame, rows: str, columns: str) -> pd.DataFrame:
    """Column `cell` spread over rows and columns in the order of their first appearance; `-` where there is none."""
    result = cells.pivot(index=rows, columns=columns, values="cell")
    result = result.reindex(index=cells[rows].unique(), columns=cells[columns].unique()).fillna("-")
    result.index.name, result.columns.name = rows.replace("dataset", "data set"), None
    return result


def signed(value: float, low: float, high: float, mark: bool | None = None) -> str:
    """A difference as it is printed; `*` marks an interval that leaves out zero, or what `mark` says.

    >>> signed(0.1, 0.05, 0.15), signed(math.nan, math.nan, math.nan)
    ('+0.100 [+0.050, +0.150]*', 'undefined: one class only')
    """
    if math.isnan(value):
        return UNDEFINED
    marked = (low > 0 or high < 0) if mark is None else mark
    return f"{value:+.3f} [{low:+.3f}, {high:+.3f}]{'*' if marked else ''}"


def wide(
    table: pd.DataFrame, marked: set[tuple[str, str]] | None = None, by_method: bool = False
) -> pd.DataFrame:
    """The long comparison as people read it: `value [low, high]`.

    Args:
        table: as `comparison` gives it.
        marked: (dataset, method) whose cells get a `*`, see `significance.marks`.
        by_method: a row a method and a column a data set, for tables of many methods.
    """
    several = several_protocols(table["method"])
    marked = marked or set()

    def cell(row) -> str:
        if math.isnan(row.value):
            return UNDEFINED
        star = "*" if (row.dataset, row.method) in marked else ""
        return f"{row.value:.3f} [{row.low:.3f}, {row.high:.3f}]{star}"

    cells = table.assign(
        cell=[cell(row) for row in table.itertuples()],
        method=[method_label(method, several) for method in table["method"]],
    )
    return spread_out(cells, *(("method", "dataset") if by_method else ("dataset", "method")))


def save_table(table: pd.DataFrame, folder: str | Path, name: str, shown: pd.DataFrame | None = None) -> None:
    """CSV of the full table; Markdown and LaTeX of `shown` (or of the table itself), without bare row numbers."""
    folder = Path(folder)
    shown = table if shown is None else shown
    numbered = isinstance(shown.index, pd.RangeIndex)
    style = shown.style.format(escape="latex")
    latex = (style.hide(axis="index") if numbered else style).to_latex(hrules=True)
    write_text(folder / f"{name}.csv", table.to_csv(index=False, float_format="%.6f", lineterminator="\n"))
    # figures are text by now, a parser would drop their last zeros; a name may hold what parts cells
    cells = shown.map(lambda cell: str(cell).replace("|", "\\|"))
    write_text(folder / f"{name}.md", cells.to_markdown(index=not numbered, disable_numparse=True) + "\n")
    write_text(folder / f"{name}.tex", latex)


# --- differences --------------------------------------------------------------------------------------------


def gain_table(evaluations: Sequence[Evaluation]) -> pd.DataFrame:
    """Long table of `difference` for every MVFA group against both plain readings and both AUROCs."""
    frames = []
    for metric in METRIC_NAMES:
        for group in (g for g in groups_of(evaluations) if is_mvfa(g)):
            for baseline in PLAIN_READINGS:
                rows = difference(evaluations, metric, group, baseline)
                frames.append(rows.assign(metric=metric, method=group, baseline=baseline))
    columns = ["metric", "method", "baseline", "dataset", "difference", "low", "high"]
    return pd.concat(frames, ignore_index=True)[columns]


def wide_gains(gains: pd.DataFrame) -> pd.DataFrame:
    """The gains as people read them; `*` marks an interval that leaves out zero."""
    cells = gains.assign(
        cell=[signed(r.difference, r.low, r.high) for r in gains.itertuples()],
        comparison=[
            f"{METRIC_NAMES[r.metric]}: {method_label(r.method, True)} - {method_label(r.baseline)}"
            for r in gains.itertuples()
        ],
    )
    return spread_out(cells, "comparison", "dataset")


def protocol_table(evaluations: Sequence[Evaluation]) -> pd.DataFrame:
    """Long table of what each protocol says and of the optimism of the published one, paper - sound.

    Columns: metric, dataset (the last is their mean), setting (`zero-shot`, `4-shot`, ...), sound, paper,
    optimism, low, high. It has no row where only one protocol was run, or where the metric is undefined.
    The paired 95 % interval is over other test images with these two trained runs: a new selection on those
    images is not part of it. The optimism is that of the whole protocol, selection, fusion ranges and loss.
    """
    groups, frames = groups_of(evaluations), []
    settings = [group.removesuffix("/sound") for group in groups if group.endswith("/sound")]
    for metric in METRIC_NAMES:
        for setting in settings:
            sound, paper = f"{setting}/sound", f"{setting}/paper"
            if paper not in groups:
                continue
            rows = difference(evaluations, metric, paper, sound)
            names = {"value": "paper", "baseline_value": "sound", "difference": "optimism"}
            frames.append(rows.rename(columns=names).assign(metric=metric, setting=setting))
    columns = ["metric", "dataset", "setting", "sound", "paper", "optimism", "low", "high"]
    return pd.concat(frames, ignore_index=True)[columns] if frames else pd.DataFrame(columns=columns)


def wide_protocols(table: pd.DataFrame) -> pd.DataFrame:
    """The protocols as people read them: `sound -> paper: optimism [low, high]`, `*` as in `wide_gains`."""
    cells = table.assign(
        cell=[
            UNDEFINED
            if math.isnan(r.optimism)
            else f"{r.sound:.3f} -> {r.paper:.3f}: {signed(r.optimism, r.low, r.high)}"
            for r in table.itertuples()
        ],
        row=[f"{METRIC_NAMES[r.metric]}: {r.setting}" for r in table.itertuples()],
    )
    return spread_out(cells, "row", "dataset").rename_axis("sound -> paper: optimism")
