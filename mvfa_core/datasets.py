"""Image folders in BMAD's layout -> tensors.

`<root>/{valid,test}/{good,Ungood}/{img,anomaly_mask}/*.{png,jpeg}`; an abnormal image and its mask share
the file name. A split is listed only when it is asked for, so that training never looks into `test`.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from mvfa_core.errors import MvfaError
from mvfa_core.settings import DatasetEntry

SUFFIXES = (".png", ".jpeg", ".jpg", ".bmp", ".tif", ".tiff")
CLASSES = {"good": 0, "Ungood": 1}


@dataclass(frozen=True)
class ImageRecord:
    """One image file.

    name: `<split>/<class>/<file>`, what results call it. label: 0 normal, 1 abnormal.
    mask: the mask's file, None for normal images and data sets without masks.
    """

    name: str
    path: Path
    label: int
    mask: Path | None


@dataclass
class ImageBatch:
    """images (N, 3, S, S) uint8; labels (N,) float32 in {0, 1}; masks (N, S, S) uint8 in {0, 1} or None."""

    images: Tensor
    labels: Tensor
    masks: Tensor | None

    def __len__(self) -> int:
        return len(self.labels)

    def scaled(self) -> Tensor:
        """Images as float32 in [0, 1]."""
        return self.images.float() / 255


class ImageDataset:
    """A data set of `params.yaml`, opened.

    Args:
        name: how results call it.
        entry: its settings.
        base: the folder that a relative `entry.root` starts from.
    """

    def __init__(self, name: str, entry: DatasetEntry, base: str | Path = "."):
        self.name = name
        self.entry = entry
        self.root = Path(base) / entry.root
        if not self.root.is_dir():
            raise MvfaError(f"{entry.root}: folder of data set '{name}' is missing; fetch it or mend its root")

    def records(self, split: str) -> list[ImageRecord]:
        """The images of `valid` or `test`, normal ones first, each class sorted by file name.

        Raises:
            MvfaError: a class has no image, or an image of a data set with masks has none.
        """
        found = []
        for folder, label in CLASSES.items():
            images = self.root / split / folder / "img"
            files = sorted(p for p in images.glob("*") if p.suffix.lower() in SUFFIXES)
            if not files:
                kind = "abnormal" if label else "normal"
                raise MvfaError(f"{self._shown(images)}: no {kind} images; put some there ({', '.join(SUFFIXES)})")
            for path in files:
                mask = self._mask_of(path) if label and self.entry.masks else None
                found.append(ImageRecord(f"{split}/{folder}/{path.name}", path, label, mask))
        return found

    def _mask_of(self, image: Path) -> Path:
        mask = image.parent.parent / "anomaly_mask" / image.name
        if not mask.is_file():
            raise MvfaError(
                f"{self._shown(mask)}: mask of {image.name} is missing; add it, or set masks: false for {self.name}"
            )
        return mask

    def _shown(self, path: Path) -> str:
        return str(Path(self.entry.root) / path.relative_to(self.root))

    def load(self, records: Sequence[ImageRecord], image_size: int) -> ImageBatch:
        """Decode, resize (images bicubic, masks nearest, to a square) and stack.

        Raises:
            MvfaError: a file cannot be read, or a mask and its image differ in size.
        """
        images, masks = [], []
        for record in records:
            image = self._open(record.path)
            images.append(np.asarray(_to_square(image.convert("RGB"), image_size, Image.Resampling.BICUBIC)))
            if self.entry.masks:
                masks.append(self._load_mask(record, image.size, image_size))
        return ImageBatch(
            torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(),
            torch.tensor([float(record.label) for record in records]),
            torch.from_numpy(np.stack(masks)) if masks else None,
        )

    def manifest(self, split: str) -> dict:
        """Counts and a SHA-256 of every file of a split, each image and mask having been decoded.

        Raises:
            MvfaError: as `records` and `load` do.
        """
        records = self.records(split)
        for record in records:
            self.load([record], image_size=16)
        return {
            "dataset": self.name,
            "split": split,
            "normal": sum(record.label == 0 for record in records),
            "abnormal": sum(record.label == 1 for record in records),
            "files": {record.name: content_hash([record]) for record in records},
        }

    def _load_mask(self, record: ImageRecord, expected: tuple[int, int], image_size: int) -> np.ndarray:
        if record.mask is None:
            return np.zeros((image_size, image_size), dtype=np.uint8)
        mask = self._open(record.mask).convert("L")
        if mask.size != expected:
            raise MvfaError(
                f"{self._shown(record.mask)}: mask is {mask.size[0]} x {mask.size[1]} px, "
                f"its image {expected[0]} x {expected[1]}; export both in one size"
            )
        return (np.asarray(_to_square(mask, image_size, Image.Resampling.NEAREST)) > 0).astype(np.uint8)

    def _open(self, path: Path) -> Image.Image:
        try:
            image = Image.open(path)
            image.load()
        except (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            reason = str(error).splitlines()[0].replace(str(path), path.name) if str(error) else "unreadable"
            raise MvfaError(f"{self._shown(path)}: not a readable image ({reason}); replace or remove it") from None
        return image


def _to_square(image: Image.Image, size: int, how: Image.Resampling) -> Image.Image:
    return image if image.size == (size, size) else image.resize((size, size), how)


def content_hash(records: Sequence[ImageRecord]) -> str:
    """First 16 hex digits of the SHA-256 over names and bytes of images and masks: provenance of a result."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(record.name.encode())
        for path in filter(None, (record.path, record.mask)):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
