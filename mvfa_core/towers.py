"""What a backbone is, and the transformer towers of `open_clip`.

MVFA asks four things of a backbone: tokens before and behind any block, a pooled and a patch-wise image
feature in text space, a text encoder, and its widths. It does not ask which network gives them; a new
kind is a new subclass of `Backbone`.
"""

import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mvfa_core.frozen import FrozenBlock
from mvfa_core.mapped import release


class Backbone(nn.Module):
    """Base class: a frozen image tower cut into blocks, and its text tower.

    Attributes:
        depth: number of blocks, counted from 1 in levels.
        widths: token width behind each block.
        prefix: number of tokens in front of the patch tokens (class token, registers).
        text_width: D, the width of text features and of pooled image features.
        image_size: side of the square input in pixels.
        origin: where it came from, for provenance; filled by `load_backbone`.
    """

    depth: int
    widths: tuple[int, ...]
    prefix: int
    text_width: int
    image_size: int
    origin: dict

    def embed(self, images: Tensor) -> Tensor:
        """(N, 3, S, S) in [0, 1] -> tokens (N, L, width) before block 1."""
        raise NotImplementedError(f"{type(self).__name__} must say how an image becomes tokens")

    def run(self, tokens: Tensor, start: int, stop: int) -> Tensor:
        """Tokens behind block `start` (0: before block 1) -> tokens behind block `stop`."""
        raise NotImplementedError(f"{type(self).__name__} must run its blocks")

    def pool(self, tokens: Tensor) -> Tensor:
        """Tokens behind the last block -> image feature (N, D) in text space, not normalised."""
        raise NotImplementedError(f"{type(self).__name__} must pool its tokens")

    def project(self, tokens: Tensor) -> Tensor:
        """Tokens behind the last block -> patch features (N, P, D) in text space, not normalised."""
        raise NotImplementedError(f"{type(self).__name__} must project its patch tokens")

    def encode_text(self, sentences: Sequence[str]) -> Tensor:
        """Sentences -> text features (len(sentences), D), not normalised."""
        raise NotImplementedError(f"{type(self).__name__} must encode sentences")

    def freeze(self) -> "Backbone":
        """Evaluation mode and no gradient for any weight: autograd then skips them altogether."""
        return self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> "Backbone":
        """Stays in evaluation mode: a frozen network must not move its batch statistics or drop tokens."""
        return super().train(False)

    def rest(self) -> None:
        """Give memory back until it is asked for again: that of weights which lie in a file.

        For the time between two kinds of work, sentences and images, prefix and blocks with adapters: the next
        one needs only its own weights. Nothing else changes; what is needed after all comes back by itself.
        """
        for weight in self.parameters():
            release(weight)

    def rest_blocks(self, start: int, stop: int) -> None:
        """The same for the weights of blocks `start` + 1 to `stop` alone, as far as they can be told apart."""

    def fingerprint(self) -> str:
        """First 16 hex digits of the SHA-256 over names, shapes and values of all weights."""
        digest = hashlib.sha256()
        for name, value in sorted(self.state_dict().items()):
            digest.update(f"{name}{tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().float().contiguous().reshape(-1).numpy())
            release(value)
        return digest.hexdigest()[:16]

    @property
    def description(self) -> dict:
        """Everything a result must say about its backbone; no folder and no date is in it."""
        # a GB of weights takes a second, so they are read again only after somebody has touched them
        state = [(value.data_ptr(), value._version) for value in self.state_dict(keep_vars=True).values()]
        if getattr(self, "_hashed", None) is None or self._hashed[0] != state:
            self._hashed = state, self.fingerprint()
        return {
            **getattr(self, "origin", {}),
            "tower": type(self).__name__,
            "image_size": self.image_size,
            "fingerprint": self._hashed[1],
        }


class OpenClipBackbone(Backbone):
    """What all models of `open_clip` share: text tower, tokenizer, input normalisation.

    Attributes:
        stride: pixels between two patches behind the last block, the smallest image side there is.

    Args:
        model: `open_clip`'s `CLIP`, `CustomTextCLIP` or `CoCa`.
        tokenizer: sentences -> (S, context) token numbers.
        normalise: mean and deviation of the three channels, applied to images first; None: none.
    """

    stride: int

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Callable[[Sequence[str]], Tensor],
        normalise: tuple[Sequence[float], Sequence[float]] | None = None,
    ):
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        mean, deviation = (None, None) if normalise is None else map(torch.tensor, normalise)
        # not persistent: the fingerprint is that of the weights
        self.register_buffer("mean", None if mean is None else mean.view(3, 1, 1), persistent=False)
        self.register_buffer("deviation", None if mean is None else deviation.view(3, 1, 1), persistent=False)
        self.text_width = text_width(model)
        size = model.visual.image_size
        self.image_size = size if isinstance(size, int) else size[0]
        self.measure(model)
        self.freeze()

    def measure(self, model: nn.Module) -> None:
        """Set `depth`, `widths`, `prefix` and `stride` from the model."""
        raise NotImplementedError(f"{type(self).__name__} must say how deep and wide it is")

    @classmethod
    def serves(cls, visual: nn.Module) -> bool:
        """Whether this class can cut the image tower `visual`."""
        raise NotImplementedError(f"{cls.__name__} must say which towers it serves")

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def standardised(self, images: Tensor) -> Tensor:
        """The input as the model was trained on it, where the settings ask for that; any shape."""
        return images if self.mean is None else (images - self.mean) / self.deviation

    def encode_text(self, sentences: Sequence[str]) -> Tensor:
        return self.model.encode_text(self.tokenizer(list(sentences)).to(self.device), normalize=False)


def text_width(model: nn.Module) -> int:
    """D of an `open_clip` model: the width of its text features."""
    if hasattr(model, "text"):
        return model.text.output_dim
    projection = model.text_projection
    if projection is None:
        return model.ln_final.normalized_shape[0]
    return projection.out_features if isinstance(projection, nn.Linear) else projection.shape[1]


class OpenClipVit(OpenClipBackbone):
    """`open_clip`'s own `VisionTransformer`: OpenAI, LAION, DataComp, CLIPA and CoCa models."""

    def measure(self, model: nn.Module) -> None:
        self.depth = len(model.visual.transformer.resblocks)
        self.widths = (model.visual.conv1.out_channels,) * self.depth
        self.prefix = 1
        self.stride = model.visual.patch_size[0]
        self._fast = [
            FrozenBlock(block) if FrozenBlock.serves(block) else None
            for block in model.visual.transformer.resblocks
        ]

    @classmethod
    def serves(cls, visual: nn.Module) -> bool:
        # cascaded and parallel pooling return a token axis that open_clip's own projection does not expect
        return hasattr(visual, "transformer") and getattr(visual, "attn_pool_contrastive", None) is None

    def rest(self) -> None:
        super().rest()
        for block in filter(None, self._fast):
            block.rest()

    def rest_blocks(self, start: int, stop: int) -> None:
        for weight in self.model.visual.transformer.resblocks[start:stop].parameters():
            release(weight)

    def embed(self, images: Tensor) -> Tensor:
        return self.model.visual._embeds(self.standardised(images))

    def run(self, tokens: Tensor, start: int, stop: int) -> Tensor:
        blocks = self.model.visual.transformer.resblocks
        for block, fast in zip(blocks[start:stop], self._fast[start:stop], strict=True):
            tokens = fast(tokens) if fast is not None and fast.ready(tokens) else block(tokens)
        return tokens

    def pool(self, tokens: Tensor) -> Tensor:
        pooled, _ = self.model.visual._pool(tokens)
        return pooled if self.model.visual.proj is None else pooled @ self.model.visual.proj

    def project(self, tokens: Tensor) -> Tensor:
        """(N, L, width) -> (N, P, D): final norm and projection, patch by patch.

        CoCa pools by attention; there, each patch passes through the pooler's value and output projection
        first, as if it alone were attended to (Zhou et al., "Extract Free Dense Labels from CLIP", 2022).
        """
        tower = self.model.visual
        tokens = tokens[:, self.prefix :]
        if tower.attn_pool is not None:
            tokens = _values(tower.attn_pool.attn, tower.attn_pool.ln_k(tokens))
        tokens = tower.ln_post(tokens)
        return tokens if tower.proj is None else tokens @ tower.proj


def _values(attention: nn.MultiheadAttention, tokens: Tensor) -> Tensor:
    """(N, P, width) -> (N, P, D): what an attention would give back if it looked at each token alone."""
    weight = attention.v_proj_weight
    if weight is None:
        weight = attention.in_proj_weight.chunk(3)[2]
    bias = None if attention.in_proj_bias is None else attention.in_proj_bias.chunk(3)[2]
    return attention.out_proj(F.linear(tokens, weight, bias))


class TimmVit(OpenClipBackbone):
    """A transformer of `timm` in `open_clip`'s wrapper: EVA02-CLIP, SigLIP, SigLIP2, BiomedCLIP, PE, ViTamin.

    There may be no class token (prefix 0), several prefix tokens, rotary positions, and a pooling by
    attention, by mean or by class token.
    """

    def measure(self, model: nn.Module) -> None:
        trunk = model.visual.trunk
        self.depth = len(trunk.blocks)
        self.widths = (trunk.embed_dim,) * self.depth
        self.prefix = trunk.num_prefix_tokens
        self.stride = trunk.patch_embed.img_size[0] // trunk.patch_embed.grid_size[0]

    @classmethod
    def serves(cls, visual: nn.Module) -> bool:
        trunk = getattr(visual, "trunk", None)
        # a shared relative bias enters every block, and its window is fixed to one image size
        parts = ("patch_embed", "_pos_embed", "blocks", "norm", "num_prefix_tokens")
        return all(hasattr(trunk, part) for part in parts) and not hasattr(trunk, "shared_rel_pos")

    def embed(self, images: Tensor) -> Tensor:
        trunk = self.model.visual.trunk
        tokens = trunk._pos_embed(trunk.patch_embed(self.standardised(images)))
        # rotary towers hand out their angles as well
        tokens = tokens[0] if isinstance(tokens, tuple) else tokens
        return trunk.norm_pre(tokens)

    def rest_blocks(self, start: int, stop: int) -> None:
        for weight in self.model.visual.trunk.blocks[start:stop].parameters():
            release(weight)

    def run(self, tokens: Tensor, start: int, stop: int) -> Tensor:
        trunk = self.model.visual.trunk
        rope = getattr(trunk, "rope", None)
        if rope is None:
            for block in trunk.blocks[start:stop]:
                tokens = block(tokens)
            return tokens
        grid = trunk.patch_embed.grid_size
        angles = rope.get_embed() if hasattr(rope, "feat_shape") else rope.get_embed(shape=grid)
        for number in range(start, stop):
            own = angles[number] if getattr(trunk, "rope_mixed", False) else angles
            tokens = trunk.blocks[number](tokens, rope=own)
        return tokens

    def pool(self, tokens: Tensor) -> Tensor:
        visual = self.model.visual
        return visual.head(visual.trunk.forward_head(visual.trunk.norm(tokens)))

    def project(self, tokens: Tensor) -> Tensor:
        """(N, L, width) -> (N, P, D): final norm and head, patch by patch.

        Towers that pool by attention (SigLIP, PE) send each patch through the value and output projection
        and the feed-forward part of the pooling head, as if it alone were attended to.
        """
        visual, trunk = self.model.visual, self.model.visual.trunk
        tokens = trunk.norm(tokens)[:, self.prefix :]
        pooling = getattr(trunk, "attn_pool", None)
        if pooling is not None:
            tokens = pooling.proj(pooling.kv(tokens).chunk(2, dim=-1)[1])
            if pooling.mlp is not None:
                tokens = tokens + pooling.mlp(pooling.norm(tokens))
        return visual.head(trunk.head(trunk.fc_norm(tokens)))
