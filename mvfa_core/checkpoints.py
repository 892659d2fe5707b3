"""Adapters on disk: our safetensors files, and the format of the authors' published checkpoints.

Ours names tensors `seg_adapters.0.fc1.0.weight`, ...; theirs is `torch.save` of two state dicts,
`{'seg_adapters': {'0.fc1.0.weight': ...}, 'det_adapters': ...}`.
"""

import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from mvfa_core.adapters import Adapters
from mvfa_core.errors import MvfaError
from mvfa_core.weights import fill, read_file
from mvfa_core.writing import write_whole

BRANCHES = ("seg_adapters", "det_adapters")


def load_adapters(path: str | Path, adapters: Adapters) -> dict[str, str]:
    """Fill `adapters` in place from either format and return the file's metadata (the authors' have none).

    Raises:
        MvfaError: the file is missing, damaged, would run code, or has other levels or widths.
    """
    content, _, metadata = read_file(path)
    if any(branch in content for branch in BRANCHES):
        content = _flat(path, content)
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise MvfaError(f"{path}: '{name}' is no tensor; give a checkpoint of adapters")
    if not any(name.startswith(BRANCHES) for name in content):
        raise MvfaError(f"{path}: holds no '{BRANCHES[0]}'; give a checkpoint of adapters")
    stored, wanted = _levels(content), _levels(adapters.state_dict())
    if stored != wanted:
        raise MvfaError(f"{path}: has adapters for {stored} levels, not {wanted}; make backbone.levels match")
    fill(adapters, content, path)
    return metadata


def _levels(names: Iterable[str]) -> int:
    return len({name.split(".")[1] for name in names if name.startswith(BRANCHES) and "." in name})


def _flat(path: str | Path, content: dict) -> dict[str, Tensor]:
    """The authors' two nested state dicts under our names."""
    if set(content) != set(BRANCHES) or not all(isinstance(content[b], Mapping) for b in BRANCHES):
        raise MvfaError(f"{path}: must hold the state dicts {' and '.join(BRANCHES)} and nothing else")
    return {f"{branch}.{name}": value for branch in BRANCHES for name, value in content[branch].items()}


def save_adapters(path: str | Path, adapters: Adapters, metadata: dict[str, str]) -> None:
    """Write safetensors: the same adapters and metadata give the same bytes, and never half a file.

    Raises:
        MvfaError: the folder cannot be written to.
    """
    data = canonical(safetensors.torch.save(_on_cpu(adapters.state_dict()), metadata))
    write_whole(path, data)


def save_authors_format(path: str | Path, adapters: Adapters) -> None:
    """Write what the authors' published code reads.

    Raises:
        MvfaError: the folder cannot be written to.
    """
    states = {branch: _on_cpu(getattr(adapters, branch).state_dict()) for branch in BRANCHES}
    buffer = io.BytesIO()
    torch.save(states, buffer)
    write_whole(path, buffer.getvalue())


def canonical(data: bytes) -> bytes:
    """The same safetensors file with a sorted header; the library writes metadata in random order."""
    length = int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    # tensors start at a multiple of 8 bytes, the format pads with spaces
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[8 + length :]


def _on_cpu(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in state.items()}
