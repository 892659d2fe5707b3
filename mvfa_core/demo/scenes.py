"""Generic captioned pictures for the demo backbone: textures, shapes, lines; each flawless and damaged.

Nothing here imitates an organ. A scene is painted in layers, a flaw is put in (`flaws.py`), and both
versions then go through the same film (light, tone, noise), so that they differ nowhere but in the flaw.
Fields are (96, 96) arrays in pixels; pictures are (96, 96, 3) arrays in [0, 1].
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from mvfa_core.demo import flaws
from mvfa_core.demo.fields import SIDE, X, Y, band_noise, branches, soft_step, unit
from mvfa_core.demo.textures import bent, draw_texture, scattered_points

Rng = np.random.Generator
Field = NDArray[np.floating]

COLOURS = {
    "red": (0.8, 0.2, 0.2),
    "orange": (0.9, 0.55, 0.2),
    "yellow": (0.9, 0.85, 0.35),
    "green": (0.3, 0.65, 0.3),
    "blue": (0.25, 0.35, 0.8),
    "purple": (0.5, 0.25, 0.65),
    "pink": (0.95, 0.7, 0.8),
    "brown": (0.5, 0.33, 0.2),
}
GREYS = {"black": 0.06, "dark": 0.22, "grey": 0.48, "pale": 0.7, "white": 0.88}
LAYOUTS = {"field": 0.34, "single": 0.36, "pair": 0.12, "several": 0.18}


class Scene(NamedTuple):
    """flawless, damaged: (96, 96, 3) uint8; mask: (96, 96) uint8 in {0, 1}; words: what is seen; flaw: its kind."""

    flawless: NDArray[np.uint8]
    damaged: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    words: str
    flaw: str


def draw_scene(seed: int, index: int) -> Scene:
    """Scene number `index` of the endless series that `seed` names."""
    rng = np.random.default_rng([seed, index])
    picture, inside, words = paint(rng)
    damaged, region, flaw = flaws.damage(picture, inside, rng)
    expose = film(rng)
    flawless, damaged = expose(picture), expose(damaged)
    # Where rounding hides the flaw it is not there.
    mask = region & (gaussian_filter(np.abs(flawless - damaged.astype(float)).max(axis=2), 1) > 0.5)
    damaged = np.where(mask[..., None], damaged, flawless)
    return Scene(flawless, damaged, mask.astype(np.uint8), words, flaw)


def paint(rng: Rng) -> tuple[Field, Field, str]:
    """A picture without flaw, where its subject lies (bool field), and the words for it."""
    coloured = rng.random() < 0.4
    layout = rng.choice(list(LAYOUTS), p=list(LAYOUTS.values()))
    texture, surface = draw_texture(rng)
    paint_of, paint_name = draw_paint(coloured, rng)
    if layout == "field":
        picture = paint_of(surface)
        inside = np.ones((SIDE, SIDE), bool)
        words = f"{paint_name} {texture}"
    else:
        picture, ground_name = draw_ground(coloured, rng)
        cover, shape = draw_cover(layout, rng)
        if rng.random() < 0.25:
            picture = picture + 0.3 * rng.uniform(-1, 1) * soft_step(cover + 3, 2)[..., None]
        alpha = soft_step(cover, rng.uniform(0.5, 3))[..., None]
        picture = (1 - alpha) * picture + alpha * paint_of(surface)
        inside = cover > 0
        words = f"{paint_name} {texture} {shape} on {ground_name}"
        if rng.random() < 0.5:
            picture = add_parts(picture, cover, coloured, rng)
    picture, detail = add_details(picture, inside, coloured, rng)
    return picture.clip(0, 1), inside, words + detail


def draw_paint(coloured: bool, rng: Rng) -> tuple[Callable[[Field], Field], str]:
    """A map from surface fields in [-1, 1] to colours, and the colour's name."""
    contrast = np.exp(rng.uniform(np.log(0.02), np.log(0.3)))
    if coloured:
        name = rng.choice(list(COLOURS))
        middle = np.array(COLOURS[name]) * rng.uniform(0.8, 1.1) + rng.uniform(-0.08, 0.08, 3)
        swing = contrast * (np.ones(3) + rng.uniform(-0.8, 0.8, 3))
    else:
        name = rng.choice(list(GREYS), p=[0.08, 0.27, 0.3, 0.2, 0.15])
        middle = np.full(3, GREYS[name] + rng.uniform(-0.08, 0.08))
        swing = np.full(3, contrast)
    return lambda surface: middle + swing * surface[..., None], str(name)


def draw_ground(coloured: bool, rng: Rng) -> tuple[Field, str]:
    """What lies behind the subject, and its name."""
    kind = rng.choice(["plain", "shaded", "textured"], p=[0.45, 0.25, 0.3])
    if kind == "plain":
        tone = rng.choice([rng.uniform(0, 0.08), rng.uniform(0.1, 1)])
        return np.full((SIDE, SIDE, 3), tone), "a dark ground" if tone < 0.3 else "a plain ground"
    paint_of, name = draw_paint(coloured, rng)
    texture, surface = draw_texture(rng) if kind == "textured" else ("shaded", band_noise(0.5, 3, rng))
    return paint_of(surface), f"a {name} {texture} ground"


# --- shapes: fields that are positive inside, about in pixels --------------------------------------------


def draw_shape(radius: float, centre: tuple[float, float], rng: Rng) -> tuple[Field, str]:
    """One filled shape and its name."""
    angle, aspect = rng.uniform(0, np.pi), rng.uniform(0.55, 1)
    x, y = X - centre[0], Y - centre[1]
    x, y = (
        (np.cos(angle) * x + np.sin(angle) * y) / aspect**0.5,
        (np.cos(angle) * y - np.sin(angle) * x) * aspect**0.5,
    )
    r, theta = np.hypot(x, y), np.arctan2(y, x)
    name = str(rng.choice(["disc", "block", "lump", "star", "ring", "bar", "polygon"]))
    if name == "disc":
        field = radius - r
    elif name == "block":
        field = radius - (x**4 + y**4) ** 0.25 * 1.1
    elif name == "lump":
        waves = sum(rng.normal(0, 0.28 / k) * np.cos(k * theta + rng.uniform(0, 6)) for k in range(2, 6))
        field = radius * (1 + waves) - r
    elif name == "star":
        field = radius * (1 + rng.uniform(0.1, 0.3) * np.cos(rng.integers(3, 9) * theta)) - r
    elif name == "ring":
        field = radius * rng.uniform(0.25, 0.4) - np.abs(r - 0.7 * radius)
    elif name == "bar":
        field = np.minimum(0.45 * radius - np.abs(y), 1.4 * radius - np.abs(x))
    else:
        corners = rng.integers(3, 8)
        sector = (theta % (2 * np.pi / corners)) - np.pi / corners
        field = radius * 0.9 - r * np.cos(sector)
    return field, name


def draw_cover(layout: str, rng: Rng) -> tuple[Field, str]:
    """Where the subject covers the ground, and what it is called."""
    if layout == "single":
        return draw_shape(rng.uniform(22, 46), tuple(rng.uniform(-8, 8, 2)), rng)
    if layout == "pair":
        field, name = draw_shape(rng.uniform(14, 24), (rng.uniform(-28, -18), rng.uniform(-6, 6)), rng)
        field = np.maximum(field, field[:, ::-1])
        return (field if rng.random() < 0.7 else field.T), f"pair of {name}s"
    radius = rng.uniform(7, 15)
    points = scattered_points(radius * rng.uniform(2.4, 4), rng.uniform(0, 0.8), rng)
    shapes = [draw_shape(radius, tuple(point), rng) for point in points[rng.permutation(len(points))[:12]]]
    return np.max([field for field, _ in shapes], axis=0), "pieces"


# --- harmless variety: what a normal picture may also have ------------------------------------------------


def add_parts(picture: Field, cover: Field, coloured: bool, rng: Rng) -> Field:
    """Inner parts of the subject: a rim, a core, or a mirrored pair; regular, so not a flaw."""
    kind = rng.choice(["rim", "core", "mirrored", "shade"])
    if kind == "rim":
        field = rng.uniform(1, 3) - np.abs(cover - rng.uniform(0, 6))
    elif kind == "core":
        field = cover - cover.max() * rng.uniform(0.4, 0.8)
    elif kind == "mirrored":
        field, _ = draw_shape(rng.uniform(3, 9), tuple(rng.uniform(4, 14, 2)), rng)
        field = np.maximum(field, field[:, ::-1])
        field = np.minimum(field, cover)
    else:
        return picture + rng.uniform(-0.3, 0.3) * unit(cover.clip(0))[..., None] * (cover > 0)[..., None]
    paint_of, _ = draw_paint(coloured, rng)
    alpha = rng.uniform(0.3, 1) * soft_step(field, rng.uniform(0.7, 2))[..., None]
    return (1 - alpha) * picture + alpha * paint_of(np.zeros((SIDE, SIDE)))


def add_details(picture: Field, inside: Field, coloured: bool, rng: Rng) -> tuple[Field, str]:
    """Branching lines, seams or rows of dots, in a third of the pictures, and the words for them."""
    if rng.random() > 0.36:
        return picture, ""
    kind = rng.choice(["branches", "seams", "rows of dots"])
    if kind == "branches":
        field = branches(rng)
    elif kind == "seams":
        across, along = bent(rng.uniform(0, 4), rng)
        gap = rng.uniform(18, 48)
        field = rng.uniform(0.7, 2) - np.abs((across + rng.uniform(0, gap)) % gap - gap / 2)
        if rng.random() < 0.4:
            field = np.maximum(field, rng.uniform(0.7, 2) - np.abs(along % gap - gap / 2))
    else:
        across, along = bent(rng.uniform(0, 4), rng)
        gap = rng.uniform(10, 20)
        field = gap * rng.uniform(0.12, 0.25) - np.hypot(across % (2 * gap) - gap, along % gap - gap / 2)
    alpha = rng.uniform(0.15, 0.8) * (soft_step(field, 1) * inside)[..., None]
    tone = np.array(COLOURS[rng.choice(list(COLOURS))]) if coloured else np.full(3, rng.uniform(0, 1))
    return (1 - alpha) * picture + alpha * tone, f" with {kind}"


def film(rng: Rng) -> Callable[[Field], NDArray[np.uint8]]:
    """Light, tone curve, speckle and grain: one map for both versions, pixel by pixel, so no flaw spreads."""
    light = 1 + rng.choice([0, 0.25]) * band_noise(0.5, 2, rng)
    gamma = np.exp(rng.uniform(-0.4, 0.4))
    speckle = 1 + rng.choice([0, rng.uniform(0, 0.25)], p=[0.65, 0.35]) * unit_noise(rng)
    grain = rng.choice([0, rng.uniform(0, 0.05)], p=[0.4, 0.6]) * unit_noise(rng)

    def expose(picture: Field) -> NDArray[np.uint8]:
        exposed = (picture * light[..., None]).clip(0, 1) ** gamma * speckle[..., None] + grain[..., None]
        return (255 * exposed.clip(0, 1)).round().astype(np.uint8)

    return expose


def unit_noise(rng: Rng) -> Field:
    """White or slightly clustered noise of unit deviation."""
    noise = rng.standard_normal((SIDE, SIDE))
    if rng.random() < 0.4:
        noise = gaussian_filter(noise, rng.uniform(0.4, 1), mode="wrap")
    return noise / noise.std()
