"""Memory bank of normal tokens and the distance of a patch to it (MVFA paper, section 3.4)."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from mvfa_core.augmentation import views_of
from mvfa_core.frozen import linear
from mvfa_core.scoring import upsample


class MemoryBank:
    """Unit tokens of normal images, one bank a level, prefix tokens included.

    Args:
        levels: per level (N, L, D) adapter tokens of the (augmented) normal support images.
    """

    def __init__(self, levels: Sequence[Tensor]):
        self.levels = [F.normalize(t, dim=-1) for t in levels]

    def __len__(self) -> int:
        return len(self.levels[0])

    def without(self, images: Sequence[int]) -> "MemoryBank":
        """The bank of all other images: what it would be had `images` (row numbers) not been put in."""
        keep = [i for i in range(len(self)) if i not in set(images)]
        rest = MemoryBank([])
        rest.levels = [level[keep] for level in self.levels]
        return rest

    def without_image(self, image: int, images: int) -> "MemoryBank":
        """The bank that one of its `images` augmented images is compared with: the others; a single one stays."""
        return self.without(views_of(image, images)) if images > 1 else self

    def distances(
        self, levels: Sequence[Tensor], prefix: int, queries: int = 1024, block: int = 1024
    ) -> list[Tensor]:
        """Per level (N, P): 1 - the largest cosine of each patch token to the level's bank, in [0, 2]; no gradient.

        `queries` patch tokens meet `block` bank tokens at a time: their cosines, 4 MB of them, stay in the
        processor's cache, and memory is bounded however many images or shots there are.
        """
        result = []
        for bank, tokens in zip(self.levels, levels, strict=True):
            patches = tokens[:, prefix:]
            nearest = [
                _largest_cosines(F.normalize(some, dim=-1), bank.flatten(0, 1), block)
                for some in patches.flatten(0, 1).split(queries)
            ]
            result.append(1 - torch.cat(nearest).view(patches.shape[:2]))
        return result


def _largest_cosines(query: Tensor, bank: Tensor, block: int) -> Tensor:
    """(Q, D) and (R, D) unit vectors -> (Q,): cosine of each query with its nearest bank token."""
    best = torch.full((len(query),), -1.0, dtype=query.dtype, device=query.device)
    for rows in bank.split(block):
        best = torch.maximum(best, linear(query, rows).amax(dim=-1))
    return best


def memory_maps(bank: MemoryBank, levels: Sequence[Tensor], prefix: int, size: int) -> Tensor:
    """(N, size, size): upsampled distances to the bank, summed over levels."""
    return sum(upsample(d.unsqueeze(-1), size)[:, 0] for d in bank.distances(levels, prefix))
