"""The one door to frozen vision-language models: settings in, a `Backbone` out.

Any model of `open_clip` enters by name or by JSON configuration, with weights from a file, from one of
`open_clip`'s tags, or random. What a backbone is and which towers there are stands in `towers.py` and
`conv_towers.py`; how files are read stands in `weights.py`.
"""

import difflib
import itertools
import json
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from copy import deepcopy
from pathlib import Path

import open_clip
import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.pretrained import (
    download_pretrained,
    download_pretrained_from_hf,
    get_pretrained_cfg,
    list_pretrained_tags_by_model,
)
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mvfa_core.conv_towers import ResNetTower, TimmStages
from mvfa_core.errors import MvfaError
from mvfa_core.settings import BackboneSettings
from mvfa_core.token_cache import TokenCache
from mvfa_core.towers import Backbone, OpenClipBackbone, OpenClipVit, TimmVit
from mvfa_core.weights import load_weights

__all__ = ["TOWERS", "Backbone", "OpenClipVit", "load_backbone", "resolve_levels"]

# a new kind of tower is one class, listed here
TOWERS: list[type[OpenClipBackbone]] = [OpenClipVit, TimmVit, ResNetTower, TimmStages]

HUB = "hf-hub:"
Tokenizer = Callable[[Sequence[str]], Tensor]


def resolve_levels(levels: Sequence[int | float], depth: int) -> tuple[int, ...]:
    """Block numbers counted from 1, from such numbers or from fractions of depth.

    Raises:
        MvfaError: a level is out of range, levels do not increase, or numbers and fractions are mixed.

    >>> resolve_levels((6, 12, 18, 24), 24)
    (6, 12, 18, 24)
    >>> resolve_levels((0.25, 0.5, 0.75, 1.0), 12)
    (3, 6, 9, 12)
    """
    given = ", ".join(map(str, levels))
    if not levels or any(isinstance(level, bool) or not isinstance(level, int | float) for level in levels):
        raise MvfaError(f"backbone.levels: [{given}] must be block numbers or fractions of depth")
    if len({type(level) for level in levels}) > 1:
        raise MvfaError(
            f"backbone.levels: [{given}] mixes block numbers and fractions; write 1.0 for the whole depth"
        )
    if isinstance(levels[0], float):
        if not all(0 < level <= 1 for level in levels):
            raise MvfaError(f"backbone.levels: fractions lie in (0, 1], got [{given}]")
        levels = [max(1, int(level * depth + 0.5)) for level in levels]
    if not all(1 <= level <= depth for level in levels):
        raise MvfaError(f"backbone.levels: this backbone has blocks 1 to {depth}, got [{given}]")
    if any(a >= b for a, b in itertools.pairwise(levels)):
        blocks = ", ".join(map(str, levels))
        raise MvfaError(f"backbone.levels: must increase, got [{given}]: blocks [{blocks}] of {depth}")
    return tuple(levels)


def load_backbone(
    settings: BackboneSettings,
    device: torch.device | str = "cpu",
    seed: int = 0,
    tokenizer: Tokenizer | None = None,
    cache: TokenCache | None = None,
) -> Backbone:
    """Build the model that the settings name, fill it, freeze it and put it on `device`.

    Args:
        settings: `model` is a JSON configuration file as `open_clip`'s, the name of one of its models, or
            `hf-hub:owner/name`. `weights` is a file, one of the model's tags, `hf-hub:owner/name`, or None
            for random weights.
        device: where the weights go.
        seed: of random weights.
        tokenizer: sentences -> token numbers, in place of the model's own.
        cache: where weights from a file may lie, ready to be mapped, see `load_weights`.

    Raises:
        MvfaError: unknown model, tag or file; a configuration or a weight file that is unreadable or unfit;
            an activation or an image size that this model cannot have.
    """
    config, preprocess = _configuration(settings)
    model = _build(settings, config, seed)
    origin = {
        "model": _without_folder(settings.model),
        "weights": f"random (seed {seed})",
        "activation": settings.activation,
        "normalise": settings.normalise,
    }
    if settings.weights is not None:
        path, tagged = _weight_file(settings)
        preprocess |= tagged
        origin["weights"] = _without_folder(settings.weights)
        origin["weights_kind"] = load_weights(model, path, cache)
    tower = next((tower for tower in TOWERS if tower.serves(model.visual)), None)
    if tower is None:
        kind = type(getattr(model.visual, "trunk", model.visual)).__name__
        raise MvfaError(f"backbone.model: {settings.model} has a tower ({kind}) without blocks to adapt")
    _set_image_size(model, settings)
    normalise = None
    if settings.normalise:
        normalise = preprocess.get("mean", OPENAI_DATASET_MEAN), preprocess.get("std", OPENAI_DATASET_STD)
    backbone = tower(model, tokenizer or _tokenizer(settings, config), normalise)
    if settings.image_size < backbone.stride:
        raise MvfaError(f"backbone.image_size: {settings.model} needs at least {backbone.stride} px")
    backbone.origin = origin
    return backbone.to(device)


def _without_folder(name: str) -> str:
    """A file's last part: results must not tell where somebody keeps his files."""
    return Path(name).name if _is_file(name) else name


def _is_file(name: str) -> bool:
    return not name.startswith(HUB) and (Path(name).is_file() or Path(name).suffix == ".json")


def _configuration(settings: BackboneSettings) -> tuple[dict, dict]:
    """The model's configuration as `open_clip` writes it, and what it says about preprocessing."""
    name = settings.model
    if _is_file(name):
        return _read_configuration(Path(name))
    if name.startswith(HUB):
        repository = name.removeprefix(HUB)
        path = fetch(name, lambda: download_pretrained_from_hf(repository, "open_clip_config.json"))
        return _read_configuration(Path(path))
    known = name.replace("/", "-")
    config = open_clip.get_model_config(known)
    if config is None:
        near = difflib.get_close_matches(known, open_clip.list_models(), n=1)
        hint = f"did you mean '{near[0]}'?" if near else "see open_clip.list_models()"
        raise MvfaError(f"backbone.model: '{name}' is no file and no model of open_clip; {hint}")
    tags = [get_pretrained_cfg(known, tag) for tag in list_pretrained_tags_by_model(known)]
    agreed = {(tuple(tag["mean"]), tuple(tag["std"])) for tag in tags if tag.get("mean") and tag.get("std")}
    return deepcopy(config), dict(zip(("mean", "std"), *agreed, strict=True)) if len(agreed) == 1 else {}


def _read_configuration(path: Path) -> tuple[dict, dict]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MvfaError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except ValueError as error:
        raise MvfaError(f"{path}: is not valid JSON ({str(error).splitlines()[0]}); mend it there") from None
    preprocess = {}
    if isinstance(config, dict) and isinstance(config.get("model_cfg"), dict):
        preprocess = config.get("preprocess_cfg") or {}
        config = config["model_cfg"]
    for key, kind in (("embed_dim", int), ("vision_cfg", dict), ("text_cfg", dict)):
        if not isinstance(config, dict) or not isinstance(config.get(key), kind):
            raise MvfaError(f"{path}: has no '{key}' ({kind.__name__}); see open_clip's model_configs")
    return config, preprocess if isinstance(preprocess, dict) else {}


# what fills a tensor with random numbers and then has not to be looked at: of `nn.init`, those that see the mode first
_RANDOM = {
    Tensor.normal_,
    Tensor.uniform_,
    nn.init.normal_,
    nn.init.uniform_,
    nn.init.kaiming_normal_,
    nn.init.kaiming_uniform_,
}


class _NoRandomNumbers(TorchFunctionMode):
    """Leaves large new weights as the system hands them out, which costs nothing until they are written to."""

    def __torch_function__(self, function, types, arguments=(), options=None):
        options = options or {}
        if function in _RANDOM:
            return arguments[0] if arguments else options["tensor"]
        return function(*arguments, **options)


def _build(settings: BackboneSettings, config: dict, seed: int) -> nn.Module:
    """The model with random weights from `seed`, no pretrained part, and the activation asked for."""
    config = deepcopy(config)
    vision, text = config["vision_cfg"], config["text_cfg"]
    quick = settings.activation == "quickgelu"
    if quick and (vision.get("timm_model_name") or text.get("hf_model_name")):
        raise MvfaError(
            f"backbone.activation: {settings.model} has a tower of timm or transformers, "
            "which brings its own activation; set gelu"
        )
    config["quick_gelu"] = quick
    # millions of random numbers take seconds and memory, and a file replaces them all
    numbers = nullcontext() if settings.weights is None else _NoRandomNumbers()
    if vision.get("timm_model_name"):
        vision["timm_model_pretrained"] = False
    else:
        vision["image_size"] = settings.image_size
    if text.get("hf_model_name"):
        text["hf_model_pretrained"] = False
    custom = config.pop("custom_text", False) or "hf_model_name" in text
    kind = open_clip.CLIP if not custom else open_clip.CustomTextCLIP
    if custom and "multimodal_cfg" in config:
        kind = open_clip.CoCa
    try:
        with numbers, torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(seed)
            model = kind(**config)
    # a wrong number in a configuration surfaces as anything, from TypeError to ZeroDivisionError
    except Exception as error:
        reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        raise MvfaError(f"{settings.model}: is no configuration to build from ({reason})") from None
    if hasattr(model, "text_decoder"):
        # it writes captions, which nobody asks for here, and open_clip leaves a part of it uninitialised
        del model.text_decoder
    return model


def _set_image_size(model: nn.Module, settings: BackboneSettings) -> None:
    """Bring a timm tower to the image size; the others were built with it."""
    size = settings.image_size
    if hasattr(model.visual, "attnpool") and (size + 1) % 32 == 0:
        # its stem rounds up, the positions of its pooling round down
        raise MvfaError(f"backbone.image_size: {settings.model} cannot take {size} px; take one more or less")
    if not hasattr(model.visual, "trunk"):
        return
    try:
        model.visual.set_input_size(size)
    except (AssertionError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0][:80] if str(error) else "its grid does not fit"
        raise MvfaError(f"backbone.image_size: {settings.model} cannot take {size} px ({reason})") from None


def _weight_file(settings: BackboneSettings) -> tuple[Path, dict]:
    """The weights as a local file, and what `open_clip` knows about their preprocessing."""
    name, model = settings.weights, settings.model.replace("/", "-")
    if name.startswith(HUB):
        return Path(fetch(name, lambda: download_pretrained_from_hf(name.removeprefix(HUB)))), {}
    tag = {} if _is_file(settings.model) else get_pretrained_cfg(model, name)
    if Path(name).is_file() or not tag:
        tags = [] if _is_file(settings.model) else list_pretrained_tags_by_model(model)
        if not Path(name).exists() and tags and not Path(name).suffix:
            raise MvfaError(f"backbone.weights: '{name}' is no file and no tag of {model}: {', '.join(tags)}")
        return Path(name), {}
    path = fetch(f"{model}/{name}", lambda: download_pretrained(tag))
    return Path(path), {key: tag[key] for key in ("mean", "std") if tag.get(key)}


def fetch(name: str, download: Callable[[], str]) -> str:
    """What `download` brings; `name` is what errors call it.

    Raises:
        MvfaError: the download fails, or there is no place to download it from.
    """
    try:
        path = download()
    # the libraries below raise their own network errors, those of requests and plain OSErrors
    except Exception as error:
        raise MvfaError(
            f"{name}: could not be downloaded ({type(error).__name__}); go online or give a local file"
        ) from None
    if not path:
        raise MvfaError(f"{name}: open_clip knows no place to download it from; give a local file")
    return path


def _tokenizer(settings: BackboneSettings, config: dict) -> Tokenizer:
    """The tokenizer that belongs to the model."""
    text, name = config["text_cfg"], settings.model.replace("/", "-")
    if settings.model.startswith(HUB):
        name = settings.model
    if not _is_file(settings.model):
        return fetch(f"tokenizer of {settings.model}", lambda: open_clip.get_tokenizer(name))
    if text.get("hf_tokenizer_name"):
        return fetch(
            f"tokenizer {text['hf_tokenizer_name']}",
            lambda: open_clip.tokenizer.HFTokenizer(
                text["hf_tokenizer_name"],
                context_length=text.get("context_length", 77),
                tokenizer_mode=text.get("tokenizer_mode"),
                **text.get("tokenizer_kwargs", {}),
            ),
        )
    tokenizer = open_clip.tokenizer.SimpleTokenizer(context_length=text.get("context_length", 77))
    if text.get("vocab_size", tokenizer.vocab_size) < tokenizer.vocab_size:
        raise MvfaError(f"{settings.model}: text_cfg.vocab_size must be at least {tokenizer.vocab_size}")
    return tokenizer
