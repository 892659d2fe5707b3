"""What all options of a question share: one data set, one support draw, the same test images."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from mvfa_core.adapters import Adapters, LevelTokens
from mvfa_core.backbones import Backbone
from mvfa_core.errors import MvfaError
from mvfa_core.experiment import Experiment, TestSet
from mvfa_core.judging import Branches, FusionRanges, Verdict
from mvfa_core.prompts import ENSEMBLES
from mvfa_core.runs import Run
from mvfa_core.settings import Fraction, Section, Settings, read_section
from mvfa_core.support import in_drawn_order
from mvfa_core.training import TrainingPart

PROTOCOL = "strict"  # the same number of epochs for every option: nothing else than the option may differ
ALL_PROMPTS = "states and templates"

Count = Annotated[int, Field(ge=1)]


class Questions(Section):
    """The options of each question, beside the benchmark's own setting; what is left out is not asked."""

    levels: tuple[tuple[int | float, ...], ...] = ()
    adapters: tuple[Literal["no feedback", "projectors", "untrained"], ...] = ()
    residual: tuple[Fraction, ...] = ()
    prompts: tuple[Literal["states only", "templates only", "one prompt"], ...] = ()
    branches: tuple[Literal["detection read", "detection alone", "segmentation alone"], ...] = ()
    memory: tuple[Fraction, ...] = ()
    shots: tuple[Count, ...] = ()
    epochs: tuple[Count, ...] = ()
    activation: tuple[Literal["gelu", "quickgelu"], ...] = ()
    normalise: tuple[bool, ...] = ()


class Plan(Section):
    """`ablations/params.yaml`: how large the grid is, and each question's options.

    datasets: entries of the benchmark's parameters. shots, draws: of the benchmark's runs that are compared with.
    test_images: of each class; null: all. workers: processes; a device other than the CPU has one.
    """

    datasets: Annotated[tuple[str, ...], Field(min_length=1)]
    shots: Count
    draws: Count
    test_images: Count | None = None
    workers: Count = 1
    questions: Questions

    @property
    def asked(self) -> list[str]:
        """The questions that the plan names, in the order of the report."""
        return [name for name in Questions.model_fields if name in self.questions.model_fields_set]

    def options(self, question: str) -> tuple:
        """The options of one question."""
        return getattr(self.questions, question)


def load_plan(path: str | Path) -> Plan:
    """Read and check a plan; errors as `read_section`."""
    return read_section(path, Plan)


class SegmentationAlone(Adapters):
    """The detection adapters read along, but neither their outputs nor their gradients reach the tokens."""

    def forward(self, backbone: Backbone, tokens: Tensor, to_the_end: bool = True) -> LevelTokens:
        seg, det = [], []
        for i, level in enumerate(self.levels):
            if i:
                tokens = backbone.run(tokens, self.levels[i - 1], level)
            middle, out = self.seg_adapters[i](tokens)
            seg.append(middle)
            det.append(self.det_adapters[i](tokens.detach())[0])
            tokens = self.residual.keep * tokens + self.residual.seg * out
        return LevelTokens(seg, det, tokens)


@dataclass(frozen=True)
class Variation:
    """What an option changes.

    label: what tables call it. x: its place on a numeric axis, where the question has one.
    changes: settings by section, `{"method": {"memory_weight": 0.0}}`. shots: None: as the plan.
    prompts: one of `ENSEMBLES`. adapters: the class that stands in for the benchmark's.
    """

    label: str
    x: float | None = None
    changes: Mapping[str, Mapping] = field(default_factory=dict)
    shots: int | None = None
    prompts: str = ALL_PROMPTS
    adapters: type[Adapters] = Adapters


class VariedExperiment(Experiment):
    """An experiment with other sentences or other adapters than the benchmark's."""

    def __init__(self, *arguments, variation: Variation, **options):
        super().__init__(*arguments, **options)
        self.prompts, self.adapter_class = ENSEMBLES[variation.prompts], variation.adapters


def changed(settings: Settings, changes: Mapping[str, Mapping]) -> Settings:
    """`settings` with single values exchanged, checked anew.

    Raises:
        MvfaError: a value is out of range.
    """
    content = settings.model_dump()
    for section, values in changes.items():
        content[section] = content[section] | dict(values)
    try:
        return Settings(**content)
    except ValueError as error:
        reason = str(error).splitlines()[2].strip()
        raise MvfaError(f"questions: {dict(changes)} is no setting ({reason}); change the option") from None


class Bench:
    """One data set and one support draw, on which every option of a question is tried.

    Args:
        experiment: the benchmark's own setting.
        runs: folder of its runs, `<data set>/draw-<n>`.
        name: the data set.
        draw: number of the support draw.
        plan: shots and test images.
    """

    def __init__(self, experiment: Experiment, runs: str | Path, name: str, draw: int, plan: Plan):
        self.experiment = experiment
        self.name, self.draw, self.shots = name, draw, plan.shots
        self._place = Path(runs) / name / f"draw-{draw}"
        self._test_images = plan.test_images

    @property
    def settings(self) -> Settings:
        return self.experiment.settings

    @property
    def has_masks(self) -> bool:
        return self.settings.dataset(self.name).masks

    @cached_property
    def test(self) -> TestSet:
        """The part of the test split that all questions share: `test_images` of each class, by the seed."""
        records = self.experiment.dataset(self.name).records("test")
        if self._test_images is not None:
            drawn = [in_drawn_order(records, label, [self.settings.seed]) for label in (0, 1)]
            chosen = {record for of_class in drawn for record in of_class[: self._test_images]}
            records = [record for record in records if record in chosen]
        batch = self.experiment.load(self.name, records)
        return TestSet(records, batch, self.experiment.tokens(batch.images), "")

    @cached_property
    def reference(self) -> Run:
        """The benchmark's own run.

        Raises:
            MvfaError: it is missing, or it was trained with other shots.
        """
        run = Run.load(self._place, self.experiment.fresh_adapters())
        if (run.shots, run.protocol) != (self.shots, PROTOCOL):
            raise MvfaError(f"{self._place}: is a {run.method} run; train the reference again")
        return run

    @cached_property
    def reference_verdict(self) -> Verdict:
        return self.experiment.verdict(self.name, self.reference, self.test)

    def is_reference(self, variation: Variation) -> bool:
        """Whether `variation` changes nothing."""
        plain = variation.prompts == ALL_PROMPTS and variation.adapters is Adapters
        same = changed(self.settings, variation.changes) == self.settings
        return plain and same and variation.shots in (None, self.shots)

    def vary(self, variation: Variation) -> VariedExperiment:
        """The experiment with the variation's settings; the loaded backbone is shared where it is the same."""
        settings = changed(self.settings, variation.changes)
        varied = VariedExperiment(settings, self.experiment.base, self._quiet, variation=variation)
        levels = {"levels": self.settings.backbone.levels}
        if settings.backbone.model_copy(update=levels) == self.settings.backbone:
            varied.backbone = self.experiment.backbone
        return varied

    @staticmethod
    def _quiet(_: str) -> None:
        """Progress of single trainings is told by nobody here."""

    def seen_by(self, varied: Experiment) -> TestSet:
        """The test images as another experiment's prefix sees them."""
        return TestSet(self.test.records, self.test.batch, varied.tokens(self.test.batch.images), "")

    def verdict(self, variation: Variation) -> Verdict:
        """Train with the variation and judge the test images; the reference is trained already."""
        if self.is_reference(variation):
            return self.reference_verdict
        varied = self.vary(variation)
        run = varied.train_few_shot(self.name, variation.shots or self.shots, PROTOCOL, self.draw)
        return varied.verdict(self.name, run, self.seen_by(varied))

    def support_part(self, varied: Experiment) -> TrainingPart:
        """The augmented k + k support images of this draw, ready for training."""
        chosen = varied.support(self.name, self.shots, self.draw).chosen
        return TrainingPart(self.name, *varied.support_tokens(self.name, chosen), varied.text(self.name))

    def support_branches(self, varied: Experiment, adapters: Adapters, part: TrainingPart) -> Branches:
        """Both branches of the support images `part`, abnormal ones first; see `Experiment.support_branches`."""
        normal, abnormal = (part.tokens[part.labels == label] for label in (0, 1))
        return varied.support_branches(self.name, adapters, normal, abnormal)

    def run_of(self, adapters: Adapters, on_support: Branches, epoch: int) -> Run:
        """`adapters` as a run, with fusion ranges from their branches on the support images."""
        support = self.experiment.support(self.name, self.shots, self.draw)
        return Run(
            self.name,
            self.shots,
            PROTOCOL,
            self.draw,
            epoch,
            adapters,
            log=None,
            support=support.names(),
            ranges=FusionRanges.of(on_support),
        )
