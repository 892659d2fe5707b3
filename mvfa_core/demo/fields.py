"""Brushes for the generic pictures: smooth noise, soft edges, lines. All fields are (96, 96)."""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Rng = np.random.Generator
Field = NDArray[np.floating]

SIDE = 96
Y, X = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2  # pixel coordinates with the origin in the middle
_FX = np.fft.rfftfreq(SIDE) * SIDE  # cycles a picture
_FY = np.fft.fftfreq(SIDE) * SIDE


def soft_step(field: Field, width: float) -> Field:
    """0 below, 1 above zero, with an edge about `width` wide."""
    return (field / width + 0.5).clip(0, 1)


def unit(field: Field) -> Field:
    """Stretched to [0, 1]; a flat field becomes 0."""
    span = np.ptp(field)
    return (field - field.min()) / span if span > 0 else np.zeros_like(field)


def band_noise(low: float, high: float, rng: Rng, stretch: float = 1.0) -> Field:
    """Noise between `low` and `high` cycles a picture, in about [-1, 1]; `stretch` draws it out along a line."""
    angle = rng.uniform(0, np.pi) if stretch != 1 else 0.0
    across = np.cos(angle) * _FX[None] + np.sin(angle) * _FY[:, None]
    along = np.cos(angle) * _FY[:, None] - np.sin(angle) * _FX[None]
    frequency = np.hypot(across, along * stretch)
    spectrum = np.exp(-((frequency / high) ** 2)) * (1 - np.exp(-((frequency / low) ** 2)))
    noise = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((SIDE, SIDE))) * spectrum, s=(SIDE, SIDE))
    return (noise / (2 * noise.std() + 1e-9)).clip(-1.5, 1.5)


def segment_distance(start: Field, stop: Field) -> Field:
    """Distance of every pixel to the line from `start` to `stop`, both (x, y)."""
    run = stop - start
    share = (((X - start[0]) * run[0] + (Y - start[1]) * run[1]) / max(run @ run, 1e-6)).clip(0, 1)
    return np.hypot(X - start[0] - share * run[0], Y - start[1] - share * run[1])


def walk(start: Field, heading: float, strides: int, stride: float, turn: float, rng: Rng) -> Field:
    """(strides + 1, 2) points of a line that turns by about `turn` radians at each stride."""
    headings = heading + np.cumsum(rng.normal(0, turn, strides))
    moves = stride * np.stack([np.cos(headings), np.sin(headings)], axis=1)
    return np.concatenate([start[None], start + np.cumsum(moves, axis=0)])


def line(points: Field, width: float) -> Field:
    """Positive within half a `width` of the polyline through `points` (P, 2)."""
    return width / 2 - np.min([segment_distance(a, b) for a, b in pairwise(points)], axis=0)


def branches(rng: Rng) -> Field:
    """A forked line that thins out, positive on the line."""
    start, heading = rng.uniform(-40, 40, 2), rng.uniform(0, 2 * np.pi)
    stem = walk(start, heading, 6, rng.uniform(5, 12), 0.3, rng)
    width = rng.uniform(1.2, 3.5)
    field = line(stem, width)
    for _ in range(rng.integers(1, 4)):
        twig = walk(
            stem[rng.integers(1, 5)], heading + rng.choice([-1, 1]) * rng.uniform(0.4, 1.1), 4, 7, 0.3, rng
        )
        field = np.maximum(field, line(twig, 0.6 * width))
    return field
