"""Folders with every flaw that the check knows, and one without."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import write_dataset
from PIL import Image

from mvfa_core.data_check import PUBLISHED, check_data_set, count_images, describe, find_data_sets
from mvfa_core.errors import MvfaError


@pytest.fixture
def root(tmp_path) -> Path:
    return write_dataset(tmp_path / "Knee_AD", masks=True)


def copy(source: Path, target: Path) -> None:
    """A copy of a picture, and of its mask where there is one."""
    shutil.copy(source, target)
    mask, place = (p.parent.parent / "anomaly_mask" / p.name for p in (source, target))
    if mask.exists() and place.parent.exists():
        shutil.copy(mask, place)


def save(path: Path, values) -> None:
    Image.fromarray(np.asarray(values, dtype=np.uint8)).save(path)


def test_a_clean_data_set(root):
    seen = []
    findings = check_data_set("Knee", root, lambda: seen.append(1))
    assert findings.problems == {} and findings.notes == {} and findings.masks
    assert (findings.splits["valid"].images, findings.splits["test"].images) == (12, 16)
    assert findings.splits["test"].masks == 8
    assert findings.splits["test"].sizes == {"32 x 32": 16} and findings.splits["test"].modes == {"L": 16}
    assert len(seen) == count_images(root) == 28
    assert describe(findings)[0] == "Knee (with masks, not in BMAD)"


def spoil_unreadable_image(root: Path) -> str:
    path = root / "test/good/img/003.png"
    path.write_bytes(path.read_bytes()[:60])
    return "test/good/003.png"


def spoil_unreadable_mask(root: Path) -> str:
    (root / "test/Ungood/anomaly_mask/003.png").write_bytes(b"no picture")
    return "test/Ungood/anomaly_mask/003.png"


def spoil_missing_mask(root: Path) -> str:
    (root / "valid/Ungood/anomaly_mask/002.png").unlink()
    return "valid/Ungood/anomaly_mask/002.png"


def spoil_orphan(root: Path) -> str:
    (root / "test/Ungood/img/001.png").unlink()
    return "test/Ungood/anomaly_mask/001.png"


def spoil_mask_size(root: Path) -> str:
    save(root / "test/Ungood/anomaly_mask/000.png", np.eye(16) * 255)
    return "test/Ungood/anomaly_mask/000.png"


def spoil_grey_mask(root: Path) -> str:
    save(root / "test/Ungood/anomaly_mask/000.png", np.tile(np.arange(32), (32, 1)))
    return "test/Ungood/anomaly_mask/000.png"


def spoil_empty_mask(root: Path) -> str:
    save(root / "test/Ungood/anomaly_mask/000.png", np.zeros((32, 32)))
    return "test/Ungood/anomaly_mask/000.png"


def spoil_normal_mask(root: Path) -> str:
    (root / "test/good/anomaly_mask").mkdir()
    save(root / "test/good/anomaly_mask/000.png", np.eye(32) * 255)
    return "test/good/anomaly_mask/000.png"


def spoil_twice(root: Path) -> str:
    copy(root / "test/good/img/000.png", root / "test/good/img/900.png")
    return "test/good/000.png = test/good/900.png"


def spoil_leak(root: Path) -> str:
    """The same pixels under another name, as another kind of file."""
    with Image.open(root / "valid/good/img/000.png") as image:
        image.convert("RGB").save(root / "test/good/img/900.bmp")
    return "valid/good/000.png = test/good/900.bmp"


def spoil_contradiction(root: Path) -> str:
    copy(root / "test/Ungood/img/000.png", root / "test/good/img/900.png")
    return "test/good/900.png = test/Ungood/000.png"


def spoil_class(root: Path) -> str:
    shutil.rmtree(root / "valid/good")
    return "valid/good/img"


def spoil_split(root: Path) -> str:
    shutil.rmtree(root / "test")
    return "test"


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (spoil_unreadable_image, "unreadable image"),
        (spoil_unreadable_mask, "unreadable mask"),
        (spoil_missing_mask, "missing mask"),
        (spoil_orphan, "mask without image"),
        (spoil_mask_size, "mask of another size than its image"),
        (spoil_grey_mask, "mask with more than two values"),
        (spoil_empty_mask, "empty mask of an abnormal image"),
        (spoil_normal_mask, "marked mask of a normal image"),
        (spoil_twice, "same image within a split"),
        (spoil_leak, "same image in valid and in test"),
        (spoil_contradiction, "same image within a split, called normal and abnormal"),
        (spoil_class, "no images"),
        (spoil_split, "no test split"),
    ],
)
def test_each_flaw_is_found_once_and_named(root, spoil, what):
    name = spoil(root)
    findings = check_data_set("Knee", root)
    assert set(findings.problems) == {what}
    assert len(findings.problems[what]) == 1 and name in findings.problems[what][0]
    assert any(line.startswith(f"  PROBLEM: {what}: 1: ") and name in line for line in describe(findings))


def test_copies_across_train_and_test_are_found(root):
    folder = root / "train/good/img"
    folder.mkdir(parents=True)
    shutil.copy(root / "test/good/img/000.png", folder)
    assert list(check_data_set("Knee", root).problems) == ["same image across splits"]


def test_train_may_lie_directly_below_its_class(root):
    folder = root / "train/good"
    folder.mkdir(parents=True)
    save(folder / "a.png", np.full((32, 32), 7))
    findings = check_data_set("Knee", root)
    assert findings.splits["train"].normal == 1 and not findings.problems


def test_other_files_are_noted(root):
    (root / "test/good/img/Thumbs.db").write_bytes(b"x")
    (root / "test/good/img/.hidden").write_bytes(b"x")
    findings = check_data_set("Knee", root)
    assert findings.notes == {"not an image, ignored": ["test/good/Thumbs.db"]} and not findings.problems


def test_bmads_own_sizes_are_compared(tmp_path):
    assert PUBLISHED["Chest"].test == 17194 and not PUBLISHED["Chest"].masks
    root = write_dataset(tmp_path / "Retina_OCT2017_AD", masks=False, valid=16, test=3)
    findings = check_data_set("Retina_OCT2017", root)
    assert findings.notes == {"other size than published": ["test: 6 images, published 968 (-962)"]}
    # a data set that has masks in BMAD needs them here too
    bare = write_dataset(tmp_path / "Brain_AD", masks=False)
    assert len(check_data_set("Brain", bare).problems["missing mask"]) == 14


def test_one_data_set_or_a_folder_of_them(tmp_path):
    for name in ("Brain", "Chest"):
        write_dataset(tmp_path / f"{name}_AD", masks=name == "Brain", valid=1, test=1)
    (tmp_path / "weights").mkdir()
    assert list(find_data_sets(tmp_path)) == ["Brain", "Chest"]
    assert list(find_data_sets(tmp_path / "Brain_AD")) == ["Brain"]
    with pytest.raises(MvfaError, match="holds no data set"):
        find_data_sets(tmp_path / "weights")
    with pytest.raises(MvfaError, match="is no folder"):
        find_data_sets(tmp_path / "none")


def mvfa(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "mvfa_core", "check-data", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=Path(__file__).parent.parent
    )


def test_the_command(root, tmp_path):
    clean = mvfa(root.parent, "--json", tmp_path / "found.json")
    assert clean.returncode == 0 and clean.stdout.endswith("no problems\n"), clean.stderr
    assert "test: 8 normal, 8 abnormal, 8 masks; 32 x 32 px (16); 16 L" in clean.stdout
    record = json.loads((tmp_path / "found.json").read_text())["Knee"]
    assert record["splits"]["valid"]["sizes"] == {"32 x 32": 12} and record["problems"] == {}
    assert str(tmp_path) not in (tmp_path / "found.json").read_text()

    (root / "test/good/img/readme.txt").write_text("hello")
    assert mvfa(root).returncode == 0 and mvfa(root, "--strict").returncode == 1
    spoil_leak(root)
    spoiled = mvfa(root)
    assert spoiled.returncode == 1 and spoiled.stderr.strip() == "problems in Knee"
    assert "valid/good/000.png = test/good/900.bmp" in spoiled.stdout
    missing = mvfa(tmp_path / "none")
    assert missing.returncode == 1 and "Traceback" not in missing.stderr
    assert missing.stderr.startswith("error:") and missing.stderr.count("\n") == 1
