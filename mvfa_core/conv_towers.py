"""Convolutional image towers: their stages are the levels, their positions the patch tokens.

Tokens are (N, H * W, C) without a prefix; grid and width differ from stage to stage.
"""

import math
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from mvfa_core.towers import OpenClipBackbone


def to_grid(tokens: Tensor) -> Tensor:
    """(N, H * W, C) -> (N, C, H, W); H = W, since images are square."""
    n, positions, channels = tokens.shape
    side = math.isqrt(positions)
    return tokens.transpose(1, 2).reshape(n, channels, side, side)


def to_tokens(grid: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, H * W, C)."""
    return grid.flatten(2).transpose(1, 2)


class ConvTower(OpenClipBackbone):
    """What convolutional towers share: a stem, then stages.

    Subclasses give `stem`, `stages` and the widths behind the stages.
    """

    prefix = 0
    stem: Callable[[Tensor], Tensor]
    stages: Sequence[nn.Module]

    def embed(self, images: Tensor) -> Tensor:
        return to_tokens(self.stem(self.standardised(images)))

    def run(self, tokens: Tensor, start: int, stop: int) -> Tensor:
        if start == stop:
            return tokens
        grid = to_grid(tokens)
        for stage in self.stages[start:stop]:
            grid = stage(grid)
        return to_tokens(grid)


class ResNetTower(ConvTower):
    """`open_clip`'s `ModifiedResNet` (OpenAI's RN50 to RN50x64), pooled by attention."""

    def measure(self, model: nn.Module) -> None:
        self.depth = len(self.stages)
        self.widths = tuple(stage[-1].conv3.out_channels for stage in self.stages)
        self.stride = 32

    @classmethod
    def serves(cls, visual: nn.Module) -> bool:
        return hasattr(visual, "attnpool") and hasattr(visual, "layer4")

    def stem(self, images: Tensor) -> Tensor:
        return self.model.visual.stem(images)

    @property
    def stages(self) -> list[nn.Module]:
        visual = self.model.visual
        return [visual.layer1, visual.layer2, visual.layer3, visual.layer4]

    def pool(self, tokens: Tensor) -> Tensor:
        return self.model.visual.attnpool(to_grid(tokens))

    def project(self, tokens: Tensor) -> Tensor:
        """(N, P, C) -> (N, P, D): position embedding, value and output projection of the pooling attention.

        That is what the pooled feature would be if this position alone were attended to (Zhou et al.,
        "Extract Free Dense Labels from CLIP", 2022).
        """
        pooling = self.model.visual.attnpool
        tokens = tokens + pooling.positional_embedding[1:]
        return pooling.c_proj(pooling.v_proj(tokens))


class TimmStages(ConvTower):
    """A staged network of `timm` in `open_clip`'s wrapper: ConvNeXt, and FastViT (MobileCLIP)."""

    def measure(self, model: nn.Module) -> None:
        self.depth = len(self.stages)
        self.widths = tuple(stage["num_chs"] for stage in model.visual.trunk.feature_info)
        self.stride = model.visual.trunk.feature_info[-1]["reduction"]

    @classmethod
    def serves(cls, visual: nn.Module) -> bool:
        trunk = getattr(visual, "trunk", None)
        # other staged networks order their axes or their heads in another way
        return type(trunk).__name__ in ("ConvNeXt", "FastVit")

    def stem(self, images: Tensor) -> Tensor:
        return self.model.visual.trunk.stem(images)

    @property
    def stages(self) -> nn.Sequential:
        return self.model.visual.trunk.stages

    def pool(self, tokens: Tensor) -> Tensor:
        visual = self.model.visual
        return visual.head(visual.trunk.forward_head(self._tail(to_grid(tokens))))

    def project(self, tokens: Tensor) -> Tensor:
        """(N, P, C) -> (N, P, D): everything behind the last stage but the mean over positions."""
        visual, head = self.model.visual, self.model.visual.trunk.head
        grid = self._tail(to_grid(tokens))
        if hasattr(head, "norm"):
            grid = head.norm(grid)
        tokens = to_tokens(grid)
        if hasattr(head, "pre_logits"):
            tokens = head.pre_logits(tokens)
        return visual.head(head.fc(tokens))

    def _tail(self, grid: Tensor) -> Tensor:
        trunk = self.model.visual.trunk
        return trunk.final_conv(grid) if hasattr(trunk, "final_conv") else trunk.norm_pre(grid)
