"""Residual adapters at several levels of a frozen backbone (MVFA paper, section 3.2)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mvfa_core.backbones import Backbone


class ResidualWeights(NamedTuple):
    """How a level mixes its input with what the two adapters give back: `keep * x + seg * s + det * d`."""

    keep: float = 0.8
    seg: float = 0.1
    det: float = 0.1


class Adapter(nn.Module):
    """Two bias-free linear layers, each followed by a LeakyReLU of slope 0.01.

    Parameter names (`fc1.0.weight`, `fc2.0.weight`) are those of the authors' checkpoints.
    """

    def __init__(self, width: int, bottleneck: int):
        super().__init__()
        self.fc1 = nn.Sequential(nn.Linear(width, bottleneck, bias=False), nn.LeakyReLU(inplace=False))
        self.fc2 = nn.Sequential(nn.Linear(bottleneck, width, bias=False), nn.LeakyReLU(inplace=False))

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(N, L, width) -> bottleneck activations (N, L, bottleneck) and output (N, L, width)."""
        middle = self.fc1(tokens)
        return middle, self.fc2(middle)


@dataclass
class LevelTokens:
    """What one pass through the adapted backbone leaves behind.

    seg, det: per level the adapters' bottleneck activations (N, L, D), prefix tokens included.
    last: (N, L, width) tokens after the last adapted block, or None where nobody asked for them.
    """

    seg: list[Tensor]
    det: list[Tensor]
    last: Tensor | None


class Adapters(nn.Module):
    """One segmentation and one detection adapter a level.

    Args:
        levels: block numbers counted from 1, increasing; the adapters sit behind these blocks.
        widths: token width behind each of these blocks.
        bottleneck: D, the text width, because bottleneck activations are compared with text features.
        residual: mixing weights.
    """

    def __init__(
        self,
        levels: Sequence[int],
        widths: Sequence[int],
        bottleneck: int,
        residual: ResidualWeights = ResidualWeights(),
    ):
        super().__init__()
        self.levels = tuple(levels)
        self.residual = ResidualWeights(*residual)
        self.seg_adapters = nn.ModuleList(Adapter(width, bottleneck) for width in widths)
        self.det_adapters = nn.ModuleList(Adapter(width, bottleneck) for width in widths)

    @classmethod
    def for_backbone(
        cls,
        backbone: Backbone,
        levels: Sequence[int],
        seed: int,
        residual: ResidualWeights = ResidualWeights(),
    ) -> "Adapters":
        """Adapters that fit `backbone`, initialised as `nn.Linear` is, from `seed` alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(levels, [backbone.widths[n - 1] for n in levels], backbone.text_width, residual)

    def branch_parameters(self, branch: str) -> list[nn.Parameter]:
        """Parameters of the `seg` or `det` branch that a loss can reach: all but the last level's `fc2`."""
        adapters = self.seg_adapters if branch == "seg" else self.det_adapters
        return [p for p in adapters.parameters() if p is not adapters[-1].fc2[0].weight]

    def forward(self, backbone: Backbone, tokens: Tensor, to_the_end: bool = True) -> LevelTokens:
        """Run `tokens` (N, L, width), taken right behind the first level's block, through all levels.

        to_the_end: also mix the last level's outputs into `last`; neither losses nor maps need it.
        """
        seg, det = [], []
        for i in range(len(self.levels)):
            if i:
                tokens = self._between(backbone, tokens, i)
            if i == len(self.levels) - 1 and not to_the_end:
                seg.append(self.seg_adapters[i].fc1(tokens))
                det.append(self.det_adapters[i].fc1(tokens))
                return LevelTokens(seg, det, None)
            seg_middle, seg_out = self.seg_adapters[i](tokens)
            det_middle, det_out = self.det_adapters[i](tokens)
            tokens = self.residual.keep * tokens + self.residual.seg * seg_out + self.residual.det * det_out
            seg.append(seg_middle)
            det.append(det_middle)
        return LevelTokens(seg, det, tokens)

    def _between(self, backbone: Backbone, tokens: Tensor, i: int) -> Tensor:
        """Tokens behind level i - 1 -> tokens behind the blocks up to level i.

        In training the weights of the first stretch rest until the gradient comes to it, last of all, and those
        of the last one from then to the next step. One stretch is in memory less, and two are read again a step.
        """
        start, stop = self.levels[i - 1], self.levels[i]
        last = i == len(self.levels) - 1
        if last and tokens.requires_grad:
            tokens.register_hook(lambda _: backbone.rest_blocks(start, stop))
        tokens = backbone.run(tokens, start, stop)
        if i == 1 and not last and tokens.requires_grad:
            backbone.rest_blocks(start, stop)
        return tokens
