"""Memory bank of normal tokens and the distance of a patch to it (MVFA paper, section 3.4)."""

import functools
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
        self._halves: dict[torch.dtype, list[Tensor]] = {}

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

        Tokens in half precision are looked up in half precision; the distance to the bank token that was found
        is exact. Where two are nearly as close, it may be the second one: on the demo's banks distances come out
        larger by 0.0001 on average.
        """
        result = []
        for level, (bank, tokens) in enumerate(zip(self.levels, levels, strict=True)):
            patches, rows = tokens[:, prefix:], bank.flatten(0, 1)
            nearest = []
            for some in patches.flatten(0, 1).split(queries):
                query = F.normalize(some.to(rows.dtype), dim=-1)
                if patches.dtype == rows.dtype:
                    nearest.append(_largest_products(query, rows, block))
                else:
                    found = _nearest_rows(query.to(patches.dtype), self._half(patches.dtype)[level], block)
                    nearest.append((query * rows[found]).sum(dim=-1))
            result.append(1 - torch.cat(nearest).view(patches.shape[:2]))
        return result

    def _half(self, dtype: torch.dtype) -> list[Tensor]:
        """Per level (N * L, D): what the tokens do not have in common, since products are rounded by their size."""
        if dtype not in self._halves:
            levels = (level.flatten(0, 1) for level in self.levels)
            self._halves[dtype] = [(rows - rows.mean(dim=0)).to(dtype) for rows in levels]
        return self._halves[dtype]


def _largest_products(query: Tensor, bank: Tensor, block: int) -> Tensor:
    """(Q, D) and (R, D) -> (Q,): each query's largest product with a bank token; cosines of unit vectors."""
    parts = (linear(query, rows).amax(dim=-1) for rows in bank.split(block))
    return functools.reduce(torch.maximum, parts)


def _nearest_rows(query: Tensor, bank: Tensor, block: int) -> Tensor:
    """(Q, D) and (R, D) -> (Q,): row of the bank token with which each query has the largest product."""
    best, found = linear(query, bank[:block]).max(dim=-1)
    for start in range(block, len(bank), block):
        value, row = linear(query, bank[start : start + block]).max(dim=-1)
        found = torch.where(value > best, row + start, found)
        best = torch.maximum(best, value)
    return found


def memory_maps(bank: MemoryBank, levels: Sequence[Tensor], prefix: int, size: int) -> Tensor:
    """(N, size, size): upsampled distances to the bank, summed over levels."""
    return sum(upsample(d.unsqueeze(-1), size)[:, 0] for d in bank.distances(levels, prefix))
