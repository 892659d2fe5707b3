"""What is measured, and how long runs follow from it."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch

from benchmarks.measuring import alternate, matmul_peak, peak_of_child
from benchmarks.pixel_auroc import pixel_seconds
from benchmarks.scene import Scene, random_bank
from mvfa_core.augmentation import FOLDS
from mvfa_core.devices import DTYPES
from mvfa_core.judging import Banks
from mvfa_core.memory import MemoryBank

PLAIN, DTYPE_NAMES = "plain", ("fp32", "bf16")
TOGETHER = 4  # images of a batch, where the protocol allows one


@dataclass(frozen=True)
class LongRun:
    """A few-shot run that nobody waits for here: its parts are measured, its length is computed from them."""

    shots: int = 4
    epochs: int = 50
    test_images: int = 3715  # Brain of BMAD


@dataclass
class Parts:
    """Seconds of each part on one side; per image but for `pixel`, which is per pixel."""

    prefix: float
    step: float
    together: float
    forward: float
    judge: float
    pixel: float

    def evaluation(self, run: LongRun, side: int) -> float:
        """Memory filled, test images judged, AUROCs."""
        filled = run.shots * FOLDS * self.forward
        return filled + run.test_images * (self.judge + side**2 * self.pixel)

    def training(self, run: LongRun) -> float:
        return run.epochs * 2 * run.shots * FOLDS * self.step


def loss_gap(scene: Scene, epochs: int = 2) -> float:
    """Largest relative difference between the losses of the two sides in float32, over a few epochs."""
    tokens = scene.prefix(scene.images[: scene.size.train], "fp32")
    ours, plain = scene.epochs(scene.adapters(), tokens, "fp32"), scene.plain_epochs(scene.plain())
    gap = 0.0
    for _ in range(epochs):
        log, expected = next(ours), next(plain)
        for found, wanted in zip((log.detection, log.focal, log.dice), expected, strict=True):
            gap = max(gap, abs(found - wanted) / max(abs(wanted), 1e-12))
    return gap


def measure(scene: Scene, run: LongRun, rounds: int, clock: str) -> dict[str, Parts]:
    """Parts of the plain loop (float32) and of this project in both precisions, A B C A B C."""
    tested, model = scene.images[scene.tested], scene.plain()
    # a run works in one precision, so each has its own network; their weights are the same file
    ours = {d: Scene(scene.size, scene.weights, scene.cache) for d in DTYPE_NAMES}
    bank = random_bank(scene, run.shots * FOLDS)
    memory = [torch.nn.functional.normalize(level.flatten(0, 1), dim=-1) for level in bank]
    banks = Banks(MemoryBank(bank), MemoryBank(bank))
    adapters = {dtype: scene.adapters() for dtype in DTYPE_NAMES}
    trained = {d: ours[d].prefix(scene.images[: scene.size.train], d) for d in DTYPE_NAMES}
    tokens = {d: ours[d].prefix(tested, d) for d in DTYPE_NAMES}
    judges = {d: ours[d].judge(adapters[d], d) for d in DTYPE_NAMES}
    epochs = {PLAIN: scene.plain_epochs(model)}
    epochs |= {d: ours[d].epochs(adapters[d], trained[d], d) for d in DTYPE_NAMES}
    batched = {d: ours[d].epochs(scene.adapters(), trained[d][:1], d, TOGETHER) for d in DTYPE_NAMES}

    seconds = {
        "prefix": alternate({d: lambda d=d: ours[d].prefix(tested, d) for d in DTYPE_NAMES}, rounds, clock),
        "step": alternate({name: lambda e=e: next(e) for name, e in epochs.items()}, rounds, clock),
        "together": alternate({d: lambda e=e: next(e) for d, e in batched.items()}, rounds, clock),
        "forward": alternate(
            {PLAIN: lambda: model.memory([image[None] for image in tested])}
            | {d: lambda d=d: judges[d].banks(tokens[d]) for d in DTYPE_NAMES},
            rounds,
            clock,
        ),
        "judge": alternate(
            {PLAIN: lambda: [model.judge(image[None], memory) for image in tested]}
            | {d: lambda d=d: judges[d].branches(tokens[d], banks) for d in DTYPE_NAMES},
            rounds,
            clock,
        ),
    }
    pixel = pixel_seconds(scene.size.pixels, rounds, clock, torch.get_num_threads())
    count = {"step": scene.size.train, "together": TOGETHER}
    return {
        name: Parts(
            **{
                part: found.get(name, 0.0) / count.get(part, scene.size.test)
                for part, found in seconds.items()
            },
            pixel=pixel["scikit-learn" if name == PLAIN else "ours"] / scene.size.pixels,
        )
        for name in (PLAIN, *DTYPE_NAMES)
    }


def peaks(size: str, sides: Sequence[str], weights: Path, threads: int) -> dict[str, float]:
    """MiB that two training steps of each side need, in a process of its own.

    This project's find their weights in a file; the first one also brings them into the form they are mapped in.
    """
    with tempfile.TemporaryDirectory() as cache:
        found = {}
        for side in sides:
            kind, dtype = ("plain", "fp32") if side == PLAIN else ("ours", side)
            given = (kind, size, dtype, str(threads), str(weights), cache)
            found[side] = peak_of_child("benchmarks.step_memory", *given, threads=threads)["peak_mib"]
        return found


def table(size: str, parts: Mapping[str, Parts], run: LongRun, scene: Scene, clock: str, threads: int):
    """A row a measurement and precision: seconds of both sides, their ratio, memory, share of the machine."""
    plain, rows = parts[PLAIN], []
    side, bank = scene.size.image_size, run.shots * FOLDS
    first = scene.size.levels[0]
    memory = peaks(size, list(parts), scene.weights, threads)
    for dtype in DTYPE_NAMES:
        ours, peak = parts[dtype], matmul_peak(DTYPES[dtype], clock)

        def row(what: str, theirs: float, mine: float, flops: float = 0.0, dtype=dtype, peak=peak, **more):
            rate = flops / mine / 1e12 if flops else None
            rows.append(
                {"what": what, "precision": dtype, "plain_s": theirs, "ours_s": mine, "ratio": theirs / mine}
                | {"tflops": rate, "peak_tflops": peak, "roofline": rate and rate / peak}
                | more
            )

        row(
            "training step, one image",
            plain.step,
            ours.step,
            scene.flops(first, training=True),
            plain_mib=memory[PLAIN],
            ours_mib=memory[dtype],
        )
        row(
            f"training step, an image of {TOGETHER} at once",
            plain.step,
            ours.together,
            scene.flops(first, training=True),
        )
        row("forward pass, one image", plain.forward, ours.prefix + ours.forward, scene.flops(0))
        row("forward pass, prefix kept", plain.forward, ours.forward, scene.flops(first))
        row(
            f"judging one image, {run.shots} shots",
            plain.judge,
            ours.prefix + ours.judge,
            scene.flops(0) + scene.search_flops(bank),
        )
        evaluations = [plain.evaluation(run, side), ours.evaluation(run, side)]
        all_prefixes = (run.test_images + 2 * bank) * ours.prefix
        row("evaluation of the test set", evaluations[0], evaluations[1] + all_prefixes)
        published = plain.training(run) + run.epochs * evaluations[0]
        # the ranges of the fusion come from the support images, each judged once
        own = all_prefixes + ours.training(run) + 2 * bank * (ours.judge + ours.forward)
        row("few-shot run, published protocol", published, own + run.epochs * evaluations[1])
        row("few-shot run, sound protocol", published, own + evaluations[1])
    rows.append(
        {"what": "pixel AUROC, a million pixels", "precision": "fp32", "plain_s": plain.pixel * 1e6}
        | {"ours_s": parts["fp32"].pixel * 1e6, "ratio": plain.pixel / parts["fp32"].pixel}
    )
    return pd.DataFrame(rows)
