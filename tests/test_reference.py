import numpy as np
import pytest

from mvfa_core.errors import MvfaError
from mvfa_core.reference import RULES, Reference

RNG = np.random.default_rng(1)
MIXED = Reference(RNG.normal(0, 1, 40), RNG.normal(1.5, 1, 25), "test")


def rates(reference: Reference, threshold: float) -> tuple[float, float, float]:
    """Sensitivity, false-alarm rate and F1, counted one by one."""
    hits = sum(s >= threshold for s in reference.abnormal)
    alarms = sum(s >= threshold for s in reference.normal)
    f1 = 2 * hits / (hits + alarms + len(reference.abnormal))
    return hits / len(reference.abnormal), alarms / len(reference.normal), f1


def grid() -> np.ndarray:
    return np.linspace(-4, 5, 3001)


def test_f1_and_youden_are_the_best_there_are():
    best = max(rates(MIXED, t)[2] for t in grid())
    assert rates(MIXED, MIXED.threshold("f1"))[2] == pytest.approx(best)
    best = max(rates(MIXED, t)[0] - rates(MIXED, t)[1] for t in grid())
    hits, alarms, _ = rates(MIXED, MIXED.threshold("youden"))
    assert hits - alarms == pytest.approx(best)


@pytest.mark.parametrize("rate", [0, 0.01, 0.05, 0.1, 0.3, 0.99])
def test_a_false_alarm_rate_is_kept_and_used_up(rate):
    threshold = MIXED.threshold("false-alarm", rate)
    assert rates(MIXED, threshold)[1] <= rate
    lower = MIXED.normal[threshold > MIXED.normal].max()
    assert rates(MIXED, lower)[1] > rate


def test_ties_and_single_images():
    tied = Reference(np.array([1.0, 1.0, 1.0, 2.0]), np.array([2.0, 3.0]))
    assert tied.threshold("false-alarm", 0.3) == 1.5
    assert tied.threshold("false-alarm", 0.0) > 2.0
    same = Reference(np.array([1.0]), np.array([1.0]))
    assert all(np.isfinite(same.threshold(rule)) for rule in RULES)


def test_percentiles():
    reference = Reference(np.array([1.0, 2.0, 2.0, 3.0]))
    assert [reference.percentile(s) for s in (0.0, 2.0, 2.5, 9.0)] == [0.0, 50.0, 75.0, 100.0]
    assert Reference().percentile(1.0) is None


def test_without_the_images_a_rule_needs_there_is_no_threshold():
    normals = Reference(np.array([1.0, 2.0]))
    assert normals.threshold("f1") is None and normals.threshold("youden") is None
    assert normals.threshold("false-alarm") is not None and Reference().threshold("false-alarm") is None


def test_mistakes_are_named():
    with pytest.raises(MvfaError, match="'best' is none of f1, youden, false-alarm"):
        MIXED.threshold("best")
    for rate in (-0.1, 1.0, float("nan")):
        with pytest.raises(MvfaError, match="false-alarm rate"):
            MIXED.threshold("false-alarm", rate)
