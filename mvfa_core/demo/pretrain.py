"""Pretraining of the demo backbone: a small CLIP that has seen generic pictures and nothing else.

Four losses. Images and captions of a batch find each other, as in CLIP. The pooled image feature tells the
normal from the abnormal caption of its own scene. So does every patch feature, against the flaw's mask. And
behind every second block a linear probe, thrown away at the end, looks for the flaw. Without masks a network
of this size would not learn in an hour what CLIP takes from hundreds of millions of pictures.
"""

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import safetensors.torch
import torch
import typer
from open_clip.loss import ClipLoss
from open_clip.model import CLIP
from open_clip.tokenizer import SimpleTokenizer
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from mvfa_core.demo.small_clip import Probes, build_model, build_probes, encode_images
from mvfa_core.demo.views import Batch, Pool, draw_batch, held_out_pool, plain_words, training_pool
from mvfa_core.prompts import ABNORMAL_STATES, NORMAL_STATES
from mvfa_core.writing import write_through, write_whole

CONFIG = Path(__file__).with_name("demo_clip.json")


@dataclass(frozen=True)
class Recipe:
    """All that decides the weights. Sides are in pixels; batches count scenes, each of which gives two images.

    `until` is where each side's stage ends, as a share of the steps. Scenes are shared out from the plainest flaw
    on: the first steps see `plain_share` of them, from half time on `final_share`.
    """

    seed: int = 0
    steps: int = 2600
    scenes: int = 12_000
    sides: tuple[int, ...] = (48, 64, 96)
    batches: tuple[int, ...] = (24, 24, 12)
    until: tuple[float, ...] = (0.5, 0.8, 1.0)
    plain_share: float = 0.4
    final_share: float = 0.65
    rate: float = 1e-3
    block_rate: float = 3e-3
    warmup: int = 75
    decay: float = 0.05
    sharpness: float = 15.0
    contrastive_weight: float = 0.3
    pair_weight: float = 0.5
    dense_weight: float = 0.5
    probe_weight: float = 4.0
    flaw_weight: float = 3.0

    @property
    def weights(self) -> tuple[float, ...]:
        """Weights in the order of `losses`."""
        return self.contrastive_weight, self.pair_weight, self.dense_weight, self.probe_weight

    def stage(self, step: int) -> tuple[int, int]:
        """Side and batch of step `step`: small windows first, the full picture last."""
        number = next(i for i, share in enumerate(self.until) if step < share * self.steps)
        return self.sides[number], self.batches[number]

    def share(self, step: int) -> float:
        """The part of the scenes to draw from: plain flaws first, then also faint ones, never invisible ones."""
        return min(1.0, 2 * step / self.steps) * (self.final_share - self.plain_share) + self.plain_share


def losses(
    model: CLIP, probes: Probes, batch: Batch, text: Tensor, corner: tuple[int, int], recipe: Recipe
) -> Tensor:
    """(4,): contrastive, pair, dense and probe loss, not yet weighted; `text` (2n, D) are unit vectors."""
    pooled, patches, blocks = encode_images(model, batch.images, corner)
    n = len(text) // 2
    named = torch.cat([torch.arange(batch.known), n + torch.arange(batch.known)])
    contrastive = ClipLoss()(pooled[named], text[named], model.logit_scale.exp())
    direction = recipe.sharpness * (text[n:] - text[:n]).repeat(2, 1)
    flawed = (batch.cover.amax(dim=1) > 0.1).float()
    pair = F.binary_cross_entropy_with_logits((pooled * direction).sum(dim=1), flawed)
    logits = (patches @ direction[:, :, None]).squeeze(-1)
    target, weight = (2 * batch.cover).clamp(max=1), torch.tensor(recipe.flaw_weight)
    dense = F.binary_cross_entropy_with_logits(logits, target, pos_weight=weight)
    found = probes(blocks)
    probe = F.binary_cross_entropy_with_logits(found, target.expand_as(found), pos_weight=weight)
    return torch.stack([contrastive, pair, dense, probe])


def train(
    recipe: Recipe,
    model: CLIP,
    pool: Pool,
    every: int,
    checkpoint: Path | None = None,
    report: Callable[[int, list[float]], None] | None = None,
) -> CLIP:
    """Train `model` in place for `recipe.steps`; step `i` depends on the weights, the seed and `i` only.

    Args:
        recipe: what is done.
        model: from `build_model`.
        pool: scenes to learn from.
        every: steps between checkpoints.
        checkpoint: a file to resume from if it exists, and to write to.
        report: called as `report(step, mean losses of the last stretch)` at each checkpoint.
    """
    tokenizer = SimpleTokenizer(context_length=model.context_length)
    vocabulary = plain_words(tokenizer)
    patch, grid = model.visual.patch_size[0], model.visual.grid_size[0]
    probes = build_probes(model, recipe.seed)
    pupil = nn.ModuleDict({"model": model, "probes": probes})
    optimizers = build_optimizers(pupil, recipe)
    start, seen = restore(checkpoint, pupil, optimizers), []
    for step in tqdm(
        range(start, recipe.steps), initial=start, total=recipe.steps, desc="steps", mininterval=10
    ):
        key = [recipe.seed, step]
        side, count = recipe.stage(step)
        batch = draw_batch(pool, count, side, patch, vocabulary, key, recipe.share(step))
        corner = tuple(np.random.default_rng([*key, 1]).integers(grid - side // patch + 1, size=2))
        text = model.encode_text(tokenizer(batch.captions), normalize=True)
        parts = losses(model, probes, batch, text, corner, recipe)
        (torch.tensor(recipe.weights) @ parts).backward()
        torch.nn.utils.clip_grad_norm_(pupil.parameters(), 1.0)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * schedule(recipe, step)
            optimizer.step()
            optimizer.zero_grad()
        model.logit_scale.data.clamp_(max=math.log(100))
        seen.append(parts.detach())
        if (step + 1) % every == 0 or step + 1 == recipe.steps:
            save_state(checkpoint, step + 1, pupil, optimizers)
            if report is not None:
                report(step + 1, torch.stack(seen).mean(dim=0).tolist())
            seen.clear()
    return model


def schedule(recipe: Recipe, step: int) -> float:
    """Share of the peak learning rate: a linear warm-up, then a cosine down to a fiftieth."""
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    share = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * share))


def build_optimizers(pupil: nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, which learns from half as many pictures here; AdamW for the rest.

    No weight decay outside the blocks: a decayed embedding would shrink the words that are never drawn.
    """
    blocks, others = [], []
    for name, parameter in pupil.named_parameters():
        (blocks if parameter.ndim == 2 and ".resblocks." in name else others).append(parameter)
    return [
        torch.optim.Muon(
            [{"params": blocks, "peak": recipe.block_rate}],
            lr=recipe.block_rate,
            weight_decay=recipe.decay,
            momentum=0.95,
            adjust_lr_fn="match_rms_adamw",
        ),
        torch.optim.AdamW(
            [{"params": others, "peak": recipe.rate}],
            lr=recipe.rate,
            betas=(0.9, 0.98),
            weight_decay=0.0,
            fused=True,
        ),
    ]


def restore(checkpoint: Path | None, pupil: nn.Module, optimizers: list[torch.optim.Optimizer]) -> int:
    """Load `checkpoint` if there is one; the step to go on from."""
    if checkpoint is None or not checkpoint.exists():
        return 0
    state = torch.load(checkpoint, weights_only=True)
    pupil.load_state_dict(state["pupil"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return state["step"]


def save_state(
    checkpoint: Path | None, step: int, pupil: nn.Module, optimizers: list[torch.optim.Optimizer]
) -> None:
    """Write a checkpoint in one move, so that an interruption leaves the old one or the new one."""
    if checkpoint is None:
        return
    states = [optimizer.state_dict() for optimizer in optimizers]
    state = {"step": step, "pupil": pupil.state_dict(), "optimizers": states}
    write_through(checkpoint, lambda part: torch.save(state, part))


def write_weights(model: CLIP, path: Path) -> None:
    """The state dict in half precision, under `open_clip`'s names, in one move."""
    halves = {name: value.detach().half().contiguous() for name, value in model.state_dict().items()}
    write_whole(path, safetensors.torch.save(halves))


def state_feature(model: CLIP, tokenizer: SimpleTokenizer, states: Sequence[str], noun: str) -> Tensor:
    """(D,): mean text feature of `noun` in all `states`."""
    return model.encode_text(tokenizer([f"a photo of a {state.format(noun)}." for state in states])).mean(
        dim=0
    )


@torch.no_grad()
def measure(model: CLIP, pool: Pool) -> dict[str, float]:
    """AUROC on scenes that were never trained on, prompts built from each scene's own words."""
    tokenizer = SimpleTokenizer(context_length=model.context_length)
    pixels, pooled_scores, patch_means = [], [], []
    for start in range(0, len(pool), 32):
        stop = min(start + 32, len(pool))
        words = pool.words[start:stop]
        normal, abnormal = (
            F.normalize(
                torch.stack([state_feature(model, tokenizer, states, noun) for noun in words]), dim=-1
            )
            for states in (NORMAL_STATES, ABNORMAL_STATES)
        )
        direction = (abnormal - normal).repeat_interleave(2, dim=0)
        images = torch.from_numpy(pool.pictures[start:stop]).flatten(0, 1).permute(0, 3, 1, 2) / 255
        pooled, patches, _ = encode_images(model, images)
        scores = (patches @ direction[:, :, None]).squeeze(-1)
        maps = scores.unflatten(1, model.visual.grid_size)[:, None]
        pixels.append(
            F.interpolate(maps, pool.masks.shape[-2:], mode="bilinear", align_corners=True)[:, 0, ::2, ::2]
        )
        pooled_scores.append((pooled * direction).sum(dim=1))
        patch_means.append(scores.mean(dim=1))
    labels = np.stack([np.zeros_like(pool.masks), pool.masks], axis=1).reshape(-1, *pool.masks.shape[1:])
    image_labels = labels.any(axis=(1, 2))
    return {
        "pixel_auroc": float(roc_auc_score(labels[:, ::2, ::2].ravel(), torch.cat(pixels).numpy().ravel())),
        "image_auroc_pooled": float(roc_auc_score(image_labels, torch.cat(pooled_scores).numpy())),
        "image_auroc_patch_mean": float(roc_auc_score(image_labels, torch.cat(patch_means).numpy())),
    }


def main(
    output: Annotated[
        Path, typer.Option(help="The safetensors file to write; figures go next to it as JSON.")
    ],
    scratch: Annotated[
        Path, typer.Option(help="Folder for scenes and checkpoints; may be deleted afterwards.")
    ],
    seed: int = Recipe.seed,
    steps: int = Recipe.steps,
    scenes: Annotated[
        int, typer.Option(help="How many scenes are drawn before the training.")
    ] = Recipe.scenes,
    every: Annotated[int, typer.Option(help="Steps between checkpoints.")] = 300,
    threads: int = 1,
) -> None:
    """Draw generic scenes, pretrain the demo backbone on them, and measure it on scenes it has not seen."""
    torch.set_num_threads(threads)
    recipe = Recipe(seed=seed, steps=steps, scenes=scenes)
    config = json.loads(CONFIG.read_text())
    digest = hashlib.sha256(json.dumps([asdict(recipe), config]).encode()).hexdigest()[:12]
    model = build_model(config, recipe.seed)
    pool, unseen = training_pool(recipe.seed, recipe.scenes, scratch), held_out_pool(recipe.seed, 400)

    def report(step: int, mean_losses: list[float]) -> None:
        names = ("contrastive", "pair", "dense", "probe")
        figures = {"step": step, **dict(zip(names, mean_losses, strict=True)), **measure(model, unseen)}
        tqdm.write(json.dumps({name: round(value, 4) for name, value in figures.items()}))
        write_weights(model, scratch / "latest.safetensors")

    train(recipe, model, pool, every, scratch / f"state-{digest}.pt", report)
    write_weights(model, output)
    figures = {"recipe": asdict(recipe), "held_out_scenes": len(unseen), **measure(model, unseen)}
    output.with_suffix(".json").write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
