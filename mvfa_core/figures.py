"""Figures of the notebooks and the report: colour-blind safe, the same colour for the same thing everywhere."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from mvfa_core.evaluation import Evaluation
from mvfa_core.methods import group_of, several_protocols
from mvfa_core.report import MEAN, METRIC_NAMES, groups_of, method_label

# Okabe and Ito's palette
COLOURS = {"clip-pooled": "#7f7f7f", "clip-patch": "#000000", "untrained": "#c4b59b", "zero-shot": "#0072b2"}
FEW_SHOT_COLOURS = ("#d55e00", "#009e73", "#cc79a7", "#e69f00")
HEAT, OUTLINE = "magma", "#00e5ff"


def colour_of(group: str, groups: Sequence[str]) -> str:
    """The colour of a method group among `groups`."""
    setting = group.split("/")[0]
    if setting in COLOURS:
        return COLOURS[setting]
    few = sorted({g.split("/")[0] for g in groups if g[0].isdigit()}, key=lambda g: int(g.split("-")[0]))
    return FEW_SHOT_COLOURS[few.index(setting) % len(FEW_SHOT_COLOURS)]


def save_figure(figure: Figure, folder: str | Path, name: str) -> None:
    """PNG and SVG without dates, so that the same figure has the same bytes."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"svg.hashsalt": name, "svg.fonttype": "path"}):
        figure.savefig(folder / f"{name}.png", dpi=110, metadata={"Software": None})
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None, "Creator": None})


def interval_figure(table: pd.DataFrame, metric: str) -> Figure:
    """Every method's AUROC with its 95 % interval, a block a data set."""
    datasets, groups = list(table["dataset"].unique()), list(table["method"].unique())
    several = several_protocols(groups)
    step = 0.8 / len(groups)
    figure = Figure(figsize=(8, 0.9 + 0.16 * len(datasets) * (len(groups) + 1)), layout="constrained")
    axis = figure.subplots()
    for i, group in enumerate(groups):
        rows = table[table["method"] == group]
        y = np.array([datasets.index(d) for d in rows["dataset"]]) + (i - (len(groups) - 1) / 2) * step
        paper = group.endswith("/paper")
        axis.errorbar(
            rows["value"],
            y,
            xerr=[rows["value"] - rows["low"], rows["high"] - rows["value"]],
            fmt="s" if paper else "o",
            markersize=4.5,
            markerfacecolor="white" if paper else None,
            linewidth=1.4,
            color=colour_of(group, groups),
            label=method_label(group, several),
        )
    axis.axvline(0.5, color="#bbbbbb", linewidth=1, linestyle="--", zorder=0)
    for i in range(1, len(datasets)):
        axis.axhline(i - 0.5, color="#eeeeee", linewidth=0.8, zorder=0)
    axis.set_yticks(range(len(datasets)), [d.replace("_", " ") for d in datasets])
    if datasets[-1] == MEAN:
        axis.get_yticklabels()[-1].set_fontweight("bold")
    axis.invert_yaxis()
    axis.set_xlabel(f"{METRIC_NAMES[metric]} (95 % bootstrap interval over test images; dashed: chance)")
    figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=9)
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


def mean_roc_table(evaluations: Sequence[Evaluation]) -> pd.DataFrame:
    """The mean curve over data sets under names that do not change with the settings.

    `zero_shot` and `few_shot` are the first such groups in the order of the tables.
    """
    groups = groups_of(evaluations)
    few = [g for g in groups if g[0].isdigit()]
    zero = [g for g in groups if g.startswith("zero-shot")]
    wanted = {"clip_pooled": "clip-pooled", "clip_patch": "clip-patch", "untrained": "untrained"}
    wanted |= {name: found[0] for name, found in (("zero_shot", zero), ("few_shot", few)) if found}
    tables = [roc_table(evaluation) for evaluation in evaluations]
    return pd.DataFrame(
        {"fpr": tables[0]["fpr"]}
        | {name: np.mean([table[group] for table in tables], axis=0) for name, group in wanted.items()}
    )


def roc_figure(evaluations: Sequence[Evaluation]) -> Figure:
    """Image-level ROC curves, a panel a data set."""
    groups = groups_of(evaluations)
    columns = min(3, len(evaluations))
    lines = -(-len(evaluations) // columns)
    figure = Figure(figsize=(3 * columns, 3 * lines + 0.6), layout="constrained")
    axes = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    for axis in axes.flat[len(evaluations) :]:
        axis.set_visible(False)
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


def panel_figure(evaluation: Evaluation, methods: Sequence[str] | None = None) -> Figure:
    """Rows: image, mask (where there is one), one heat map a method; columns: images, abnormal ones first.

    Heat maps of a method share one colour scale over all images; the mask's outline is drawn on them.
    """
    gallery = evaluation.gallery
    methods = methods or panel_methods(evaluation)
    masks = gallery.get("masks")
    images, rows = gallery["images"], gallery["rows"]
    labels = evaluation.scores["label"].to_numpy()[rows]
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
            if masks is not None and masks[column].any():
                axis.contour(masks[column], levels=[0.5], colors=OUTLINE, linewidths=1)
            axis.set_xlabel(
                f"score {evaluation.scores[method].iloc[rows[column]]:.2f}", fontsize=7, labelpad=1
            )
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
        sns.despine(ax=axis, left=True, bottom=True)
    for axis, head in zip(axes[:, 0], heads, strict=True):
        axis.set_ylabel(head, fontsize=9)
    return figure


def panel_methods(evaluation: Evaluation) -> list[str]:
    """CLIP's patch map, the zero-shot map and the first draw's few-shot map."""
    shown = [key.removeprefix("map:") for key in evaluation.gallery if key.startswith("map:")]
    first_of_group = {group_of(method): method for method in reversed(shown)}
    return [m for g, m in reversed(first_of_group.items()) if g != "untrained" and not g.endswith("/paper")]


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
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
        sns.despine(ax=axis, left=True, bottom=True)
    return figure
