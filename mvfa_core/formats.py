"""Image files of every kind -> 8-bit RGB pictures, recognised by their content and not by their name.

Raster files are read here, DICOM and NIfTI in `clinical.py`. A picture of more than 8 bits is brought to 8 by
a window, two values that become black and white: the one given, else the full range of the file's type.
"""

import gzip
import io
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from mvfa_core.errors import MvfaError

SUFFIXES = (".png", ".jpeg", ".jpg", ".bmp", ".tif", ".tiff", ".dcm", ".dicom", ".nii", ".nii.gz")
KINDS = "PNG, JPEG, TIFF, BMP, DICOM or NIfTI"
MAX_PIXELS = 2**26
MIN_SIDE = 8
MAX_ASPECT = 20
MAX_FRAMES = 100_000

Window = tuple[float, float]

_RASTER = {b"\x89PNG": "PNG", b"\xff\xd8\xff": "JPEG", b"II*\0": "TIFF", b"MM\0*": "TIFF", b"BM": "BMP"}


@dataclass
class ImageFile:
    """One opened file.

    shown: what messages call it. frames: pictures in it. notes: what a reader of the results should know.
    volume: its frames are slices of one body, and its map is written as one file.
    """

    path: Path
    shown: str
    frames: int = 1
    notes: list[str] = field(default_factory=list)
    volume: bool = False

    def frame(self, index: int = 0) -> Image.Image:
        """Picture `index`, mode RGB.

        Raises:
            MvfaError: it is damaged, or cannot be brought to 8 bits.
        """
        raise NotImplementedError(f"{type(self).__name__} must decode its frames")

    def __iter__(self) -> Iterator[Image.Image]:
        return (self.frame(index) for index in range(self.frames))

    def encode_map(self, maps: list[np.ndarray]) -> bytes:
        """One map a slice, each (rows, columns) as `frame` gives them -> a file of the same geometry."""
        raise NotImplementedError(f"{type(self).__name__} is no volume")


def printable(name: str) -> str:
    """A file name as part of one line: line breaks, terminal codes and undecodable bytes are escaped.

    >>> printable("a\\nb")
    'a\\\\nb'
    """
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in name)


def is_image_name(path: Path) -> bool:
    """Whether the name promises a file that `open_image` reads, or the content where the name leaves it open.

    Such are DICOM files without an ending, and the header of a NIfTI pair, which is listed as what cannot be read.
    """
    if path.name.lower().endswith(SUFFIXES):
        return True
    if path.suffix.lower() not in ("", ".hdr"):
        return False
    try:
        head = _head(path) if path.is_file() else b""
    except OSError:
        return False
    return head[128:132] == b"DICM" or _is_pair(head)


def _is_pair(head: bytes) -> bool:
    """The header of a NIfTI volume whose voxels lie in another file, `.img`."""
    return head[344:348] == b"ni1\0" or head[4:8] == b"ni2\0"


def open_image(
    path: str | Path, window: Window | None = None, axis: int = 2, shown: str | None = None
) -> ImageFile:
    """Open a file of any kind.

    Args:
        path: PNG, JPEG, TIFF, BMP, DICOM or NIfTI, whatever its name ends in.
        window: values that become black and white; used for files of more than 8 bits only.
        axis: along which a NIfTI volume is cut, 0, 1 or 2 of its stored array.
        shown: what messages call the file.

    Raises:
        MvfaError: the file is missing, empty, damaged, of another kind, too large, too small or too narrow.
    """
    path = Path(path)
    shown = printable(str(path) if shown is None else shown)
    if window is not None and not -np.inf < window[0] < window[1] < np.inf:
        raise MvfaError(f"window: must be two numbers, the lower one first, got {window[0]} and {window[1]}")
    try:
        if not path.is_file():
            path.stat()
            raise MvfaError(f"{shown}: is no file; give an image ({KINDS})")
        head = _head(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "bad name"
        raise MvfaError(f"{shown}: cannot be read ({reason}); check the path") from None
    if not head:
        raise MvfaError(f"{shown}: is empty; replace or remove it")
    if head[128:132] == b"DICM":
        from mvfa_core.clinical import DicomFile

        return DicomFile.open(path, shown, window)
    if _is_pair(head):
        raise MvfaError(
            f"{shown}: is the header of a NIfTI pair (.hdr and .img); save both as one .nii or .nii.gz file"
        )
    if _is_nifti(path, head):
        from mvfa_core.clinical import NiftiFile

        return NiftiFile.open(path, shown, window, axis)
    kind = next((kind for magic, kind in _RASTER.items() if head.startswith(magic)), None)
    if kind is None and path.suffix.lower() == ".img":
        raise MvfaError(f"{shown}: is half of an .hdr and .img pair; save both as one .nii or .nii.gz file")
    if kind is None:
        raise MvfaError(f"{shown}: is not a readable image (neither {KINDS}); replace or remove it")
    return RasterFile.open_as(kind, path, shown, window)


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(352)


def _is_nifti(path: Path, head: bytes) -> bool:
    if head[:2] == b"\x1f\x8b":
        try:
            with gzip.open(path) as file:
                head = file.read(352)
        except (OSError, EOFError, zlib.error):
            return path.name.lower().endswith(".nii.gz")
    return head[344:347] == b"n+1" or head[4:7] == b"n+2"


def check_size(shown: str, width: int, height: int) -> None:
    """Refuse what would fill the memory, and what has too few pixels to be judged.

    Raises:
        MvfaError: naming the size and what to do.
    """
    size = f"is {width} x {height} px"
    if width * height > MAX_PIXELS:
        raise MvfaError(f"{shown}: {size}, more than {MAX_PIXELS / 1e6:.0f} million; make it smaller")
    if min(width, height) < MIN_SIDE:
        raise MvfaError(f"{shown}: {size}, too small to judge; both sides need {MIN_SIDE} px")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise MvfaError(f"{shown}: {size}; crop it, sides may differ {MAX_ASPECT}-fold at most")


def to_square(image: Image.Image, size: int, how: Image.Resampling = Image.Resampling.BICUBIC) -> Image.Image:
    """What the backbone sees: the whole picture, squeezed into a square."""
    return image if image.size == (size, size) else image.resize((size, size), how)


def windowed(values: np.ndarray, window: Window) -> np.ndarray:
    """Numbers -> uint8, `window` becoming 0 and 255; what lies outside is clipped."""
    low, high = window
    scaled = (values.astype(np.float32) - low) * (255 / (high - low))
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def from_array(values: np.ndarray, window: Window | None = None, shown: str = "image") -> Image.Image:
    """(H, W) or (H, W, 3) numbers -> RGB picture.

    uint8 is taken as it is, uint16 over its full range, floating point over [0, 1]; other ranges need a
    window.

    Raises:
        MvfaError: another shape, values that are not finite, or a range that only a window can explain.
    """
    values = np.asarray(values)
    if values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[2] != 3):
        raise MvfaError(f"{shown}: must be (H, W) or (H, W, 3), got shape {values.shape}")
    if values.dtype == bool or not (np.issubdtype(values.dtype, np.number) and np.isrealobj(values)):
        raise MvfaError(f"{shown}: must hold numbers, got {values.dtype}")
    check_size(shown, values.shape[1], values.shape[0])
    if values.dtype != np.uint8:
        if not np.isfinite(values).all():
            raise MvfaError(f"{shown}: holds values that are not finite (NaN); replace them by numbers")
        values = windowed(values, window or _range_of_type(values, shown))
    return Image.fromarray(values).convert("RGB")


def _range_of_type(values: np.ndarray, shown: str) -> Window:
    low, high = float(values.min()), float(values.max())
    if np.issubdtype(values.dtype, np.floating):
        if low >= 0 and high <= 1:
            return 0.0, 1.0
    elif low >= 0 and high <= 65535:
        return 0.0, 65535.0
    raise MvfaError(f"{shown}: has values from {low:g} to {high:g}; give the window that is to be seen")


class RasterFile(ImageFile):
    """PNG, JPEG, TIFF (each page is a frame) and BMP."""

    def __init__(self, path: Path, shown: str, kind: str, window: Window | None):
        super().__init__(path, shown)
        self.kind, self.window = kind, window

    @classmethod
    def open_as(cls, kind: str, path: Path, shown: str, window: Window | None) -> "RasterFile":
        file = cls(path, shown, kind, window)
        with file._opened() as image:
            file.frames = getattr(image, "n_frames", 1) if kind == "TIFF" else 1
            if file.frames > MAX_FRAMES:
                raise MvfaError(f"{shown}: has {file.frames} pages, more than {MAX_FRAMES}; split it")
            if "transparency" in image.info or image.mode in ("LA", "PA", "RGBA", "La", "RGBa"):
                file.notes.append("transparency is ignored")
        return file

    def _opened(self) -> "_Guarded":
        return _Guarded(self)

    def frame(self, index: int = 0) -> Image.Image:
        with self._opened() as image:
            if index:
                image.seek(index)
                check_size(self.shown, *image.size)
            image.load()
            if image.mode.startswith(("I", "F")):
                return self._deep(np.asarray(image))
            return ImageOps.exif_transpose(image).convert("RGB")

    def _deep(self, values: np.ndarray) -> Image.Image:
        if self.window is None and values.dtype.kind in "iu" and 0 < values.max() < 4096:
            top = next(2**bits - 1 for bits in (8, 10, 12) if values.max() < 2**bits)
            note = (
                f"no value above {top}, so it looks dark; give the window 0 {top} if that is its full range"
            )
            self.notes = [*(n for n in self.notes if n != note), note]
        return from_array(values, self.window, self.shown)


class _Guarded:
    """The picture, with everything Pillow raises turned into one line."""

    def __init__(self, file: RasterFile):
        self.file = file

    def __enter__(self) -> Image.Image:
        self.stack = warnings.catch_warnings()
        self.stack.__enter__()
        warnings.simplefilter("ignore")
        try:
            # from memory: Pillow's reader of compressed TIFF holds on to a file it was given
            self.image = Image.open(io.BytesIO(self.file.path.read_bytes()), formats=[self.file.kind])
            check_size(self.file.shown, *self.image.size)
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        return self.image

    def __exit__(self, kind, error, trace) -> None:
        self.stack.__exit__(None, None, None)
        if isinstance(error, Image.DecompressionBombError):
            raise MvfaError(f"{self.file.shown}: has too many pixels; make it smaller") from None
        if isinstance(error, MemoryError):
            raise MvfaError(f"{self.file.shown}: does not fit into the memory; make it smaller") from None
        # a broken file provokes these and others in the decoders
        if isinstance(error, Exception) and not isinstance(error, MvfaError):
            reason = str(error).splitlines()[0][:100] if str(error) else type(error).__name__
            if "BytesIO" in reason:
                reason = "damaged, or of an unusual sample type"
            raise MvfaError(
                f"{self.file.shown}: not a readable image ({reason}); replace or remove it"
            ) from None


def read_picture(path: str | Path, window: Window | None = None, shown: str | None = None) -> Image.Image:
    """The only picture of a file, as RGB.

    Raises:
        MvfaError: as `open_image`, or there are several.
    """
    file = open_image(path, window, shown=shown)
    if file.frames != 1:
        raise MvfaError(
            f"{file.shown}: holds {file.frames} pictures; a data set needs each in a file of its own"
        )
    return file.frame()


def read_mask(path: str | Path, shown: str | None = None) -> np.ndarray:
    """(H, W) uint8 grey values of a mask; 0 is background, everything else abnormal.

    Raises:
        MvfaError: as `open_image`.
    """
    file = open_image(path, shown=shown)
    if not isinstance(file, RasterFile):
        return np.asarray(file.frame().convert("L"))
    with file._opened() as image:
        image.load()
        if not image.mode.startswith(("I", "F")):
            return np.asarray(ImageOps.exif_transpose(image).convert("L"))
        values = np.asarray(image)
        if not np.isfinite(values).all():
            raise MvfaError(f"{file.shown}: holds values that are not finite (NaN); replace them by 0")
        return np.where(values > 0, 255, 0).astype(np.uint8)
