"""Weights that lie in a file and take memory only while somebody looks at them.

A mapped tensor is read from its file, page by page, when it is first looked at. Whoever is done with it says
`release`, and its memory goes back to the system; the next look reads it again, mostly out of what the system
still holds of the file. All processes that map one file share one copy of it.
"""

import hashlib
import json
import mmap
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

import safetensors
import torch
from torch import Tensor

# bytes; where a tensor starts elsewhere than PyTorch's own do, kernels may go another way and round otherwise
ALIGNED = 64
CHUNK = 2**22
# bytes; for less memory than this, fetching it again is not worth the call
WORTH = 2**20
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


class _Place(NamedTuple):
    """Where a tensor lies: the mapping, kept by its tensors alone, and the bytes in it."""

    mapping: weakref.ref
    start: int
    stop: int


_places: dict[int, _Place] = {}


def map_file(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and text metadata of a safetensors file. What is written to a tensor stays in this process.

    Raises:
        OSError, safetensors.SafetensorError: the file cannot be read or is damaged.
    """
    tensors = {}
    with safetensors.safe_open(path, framework="pt") as file, path.open("rb") as raw:
        content = mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_COPY)
        header, begin = _header(raw)
        header.pop("__metadata__", None)
        for name, entry in header.items():
            dtype, shape = _DTYPES.get(entry["dtype"]), entry["shape"]
            start, stop = (begin + offset for offset in entry["data_offsets"])
            if dtype is None or start == stop or start % dtype.itemsize:
                tensors[name] = file.get_tensor(name)
                continue
            count = (stop - start) // dtype.itemsize
            found = torch.frombuffer(content, dtype=dtype, count=count, offset=start).view(shape)
            _places[found.data_ptr()] = _Place(weakref.ref(content), start, stop)
            tensors[name] = found
        return tensors, file.metadata() or {}


def release(tensor: Tensor) -> None:
    """Give the memory of a mapped tensor back until its next use.

    One that is small, that is not mapped, or that somebody has written to, stays as it is. As everywhere, what
    is written past autograd, through `.data`, goes unseen.
    """
    if tensor.nbytes < WORTH:
        return
    place = _places.get(tensor.data_ptr())
    content = None if place is None else place.mapping()
    if content is None or tensor._version or not hasattr(content, "madvise"):
        return
    first, last = -(-place.start // mmap.PAGESIZE), place.stop // mmap.PAGESIZE
    if last > first:
        content.madvise(mmap.MADV_DONTNEED, first * mmap.PAGESIZE, (last - first) * mmap.PAGESIZE)


def write_file(
    file: BinaryIO,
    tensors: Mapping[str, Tensor],
    dtypes: Mapping[str, torch.dtype],
    metadata: Mapping[str, str],
) -> None:
    """Write a safetensors file, one tensor in memory at a time, with a checksum that `is_whole` knows.

    Args:
        file: open for reading and writing, empty.
        tensors: mapped ones are released again.
        dtypes: the precision of each in the file.
        metadata: text to go with them.
    """
    size = {name: value.numel() * dtypes[name].itemsize for name, value in tensors.items()}
    # those that would move their successors off the border come last
    order = sorted(tensors, key=lambda name: (size[name] % ALIGNED > 0, name))
    entries, offset = {}, 0
    for name in order:
        entries[name] = {
            "dtype": _NAMES[dtypes[name]],
            "shape": list(tensors[name].shape),
            "data_offsets": [offset, offset + size[name]],
        }
        offset += size[name]

    def head(checksum: str) -> bytes:
        text = json.dumps({"__metadata__": {**metadata, "sha256": checksum}, **entries}).encode()
        text += b" " * (-(len(text) + 8) % ALIGNED)
        return len(text).to_bytes(8, "little") + text

    digest = hashlib.sha256()
    file.write(head("0" * 64))
    for name in order:
        value = tensors[name]
        content = value.detach().cpu().to(dtypes[name]).contiguous().reshape(-1).view(torch.uint8).numpy()
        file.write(content)
        digest.update(content)
        release(value)
    file.seek(0)
    file.write(head(digest.hexdigest()))


def is_whole(path: Path) -> bool:
    """Whether the tensors of a file of `write_file` are those that were written.

    Raises:
        OSError, ValueError: it cannot be read, or is no such file at all.
    """
    with path.open("rb") as file:
        header, begin = _header(file)
        file.seek(begin)
        return header["__metadata__"]["sha256"] == _rest_of(file)


def hash_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex; a part at a time is in memory."""
    with path.open("rb") as file:
        return _rest_of(file)


def _rest_of(file: BinaryIO) -> str:
    """SHA-256 of what is left to read."""
    digest = hashlib.sha256()
    while chunk := file.read(CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


def _header(file: BinaryIO) -> tuple[dict, int]:
    """Entries of a safetensors file with its metadata, and where its numbers begin."""
    size = file.seek(0, 2)
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if not 0 < length <= size - 8:
        raise ValueError("no safetensors file")
    return json.loads(file.read(length)), 8 + length
