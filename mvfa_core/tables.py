"""A CSV table of images -> rows, and rows -> splits. A patient is never in two splits.

Columns: `path` (below the data set's folder) and `label`; optional `mask`, `split` and `patient`. Others are ignored.
"""

import csv
import difflib
import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from mvfa_core.errors import MvfaError

REQUIRED = ("path", "label")
OPTIONAL = ("mask", "split", "patient")
LABELS = {"0": 0, "normal": 0, "good": 0, "false": 0, "1": 1, "abnormal": 1, "ungood": 1, "true": 1}
# images of a `train` split are left out, as in BMAD's folders
SPLITS = {"valid": "valid", "val": "valid", "validation": "valid", "test": "test", "train": None}


@dataclass(frozen=True)
class Row:
    """One image: its path below the folder, label 0 or 1, and what else the table says (None: nothing)."""

    path: str
    label: int
    mask: str | None
    split: str | None
    patient: str | None
    line: int


def read_table(file: Path, shown: str) -> list[Row]:
    """The rows of a table, with `,`, `;` or tabs between columns.

    Args:
        file: UTF-8, first line the names of the columns.
        shown: what messages call it.

    Raises:
        MvfaError: the file is unreadable; a column is missing; a label, a split or a path is not allowed; a path
            is there twice; a patient or a split is given in some lines only.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as handle:
            head = handle.readline()
            handle.seek(0)
            mark = max(",;\t", key=head.count)
            reader = csv.DictReader(handle, delimiter=mark, strict=True)
            names = {(name or "").strip().lower(): name for name in reader.fieldnames or []}
            _check_columns(names, shown)
            rows = [
                _row({key: row.get(names[key]) for key in names}, reader.line_num, shown) for row in reader
            ]
    except OSError as error:
        raise MvfaError(f"{shown}: cannot be read ({error.strerror}); check the path") from None
    except UnicodeDecodeError:
        raise MvfaError(f"{shown}: is not UTF-8 text; save it as CSV in UTF-8") from None
    except csv.Error as error:
        raise MvfaError(f"{shown}: is not valid CSV ({error}); export it again") from None
    if not rows:
        raise MvfaError(f"{shown}: names no image; add a line for each")
    _check_rows(rows, shown)
    return rows


def _check_columns(names: dict[str, str], shown: str) -> None:
    for wanted in REQUIRED:
        if wanted not in names:
            raise MvfaError(
                f"{shown}: has no column '{wanted}'; its first line must name {', '.join(REQUIRED)}"
            )
    for name in names:
        near = difflib.get_close_matches(name, OPTIONAL, n=1, cutoff=0.8)
        if near and name not in OPTIONAL and near[0] not in names:
            raise MvfaError(f"{shown}: column '{name}' is unknown; did you mean '{near[0]}'?")


def _row(given: dict[str, str | None], line: int, shown: str) -> Row:
    values = {key: (given.get(key) or "").strip() for key in (*REQUIRED, *OPTIONAL)}
    where = f"{shown}, line {line}"
    label = LABELS.get(values["label"].lower())
    if label is None:
        raise MvfaError(f"{where}: label is '{values['label']:.20}'; write 0 or normal, 1 or abnormal")
    split = values["split"].lower() or None
    if split is not None and split not in SPLITS:
        raise MvfaError(f"{where}: split is '{values['split']:.20}'; write valid or test")
    mask = safe_path(values["mask"], where) if values["mask"] else None
    return Row(safe_path(values["path"], where), label, mask, split, values["patient"] or None, line)


def safe_path(text: str, where: str) -> str:
    """A path that stays below the folder it starts from.

    Raises:
        MvfaError: it is empty, absolute, has `..` in it, or is written with backslashes.
    """
    path = PurePosixPath(text)
    if not text or "\0" in text or path == PurePosixPath("."):
        raise MvfaError(f"{where}: has no path; name the image's file")
    if "\\" in text or PureWindowsPath(text).drive:
        raise MvfaError(
            f"{where}: '{text:.60}' is a Windows path; write folder/file with / and without a drive"
        )
    if path.is_absolute() or ".." in path.parts:
        raise MvfaError(f"{where}: '{text:.60}' leads out of the data set's folder; write a path below it")
    return str(path)


def _check_rows(rows: Sequence[Row], shown: str) -> None:
    first: dict[str, int] = {}
    for row in rows:
        if row.path in first:
            raise MvfaError(
                f"{shown}, line {row.line}: '{row.path}' is there already in line {first[row.path]}; keep one"
            )
        first[row.path] = row.line
    for column in ("split", "patient"):
        empty = [row for row in rows if getattr(row, column) is None]
        if 0 < len(empty) < len(rows):
            raise MvfaError(
                f"{shown}, line {empty[0].line}: has no {column}; fill the column or leave it out"
            )


def split_rows(rows: Sequence[Row], valid_share: float, shown: str) -> dict[str, list[Row]]:
    """Rows of `valid` and of `test`: as the table says, else drawn by patient, else by image.

    Which patients go to `valid` follows from a hash of their names, within patients with and without an abnormal
    image: the same table gives the same splits everywhere.

    Raises:
        MvfaError: a patient is in both splits, or there are too few to make two splits.
    """
    result: dict[str, list[Row]] = {"valid": [], "test": []}
    if rows[0].split is not None:
        for row in rows:
            if SPLITS[row.split]:
                result[SPLITS[row.split]].append(row)
        shared = {row.patient for row in result["valid"]} & {row.patient for row in result["test"]} - {None}
        if shared:
            raise MvfaError(
                f"{shown}: patient '{min(shared):.40}' is in valid and in test; move all images to one"
            )
        return result
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.patient or row.path].append(row)
    for abnormal in (False, True):
        names = [name for name, found in groups.items() if any(row.label for row in found) == abnormal]
        what = f"{'patients' if rows[0].patient else 'images'} {'with' if abnormal else 'without'} a finding"
        if len(names) == 1:
            raise MvfaError(
                f"{shown}: only one of the {what}; two splits need at least 2, or a column 'split'"
            )
        names.sort(key=lambda name: hashlib.sha256(name.encode()).hexdigest())
        count = min(max(round(valid_share * len(names)), 1), len(names) - 1)
        for number, name in enumerate(names):
            result["valid" if number < count else "test"] += groups[name]
    return result
