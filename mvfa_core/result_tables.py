"""The two tables of a prediction, as CSV for people and as JSON for programs."""

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from mvfa_core.detector import Detector
from mvfa_core.journal import output_errors
from mvfa_core.writing import write_through

FIELDS = (
    "image",
    "frame",
    "score",
    "threshold",
    "decision",
    "percentile",
    "map",
    "overlay",
    "note",
)
NOTICE = "Research use only. Not a medical device."


def write_tables(
    output: Path,
    detector: Detector,
    names: Iterable[str],
    rows_of: Callable[[str], list[dict]],
    failed: list[str],
) -> None:
    """`results.csv` and `results.json`, row by row beside their places, then put there.

    Args:
        output: folder of the results.
        detector: what judged.
        names: the files in their order.
        rows_of: gives a file's rows.
        failed: a line for each file that could not be judged.

    Raises:
        OutputError: they cannot be written.
    """
    head = {
        "notice": NOTICE,
        "detector": {key: detector.about.get(key) for key in ("dataset", "method", "organ")},
        "rule": detector.rule,
        "threshold": detector.threshold,
        "map_range": list(detector.scale.span),
        "failed": failed,
    }
    if detector.rule == "false-alarm":
        head["false_alarm_rate"] = detector.false_alarm_rate

    def rows() -> Iterator[dict]:
        return (row for name in names for row in rows_of(name))

    def as_csv(file) -> None:
        table = csv.DictWriter(file, FIELDS, lineterminator="\n")
        table.writeheader()
        for row in rows():
            table.writerow({key: _harmless(value) for key, value in row.items()})

    def as_json(file) -> None:
        file.write(json.dumps(head, indent=1)[:-2] + ',\n "images": [')
        for number, row in enumerate(rows()):
            filled = {key: value for key, value in row.items() if value != ""}
            file.write(("," if number else "") + "\n  " + json.dumps(filled))
        file.write("\n ]\n}\n")

    for name, write in (("results.csv", as_csv), ("results.json", as_json)):
        with output_errors():
            write_through(output / name, partial(_fill, write))


def _fill(write: Callable, path: Path) -> None:
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        write(file)


def _harmless(value):
    """A name that a spreadsheet would take for a formula gets the folder it lies in."""
    return f"./{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
