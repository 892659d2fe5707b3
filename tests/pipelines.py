"""The pipeline in a repository of its own, for the tests that run DVC."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from conftest import NAMES, small_params, write_backbone, write_dataset, write_params

ROOT = Path(__file__).parent.parent


def environment(folder: Path) -> dict[str, str]:
    """This interpreter first on the path, the code of `folder`, one thread, no call home."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    quiet = {"DVC_NO_ANALYTICS": "1", "DVC_TEST": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder)}
    return os.environ | quiet | {"PATH": path}


def run(folder: Path, *command: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        command, cwd=folder, env=environment(folder), capture_output=True, text=True, check=False
    )


def dvc(folder: Path, *arguments: str) -> str:
    done = run(folder, sys.executable, "-m", "dvc", *arguments)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def ran(output: str) -> set[str]:
    """The stages that a `dvc repro` says it ran."""
    return {line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")}


def copy_project(folder: Path, *files: str) -> None:
    """The core, the notebooks and `files` of the repository's root."""
    for name in ("mvfa_core", "notebooks"):
        # the folder of the lessons stays, for the stage that asks for it
        unwanted = shutil.ignore_patterns("__pycache__", "0?_*.ipynb")
        shutil.copytree(ROOT / name, folder / name, ignore=unwanted)
    for name in files:
        shutil.copy(ROOT / name, folder)


def start_repository(folder: Path) -> None:
    assert run(folder, "git", "init", "-q").returncode == 0
    dvc(folder, "init", "-q")


def small_pipeline(folder: Path, draws: int = 2) -> Path:
    """The pipeline's own files with two small data sets and a small backbone."""
    folder.mkdir(exist_ok=True)
    copy_project(folder, "dvc.yaml", ".gitignore", ".dvcignore")
    write_backbone(folder)
    params = {"project": "."} | small_params()
    params["few_shot"]["draws"] = draws
    params["datasets"] = {name: params["datasets"][name] for name in ("Brain", "Chest")}
    for seed, name in enumerate(params["datasets"]):
        write_dataset(folder / "data" / f"{name}_AD", NAMES[name], seed=seed)
    write_params(folder, params)
    start_repository(folder)
    return folder
