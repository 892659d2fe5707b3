"""Tokens behind the frozen prefix, computed once per image and kept on disk for the next run and notebook.

An entry is found by what it was computed from, the bytes of the image and everything that decides about its
tokens, so that it cannot be stale: what has changed has another key. The cache never decides about a result. An
entry that is missing, damaged or too much for the limit is computed again, to the same bytes, because every
image is computed in a batch of the same shape whether its neighbours were found or not.
"""

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor

from mvfa_core.towers import Backbone

CHECKSUM = 16  # bytes in front of every entry
ABANDONED = 3600.0  # seconds after which an unfinished file belongs to nobody
SLACK = 0.9  # share of the limit that is left after making room


def digest(*parts: str | np.ndarray) -> str:
    """SHA-256 over parts and their lengths; arrays lie in C order."""
    found = hashlib.sha256()
    for part in parts:
        content = part.encode() if isinstance(part, str) else memoryview(part).cast("B")
        found.update(len(content).to_bytes(8, "little"))
        found.update(content)
    return found.hexdigest()


def origin_of(backbone: Backbone, level: int, dtype: torch.dtype) -> str:
    """Everything but the image that decides about the tokens behind block `level`, to the last bit."""
    buffers = [(name, value.tolist()) for name, value in backbone.named_buffers() if value.numel() <= 16]
    machine = [torch.__version__, torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()]
    device = next(backbone.parameters()).device.type
    return json.dumps([backbone.description, buffers, level, str(dtype), device, machine], sort_keys=True)


class TokenCache:
    """A store of tensors and files of tensors on disk, under keys of `digest`.

    Args:
        folder: where entries lie, or None for no store at all. It may be deleted at any time.
        limit: bytes of all entries; the ones not asked for longest make room for new ones.
    """

    def __init__(self, folder: Path | None, limit: int):
        self.folder = folder
        self.limit = limit
        self._used: int | None = None
        self._own: set[str] = set()

    def get(self, key: str) -> Tensor | None:
        """The entry, or None where there is none or it is damaged."""
        if self.folder is None:
            return None
        path = self._path(key)
        try:
            stored = path.read_bytes()
            os.utime(path)
        except OSError:
            return None
        content = memoryview(stored)[CHECKSUM:]
        if stored[:CHECKSUM] != _checksum(content):
            with suppress(OSError):
                path.unlink()
            return None
        self._own.add(path.name)
        return load(bytes(content))["tokens"]

    def put(self, key: str, value: Tensor) -> None:
        """Keep `value`, as far as limit and disk allow."""
        if self.folder is None:
            return
        content = save({"tokens": value.cpu().contiguous()})

        def write(file: BinaryIO) -> None:
            file.write(_checksum(content))
            file.write(content)

        self.put_file(key, CHECKSUM + len(content), write)

    def find_file(self, key: str) -> Path | None:
        """The file of an entry that `put_file` made, whose writer checks what is in it; None where there is none."""
        if self.folder is None:
            return None
        path = self._path(key)
        try:
            os.utime(path)
        except OSError:
            return None
        self._own.add(path.name)
        return path

    def put_file(self, key: str, size: int, write: Callable[[BinaryIO], None]) -> Path | None:
        """Keep what `write` writes into a file open for reading and writing, and return where it lies.

        A full or read-only disk costs time, never the run: None where there is no room for `size` bytes.
        """
        if self.folder is None:
            return None
        path, part = self._path(key), None
        try:
            if not self._has_room(size):
                return None
            path.parent.mkdir(parents=True, exist_ok=True)
            # two processes may be at the same entry, so each has a file of its own
            handle, part = tempfile.mkstemp(suffix=".part", dir=path.parent)
            with os.fdopen(handle, "w+b") as file:
                write(file)
            Path(part).replace(path)
        except OSError:
            return None
        finally:
            if part is not None:
                with suppress(OSError):
                    Path(part).unlink()
        self._used += size
        self._own.add(path.name)
        return path

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / key[2:]

    def _has_room(self, size: int) -> bool:
        """Make room for `size` bytes; False where only entries of this very run could go."""
        if self._used is None:
            self._used = sum(found.st_size for _, found in self._entries())
        if self._used + size <= self.limit:
            return True
        if size > self.limit:
            return False
        entries = sorted(self._entries(), key=lambda entry: (entry[1].st_mtime, entry[0].name))
        self._used = sum(found.st_size for _, found in entries)
        for path, found in entries:
            if self._used + size <= SLACK * self.limit:
                break
            # a run that goes round and round in a set too large for the limit would find nothing it has kept
            if path.name not in self._own:
                with suppress(OSError):
                    path.unlink()
                    self._used -= found.st_size
        return self._used + size <= self.limit

    def _entries(self) -> Iterator[tuple[Path, os.stat_result]]:
        """Entries and their sizes; what a killed process left unfinished is cleared away."""
        for path in self.folder.glob("??/*"):
            with suppress(OSError):
                found = path.stat()
                if path.suffix != ".part":
                    yield path, found
                elif time.time() - found.st_mtime > ABANDONED:
                    path.unlink()


def _checksum(content: bytes | memoryview) -> bytes:
    return hashlib.sha256(content).digest()[:CHECKSUM]


class CachedTokens:
    """Tokens (N, L, width) of more images than memory holds: a row is found, or computed again, when asked for.

    Args:
        keys: of the images. of: rows -> their tokens (len(rows), L, width).
    """

    def __init__(self, keys: Sequence[str], dtype: torch.dtype, of: Callable[[Sequence[int]], Tensor]):
        self._keys, self.dtype, self._of = keys, dtype, of
        self.device = torch.device("cpu")

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, rows: slice | int | Sequence[int] | Tensor) -> Tensor:
        """As a tensor would be indexed along its first axis."""
        chosen = torch.arange(len(self))[rows]
        found = self._of(chosen.reshape(-1).tolist())
        return found if chosen.ndim else found[0]

    def split(self, size: int) -> Iterator[Tensor]:
        """`size` images at a time, one batch in memory."""
        for start in range(0, len(self), size):
            yield self[start : start + size]


class PrefixTokens:
    """Images -> tokens behind the prefix, through the cache.

    Args:
        cache: where tokens are kept.
        memory: bytes; a larger set of images is not held in memory but read from the cache, batch by batch.
        origin: see `origin_of`.
        prefix: images (n, 3, S, S), float32 in [0, 1], on the CPU -> tokens (n, L, width) on the CPU.
        at_once: images to a batch of `prefix`; every batch has exactly as many.
    """

    def __init__(
        self, cache: TokenCache, memory: int, origin: str, prefix: Callable[[Tensor], Tensor], at_once: int
    ):
        self.cache, self.memory, self.origin = cache, memory, origin
        self.prefix, self.at_once = prefix, at_once

    def __call__(self, images: Tensor) -> Tensor | CachedTokens:
        """(N, 3, S, S) in [0, 1], or uint8 -> (N, L, width)."""
        images = images.cpu().contiguous()
        keys = [digest(self.origin, str(image.dtype), image.numpy()) for image in images]
        of = partial(self._of, images, keys)
        if self.cache.folder is not None:
            first = of([0])
            if first.nbytes * len(images) > self.memory:
                return CachedTokens(keys, first.dtype, of)
        return of(range(len(images)))

    def _of(self, images: Tensor, keys: list[str], rows: Sequence[int]) -> Tensor:
        """(len(rows), L, width)."""
        found = {row: self.cache.get(keys[row]) for row in rows}
        missing = [row for row, tokens in found.items() if tokens is None]
        for start in range(0, len(missing), self.at_once):
            group = missing[start : start + self.at_once]
            # filled up to a full batch: kernels are chosen by shape
            part = images[group + group[-1:] * (self.at_once - len(group))]
            part = part / 255 if part.dtype == torch.uint8 else part
            for row, tokens in zip(group, self.prefix(part), strict=False):
                # a row of its own: as a view it would keep the whole batch in memory
                found[row] = tokens.clone()
                self.cache.put(keys[row], found[row])
        return torch.stack([found[row] for row in rows])
