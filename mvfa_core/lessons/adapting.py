"""Lesson 3, measured: how few weights learn, where their gradient comes from, what training does to the maps."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mvfa_core.adapters import Adapters
from mvfa_core.experiment import Experiment
from mvfa_core.lessons.shapes import PAPER, Shapes
from mvfa_core.metrics import auroc
from mvfa_core.objectives import detection_loss, segmentation_losses
from mvfa_core.pixel_ranking import pixel_auroc
from mvfa_core.scoring import text_maps, text_scores
from mvfa_core.training import TrainingPart
from mvfa_core.uncertainty import image_auroc_interval

BRANCHES = ("seg", "det")


def weight_table(experiment: Experiment) -> pd.DataFrame:
    """How many weights are frozen and how many learn, here and in the paper's setting.

    The paper's backbone is not loaded; its adapters are counted from their shapes.
    """
    adapters = sum(p.numel() for p in experiment.fresh_adapters().parameters())
    frozen = sum(p.numel() for p in experiment.backbone.parameters())
    shapes = Shapes.of(experiment)
    rows = {
        "backbone, frozen": (frozen, None),
        "one adapter": (2 * shapes.width * shapes.text, 2 * PAPER.width * PAPER.text),
        "all adapters": (adapters, PAPER.adapter_weights),
    }
    # whole numbers, with a gap where there is none
    return pd.DataFrame.from_dict(rows, orient="index", columns=["demo", "paper"]).astype("Int64")


def support_part(experiment: Experiment, name: str, shots: int, draw: int = 0) -> TrainingPart:
    """The augmented support images of a draw, as `Experiment.train_few_shot` hands them to the training loop."""
    chosen = experiment.support(name, shots, draw).chosen
    return TrainingPart(name, *experiment.support_tokens(name, chosen), experiment.text(name))


def gradient_table(
    experiment: Experiment, adapters: Adapters, part: TrainingPart, rows: Tensor
) -> pd.DataFrame:
    """Where the gradient of each level's loss arrives.

    Args:
        experiment: backbone and levels.
        adapters: in the state that is asked about.
        part: images with masks.
        rows: those of them that make the batch.

    Returns:
        A row a loss (`seg 1` .. `det 4`), a column a matrix (`seg 1 fc1` .. `det 4 fc2`): L2 norm of the
        gradient, 0 where none arrives.
    """
    prefix, masks = experiment.backbone.prefix, part.masks[rows].float()
    levels = adapters(experiment.backbone, part.tokens[rows])
    matrices = {
        f"{branch} {n} {layer}": getattr(adapter, layer)[0].weight
        for branch in BRANCHES
        for n, adapter in enumerate(getattr(adapters, f"{branch}_adapters"), start=1)
        for layer in ("fc1", "fc2")
    }
    found = {}
    for branch in BRANCHES:
        for n, tokens in enumerate(getattr(levels, branch), start=1):
            if branch == "seg":
                loss = sum(
                    part_loss.mean() for part_loss in segmentation_losses([tokens], part.text, masks, prefix)
                )
            else:
                loss = detection_loss([tokens], part.text, part.labels[rows], prefix).mean()
            gradients = torch.autograd.grad(
                loss, list(matrices.values()), retain_graph=True, allow_unused=True
            )
            found[f"{branch} {n}"] = [0.0 if g is None else float(g.norm()) for g in gradients]
    return pd.DataFrame.from_dict(found, orient="index", columns=list(matrices))


@dataclass
class Snapshot:
    """One moment of a training: epoch 0 is before it.

    loss: mean training loss per image, None for epoch 0. maps: (levels, N, S, S) in [0, 1], the abnormal
    probability at each level alone. scores: (levels, N) likewise of the detection branch.
    change: per level, as `token_change` gives it.
    """

    epoch: int
    loss: float | None
    maps: Tensor
    scores: Tensor
    change: list[float]


def watch(
    experiment: Experiment,
    part: TrainingPart,
    images: Tensor,
    epochs: int,
    every: Sequence[int] | None = None,
) -> list[Snapshot]:
    """Train fresh adapters by the few-shot schedule and look at `images` before it and after each epoch.

    Nothing is selected by what is seen: the loop is that of the benchmark, the looking is for the reader.

    Args:
        experiment: backbone, levels, schedule.
        part: what is trained on.
        images: (N, 3, S, S) that are looked at.
        epochs: how many.
        every: epochs to look at; None: all.
    """
    adapters, tokens = experiment.fresh_adapters(), experiment.tokens(images)
    snapshots = [_look(experiment, adapters, part.text, tokens, 0, None)]
    schedule = experiment.settings.few_shot.model_copy(update={"epochs": epochs})
    for log in experiment.fit(adapters, [part], schedule):
        if every is None or log.epoch in every:
            snapshots.append(_look(experiment, adapters, part.text, tokens, log.epoch, log.total))
    return snapshots


@torch.no_grad()
def _look(experiment, adapters, text, tokens, epoch, loss) -> Snapshot:
    backbone, size = experiment.backbone, experiment.backbone.image_size
    levels = adapters(backbone, tokens)
    maps = torch.stack([text_maps([t], text, backbone.prefix, size) for t in levels.seg])
    scores = torch.stack([text_scores([t], text, backbone.prefix) for t in levels.det])
    return Snapshot(epoch, loss, maps, scores, token_change(experiment, adapters, tokens))


@torch.no_grad()
def token_change(experiment: Experiment, adapters: Adapters, tokens: Tensor) -> list[float]:
    """Per level: mean length of what the adapters add, relative to the token's own."""
    found, residual = [], adapters.residual
    for i, level in enumerate(adapters.levels):
        if i:
            tokens = experiment.backbone.run(tokens, adapters.levels[i - 1], level)
        kept = residual.keep * tokens
        added = (
            residual.seg * adapters.seg_adapters[i](tokens)[1]
            + residual.det * adapters.det_adapters[i](tokens)[1]
        )
        found.append(float((added.norm(dim=-1) / tokens.norm(dim=-1)).mean()))
        tokens = kept + added
    return found


def progress_table(snapshots: Sequence[Snapshot], labels: Tensor, masks: Tensor) -> pd.DataFrame:
    """Pixel and image AUROC of every level alone and of their sum, epoch by epoch.

    Returns:
        Columns epoch, level (1 .. n, or `sum`), pixel AUROC, image AUROC.
    """
    rows = []
    for shot in snapshots:
        every = [(str(n), m, s) for n, (m, s) in enumerate(zip(shot.maps, shot.scores, strict=True), start=1)]
        for level, maps, scores in [*every, ("sum", shot.maps.sum(dim=0), shot.scores.sum(dim=0))]:
            image, pixel = auroc(labels.numpy(), scores.numpy()), pixel_auroc(maps.numpy(), masks.numpy())
            rows.append((shot.epoch, level, pixel, image))
    return pd.DataFrame(rows, columns=["epoch", "level", "pixel AUROC", "image AUROC"])


def with_residual(experiment: Experiment, keep: float, share: float) -> Experiment:
    """The same experiment with other mixing weights: `keep` of the token, `share` of either adapter."""
    method = experiment.settings.method.model_copy(update={"residual": (keep, share, share)})
    changed = Experiment(
        experiment.settings.model_copy(update={"method": method}), experiment.base, experiment.say
    )
    # the frozen backbone is the same object: nothing is read twice
    changed.backbone = experiment.backbone
    return changed


def residual_table(
    experiment: Experiment,
    part: TrainingPart,
    images: Tensor,
    labels: Tensor,
    masks: Tensor,
    others: Sequence[tuple[float, float]],
    own: Snapshot,
) -> pd.DataFrame:
    """What other mixing weights lead to: a row each, trained by the same schedule.

    Args:
        experiment: with the method's own weights, whose last snapshot `own` is.
        part: what is trained on.
        images: (N, 3, S, S) that the trained adapters judge.
        labels: (N,) of these.
        masks: (N, S, S) of these.
        others: pairs of the token's and either adapter's share.
        own: the end of a training with the method's own weights.

    Returns:
        Pixel AUROC, image AUROC and its 95 % interval of the sum over levels, and the mean token change.
    """
    epochs, (keep, share, _) = experiment.settings.few_shot.epochs, experiment.settings.method.residual
    found = {(keep, share): own}
    for keep, share in others:
        changed = with_residual(experiment, keep, share)
        found[keep, share] = watch(changed, part, images, epochs, every=[epochs])[-1]
    rows = {}
    for (keep, share), last in found.items():
        values = progress_table([last], labels, masks).set_index("level").loc["sum"]
        scores, resamples = last.scores.sum(dim=0).numpy(), experiment.settings.evaluation.bootstrap
        interval = image_auroc_interval(labels.numpy(), scores, resamples)
        rows[f"{keep:g} token + {share:g} each"] = {
            "pixel AUROC": values["pixel AUROC"],
            "image AUROC": values["image AUROC"],
            "low": interval.low,
            "high": interval.high,
            "mean token change": float(np.mean(last.change)),
        }
    return pd.DataFrame.from_dict(rows, orient="index")
