"""How sure a figure is: bootstrap intervals over images, spread over support draws; tests are in `delong.py`.

The bootstrap draws *images*, normal and anomalous ones apart, also for pixel metrics: pixels of one image are
not independent, and an interval that took them so would be far too narrow. An interval speaks of other test
images only; how much the support set matters is told by `spread` over several draws of it. Where all
resamples agree, as with classes perfectly separated, it shrinks to a point: read that as "no error seen", not
as certainty. With few images and a high AUROC (20 a class, 0.96) the bootstrap holds the truth in 85 of 100
cases only; `delong_interval` keeps its promise there.

Undefined results (one class only) are None. Randomness comes from the `seed` of a call and nothing else.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mvfa_core.delong import (
    LEVEL,
    DeLong,
    Interval,
    check_level,
    delong_interval,
    delong_test,
    delong_variance,
    holm,
)
from mvfa_core.metrics import auroc, check_maps, check_scores, why_undefined
from mvfa_core.pixel_ranking import PixelRanking, binary, finite, same_shape

__all__ = [
    "DeLong",
    "Difference",
    "Interval",
    "Spread",
    "bootstrap_interval",
    "bootstrap_p",
    "delong_interval",
    "delong_test",
    "delong_variance",
    "holm",
    "image_auroc_difference",
    "image_auroc_difference_samples",
    "image_auroc_interval",
    "image_auroc_samples",
    "macro_interval",
    "macro_samples",
    "pixel_auroc_difference",
    "pixel_auroc_difference_samples",
    "pixel_auroc_interval",
    "pixel_auroc_samples",
    "spread",
]

Samples = NDArray[np.float64]  # (resamples,): a metric on each bootstrap draw

RESAMPLES = 1000
BATCH = 1 << 20  # table cells handled in one go
EDGES = 1024  # quantiles of the scores of each class that bound the bins of pixel histograms
SAMPLE = 1 << 18  # pixels of each class, at least, that the quantiles are taken from


@dataclass(frozen=True)
class Difference:
    """First minus second method, with its interval."""

    value: float
    low: float
    high: float

    @property
    def significant(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Spread:
    """Summary over repetitions; `std` divides by n - 1 and is None for a single value."""

    mean: float
    std: float | None
    min: float
    max: float


def bootstrap_interval(samples: Samples | None, level: float = LEVEL) -> Interval | None:
    """Percentile interval of resampled values (resamples,); undefined (NaN) resamples are left out.

    >>> bootstrap_interval(np.arange(101.0), level=0.5)
    Interval(low=25.0, high=75.0)
    """
    check_level(level)
    if samples is None or np.isnan(samples).all():
        return None
    low, high = np.nanquantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def bootstrap_p(samples: Samples) -> float | None:
    """Two-sided p-value of a resampled difference: twice the smaller share on either side of zero.

    One is added above and below the fraction line, so that no finite number of resamples claims p = 0; with
    1000 of them the smallest value is 0.002. None if every resample is undefined.

    >>> bootstrap_p(np.array([0.1, 0.2, -0.1, 0.3]))
    0.8
    """
    samples = samples[~np.isnan(samples)]
    if samples.size == 0:
        return None
    least = min((samples <= 0).sum(), (samples >= 0).sum())
    return min(1.0, float(2 * (least + 1) / (samples.size + 1)))


def _minus(first: Samples | None, second: Samples | None) -> Samples | None:
    return None if first is None or second is None else first - second


def _difference(first: float | None, second: float | None, samples: Samples | None) -> Difference | None:
    interval = bootstrap_interval(samples)
    if first is None or second is None or interval is None:
        return None
    return Difference(first - second, interval.low, interval.high)


def _draws(labels: NDArray[np.bool_], resamples: int, seed: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Stratified draws with replacement: places of normal (R, N0) and anomalous (R, N1) images."""
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    rng = np.random.default_rng(seed)
    strata = np.flatnonzero(~labels), np.flatnonzero(labels)
    return tuple(s[rng.integers(max(1, len(s)), size=(resamples, len(s)))] for s in strata)


def _counts(drawn: NDArray[np.intp], cells: int) -> NDArray[np.int64]:
    """How often each of `cells` values occurs in each row of (R, n): (R, cells)."""
    rows = len(drawn)
    numbered = drawn + cells * np.arange(rows)[:, None]
    return np.bincount(numbered.ravel(), minlength=rows * cells).reshape(rows, cells)


def _histogram_auroc(positive: NDArray, negative: NDArray) -> Samples:
    """AUROC per row of histograms (R, bins) over rising scores; a bin is one tie. NaN if a row is empty."""
    below = np.cumsum(negative, axis=1, dtype=np.float64) - negative / 2
    pairs = positive.sum(axis=1, dtype=np.float64) * negative.sum(axis=1, dtype=np.float64)
    wins = np.einsum("rb,rb->r", positive, below)
    return np.divide(wins, pairs, out=np.full(len(wins), np.nan), where=pairs > 0)


def _batches(rows: int, cells: int) -> Iterator[slice]:
    step = max(1, BATCH // cells)
    return (slice(start, start + step) for start in range(0, rows, step))


# --- images ---


def image_auroc_samples(
    labels: ArrayLike, scores: ArrayLike, resamples: int = RESAMPLES, seed: int = 0
) -> Samples | None:
    """AUROC of bootstrap draws of the images. Two methods with the same labels and seed get the same draws.

    Args:
        labels: (N,) 0 normal, 1 anomalous.
        scores: (N,) higher is more anomalous.
        resamples: number of draws.
        seed: of the draws.

    Returns:
        (resamples,), or None if one class is missing.

    Raises:
        ValueError: see `check_scores`; or `resamples` below 1.
    """
    truth, scores = check_scores(labels, scores)
    if why_undefined(truth):
        return None
    normal, anomalous = _draws(truth, resamples, seed)
    distinct, rank = np.unique(scores, return_inverse=True)
    bins = len(distinct)
    parts = _batches(resamples, bins)
    return np.concatenate(
        [_histogram_auroc(_counts(rank[anomalous[b]], bins), _counts(rank[normal[b]], bins)) for b in parts]
    )


def image_auroc_interval(
    labels: ArrayLike, scores: ArrayLike, resamples: int = RESAMPLES, seed: int = 0
) -> Interval | None:
    """95 % interval of the image AUROC; arguments as `image_auroc_samples`."""
    return bootstrap_interval(image_auroc_samples(labels, scores, resamples, seed))


def image_auroc_difference_samples(
    labels: ArrayLike, scores_a: ArrayLike, scores_b: ArrayLike, resamples: int = RESAMPLES, seed: int = 0
) -> Samples | None:
    """AUROC of a minus that of b on the same draws, (resamples,); arguments as `image_auroc_samples`."""
    _, scores_a = check_scores(labels, scores_a, "scores_a")
    _, scores_b = check_scores(labels, scores_b, "scores_b")
    return _minus(*(image_auroc_samples(labels, s, resamples, seed) for s in (scores_a, scores_b)))


def image_auroc_difference(
    labels: ArrayLike, scores_a: ArrayLike, scores_b: ArrayLike, resamples: int = RESAMPLES, seed: int = 0
) -> Difference | None:
    """AUROC of a minus that of b with its 95 % interval, on the same images."""
    samples = image_auroc_difference_samples(labels, scores_a, scores_b, resamples, seed)
    return _difference(auroc(labels, scores_a), auroc(labels, scores_b), samples)


# --- pixels ---


def _edges(maps: NDArray, masks: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Rising bin edges: quantiles of anomalous and of normal pixels, so that no bin holds much of either."""
    flat, truth = maps.reshape(-1), masks.reshape(-1)
    parts = []
    for chosen in (truth, ~truth):
        scores = flat[chosen]
        sample = scores[:: max(1, scores.size // SAMPLE)]
        # Between scores: an edge on a score would side with it, and move every AUROC the same way.
        quantiles = np.quantile(sample, np.linspace(0, 1, EDGES), method="midpoint").astype(np.float32)
        # A quantile found twice is a frequent score. It gets a bin of its own, being a tie in truth.
        frequent = quantiles[1:][np.diff(quantiles) == 0]
        parts += [quantiles, np.nextafter(frequent, np.float32(np.inf))]
    return np.unique(np.concatenate(parts))


def _histograms(maps: NDArray, masks: NDArray[np.bool_]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Each image's anomalous and normal pixels per bin, bins common to all: two arrays (N, bins)."""
    edges = _edges(maps, masks)
    tables = np.zeros((2, len(maps), len(edges) + 1), np.float32)
    for image, (scores, mask) in enumerate(zip(maps, masks, strict=True)):
        for table, chosen in zip(tables, (mask, ~mask), strict=True):
            values = np.sort(scores[chosen])
            table[image] = np.diff(np.searchsorted(values, edges, "left"), prepend=0, append=values.size)
    return tables[0], tables[1]


def pixel_auroc_samples(
    maps: ArrayLike, masks: ArrayLike, labels: ArrayLike, resamples: int = RESAMPLES, seed: int = 0
) -> Samples | None:
    """Pixel AUROC of bootstrap draws of the *images*, all pixels of an image going together.

    Each image is reduced to histograms over some 2000 quantile bins; a draw is a weighted sum of them. Within
    a bin pixels count as tied. That moves the AUROC by 1 / 2048 at the very most; by some 1e-5 with thousands
    of anomalous pixels, below 1e-6 with millions.

    Args:
        maps: (N, H, W) float32, higher is more anomalous.
        masks: (N, H, W) 0 normal, 1 anomalous.
        labels: (N,) of the images, the strata; one class may be missing if there are both kinds of pixels.
        resamples: number of draws.
        seed: of the draws.

    Returns:
        (resamples,), NaN where a draw has one kind of pixels only; None if all pixels are of one kind.

    Raises:
        ValueError: see `check_maps`; a score NaN or infinite; labels not (N,) in {0, 1}; `resamples` below 1.
    """
    maps, masks = check_maps(maps, masks)
    maps, truth = finite(maps, "maps", np.float32), binary(labels, "labels")
    if truth.shape != (len(maps),):
        raise ValueError(f"labels must have shape ({len(maps)},), one per map, got {truth.shape}")
    drawn = _draws(truth, resamples, seed)
    if why_undefined(masks, "pixel"):
        return None
    positive, negative = _histograms(maps, masks)
    weights = sum(_counts(places, len(maps)) for places in drawn).astype(np.float32)
    parts = _batches(resamples, positive.shape[1])
    return np.concatenate([_histogram_auroc(weights[b] @ positive, weights[b] @ negative) for b in parts])


def pixel_auroc_interval(
    maps: ArrayLike, masks: ArrayLike, labels: ArrayLike, resamples: int = RESAMPLES, seed: int = 0
) -> Interval | None:
    """95 % interval of the pixel AUROC over other images; arguments as `pixel_auroc_samples`."""
    return bootstrap_interval(pixel_auroc_samples(maps, masks, labels, resamples, seed))


def pixel_auroc_difference_samples(
    maps_a: ArrayLike,
    maps_b: ArrayLike,
    masks: ArrayLike,
    labels: ArrayLike,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Samples | None:
    """Pixel AUROC of a minus that of b on the same draws, (resamples,); else as `pixel_auroc_samples`."""
    same_shape(maps_a, maps_b, ("maps_a", "maps_b"))
    return _minus(*(pixel_auroc_samples(m, masks, labels, resamples, seed) for m in (maps_a, maps_b)))


def pixel_auroc_difference(
    maps_a: ArrayLike,
    maps_b: ArrayLike,
    masks: ArrayLike,
    labels: ArrayLike,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Difference | None:
    """Pixel AUROC of a minus that of b (exact) with its 95 % interval, on the same images."""
    samples = pixel_auroc_difference_samples(maps_a, maps_b, masks, labels, resamples, seed)
    rankings = PixelRanking(), PixelRanking()
    for ranking, maps in zip(rankings, (maps_a, maps_b), strict=True):
        ranking.update(maps, masks)
    return _difference(rankings[0].auroc(), rankings[1].auroc(), samples)


# --- over data sets and draws of the support set ---


def macro_samples(samples: Sequence[Samples], seed: int = 0) -> Samples:
    """Mean over data sets of their resampled values, (resamples,); leave out undefined data sets.

    Each data set's values are shuffled first: data sets are independent, but with equal seeds and sizes the
    same places were drawn in each.

    Raises:
        ValueError: no data set, or different numbers of resamples.
    """
    lengths = sorted({len(s) for s in samples})
    if len(lengths) != 1:
        raise ValueError(f"samples must be one or more arrays of one length, got lengths {lengths}")
    rng = np.random.default_rng(seed)
    return np.mean([rng.permutation(s) for s in samples], axis=0)


def macro_interval(samples: Sequence[Samples], seed: int = 0) -> Interval | None:
    """95 % interval of the mean over these data sets, of a metric or a difference; see `macro_samples`."""
    return bootstrap_interval(macro_samples(samples, seed))


def spread(values: ArrayLike) -> Spread:
    """Mean, standard deviation and range over repetitions, such as draws of the support set.

    >>> spread([1.0, 2.0, 3.0])
    Spread(mean=2.0, std=1.0, min=1.0, max=3.0)
    """
    values = finite(values, "values")
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"values must be a vector with at least one entry, got shape {values.shape}")
    std = float(values.std(ddof=1)) if values.size > 1 else None
    return Spread(float(values.mean()), std, float(values.min()), float(values.max()))
