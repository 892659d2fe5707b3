"""Lesson 6, choosing by the test set: candidates, repeated small studies, and what their winners are worth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mvfa_core.adapters import Adapters
from mvfa_core.datasets import content_hash
from mvfa_core.experiment import Experiment, TestSet
from mvfa_core.lessons.smaller import evenly
from mvfa_core.lessons.style import COLOURS, canvas
from mvfa_core.lessons.transferring import level_scores
from mvfa_core.metrics import auroc
from mvfa_core.training import TrainingPart

SEEN, FRESH = "the study's test set", "fresh images"
PLACES = {SEEN: COLOURS["few-shot"], FRESH: COLOURS["zero-shot"]}


def fresh_set(whole: Experiment, name: str, used: TestSet, per_class: int) -> TestSet:
    """Test images of data set `name` that are not in `used`, evenly spaced: what users will meet later."""
    taken = {record.name for record in used.records}
    left = [record for record in whole.dataset(name).records("test") if record.name not in taken]
    records = evenly(left, per_class)
    batch = whole.load(name, records)
    return TestSet(records, batch, whole.tokens(batch.images), content_hash(records))


@dataclass(frozen=True)
class Candidates:
    """Detectors that somebody could choose among, judged on the same images.

    labels: (N,) in {0, 1}. scores: (candidates, N). draws, epochs: (candidates,) whose training and after
    which epoch; None where there was no training.
    """

    labels: NDArray
    scores: NDArray
    draws: NDArray | None = None
    epochs: NDArray | None = None

    @property
    def nothing(self) -> list[list[int]]:
        """Nothing to choose: the last epoch of every draw stands for itself."""
        return [[i] for i in self.among_draws[0]]

    @property
    def among_epochs(self) -> list[list[int]]:
        """A choice among the epochs of each draw."""
        return [np.flatnonzero(self.draws == draw).tolist() for draw in np.unique(self.draws)]

    @property
    def among_draws(self) -> list[list[int]]:
        """A choice among draws, each at its last epoch."""
        return [np.flatnonzero(self.epochs == self.epochs.max()).tolist()]

    @property
    def among_all(self) -> list[list[int]]:
        """A choice among everything."""
        return [list(range(len(self.scores)))]


def untrained_candidates(experiment: Experiment, name: str, seeds: int, test: TestSet) -> Candidates:
    """Adapters that have learned nothing, from several seeds."""
    scores = [
        text_scores_of(experiment, name, experiment.fresh_adapters(seed), test) for seed in range(seeds)
    ]
    return Candidates(test.batch.labels.numpy(), np.stack(scores))


def trained_candidates(
    experiment: Experiment, name: str, shots: int, draws: int, test: TestSet
) -> Candidates:
    """Few-shot training as under `strict`, every epoch of every support draw judged by its text branch."""
    few, rows = experiment.settings.few_shot, []
    for draw in range(draws):
        chosen = experiment.support(name, shots, draw).chosen
        part = TrainingPart(name, *experiment.support_tokens(name, chosen), experiment.text(name))
        adapters = experiment.fresh_adapters(draw)
        for log in experiment.fit(adapters, [part], few, draw):
            rows.append((text_scores_of(experiment, name, adapters, test), draw, log.epoch))
    scores, of_draw, epochs = zip(*rows, strict=True)
    return Candidates(test.batch.labels.numpy(), np.stack(scores), np.array(of_draw), np.array(epochs))


def text_scores_of(experiment: Experiment, name: str, adapters: Adapters, test: TestSet) -> NDArray:
    """(N,) image scores of the text branch: no maps and no memory, which would cost several times as much."""
    return level_scores(experiment, name, adapters, test.tokens).sum(dim=0).numpy()


def studies_table(
    candidates: Candidates, groups: Sequence[Sequence[int]], per_class: int, studies: int, seed: int
) -> pd.DataFrame:
    """Repeat a study: choose in each group what does best on a small test set, then look at the images left.

    Args:
        candidates: what can be chosen.
        groups: a choice is made within each; results are means over groups.
        per_class: images of each label in the study's test set, drawn anew for each study.
        studies: how many.
        seed: of the draws; equal seeds give the same test sets.

    Returns:
        A row a study: image AUROC as claimed on its test set (`SEEN`) and on the other images (`FRESH`).
    """
    rng, labels, rows = np.random.default_rng(seed), candidates.labels, []
    for _ in range(studies):
        used = np.zeros(len(labels), dtype=bool)
        for label in (0, 1):
            used[rng.choice(np.flatnonzero(labels == label), per_class, replace=False)] = True
        results = []
        for group in groups:
            claims = [auroc(labels[used], candidates.scores[i][used]) for i in group]
            chosen = group[int(np.argmax(claims))]
            results.append((max(claims), auroc(labels[~used], candidates.scores[chosen][~used])))
        rows.append(np.mean(results, axis=0))
    return pd.DataFrame(rows, columns=[SEEN, FRESH])


def optimism_table(studies: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """A row a way to choose: means over studies, their difference, and how often the claim was too high.

    Args:
        studies: {how was chosen: what `studies_table` gives}.
    """
    rows = {}
    for name, table in studies.items():
        gap = table[SEEN] - table[FRESH]
        rows[name] = {**table.mean(), "optimism": gap.mean(), "claim too high in": (gap > 0).mean()}
    return pd.DataFrame(rows).T


def claims_figure(frame: pd.DataFrame) -> Figure:
    """A row a choice: an arrow from what was claimed on the study's test set to what fresh images give."""
    figure, axis = canvas(width=8, height=1 + 0.4 * len(frame))
    for y, (_, row) in enumerate(frame.iterrows()):
        arrow = {"arrowstyle": "->", "color": "#777777", "shrinkA": 4, "shrinkB": 4}
        axis.annotate("", (row[FRESH], y), (row[SEEN], y), arrowprops=arrow)
    for place, marker in zip(PLACES, "os", strict=True):
        axis.plot(frame[place], range(len(frame)), marker, color=PLACES[place], label=place)
    axis.axvline(0.5, color=COLOURS["chance"], linestyle="--", linewidth=1, zorder=0)
    axis.set_yticks(range(len(frame)), frame.index)
    axis.invert_yaxis()
    axis.set_xlabel("image AUROC, mean over studies (dashed: chance)")
    figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=9)
    return figure
