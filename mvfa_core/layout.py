"""BMAD's folders: `<root>/{train,valid,test}/{good,Ungood}/{img,anomaly_mask}/<file>`."""

from pathlib import Path

# the folder of each label, 0 and 1, and the word that people read
CLASSES = ("good", "Ungood")
WORDS = ("normal", "abnormal")
SPLITS = ("train", "valid", "test")
MASKS = "anomaly_mask"


def images_of(root: Path, split: str, label: int) -> Path:
    """The folder of a split's images of one label."""
    return root / split / CLASSES[label] / "img"


def mask_of(image: Path) -> Path:
    """Where the mask of an image belongs; they share the file name."""
    return image.parent.parent / MASKS / image.name


def has_masks(root: Path) -> bool:
    """Whether any abnormal image of any split seems to have one."""
    return any(not path.name.startswith(".") for path in root.glob(f"*/{CLASSES[1]}/{MASKS}/*"))
