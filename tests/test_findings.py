"""Sentences and the table behind them, from made-up evaluations whose answers are known."""

import numpy as np
import pytest
from conftest import small_params
from test_significance import evaluation

from mvfa_core import findings
from mvfa_core.evaluation import Evaluation
from mvfa_core.report import MEAN
from mvfa_core.settings import Settings
from mvfa_core.significance import significance_table


def made(name: str, *, mvfa: float, memory: float, count: int = 200) -> Evaluation:
    """CLIP is good for little; MVFA and the memory bank add what they are given."""
    rng = np.random.default_rng(len(name))
    labels = np.arange(count) % 2
    base = rng.standard_normal(count) + 0.3 * labels
    noise = 0.3 * rng.standard_normal((5, count))
    methods = {"clip-pooled": base + noise[0], "clip-patch": -base, "untrained": base + 9 * labels}
    for draw in range(2):
        methods[f"4-memory/sound/{draw}"] = base + memory * labels + noise[1 + draw]
        methods[f"4-shot/sound/{draw}"] = base + mvfa * labels + noise[3 + draw]
    return evaluation(name, labels, methods | {"zero-shot/sound": methods["clip-pooled"]})


@pytest.fixture
def evaluations() -> list[Evaluation]:
    return [
        made("Knee", mvfa=1.5, memory=0),
        made("Ankle", mvfa=1.5, memory=3.0),
        made("Shoulder", mvfa=0, memory=0),
    ]


def test_the_best_baseline_is_one_that_saw_no_more(evaluations):
    table = findings.where_table(significance_table(evaluations)).set_index(["method", "dataset"])
    few = table.loc["4-shot/sound"]
    assert few.loc["Ankle", ["baseline", "verdict"]].tolist() == ["4-memory/sound", "worse"]
    assert few.loc["Knee", "verdict"] == "better" and few.loc["Shoulder", "verdict"] == "no clear difference"
    # the control leads everywhere and is no baseline; zero-shot is not held against a memory of the target
    assert "untrained" not in set(table["baseline"])
    assert set(table.loc["zero-shot/sound", "baseline"]) == {"clip-pooled"}
    assert list(few.index)[-1] == MEAN
    wide = findings.wide_where(table.reset_index())
    row = wide[(wide["method"] == "MVFA 4-shot (sound)") & (wide["data set"] == "Ankle")].iloc[0]
    assert row["best baseline"].startswith("CLIP + memory, 4 normal, 0.9") and row["difference"].endswith("*")


def test_sentences_name_every_baseline_and_data_set(evaluations):
    sentences = findings.findings(evaluations)
    assert len(sentences) == 2  # two MVFA groups, no pixels
    zero, few = sentences
    assert "no clear difference on Knee, Ankle, Shoulder." in zero and "CLIP + memory" not in zero
    assert few.startswith("MVFA 4-shot (sound) reaches a mean image AUROC of 0.")
    assert "above the stronger plain reading (CLIP, pooled, " in few and "], p = 0.0" in few
    assert "better on Knee, Ankle; no clear difference on Shoulder." in few
    assert "Of the other baselines it is on average" in few
    assert "ahead on Knee; behind on Ankle (CLIP + memory, 4 normal, 0.9" in few
    assert "; not distinguishable on Shoulder (" in few


def test_a_data_set_of_one_class_is_named_among_the_limits(evaluations):
    labels = np.zeros(20, int)
    flat = {method: np.arange(20.0) for method in evaluations[0].scores.columns[2:]}
    dull = evaluation("Dull", labels, flat)
    settings = Settings(**small_params())
    for one in evaluations:
        settings.datasets[one.dataset] = settings.datasets["Brain"]
    settings.datasets["Dull"] = settings.datasets["Brain"]
    told = findings.limitations([*evaluations, dull], settings)
    assert told[-1] == "Dull: image AUROC undefined: one class only; it is in no mean."
    assert not any("phantoms" in sentence for sentence in told)
    assert "means over 2 support draws" in " ".join(told) and "image AUROC is 0.1" in " ".join(told)
    # and the sentences about the others do not change
    assert findings.findings([*evaluations, dull]) == findings.findings(evaluations)


def test_phantoms_are_called_phantoms(evaluations):
    settings = Settings(**small_params())
    for one in evaluations:
        settings.datasets[one.dataset] = settings.datasets["Brain"].model_copy(
            update={"root": "data/demo/X_AD"}
        )
    assert findings.limitations(evaluations, settings)[0].startswith("Knee, Ankle, Shoulder: phantoms")


def test_a_list_in_markdown():
    assert findings.as_list(["one", "two"]) == "- one\n- two\n"
