"""Liver phantom: the right half of an abdominal CT slice, with cysts, metastases and vascular tumours.

Anatomy is laid out in a body frame (x to the patient's left, y to the back, body half-width 1) through which
the field of view cuts. Fields hold Hounsfield units (HU) until the reader's window turns them into grey.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, gaussian_filter

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

SOFT = 0.012  # edge of organs, body units
# HU that liver, veins, arteries and kidney gain in each contrast phase.
PHASES = {"plain": (0, -12, -8, -25), "arterial": (12, 5, 170, 110), "venous": (50, 52, 90, 120)}


class Frame(NamedTuple):
    """y, x: body coordinates (n, n); centre and width: of the field of view, in body units."""

    y: Field
    x: Field
    centre: tuple[float, float]
    width: float

    def seen(self, y: float, x: float) -> tuple[float, float]:
        """Body coordinates -> fractions of the image side."""
        return (y - self.centre[0]) / self.width, (x - self.centre[1]) / self.width


def draw(
    rng: Rng, size: int, abnormal: bool, contrast: float = 1.0
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """One slice: image (size, size) uint8, lesion mask (size, size) in {0, 255}.

    Args:
        rng: the image's own generator.
        size: side in pixels.
        abnormal: whether there is a lesion.
        contrast: scales the lesion's difference to the liver.
    """
    n = size * SUPERSAMPLING
    frame = _frame(rng, n)
    level = rng.uniform(0, 1)  # 0: below the dome of the diaphragm, 1: at the gall bladder
    phase = str(rng.choice(list(PHASES), p=[0.2, 0.25, 0.55]))
    body, liver = _anatomy(rng, frame, level, phase)
    tissue = rng.normal(56, 9) + PHASES[phase][0] * rng.uniform(0.7, 1.2)
    parenchyma, vessels = _parenchyma(rng, frame, level, phase, tissue)
    noise = rng.uniform(6, 16)
    mask = np.zeros((size, size), np.uint8)
    if abnormal:
        strength = contrast * (38 + 1.6 * noise) * rng.uniform(0.65, 1.6)
        for _ in range(50):
            coverage, change = _lesions(rng, liver, strength, tissue)
            mask = to_mask(downsample(coverage * (liver > 0.5)))
            if large_enough(mask):
                break
        parenchyma = parenchyma * (1 - coverage) + (tissue + change) * coverage
        parenchyma = parenchyma + 0.25 * coverage * vessels  # vessels fade inside a tumour
    image = body * (1 - liver) + parenchyma * liver
    return _scan(rng, image, noise, tissue, size), mask


def _frame(rng: Rng, n: int) -> Frame:
    """Field of view over the patient's right side, gently warped so that no two bodies are alike."""
    y, x = grid(n)
    centre, width = (rng.normal(-0.02, 0.04), rng.normal(-0.36, 0.05)), rng.uniform(1.3, 1.5)
    turn = np.deg2rad(rng.normal(0, 4))
    y, x = np.cos(turn) * y + np.sin(turn) * x, np.cos(turn) * x - np.sin(turn) * y
    y = y * width + centre[0] + 0.02 * smooth_noise(rng, n, 0.3)
    x = x * width + centre[1] + 0.02 * smooth_noise(rng, n, 0.3)
    return Frame(y, x, centre, width)


def _anatomy(rng: Rng, frame: Frame, level: float, phase: str) -> tuple[Field, Field]:
    """HU (n, n) of everything but the liver, and the liver's coverage (n, n)."""
    y, x = frame.y, frame.x
    n = len(y)
    _, vein, artery, kidney = PHASES[phase]
    depth = rng.uniform(0.68, 0.8)
    outline = ellipse_distance(y, x, (0.0, 0.0), (depth, 1.0))
    fat, muscle = rng.uniform(0.03, 0.13), rng.uniform(0.045, 0.07)
    image = -1000 + 890 * edge(outline, 0.006)
    image = _put(image, rng.normal(105, 5) * 0.5, edge(outline - fat, SOFT))
    image = _put(image, -100, edge(outline - fat - muscle, SOFT))
    cavity = outline - fat - muscle - 0.012

    liver = _liver_shape(rng, y, x, level, depth)
    liver = np.minimum(liver, cavity)
    image = _put_bowel(rng, image, frame, level, vein)
    image = _put_stomach(rng, image, frame, level, cavity)
    if level > 0.45:
        image, liver = _put_kidney(rng, image, liver, frame, 45 + kidney)
    if level > 0.6 and rng.random() < 0.75:
        image, liver = _put_gall_bladder(rng, image, liver, frame)
    if level < 0.3:  # the lung's recess behind and beside the liver
        recess = edge(0.09 * (1 - level * 2) * (0.6 + 0.4 * np.sin(3 * np.arctan2(y, x))) - cavity, 0.008)
        recess = recess * edge(cavity, SOFT) * edge(y - 0.05, 0.06)
        image, liver = _put(image, -820, recess), np.minimum(liver, 0.02 - 0.1 * recess)

    spine = (rng.normal(0.4, 0.015) * depth / 0.74, 0.0)
    image = _put(image, 58, edge(ellipse_distance(y, x, (spine[0] + 0.2, -0.15), (0.1, 0.13)), SOFT))
    image = _put(image, 58, edge(ellipse_distance(y, x, (spine[0] + 0.2, 0.15), (0.1, 0.13)), SOFT))
    vertebra = ellipse_distance(y, x, spine, (0.12, 0.15))
    bone = rng.uniform(150, 230) + 35 * smooth_noise(rng, n, 0.02) + 260 * np.exp(-((vertebra / 0.018) ** 2))
    image = _put(image, bone, edge(vertebra, SOFT))
    image = _put(
        image, 420, edge(0.03 - np.abs(ellipse_distance(y, x, (spine[0] + 0.19, 0), (0.085, 0.1))), SOFT)
    )
    image = _put(image, 30, edge(ellipse_distance(y, x, (spine[0] + 0.18, 0), (0.055, 0.065)), SOFT))
    liver = np.minimum(liver, -vertebra - 0.03)

    aorta = ellipse_distance(y, x, (spine[0] - 0.16, 0.09), (0.062, 0.062))
    cava = ellipse_distance(
        y, x, (spine[0] - 0.17, -0.12 - 0.03 * rng.random()), (0.055, rng.uniform(0.055, 0.08))
    )
    liver = np.minimum(liver, np.minimum(-cava, -aorta - 0.02))
    image = _put(image, 45 + artery, edge(aorta, SOFT))
    image = _put(image, 52 + vein, edge(cava, SOFT))
    image = _put_ribs(rng, image, outline - fat - muscle * 0.5, y, x)
    return image, edge(liver, SOFT)


def _put(image: Field, value: Field | float, coverage: Field) -> Field:
    """The image with `value` laid over it."""
    return image + coverage * (value - image)


def _liver_shape(rng: Rng, y: Field, x: Field, level: float, depth: float) -> Field:
    """Signed distance to the liver's border: a right lobe, a left lobe, the fissure between them."""
    right = ellipse_distance(
        y,
        x,
        (rng.normal(-0.02, 0.02), -0.5),
        (depth * rng.uniform(0.72, 0.82), rng.uniform(0.44, 0.5)),
        -0.12,
    )
    reach = rng.uniform(0.42, 0.6) * (1.15 - 0.7 * level)
    left = ellipse_distance(
        y, x, (-0.3 + 0.05 * level, -0.12), (rng.uniform(0.17, 0.24), reach), rng.uniform(-0.15, 0.2)
    )
    liver = np.logaddexp(right / 0.03, left / 0.03) * 0.03
    if level > 0.25 and rng.random() < 0.7:
        foot = (rng.normal(-0.5, 0.03), rng.normal(-0.12, 0.04))
        ridge = np.abs(x - foot[1] - 0.25 * (y - foot[0])) - rng.uniform(0.008, 0.022)
        liver = np.minimum(liver, np.maximum(ridge, y - foot[0] - rng.uniform(0.16, 0.32)))
    hilum = ellipse_distance(y, x, (0.08, -0.06), (rng.uniform(0.08, 0.16) * (0.4 + level), 0.16))
    return np.minimum(liver, -hilum)


def _put_stomach(rng: Rng, image: Field, frame: Frame, level: float, cavity: Field) -> Field:
    """The stomach on the far side: wall, content, an air bubble at the front."""
    y, x = frame.y, frame.x
    if level < 0.12:
        return image
    centre = rng.normal(-0.16, 0.05), rng.normal(0.42, 0.05)
    stomach = np.minimum(
        ellipse_distance(y, x, centre, (rng.uniform(0.2, 0.3), rng.uniform(0.24, 0.34))), cavity - 0.02
    )
    image = _put(image, 60, edge(stomach, SOFT))
    image = _put(image, rng.uniform(5, 60), edge(stomach - 0.025, SOFT))
    bubble = np.minimum(stomach - 0.025, centre[0] - rng.uniform(0.0, 0.15) - y)
    return _put(image, -900, edge(bubble, 0.006))


def _put_bowel(rng: Rng, image: Field, frame: Frame, level: float, vein: float) -> Field:
    """What lies in the fat beside the liver: pancreas and loops of bowel, some with gas."""
    y, x = frame.y, frame.x
    n = len(y)
    for _ in range(rng.integers(0, 3) + int(5 * level * rng.random())):
        centre, radius = (rng.uniform(-0.12, 0.2), rng.uniform(0.0, 0.42)), rng.uniform(0.035, 0.085)
        loop = blob(rng, y, x, centre, radius, softness=SOFT, roughness=0.2, stretch=rng.uniform(1, 2.2))
        image = _put(image, rng.uniform(25, 60) + 0.6 * vein, loop)
        if rng.random() < 0.25:
            image = _put(image, -800, blob(rng, y, x, centre, radius * 0.55, softness=SOFT))
    pancreas = blob(rng, y, x, (0.06, 0.12), 0.085, softness=0.016, roughness=0.3, stretch=2.2)
    texture = 1 + 0.25 * smooth_noise(rng, n, 0.02)
    return _put(image, (35 + vein) * texture, pancreas * edge(level - 0.3, 0.05))


def _put_kidney(rng: Rng, image: Field, liver: Field, frame: Frame, cortex: float) -> tuple[Field, Field]:
    """The right kidney behind the liver, with a bed of fat."""
    y, x = frame.y, frame.x
    centre = rng.normal(0.36, 0.025), rng.normal(-0.42, 0.03)
    kidney = ellipse_distance(
        y, x, centre, (rng.uniform(0.11, 0.15), rng.uniform(0.13, 0.18)), rng.uniform(0.2, 0.7)
    )
    bed = rng.uniform(0.015, 0.05)
    image = _put(image, -100, edge(kidney + bed, SOFT))
    image = _put(image, cortex, edge(kidney, SOFT))
    image = _put(image, cortex * 0.6 + 10, edge(kidney - 0.05, 0.02))
    sinus = ellipse_distance(y, x, (centre[0] - 0.02, centre[1] + 0.06), (0.045, 0.08), 0.3)
    return _put(image, -60, edge(sinus, 0.02)), np.minimum(liver, -kidney - bed + 0.005)


def _put_gall_bladder(rng: Rng, image: Field, liver: Field, frame: Frame) -> tuple[Field, Field]:
    """Gall bladder in its notch: dark as a cyst, but outside the liver."""
    centre = rng.normal(-0.12, 0.04), rng.normal(-0.1, 0.03)
    radii = rng.uniform(0.06, 0.1), rng.uniform(0.08, 0.14)
    bladder = ellipse_distance(frame.y, frame.x, centre, radii, rng.uniform(-1.2, 0))
    image = _put(image, 55, edge(bladder + 0.015, SOFT))
    return _put(image, rng.uniform(4, 18), edge(bladder, SOFT)), np.minimum(liver, -bladder - 0.01)


def _put_ribs(rng: Rng, image: Field, wall: Field, y: Field, x: Field) -> Field:
    """Ribs cut obliquely in the body wall; `wall` is the distance to the middle of the muscle."""
    angle = np.arctan2(y, -x)
    for middle in np.arange(-1.3, 1.4, rng.uniform(0.36, 0.5)) + rng.uniform(0, 0.3):
        away = np.hypot((angle - middle) / rng.uniform(0.07, 0.13), wall / rng.uniform(0.022, 0.03))
        bone = 180 + 380 * np.exp(-(((away - 0.8) / 0.3) ** 2))
        image = _put(image, bone, edge(1 - away, 0.12) * (x < 0.25))
    return image


def _parenchyma(rng: Rng, frame: Frame, level: float, phase: str, tissue: float) -> tuple[Field, Field]:
    """HU (n, n) of liver tissue with its vessels, and the HU that the vessels add."""
    n = len(frame.y)
    image = tissue + rng.uniform(0.5, 3.5) * smooth_noise(rng, n, 0.12, 3)
    segments = []
    thick = rng.uniform(0.008, 0.014)
    if level < 0.55:  # hepatic veins run together at the vena cava
        start = frame.seen(0.2, -0.13)
        for angle in (np.deg2rad(170), np.deg2rad(215), np.deg2rad(262)):
            segments += vessel_tree(rng, start, angle + rng.normal(0, 0.15), 0.2, thick, 3)
    if level > 0.3:  # the portal vein enters at the hilum
        start = frame.seen(0.05, -0.16)
        segments += vessel_tree(rng, start, np.deg2rad(180) + rng.normal(0, 0.25), 0.16, thick * 1.2, 4, 0.45)
        segments += vessel_tree(rng, start, np.deg2rad(265) + rng.normal(0, 0.2), 0.14, thick, 3, 0.45)
    for _ in range(rng.integers(3, 9)):  # branches that cross the slice
        centre = frame.seen(rng.uniform(-0.4, 0.4), rng.uniform(-0.85, -0.2))
        segments += vessel_tree(
            rng, centre, rng.uniform(0, 2 * np.pi), rng.uniform(0.02, 0.06), thick * 0.6, 1
        )
    enhanced = {
        "plain": rng.uniform(-14, -6),
        "arterial": rng.uniform(-6, 22),
        "venous": rng.uniform(18, 50),
    }[phase]
    vessels = enhanced * gaussian_filter(tubes(n, segments, 0.006), rng.uniform(0.3, 1.5))
    return image + vessels, vessels


def _lesions(rng: Rng, liver: Field, strength: float, tissue: float) -> tuple[Field, Field]:
    """Coverage (n, n) of one to several lesions of a kind, and the HU they differ from the tissue by."""
    n = len(liver)
    y, x = grid(n)
    kind = rng.choice(
        ["cyst", "metastasis", "target", "hypervascular", "haemangioma"], p=[0.15, 0.3, 0.2, 0.2, 0.15]
    )
    count = int(rng.choice([1, 2, 3, 5], p=[0.55, 0.2, 0.15, 0.1]))
    largest = 0.12 if count == 1 else 0.08
    inside = liver > 0.5
    coverage, change = np.zeros((n, n)), np.zeros((n, n))
    for _ in range(count):
        radius = rng.uniform(0.04, largest)
        centre = pick_point(rng, binary_erosion(inside, iterations=max(int(radius * n * 0.6), 1)))
        round_ = kind == "cyst"
        shape = blob(
            rng, y, x, centre, radius,
            softness=0.006 if round_ else rng.uniform(0.008, 0.02),
            roughness=0.06 if round_ else 0.22,
            stretch=rng.uniform(1, 1.4),
        )  # fmt: skip
        core = blob(rng, y, x, centre, radius * rng.uniform(0.45, 0.75), softness=0.014, roughness=0.25)
        inner = _inner(rng, kind, core, strength, tissue, n)
        coverage, change = np.maximum(coverage, shape), np.where(shape > coverage, inner, change)
    return coverage * inside, change


def _inner(rng: Rng, kind: str, core: Field, strength: float, tissue: float, n: int) -> Field:
    """HU a lesion differs from the tissue by, from its core to its rim."""
    if kind == "cyst":
        return np.full((n, n), -min(strength * 1.3, max(tissue, 15.0)))
    if kind == "metastasis":
        return -strength * (0.8 + 0.3 * core + 0.15 * smooth_noise(rng, n, 0.04))
    if kind == "target":
        return strength * (0.75 - 1.8 * core)
    if kind == "hypervascular":
        return strength * (0.95 + 0.25 * smooth_noise(rng, n, 0.03)) * (1 - rng.choice([0.0, 0.9]) * core)
    return -strength * 0.9 + 1.9 * strength * (1 - core) * (smooth_noise(rng, n, 0.05) > 0.2)


def _scan(rng: Rng, image: Field, noise: float, tissue: float, size: int) -> NDArray[np.uint8]:
    """Resolution, quantum noise of `noise` HU and the reader's window: (size, size) uint8."""
    image = downsample(gaussian_filter(image, rng.uniform(0.6, 1.3)))
    streaks = gaussian_filter(grain(rng, size), (0.5, 1.4))
    image = image + noise * (0.85 * grain(rng, size, 0.55) + 0.4 * streaks / streaks.std())
    width = rng.uniform(280, 430)
    middle = tissue - width * rng.uniform(-0.06, 0.2)
    return to_uint8(expose(image, middle - width / 2, middle + width / 2) * rng.uniform(0.9, 1.0), 80)
