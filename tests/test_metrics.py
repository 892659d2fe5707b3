"""Each metric against another implementation or by hand; ties, constant scores, one class, wrong input."""

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score
from torchmetrics.functional.classification import (
    binary_auroc,
    binary_average_precision,
    binary_sensitivity_at_specificity,
)

from mvfa_core import metrics

IMAGE_KEYS = {"image_auroc", "image_ap", "image_f1_max", "image_f1_threshold", "image_sens_at_95_spec"}
PIXEL_KEYS = {"pixel_auroc", "pixel_ap", "pro", "best_dice", "best_dice_threshold"}


def images(seed, count=120, levels=None):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count)
    scores = rng.random(count) + 0.3 * labels
    return labels, np.round(scores * levels) / levels if levels else scores


def blobs(seed, count=6, side=24, levels=None):
    """Maps and masks with a few rectangles, some touching at a corner; every third image normal."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((count, side, side), bool)
    for mask in (mask for image, mask in enumerate(masks) if image % 3):
        for _ in range(3):
            top, left = rng.integers(0, side - 6, 2)
            height, width = rng.integers(1, 6, 2)
            mask[top : top + height, left : left + width] = True
    maps = (rng.random(masks.shape) + 0.5 * masks).astype(np.float32)
    return (np.round(maps * levels) / levels if levels else maps).astype(np.float32), masks


def parts(mask):
    """Pixels of each 8-connected region, by flood fill."""
    left = set(zip(*np.nonzero(mask), strict=True))
    while left:
        region, border = set(), [left.pop()]
        while border:
            y, x = border.pop()
            region.add((y, x))
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            border.extend(near)
        yield tuple(np.array(sorted(region)).T)


def overlap_by_sweep(maps, masks, limit=0.3):
    """PRO by its definition: every threshold, every region; trapezoids up to the limit."""
    regions = [(image, *region) for image, mask in enumerate(masks) for region in parts(mask)]
    rates, overlaps = [0.0], [0.0]
    for threshold in np.unique(maps)[::-1]:
        found = maps >= threshold
        rates.append(found[~masks].mean())
        overlaps.append(np.mean([found[region].mean() for region in regions]))
    rates, overlaps = np.array(rates), np.array(overlaps)
    inside = rates <= limit
    x = np.append(rates[inside], limit)
    # np.interp leaves open which of several equal rates it takes; the crossing segment is unambiguous.
    after = np.flatnonzero(~inside)[0]
    rise = (overlaps[after] - overlaps[after - 1]) / (rates[after] - rates[after - 1])
    y = np.append(overlaps[inside], overlaps[after - 1] + rise * (limit - rates[after - 1]))
    return float((np.diff(x) * (y[1:] + y[:-1]) / 2).sum() / limit)


# --- images ---


@pytest.mark.parametrize("levels", [None, 5], ids=["distinct", "ties"])
@pytest.mark.parametrize("seed", range(5))
def test_auroc_counts_pairs(seed, levels):
    labels, scores = images(seed, levels=levels)
    gaps = scores[labels == 1][:, None] - scores[labels == 0]
    assert metrics.auroc(labels, scores) == pytest.approx(np.mean((gaps > 0) + 0.5 * (gaps == 0)))


@pytest.mark.parametrize("levels", [None, 5], ids=["distinct", "ties"])
@pytest.mark.parametrize("seed", range(5))
def test_image_metrics_equal_torchmetrics(seed, levels):
    labels, scores = images(seed, levels=levels)
    scores = scores / scores.max()  # torchmetrics takes values outside [0, 1] for logits
    found = metrics.image_metrics(labels, scores)
    tensors = torch.tensor(scores), torch.tensor(labels)
    assert found["image_auroc"] == pytest.approx(binary_auroc(*tensors).item(), abs=1e-6)
    assert found["image_ap"] == pytest.approx(binary_average_precision(*tensors).item(), abs=1e-6)
    sensitivity, _ = binary_sensitivity_at_specificity(*tensors, min_specificity=0.95)
    assert found["image_sens_at_95_spec"] == pytest.approx(sensitivity.item(), abs=1e-6)


@pytest.mark.parametrize("levels", [None, 5], ids=["distinct", "ties"])
@pytest.mark.parametrize("seed", range(5))
def test_f1_max_over_all_thresholds(seed, levels):
    labels, scores = images(seed, levels=levels)
    best = max((f1_score(labels, scores >= t), t) for t in np.unique(scores))
    assert metrics.f1_max(labels, scores) == pytest.approx(best)


def test_f1_max_takes_the_higher_of_two_thresholds():
    # At 0.4 (all): 2 * 2 / (4 + 2) = 2/3; at 0.9: 2 * 1 / (1 + 2) = 2/3.
    assert metrics.f1_max([1, 0, 0, 1], [0.9, 0.5, 0.6, 0.4]) == (pytest.approx(2 / 3), 0.9)


def test_f1_max_where_the_best_scores_are_wrong():
    assert metrics.f1_max([0, 1], [0.9, 0.1]) == (pytest.approx(2 / 3), 0.1)


@pytest.mark.parametrize(
    ("specificity", "expected"), [(1.0, 0.2), (0.95, 0.2), (0.9, 0.4), (0.8, 0.6), (0.0, 1.0)]
)
def test_sensitivity_in_whole_images(specificity, expected):
    normal = np.arange(1, 11)  # 1 .. 10
    anomalous = np.array([10.5, 9.5, 8.5, 3.5, 0.5])
    labels = np.repeat([0, 1], [10, 5])
    scores = np.concatenate([normal, anomalous])
    assert metrics.sensitivity_at_specificity(labels, scores, specificity) == pytest.approx(expected)


def test_sensitivity_cannot_split_ties():
    assert metrics.sensitivity_at_specificity([0, 0, 1, 1], [1, 2, 2, 2]) == 0.0


def test_constant_image_scores_are_chance():
    found = metrics.image_metrics([0, 0, 0, 1], [7.0] * 4)
    assert found == {
        "image_auroc": 0.5,
        "image_ap": 0.25,
        "image_f1_max": pytest.approx(0.4),
        "image_f1_threshold": 7.0,
        "image_sens_at_95_spec": 0.0,
    }


def test_perfect_image_scores():
    found = metrics.image_metrics([0, 0, 1], [-3.0, -2.0, -1.0])
    assert found == dict.fromkeys(IMAGE_KEYS, 1.0) | {"image_f1_threshold": -1.0}


@pytest.mark.parametrize("labels", [[0, 0, 0], [1, 1, 1], []])
def test_one_class_of_images_is_undefined(labels):
    scores = np.linspace(0, 1, len(labels))
    assert metrics.image_metrics(labels, scores) == dict.fromkeys(IMAGE_KEYS)


def test_values_are_plain_floats():
    labels, scores = images(0)
    values = {**metrics.image_metrics(labels, scores.astype(np.float32)), **metrics.pixel_metrics(*blobs(0))}
    assert {type(v) for v in values.values()} == {float}


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        ([0, 1], None),
        ([0, 0], "one class only: all 2 images are normal"),
        ([1], "one class only: all 1 images are anomalous"),
        ([], "there are no images"),
    ],
)
def test_why_undefined(labels, reason):
    assert metrics.why_undefined(labels) == reason


# --- pixels ---


@pytest.mark.parametrize("levels", [None, 10, 2], ids=["distinct", "ties", "mostly ties"])
@pytest.mark.parametrize("seed", range(4))
def test_overlap_equals_a_sweep_over_all_thresholds(seed, levels):
    maps, masks = blobs(seed, levels=levels)
    assert metrics.pixel_metrics(maps, masks)["pro"] == pytest.approx(overlap_by_sweep(maps, masks), abs=1e-9)


def test_overlap_weighs_regions_alike():
    # A large region missed and a small one found: half the overlap at any false positive rate below 30 %.
    masks = np.zeros((1, 10, 20), bool)
    masks[0, 0, 0] = True
    masks[0, 5:10, 5:10] = True
    maps = np.where(masks, -1.0, 0.0)
    maps[0] += np.linspace(0, 0.5, 200).reshape(10, 20) * ~masks[0]
    maps[0, 0, 0] = 1.0
    assert metrics.pixel_metrics(maps, masks)["pro"] == pytest.approx(0.5)


def test_pixels_touching_at_a_corner_are_one_region():
    # A diagonal pair, one pixel of it found, and a pixel apart, found. Four neighbours would make it 2 of 3.
    masks = np.zeros((1, 6, 6), bool)
    masks[0, [0, 1, 4], [0, 1, 4]] = True
    maps = np.zeros((1, 6, 6))
    maps[0, 0, 0] = maps[0, 4, 4] = 1.0
    maps[0, 1, 1] = -1.0
    assert metrics.pixel_metrics(maps, masks)["pro"] == pytest.approx((0.5 + 1) / 2)


def test_overlap_by_hand_with_ties():
    # One region of two pixels; ten normal pixels. Rate 0.2 is reached together with half the region (a ramp),
    # then eight normal pixels and the other half tie: the curve runs 0 -> (0.2, 0.5) -> (1, 1).
    masks = np.zeros((1, 3, 4), bool)
    masks[0, 0, :2] = True
    maps = np.array([[[2, 1, 2, 2], [1, 1, 1, 1], [1, 1, 1, 1]]], np.float32)
    area = 0.2 * 0.5 / 2 + 0.1 * (0.5 + 0.5625) / 2
    assert metrics.pixel_metrics(maps, masks)["pro"] == pytest.approx(area / 0.3)


def test_perfect_maps():
    _, masks = blobs(1)
    expected = dict.fromkeys(PIXEL_KEYS, 1.0)
    assert metrics.pixel_metrics(masks.astype(np.float32), masks) == pytest.approx(expected)


def test_constant_maps():
    _, masks = blobs(1)
    share = masks.mean()
    found = metrics.pixel_metrics(np.zeros(masks.shape), masks)
    assert found["pixel_auroc"] == 0.5
    assert found["pixel_ap"] == pytest.approx(share)
    assert found["pro"] == pytest.approx(0.15)  # the diagonal up to 0.3, divided by 0.3
    assert found["best_dice"] == pytest.approx(2 * share / (1 + share))


@pytest.mark.parametrize("value", [0, 1])
def test_empty_and_full_masks_are_undefined(value):
    masks = np.full((2, 4, 4), value)
    assert metrics.pixel_metrics(np.random.default_rng(0).random(masks.shape), masks) == dict.fromkeys(
        PIXEL_KEYS
    )
    kind = "anomalous" if value else "normal"
    assert metrics.why_undefined(masks, "pixel") == f"one class only: all 32 pixels are {kind}"


def test_macro_average():
    assert metrics.macro_average([0.6, None, 0.8]) == pytest.approx(0.7)
    assert metrics.macro_average([None]) is None


# --- wrong input ---


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([0, 1], [0.1], r"labels and scores must have the same shape, got \(2,\) and \(1,\)"),
        ([[0, 1]], [[0.1, 0.2]], r"labels must be one-dimensional, got shape \(1, 2\)"),
        ([0, 2], [0.1, 0.2], r"labels must be in \{0, 1\}, got 2"),
        ([0, -1], [0.1, 0.2], r"labels must be in \{0, 1\}, got -1"),
        ([0, 1], [0.1, np.nan], "scores must be finite in float64, got 1 NaN and 0 infinite"),
        ([0, 1], [0.1, np.inf], "scores must be finite in float64, got 0 NaN and 1 infinite"),
    ],
)
def test_wrong_image_input_is_named(labels, scores, message):
    with pytest.raises(ValueError, match=message):
        metrics.image_metrics(labels, scores)


@pytest.mark.parametrize(
    ("maps", "masks", "message"),
    [
        (np.zeros((2, 4, 4)), np.zeros((2, 4, 5)), "maps and masks must have the same shape"),
        (np.zeros((4, 4)), np.zeros((4, 4)), r"maps must have shape \(images, height, width\), got \(4, 4\)"),
        (np.full((1, 2, 2), np.nan), np.zeros((1, 2, 2)), "maps must be finite in float32, got 4 NaN"),
        (np.zeros((1, 2, 2)), np.full((1, 2, 2), 255), r"masks must be in \{0, 1\}, got 255"),
    ],
)
def test_wrong_pixel_input_is_named(maps, masks, message):
    with pytest.raises(ValueError, match=message):
        metrics.pixel_metrics(maps, masks)


@pytest.mark.parametrize("specificity", [-0.1, 95])
def test_wrong_specificity_is_named(specificity):
    with pytest.raises(ValueError, match=f"specificity must be in \\[0, 1\\], got {specificity}"):
        metrics.sensitivity_at_specificity([0, 1], [0.1, 0.2], specificity)
