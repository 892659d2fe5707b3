"""Which k normal and k abnormal images a few-shot run may see."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mvfa_core.datasets import ImageRecord
from mvfa_core.errors import MvfaError


@dataclass(frozen=True)
class SupportSet:
    """The k + k chosen records, normal first, and the rest of the pool."""

    normal: tuple[ImageRecord, ...]
    abnormal: tuple[ImageRecord, ...]
    rest: tuple[ImageRecord, ...]

    @property
    def chosen(self) -> tuple[ImageRecord, ...]:
        return self.normal + self.abnormal

    def names(self) -> dict[str, list[str]]:
        """What the results keep, so that the set can be used again."""
        return {
            "normal": [record.name for record in self.normal],
            "abnormal": [record.name for record in self.abnormal],
        }


def in_drawn_order(records: Sequence[ImageRecord], label: int, key: Sequence[int]) -> list[ImageRecord]:
    """Those of one class, in an order that `key` and the class decide: the first n are a fair draw of n."""
    rows = [record for record in records if record.label == label]
    return [rows[i] for i in np.random.default_rng([*key, label]).permutation(len(rows))]


def draw_support(pool: Sequence[ImageRecord], shots: int, draw: int, seed: int) -> SupportSet:
    """`shots` images a class, without replacement, from `seed` and `draw`.

    A larger `shots` of the same seed and draw contains the smaller set: curves over k are nested.

    Raises:
        MvfaError: a class has fewer than `shots` images.
    """
    chosen = []
    for label, kind in enumerate(("normal", "abnormal")):
        candidates = in_drawn_order(pool, label, [seed, draw])
        if shots > len(candidates):
            raise MvfaError(
                f"shots: {shots} is more than the {len(candidates)} {kind} images of the valid split; lower it"
            )
        chosen.append(tuple(candidates[:shots]))
    return _split(pool, *chosen)


def read_support(pool: Sequence[ImageRecord], file: str | Path, draw: int) -> SupportSet:
    """Repetition `draw` of one of the authors' lists: lines `n-0: a.png b.png` and `a-0: c.png d.png`.

    Raises:
        MvfaError: the file cannot be read, lacks the repetition, or names an image that is not in the pool.
    """
    file = Path(file)
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise MvfaError(
            f"{file}: support list cannot be read; point few_shot.support_lists at the lists"
        ) from None
    chosen = []
    for label, letter in enumerate("na"):
        pattern = re.compile(rf"\s*{letter}-{draw}\s*:(.*)")
        match = next((m for m in map(pattern.match, lines) if m), None)
        if match is None or not match[1].split():
            raise MvfaError(
                f"{file}: has no line '{letter}-{draw}: ...'; lower few_shot.draws or extend the list"
            )
        by_name = {record.path.name: record for record in pool if record.label == label}
        names = match[1].split()
        missing = [name for name in names if name not in by_name]
        if missing:
            raise MvfaError(f"{file}: {missing[0]} is not in the valid split; check list and data set")
        chosen.append(tuple(by_name[name] for name in names))
    return _split(pool, *chosen)


def _split(pool: Sequence[ImageRecord], normal: tuple, abnormal: tuple) -> SupportSet:
    taken = set(normal + abnormal)
    return SupportSet(normal, abnormal, tuple(record for record in pool if record not in taken))
