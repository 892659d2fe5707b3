"""Weight files, recognised by what is in them, read without running code, and fitted to a model.

Read are safetensors, PyTorch state dicts, `open_clip` training checkpoints and TorchScript archives as
OpenAI publishes them. PyTorch files go through `torch.load(weights_only=True)`; what needs more is refused.
"""

import json
import math
import pickle
import re
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import open_clip
import safetensors
import torch
from open_clip.convert import convert_state_dict
from open_clip.model import convert_to_custom_text_state_dict
from torch import Tensor, nn
from torch.nn import functional as F

from mvfa_core.archives import ForeignCode, read_archive, root_of
from mvfa_core.errors import MvfaError
from mvfa_core.mapped import hash_of, is_whole, map_file, write_file
from mvfa_core.token_cache import TokenCache, digest

# scalars that OpenAI's archives carry along
NO_WEIGHTS = ("input_resolution", "context_length", "vocab_size")
# MVFA has its own temperature and writes no captions, so these may be missing or left over
UNUSED = ("logit_scale", "logit_bias", "text_decoder.")

_LEGACY_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_CONVERT = (
    "convert it where you trust it: torch.save(torch.load(FILE, weights_only=False)['state_dict'], NEW), "
    "without ['state_dict'] if it is one already"
)


def read_file(path: str | Path) -> tuple[dict, str, dict[str, str]]:
    """What a weight file holds: its (possibly nested) dictionary, its kind, and its text metadata.

    Raises:
        MvfaError: the file is missing, damaged, of no known kind, or needs code to be run.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            head = file.read(64)
        content, kind, metadata = _read(path, head)
    except MvfaError:
        raise
    except ForeignCode as error:
        raise MvfaError(f"{path}: names '{error}', which is code and not data; {_CONVERT}") from None
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        if code is None:
            raise MvfaError(f"{path}: is damaged or truncated; fetch it again") from None
        raise MvfaError(f"{path}: would run code ('{code[1]}') and is refused; {_CONVERT}") from None
    except OSError as error:
        raise MvfaError(f"{path}: cannot be read ({error.strerror or error}); check the path") from None
    # whatever else a broken file provokes in the readers, the user can only fetch it again
    except Exception as error:
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise MvfaError(f"{path}: is damaged or truncated ({reason}); fetch it again") from None
    if not isinstance(content, Mapping) or not content:
        raise MvfaError(f"{path}: holds no state dict; give a file written from model.state_dict()")
    return dict(content), kind, metadata


def _read(path: Path, head: bytes) -> tuple[object, str, dict[str, str]]:
    if head[:2] == b"PK":
        with zipfile.ZipFile(path) as archive:
            scripted = root_of(archive) is not None
        if scripted:
            return read_archive(path), "TorchScript archive", {}
        return _load_torch(path), "state dict", {}
    if head and head.startswith(_LEGACY_TORCH[: len(head)]):
        # before version 2.6, PyTorch read tar files past its own safeguard
        if tarfile.is_tarfile(path):
            raise MvfaError(f"{path}: is a tar file of an early PyTorch, unsafe to read; {_CONVERT}")
        return _load_torch(path), "state dict", {}
    if head[8:9] == b"{":
        tensors, metadata = map_file(path)
        return tensors, "safetensors", metadata
    if head[:1] == b"\x80":
        raise MvfaError(f"{path}: is a Python pickle, reading it could run code; {_CONVERT}")
    if head.startswith(b"version https://git-lfs"):
        raise MvfaError(f"{path}: is a Git LFS pointer and not the file itself; run git lfs pull")
    raise MvfaError(f"{path}: is neither safetensors nor a PyTorch file; fetch it again")


def _load_torch(path: Path) -> object:
    return torch.load(path, map_location="cpu", weights_only=True)


def read_weights(path: str | Path) -> tuple[dict[str, Tensor], str]:
    """A flat state dict, in the file's own precision, and the kind of file it came from.

    Raises:
        MvfaError: as `read_file`, or the file holds something other than tensors under names.
    """
    content, kind, _ = read_file(path)
    if isinstance(content.get("state_dict"), Mapping):
        content, kind = dict(content["state_dict"]), "open_clip checkpoint"
    for name, value in content.items():
        if not isinstance(name, str):
            raise MvfaError(f"{path}: '{name}' is no name of a tensor; give a state dict")
        if not isinstance(value, Tensor):
            raise MvfaError(
                f"{path}: '{name}' is a {type(value).__name__} and no tensor; give the state dict alone"
            )
    if all(name.startswith("module.") for name in content):
        content = {name.removeprefix("module."): value for name, value in content.items()}
    return {name: value for name, value in content.items() if name not in NO_WEIGHTS}, kind


def load_weights(model: nn.Module, path: str | Path, cache: TokenCache | None = None) -> str:
    """Fill an `open_clip` model from a file and return the kind of file.

    Names of older and foreign layouts are translated as `open_clip` does; position embeddings of another
    image size are resized to the model's.

    Args:
        model: in any state; its own precision stays.
        path: of any kind that `read_file` knows.
        cache: keeps the weights as the model needs them in a file that the model's are mapped from, see
            `mapped.py`. None, or no room in it: the weights are copied into the model.

    Raises:
        MvfaError: the file is unreadable, or does not fit the model.
    """
    key = None if cache is None or cache.folder is None else _key(model, path)
    kind = None if key is None else _from_cache(model, cache, key)
    if kind is not None:
        return kind
    tensors, kind = read_weights(path)
    try:
        tensors = convert_state_dict(model, tensors)
        if "positional_embedding" in tensors and not hasattr(model, "positional_embedding"):
            tensors = convert_to_custom_text_state_dict(tensors)
        _match_positions(model, tensors)
    except (KeyError, RuntimeError, ValueError, IndexError, AttributeError) as error:
        raise MvfaError(f"{path}: has another layout than the model ({error!s:.80}); check both") from None
    own = model.state_dict()
    # masks and position numbers that some versions store and others make anew
    temporary = {name for name, _ in model.named_buffers()} - set(own)
    kept = {n: v for n, v in tensors.items() if n not in temporary and not n.startswith(UNUSED)}
    for name in (name for name in own if name.startswith(UNUSED)):
        stored = tensors.get(name)
        # a temperature is a scalar in some versions and a vector of one in others
        fits = stored is not None and stored.numel() == own[name].numel()
        kept[name] = stored.reshape(own[name].shape) if fits else own[name]
    with _fitting(model, kept, path):
        if key is None or not _through_cache(model, kept, kind, cache, key):
            model.load_state_dict(kept)
    return kind


def _key(model: nn.Module, path: str | Path) -> str | None:
    """What decides about the model's weights: the file, names and shapes, and who translates and resizes them."""
    try:
        source = hash_of(Path(path))
    # the reader says it better
    except OSError:
        return None
    own = [(name, list(value.shape), str(value.dtype)) for name, value in model.state_dict().items()]
    return digest("weights", source, json.dumps([own, open_clip.__version__, torch.__version__]))


def _from_cache(model: nn.Module, cache: TokenCache, key: str) -> str | None:
    """Map the model's weights from its entry and return the kind of file they came from; None without one."""
    place = cache.find_file(key)
    try:
        if place is None or not is_whole(place):
            return None
        tensors, metadata = map_file(place)
    # whatever is wrong with it, it is made anew
    except (OSError, ValueError, LookupError, safetensors.SafetensorError):
        return None
    _match_positions(model, tensors)
    model.load_state_dict(tensors, assign=True)
    return metadata["kind"]


def _through_cache(model: nn.Module, tensors: dict, kind: str, cache: TokenCache, key: str) -> bool:
    """Write the model's weights to its entry and map them; False where the cache has no room."""
    dtypes = {name: value.dtype for name, value in model.state_dict().items()}
    size = sum(value.numel() * dtypes[name].itemsize for name, value in tensors.items())
    place = cache.put_file(key, size, lambda file: write_file(file, tensors, dtypes, {"kind": kind}))
    if place is None:
        return False
    model.load_state_dict(map_file(place)[0], assign=True)
    return True


def fill(module: nn.Module, tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """Copy `tensors` into `module`, in its precision; names and shapes must be exactly its own.

    Raises:
        MvfaError: naming the first tensor with a wrong shape, else missing ones, else surplus ones.
    """
    with _fitting(module, tensors, path):
        module.load_state_dict(dict(tensors))


@contextmanager
def _fitting(module: nn.Module, tensors: Mapping[str, Tensor], path: str | Path) -> Iterator[None]:
    """Around putting `tensors` into `module`: what does not fit is said before, what cannot be copied then."""
    _check_fit(module, tensors, path)
    try:
        yield
    except RuntimeError:
        raise MvfaError(f"{path}: holds tensors that are not plain numbers; save them as float32") from None


def _check_fit(module: nn.Module, tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """Raise what `fill` raises about names, shapes and kinds of numbers."""
    own = module.state_dict()
    for name, value in own.items():
        if name in tensors and tensors[name].shape != value.shape:
            raise MvfaError(
                f"{path}: '{name}' is {_shape(tensors[name])}, the model needs {_shape(value)}; "
                "model and weights must belong together"
            )
        if name in tensors and tensors[name].is_floating_point() != value.is_floating_point():
            raise MvfaError(
                f"{path}: '{name}' is {str(tensors[name].dtype).removeprefix('torch.')}, the model needs "
                f"{str(value.dtype).removeprefix('torch.')}; save the weights unquantised"
            )
    for found, what in (
        ([name for name in own if name not in tensors], "is missing"),
        ([name for name in tensors if name not in own], "is unknown to the model"),
    ):
        if found:
            others = f" and {len(found) - 1} more" if len(found) > 1 else ""
            raise MvfaError(
                f"{path}: '{found[0]}'{others} {what} (the model has {len(own)} tensors); "
                "model and weights must belong together"
            )


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "a scalar"


def resize_positions(embedding: Tensor, prefix: int, side: int) -> Tensor:
    """(prefix + a * a, width) -> (prefix + side * side, width): bicubic with antialias, corners not aligned.

    An embedding that is not a square grid behind `prefix` tokens is returned as it is.
    """
    old = math.isqrt(len(embedding) - prefix)
    if old == side or old * old + prefix != len(embedding):
        return embedding
    embedding = embedding.float()
    grid = embedding[prefix:].reshape(1, old, old, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(side, side), mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([embedding[:prefix], grid.permute(0, 2, 3, 1).reshape(side * side, -1)])


def _match_positions(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Bring position embeddings of `tensors` and `model` to one grid."""
    visual = model.visual
    for name in ("positional_embedding", "attnpool.positional_embedding"):
        key = f"visual.{name}"
        if key in tensors and tensors[key].ndim == 2:
            side = math.isqrt(len(visual.get_parameter(name)) - 1)
            tensors[key] = resize_positions(tensors[key], 1, side)
    trunk = getattr(visual, "trunk", None)
    stored = tensors.get("visual.trunk.pos_embed")
    if stored is None or not hasattr(trunk, "set_input_size") or trunk.pos_embed is None:
        return
    # timm resizes its own embedding, so the model goes to the file's grid here and to the wanted one later
    prefix = 0 if trunk.no_embed_class else trunk.num_prefix_tokens
    side = math.isqrt(max(stored.shape[1] - prefix, 0))
    if side and stored.ndim == 3 and stored.shape[1:] != trunk.pos_embed.shape[1:]:
        embed = trunk.patch_embed
        trunk.set_input_size((side * (embed.img_size[0] // embed.grid_size[0]),) * 2)
