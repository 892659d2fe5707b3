"""What a long run has finished, so that the next one goes on behind it."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mvfa_core.errors import MvfaError
from mvfa_core.writing import write_whole


class OutputError(MvfaError):
    """Nothing more can be written: going on to the next image would not help."""


@contextmanager
def output_errors() -> Iterator[None]:
    """What cannot be written in here ends the run."""
    try:
        yield
    except MvfaError as error:
        raise OutputError(str(error)) from None


def write_output(path: Path, data: bytes) -> None:
    with output_errors():
        write_whole(path, data)


class Journal:
    """Finished files, a line each; only the places of the lines are kept in memory."""

    def __init__(self, path: Path, signature: str):
        self.path = path
        self.places: dict[str, int] = {}
        if path.exists():
            self._read(signature)
        else:
            write_output(path, json.dumps({"detector": signature}).encode() + b"\n")

    def _read(self, signature: str) -> None:
        end = 0
        try:
            with self.path.open("rb") as file:
                for number, line in enumerate(file):
                    # the last line may have been cut off
                    if not line.endswith(b"\n"):
                        break
                    entry = json.loads(line)
                    if number == 0 and entry.get("detector") != signature:
                        raise MvfaError(
                            f"{self.path.parent}: holds unfinished results of another detector or other options; "
                            "choose another folder or delete it"
                        )
                    if number:
                        self.places[entry["name"]] = end
                    end += len(line)
            os.truncate(self.path, end)
        except (OSError, ValueError, KeyError, AttributeError):
            raise MvfaError(f"{self.path}: is damaged; delete it and start again") from None
        if not end:
            write_output(self.path, json.dumps({"detector": signature}).encode() + b"\n")

    def _entry(self, name: str) -> dict:
        with self.path.open("rb") as file:
            file.seek(self.places[name])
            return json.loads(file.readline())

    def rows_of(self, name: str, content: str) -> list[dict] | None:
        """Rows of a file that was done with this very content."""
        if name not in self.places:
            return None
        entry = self._entry(name)
        return entry["rows"] if entry["content"] == content else None

    def rows(self, name: str) -> list[dict]:
        return self._entry(name)["rows"]

    def append(self, name: str, content: str, rows: list[dict]) -> None:
        line = json.dumps({"name": name, "content": content, "rows": rows}).encode() + b"\n"
        try:
            with self.path.open("ab") as file:
                place = file.tell()
                try:
                    file.write(line)
                    file.flush()
                except OSError:
                    with suppress(OSError):
                        os.truncate(self.path, place)
                    raise
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written ({error.strerror}); make room") from None
        self.places[name] = place

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
