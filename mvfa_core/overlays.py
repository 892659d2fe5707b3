"""Anomaly maps as pictures: 16 bits to compute with, and an overlay to look at."""

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

# clear, then from dark red over orange to light yellow
_HEAT = np.array([[80, 0, 20], [200, 30, 20], [250, 140, 20], [255, 240, 120]], dtype=np.float32)


@dataclass(frozen=True)
class MapScale:
    """Three map values that fix how maps are drawn.

    low, high: the least and the largest value of the reference images' maps. normal: the 95th percentile of
    the normal ones; an overlay is clear up to it.
    """

    low: float
    normal: float
    high: float

    @property
    def span(self) -> tuple[float, float]:
        """What 0 and 65535 of a 16-bit map mean: half as much again as the reference images need."""
        return self.low, self.low + 1.5 * max(self.high - self.low, 1e-6)


def resize_map(anomaly_map: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(S, S) float32 -> (height, width), bilinear, so that it lies over the image pixel by pixel."""
    if anomaly_map.shape == size[::-1]:
        return anomaly_map
    return np.asarray(Image.fromarray(anomaly_map).resize(size, Image.Resampling.BILINEAR))


def map_png(anomaly_map: np.ndarray, scale: MapScale) -> bytes:
    """16 bits: value = low + pixel / 65535 * (high - low), with `map_range` of results.json as low and high."""
    low, high = scale.span
    pixels = np.clip(np.rint((anomaly_map - low) * (65535 / (high - low))), 0, 65535).astype(np.uint16)
    return _png(Image.fromarray(pixels))


def overlay_png(picture: Image.Image, anomaly_map: np.ndarray, scale: MapScale) -> bytes:
    """The picture; where the map exceeds what normal images show, heat grows over it."""
    share = np.clip((anomaly_map - scale.normal) / max(scale.high - scale.normal, 1e-9), 0, 1)[..., None]
    steps = np.linspace(0, 1, len(_HEAT))
    heat = np.concatenate([np.interp(share, steps, _HEAT[:, c]) for c in range(3)], axis=-1)
    alpha = 0.65 * np.sqrt(share)
    return _png(Image.fromarray(np.rint((1 - alpha) * np.asarray(picture) + alpha * heat).astype(np.uint8)))


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
