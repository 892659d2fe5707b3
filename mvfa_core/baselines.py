"""What MVFA is measured against: the same backbone, prompts, support images and test images, no adapters.

Few-shot baselines are named as runs are, with their own word for `shot`: `4-memory/sound/0`,
`4-projector/sound/0`, `4-probe/sound/0`. They follow the sound protocol whatever the settings ask for: nothing
of the test split is read, ranges come from the support images, and where there are epochs to choose from, the
rest of the valid split chooses. `winclip` and CLIP itself, `clip-pooled` and `clip-patch`, need no images at all.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn import functional as F

from mvfa_core.adapters import LevelTokens
from mvfa_core.backbones import Backbone
from mvfa_core.experiment import Experiment, TestSet, selection_score
from mvfa_core.judging import (
    Branches,
    FusionRanges,
    Judge,
    Verdict,
    few_shot_verdict,
    patch_verdict,
    pooled_verdict,
)
from mvfa_core.methods import judging_method
from mvfa_core.plain import PlainPass, Support, plain_passes
from mvfa_core.runs import Run
from mvfa_core.training import TrainingPart, keep_best
from mvfa_core.windows import window_verdict

Detector = Callable[[PlainPass], Verdict]

KEPT_NUMBERS = 1 << 28  # of plain tokens, 1 GiB: more than that is cheaper to compute again than to hold


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

    def forward(self, backbone: Backbone, packed: Tensor, to_the_end: bool = True) -> LevelTokens:
        """Packed tokens (N, M) -> per level and branch (N, L, D); there is no end to run to."""
        parts = packed.split([length * width for length, width in self.shapes], dim=1)
        levels = [part.unflatten(1, shape) for part, shape in zip(parts, self.shapes, strict=True)]
        seg, det = (
            [layer(tokens) for layer, tokens in zip(layers, levels, strict=True)]
            for layers in (self.seg, self.det)
        )
        return LevelTokens(seg, det, levels[-1])


def train_projectors(support: Support) -> Projectors:
    """By MVFA's losses, optimiser and few-shot schedule, on the same support images.

    The epoch that does best on the rest of the valid split is kept, as MVFA's is under `sound`, or the last one
    where nothing is left.
    """
    experiment, few = support.experiment, support.experiment.settings.few_shot
    seed = experiment.settings.seed + support.draw
    shapes = [tuple(tokens.shape[1:]) for tokens in support.seen.levels]
    projectors = Projectors(shapes, experiment.backbone.text_width, seed).to(experiment.device)
    part = TrainingPart(support.name, support.seen.packed, support.labels, support.masks, support.text)
    logs = experiment.fit(projectors, [part], few, support.draw)
    keep_best(projectors, logs, _held_out_probe(support))
    return projectors


def _held_out_probe(support: Support) -> Callable[[Projectors], float] | None:
    """Scores projectors on the rest of the valid split as MVFA's runs are scored; None where nothing is left."""
    experiment = support.experiment
    images = experiment.held_out(support.name, support.drawn)
    if images is None:
        return None
    passes = _passes(experiment, images)
    memory = torch.cat([support.memory_maps(seen) for seen in passes()])

    def probe(projectors: Projectors) -> float:
        judge = experiment.judge(support.name, projectors)
        branches = _fused(Branches.joined([judge.branches(seen.packed) for seen in passes()]), memory)
        verdict = _few_shot_verdict(support, branches, FusionRanges.of(branches))
        return selection_score(verdict, images.batch)

    return probe


def _fused(text: Branches, memory: Tensor) -> Branches:
    """The text branch beside maps (N, S, S) of the memory branch."""
    return Branches(text.text_maps, text.text_scores, memory, memory.mean(dim=(1, 2)))


def _few_shot_verdict(support: Support, branches: Branches, ranges: FusionRanges) -> Verdict:
    weight = support.experiment.settings.method.memory_weight
    return few_shot_verdict(branches, ranges, support.has_masks, weight)


def projector_detector(support: Support) -> Detector:
    """Text branch from trained projections of plain tokens, memory branch from the plain tokens themselves.

    Source: Chen et al., "APRIL-GAN: A Zero-/Few-Shot Anomaly Classification and Segmentation Method", 2023.
    Departures: losses, schedule, fusion and image score are MVFA's, so that only adapter and projector differ;
    there is a second projector a level for the detection loss, since some data sets have no masks.
    """
    judge: Judge = support.experiment.judge(support.name, train_projectors(support))
    order = support.rows(1) + support.rows(0)
    seen_before = _fused(judge.branches(support.seen.packed[order]), support.own_memory_maps)
    ranges = FusionRanges.of(seen_before)

    def detect(seen: PlainPass) -> Verdict:
        branches = _fused(judge.branches(seen.packed), support.memory_maps(seen))
        return _few_shot_verdict(support, branches, ranges)

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


# --- CLIP itself ------------------------------------------------------------------------------------------


def clip_readings(experiment: Experiment, name: str) -> dict[str, Detector]:
    """The pooled token and the patches of the plain backbone, as `judging.clip_verdicts` reads them."""
    text, size = experiment.text(name), experiment.settings.backbone.image_size

    def patches(seen: PlainPass) -> Verdict:
        with experiment.autocast():
            projected = experiment.backbone.project(seen.last)
        return patch_verdict(projected, text, size)

    return {"clip-pooled": lambda seen: pooled_verdict(seen.pooled, text), "clip-patch": patches}


# --- all of them ------------------------------------------------------------------------------------------


# how each few-shot baseline is fitted, under the word that names its methods
BASELINES: dict[str, Callable[[Support], Detector]] = {
    "memory": memory_detector,
    "probe": probe_detector,
    "projector": projector_detector,
}


@torch.no_grad()
def baseline_verdicts(
    experiment: Experiment,
    name: str,
    test: TestSet,
    shots: Sequence[int] | None = None,
    draws: Sequence[int] | None = None,
) -> Iterator[tuple[str, Verdict]]:
    """Every baseline's name and verdict on the test set of data set `name`.

    Only one draw's verdicts are held at a time: a test split of 17,000 images has maps of 4 GB a method.

    Args:
        experiment: settings, backbone, text and support sets.
        name: the data set.
        test: its test split, as `Experiment.test_set` gives it.
        shots: which k; as the settings where None.
        draws: which support draws; as the settings where None.

    Raises:
        MvfaError: k exceeds the pool, or an image cannot be read.
    """
    text, size = experiment.text(name), experiment.settings.backbone.image_size
    windows = partial(window_verdict, experiment.backbone, text=text, size=size, autocast=experiment.autocast)
    passes = _passes(experiment, test)
    yield from _judged(passes(), clip_readings(experiment, name) | {"winclip": windows}).items()
    few = experiment.settings.few_shot
    for k in few.shots if shots is None else shots:
        for draw in range(few.draws) if draws is None else draws:
            experiment.say(f"fitting baselines, {k} shots, draw {draw}")
            support = Support.of(experiment, name, k, draw)
            with torch.enable_grad():
                detectors = {f"{k}-{key}/sound/{draw}": fitted(support) for key, fitted in BASELINES.items()}
            yield from _judged(passes(), detectors).items()


def _passes(experiment: Experiment, test: TestSet) -> Callable[[], Iterator[PlainPass]]:
    """Gives the plain passes over the test images once a call: kept where they are small, else run anew."""
    one = test.tokens[:1].numel()
    if one * len(test.tokens) * (len(experiment.levels) + 1) > KEPT_NUMBERS:
        return lambda: plain_passes(experiment, test.tokens, test.batch.images)
    kept = list(plain_passes(experiment, test.tokens, test.batch.images))
    # what a pass has worked out for one draw's memory is of no use to the next
    return lambda: (replace(seen, known={}) for seen in kept)


def _judged(passes: Iterable[PlainPass], detectors: dict[str, Detector]) -> dict[str, Verdict]:
    """The detectors' verdicts, from one pass over the test images."""
    parts: dict[str, list[Verdict]] = {method: [] for method in detectors}
    for seen in passes:
        for method, detect in detectors.items():
            parts[method].append(detect(seen))
    return {method: Verdict.joined(found) for method, found in parts.items()}


def all_verdicts(
    experiment: Experiment, name: str, runs: Sequence[Run], test: TestSet
) -> Iterator[tuple[str, Verdict]]:
    """Every method's name and verdict on a test set, a few at a time: the maps of all would fill the memory.

    The run that chooses the pictures comes first, then the other runs, untrained adapters and the baselines.
    """
    first = judging_method([run.method for run in runs]) if runs else None
    for run in sorted(runs, key=lambda run: run.method != first):
        experiment.say(f"judging {run.method}")
        yield run.method, experiment.verdict(name, run, test)
    yield "untrained", experiment.untrained_verdict(name, test)
    yield from baseline_verdicts(experiment, name, test)
