"""DeLong's variance, interval and paired test of the image AUROC, and Holm's correction for many tests."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit
from scipy.stats import norm, rankdata

from mvfa_core.metrics import check_scores
from mvfa_core.pixel_ranking import finite

LEVEL = 0.95
ROUNDING = 1e-24  # variance of differences between placements that are equal but for rounding


@dataclass(frozen=True)
class Interval:
    """Bounds meant to hold the true value in 95 of 100 repetitions."""

    low: float
    high: float


@dataclass(frozen=True)
class DeLong:
    """Two correlated areas and the two-sided test of their equality."""

    auc_a: float
    auc_b: float
    z: float
    p: float


def check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level must be in (0, 1), got {level!r}")


def _placements(truth: NDArray[np.bool_], scores: NDArray) -> tuple[NDArray, NDArray] | None:
    """Of each anomalous (N1,) and normal (N0,) image: share of the other class it is ranked right against.

    Rank among all images minus rank within the own class counts the other class, ties half; so midranks give
    all placements in n log n. Their means are both the AUROC. None if a class has fewer than two images.
    Source: DeLong et al., Biometrics 44, 1988; midranks: Sun and Xu, IEEE Signal Processing Letters 21, 2014.
    """
    anomalous, normal = int(truth.sum()), int((~truth).sum())
    if min(anomalous, normal) < 2:
        return None
    ranks = rankdata(scores)
    found = (ranks[truth] - rankdata(scores[truth])) / normal
    cleared = 1 - (ranks[~truth] - rankdata(scores[~truth])) / anomalous
    return found, cleared


def _variance(found: NDArray, cleared: NDArray) -> float:
    return float(found.var(ddof=1) / found.size + cleared.var(ddof=1) / cleared.size)


def delong_variance(labels: ArrayLike, scores: ArrayLike) -> float | None:
    """DeLong's estimate of the variance of the image AUROC; None if a class has fewer than two images."""
    placements = _placements(*check_scores(labels, scores))
    return None if placements is None else _variance(*placements)


def delong_interval(labels: ArrayLike, scores: ArrayLike, level: float = LEVEL) -> Interval | None:
    """Interval of the image AUROC from DeLong's variance, symmetric on the logit scale, thus within (0, 1).

    None if a class has fewer than two images, or the AUROC is 0 or 1, where the variance says nothing.
    """
    check_level(level)
    placements = _placements(*check_scores(labels, scores))
    if placements is None or not 0 < (area := float(placements[0].mean())) < 1:
        return None
    half = norm.ppf((1 + level) / 2) * math.sqrt(_variance(*placements)) / (area * (1 - area))
    return Interval(float(expit(logit(area) - half)), float(expit(logit(area) + half)))


def _mean_placements(labels: ArrayLike, scores: ArrayLike, name: str) -> tuple[NDArray, NDArray] | None:
    """`_placements` of one detector's scores (N,), or their mean over several detectors' (R, N)."""
    rows = np.atleast_2d(np.asarray(scores, dtype=np.float64))
    if rows.ndim != 2 or not len(rows):
        raise ValueError(f"{name} must have shape (N,) or (draws, N), got {np.shape(scores)}")
    found = [_placements(*check_scores(labels, row, name)) for row in rows]
    return None if found[0] is None else tuple(np.mean(part, axis=0) for part in zip(*found, strict=True))


def delong_test(labels: ArrayLike, scores_a: ArrayLike, scores_b: ArrayLike) -> DeLong | None:
    """Two-sided test that two methods have the same AUROC, on the same images.

    A method that was trained several times, on other support draws, gives a row of scores for each. Its AUROC
    is the mean of theirs, the figure that tables show, and this is what is tested: a mean of AUROCs is a mean
    over pairs of images as each of them is, so its placements are the mean placements and DeLong's variance
    holds for it unchanged. Averaging the scores instead would test an ensemble that nobody has shown;
    combining the draws' p-values would treat tests on the same images as if they were independent. The draws
    are taken as given: the test speaks of other test images, `spread` of other draws.

    Where the difference has no variance (identical rankings; one method perfect and the other constant) the
    test has nothing to go by and claims no difference: z = 0, p = 1.

    Args:
        labels: (N,) 0 normal, 1 anomalous.
        scores_a: (N,) or (draws, N), higher is more anomalous.
        scores_b: likewise; the number of draws may differ.

    Returns:
        None if a class has fewer than two images.

    Raises:
        ValueError: see `check_scores`; or no draw at all.
    """
    first = _mean_placements(labels, scores_a, "scores_a")
    second = _mean_placements(labels, scores_b, "scores_b")
    if first is None or second is None:
        return None
    a, b = float(first[0].mean()), float(second[0].mean())
    variance = _variance(first[0] - second[0], first[1] - second[1])
    z = (a - b) / math.sqrt(variance) if variance > ROUNDING else 0.0
    return DeLong(a, b, z, float(2 * norm.sf(abs(z))))


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Holm's step-down adjustment of p-values (m,): below 0.05 keeps the family-wise error below 5 %.

    >>> holm([0.01, 0.04, 0.03]).round(3).tolist()
    [0.03, 0.06, 0.06]

    Raises:
        ValueError: a value outside [0, 1], or not a vector.
    """
    p = finite(p_values, "p_values")
    if p.ndim != 1 or ((p < 0) | (p > 1)).any():
        raise ValueError(f"p_values must be a vector in [0, 1], got {p_values!r}")
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order]).clip(max=1)
    return adjusted
