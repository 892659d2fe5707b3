"""A trained run -> a detector: everything that a score needs is fixed here, on support and validation images.

The test split is not read.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mvfa_core.datasets import ImageRecord
from mvfa_core.detector import Detector
from mvfa_core.errors import MvfaError
from mvfa_core.export import backbone_part, one_sided
from mvfa_core.judging import Banks
from mvfa_core.overlays import MapScale
from mvfa_core.protocols import PROTOCOLS
from mvfa_core.reference import DEFAULT_RATE, DEFAULT_RULE, RULES, Reference

if TYPE_CHECKING:
    from mvfa_core.experiment import Experiment
    from mvfa_core.runs import Run

UNSEEN = "validation images that training has not seen"
CHOSEN_ON = (
    "validation images that no weight was trained on, but the kept epoch was chosen on: slightly optimistic"
)
SEEN = "support images, which training has seen: optimistic"


def calibrate(
    experiment: "Experiment",
    run: "Run",
    rule: str = DEFAULT_RULE,
    false_alarm_rate: float = DEFAULT_RATE,
    figures: Mapping[str, float] | None = None,
) -> Detector:
    """The detector of a run, with ranges, reference scores and scale from the target's `valid` split.

    Args:
        experiment: the settings the run was trained with.
        run: its training.
        rule: of the threshold: false-alarm, f1 or youden.
        false_alarm_rate: share of normal images that the first rule lets pass as abnormal.
        figures: of the evaluation, for the model card.

    Raises:
        MvfaError: an unknown rule, another backbone than at training, or support images are gone.
    """
    if rule not in RULES:
        raise MvfaError(f"threshold rule '{rule}' is none of {', '.join(RULES)}")
    trained = run.provenance.get("backbone", {}).get("fingerprint")
    if trained not in (None, experiment.backbone.description["fingerprint"]):
        raise MvfaError(
            f"{run.method}: was trained on a backbone with fingerprint {trained}, params.yaml names another; "
            "train it again"
        )
    judge = replace(experiment.judge(run.dataset, run.adapters), batch_size=1)
    detector = Detector(
        judge,
        zero_shot=not run.shots,
        ranges=run.ranges,
        memory_weight=experiment.settings.method.memory_weight,
        rule=rule,
        false_alarm_rate=false_alarm_rate,
        window=experiment.settings.dataset(run.dataset).window,
        about=_about(experiment, run, figures or {}),
    )
    if run.shots:
        banks = judge.banks(experiment.memory_tokens(run))
        detector.banks = one_sided(banks.seg if judge.masks else banks.det, judge.masks)
    detector.reference, detector.scale = _references(detector, experiment, run)
    return detector


def _references(detector: Detector, experiment: "Experiment", run: "Run") -> tuple[Reference, MapScale]:
    """Scores and the maps' scale, from images that training has not seen where there are any of both kinds."""
    support = run.support or {"normal": [], "abnormal": []}
    records = experiment.dataset(run.dataset).records("valid")
    chosen_on = run.shots and PROTOCOLS[run.protocol].few_shot_selection == "held-out"
    source = CHOSEN_ON if chosen_on else UNSEEN
    seen = {*support["normal"], *support["abnormal"]}
    rest = [record for record in records if record.name not in seen]
    if {record.label for record in rest} != {0, 1}:
        rest, source = records, SEEN
    scores: tuple[list[float], list[float]] = ([], [])
    values: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for record in rest:
        judging = _without_itself(detector, record, support["normal"])
        score, anomaly_map = judging.judge_square(experiment.load(run.dataset, [record]).images)
        scores[record.label].append(score)
        values[record.label].append(anomaly_map)
    normal, both = np.stack(values[0]), np.concatenate(values[0] + values[1])
    scale = MapScale(float(both.min()), float(np.percentile(normal, 95)), float(both.max()))
    return Reference(*(np.array(part, dtype=np.float64) for part in scores), source), scale


def _without_itself(detector: Detector, record: ImageRecord, remembered: Sequence[str]) -> Detector:
    """A remembered image is compared with the memory of the others, as its own tokens are in there."""
    if detector.banks is None or record.name not in remembered:
        return detector
    banks = detector.banks.seg if detector.judge.masks else detector.banks.det
    others = banks.without_image(remembered.index(record.name), len(remembered))
    return replace(detector, banks=Banks(others, others))


def _about(experiment: "Experiment", run: "Run", figures: Mapping[str, float]) -> dict[str, Any]:
    """Where a detector comes from. Names of support images stay out: they may name patients."""
    return {
        "dataset": run.dataset,
        "organ": experiment.settings.dataset(run.dataset).organ,
        "method": run.method,
        "protocol": run.protocol,
        "epoch": run.epoch,
        "backbone": backbone_part(experiment.settings.backbone, experiment.backbone, experiment.base),
        "figures": dict(figures),
        "seed": run.provenance.get("seed"),
        "versions": run.provenance.get("versions", {}),
    }
