"""Evaluations -> tables and sentences. Every figure in them comes from the evaluations handed in."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from mvfa_core.evaluation import Evaluation
from mvfa_core.methods import is_mvfa, several_protocols
from mvfa_core.uncertainty import bootstrap_interval
from mvfa_core.writing import write_text

# Fixed before any result was seen: CLIP's own zero-shot classification for images, and its patch tokens for
# pixels, where the pooled token has nothing to say. The other reading is always shown beside it.
BASELINES = {"image_auroc": "clip-pooled", "pixel_auroc": "clip-patch"}
PLAIN_READINGS = tuple(BASELINES.values())
METRIC_NAMES = {"image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC"}
MEAN = "mean"

_NAMES = {"clip-pooled": "CLIP, pooled", "clip-patch": "CLIP, patches", "untrained": "untrained adapters"}


def method_label(group: str, several_protocols: bool = False) -> str:
    """What tables and figures call a method group.

    >>> method_label("4-shot/sound"), method_label("zero-shot/paper", several_protocols=True)
    ('MVFA 4-shot', 'MVFA zero-shot (paper)')
    """
    if group in _NAMES:
        return _NAMES[group]
    setting, protocol = group.split("/")
    return f"MVFA {setting}" + (f" ({protocol})" if several_protocols else "")


def shared_groups(evaluations: Sequence[Evaluation]) -> list[str]:
    """Method groups that every data set has, in the order of the first one."""
    return [group for group in evaluations[0].metrics if all(group in e.metrics for e in evaluations)]


def groups_of(evaluations: Sequence[Evaluation]) -> list[str]:
    """Method groups that every data set has, baselines first, zero-shot next, then by shots."""

    def rank(group: str):
        setting, _, protocol = group.partition("/")
        shots = int(setting.split("-")[0]) if setting[0].isdigit() else 0
        return (
            bool(protocol),
            shots,
            protocol != "sound",
            list(_NAMES).index(group) if group in _NAMES else 0,
        )

    return sorted(shared_groups(evaluations), key=rank)


def comparison(evaluations: Sequence[Evaluation], metric: str) -> pd.DataFrame:
    """Long table: dataset, method, value, low, high, std, draws; the last data set is their mean.

    Data sets or methods for which the metric is undefined have no row; the mean is over the data sets
    that have it, with an interval from the mean of their bootstrap samples.
    """
    rows = []
    for group in groups_of(evaluations):
        values, samples = [], []
        for evaluation in evaluations:
            found = evaluation.metrics[group]
            if found.get(metric) is None:
                continue
            values.append(found[metric])
            samples.append(evaluation.samples[f"{group}:{metric}"])
            rows.append(
                {
                    "dataset": evaluation.dataset,
                    "method": group,
                    "value": found[metric],
                    "low": found[f"{metric}_low"],
                    "high": found[f"{metric}_high"],
                    "std": found.get(f"{metric}_std"),
                    "draws": found["draws"],
                }
            )
        if values:
            interval = bootstrap_interval(np.mean(samples, axis=0))
            rows.append(
                {
                    "dataset": MEAN,
                    "method": group,
                    "value": float(np.mean(values)),
                    "low": interval.low,
                    "high": interval.high,
                    "std": None,
                    "draws": found["draws"],
                }
            )
    order = [evaluation.dataset for evaluation in evaluations] + [MEAN]
    table = pd.DataFrame(rows)
    return table.sort_values("dataset", key=lambda c: c.map(order.index), kind="stable", ignore_index=True)


def difference(evaluations: Sequence[Evaluation], metric: str, group: str, baseline: str) -> pd.DataFrame:
    """`group` minus `baseline` per data set and on average, with paired 95 % bootstrap intervals.

    Both methods' samples were drawn with the same images in the same order, so subtracting them pairs them.
    """
    rows, values, samples = [], [], []

    def row(dataset: str, value: float, drawn: np.ndarray) -> tuple:
        interval = bootstrap_interval(drawn)
        return dataset, value, interval.low, interval.high

    for evaluation in evaluations:
        a, b = (evaluation.metrics[g].get(metric) for g in (group, baseline))
        if a is None or b is None:
            continue
        sample = evaluation.samples[f"{group}:{metric}"] - evaluation.samples[f"{baseline}:{metric}"]
        values.append(a - b)
        samples.append(sample)
        rows.append(row(evaluation.dataset, a - b, sample))
    if values:
        rows.append(row(MEAN, float(np.mean(values)), np.mean(samples, axis=0)))
    return pd.DataFrame(rows, columns=["dataset", "difference", "low", "high"])


def spread_out(cells: pd.DataFrame, rows: str, columns: str) -> pd.DataFrame:
    """Column `cell` spread over rows and columns in the order of their first appearance; `-` where there is none."""
    result = cells.pivot(index=rows, columns=columns, values="cell")
    result = result.reindex(index=cells[rows].unique(), columns=cells[columns].unique()).fillna("-")
    result.index.name, result.columns.name = rows.replace("dataset", "data set"), None
    return result


def _signed(value: float, low: float, high: float) -> str:
    """A difference as it is printed; `*` marks an interval that leaves out zero."""
    return f"{value:+.3f} [{low:+.3f}, {high:+.3f}]{'*' if low > 0 or high < 0 else ''}"


def wide(table: pd.DataFrame) -> pd.DataFrame:
    """The long comparison as people read it: a row a data set, a column a method, `value [low, high]`."""
    several = several_protocols(table["method"])
    cells = table.assign(
        cell=[f"{r.value:.3f} [{r.low:.3f}, {r.high:.3f}]" for r in table.itertuples()],
        method=[method_label(m, several) for m in table["method"]],
    )
    return spread_out(cells, "dataset", "method")


def save_table(table: pd.DataFrame, folder: str | Path, name: str, shown: pd.DataFrame | None = None) -> None:
    """CSV of the full table; Markdown and LaTeX of `shown` (or of the table itself)."""
    folder = Path(folder)
    shown = table if shown is None else shown
    write_text(folder / f"{name}.csv", table.to_csv(index=False, float_format="%.6f", lineterminator="\n"))
    write_text(folder / f"{name}.md", shown.to_markdown() + "\n")
    write_text(folder / f"{name}.tex", shown.style.format(escape="latex").to_latex(hrules=True))


def findings(evaluations: Sequence[Evaluation]) -> list[str]:
    """Plain sentences: where does MVFA help, by how much, how sure are we, where does it not."""
    sentences = []
    for metric, name in METRIC_NAMES.items():
        baselines = [b for b in PLAIN_READINGS if b in groups_of(evaluations)]
        table = comparison(evaluations, metric)
        means = table[table["dataset"] == MEAN].set_index("method")["value"]
        best = max((b for b in baselines if b in means), key=lambda b: means[b])
        for group in groups_of(evaluations):
            if not is_mvfa(group) or group not in means:
                continue
            gain = difference(evaluations, metric, group, best)
            total, each = gain.iloc[-1], gain.iloc[:-1]
            better, worse = (list(each["dataset"][mask]) for mask in (each["low"] > 0, each["high"] < 0))
            unsure = [d for d in each["dataset"] if d not in better + worse]
            verdict = "above" if total.low > 0 else "below" if total.high < 0 else "not distinguishable from"
            parts = [
                f"{text} {', '.join(names)}"
                for text, names in (
                    ("better on", better),
                    ("worse on", worse),
                    ("no clear difference on", unsure),
                )
                if names
            ]
            sentences.append(
                f"{method_label(group, True)} reaches a mean {name} of {means[group]:.3f}, {verdict} the stronger "
                f"plain reading ({method_label(best)}, {means[best]:.3f}): difference {total.difference:+.3f} "
                f"[{total.low:+.3f}, {total.high:+.3f}]; {'; '.join(parts)}."
            )
    return sentences


def gain_table(evaluations: Sequence[Evaluation]) -> pd.DataFrame:
    """Long table of `difference` for every MVFA group against both plain readings and both AUROCs."""
    frames = []
    for metric in METRIC_NAMES:
        for group in (g for g in groups_of(evaluations) if is_mvfa(g)):
            for baseline in PLAIN_READINGS:
                rows = difference(evaluations, metric, group, baseline)
                frames.append(rows.assign(metric=metric, method=group, baseline=baseline))
    return pd.concat(frames, ignore_index=True)[
        ["metric", "method", "baseline", "dataset", "difference", "low", "high"]
    ]


def wide_gains(gains: pd.DataFrame) -> pd.DataFrame:
    """The gains as people read them; `*` marks an interval that leaves out zero."""
    cells = gains.assign(
        cell=[_signed(r.difference, r.low, r.high) for r in gains.itertuples()],
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
            rows = difference(evaluations, metric, paper, sound).rename(columns={"difference": "optimism"})
            known = {e.dataset: e.metrics for e in evaluations if e.dataset in set(rows["dataset"])}
            for column, group in (("sound", sound), ("paper", paper)):
                values = [known[name][group][metric] for name in known]
                rows[column] = [*values, float(np.mean(values))] if values else []
            frames.append(rows.assign(metric=metric, setting=setting))
    columns = ["metric", "dataset", "setting", "sound", "paper", "optimism", "low", "high"]
    return pd.concat(frames, ignore_index=True)[columns] if frames else pd.DataFrame(columns=columns)


def wide_protocols(table: pd.DataFrame) -> pd.DataFrame:
    """The protocols as people read them: `sound -> paper: optimism [low, high]`, `*` as in `wide_gains`."""
    cells = table.assign(
        cell=[
            f"{r.sound:.3f} -> {r.paper:.3f}: {_signed(r.optimism, r.low, r.high)}"
            for r in table.itertuples()
        ],
        row=[f"{METRIC_NAMES[r.metric]}: {r.setting}" for r in table.itertuples()],
    )
    return spread_out(cells, "row", "dataset").rename_axis("sound -> paper: optimism")
