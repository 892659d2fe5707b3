"""A small project with trained runs, for the tests that use a detector."""

import shutil
from pathlib import Path

import numpy as np
from conftest import NAMES, draw_image, small_params, write_backbone, write_dataset, write_params
from PIL import Image

from mvfa_core.calibration import calibrate
from mvfa_core.detector import Detector
from mvfa_core.experiment import Experiment
from mvfa_core.methods import run_folder
from mvfa_core.runs import Run


def silent(_: str) -> None:
    pass


def trained_project(folder: Path, kinds=(("Brain", 2),), draws: int = 1) -> Path:
    """Data, backbone, `params.yaml` and under `runs/` each (data set, shots), few-shot in so many draws."""
    folder.mkdir(parents=True, exist_ok=True)
    write_backbone(folder)
    for seed, (name, masks) in enumerate(NAMES.items()):
        write_dataset(folder / "data" / f"{name}_AD", masks, seed=seed)
    write_params(folder, small_params())
    experiment = Experiment.open(folder / "params.yaml", say=silent)
    for name, shots in kinds:
        place = folder / "runs" / name / run_folder(shots, "sound")
        for draw in range(draws if shots else 1):
            run = (
                experiment.train_few_shot(name, shots, draw=draw)
                if shots
                else experiment.train_zero_shot(name)
            )
            run.save(place / f"draw-{draw}")
    return folder


def opened(project: Path) -> Experiment:
    return Experiment.open(project / "params.yaml", say=silent)


def load_run(project: Path, experiment: Experiment, name: str, shots: int) -> Run:
    return Run.load(
        project / "runs" / name / run_folder(shots, "sound") / "draw-0", experiment.fresh_adapters()
    )


def detector(project: Path, name: str = "Brain", shots: int = 2, **options) -> Detector:
    experiment = opened(project)
    return calibrate(experiment, load_run(project, experiment, name, shots), **options)


def exported(project: Path) -> Path:
    """`detector.safetensors` of the Brain run."""
    path = project / "detector.safetensors"
    if not path.exists():
        detector(project).save(path)
    return path


def write_images(folder: Path, count: int, seed: int = 9) -> Path:
    """PNG images 000.png, ..., every second one abnormal."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for number in range(count):
        Image.fromarray(draw_image(rng, bool(number % 2))[0]).save(folder / f"{number:03d}.png")
    return folder
