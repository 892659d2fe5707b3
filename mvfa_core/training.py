"""The loop that teaches the adapters. The backbone's frozen prefix has already been run."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mvfa_core.adapters import Adapters
from mvfa_core.backbones import Backbone
from mvfa_core.devices import on_device
from mvfa_core.objectives import detection_loss, segmentation_losses

BETAS = (0.5, 0.999)


@dataclass
class TrainingPart:
    """The images of one data set, ready for training.

    tokens: (N, L, width) behind the first level's block. labels: (N,) in {0, 1}.
    masks: (N, S, S) uint8 in {0, 1}, or None for a data set without masks. text: (D, 2).
    """

    name: str
    tokens: Tensor
    labels: Tensor
    masks: Tensor | None
    text: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class EpochLog:
    """Mean losses per image of one epoch; focal and Dice count only images of data sets with masks."""

    epoch: int
    detection: float
    focal: float
    dice: float

    @property
    def total(self) -> float:
        return self.detection + self.focal + self.dice


def batches(
    parts: Sequence[TrainingPart], batch_size: int, generator: torch.Generator
) -> list[tuple[TrainingPart, Tensor]]:
    """One epoch: every image once, batches of one data set each, in random order."""
    result = []
    for part in parts:
        result += [(part, rows) for rows in torch.randperm(len(part), generator=generator).split(batch_size)]
    return [result[i] for i in torch.randperm(len(result), generator=generator).tolist()]


def fit(
    backbone: Backbone,
    adapters: Adapters,
    parts: Sequence[TrainingPart],
    *,
    epochs: int,
    learning_rate: float,
    batch_size: int,
    seed: int,
    logits_quirk: bool = False,
    autocast: Callable = nullcontext,
    scaler: torch.amp.GradScaler | None = None,
    progress: Callable[[], None] = lambda: None,
) -> Iterator[EpochLog]:
    """Train `adapters` in place and yield after every epoch; the caller selects and keeps.

    Adam with betas (0.5, 0.999), one optimiser a branch. A batch of a data set without masks steps the
    detection branch only, as in the published code. `scaler` scales the losses where fp16 needs it.
    """
    scaler = scaler or torch.amp.GradScaler("cpu", enabled=False)
    generator = torch.Generator().manual_seed(seed)
    optimisers = {
        branch: torch.optim.Adam(adapters.branch_parameters(branch), lr=learning_rate, betas=BETAS)
        for branch in ("seg", "det")
    }
    for epoch in range(1, epochs + 1):
        sums, images, masked = torch.zeros(3), 0, 0
        for part, rows in batches(parts, batch_size, generator):
            losses = batch_losses(backbone, adapters, part, rows, logits_quirk, autocast)
            scaler.scale(losses.sum(dim=0).mean()).backward()
            scaler.step(optimisers["det"])
            if part.masks is not None:
                scaler.step(optimisers["seg"])
                masked += len(rows)
            scaler.update()
            # before the next forward pass: its activations need the memory
            adapters.zero_grad(set_to_none=True)
            images += len(rows)
            sums += losses.detach().sum(dim=1).cpu()
            progress()
        yield EpochLog(epoch, float(sums[0]) / images, *(float(s) / max(masked, 1) for s in sums[1:]))


def keep_best(
    adapters: nn.Module,
    logs: Iterable[EpochLog],
    probe: Callable[[nn.Module], float] | None,
    seen: Callable[[EpochLog, float | None], None] = lambda log, score: None,
) -> int:
    """Run a training to its end and leave `adapters` as they were after the epoch that `probe` scores highest.

    Args:
        adapters: what is trained in place.
        logs: the training, see `fit`.
        probe: asked after every epoch; of equal scores the first stays. None: the last epoch stays.
        seen: is told every epoch's log and score.

    Returns:
        The number of the kept epoch.
    """
    best, epoch, kept = -math.inf, 0, None
    for log in logs:
        score = probe(adapters) if probe else None
        if score is None:
            epoch = log.epoch
        elif score > best:
            best, epoch, kept = score, log.epoch, deepcopy(adapters.state_dict())
        seen(log, score)
    if kept is not None:
        adapters.load_state_dict(kept)
    return epoch


def batch_losses(
    backbone: Backbone,
    adapters: Adapters,
    part: TrainingPart,
    rows: Tensor,
    logits_quirk: bool = False,
    autocast: Callable = nullcontext,
) -> Tensor:
    """(3, len(rows)): detection, focal and Dice loss of each image.

    Only the network runs in mixed precision: cosines are multiplied by 100, and three digits are too few then.
    """
    device = next(adapters.parameters()).device
    labels = on_device(part.labels[rows], device)
    with autocast():
        levels = adapters(backbone, on_device(part.tokens[rows], device), to_the_end=False)
    seg, det = ([tokens.float() for tokens in branch] for branch in (levels.seg, levels.det))
    detection = detection_loss(det, part.text, labels, backbone.prefix, logits_quirk)
    if part.masks is None:
        return torch.stack([detection, torch.zeros_like(detection), torch.zeros_like(detection)])
    masks = on_device(part.masks[rows], device).float()
    focal, dice = segmentation_losses(seg, part.text, masks, backbone.prefix)
    return torch.stack([detection, focal, dice])
