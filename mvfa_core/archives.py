"""TorchScript archives (OpenAI's published `.pt` files), read without running anything that is in them.

Such a file is a zip: `data.pkl` pickles the module tree, `data/<n>` holds raw numbers, `code/` the program.
`torch.jit.load` runs no pickled Python, but compiles and may execute the archive's own program, and
`torch.load(weights_only=True)` refuses the format. Here the pickle is read with the few names that a
module tree needs, none of which does anything but hold data (see "Restricting Globals" in the manual of
Python's `pickle`), numbers are taken from the raw records, and the program is only searched for the lines
that say which attributes are weights.
"""

import collections
import pickle
import re
import zipfile
from pathlib import Path

import torch
from torch import Tensor

DTYPES = {
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "ShortStorage": torch.int16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
}
_CLASS = re.compile(
    r"^class (\w+)\(Module\):\n  __parameters__ = \[(.*?)\]\n  __buffers__ = \[(.*?)\]", re.MULTILINE
)


class ForeignCode(pickle.UnpicklingError):
    """The pickle names something that is not a part of a module tree."""


class _Module:
    """One module of the tree: nothing but its attributes."""

    source = ""

    def __init__(self, *_: object):
        self.attributes: dict = {}

    def __setstate__(self, state: object) -> None:
        self.attributes = state if isinstance(state, dict) else {}


class _TreeUnpickler(pickle.Unpickler):
    """Builds `_Module`s and tensors; every other name is refused.

    Args:
        archive: the open zip.
        root: name of the folder that everything in the zip lies in.
    """

    def __init__(self, archive: zipfile.ZipFile, root: str):
        super().__init__(archive.open(f"{root}/data.pkl"))
        self.archive = archive
        self.root = root
        self.storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str):
        if module == "__torch__" or module.startswith("__torch__."):
            return type(name, (_Module,), {"source": f"{module}.{name}"})
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, size, stride, *_: storage.as_strided(size, stride, offset)
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if module == "torch.jit._pickle":
            return lambda value, *_: value
        raise ForeignCode(f"{module}.{name}")

    def persistent_load(self, pid: tuple) -> Tensor:
        """('storage', dtype, record, device, count) -> the record as a flat tensor."""
        _, dtype, record, _, _ = pid
        if record not in self.storages:
            raw = bytearray(self.archive.read(f"{self.root}/data/{record}"))
            self.storages[record] = torch.frombuffer(raw, dtype=dtype) if raw else torch.empty(0, dtype=dtype)
        return self.storages[record]


def root_of(archive: zipfile.ZipFile) -> str | None:
    """Folder inside the zip if this is a TorchScript archive, else None."""
    names = archive.namelist()
    roots = [name.removesuffix("/data.pkl") for name in names if name.endswith("/data.pkl")]
    return next((root for root in roots if f"{root}/constants.pkl" in names), None)


def read_archive(path: Path) -> dict[str, Tensor]:
    """Parameters and persistent buffers of the archived module, under the names of its `state_dict`.

    Raises:
        ForeignCode: the module tree names anything that is not data.
        Exception: any other, where the file is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        root = root_of(archive)
        weights = _declared_weights(archive, root)
        tree = _TreeUnpickler(archive, root).load()
    tensors: dict[str, Tensor] = {}
    _collect(tree, "", weights, tensors)
    return tensors


def _declared_weights(archive: zipfile.ZipFile, root: str) -> dict[str, set[str]]:
    """Class -> names of its parameters and buffers, as the archived program declares them."""
    weights = {}
    for name in archive.namelist():
        if name.startswith(f"{root}/code/") and name.endswith(".py"):
            module = name.removeprefix(f"{root}/code/").removesuffix(".py").replace("/", ".")
            for found in _CLASS.finditer(archive.read(name).decode()):
                listed = re.findall(r'"(.*?)"', found[2] + found[3])
                weights[f"{module}.{found[1]}"] = set(listed)
    return weights


def _collect(module: _Module, prefix: str, weights: dict[str, set[str]], tensors: dict[str, Tensor]) -> None:
    known = weights.get(module.source)
    for name, value in module.attributes.items():
        if isinstance(value, _Module):
            _collect(value, f"{prefix}{name}.", weights, tensors)
        # a tensor may also be a plain attribute, such as an attention mask: no part of the state
        elif isinstance(value, Tensor) and (known is None or name in known):
            tensors[prefix + name] = value
