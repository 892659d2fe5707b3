import numpy as np
import pytest
import torch
from conftest import write_dataset
from PIL import Image

from mvfa_core.datasets import ImageDataset, content_hash
from mvfa_core.errors import MvfaError
from mvfa_core.settings import DatasetEntry


@pytest.fixture
def opened(tmp_path) -> ImageDataset:
    write_dataset(tmp_path / "Brain_AD", masks=True)
    return ImageDataset("Brain", DatasetEntry(root="Brain_AD", organ="Brain", masks=True), tmp_path)


def test_records_are_sorted_with_normal_images_first(opened):
    records = opened.records("valid")
    assert [record.label for record in records] == [0] * 6 + [1] * 6
    assert records[0].name == "valid/good/000.png" and records[0].mask is None
    assert records[-1].mask.name == records[-1].path.name == "005.png"


def test_load_gives_square_rgb_and_binary_masks(opened):
    batch = opened.load(opened.records("test"), image_size=48)
    assert batch.images.shape == (16, 3, 48, 48) and batch.images.dtype == torch.uint8
    assert batch.masks.shape == (16, 48, 48) and set(batch.masks.unique().tolist()) == {0, 1}
    assert not batch.masks[:8].any() and batch.masks[8:].flatten(1).any(dim=1).all()
    assert batch.scaled().min() >= 0 and batch.scaled().max() <= 1


def test_images_of_the_right_size_are_not_resampled(opened):
    record = opened.records("valid")[3]
    batch = opened.load([record], image_size=32)
    assert np.array_equal(batch.images[0, 0].numpy(), np.asarray(Image.open(record.path)))


def test_a_data_set_without_masks_has_none(tmp_path):
    write_dataset(tmp_path / "Chest_AD", masks=False)
    opened = ImageDataset("Chest", DatasetEntry(root="Chest_AD", organ="Chest", masks=False), tmp_path)
    assert opened.load(opened.records("valid"), 32).masks is None


def test_manifest_changes_with_the_content(opened):
    before = opened.manifest("valid")
    assert (before["normal"], before["abnormal"]) == (6, 6)
    path = opened.records("valid")[0].path
    Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    after = opened.manifest("valid")
    changed = [name for name in before["files"] if before["files"][name] != after["files"][name]]
    assert changed == ["valid/good/000.png"]
    assert content_hash(opened.records("valid")) == content_hash(opened.records("valid"))


def one_line(error) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


def test_missing_folder(tmp_path):
    with pytest.raises(MvfaError) as error:
        ImageDataset("Brain", DatasetEntry(root="gone", organ="Brain", masks=True), tmp_path)
    assert "gone" in one_line(error) and "Brain" in one_line(error)


def test_missing_mask(opened):
    (opened.root / "valid/Ungood/anomaly_mask/002.png").unlink()
    with pytest.raises(MvfaError) as error:
        opened.records("valid")
    assert "anomaly_mask/002.png" in one_line(error) and "masks: false" in one_line(error)


def test_mask_of_another_size(opened):
    path = opened.root / "valid/Ungood/anomaly_mask/002.png"
    Image.new("L", (20, 32)).save(path)
    with pytest.raises(MvfaError) as error:
        opened.load(opened.records("valid"), 32)
    assert "002.png" in one_line(error) and "20 x 32" in one_line(error)


def test_no_abnormal_images(opened):
    for path in (opened.root / "test/Ungood/img").iterdir():
        path.unlink()
    with pytest.raises(MvfaError) as error:
        opened.records("test")
    assert "no abnormal images" in one_line(error) and "Brain_AD/test/Ungood/img" in one_line(error)


@pytest.mark.parametrize("content", [b"", b"not an image", None], ids=["empty", "text", "truncated"])
def test_unreadable_image(opened, content):
    path = opened.root / "valid/good/img/001.png"
    path.write_bytes(path.read_bytes()[:-200] if content is None else content)
    with pytest.raises(MvfaError) as error:
        opened.load(opened.records("valid"), 32)
    assert "001.png" in one_line(error) and str(opened.root) not in one_line(error)
