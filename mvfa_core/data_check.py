"""What is in a BMAD-style folder, and what is wrong with it, before hours are spent on it.

Every file is decoded once and forgotten; of each image sixteen bytes are kept, its pixels' hash, by which
copies are found whatever their names and file formats.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from mvfa_core.errors import MvfaError
from mvfa_core.formats import is_image_name, read_mask, read_picture
from mvfa_core.layout import CLASSES, MASKS, SPLITS, WORDS, has_masks, images_of

SHOWN = 3


@dataclass(frozen=True)
class Published:
    """Images in a data set of BMAD as published, per split, and whether it has masks."""

    train: int
    valid: int
    test: int
    masks: bool


# Bao et al., "BMAD: Benchmarks for Medical Anomaly Detection", 2024
PUBLISHED = {
    "Brain": Published(7500, 83, 3715, masks=True),
    "Liver": Published(1542, 166, 1493, masks=True),
    "Retina_RESC": Published(4297, 115, 1805, masks=True),
    "Retina_OCT2017": Published(26315, 32, 968, masks=False),
    "Chest": Published(8000, 1490, 17194, masks=False),
    "Histopathology": Published(5088, 236, 1997, masks=False),
}


@dataclass
class Split:
    """Counts of one split; sizes are `240 x 240`, modes are Pillow's (`L`, `RGB`, ...)."""

    normal: int = 0
    abnormal: int = 0
    masks: int = 0
    sizes: Counter = field(default_factory=Counter)
    modes: Counter = field(default_factory=Counter)

    @property
    def images(self) -> int:
        return self.normal + self.abnormal


@dataclass
class Findings:
    """One data set. problems and notes: {what: names of the files}; only problems make it unclean."""

    name: str
    masks: bool
    splits: dict[str, Split] = field(default_factory=dict)
    problems: dict[str, list[str]] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)

    def problem(self, what: str, *names: str) -> None:
        if names:
            self.problems.setdefault(what, []).extend(names)

    def note(self, what: str, *names: str) -> None:
        if names:
            self.notes.setdefault(what, []).extend(names)

    def record(self) -> dict:
        """Everything as plain values, for JSON."""
        splits = {
            name: vars(split) | {"sizes": dict(split.sizes), "modes": dict(split.modes)}
            for name, split in self.splits.items()
        }
        return {"masks": self.masks, "splits": splits, "problems": self.problems, "notes": self.notes}


def find_data_sets(path: str | Path) -> dict[str, Path]:
    """Name -> folder: `path` itself where it has splits, else the folders below that have them.

    Raises:
        MvfaError: the folder is missing, or neither it nor a folder in it has a `valid` or a `test` split.
    """
    path = Path(path)
    if not path.is_dir():
        raise MvfaError(f"{path}: is no folder; give a data set or the folder that holds <Name>_AD folders")
    if _has_splits(path):
        return {_name(path.resolve()): path}
    found = {_name(folder): folder for folder in sorted(path.iterdir()) if _has_splits(folder)}
    if not found:
        raise MvfaError(f"{path}: holds no data set; expected <Name>_AD/valid/good/img and so on")
    return found


def _has_splits(folder: Path) -> bool:
    return (folder / "valid").is_dir() or (folder / "test").is_dir()


def _name(folder: Path) -> str:
    return folder.name.removesuffix("_AD")


def count_images(root: Path) -> int:
    """How many images `check_data_set` is going to read."""
    return sum(len(_images(root, split, label)[0]) for split in SPLITS for label in (0, 1))


def check_data_set(name: str, root: Path, advance: Callable[[], object] = lambda: None) -> Findings:
    """Read every file of a data set; `advance` is called after each image.

    Args:
        name: of the data set; one of BMAD's is compared with what was published.
        root: its folder, `<root>/{train,valid,test}/{good,Ungood}/{img,anomaly_mask}`.
        advance: for a progress bar.
    """
    known = PUBLISHED.get(name)
    masked = known.masks if known else has_masks(root)
    findings = Findings(name, masked)
    places: dict[bytes, list[str]] = defaultdict(list)
    for split in SPLITS:
        if not (root / split).is_dir():
            # the packs that MVFA's authors distribute have no train split, and nothing here needs it
            if split != "train":
                findings.problem(f"no {split} split", split)
            continue
        findings.splits[split] = Split()
        for label, kind in enumerate(CLASSES):
            _check_class(findings, root, split, label, places, advance)
            # a train split holds normal images alone
            if not getattr(findings.splits[split], WORDS[label]) and not (split == "train" and label):
                findings.problem("no images", f"{split}/{kind}/img")
    _note_copies(findings, places)
    if known:
        _compare(findings, known)
    return findings


def _images(root: Path, split: str, label: int) -> tuple[list[Path], list[Path]]:
    """Images of a class, sorted, and files there that are none; a train split may lack the `img` folder."""
    folder = images_of(root, split, label)
    if split == "train" and not folder.is_dir():
        folder = folder.parent
    files = sorted(p for p in folder.glob("*") if p.is_file() and not p.name.startswith("."))
    kinds: tuple[list[Path], list[Path]] = [], []
    for path in files:
        kinds[not is_image_name(path)].append(path)
    return kinds


def _check_class(
    findings: Findings, root: Path, split: str, label: int, places: dict, advance: Callable
) -> None:
    counts, kind, word = findings.splits[split], CLASSES[label], WORDS[label]
    images, others = _images(root, split, label)
    findings.note("not an image, ignored", *[f"{split}/{kind}/{path.name}" for path in others])
    folder = root / split / kind / MASKS
    masks = {path.name for path in folder.glob("*") if is_image_name(path)} if findings.masks else set()
    for path in images:
        shown = f"{split}/{kind}/{path.name}"
        setattr(counts, word, getattr(counts, word) + 1)
        try:
            picture = read_picture(path, shown=shown)
        except MvfaError as error:
            findings.problem("unreadable image", str(error))
            picture = None
        if picture is not None:
            counts.sizes[f"{picture.width} x {picture.height}"] += 1
            counts.modes[_mode(path)] += 1
            digest = hashlib.blake2b(picture.tobytes(), digest_size=16, salt=b"%dx%d" % picture.size)
            places[digest.digest()].append(shown)
        if path.name in masks:
            _check_mask(findings, counts, folder / path.name, label, picture)
        elif findings.masks and label:
            findings.problem("missing mask", f"{split}/{kind}/{MASKS}/{path.name}")
        advance()
    orphans = sorted(masks - {path.name for path in images})
    findings.problem("mask without image", *[f"{split}/{kind}/{MASKS}/{name}" for name in orphans])


def _check_mask(
    findings: Findings, counts: Split, path: Path, label: int, picture: Image.Image | None
) -> None:
    shown = "/".join(path.parts[-4:])
    counts.masks += 1
    try:
        mask = read_mask(path, shown)
    except MvfaError as error:
        findings.problem("unreadable mask", str(error))
        return
    if picture is not None and mask.shape[::-1] != picture.size:
        findings.problem("mask of another size than its image", shown)
    values = np.unique(mask)
    if len(values[values > 0]) > 1:
        findings.problem("mask with more than two values", shown)
    if label and not values.any():
        findings.problem("empty mask of an abnormal image", shown)
    if not label and values.any():
        findings.problem("marked mask of a normal image", shown)


def _mode(path: Path) -> str:
    try:
        with Image.open(path) as image:
            return image.mode
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError):
        return path.suffix.lstrip(".").lower() or "none"


def _note_copies(findings: Findings, places: dict[bytes, list[str]]) -> None:
    for copies in places.values():
        if len(copies) < 2:
            continue
        splits, kinds = ({name.split("/")[part] for name in copies} for part in (0, 1))
        where = "across splits" if len(splits) > 1 else "within a split"
        if {"valid", "test"} <= splits:
            where = "in valid and in test"
        what = f"same image {where}" + (", called normal and abnormal" if len(kinds) > 1 else "")
        findings.problem(what, " = ".join(copies))


def _compare(findings: Findings, known: Published) -> None:
    for split, counts in findings.splits.items():
        published = getattr(known, split)
        if counts.images != published:
            what = f"{split}: {counts.images} images, published {published} ({counts.images - published:+d})"
            findings.note("other size than published", what)


def describe(findings: Findings) -> list[str]:
    """The findings as lines; of long lists the first few names."""
    known = findings.name in PUBLISHED
    lines = [
        f"{findings.name} ({'with' if findings.masks else 'without'} masks{'' if known else ', not in BMAD'})"
    ]
    for name, split in findings.splits.items():
        kinds = ", ".join(f"{n} {kind}" for kind, n in split.modes.most_common())
        lines.append(
            f"  {name}: {split.normal} normal, {split.abnormal} abnormal, {split.masks} masks; "
            f"{_most(split.sizes)}; {kinds or 'nothing readable'}"
        )
    for title, found in (("PROBLEM", findings.problems), ("note", findings.notes)):
        for what, names in found.items():
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            lines.append(f"  {title}: {what}: {len(names)}: {'; '.join(names[:SHOWN])}{more}")
    return lines


def _most(sizes: Counter) -> str:
    common = [f"{size} px ({n})" for size, n in sizes.most_common(SHOWN)]
    rest = len(sizes) - len(common)
    return ", ".join(common) + (f" and {rest} other sizes" if rest else "") if common else "no sizes"
