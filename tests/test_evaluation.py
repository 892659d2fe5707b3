"""From verdicts to an evaluation, on a small project."""

import gc
import json
import weakref

import numpy as np
import pytest
import torch

from mvfa_core.baselines import all_verdicts
from mvfa_core.evaluation import Evaluation
from mvfa_core.experiment import Experiment
from mvfa_core.judging import Verdict
from mvfa_core.methods import group_of


@pytest.fixture
def judged(project):
    experiment = Experiment.open(project / "params.yaml", say=lambda _: None)
    runs = [experiment.train_zero_shot("Brain")]
    runs += [experiment.train_few_shot("Brain", 2, draw=draw) for draw in (0, 1)]
    return experiment, experiment.test_set("Brain"), runs


def test_the_run_that_chooses_the_pictures_comes_first(judged):
    experiment, test, runs = judged
    found = [method for method, _ in all_verdicts(experiment, "Brain", runs, test)]
    assert found[0] == "2-shot/sound/0" and len(found) == len(set(found)) == 3 + 3 + 1 + 6
    assert {run.method for run in runs} < set(found)


def test_a_stream_gives_what_all_verdicts_together_give(judged):
    experiment, test, runs = judged
    together = experiment.verdicts("Brain", runs, test)
    together |= {m: v for m, v in all_verdicts(experiment, "Brain", [], test) if m not in together}
    expected = Evaluation.of(experiment, "Brain", test, together, runs)
    found = Evaluation.of(experiment, "Brain", test, all_verdicts(experiment, "Brain", runs, test), runs)
    assert list(found.metrics) == list(expected.metrics) and list(found.scores) == list(expected.scores)
    for group, metrics in expected.metrics.items():
        assert found.metrics[group] == pytest.approx(metrics, abs=1e-6), group
    for arrays, others in ((found.samples, expected.samples), (found.gallery, expected.gallery)):
        assert list(arrays) == list(others)
        for key, values in arrays.items():
            np.testing.assert_allclose(values.astype(float), others[key].astype(float), atol=1e-3)
    shown = {key.removeprefix("map:") for key in found.gallery if key.startswith("map:")}
    assert shown == {"clip-patch", "untrained", *(run.method for run in runs)}


def test_maps_are_let_go_one_after_the_other(judged):
    experiment, test, runs = judged
    alive: list[weakref.ref] = []
    most = 0

    def stream():
        nonlocal most
        for number in range(8):
            gc.collect()
            most = max(most, sum(ref() is not None for ref in alive))
            maps = torch.rand(len(test.records), 32, 32)
            alive.append(weakref.ref(maps))
            verdict = Verdict(maps.amax(dim=(1, 2)), maps)
            del maps
            yield f"2-shot/sound/{number}", verdict
            del verdict

    Evaluation.of(experiment, "Brain", test, stream(), runs)
    assert most <= 1


def test_pictures_wait_for_the_method_that_chooses_them(judged):
    experiment, test, runs = judged
    verdicts = experiment.verdicts("Brain", runs, test)
    first = dict(sorted(verdicts.items(), key=lambda item: not item[0].startswith("2-shot")))
    early, late = (Evaluation.of(experiment, "Brain", test, v, runs).gallery for v in (first, verdicts))
    assert list(early) == list(late)
    for key, values in early.items():
        assert np.array_equal(values, late[key]), key
    plain = experiment.verdicts("Brain", [], test)
    assert "map:untrained" in Evaluation.of(experiment, "Brain", test, plain, []).gallery


def test_one_class_alone_is_undefined_and_not_nought(judged):
    experiment, test, runs = judged
    test.batch.labels[:], test.batch.masks[:] = 0, 0
    found = Evaluation.of(experiment, "Brain", test, all_verdicts(experiment, "Brain", runs, test), runs)
    for group, metrics in found.metrics.items():
        assert metrics["image_auroc"] is None and metrics["image_f1_max"] is None, group
        assert "probe" in group or group == "clip-pooled" or metrics["pixel_auroc"] is None, group
    assert not found.samples


def test_provenance_holds_what_is_needed_and_nothing_of_the_place(judged, project):
    experiment, test, runs = judged
    found = Evaluation.of(
        experiment, "Brain", test, experiment.verdicts("Brain", runs, test), runs
    ).provenance
    assert (
        found["seed"] == 5 and found["device"] == "cpu" and found["processor"] and found["test_images"] == 16
    )
    assert len(found["test_hash"]) >= 16
    assert {"python", "torch", "open_clip_torch", "numpy", "scikit-learn"} <= set(found["versions"])
    assert (
        found["parameters"]["few_shot"]["epochs"] == 2
        and found["parameters"]["method"]["memory_weight"] == 0.5
    )
    assert found["parameters"]["dataset"] == {
        "organ": "Brain",
        "masks": True,
        "table": None,
        "valid_share": 0.3,
        "window": None,
    }
    for method, run in found["runs"].items():
        assert len(run["backbone"]["fingerprint"]) == 16 and run["epoch"] >= 1, method
        assert ("zero" in method) == (run["support"] is None), method
    text = json.dumps(found)
    assert str(project) not in text and "data/" not in text and "clip.safetensors" in text
    again = Evaluation.of(
        experiment, "Brain", test, experiment.verdicts("Brain", runs, test), runs
    ).provenance
    assert again == found and {group_of(method) for method in found["runs"]} == {
        "zero-shot/sound",
        "2-shot/sound",
    }
