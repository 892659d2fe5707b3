"""Multi-scale windows of patches, each seen by the plain backbone alone: a baseline after WinCLIP.

Source: Jeong et al., "WinCLIP: Zero-/Few-Shot Anomaly Classification and Segmentation", CVPR 2023, section 4.
Kept: windows of 2 x 2 and 3 x 3 patches, cut out in front of the first block and pooled as an image is; the
harmonic mean over the windows that cover a patch, then over both scales and the whole image.

Departures, and why:
- Windows move by two patches, not by one: the cost falls from some 15 forward passes to 3 or 4.
- Prompts and temperature (100) are those of every other method here, so that only the windows differ.
- The image score is the mean of the whole image's score and of the map's maximum, WinCLIP's rule with
  reference images. Its rule without them is the whole image's score alone, which is `clip-pooled` already.
- There is no reference memory of normal images; the memory baseline is there for that.
- A tower whose tokens cannot be taken apart (convolutions, rotary or relative positions) has its patch features
  behind the last block averaged over the same windows instead.
"""

import math
from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor
from torch.nn import functional as F

from mvfa_core.backbones import Backbone, OpenClipVit
from mvfa_core.judging import Verdict
from mvfa_core.plain import PlainPass
from mvfa_core.scoring import LOGIT_SCALE, upsample
from mvfa_core.towers import TimmVit

SCALES = (2, 3)  # patches along a window's side
STRIDE = 2


def takes_windows(backbone: Backbone) -> bool:
    """Whether the tower's blocks can be run on any subset of an image's tokens."""
    if isinstance(backbone, TimmVit):
        trunk = backbone.model.visual.trunk
        relative = any("relative_position" in name for name, _ in trunk.named_parameters())
        return getattr(trunk, "rope", None) is None and not relative
    return isinstance(backbone, OpenClipVit)


def window_patches(grid: int, side: int, stride: int = STRIDE) -> Tensor:
    """(W, side * side) numbers of the patches in each window of a square grid; every patch is in one at least.

    >>> window_patches(3, 2, stride=2).tolist()
    [[0, 1, 3, 4], [1, 2, 4, 5], [3, 4, 6, 7], [4, 5, 7, 8]]
    """
    last = grid - side
    # the last window is moved back onto the grid
    starts = torch.tensor(sorted({*range(0, last, stride), last}))
    rows = (starts[:, None] + torch.arange(side)).repeat_interleave(len(starts), dim=0)
    columns = (starts[:, None] + torch.arange(side)).repeat(len(starts), 1)
    return (rows[:, :, None] * grid + columns[:, None, :]).flatten(1)


def harmonic(logits: Tensor, dim: int) -> Tensor:
    """Logit of the harmonic mean of probabilities given as logits; entries of `inf` are left out.

    1 / sigmoid(x) = 1 + exp(-x), so that the mean can be taken without leaving the logarithms.

    >>> harmonic(torch.tensor([0.5, 0.25]).logit(), dim=0).sigmoid()
    tensor(0.3333)
    """
    count = torch.isfinite(logits).sum(dim=dim)
    return count.log() - torch.logsumexp(-logits, dim=dim)


def abnormal_logits(features: Tensor, text: Tensor) -> Tensor:
    """(..., D) image features -> (...) logit of the abnormal class; `text` is (D, 2)."""
    both = LOGIT_SCALE * F.normalize(features.float(), dim=-1) @ text
    return both[..., 1] - both[..., 0]


@torch.no_grad()
def window_verdict(
    backbone: Backbone, seen: PlainPass, text: Tensor, size: int, autocast: Callable = nullcontext
) -> Verdict:
    """Scores and maps, on the CPU, of the images of one plain pass.

    Args:
        backbone: the frozen model.
        seen: with images, on the backbone's device.
        text: (D, 2) unit features, normal and abnormal.
        size: side of the maps in pixels.
        autocast: context of mixed precision, for the backbone alone.
    """
    apart = takes_windows(backbone)
    with autocast():
        tokens = backbone.embed(seen.images) if apart else backbone.project(seen.last)
    skipped = backbone.prefix if apart else 0
    patches = tokens.shape[1] - skipped
    grid = math.isqrt(patches)
    whole = abnormal_logits(seen.pooled, text)
    scales = [whole[:, None].expand(-1, patches)]
    for side in (side for side in SCALES if side < grid):
        windows = window_patches(grid, side).to(tokens.device)
        if apart:
            with autocast():
                features = _window_features(backbone, tokens, windows)
        else:
            features = F.normalize(tokens.float(), dim=-1)[:, windows].mean(dim=2)
        scales.append(_per_patch(abnormal_logits(features, text), windows, patches))
    logits = harmonic(torch.stack(scales), dim=0)
    scores = (whole.sigmoid() + logits.amax(dim=1).sigmoid()) / 2
    return Verdict(scores.cpu(), upsample(logits.unsqueeze(-1), size)[:, 0].sigmoid().cpu())


def _window_features(backbone: Backbone, tokens: Tensor, windows: Tensor) -> Tensor:
    """Embedded images (N, L, width), window patches (W, n) -> pooled features (N, W, D), each window alone."""
    heads, patches = tokens[:, : backbone.prefix], tokens[:, backbone.prefix :]
    heads = heads[:, None].expand(-1, len(windows), -1, -1)
    alone = torch.cat([heads, patches[:, windows]], dim=2).flatten(0, 1)
    return backbone.pool(backbone.run(alone, 0, backbone.depth)).unflatten(0, (len(tokens), len(windows)))


def _per_patch(logits: Tensor, windows: Tensor, patches: int) -> Tensor:
    """(N, W) -> (N, patches): the harmonic mean over the windows that a patch lies in."""
    covers = torch.zeros(len(windows), patches, dtype=torch.bool, device=logits.device)
    covers.scatter_(1, windows, True)
    return harmonic(logits[:, :, None].masked_fill(~covers, torch.inf), dim=1)
