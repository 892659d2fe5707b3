"""A detector's file: one safetensors file with everything a score needs, and the card that says what it is.

Tensors: `seg_adapters.*`, `det_adapters.*`, `text` (D, 2), `bank.<level>` (N, L, D), `reference.normal`,
`reference.abnormal`, and `backbone.*` where the backbone is small enough to travel along. Metadata: `mvfa` (number
of the layout), `detector` (JSON), `card` (Markdown). No pickle is written or read.
"""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
from torch import Tensor

from mvfa_core.adapters import Adapters, ResidualWeights
from mvfa_core.backbones import Backbone, load_backbone
from mvfa_core.checkpoints import canonical
from mvfa_core.errors import MvfaError
from mvfa_core.judging import Banks, FusionRanges, Judge
from mvfa_core.memory import MemoryBank
from mvfa_core.overlays import MapScale
from mvfa_core.reference import Reference
from mvfa_core.settings import BackboneSettings
from mvfa_core.weights import fill, read_file
from mvfa_core.writing import write_text, write_whole

if TYPE_CHECKING:
    from mvfa_core.detector import Detector

LAYOUT = "1"
# the demo's backbone travels along; CLIP ViT-L/14 with its 1.7 GB does not
EMBEDDED_BYTES = 64 * 2**20


def describe(detector: "Detector") -> dict[str, Any]:
    """What a file says of its detector: where it comes from, and every number a score needs that is no tensor."""
    judge, reference = detector.judge, detector.reference
    return {
        **detector.about,
        "masks": judge.masks,
        "zero_shot": detector.zero_shot,
        "image_size": judge.size,
        "levels": list(judge.adapters.levels),
        "residual": list(judge.adapters.residual),
        "memory_weight": detector.memory_weight,
        "ranges": None if detector.ranges is None else asdict(detector.ranges),
        "reference": {
            "normal": len(reference.normal),
            "abnormal": len(reference.abnormal),
            "source": reference.source,
        },
        "rule": detector.rule,
        "false_alarm_rate": detector.false_alarm_rate,
        "scale": asdict(detector.scale),
        "window": detector.window,
    }


def write_detector(path: str | Path, detector: "Detector") -> None:
    """Same content, same bytes; the file appears as a whole.

    Raises:
        MvfaError: the folder cannot be written to.
    """
    judge, reference = detector.judge, detector.reference
    tensors = {**judge.adapters.state_dict(), "text": judge.text}
    tensors["reference.normal"] = torch.from_numpy(reference.normal)
    tensors["reference.abnormal"] = torch.from_numpy(reference.abnormal)
    if detector.banks is not None:
        bank = detector.banks.seg if judge.masks else detector.banks.det
        tensors |= {f"bank.{number}": level for number, level in enumerate(bank.levels)}
    about = describe(detector)
    if about["backbone"]["embedded"]:
        tensors |= {f"backbone.{name}": value for name, value in judge.backbone.model.state_dict().items()}
    ready = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    metadata = {"mvfa": LAYOUT, "detector": json.dumps(about, sort_keys=True), "card": detector.card}
    write_whole(path, canonical(safetensors.torch.save(ready, metadata)))


def read_detector(
    path: str | Path, backbone: str | Path | Backbone | None, device: torch.device
) -> dict[str, Any]:
    """The arguments of a `Detector`, as `write_detector` found them.

    Args:
        path: the file.
        backbone: weights of the backbone where they are not in the file, or the loaded backbone itself.
        device: where it will judge.

    Raises:
        MvfaError: a file is missing, damaged or no detector, or the backbone is not the one of training.
    """
    tensors, about = _read_package(path)
    try:
        return _parts(path, tensors, about, backbone, device)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise MvfaError(f"{path}: its description is damaged ({error!s:.60}); export the run again") from None


def _read_package(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and description."""
    tensors, kind, metadata = read_file(path)
    if kind != "safetensors" or "detector" not in metadata:
        raise MvfaError(f"{path}: is no detector; make one with mvfa export")
    if metadata.get("mvfa") != LAYOUT:
        raise MvfaError(
            f"{path}: has layout {metadata.get('mvfa')!r:.20}, not {LAYOUT}; export the run again"
        )
    try:
        return tensors, json.loads(metadata["detector"])
    except ValueError:
        raise MvfaError(f"{path}: its description is damaged; export the run again") from None


def _parts(path, tensors, about, backbone, device) -> dict[str, Any]:
    loaded = backbone
    if not isinstance(loaded, Backbone):
        loaded = _restore_backbone(path, tensors, about["backbone"], backbone, device)
    found, wanted = loaded.description["fingerprint"], about["backbone"]["fingerprint"]
    if found != wanted:
        raise MvfaError(
            f"{path}: needs the backbone with fingerprint {wanted}, got {found}; give its weights"
        )
    adapters = Adapters.for_backbone(loaded, about["levels"], 0, ResidualWeights(*about["residual"]))
    own = {k: v for k, v in tensors.items() if k.startswith(("seg_adapters.", "det_adapters."))}
    fill(adapters, own, path)
    text, masks = tensors["text"].to(device), about["masks"]
    ranges = banks = None
    if not about["zero_shot"]:
        ranges = FusionRanges.from_record(about["ranges"])
        bank = MemoryBank([])
        # unit vectors already: normalising once more would move their last bits
        bank.levels = [tensors[f"bank.{number}"].to(device) for number in range(len(about["levels"]))]
        banks = one_sided(bank, masks)
    return {
        "judge": Judge(loaded, adapters.to(device), text, about["image_size"], masks, batch_size=1),
        "zero_shot": about["zero_shot"],
        "ranges": ranges,
        "banks": banks,
        "memory_weight": about["memory_weight"],
        "reference": Reference(
            tensors["reference.normal"].numpy(),
            tensors["reference.abnormal"].numpy(),
            about["reference"]["source"],
        ),
        "rule": about["rule"],
        "false_alarm_rate": about["false_alarm_rate"],
        "scale": MapScale(**about["scale"]),
        "window": None if about["window"] is None else tuple(about["window"]),
        "about": {key: about[key] for key in ABOUT},
    }


# what a detector knows of its origin; the rest of the description are its parts
ABOUT = ("dataset", "organ", "method", "protocol", "epoch", "backbone", "figures", "seed", "versions")


def one_sided(bank: MemoryBank, masks: bool) -> Banks:
    """The memory of the branch that decides; the other's is never asked."""
    return Banks(bank, MemoryBank([])) if masks else Banks(MemoryBank([]), bank)


def backbone_part(settings: BackboneSettings, backbone: Backbone, base: Path) -> dict[str, Any]:
    """What a file says about its backbone: settings without folders, configuration, fingerprint.

    Args:
        settings: as in the parameter file.
        backbone: loaded from them.
        base: folder of relative paths.
    """
    config, path = None, base / settings.model
    if path.is_file():
        config = json.loads(path.read_text(encoding="utf-8"))
    size = sum(value.numel() * value.element_size() for value in backbone.state_dict().values())
    return {
        "model": path.name if config else settings.model,
        "weights": Path(settings.weights).name if settings.weights else None,
        "levels": list(settings.levels),
        "activation": settings.activation,
        "normalise": settings.normalise,
        "image_size": settings.image_size,
        "config": config,
        "fingerprint": backbone.description["fingerprint"],
        "embedded": config is not None and size <= EMBEDDED_BYTES,
    }


def _restore_backbone(
    path: str | Path,
    tensors: Mapping[str, Tensor],
    part: Mapping[str, Any],
    weights: str | Path | None,
    device: torch.device,
) -> Backbone:
    """The backbone of a detector file, from the file itself or from `weights`."""
    if not part["embedded"] and weights is None:
        raise MvfaError(
            f"{path}: needs the weights of its backbone, {part['model']} ({part['weights'] or 'random'}, fingerprint "
            f"{part['fingerprint']}); give them with --backbone FILE"
        )
    keys = ("activation", "normalise", "image_size", "levels")
    with tempfile.TemporaryDirectory() as scratch:
        model = part["model"]
        if part["config"] is not None:
            # the one door to backbones takes a file
            model = str(Path(scratch) / "backbone.json")
            write_text(model, json.dumps(part["config"]))
        given = None if weights is None else str(weights)
        settings = BackboneSettings(model=model, weights=given, **{key: part[key] for key in keys})
        backbone = load_backbone(settings, device)
    if weights is None:
        own = {k.removeprefix("backbone."): v for k, v in tensors.items() if k.startswith("backbone.")}
        fill(backbone.model, own, path)
    return backbone
