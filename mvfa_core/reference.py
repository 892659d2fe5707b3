"""Scores of images whose state is known: where the threshold lies, and how unusual a new score is."""

from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np

from mvfa_core.errors import MvfaError

Rule = Literal["f1", "youden", "false-alarm"]
RULES: tuple[str, ...] = get_args(Rule)
# It needs normal images alone, and what it promises does not depend on how many of the reference images happen to be
# abnormal. The best F1 on as many abnormal as normal images puts the threshold low: where the scores separate badly,
# it calls almost everything abnormal.
DEFAULT_RULE: Rule = "false-alarm"
DEFAULT_RATE = 0.05


@dataclass(frozen=True)
class Reference:
    """Scores of known normal and abnormal images, larger is more abnormal.

    source: which images they are, for people to read.
    """

    normal: np.ndarray = field(default_factory=lambda: np.zeros(0))
    abnormal: np.ndarray = field(default_factory=lambda: np.zeros(0))
    source: str = "none"

    def percentile(self, score: float) -> float | None:
        """Share of the known normal images below `score`, in [0, 100], ties half; None without any.

        >>> Reference(np.array([0.1, 0.2, 0.3, 0.4])).percentile(0.3)
        62.5
        """
        if not len(self.normal):
            return None
        below, equal = np.mean(self.normal < score), np.mean(self.normal == score)
        return float(100 * (below + equal / 2))

    def threshold(self, rule: str = DEFAULT_RULE, false_alarm_rate: float = DEFAULT_RATE) -> float | None:
        """Scores at or above it count as abnormal; None where the rule lacks images.

        f1: largest F1. youden: largest sensitivity + specificity - 1. Both put it in the middle between
        two neighbouring scores. false-alarm: the lowest threshold that flags at most `false_alarm_rate` of
        the known normal images.

        Raises:
            MvfaError: an unknown rule, or a rate outside [0, 1).
        """
        if rule not in RULES:
            raise MvfaError(f"threshold rule '{rule}' is none of {', '.join(RULES)}")
        if rule == "false-alarm":
            if not 0 <= false_alarm_rate < 1:
                raise MvfaError(f"false-alarm rate: must lie in [0, 1), got {false_alarm_rate}")
            return self._at_rate(false_alarm_rate)
        if not (len(self.normal) and len(self.abnormal)):
            return None
        candidates = _between(np.concatenate([self.normal, self.abnormal]))
        hits = (self.abnormal[None] >= candidates[:, None]).sum(axis=1)
        alarms = (self.normal[None] >= candidates[:, None]).sum(axis=1)
        if rule == "f1":
            gain = 2 * hits / (hits + alarms + len(self.abnormal))
        else:
            gain = hits / len(self.abnormal) - alarms / len(self.normal)
        # of equally good thresholds the highest: fewer alarms
        return float(candidates[np.flatnonzero(gain >= gain.max() - 1e-12)[-1]])

    def flagged(self, threshold: float) -> tuple[int, int]:
        """How many of the known normal and of the known abnormal images lie at or above `threshold`.

        >>> Reference(np.array([0.1, 0.2]), np.array([0.2, 0.3, 0.1])).flagged(0.2)
        (1, 2)
        """
        return int((self.normal >= threshold).sum()), int((self.abnormal >= threshold).sum())

    def _at_rate(self, rate: float) -> float | None:
        if not len(self.normal):
            return None
        candidates = np.append(np.unique(self.normal), np.nextafter(self.normal.max(), np.inf))
        share = np.array([np.mean(self.normal >= value) for value in candidates])
        lowest = int(np.flatnonzero(share <= rate + 1e-12)[0])
        if lowest in (0, len(candidates) - 1):
            return float(candidates[lowest])
        return float((candidates[lowest - 1] + candidates[lowest]) / 2)


def _between(scores: np.ndarray) -> np.ndarray:
    """The lowest score, and the middle between each two neighbouring ones."""
    values = np.unique(scores)
    return np.concatenate([values[:1], (values[:-1] + values[1:]) / 2])
