"""Histology phantom: haematoxylin and eosin sections of lymph node and connective tissue, with tumour nests.

Two fields of dye amount (haematoxylin, eosin) are painted first; Beer and Lambert's law turns them into RGB.
Normal sections hold what a tumour is mistaken for: clusters of lymphocytes, and glands.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates

from mvfa_core.demo.phantom_tools import (
    SUPERSAMPLING,
    Field,
    Rng,
    blob,
    downsample,
    edge,
    grain,
    grid,
    large_enough,
    smooth_noise,
    to_mask,
)

HAEMATOXYLIN = np.array([0.65, 0.70, 0.29])  # optical density per dye amount in R, G, B
EOSIN = np.array([0.09, 0.95, 0.28])


@dataclass
class Section:
    """haematoxylin, eosin: dye amounts (n, n); chromatin: pattern (n, n); nuclei: (y, x, radius) so far."""

    haematoxylin: Field
    eosin: Field
    chromatin: Field
    nuclei: list[tuple[float, float, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Cells:
    """A population of nuclei.

    radius: mean; spread: relative deviation of the radii; stretch: long over short axis; dark: dye amount;
    coarse: strength of the chromatin pattern; rough: outline; gap: least distance in summed radii.
    """

    radius: float
    spread: float
    stretch: tuple[float, float]
    dark: tuple[float, float]
    coarse: float
    rough: float = 0.08
    gap: float = 0.95


LYMPHOCYTES = Cells(0.0235, 0.1, (1.0, 1.2), (1.0, 1.35), 0.25)
FIBROBLASTS = Cells(0.020, 0.15, (2.2, 4.0), (0.7, 1.1), 0.15)
EPITHELIUM = Cells(0.027, 0.1, (1.2, 1.7), (0.7, 1.0), 0.3)
HISTIOCYTES = Cells(0.030, 0.15, (1.0, 1.6), (0.4, 0.7), 0.35)
CROWDED = 1500  # tries in a whole field that pack a nest


def draw(
    rng: Rng, size: int, abnormal: bool, contrast: float = 1.0
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """One field of view: image (size, size, 3) uint8, mask of the tumour (size, size) in {0, 255}.

    Args:
        rng: the image's own generator.
        size: side in pixels.
        abnormal: whether there is a tumour.
        contrast: scales how far tumour nuclei depart from normal ones in size, shape and stain.
    """
    n = size * SUPERSAMPLING
    scale = rng.uniform(0.9, 1.15)
    section = _ground(rng, n)
    nest = np.zeros((n, n))
    mask = np.zeros((size, size), np.uint8)
    if abnormal:
        for _ in range(50):
            nest = _nest_shape(rng, n)
            mask = to_mask(downsample(nest))
            if large_enough(mask):
                break
        _grow_tumour(rng, section, nest, scale, contrast * rng.uniform(0.75, 1.3))
    free = nest < 0.3
    if rng.random() < (0.3 if abnormal else 0.85):  # about as many crowded fields in both classes
        free = _grow_crowd(rng, section, free, scale)
    for _ in range(int(rng.choice([0, 1, 2], p=[0.6, 0.3, 0.1]))):
        free = _grow_gland(rng, section, free, scale)
    free = _open_vessels(rng, section, free)
    clusters = _lymphocyte_density(rng, n)
    _scatter(rng, section, LYMPHOCYTES, clusters * free, 420, scale)
    _scatter(rng, section, HISTIOCYTES, (0.2 + clusters) * free, int(rng.integers(0, 25)), scale)
    fibre = rng.uniform(0, np.pi)
    _scatter(rng, section, FIBROBLASTS, (1 - clusters) * free, int(rng.integers(15, 60)), scale, fibre)
    return _stain(rng, section, size), mask


def _ground(rng: Rng, n: int) -> Section:
    """Connective tissue: wavy eosin-stained fibres with clefts between them."""
    y, x = grid(n)
    turn, wave = rng.uniform(0, np.pi), 0.03 * smooth_noise(rng, n, 0.3)
    along = np.cos(turn) * x + np.sin(turn) * y
    across = np.cos(turn) * y - np.sin(turn) * x + wave
    texture = smooth_noise(rng, n, 0.03, 2)
    places = np.stack([(across * 0.7 + 0.5) * n, (along * 0.18 + 0.5) * n])
    fibres = map_coordinates(texture, places, order=1, mode="reflect")
    eosin = rng.uniform(0.28, 0.5) + rng.uniform(0.06, 0.16) * fibres + 0.05 * smooth_noise(rng, n, 0.2, 2)
    clefts = edge(fibres - rng.uniform(1.4, 2.4), 0.12)
    eosin = eosin * (1 - 0.85 * clefts)
    haematoxylin = rng.uniform(0.03, 0.12) + 0.02 * smooth_noise(rng, n, 0.15, 2)
    return Section(haematoxylin, eosin.clip(0.02, None), smooth_noise(rng, n, 0.012, 1))


def _nest_shape(rng: Rng, n: int) -> Field:
    """Coverage (n, n) of one to three nests of crowded cells, from an islet to a third of the field."""
    y, x = grid(n)
    y, x = y + 0.02 * smooth_noise(rng, n, 0.12), x + 0.02 * smooth_noise(rng, n, 0.12)
    nest = np.zeros((n, n))
    for _ in range(int(rng.choice([1, 2, 3], p=[0.65, 0.25, 0.1]))):
        centre = tuple(rng.uniform(-0.38, 0.38, 2))
        shape = blob(
            rng,
            y,
            x,
            centre,
            rng.uniform(0.09, 0.19),
            softness=0.012,
            roughness=0.3,
            stretch=rng.uniform(1, 2),
        )
        nest = np.maximum(nest, shape)
    return nest


def _grow_tumour(rng: Rng, section: Section, nest: Field, scale: float, atypia: float) -> None:
    """Fill nests with cytoplasm and crowded, large, unequal nuclei; `atypia` 0 is normal epithelium."""
    _fill_nest(rng, section, nest)
    cells = Cells(
        radius=EPITHELIUM.radius * (1 + 0.5 * atypia),
        spread=EPITHELIUM.spread + 0.13 * atypia,
        stretch=(max(1.2 - 0.2 * atypia, 1.0), 1.7 + 0.2 * atypia),
        dark=(0.7 - 0.1 * atypia, 1.0 + 0.25 * atypia),
        coarse=EPITHELIUM.coarse + 0.05 * atypia,
        rough=EPITHELIUM.rough + 0.08 * atypia,
        gap=EPITHELIUM.gap - 0.06 * atypia,
    )
    _scatter(rng, section, cells, nest * (nest > 0.4), CROWDED, scale)


def _fill_nest(rng: Rng, section: Section, nest: Field) -> None:
    """The bluish cytoplasm of crowded cells, benign or not."""
    section.eosin[:] = section.eosin * (1 - 0.5 * nest) + nest * rng.uniform(0.12, 0.26)
    section.haematoxylin += nest * rng.uniform(0.05, 0.16)


def _grow_crowd(rng: Rng, section: Section, free: NDArray[np.bool_], scale: float) -> NDArray[np.bool_]:
    """Benign nests: as crowded as a tumour, of even and small nuclei. Returns what is still free."""
    nest = _nest_shape(rng, len(free)) * free
    _fill_nest(rng, section, nest)
    cells = LYMPHOCYTES if rng.random() < 0.35 else EPITHELIUM
    _scatter(rng, section, cells, nest * (nest > 0.4), CROWDED, scale)
    return free & (nest < 0.3)


def _grow_gland(rng: Rng, section: Section, free: NDArray[np.bool_], scale: float) -> NDArray[np.bool_]:
    """A gland, if it fits: lumen, cytoplasm, a row of nuclei at the base. Returns what is still free."""
    n = len(free)
    y, x = grid(n)
    centre, radius = tuple(rng.uniform(-0.42, 0.42, 2)), rng.uniform(0.11, 0.17) * scale
    seed = int(rng.integers(2**32))  # the same outline three times, shrunk
    whole, cell, lumen = (
        blob(
            np.random.default_rng(seed),
            y,
            x,
            centre,
            radius * share,
            softness=0.008,
            roughness=0.2,
            stretch=1.3,
        )
        for share in (1.0, 0.72, 0.38)
    )
    if np.any((whole > 0.3) & ~free):
        return free
    section.eosin[:] = section.eosin * (1 - whole) + whole * (rng.uniform(0.25, 0.4) * (1 - lumen) + 0.03)
    section.haematoxylin[:] = section.haematoxylin * (1 - lumen) + 0.1 * whole * (1 - lumen)
    _scatter(rng, section, EPITHELIUM, whole * (1 - cell) * (whole > 0.6), 2500, scale)
    return free & (whole < 0.3)


def _open_vessels(rng: Rng, section: Section, free: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Vessels and fat cells: hollow rounds with a wall, some with red cells. Returns what is still free."""
    n = len(free)
    y, x = grid(n)
    for _ in range(int(rng.choice([0, 1, 2, 5], p=[0.4, 0.3, 0.2, 0.1]))):
        centre, radius = tuple(rng.uniform(-0.48, 0.48, 2)), rng.uniform(0.04, 0.1)
        seed = int(rng.integers(2**32))
        wall = blob(np.random.default_rng(seed), y, x, centre, radius * 1.2, softness=0.006, roughness=0.2)
        hollow = blob(np.random.default_rng(seed), y, x, centre, radius, softness=0.006, roughness=0.2)
        if np.any((wall > 0.3) & ~free):
            continue
        section.eosin[:] = section.eosin * (1 - wall) + wall * 0.5 * (1 - hollow)
        if rng.random() < 0.4:
            section.eosin += hollow * rng.uniform(0.5, 0.8) * edge(smooth_noise(rng, n, 0.03), 0.3)
        section.haematoxylin *= 1 - hollow
        free = free & (wall < 0.3)
    return free


def _lymphocyte_density(rng: Rng, n: int) -> Field:
    """How densely lymphocytes lie, (n, n) in [0, 1]: sheets, follicles, or a few strays."""
    kind = rng.choice(["strays", "clusters", "sheet"], p=[0.3, 0.45, 0.25])
    if kind == "strays":
        return np.full((n, n), rng.uniform(0.02, 0.08))
    if kind == "sheet":
        return edge(smooth_noise(rng, n, 0.4) + rng.uniform(0.5, 2), 0.15) * rng.uniform(0.5, 1)
    return edge(smooth_noise(rng, n, 0.22) - rng.uniform(0.2, 0.9), 0.1) + 0.03


def _scatter(
    rng: Rng,
    section: Section,
    cells: Cells,
    density: Field,
    rate: int,
    scale: float,
    direction: float | None = None,
) -> None:
    """Lay nuclei of one population, clear of those that lie there.

    Args:
        rng: draws places, sizes and shapes.
        section: painted in place.
        cells: the population.
        density: where they lie, (n, n) in [0, 1].
        rate: tries in a whole field of density 1.
        scale: magnification.
        direction: of the long axes, in radians; None: any.
    """
    n = len(density)
    total = np.cumsum(density.ravel())
    tries = int(rate * total[-1] / n**2)
    pixels = np.searchsorted(total, rng.uniform(0, total[-1], tries))
    places = (np.stack(np.divmod(pixels, n), axis=1) + rng.random((tries, 2))) / n - 0.5
    placed = np.array(section.nuclei or [(9.0, 9.0, 0.0)])
    for py, px in places:
        radius = cells.radius * scale * max(rng.normal(1, cells.spread), 0.5)
        if np.any(np.hypot(placed[:, 0] - py, placed[:, 1] - px) < cells.gap * (placed[:, 2] + radius)):
            continue
        placed = np.vstack([placed, (py, px, radius)])
        turn = rng.uniform(0, np.pi) if direction is None else direction + rng.normal(0, 0.25)
        _nucleus(rng, section, cells, (py, px), radius, turn)
    section.nuclei = [tuple(row) for row in placed]


def _nucleus(
    rng: Rng, section: Section, cells: Cells, centre: tuple[float, float], radius: float, turn: float
) -> None:
    """Stain one nucleus: membrane, chromatin, cleared cytoplasm beneath."""
    n = len(section.eosin)
    stretch = np.sqrt(rng.uniform(*cells.stretch))
    reach = radius * stretch * 1.5 + 0.01
    rows, columns = (
        slice(max(int((c - reach + 0.5) * n), 0), min(int((c + reach + 0.5) * n) + 1, n)) for c in centre
    )
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return
    dy = (np.arange(rows.start, rows.stop)[:, None] + 0.5) / n - 0.5 - centre[0]
    dx = (np.arange(columns.start, columns.stop)[None] + 0.5) / n - 0.5 - centre[1]
    along = (np.cos(turn) * dx + np.sin(turn) * dy) / stretch
    across = (np.cos(turn) * dy - np.sin(turn) * dx) * stretch
    angle = np.arctan2(across, along)
    outline = 1 + cells.rough * (
        rng.normal() * np.cos(2 * angle + rng.uniform(0, 6))
        + rng.normal() * np.cos(3 * angle + rng.uniform(0, 6))
    )
    depth = radius * outline - np.hypot(along, across)
    inside = edge(depth, 0.0022)
    rim = np.exp(-(((depth - 0.004) / 0.005) ** 2))
    dye = rng.uniform(*cells.dark) * (0.85 + cells.coarse * section.chromatin[rows, columns] + 0.3 * rim)
    dyes = section.haematoxylin[rows, columns]
    dyes += inside * (dye.clip(0.15, None) - dyes)
    section.eosin[rows, columns] *= 1 - 0.45 * inside


def _stain(rng: Rng, section: Section, size: int) -> NDArray[np.uint8]:
    """Laboratory and microscope: hue and strength of the dyes, focus, lamp: (size, size, 3) uint8."""
    blue = HAEMATOXYLIN * rng.normal(1, 0.07, 3)
    pink = EOSIN * rng.normal(1, 0.07, 3)
    focus = rng.uniform(0.3, 1.0)
    amounts = [gaussian_filter(dye, focus) for dye in (section.haematoxylin, section.eosin)]
    strength = rng.uniform(0.85, 1.5), rng.uniform(0.65, 1.3)
    density = strength[0] * amounts[0][..., None] * blue + strength[1] * amounts[1][..., None] * pink
    lamp = np.array([0.96, 0.95, 0.96]) * rng.normal(1, 0.012, 3) * rng.uniform(0.93, 1.0)
    light = downsample(lamp * np.exp(-density))
    light = light + 0.008 * grain(rng, size, 0.5)[..., None]
    return np.round(light.clip(0, 1) * 255).astype(np.uint8)
