"""A trained run as something to use: images in; scores, decisions and maps out.

An image's score depends on this image and the detector alone: ranges, threshold and reference scores were fixed on
support and validation images when the detector was made (`calibration.py`), and images go through one by one.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mvfa_core.backbones import Backbone
from mvfa_core.card import model_card
from mvfa_core.devices import on_device, pick_device
from mvfa_core.errors import MvfaError
from mvfa_core.export import describe, read_detector, write_detector
from mvfa_core.formats import Window, from_array, open_image, to_square
from mvfa_core.judging import Banks, FusionRanges, Judge, few_shot_verdict, zero_shot_verdict
from mvfa_core.overlays import MapScale
from mvfa_core.reference import DEFAULT_RATE, DEFAULT_RULE, Reference

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
        about: where it comes from, see `calibration.py`.
    """

    judge: Judge
    zero_shot: bool
    ranges: FusionRanges | None = None
    banks: Banks | None = None
    memory_weight: float = 0.5
    reference: Reference = field(default_factory=Reference)
    rule: str = DEFAULT_RULE
    false_alarm_rate: float = DEFAULT_RATE
    scale: MapScale = field(default_factory=lambda: MapScale(0.0, 0.5, 1.0))
    window: Window | None = None
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def threshold(self) -> float | None:
        """Scores at or above it are abnormal; None without the reference images that the rule needs."""
        return self.reference.threshold(self.rule, self.false_alarm_rate)

    @property
    def card(self) -> str:
        """The model card, Markdown."""
        return model_card(describe(self), self.reference)

    def with_rule(self, rule: str, false_alarm_rate: float = DEFAULT_RATE) -> "Detector":
        """The same detector with another threshold.

        Raises:
            MvfaError: an unknown rule, a rate out of range, or no reference images for it.
        """
        changed = replace(self, rule=rule, false_alarm_rate=false_alarm_rate)
        if changed.threshold is None:
            known = f"{len(self.reference.normal)} normal and {len(self.reference.abnormal)} abnormal"
            raise MvfaError(
                f"threshold rule '{rule}': this detector knows {known} images, too few; choose another"
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
        return self.judge_square(torch.from_numpy(square).permute(2, 0, 1)[None])

    @torch.no_grad()
    def judge_square(self, images: Tensor) -> tuple[float, np.ndarray]:
        """The same of (1, 3, S, S) uint8."""
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

    # --- on disk ----------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """One safetensors file; a backbone of up to 64 MiB with a JSON configuration travels along.

        Raises:
            MvfaError: the detector was not made from a run, or the folder cannot be written to.
        """
        if not self.about:
            raise MvfaError(
                "save: only a detector made from a run knows what it is; see calibration.calibrate"
            )
        write_detector(path, self)

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
        return cls(**read_detector(path, backbone, pick_device(checked_device(device))))
