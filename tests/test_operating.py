"""Thresholds from the valid split, on a small project."""

import shutil

import numpy as np
import pytest
from conftest import small_params, write_params

from mvfa_core.baselines import all_verdicts
from mvfa_core.evaluation import Evaluation
from mvfa_core.experiment import Experiment
from mvfa_core.experiment import TestSet as Images
from mvfa_core.metrics import at_threshold
from mvfa_core.operating import thresholds
from mvfa_core.reference import Reference


@pytest.fixture
def experiment(project) -> Experiment:
    write_params(project, small_params() | {"protocols": ["sound", "paper"]})
    return Experiment.open(project / "params.yaml", say=lambda _: None)


def test_by_hand():
    found = at_threshold([0, 0, 0, 1, 1], [0.1, 0.2, 0.5, 0.5, 0.9], 0.5)
    assert found == {"image_sens_at_set": 1.0, "image_spec_at_set": pytest.approx(2 / 3)}
    assert at_threshold([0, 0], [0.1, 0.2], 0.5) == {"image_sens_at_set": None, "image_spec_at_set": None}


def test_they_come_from_unseen_normal_images_and_not_from_the_test_split(experiment, project):
    runs = [experiment.train_few_shot("Brain", 2), experiment.train_few_shot("Brain", 2, "paper")]
    runs.append(experiment.train_zero_shot("Brain"))
    shutil.rmtree(project / "data" / "Brain_AD" / "test")
    found = thresholds(experiment, "Brain", runs, rate=0.25)
    # the paper's ranges come from the test split, so that its scores have no scale before
    assert set(found) == {"clip-pooled", "clip-patch", "untrained", "2-shot/sound/0", "zero-shot/sound"}
    normal = [r for r in experiment.dataset("Brain").records("valid") if not r.label]
    unseen = [r for r in normal if r.name not in runs[0].support["normal"]]
    assert len(unseen) == 4
    batch = experiment.load("Brain", unseen)
    scores = experiment.verdict(
        "Brain", runs[0], Images(unseen, batch, experiment.tokens(batch.images), "")
    ).scores
    assert np.mean(scores.numpy() >= found["2-shot/sound/0"]) == 0.25
    assert found["2-shot/sound/0"] == Reference(normal=scores.numpy()).threshold("false-alarm", 0.25)


def test_they_end_in_the_evaluation(experiment):
    runs = [experiment.train_few_shot("Brain", 2)]
    test, points = experiment.test_set("Brain"), thresholds(experiment, "Brain", runs)
    verdicts = list(all_verdicts(experiment, "Brain", runs, test))
    found = Evaluation.of(experiment, "Brain", test, iter(verdicts), runs, points).metrics
    scores, labels = dict(verdicts)["clip-pooled"].scores.numpy(), test.batch.labels.numpy()
    assert found["clip-pooled"]["image_spec_at_set"] == np.mean(scores[labels == 0] < points["clip-pooled"])
    assert found["clip-pooled"]["image_sens_at_set"] == np.mean(scores[labels == 1] >= points["clip-pooled"])
    assert "image_sens_at_set" in found["2-shot/sound"] and "image_sens_at_set" not in found["2-probe/sound"]
