import copy
from pathlib import Path

import pytest
from conftest import small_params, write_params

from mvfa_core.errors import MvfaError
from mvfa_core.settings import load_settings

ROOT = Path(__file__).parent.parent


def test_the_shipped_parameters_are_valid():
    settings = load_settings(ROOT / "params.yaml")
    assert set(settings.datasets) == {
        "Brain",
        "Liver",
        "Retina_RESC",
        "Retina_OCT2017",
        "Chest",
        "Histopathology",
    }
    assert settings.protocols[0] == "sound"


def put(params: dict, key: str, value) -> dict:
    params = copy.deepcopy(params)
    *path, last = key.split(".")
    inner = params
    for part in path:
        inner = inner[part]
    inner[last] = value
    return params


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("few_shot.epoch", 3, "unknown setting 'few_shot.epoch', did you mean 'epochs'"),
        ("sede", 3, "unknown setting 'sede', did you mean 'seed'"),
        ("datasets.Brain.orgn", "x", "did you mean 'organ'"),
        ("few_shot.epochs", 0, "few_shot.epochs"),
        ("few_shot.epochs", "many", "few_shot.epochs"),
        ("few_shot.shots", [], "few_shot.shots"),
        ("few_shot.shots", [0], "few_shot.shots"),
        ("device", "gpu", "device"),
        ("protocols", ["honest"], "'honest' is none of sound, "),
        ("method.memory_weight", 1.5, "memory_weight"),
        ("zero_shot.learning_rate", float("nan"), "learning_rate"),
        ("datasets", {}, "datasets"),
        (
            "datasets",
            {"../up": {"root": "x", "organ": "x", "masks": True}},
            "'datasets.../up.[key]': use up to 64",
        ),
        ("datasets", {"x; rm y": {"root": "x", "organ": "x", "masks": True}}, "use up to 64 letters"),
        ("datasets.Brain.masks", "maybe", "masks"),
    ],
)
def test_each_mistake_is_one_line_that_names_the_setting(tmp_path, key, value, message):
    params = small_params()
    path = write_params(tmp_path, put(params, key, value))
    with pytest.raises(MvfaError) as error:
        load_settings(path)
    assert message in str(error.value) and "\n" not in str(error.value) and "params.yaml" in str(error.value)


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "seed: [1\n", "\x00"])
def test_a_file_that_is_no_mapping(tmp_path, text):
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(MvfaError, match="params.yaml"):
        load_settings(tmp_path / "params.yaml")


def test_a_missing_file_and_a_missing_setting(tmp_path):
    with pytest.raises(MvfaError, match="cannot be read"):
        load_settings(tmp_path / "none.yaml")
    params = small_params()
    del params["seed"]
    with pytest.raises(MvfaError, match="'seed' is missing"):
        load_settings(write_params(tmp_path, params))


def test_unknown_data_set(tmp_path):
    with pytest.raises(MvfaError, match="unknown data set 'Brian'.*Brain, Liver, Chest"):
        load_settings(write_params(tmp_path, small_params())).dataset("Brian")
