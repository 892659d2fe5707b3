"""What is measured: how well images, and pixels, are told apart into normal (0) and anomalous (1).

Every figure is a plain float, or None where it is undefined (one class only); `why_undefined` says why.
Scores may have any range; higher is more anomalous, and a threshold `t` calls anomalous what scores `>= t`.
"""

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from mvfa_core.pixel_ranking import PixelRanking, binary, finite, same_shape

PRO_LIMIT = 0.3  # false positive rate up to which the per-region overlap is integrated (MVTec AD, BMAD)
EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=bool)


def check_scores(
    labels: ArrayLike, scores: ArrayLike, name: str = "scores"
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Labels and scores of images as vectors (N,).

    Raises:
        ValueError: not two vectors of one length, a label not in {0, 1}, a score NaN or infinite.
    """
    same_shape(labels, scores, ("labels", name))
    if np.ndim(labels) != 1:
        raise ValueError(f"labels must be one-dimensional, got shape {np.shape(labels)}")
    return binary(labels, "labels"), finite(scores, name)


def check_maps(maps: ArrayLike, masks: ArrayLike, name: str = "maps") -> tuple[NDArray, NDArray[np.bool_]]:
    """Anomaly maps and masks as arrays (N, H, W); values of the maps are checked where they are read.

    Raises:
        ValueError: not two arrays (N, H, W) of one shape, or a mask value not in {0, 1}.
    """
    same_shape(maps, masks, (name, "masks"))
    if np.ndim(maps) != 3:
        raise ValueError(f"{name} must have shape (images, height, width), got {np.shape(maps)}")
    return np.asarray(maps), binary(masks, "masks")


def why_undefined(labels: ArrayLike, unit: str = "image") -> str | None:
    """The reason why metrics over these labels (or masks, any shape) are undefined; None if they are defined.

    >>> why_undefined([0, 0, 0])
    'one class only: all 3 images are normal'
    >>> why_undefined([[0, 1]], unit="pixel") is None
    True
    """
    truth = binary(labels, "labels")
    anomalous = int(np.count_nonzero(truth))
    if truth.size == 0:
        return f"there are no {unit}s"
    if 0 < anomalous < truth.size:
        return None
    return f"one class only: all {truth.size} {unit}s are {'anomalous' if anomalous else 'normal'}"


def auroc(labels: ArrayLike, scores: ArrayLike) -> float | None:
    """Area under the ROC curve, in [0, 1]: how often an anomalous image outscores a normal one.

    Ties count half.

    >>> auroc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
    0.75
    """
    truth, scores = check_scores(labels, scores)
    return None if why_undefined(truth) else float(roc_auc_score(truth, scores))


def average_precision(labels: ArrayLike, scores: ArrayLike) -> float | None:
    """Sum over thresholds of precision times gain in recall, in (0, 1]; chance gives their share."""
    truth, scores = check_scores(labels, scores)
    return None if why_undefined(truth) else float(average_precision_score(truth, scores))


def f1_max(labels: ArrayLike, scores: ArrayLike) -> tuple[float, float] | None:
    """Highest F1 over all thresholds, in (0, 1], and the threshold; of equally good ones the highest.

    The threshold is chosen on the very images it is judged on, so the value is an upper bound for use.

    >>> f1_max([0, 1, 1], [0.2, 0.1, 0.9])
    (0.8, 0.1)
    """
    truth, scores = check_scores(labels, scores)
    if why_undefined(truth):
        return None
    precision, recall, thresholds = precision_recall_curve(truth, scores)
    precision, recall = precision[:-1], recall[:-1]  # the closing point (1, 0) belongs to no threshold
    total = precision + recall
    f1 = np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0)
    best = np.flatnonzero(f1 == f1.max())[-1]
    return float(f1[best]), float(thresholds[best])


def sensitivity_at_specificity(
    labels: ArrayLike, scores: ArrayLike, specificity: float = 0.95
) -> float | None:
    """Highest sensitivity among thresholds whose specificity is at least `specificity`; both in [0, 1].

    No interpolation: the figure can be had with a real threshold on these images.

    Raises:
        ValueError: `specificity` outside [0, 1], or as `check_scores`.

    >>> sensitivity_at_specificity([0, 0, 1, 1], [1.0, 2.0, 1.5, 3.0], specificity=0.95)
    0.5
    """
    if not 0 <= specificity <= 1:
        raise ValueError(f"specificity must be in [0, 1], got {specificity!r}")
    truth, scores = check_scores(labels, scores)
    if why_undefined(truth):
        return None
    false_rate, true_rate, _ = roc_curve(truth, scores, drop_intermediate=False)
    normal = int(np.count_nonzero(~truth))
    # In whole images: 1 - 0.9 is a little less than 0.1, and would forbid the tenth image of ten.
    allowed = math.floor((1 - specificity) * normal + 1e-9)
    return float(true_rate[np.rint(false_rate * normal) <= allowed].max())


def at_threshold(labels: ArrayLike, scores: ArrayLike, threshold: float) -> dict[str, float | None]:
    """What a threshold gives on images (N,) labelled 0 normal and 1 anomalous; both in [0, 1], None undefined.

    >>> at_threshold([0, 0, 1, 1], [0.1, 0.6, 0.6, 0.4], 0.5)
    {'image_sens_at_set': 0.5, 'image_spec_at_set': 0.5}
    """
    truth, scores = check_scores(labels, scores)
    if why_undefined(truth):
        return {"image_sens_at_set": None, "image_spec_at_set": None}
    called = scores >= threshold
    return {
        "image_sens_at_set": float(np.mean(called[truth])),
        "image_spec_at_set": float(np.mean(~called[~truth])),
    }


def image_metrics(labels: ArrayLike, scores: ArrayLike) -> dict[str, float | None]:
    """All metrics of one data set's image scores.

    Args:
        labels: (N,) 0 normal, 1 anomalous.
        scores: (N,) higher is more anomalous.

    Returns:
        image_auroc, image_ap, image_f1_max, image_f1_threshold, image_sens_at_95_spec.

    Raises:
        ValueError: see `check_scores`.
    """
    f1, threshold = f1_max(labels, scores) or (None, None)
    return {
        "image_auroc": auroc(labels, scores),
        "image_ap": average_precision(labels, scores),
        "image_f1_max": f1,
        "image_f1_threshold": threshold,
        "image_sens_at_95_spec": sensitivity_at_specificity(labels, scores, 0.95),
    }


def region_overlap(
    ranking: PixelRanking, maps: NDArray, masks: NDArray[np.bool_], limit: float = PRO_LIMIT
) -> float | None:
    """Per-region overlap (PRO), integrated over false positive rates 0 to `limit`, over `limit`; in [0, 1].

    The overlap at a threshold is the share of a region found, averaged over regions (8-connected parts of a
    mask, large and small alike). Against the false positive rate it is a ROC curve in which a pixel weighs
    1 / (size of its region), so the area is a sum over anomalous pixels, exact and without a list of
    thresholds. Between neighbouring thresholds, and at `limit`, the curve is linear. None unless both classes
    occur.

    Args:
        ranking: holds the pixels of `maps` and `masks`; its normal pixels set the false positive rate.
        maps: (N, H, W), as given to `ranking`.
        masks: (N, H, W), likewise.
        limit: in (0, 1].

    Raises:
        ValueError: `limit` outside (0, 1].

    Source: Bergmann et al., "The MVTec Anomaly Detection Dataset", IJCV 2021, section 5.
    """
    if not 0 < limit <= 1:
        raise ValueError(f"limit must be in (0, 1], got {limit!r}")
    if not (ranking.positives and ranking.negatives):
        return None
    area, regions = 0.0, 0
    for scores, mask in zip(maps, masks, strict=True):
        if not mask.any():
            continue
        parts, count = ndimage.label(mask, structure=EIGHT_NEIGHBOURS)
        part = parts[mask] - 1
        above, reached = ranking.false_positives(scores[mask])
        gained = _area_after(above / ranking.negatives, reached / ranking.negatives, limit)
        area += float((gained / np.bincount(part)[part]).sum())
        regions += count
    return area / (regions * limit)


def _area_after(start: NDArray, end: NDArray, limit: float) -> NDArray:
    """Area left of `limit` below a curve that is 0 up to `start`, rises evenly to 1 at `end`, and stays."""
    width = end - start
    inside = np.clip(limit - start, 0, width)  # a width of 0 is a step, without a ramp
    share = np.divide(inside, width, out=np.zeros_like(width), where=width > 0)
    return inside * share / 2 + np.clip(limit - end, 0, None)


def pixel_metrics(maps: ArrayLike, masks: ArrayLike) -> dict[str, float | None]:
    """All metrics of one data set's anomaly maps, pixels of all images pooled; exact, not sampled.

    Args:
        maps: (N, H, W) float32, higher is more anomalous.
        masks: (N, H, W) 0 normal, 1 anomalous; normal images have empty masks.

    Returns:
        pixel_auroc, pixel_ap, pro, best_dice, best_dice_threshold.

    Raises:
        ValueError: see `check_maps`; or a score NaN or infinite.
    """
    maps, masks = check_maps(maps, masks)
    ranking = PixelRanking()
    ranking.update(maps, masks)
    dice, threshold = ranking.best_dice() or (None, None)
    return {
        "pixel_auroc": ranking.auroc(),
        "pixel_ap": ranking.average_precision(),
        "pro": region_overlap(ranking, maps, masks),
        "best_dice": dice,
        "best_dice_threshold": threshold,
    }


def macro_average(values: Iterable[float | None]) -> float | None:
    """Mean over data sets, each counting the same, of those where the metric is defined; None if nowhere.

    >>> macro_average([0.5, None, 1.0])
    0.75
    """
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None
