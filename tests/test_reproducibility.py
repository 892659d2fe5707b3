"""The same seed gives the same bytes: twice, in two processes, and with one and two threads."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import trained

ROOT = Path(__file__).parent.parent

# prints hashes of a training, of its export and of what it predicts
SCRIPT = """
import hashlib, json, sys
from pathlib import Path
import torch
torch.set_num_threads(int(sys.argv[2]))
from mvfa_core.calibration import calibrate
from mvfa_core.detector import Detector
from mvfa_core.experiment import Experiment
from mvfa_core.prediction import find_images, predict_files

project, out = Path(sys.argv[1]), Path(sys.argv[3])
experiment = Experiment.open(project / "params.yaml", say=lambda line: None)
few, zero = experiment.train_few_shot("Brain", 2), experiment.train_zero_shot("Chest")
few.save(out / "few")
zero.save(out / "zero")
calibrate(experiment, few).save(out / "d.safetensors")
predict_files(Detector.load(out / "d.safetensors", device="cpu"), find_images(project / "in"), out / "predictions")
files = sorted(p for p in out.rglob("*") if p.is_file())
print(json.dumps({str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}))
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = trained.trained_project(tmp_path_factory.mktemp("reproducibility") / "project", kinds=())
    trained.write_images(folder / "in", 5)
    return folder


def process(project: Path, out: Path, threads: int = 1, seed: str = "0") -> dict[str, str]:
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": str(threads),
        "PYTHONHASHSEED": seed,
    }
    command = [sys.executable, "-c", SCRIPT, str(project), str(threads), str(out)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def first(project, tmp_path_factory):
    return process(project, tmp_path_factory.mktemp("first"))


def test_two_processes(project, first, tmp_path):
    """Another order of hashes, another folder for the results: nothing of it may show."""
    assert process(project, tmp_path, seed="123") == first
    assert {"few/adapters.safetensors", "few/run.json", "d.safetensors", "predictions/results.csv"} <= set(
        first
    )


def test_one_and_two_threads(project, first, tmp_path):
    """At the size of these tests the libraries split no sum, so that even training ends with the same bytes.

    PyTorch promises that for one number of threads only: where a sum is split among threads, its last bits may
    move. What must hold at any size is in the next test.
    """
    assert process(project, tmp_path, threads=2) == first


def test_scores_hardly_move_with_the_number_of_threads(project, tmp_path):
    import torch

    experiment = trained.opened(project)
    run = experiment.train_few_shot("Brain", 2)
    detector = trained.calibrate(experiment, run)
    images = sorted((project / "in").iterdir())
    scores = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        scores.append(detector.score_samples(images))
    torch.set_num_threads(1)
    assert np.allclose(scores[0], scores[1], rtol=1e-5)


def test_twice_in_one_process(project, tmp_path):
    experiment = trained.opened(project)
    run = experiment.train_few_shot("Brain", 2)
    digests = set()
    for name in ("a", "b"):
        trained.calibrate(experiment, run).save(tmp_path / name)
        digests.add(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
    assert len(digests) == 1
