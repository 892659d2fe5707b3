"""Files that appear as a whole or not at all, whatever interrupts the writing."""

import os
from contextlib import suppress
from pathlib import Path

from mvfa_core.errors import MvfaError


def write_whole(path: str | Path, data: bytes) -> None:
    """Write `data` beside the target first, then put it in its place in one step.

    Raises:
        MvfaError: the folder cannot be written to, or the disk is full; what was there before stays.
    """
    path = Path(path)
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(data)
        os.replace(part, path)
    except (OSError, ValueError) as error:
        with suppress(OSError, ValueError):
            part.unlink()
        reason = getattr(error, "strerror", None) or error
        raise MvfaError(f"{path}: cannot be written ({reason}); make room or choose another place") from None


def require_writable(folder: str | Path) -> None:
    """Make `folder` and try it, before hours of work end at its door.

    Raises:
        MvfaError: nothing can be written there.
    """
    probe = Path(folder) / ".mvfa-probe"
    write_whole(probe, b"")
    probe.unlink()
