"""Speed, memory and exactness of `PixelRanking` against scikit-learn on flattened anomaly maps.

    python -m benchmarks.pixel_auroc            # 5 and 20 million pixels
    python -m benchmarks.pixel_auroc --full     # also 50 million, and 200 million without scikit-learn

Both are run in turn (A B A B) in one process and the times of each added up, so that a slow spell of the
machine falls on both. Times include all that each needs from float32 maps and boolean masks. `PixelRanking`
gives AUROC and average precision together; scikit-learn sorts for each. On AMD Zen 4 numpy's sort is faster
without AVX-512: NPY_DISABLE_CPU_FEATURES="AVX512_SKX X86_V4 AVX512_ICL".
"""

import time
import tracemalloc
from collections.abc import Callable

import numpy as np
import typer
from sklearn.metrics import average_precision_score, roc_auc_score

from benchmarks.measuring import alternate
from mvfa_core.pixel_ranking import PixelRanking

MILLION = 1_000_000
CHUNK = 5 * MILLION
STEPS = 1 << 16  # scores are rounded to this many steps per unit: some pixels tie


def chunk(index: int, size: int, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Scores of two overlapping normals and the mask, `share` of it anomalous."""
    rng = np.random.default_rng(index)
    masks = rng.random(size, dtype=np.float32) < share
    maps = rng.standard_normal(size, dtype=np.float32) + masks
    return np.round(maps * np.float32(STEPS)) / np.float32(STEPS), masks


def ranked(chunks: list, workers: int) -> tuple[float, float]:
    ranking = PixelRanking(workers)
    for maps, masks in chunks:
        ranking.update(maps, masks)
    return ranking.auroc(), ranking.average_precision()


def timed(function: Callable, *arguments) -> tuple[float, object]:
    start = time.perf_counter()
    value = function(*arguments)
    return time.perf_counter() - start, value


def peak(function: Callable, *arguments) -> float:
    """Peak of the memory that a call allocates, in MiB."""
    tracemalloc.start()
    function(*arguments)
    memory = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return memory / 2**20


def compare(count: int, share: float, workers: int, rounds: int) -> str:
    """One row of the table."""
    chunks = [chunk(i, min(CHUNK, count), share) for i in range(max(1, count // CHUNK))]
    maps = np.concatenate([c[0] for c in chunks])
    masks = np.concatenate([c[1] for c in chunks])
    ours, auroc, precision = [], [], []
    for _ in range(rounds):
        ours.append(timed(ranked, chunks, workers))
        auroc.append(timed(roc_auc_score, masks, maps))
        precision.append(timed(average_precision_score, masks, maps))
    mine, roc, ap = (sum(t for t, _ in times) for times in (ours, auroc, precision))
    gap = max(abs(ours[0][1][0] - auroc[0][1]), abs(ours[0][1][1] - precision[0][1]))
    memory = peak(ranked, chunks, workers)
    ratios = f"{roc / mine:10.1f} {ap / mine:8.1f} {(roc + ap) / mine:8.1f}"
    return f"{count / MILLION:6.0f} {mine / rounds:9.2f} {ratios} {memory:9.0f} {gap:9.1e}"


def alone(count: int, share: float, workers: int) -> str:
    """A row without scikit-learn: streamed, so that the pixels are never all in memory twice."""

    def stream() -> None:
        nonlocal seconds
        ranking = PixelRanking(workers)
        for i in range(count // CHUNK):
            maps, masks = chunk(i, CHUNK, share)
            seconds += timed(ranking.update, maps, masks)[0]
            del maps, masks
        seconds += timed(lambda: (ranking.auroc(), ranking.average_precision()))[0]

    seconds = 0.0
    memory = peak(stream)  # with the one chunk that is being made
    return f"{count / MILLION:6.0f} {seconds:9.2f} {'-':>10} {'-':>8} {'-':>8} {memory:9.0f} {'-':>9}"


def pixel_seconds(count: int, rounds: int, clock: str, workers: int, share: float = 0.02) -> dict[str, float]:
    """Median seconds of the pixel AUROC of `count` pixels, by scikit-learn and by `PixelRanking`."""
    chunks = [chunk(i, min(CHUNK, count), share) for i in range(max(1, count // CHUNK))]
    maps = np.concatenate([c[0] for c in chunks])
    masks = np.concatenate([c[1] for c in chunks])

    def ours() -> float:
        ranking = PixelRanking(workers)
        for some, truth in chunks:
            ranking.update(some, truth)
        return ranking.auroc()

    return alternate({"scikit-learn": lambda: roc_auc_score(masks, maps), "ours": ours}, rounds, clock)


def main(
    full: bool = typer.Option(False, help="Also 50 million pixels (some 5 GB), and 200 million (some 2 GB)."),
    share: float = typer.Option(0.02, min=0.0001, max=0.9999, help="Share of anomalous pixels."),
    workers: int = typer.Option(1, min=1, help="Threads that PixelRanking sorts with; scikit-learn has one."),
    rounds: int = typer.Option(2, min=1, help="Rounds of A B."),
) -> None:
    """Print one row per number of pixels."""
    print(f"PixelRanking with {workers} worker(s), both metrics; {share:.2%} of the pixels anomalous")
    print("million   seconds  times faster than scikit-learn    peak    largest")
    print("pixels                 AUROC       AP     both        MiB difference")
    for millions in (5, 20, 50) if full else (5, 20):
        print(compare(millions * MILLION, share, workers, rounds), flush=True)
    if full:
        print(alone(200 * MILLION, share, workers), flush=True)


if __name__ == "__main__":
    typer.run(main)
