"""Drawing tools of the phantoms: coordinates, smooth noise, soft shapes, vessel trees, grey levels.

Lengths are fractions of the image side unless a name ends in `_px`; (0, 0) is the image's centre, y points
down. Fields are float arrays (n, n); a soft shape (`coverage`) lies in [0, 1].
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates, zoom

Rng = np.random.Generator
Field = NDArray[np.floating]

SUPERSAMPLING = 2  # phantoms are drawn this much finer than they are saved
SMALLEST_LESION_PX = 14  # pixels of a mask at 96 x 96; below, a lesion is drawn anew


def grid(n: int) -> tuple[Field, Field]:
    """y and x of the pixel centres, (n, n) each, in [-0.5, 0.5]."""
    axis = (np.arange(n) + 0.5) / n - 0.5
    return np.meshgrid(axis, axis, indexing="ij")


def edge(distance: Field, softness: float) -> Field:
    """Coverage of a shape from the signed distance to its border (positive inside)."""
    return 1 / (1 + np.exp(-np.clip(distance / max(softness, 1e-4), -30, 30)))


def smooth_noise(rng: Rng, n: int, length: float, octaves: int = 1) -> Field:
    """Smooth random field (n, n), mean 0 and deviation 1, with structures about `length` long.

    Every further octave adds structures of half the length and half the strength.
    """
    total = np.zeros((n, n))
    for octave in range(octaves):
        knots = max(int(np.ceil(2**octave / length)) + 3, 4)
        coarse = rng.standard_normal((knots, knots))
        # The finest octaves may ask for more knots than there are pixels.
        field = (
            zoom(coarse, n / knots, order=3, mode="reflect", grid_mode=True) if knots < n else coarse[:n, :n]
        )
        total += field / 2**octave
    return (total - total.mean()) / total.std()


def grain(rng: Rng, n: int, blur_px: float = 0.0) -> Field:
    """Pixel noise (n, n), mean 0 and deviation 1; `blur_px` correlates neighbours."""
    noise = rng.standard_normal((n, n))
    if blur_px > 0:
        noise = gaussian_filter(noise, blur_px, mode="wrap")
        noise /= noise.std()
    return noise


def smooth_curve(rng: Rng, n: int, length: float) -> Field:
    """Smooth random curve (n,), mean 0, deviation about 1."""
    knots = int(np.ceil(1 / length)) + 4
    coarse = rng.standard_normal(knots)
    return map_coordinates(coarse, [np.linspace(1, knots - 2, n)], order=3)


def warped_grid(rng: Rng, n: int, length: float, amount: float) -> tuple[Field, Field]:
    """The grid under a smooth random displacement of deviation `amount`."""
    y, x = grid(n)
    return y + amount * smooth_noise(rng, n, length), x + amount * smooth_noise(rng, n, length)


def ellipse_distance(
    y: Field, x: Field, centre: tuple[float, float], radii: tuple[float, float], angle: float = 0.0
):
    """Signed distance to an ellipse's border (positive inside; exact only for circles)."""
    dy, dx = y - centre[0], x - centre[1]
    along = np.cos(angle) * dx + np.sin(angle) * dy
    across = np.cos(angle) * dy - np.sin(angle) * dx
    return (1 - np.hypot(across / radii[0], along / radii[1])) * min(radii)


def blob(
    rng: Rng,
    y: Field,
    x: Field,
    centre: tuple[float, float],
    radius: float,
    *,
    softness: float = 0.01,
    roughness: float = 0.15,
    stretch: float = 1.0,
) -> Field:
    """Coverage of an irregular round shape.

    Args:
        rng: draws outline and direction.
        y: row coordinates; may be warped.
        x: column coordinates.
        centre: (y, x).
        radius: mean radius.
        softness: width of the edge.
        roughness: deviation of the outline from an ellipse, relative to the radius.
        stretch: long over short axis.
    """
    dy, dx = y - centre[0], x - centre[1]
    turn = rng.uniform(0, np.pi)
    along = (np.cos(turn) * dx + np.sin(turn) * dy) / np.sqrt(stretch)
    across = (np.cos(turn) * dy - np.sin(turn) * dx) * np.sqrt(stretch)
    angle = np.arctan2(across, along)
    outline = np.ones_like(angle)
    for wave in range(2, 7):
        outline += roughness * rng.standard_normal() / wave * np.cos(wave * angle + rng.uniform(0, 2 * np.pi))
    return edge(radius * outline.clip(0.4, 1.8) - np.hypot(along, across), softness)


def pick_point(rng: Rng, allowed: NDArray[np.bool_]) -> tuple[float, float]:
    """Coordinates (y, x) of a random pixel of a boolean field (n, n); the centre if there is none."""
    places = np.flatnonzero(allowed)
    if len(places) == 0:
        return 0.0, 0.0
    n = allowed.shape[1]
    row, column = divmod(int(places[rng.integers(len(places))]), n)
    return (row + 0.5) / n - 0.5, (column + 0.5) / n - 0.5


def tubes(
    n: int, segments: Iterable[tuple[float, float, float, float, float]], softness: float = 0.004
) -> Field:
    """Coverage (n, n) of straight tubes, each given as (y0, x0, y1, x1, radius)."""
    y, x = grid(n)
    coverage = np.zeros((n, n))
    for y0, x0, y1, x1, radius in segments:
        margin = radius + 6 * softness
        rows = slice(*_span(min(y0, y1) - margin, max(y0, y1) + margin, n))
        columns = slice(*_span(min(x0, x1) - margin, max(x0, x1) + margin, n))
        if rows.start >= rows.stop or columns.start >= columns.stop:
            continue
        py, px = y[rows, columns], x[rows, columns]
        ry, rx = y1 - y0, x1 - x0
        share = (((py - y0) * ry + (px - x0) * rx) / max(ry * ry + rx * rx, 1e-9)).clip(0, 1)
        distance = np.hypot(py - y0 - share * ry, px - x0 - share * rx)
        part = coverage[rows, columns]
        np.maximum(part, edge(radius - distance, softness), out=part)
    return coverage


def _span(low: float, high: float, n: int) -> tuple[int, int]:
    """First pixel and one past the last pixel of [low, high] along an axis."""
    return max(int((low + 0.5) * n), 0), min(int((high + 0.5) * n) + 1, n)


def vessel_tree(
    rng: Rng,
    start: tuple[float, float],
    angle: float,
    length: float,
    radius: float,
    depth: int,
    bend: float = 0.35,
) -> list[tuple[float, float, float, float, float]]:
    """Segments for `tubes`: a bending vessel that forks `depth` times. `angle` in radians, 0 to the right."""
    segments = []
    y, x = start
    steps = 3
    for _ in range(steps):
        angle += bend * rng.normal() / 2
        end = y + np.sin(angle) * length / steps, x + np.cos(angle) * length / steps
        segments.append((y, x, *end, radius))
        y, x = end
    if depth > 0:
        for side in (-1, 1):
            if rng.random() < 0.9:
                fork = angle + side * rng.uniform(0.25, 0.75)
                shorter, thinner = length * rng.uniform(0.6, 0.9), radius * rng.uniform(0.6, 0.8)
                segments += vessel_tree(rng, (y, x), fork, shorter, thinner, depth - 1, bend)
    return segments


def downsample(field: Field, factor: int = SUPERSAMPLING) -> Field:
    """(n, n[, C]) -> (n / factor, n / factor[, C]) by the mean of each block."""
    n = field.shape[0] // factor
    return field.reshape(n, factor, n, factor, *field.shape[2:]).mean(axis=(1, 3))


def to_mask(coverage: Field, threshold: float = 0.5) -> NDArray[np.uint8]:
    """Mask in {0, 255} where the coverage exceeds the threshold."""
    return ((coverage > threshold) * 255).astype(np.uint8)


def large_enough(mask: NDArray[np.uint8]) -> bool:
    """Whether a mask (H, W) holds at least `SMALLEST_LESION_PX` pixels, counted at 96 x 96."""
    return np.count_nonzero(mask) >= SMALLEST_LESION_PX * mask.size / 96**2


def expose(field: Field, low: float, high: float, gamma: float = 1.0) -> Field:
    """Window [low, high] -> [0, 1], then a gamma curve."""
    return ((field - low) / (high - low)).clip(0, 1) ** gamma


def to_uint8(field: Field, levels: int = 128) -> NDArray[np.uint8]:
    """[0, 1] -> [0, 255] in `levels` equal steps; fewer levels make smaller files."""
    steps = np.round(field.clip(0, 1) * (levels - 1))
    return np.round(steps * (255 / (levels - 1))).astype(np.uint8)
