"""Memory bank of normal tokens and the distance of a patch to it (MVFA paper, section 3.4)."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

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

    def distances(self, levels: Sequence[Tensor], prefix: int, block: int = 8192) -> list[Tensor]:
        """Per level (N, P): 1 - the largest cosine of each patch token to the level's bank, in [0, 2].

        The bank is searched `block` rows at a time: memory stays bounded however large it is.
        """
        result = []
        for bank, tokens in zip(self.levels, levels, strict=True):
            query = F.normalize(tokens[:, prefix:], dim=-1)
            best = torch.full(query.shape[:2], -1.0, dtype=query.dtype, device=query.device)
            for rows in bank.flatten(0, 1).split(block):
                best = torch.maximum(best, (query @ rows.T).amax(dim=-1))
            result.append(1 - best)
        return result


def memory_maps(bank: MemoryBank, levels: Sequence[Tensor], prefix: int, size: int) -> Tensor:
    """(N, size, size): upsampled distances to the bank, summed over levels."""
    return sum(upsample(d.unsqueeze(-1), size)[:, 0] for d in bank.distances(levels, prefix))
