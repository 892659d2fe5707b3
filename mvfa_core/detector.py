"""A trained run as something to use: images in; scores, decisions and maps out.

An image's score depends on this image and the detector alone: ranges, threshold and reference scores were fixed on
support and validation images when the detector was made, and images go through one by one.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mvfa_core.adapters import Adapters, ResidualWeights
from mvfa_core.augmentation import views_of
from mvfa_core.backbones import Backbone
from mvfa_core.devices import on_device, pick_device
from mvfa_core.errors import MvfaError
from mvfa_core.export import backbone_part, model_card, read_package, restore_backbone, write_package
from mvfa_core.formats import Window, from_array, open_image, to_square
from mvfa_core.judging import Banks, FusionRanges, Judge, few_shot_verdict, zero_shot_verdict
from mvfa_core.memory import MemoryBank
from mvfa_core.overlays import MapScale
from mvfa_core.reference import RULES, Reference
from mvfa_core.weights import fill

if TYPE_CHECKING:
    from mvfa_core.experiment import Experiment
    from mvfa_core.runs import Run

DEVICES = ("auto", "cpu", "cuda", "mps")
ImageLike = str | Path | Image.Image | np.ndarray


def checked_device(name: str) -> str:
    """`name`, one of `DEVICES`.

    Raises:
        MvfaError: it is another.
    """
    if name not in DEVICES:
        raise MvfaError(f"device: '{name:.20}' is none of {', '.join(DEVICES)}")
    return name


@dataclass
class Predictions:
    """What a detector says about N pictures.

    names: how each is called. scores (N,): larger is more abnormal. maps: per picture (S, S) float32.
    percentiles (N,): share of the known normal images with a lower score, in [0, 100], NaN without any.
    threshold: scores at or above it are abnormal; None where the detector has none.
    """

    names: list[str]
    scores: np.ndarray
    maps: np.ndarray
    percentiles: np.ndarray
    threshold: float | None

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def labels(self) -> np.ndarray:
        """(N,) 1 for abnormal, 0 for normal.

        Raises:
            MvfaError: the detector has no threshold.
        """
        if self.threshold is None:
            raise MvfaError(
                "this detector has no threshold: its data set has no reference images for the rule"
            )
        return (self.scores >= self.threshold).astype(int)


@dataclass
class Detector:
    """An adapted backbone with all that was fixed beforehand.

    Args:
        judge: backbone, adapters and text features of one organ.
        zero_shot: no memory; text branch only.
        ranges, banks: of the few-shot fusion. memory_weight: its share of the memory branch.
        reference: scores of known images. rule, false_alarm_rate: how the threshold follows from them.
        scale: how maps are drawn. window: for files of more than 8 bits, see `formats.py`.
        about: what the file's description says beyond these.
    """

    judge: Judge
    zero_shot: bool
    ranges: FusionRanges | None = None
    banks: Banks | None = None
    memory_weight: float = 0.5
    reference: Reference = field(default_factory=Reference)
    rule: str = "f1"
    false_alarm_rate: float = 0.05
    scale: MapScale = field(default_factory=lambda: MapScale(0.0, 0.5, 1.0))
    window: Window | None = None
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def threshold(self) -> float | None:
        """Scores at or above it are abnormal; None without the reference images that the rule needs."""
        return self.reference.threshold(self.rule, self.false_alarm_rate)

    def with_rule(self, rule: str, false_alarm_rate: float = 0.05) -> "Detector":
        """The same detector with another threshold.

        Raises:
            MvfaError: an unknown rule, a rate out of range, or no reference images for it.
        """
        changed = replace(self, rule=rule, false_alarm_rate=false_alarm_rate)
        if changed.threshold is None:
            raise MvfaError(
                f"threshold rule '{rule}' needs known images of both classes; this detector has none"
            )
        return changed

    # --- use --------------------------------------------------------------------------------------------

    def predict(self, images: ImageLike | Iterable[ImageLike]) -> Predictions:
        """Judge one image or several.

        Args:
            images: paths (PNG, JPEG, TIFF, BMP, DICOM, NIfTI; every frame counts as a picture), PIL images, or
                arrays (H, W) or (H, W, 3): uint8, uint16 over its full range, or floating point in [0, 1].

        Raises:
            MvfaError: there is no image, or one cannot be read.
        """
        single = isinstance(images, str | Path | Image.Image | np.ndarray)
        names, scores, maps = [], [], []
        for name, picture in self._pictures([images] if single else images):
            score, anomaly_map = self.judge_picture(picture)
            names.append(name)
            scores.append(score)
            maps.append(anomaly_map)
        if not names:
            raise MvfaError("predict: got no image; give at least one")
        percentiles = [self.reference.percentile(score) for score in scores]
        return Predictions(
            names, np.array(scores), np.stack(maps), np.array(percentiles, dtype=float), self.threshold
        )

    def score_samples(self, images: ImageLike | Iterable[ImageLike]) -> np.ndarray:
        """(N,) scores alone; as `predict`."""
        return self.predict(images).scores

    def judge_picture(self, picture: Image.Image) -> tuple[float, np.ndarray]:
        """Score and map (S, S) of one RGB picture, alone: no other image is in the batch."""
        square = np.array(to_square(picture.convert("RGB"), self.judge.size))
        return self._judge(torch.from_numpy(square).permute(2, 0, 1)[None])

    @torch.no_grad()
    def _judge(self, images: Tensor) -> tuple[float, np.ndarray]:
        """(1, 3, S, S) uint8."""
        backbone, start = self.judge.backbone, self.judge.adapters.levels[0]
        pixels = on_device(images, self.judge.text.device).float() / 255
        tokens = backbone.run(backbone.embed(pixels), 0, start)
        branches = self.judge.branches(tokens, self.banks, self.zero_shot)
        if self.zero_shot:
            verdict = zero_shot_verdict(branches)
        else:
            verdict = few_shot_verdict(branches, self.ranges, self.judge.masks, self.memory_weight)
        return float(verdict.scores[0]), verdict.maps[0].numpy()

    def _pictures(self, images: Iterable[ImageLike]) -> Iterator[tuple[str, Image.Image]]:
        for number, image in enumerate(images):
            if isinstance(image, str | Path):
                file = open_image(image, self.window)
                for index in range(file.frames):
                    yield str(image) + (f"#{index}" if file.frames > 1 else ""), file.frame(index)
            elif isinstance(image, Image.Image) and not image.mode.startswith(("I", "F")):
                yield f"image {number}", image
            elif isinstance(image, Image.Image | np.ndarray):
                yield f"image {number}", from_array(np.asarray(image), self.window, f"image {number}")
            else:
                kind = type(image).__name__
                raise MvfaError(f"image {number}: is a {kind}; give a path, a PIL image or a NumPy array")

    # --- from a run -------------------------------------------------------------------------------------

    @classmethod
    def from_run(
        cls,
        experiment: "Experiment",
        run: "Run",
        rule: str = "f1",
        false_alarm_rate: float = 0.05,
        figures: dict[str, float] | None = None,
    ) -> "Detector":
        """Fix everything on the target's support images and the rest of its `valid` split.

        Args:
            experiment: the settings the run was trained with.
            run: its training.
            rule: f1, youden or false-alarm.
            false_alarm_rate: share of normal images that the last rule lets pass as abnormal.
            figures: of the evaluation, for the model card.

        Raises:
            MvfaError: another backbone or other levels than at training, or support images are gone.
        """
        if rule not in RULES:
            raise MvfaError(f"threshold rule '{rule}' is none of {', '.join(RULES)}")
        trained = run.provenance.get("backbone", {}).get("fingerprint")
        if trained not in (None, experiment.backbone.description["fingerprint"]):
            raise MvfaError(
                f"{run.method}: was trained on a backbone with fingerprint {trained}, params.yaml names another; "
                "train it again"
            )
        name, zero_shot = run.dataset, not run.shots
        entry = experiment.settings.dataset(name)
        judge = experiment.judge(name, run.adapters)
        known = {record.name: record for record in experiment.dataset(name).records("valid")}
        detector = cls(
            replace(judge, batch_size=1),
            zero_shot,
            run.ranges,
            memory_weight=experiment.settings.method.memory_weight,
            rule=rule,
            false_alarm_rate=false_alarm_rate,
            window=entry.window,
        )
        support = run.support or {"normal": [], "abnormal": []}
        if not zero_shot:
            banks = judge.banks(experiment.memory_tokens(run))
            # the other branch's memory is never asked
            detector.banks = (
                Banks(banks.seg, MemoryBank([])) if entry.masks else Banks(MemoryBank([]), banks.det)
            )
        seen = {*support["normal"], *support["abnormal"]}
        rest = [record for record in known.values() if record.name not in seen]
        detector._calibrate(experiment, name, rest, list(known.values()), support["normal"])
        detector.about = detector._description(experiment, run)
        detector.about["card"] = model_card(detector.about, figures or {})
        return detector

    def _calibrate(
        self, experiment: "Experiment", name: str, rest: Sequence, known: Sequence, remembered: Sequence[str]
    ) -> None:
        """Reference scores and the maps' scale, from images that training has not seen where there are any.

        A `remembered` image is compared with the memory of the others, as its own tokens are in there.
        """
        source = "validation images that training has not seen"
        if {record.label for record in rest} != {0, 1}:
            rest, source = known, "support images, which training has seen: optimistic"
        scores: tuple[list[float], list[float]] = ([], [])
        values: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
        for record in rest:
            judge = self
            if self.banks is not None and record.name in remembered and len(remembered) > 1:
                banks = self.banks.seg if self.judge.masks else self.banks.det
                others = banks.without(views_of(remembered.index(record.name), len(remembered)))
                judge = replace(self, banks=Banks(others, others))
            score, anomaly_map = judge._judge(experiment.load(name, [record]).images)
            scores[record.label].append(score)
            values[record.label].append(anomaly_map)
        self.reference = Reference(*(np.array(part, dtype=np.float64) for part in scores), source)
        normal, both = np.stack(values[0]), np.concatenate(values[0] + values[1])
        self.scale = MapScale(float(both.min()), float(np.percentile(normal, 95)), float(both.max()))

    def _description(self, experiment: "Experiment", run: "Run") -> dict[str, Any]:
        """What the file says of itself. Names of support images stay out: they may name patients."""
        entry, adapters = experiment.settings.dataset(run.dataset), self.judge.adapters
        return {
            "dataset": run.dataset,
            "organ": entry.organ,
            "masks": entry.masks,
            "method": run.method,
            "protocol": run.protocol,
            "epoch": run.epoch,
            "zero_shot": self.zero_shot,
            "image_size": self.judge.size,
            "levels": list(adapters.levels),
            "residual": list(adapters.residual),
            "memory_weight": self.memory_weight,
            "ranges": None if self.zero_shot else asdict(self.ranges),
            "reference": {
                "normal": len(self.reference.normal),
                "abnormal": len(self.reference.abnormal),
                "source": self.reference.source,
            },
            "rule": self.rule,
            "false_alarm_rate": self.false_alarm_rate,
            "scale": asdict(self.scale),
            "window": self.window,
            "backbone": backbone_part(experiment.settings.backbone, experiment.backbone, experiment.base),
            "seed": run.provenance.get("seed"),
            "versions": run.provenance.get("versions", {}),
        }

    # --- on disk ----------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """One safetensors file; a backbone of up to 64 MiB with a JSON configuration travels along.

        Raises:
            MvfaError: the detector was not made from a run, or the folder cannot be written to.
        """
        if not self.about:
            raise MvfaError("save: only a detector made by from_run knows what it is")
        tensors = {**self.judge.adapters.state_dict(), "text": self.judge.text}
        tensors["reference.normal"] = torch.from_numpy(self.reference.normal)
        tensors["reference.abnormal"] = torch.from_numpy(self.reference.abnormal)
        if self.banks is not None:
            bank = self.banks.seg if self.judge.masks else self.banks.det
            tensors |= {f"bank.{number}": level for number, level in enumerate(bank.levels)}
        about = {k: v for k, v in self.about.items() if k != "card"}
        if self.about["backbone"]["embedded"]:
            weights = self.judge.backbone.model.state_dict()
            tensors |= {f"backbone.{name}": value for name, value in weights.items()}
        write_package(path, tensors, about, self.about["card"])

    @classmethod
    def load(
        cls, path: str | Path, backbone: str | Path | Backbone | None = None, device: str = "auto"
    ) -> "Detector":
        """Read what `save` wrote.

        Args:
            path: the file.
            backbone: weights of the backbone where they are not in the file, or the loaded backbone itself.
            device: auto, cpu, cuda or mps.

        Raises:
            MvfaError: a file is missing, damaged or no detector, or the backbone is not the one of training.
        """
        tensors, about, card = read_package(path)
        device = pick_device(checked_device(device))
        try:
            loaded = backbone
            if not isinstance(loaded, Backbone):
                loaded = restore_backbone(path, tensors, about["backbone"], backbone, device)
            found, wanted = loaded.description["fingerprint"], about["backbone"]["fingerprint"]
            if found != wanted:
                raise MvfaError(
                    f"{path}: needs the backbone with fingerprint {wanted}, got {found}; give its weights"
                )
            adapters = Adapters.for_backbone(loaded, about["levels"], 0, ResidualWeights(*about["residual"]))
            own = {k: v for k, v in tensors.items() if k.startswith(("seg_adapters.", "det_adapters."))}
            fill(adapters, own, path)
            judge = Judge(
                loaded,
                adapters.to(device),
                tensors["text"].to(device),
                about["image_size"],
                about["masks"],
                batch_size=1,
            )
            ranges = banks = None
            if not about["zero_shot"]:
                ranges = FusionRanges.from_record(about["ranges"])
                bank = MemoryBank([])
                # unit vectors already: normalising once more would move their last bits
                bank.levels = [tensors[f"bank.{n}"].to(device) for n in range(len(about["levels"]))]
                banks = Banks(bank, MemoryBank([])) if about["masks"] else Banks(MemoryBank([]), bank)
            return cls(
                judge,
                about["zero_shot"],
                ranges,
                banks,
                about["memory_weight"],
                Reference(
                    tensors["reference.normal"].numpy(),
                    tensors["reference.abnormal"].numpy(),
                    about["reference"]["source"],
                ),
                about["rule"],
                about["false_alarm_rate"],
                MapScale(**about["scale"]),
                None if about["window"] is None else tuple(about["window"]),
                {**about, "card": card},
            )
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise MvfaError(
                f"{path}: its description is damaged ({error!s:.60}); export the run again"
            ) from None
