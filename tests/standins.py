"""Files in the formats that weights are published in, written from small models."""

import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from open_clip.model import CLIP
from torch import Tensor, nn

SMALL = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


class OpenAiClip(nn.Module):
    """Names and dtypes as in OpenAI's archives: half weights, three integers among the buffers."""

    def __init__(self, model: CLIP):
        super().__init__()
        for name, child in model.named_children():
            self.add_module(name, child)
        for name in ("positional_embedding", "text_projection", "logit_scale"):
            self.register_parameter(name, getattr(model, name))
        self.register_buffer("attn_mask", model.attn_mask)
        for name, number in (("input_resolution", 32), ("context_length", 77), ("vocab_size", 49408)):
            self.register_buffer(name, torch.tensor(number))

    def forward(self, images: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        text = self.transformer(
            self.token_embedding(tokens) + self.positional_embedding, attn_mask=self.attn_mask
        )
        text = self.ln_final(text)[:, -1] @ self.text_projection
        return self.visual(
            images
        ), text * self.logit_scale.exp() + self.context_length + self.input_resolution


def write_openai_archive(path: Path, model: CLIP) -> None:
    """`torch.jit.save` of a traced model in half precision."""
    example = torch.zeros(1, 3, 32, 32), torch.zeros(1, 77, dtype=torch.long)
    traced = torch.jit.trace(OpenAiClip(model).eval(), example, check_trace=False)
    for parameter in traced.parameters():
        parameter.data = parameter.data.half()
    traced.save(str(path))


def write_openai_state_dict(path: Path, model: CLIP) -> None:
    numbers = {"input_resolution": 32, "context_length": 77, "vocab_size": 49408}
    half = {name: value.half() for name, value in model.state_dict().items()}
    torch.save(half | {name: torch.tensor(number) for name, number in numbers.items()}, path)


def write_training_checkpoint(path: Path, model: CLIP) -> None:
    """What `open_clip`'s training script saves from a distributed run."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    sum(parameter.sum() for parameter in model.parameters()).backward()
    optimiser.step()
    optimiser.zero_grad()
    state = {f"module.{name}": value for name, value in model.state_dict().items()}
    torch.save({"epoch": 3, "name": "run", "state_dict": state, "optimizer": optimiser.state_dict()}, path)


def write_legacy_state_dict(path: Path, model: CLIP) -> None:
    """The format before PyTorch 1.6."""
    torch.save(model.state_dict(), path, _use_new_zipfile_serialization=False)


def write_safetensors(path: Path, model: CLIP) -> None:
    from safetensors.torch import save_file

    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, path)


def write_half_safetensors(path: Path, model: CLIP) -> None:
    from safetensors.torch import save_file

    save_file({name: value.half().contiguous() for name, value in model.state_dict().items()}, path)


WRITERS: dict[str, Callable[[Path, CLIP], None]] = {
    "openai.pt": write_openai_archive,
    "openai-state.pt": write_openai_state_dict,
    "epoch_3.pt": write_training_checkpoint,
    "legacy.bin": write_legacy_state_dict,
    "model.safetensors": write_safetensors,
    "half.safetensors": write_half_safetensors,
}


class Trap:
    """Makes a directory when it is unpickled."""

    def __init__(self, target: Path):
        self.target = str(target)

    def __reduce__(self):
        return os.mkdir, (self.target,)


def trapped_zip(target: Path) -> bytes:
    buffer = io.BytesIO()
    torch.save({"visual.proj": torch.zeros(2), "trap": Trap(target)}, buffer)
    return buffer.getvalue()


def trapped_legacy(target: Path) -> bytes:
    buffer = io.BytesIO()
    torch.save({"trap": Trap(target)}, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def trapped_pickle(target: Path) -> bytes:
    return pickle.dumps({"visual.proj": Trap(target)})


def trapped_archive(target: Path) -> bytes:
    """A TorchScript archive whose module tree has been exchanged."""
    buffer, result = io.BytesIO(), io.BytesIO()
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), buffer)
    with zipfile.ZipFile(buffer) as whole, zipfile.ZipFile(result, "w") as changed:
        for name in whole.namelist():
            content = whole.read(name)
            changed.writestr(name, pickle.dumps(Trap(target)) if name.endswith("/data.pkl") else content)
    return result.getvalue()


TRAPS = {
    "zip": trapped_zip,
    "legacy": trapped_legacy,
    "pickle": trapped_pickle,
    "archive": trapped_archive,
}
