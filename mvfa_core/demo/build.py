"""The demo benchmark on disk: six phantom data sets in BMAD's layout; contact sheets; a check for triviality.

Every image is drawn from its own seed sequence, so that any one can be redrawn alone and a larger benchmark
holds the smaller one. From the command line: `python -m mvfa_core.demo.build --root data/demo --seed 2026`.
"""

import argparse
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import laplace
from sklearn.metrics import roc_auc_score
from tqdm import tqdm

from mvfa_core.demo import brain, chest, histology, liver, retina

Picture = NDArray[np.uint8]

CLASSES = {False: "good", True: "Ungood"}
SPLITS = ("valid", "test")
JPEG_QUALITY = 90

# The one knob of each data set's difficulty: how plainly a lesion shows; above 1 plainer, below fainter. Set on
# a development seed (1000), never on the shipped one (2026).
DIFFICULTY = {
    "Brain": 2.0,
    "Liver": 3.5,
    "Retina_RESC": 1.5,
    "Retina_OCT2017": 2.5,
    "Chest": 3.0,
    "Histopathology": 3.0,
}


@dataclass(frozen=True)
class Phantom:
    """index: part of every seed, never to be changed; masks: if there are any; suffix: of image files."""

    index: int
    draw: Callable[..., tuple[Picture, Picture]]
    masks: bool
    suffix: str = ".png"


PHANTOMS = {
    "Brain": Phantom(0, brain.draw, masks=True),
    "Liver": Phantom(1, liver.draw, masks=True),
    "Retina_RESC": Phantom(2, partial(retina.draw, scanner="resc"), masks=True),
    "Retina_OCT2017": Phantom(3, partial(retina.draw, scanner="oct17"), masks=False, suffix=".jpeg"),
    "Chest": Phantom(4, chest.draw, masks=False, suffix=".jpeg"),
    "Histopathology": Phantom(5, histology.draw, masks=False, suffix=".jpeg"),
}


def draw_one(
    name: str,
    seed: int,
    split: str,
    abnormal: bool,
    index: int,
    size: int = 96,
    contrast: float | None = None,
) -> tuple[Picture, Picture]:
    """The `index`-th image of a class, (size, size[, 3]) uint8, and its mask (size, size) in {0, 255}.

    Args:
        name: a key of `PHANTOMS`.
        seed: of the whole benchmark.
        split: valid or test.
        abnormal: whether it holds a lesion.
        index: counted from 0 within split and class.
        size: side in pixels.
        contrast: how plainly the lesion shows; None: as `DIFFICULTY` says.
    """
    if name not in PHANTOMS:
        raise ValueError(f"name={name!r}: must be one of {', '.join(PHANTOMS)}")
    if split not in SPLITS:
        raise ValueError(f"split={split!r}: must be one of {', '.join(SPLITS)}")
    phantom = PHANTOMS[name]
    sequence = np.random.SeedSequence([seed, phantom.index, SPLITS.index(split), int(abnormal), index])
    contrast = DIFFICULTY[name] if contrast is None else contrast
    return phantom.draw(np.random.default_rng(sequence), size, abnormal, contrast)


def build_demo(
    root: Path,
    seed: int,
    size: int = 96,
    valid: int = 40,
    test: int = 200,
    datasets: Sequence[str] | None = None,
    difficulty: dict[str, float] | None = None,
) -> None:
    """Write `<root>/<Name>_AD/...`; each data set appears only when it is complete, in place of an older one.

    Args:
        root: the benchmark's folder; made if missing.
        seed: of the whole benchmark.
        size: side of the images in pixels.
        valid: images of each class in `valid`.
        test: images of each class in `test`.
        datasets: names to build; None: all six.
        difficulty: replaces entries of `DIFFICULTY`.
    """
    names = list(datasets or PHANTOMS)
    root = Path(root)
    root.mkdir(parents=True, exist_ok=True)
    contrast = DIFFICULTY | (difficulty or {})
    with tqdm(total=len(names) * 2 * (valid + test), unit="image") as progress:
        for name in names:
            progress.set_description(name)
            unfinished = root / f"{name}_AD.part"
            shutil.rmtree(unfinished, ignore_errors=True)
            for split, count in zip(SPLITS, (valid, test), strict=True):
                for abnormal in CLASSES:
                    for index in range(count):
                        image, mask = draw_one(name, seed, split, abnormal, index, size, contrast[name])
                        _save(unfinished / split, name, abnormal, index, image, mask)
                        progress.update()
            finished = root / f"{name}_AD"
            shutil.rmtree(finished, ignore_errors=True)
            unfinished.rename(finished)


def _save(folder: Path, name: str, abnormal: bool, index: int, image: Picture, mask: Picture) -> None:
    """One image, and its mask where the data set has masks, under the same file name."""
    phantom = PHANTOMS[name]
    path = folder / CLASSES[abnormal] / "img" / f"{index:03d}{phantom.suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    if phantom.suffix == ".jpeg":
        Image.fromarray(image).save(path, quality=JPEG_QUALITY, subsampling=0, optimize=True)
    else:
        Image.fromarray(image).save(path, optimize=True)
    if abnormal and phantom.masks:
        path = path.parent.parent / "anomaly_mask" / path.name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(path, optimize=True)


def contact_sheet(
    path: Path,
    seed: int,
    size: int = 96,
    rows: int = 3,
    columns: int = 12,
    datasets: Sequence[str] | None = None,
    outlines: bool = False,
    enlarge: int = 2,
) -> None:
    """PNG with `rows` rows for each data set, the left half normal, the right half abnormal.

    Args:
        path: file to write.
        seed: of the benchmark; the images are the first of its `test` split.
        size: side of one image in pixels.
        rows: per data set.
        columns: images in a row.
        datasets: names; None: all six.
        outlines: draw the border of each lesion's mask.
        enlarge: whole-number magnification.
    """
    half = columns // 2
    lines = []
    for name in datasets or PHANTOMS:
        for row in range(rows):
            cells = []
            for abnormal in CLASSES:
                for index in range(row * half, (row + 1) * half):
                    image, mask = draw_one(name, seed, "test", abnormal, index, size)
                    cells.append(_cell(image, mask, outlines, enlarge))
            lines.append(np.hstack(cells))
    Image.fromarray(np.vstack(lines)).save(path, optimize=True)


def _cell(image: Picture, mask: Picture, outlines: bool, enlarge: int) -> Picture:
    """One image of a contact sheet in RGB, enlarged, with its mask's border in orange if asked for."""
    image = image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)
    image, mask = (part.repeat(enlarge, 0).repeat(enlarge, 1) for part in (image, mask))
    if outlines:
        image[np.hypot(*np.gradient(mask.astype(float))) > 0] = (255, 110, 0)
    return image


TRIVIAL_SCORES: dict[str, Callable[[NDArray[np.floating]], float]] = {
    "mean": lambda image: float(image.mean()),
    "maximum": lambda image: float(image.max()),
    "deviation": lambda image: float(image.std()),
    "Laplacian": lambda image: float(np.square(laplace(image)).mean()),
}


def trivial_scores(root: Path, split: str = "test") -> dict[str, dict[str, float]]:
    """AUROC a of scores that see no anatomy, `{data set: {score: max(a, 1 - a)}}`, of all in `root`."""
    table = {}
    for folder in sorted(Path(root).glob("*_AD")):
        values, labels = [], []
        for abnormal, label in CLASSES.items():
            for path in sorted((folder / split / label / "img").iterdir()):
                image = np.asarray(Image.open(path).convert("L"), dtype=float)
                values.append([score(image) for score in TRIVIAL_SCORES.values()])
                labels.append(abnormal)
        aurocs = [roc_auc_score(labels, column) for column in zip(*values, strict=True)]
        table[folder.name.removesuffix("_AD")] = {
            score: round(float(max(a, 1 - a)), 3) for score, a in zip(TRIVIAL_SCORES, aurocs, strict=True)
        }
    return table


def tree_size(root: Path) -> int:
    """Bytes of all files below `root`."""
    return sum(path.stat().st_size for path in Path(root).rglob("*") if path.is_file())


def main(arguments: Iterable[str] | None = None) -> None:
    """Command line: build, then print size and trivial scores; or draw a contact sheet only."""
    parser = argparse.ArgumentParser(description="Draw the demo benchmark.")
    parser.add_argument(
        "--root", type=Path, required=True, help="folder of the benchmark, or the sheet's file"
    )
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--size", type=int, default=96, help="side of the images in pixels")
    parser.add_argument("--valid", type=int, default=40, help="images of each class in `valid`")
    parser.add_argument("--test", type=int, default=200, help="images of each class in `test`")
    parser.add_argument("--datasets", nargs="+", choices=list(PHANTOMS), help="default: all six")
    parser.add_argument("--sheet", action="store_true", help="write a contact sheet instead")
    parser.add_argument("--outlines", action="store_true", help="with masks outlined on the sheet")
    chosen = parser.parse_args(arguments)
    if chosen.sheet:
        contact_sheet(
            chosen.root, chosen.seed, chosen.size, datasets=chosen.datasets, outlines=chosen.outlines
        )
        return
    build_demo(chosen.root, chosen.seed, chosen.size, chosen.valid, chosen.test, chosen.datasets)
    print(f"{tree_size(chosen.root) / 1e6:.1f} MB")
    for name, scores in trivial_scores(chosen.root).items():
        print(f"{name:16}", "  ".join(f"{score} {auroc:.3f}" for score, auroc in scores.items()))


if __name__ == "__main__":
    main()
