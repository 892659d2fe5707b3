"""Weights that depend only on a parameter's name: two implementations can be compared without a checkpoint."""

import zlib

import numpy as np
import torch
from torch import nn


def weight_by_name(name: str, shape: tuple[int, ...], salt: int) -> np.ndarray:
    """float32 of `shape`: N(0, 0.05) from the name's CRC-32 and `salt`; LayerNorm weights are shifted by 1."""
    value = np.random.default_rng([zlib.crc32(name.encode()), salt]).standard_normal(shape, dtype=np.float32)
    value = value * np.float32(0.05)
    if ".ln_" in f".{name}" and name.endswith("weight"):
        value = value + 1
    return np.asarray(value, dtype=np.float32)


@torch.no_grad()
def fill_by_name(module: nn.Module, salt: int, scale: float = 1.0) -> None:
    """Fill every parameter that has a dimension; scalars such as the logit scale keep their value."""
    for name, parameter in module.named_parameters():
        if parameter.ndim:
            parameter.copy_(torch.from_numpy(scale * weight_by_name(name, tuple(parameter.shape), salt)))
