"""Which test images a reader is shown, and the arrays that are kept of them."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from mvfa_core.methods import is_few_shot, judging_method

if TYPE_CHECKING:
    from mvfa_core.experiment import TestSet
    from mvfa_core.judging import Verdict

# of a small choice for a figure that shows all of it side by side
PANEL_IMAGES = 6


def spread_rows(labels: np.ndarray, scores: np.ndarray, count: int) -> np.ndarray:
    """Rows of `count` images, or fewer where a class has fewer: first the abnormal half, then the normal one.

    Abnormal images run evenly from the highest score to the lowest, so from the clearest hit to the clearest
    miss. Normal ones run the same way but denser at the top, where the false alarms are.

    Args:
        labels: (N,) in {0, 1}.
        scores: (N,), larger is more abnormal.
        count: of both classes together.

    >>> spread_rows(np.array([0, 0, 0, 1, 1, 1]), np.array([1, 3, 2, 5, 6, 4]), 4)
    array([4, 5, 1, 0])
    """
    abnormal = -(-count // 2)
    rows = []
    for label, quantity in ((1, abnormal), (0, count - abnormal)):
        members = np.flatnonzero(labels == label)
        members = members[np.argsort(-scores[members], kind="stable")]
        share = np.linspace(0, 1, quantity) ** (1 if label else 2)
        places = np.unique(np.rint(share * max(len(members) - 1, 0)).astype(int))
        rows.append(members[places[: len(members)]])
    return np.concatenate(rows)


def pictures_of(test: "TestSet", rows: np.ndarray) -> dict[str, np.ndarray]:
    """images (K, S, S, 3) uint8 of these rows of a test split, and masks (K, S, S) uint8 where there are any."""
    result = {"images": test.batch.images[rows].permute(0, 2, 3, 1).numpy()}
    if test.batch.masks is not None:
        result["masks"] = test.batch.masks[rows].numpy()
    return result


class Collector:
    """Images spread over the range of one method's scores, with every method's maps of them.

    Verdicts come one after the other and need not be kept. The first few-shot run chooses the images; until it
    has come, what came before waits.
    """

    def __init__(self, test: "TestSet", count: int):
        self.test, self.count = test, count
        self.rows: np.ndarray | None = None
        self.waiting: dict[str, Verdict] = {}
        self.maps: dict[str, dict[str, np.ndarray]] = {}

    def add(self, method: str, verdict: "Verdict") -> None:
        if verdict.maps is None:
            return
        self.waiting[method] = verdict
        if self.rows is not None or is_few_shot(method):
            self._settle()

    def _settle(self) -> None:
        if self.rows is None:
            judge = self.waiting[judging_method(list(self.waiting))]
            self.rows = spread_rows(self.test.batch.labels.numpy(), judge.scores.numpy(), self.count)
        for method, verdict in self.waiting.items():
            self.maps[method] = map_of(method, verdict.maps.numpy(), self.rows)
        self.waiting.clear()

    def arrays(self, order: Iterable[str]) -> dict[str, np.ndarray]:
        """The gallery, methods in `order`; there must have been one with maps.

        Returns:
            rows (K,) of the test split; images (K, S, S, 3) uint8; masks (K, S, S) uint8 where there are any;
            for each method with maps `map:<method>` (K, S, S) float16 and `range:<method>` (2,) float32, the
            spread over all test images that fixes a shared colour scale.
        """
        if self.waiting:
            self._settle()
        result = {"rows": self.rows} | pictures_of(self.test, self.rows)
        for method in order:
            result |= self.maps.get(method, {})
        return result


def map_of(method: str, maps: np.ndarray, rows: np.ndarray) -> dict[str, np.ndarray]:
    """The gallery's two entries of a method with maps (N, S, S)."""
    return {
        f"range:{method}": np.quantile(maps[:, ::3, ::3], [0.02, 0.998]).astype(np.float32),
        f"map:{method}": maps[rows].astype(np.float16),
    }


def panel_of(
    gallery: Mapping[str, np.ndarray], labels: np.ndarray, count: int = PANEL_IMAGES
) -> dict[str, np.ndarray]:
    """The gallery cut to `count` images, two thirds of them abnormal, each class evenly thinned out.

    Args:
        gallery: as `Collector.arrays` gives it.
        labels: (N,) of the whole test split.
        count: of images.
    """
    kinds = labels[gallery["rows"]]
    abnormal = round(count * 2 / 3)
    columns = []
    for label, quantity in ((1, abnormal), (0, count - abnormal)):
        members = np.flatnonzero(kinds == label)
        places = np.linspace(0, len(members) - 1, min(quantity, len(members)))
        columns.append(members[np.rint(places).astype(int)])
    kept = np.concatenate(columns)
    return {key: value if key.startswith("range:") else value[kept] for key, value in gallery.items()}
