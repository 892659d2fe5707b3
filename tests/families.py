"""Small members of the model families that `open_clip` registers: real names and layouts, shrunk sizes."""

import json
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import timm
import torch
from open_clip import timm_model
from parity import weight_by_name
from timm.models.vitamin import VitCfg
from torch import Tensor, nn

from mvfa_core.backbones import Backbone, load_backbone
from mvfa_core.settings import BackboneSettings

TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
VIT = {"image_size": 32, "layers": 4, "width": 48, "head_width": 16, "patch_size": 8}
TIMM_VIT = {"embed_dim": 48, "depth": 4, "num_heads": 2, "img_size": 32, "patch_size": 8}
SIGLIP_VIT = TIMM_VIT | {"embed_dim": 24}
SIGLIP = {"image_size": 32, "timm_pool": "map", "timm_proj": "none"}
VITAMIN_STEM = VitCfg(embed_dim=(16, 32, 48), depths=(1, 1, 1), stem_width=16)
STAGES = {"depths": (1, 1, 2, 1), "dims": (16, 24, 32, 48)}


@dataclass(frozen=True)
class Family:
    """A configuration, what shrinks its timm model, and what is expected of it."""

    vision: dict
    text: dict = field(default_factory=dict)
    extra: dict = field(default_factory=dict)
    shrink: dict = field(default_factory=dict)
    image_size: int = 32
    activation: str = "gelu"
    tower: str = "OpenClipVit"
    prefix: int = 1
    hugging_face: bool = False


def _timm(name: str, **options) -> dict:
    return {"timm_model_name": name, "image_size": 32, "timm_pool": "token", "timm_proj": None, **options}


CUSTOM = {"custom_text": True}
FAMILIES = {
    "openai-vit": Family(VIT),
    "openai-vit-quickgelu": Family(VIT, activation="quickgelu"),
    "vit-other-size": Family(VIT | {"patch_size": 7}, image_size=47),
    "clipa": Family(VIT | {"no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True}),
    "vit-layer-scale": Family(VIT | {"ls_init_value": 0.1, "mlp_ratio": 2.0}),
    "coca": Family(
        VIT | {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
        {"embed_cls": True, "output_tokens": True, "context_length": 76},
        {
            "multimodal_cfg": {
                "context_length": 76,
                "vocab_size": 49408,
                "width": 32,
                "heads": 2,
                "layers": 1,
            },
            "custom_text": True,
        },
    ),
    "eva02-clip": Family(
        _timm("eva02_base_patch16_clip_224"), {}, CUSTOM, TIMM_VIT, tower="TimmVit", image_size=40
    ),
    "eva02-clip-swiglu": Family(_timm("eva02_large_patch14_clip_336"), {}, CUSTOM, TIMM_VIT, tower="TimmVit"),
    "siglip": Family(
        SIGLIP | {"timm_model_name": "vit_base_patch16_siglip_224"},
        {"no_causal_mask": True, "pool_type": "last", "proj_type": "linear", "proj_bias": True},
        CUSTOM | {"init_logit_bias": -10},
        SIGLIP_VIT,
        tower="TimmVit",
        prefix=0,
    ),
    "siglip2": Family(
        SIGLIP | {"timm_model_name": "vit_so400m_patch14_siglip_378"},
        {
            "no_causal_mask": True,
            "pool_type": "last",
            "proj_bias": True,
            "act_kwargs": {"approximate": "tanh"},
            "norm_kwargs": {"eps": 1e-6},
        },
        CUSTOM | {"init_logit_bias": -10},
        SIGLIP_VIT,
        tower="TimmVit",
        prefix=0,
        image_size=48,
    ),
    "biomedclip": Family(
        _timm("vit_base_patch16_224", timm_pool="", timm_proj="linear"),
        {"hf_proj_type": "mlp", "hf_pooler_type": "cls_last_hidden_state_pooler"},
        {},
        TIMM_VIT,
        tower="TimmVit",
        hugging_face=True,
    ),
    "perception-encoder": Family(
        _timm("vit_pe_core_base_patch16_224", timm_pool="map"), {}, CUSTOM, TIMM_VIT, tower="TimmVit"
    ),
    "vitamin": Family(
        _timm("vitamin_small_224", timm_pool="avg", timm_proj="linear"),
        {},
        CUSTOM,
        {"embed_dim": 48, "depth": 4, "num_heads": 2, "img_size": 64, "embed_cfg": VITAMIN_STEM},
        image_size=80,
        tower="TimmVit",
        prefix=0,
    ),
    "openai-resnet": Family(
        {"image_size": 64, "layers": [1, 1, 2, 1], "width": 8, "head_width": 32},
        image_size=64,
        tower="ResNetTower",
        prefix=0,
        activation="quickgelu",
    ),
    "convnext": Family(
        _timm("convnext_base", timm_pool="", timm_proj="linear"),
        {},
        {},
        STAGES,
        64,
        tower="TimmStages",
        prefix=0,
    ),
    "convnext-mlp": Family(
        _timm("convnext_large", timm_pool="", timm_proj="mlp"),
        {},
        {},
        STAGES,
        64,
        tower="TimmStages",
        prefix=0,
    ),
    "mobileclip": Family(
        _timm("fastvit_mci1", timm_pool="avg"),
        {"no_causal_mask": True},
        CUSTOM,
        {"layers": (1, 1, 1, 1), "embed_dims": (16, 32, 64, 64)},
        64,
        tower="TimmStages",
        prefix=0,
    ),
}

# models of open_clip that are refused, and why
EXEMPT = {
    "swin_base_patch4_window7_224": "attention in shifted windows; no weights in open_clip",
    "vit_relpos_medium_patch16_cls_224": "a position bias of one image size; no weights in open_clip",
}


def stub_tokenizer(sentences: Sequence[str]) -> Tensor:
    """(S, 12) numbers below 100 from the letters: 2 and 3 enclose the sentence as in a BERT, 0 pads."""
    rows = [[2, *(10 + ord(letter) % 90 for letter in sentence[:10]), 3] for sentence in sentences]
    return torch.tensor([row + [0] * (12 - len(row)) for row in rows])


@contextmanager
def shrunk(options: dict):
    """Within it, timm builds its models with these options."""
    create, timm_create = timm_model.timm.create_model, timm.create_model
    timm_model.timm.create_model = lambda name, **given: timm_create(name, **given, **options)
    try:
        yield
    finally:
        timm_model.timm.create_model = create


def write_config(folder: Path, name: str) -> Path:
    """The family's JSON file; a Hugging Face text tower comes from a folder, so nothing is fetched."""
    family = FAMILIES[name]
    text = TEXT | family.text
    if family.hugging_face:
        from transformers import BertConfig

        small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
        BertConfig(vocab_size=100, pad_token_id=0, **small).save_pretrained(folder / "bert")
        text = family.text | {
            "hf_model_name": str(folder / "bert"),
            "hf_tokenizer_name": str(folder / "bert"),
        }
    path = folder / f"{name}.json"
    path.write_text(
        json.dumps({"embed_dim": 24, "vision_cfg": family.vision, "text_cfg": text, **family.extra})
    )
    return path


def load_family(folder: Path, name: str, **changes) -> Backbone:
    """The small backbone, each weight moved a little: fresh zeros and ones would hide mistakes."""
    family = FAMILIES[name]
    seed, cache = changes.pop("seed", 0), changes.pop("cache", None)
    settings = {
        "model": str(write_config(folder, name)),
        "weights": None,
        "image_size": family.image_size,
        "levels": (0.25, 0.5, 0.75, 1.0),
        "activation": family.activation,
    }
    tokenizer = stub_tokenizer if family.hugging_face else None
    with shrunk(family.shrink):
        backbone = load_backbone(BackboneSettings(**settings | changes), "cpu", seed, tokenizer, cache)
    if not changes.get("weights"):
        stir(backbone)
    return backbone


@torch.no_grad()
def stir(module: nn.Module) -> None:
    for name, parameter in module.named_parameters():
        parameter.add_(torch.from_numpy(weight_by_name(name, tuple(parameter.shape), salt=1)))
