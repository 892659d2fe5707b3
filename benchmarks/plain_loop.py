"""MVFA as a plain loop in the style of the published code: what this project's speed is measured against.

One image at a time through the whole network, every parameter asking for a gradient, attention weights written
out, nothing kept from one epoch to the next, the test set judged after every epoch, float32. It is written for
these benchmarks from the paper's description; losses and scores are those of `mvfa_core`, which a test checks.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional as F

from mvfa_core.adapters import Adapters

Item = tuple[Tensor, Tensor, Tensor]  # image (1, 3, S, S), label (1,), mask (S, S)


class PlainMvfa(nn.Module):
    """`open_clip`'s image tower with adapters in it.

    Args:
        visual: a `VisionTransformer`; all its parameters will ask for gradients.
        adapters: levels, initial weights and mixing weights are taken from here.
        text: (D, 2) unit features of the normal and the abnormal class.
    """

    def __init__(self, visual: nn.Module, adapters: Adapters, text: Tensor):
        super().__init__()
        self.visual = visual.requires_grad_(True)
        self.seg_adapters, self.det_adapters = adapters.seg_adapters, adapters.det_adapters
        self.levels, self.residual, self.text = adapters.levels, adapters.residual, text

    def forward(self, image: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """(1, 3, S, S) -> pooled feature, and per level the tokens (L, D) of either branch."""
        visual = self.visual
        patches = visual.conv1(image).flatten(2).transpose(1, 2)
        tokens = torch.cat([visual.class_embedding.expand(1, 1, -1), patches], dim=1)
        tokens = visual.ln_pre(tokens + visual.positional_embedding)
        seg, det, attention = [], [], []
        for number, block in enumerate(visual.transformer.resblocks, start=1):
            normed = block.ln_1(tokens)
            found, weights = block.attn(normed, normed, normed, need_weights=True)
            tokens = tokens + found
            tokens = tokens + block.mlp(block.ln_2(tokens))
            if number in self.levels:
                attention.append(weights)
                place = self.levels.index(number)
                seg_middle, seg_out = self.seg_adapters[place](tokens)
                det_middle, det_out = self.det_adapters[place](tokens)
                keep, of_seg, of_det = self.residual
                tokens = keep * tokens + of_seg * seg_out + of_det * det_out
                seg.append(seg_middle[0])
                det.append(det_middle[0])
        return visual.ln_post(tokens[:, 0]) @ visual.proj, seg, det

    def losses(self, image: Tensor, label: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Detection, focal and Dice loss of one image."""
        _, seg, det = self(image)
        detection = focal = dice = torch.zeros(())
        for tokens in det:
            abnormal = self._logits(tokens).softmax(dim=-1)[:, 1].mean()
            detection = detection + F.binary_cross_entropy_with_logits(abnormal[None], label)
        target = torch.stack([1 - mask, mask])[None].clamp(1e-5, 1 - 1e-5)
        for tokens in seg:
            found = self._map(self._logits(tokens), mask.shape[-1]).softmax(dim=1)
            right = (target * found).sum(dim=1) + 1e-5
            focal = focal - ((1 - right) ** 2 * right.log()).mean()
            overlap = (found[0, 1] * mask).sum()
            dice = dice + 1 - (2 * overlap + 1) / (found[0, 1].sum() + mask.sum() + 1)
        return detection, focal, dice

    def _logits(self, tokens: Tensor) -> Tensor:
        """(L, D) -> (P, 2)."""
        tokens = tokens[1:]
        return 100 * (tokens / tokens.norm(dim=-1, keepdim=True)) @ self.text

    @staticmethod
    def _map(values: Tensor, size: int) -> Tensor:
        """(P, C) -> (1, C, size, size)."""
        side = int(len(values) ** 0.5)
        grid = values.T.reshape(1, -1, side, side)
        return F.interpolate(grid, size=size, mode="bilinear", align_corners=True)

    def memory(self, normal: Sequence[Tensor]) -> list[Tensor]:
        """Per level the unit tokens (R, D) of normal images, from the segmentation branch."""
        seen = []
        with torch.no_grad():
            for image in normal:
                seen.append(self(image)[1])
        return [F.normalize(torch.cat(level), dim=-1) for level in zip(*seen, strict=True)]

    @torch.no_grad()
    def judge(self, image: Tensor, memory: Sequence[Tensor]) -> tuple[np.ndarray, np.ndarray]:
        """Text map and memory map, each (S, S)."""
        _, seg, _ = self(image)
        size = image.shape[-1]
        text = sum(self._map(self._logits(tokens), size).softmax(dim=1)[0, 1] for tokens in seg)
        far = 0
        for tokens, bank in zip(seg, memory, strict=True):
            cosines = F.normalize(tokens[1:], dim=-1) @ bank.T
            far = far + self._map((1 - cosines).min(dim=1).values[:, None], size)[0, 0]
        return text.numpy(), far.numpy()


def train(model: PlainMvfa, items: Sequence[Item], learning_rate: float) -> Iterator[tuple[float, ...]]:
    """Epoch after epoch: the mean detection, focal and Dice loss. Images come in the order of `items`."""
    optimisers = [
        torch.optim.Adam(branch.parameters(), lr=learning_rate, betas=(0.5, 0.999))
        for branch in (model.seg_adapters, model.det_adapters)
    ]
    while True:
        sums = torch.zeros(3)
        for image, label, mask in items:
            losses = model.losses(image, label, mask)
            for optimiser in optimisers:
                optimiser.zero_grad()
            sum(losses).backward()
            for optimiser in optimisers:
                optimiser.step()
            sums += torch.stack(losses).detach()
        yield tuple((sums / len(items)).tolist())


def evaluate(
    model: PlainMvfa, images: Tensor, labels: np.ndarray, masks: np.ndarray, memory: Sequence[Tensor]
) -> tuple[float, float]:
    """Image and pixel AUROC of the fused maps, ranges taken over all images."""
    text, far = zip(*(model.judge(image[None], memory) for image in images), strict=True)
    fused = sum(0.5 * (maps - maps.min()) / (maps.max() - maps.min()) for maps in map(np.stack, (text, far)))
    scores = fused.reshape(len(fused), -1).max(axis=1)
    return roc_auc_score(labels, scores), roc_auc_score(masks.ravel(), fused.ravel())
