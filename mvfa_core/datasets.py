"""Image folders in BMAD's layout, or any folder with a table -> tensors.

`<root>/{valid,test}/{good,Ungood}/{img,anomaly_mask}/*.{png,jpeg}`; an abnormal image and its mask share
the file name. A split is listed only when it is asked for, so that training never looks into `test`. A table
names the images of both splits, see `tables.py`; no image is opened before its split is asked for.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mvfa_core.errors import MvfaError
from mvfa_core.formats import SUFFIXES, read_mask, read_picture, to_square
from mvfa_core.layout import CLASSES, WORDS, images_of, mask_of
from mvfa_core.settings import DatasetEntry
from mvfa_core.tables import Row, read_table, safe_path, split_rows


@dataclass(frozen=True)
class ImageRecord:
    """One image file.

    name: what results call it: `<split>/<class>/<file>`, with a table `<split>/<class>/<path below the root>`.
    label: 0 normal, 1 abnormal.
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
            raise MvfaError(
                f"{entry.root}: folder of data set '{name}' is missing; fetch it or mend its root"
            )

    def records(self, split: str) -> list[ImageRecord]:
        """The images of `valid` or `test`, normal ones first, each class sorted by file name.

        Raises:
            MvfaError: a class has no image, or an image of a data set with masks has none.
        """
        return self._from_folders(split) if self.entry.table is None else self._from_table(split)

    def _from_folders(self, split: str) -> list[ImageRecord]:
        found = []
        for label, folder in enumerate(CLASSES):
            images = images_of(self.root, split, label)
            files = sorted(p for p in images.glob("*") if p.name.lower().endswith(SUFFIXES))
            if not files:
                raise MvfaError(
                    f"{self._shown(images)}: no {WORDS[label]} images; put some there ({', '.join(SUFFIXES)})"
                )
            for path in files:
                mask = None
                if label and self.entry.masks:
                    mask = self._existing_mask(mask_of(path), path.name)
                found.append(ImageRecord(f"{split}/{folder}/{path.name}", path, label, mask))
        return found

    @cached_property
    def _table(self) -> dict[str, list[Row]]:
        """Rows of the table, per split."""
        where = safe_path(self.entry.table, f"datasets.{self.name}.table")
        shown = self._shown(self.root / where)
        return split_rows(read_table(self.root / where, shown), self.entry.valid_share, shown)

    def _from_table(self, split: str) -> list[ImageRecord]:
        found, table = [], self._table
        shown = self._shown(self.root / self.entry.table)
        for label, folder in enumerate(CLASSES):
            rows = sorted((row for row in table[split] if row.label == label), key=lambda row: row.path)
            if not rows:
                raise MvfaError(f"{shown}: no {WORDS[label]} images in the split {split}; add some")
            for row in rows:
                mask = None
                if label and self.entry.masks:
                    if row.mask is None:
                        raise MvfaError(
                            f"{shown}, line {row.line}: has no mask; add it, or set masks: false for {self.name}"
                        )
                    mask = self._existing_mask(self.root / row.mask, row.path)
                found.append(ImageRecord(f"{split}/{folder}/{row.path}", self.root / row.path, label, mask))
        return found

    def _existing_mask(self, mask: Path, image: str) -> Path:
        if not mask.is_file():
            raise MvfaError(
                f"{self._shown(mask)}: mask of {image} is missing; add it, or set masks: false for {self.name}"
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
            image = read_picture(record.path, self.entry.window, self._shown(record.path))
            images.append(np.asarray(to_square(image, image_size)))
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
        mask = Image.fromarray(read_mask(record.mask, self._shown(record.mask)))
        if mask.size != expected:
            raise MvfaError(
                f"{self._shown(record.mask)}: mask is {mask.size[0]} x {mask.size[1]} px, "
                f"its image {expected[0]} x {expected[1]}; export both in one size"
            )
        return (np.asarray(to_square(mask, image_size, Image.Resampling.NEAREST)) > 0).astype(np.uint8)


def content_hash(records: Sequence[ImageRecord]) -> str:
    """First 16 hex digits of the SHA-256 over names and bytes of images and masks: provenance of a result."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(record.name.encode("utf-8", "surrogateescape"))
        for path in filter(None, (record.path, record.mask)):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
