"""Pixel ranking against scikit-learn and by hand: ties, order of chunks, threads, memory, wrong input."""

import tracemalloc

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from mvfa_core import pixel_ranking
from mvfa_core.pixel_ranking import PixelRanking, sort_scores


def ranked(maps, masks, **options):
    ranking = PixelRanking(**options)
    ranking.update(maps, masks)
    return ranking


def pixels(seed, count, share=0.05, levels=None):
    """Scores of two normals one apart; with `levels`, rounded to that many steps a unit: many tie."""
    rng = np.random.default_rng(seed)
    masks = rng.random(count) < share
    maps = rng.standard_normal(count, dtype=np.float32) + masks.astype(np.float32)
    return (np.round(maps * levels) / levels if levels else maps).astype(np.float32), masks


def test_by_hand():
    # Pairs: 0.6 beats 0.2 and ties with 0.6, 0.3 beats 0.2: (1 + 0.5 + 1) / 4.
    ranking = ranked([0.2, 0.6, 0.6, 0.3], [0, 0, 1, 1])
    assert ranking.auroc() == pytest.approx(2.5 / 4)
    # At 0.6: one hit of two found, recall 1/2. At 0.3: two of three, recall 1.
    assert ranking.average_precision() == pytest.approx(0.5 * 0.5 + 0.5 * 2 / 3)
    assert ranking.best_dice() == (pytest.approx(0.8), pytest.approx(0.3))


@pytest.mark.parametrize("levels", [None, 100, 1], ids=["distinct", "some ties", "mostly ties"])
@pytest.mark.parametrize("share", [0.0001, 0.05, 0.5, 0.97])
def test_equals_scikit_learn(levels, share):
    maps, masks = pixels(0, 200_000, share, levels)
    ranking = ranked(maps, masks)
    assert ranking.auroc() == pytest.approx(roc_auc_score(masks, maps), abs=1e-9)
    assert ranking.average_precision() == pytest.approx(average_precision_score(masks, maps), abs=1e-9)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_scores_of_any_magnitude(scale):
    maps, masks = pixels(1, 10_000)
    maps = maps * np.float32(scale)
    assert ranked(maps, masks).auroc() == pytest.approx(roc_auc_score(masks, maps), abs=1e-9)


def test_constant_scores_are_chance():
    masks = np.arange(200_000) % 4 == 0
    ranking = ranked(np.full(masks.shape, 3.0), masks)
    assert ranking.auroc() == 0.5
    assert ranking.average_precision() == pytest.approx(0.25)
    assert ranking.best_dice() == (pytest.approx(0.4), 3.0)


def test_negative_zero_ties_with_zero():
    assert ranked([0.0, -0.0], [1, 0]).auroc() == 0.5


@pytest.mark.parametrize("value", [0, 1])
def test_one_class_is_undefined(value):
    ranking = ranked(np.arange(4.0), np.full(4, value))
    assert ranking.auroc() is None
    assert ranking.average_precision() is None
    assert ranking.best_dice() is None


def test_no_pixels_are_undefined():
    assert PixelRanking().auroc() is None


def test_best_dice_over_all_thresholds():
    maps, masks = pixels(2, 3000, levels=20)
    found = [maps >= t for t in np.unique(maps)]
    dice = np.array([2 * (f & masks).sum() / (f.sum() + masks.sum()) for f in found])
    value, threshold = ranked(maps, masks).best_dice()
    assert value == pytest.approx(dice.max())
    assert threshold == np.unique(maps)[dice.argmax()]


def test_false_positives_count_ties_apart():
    ranking = ranked([0.1, 0.5, 0.5, 0.9, 0.7], [0, 0, 0, 0, 1])
    above, reached = ranking.false_positives([[0.5, 0.0], [0.9, 2.0]])
    assert above.tolist() == [[1, 4], [0, 0]]
    assert reached.tolist() == [[3, 4], [1, 0]]


def test_chunks_of_any_shape_give_the_same():
    maps, masks = pixels(3, 60_000, levels=50)
    whole = ranked(maps, masks)
    parts = PixelRanking()
    parts.update(maps[:1], masks[:1])
    parts.update(maps[1:1], masks[1:1])
    parts.update(maps[1:30_001].reshape(3, 100, 100), masks[1:30_001].reshape(3, 100, 100).astype(np.uint8))
    assert parts.auroc() != whole.auroc()  # asked for in between, it must not freeze
    parts.update(maps[30_001:][::-1], masks[30_001:][::-1])
    assert parts.auroc() == whole.auroc()
    assert parts.average_precision() == pytest.approx(whole.average_precision(), abs=1e-12)
    assert parts.best_dice() == whole.best_dice()
    assert (parts.positives, parts.negatives) == (masks.sum(), (~masks).sum())


def test_windows_and_chunks_have_seams_without_effect(monkeypatch):
    maps, masks = pixels(4, 5000, share=0.3, levels=10)
    whole = ranked(maps, masks)
    monkeypatch.setattr(pixel_ranking, "WINDOW", 7)
    monkeypatch.setattr(pixel_ranking, "CHUNK", 11)
    small = ranked(maps, masks)
    assert small.auroc() == whole.auroc()
    assert small.average_precision() == pytest.approx(whole.average_precision(), abs=1e-12)
    assert small.best_dice() == whole.best_dice()


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize(
    "make",
    [
        lambda x: x,
        lambda x: np.round(x),
        lambda x: np.full_like(x, -2.5),
        lambda x: np.where(x > 3, x, 0),  # nearly all alike
        lambda x: 1 + x * 1e-6,  # neighbouring floats
        lambda x: np.exp(9 * x),  # many magnitudes
        lambda x: -np.exp(-9 * np.abs(x)),
        lambda x: x * 1e-42,  # subnormal
        lambda x: np.where(x > 0, np.finfo(np.float32).max, np.finfo(np.float32).min),
    ],
    ids=["normal", "ties", "constant", "spike", "narrow", "wide", "negative", "subnormal", "extreme"],
)
def test_buckets_sort_any_distribution(make, workers, monkeypatch):
    monkeypatch.setattr(pixel_ranking, "WORTH_DEALING", 0)
    monkeypatch.setattr(pixel_ranking, "CHUNK", 10_000)
    monkeypatch.setattr(pixel_ranking, "SAMPLE", 500)
    values = make(pixels(5, 50_001)[0]).astype(np.float32)
    expected = np.sort(values)
    np.testing.assert_array_equal(sort_scores(values, workers), expected)


def test_dealt_pixels_can_be_added_to(monkeypatch):
    maps, masks = pixels(7, 20_000, levels=40)
    whole = ranked(maps, masks)
    monkeypatch.setattr(pixel_ranking, "WORTH_DEALING", 0)
    parts = ranked(maps[:7000], masks[:7000])
    parts.auroc()
    parts.update(maps[7000:], masks[7000:])
    assert parts.auroc() == whole.auroc()
    assert parts.best_dice() == whole.best_dice()


def test_input_is_left_alone():
    maps, masks = pixels(6, 1000)
    kept = maps.copy()
    ranked(maps, masks).auroc()
    np.testing.assert_array_equal(maps, kept)


def test_memory_is_two_float32_per_pixel():
    count, chunk = 8_000_000, 500_000
    ranking = PixelRanking()
    tracemalloc.start()
    for start in range(0, count, chunk):
        scores = np.arange(start, start + chunk, dtype=np.float32)
        ranking.update(scores, scores % 50 == 0)
    ranking.auroc()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # Twice while sorting, a reserve of an eighth, and some 25 MB that do not grow with the number of pixels.
    assert peak < (2 + 1 / 8) * 4 * count + 25e6


@pytest.mark.parametrize(
    ("maps", "masks", "message"),
    [
        ([0.1, 0.2], [0], r"maps and masks must have the same shape, got \(2,\) and \(1,\)"),
        ([0.1, np.nan], [0, 1], "maps must be finite in float32, got 1 NaN and 0 infinite"),
        ([-np.inf, 1e300], [0, 1], "maps must be finite in float32, got 0 NaN and 2 infinite"),
        ([0.1, 0.2], [0, 255], r"masks must be in \{0, 1\}, got 255"),
        ([0.1, 0.2], [0, 0.5], r"masks must be in \{0, 1\}, got 0.5"),
    ],
)
def test_wrong_input_is_named(maps, masks, message):
    with pytest.raises(ValueError, match=message):
        PixelRanking().update(maps, masks)


def test_wrong_number_of_workers_is_named():
    with pytest.raises(ValueError, match="workers must be at least 1, got 0"):
        PixelRanking(workers=0)
