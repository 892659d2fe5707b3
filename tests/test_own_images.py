"""The examples of docs/own-images.md, run as they stand."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import NAMES, small_params, write_backbone, write_dataset, write_params
from trained import silent

from mvfa_core.experiment import Experiment

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "own-images.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(bash|python)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


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


def test_every_example_runs(project):
    assert [kind for kind, _ in BLOCKS] == ["bash", "python", "bash"]
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    printed = []
    for kind, text in BLOCKS:
        command = ["bash", "-euo", "pipefail", "-c", text] if kind == "bash" else [sys.executable, "-c", text]
        done = subprocess.run(
            command, cwd=project, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        printed.append(done.stdout)
    assert "000.png" in printed[0] and "Not a medical device" in printed[0]
    assert len((project / "predictions/folder/results.csv").read_text().splitlines()) == 41
    assert "(1, 32, 32) float32" in printed[1]
    assert "Mine added" in printed[2]
    line = re.search(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[1]
    assert line in (project / "params.yaml").read_text()
    assert yaml.safe_load(line)["Mine"]["table"] == "labels.csv"
