"""Brain phantom: skull-stripped axial MRI slices, with tumours, infarcts and small focal lesions.

The anatomy is cut out of the MNI152 template (inside the nilearn package) along a random, tilted and warped
plane; contrasts are painted anew from its tissue maps, so that one atlas gives T1, T2 and FLAIR.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, gaussian_filter, map_coordinates

from mvfa_core.demo.phantom_tools import (
    SUPERSAMPLING,
    Field,
    Rng,
    blob,
    downsample,
    edge,
    expose,
    grain,
    grid,
    large_enough,
    pick_point,
    smooth_noise,
    to_mask,
    to_uint8,
)

# Signal of white matter, grey matter and liquor.
SEQUENCES = {
    "T1": (0.80, 0.55, 0.18),
    "T1 Gd": (0.74, 0.55, 0.16),
    "T2": (0.36, 0.52, 0.92),
    "FLAIR": (0.44, 0.60, 0.12),
}
SHARES = {"T1": 0.2, "T1 Gd": 0.2, "T2": 0.25, "FLAIR": 0.35}
# Signal that oedema, tumour core, enhancing rim and a small lesion add in each sequence.
SIGNALS = {
    "T1": (-0.15, -0.24, -0.05, -0.26),
    "T1 Gd": (-0.13, -0.24, 0.34, 0.30),
    "T2": (0.28, 0.34, 0.12, 0.34),
    "FLAIR": (0.28, 0.22, 0.30, 0.34),
}
LEVEL_MM = (-14, 58)  # heights of the slices above the commissures


@lru_cache(maxsize=1)
def _atlas() -> tuple[NDArray[np.uint8], NDArray[np.floating]]:
    """White matter, grey matter, brain and T1 signal, (4, X, Y, Z) in 0..255; the voxel of (0, 0, 0) mm."""
    from nilearn.datasets import load_mni152_gm_template, load_mni152_template, load_mni152_wm_template

    t1 = load_mni152_template(resolution=1)
    parts = [load_mni152_wm_template(resolution=1), load_mni152_gm_template(resolution=1), t1]
    white, grey, signal = (np.asarray(part.get_fdata(), dtype=np.float32) for part in parts)
    maps = np.stack([white, grey, signal > 0.02, signal / signal.max()])
    return np.round(maps.clip(0, 1) * 255).astype(np.uint8), -t1.affine[:3, 3]


def draw(
    rng: Rng, size: int, abnormal: bool, contrast: float = 1.0
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """One slice: image (size, size) uint8, lesion mask (size, size) in {0, 255}.

    Args:
        rng: the image's own generator.
        size: side in pixels.
        abnormal: whether there is a lesion.
        contrast: scales the lesion's signal.
    """
    n = size * SUPERSAMPLING
    sequence = str(rng.choice(list(SHARES), p=list(SHARES.values())))
    y, x, z = _plane(rng, n)
    white, grey, brain, signal = _cut(y, x, z)
    mask = np.zeros((size, size), np.uint8)
    effect = np.zeros((n, n))
    if abnormal:
        for _ in range(50):
            lesion = _lesion(rng, sequence, white, grey, brain)
            mask = to_mask(downsample(lesion.coverage))
            if large_enough(mask):
                break
        if lesion.push is not None:
            # Mass effect: the anatomy is cut again along a plane pressed apart by the tumour.
            white, grey, brain, signal = _cut(y - lesion.push[0] * 200, x - lesion.push[1] * 200, z)
        mask = to_mask(downsample(lesion.coverage * brain))
        effect = lesion.effect * contrast * rng.uniform(0.7, 1.7)
        flat = lesion.flatten[..., None] * np.array([0.15, 0.1])
        white, grey = white * (1 - flat[..., 0]), grey * (1 - flat[..., 1])
    image = _paint(rng, sequence, white, grey, brain, signal) + effect
    return _scan(rng, image, brain, size), mask


def _plane(rng: Rng, n: int) -> tuple[Field, Field, Field]:
    """Template coordinates in mm, (n, n) each, of a tilted, warped axial plane; anterior is up."""
    y, x = grid(n)
    width = rng.uniform(178, 204)
    turn = np.deg2rad(rng.normal(0, 4))
    y, x = np.cos(turn) * y + np.sin(turn) * x + rng.normal(0, 0.012), np.cos(turn) * x - np.sin(turn) * y
    y, x = (
        -y * width * rng.uniform(0.96, 1.04) - 18,
        (x + rng.normal(0, 0.012)) * width * rng.uniform(1.0, 1.12),
    )
    # Wide or narrow ventricles: coordinates near the middle shrink or stretch.
    near = np.exp(-(x**2 + (y + 12) ** 2) / (2 * 26.0**2))
    x = x * (1 - rng.uniform(-0.18, 0.34) * near)
    level = rng.uniform(*LEVEL_MM)
    z = level + np.tan(np.deg2rad(rng.normal(0, 4))) * x + np.tan(np.deg2rad(rng.normal(0, 7))) * y
    z = z + rng.uniform(1.0, 3.5) * smooth_noise(rng, n, 0.12)
    y = y + rng.uniform(1.0, 2.6) * smooth_noise(rng, n, 0.14)
    x = x + rng.uniform(1.0, 2.6) * smooth_noise(rng, n, 0.14)
    return y, (x if rng.random() < 0.5 else -x), z


def _cut(y: Field, x: Field, z: Field) -> NDArray[np.floating]:
    """White matter, grey matter, brain and T1 signal, (4, n, n) in [0, 1], at template coordinates in mm."""
    maps, origin = _atlas()
    places = np.stack([x + origin[0], y + origin[1], z + origin[2]])
    cuts = [map_coordinates(part, places, output=np.float64, order=1, mode="constant") for part in maps]
    return np.stack(cuts) / 255


class _Lesion(NamedTuple):
    """Fields (n, n). coverage: what the mask shows; effect: signal added; flatten: where sulci are effaced.

    push: displacement (2, n, n) of the tissue around it, y in the template's sense; None: there is none.
    """

    coverage: Field
    effect: Field
    flatten: Field
    push: Field | None = None


def _lesion(rng: Rng, sequence: str, white: Field, grey: Field, brain: Field) -> _Lesion:
    """A tumour, an infarct or a group of small lesions, placed in the tissue."""
    kind = rng.choice(["tumour", "infarct", "foci"], p=[0.5, 0.2, 0.3])
    if kind == "tumour":
        return _tumour(rng, sequence, white, brain)
    if kind == "infarct":
        return _infarct(rng, sequence, grey, brain)
    return _foci(rng, sequence, white, brain)


def _tumour(rng: Rng, sequence: str, white: Field, brain: Field) -> _Lesion:
    """Core, perhaps with a rim and a necrotic centre; oedema that follows the white matter; mass effect."""
    n = len(white)
    y, x = grid(n)
    inside = binary_erosion(brain > 0.5, iterations=max(n // 14, 1))
    centre = pick_point(rng, inside & (gaussian_filter(white, n / 48) > 0.35))
    radius = rng.uniform(0.045, 0.12)
    oedema_signal, core_signal, rim_signal, _ = SIGNALS[sequence]
    core = blob(rng, y, x, centre, radius, softness=0.008, roughness=0.25, stretch=rng.uniform(1, 1.5))
    hollow = blob(rng, y, x, centre, radius * rng.uniform(0.5, 0.75), softness=0.008, roughness=0.3)
    reach = radius * rng.uniform(1.25, 1.9)
    oedema = blob(rng, y, x, centre, reach, softness=0.02, roughness=0.35, stretch=rng.uniform(1, 1.6))
    oedema = oedema * (0.25 + 0.75 * gaussian_filter(white, n / 96)) * brain
    effect = oedema_signal * oedema * (1 - core)
    if rng.random() < 0.6:
        effect = (
            effect + rim_signal * (core * (1 - hollow)) + core_signal * rng.choice([0.4, 1.0]) * hollow * core
        )
    else:
        effect = effect + core_signal * core * (1 + 0.25 * smooth_noise(rng, n, 0.03, 2))
    coverage = np.maximum(core, edge(oedema - 0.4, 0.05))
    away = np.stack([y - centre[0], x - centre[1]])
    distance = np.hypot(*away) + 1e-6
    strength = rng.uniform(0.1, 0.45) * radius
    push = away / distance * strength * (distance / radius) * np.exp(1 - distance / radius)
    push[0] *= -1  # template y points up
    return _Lesion(coverage, effect * brain, core, push)


def _infarct(rng: Rng, sequence: str, grey: Field, brain: Field) -> _Lesion:
    """A swollen territory at the cortex, patchy at its border."""
    n = len(grey)
    y, x = grid(n)
    rim = (brain > 0.5) & ~binary_erosion(brain > 0.5, iterations=n // 7)
    rim &= binary_erosion(brain > 0.5, iterations=max(n // 24, 1))
    centre = pick_point(rng, rim)
    radius = rng.uniform(0.06, 0.12)
    y, x = y + 0.012 * smooth_noise(rng, n, 0.05), x + 0.012 * smooth_noise(rng, n, 0.05)
    shape = blob(rng, y, x, centre, radius, softness=0.012, roughness=0.3, stretch=rng.uniform(1, 1.9)) * (
        brain > 0.5
    )
    signal = SIGNALS[sequence][0] if sequence != "T1 Gd" else rng.choice([-0.22, 0.2])
    return _Lesion(shape, 0.95 * signal * shape * (0.7 + 0.5 * grey) * brain, shape)


def _foci(rng: Rng, sequence: str, white: Field, brain: Field) -> _Lesion:
    """One to four small lesions, all alike, in the white matter or at its border."""
    n = len(white)
    y, x = grid(n)
    coverage = np.zeros((n, n))
    allowed = binary_erosion(brain > 0.5, iterations=max(n // 20, 1)) & (gaussian_filter(white, n / 96) > 0.4)
    for _ in range(rng.integers(1, 5)):
        centre = pick_point(rng, allowed)
        radius = rng.uniform(0.024, 0.05)
        shape = blob(rng, y, x, centre, radius, softness=0.007, roughness=0.2, stretch=rng.uniform(1, 1.8))
        coverage = np.maximum(coverage, shape)
    return _Lesion(coverage, SIGNALS[sequence][3] * coverage * brain, np.zeros((n, n)))


def _paint(rng: Rng, sequence: str, white: Field, grey: Field, brain: Field, signal: Field) -> Field:
    """Signal (n, n) of the tissues in a sequence, with the harmless variants every brain may have."""
    n = len(white)
    liquor = (brain - white - grey).clip(0, 1)
    levels = [level + rng.normal(0, 0.025) for level in SEQUENCES[sequence]]
    image = levels[0] * white + levels[1] * grey + levels[2] * liquor
    # Some of the template's own T1 signal keeps what tissue maps lose, the basal ganglia above all.
    detail = signal - gaussian_filter(signal, n / 16)
    image = image + detail * {"T1": 0.35, "T1 Gd": 0.3, "T2": -0.2, "FLAIR": 0.05}[sequence]
    image = image + 0.012 * smooth_noise(rng, n, 0.02, 2)
    y, x = grid(n)
    near = gaussian_filter(liquor * np.exp(-(x**2 + y**2) / 0.02), n / 64)
    if sequence in ("FLAIR", "T2"):  # caps: thin bright seams of the ventricles, common and harmless
        image = image + rng.uniform(0, 0.5) * near * white
    if sequence == "T1 Gd":  # vessels and choroid plexus take up contrast agent
        for _ in range(rng.integers(3, 9)):
            place = pick_point(rng, (brain > 0.9) & (liquor > 0.35))
            image = image + rng.uniform(0.15, 0.4) * blob(
                rng, y, x, place, rng.uniform(0.006, 0.012), softness=0.004
            )
    return image * brain


def _scan(rng: Rng, image: Field, brain: Field, size: int) -> NDArray[np.uint8]:
    """Coil sensitivity, resolution, Rician noise and the reader's window: (size, size) uint8."""
    n = len(image)
    y, x = grid(n)
    bias = 1 + rng.uniform(0, 0.12) * smooth_noise(rng, n, 0.7)
    bias += rng.normal(0, 0.15) * x + rng.normal(0, 0.15) * y
    image = downsample(gaussian_filter(image * bias, rng.uniform(0.3, 1.0)))
    brain = downsample(brain)
    noise = rng.uniform(0.008, 0.04)
    image = np.hypot(image + noise * grain(rng, size, 0.45), noise * grain(rng, size, 0.45))
    inside = image[brain > 0.9]
    low = rng.uniform(-0.02, 0.06)
    high = np.percentile(inside, rng.uniform(84, 93)) * rng.uniform(1.12, 1.6) if inside.size else 1.0
    seen = expose(image, low, high, rng.uniform(0.8, 1.25)) * rng.uniform(0.82, 1.0)
    return to_uint8(seen * edge(brain - 0.5, 0.08), 96)
