"""Files that appear as a whole or not at all, whatever interrupts the writing."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from mvfa_core.errors import MvfaError


def write_through(path: str | Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file beside the target, then put that in its place in one step.

    Raises:
        MvfaError: the folder cannot be written to, or the disk is full; what was there before stays.
    """
    path = Path(path)
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(part)
        part.replace(path)
    except (OSError, ValueError) as error:
        with suppress(OSError, ValueError):
            part.unlink()
        reason = getattr(error, "strerror", None) or error
        raise MvfaError(f"{path}: cannot be written ({reason}); make room or choose another place") from None


def write_whole(path: str | Path, data: bytes) -> None:
    """`write_through` of bytes that are there already."""
    write_through(path, lambda part: part.write_bytes(data))


def write_text(path: str | Path, text: str) -> None:
    """`write_through` of a text, in UTF-8."""
    write_whole(path, text.encode("utf-8"))


def require_writable(folder: str | Path) -> None:
    """Make `folder` and try it, before hours of work end at its door.

    Raises:
        MvfaError: nothing can be written there.
    """
    probe = Path(folder) / ".mvfa-probe"
    write_whole(probe, b"")
    probe.unlink()
