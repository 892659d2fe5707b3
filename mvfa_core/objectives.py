"""What the adapters learn from, per image and summed over levels (MVFA paper, section 3.2)."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from mvfa_core.scoring import patch_logits, upsample

SMOOTH = 1e-5


def detection_loss(
    levels: Sequence[Tensor], text: Tensor, labels: Tensor, prefix: int, logits_quirk: bool = False
) -> Tensor:
    """(N,): binary cross-entropy of the mean abnormal probability over patches, summed over levels.

    Args:
        levels: per level (N, L, D) detection tokens.
        text: (D, 2) unit text features.
        labels: (N,) in {0, 1}.
        prefix: prefix tokens to drop.
        logits_quirk: pass the probability to BCE-with-logits, as the published code does.
    """
    total = torch.zeros(len(labels), device=labels.device)
    for tokens in levels:
        score = patch_logits(tokens, text, prefix).softmax(dim=-1)[..., 1].mean(dim=1).float()
        criterion = F.binary_cross_entropy_with_logits if logits_quirk else F.binary_cross_entropy
        total = total + criterion(score, labels, reduction="none")
    return total


def focal_loss(probabilities: Tensor, masks: Tensor, gamma: float = 2.0) -> Tensor:
    """(N,): focal loss, alpha 1, mean over pixels.

    Args:
        probabilities: (N, 2, H, W) softmax over normal and abnormal.
        masks: (N, H, W) in {0, 1}.
        gamma: focusing exponent.
    """
    target = torch.stack([1 - masks, masks], dim=1).clamp(SMOOTH, 1 - SMOOTH)
    right = (target * probabilities).sum(dim=1) + SMOOTH
    return (-((1 - right) ** gamma) * right.log()).mean(dim=(1, 2))


def dice_loss(probabilities: Tensor, masks: Tensor) -> Tensor:
    """(N,): 1 - Dice coefficient of the abnormal channel, smoothed by 1 in numerator and denominator.

    Args:
        probabilities: (N, H, W) abnormal probability.
        masks: (N, H, W) in {0, 1}.
    """
    overlap = (probabilities * masks).sum(dim=(1, 2))
    mass = probabilities.sum(dim=(1, 2)) + masks.sum(dim=(1, 2))
    return 1 - (2 * overlap + 1) / (mass + 1)


def segmentation_losses(
    levels: Sequence[Tensor], text: Tensor, masks: Tensor, prefix: int
) -> tuple[Tensor, Tensor]:
    """Focal and Dice loss, each (N,), summed over levels; `masks` is (N, H, H) in {0, 1}."""
    focal = dice = 0
    for tokens in levels:
        maps = upsample(patch_logits(tokens, text, prefix), masks.shape[-1]).float().softmax(dim=1)
        focal = focal + focal_loss(maps, masks)
        dice = dice + dice_loss(maps[:, 1], masks)
    return focal, dice
