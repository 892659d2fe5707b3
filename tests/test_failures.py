"""The worst misses and false alarms, by hand."""

import numpy as np
import pandas as pd
import pytest

from mvfa_core import failures
from mvfa_core.evaluation import Evaluation
from mvfa_core.metrics import auroc

LABELS = np.array([0, 0, 1, 1])


@pytest.fixture
def evaluation() -> Evaluation:
    scores = pd.DataFrame(
        {
            "image": ["a.png", "b.png", "c.png", "d.png"],
            "label": LABELS,
            "clip-pooled": [0.0, 1.0, 2.0, 3.0],
            "clip-patch": [3.0, 2.0, 1.0, 0.0],
            "zero-shot/sound": [0.0, 0.0, 0.0, 0.0],
            "4-shot/sound/0": [1.0, 3.0, 2.0, 4.0],  # c is overtaken by b
            "4-shot/sound/1": [2.0, 4.0, 1.0, 3.0],  # c by both, d by b
        }
    )
    groups = ("clip-pooled", "clip-patch", "zero-shot/sound", "4-shot/sound")
    return Evaluation("Knee", {group: {} for group in groups}, scores, {}, {}, {})


def test_the_mean_of_overtaken_is_the_auroc_that_is_missing():
    rng = np.random.default_rng(3)
    labels, scores = rng.integers(0, 2, 60), rng.integers(0, 9, 60).astype(float)
    share = failures.overtaken(labels, scores)
    for label in (0, 1):
        assert share[labels == label].mean() == pytest.approx(1 - auroc(labels, scores))


def test_one_class_alone_is_overtaken_by_nobody():
    assert np.isnan(failures.overtaken(np.zeros(3, int), np.arange(3.0))).all()


def test_worst_first_as_means_over_draws_beside_plain_clip(evaluation):
    table = failures.failure_table([evaluation], count=1)
    few = table[table["method"] == "4-shot/sound"].set_index("kind")
    assert few.loc["miss", ["image", "overtaken", "clip-pooled", "clip-patch"]].tolist() == [
        "c.png",
        0.75,
        0,
        1,
    ]
    assert few.loc["false alarm", ["image", "overtaken"]].tolist() == ["b.png", 0.75]
    assert failures.leading_group([evaluation]) == "4-shot/sound"
    assert failures.rows_of(few, evaluation).tolist() == [2, 1]
    wide = failures.wide_failures(table, "4-shot/sound")
    assert wide["overtaken, MVFA 4-shot (sound)"].tolist() == ["75 %", "75 %"]
    assert wide["overtaken, CLIP, patches"].tolist() == ["100 %", "100 %"]


def test_a_data_set_of_one_class_has_no_failures(evaluation):
    evaluation.scores["label"] = 0
    assert failures.failure_table([evaluation]).empty
    assert failures.wide_failures(failures.failure_table([evaluation]), "4-shot/sound").empty
