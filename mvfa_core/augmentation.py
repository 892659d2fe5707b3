"""The 11-fold augmentation of support images (MVFA paper, section 4; RegAD's list without its grey-scaling)."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

ROTATIONS_DEGREES = (-22.5, -11.25, 11.25, 22.5)
TRANSLATIONS = ((0.1, 0.1), (-0.1, 0.1), (-0.1, -0.1), (0.1, -0.1))
FOLDS = 1 + len(ROTATIONS_DEGREES) + len(TRANSLATIONS) + 2


def views_of(image: int, images: int) -> list[int]:
    """Rows of an augmented batch of `images` that show `image`.

    >>> views_of(1, 4)[:3]
    [1, 5, 9]
    """
    return list(range(image, FOLDS * images, images))


def _warp(images: Tensor, matrix: list[list[float]]) -> Tensor:
    theta = torch.tensor(matrix, dtype=images.dtype, device=images.device).expand(len(images), 2, 3)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def augment(images: Tensor) -> Tensor:
    """(N, C, H, W) -> (11 N, C, H, W): the batch as it is, 4 rotations, 4 translations, 2 flips.

    Rotations are by -22.5, -11.25, 11.25, 22.5 degrees, translations by +-0.1 of the normalised grid
    ([-1, 1]), both with reflection padding; then the horizontal and the vertical flip. Fold f of image i is
    row `f * N + i`. Masks take the same way and come back with soft edges.
    """
    folds = [images]
    for degrees in ROTATIONS_DEGREES:
        # single precision from here on, as the published code does: the warp is then equal to the last bit
        angle = torch.tensor(math.radians(degrees), dtype=torch.float32)
        c, s = float(angle.cos()), float(angle.sin())
        folds.append(_warp(images, [[c, -s, 0], [s, c, 0]]))
    for x, y in TRANSLATIONS:
        folds.append(_warp(images, [[1, 0, x], [0, 1, y]]))
    return torch.cat([*folds, images.flip(-1), images.flip(-2)])
