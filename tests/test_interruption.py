"""`kill -9` at random moments: run again, and the bytes are those of a run that nobody disturbed."""

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import trained
from pipelines import environment, small_pipeline

from mvfa_core.detector import Detector
from mvfa_core.prediction import find_images, predict_files

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return trained.trained_project(tmp_path_factory.mktemp("interruption") / "project")


def content(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def killed(work: Callable[[], object], after: float) -> bool:
    """Run `work` in a copy of this process and kill that after some seconds; whether it was still running.

    A copy has everything loaded already, so that the moment falls into the work and not into imports.
    """
    child = os.fork()
    if child == 0:
        code = 1
        try:
            torch.set_num_threads(1)
            work()
            code = 0
        finally:
            os._exit(code)
    time.sleep(after)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def test_predict_on_a_folder(project, tmp_path):
    detector = Detector.load(trained.exported(project), device="cpu")
    images = find_images(trained.write_images(tmp_path / "in", 40))
    duration = timed(lambda: predict_files(detector, images, tmp_path / "whole"))
    whole, rng, hits, kept = content(tmp_path / "whole"), random.Random(1), 0, 0
    for attempt in range(8):
        out = tmp_path / f"out{attempt}"
        for _ in range(4):
            hits += killed(
                lambda out=out: predict_files(detector, images, out), rng.uniform(0, duration * 0.6)
            )
        kept += predict_files(detector, images, out).kept
        assert content(out) == whole, attempt
    # most of 32 kills fell into the work, and the work before them was not done twice
    assert hits >= 20 and kept > 0


def test_export(project, tmp_path):
    detector = trained.detector(project)
    duration = timed(lambda: detector.save(tmp_path / "whole.safetensors"))
    whole, rng, hits = (tmp_path / "whole.safetensors").read_bytes(), random.Random(2), 0
    target = tmp_path / "d.safetensors"
    for attempt in range(40):
        before = target.read_bytes() if target.exists() else None
        hits += killed(lambda: detector.save(target), rng.uniform(0, duration * 1.5))
        # the old file, or the whole new one, and never a part of it
        assert (target.read_bytes() if target.exists() else None) in (before, whole), attempt
        if attempt % 2:
            target.unlink(missing_ok=True)
    detector.save(target)
    assert hits >= 5 and target.read_bytes() == whole
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d.safetensors", "whole.safetensors"]


def test_the_commands_themselves(project, tmp_path):
    """As a user would see it: processes of their own, killed between start and end."""
    packed = trained.exported(project)
    folder = trained.write_images(tmp_path / "in", 60)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def start(out: Path) -> subprocess.Popen:
        command = [
            sys.executable,
            "-m",
            "mvfa_core",
            "predict",
            str(folder),
            "--run",
            str(packed),
            "--output",
            str(out),
        ]
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    assert start(tmp_path / "whole").wait() == 0
    rng = random.Random(3)
    for _ in range(4):
        process = start(tmp_path / "out")
        # from the first result on, since before it nothing can be lost
        while not list(tmp_path.glob("out/maps/*.png")) and process.poll() is None:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.3))
        process.kill()
        process.wait()
    assert start(tmp_path / "out").wait() == 0
    assert content(tmp_path / "out") == content(tmp_path / "whole")


# --- the pipeline ---------------------------------------------------------------------------------------


def repro(folder: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro"],
        cwd=folder,
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@pytest.mark.timeout(3600)
def test_dvc_repro(tmp_path):
    undisturbed = small_pipeline(tmp_path / "whole", draws=1)
    start = time.perf_counter()
    process = repro(undisturbed)
    output = process.communicate()[0]
    assert process.returncode == 0, output[-3000:]
    duration = time.perf_counter() - start
    folder, rng, hits = small_pipeline(tmp_path / "killed", draws=1), random.Random(4), 0
    expected = content(undisturbed / "results")
    while hits < 20:
        process = repro(folder)
        time.sleep(rng.uniform(1, duration / 4))
        if process.poll() is None:
            # DVC, papermill and the kernel alike
            os.killpg(process.pid, signal.SIGKILL)
            hits += 1
            process.communicate()
            continue
        output = process.communicate()[0]
        assert process.returncode == 0, output[-3000:]
        assert content(folder / "results") == expected, hits
        # finished between two kills: from the start again
        for made in ("runs", "evaluations", "results"):
            shutil.rmtree(folder / made)
        (folder / "dvc.lock").unlink()
    process = repro(folder)
    output = process.communicate()[0]
    assert process.returncode == 0, output[-3000:]
    assert content(folder / "results") == expected
