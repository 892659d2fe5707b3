"""The questions in the order of the report: what is asked, in words, and who measures it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from mvfa_core.ablations import options
from mvfa_core.ablations.bench import Bench
from mvfa_core.ablations.options import Seen
from mvfa_core.errors import MvfaError


@dataclass(frozen=True)
class Question:
    """title: the question. about: what is varied and what to bear in mind.

    measure: (bench, options of the plan) -> verdicts. axis: of a curve over numbers; None: a list of options.
    """

    title: str
    about: str
    measure: Callable[[Bench, Sequence], Iterator[Seen]]
    axis: str | None = None


QUESTIONS = {
    "levels": Question(
        "Does it take several levels?",
        "Adapters at single levels of the backbone against adapters at all of them.",
        options.levels,
    ),
    "adapters": Question(
        "Adapters or projectors?",
        "Adapters change the tokens that later blocks see. Without feedback they do not. Projectors are one linear "
        "layer on the plain backbone's tokens, with the memory branch on those tokens. Untrained adapters show what "
        "the memory branch is worth with random ones.",
        options.adapters,
    ),
    "residual": Question(
        "How much of a token may the adapters replace?",
        "The share that both adapters together take of a token; the rest of it is kept.",
        options.residual,
        axis="share of the adapters in a token",
    ),
    "prompts": Question(
        "Which sentences does it take?",
        "The ensemble puts each of the states (such as `damaged {}`) into 35 templates. With states only there is one "
        "template, with templates only one state a class, with one prompt one sentence a class.",
        options.prompts,
    ),
    "branches": Question(
        "What is each branch worth alone?",
        "With masks, an image's score is the maximum of the segmentation branch's map; `detection read` takes the "
        "same run's detection branch instead. Trained alone, a branch has the tokens to itself, and the other's "
        "share stays with the token. Data sets without masks have no segmentation branch to train: for them only "
        "`detection alone` is an option, which rids the tokens of adapters that no loss has reached.",
        options.branches,
    ),
    "memory": Question(
        "How much weight should the memory branch have?",
        "0: the text branch decides alone, 1: the memory branch does. One training, judged with every weight.",
        options.memory,
        axis="weight of the memory branch",
    ),
    "shots": Question(
        "How many support images does it take?",
        "k normal and k abnormal images; the sets of one draw are nested. The number of epochs stays, so that more "
        "images also mean more steps.",
        options.shots,
        axis="normal and abnormal support images, each",
    ),
    "epochs": Question(
        "How long should it be trained?",
        "One training judged on the way. Support images are those it is trained on, augmented; a normal one is kept "
        "out of the memory that it is compared with. Held-out images are the rest of the `valid` split.",
        options.epochs,
        axis="epochs",
    ),
    "activation": Question(
        "GELU or QuickGELU?",
        "Weights belong to the activation they were trained with: the demo's to GELU, OpenAI's to QuickGELU, although "
        "the published code runs them with GELU. Plain CLIP is the pooled token for images, patch tokens for pixels.",
        options.activation,
    ),
    "normalise": Question(
        "Does CLIP's input normalisation matter?",
        "CLIP takes a mean off the pixels and divides by a deviation; the published code does neither, and the demo's "
        "weights were trained without. Plain CLIP as above.",
        options.normalise,
    ),
}


def question_called(name: str) -> Question:
    """The question of that name; an unknown one raises `MvfaError` with the known ones."""
    if name not in QUESTIONS:
        raise MvfaError(f"unknown question '{name}': there are {', '.join(QUESTIONS)}")
    return QUESTIONS[name]
