"""Tables of metrics without intervals, by hand."""

import numpy as np
import pandas as pd
import pytest

from mvfa_core import measures
from mvfa_core.evaluation import Evaluation


def one(name: str, labels: list[int], metrics: dict) -> Evaluation:
    return Evaluation(name, metrics, pd.DataFrame({"image": labels, "label": labels}), {}, {}, {})


@pytest.fixture
def evaluations() -> list[Evaluation]:
    first = {"image_f1_max": 0.8, "pro": 0.5, "draws": 1, "image_auroc": 0.75}
    first |= {"image_auroc_low": 0.7, "image_auroc_high": 0.8}
    return [
        one("Knee", [0, 0, 0, 1], {"winclip": first, "4-shot/sound": {"image_f1_max": 0.9, "draws": 2}}),
        one("Ankle", [0, 0], {"winclip": {"image_f1_max": None, "draws": 1}, "4-shot/sound": {"draws": 1}}),
    ]


def test_values_means_and_what_a_constant_score_earns(evaluations):
    table = measures.metric_table(evaluations, ["image_f1_max", "pro"])
    value = table.set_index(["metric", "method", "dataset"])["value"]
    assert value["image_f1_max", "winclip", "Knee"] == 0.8 and value["image_f1_max", "winclip", "mean"] == 0.8
    assert np.isnan(value["image_f1_max", "winclip", "Ankle"])
    # one of four is abnormal: calling all of them so has precision 1/4 and recall 1
    assert value["image_f1_max", "constant", "Knee"] == pytest.approx(0.4)
    assert set(table.loc[table["metric"] == "pro", "method"]) == {"winclip"}


def test_undefined_and_impossible_are_told_apart(evaluations):
    table = measures.metric_table(evaluations, measures.OPERATING)
    wide = measures.wide_metrics(table, measures.OPERATING)
    assert wide.loc["F1-max: CLIP, windows"].tolist() == ["0.800", "undefined: one class only", "0.800"]
    assert wide.loc["F1-max: MVFA 4-shot (sound)"].tolist() == ["0.900", "-", "0.900"]
    assert wide.loc["F1-max: the same score for all", "Knee"] == "0.400"
    # nobody here has a threshold that was set beforehand
    assert not any(row.startswith("specificity") for row in wide.index)


def test_overview_of_one_data_set(evaluations):
    table = measures.overview(evaluations[0])
    assert table.loc["CLIP, windows", "image AUROC"] == "0.750 [0.700, 0.800]"
    assert table.loc["CLIP, windows", "per-region overlap"] == "0.500"
    assert table.loc["MVFA 4-shot (sound)", "per-region overlap"] == "-"
    assert measures.overview(evaluations[1]).loc["CLIP, windows", "F1-max"] == "undefined: one class only"
