"""Saved tables as the report shows them: plain text in cells, whatever the names in them hold."""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from mvfa_core import report
from mvfa_core.errors import MvfaError

MAIN_TABLE = "image_auroc"


@dataclass(frozen=True)
class Table:
    """A saved table as it is shown: rows of plain text, and the endings it can be fetched in."""

    name: str
    title: str
    caption: str
    head: list[str]
    rows: list[list[str]]
    files: list[str]


def read_table(folder: Path, name: str, title: str = "", caption: str = "") -> Table:
    """The table `<name>.md` as `report.save_table` wrote it.

    Raises:
        MvfaError: it is missing or no table.
    """
    path = folder / f"{name}.md"
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
        head, _, *rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    except (OSError, ValueError):
        raise MvfaError(f"{path}: table is missing; run the compare stage") from None
    files = [ending for ending in ("csv", "md", "tex") if (folder / f"{name}.{ending}").is_file()]
    return Table(name, title or name, caption, head, rows, files)


def read_tables(folder: Path, site: Path) -> list[Table]:
    """The tables that exist, in reading order; their files are copied to `<site>/tables`.

    Raises:
        MvfaError: the main table is missing.
    """
    registry = report.TABLES
    wanted = [MAIN_TABLE, *(name for name in registry if name != MAIN_TABLE)]
    tables = [
        read_table(folder, name, *registry.get(name, ()))
        for name in wanted
        if name == MAIN_TABLE or (folder / f"{name}.md").is_file()
    ]
    (site / "tables").mkdir()
    for table in tables:
        for ending in table.files:
            shutil.copyfile(folder / f"{table.name}.{ending}", site / "tables" / f"{table.name}.{ending}")
    return tables


def split_cell(text: str) -> tuple[str, str]:
    """A cell's figure and what stands behind it, an interval in brackets and perhaps a mark.

    >>> split_cell("0.771 [0.726, 0.813]*"), split_cell("-")
    (('0.771', '[0.726, 0.813]*'), ('-', ''))
    """
    found = re.fullmatch(r"([+-]?\d+\.\d+\S*) (\[.+)", text)
    return (found[1], found[2]) if found else (text, "")
