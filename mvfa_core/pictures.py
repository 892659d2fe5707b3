"""Pictures of the report: small files that are the same whenever they are made from the same pixels."""

import hashlib
import io
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image
from skimage.measure import approximate_polygon, find_contours

from mvfa_core.writing import write_whole

# lines and letters stay sharp without loss and take little; pictures of images would take several times the room
_WORTH_OF_NO_LOSS = 1.5


class Album:
    """A folder of figures, named by their content: a figure that many pages show is kept once.

    Args:
        root: of the site.
        folder: below it.
    """

    def __init__(self, root: Path, folder: str = "figures"):
        self.root, self.folder = root, folder

    def add(self, data: bytes) -> dict[str, str | int]:
        """Keep a picture of any format as WebP; what an `<img>` needs: src, width and height in pixels."""
        picture = Image.open(io.BytesIO(data)).convert("RGBA")
        # figures are drawn for white paper
        page = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
        name = f"{self.folder}/{hashlib.sha256(page.tobytes()).hexdigest()[:16]}.webp"
        if not (self.root / name).exists():
            lossy = _encoded(page, "WEBP", quality=85, method=4)
            # quality is effort here: two thirds of the time of 85 and 4, and 0.3 % more bytes
            whole = _encoded(page, "WEBP", lossless=True, quality=50, method=2)
            write_whole(self.root / name, whole if len(whole) < _WORTH_OF_NO_LOSS * len(lossy) else lossy)
        return {"src": name, "width": page.width, "height": page.height}


def photo_png(image: np.ndarray) -> bytes:
    """An image (S, S, 3) uint8; without colour it takes one channel."""
    grey = (image == image[..., :1]).all()
    return _encoded(Image.fromarray(image[..., 0] if grey else image), "PNG", optimize=True)


def heat_png(anomaly_map: np.ndarray, low: float, high: float, colours: str) -> bytes:
    """A map (S, S) on the colour scale from `low` to `high`; `colours` is a colour map of matplotlib."""
    share = (anomaly_map.astype(np.float32) - low) / max(high - low, 1e-9)
    picture = Image.fromarray(np.rint(np.clip(share, 0, 1) * 255).astype(np.uint8), "L")
    palette = matplotlib.colormaps[colours](np.arange(256), bytes=True)[:, :3]
    picture.putpalette(palette.tobytes())
    return _encoded(picture, "PNG", optimize=True)


def outline(mask: np.ndarray) -> str:
    """The edge of a mask (S, S) in {0, 1} as the path data of an SVG with the image's pixels as its units."""
    parts = []
    for contour in find_contours(np.pad(mask, 1).astype(float), 0.5):
        points = approximate_polygon(contour, 0.3)[:-1, ::-1] - 0.5
        parts.append("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points) + "Z")
    return "".join(parts)


def _encoded(picture: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()
