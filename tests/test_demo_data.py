"""The phantoms: same pixels every time, BMAD's layout, lesions in every mask, none found by brightness."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("nilearn", reason="the brain phantom cuts its anatomy out of nilearn's template")

from mvfa_core.demo.build import (
    CLASSES,
    PHANTOMS,
    SPLITS,
    build_demo,
    contact_sheet,
    draw_one,
    tree_size,
    trivial_scores,
)
from mvfa_core.demo.phantom_tools import SMALLEST_LESION_PX

SHIPPED = Path(__file__).parents[1] / "data" / "demo"
SIZE_LIMIT = 25e6  # bytes of the whole benchmark
TRIVIAL_LIMIT = 0.75
VALID, TEST = 1, 3

# 3 x 3 block means of the first normal and the first abnormal `valid` image of seed 7, contrast 1.
GOLDEN = {
    "Brain": (
        [40, 143, 50, 104, 129, 74, 42, 100, 34],
        [20, 121, 30, 78, 163, 70, 31, 102, 19],
    ),
    "Liver": (
        [10, 70, 25, 37, 111, 59, 8, 62, 105],
        [0, 56, 71, 23, 102, 72, 3, 46, 153],
    ),
    "Retina_RESC": (
        [33, 35, 35, 66, 80, 77, 74, 63, 72],
        [39, 58, 53, 124, 148, 105, 59, 68, 60],
    ),
    "Retina_OCT2017": (
        [38, 31, 29, 129, 113, 99, 66, 66, 67],
        [37, 37, 39, 102, 121, 158, 133, 107, 103],
    ),
    "Chest": (
        [97, 141, 100, 100, 140, 112, 156, 189, 126],
        [50, 130, 58, 77, 139, 93, 118, 180, 134],
    ),
    "Histopathology": (
        [195, 196, 193, 177, 174, 186, 201, 199, 184],
        [168, 151, 153, 158, 141, 152, 154, 150, 153],
    ),
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small benchmark of seed 7."""
    root = tmp_path_factory.mktemp("phantoms")
    build_demo(root, seed=7, valid=VALID, test=TEST)
    return root


def block_means(image: np.ndarray) -> list[int]:
    """Means of the 3 x 3 blocks of an image (H, W) or (H, W, 3), rounded."""
    grey = image.astype(float).reshape(*image.shape[:2], -1).mean(axis=2)
    side = grey.shape[0] // 3
    return np.round(grey.reshape(3, side, 3, side).mean(axis=(1, 3))).astype(int).ravel().tolist()


@pytest.mark.parametrize("name", PHANTOMS)
@pytest.mark.parametrize("abnormal", CLASSES)
def test_same_pixels_every_time(name, abnormal):
    first, again = (draw_one(name, 7, "valid", abnormal, 0, contrast=1.0) for _ in range(2))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    # Processors differ in the last bit; a changed draw differs by far more than a grey level.
    difference = np.subtract(block_means(first[0]), GOLDEN[name][abnormal])
    assert np.abs(difference).mean() <= 1


@pytest.mark.parametrize("name", PHANTOMS)
def test_every_coordinate_of_an_image_counts(name):
    image = draw_one(name, 7, "valid", False, 0, size=32)[0]
    for other in [
        (8, "valid", False, 0),
        (7, "test", False, 0),
        (7, "valid", True, 0),
        (7, "valid", False, 1),
    ]:
        assert not np.array_equal(image, draw_one(name, *other, size=32)[0])


@pytest.mark.parametrize("name", PHANTOMS)
def test_shapes_and_masks(name):
    for size in (48, 96):
        for index in range(3):
            image, mask = draw_one(name, 3, "test", True, index, size)
            assert image.dtype == mask.dtype == np.uint8
            assert image.shape == ((size, size, 3) if name == "Histopathology" else (size, size))
            assert set(np.unique(mask)) == {0, 255}
            assert np.count_nonzero(mask) >= 0.8 * SMALLEST_LESION_PX * (size / 96) ** 2
        assert not draw_one(name, 3, "test", False, 0, size)[1].any()


@pytest.mark.parametrize("name", PHANTOMS)
def test_layout(tree, name):
    for split, count in zip(SPLITS, (VALID, TEST), strict=True):
        for label in CLASSES.values():
            images = sorted(path.name for path in (tree / f"{name}_AD" / split / label / "img").iterdir())
            assert images == [f"{index:03d}{PHANTOMS[name].suffix}" for index in range(count)]
            masks = tree / f"{name}_AD" / split / label / "anomaly_mask"
            if PHANTOMS[name].masks and label == "Ungood":
                assert sorted(path.name for path in masks.iterdir()) == images
            else:
                assert not masks.exists()
    assert not list(tree.glob("*.part"))


@pytest.mark.parametrize("name", [name for name in PHANTOMS if PHANTOMS[name].masks])
def test_files_hold_what_was_drawn(tree, name):
    image, mask = draw_one(name, 7, "test", True, 2)
    folder = tree / f"{name}_AD" / "test" / "Ungood"
    np.testing.assert_array_equal(np.asarray(Image.open(folder / "img" / "002.png")), image)
    np.testing.assert_array_equal(np.asarray(Image.open(folder / "anomaly_mask" / "002.png")), mask)


def test_more_images_leave_the_others_alone(tree, tmp_path):
    build_demo(tmp_path, seed=7, valid=2, test=1, datasets=["Chest"])
    path = Path("Chest_AD") / "valid" / "Ungood" / "img" / "000.jpeg"
    assert (tmp_path / path).read_bytes() == (tree / path).read_bytes()


def test_contrast_is_the_only_thing_the_knob_turns():
    faint, plain = (draw_one("Liver", 7, "valid", True, 0, contrast=contrast) for contrast in (0.5, 2.0))
    np.testing.assert_array_equal(faint[1], plain[1])
    normal = [draw_one("Liver", 7, "valid", False, 0, contrast=contrast)[0] for contrast in (0.5, 2.0)]
    np.testing.assert_array_equal(*normal)


def test_contact_sheet(tmp_path):
    contact_sheet(tmp_path / "sheet.png", 7, size=32, rows=1, columns=4, datasets=["Chest"], outlines=True)
    assert Image.open(tmp_path / "sheet.png").size == (4 * 64, 64)


@pytest.mark.parametrize(("field", "value"), [("name", "Knee"), ("split", "train")])
def test_errors_name_argument_and_choices(field, value):
    arguments = {"name": "Brain", "split": "test"} | {field: value}
    with pytest.raises(ValueError, match=f"{field}='{value}'"):
        draw_one(**arguments, seed=7, abnormal=False, index=0)


def test_shipped_benchmark_is_small_and_not_trivial():
    folders = [SHIPPED / f"{name}_AD" for name in PHANTOMS]
    if not all(folder.is_dir() for folder in folders):
        pytest.skip("data/demo is not there; `dvc pull data.dvc` fetches it")
    assert sum(tree_size(folder) for folder in folders) <= SIZE_LIMIT
    for name, scores in trivial_scores(SHIPPED).items():
        assert max(scores.values()) <= TRIVIAL_LIMIT, f"{name}: {scores}"
