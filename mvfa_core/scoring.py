"""Level tokens -> anomaly maps and scores (MVFA paper, section 3.4): text branch and fusion.

The memory branch is in `memory.py`. Maps are sums over levels, so their range is [0, number of levels]
for the text branch and [0, 2 x number of levels] for the memory branch.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

LOGIT_SCALE = 100.0


def patch_logits(tokens: Tensor, text: Tensor, prefix: int) -> Tensor:
    """Cosine of each patch token with the class features, times 100.

    Args:
        tokens: (N, L, D) bottleneck activations, prefix tokens first.
        text: (D, 2) unit vectors, normal and abnormal.
        prefix: number of prefix tokens to drop.

    Returns:
        (N, P, 2) logits, P = L - prefix.
    """
    return LOGIT_SCALE * F.normalize(tokens[:, prefix:], dim=-1) @ text


def upsample(patches: Tensor, size: int) -> Tensor:
    """(N, P, C) values on a square patch grid -> (N, C, size, size), bilinear with aligned corners."""
    n, p, c = patches.shape
    side = math.isqrt(p)
    if side * side != p:
        raise ValueError(f"patches must form a square grid, got {p} of them")
    grid = patches.transpose(1, 2).reshape(n, c, side, side)
    return F.interpolate(grid, size=(size, size), mode="bilinear", align_corners=True)


def text_maps(levels: Sequence[Tensor], text: Tensor, prefix: int, size: int) -> Tensor:
    """(N, size, size): abnormal probability, upsampled as logits, softmax afterwards, summed over levels."""
    return sum(upsample(patch_logits(t, text, prefix), size).softmax(dim=1)[:, 1] for t in levels)


def text_scores(levels: Sequence[Tensor], text: Tensor, prefix: int) -> Tensor:
    """(N,): mean abnormal probability over patches, summed over levels."""
    return sum(patch_logits(t, text, prefix).softmax(dim=-1)[..., 1].mean(dim=1) for t in levels)


@dataclass(frozen=True)
class Range:
    """The minimum and maximum that min-max normalisation divides by."""

    low: float
    high: float

    @classmethod
    def of(cls, values: Tensor) -> "Range":
        return cls(float(values.min()), float(values.max()))

    def __call__(self, values: Tensor) -> Tensor:
        """`values` moved so that `low` becomes 0 and `high` 1; constant ranges give 0. Nothing is clipped."""
        spread = self.high - self.low
        return (values - self.low) / spread if spread > 0 else torch.zeros_like(values)


def fuse(text: Tensor, memory: Tensor, text_range: Range, memory_range: Range, memory_weight: float = 0.5):
    """`(1 - w) * minmax(text) + w * minmax(memory)`, any shape.

    The published code takes both ranges over the whole test set, so that an image's score depends on the
    other test images; `Range.of` a support set's values frees it from them.
    """
    return (1 - memory_weight) * text_range(text) + memory_weight * memory_range(memory)
