"""Small data sets and a small backbone that the tests make for themselves."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from open_clip.model import CLIP
from parity import fill_by_name
from PIL import Image
from safetensors.torch import save_file

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

TINY_CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 4, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
NAMES = {"Brain": True, "Liver": True, "Chest": False}


def draw_image(rng: np.random.Generator, abnormal: bool, size: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Smooth noise; an abnormal image has a bright square, which its mask marks."""
    image = rng.normal(110, 18, (size, size))
    mask = np.zeros((size, size), dtype=np.uint8)
    if abnormal:
        y, x = rng.integers(4, size - 14, 2)
        image[y : y + 10, x : x + 10] += 70
        mask[y : y + 10, x : x + 10] = 255
    return np.clip(image, 0, 255).astype(np.uint8), mask


def write_dataset(root: Path, masks: bool, valid: int = 6, test: int = 8, seed: int = 0) -> Path:
    """A folder in BMAD's layout."""
    rng = np.random.default_rng(seed)
    for split, count in (("valid", valid), ("test", test)):
        for kind in ("good", "Ungood"):
            folder = root / split / kind
            (folder / "img").mkdir(parents=True)
            if masks and kind == "Ungood":
                (folder / "anomaly_mask").mkdir()
            for i in range(count):
                image, mask = draw_image(rng, kind == "Ungood")
                Image.fromarray(image).save(folder / "img" / f"{i:03d}.png")
                if masks and kind == "Ungood":
                    Image.fromarray(mask).save(folder / "anomaly_mask" / f"{i:03d}.png")
    return root


def write_backbone(folder: Path) -> None:
    """`clip.json` and `clip.safetensors` with weights by name."""
    (folder / "clip.json").write_text(json.dumps(TINY_CLIP))
    model = CLIP(**TINY_CLIP)
    fill_by_name(model, salt=3, scale=2)
    save_file(
        {name: value.contiguous() for name, value in model.state_dict().items()}, folder / "clip.safetensors"
    )


def small_params() -> dict:
    """Parameters of a project that runs in seconds."""
    return {
        "seed": 5,
        "device": "cpu",
        "dtype": "fp32",
        "protocols": ["sound"],
        "backbone": {
            "model": "clip.json",
            "weights": "clip.safetensors",
            "image_size": 32,
            "levels": [1, 2, 3, 4],
        },
        "method": {"residual": [0.8, 0.1, 0.1], "memory_weight": 0.5},
        "few_shot": {
            "shots": [2],
            "draws": 2,
            "epochs": 2,
            "learning_rate": 0.001,
            "batch_size": 8,
            "support_lists": None,
        },
        "zero_shot": {"epochs": 2, "learning_rate": 0.001, "batch_size": 4},
        "evaluation": {"batch_size": 5, "bootstrap": 100, "gallery": 3},
        "datasets": {
            name: {"root": f"data/{name}_AD", "organ": name, "masks": masks} for name, masks in NAMES.items()
        },
    }


@pytest.fixture(scope="session")
def project_template(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    write_backbone(folder)
    for seed, (name, masks) in enumerate(NAMES.items()):
        write_dataset(folder / "data" / f"{name}_AD", masks, seed=seed)
    return folder


@pytest.fixture
def project(project_template, tmp_path) -> Path:
    """A folder with three small data sets, a small backbone and a `params.yaml`; the test may change it."""
    folder = tmp_path / "project"
    shutil.copytree(project_template, folder)
    write_params(folder, small_params())
    return folder


def write_params(folder: Path, params: dict) -> Path:
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(params, sort_keys=False))
    return path


@pytest.fixture(autouse=True)
def _one_thread():
    """The models of the tests are too small for more, and waiting for one another costs minutes."""
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first: side by side, a long one that starts last is waited for alone."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
