"""One experiment as the notebooks call it: settings in, trained runs and verdicts out."""

import json
import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import open_clip
import pandas as pd
import torch
from torch import Tensor, nn

from mvfa_core.adapters import Adapters, ResidualWeights
from mvfa_core.augmentation import FOLDS, augment, views_of
from mvfa_core.backbones import HUB, Backbone, load_backbone, resolve_levels
from mvfa_core.datasets import ImageBatch, ImageDataset, ImageRecord, content_hash
from mvfa_core.devices import (
    DTYPES,
    gradient_scaler,
    images_at_once,
    on_device,
    pick_autocast,
    pick_device,
)
from mvfa_core.errors import MvfaError
from mvfa_core.judging import (
    Branches,
    FusionRanges,
    Judge,
    Verdict,
    clip_verdicts,
    few_shot_verdict,
    zero_shot_verdict,
)
from mvfa_core.methods import run_folder
from mvfa_core.metrics import auroc
from mvfa_core.pixel_ranking import pixel_auroc
from mvfa_core.prompts import PromptEnsemble, text_features
from mvfa_core.protocols import PROTOCOLS, Protocol
from mvfa_core.runs import Run
from mvfa_core.settings import Settings, TrainingSettings, load_settings
from mvfa_core.support import SupportSet, draw_support, in_drawn_order, read_support
from mvfa_core.token_cache import CachedTokens, PrefixTokens, TokenCache, digest, origin_of
from mvfa_core.training import EpochLog, TrainingPart, fit, keep_best

GIGABYTE = 10**9


@dataclass
class TestSet:
    """The target's test split, decoded, with tokens (N, L, width) behind the first level's block."""

    records: list[ImageRecord]
    batch: ImageBatch
    tokens: Tensor | CachedTokens
    hash: str


class Experiment:
    """Settings with everything they name: backbone, data sets, text features.

    Args:
        settings: the checked parameters.
        base: folder that relative paths in the settings start from.
        say: takes one line of progress at a time.

    Attributes:
        prompts: the wordings of the text features. adapter_class: what is trained.
    """

    prompts = PromptEnsemble()
    adapter_class = Adapters

    def __init__(self, settings: Settings, base: str | Path = ".", say: Callable[[str], None] = print):
        self.settings = settings
        self.base = Path(base)
        self.say = say
        self.device = pick_device(settings.device)
        self.autocast = pick_autocast(settings.dtype, self.device)
        self._texts: dict[str, Tensor] = {}

    @classmethod
    def open(cls, params: str | Path, say: Callable[[str], None] = print) -> "Experiment":
        """From a parameter file; relative paths start from the folder it lies in."""
        return cls(load_settings(params), Path(params).resolve().parent, say)

    @cached_property
    def backbone(self) -> Backbone:
        backbone = self.settings.backbone
        weights, model = (self._local(name) for name in (backbone.weights, backbone.model))
        local = backbone.model_copy(update={"weights": weights, "model": model})
        return load_backbone(local, self.device, cache=self.cache)

    @cached_property
    def cache(self) -> TokenCache:
        chosen = self.settings.cache
        folder = None if chosen.folder is None else self.base / chosen.folder
        return TokenCache(folder, int(chosen.disk_gb * GIGABYTE))

    def _local(self, name: str | None) -> str | None:
        """Files are given relative to the parameter file; open_clip names and tags stay as they are."""
        if name is None or name.startswith(HUB):
            return name
        path = self.base / name
        return str(path) if path.exists() or path.suffix else name

    @cached_property
    def levels(self) -> tuple[int, ...]:
        return resolve_levels(self.settings.backbone.levels, self.backbone.depth)

    def dataset(self, name: str) -> ImageDataset:
        return ImageDataset(name, self.settings.dataset(name), self.base)

    def text(self, name: str) -> Tensor:
        """(D, 2): normal and abnormal text feature of the data set's organ."""
        organ = self.settings.dataset(name).organ
        if organ not in self._texts:
            # hundreds of sentences for two vectors: at the paper's size half a minute on two cores
            sentences = json.dumps(self.prompts.sentences(organ))
            key = digest(origin_of(self.backbone, 0, torch.float32), sentences)
            found = self.cache.get(key)
            if found is None:
                found = text_features(self.backbone, organ, self.prompts)
                self.cache.put(key, found)
                self.backbone.rest()
            self._texts[organ] = found.to(self.device)
        return self._texts[organ]

    def fresh_adapters(self, draw: int = 0) -> Adapters:
        residual = ResidualWeights(*self.settings.method.residual)
        seed = self.settings.seed + draw
        return self.adapter_class.for_backbone(self.backbone, self.levels, seed, residual).to(self.device)

    @torch.no_grad()
    def tokens(self, images: Tensor) -> Tensor | CachedTokens:
        """Images -> (N, L, width) behind the first level's block: the frozen prefix, run once for ever.

        Args:
            images: (N, 3, S, S) in [0, 1], or uint8.

        Returns:
            On the CPU; in half precision where `dtype` says so, since a large test split fills tens of GB. What
            is too large for `cache.memory_gb` is read batch by batch, see `token_cache.py`.
        """
        dtype = DTYPES[self.settings.dtype]
        origin = origin_of(self.backbone, self.levels[0], dtype)
        at_once = images_at_once(self.device, self.settings.evaluation.batch_size)
        limit = int(self.settings.cache.memory_gb * GIGABYTE)
        found = PrefixTokens(self.cache, limit, origin, self._prefix, at_once)(images)
        self.backbone.rest()
        return found

    @torch.no_grad()
    def _prefix(self, images: Tensor) -> Tensor:
        with self.autocast():
            tokens = self.backbone.run(self.backbone.embed(on_device(images, self.device)), 0, self.levels[0])
        return tokens.to(DTYPES[self.settings.dtype]).cpu()

    def judge(self, name: str, adapters: Adapters) -> Judge:
        return Judge(
            self.backbone,
            adapters,
            self.text(name),
            self.settings.backbone.image_size,
            self.settings.dataset(name).masks,
            self.settings.evaluation.batch_size,
            self.autocast,
        )

    def load(self, name: str, records: Sequence[ImageRecord]) -> ImageBatch:
        return self.dataset(name).load(records, self.settings.backbone.image_size)

    def test_set(self, name: str) -> TestSet:
        records = self.dataset(name).records("test")
        batch = self.load(name, records)
        return TestSet(records, batch, self.tokens(batch.images), content_hash(records))

    # --- few-shot ---------------------------------------------------------------------------------------

    def support(self, name: str, shots: int, draw: int) -> SupportSet:
        """From the authors' lists where `few_shot.support_lists` names their folder, else drawn from the seed."""
        pool = self.dataset(name).records("valid")
        lists = self.settings.few_shot.support_lists
        if lists is not None:
            return read_support(pool, self.base / lists / name / f"{shots}-shot.txt", draw)
        return draw_support(pool, shots, draw, self.settings.seed)

    def support_tokens(
        self, name: str, records: Sequence[ImageRecord]
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """The records augmented 11-fold: prefix tokens, labels and masks."""
        batch = self.load(name, records)
        images = augment(batch.scaled())
        masks = None
        if batch.masks is not None:
            masks = (augment(batch.masks[:, None].float())[:, 0] > 0.5).to(torch.uint8)
        return self.tokens(images), batch.labels.repeat(FOLDS), masks

    def train_few_shot(self, name: str, shots: int, protocol: str = "sound", draw: int = 0) -> Run:
        """Adapt to k + k support images of the target and fix the fusion's ranges on them.

        Raises:
            MvfaError: k exceeds the pool, or data, mask or backbone files are missing or unfit.
        """
        rules, few = PROTOCOLS[protocol], self.settings.few_shot
        support = self.support(name, shots, draw)
        part = TrainingPart(name, *self.support_tokens(name, support.chosen), self.text(name))
        normal = self.support_tokens(name, support.normal)[0]

        looked_at = {
            "last": lambda: None,
            "held-out": lambda: self.held_out(name, support),
            "test": lambda: self.test_set(name),
        }[rules.few_shot_selection]()
        probe = self._few_shot_probe(name, looked_at, normal) if looked_at else None
        run = self._train(name, shots, rules, draw, [part], few, probe)
        run.support = support.names()
        run.ranges = self.support_ranges(name, run.adapters, normal, part.tokens[part.labels == 1])
        run.provenance["support_hash"] = content_hash(support.chosen)
        return run

    def held_out(self, name: str, support: SupportSet) -> TestSet | None:
        """The rest of the `valid` split, or None where it does not hold both classes: there is no AUROC then."""
        if len({record.label for record in support.rest}) < 2:
            self.say(f"{name}: nothing is left of valid to select on, so the last epoch is kept")
            return None
        batch = self.load(name, support.rest)
        return TestSet(list(support.rest), batch, self.tokens(batch.images), "")

    def _few_shot_probe(self, name: str, images: TestSet, normal: Tensor) -> Callable[[Adapters], float]:
        def probe(adapters: Adapters) -> float:
            judge = self.judge(name, adapters)
            branches = judge.branches(images.tokens, judge.banks(normal))
            verdict = few_shot_verdict(
                branches, FusionRanges.of(branches), judge.masks, self.settings.method.memory_weight
            )
            return selection_score(verdict, images.batch)

        return probe

    def support_ranges(self, name: str, adapters: Adapters, normal: Tensor, abnormal: Tensor) -> FusionRanges:
        """Ranges over the augmented support images: no test image is asked."""
        return FusionRanges.of(self.support_branches(name, adapters, normal, abnormal))

    def support_branches(self, name: str, adapters: Adapters, normal: Tensor, abnormal: Tensor) -> Branches:
        """Both branches of the augmented support images: the abnormal ones, then image by image the normal ones.

        A normal image is compared with the bank of the *other* normal images, since its own tokens are in
        the bank; with a single one there is no other and its own stay.
        """
        judge = self.judge(name, adapters)
        banks = judge.banks(normal)
        images = len(normal) // FOLDS
        seen: list[Branches] = [judge.branches(abnormal, banks)]
        for i in range(images):
            seen.append(judge.branches(normal[views_of(i, images)], banks.without_image(i, images)))
        return Branches.joined(seen)

    # --- zero-shot --------------------------------------------------------------------------------------

    def train_zero_shot(self, name: str, protocol: str = "sound") -> Run:
        """Train on the `test` splits of all other data sets (leave one out), text branch only."""
        rules, zero = PROTOCOLS[protocol], self.settings.zero_shot
        self.settings.dataset(name)
        others = [other for other in self.settings.datasets if other != name]
        if not others:
            raise MvfaError("datasets: zero-shot transfer needs at least two data sets in params.yaml")
        held_out = rules.zero_shot_selection == "held-out"
        parts, spared, hashes = [], {}, {}
        for other in others:
            self.say(f"reading {other}")
            part, spared[other], hashes[other] = self._zero_shot_part(
                other, zero.held_out if held_out else 0.0
            )
            parts.append(part)
        if held_out:
            probe = partial(self._zero_shot_probe, spared)
        else:
            target = self.test_set(name)
            probe = partial(self._zero_shot_probe, {name: target})
        run = self._train(name, 0, rules, 0, parts, zero, probe)
        run.provenance["sources"] = hashes
        return run

    def _zero_shot_part(self, name: str, held_out: float) -> tuple[TrainingPart, TestSet | None, str]:
        """A seeded, stratified part of a source's test split, what is set aside for selection, hash of both."""
        records, kept, spared = self.dataset(name).records("test"), [], []
        for label in (0, 1):
            rows = in_drawn_order(records, label, [self.settings.seed])
            rows = rows[: self.settings.zero_shot.images_per_class]
            aside = round(len(rows) * held_out)
            spared += rows[:aside]
            kept += rows[aside:]
        used = content_hash(kept + spared)
        batch = self.load(name, kept)
        part = TrainingPart(name, self.tokens(batch.images), batch.labels, batch.masks, self.text(name))
        if not spared:
            return part, None, used
        batch = self.load(name, spared)
        return part, TestSet(spared, batch, self.tokens(batch.images), ""), used

    def _zero_shot_probe(self, images: dict[str, TestSet], adapters: Adapters) -> float:
        """Mean over data sets, so that a large one does not decide alone."""
        scores = []
        for name, part in images.items():
            branches = self.judge(name, adapters).branches(part.tokens, zero_shot=True)
            scores.append(selection_score(zero_shot_verdict(branches), part.batch))
        return float(np.mean(scores))

    # --- both -------------------------------------------------------------------------------------------

    def _train(
        self,
        name: str,
        shots: int,
        rules: Protocol,
        draw: int,
        parts: list[TrainingPart],
        schedule: TrainingSettings,
        probe: Callable[[Adapters], float] | None,
    ) -> Run:
        """Fit, look at `probe` after each epoch where there is one, and keep the best (else the last) epoch."""
        adapters, rows = self.fresh_adapters(draw), []

        def seen(log: EpochLog, score: float | None) -> None:
            rows.append(asdict(log) | {"total": log.total, "selection": score})
            looked = "" if score is None else f", selection score {score:.4f}"
            self.say(f"epoch {log.epoch}/{schedule.epochs}: loss {log.total:.4f}{looked}")

        logs = self.fit(adapters, parts, schedule, draw, rules.logits_quirk)
        epoch = keep_best(adapters, logs, probe, seen)
        log = pd.DataFrame(rows)
        return Run(name, shots, rules.name, draw, epoch, adapters, log, provenance=self.provenance())

    def fit(
        self,
        adapters: nn.Module,
        parts: Sequence[TrainingPart],
        schedule: TrainingSettings,
        draw: int = 0,
        logits_quirk: bool = False,
    ) -> Iterator[EpochLog]:
        """`training.fit` by a schedule of the settings, with their seed, in their precision."""
        return fit(
            self.backbone,
            adapters,
            parts,
            epochs=schedule.epochs,
            learning_rate=schedule.learning_rate,
            batch_size=schedule.batch_size,
            seed=self.settings.seed + draw,
            logits_quirk=logits_quirk,
            autocast=self.autocast,
            scaler=gradient_scaler(self.settings.dtype, self.device),
        )

    def load_runs(self, name: str, folder: str | Path) -> list[Run]:
        """The runs of data set `name` that the settings ask for, from `<folder>/<name>/<run>/draw-<n>`.

        Behind them stand the imported ones, `<folder>/<name>/imported/<run>`.

        Raises:
            MvfaError: one of them is missing or unfit.
        """
        few, found = self.settings.few_shot, []
        for protocol in self.settings.protocols:
            wanted = [(0, 0)] + [(shots, draw) for shots in few.shots for draw in range(few.draws)]
            for shots, draw in wanted:
                place = Path(folder) / name / run_folder(shots, protocol) / f"draw-{draw}"
                found.append(Run.load(place, self.fresh_adapters()))
        protocols = self.settings.protocols
        found.sort(key=lambda run: (run.shots, protocols.index(run.protocol), run.draw))
        # adapters that somebody else trained, see `authors.py`
        imported = sorted((Path(folder) / name / "imported").glob("*/run.json"))
        return found + [Run.load(file.parent, self.fresh_adapters()) for file in imported]

    def verdicts(self, name: str, runs: Iterable[Run], test: TestSet) -> dict[str, Verdict]:
        """Every method's verdict on the test set: CLIP in both readings, untrained adapters, each run."""
        text, size = self.text(name), self.settings.backbone.image_size
        batch = self.settings.evaluation.batch_size
        result = clip_verdicts(
            self.backbone, test.tokens, self.levels[0], text, size, batch, autocast=self.autocast
        )
        result["untrained"] = self.untrained_verdict(name, test)
        for run in runs:
            self.say(f"judging {run.method}")
            result[run.method] = self.verdict(name, run, test)
        return result

    def untrained_verdict(self, name: str, test: TestSet) -> Verdict:
        """What adapters say that have seen nothing, the control."""
        branches = self.judge(name, self.fresh_adapters()).branches(test.tokens, zero_shot=True)
        return zero_shot_verdict(branches)

    def memory_tokens(self, run: Run) -> Tensor:
        """Prefix tokens of the augmented normal support images that `run` remembers.

        Raises:
            MvfaError: one of them is gone.
        """
        known = {record.name: record for record in self.dataset(run.dataset).records("valid")}
        missing = [name for name in run.support["normal"] if name not in known]
        if missing:
            raise MvfaError(f"{run.dataset}: support image {missing[0]} is gone; train the run again")
        return self.support_tokens(run.dataset, [known[name] for name in run.support["normal"]])[0]

    def verdict(self, name: str, run: Run, test: TestSet) -> Verdict:
        judge = self.judge(name, run.adapters)
        if not run.shots:
            return zero_shot_verdict(judge.branches(test.tokens, zero_shot=True))
        branches = judge.branches(test.tokens, judge.banks(self.memory_tokens(run)))
        on_test = PROTOCOLS[run.protocol].normalisation == "test"
        ranges = FusionRanges.of(branches) if on_test else run.ranges
        return few_shot_verdict(branches, ranges, judge.masks, self.settings.method.memory_weight)

    def provenance(self) -> dict:
        """What a result needs to be obtained again; nothing of where or when it was."""
        return {
            "backbone": self.backbone.description,
            "levels": list(self.levels),
            "seed": self.settings.seed,
            "dtype": self.settings.dtype,
            "device": self.device.type,
            "processor": platform.machine(),
            "versions": {
                "torch": torch.__version__,
                "open_clip": open_clip.__version__,
                "numpy": np.__version__,
            },
        }


def selection_score(verdict: Verdict, batch: ImageBatch) -> float:
    """Image AUROC, plus pixel AUROC where there are masks: what the published code maximises."""
    score = auroc(batch.labels.numpy(), verdict.scores.numpy()) or 0.0
    if batch.masks is not None:
        score += pixel_auroc(verdict.maps.numpy(), batch.masks.numpy()) or 0.0
    return score
