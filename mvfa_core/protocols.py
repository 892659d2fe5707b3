"""What a run may read, and which habits of the published code it keeps. A protocol is data."""

from dataclasses import dataclass
from typing import Literal

Selection = Literal["last", "held-out", "test"]


@dataclass(frozen=True)
class Protocol:
    """One way to train, select and judge.

    Attributes:
        few_shot_selection, zero_shot_selection: where the kept epoch comes from. `last` reads nothing;
            `held-out` reads images set aside (few-shot: the rest of the `valid` split, and where that lacks a
            class the last epoch stays; zero-shot: a part of the training data sets); `test` reads the
            target's test split.
        normalisation: which images fix the ranges of the min-max fusion, `support` or `test`.
        logits_quirk: probabilities are passed to BCE-with-logits.
        reads: one sentence for the tables.
    """

    name: str
    few_shot_selection: Selection
    zero_shot_selection: Selection
    normalisation: Literal["support", "test"]
    logits_quirk: bool
    reads: str


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name="sound",
            few_shot_selection="held-out",
            zero_shot_selection="held-out",
            normalisation="support",
            logits_quirk=False,
            reads="few-shot: weights and ranges from the support images, the epoch that does best on the rest of "
            "the valid split; zero-shot: a held-out fifth of the training data sets. The target's test split is "
            "read once, at the end.",
        ),
        Protocol(
            name="strict",
            few_shot_selection="last",
            zero_shot_selection="held-out",
            normalisation="support",
            logits_quirk=False,
            reads="as sound, but few-shot sees nothing beside the support images: the last epoch is kept.",
        ),
        Protocol(
            name="paper",
            few_shot_selection="test",
            zero_shot_selection="test",
            normalisation="test",
            logits_quirk=True,
            reads="the epoch that does best on the target's test split is kept, and the fusion's minimum and "
            "maximum are taken over that split, as in the published code.",
        ),
    )
}
