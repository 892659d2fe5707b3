"""One adapted backbone's verdict on a set of images: both branches, their ranges, the fused result."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from mvfa_core.adapters import Adapters
from mvfa_core.backbones import Backbone
from mvfa_core.devices import on_device
from mvfa_core.memory import MemoryBank, memory_maps
from mvfa_core.scoring import LOGIT_SCALE, Range, fuse, text_maps, text_scores


def _joined(parts: Sequence) -> dict[str, Tensor | None]:
    """Field by field; what the first part lacks is lacking in all."""
    return {
        name: None if value is None else torch.cat([getattr(part, name) for part in parts])
        for name, value in vars(parts[0]).items()
    }


@dataclass
class Verdict:
    """scores (N,): larger is more abnormal. maps (N, S, S) float32, or None where a method gives none."""

    scores: Tensor
    maps: Tensor | None

    @classmethod
    def joined(cls, parts: Sequence["Verdict"]) -> "Verdict":
        """Of all images of several parts."""
        return cls(**_joined(parts))


@dataclass
class Branches:
    """What the two branches say before fusion.

    text_maps, memory_maps: (N, S, S). text_scores, memory_scores: (N,), from the detection adapters.
    The memory fields are None without a bank.
    """

    text_maps: Tensor
    text_scores: Tensor
    memory_maps: Tensor | None = None
    memory_scores: Tensor | None = None

    @classmethod
    def joined(cls, parts: Sequence["Branches"]) -> "Branches":
        """Of all images of several parts."""
        return cls(**_joined(parts))


@dataclass(frozen=True)
class FusionRanges:
    """Minimum and maximum of each branch, for maps and for detection scores."""

    text_maps: Range
    memory_maps: Range
    text_scores: Range
    memory_scores: Range

    @classmethod
    def of(cls, branches: Branches) -> "FusionRanges":
        return cls(*(Range.of(getattr(branches, name)) for name in cls.__dataclass_fields__))

    @classmethod
    def from_record(cls, record: dict[str, dict[str, float]]) -> "FusionRanges":
        """From what `dataclasses.asdict` made of them."""
        return cls(**{name: Range(**value) for name, value in record.items()})


@dataclass(frozen=True)
class Banks:
    """Memory of the segmentation and of the detection adapters' tokens."""

    seg: MemoryBank
    det: MemoryBank

    def without(self, images: Sequence[int]) -> "Banks":
        return Banks(self.seg.without(images), self.det.without(images))

    def without_image(self, image: int, images: int) -> "Banks":
        return Banks(self.seg.without_image(image, images), self.det.without_image(image, images))


@dataclass
class Judge:
    """An adapted backbone with the text features of one organ.

    Args:
        text: (D, 2). size: side of the anomaly maps in pixels.
        masks: the target has pixel labels; its maps come from the segmentation adapters then, else from
            the detection adapters, since no loss has reached the others.
        batch_size: images at once. autocast: context of mixed precision.
    """

    backbone: Backbone
    adapters: Adapters
    text: Tensor
    size: int
    masks: bool
    batch_size: int = 32
    autocast: Callable = nullcontext

    @torch.no_grad()
    def banks(self, tokens: Tensor) -> Banks:
        """Memory of (augmented) normal images, given as prefix tokens (N, L, width)."""
        parts = [self._levels(rows) for rows in tokens.split(self.batch_size)]
        return Banks(
            *(
                MemoryBank(
                    [
                        torch.cat(level).float()
                        for level in zip(*(getattr(p, branch) for p in parts), strict=True)
                    ]
                )
                for branch in ("seg", "det")
            )
        )

    @torch.no_grad()
    def branches(self, tokens: Tensor, banks: Banks | None = None, zero_shot: bool = False) -> Branches:
        """Both branches of images given as prefix tokens (N, L, width), in bounded memory.

        zero_shot: maps come from the segmentation adapters whatever the target, for they were trained on
        the other data sets.
        """
        chunks = [self._branches(rows, banks, zero_shot) for rows in tokens.split(self.batch_size)]
        return Branches.joined(chunks)

    def _levels(self, tokens: Tensor):
        with self.autocast():
            return self.adapters(self.backbone, on_device(tokens, self.text.device), to_the_end=False)

    def _branches(self, tokens: Tensor, banks: Banks | None, zero_shot: bool) -> Branches:
        levels, prefix = self._levels(tokens), self.backbone.prefix
        of_maps = levels.seg if self.masks or zero_shot else levels.det
        result = Branches(
            text_maps([t.float() for t in of_maps], self.text, prefix, self.size).cpu(),
            text_scores([t.float() for t in levels.det], self.text, prefix).cpu(),
        )
        if banks is not None:
            result.memory_maps = memory_maps(
                banks.seg if self.masks else banks.det, of_maps, prefix, self.size
            ).cpu()
            # image scores of a target with masks are taken from its maps, so its detection memory is not asked
            result.memory_scores = result.memory_maps.mean(dim=(1, 2))
        return result


def zero_shot_verdict(branches: Branches) -> Verdict:
    """Image score from the detection branch, map from the segmentation branch; text only."""
    return Verdict(branches.text_scores, branches.text_maps)


def few_shot_verdict(branches: Branches, ranges: FusionRanges, masks: bool, memory_weight: float) -> Verdict:
    """Fused map; image score is its maximum with pixel labels, else the fused detection scores."""
    maps = fuse(branches.text_maps, branches.memory_maps, ranges.text_maps, ranges.memory_maps, memory_weight)
    if masks:
        return Verdict(maps.amax(dim=(1, 2)), maps)
    scores = fuse(
        branches.text_scores, branches.memory_scores, ranges.text_scores, ranges.memory_scores, memory_weight
    )
    return Verdict(scores, maps)


def pooled_verdict(pooled: Tensor, text: Tensor) -> Verdict:
    """Abnormal probability of pooled image features (N, D); there is no map."""
    feature = F.normalize(pooled.float(), dim=-1)
    return Verdict((LOGIT_SCALE * feature @ text).softmax(dim=-1)[:, 1].cpu(), None)


def patch_verdict(projected: Tensor, text: Tensor, size: int) -> Verdict:
    """Map from projected patch tokens (N, P, D), image score its mean over patches."""
    patches = [projected.float()]
    scores, maps = text_scores(patches, text, prefix=0), text_maps(patches, text, 0, size)
    return Verdict(scores.cpu(), maps.cpu())


@torch.no_grad()
def clip_verdicts(
    backbone: Backbone,
    tokens: Tensor,
    start: int,
    text: Tensor,
    size: int,
    batch_size: int = 32,
    autocast: Callable = nullcontext,
) -> dict[str, Verdict]:
    """The plain backbone in both readings, `clip-pooled` and `clip-patch`, from tokens behind block `start`."""
    pooled, patches = [], []
    for rows in tokens.split(batch_size):
        with autocast():
            last = backbone.run(on_device(rows, text.device), start, backbone.depth)
            feature, projected = backbone.pool(last), backbone.project(last)
        pooled.append(pooled_verdict(feature, text))
        patches.append(patch_verdict(projected, text, size))
    return {"clip-pooled": Verdict.joined(pooled), "clip-patch": Verdict.joined(patches)}
