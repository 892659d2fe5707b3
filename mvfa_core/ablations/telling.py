"""The table of a question -> a sentence, a figure, and the table that people read. Nothing else is known here."""

from pathlib import Path

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from mvfa_core.ablations.options import HELD_OUT, MVFA, SUPPORT, TEST
from mvfa_core.ablations.questions import Question
from mvfa_core.errors import MvfaError
from mvfa_core.figures import COLOURS, FEW_SHOT_COLOURS
from mvfa_core.report import MEAN, METRIC_NAMES, spread_out

ALPHA = 0.05
MARKERS = "osD^vP"
INK = COLOURS["clip-patch"]
SERIES_COLOURS = {TEST: INK, HELD_OUT: COLOURS["zero-shot"], SUPPORT: FEW_SHOT_COLOURS[0]}


def read_outcomes(path: str | Path) -> pd.DataFrame:
    """A question's table, as `measuring.write_outcomes` wrote it.

    Raises:
        MvfaError: it is missing or no such table.
    """
    try:
        table = pd.read_csv(path, dtype={"option": str, "series": str})
        table["reference"]
    except (OSError, KeyError, ValueError):
        raise MvfaError(f"{path}: no table of a question; run `dvc repro ablations/dvc.yaml`") from None
    return table


def told_apart(table: pd.DataFrame) -> pd.Series:
    """Which rows differ from their reference by more than chance, by the corrected p of the mean."""
    return table["p_holm"] < ALPHA


def means_of(table: pd.DataFrame, metric: str, series: str | None = None) -> pd.DataFrame:
    """The rows of the means over data sets."""
    rows = (table["metric"] == metric) & (table["dataset"] == MEAN)
    return table[rows if series is None else rows & (table["series"] == series)]


# --- sentences ------------------------------------------------------------------------------------------------


def finding(table: pd.DataFrame) -> str:
    """What came out: a sentence for each AUROC and series, and how far training runs ahead where that was asked."""
    series = list(dict.fromkeys(table["series"]))
    judged = [TEST] if TEST in series else series
    sentences = []
    for metric in METRIC_NAMES:
        for name in judged:
            rows = means_of(table, metric, name)
            if not rows.empty:
                where = f" of {name}" if len(judged) > 1 else ""
                sentences.append(_compared(rows, f"{METRIC_NAMES[metric]}{where}"))
    if TEST in series:
        sentences.append(_overfitting(table))
    return " ".join(sentences)


def _compared(rows: pd.DataFrame, figure: str) -> str:
    """One sentence: the reference, which options lie above and below it, and which cannot be told from it."""
    own, others = rows[rows["reference"]].iloc[0], rows[~rows["reference"]]
    told = told_apart(others)
    parts = []
    for word, chosen in (
        ("better", others[told & (others["difference"] > 0)]),
        ("worse", others[told & (others["difference"] < 0)]),
    ):
        if len(chosen):
            parts.append(f"{word}: {'; '.join(_difference(row, own) for row in chosen.itertuples())}")
    same = others[~told]
    if len(same):
        low, high = same["difference_low"].min(), same["difference_high"].max()
        within = "interval" if len(same) == 1 else "intervals within"
        names = ", ".join(same["option"])
        parts.append(f"not told apart from it: {names} ({within} [{low:+.3f}, {high:+.3f}])")
    value = f"{own['value']:.3f} [{own['low']:.3f}, {own['high']:.3f}]"
    first = f"Mean {figure} is {value} with {own['option']}, the benchmark's own"
    return "; ".join([first, *parts]) + "."


def _difference(row, own: pd.Series) -> str:
    agreeing = row.above if row.difference > 0 else row.pairs - row.above
    word = "higher" if row.difference > 0 else "lower"
    some = f", {row.datasets} data sets" if row.datasets < own["datasets"] else ""
    return (
        f"{row.option} ({row.difference:+.3f} [{row.difference_low:+.3f}, {row.difference_high:+.3f}], "
        f"{word} in {agreeing:.0f} of {row.pairs:.0f} runs{some})"
    )


def _overfitting(table: pd.DataFrame) -> str:
    curves = {
        series: means_of(table, "image_auroc", series).set_index("x")["value"].sort_index()
        for series in (SUPPORT, HELD_OUT, TEST)
    }
    last = int(curves[TEST].index[-1])
    ends = ", ".join(f"{curve.iloc[-1]:.3f} on {series}" for series, curve in curves.items())
    best, value = int(curves[TEST].idxmax()), curves[TEST].max()
    chosen = int(curves[HELD_OUT].idxmax())
    return (
        f"After {last} epochs the image AUROC is {ends}; on test images it is highest after {best} ({value:.3f}), "
        f"and held-out images would choose {chosen} ({curves[TEST][chosen]:.3f} on test images)."
    )


def wide_outcomes(table: pd.DataFrame) -> pd.DataFrame:
    """A row an option, a column a metric and data set: the value, and the mean difference where there is one.

    `*` marks a mean that is told apart from the reference.
    """

    def cell(row) -> str:
        if row.dataset != MEAN or row.reference:
            return f"{row.value:.3f}"
        mark = "*" if row.p_holm < ALPHA else ""
        return f"{row.value:.3f} ({row.difference:+.3f} [{row.difference_low:+.3f}, {row.difference_high:+.3f}]){mark}"

    several = table["series"].nunique() > 1
    cells = table.assign(
        cell=[cell(row) for row in table.itertuples()],
        option=[(f"{r.series}: " if several else "") + r.option for r in table.itertuples()],
        column=[f"{METRIC_NAMES[r.metric]}, {r.dataset.replace('_', ' ')}" for r in table.itertuples()],
    )
    return spread_out(cells, "option", "column")


# --- figures --------------------------------------------------------------------------------------------------


def question_figure(table: pd.DataFrame, question: Question) -> Figure:
    """Curves over numbers, else differences from the reference; one panel a metric.

    Black: mean over data sets with its 95 % interval, which is a band around curves. Filled: told apart from the
    reference; hollow: not.
    """
    metrics = [metric for metric in METRIC_NAMES if (table["metric"] == metric).any()]
    curves = question.axis is not None
    rows = table.groupby("series")["option"].nunique().sum()
    height = 3.6 if curves else 1.3 + 0.42 * rows
    figure = Figure(figsize=(4.6 * len(metrics) + (0 if curves else 1.2), height), layout="constrained")
    axes = figure.subplots(1, len(metrics), squeeze=False, sharey=not curves)[0]
    draw = _curves if curves else _differences
    for axis, metric in zip(axes, metrics, strict=True):
        draw(axis, table[table["metric"] == metric], METRIC_NAMES[metric], question)
    found = {}
    for axis in axes:
        for handle, name in zip(*axis.get_legend_handles_labels(), strict=True):
            found.setdefault(name, handle)
    figure.legend(found.values(), found, loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    figure.suptitle(question.title, fontsize=12)
    sns.despine(figure)
    return figure


def _looks(datasets: list[str]) -> dict[str, dict]:
    return {
        name: {
            "color": FEW_SHOT_COLOURS[i % len(FEW_SHOT_COLOURS)],
            "marker": MARKERS[i % len(MARKERS)],
            "label": name.replace("_", " "),
        }
        for i, name in enumerate(datasets)
    }


def _datasets(table: pd.DataFrame) -> list[str]:
    return [name for name in dict.fromkeys(table["dataset"]) if name != MEAN]


def _marked(axis: Axes, rows: pd.DataFrame, x, y, color: str, size: float = 6) -> None:
    """Filled markers where told apart, hollow ones where not."""
    told = told_apart(rows).to_numpy()
    for chosen, face in ((told, color), (~told, "white")):
        style = {"markerfacecolor": face, "markeredgecolor": color, "markersize": size, "zorder": 5}
        axis.plot(np.asarray(x)[chosen], np.asarray(y)[chosen], "o", linestyle="none", **style)


def _curves(axis: Axes, table: pd.DataFrame, name: str, question: Question) -> None:
    several = table["series"].nunique() > 1
    if not several:
        for dataset, look in _looks(_datasets(table)).items():
            rows = table[table["dataset"] == dataset].sort_values("x")
            axis.plot(rows["x"], rows["value"], linewidth=1, markersize=4, **look)
    means = table[table["dataset"] == MEAN]
    for series in dict.fromkeys(means["series"]):
        rows = means[means["series"] == series].sort_values("x")
        color = SERIES_COLOURS[series] if several else INK
        label = series if several else "mean of data sets"
        axis.plot(rows["x"], rows["value"], color=color, linewidth=2, label=label)
        axis.fill_between(rows["x"], rows["low"], rows["high"], color=color, alpha=0.13, linewidth=0)
        _marked(axis, rows, rows["x"], rows["value"], color)
    own = means.loc[means["reference"], "x"].iloc[0]
    axis.axvline(own, color="#999999", linewidth=1, linestyle="--", zorder=0, label="the benchmark's setting")
    places = sorted(set(means["x"]))
    if places[0] > 0 and places[-1] / places[0] >= 8:
        axis.set_xscale("log", base=2)
        axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_locator(FixedLocator(places))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_xlabel(question.axis)
    axis.set_ylabel(name)


def _differences(axis: Axes, table: pd.DataFrame, name: str, question: Question) -> None:
    means = table[table["dataset"] == MEAN].reset_index(drop=True)
    several = means["series"].nunique() > 1
    means = means.sort_values("series", kind="stable", key=lambda s: s != MVFA, ignore_index=True)
    order = {(row.series, row.option): place for place, row in enumerate(means.itertuples())}
    for dataset, look in _looks(_datasets(table)).items():
        rows = table[(table["dataset"] == dataset) & ~table["reference"]]
        y = [order[row.series, row.option] + 0.22 for row in rows.itertuples()]
        axis.plot(rows["difference"], y, linestyle="none", markersize=4.5, **look)
    others = means[~means["reference"]]
    y = others.index.to_numpy()
    spread = [
        others["difference"] - others["difference_low"],
        others["difference_high"] - others["difference"],
    ]
    axis.errorbar(
        others["difference"], y, xerr=spread, fmt="none", color=INK, linewidth=2, label="mean of data sets"
    )
    _marked(axis, others, others["difference"], y, INK)
    axis.axvline(0, color="#999999", linewidth=1, linestyle="--", zorder=0, label="the benchmark's setting")
    for place, row in means[means["reference"]].iterrows():
        axis.annotate(
            f"{row['value']:.3f}",
            (0, place),
            xytext=(4, 0),
            textcoords="offset points",
            fontsize=9,
            va="center",
        )
    labels = [(f"{row.series}: " if several else "") + row.option for row in means.itertuples()]
    axis.set_yticks(range(len(means)), labels)
    axis.tick_params(axis="y", length=0)
    axis.xaxis.set_major_locator(MaxNLocator(5))
    axis.set_ylim(len(means) - 0.4, -0.6)
    axis.set_xlabel(f"difference in {name}")
