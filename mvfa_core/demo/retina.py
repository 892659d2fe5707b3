"""Retina phantom: OCT B-scans of two scanners, with fluid, detachments of the pigment epithelium, and drusen.

The retina is a stack of layers over Bruch's membrane. Borders are curves (n,) of depth in fractions of the
image height, counted from the top; lesions lift borders or lie as cysts between them.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from mvfa_core.demo.phantom_tools import (
    SUPERSAMPLING,
    Field,
    Rng,
    blob,
    downsample,
    edge,
    grid,
    large_enough,
    smooth_curve,
    smooth_noise,
    to_mask,
    to_uint8,
)

# Layers from the vitreous down: share of the retina's thickness, reflectivity.
LAYERS = {
    "nerve fibres": (0.11, 0.70),
    "ganglion cells": (0.22, 0.46),
    "inner nuclear": (0.12, 0.24),
    "outer plexiform": (0.07, 0.44),
    "outer nuclear": (0.24, 0.18),
    "inner segments": (0.06, 0.34),
    "ellipsoid zone": (0.06, 0.86),
    "outer segments": (0.05, 0.50),
}
INNER = 4  # the layers that the foveal pit thins out
PIGMENT = 0.028  # thickness of the pigment epithelium


@dataclass(frozen=True)
class Scanner:
    """How one device's pictures look. Pairs are ranges.

    thickness: of the retina; pit: half-width of the fovea; looks: speckle averages; vitreous: its grey;
    vessels: mean number of shadows; depth: fade-out of the choroid; bend: curvature of the eye;
    padding: share of pictures with white corners left by registration; lesions: shares of kinds.
    """

    thickness: tuple[float, float]
    pit: tuple[float, float]
    looks: tuple[float, float]
    vitreous: tuple[float, float]
    vessels: float
    depth: tuple[float, float]
    bend: float
    padding: float
    lesions: dict[str, float]


SCANNERS = {
    "resc": Scanner(
        (0.26, 0.34), (0.06, 0.09), (3.0, 7.0), (0.05, 0.14), 6.0, (0.09, 0.2), 0.28, 0.0,
        {"subretinal fluid": 0.4, "detachment": 0.25, "cysts": 0.25, "mixed": 0.1},
    ),
    "oct17": Scanner(
        (0.20, 0.28), (0.11, 0.17), (7.0, 18.0), (0.0, 0.04), 2.5, (0.06, 0.16), 0.1, 0.35,
        {"drusen": 0.35, "neovascular": 0.3, "cysts": 0.35},
    ),
}  # fmt: skip


@dataclass
class Lesion:
    """What a lesion does to the layers.

    lift, fluid, swelling: curves (n,): height of the pigment epithelium over Bruch's membrane, height of the
    fluid on it, share by which inner layers swell. cysts: (x, share of the retina's depth, radius) each.
    filling: reflectivity under the lifted epithelium. membrane: brightness of new vessels. exudates: specks.
    """

    lift: Field
    fluid: Field
    swelling: Field
    cysts: list[tuple[float, float, float]]
    filling: float
    membrane: float = 0.0
    exudates: int = 0


def draw(
    rng: Rng, size: int, abnormal: bool, contrast: float = 1.0, scanner: str = "resc"
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """One B-scan: image (size, size) uint8, lesion mask (size, size) in {0, 255}.

    Args:
        rng: the image's own generator.
        size: side in pixels.
        abnormal: whether there is a lesion.
        contrast: scales height and darkness of the lesion.
        scanner: a key of `SCANNERS`.
    """
    n = size * SUPERSAMPLING
    look = SCANNERS[scanner]
    bruch, thickness = _geometry(rng, n, look)
    lesion = Lesion(np.zeros(n), np.zeros(n), np.zeros(n), [], 0.3)
    for _ in range(50):
        if abnormal:
            lesion = _lesion(rng, n, look, contrast * rng.uniform(0.7, 1.4))
        borders = _borders(bruch, thickness, lesion)
        coverage, cysts = _lesion_coverage(rng, n, borders, bruch, lesion)
        mask = to_mask(downsample(coverage))
        if not abnormal or large_enough(mask):
            break
    image = _reflectivity(rng, n, look, borders, bruch, lesion, cysts)
    return _scan(rng, image, borders, look, size), mask


def _geometry(rng: Rng, n: int, look: Scanner) -> tuple[Field, Field]:
    """Depth of Bruch's membrane (n,) and thickness of every layer (layers, n), of a healthy eye."""
    x = np.linspace(-0.5, 0.5, n)
    bruch = rng.uniform(0.55, 0.72) + rng.normal(0, 0.09) * x + rng.normal(look.bend, 0.12) * x**2
    bruch = bruch + 0.004 * smooth_curve(rng, n, 0.25)
    total = rng.uniform(*look.thickness) * (1 + 0.04 * smooth_curve(rng, n, 0.5))
    fovea, width = rng.uniform(-0.6, 0.6) * rng.choice([0.4, 1.0]), rng.uniform(*look.pit)
    pit = np.exp(-(np.abs((x - fovea) / width) ** rng.uniform(1.7, 2.4)))
    pit = pit * rng.uniform(0.75, 0.97)
    rim = np.exp(-(((np.abs(x - fovea) - 1.9 * width) / width) ** 2))
    shares = []
    for number, (share, _) in enumerate(LAYERS.values()):
        layer = share * total * (1 + 0.06 * smooth_curve(rng, n, 0.2))
        if number < INNER:
            layer = layer * (1 - pit) * (1 + rng.uniform(0.05, 0.3) * rim)
        elif number == INNER:
            layer = layer * (1 + 0.35 * pit)
        shares.append(layer)
    side = rng.choice([-1, 1])  # nerve fibres thicken towards the optic disc
    shares[0] = shares[0] * (1 + side * rng.uniform(0.2, 1.6) * x).clip(0.3, 2.2)
    return bruch, np.stack(shares)


def _dome(rng: Rng, n: int, centre: float, width: float, height: float) -> Field:
    """A smooth irregular hill (n,) of half-width `width`."""
    x = np.linspace(-0.5, 0.5, n)
    profile = (1 - np.abs((x - centre) / width) ** rng.uniform(1.8, 2.6)).clip(0, None)
    return height * profile * (1 + 0.12 * smooth_curve(rng, n, width)).clip(0.3, None)


def _lesion(rng: Rng, n: int, look: Scanner, strength: float) -> Lesion:
    """A lesion of a random kind; `strength` scales its height."""
    kind = str(rng.choice(list(look.lesions), p=list(look.lesions.values())))
    place = rng.uniform(-0.32, 0.32)
    lift, fluid, swelling = np.zeros(n), np.zeros(n), np.zeros(n)
    cysts: list[tuple[float, float, float]] = []
    filling, membrane, exudates = rng.uniform(0.06, 0.4), 0.0, 0
    if kind in ("subretinal fluid", "mixed", "neovascular"):
        fluid = _dome(rng, n, place, rng.uniform(0.1, 0.24), strength * rng.uniform(0.03, 0.085))
    if kind in ("detachment", "mixed", "neovascular"):
        beside = place + rng.uniform(-0.12, 0.12)
        lift = _dome(rng, n, beside, rng.uniform(0.09, 0.2), strength * rng.uniform(0.035, 0.09))
        if kind == "neovascular":
            fluid = fluid * rng.choice([0.0, 0.6])
            membrane, filling = rng.uniform(0.3, 0.7), rng.uniform(0.3, 0.6)
            lift = lift * (1 + 0.25 * smooth_curve(rng, n, 0.05)).clip(0.2, None)
    if kind == "drusen":
        for _ in range(rng.integers(3, 9)):
            hill = _dome(
                rng,
                n,
                place + rng.normal(0, 0.16),
                rng.uniform(0.03, 0.07),
                strength * rng.uniform(0.02, 0.05),
            )
            lift = np.maximum(lift, hill)
        filling = rng.uniform(0.35, 0.65)
    if kind in ("cysts", "mixed"):
        spread = rng.uniform(0.06, 0.16)
        swelling = _dome(rng, n, place, spread * 2.4, strength * rng.uniform(0.1, 0.4))
        for _ in range(rng.integers(2, 8)):
            cysts.append(
                (place + rng.normal(0, spread), rng.uniform(0.0, 1.0), strength * rng.uniform(0.02, 0.05))
            )
        exudates = int(rng.integers(0, 6))
    return Lesion(lift, fluid, swelling, cysts, filling, membrane, exudates)


def _borders(bruch: Field, thickness: Field, lesion: Lesion) -> Field:
    """Upper borders of all layers, of the fluid and of the pigment epithelium, (layers + 2, n)."""
    swollen = thickness.copy()
    swollen[2] *= 1 + 1.4 * lesion.swelling
    swollen[4] *= 1 + 1.2 * lesion.swelling
    pigment = bruch - PIGMENT - lesion.lift
    lower = pigment - lesion.fluid
    upper = bruch - PIGMENT - np.cumsum(swollen[::-1], axis=0)[::-1]
    # The stiff retina drapes over what lifts it: the further in, the smoother the hill.
    lifted = lesion.lift + lesion.fluid
    draped = gaussian_filter1d(lifted, 0.05 * len(bruch))
    share = np.linspace(1, 0.1, len(upper))[:, None]
    upper = upper - share * draped - (1 - share) * lifted
    return gaussian_filter1d(np.concatenate([upper, lower[None], pigment[None]]), len(bruch) / 96, axis=1)


def _lesion_coverage(rng: Rng, n: int, borders: Field, bruch: Field, lesion: Lesion) -> tuple[Field, Field]:
    """Coverage (n, n) of the whole lesion as the mask shows it, and of its cysts."""
    y, x = grid(n)
    depth = y + 0.5
    fluid = edge(np.minimum(depth - borders[-2], borders[-1] - depth), 0.003) * (lesion.fluid > 0.006)
    lifted = edge(np.minimum(depth - borders[-1] + 0.004, bruch - depth), 0.003) * (lesion.lift > 0.008)
    cysts = np.zeros((n, n))
    for place, share, radius in lesion.cysts:
        column = int(np.clip((place + 0.5) * n, 0, n - 1))
        top, bottom = borders[2, column], borders[5, column]
        # Cysts fill the inner and the outer nuclear layer; small ones above.
        middle = top + (bottom - top) * (0.15 + 0.7 * share)
        radius = min(radius, 0.42 * (bottom - top))
        shape = blob(
            rng,
            y,
            x,
            (middle - 0.5, place),
            radius,
            softness=0.004,
            roughness=0.15,
            stretch=rng.uniform(1, 1.6),
        )
        cysts = np.maximum(cysts, shape)
    cysts = cysts * edge(np.minimum(depth - borders[1], borders[6] - depth), 0.004)
    return np.maximum(np.maximum(fluid, lifted), cysts), cysts


def _reflectivity(
    rng: Rng, n: int, look: Scanner, borders: Field, bruch: Field, lesion: Lesion, cysts: Field
) -> Field:
    """Reflectivity (n, n) in about [0, 1] without noise."""
    depth = grid(n)[0] + 0.5
    values = [value * rng.uniform(0.85, 1.15) for _, value in LAYERS.values()]
    vitreous = rng.uniform(*look.vitreous)
    values = [vitreous, *values, 0.05, rng.uniform(0.85, 1.1)]
    image = np.full((n, n), vitreous)
    for number, border in enumerate(borders):
        fuzz = 0.004 if number != 3 else 0.006
        image = image + (values[number + 1] - values[number]) * edge(depth - border, fuzz)
    # Below the pigment epithelium: what lifts it, then the choroid.
    base = np.minimum(borders[-1] + PIGMENT, bruch)
    filling = lesion.filling * (1 + 0.15 * smooth_noise(rng, n, 0.04))
    image = image + (filling - values[-1]) * edge(depth - base, 0.004)
    below = depth - bruch
    choroid = rng.uniform(0.4, 0.75) * np.exp(-below.clip(0, None) / rng.uniform(*look.depth))
    lumen = edge(smooth_noise(rng, n, 0.05) - rng.uniform(0.3, 1.0), 0.25) * edge(0.16 - below, 0.02)
    choroid = choroid * (1 - rng.uniform(0.1, 0.6) * lumen) + 0.5 * vitreous
    image = image + (choroid - image) * edge(below, 0.004)
    image = image + lesion.membrane * edge(
        np.minimum(depth - borders[-1] + 0.4 * lesion.lift, borders[-1] - depth), 0.006
    ) * (lesion.lift > 0.01)
    image = image * (1 - cysts) + 0.07 * cysts
    image = image * (1 + 0.08 * smooth_noise(rng, n, 0.05, 2))
    return _shadows(rng, image, depth, borders, look, lesion)


def _shadows(rng: Rng, image: Field, depth: Field, borders: Field, look: Scanner, lesion: Lesion) -> Field:
    """Vessels and exudates with the shadows they cast; a detached hyaloid membrane now and then."""
    n = len(image)
    y, x = grid(n)
    for _ in range(rng.poisson(look.vessels)):
        place, width = rng.uniform(-0.5, 0.5), rng.uniform(0.004, 0.014)
        column = int((place + 0.5) * (n - 1))
        top = borders[0, column] + 0.02
        image = image + rng.uniform(0.1, 0.4) * np.exp(
            -((x - place) ** 2 + (depth - top) ** 2) / (2 * (1.2 * width) ** 2)
        )
        shade = np.exp(-(((x - place) / width) ** 2)) * edge(depth - top - width, 0.01)
        image = image * (1 - rng.uniform(0.2, 0.65) * shade)
    for _ in range(lesion.exudates):
        column = int(rng.integers(n // 8, n - n // 8))
        if lesion.swelling[column] == 0:
            continue
        top, radius = rng.uniform(borders[2, column], borders[5, column]), rng.uniform(0.006, 0.014)
        place = column / n - 0.5
        image = image + 0.9 * blob(rng, y, x, (top - 0.5, place), radius, softness=0.004, stretch=1.5)
        image = image * (1 - 0.4 * np.exp(-(((x - place) / radius) ** 2)) * edge(depth - top - radius, 0.01))
    if rng.random() < 0.3:
        veil = (
            gaussian_filter1d(borders[0], 0.15 * n)
            - rng.uniform(0.03, 0.08)
            - 0.03 * np.abs(smooth_curve(rng, n, 0.6))
        )
        veil = np.minimum(veil, borders[0] - 0.01)
        image = image + rng.uniform(0.08, 0.3) * np.exp(-(((depth - veil) / 0.006) ** 2))
    return image


def _scan(rng: Rng, image: Field, borders: Field, look: Scanner, size: int) -> NDArray[np.uint8]:
    """Beam profile, speckle, display curve, white corners left by registration: (size, size) uint8."""
    n = len(image)
    beam = 1 + 0.12 * smooth_curve(rng, n, 0.4)
    image = gaussian_filter(image * beam, (0.8, 1.2))
    looks = rng.uniform(*look.looks)
    speckle = rng.gamma(looks, 1 / looks, (size, size))
    speckle = gaussian_filter(speckle, (0.25, 0.45))
    seen = downsample(image).clip(0, None) * speckle
    seen = seen + rng.uniform(0, 0.03)
    seen = (seen * rng.uniform(0.85, 1.25)).clip(0, 1.1) ** rng.uniform(0.65, 0.95) * rng.uniform(0.8, 1.0)
    if rng.random() < look.padding:
        y, x = grid(size)
        turn = np.deg2rad(rng.normal(0, 10))
        upper = (borders[0].min() - 0.5) * rng.uniform(0.75, 0.95) - 0.03
        corner = np.cos(turn) * y + np.sin(turn) * x
        if rng.random() < 0.6:
            seen = np.where(corner < min(upper, -0.3) - rng.uniform(0, 0.12), 1.0, seen)
        if rng.random() < 0.6:
            seen = np.where(corner > rng.uniform(0.38, 0.5), 1.0, seen)
    return to_uint8(seen, 80)
