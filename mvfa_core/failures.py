"""Evaluations -> the images that a method gets most wrong, by name."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from mvfa_core.evaluation import Evaluation
from mvfa_core.methods import is_mvfa, shots_of
from mvfa_core.report import PLAIN_READINGS, groups_of, method_label
from mvfa_core.significance import members_of

MISS, ALARM = "miss", "false alarm"


def overtaken(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """(N,) how wrong each image is, in [0, 1]: the share of images of the other class on its wrong side.

    For an abnormal image the normal ones that score higher, for a normal image the abnormal ones that score
    lower; ties count half. NaN where there is no other class. Its mean over either class is 1 - AUROC.

    >>> overtaken(np.array([0, 0, 1, 1]), np.array([1.0, 3.0, 2.0, 4.0])).tolist()
    [0.0, 0.5, 0.5, 0.0]
    """
    result = np.full(len(labels), np.nan)
    for label, sign in ((0, 1), (1, -1)):
        mine, others = labels == label, np.sort(sign * scores[labels != label])
        if len(others):
            below = np.searchsorted(others, sign * scores[mine], "left")
            up_to = np.searchsorted(others, sign * scores[mine], "right")
            result[mine] = (below + up_to) / 2 / len(others)
    return result


def leading_group(evaluations: Sequence[Evaluation]) -> str | None:
    """The MVFA group whose failures are shown first: the most shots, the sound protocol before others."""
    groups = [group for group in groups_of(evaluations) if is_mvfa(group)]
    return max(groups, key=lambda g: (shots_of(g), g.endswith("/sound")), default=None)


def failure_table(evaluations: Sequence[Evaluation], count: int = 3) -> pd.DataFrame:
    """The worst images of each data set and MVFA group.

    Args:
        evaluations: one a data set.
        count: misses, and false alarms, of each.

    Returns:
        dataset, method, kind (miss, false alarm), image, overtaken (mean over draws, see `overtaken`), and the
        same of each plain reading of CLIP in a column of its name.
    """
    rows = []
    for evaluation in evaluations:
        labels, images = evaluation.scores["label"].to_numpy(), evaluation.scores["image"].to_numpy()
        plain = {g: _of_group(evaluation, g) for g in PLAIN_READINGS if g in evaluation.metrics}
        for group in (g for g in groups_of(evaluations) if is_mvfa(g)):
            share = _of_group(evaluation, group)
            for label, kind in ((1, MISS), (0, ALARM)):
                members = np.flatnonzero((labels == label) & ~np.isnan(share))
                for row in members[np.argsort(-share[members], kind="stable")][:count]:
                    also = [values[row] for values in plain.values()]
                    rows.append((evaluation.dataset, group, kind, images[row], share[row], *also))
    columns = ["dataset", "method", "kind", "image", "overtaken", *PLAIN_READINGS]
    return pd.DataFrame(rows, columns=columns)


def _of_group(evaluation: Evaluation, group: str) -> np.ndarray:
    labels = evaluation.scores["label"].to_numpy()
    draws = [evaluation.scores[method].to_numpy() for method in members_of(evaluation, group)]
    return np.mean([overtaken(labels, scores) for scores in draws], axis=0)


def rows_of(failures: pd.DataFrame, evaluation: Evaluation) -> np.ndarray:
    """(N,) where the images of some failures stand in their test split."""
    return pd.Index(evaluation.scores["image"]).get_indexer(failures["image"])


def wide_failures(table: pd.DataFrame, method: str) -> pd.DataFrame:
    """One method's failures as people read them, in percent of the other class."""
    table = table[table["method"] == method]
    shares = {f"overtaken, {method_label(method, True)}": "overtaken"}
    shares |= {f"overtaken, {method_label(group)}": group for group in PLAIN_READINGS}
    return pd.DataFrame(
        {"data set": table["dataset"], "kind": table["kind"], "image": table["image"]}
        | {name: [f"{100 * value:.0f} %" for value in table[column]] for name, column in shares.items()}
    ).reset_index(drop=True)
