"""Small DICOM and NIfTI files, with the fields of a patient who must not turn up anywhere."""

from pathlib import Path

import nibabel
import numpy as np
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

PATIENT = "Doe^Jane"
AFFINE = np.array([[0, 2, 0, 5], [-1.5, 0, 0, 3], [0, 0, 3, -7], [0, 0, 0, 1]], dtype=float)


def write_dicom(path: Path, pixels: np.ndarray, kind: str = "MONOCHROME2", **tags) -> Path:
    """(H, W), (frames, H, W) or (H, W, 3) unsigned or signed integers."""
    colour = kind in ("RGB", "YBR_FULL")
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = (
        CTImageStorage,
        generate_uid(entropy_srcs=["a"]),
    )
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data.PatientName, data.PatientID, data.PatientBirthDate = PATIENT, "ID-4711", "19700101"
    frames = 1 if colour or pixels.ndim == 2 else len(pixels)
    data.Rows, data.Columns = pixels.shape[:2] if colour or pixels.ndim == 2 else pixels.shape[1:3]
    if frames > 1:
        data.NumberOfFrames = frames
    data.PhotometricInterpretation = kind
    data.SamplesPerPixel = 3 if colour else 1
    if colour:
        data.PlanarConfiguration = 0
    bits = pixels.dtype.itemsize * 8
    data.BitsAllocated, data.BitsStored, data.HighBit = bits, bits, bits - 1
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    for name, value in tags.items():
        setattr(data, name, value)
    data.PixelData = np.ascontiguousarray(pixels).tobytes()
    pydicom.dcmwrite(path, data, enforce_file_format=True)
    return path


def write_nifti(path: Path, volume: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    image = nibabel.Nifti1Image(volume, affine)
    image.header["descrip"] = PATIENT
    image.header["db_name"] = b"ID-4711"
    nibabel.save(image, path)
    return path
