"""Organ name -> sentences -> one normal and one abnormal text feature (MVFA paper, section 3.3)."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from mvfa_core.backbones import Backbone

NORMAL_STATES = (
    "{}",
    "flawless {}",
    "perfect {}",
    "unblemished {}",
    "{} without flaw",
    "{} without defect",
    "{} without damage",
)
ABNORMAL_STATES = ("damaged {}", "broken {}", "{} with flaw", "{} with defect", "{} with damage")

_ADJECTIVES = (
    "bad",
    "low resolution",
    "cropped",
    "bright",
    "dark",
    "close-up",
    "black and white",
    "jpeg corrupted",
    "blurry",
    "good",
)
_ARTICLES = ("a", "the", "one", "my", "a cool", "the cool", "a large", "the large", "a small", "the small")

TEMPLATES = (
    *(f"a {adjective} photo of {article} {{}}." for adjective in _ADJECTIVES for article in ("a", "the")),
    *(f"a photo of {article} {{}}." for article in _ARTICLES),
    *(f"there is {article} {{}} in the scene." for article in ("a", "the")),
    *(f"this is {article} {{}} in the scene." for article in ("a", "the", "one")),
)


@dataclass(frozen=True)
class PromptEnsemble:
    """The wordings that are averaged: every state of a class is put into every template."""

    normal: tuple[str, ...] = NORMAL_STATES
    abnormal: tuple[str, ...] = ABNORMAL_STATES
    templates: tuple[str, ...] = TEMPLATES

    def sentences(self, organ: str) -> tuple[list[str], list[str]]:
        """Normal and abnormal sentences for `organ`.

        >>> normal, abnormal = PromptEnsemble().sentences("Brain")
        >>> len(normal), len(abnormal)
        (245, 175)
        >>> abnormal[0]
        'a bad photo of a damaged Brain.'
        """
        return tuple(
            [template.format(state.format(organ)) for state in states for template in self.templates]
            for states in (self.normal, self.abnormal)
        )


_ONE_TEMPLATE = ("a photo of a {}.",)

# the two levels of the ensemble, apart; in "one prompt" either class has a single sentence
ENSEMBLES = {
    "states and templates": PromptEnsemble(),
    "states only": PromptEnsemble(templates=_ONE_TEMPLATE),
    "templates only": PromptEnsemble(normal=NORMAL_STATES[:1], abnormal=ABNORMAL_STATES[:1]),
    "one prompt": PromptEnsemble(NORMAL_STATES[:1], ABNORMAL_STATES[:1], _ONE_TEMPLATE),
}


@torch.no_grad()
def text_features(backbone: Backbone, organ: str, ensemble: PromptEnsemble = PromptEnsemble()) -> Tensor:
    """(D, 2): unit vectors of the normal and the abnormal class, each the mean of its unit sentence vectors."""
    classes = []
    for sentences in ensemble.sentences(organ):
        each = F.normalize(backbone.encode_text(sentences), dim=-1)
        classes.append(F.normalize(each.mean(dim=0), dim=-1))
    return torch.stack(classes, dim=1)
