"""Frozen vision-language models behind one door.

MVFA asks four things of a backbone: tokens before and behind any block, a pooled and a patch-wise image
feature in text space, a text encoder, and its widths. It does not ask which network gives them; a new
kind is a new subclass of `Backbone`.
"""

import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


class Backbone(nn.Module):
    """Base class: a frozen image tower cut into blocks, and its text tower.

    Attributes:
        depth: number of blocks, counted from 1 in levels.
        widths: token width behind each block.
        prefix: number of tokens in front of the patch tokens (class token, registers).
        text_width: D, the width of text features and of pooled image features.
        image_size: side of the square input in pixels.
    """

    depth: int
    widths: tuple[int, ...]
    prefix: int
    text_width: int
    image_size: int

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

    def fingerprint(self) -> str:
        """First 16 hex digits of the SHA-256 over names, shapes and values of all weights."""
        digest = hashlib.sha256()
        for name, value in sorted(self.state_dict().items()):
            digest.update(f"{name}{tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().float().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]


class OpenClipVit(Backbone):
    """A model of `open_clip` whose image tower is its own `VisionTransformer`.

    Args:
        model: `open_clip.model.CLIP` or a relative with the same `visual` and `encode_text`.
        tokenizer: sentences -> (S, context) token numbers.
    """

    def __init__(self, model: nn.Module, tokenizer: Callable[[Sequence[str]], Tensor]):
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        tower = model.visual
        self.depth = len(tower.transformer.resblocks)
        self.widths = (tower.conv1.out_channels,) * self.depth
        self.prefix = 1
        self.text_width = tower.output_dim
        self.image_size = tower.image_size[0]
        self.freeze()

    @property
    def device(self) -> torch.device:
        return self.model.visual.conv1.weight.device

    def embed(self, images: Tensor) -> Tensor:
        return self.model.visual._embeds(images)

    def run(self, tokens: Tensor, start: int, stop: int) -> Tensor:
        for block in self.model.visual.transformer.resblocks[start:stop]:
            tokens = block(tokens)
        return tokens

    def pool(self, tokens: Tensor) -> Tensor:
        pooled, _ = self.model.visual._pool(tokens)
        return pooled if self.model.visual.proj is None else pooled @ self.model.visual.proj

    def project(self, tokens: Tensor) -> Tensor:
        tower = self.model.visual
        tokens = tower.ln_post(tokens[:, self.prefix :])
        return tokens if tower.proj is None else tokens @ tower.proj

    def encode_text(self, sentences: Sequence[str]) -> Tensor:
        return self.model.encode_text(self.tokenizer(list(sentences)).to(self.device))
