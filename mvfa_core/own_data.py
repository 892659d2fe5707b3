"""A new data set becomes an entry of the parameter file, once every one of its files has been read."""

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import yaml

from mvfa_core.datasets import ImageDataset, ImageRecord
from mvfa_core.errors import MvfaError
from mvfa_core.formats import Window, read_mask
from mvfa_core.layout import has_masks
from mvfa_core.settings import NAME, DatasetEntry, Settings, load_settings
from mvfa_core.tables import read_table, safe_path
from mvfa_core.writing import write_text

# folders and rows of the results that a data set's own would collide with
TAKEN = ("data", "mean")
# a label map has a few values, a mask saved as JPEG has many
MASK_VALUES = 16


def add_dataset(
    params: str | Path,
    name: str,
    root: str | Path,
    organ: str,
    masks: bool | None = None,
    table: str | None = None,
    window: Window | None = None,
    progress: Callable[[Iterable[ImageRecord]], Iterable[ImageRecord]] = lambda records: records,
) -> tuple[DatasetEntry, dict[str, tuple[int, int]]]:
    """Check a data set and write its entry; nothing is written where anything is wrong.

    Args:
        params: the parameter file; its comments and everything else in it stay.
        name: how results call the data set.
        root: its folder.
        organ: what the prompts call what is seen.
        masks: whether there are masks; None: whether there is any.
        table: CSV file inside the folder; None: BMAD's folders.
        window: values that become black and white in files of more than 8 bits.
        progress: wraps the records while they are read.

    Returns:
        The entry, and (normal, abnormal) images of each split.

    Raises:
        MvfaError: the name is taken or not allowed, or something is wrong with the data.
    """
    params, root = Path(params), Path(root)
    settings = load_settings(params)
    _check_name(name, settings)
    organ = organ.strip()
    if not organ or not organ.isprintable() or set("{}") & set(organ):
        raise MvfaError("organ: give the words that prompts use for what is seen, without braces")
    base = params.resolve().parent
    if not root.is_dir():
        raise MvfaError(f"{root}: is no folder; give the one that holds the images")
    if masks is None:
        masks = has_masks(root) if table is None else _names_masks(root, table)
    entry = DatasetEntry(root=_shortest(root, base), organ=organ, masks=masks, table=table, window=window)
    counts = _check(ImageDataset(name, entry, base), settings, progress)
    write_text(params, with_entry(params, name, entry))
    return entry, counts


def _check_name(name: str, settings: Settings) -> None:
    if not NAME.fullmatch(name) or yaml.safe_load(name) != name:
        raise MvfaError(f"data set '{name:.40}': use letters, digits, - and _, starting with a letter")
    if name.lower() in TAKEN:
        raise MvfaError(f"data set '{name}': the results use this name themselves; choose another")
    if name.lower() in (other.lower() for other in settings.datasets):
        raise MvfaError(f"data set '{name}': is in the parameter file already; choose another name")


def _shortest(root: Path, base: Path) -> str:
    """Relative to the parameter file where it lies below its folder: then the project can move."""
    full = root.resolve()
    return full.relative_to(base).as_posix() if full.is_relative_to(base) else str(full)


def _names_masks(root: Path, table: str) -> bool:
    return any(row.mask for row in read_table(root / safe_path(table, "table"), table))


def _check(dataset: ImageDataset, settings: Settings, progress: Callable) -> dict[str, tuple[int, int]]:
    """Decode every image and mask, look for copies, count."""
    splits = {split: dataset.records(split) for split in ("valid", "test")}
    seen: dict[bytes, ImageRecord] = {}
    for record in progress([record for records in splits.values() for record in records]):
        dataset.load([record], image_size=16)
        if record.mask is not None:
            _check_mask(dataset, record)
        digest = hashlib.sha256(record.path.read_bytes()).digest()
        if digest in seen:
            raise MvfaError(f"{record.name} and {seen[digest].name} are the same image; remove one of them")
        seen[digest] = record
    counts = {}
    for split, records in splits.items():
        abnormal = sum(record.label for record in records)
        counts[split] = len(records) - abnormal, abnormal
    wanted, (normal, abnormal) = max(settings.few_shot.shots), counts["valid"]
    if min(normal, abnormal) < wanted:
        raise MvfaError(
            f"{dataset.name}: the valid split has {normal} normal and {abnormal} abnormal images, "
            f"few_shot.shots needs {wanted} of each; add images or lower it"
        )
    return counts


def _check_mask(dataset: ImageDataset, record: ImageRecord) -> None:
    shown = f"mask of {record.name}"
    values = np.unique(read_mask(record.mask, shown))
    if not values.any():
        raise MvfaError(f"{shown}: marks nothing; mend it, or label the image normal")
    if len(values) > MASK_VALUES:
        raise MvfaError(f"{shown}: has {len(values)} grey values; save it without loss, 0 and 255")


def with_entry(params: str | Path, name: str, entry: DatasetEntry) -> str:
    """The text of the parameter file with one more line, everything else as it was.

    Raises:
        MvfaError: `datasets` is not written as a block, so that there is no place for a line.
    """
    text = Path(params).read_bytes().decode("utf-8")
    values = {
        key: value for key, value in entry.model_dump(mode="json").items() if key in entry.model_fields_set
    }
    values = {key: value for key, value in values.items() if value is not None}
    inner = yaml.safe_dump(
        values, default_flow_style=True, sort_keys=False, width=float("inf"), allow_unicode=True
    )
    line = f"{name}: {{ {inner.strip()[1:-1]} }}"
    tree = yaml.compose(text, Loader=yaml.SafeLoader)
    node = next(value for key, value in tree.value if key.value == "datasets")
    refusal = MvfaError(f"{params}: 'datasets' is not a block of lines; add this by hand: {line}")
    if node.flow_style:
        raise refusal
    indent = node.value[0][0].start_mark.column
    lines = text.splitlines(keepends=True)
    at = _last_leaf(node).end_mark.line + 1
    ending = "\r\n" if lines[0].endswith("\r\n") else "\n"
    if not lines[at - 1].endswith(("\n", "\r")):
        lines[at - 1] += ending
    lines.insert(at, " " * indent + line + ending)
    result = "".join(lines)
    expected = yaml.safe_load(text)
    expected["datasets"][name] = values
    if yaml.safe_load(result) != expected:
        raise refusal
    return result


def _last_leaf(node: yaml.Node) -> yaml.Node:
    """The last scalar or bracketed value: a block itself ends only where something else begins."""
    while isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        node = last[1] if isinstance(last, tuple) else last
    return node
