"""DICOM and NIfTI. Only pixels and geometry are read: nothing about a patient can reach an output."""

import gzip
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from mvfa_core.errors import MvfaError
from mvfa_core.formats import MAX_FRAMES, ImageFile, Window, check_size, from_array, windowed

MAX_VOXELS = 2**29
# of a picture whose file names no window; a few bright dots must not darken the rest
PERCENTILES = (0.5, 99.5)
DEFLATED = "1.2.840.10008.1.2.1.99"


def _need(module: str, shown: str):
    try:
        return __import__(module)
    except ImportError:
        raise MvfaError(f"{shown}: needs {module}; pip install 'mvfa-benchmark[clinical]'") from None


def _damaged(shown: str, kind: str, error: Exception) -> MvfaError:
    reason = str(error).splitlines()[0][:100] if str(error) else type(error).__name__
    return MvfaError(f"{shown}: not a readable {kind} file ({reason}); export it again, uncompressed")


class DicomFile(ImageFile):
    """One or many frames, grey or colour.

    Stored values -> rescale (slope, intercept or table) -> window -> 8 bits; MONOCHROME1 is inverted. The
    window is the one given, in rescaled units (HU in CT); else the file's first; else percentiles of the frame.
    """

    @classmethod
    def open(cls, path: Path, shown: str, window: Window | None) -> "DicomFile":
        pydicom = _need("pydicom", shown)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                meta = pydicom.filereader.read_file_meta_info(path)
                # it is unpacked as a whole before its size is known
                if meta.get("TransferSyntaxUID") == DEFLATED:
                    raise MvfaError(f"{shown}: is a deflated DICOM file; export it uncompressed")
                header = pydicom.dcmread(path, stop_before_pixels=True)
                rows, columns = int(header.get("Rows") or 0), int(header.get("Columns") or 0)
                frames = int(header.get("NumberOfFrames") or 1)
        except MvfaError:
            raise
        # a broken file provokes anything in the parser
        except Exception as error:
            raise _damaged(shown, "DICOM", error) from None
        if not (rows and columns):
            raise MvfaError(f"{shown}: is a DICOM file without an image; remove it")
        check_size(shown, columns, rows)
        if not 1 <= frames <= MAX_FRAMES:
            raise MvfaError(f"{shown}: claims {frames} frames; export it again")
        file = cls(path, shown, frames)
        file.header, file.window = header, window
        if str(header.get("BurnedInAnnotation", "")).upper() == "YES":
            file.notes.append("its pixels may show patient data: do not pass the overlay on")
        return file

    def frame(self, index: int = 0) -> Image.Image:
        from pydicom.pixels import apply_color_lut, pixel_array

        kind = str(self.header.get("PhotometricInterpretation", "MONOCHROME2"))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                stored = pixel_array(self.path, index=index)
                if kind == "PALETTE COLOR":
                    stored = apply_color_lut(stored, self.header)
                if stored.ndim == 3:
                    return _eight_bit_colour(stored, self.header, kind)
                values, window = self._windowed(stored, index)
        except MvfaError:
            raise
        except Exception as error:
            raise _damaged(self.shown, "DICOM", error) from None
        if not np.isfinite(values).all():
            raise MvfaError(f"{self.shown}: holds values that are not finite (NaN); export it again")
        pixels = windowed(values, window)
        return from_array(255 - pixels if kind == "MONOCHROME1" else pixels, shown=self.shown)

    def _windowed(self, stored: np.ndarray, index: int) -> tuple[np.ndarray, Window]:
        """Rescaled values of a grey frame and the window to look through."""
        from pydicom.pixels import apply_modality_lut, apply_voi

        rescale = self._group(index, "PixelValueTransformationSequence", "RescaleSlope")
        if rescale is self.header or rescale is None:
            values = apply_modality_lut(stored, self.header)
        else:
            values = stored * float(rescale.RescaleSlope) + float(rescale.get("RescaleIntercept", 0))
        values = np.asarray(values, dtype=np.float64)
        if self.window is not None:
            return values, self.window
        if "VOILUTSequence" in self.header:
            bits = int(self.header.VOILUTSequence[0].LUTDescriptor[2])
            return apply_voi(values.astype(np.int64), self.header).astype(np.float64), (0.0, 2.0**bits - 1)
        source = self._group(index, "FrameVOILUTSequence", "WindowWidth")
        if source is not None:
            return values, _window_of(source)
        self.notes = [*self.notes[:1], "the file names no window: percentiles of the frame were used"]
        return values, percentile_window(values)

    def _group(self, index: int, sequence: str, keyword: str):
        """Where `keyword` stands: the frame's own group, the one shared by all, or the file itself."""
        groups = list(self.header.get("PerFrameFunctionalGroupsSequence") or [])[index : index + 1]
        groups += list(self.header.get("SharedFunctionalGroupsSequence") or [])[:1]
        for group in groups:
            for item in group.get(sequence) or []:
                if item.get(keyword) is not None:
                    return item
        return self.header if self.header.get(keyword) is not None else None


def _first(value) -> float:
    return float(value[0] if hasattr(value, "__len__") and not isinstance(value, str) else value)


def _window_of(source) -> Window:
    """DICOM part 3, C.11.2.1.2 and C.11.2.1.3. The soft shoulders of SIGMOID become straight."""
    centre, width = _first(source.WindowCenter), _first(source.WindowWidth)
    if str(source.get("VOILUTFunction", "LINEAR")) == "LINEAR":
        centre, width = centre - 0.5, max(width - 1, 1e-6)
    width = max(width, 1e-6)
    return centre - width / 2, centre + width / 2


def _eight_bit_colour(values: np.ndarray, header, kind: str) -> Image.Image:
    """RGB of more than 8 bits keeps its upper ones; tables of colours have a depth of their own."""
    bits = int(header.get("BitsStored", 8))
    if kind == "PALETTE COLOR":
        bits = values.dtype.itemsize * 8
    if bits > 8:
        values = values >> (bits - 8)
    return Image.fromarray(np.ascontiguousarray(values.astype(np.uint8))).convert("RGB")


def percentile_window(values: np.ndarray) -> Window:
    """From the 0.5th to the 99.5th percentile; a picture of one value becomes black."""
    low, high = (float(v) for v in np.percentile(values, PERCENTILES))
    if high <= low:
        low, high = float(values.min()), float(values.max())
    return low, high if high > low else low + 1.0


class NiftiFile(ImageFile):
    """A volume, cut along an axis of its stored array; the first remaining axis runs to the right, the second up.

    Without a window, percentiles of the whole volume are used, so that its slices are looked at alike.
    """

    @classmethod
    def open(cls, path: Path, shown: str, window: Window | None, axis: int) -> "NiftiFile":
        nibabel = _need("nibabel", shown)
        if axis not in (0, 1, 2):
            raise MvfaError(f"axis: must be 0, 1 or 2, got {axis}")
        try:
            with warnings.catch_warnings(), _unpacked(path) as data:
                warnings.simplefilter("ignore")
                size = data.read(4)
                data.seek(0)
                first = 348 in (int.from_bytes(size, order) for order in ("little", "big"))
                image = (nibabel.Nifti1Image if first else nibabel.Nifti2Image).from_stream(data)
                header, shape = image.header, _checked_shape(image.header, shown)
                stored = np.asarray(image.dataobj.get_unscaled()).reshape(shape)
        except MvfaError:
            raise
        # a broken file provokes anything in the parser
        except Exception as error:
            raise _damaged(shown, "NIfTI", error) from None
        stored = stored.reshape(*shape, 1) if len(shape) == 2 else stored
        axis = 2 if len(shape) == 2 else axis
        file = cls(path, shown, stored.shape[axis], volume=True)
        file.stored, file.axis, file.header, file.shape = stored, axis, header, shape
        file.affine = image.affine
        # nibabel takes both out of the header it hands over
        file.slope, file.offset = float(image.dataobj.slope), float(image.dataobj.inter)
        if stored.dtype.kind == "f" and not np.isfinite(stored).all():
            raise MvfaError(f"{shown}: holds values that are not finite (NaN); replace them by numbers")
        rest = [n for i, n in enumerate(stored.shape) if i != axis]
        check_size(shown, *rest)
        file.window = window
        if window is None:
            file.notes.append("no window given: percentiles of the volume were used")
            low, high = percentile_window(stored)
            ends = low * file.slope + file.offset, high * file.slope + file.offset
            file.window = min(ends), max(ends)
        return file

    def frame(self, index: int = 0) -> Image.Image:
        values = np.take(self.stored, index, axis=self.axis).astype(np.float32) * self.slope + self.offset
        return from_array(windowed(np.rot90(values), self.window), shown=self.shown)

    def encode_map(self, maps: list[np.ndarray]) -> bytes:
        """A gzip-compressed NIfTI-1 volume: same shape, affine and units, and no other field of the header."""
        import nibabel

        volume = np.stack([np.rot90(m, -1) for m in maps], axis=self.axis).astype(np.float32)
        image = nibabel.Nifti1Image(volume.reshape(self.shape), self.affine)
        affine, code = self.header.get_qform(coded=True)
        image.set_qform(affine, int(code))
        affine, code = self.header.get_sform(coded=True)
        image.set_sform(affine, int(code))
        image.header["xyzt_units"] = self.header["xyzt_units"]
        return gzip.compress(image.to_bytes(), compresslevel=6, mtime=0)


def _unpacked(path: Path):
    """The file's content, gzip taken off where it is there; the name does not decide."""
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return gzip.open(path) if packed else path.open("rb")


def _checked_shape(header, shown: str) -> tuple[int, ...]:
    """Two or three axes, before any voxel is read. Which of several volumes is meant is the user's to say."""
    shape, kind = tuple(int(n) for n in header.get_data_shape()), header.get_data_dtype()
    while len(shape) > 2 and shape[-1] == 1:
        shape = shape[:-1]
    axes = " x ".join(map(str, shape))
    if len(shape) > 3 and min(shape) >= 1:
        count = int(np.prod(shape[3:], dtype=float))
        raise MvfaError(
            f"{shown}: holds {count} volumes ({axes}); save the one that is meant as a file of its own"
        )
    if len(shape) not in (2, 3) or min(shape) < 1 or kind.names or kind.kind not in "iuf":
        raise MvfaError(f"{shown}: is {axes} of {kind}; give a volume of plain numbers with 2 or 3 axes")
    if np.prod(shape, dtype=float) > MAX_VOXELS:
        raise MvfaError(f"{shown}: has more than {MAX_VOXELS / 1e6:.0f} million voxels; crop it")
    return shape
