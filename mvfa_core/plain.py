"""The frozen backbone without adapters, run once for all baselines that start from it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from mvfa_core.augmentation import FOLDS, views_of
from mvfa_core.backbones import Backbone
from mvfa_core.devices import on_device
from mvfa_core.experiment import Experiment
from mvfa_core.memory import MemoryBank, memory_maps
from mvfa_core.support import SupportSet


@dataclass
class PlainPass:
    """What the frozen backbone makes of some images, shared by all baselines.

    levels: per level (N, L, width) tokens behind it. last: (N, L, width) tokens behind the last block.
    pooled: (N, D) image features. images: (N, 3, S, S) in [0, 1], or None where nobody will ask.
    """

    levels: list[Tensor]
    last: Tensor
    pooled: Tensor
    images: Tensor | None = None
    known: dict[int, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.last)

    @cached_property
    def packed(self) -> Tensor:
        """(N, M): all levels in one tensor, as the training loop and the judge take their images."""
        return torch.cat([tokens.flatten(1) for tokens in self.levels], dim=1)

    def rows(self, chosen: Sequence[int]) -> "PlainPass":
        return PlainPass([tokens[chosen] for tokens in self.levels], self.last[chosen], self.pooled[chosen])

    def memory_maps(self, bank: MemoryBank, prefix: int, size: int) -> Tensor:
        """(N, size, size) distances to `bank`, on the CPU; computed once for all baselines that ask."""
        if id(bank) not in self.known:
            self.known[id(bank)] = memory_maps(bank, self.levels, prefix, size).cpu()
        return self.known[id(bank)]


@torch.no_grad()
def plain_pass(backbone: Backbone, levels: Sequence[int], tokens: Tensor, images: Tensor | None = None):
    """The plain backbone from tokens (N, L, width) behind the first of `levels` to its end."""
    found = [tokens]
    for start, stop in pairwise(levels):
        found.append(backbone.run(found[-1], start, stop))
    last = backbone.run(found[-1], levels[-1], backbone.depth)
    return PlainPass([tokens.float() for tokens in found], last, backbone.pool(last).float(), images)


def plain_passes(experiment: Experiment, tokens: Tensor, images: Tensor | None = None) -> Iterator[PlainPass]:
    """One `PlainPass` a batch, on the experiment's device; `images` are uint8."""
    size = experiment.settings.evaluation.batch_size
    for start in range(0, len(tokens), size):
        rows, shown = on_device(tokens[start : start + size], experiment.device), None
        if images is not None:
            shown = on_device(images[start : start + size], experiment.device) / 255
        with experiment.autocast():
            seen = plain_pass(experiment.backbone, experiment.levels, rows, shown)
        yield seen


@dataclass
class Support:
    """The augmented k + k support images of one draw, as the baselines see them.

    drawn: which images they are, and which are left. seen: the plain pass over all of them. labels: (N,) in
    {0, 1}. masks: (N, S, S) in {0, 1} or None.
    """

    experiment: Experiment
    name: str
    draw: int
    drawn: SupportSet
    seen: PlainPass
    labels: Tensor
    masks: Tensor | None

    @classmethod
    def of(cls, experiment: Experiment, name: str, shots: int, draw: int) -> "Support":
        """The very images that MVFA's run of the same data set, shots and draw is trained on."""
        drawn = experiment.support(name, shots, draw)
        tokens, labels, masks = experiment.support_tokens(name, drawn.chosen)
        parts = list(plain_passes(experiment, tokens))
        levels = [torch.cat(level) for level in zip(*(part.levels for part in parts), strict=True)]
        last, pooled = (torch.cat([getattr(part, key) for part in parts]) for key in ("last", "pooled"))
        seen = PlainPass(levels, last, pooled)
        return cls(experiment, name, draw, drawn, seen, labels, masks)

    @property
    def text(self) -> Tensor:
        return self.experiment.text(self.name)

    @property
    def has_masks(self) -> bool:
        return self.experiment.settings.dataset(self.name).masks

    @property
    def size(self) -> int:
        return self.experiment.settings.backbone.image_size

    def rows(self, label: int) -> list[int]:
        return torch.nonzero(self.labels == label).flatten().tolist()

    @cached_property
    def bank(self) -> MemoryBank:
        """Plain tokens of the normal images at all levels."""
        return MemoryBank([tokens[self.rows(0)] for tokens in self.seen.levels])

    def memory_maps(self, seen: PlainPass) -> Tensor:
        return seen.memory_maps(self.bank, self.experiment.backbone.prefix, self.size)

    @cached_property
    def own_memory_maps(self) -> Tensor:
        """(N, S, S) of the support images, abnormal ones first; a normal one is left out of its own memory."""
        prefix, normal = self.experiment.backbone.prefix, self.rows(0)
        found = [self.memory_maps(self.seen.rows(self.rows(1)))]
        images = len(normal) // FOLDS
        for i in range(images):
            rows, bank = [normal[v] for v in views_of(i, images)], self.bank.without_image(i, images)
            found.append(self.seen.rows(rows).memory_maps(bank, prefix, self.size))
        return torch.cat(found)
