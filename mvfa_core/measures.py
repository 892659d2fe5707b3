"""Evaluations -> tables of the metrics that have no interval: operating point, precision, overlap."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from mvfa_core.evaluation import Evaluation
from mvfa_core.metrics import image_metrics, macro_average
from mvfa_core.report import MEAN, METRIC_NAMES, UNDEFINED, groups_of, method_label, spread_out

OPERATING = {
    "image_sens_at_set": "sensitivity, threshold from validation images",
    "image_spec_at_set": "specificity, the same threshold",
    "image_sens_at_95_spec": "sensitivity at 95 % specificity",
    "image_f1_max": "F1-max",
}
MORE = {
    "image_ap": "image average precision",
    "pixel_ap": "pixel average precision",
    "pro": "per-region overlap",
    "best_dice": "best Dice",
}
# what a score that is the same for all images earns; F1 and average precision rise with the share of abnormal ones
CONSTANT = "constant"


def data_table(evaluations: Sequence[Evaluation]) -> pd.DataFrame:
    """What each data set was judged on: dataset, normal, abnormal (test images), masks, best_image_auroc.

    The last is the best that any method reached, picked on the test images: where it is low, the data set is hard.
    """
    rows = []
    for evaluation in evaluations:
        abnormal = int(evaluation.scores["label"].sum())
        metrics = evaluation.metrics.values()
        masks = any("pixel_auroc" in found for found in metrics)
        best = max((f["image_auroc"] for f in metrics if f.get("image_auroc") is not None), default=math.nan)
        rows.append((evaluation.dataset, len(evaluation.scores) - abnormal, abnormal, masks, best))
    return pd.DataFrame(rows, columns=["dataset", "normal", "abnormal", "masks", "best_image_auroc"])


def wide_data(table: pd.DataFrame) -> pd.DataFrame:
    """As people read it: a row a data set."""
    return pd.DataFrame(
        {
            "data set": table["dataset"],
            "normal test images": table["normal"].astype(str),
            "abnormal test images": table["abnormal"].astype(str),
            "masks": ["yes" if masks else "no" for masks in table["masks"]],
            "best image AUROC of any method": [
                UNDEFINED if math.isnan(value) else f"{value:.3f}" for value in table["best_image_auroc"]
            ],
        }
    )


def overview(evaluation: Evaluation) -> pd.DataFrame:
    """Every method's metrics on one data set as people read them; `-` where a method cannot have one."""
    rows = {}
    for group in groups_of([evaluation]):
        found = evaluation.metrics[group]
        cells = {METRIC_NAMES[metric]: _told(found, metric, True) for metric in METRIC_NAMES}
        cells |= {name: _told(found, metric) for metric, name in {**OPERATING, **MORE}.items()}
        rows[method_label(group, True)] = cells | {"draws": str(found["draws"])}
    return pd.DataFrame(rows).T


def _told(found: Mapping[str, float | None], metric: str, interval: bool = False) -> str:
    if metric not in found:
        return "-"
    if found[metric] is None:
        return UNDEFINED
    bounds = f" [{found[f'{metric}_low']:.3f}, {found[f'{metric}_high']:.3f}]" if interval else ""
    return f"{found[metric]:.3f}{bounds}"


def metric_table(evaluations: Sequence[Evaluation], metrics: Sequence[str]) -> pd.DataFrame:
    """Long table of metrics, means over draws: metric, method, dataset, value; the last data set is the mean.

    A method that cannot have a metric has no row; where it is undefined the value is missing, and the mean is
    over the other data sets. The method `constant` is one score for all images.
    """
    known = {e.dataset: image_metrics(e.scores["label"], np.zeros(len(e.scores))) for e in evaluations}
    rows = []
    for metric in metrics:
        for group in [*groups_of(evaluations), CONSTANT]:
            found = known if group == CONSTANT else {e.dataset: e.metrics[group] for e in evaluations}
            values = {name: metrics[metric] for name, metrics in found.items() if metric in metrics}
            if values:
                values[MEAN] = macro_average(values.values())
            rows += [(metric, group, name, value) for name, value in values.items()]
    columns = ["metric", "method", "dataset", "value"]
    return pd.DataFrame(rows, columns=columns).astype({"value": float})


def wide_metrics(table: pd.DataFrame, names: Mapping[str, str]) -> pd.DataFrame:
    """A row a metric and method, a column a data set; `names` says what to call the metrics."""

    def told(method: str) -> str:
        return "the same score for all" if method == CONSTANT else method_label(method, True)

    cells = table.assign(
        cell=[UNDEFINED if math.isnan(value) else f"{value:.3f}" for value in table["value"]],
        row=[f"{names[r.metric]}: {told(r.method)}" for r in table.itertuples()],
    )
    return spread_out(cells, "row", "dataset").rename_axis("metric: method")
