"""Chest phantom: frontal X-ray films with nodules, consolidations, diffuse shadowing and effusions.

Fields hold brightness as a film is read: 0 black (air), 1 white (bone, metal); a part's share of it is its
density. `u` is the distance from the midline towards the side being drawn; image left is the patient's right.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from mvfa_core.demo.phantom_tools import (
    SUPERSAMPLING,
    Field,
    Rng,
    blob,
    downsample,
    edge,
    ellipse_distance,
    expose,
    grain,
    grid,
    large_enough,
    pick_point,
    smooth_noise,
    to_mask,
    to_uint8,
    tubes,
    vessel_tree,
)


@dataclass(frozen=True)
class Build:
    """A patient's proportions, in fractions of the image: what every part of the drawing agrees on."""

    half_width: float
    apex: float
    base: float
    midline: float
    mediastinum: float
    rib_step: float
    rib_slope: float


def draw(
    rng: Rng, size: int, abnormal: bool, contrast: float = 1.0
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """One film: image (size, size) uint8, lesion mask (size, size) in {0, 255}.

    Args:
        rng: the image's own generator.
        size: side in pixels.
        abnormal: whether there is a lesion.
        contrast: scales the lesion's density.
    """
    n = size * SUPERSAMPLING
    build = Build(
        half_width=rng.uniform(0.36, 0.43),
        apex=rng.uniform(-0.41, -0.35),
        base=rng.uniform(0.2, 0.32),
        midline=rng.normal(0, 0.012),
        mediastinum=rng.uniform(0.05, 0.075),
        rib_step=rng.uniform(0.076, 0.092),
        rib_slope=rng.uniform(0.12, 0.4),
    )
    y, x = grid(n)
    turn = np.deg2rad(rng.normal(0, 2.5))
    y, x = np.cos(turn) * y + np.sin(turn) * x, np.cos(turn) * x - np.sin(turn) * y - build.midline
    y, x = y + 0.006 * smooth_noise(rng, n, 0.3), x + 0.006 * smooth_noise(rng, n, 0.3)
    lungs = _lungs(rng, y, x, build)
    heart = _heart(rng, y, x, build)
    air = lungs * (1 - heart)
    image = _soft_tissue(rng, y, x, build)
    bones = _bones(rng, y, x, build)
    image = image - rng.uniform(0.36, 0.46) * lungs * (1 - 0.9 * heart)
    image = image + _vessels(rng, n, build) * air
    if rng.random() < 0.6:  # haze and coarse markings of smokers and of poor inspiration are no finding
        image = image + air * (rng.uniform(0, 0.05) + rng.uniform(0, 0.02) * smooth_noise(rng, n, 0.05, 3))
    mask = np.zeros((size, size), np.uint8)
    if abnormal:
        strength = contrast * rng.uniform(0.11, 0.3)
        for _ in range(50):
            opacity = _lesion(rng, y, x, air, build)
            mask = to_mask(downsample(opacity * lungs), 0.35)
            if large_enough(mask):
                break
        image = image + strength * opacity * lungs
    image = image + bones + _devices(rng, n)
    return _film(rng, image, size), mask


def _lungs(rng: Rng, y: Field, x: Field, build: Build) -> Field:
    """Coverage (n, n) of both lungs' air, without the heart."""
    lungs = np.zeros_like(y)
    for side in (-1, 1):
        u = side * x
        width = build.half_width * rng.uniform(0.96, 1.04)
        middle, power = width * 0.53, rng.uniform(2.1, 2.6)
        height = build.base - build.apex + rng.normal(0, 0.01)
        rise = ((build.base - y) / height).clip(0, None)
        across = np.abs(u - middle) / (width - middle)
        chest = (1 - across**power - rise**power) * 0.12
        # The right dome stands higher than the left; both fall towards the costophrenic angle.
        dome = build.base + (0.02 if side == 1 else -0.01) + rng.normal(0, 0.008)
        dome = dome - 0.06 + rng.uniform(1.6, 3.2) * (u - 0.42 * width) ** 2
        inner = u - build.mediastinum - 0.03 * ((y - build.base) / height).clip(-1, 1) ** 2 * (y < 0)
        distance = np.minimum(np.minimum(chest, dome - y), inner)
        lungs = np.maximum(lungs, edge(distance, 0.007))
    return lungs


def _heart(rng: Rng, y: Field, x: Field, build: Build) -> Field:
    """Coverage (n, n) of heart, aortic knob and the roots of the great vessels."""
    size = rng.uniform(0.85, 1.15)
    low = build.base - 0.1
    heart = ellipse_distance(y, x, (low, 0.055), (0.115 * size, 0.165 * size), rng.uniform(0.35, 0.75))
    right = ellipse_distance(y, x, (low, -0.03), (0.11 * size, 0.075 * size))
    waist = ellipse_distance(y, x, (low - 0.15, 0.035), (0.12, 0.06))
    knob_radius = rng.uniform(0.032, 0.05)
    knob = ellipse_distance(y, x, (build.apex + 0.22, 0.052), (knob_radius, knob_radius))
    distance = np.maximum(np.maximum(heart, right), np.maximum(waist, knob))
    return edge(distance, 0.006)


def _soft_tissue(rng: Rng, y: Field, x: Field, build: Build) -> Field:
    """Density (n, n) of the trunk before the lungs are hollowed out: neck, spine, abdomen, breasts."""
    n = len(y)
    neck = rng.uniform(0.11, 0.15)
    shoulder = build.apex - 0.05 + rng.uniform(0.8, 1.6) * (np.abs(x) - 0.12).clip(0, None) ** 2
    shoulder = shoulder - 0.3 * np.exp(-((x / neck) ** 4))
    flank = build.half_width + rng.uniform(0.06, 0.2) - np.abs(x) + 0.5 * (0.05 - y).clip(0, None)
    trunk = edge(np.minimum(y - shoulder, flank), 0.014)
    image = trunk * (0.58 + 0.06 * smooth_noise(rng, n, 0.5))
    chest = edge(y - build.apex - 0.05, 0.035)
    image = image + 0.16 * np.exp(-((x / (build.mediastinum * 1.15)) ** 4)) * trunk * chest
    discs = 0.5 + 0.5 * np.cos(2 * np.pi * y / rng.uniform(0.06, 0.075) + rng.uniform(0, 6))
    image = image + (0.05 + 0.04 * discs) * np.exp(-((x / 0.042) ** 6)) * trunk
    trachea = tubes(n, [(-0.5, 0.0, build.apex + 0.24, 0.008, 0.017)], 0.006)
    image = image - rng.uniform(0.1, 0.18) * trachea
    below = edge(y - build.base + 0.02, 0.06) * trunk
    image = image + below * rng.uniform(0.04, 0.14)
    if rng.random() < 0.65:  # gas in the stomach
        place = build.base + rng.uniform(0.03, 0.08), rng.uniform(0.12, 0.22)
        gas = blob(rng, y, x, place, rng.uniform(0.03, 0.06), softness=0.008, stretch=1.5)
        image = image - rng.uniform(0.15, 0.3) * gas
    if rng.random() < 0.45:  # breasts veil the lower fields on both sides
        drop, veil = rng.uniform(0.12, 0.22), rng.uniform(0.04, 0.11)
        for side in (-1, 1):
            breast = ellipse_distance(y, x, (drop - 0.04, side * rng.uniform(0.22, 0.26)), (0.15, 0.17))
            image = image + veil * edge(breast, 0.012)
    return image


def _bones(rng: Rng, y: Field, x: Field, build: Build) -> Field:
    """Density (n, n) that ribs, clavicles and shoulder blades add."""
    bones = np.zeros_like(y)
    clear = rng.uniform(0.055, 0.11)
    for side in (-1, 1):
        u = side * x
        rise = ((build.base - y) / (build.base - build.apex + 0.02)).clip(0, None)
        middle = build.half_width * 0.5
        reach = np.abs(u - middle) / (build.half_width * 0.5 + 0.014)
        cage = edge((1 - reach**2.4 - rise**2.4) * 0.12, 0.006) * edge(u - 0.03, 0.01)
        for number in range(9):
            start = build.apex + 0.03 + number * build.rib_step
            back = (
                start - 0.05 * np.sin(np.pi * (u / build.half_width).clip(0, 1)) + build.rib_slope * u**2 * 2
            )
            bones += clear * cage * _rib(y - back, 0.0145, 0.8)
            front = (
                start + 0.16 - 0.65 * (u - 0.12) + rng.normal(0, 0.004) + 1.2 * (u - 0.25).clip(0, None) ** 2
            )
            shown = edge(u - 0.13, 0.02) * (number < 6)
            bones += 0.55 * clear * cage * shown * _rib(y - front, 0.016, 0.5)
        inner, outer = (
            (build.apex + rng.uniform(0.08, 0.13), 0.035),
            (build.apex + rng.uniform(-0.02, 0.05), 0.4),
        )
        bow = rng.uniform(0.01, 0.03)
        bend = inner[0] + (outer[0] - inner[0]) * (u - inner[1]) / (outer[1] - inner[1])
        bend = bend + bow * np.sin(2 * np.pi * (u - inner[1]) / (outer[1] - inner[1]))
        clavicle = _rib(y - bend, 0.018, 0.6) * edge(u - inner[1], 0.006) * edge(outer[1] + 0.06 - u, 0.01)
        bones += rng.uniform(1.4, 2.0) * clear * clavicle
        blade = ellipse_distance(
            y, u, (build.apex + 0.16, build.half_width + rng.uniform(0.0, 0.06)), (0.17, 0.06), 0.2
        )
        bones += rng.uniform(0.2, 0.9) * clear * (edge(blade, 0.006) + 0.8 * np.exp(-((blade / 0.008) ** 2)))
    return bones


def _rib(distance: Field, half_width: float, cortex: float) -> Field:
    """Cross profile of a flat bone: a plateau with denser margins."""
    away = np.abs(distance) / half_width
    return (1 - cortex * 0.6) * np.exp(-(away**6)) + cortex * np.exp(-(((away - 0.8) / 0.28) ** 2))


def _vessels(rng: Rng, n: int, build: Build) -> Field:
    """Density (n, n) of the vessels that fan out from both hila."""
    segments = []
    for side in (-1, 1):
        for _ in range(rng.integers(7, 11)):
            start = (
                rng.uniform(-0.1, 0.08) + 0.02 * (side == 1) * -1,
                side * (build.mediastinum + rng.uniform(0, 0.03)),
            )
            angle = rng.uniform(-1.1, 1.25)
            angle = angle if side == 1 else np.pi - angle
            segments += vessel_tree(
                rng, start, angle, rng.uniform(0.08, 0.13), rng.uniform(0.006, 0.011), 3, 0.3
            )
    y, x = grid(n)
    fade = np.exp(-((np.abs(x) / 0.27) ** 2))
    hilum = sum(np.exp(-(((x - side * 0.1) / 0.035) ** 2 + ((y + 0.01) / 0.08) ** 2)) for side in (-1, 1))
    tree = gaussian_filter(tubes(n, segments, 0.003), 0.6)
    return rng.uniform(0.12, 0.24) * tree * fade + rng.uniform(0.02, 0.12) * hilum


def _lesion(rng: Rng, y: Field, x: Field, air: Field, build: Build) -> Field:
    """Opacity (n, n) in [0, 1] of one finding."""
    kind = rng.choice(["nodules", "consolidation", "diffuse", "effusion"], p=[0.25, 0.4, 0.15, 0.2])
    n = len(y)
    aerated = air > 0.8
    if kind == "nodules":
        opacity = np.zeros((n, n))
        for _ in range(int(rng.choice([1, 2, 3], p=[0.6, 0.25, 0.15]))):
            centre = pick_point(rng, aerated)
            node = blob(rng, *grid(n), centre, rng.uniform(0.035, 0.07), softness=0.009, roughness=0.12)
            opacity = np.maximum(opacity, node)
        return opacity
    if kind == "consolidation":
        centre = pick_point(rng, aerated)
        shape = blob(
            rng,
            *grid(n),
            centre,
            rng.uniform(0.08, 0.16),
            softness=0.022,
            roughness=0.35,
            stretch=rng.uniform(1, 1.6),
        )
        if rng.random() < 0.4:  # a fissure cuts the shadow off
            line = y - centre[0] - rng.uniform(-0.03, 0.05) - rng.normal(0, 0.25) * (x - centre[1])
            shape = shape * edge(line * rng.choice([-1, 1]), 0.006)
        return shape * (0.82 + 0.18 * smooth_noise(rng, n, 0.04, 2)).clip(0.2, 1.2)
    if kind == "diffuse":
        patches = edge(smooth_noise(rng, n, 0.1, 3) - rng.uniform(-0.3, 0.5), 0.4)
        height = np.exp(-(((y - rng.uniform(-0.1, 0.2)) / 0.22) ** 2))
        return 0.9 * patches * height
    side = rng.choice([-1, 1])
    u = side * x
    level = build.base - rng.uniform(0.02, 0.2)
    meniscus = level - 0.07 * ((u - 0.12) / 0.25).clip(-0.3, 1.2) ** 2
    return edge(y - meniscus, rng.uniform(0.008, 0.025)) * edge(u, 0.01)


def _devices(rng: Rng, n: int) -> Field:
    """Density (n, n) of side markers, leads, lines and now and then a pacemaker, none of them a finding."""
    image = np.zeros((n, n))
    if rng.random() < 0.6:
        y, x, s = (
            rng.uniform(-0.46, -0.4),
            rng.choice([-1, 1]) * rng.uniform(0.38, 0.44),
            rng.uniform(0.012, 0.02),
        )
        image += 0.5 * tubes(n, [(y - s, x, y + s, x, 0.005), (y + s, x, y + s, x + s, 0.005)], 0.002)
    if rng.random() < 0.3:
        for _ in range(rng.integers(1, 4)):
            start = rng.uniform(-0.35, 0.2), rng.uniform(-0.35, 0.35)
            wire = vessel_tree(rng, start, rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 0.5), 0.003, 0, 0.5)
            patch = (*start, *start, 0.012)
            image += rng.uniform(0.15, 0.35) * tubes(n, [*wire, patch], 0.002)
    if rng.random() < 0.08:
        y, x = rng.uniform(-0.26, -0.18), rng.choice([-1, 1]) * rng.uniform(0.22, 0.28)
        lead = vessel_tree(rng, (y, x), np.pi * (x > 0) + 0.2, 0.25, 0.004, 0, 0.3)
        image += 0.5 * tubes(n, [(y, x, y, x + 0.02, 0.032), *lead], 0.003)
    return image


def _film(rng: Rng, image: Field, size: int) -> NDArray[np.uint8]:
    """Scatter, sharpness, exposure, noise and collimation: (size, size) uint8."""
    n = len(image)
    y, x = grid(n)
    scatter = gaussian_filter(image, n / 12)
    image = image + rng.uniform(-0.15, 0.3) * (image - scatter)
    image = image + rng.normal(0, 0.06) * x + rng.normal(0, 0.08) * y
    image = downsample(gaussian_filter(image, rng.uniform(0.4, 1.3)))
    image = image + rng.uniform(0.006, 0.02) * grain(rng, size, 0.4)
    low, high = np.percentile(image, [rng.uniform(0.5, 5), rng.uniform(97.5, 99.8)])
    seen = expose(image, low - rng.uniform(0, 0.06), high + rng.uniform(0, 0.1), rng.uniform(0.75, 1.4))
    y, x = grid(size)
    if rng.random() < 0.3:
        left, right, top = rng.uniform(0.44, 0.52, 3)
        seen = seen * ((x > -left) & (x < right) & (y > -top))
    return to_uint8(rng.uniform(0, 0.06) + seen * rng.uniform(0.84, 0.94), 128)
