"""The demo backbone as a network: how it begins, how it is read at any window size, and its training scaffold."""

import torch
from open_clip.model import CLIP
from torch import Tensor, nn
from torch.nn import functional as F


def build_model(config: dict, seed: int) -> CLIP:
    """A fresh model of `open_clip`, initialised from `seed` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CLIP(**config)
    start_from_cosines(model.visual)
    return model


@torch.no_grad()
def start_from_cosines(tower: nn.Module) -> None:
    """Let the patch embedding begin as a cosine transform of light and colour, centred on mid-grey.

    Random filters on images in [0, 1] answer to the mean tone and to little else; to see texture
    takes them long.
    """
    width, _, patch, _ = tower.conv1.weight.shape
    ticks = torch.arange(patch)
    waves = torch.cos(torch.pi / patch * (ticks + 0.5) * ticks[:, None]) * (2 / patch) ** 0.5
    orders = sorted(
        ((u, v) for u in range(patch) for v in range(patch)), key=lambda o: (o[0] ** 2 + o[1] ** 2, o)
    )
    light, red_green, blue_yellow = torch.tensor([[1, 1, 1], [1.5, -1.5, 0], [-0.75, -0.75, 1.5]]) / 3
    filters = []
    for colour, count in (
        (light, width // 2),
        (red_green, width // 4),
        (blue_yellow, width - width // 2 - width // 4),
    ):
        for u, v in (orders * (1 + count // len(orders)))[:count]:
            gain = 0.5 * (1 + (u * u + v * v) ** 0.5) ** 0.7 if u + v else 0.18
            filters.append(gain * colour[:, None, None] * torch.outer(waves[u], waves[v]))
    tower.conv1.weight.copy_(torch.stack(filters))
    tower.positional_embedding.mul_(0.3)
    tower.positional_embedding[1:] -= 0.5 * tower.conv1.weight.sum((1, 2, 3))


class Probes(nn.ModuleList):
    """A linear flaw detector behind every second block: scaffolding, not part of the backbone."""

    def __init__(self, width: int, layers: int):
        super().__init__(
            nn.Sequential(nn.LayerNorm(width, elementwise_affine=False), nn.Linear(width, 1))
            for _ in range(1, layers, 2)
        )

    def forward(self, blocks: list[Tensor]) -> Tensor:
        """Tokens (N, 1 + P, width) behind each block -> flaw logits (probes, N, P)."""
        return torch.stack(
            [probe(tokens[:, 1:]).squeeze(-1) for probe, tokens in zip(self, blocks[1::2], strict=True)]
        )


def build_probes(model: CLIP, seed: int) -> Probes:
    """Fresh probes for `model`, initialised from `seed` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Probes(model.visual.conv1.out_channels, len(model.visual.transformer.resblocks))


def encode_images(
    model: CLIP, images: Tensor, corner: tuple[int, int] = (0, 0)
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """(N, 3, S, S) -> unit pooled features (N, D), unit patch features (N, P, D), tokens behind each block.

    A small image is a window of the full one: it takes the positions of the patch grid from `corner` (row,
    column) on, so the table of positions never has to be resized.
    """
    tower = model.visual
    tokens = tower.conv1(images)
    rows, columns = tokens.shape[-2:]
    table = tower.positional_embedding
    grid = table[1:].unflatten(0, tower.grid_size)
    window = grid[corner[0] : corner[0] + rows, corner[1] : corner[1] + columns].flatten(0, 1)
    first = (tower.class_embedding + table[0]).expand(len(images), 1, -1)
    tokens = torch.cat([first, tokens.flatten(2).transpose(1, 2) + window], dim=1)
    blocks = [tower.ln_pre(tokens)]
    for block in tower.transformer.resblocks:
        blocks.append(block(blocks[-1]))
    features = F.normalize(tower.ln_post(blocks[-1]) @ tower.proj, dim=-1)
    return features[:, 0], features[:, 1:], blocks[1:]
