"""The demo with fewer test images or data sets, so that a lesson trains and judges in seconds."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mvfa_core.datasets import ImageDataset, ImageRecord
from mvfa_core.experiment import Experiment
from mvfa_core.settings import DatasetEntry


def evenly(records: Sequence[ImageRecord], per_class: int) -> list[ImageRecord]:
    """At most `per_class` records of each label, evenly spaced in the given order, normal ones first."""
    chosen = []
    for label in (0, 1):
        rows = [record for record in records if record.label == label]
        places = np.linspace(0, len(rows) - 1, min(per_class, len(rows))).round().astype(int)
        chosen += [rows[place] for place in places]
    return chosen


class _FewerImages(ImageDataset):
    """A data set whose test split is thinned out; the `valid` split stays whole."""

    def __init__(self, name: str, entry: DatasetEntry, base: Path, per_class: int):
        super().__init__(name, entry, base)
        self.per_class = per_class

    def records(self, split: str) -> list[ImageRecord]:
        found = super().records(split)
        return evenly(found, self.per_class) if split == "test" else found


class SmallExperiment(Experiment):
    """An experiment that sees a part of each test split, evenly spaced over its files.

    Everything else is `Experiment`: training, selection and judging run through the same code.

    Args:
        whole: the experiment to start from; its backbone and text features are shared.
        per_class: test images of each label and data set.
        datasets: the only data sets that exist for it; None: all.

    Raises:
        MvfaError: a name in `datasets` is unknown.
    """

    def __init__(self, whole: Experiment, per_class: int, datasets: Sequence[str] | None = None):
        old = whole.settings
        names = list(old.datasets) if datasets is None else datasets
        known = {name: old.dataset(name) for name in names}
        super().__init__(old.model_copy(update={"datasets": known}), whole.base, whole.say)
        self.backbone, self._texts, self.per_class = whole.backbone, whole._texts, per_class

    def dataset(self, name: str) -> ImageDataset:
        return _FewerImages(name, self.settings.dataset(name), self.base, self.per_class)
