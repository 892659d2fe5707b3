"""The examples of README.md and docs/own-images.md, run as they stand."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import NAMES, small_params, write_backbone, write_dataset, write_params
from trained import silent

from mvfa_core.experiment import Experiment
from mvfa_core.settings import load_settings

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "own-images.md").read_text(encoding="utf-8")
SECTION = (ROOT / "README.md").read_text(encoding="utf-8").split("## Your own images")[1].split("\n## ")[0]


def blocks(text: str) -> list[tuple[str, str]]:
    return re.findall(r"^```(bash|python)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """The demo's folders and a trained run, small."""
    folder = tmp_path_factory.mktemp("page")
    write_backbone(folder)
    params = small_params()
    params["few_shot"]["shots"] = [4]
    for seed, (name, masks) in enumerate(NAMES.items()):
        write_dataset(folder / "data" / "demo" / f"{name}_AD", masks, test=20, seed=seed)
        params["datasets"][name]["root"] = f"data/demo/{name}_AD"
    write_params(folder, params)
    run = Experiment.open(folder / "params.yaml", say=silent).train_few_shot("Brain", 4)
    run.save(folder / "runs" / "Brain" / "few-4-sound" / "draw-0")
    return folder


@pytest.fixture
def folder(project, tmp_path):
    """A copy for one page: each adds a data set of the same name."""
    return shutil.copytree(project, tmp_path / "page")


def run_all(folder: Path, text: str) -> list[str]:
    """What the three examples of a text print."""
    found = blocks(text)
    assert [kind for kind, _ in found] == ["bash", "python", "bash"]
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    printed = []
    for kind, text in found:
        command = ["bash", "-euo", "pipefail", "-c", text] if kind == "bash" else [sys.executable, "-c", text]
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        printed.append(done.stdout)
    return printed


def test_the_examples_of_the_page(folder):
    printed = run_all(folder, PAGE)
    assert "000.png" in printed[0] and "Not a medical device" in printed[0]
    assert len((folder / "predictions/folder/results.csv").read_text().splitlines()) == 41
    assert "(1, 32, 32) float32" in printed[1]
    assert "Mine added" in printed[2]
    line = re.search(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[1]
    assert line in (folder / "params.yaml").read_text()
    assert yaml.safe_load(line)["Mine"]["table"] == "labels.csv"


def test_the_examples_of_the_readme(folder):
    printed = run_all(folder, SECTION)
    assert "20 of 20 files done" in printed[0] and "rule false-alarm" in printed[0]
    assert len(list((folder / "predictions" / "overlays").rglob("*.png"))) == 20
    assert "(1, 32, 32)" in printed[1]
    assert "no problems" in printed[2] and "Mine added (without masks)" in printed[2]
    assert load_settings(folder / "params.yaml").dataset("Mine").root == "data/mine"
