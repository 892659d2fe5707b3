"""Intervals by simulation and against direct resampling, DeLong against all pairs, Holm by hand."""

import time
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from mvfa_core import uncertainty
from mvfa_core.metrics import auroc, pixel_metrics
from mvfa_core.uncertainty import Interval


def two_normals(rng, normal=50, anomalous=50, distance=1.0):
    """Labels and scores whose true AUROC is norm.cdf(distance / sqrt 2)."""
    labels = np.repeat([0, 1], [normal, anomalous])
    return labels, rng.standard_normal(labels.size) + distance * labels


def paired(seed, count=120, levels=None):
    """Two methods that see the same difficulty of an image; with `levels`, rounded so that many tie."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 3 == 0
    shared = rng.standard_normal(count) + labels
    scores = shared + 0.5 * rng.standard_normal((2, count)) + np.array([[0.4], [0.0]]) * labels
    return labels, *(np.round(scores * levels) / levels if levels else scores)


def effects(rng, images=40, side=6):
    """Maps with an effect of the whole image: pixels of one image are alike. True AUROC norm.cdf(1 / 2)."""
    labels = np.arange(images) % 2
    masks = (rng.random((images, side, side)) < 0.3) & (labels[:, None, None] == 1)
    noise = rng.standard_normal(masks.shape) + rng.standard_normal((images, 1, 1))
    return (noise + masks).astype(np.float32), masks, labels


# --- bootstrap over images ---


@pytest.mark.parametrize("levels", [None, 3], ids=["distinct", "ties"])
def test_samples_equal_direct_resampling(levels):
    labels, scores, _ = paired(0, levels=levels)
    samples = uncertainty.image_auroc_samples(labels, scores, resamples=50, seed=7)
    normal, anomalous = uncertainty._draws(labels, 50, 7)
    direct = [
        roc_auc_score(labels[np.r_[n, a]], scores[np.r_[n, a]])
        for n, a in zip(normal, anomalous, strict=True)
    ]
    np.testing.assert_allclose(samples, direct, atol=1e-12)


def test_draws_are_stratified():
    labels, *_ = paired(0)
    normal, anomalous = uncertainty._draws(labels, 20, 0)
    assert normal.shape == (20, 80) and not labels[normal].any()
    assert anomalous.shape == (20, 40) and labels[anomalous].all()


def test_batches_have_seams_without_effect(monkeypatch):
    labels, scores, _ = paired(1)
    whole = uncertainty.image_auroc_samples(labels, scores, resamples=30)
    monkeypatch.setattr(uncertainty, "BATCH", 1)
    np.testing.assert_array_equal(uncertainty.image_auroc_samples(labels, scores, resamples=30), whole)


@pytest.mark.parametrize("distance", [0.5, 1.5])
def test_image_interval_covers_the_truth(distance):
    rng = np.random.default_rng(2024)
    truth = norm.cdf(distance / np.sqrt(2))
    intervals = [
        uncertainty.image_auroc_interval(*two_normals(rng, distance=distance), resamples=500, seed=i)
        for i in range(600)
    ]
    assert 0.92 <= np.mean([i.low <= truth <= i.high for i in intervals]) <= 0.98


def test_delong_interval_covers_the_truth():
    rng = np.random.default_rng(2025)
    truth = norm.cdf(1 / np.sqrt(2))
    intervals = [uncertainty.delong_interval(*two_normals(rng)) for _ in range(1000)]
    assert 0.92 <= np.mean([i.low <= truth <= i.high for i in intervals]) <= 0.98


def test_image_difference_covers_the_truth():
    # Method b is method a with noise added: a pair of true values, correlated on the same images.
    rng = np.random.default_rng(2026)
    truth = norm.cdf(1 / np.sqrt(2)) - norm.cdf(1 / 2)
    hits = []
    for i in range(400):
        labels, scores = two_normals(rng)
        noisy = scores + rng.standard_normal(scores.size)
        found = uncertainty.image_auroc_difference(labels, scores, noisy, resamples=500, seed=i)
        hits.append(found.low <= truth <= found.high)
    assert 0.92 <= np.mean(hits) <= 0.98


def test_pixel_interval_covers_the_truth():
    rng = np.random.default_rng(2027)
    truth = norm.cdf(1 / 2)
    hits, narrow = [], []
    for i in range(300):
        maps, masks, labels = effects(rng, images=100, side=4)
        found = uncertainty.pixel_auroc_interval(maps, masks, labels, resamples=300, seed=i)
        hits.append(found.low <= truth <= found.high)
        # The same pixels, each taken for an image of its own.
        alone = uncertainty.delong_interval(masks.ravel(), maps.ravel())
        narrow.append(alone.low <= truth <= alone.high)
    assert 0.92 <= np.mean(hits) <= 0.98
    assert np.mean(narrow) < 0.85  # far from what it promises


def test_interval_is_fast():
    labels, scores = two_normals(np.random.default_rng(0), 200, 200)
    start = time.perf_counter()
    uncertainty.image_auroc_interval(labels, scores, resamples=1000)
    assert time.perf_counter() - start < 1


def test_same_seed_same_interval_other_seed_other():
    labels, scores, _ = paired(2)
    first = uncertainty.image_auroc_interval(labels, scores, seed=1)
    assert first == uncertainty.image_auroc_interval(labels, scores, seed=1)
    assert first != uncertainty.image_auroc_interval(labels, scores, seed=2)
    assert first.low < auroc(labels, scores) < first.high


@pytest.mark.parametrize("scores", [np.ones(6), np.array([0, 0, 0, 1, 1, 1])], ids=["constant", "perfect"])
def test_intervals_without_variation(scores):
    labels = np.array([0, 0, 0, 1, 1, 1])
    value = auroc(labels, scores)
    assert uncertainty.image_auroc_interval(labels, scores) == Interval(value, value)


def test_paired_difference_is_narrower_than_unpaired():
    labels, first, second = paired(3)
    found = uncertainty.image_auroc_difference(labels, first, second, seed=0)
    assert found.value == auroc(labels, first) - auroc(labels, second)
    assert found.low < found.value < found.high
    apart = uncertainty.image_auroc_samples(labels, first, seed=0) - uncertainty.image_auroc_samples(
        labels, second, seed=1
    )
    unpaired = uncertainty.bootstrap_interval(apart)
    assert found.high - found.low < unpaired.high - unpaired.low


def test_no_difference_from_itself():
    labels, scores, _ = paired(4)
    found = uncertainty.image_auroc_difference(labels, scores, 3 * scores + 1)
    assert found == uncertainty.Difference(0.0, 0.0, 0.0)
    assert not found.significant


def test_significance_is_an_interval_without_zero():
    assert uncertainty.Difference(0.1, 0.01, 0.2).significant
    assert uncertainty.Difference(-0.1, -0.2, -0.01).significant
    assert not uncertainty.Difference(0.1, -0.01, 0.2).significant


# --- bootstrap of pixels over images ---


@pytest.mark.parametrize("levels", [None, 2], ids=["distinct", "ties"])
def test_pixel_samples_equal_direct_resampling(levels):
    maps, masks, labels = effects(np.random.default_rng(5), images=30, side=20)
    if levels:  # half of the pixels on a few frequent scores, the others between them
        maps = np.where(np.arange(maps.size).reshape(maps.shape) % 2, maps, np.round(maps * levels) / levels)
    samples = uncertainty.pixel_auroc_samples(maps, masks, labels, resamples=20, seed=3)
    places = np.hstack(uncertainty._draws(labels == 1, 20, 3))
    direct = [pixel_metrics(maps[p], masks[p])["pixel_auroc"] for p in places]
    np.testing.assert_allclose(samples, direct, atol=3e-5)


def test_pixel_interval_holds_the_value():
    maps, masks, labels = effects(np.random.default_rng(6))
    found = uncertainty.pixel_auroc_interval(maps, masks, labels)
    assert found.low < pixel_metrics(maps, masks)["pixel_auroc"] < found.high


def test_pixel_difference():
    maps, masks, labels = effects(np.random.default_rng(7))
    better = maps + masks
    found = uncertainty.pixel_auroc_difference(better, maps, masks, labels)
    value = pixel_metrics(better, masks)["pixel_auroc"] - pixel_metrics(maps, masks)["pixel_auroc"]
    assert found.value == pytest.approx(value)
    assert found.low < value < found.high
    assert found.significant
    assert uncertainty.pixel_auroc_difference(maps, maps, masks, labels).significant is False


def test_anomalous_images_only():
    # Normal pixels of anomalous images are enough for a pixel metric.
    maps, masks, labels = effects(np.random.default_rng(8))
    chosen = labels == 1
    found = uncertainty.pixel_auroc_interval(maps[chosen], masks[chosen], labels[chosen])
    assert 0 < found.low < found.high < 1


def test_draws_without_anomalous_pixels_are_left_out():
    maps, masks, labels = effects(np.random.default_rng(9), images=4)
    masks[1] = False  # one of two anomalous images, but nothing drawn in it
    samples = uncertainty.pixel_auroc_samples(maps, masks, labels, resamples=200)
    assert 0.1 < np.isnan(samples).mean() < 0.4  # a quarter of the draws take it twice
    assert uncertainty.bootstrap_interval(samples) is not None


# --- undefined and wrong input ---


def test_undefined_is_none():
    one, scores = np.zeros(5, int), np.arange(5.0)
    maps, masks, labels = effects(np.random.default_rng(10))
    empty = np.zeros_like(masks)
    assert uncertainty.image_auroc_interval(one, scores) is None
    assert uncertainty.image_auroc_difference(one, scores, scores) is None
    assert uncertainty.pixel_auroc_interval(maps, empty, labels) is None
    assert uncertainty.pixel_auroc_difference(maps, maps, empty, labels) is None
    assert uncertainty.delong_test(one, scores, scores) is None
    assert uncertainty.delong_variance([0, 0, 1], [1, 2, 3]) is None
    assert uncertainty.delong_interval([0, 0, 1, 1], [1, 2, 3, 4]) is None
    assert uncertainty.bootstrap_interval(np.full(3, np.nan)) is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: uncertainty.image_auroc_interval([0, 1], [0, 1], resamples=0),
            "resamples must be at least 1",
        ),
        (
            lambda: uncertainty.image_auroc_difference([0, 1], [0, 1], [0]),
            "labels and scores_b must have the same",
        ),
        (lambda: uncertainty.delong_test([0, 1], [0, np.inf], [0, 1]), "scores_a must be finite"),
        (lambda: uncertainty.delong_interval([0, 1], [0, 1], level=95), r"level must be in \(0, 1\), got 95"),
        (lambda: uncertainty.holm([0.5, 1.5]), r"p_values must be a vector in \[0, 1\]"),
        (lambda: uncertainty.spread([]), "values must be a vector with at least one entry"),
        (lambda: uncertainty.macro_interval([]), r"got lengths \[\]"),
        (lambda: uncertainty.macro_interval([np.ones(3), np.ones(4)]), r"got lengths \[3, 4\]"),
        (
            lambda: uncertainty.pixel_auroc_interval(np.zeros((2, 3, 3)), np.zeros((2, 3, 3)), [0]),
            r"labels must have shape \(2,\), one per map, got \(1,\)",
        ),
    ],
)
def test_wrong_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_results_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        Interval(0.0, 1.0).low = 0.5


# --- over data sets and draws ---


def test_macro_interval_is_that_of_a_mean():
    rng = np.random.default_rng(11)
    samples = [rng.normal(mean, 0.02, 20_000) for mean in (0.7, 0.8, 0.9)]
    found = uncertainty.macro_interval(samples)
    half = 1.96 * 0.02 / np.sqrt(3)
    assert (found.low, found.high) == pytest.approx((0.8 - half, 0.8 + half), abs=1e-3)


def test_macro_interval_does_not_couple_data_sets():
    # Two data sets resampled with one seed: unshuffled, their values would rise and fall together.
    samples = np.random.default_rng(12).normal(0.8, 0.02, 20_000)
    found = uncertainty.macro_interval([samples, samples])
    assert found.high - found.low == pytest.approx(2 * 1.96 * 0.02 / np.sqrt(2), rel=0.05)


def test_spread_by_hand():
    assert uncertainty.spread([0.7, 0.9, 0.8]) == uncertainty.Spread(
        pytest.approx(0.8), pytest.approx(0.1), 0.7, 0.9
    )
    assert uncertainty.spread([0.7]) == uncertainty.Spread(0.7, None, 0.7, 0.7)


# --- DeLong and Holm ---


def delong_by_pairs(labels, first, second):
    """DeLong's covariance from the matrix of all pairs, as in the paper of 1988."""
    kernels = []
    for scores in (first, second):
        gaps = scores[labels][:, None] - scores[~labels]
        kernels.append((gaps > 0) + 0.5 * (gaps == 0))
    areas = [k.mean() for k in kernels]
    rows, columns = (np.cov([k.mean(axis=axis) for k in kernels]) for axis in (1, 0))
    covariance = rows / labels.sum() + columns / (~labels).sum()
    z = (areas[0] - areas[1]) / np.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    return *areas, z, covariance[0, 0]


@pytest.mark.parametrize("levels", [None, 3], ids=["distinct", "ties"])
@pytest.mark.parametrize("seed", range(5))
def test_delong_equals_all_pairs(seed, levels):
    labels, first, second = paired(seed, levels=levels)
    a, b, z, variance = delong_by_pairs(labels, first, second)
    found = uncertainty.delong_test(labels, first, second)
    assert (found.auc_a, found.auc_b, found.z) == pytest.approx((a, b, z))
    assert found.p == pytest.approx(2 * norm.cdf(-abs(z)))
    assert uncertainty.delong_variance(labels, first) == pytest.approx(variance)


def test_delong_variance_is_that_of_the_bootstrap():
    labels, scores = two_normals(np.random.default_rng(13), 200, 200)
    samples = uncertainty.image_auroc_samples(labels, scores, resamples=4000)
    assert np.sqrt(uncertainty.delong_variance(labels, scores)) == pytest.approx(samples.std(), rel=0.06)


@pytest.mark.parametrize(
    "second", [[0.1, 0.4, 0.35, 0.8], [1.0, 4.0, 3.5, 8.0]], ids=["identical", "same ranking"]
)
def test_delong_of_equal_methods(second):
    assert uncertainty.delong_test([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8], second) == uncertainty.DeLong(
        0.75, 0.75, 0.0, 1.0
    )


def test_delong_of_draws_is_delong_of_their_mean_kernel():
    rng = np.random.default_rng(15)
    labels, first, second = paired(15)
    several = first + 0.3 * rng.standard_normal((4, first.size))
    found = uncertainty.delong_test(labels, several, second)
    assert found.auc_a == pytest.approx(np.mean([auroc(labels, row) for row in several]))
    assert uncertainty.delong_test(labels, second, several).z == pytest.approx(-found.z)
    with pytest.raises(ValueError, match=r"scores_a must have shape \(N,\) or \(draws, N\), got \(0, 120\)"):
        uncertainty.delong_test(labels, several[:0], second)


def test_bootstrap_p_by_hand():
    assert uncertainty.bootstrap_p(np.linspace(0.1, 1, 999)) == pytest.approx(2 / 1000)
    assert uncertainty.bootstrap_p(np.array([-1.0, 1.0, 1.0, np.nan])) == 1.0
    assert uncertainty.bootstrap_p(np.zeros(10)) == 1.0
    assert uncertainty.bootstrap_p(np.full(3, np.nan)) is None


def test_delong_claims_nothing_without_variance():
    found = uncertainty.delong_test([0, 0, 0, 1, 1, 1], [1, 2, 3, 4, 5, 6], np.zeros(6))
    assert found == uncertainty.DeLong(1.0, 0.5, 0.0, 1.0)


def test_delong_p_values_are_uniform_without_difference():
    rng = np.random.default_rng(14)
    found = []
    for _ in range(600):
        labels, scores = two_normals(rng)
        noise = rng.standard_normal((2, scores.size))
        found.append(uncertainty.delong_test(labels, *(scores + noise)).p)
    assert 0.02 <= np.mean(np.array(found) < 0.05) <= 0.08
    assert 0.43 <= np.mean(np.array(found) < 0.5) <= 0.57


def test_holm_by_hand():
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1: 0.02, 0.03, 0.06, 0.04 -> the last may not be smaller.
    assert uncertainty.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert uncertainty.holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    assert uncertainty.holm([0.02]) == pytest.approx([0.02])
    assert uncertainty.holm([]).shape == (0,)
