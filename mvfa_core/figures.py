"""Figures of the notebooks and the report: colour-blind safe, the same colour for the same thing everywhere."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from mvfa_core.evaluation import Evaluation
from mvfa_core.gallery import panel_of
from mvfa_core.methods import baseline_label, group_of, is_few_shot, is_mvfa, several_protocols, shots_of
from mvfa_core.report import MEAN, METRIC_NAMES, groups_of, main_groups, method_label

# MVFA in the colours of Okabe and Ito, baselines in those of Tol's muted scheme, plain CLIP in grey and black:
# told apart by colour-blind readers too, and by their markers in print.
COLOURS = {
    "clip-pooled": "#7f7f7f",
    "clip-patch": "#000000",
    "untrained": "#c4b59b",
    "winclip": "#88ccee",
    "memory": "#882255",
    "probe": "#999933",
    "projector": "#332288",
    "zero-shot": "#0072b2",
}
FEW_SHOT_COLOURS = ("#d55e00", "#009e73", "#cc79a7", "#e69f00")
HEAT, OUTLINE = "magma", "#00e5ff"
PAPER_MARKER, BASELINE_MARKER, MARKER = "s", "D", "o"


def colour_of(group: str, groups: Sequence[str]) -> str:
    """The colour of a method group; of MVFA's few-shot groups it depends on which of them are in `groups`."""
    kind = group.split("/")[0].removeprefix(f"{shots_of(group)}-")
    if kind in COLOURS:
        return COLOURS[kind]
    few = sorted({shots_of(g) for g in groups if is_few_shot(g)})
    return FEW_SHOT_COLOURS[few.index(shots_of(group)) % len(FEW_SHOT_COLOURS)]


def _point(group: str) -> dict:
    """How a group's value is drawn: baselines as diamonds, the paper protocol as hollow squares."""
    if group.endswith("/paper"):
        return {"fmt": PAPER_MARKER, "markerfacecolor": "white"}
    return {"fmt": MARKER if baseline_label(group) is None else BASELINE_MARKER}


def save_figure(figure: Figure, folder: str | Path, name: str) -> None:
    """PNG and SVG without dates, so that the same figure has the same bytes."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"svg.hashsalt": name, "svg.fonttype": "path"}):
        figure.savefig(folder / f"{name}.png", dpi=110, metadata={"Software": None})
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None, "Creator": None})


def interval_figure(table: pd.DataFrame, metric: str) -> Figure:
    """Every method's AUROC with its 95 % interval, a block a data set."""
    table = table.dropna(subset="value")
    datasets, groups = list(table["dataset"].unique()), list(table["method"].unique())
    several = several_protocols(groups)
    step = 0.8 / max(len(groups), 1)
    figure = Figure(figsize=(8, 0.9 + 0.16 * len(datasets) * (len(groups) + 1)), layout="constrained")
    axis = figure.subplots()
    for i, group in enumerate(groups):
        rows = table[table["method"] == group]
        y = np.array([datasets.index(d) for d in rows["dataset"]]) + (i - (len(groups) - 1) / 2) * step
        _intervals(axis, rows, y, group, groups, label=method_label(group, several))
    axis.axvline(0.5, color="#bbbbbb", linewidth=1, linestyle="--", zorder=0)
    for i in range(1, len(datasets)):
        axis.axhline(i - 0.5, color="#eeeeee", linewidth=0.8, zorder=0)
    axis.set_yticks(range(len(datasets)), [d.replace("_", " ") for d in datasets])
    if MEAN in datasets[-1:]:
        axis.get_yticklabels()[-1].set_fontweight("bold")
    axis.invert_yaxis()
    axis.set_xlabel(f"{METRIC_NAMES[metric]} (95 % bootstrap interval over test images; dashed: chance)")
    if groups:
        figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    sns.despine(figure, left=True)
    return figure


def _intervals(axis, rows: pd.DataFrame, y, group: str, groups: Sequence[str], label: str | None = None):
    axis.errorbar(
        rows["value"],
        y,
        xerr=[rows["value"] - rows["low"], rows["high"] - rows["value"]],
        markersize=4.5,
        linewidth=1.4,
        color=colour_of(group, groups),
        label=label,
        **_point(group),
    )


def baseline_figure(table: pd.DataFrame, metric: str) -> Figure:
    """Every method's AUROC with its 95 % interval, a panel a data set, a named row a method."""
    table = table.dropna(subset="value")
    datasets, groups = list(table["dataset"].unique()), list(table["method"].unique())
    several = several_protocols(groups)
    columns = min(4, max(len(datasets), 1))
    lines = max(-(-len(datasets) // columns), 1)
    size = (1.6 + 2.1 * columns, 0.5 + lines * (0.5 + 0.21 * len(groups)))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    _unused(axes, len(datasets))
    for axis, dataset in zip(axes.flat, datasets, strict=False):
        rows = table[table["dataset"] == dataset]
        best = rows.loc[rows["value"].idxmax()]
        axis.axvline(best["value"], color="#dddddd", linewidth=1, zorder=0)
        axis.axvline(0.5, color="#bbbbbb", linewidth=1, linestyle="--", zorder=0)
        for group in rows["method"]:
            row = rows[rows["method"] == group]
            _intervals(axis, row, [groups.index(group)], group, groups)
        weight = "bold" if dataset == MEAN else "normal"
        axis.set_title(dataset.replace("_", " "), fontsize=10, fontweight=weight)
        axis.set_yticks(range(len(groups)), [method_label(g, several) for g in groups], fontsize=8)
        axis.tick_params(axis="x", labelsize=8)
        axis.tick_params(axis="y", length=0)
    axes[0, 0].set_ylim(max(len(groups), 1) - 0.5, -0.5)
    figure.supxlabel(
        f"{METRIC_NAMES[metric]} (95 % interval over test images; dashed: chance; grey line: the best value)",
        fontsize=9,
    )
    sns.despine(figure, left=True)
    return figure


def roc_table(evaluation: Evaluation, points: int = 101) -> pd.DataFrame:
    """True positive rate at equally spaced false positive rates, one column a method group (mean over draws)."""
    grid = np.linspace(0, 1, points)
    curves: dict[str, list[np.ndarray]] = {}
    for method in evaluation.scores.columns[2:]:
        fpr, tpr, _ = roc_curve(evaluation.scores["label"], evaluation.scores[method])
        curves.setdefault(group_of(method), []).append(np.interp(grid, fpr, tpr))
    return pd.DataFrame({"fpr": grid} | {group: np.mean(c, axis=0) for group, c in curves.items()})


def with_curves(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """Those whose images are of both classes; the others have no ROC curve."""
    return [evaluation for evaluation in evaluations if evaluation.scores["label"].nunique() == 2]


def mean_roc_table(evaluations: Sequence[Evaluation]) -> pd.DataFrame:
    """The mean curve over data sets under names that do not change with the settings.

    `zero_shot` and `few_shot` are the first such groups in the order of the tables.
    """
    groups = groups_of(evaluations)
    few = [g for g in groups if is_few_shot(g)]
    zero = [g for g in groups if g.startswith("zero-shot")]
    wanted = {"clip_pooled": "clip-pooled", "clip_patch": "clip-patch", "untrained": "untrained"}
    wanted |= {name: found[0] for name, found in (("zero_shot", zero), ("few_shot", few)) if found}
    tables = [roc_table(evaluation) for evaluation in with_curves(evaluations)]
    return pd.DataFrame(
        {"fpr": tables[0]["fpr"] if tables else []}
        | {
            name: np.mean([table[group] for table in tables], axis=0) if tables else []
            for name, group in wanted.items()
        }
    )


def roc_figure(evaluations: Sequence[Evaluation]) -> Figure:
    """Image-level ROC curves of the main methods, a panel a data set `with_curves`."""
    groups, evaluations = main_groups(evaluations), with_curves(evaluations)
    columns = min(3, len(evaluations)) or 1
    lines = -(-len(evaluations) // columns) or 1
    figure = Figure(figsize=(3 * columns, 3 * lines + 0.6), layout="constrained")
    axes = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    _unused(axes, len(evaluations))
    for axis, evaluation in zip(axes.flat, evaluations, strict=False):
        table = roc_table(evaluation)
        for group in groups:
            axis.plot(
                table["fpr"],
                table[group],
                color=colour_of(group, groups),
                linestyle="--" if group.endswith("/paper") else "-",
                linewidth=1.6,
                label=method_label(group, several_protocols(groups)),
            )
        axis.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=1, linestyle=":")
        axis.set_title(evaluation.dataset.replace("_", " "), fontsize=11)
        axis.set_aspect("equal")
    figure.supxlabel("false positive rate", fontsize=10)
    figure.supylabel("true positive rate", fontsize=10)
    handles, names = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    sns.despine(figure)
    return figure


def score_figure(evaluation: Evaluation, methods: Sequence[str], thresholds: Mapping[str, float]) -> Figure:
    """How normal and abnormal test images score, a panel a method, with the threshold that was set beforehand.

    Args:
        evaluation: of one data set.
        methods: single runs or plain readings, as the columns of the scores are called.
        thresholds: of those methods that have one.
    """
    labels = evaluation.scores["label"]
    figure = Figure(figsize=(3 * len(methods), 2.6), layout="constrained")
    for axis, method in zip(figure.subplots(1, len(methods), squeeze=False)[0], methods, strict=True):
        scores = evaluation.scores[method]
        bins = np.histogram_bin_edges(scores, bins=25)
        for label, name, colour in ((0, "normal", COLOURS["winclip"]), (1, "abnormal", FEW_SHOT_COLOURS[0])):
            axis.hist(scores[labels == label], bins=bins, color=colour, alpha=0.65, label=name)
        if method in thresholds:
            axis.axvline(thresholds[method], color="black", linewidth=1.2, linestyle="--", label="threshold")
        axis.set_title(method_label(group_of(method)), fontsize=10)
        axis.set_xlabel("score", fontsize=9)
        axis.tick_params(labelsize=8)
    figure.axes[0].set_ylabel("test images", fontsize=9)
    handles, names = figure.axes[-1].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    sns.despine(figure)
    return figure


def panel_figure(evaluation: Evaluation, methods: Sequence[str] | None = None) -> Figure:
    """Rows: image, mask (where there is one), one heat map a method; columns: images, abnormal ones first.

    Heat maps of a method share one colour scale over all images; the mask's outline is drawn on them.
    """
    labels = evaluation.scores["label"].to_numpy()
    gallery = panel_of(evaluation.gallery, labels)
    methods = methods or panel_methods(evaluation)
    masks = gallery.get("masks")
    images, rows = gallery["images"], gallery["rows"]
    labels = labels[rows]
    heads = ["image"] + (["mask"] if masks is not None else []) + [method_label(group_of(m)) for m in methods]
    figure = Figure(figsize=(1.45 * len(images) + 0.5, 1.5 * len(heads) + 0.5), layout="constrained")
    axes = figure.subplots(len(heads), len(images), squeeze=False)
    for column, image in enumerate(images):
        cells = iter(axes[:, column])
        next(cells).imshow(image)
        axes[0, column].set_title("abnormal" if labels[column] else "normal", fontsize=9)
        if masks is not None:
            next(cells).imshow(masks[column], cmap="gray", vmin=0, vmax=1)
        for method in methods:
            axis = next(cells)
            low, high = gallery[f"range:{method}"]
            axis.imshow(gallery[f"map:{method}"][column].astype(np.float32), cmap=HEAT, vmin=low, vmax=high)
            if masks is not None:
                outline(axis, masks[column])
            axis.set_xlabel(
                f"score {evaluation.scores[method].iloc[rows[column]]:.2f}", fontsize=7, labelpad=1
            )
    _bare(axes)
    for axis, head in zip(axes[:, 0], heads, strict=True):
        axis.set_ylabel(head, fontsize=9)
    return figure


def panel_methods(evaluation: Evaluation) -> list[str]:
    """CLIP's patch map, the zero-shot map and few-shot maps of the first draw; of many shots the fewest and the most.

    Only the sound protocol, unless the other was run alone.
    """
    first = evaluation.pictured
    sound = {group: method for group, method in first.items() if not group.endswith("/paper")}
    chosen = sound if any(is_mvfa(group) for group in sound) else first
    few = [group for group in chosen if shots_of(group)]
    return [method for group, method in chosen.items() if group not in few[1:-1]]


def failure_figure(failures: pd.DataFrame, images: np.ndarray, masks: np.ndarray | None = None) -> Figure:
    """The worst misses, then the worst false alarms, a row each.

    Args:
        failures: rows of one data set and method, as `failures.failure_table` gives them.
        images: (N, S, S, 3) of these rows.
        masks: (N, S, S) of them, outlined; or None.
    """
    kinds = list(failures["kind"].unique())
    columns, lines = max(failures["kind"].value_counts(), default=1), max(len(kinds), 1)
    figure = Figure(figsize=(2.1 * columns + 0.4, 2.5 * lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False)
    for line, kind in enumerate(kinds):
        members = np.flatnonzero(failures["kind"] == kind)
        for axis, place in zip(axes[line], members, strict=False):
            axis.imshow(images[place])
            if masks is not None:
                outline(axis, masks[place])
            row = failures.iloc[place]
            axis.set_title(f"{row['image']}\novertaken by {100 * row['overtaken']:.0f} %", fontsize=7)
        axes[line, 0].set_ylabel({"miss": "misses"}.get(kind, f"{kind}s"), fontsize=9)
    _bare(axes)
    return figure


def _bare(axes: np.ndarray) -> None:
    for axis in axes.flat:
        bare(axis)


def _unused(axes: np.ndarray, count: int) -> None:
    """Hide the panels behind the first `count`; the shared numbers then stand below the panels above them."""
    columns = axes.shape[1]
    for place in range(count, axes.size):
        axes.flat[place].set_visible(False)
        if place >= columns:
            axes.flat[place - columns].tick_params(axis="x", labelbottom=True)


def bare(axis: Axes) -> Axes:
    """An axis for a picture: no ticks, no frame; its labels stay."""
    axis.set_xticks([])
    axis.set_yticks([])
    sns.despine(ax=axis, left=True, bottom=True)
    return axis


def outline(axis: Axes, mask: np.ndarray, width: float = 1) -> None:
    """Draw the edge of a mask (S, S) in {0, 1}, where it has one."""
    if mask.any():
        axis.contour(mask, levels=[0.5], colors=OUTLINE, linewidths=width)


def training_figure(logs: dict[str, pd.DataFrame]) -> Figure:
    """Loss over epochs, a line a run, and the selection score where the protocol looks at one."""
    selected = any(log["selection"].notna().any() for log in logs.values())
    figure = Figure(figsize=(4.2 * (1 + selected), 3), layout="constrained")
    axes = figure.subplots(1, 1 + selected, squeeze=False)
    for name, log in logs.items():
        axes[0, 0].plot(log["epoch"], log["total"], marker="o", markersize=3, label=name)
        if selected:
            axes[0, 1].plot(log["epoch"], log["selection"], marker="o", markersize=3, label=name)
    for axis, title in zip(axes[0], ("training loss per image", "selection score"), strict=False):
        axis.set_xlabel("epoch")
        axis.set_title(title, fontsize=11)
        axis.xaxis.get_major_locator().set_params(integer=True)
    if len(logs) > 1:
        axes[0, 0].legend(frameon=False, fontsize=9)
    sns.despine(figure)
    return figure


def support_figure(images: np.ndarray, labels: Sequence[int]) -> Figure:
    """The support images (N, S, S, 3), normal ones in the first row."""
    labels = np.asarray(labels)
    columns = int(max((labels == 0).sum(), (labels == 1).sum()))
    figure = Figure(figsize=(1.4 * columns, 3), layout="constrained")
    axes = figure.subplots(2, columns, squeeze=False)
    for line, kind in enumerate(("normal", "abnormal")):
        for axis, image in zip(axes[line], images[labels == line], strict=False):
            axis.imshow(image)
        axes[line, 0].set_ylabel(kind, fontsize=10)
    _bare(axes)
    return figure
