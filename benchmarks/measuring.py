"""Clocks, peaks and counts that the benchmarks share."""

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from mvfa_core.frozen import linear

ROOT = Path(__file__).parent.parent
# wall: what a user waits for. cpu: what one thread works, for machines on which other things run.
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


def alternate(sides: Mapping[str, Callable[[], object]], rounds: int, clock: str) -> dict[str, float]:
    """Median seconds of each side, run in turn (A B A B ...), after a first turn that is not counted."""
    now, taken = CLOCKS[clock], {name: [] for name in sides}
    for turn in range(rounds + 1):
        for name, run in sides.items():
            start = now()
            run()
            if turn:
                taken[name].append(now() - start)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def matmul_peak(dtype: torch.dtype, clock: str, seconds: float = 0.5) -> float:
    """TFLOP/s of the best of several products of two matrices, by any way this project has to multiply them."""
    now, best = CLOCKS[clock], 0.0
    for rows, inner, columns in ((290, 1024, 4096), (1160, 1024, 4096), (1160, 4096, 1024)):
        x, weight = torch.rand(rows, inner).to(dtype), torch.rand(columns, inner).to(dtype)
        for product in (torch.nn.functional.linear, linear):
            product(x, weight)
            start, runs = now(), 0
            while now() - start < seconds / 6:
                product(x, weight)
                runs += 1
            best = max(best, 2 * rows * inner * columns * runs / (now() - start) / 1e12)
    return best


def block_flops(tokens: int, width: int, backwards: bool = False) -> float:
    """Operations of one transformer block for one image: four projections and attention.

    backwards: those of the gradient for its input, with no weight asking for one.
    """
    products, attention = 24 * tokens * width**2, 4 * tokens**2 * width
    return products + 2 * attention if backwards else products + attention


def adapter_flops(tokens: int, width: int, bottleneck: int, levels: int, training: bool) -> float:
    """Operations of both branches' adapters for one image.

    Of a training step's, the first level needs no gradient for its input, the last has no second layer.
    """
    layer = 2 * tokens * width * bottleneck
    if not training:
        return 2 * layer * (2 * levels - 1)
    return 2 * layer * (5 + 6 * max(levels - 2, 0) + 2)


def machine() -> str:
    """The class of this machine in words, without any name."""
    kind = torch.backends.cpu.get_cpu_capability()
    version = torch.__version__.split("+")[0]
    return f"{torch.get_num_threads()} threads on {platform.machine()} with {kind}, PyTorch {version}"


def peak_of_child(module: str, *arguments: str, threads: int) -> dict:
    """What `python -m module` prints as JSON, with the most memory it held, in MiB, as `peak_mib`."""
    # threads that spin while they wait disturb each other as soon as something else runs
    quiet = {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE", "CUDA_VISIBLE_DEVICES": ""}
    environment = os.environ | quiet
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{module} {' '.join(arguments)}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def own_peak() -> float:
    """Most main memory that this process has held so far, in MiB."""
    status = Path("/proc/self/status")
    # on Linux `ru_maxrss` also counts the process that this one was started from
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**10
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
