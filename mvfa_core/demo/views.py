"""From drawn scenes to training batches: a pool on disk, random views of it, captions for them."""

import hashlib
import inspect
import json
import os
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from mvfa_core.demo import fields, flaws, scenes, textures
from mvfa_core.prompts import ABNORMAL_STATES, NORMAL_STATES, TEMPLATES

HELD_OUT = 10_000_000  # scenes from this index on are never trained on
CHUNK = 128


@dataclass
class Pool:
    """pictures: (N, 2, 96, 96, 3) uint8, flawless and damaged; masks: (N, 96, 96) uint8; words: N strings;
    order: (N,) scene numbers, the plainest flaw first."""

    pictures: np.ndarray
    masks: np.ndarray
    words: list[str]
    order: np.ndarray

    def __len__(self) -> int:
        return len(self.words)


@dataclass
class Batch:
    """images: (2n, 3, S, S), first the n flawless, then the n damaged; cover: (2n, P) share of each patch
    that is flawed; captions: 2n strings, first normal, then abnormal; known: how many scenes are named."""

    images: Tensor
    cover: Tensor
    captions: list[str]
    known: int


def visibility(scene: scenes.Scene) -> float:
    """How plain a flaw is: its mean change of tone and of structure, against the picture's own variation."""
    if scene.mask.sum() < 25:
        return 0.0
    change = (scene.damaged.astype(float) - scene.flawless)[scene.mask > 0]
    return (np.abs(change.mean(axis=0)).max() + 0.5 * np.abs(change).mean()) / (
        15 + 0.5 * scene.flawless.std()
    )


def draw_chunk(seed: int, start: int, stop: int) -> tuple[np.ndarray, np.ndarray, list[str], np.ndarray]:
    """Scenes `start` to `stop` of the series, stacked."""
    drawn = [scenes.draw_scene(seed, index) for index in range(start, stop)]
    pictures = np.stack([np.stack([scene.flawless, scene.damaged]) for scene in drawn])
    masks, words = np.stack([scene.mask for scene in drawn]), [scene.words for scene in drawn]
    return pictures, masks, words, np.array([visibility(scene) for scene in drawn])


def held_out_pool(seed: int, count: int) -> Pool:
    """`count` scenes that no training pool contains."""
    pictures, masks, words, plainness = draw_chunk(seed, HELD_OUT, HELD_OUT + count)
    return Pool(pictures, masks, words, np.argsort(-plainness, kind="stable"))


def training_pool(seed: int, count: int, scratch: Path, workers: int = 2) -> Pool:
    """The first `count` scenes, drawn once and then kept under `scratch`.

    The file name holds a digest of seed, count and the drawing code: a pool of other code is never used.
    """
    code = "".join(inspect.getsource(module) for module in (fields, flaws, scenes, textures))
    digest = hashlib.sha256(f"{seed} {count} {code}".encode()).hexdigest()[:12]
    finished = scratch / f"pool-{digest}"
    if not finished.exists():
        partial_folder = scratch / f"pool-{digest}.partial"
        partial_folder.mkdir(parents=True, exist_ok=True)
        fill_pool(partial_folder, seed, count, workers)
        os.replace(partial_folder, finished)
    return Pool(
        np.load(finished / "pictures.npy", mmap_mode="r"),
        np.load(finished / "masks.npy", mmap_mode="r"),
        json.loads((finished / "words.json").read_text()),
        np.load(finished / "order.npy"),
    )


def fill_pool(folder: Path, seed: int, count: int, workers: int) -> None:
    """Draw `count` scenes into four files of `folder`."""
    side, words, plainness = fields.SIDE, [], []
    pictures = open_memmap(folder / "pictures.npy", "w+", np.uint8, (count, 2, side, side, 3))
    masks = open_memmap(folder / "masks.npy", "w+", np.uint8, (count, side, side))
    starts = range(0, count, CHUNK)
    stops = [min(start + CHUNK, count) for start in starts]
    with ExitStack() as stack:
        run = map
        if workers > 1:
            run = stack.enter_context(ProcessPoolExecutor(workers, mp_context=get_context("spawn"))).map
        chunks = zip(starts, stops, run(partial(draw_chunk, seed), starts, stops), strict=True)
        for start, stop, chunk in tqdm(chunks, total=len(stops), desc="scenes", mininterval=10):
            pictures[start:stop], masks[start:stop] = chunk[:2]
            words += chunk[2]
            plainness += chunk[3].tolist()
    pictures.flush()
    masks.flush()
    np.save(folder / "order.npy", np.argsort(-np.array(plainness), kind="stable"))
    (folder / "words.json").write_text(json.dumps(words))


def draw_batch(
    pool: Pool,
    count: int,
    side: int,
    patch: int,
    vocabulary: list[str],
    key: list[int],
    share: float = 1.0,
) -> Batch:
    """`count` scenes seen in random views; everything is drawn from `key` alone.

    Args:
        pool: where the scenes are.
        count: n, scenes in the batch.
        side: S, pixels of a view's side.
        patch: pixels of a patch's side.
        vocabulary: words for unknown nouns.
        key: seed of the batch.
        share: the part of the pool to draw from, counted from the plainest flaw.
    """
    rng = np.random.default_rng(key)
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    picks = pool.order[rng.integers(max(1, round(share * len(pool))), size=count)]
    pictures = torch.from_numpy(pool.pictures[picks]).permute(0, 1, 4, 2, 3).flatten(1, 2) / 255
    masks = torch.from_numpy(pool.masks[picks]).float()[:, None]
    pictures, masks = random_views(pictures, masks, side, generator)
    images = torch.cat([expose(pictures[:, :3], generator), expose(pictures[:, 3:], generator)])
    cover = F.avg_pool2d(masks, patch).flatten(1)
    known = count - count // 3
    nouns = [draw_noun(pool.words[pick], rng) for pick in picks[:known]]
    nouns += [unknown_noun(vocabulary, rng) for _ in range(count - known)]
    captions = [draw_captions(noun, rng) for noun in nouns]
    captions = [normal for normal, _ in captions] + [abnormal for _, abnormal in captions]
    return Batch(images, torch.cat([torch.zeros_like(cover), cover]), captions, known)


def random_views(
    pictures: Tensor, masks: Tensor, side: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Crop, turn and mirror pictures (n, C, 96, 96) and masks (n, 1, 96, 96) alike -> (n, ., side, side).

    A window keeps the flaw's centre, so few damaged pictures lose their flaw. Magnification runs from two
    thirds to three halves, whatever `side` is, so that flaws keep their sizes in pixels.
    """
    n, full = len(masks), masks.shape[-1]

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    span = side / full / (0.67 * (1.5 / 0.67) ** uniform(n))
    span = span.clamp(max=1)
    grid = torch.linspace(-1, 1, full)
    mass = masks[:, 0].sum((1, 2)).clamp(min=1)
    flaw = torch.stack([(masks[:, 0].sum(1) @ grid) / mass, (masks[:, 0].sum(2) @ grid) / mass], dim=1)
    room = (1 - span)[:, None]
    low, high = (
        (flaw - 0.6 * span[:, None]).clamp(-room, room),
        (flaw + 0.6 * span[:, None]).clamp(-room, room),
    )
    centre = low + (high - low) * uniform(n, 2)
    angle = torch.pi / 2 * torch.randint(4, (n,), generator=generator) * (uniform(n) < 0.5)
    angle = angle + 0.3 * (2 * uniform(n) - 1) * (uniform(n) < 0.5)
    mirror = torch.where(uniform(n) < 0.5, -1.0, 1.0)
    cos, sin = span * angle.cos(), span * angle.sin()
    matrix = torch.stack([torch.stack([cos * mirror, -sin], 1), torch.stack([sin * mirror, cos], 1)], 1)
    places = F.affine_grid(
        torch.cat([matrix, centre[:, :, None]], 2), [n, 1, side, side], align_corners=False
    )
    both = F.grid_sample(
        torch.cat([pictures, masks], 1), places, padding_mode="reflection", align_corners=False
    )
    return both[:, :-1], both[:, -1:]


def expose(images: Tensor, generator: torch.Generator) -> Tensor:
    """Contrast, brightness, tone curve, grain and sometimes loss of colour, for each of (n, 3, S, S)."""

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(len(images), 1, 1, 1, generator=generator)

    images = torch.where(uniform(0, 1) < 0.15, images.mean(1, keepdim=True), images)
    images = (images - 0.5) * uniform(0.6, 1.25) + 0.5 + uniform(-0.12, 0.12)
    images = images.clamp(0, 1) ** uniform(-0.35, 0.35).exp()
    grain = uniform(-0.06, 0.06).clamp(min=0) * torch.randn(images[:, :1].shape, generator=generator)
    return (images + grain).clamp(0, 1)


def draw_noun(words: str, rng: np.random.Generator) -> str:
    """The scene's words, in a third of the captions without the ground."""
    return words.split(" on ")[0] if rng.random() < 0.35 else words


def unknown_noun(vocabulary: list[str], rng: np.random.Generator) -> str:
    """One to three words that mean nothing here: the states must work for nouns that were never seen."""
    return " ".join(vocabulary[i] for i in rng.integers(len(vocabulary), size=rng.integers(1, 4)))


def draw_captions(noun: str, rng: np.random.Generator) -> tuple[str, str]:
    """A normal and an abnormal caption for `noun`, in the states and templates of the prompt ensemble."""
    template = TEMPLATES[rng.integers(len(TEMPLATES))]
    normal = NORMAL_STATES[rng.integers(len(NORMAL_STATES))]
    abnormal = ABNORMAL_STATES[rng.integers(len(ABNORMAL_STATES))]
    return template.format(normal.format(noun)), template.format(abnormal.format(noun))


def plain_words(tokenizer: SimpleTokenizer) -> list[str]:
    """All words of at least three ASCII letters in the tokenizer's vocabulary: stand-ins for unknown nouns."""
    words = (token[:-4] for token in tokenizer.encoder if token.endswith("</w>"))
    return [word for word in words if len(word) >= 3 and word.isascii() and word.isalpha()]
