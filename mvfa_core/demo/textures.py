"""Surfaces of the generic pictures: fields (96, 96) in about [-1, 1], drawn by name."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from mvfa_core.demo.fields import SIDE, X, Y, band_noise, soft_step

Rng = np.random.Generator
Field = NDArray[np.floating]


def draw_texture(rng: Rng) -> tuple[str, Field]:
    """The name of a texture and one field of it."""
    name = rng.choice(list(TEXTURES))
    field = TEXTURES[name](rng)
    if rng.random() < 0.4:
        field = 0.75 * field + 0.5 * band_noise(0.5, 3, rng)
    return str(name), field


def bent(amount: float, rng: Rng) -> tuple[Field, Field]:
    """Pixel coordinates turned by a random angle and bent by smooth noise of `amount` pixels."""
    angle = rng.uniform(0, np.pi)
    across = np.cos(angle) * X + np.sin(angle) * Y + amount * band_noise(0.5, 3, rng)
    return across, -np.sin(angle) * X + np.cos(angle) * Y


def striped(rng: Rng) -> Field:
    across, _ = bent(rng.uniform(0, 8), rng)
    return np.sin(2 * np.pi * across / np.exp(rng.uniform(np.log(5), np.log(24))) + rng.uniform(0, 6))


def woven(rng: Rng) -> Field:
    across, along = bent(rng.uniform(0, 3), rng)
    period = rng.uniform(5, 16)
    return np.sin(2 * np.pi * across / period) * np.sin(2 * np.pi * along / (period * rng.uniform(0.7, 1.5)))


def layered(rng: Rng) -> Field:
    """Strata of random thickness and tone; nearly level in half of the pictures."""
    if rng.random() < 0.5:
        depth = Y + rng.uniform(0, 8) * band_noise(0.5, 2.5, rng)
    else:
        depth, _ = bent(rng.uniform(0, 8), rng)
    edges = np.cumsum(rng.uniform(3, 18, 24)) - 96
    tones = rng.uniform(-1, 1, 25)
    steps = np.diff(tones)[:, None, None] * soft_step(depth[None] - edges[:, None, None], rng.uniform(0.7, 3))
    return (tones[0] + steps.sum(axis=0)).clip(-1, 1)


def ringed(rng: Rng) -> Field:
    centre = rng.uniform(-50, 50, 2)
    radius = np.hypot(X - centre[0], Y - centre[1]) + rng.uniform(0, 5) * band_noise(0.5, 3, rng)
    return np.sin(2 * np.pi * radius / rng.uniform(6, 22))


def scattered_points(spacing: float, jitter: float, rng: Rng) -> Field:
    """(P, 2) points (x, y) of a jittered grid a little larger than the picture."""
    ticks = np.arange(-SIDE / 2 - spacing, SIDE / 2 + 2 * spacing, spacing)
    grid = np.stack(np.meshgrid(ticks, ticks), axis=-1).reshape(-1, 2)
    return grid + jitter * spacing * rng.uniform(-0.5, 0.5, grid.shape)


def dotted(rng: Rng) -> Field:
    """Spots that belong to the surface, like seeds or cells; some are left out."""
    spacing = np.exp(rng.uniform(np.log(6), np.log(20)))
    points = scattered_points(spacing, rng.uniform(0, 1.3), rng)
    points = points[rng.random(len(points)) < rng.uniform(0.4, 1)]
    radius = spacing * rng.uniform(0.15, 0.32) * rng.uniform(0.7, 1.2, len(points))
    distance, nearest = cKDTree(points).query(np.stack([X, Y], axis=-1))
    return rng.choice([-1, 1]) * (2 * soft_step(radius[nearest] - distance, rng.uniform(0.7, 2)) - 0.5)


def cellular(rng: Rng) -> Field:
    """Voronoi cells: each with its tone, walls between them, or both."""
    points = scattered_points(rng.uniform(8, 24), rng.uniform(0.5, 1.2), rng)
    distance, nearest = cKDTree(points).query(np.stack([X, Y], axis=-1), k=2)
    walls = soft_step(distance[..., 1] - distance[..., 0] - rng.uniform(1, 2.5), 1)
    tones = rng.uniform(-1, 1, len(points))[nearest[..., 0]]
    share = rng.choice([0, 0.5, 1])
    return share * tones + (1 - share) * (2 * walls - 1)


def fibrous(rng: Rng) -> Field:
    """Noise drawn out along one direction."""
    return band_noise(rng.uniform(2, 6), rng.uniform(8, 20), rng, stretch=rng.uniform(3, 8))


def veined(rng: Rng) -> Field:
    """Thin lines where smooth noise crosses zero: a net of veins with junctions."""
    return 2 * soft_step(rng.uniform(0.08, 0.2) - np.abs(band_noise(1, rng.uniform(3, 7), rng)), 0.1) - 0.5


TEXTURES: dict[str, Callable[[Rng], Field]] = {
    "smooth": lambda rng: 0.3 * band_noise(0.5, 3, rng),
    "cloudy": lambda rng: band_noise(1, rng.uniform(4, 10), rng),
    "grainy": lambda rng: band_noise(rng.uniform(4, 12), rng.uniform(16, 40), rng),
    "folded": lambda rng: np.sin(rng.uniform(3, 8) * band_noise(1, rng.uniform(3, 6), rng)),
    "striped": striped,
    "woven": woven,
    "layered": layered,
    "ringed": ringed,
    "dotted": dotted,
    "cellular": cellular,
    "fibrous": fibrous,
    "veined": veined,
}
