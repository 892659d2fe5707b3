"""How one bench measures a question: (bench, options of the plan) -> a verdict for each option."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mvfa_core.ablations.bench import ALL_PROMPTS, Bench, SegmentationAlone, Variation, VariedExperiment
from mvfa_core.baselines import projector_detector
from mvfa_core.judging import Verdict, clip_verdicts, few_shot_verdict
from mvfa_core.plain import Support, plain_passes
from mvfa_core.settings import Settings

TEST, HELD_OUT, SUPPORT = "test images", "held-out valid images", "support images"
MVFA, PLAIN = "MVFA", "plain CLIP"


@dataclass(frozen=True)
class Seen:
    """One option's verdict, and the truth about the images that it is a verdict on.

    labels: (N,) in {0, 1}. masks: (N, S, S) in {0, 1}, or None for a data set without masks.
    reference: whether it is the benchmark's own setting. series: what options are compared within.
    """

    option: str
    verdict: Verdict
    labels: Tensor
    masks: Tensor | None
    reference: bool = False
    series: str = MVFA
    x: float | None = None


def on_test(bench: Bench, option: str, verdict: Verdict, **more) -> Seen:
    """A verdict on the bench's test images."""
    return Seen(option, verdict, bench.test.batch.labels, bench.test.batch.masks, **more)


def varied(
    variations: Callable[[Settings, Sequence], list[Variation]],
) -> Callable[[Bench, Sequence], Iterator[Seen]]:
    """Measures a question whose options are trained and judged like the benchmark's own runs."""

    def measure(bench: Bench, values: Sequence) -> Iterator[Seen]:
        for variation in variations(bench.settings, values):
            own = bench.is_reference(variation)
            yield on_test(bench, variation.label, bench.verdict(variation), reference=own, x=variation.x)

    return measure


def _with(own, values: Sequence) -> list:
    """The benchmark's own value and the others, once each; rising where they are numbers."""
    found = list(dict.fromkeys([own, *values]))
    return sorted(found) if all(isinstance(value, int | float) for value in found) else found


# --- options that are settings ----------------------------------------------------------------------------


def _levels(settings: Settings, values: Sequence[tuple]) -> list[Variation]:
    def label(levels: tuple) -> str:
        names = ", ".join(map(str, levels))
        return f"level {names} alone" if len(levels) == 1 else f"levels {names}"

    found = _with(settings.backbone.levels, values)
    return [Variation(label(levels), changes={"backbone": {"levels": levels}}) for levels in found]


def _residual(settings: Settings, values: Sequence[float]) -> list[Variation]:
    own = settings.method.residual
    share = round(own[1] + own[2], 6)
    seg = own[1] / share if share else 0.5

    def mix(value: float) -> tuple[float, float, float]:
        return own if value == share else (1 - value, value * seg, value * (1 - seg))

    return [
        Variation(f"share {value:g}", value, {"method": {"residual": mix(value)}})
        for value in _with(share, values)
    ]


def _prompts(_: Settings, values: Sequence[str]) -> list[Variation]:
    return [Variation(name, prompts=name) for name in _with(ALL_PROMPTS, values)]


levels, residual, prompts = varied(_levels), varied(_residual), varied(_prompts)


def _shots(own: int, values: Sequence[int]) -> list[Variation]:
    return [Variation(f"{k} shot{'s' * (k > 1)}", k, shots=k) for k in _with(own, values)]


def shots(bench: Bench, values: Sequence[int]) -> Iterator[Seen]:
    return varied(lambda _, given: _shots(bench.shots, given))(bench, values)


# --- the backbone's input and activation, with and without adapters ------------------------------------------


def _of_backbone(name: str, words: dict) -> Callable[[Bench, Sequence], Iterator[Seen]]:
    """A setting of the backbone; plain CLIP is asked too, whether adapters make up for a wrong one."""

    def measure(bench: Bench, values: Sequence) -> Iterator[Seen]:
        for value in dict.fromkeys([getattr(bench.settings.backbone, name), *values]):
            variation = Variation(words[value], changes={"backbone": {name: value}})
            own, plain = bench.is_reference(variation), _plain(bench, bench.vary(variation))
            yield on_test(bench, variation.label, bench.verdict(variation), reference=own)
            yield on_test(bench, variation.label, plain, reference=own, series=PLAIN)

    return measure


def _plain(bench: Bench, experiment: VariedExperiment) -> Verdict:
    """Image scores of the pooled feature, maps of the patch tokens."""
    found = clip_verdicts(
        experiment.backbone,
        bench.seen_by(experiment).tokens,
        experiment.levels[0],
        experiment.text(bench.name),
        experiment.settings.backbone.image_size,
        experiment.settings.evaluation.batch_size,
        experiment.autocast,
    )
    return Verdict(found["clip-pooled"].scores, found["clip-patch"].maps)


_ACTIVATIONS = {"gelu": "GELU", "quickgelu": "QuickGELU"}
_INPUTS = {False: "pixels in [0, 1]", True: "CLIP's mean and deviation"}
activation, normalise = _of_backbone("activation", _ACTIVATIONS), _of_backbone("normalise", _INPUTS)


# --- what stands behind a level -----------------------------------------------------------------------------


def adapters(bench: Bench, values: Sequence[str]) -> Iterator[Seen]:
    yield on_test(bench, "adapters", bench.reference_verdict, reference=True)
    for value in dict.fromkeys(values):
        if value == "no feedback":
            variation = Variation("adapters, no feedback", changes={"method": {"residual": (1.0, 0.0, 0.0)}})
            yield on_test(bench, variation.label, bench.verdict(variation))
        elif value == "projectors":
            yield on_test(bench, value, _projectors(bench))
        else:
            experiment = bench.vary(Variation(value))
            fresh = experiment.fresh_adapters(bench.draw)
            on_support = bench.support_branches(experiment, fresh, bench.support_part(experiment))
            verdict = experiment.verdict(bench.name, bench.run_of(fresh, on_support, epoch=0), bench.test)
            yield on_test(bench, "untrained adapters", verdict)


def _projectors(bench: Bench) -> Verdict:
    support = Support.of(bench.experiment, bench.name, bench.shots, bench.draw)
    detect = projector_detector(support)
    with torch.no_grad():
        return Verdict.joined([detect(seen) for seen in plain_passes(bench.experiment, bench.test.tokens)])


# --- one branch at a time -----------------------------------------------------------------------------------


def branches(bench: Bench, values: Sequence[str]) -> Iterator[Seen]:
    """Without masks there is one reading, and only the detection branch can be trained."""
    keep, seg, det = bench.settings.method.residual
    entries = bench.settings.model_dump()["datasets"]
    entries[bench.name]["masks"] = False
    # judged, and trained, as a data set without masks
    by_labels = {"datasets": entries}
    yield on_test(bench, "both branches", bench.reference_verdict, reference=True)
    for value in dict.fromkeys(values):
        if value == "detection alone":
            mix = {"method": {"residual": (keep + seg, 0.0, det)}}
            variation = Variation("detection alone", changes=mix | by_labels)
            yield on_test(bench, variation.label, bench.verdict(variation))
        elif bench.has_masks and value == "segmentation alone":
            mix = {"method": {"residual": (keep + det, seg, 0.0)}}
            variation = Variation("segmentation alone", changes=mix, adapters=SegmentationAlone)
            yield on_test(bench, variation.label, bench.verdict(variation))
        elif bench.has_masks and value == "detection read":
            experiment = bench.vary(Variation(value, changes=by_labels))
            trained = bench.reference.adapters
            on_support = bench.support_branches(experiment, trained, bench.support_part(experiment))
            run = bench.run_of(trained, on_support, bench.reference.epoch)
            verdict = experiment.verdict(bench.name, run, bench.test)
            yield on_test(bench, "both trained, detection read", verdict)


# --- how much memory, and how long -----------------------------------------------------------------------------


def memory(bench: Bench, values: Sequence[float]) -> Iterator[Seen]:
    """One pass for all weights."""
    experiment, run = bench.experiment, bench.reference
    judge, own = experiment.judge(bench.name, run.adapters), bench.settings.method.memory_weight
    found = judge.branches(bench.test.tokens, judge.banks(experiment.memory_tokens(run)))
    for weight in _with(own, values):
        verdict = few_shot_verdict(found, run.ranges, bench.has_masks, weight)
        yield on_test(bench, f"weight {weight:g}", verdict, reference=weight == own, x=weight)


def epochs(bench: Bench, values: Sequence[int]) -> Iterator[Seen]:
    """One long training, judged on the way: on its own images, on the rest of `valid`, on the test images."""
    experiment, few = bench.experiment, bench.settings.few_shot
    wanted = _with(few.epochs, values)
    part = bench.support_part(experiment)
    weight, masks = bench.settings.method.memory_weight, part.masks
    if masks is not None:
        masks = torch.cat([masks[part.labels == 1], masks[part.labels == 0]])
    support_labels = part.labels.sort(descending=True).values
    held_out = experiment.held_out(bench.name, experiment.support(bench.name, bench.shots, bench.draw))
    sets = {series: images for series, images in ((HELD_OUT, held_out), (TEST, bench.test)) if images}
    trained = experiment.fresh_adapters(bench.draw)
    schedule = few.model_copy(update={"epochs": max(wanted)})
    for log in experiment.fit(trained, [part], schedule, bench.draw):
        if log.epoch not in wanted:
            continue
        label = f"{log.epoch} epoch{'s' * (log.epoch > 1)}"
        more = {"reference": log.epoch == few.epochs, "x": log.epoch}
        on_support = bench.support_branches(experiment, trained, part)
        run = bench.run_of(trained, on_support, log.epoch)
        verdict = few_shot_verdict(on_support, run.ranges, bench.has_masks, weight)
        yield Seen(label, verdict, support_labels, masks, series=SUPPORT, **more)
        for series, images in sets.items():
            verdict = experiment.verdict(bench.name, run, images)
            yield Seen(label, verdict, images.batch.labels, images.batch.masks, series=series, **more)
