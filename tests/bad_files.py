"""Files that must not be taken for images, each written by a small function; `BAD` names the message they get."""

import gzip
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pydicom
from clinical_files import write_dicom, write_nifti
from PIL import Image
from standins import trapped_pickle

Writer = Callable[[Path], object]
GREY = np.random.default_rng(0).integers(0, 255, (32, 40), dtype=np.uint8)
DEEP = (GREY.astype(np.uint16) << 4) + 3
VOLUME = np.random.default_rng(1).integers(0, 900, (20, 20, 9)).astype(np.int16)


def raw(data: bytes) -> Writer:
    return lambda path: path.write_bytes(data)


def encoded(kind: str, image: Image.Image | None = None) -> bytes:
    import io

    buffer = io.BytesIO()
    (image or Image.fromarray(GREY)).save(buffer, kind)
    return buffer.getvalue()


def cut(kind: str, share: float) -> Writer:
    data = encoded(kind)
    return raw(data[: int(len(data) * share)])


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, data: bytes = b"", bits: int = 8, extra: bytes = b"") -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(data, 9)) + chunk(b"IEND", b"")
    )


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :]


def sized(width: int, height: int, kind: str = "PNG") -> Writer:
    return raw(encoded(kind, Image.new("L", (width, height), 9)))


def tiff(values: np.ndarray) -> Writer:
    return lambda path: Image.fromarray(values).save(path, "TIFF")


def with_value(value: float) -> np.ndarray:
    values = np.full((20, 20), 0.5, dtype=np.float32)
    values[3, 3] = value
    return values


def tiff_header(entries: list[tuple[int, int, int]], following: int = 0) -> bytes:
    """A little-endian TIFF of one directory: (tag, kind, value) each of one number."""
    body = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + body + struct.pack("<I", following) + b"\0" * 64


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../../evil.png", encoded("PNG"))


# --- DICOM ----------------------------------------------------------------------------------------------


def dicom(pixels: np.ndarray = DEEP, kind: str = "MONOCHROME2", **tags) -> Writer:
    return lambda path: write_dicom(path, pixels, kind, **tags)


def dicom_cut(keep: int) -> Writer:
    def write(path: Path) -> None:
        data = write_dicom(path, DEEP).read_bytes()
        path.write_bytes(data[:keep])

    return write


def dicom_syntax(uid: str) -> Writer:
    """Pixels that the file says are stored in another way; pydicom does deflate where it is told to."""

    def write(path: Path) -> None:
        write_dicom(path, DEEP)
        data = pydicom.dcmread(path)
        data.file_meta.TransferSyntaxUID = pydicom.uid.UID(uid)
        if uid not in (pydicom.uid.DeflatedExplicitVRLittleEndian,):
            data.PixelData = pydicom.encaps.encapsulate([b"\0" * 64])
            data["PixelData"].is_undefined_length = True
        pydicom.dcmwrite(path, data)

    return write


def dicom_without(*names: str) -> Writer:
    def write(path: Path) -> None:
        write_dicom(path, DEEP)
        data = pydicom.dcmread(path)
        for name in names:
            delattr(data, name)
        pydicom.dcmwrite(path, data)

    return write


# --- NIfTI ----------------------------------------------------------------------------------------------


def nifti(volume: np.ndarray = VOLUME) -> Writer:
    return lambda path: write_nifti(path, volume)


def nifti_cut(keep: int, packed: bool = False) -> Writer:
    def write(path: Path) -> None:
        image = nibabel.Nifti1Image(VOLUME, np.eye(4))
        data = gzip.compress(image.to_bytes()) if packed else image.to_bytes()
        path.write_bytes(data[:keep])

    return write


def nifti_header(place: int, value: bytes, packed: bool = False) -> Writer:
    def write(path: Path) -> None:
        data = bytearray(nibabel.Nifti1Image(VOLUME, np.eye(4)).to_bytes())
        data[place : place + len(value)] = value
        path.write_bytes(gzip.compress(bytes(data)) if packed else bytes(data))

    return write


def loop(path: Path) -> None:
    path.symlink_to(path.name)


RGB_TYPE = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
BOMB_ROWS = png(10_000, 10_000, b"\0" * (1251 * 10_000), bits=1)

BAD: dict[str, tuple[str, Writer, str]] = {
    # what: (file name, how to write it, a part of the message)
    "zero bytes": ("a.png", raw(b""), "is empty"),
    "one byte": ("a.png", raw(b"\x89"), "not a readable image"),
    "text": ("a.png", raw(b"this is text"), "not a readable image"),
    "web page": ("a.jpg", raw(b"<!DOCTYPE html><html>404</html>"), "not a readable image"),
    "git-lfs pointer": (
        "a.png",
        raw(b"version https://git-lfs.github.com/spec/v1\n"),
        "not a readable image",
    ),
    "zip": ("a.png", zipped, "not a readable image"),
    "zeros": ("a.png", raw(b"\0" * 5000), "not a readable image"),
    "pickle": (
        "a.png",
        lambda path: path.write_bytes(trapped_pickle(path.with_name("trap"))),
        "not a readable",
    ),
    "GIF": ("a.gif.png", raw(encoded("GIF")), "neither PNG"),
    "WebP": ("a.png", raw(encoded("WEBP")), "neither PNG"),
    "EPS": ("a.png", raw(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "neither PNG"),
    "SVG": ("a.png", raw(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), "neither PNG"),
    "PNG, half": ("a.png", cut("PNG", 0.5), "not a readable image"),
    "PNG, almost whole": ("a.png", cut("PNG", 0.95), "not a readable image"),
    "PNG, signature alone": ("a.png", raw(b"\x89PNG\r\n\x1a\n"), "not a readable image"),
    "PNG, wrong checksum": ("a.png", raw(flipped(encoded("PNG"), 20)), "not a readable image"),
    "PNG, other data": ("a.png", raw(png(32, 32, b"\0" * 20)), "not a readable image"),
    "PNG, no width": ("a.png", raw(png(0, 32)), "a.png"),
    "PNG, bomb by its header": ("a.png", raw(png(60_000, 60_000)), "make it smaller"),
    "PNG, bomb of zeros": ("a.png", raw(BOMB_ROWS), "make it smaller"),
    "PNG, largest numbers": ("a.png", raw(png(2**31 - 1, 2**31 - 1)), "make it smaller"),
    "PNG, bomb in its text": (
        "a.png",
        raw(png(32, 32, b"\0" * 33 * 32, extra=chunk(b"zTXt", b"t\0\0" + zlib.compress(b"x" * 2**26)))),
        "not a readable image",
    ),
    "JPEG, half": ("a.jpg", cut("JPEG", 0.5), "not a readable image"),
    "JPEG, start alone": ("a.jpg", raw(b"\xff\xd8\xff\xe0"), "not a readable image"),
    "JPEG, bomb by its header": (
        "a.jpg",
        raw(encoded("JPEG").replace(struct.pack(">HH", 32, 40), struct.pack(">HH", 65_000, 65_000), 1)),
        "make it smaller",
    ),
    "TIFF, half": ("a.tif", cut("TIFF", 0.5), "not a readable image"),
    "TIFF, header alone": ("a.tif", raw(b"II*\0\x08\0\0\0"), "not a readable image"),
    "TIFF, directory beyond the end": ("a.tif", raw(b"II*\0\xff\xff\xff\x7f" + b"\0" * 50), "not a readable"),
    "TIFF, empty directory": ("a.tif", raw(tiff_header([])), "a.tif"),
    "TIFF, bomb by its header": (
        "a.tif",
        raw(
            tiff_header(
                [(256, 4, 60_000), (257, 4, 60_000), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 8)]
            )
        ),
        "make it smaller",
    ),
    "TIFF, NaN": ("a.tif", tiff(with_value(np.nan)), "not finite"),
    "TIFF, infinite": ("a.tif", tiff(with_value(-np.inf)), "not finite"),
    "TIFF, values above 1": ("a.tif", tiff(with_value(300)), "give the window"),
    "TIFF, negative values": ("a.tif", tiff(with_value(-0.1)), "give the window"),
    "TIFF, negative integers": ("a.tif", tiff(np.full((20, 20), -5, dtype=np.int32)), "give the window"),
    "TIFF, large integers": ("a.tif", tiff(np.full((20, 20), 70_000, dtype=np.int32)), "give the window"),
    "BMP, half": ("a.bmp", cut("BMP", 0.5), "not a readable image"),
    "BMP, two letters": ("a.bmp", raw(b"BM"), "not a readable image"),
    "BMP, bomb by its header": (
        "a.bmp",
        raw(encoded("BMP").replace(struct.pack("<II", 40, 32), struct.pack("<II", 65_000, 65_000), 1)),
        "make it smaller",
    ),
    "one pixel": ("a.png", sized(1, 1), "is 1 x 1 px, too small"),
    "seven pixels": ("a.png", sized(7, 7), "too small"),
    "a line": ("a.png", sized(1000, 1), "too small"),
    "a strip": ("a.png", sized(8, 161), "crop it"),
    "a long strip": ("a.jpg", sized(20_000, 9, "JPEG"), "crop it"),
    "DICOM, cut in the header": ("a.dcm", dicom_cut(250), "a.dcm"),
    "DICOM, mark alone": ("a.dcm", raw(b"\0" * 128 + b"DICM"), "a.dcm"),
    "DICOM, mark and noise": ("a.dcm", raw(b"\0" * 128 + b"DICM" + bytes(range(256))), "a.dcm"),
    "DICOM, cut in the pixels": ("a.dcm", dicom_cut(-500), "a.dcm"),
    "DICOM, no rows": ("a.dcm", dicom(Rows=0), "without an image"),
    "DICOM, no pixels": ("a.dcm", dicom_without("PixelData"), "a.dcm"),
    "DICOM, no image": ("a.dcm", dicom_without("PixelData", "Rows", "Columns"), "without an image"),
    "DICOM, bomb by its header": ("a.dcm", dicom(Rows=65_535, Columns=65_535), "make it smaller"),
    "DICOM, more frames than pixels": ("a.dcm", dicom(NumberOfFrames=50), "a.dcm"),
    "DICOM, negative frames": ("a.dcm", dicom(NumberOfFrames=-1), "claims -1 frames"),
    "DICOM, a million frames": ("a.dcm", dicom(NumberOfFrames=1_000_000), "claims 1000000 frames"),
    "DICOM, odd bits": ("a.dcm", dicom(BitsAllocated=7), "not a readable DICOM"),
    "DICOM, unknown colours": ("a.dcm", dicom(kind="MONOCHROME7"), "a.dcm"),
    "DICOM, slope is no number": ("a.dcm", dicom(RescaleSlope="NaN", RescaleIntercept=0), "a.dcm"),
    "DICOM, deflated": ("a.dcm", dicom_syntax("1.2.840.10008.1.2.1.99"), "deflated"),
    "DICOM, video": ("a.dcm", dicom_syntax("1.2.840.10008.1.2.4.102"), "uncompressed"),
    "DICOM, broken JPEG": ("a.dcm", dicom_syntax("1.2.840.10008.1.2.4.50"), "uncompressed"),
    "DICOM, broken JPEG-LS": ("a.dcm", dicom_syntax("1.2.840.10008.1.2.4.80"), "uncompressed"),
    "DICOM, broken RLE": ("a.dcm", dicom_syntax("1.2.840.10008.1.2.5"), "uncompressed"),
    "NIfTI, header alone": ("a.nii", nifti_cut(352), "not a readable NIfTI"),
    "NIfTI, cut": ("a.nii", nifti_cut(2000), "not a readable NIfTI"),
    "NIfTI, packed and cut": ("a.nii.gz", nifti_cut(2000, packed=True), "not a readable NIfTI"),
    "NIfTI, packed text": ("a.nii.gz", raw(gzip.compress(b"text")), "a.nii.gz"),
    "NIfTI, packing damaged": ("a.nii.gz", raw(b"\x1f\x8b" + bytes(range(200))), "a.nii.gz"),
    "NIfTI, four axes": ("a.nii", nifti(np.zeros((20, 20, 3, 4), dtype=np.int16)), "holds 4 volumes"),
    "NIfTI, header of a pair": ("a.hdr", nifti_header(344, b"ni1"), "save both as one"),
    "NIfTI, colours": ("a.nii", nifti(np.zeros((20, 20, 9), dtype=RGB_TYPE)), "plain numbers"),
    "NIfTI, complex": ("a.nii", nifti(np.zeros((20, 20, 9), dtype=np.complex64)), "plain numbers"),
    "NIfTI, NaN": ("a.nii", nifti(np.full((20, 20, 9), np.nan, dtype=np.float32)), "not finite"),
    "NIfTI, bomb by its header": ("a.nii.gz", nifti_header(42, b"\x30\x75" * 3, packed=True), "crop it"),
    "NIfTI, negative axis": ("a.nii", nifti_header(42, b"\xff\xff"), "a.nii"),
    "NIfTI, unknown numbers": ("a.nii", nifti_header(70, b"\x63\x00"), "a.nii"),
    "NIfTI, nine axes": ("a.nii", nifti_header(40, b"\x09\x00"), "a.nii"),
    "NIfTI, data far away": ("a.nii", nifti_header(108, struct.pack("<f", 1e9)), "a.nii"),
    "NIfTI, thin slices": ("a.nii", nifti(np.zeros((4, 20, 9), dtype=np.int16)), "too small"),
    "link to itself": ("a.png", loop, "cannot be read"),
    "link to nowhere": ("a.png", lambda path: path.symlink_to("none.png"), "cannot be read"),
    "reading fails": ("a.png", lambda path: path.symlink_to("/proc/self/mem"), "cannot be read"),
    "pipe": ("a.png", os.mkfifo, "is no file"),
    "device": ("a.png", lambda path: path.symlink_to("/dev/zero"), "is no file"),
}
