import shutil

import numpy as np
import pytest
import torch
import trained
from conftest import small_params, write_params
from PIL import Image
from safetensors.torch import load_file, safe_open, save_file

from mvfa_core.calibration import calibrate
from mvfa_core.detector import Detector
from mvfa_core.errors import MvfaError

KINDS = (("Brain", 2), ("Brain", 6), ("Brain", 0), ("Chest", 2), ("Chest", 0))


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return trained.trained_project(tmp_path_factory.mktemp("detector") / "project", KINDS)


@pytest.fixture(scope="module")
def packed(project):
    return trained.exported(project)


def images(project, name="Brain"):
    return sorted((project / "data" / f"{name}_AD" / "test").glob("*/img/*.png"))


@pytest.mark.parametrize(("name", "shots"), KINDS)
def test_scores_and_maps_are_those_of_the_benchmark(project, name, shots):
    experiment = trained.opened(project)
    run, test = trained.load_run(project, experiment, name, shots), experiment.test_set(name)
    verdict = experiment.verdict(name, run, test)
    found = calibrate(experiment, run).predict([record.path for record in test.records])
    assert np.allclose(found.scores, verdict.scores.numpy(), atol=1e-5)
    assert np.allclose(found.maps, verdict.maps.numpy(), atol=1e-5)


@pytest.mark.parametrize(("name", "shots"), KINDS)
def test_the_file_judges_to_the_last_bit_as_what_was_saved(project, tmp_path, name, shots):
    detector = trained.detector(project, name, shots)
    detector.save(tmp_path / "a.safetensors")
    loaded = Detector.load(tmp_path / "a.safetensors")
    ours, theirs = (d.predict(images(project, name)) for d in (detector, loaded))
    assert np.array_equal(ours.scores, theirs.scores) and np.array_equal(ours.maps, theirs.maps)
    assert ours.threshold == theirs.threshold and np.array_equal(ours.percentiles, theirs.percentiles)
    loaded.save(tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_an_image_is_judged_alike_alone_and_among_others(packed, project):
    detector, paths = Detector.load(packed), images(project)
    together = detector.predict(paths)
    for index in (0, 7, 15):
        alone = detector.predict(paths[index])
        assert alone.scores[0] == together.scores[index] and np.array_equal(
            alone.maps[0], together.maps[index]
        )
    backwards = detector.predict(paths[::-1])
    assert np.array_equal(backwards.scores[::-1], together.scores)


def test_every_way_to_hand_over_an_image_gives_the_same(packed, project):
    detector, path = Detector.load(packed), images(project)[3]
    picture = Image.open(path)
    forms = [path, str(path), picture, np.asarray(picture), np.asarray(picture.convert("RGB"))]
    scores = detector.score_samples(forms)
    assert len(set(scores)) == 1
    assert detector.score_samples(np.asarray(picture, dtype=np.uint16) * 257)[0] == scores[0]
    assert detector.score_samples(np.asarray(picture) / 255)[0] == scores[0]


def test_labels_percentiles_and_rules(packed, project):
    detector = Detector.load(packed)
    found = detector.predict(images(project))
    assert set(found.labels) <= {0, 1} and np.array_equal(found.labels, (found.scores >= found.threshold) * 1)
    assert ((found.percentiles >= 0) & (found.percentiles <= 100)).all()
    strict = detector.with_rule("false-alarm", 0.0)
    assert strict.threshold > detector.reference.normal.max()
    assert strict.predict(images(project)).labels.sum() <= found.labels.sum()
    with pytest.raises(MvfaError, match="'best' is none of"):
        detector.with_rule("best")


def test_without_a_choice_few_normal_images_are_called_abnormal(project, tmp_path):
    detector = trained.detector(project)
    assert (detector.rule, detector.false_alarm_rate) == ("false-alarm", 0.05)
    assert detector.threshold == detector.reference.threshold("false-alarm", 0.05)
    assert detector.reference.flagged(detector.threshold)[0] == 0
    assert "of the reference images it flags 0 of 4 normal" in detector.card
    assert detector.with_rule("f1").threshold < detector.threshold


def test_a_changed_rule_is_what_is_saved(packed, tmp_path):
    Detector.load(packed).with_rule("youden").save(tmp_path / "d.safetensors")
    loaded = Detector.load(tmp_path / "d.safetensors")
    with safe_open(tmp_path / "d.safetensors", framework="pt") as file:
        assert loaded.rule == "youden" and file.metadata()["card"] == loaded.card
    assert (
        "(rule youden)" in loaded.card
        and loaded.threshold == Detector.load(packed).with_rule("youden").threshold
    )


def test_levels_as_fractions_travel_with_the_file(project, tmp_path):
    clone = tmp_path / "clone"
    shutil.copytree(project, clone)
    fractions = small_params()["backbone"] | {"levels": [0.5, 1.0]}
    write_params(clone, small_params() | {"backbone": fractions})
    experiment = trained.opened(clone)
    detector = calibrate(experiment, experiment.train_few_shot("Brain", 2))
    detector.save(tmp_path / "d.safetensors")
    loaded = Detector.load(tmp_path / "d.safetensors")
    assert loaded.judge.adapters.levels == (2, 4) and "levels [2, 4]" in loaded.card
    assert np.array_equal(loaded.score_samples(images(clone)), detector.score_samples(images(clone)))


def test_the_threshold_lies_on_images_that_training_has_not_seen(project):
    few = trained.detector(project, "Brain", 2)
    assert len(few.reference.normal) == len(few.reference.abnormal) == 4
    # sound chooses the epoch on these very images, strict does not look at them
    assert "epoch was chosen on: slightly optimistic" in few.card
    experiment = trained.opened(project)
    strict = calibrate(experiment, experiment.train_few_shot("Brain", 2, "strict"))
    assert "training has not seen)" in strict.card
    assert "training has not seen)" in trained.detector(project, "Brain", 0).card
    all_used = trained.detector(project, "Brain", 6)
    assert len(all_used.reference.normal) == 6 and "optimistic" in all_used.reference.source
    # a support image is not compared with itself: else every other image would look abnormal beside it
    own = all_used.predict(sorted((project / "data/Brain_AD/valid/good/img").glob("*.png"))).scores
    assert all_used.reference.normal.mean() > own.mean()


def test_the_test_split_is_never_read(project, tmp_path):
    clone = tmp_path / "clone"
    shutil.copytree(project, clone)
    before = trained.detector(clone)
    shutil.rmtree(clone / "data" / "Brain_AD" / "test")
    after = trained.detector(clone)
    assert after.threshold == before.threshold and after.scale == before.scale


def test_the_card_says_what_matters(packed):
    with safe_open(packed, framework="pt") as file:
        metadata, names = file.metadata(), set(file.keys())
    for text in ("Not a medical device", "fingerprint", "4 normal, 4 abnormal", "not been evaluated"):
        assert text in metadata["card"]
    assert {"text", "bank.0", "reference.normal", "seg_adapters.0.fc1.0.weight"} <= names
    # support images may be named after patients
    assert "valid/good" not in str(metadata)


def test_figures_of_the_evaluation_reach_the_card(project):
    figures = {"image_auroc": 0.91, "image_auroc_low": 0.85, "image_auroc_high": 0.96, "draws": 2}
    card = trained.detector(project, figures=figures).card
    assert (
        "image AUROC: 0.910 (95 % interval 0.850 to 0.960)" in card and "means over 2 support draws" in card
    )


def without_backbone(packed, target):
    with safe_open(packed, framework="pt") as file:
        metadata = file.metadata()
    metadata["detector"] = metadata["detector"].replace('"embedded": true', '"embedded": false')
    tensors = {k: v for k, v in load_file(packed).items() if not k.startswith("backbone.")}
    save_file(tensors, target, metadata)
    return target


def test_a_large_backbone_stays_outside_and_is_recognised(packed, project, tmp_path):
    small = without_backbone(packed, tmp_path / "small.safetensors")
    with pytest.raises(MvfaError, match="clip.json.*fingerprint.*--backbone"):
        Detector.load(small)
    given = Detector.load(small, project / "clip.safetensors")
    assert np.array_equal(
        given.score_samples(images(project)), Detector.load(packed).score_samples(images(project))
    )
    other = load_file(project / "clip.safetensors")
    other["visual.proj"] = other["visual.proj"] + 1
    save_file(other, tmp_path / "other.safetensors")
    with pytest.raises(MvfaError, match="needs the backbone with fingerprint"):
        Detector.load(small, tmp_path / "other.safetensors")
    assert len(Detector.load(small, trained.opened(project).backbone).reference.normal) == 4


def test_another_backbone_than_at_training_is_refused(project, tmp_path):
    clone = tmp_path / "clone"
    shutil.copytree(project, clone)
    backbone = small_params()["backbone"] | {"weights": None}
    write_params(clone, small_params() | {"backbone": backbone})
    with pytest.raises(MvfaError, match="was trained on a backbone with fingerprint"):
        trained.detector(clone)


def test_wrong_things_are_one_line(packed, tmp_path):
    detector = Detector.load(packed)
    for wrong in ([], [3], [None], [torch.zeros(3, 32, 32)]):
        with pytest.raises(MvfaError):
            detector.predict(wrong)
    with pytest.raises(MvfaError, match="is no detector"):
        save_file({"a": torch.zeros(2)}, tmp_path / "other.safetensors")
        Detector.load(tmp_path / "other.safetensors")
    with pytest.raises(MvfaError, match="cannot be read"):
        Detector.load(tmp_path / "none.safetensors")
