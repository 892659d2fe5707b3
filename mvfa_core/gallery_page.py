"""The heat-map gallery of the report: every kept image under every method, with what the score makes of it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mvfa_core.evaluation import Evaluation
from mvfa_core.figures import HEAT
from mvfa_core.methods import group_of, is_few_shot, several_protocols
from mvfa_core.pictures import heat_png, outline, photo_png
from mvfa_core.reference import Reference
from mvfa_core.report import method_label
from mvfa_core.writing import write_whole

FALSE_ALARM_RATE = 0.10
# (is abnormal, is called abnormal) -> key and name
OUTCOMES = {
    (True, True): ("hit", "hit"),
    (True, False): ("miss", "miss"),
    (False, True): ("alarm", "false alarm"),
    (False, False): ("correct", "correct rejection"),
}


@dataclass(frozen=True)
class Card:
    """One image under one method. Paths are relative to the site; edge is the path data of the mask's outline."""

    dataset: str
    method: str
    method_name: str
    image: str
    abnormal: bool
    score: float
    threshold: float
    outcome: str
    outcome_name: str
    photo: str
    heat: str
    size: int
    edge: str


def outcome_of(abnormal: bool, score: float, threshold: float) -> tuple[str, str]:
    """Key and name of what a threshold makes of a score; at the threshold counts as abnormal."""
    return OUTCOMES[abnormal, score >= threshold]


def threshold_of(evaluation: Evaluation, method: str) -> float:
    """The lowest threshold that flags at most 10 % of the test split's normal images, NaN without any.

    It lies halfway between two scores, see `Reference.threshold`.
    """
    scores = evaluation.scores
    normal = scores.loc[scores["label"] == 0, method].to_numpy()
    found = Reference(normal=normal).threshold("false-alarm", FALSE_ALARM_RATE)
    return float("nan") if found is None else found


def gallery_cards(evaluation: Evaluation, site: Path) -> Iterator[Card]:
    """Write the pictures of a data set's gallery below `site` and tell what belongs to them.

    Args:
        evaluation: with a gallery, see `gallery.py`.
        site: folder of the report.
    """
    gallery, scores = evaluation.gallery, evaluation.scores
    folder = f"gallery/{evaluation.dataset}"
    methods = list(evaluation.pictured.values())
    several = several_protocols(group_of(method) for method in methods)
    thresholds = {method: threshold_of(evaluation, method) for method in methods}
    for place, row in enumerate(gallery["rows"]):
        photo = f"{folder}/{row:05d}.png"
        write_whole(site / photo, photo_png(gallery["images"][place]))
        edge = outline(gallery["masks"][place]) if "masks" in gallery else ""
        for method in methods:
            heat = f"{folder}/{row:05d}-{method.replace('/', '-')}.png"
            low, high = gallery[f"range:{method}"]
            write_whole(site / heat, heat_png(gallery[f"map:{method}"][place], low, high, HEAT))
            abnormal, score = bool(scores["label"][row]), float(scores[method][row])
            key, name = outcome_of(abnormal, score, thresholds[method])
            yield Card(
                dataset=evaluation.dataset,
                method=group_of(method),
                method_name=method_label(group_of(method), several),
                image=scores["image"][row],
                abnormal=abnormal,
                score=score,
                threshold=thresholds[method],
                outcome=key,
                outcome_name=name,
                photo=photo,
                heat=heat,
                size=gallery["images"].shape[1],
                edge=edge,
            )


def first_choice(cards: list[Card]) -> str:
    """The method that the page opens with: the largest number of shots, or else the last one."""
    methods = list(dict.fromkeys(card.method for card in cards))
    few = [method for method in methods if is_few_shot(method)]
    return (few or methods or [""])[-1]


def counts(evaluation: Evaluation, method: str) -> dict[str, int]:
    """How many images of the whole test split end as what, by the outcomes' names."""
    scores = evaluation.scores
    called = scores[method].to_numpy() >= threshold_of(evaluation, method)
    abnormal = scores["label"].to_numpy() == 1
    return {
        name: int(np.sum((abnormal == truth) & (called == verdict)))
        for (truth, verdict), (_, name) in OUTCOMES.items()
    }
