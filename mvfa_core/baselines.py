"""What MVFA is measured against: the same backbone, prompts, support images and test images, no adapters.

Few-shot baselines are named as runs are, with their own word for `shot`: `4-memory/sound/0`,
`4-projector/sound/0`, `4-probe/sound/0`. They follow the sound protocol whatever the settings ask for: nothing
of the test split is read, the last epoch is kept, ranges come from the support images. `winclip` needs no
images at all. CLIP itself, pooled and by patches, is in `judging.clip_verdicts`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn import functional as F

from mvfa_core.adapters import LevelTokens
from mvfa_core.backbones import Backbone
from mvfa_core.devices import gradient_scaler
from mvfa_core.experiment import Experiment, TestSet
from mvfa_core.judging import Branches, FusionRanges, Judge, Verdict, few_shot_verdict
from mvfa_core.plain import PlainPass, Support, plain_passes
from mvfa_core.training import TrainingPart, fit
from mvfa_core.windows import window_verdict

Detector = Callable[[PlainPass], Verdict]


# --- CLIP + memory bank -----------------------------------------------------------------------------------


def memory_detector(support: Support) -> Detector:
    """Distance to the plain tokens of k normal images, summed over levels; abnormal images are not used.

    Image score: the map's maximum with pixel labels, else its mean, as in MVFA's memory branch.
    """

    def detect(seen: PlainPass) -> Verdict:
        maps = support.memory_maps(seen)
        return Verdict(maps.amax(dim=(1, 2)) if support.has_masks else maps.mean(dim=(1, 2)), maps)

    return detect


# --- projector instead of adapter -------------------------------------------------------------------------


class Projectors(nn.Module):
    """One linear layer a level and branch from the backbone's tokens to the text width; nothing flows back.

    Stands where `Adapters` stands, in the training loop and in `Judge`. As the backbone never sees its output,
    the plain tokens are handed in packed (`PlainPass.packed`) and the backbone is not run again.

    Args:
        shapes: (L, width) of each level's tokens.
        text_width: D.
        seed: of the initial weights, which are those of `nn.Linear`.
    """

    def __init__(self, shapes: Sequence[tuple[int, int]], text_width: int, seed: int):
        super().__init__()
        self.shapes = list(shapes)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.seg, self.det = (
                nn.ModuleList(nn.Linear(width, text_width) for _, width in shapes) for _ in range(2)
            )

    def branch_parameters(self, branch: str) -> list[nn.Parameter]:
        return list((self.seg if branch == "seg" else self.det).parameters())

    def forward(self, backbone: Backbone, packed: Tensor) -> LevelTokens:
        """Packed tokens (N, M) -> per level and branch (N, L, D)."""
        parts = packed.split([length * width for length, width in self.shapes], dim=1)
        levels = [part.unflatten(1, shape) for part, shape in zip(parts, self.shapes, strict=True)]
        seg, det = (
            [layer(tokens) for layer, tokens in zip(layers, levels, strict=True)]
            for layers in (self.seg, self.det)
        )
        return LevelTokens(seg, det, levels[-1])


def train_projectors(support: Support) -> Projectors:
    """By MVFA's losses, optimiser and few-shot schedule, on the same support images; the last epoch is kept."""
    experiment, few = support.experiment, support.experiment.settings.few_shot
    seed = experiment.settings.seed + support.draw
    shapes = [tuple(tokens.shape[1:]) for tokens in support.seen.levels]
    projectors = Projectors(shapes, experiment.backbone.text_width, seed).to(experiment.device)
    part = TrainingPart(support.name, support.seen.packed, support.labels, support.masks, support.text)
    for _ in fit(
        experiment.backbone,
        projectors,
        [part],
        epochs=few.epochs,
        learning_rate=few.learning_rate,
        batch_size=few.batch_size,
        seed=seed,
        autocast=experiment.autocast,
        scaler=gradient_scaler(experiment.settings.dtype, experiment.device),
    ):
        pass
    return projectors


def projector_detector(support: Support) -> Detector:
    """Text branch from trained projections of plain tokens, memory branch from the plain tokens themselves.

    Source: Chen et al., "APRIL-GAN: A Zero-/Few-Shot Anomaly Classification and Segmentation Method", 2023.
    Departures: losses, schedule, fusion and image score are MVFA's, so that only adapter and projector differ;
    there is a second projector a level for the detection loss, since some data sets have no masks.
    """
    experiment = support.experiment
    judge: Judge = experiment.judge(support.name, train_projectors(support))

    def fused(branches: Branches, maps: Tensor) -> Branches:
        return Branches(branches.text_maps, branches.text_scores, maps, maps.mean(dim=(1, 2)))

    order = support.rows(1) + support.rows(0)
    ranges = FusionRanges.of(fused(judge.branches(support.seen.packed[order]), support.own_memory_maps))

    def detect(seen: PlainPass) -> Verdict:
        branches = fused(judge.branches(seen.packed), support.memory_maps(seen))
        weight = experiment.settings.method.memory_weight
        return few_shot_verdict(branches, ranges, support.has_masks, weight)

    return detect


# --- linear probe -----------------------------------------------------------------------------------------


def probe_detector(support: Support) -> Detector:
    """Logistic regression on the pooled features of the augmented k + k images.

    Features have unit length and are standardised over the support set; the penalty is scikit-learn's default,
    since no image is left to choose another. There is no map: weights that are learnt from pooled features
    alone can be put on patch tokens, but nothing ties their sign there, and it changes with the draw.
    """

    def unit(seen: PlainPass):
        return F.normalize(seen.pooled, dim=-1).cpu().numpy()

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    model.fit(unit(support.seen), support.labels.numpy().astype(int))
    # the logit, not the probability: it does not saturate, so no two images tie for want of digits
    return lambda seen: Verdict(torch.from_numpy(model.decision_function(unit(seen))).float(), None)


# --- all of them ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Baseline:
    """label: what tables call it, `{k}` being the shots. reads: which support images it learns from."""

    label: str
    reads: str
    fit: Callable[[Support], Detector] | None = None


BASELINES = {
    "winclip": Baseline("CLIP, windows", "none"),
    "memory": Baseline("CLIP + memory, {k} normal", "k normal", memory_detector),
    "probe": Baseline("linear probe, {k}-shot", "k normal + k abnormal", probe_detector),
    "projector": Baseline("projector, {k}-shot", "k normal + k abnormal", projector_detector),
}


def baseline_label(group: str) -> str | None:
    """What tables call a method group, or None where it is no baseline of this module.

    >>> baseline_label("4-memory/sound"), baseline_label("winclip"), baseline_label("4-shot/sound")
    ('CLIP + memory, 4 normal', 'CLIP, windows', None)
    """
    shots, _, key = group.split("/")[0].rpartition("-")
    return BASELINES[key].label.format(k=shots) if key in BASELINES else None


@torch.no_grad()
def baseline_verdicts(
    experiment: Experiment,
    name: str,
    test: TestSet,
    shots: Sequence[int] | None = None,
    draws: Sequence[int] | None = None,
) -> dict[str, Verdict]:
    """Every baseline's verdict on the test set of data set `name`; the test images are passed through once.

    Args:
        experiment: settings, backbone, text and support sets.
        name: the data set.
        test: its test split, as `Experiment.test_set` gives it.
        shots: which k; as the settings where None.
        draws: which support draws; as the settings where None.

    Raises:
        MvfaError: k exceeds the pool, or an image cannot be read.
    """
    few = experiment.settings.few_shot
    detectors: dict[str, Detector] = {}
    for k in few.shots if shots is None else shots:
        for draw in range(few.draws) if draws is None else draws:
            experiment.say(f"fitting baselines, {k} shots, draw {draw}")
            support = Support.of(experiment, name, k, draw)
            for key, baseline in BASELINES.items():
                if baseline.fit is not None:
                    with torch.enable_grad():
                        detectors[f"{k}-{key}/sound/{draw}"] = baseline.fit(support)
    text, size = experiment.text(name), experiment.settings.backbone.image_size
    detectors["winclip"] = lambda seen: window_verdict(
        experiment.backbone, seen, text, size, experiment.autocast
    )

    found: dict[str, list[Verdict]] = {method: [] for method in detectors}
    for seen in plain_passes(experiment, test.tokens, test.batch.images):
        for method, detect in detectors.items():
            found[method].append(detect(seen))
    # by baseline, then by shots and draw: the order of the tables
    order = sorted(found, key=lambda m: list(BASELINES).index(m.split("/")[0].rpartition("-")[2]))
    return {method: _joined(found[method]) for method in order}


def _joined(parts: list[Verdict]) -> Verdict:
    maps = None if parts[0].maps is None else torch.cat([part.maps for part in parts])
    return Verdict(torch.cat([part.scores for part in parts]), maps)
