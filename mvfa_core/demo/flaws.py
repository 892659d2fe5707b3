"""Generic flaws: what makes a picture "damaged". None is the image of a disease.

Every flaw repaints one region: it gives another picture and an opacity that is exactly zero outside the
region, so the mask is known to the pixel. Sizes are 3.5 to 18 pixels in radius; strengths go from hardly
visible to glaring.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.spatial import cKDTree

from mvfa_core.demo.fields import SIDE, X, Y, band_noise, line, soft_step, walk

Rng = np.random.Generator
Field = NDArray[np.floating]

CUT = 0.15  # opacities below are nothing: soft edges must end somewhere for a mask to have a border
SMALLEST, LARGEST = 3.5, 18.0


def damage(picture: Field, inside: Field, rng: Rng) -> tuple[Field, Field, str]:
    """The damaged picture (96, 96, 3), where it may differ (bool field), and the flaw's name.

    Args:
        picture: (96, 96, 3) in [0, 1].
        inside: where the subject lies; flaws sit there, not on the ground.
        rng: draws kind, place, size and strength.
    """
    name = str(rng.choice(list(FLAWS)))
    centre = draw_place(inside, rng)
    radius = float(np.exp(rng.uniform(np.log(SMALLEST), np.log(LARGEST))))
    other, opacity = FLAWS[name](picture, centre, radius, rng)
    if rng.random() < 0.8:
        opacity = opacity * inside
    opacity = ((opacity - CUT) / (1 - CUT)).clip(0, 1)
    damaged = picture + opacity[..., None] * (other - picture)
    return damaged.clip(0, 1), opacity > 0, name


def draw_place(inside: Field, rng: Rng) -> Field:
    """(x, y) of a pixel of the subject, not too near to the picture's edge."""
    allowed = inside & (np.maximum(np.abs(X), np.abs(Y)) < SIDE / 2 - 6)
    ys, xs = np.nonzero(allowed if allowed.any() else np.ones_like(inside))
    pick = rng.integers(len(xs))
    return np.array([X[0, xs[pick]], Y[ys[pick], 0]])


def draw_region(centre: Field, radius: float, rng: Rng) -> Field:
    """A roundish region with a wavy outline and an edge from hard to very soft, in [0, 1]."""
    angle, aspect = rng.uniform(0, np.pi), rng.uniform(0.5, 1)
    x, y = X - centre[0], Y - centre[1]
    x, y = np.cos(angle) * x + np.sin(angle) * y, (np.cos(angle) * y - np.sin(angle) * x) / aspect
    distance = np.hypot(x, y) * (1 + 0.5 * rng.uniform(0, 1) * band_noise(1, 6, rng))
    softness = rng.choice([0.15, 0.5, 1.2])
    return soft_step(radius - distance, max(1.0, softness * radius))


def draw_strength(rng: Rng) -> float:
    """Change of tone, subtle to glaring, darker or brighter."""
    return float(rng.choice([-1, 1]) * np.exp(rng.uniform(np.log(0.12), np.log(0.6))))


def shifted_tone(picture: Field, strength: float, rng: Rng) -> Field:
    """Darker or brighter; towards the free side where the picture is near black or white."""
    if not 0.15 < picture.mean() + strength < 0.85:
        strength = -strength
    tint = np.ones(3)
    if np.ptp(picture, axis=2).max() > 0.02:
        tint = tint + rng.uniform(-0.6, 0.6, 3)
    return picture + strength * tint


def blob(picture: Field, centre: Field, radius: float, rng: Rng) -> tuple[Field, Field]:
    return shifted_tone(picture, draw_strength(rng), rng), draw_region(centre, radius, rng)


def hole(picture: Field, centre: Field, radius: float, rng: Rng) -> tuple[Field, Field]:
    """The surface's structure ends: one flat tone, often with a rim of another tone."""
    region = draw_region(centre, radius, rng)
    flat = np.broadcast_to(
        shifted_tone(picture, draw_strength(rng), rng)[region > 0.3].mean(axis=0), picture.shape
    )
    if rng.random() < 0.3:
        rim = (region > CUT) & (region < 0.7)
        flat = np.where(rim[..., None], shifted_tone(flat, draw_strength(rng), rng), flat)
    return flat, region


def cluster(picture: Field, centre: Field, radius: float, rng: Rng) -> tuple[Field, Field]:
    """Several small spots close together, or dots crowded where there were few."""
    count = rng.integers(3, 14)
    points = centre + rng.normal(0, radius * 0.7, (count, 2))
    size = rng.uniform(1.3, 3.2)
    distance, _ = cKDTree(points).query(np.stack([X, Y], axis=-1))
    return shifted_tone(picture, 1.3 * draw_strength(rng), rng), soft_step(
        size - distance, rng.uniform(0.8, 2)
    )


def scratch(picture: Field, centre: Field, radius: float, rng: Rng) -> tuple[Field, Field]:
    points = walk(centre, rng.uniform(0, 2 * np.pi), 3, 0.5 + radius * 0.6, 0.15, rng)
    return shifted_tone(picture, 1.3 * draw_strength(rng), rng), soft_step(
        line(points, rng.uniform(1.2, 4)), 1
    )


def crack(picture: Field, centre: Field, radius: float, rng: Rng) -> tuple[Field, Field]:
    points = walk(centre, rng.uniform(0, 2 * np.pi), 8, 0.5 + radius * 0.3, 0.8, rng)
    return shifted_tone(picture, 1.3 * draw_strength(rng), rng), soft_step(
        line(points, rng.uniform(1.2, 3)), 1
    )


def other_texture(picture: Field, centre: Field, radius: float, rng: Rng) -> tuple[Field, Field]:
    """The local mean stays about the same, the structure is another."""
    high = rng.uniform(6, 30)
    structure = rng.uniform(0.1, 0.4) * band_noise(high / 3, high, rng)[..., None]
    plain = gaussian_filter(picture, (6, 6, 0)) + 0.3 * draw_strength(rng)
    return plain + structure, draw_region(centre, radius, rng)


def smear(picture: Field, centre: Field, radius: float, rng: Rng) -> tuple[Field, Field]:
    """Structure blurred away, its tone slightly off."""
    blurred = gaussian_filter(picture, (rng.uniform(2, 5),) * 2 + (0,))
    return blurred + 0.4 * draw_strength(rng), draw_region(centre, max(radius, 5), rng)


def dislocation(picture: Field, centre: Field, radius: float, rng: Rng) -> tuple[Field, Field]:
    """Structure pushed aside, bulged or twisted: layers bend, stripes swirl."""
    radius = max(radius, 6.0)
    x, y = X - centre[0], Y - centre[1]
    # The push itself fades to zero at the region's border, so nothing tears there.
    fade = (1 - (np.hypot(x, y) / (1.5 * radius)) ** 2).clip(0)
    kind = rng.choice(["push", "bulge", "twist"])
    if kind == "push":
        angle = rng.uniform(0, 2 * np.pi)
        dx, dy = (
            radius * rng.uniform(0.4, 0.9) * fade**2 * np.array([np.cos(angle), np.sin(angle)])[:, None, None]
        )
    elif kind == "bulge":
        grow = rng.choice([-0.9, 0.6]) * fade
        dx, dy = grow * x, grow * y
    else:
        turn = rng.choice([-1, 1]) * rng.uniform(1, 2.5) * fade**2
        dx, dy = (np.cos(turn) - 1) * x - np.sin(turn) * y, np.sin(turn) * x + (np.cos(turn) - 1) * y
    return resampled(picture, dx, dy), np.where(fade > 0.1, 1.0, 0.0)


def misplaced(picture: Field, centre: Field, radius: float, rng: Rng) -> tuple[Field, Field]:
    """A piece of the same picture where it does not belong, or its own piece slipped or turned over."""
    dx, dy = rng.uniform(12, 40, 2) * rng.choice([-1, 1], 2)
    return resampled(picture, np.full_like(X, dx), np.full_like(X, dy)), draw_region(centre, radius, rng)


def faded(picture: Field, centre: Field, radius: float, rng: Rng) -> tuple[Field, Field]:
    """Contrast lost or exaggerated around the local mean."""
    mean = gaussian_filter(picture, (5, 5, 0))
    gain = rng.choice([rng.uniform(0, 0.35), rng.uniform(2, 4)])
    return mean + gain * (picture - mean) + 0.3 * draw_strength(rng), draw_region(centre, max(radius, 5), rng)


def resampled(picture: Field, dx: Field, dy: Field) -> Field:
    """The picture read at pixels displaced by (dx, dy), mirrored at its edges."""
    places = np.stack([Y + dy, X + dx]) + (SIDE - 1) / 2
    return np.stack(
        [map_coordinates(picture[..., c], places, order=1, mode="reflect") for c in range(3)], axis=-1
    )


FLAWS: dict[str, Callable[[Field, Field, float, Rng], tuple[Field, Field]]] = {
    "blob": blob,
    "hole": hole,
    "cluster": cluster,
    "scratch": scratch,
    "crack": crack,
    "other texture": other_texture,
    "smear": smear,
    "dislocation": dislocation,
    "misplaced": misplaced,
    "faded": faded,
}
