"""Exact ranking metrics over hundreds of millions of pixels, in one float32 per pixel.

Area under the ROC curve, average precision and best Dice need no ordering of all pixels with their labels.
It is enough to know, for every anomalous pixel, how many normal pixels score above it and how many tie with
it (the Mann-Whitney form of the area). So anomalous and normal scores are kept apart, each is sorted, and
the one is looked up in the other: no index array of all pixels, no float64 copy, no curve.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

CHUNK = 1 << 18  # pixels handled in one go: they and their temporaries stay in the cache
WINDOW = 1 << 16  # anomalous pixels looked up in one go: their stretch of normal pixels stays in the cache
GROWTH = 1.125  # memory reserved ahead when a column of scores is full
MOST_WORKERS = 4
WORTH_DEALING = 1 << 20  # below this many pixels buckets cost more than they bring
BUCKETS = 1024
SAMPLE = 1 << 20  # pixels that tell where the bounds of buckets belong


def binary(values: ArrayLike, name: str) -> NDArray[np.bool_]:
    """`values` as booleans, any shape; `ValueError` if one is neither 0 nor 1 (255, say, or NaN)."""
    values = np.asarray(values)
    if values.dtype == bool:
        return values
    strange = values[(values != 0) & (values != 1)]
    if strange.size:
        raise ValueError(f"{name} must be in {{0, 1}}, got {strange.flat[0].item()!r}")
    return values.astype(bool)


def finite(values: ArrayLike, name: str, dtype: type = np.float64) -> NDArray[np.floating]:
    """`values` as `dtype`, any shape; `ValueError` if one is NaN or infinite (in `dtype`)."""
    with np.errstate(over="ignore"):  # a float64 beyond float32's range becomes infinite and is told below
        values = np.asarray(values).astype(dtype, copy=False)
    if not np.isfinite(values).all():
        missing, infinite = int(np.isnan(values).sum()), int(np.isinf(values).sum())
        kind = np.dtype(dtype).name
        raise ValueError(f"{name} must be finite in {kind}, got {missing} NaN and {infinite} infinite")
    return values


def same_shape(first: ArrayLike, second: ArrayLike, names: tuple[str, str]) -> None:
    """`ValueError` if the two arrays differ in shape."""
    if np.shape(first) != np.shape(second):
        shapes = f"{np.shape(first)} and {np.shape(second)}"
        raise ValueError(f"{names[0]} and {names[1]} must have the same shape, got {shapes}")


class _Column:
    """A growing float32 vector. It grows by `realloc`, which moves large blocks without copying."""

    def __init__(self) -> None:
        self._buffer = np.empty(0, np.float32)
        self.size = 0

    def append(self, values: NDArray[np.float32]) -> None:
        needed = self.size + values.size
        if not self._buffer.flags.owndata:
            self._buffer = self._buffer.copy()  # sorted in place, it is a view of the buffer
        if needed > self._buffer.size:
            # No view of the buffer outlives a method of PixelRanking, hence no reference check.
            self._buffer.resize(max(needed, int(GROWTH * self._buffer.size)), refcheck=False)
        self._buffer[self.size : needed] = values
        self.size = needed

    def sort(self, workers: int) -> None:
        self._buffer = sort_scores(self.values, workers)

    @property
    def values(self) -> NDArray[np.float32]:
        return self._buffer[: self.size]


def sort_scores(values: NDArray[np.float32], workers: int = 1) -> NDArray[np.float32]:
    """The finite `values` (n,) in rising order; overwrites them, and takes as much memory again meanwhile.

    Numpy's sort alone would do, and on many processors is faster still; on others (AMD Zen 4, or numpy 1.26
    without AVX-512) it takes six times longer. Hence large vectors are first dealt out to buckets of rising
    score, small enough to be sorted within the cache. Dealing rests on a stable argsort of 16-bit integers,
    which numpy does by radix, quick everywhere.
    """
    if values.size < WORTH_DEALING:
        values.sort()
        return values
    bucket_of = _dealer(values)
    parts = [values[start : start + CHUNK] for start in range(0, values.size, CHUNK)]

    def deal(part: NDArray[np.float32]) -> NDArray[np.int64]:
        buckets = bucket_of(part)
        part[:] = part[np.argsort(buckets, kind="stable")]
        return np.concatenate([[0], np.cumsum(np.bincount(buckets, minlength=BUCKETS))])

    with ThreadPoolExecutor(workers) as pool:
        cuts = np.stack(list(pool.map(deal, parts)))
        ends = cuts.sum(axis=0).tolist()
        pieces = list(zip(parts, cuts.tolist(), strict=True))
        done = np.empty_like(values)

        def collect(some: range) -> None:
            for bucket in some:
                target = done[ends[bucket] : ends[bucket + 1]]
                np.concatenate([part[cut[bucket] : cut[bucket + 1]] for part, cut in pieces], out=target)
                target.sort()

        list(pool.map(collect, (range(i, BUCKETS, workers) for i in range(workers))))
    return done


def _dealer(values: NDArray[np.float32]) -> Callable[[NDArray[np.float32]], NDArray[np.uint16]]:
    """A map of scores to bucket numbers that never falls and fills the buckets about equally with `values`.

    The bits of a float, read as an integer, rise with its value. The span of these integers is cut into at
    most 2^16 cells, fine for scores close together and for scores of many magnitudes alike; a sample tells
    how full they are.
    """
    low, high = (int(_rising_bits(np.array([end]))[0]) for end in (values.min(), values.max()))
    shift = max(0, (high - low).bit_length() - 16)

    def cells(part: NDArray[np.float32]) -> NDArray[np.uint16]:
        return ((_rising_bits(part) - np.uint32(low)) >> np.uint32(shift)).astype(np.uint16)

    sample = cells(values[:: max(1, values.size // SAMPLE)])
    below = np.cumsum(np.bincount(sample, minlength=1 << 16)) - 1
    table = (below.clip(0) * BUCKETS // sample.size).astype(np.uint16)
    return lambda part: table[cells(part)]


def _rising_bits(values: NDArray[np.float32]) -> NDArray[np.uint32]:
    """Bits of the floats with the sign bit turned, of negative ones all turned: they rise with the value."""
    bits = values.view(np.int32)
    return (bits ^ ((bits >> 31) | np.int32(-(1 << 31)))).view(np.uint32)


@dataclass(frozen=True)
class _Summary:
    auroc: float
    average_precision: float
    dice: float
    dice_threshold: float


class PixelRanking:
    """Pixels of a whole test set, given chunk by chunk, ranked exactly.

    Scores are compared as float32; give float64 maps only if rounding to float32 may create ties.
    Memory: 4 bytes a pixel and some reserve, twice that while sorting. Ties count half, as in scikit-learn.

    Args:
        workers: threads that sort; by default one per CPU, 4 at most. The result does not depend on it.

    >>> ranking = PixelRanking()
    >>> ranking.update([[0.1, 0.4], [0.35, 0.8]], [[0, 0], [1, 1]])
    >>> ranking.auroc(), round(ranking.average_precision(), 4)
    (0.75, 0.8333)
    """

    def __init__(self, workers: int | None = None) -> None:
        workers = min(MOST_WORKERS, os.cpu_count() or 1) if workers is None else workers
        if workers < 1:
            raise ValueError(f"workers must be at least 1, got {workers}")
        self._workers = workers
        self._positives = _Column()
        self._negatives = _Column()
        self._sorted = True
        self._summary: _Summary | None = None

    @property
    def positives(self) -> int:
        """Number of anomalous pixels so far."""
        return self._positives.size

    @property
    def negatives(self) -> int:
        """Number of normal pixels so far."""
        return self._negatives.size

    def update(self, maps: ArrayLike, masks: ArrayLike) -> None:
        """Add pixels.

        Args:
            maps: anomaly scores, any shape, higher is more anomalous. Copied unless contiguous in C order.
            masks: same shape, 1 where anomalous, 0 elsewhere.

        Raises:
            ValueError: shapes differ, a score is NaN or infinite, a mask value is neither 0 nor 1. Chunks of
                2^18 pixels before the faulty one have been added by then.
        """
        same_shape(maps, masks, ("maps", "masks"))
        scores, truth = np.asarray(maps).reshape(-1), np.asarray(masks).reshape(-1)
        self._summary, self._sorted = None, False
        for start in range(0, scores.size, CHUNK):
            part = finite(scores[start : start + CHUNK], "maps", np.float32)
            anomalous = binary(truth[start : start + CHUNK], "masks")
            self._positives.append(part[anomalous])
            self._negatives.append(part[~anomalous])

    def auroc(self) -> float | None:
        """Area under the ROC curve, in [0, 1]; None unless both classes occur."""
        return self._summarise().auroc if self._defined else None

    def average_precision(self) -> float | None:
        """Sum over thresholds of precision times gain in recall, in (0, 1]; None as for `auroc`."""
        return self._summarise().average_precision if self._defined else None

    def best_dice(self) -> tuple[float, float] | None:
        """Highest Dice over all thresholds, all pixels pooled, and that threshold (`score >= threshold`).

        Of equally good thresholds the highest. None unless both classes occur.
        """
        if not self._defined:
            return None
        summary = self._summarise()
        return summary.dice, summary.dice_threshold

    def false_positives(self, scores: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """How many normal pixels score above each of `scores`, and how many at least as high. Same shape."""
        self._sort()
        normal = self._negatives.values
        scores = finite(scores, "scores", np.float32)  # the same rounding as the pixels themselves
        above = normal.size - np.searchsorted(normal, scores, "right")
        return above, normal.size - np.searchsorted(normal, scores, "left")

    @property
    def _defined(self) -> bool:
        return self.positives > 0 and self.negatives > 0

    def _sort(self) -> None:
        if not self._sorted:
            self._positives.sort(self._workers)
            self._negatives.sort(self._workers)
            self._sorted = True

    def _windows(self) -> Iterator[tuple[NDArray, NDArray, NDArray, NDArray]]:
        """Anomalous scores in rising order; for each: hits at it, false alarms above it, and at it."""
        self._sort()
        anomalous, normal = self._positives.values, self._negatives.values
        for start in range(0, anomalous.size, WINDOW):
            window = anomalous[start : start + WINDOW]
            # Only the stretch of either class between the window's ends has to be searched.
            tied = np.searchsorted(anomalous, window[0], "left")
            low = np.searchsorted(normal, window[0], "left")
            high = np.searchsorted(normal, window[-1], "right")
            stretch = normal[low:high]
            missed = tied + np.searchsorted(anomalous[tied : start + window.size], window, "left")
            below = low + np.searchsorted(stretch, window, "left")
            not_above = low + np.searchsorted(stretch, window, "right")
            yield window, anomalous.size - missed, normal.size - not_above, normal.size - below

    def _summarise(self) -> _Summary:
        """All figures in one walk over the anomalous pixels; kept until the next `update`."""
        if self._summary is None:
            lost, precision, best, threshold = 0, 0.0, 0.0, 0.0
            for scores, hits, above, reached in self._windows():
                lost += int(above.sum()) + int(reached.sum())  # pairs in the wrong order twice, ties once
                precision += float((hits / (hits + reached)).sum())
                # A threshold between anomalous scores adds false alarms and no hit: these are enough.
                dice = 2 * hits / (hits + reached + self.positives)
                top = dice.size - 1 - int(dice[::-1].argmax())
                if dice[top] >= best:
                    best, threshold = float(dice[top]), float(scores[top])
            self._summary = _Summary(
                auroc=1 - lost / (2 * self.positives * self.negatives),
                average_precision=precision / self.positives,
                dice=best,
                dice_threshold=threshold,
            )
        return self._summary


def pixel_auroc(maps: ArrayLike, masks: ArrayLike) -> float | None:
    """Exact pixel AUROC of anomaly maps; None unless both kinds of pixel occur.

    Args:
        maps: anomaly scores, any shape, higher is more anomalous.
        masks: same shape, 1 where anomalous, 0 elsewhere.

    Raises:
        ValueError: see `PixelRanking.update`.

    >>> pixel_auroc([[0.1, 0.4], [0.35, 0.8]], [[0, 0], [1, 1]])
    0.75
    """
    ranking = PixelRanking()
    ranking.update(maps, masks)
    return ranking.auroc()
