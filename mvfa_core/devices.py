"""Where numbers are computed and in which precision: the only file that knows about kinds of processors."""

import os
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor

from mvfa_core.errors import MvfaError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(name: str) -> torch.device:
    """`auto` becomes CUDA, MPS or the CPU, whichever is there first.

    Raises:
        MvfaError: this machine has no such device.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, found in there.items() if found)
    if not there.get(name, True):
        raise MvfaError(f"device: this machine has no usable '{name}'; set auto or cpu")
    device = torch.device(name)
    if device.type == "cuda":
        _make_cuda_repeatable()
    return device


def _make_cuda_repeatable() -> None:
    """The same seed, the same numbers, as far as CUDA has such algorithms.

    What has none, the backward pass of bilinear upsampling among them, warns and goes on. TF32 would keep ten
    bits of the patch embedding's mantissa under the name of fp32.
    """
    # read by cuBLAS when it is first used
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False


def pick_autocast(dtype: str, device: torch.device) -> Callable:
    """Context of mixed precision: `nullcontext` for fp32.

    Raises:
        MvfaError: fp16 elsewhere than on CUDA, where it is slow or incomplete.
    """
    if dtype == "fp16" and device.type != "cuda":
        raise MvfaError(f"dtype: fp16 needs device cuda, this is {device.type}; set bf16 or fp32")
    return nullcontext if dtype == "fp32" else partial(torch.autocast, device.type, DTYPES[dtype])


def gradient_scaler(dtype: str, device: torch.device) -> torch.amp.GradScaler:
    """Keeps the small gradients of fp16 from becoming zero; hands through what other precisions compute.

    bf16 has the range of fp32 and needs no scaling.
    """
    return torch.amp.GradScaler(device.type, enabled=dtype == "fp16")


def images_at_once(device: torch.device, batch_size: int) -> int:
    """Images to a batch of the frozen prefix: one keeps the CPU busy, other processors want many."""
    return 1 if device.type == "cpu" else batch_size


def on_device(values: Tensor, device: torch.device) -> Tensor:
    """A batch where it is computed with; floating point in fp32, however it was stored.

    Data sets stay in main memory, so a graphics card needs room for one batch only. The way to CUDA leads
    through pinned memory, which lets it copy while it computes.
    """
    if device.type == "cuda" and values.device.type == "cpu":
        values = values.pin_memory()
    moved = values.to(device, non_blocking=device.type == "cuda")
    return moved.float() if moved.is_floating_point() else moved
