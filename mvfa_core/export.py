"""A detector's file: one safetensors file with everything a score needs, and the card that says what it is.

Tensors: `seg_adapters.*`, `det_adapters.*`, `text` (D, 2), `bank.<level>` (N, L, D), `reference.normal`,
`reference.abnormal`, and `backbone.*` where the backbone is small enough to travel along. Metadata: `mvfa` (number
of the layout), `detector` (JSON), `card` (Markdown). No pickle is written or read.
"""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from mvfa_core.backbones import Backbone, load_backbone
from mvfa_core.checkpoints import canonical
from mvfa_core.errors import MvfaError
from mvfa_core.settings import BackboneSettings
from mvfa_core.weights import fill, read_file
from mvfa_core.writing import write_text, write_whole

LAYOUT = "1"
# the demo's backbone travels along; CLIP ViT-L/14 with its 1.7 GB does not
EMBEDDED_BYTES = 64 * 2**20

LIMITS = (
    "Research use only. Not a medical device; not for diagnosis, screening or any decision about a patient.",
    "A score says how far an image lies from a few known normal images and how it compares with sentences. It is not "
    "a probability.",
    "Other scanners, protocols, populations and preprocessing than those of the training images shift the scores; "
    "measure on your own labelled images first.",
    "The threshold was fixed on the few reference images named above; its error rates on other images may differ.",
    "Images are squeezed into a small square: findings of a few pixels can be lost.",
)


def write_package(path: str | Path, tensors: Mapping[str, Tensor], detector: Mapping, card: str) -> None:
    """Same content, same bytes; the file appears as a whole.

    Raises:
        MvfaError: the folder cannot be written to.
    """
    ready = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    metadata = {"mvfa": LAYOUT, "detector": json.dumps(detector, sort_keys=True), "card": card}
    write_whole(path, canonical(safetensors.torch.save(ready, metadata)))


def read_package(path: str | Path) -> tuple[dict[str, Tensor], dict, str]:
    """Tensors, description and card.

    Raises:
        MvfaError: the file is missing, damaged, or no detector.
    """
    tensors, kind, metadata = read_file(path)
    if kind != "safetensors" or "detector" not in metadata:
        raise MvfaError(f"{path}: is no detector; make one with mvfa export")
    if metadata.get("mvfa") != LAYOUT:
        raise MvfaError(
            f"{path}: has layout {metadata.get('mvfa')!r:.20}, not {LAYOUT}; export the run again"
        )
    try:
        description = json.loads(metadata["detector"])
    except ValueError:
        raise MvfaError(f"{path}: its description is damaged; export the run again") from None
    return tensors, description, metadata.get("card", "")


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


def restore_backbone(
    path: str | Path,
    tensors: Mapping[str, Tensor],
    part: Mapping[str, Any],
    weights: str | Path | None,
    device: torch.device | str = "cpu",
) -> Backbone:
    """The backbone of a detector file, from the file itself or from `weights`.

    Raises:
        MvfaError: it needs a weight file that is not given, or the weights do not fit.
    """
    keys = ("activation", "normalise", "image_size", "levels")
    if not part["embedded"] and weights is None:
        raise MvfaError(
            f"{path}: needs the weights of its backbone, {part['model']} ({part['weights'] or 'random'}, fingerprint "
            f"{part['fingerprint']}); give them with --backbone FILE"
        )
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


def model_card(detector: Mapping, figures: Mapping[str, float]) -> str:
    """What the detector is, what it was measured at, and what it must not be used for."""
    reference, backbone = detector["reference"], detector["backbone"]
    lines = [
        f"# Anomaly detector: {detector['dataset']}, {detector['method']}",
        "",
        f"**{LIMITS[0]}**",
        "",
        f"- prompts speak of: {detector['organ']}",
        f"- backbone: {backbone['model']}, weights {backbone['weights']}, fingerprint {backbone['fingerprint']}",
        f"- input: {detector['image_size']} x {detector['image_size']} px, levels {detector['levels']}",
        f"- reference images: {reference['normal']} normal, {reference['abnormal']} abnormal ({reference['source']})",
        f"- threshold rule: {detector['rule']}" + _rate(detector),
        "",
        "## Figures on the test split",
        "",
        *(_figure_lines(figures) or ["None: the run has not been evaluated."]),
        "",
    ]
    if detector["protocol"] == "paper":
        lines += ["The epoch was selected on the test split, so these figures are optimistic.", ""]
    lines += ["## Limits", "", *(f"- {limit}" for limit in LIMITS), ""]
    return "\n".join(lines)


def _rate(detector: Mapping) -> str:
    return f" at {detector['false_alarm_rate']:.3g}" if detector["rule"] == "false-alarm" else ""


def _figure_lines(figures: Mapping[str, float]) -> list[str]:
    lines = []
    for key, name in (("image_auroc", "image AUROC"), ("pixel_auroc", "pixel AUROC")):
        if key in figures:
            low, high = figures.get(f"{key}_low"), figures.get(f"{key}_high")
            interval = "" if low is None or high is None else f" (95 % interval {low:.3f} to {high:.3f})"
            lines.append(f"- {name}: {figures[key]:.3f}{interval}")
    if lines and figures.get("draws", 1) > 1:
        lines.append(f"- means over {figures['draws']:g} support draws, of which this detector is one")
    return lines
