"""A file or a folder of images -> a folder of results, in constant memory, resumable at any moment.

    OUT/results.csv, OUT/results.json    a row a picture: score, threshold, decision, percentile, files
    OUT/maps/<image>.png                 anomaly map, 16 bits, size of the image (NIfTI: <image>.nii.gz)
    OUT/overlays/<image>.png             the image with its map over it

What is done is kept in `OUT/.journal.jsonl`, a line a file, until the tables are written. A second run finds it there,
goes on behind it, and ends with the same bytes as a run that nobody disturbed.
"""

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from mvfa_core.detector import Detector
from mvfa_core.errors import MvfaError
from mvfa_core.export import describe
from mvfa_core.formats import ImageFile, Window, is_image_name, open_image, printable
from mvfa_core.journal import Journal, OutputError, write_output
from mvfa_core.layout import MASKS
from mvfa_core.overlays import map_png, overlay_png, resize_map
from mvfa_core.result_tables import FIELDS, write_tables
from mvfa_core.writing import require_writable

# what decoders warn of is muted by Python's list of filters, which threads share
_DECODING = Lock()


@dataclass(frozen=True)
class Found:
    """An image file: where it is, and what results call it (its path below the folder that was given)."""

    path: Path
    name: str


@dataclass
class Summary:
    """done: judged files. kept: of these, from an earlier run that was interrupted. bad: one line a file."""

    done: int = 0
    kept: int = 0
    pictures: int = 0
    abnormal: int = 0
    bad: list[str] | None = None


def _of_interest(name: str) -> bool:
    """Masks of BMAD's layout are no images to judge, and hidden files are not the user's."""
    return not name.startswith(".") and name != MASKS


def find_images(source: str | Path, leave_out: str | Path | None = None) -> list[Found]:
    """The file itself, or the images below a folder, sorted by name. Links to folders are not followed.

    Args:
        source: file or folder.
        leave_out: a folder not to look into, the results of this or an earlier run.

    Raises:
        MvfaError: there is nothing, or no image among it.
    """
    source = Path(source)
    try:
        if not source.is_dir():
            source.stat()
            return [Found(source, source.name)]
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "bad name"
        raise MvfaError(f"{source}: cannot be read ({reason}); check the path") from None
    found: list[Found] = []
    left_out = None if leave_out is None else Path(leave_out).resolve()
    if left_out == source.resolve():
        raise MvfaError(f"{leave_out}: holds the images; choose another folder for the results")

    def unlisted(error: OSError) -> None:
        # becomes one of the bad files: the others are done
        path = Path(error.filename)
        found.append(Found(path, path.relative_to(source).as_posix()))

    for folder, below, files in os.walk(source, onerror=unlisted):
        below[:] = [n for n in below if _of_interest(n) and (Path(folder) / n).resolve() != left_out]
        for name in files:
            path = Path(folder) / name
            if _of_interest(name) and is_image_name(path):
                found.append(Found(path, path.relative_to(source).as_posix()))
    if not found:
        raise MvfaError(
            f"{source}: no images in this folder (PNG, JPEG, TIFF, BMP, DICOM, NIfTI); check the path"
        )
    return sorted(found, key=lambda item: item.name)


def predict_files(
    detector: Detector,
    images: Iterable[Found],
    output: str | Path,
    window: Window | None = None,
    axis: int = 2,
    pictures: bool = True,
    workers: int = 1,
    progress: Callable[[Iterable[Found]], Iterable[Found]] = lambda items: items,
) -> Summary:
    """Judge every file and write the results into `output`; a bad file is listed and the others are done.

    Args:
        detector: what judges.
        images: the files, in the order of the tables.
        output: folder of the results.
        window: in place of the detector's, for files of more than 8 bits.
        axis: along which NIfTI volumes are cut.
        pictures: write maps and overlays, not only the tables.
        workers: files at once; each is judged for itself, so that nothing but the time depends on it.
        progress: wraps the files, as tqdm does.

    Raises:
        MvfaError: the folder cannot be written to, or holds the unfinished results of another detector.
    """
    output = Path(output)
    require_writable(output)
    window = window or detector.window
    journal = Journal(output / ".journal.jsonl", _signature(detector, window, axis, pictures))

    def work(item: Found) -> Outcome:
        try:
            content = _digest(item)
            rows = journal.rows_of(item.name, content)
            if rows is not None and all(_exists(output, row) for row in rows):
                return Outcome(item.name, content, rows, kept=True)
            with _DECODING:
                file = open_image(item.path, window, axis, item.name)
            with _all_or_nothing() as written:
                rows = _judge_file(detector, file, item.name, output if pictures else None, written)
            return Outcome(item.name, content, rows)
        except OutputError:
            raise
        except MvfaError as error:
            return Outcome(item.name, problem=str(error))

    summary, names = Summary(bad=[]), []
    for outcome in _in_order(work, progress(images), workers):
        if outcome.problem is not None:
            summary.bad.append(outcome.problem)
            continue
        if not outcome.kept:
            journal.append(outcome.name, outcome.content, outcome.rows)
        summary.done += 1
        summary.kept += outcome.kept
        summary.pictures += len(outcome.rows)
        summary.abnormal += sum(row["decision"] == "abnormal" for row in outcome.rows)
        names.append(outcome.name)
    write_tables(output, detector, names, journal.rows, summary.bad)
    journal.remove()
    return summary


@dataclass
class Outcome:
    """Of one file: its rows, or the problem. kept: from an earlier run."""

    name: str
    content: str = ""
    rows: list[dict] = field(default_factory=list)
    kept: bool = False
    problem: str | None = None


def _in_order(work: Callable[[Found], Outcome], items: Iterable[Found], workers: int) -> Iterator[Outcome]:
    """`work` on every item by several threads, a few items ahead of the one whose turn it is."""
    if workers == 1:
        yield from map(work, items)
        return
    waiting: deque[Future[Outcome]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _digest(item: Found) -> str:
    """SHA-256 of the content; regular files only, since a pipe would never end."""
    digest, shown = hashlib.sha256(), printable(item.name)
    try:
        if not item.path.is_file():
            item.path.stat()
            what = (
                "folder cannot be listed; change its rights"
                if item.path.is_dir()
                else "is no file; remove it"
            )
            raise MvfaError(f"{shown}: {what}")
        with item.path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    except OSError as error:
        raise MvfaError(f"{shown}: cannot be read ({error.strerror}); mend or remove it") from None
    return digest.hexdigest()


def _signature(detector: Detector, window: Window | None, axis: int, pictures: bool) -> str:
    """Of everything besides the image that a result depends on."""
    adapters = hashlib.sha256()
    for name, value in sorted(detector.judge.adapters.state_dict().items()):
        adapters.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    parts = [describe(detector), adapters.hexdigest(), window, axis, pictures]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _exists(output: Path, row: dict) -> bool:
    return all((output / row[key]).is_file() for key in ("map", "overlay") if row[key])


# --- one file -------------------------------------------------------------------------------------------


@contextmanager
def _all_or_nothing() -> Iterator[list[Path]]:
    """Takes back what was written for the first frames of a file whose next one is damaged."""
    written: list[Path] = []
    try:
        yield written
    except MvfaError:
        for path in written:
            with suppress(OSError):
                path.unlink()
        raise


def _judge_file(
    detector: Detector, file: ImageFile, name: str, output: Path | None, written: list[Path]
) -> list[dict]:
    """A row a picture; maps and overlays go to `output` unless it is None, and are noted in `written`."""

    def write(place: str, data: bytes) -> None:
        write_output(output / place, data)
        written.append(output / place)

    threshold, rows, maps, loudest = detector.threshold, [], [], None
    stem = _shortened(name)
    for index in range(file.frames):
        with _DECODING:
            picture = file.frame(index)
        score, anomaly_map = detector.judge_picture(picture)
        percentile = detector.reference.percentile(score)
        row = dict.fromkeys(FIELDS, "") | {
            "image": name,
            "frame": index if file.frames > 1 else "",
            "score": round(score, 6),
            "threshold": "" if threshold is None else round(threshold, 6),
            "decision": "" if threshold is None else "abnormal" if score >= threshold else "normal",
            "percentile": "" if percentile is None else round(percentile, 2),
        }
        rows.append(row)
        if output is None:
            continue
        full = resize_map(anomaly_map, picture.size)
        if file.volume:
            maps.append(full)
            if loudest is None or score > rows[loudest[0]]["score"]:
                loudest = index, picture, full
            continue
        suffix = f".{index:05d}.png" if file.frames > 1 else ".png"
        row["map"], row["overlay"] = f"maps/{stem}{suffix}", f"overlays/{stem}{suffix}"
        write(row["map"], map_png(full, detector.scale))
        write(row["overlay"], overlay_png(picture, full, detector.scale))
    if maps:
        place = f"maps/{stem}" if stem.lower().endswith(".nii.gz") else f"maps/{stem}.nii.gz"
        write(place, file.encode_map(maps))
        for row in rows:
            row["map"] = place
        index, picture, full = loudest
        rows[index]["overlay"] = f"overlays/{stem}.{index:05d}.png"
        write(rows[index]["overlay"], overlay_png(picture, full, detector.scale))
    for row in rows:
        row["note"] = "; ".join(file.notes)
    return rows


def _shortened(name: str) -> str:
    """Room for endings where a file name is as long as the disk allows."""
    folder, _, last = name.rpartition("/")
    if len(os.fsencode(last)) > 200:
        digest = hashlib.sha256(os.fsencode(last)).hexdigest()[:12]
        last = os.fsencode(last)[:150].decode("utf-8", "ignore") + "-" + digest
    return f"{folder}/{last}" if folder else last
