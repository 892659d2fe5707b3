"""The same network and images on both sides: the plain loop's and this project's."""

import copy
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.measuring import adapter_flops, block_flops
from benchmarks.plain_loop import Item, PlainMvfa, train
from mvfa_core.adapters import Adapters
from mvfa_core.augmentation import augment
from mvfa_core.backbones import Backbone, load_backbone
from mvfa_core.devices import DTYPES
from mvfa_core.judging import Branches, FusionRanges, Judge, few_shot_verdict
from mvfa_core.metrics import auroc
from mvfa_core.pixel_ranking import pixel_auroc
from mvfa_core.settings import BackboneSettings
from mvfa_core.token_cache import TokenCache
from mvfa_core.training import EpochLog, TrainingPart, batches, fit

SEED, RATE = 111, 1e-3


@dataclass(frozen=True)
class Size:
    """How large a scene is: the network, and how many images each measurement takes."""

    words: str
    model: str
    image_size: int
    levels: tuple[int, ...]
    train: int
    test: int
    pixels: int


SIZES = {
    "full": Size("ViT-L/14-336 at 240 px", "ViT-L-14-336", 240, (6, 12, 18, 24), 3, 8, 20_000_000),
    "small": Size(
        "the demo's network at 96 px", "mvfa_core/demo/demo_clip.json", 96, (2, 4, 6, 8), 6, 8, 2_000_000
    ),
}


class Scene:
    """Random weights, random images with a bright square where they are abnormal, random text features.

    Sentences are encoded once on either side at the same cost, which is left out on both.

    Args:
        weights: a file to take them from instead. cache: where they lie ready for use, as in every run.
    """

    def __init__(self, size: Size, weights: Path | None = None, cache: TokenCache | None = None):
        self.size, self.weights, self.cache = size, weights, cache
        generator = torch.Generator().manual_seed(SEED)
        side, text_width = size.image_size, self.backbone.text_width
        self.text = torch.nn.functional.normalize(torch.randn(text_width, 2, generator=generator), dim=0)
        count = size.train + size.test
        self.images = torch.rand(count, 3, side, side, generator=generator) * 0.5
        self.labels = torch.arange(count) % 2 * 1.0
        self.masks = torch.zeros(count, side, side, dtype=torch.uint8)
        for row in range(1, count, 2):
            self.masks[row, side // 4 : side // 2, side // 3 : side // 2] = 1
            self.images[row, :, side // 4 : side // 2, side // 3 : side // 2] += 0.4
        # 2 of the 11 views each normal image is remembered in; the search is measured at its real size
        self.normal = augment(self.images[:1])[:2]

    @classmethod
    def in_folder(cls, size: Size, folder: Path) -> "Scene":
        """One whose random weights have gone through a file, as the weights of every run do."""
        weights = folder / "weights.safetensors"
        save_file(cls(size).backbone.model.state_dict(), weights)
        return cls(size, weights, TokenCache(folder / "cache", 10**10))

    @cached_property
    def backbone(self) -> Backbone:
        """Frozen, with seeded random weights unless they come from a file."""
        settings = BackboneSettings(
            model=self.size.model,
            weights=None if self.weights is None else str(self.weights),
            image_size=self.size.image_size,
            levels=self.size.levels,
        )
        return load_backbone(settings, cache=self.cache)

    def adapters(self) -> Adapters:
        return Adapters.for_backbone(self.backbone, self.size.levels, SEED)

    @property
    def tested(self) -> slice:
        return slice(self.size.train, None)

    def autocast(self, dtype: str):
        return nullcontext if dtype == "fp32" else partial(torch.autocast, "cpu", DTYPES[dtype])

    # --- the plain loop ---------------------------------------------------------------------------------

    def plain(self, copied: bool = True) -> PlainMvfa:
        """copied: with weights of its own, since they ask for gradients."""
        visual = self.backbone.model.visual
        return PlainMvfa(copy.deepcopy(visual) if copied else visual, self.adapters(), self.text)

    def plain_epochs(self, model: PlainMvfa, rate: float = RATE) -> Iterator[tuple[float, ...]]:
        """Its training on the images and in the order of this project's."""
        rows = range(self.size.train)
        generator = torch.Generator().manual_seed(SEED)
        part = self.part(torch.zeros(len(rows), 1, 1))

        class Shuffled:
            """The items of one epoch after another."""

            def __len__(self) -> int:
                return len(rows)

            def __iter__(inner) -> Iterator[Item]:
                for _, chosen in batches([part], 1, generator):
                    yield self.item(int(chosen))

        return train(model, Shuffled(), rate)

    def item(self, row: int) -> Item:
        return self.images[row : row + 1], self.labels[row : row + 1], self.masks[row].float()

    # --- this project -----------------------------------------------------------------------------------

    @torch.no_grad()
    def prefix(self, images: Tensor, dtype: str) -> Tensor:
        """Tokens behind the first level's block, one image at a time as on every CPU."""
        with self.autocast(dtype)():
            rows = [self.backbone.run(self.backbone.embed(i[None]), 0, self.size.levels[0]) for i in images]
        return torch.cat(rows).to(DTYPES[dtype])

    def part(self, tokens: Tensor, copies: int = 1) -> TrainingPart:
        """The first images, as many as there are tokens (N, L, width); copies: how often each is in it."""
        rows = slice(len(tokens))
        repeated = (
            values.repeat_interleave(copies, 0) for values in (tokens, self.labels[rows], self.masks[rows])
        )
        return TrainingPart("scene", *repeated, self.text)

    def epochs(self, adapters: Adapters, tokens: Tensor, dtype: str, copies: int = 1) -> Iterator[EpochLog]:
        """Training one image at a time, or `copies` of each image in batches of as many."""
        return fit(
            self.backbone,
            adapters,
            [self.part(tokens, copies)],
            epochs=10**6,
            learning_rate=RATE,
            batch_size=copies,
            seed=SEED,
            logits_quirk=True,
            autocast=self.autocast(dtype),
        )

    def judge(self, adapters: Adapters, dtype: str) -> Judge:
        side = self.size.image_size
        return Judge(self.backbone, adapters, self.text, side, True, 8, self.autocast(dtype))

    def evaluate(self, branches: Branches) -> tuple[float, float]:
        """Image and pixel AUROC, ranges taken over all images as under the protocol `paper`."""
        verdict = few_shot_verdict(branches, FusionRanges.of(branches), True, 0.5)
        labels, masks = self.labels[self.tested].numpy(), self.masks[self.tested].numpy()
        return auroc(labels, verdict.scores.numpy()), pixel_auroc(verdict.maps.numpy(), masks)

    # --- operations -------------------------------------------------------------------------------------

    def flops(self, start: int, training: bool = False) -> float:
        """Operations for one image from block `start` to the last level, without what costs next to nothing."""
        tokens = (self.size.image_size // self.backbone.stride) ** 2 + 1
        width, blocks = self.backbone.widths[0], self.size.levels[-1] - start
        total = blocks * block_flops(tokens, width)
        if training:
            total += blocks * block_flops(tokens, width, backwards=True)
        return total + adapter_flops(tokens, width, self.backbone.text_width, len(self.size.levels), training)

    def search_flops(self, bank: int) -> float:
        """Operations of one image's search in a bank of `bank` images."""
        tokens = (self.size.image_size // self.backbone.stride) ** 2
        return 2 * len(self.size.levels) * tokens * bank * (tokens + 1) * self.backbone.text_width


def random_bank(scene: Scene, images: int) -> list[Tensor]:
    """Per level (images, L, D): memory of the size that a run has, without the hours of filling it."""
    tokens = (scene.size.image_size // scene.backbone.stride) ** 2 + 1
    rng = np.random.default_rng(SEED)
    shape = (images, tokens, scene.backbone.text_width)
    return [torch.from_numpy(rng.standard_normal(shape, dtype=np.float32)) for _ in scene.size.levels]
