"""Whatever is wrong: one line with file and remedy, exit code 1, no traceback, nothing half-written."""

import copy
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import trained
from bad_files import BAD
from conftest import small_params, write_params
from PIL import Image
from safetensors.torch import load_file, safe_open, save_file
from standins import TRAPS
from typer.testing import CliRunner

from mvfa_core import detector as detector_module
from mvfa_core.checkpoints import save_authors_format
from mvfa_core.cli import app

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return trained.trained_project(tmp_path_factory.mktemp("bad") / "project")


@pytest.fixture(scope="module")
def packed(project):
    return trained.exported(project)


@pytest.fixture
def quick(packed, monkeypatch):
    """`predict` with a detector that was loaded before: a second less for each of many cases."""
    loaded = detector_module.Detector.load(packed)
    monkeypatch.setattr(detector_module.Detector, "load", lambda *_: loaded)
    return packed


def fails(*arguments, words: str = "") -> str:
    """Run a command that must fail; its only line of error."""
    done = CliRunner().invoke(app, [str(a) for a in arguments])
    lines = [line for line in done.output.splitlines() if line.startswith("error: ")]
    assert done.exit_code == 1, done.output
    assert len(lines) == 1 and words in lines[0] and "Traceback" not in done.output, done.output
    assert done.exception is None or isinstance(done.exception, SystemExit)
    # what to do comes behind what is wrong
    assert ";" in lines[0] or ":" in lines[0][7:]
    return lines[0]


def leftovers(folder: Path) -> list[str]:
    return [p.name for p in folder.rglob("*") if p.name.endswith(".part") or p.name.startswith(".")]


# --- images ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", BAD)
def test_a_bad_image(quick, tmp_path, case):
    name, write, words = BAD[case]
    (tmp_path / "in").mkdir()
    write(tmp_path / "in" / name)
    line = fails("predict", tmp_path / "in" / name, "--run", quick, "--output", tmp_path / "out", words=words)
    assert name in line
    assert not list((tmp_path / "out").rglob("*.png")) and not leftovers(tmp_path / "out")
    assert not (tmp_path / "in" / "trap").exists()


def test_all_of_them_beside_good_ones(quick, tmp_path):
    folder = trained.write_images(tmp_path / "in", 4)
    for number, (name, write, _) in enumerate(BAD.values()):
        (folder / f"{number:03d}").mkdir()
        write(folder / f"{number:03d}" / name)
    out = tmp_path / "out"
    done = CliRunner().invoke(app, ["predict", str(folder), "--run", str(quick), "--output", str(out)])
    lines = [line for line in done.output.splitlines() if line.startswith("error: ")]
    assert done.exit_code == 1 and len(lines) == len(BAD) and f"4 of {len(BAD) + 4} files" in done.output
    told = json.loads((out / "results.json").read_text())
    assert len(told["images"]) == 4 and len(told["failed"]) == len(BAD)
    assert len(list(out.rglob("*.png"))) == 8 and not leftovers(out)


def test_nothing_to_predict(quick, tmp_path):
    fails("predict", tmp_path / "none.png", "--run", quick, words="none.png: cannot be read")
    (tmp_path / "a.png").mkdir()
    fails("predict", tmp_path, "--run", quick, words="no images in this folder")
    fails("predict", tmp_path / ("x" * 300), "--run", quick, words="cannot be read")


@pytest.mark.parametrize("window", [(5, 5), (10, -10), ("nan", 3), (0, "inf")])
def test_a_window_that_is_none(quick, tmp_path, window):
    Image.fromarray(np.zeros((20, 20), dtype=np.uint16)).save(tmp_path / "a.png")
    options = ("--run", quick, "--output", tmp_path / "out", "--window", *window)
    fails("predict", tmp_path / "a.png", *options, words="window")


@pytest.mark.parametrize("rate", [-0.1, 1, "nan"])
def test_a_rate_that_is_none(quick, tmp_path, rate):
    trained.write_images(tmp_path / "in", 1)
    options = ("--rule", "false-alarm", "--false-alarm-rate", rate)
    fails("predict", tmp_path / "in", "--run", quick, "--output", tmp_path / "out", *options, words="rate")


def test_a_device_that_is_none(packed, tmp_path):
    trained.write_images(tmp_path / "in", 1)
    fails("predict", tmp_path / "in", "--run", packed, "--device", "quantum", words="device")


# --- places to write to ---------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["a file", "below a file", "read-only"])
def test_results_that_cannot_be_written(quick, tmp_path, place):
    folder = trained.write_images(tmp_path / "in", 2)
    (tmp_path / "taken").write_text("mine")
    # /proc refuses the superuser, too
    out = {
        "a file": tmp_path / "taken",
        "below a file": tmp_path / "taken" / "out",
        "read-only": Path("/proc/mvfa"),
    }
    fails("predict", folder, "--run", quick, "--output", out[place], words="cannot be written")
    assert (tmp_path / "taken").read_text() == "mine"


def test_an_export_that_cannot_be_written(project, tmp_path):
    run = ("export", project / "runs/Brain/few-2-sound", "--params", project / "params.yaml")
    fails(*run, "--output", "/proc/d.safetensors", words="cannot be written")
    (tmp_path / "folder").mkdir()
    fails(*run, "--output", tmp_path / "folder", words="cannot be written")
    assert not leftovers(tmp_path)


def limited(*arguments, size: int) -> subprocess.CompletedProcess:
    """A command that can write no file beyond `size` bytes, as on a full disk."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [sys.executable, "-m", "mvfa_core", *map(str, arguments)]
    return subprocess.run(
        command, preexec_fn=limit, env=environment, capture_output=True, text=True, check=False
    )


def test_a_full_disk(project, packed, tmp_path):
    folder = trained.write_images(tmp_path / "in", 3)
    done = limited("predict", folder, "--run", packed, "--output", tmp_path / "out", size=1000)
    assert done.returncode == 1 and done.stderr.startswith("error: ") and "make room" in done.stderr
    assert done.stderr.count("\n") == 1 and not list((tmp_path / "out").rglob("*.part"))
    again = CliRunner().invoke(
        app, ["predict", str(folder), "--run", str(packed), "--output", str(tmp_path / "out")]
    )
    assert again.exit_code == 0 and not leftovers(tmp_path / "out")
    (tmp_path / "d.safetensors").write_bytes(b"what was there before")
    run = ("export", project / "runs/Brain/few-2-sound", "--params", project / "params.yaml")
    done = limited(*run, "--output", tmp_path / "d.safetensors", size=100_000)
    assert done.returncode == 1 and "make room" in done.stderr and "Traceback" not in done.stderr
    assert (tmp_path / "d.safetensors").read_bytes() == b"what was there before"


# --- detectors and runs ---------------------------------------------------------------------------------


def rewritten(packed, target, metadata=None, **tensors):
    """The detector with other metadata or tensors; None takes one away."""
    with safe_open(packed, framework="pt") as file:
        known = file.metadata()
    changed = {k: v for k, v in (load_file(packed) | tensors).items() if v is not None}
    save_file(changed, target, {k: v for k, v in (known | (metadata or {})).items() if v is not None})


def description(packed, **changes) -> dict:
    with safe_open(packed, framework="pt") as file:
        known = json.loads(file.metadata()["detector"])
    known.update(changes)
    return {"detector": json.dumps({k: v for k, v in known.items() if v is not ...})}


DETECTORS = {
    "empty": lambda packed, path: path.write_bytes(b""),
    "text": lambda packed, path: path.write_text("hello"),
    "cut": lambda packed, path: path.write_bytes(packed.read_bytes()[:5000]),
    "cut at the end": lambda packed, path: path.write_bytes(packed.read_bytes()[:-10]),
    "header of nonsense": lambda packed, path: path.write_bytes(b"\xff" * 200),
    "other tensors": lambda packed, path: save_file({"a": torch.zeros(3)}, path),
    "other layout": lambda packed, path: rewritten(packed, path, {"mvfa": "99"}),
    "no description": lambda packed, path: rewritten(packed, path, {"detector": None}),
    "no JSON": lambda packed, path: rewritten(packed, path, {"detector": "{"}),
    "a list": lambda packed, path: rewritten(packed, path, {"detector": "[]"}),
    "no levels": lambda packed, path: rewritten(packed, path, description(packed, levels=...)),
    "other levels": lambda packed, path: rewritten(packed, path, description(packed, levels=[1, 2])),
    "levels of text": lambda packed, path: rewritten(packed, path, description(packed, levels="abc")),
    "no ranges": lambda packed, path: rewritten(packed, path, description(packed, ranges=None)),
    "no backbone": lambda packed, path: rewritten(packed, path, description(packed, backbone={})),
    "no text feature": lambda packed, path: rewritten(packed, path, text=None),
    "no memory": lambda packed, path: rewritten(packed, path, **{"bank.1": None}),
    "no adapter": lambda packed, path: rewritten(packed, path, **{"seg_adapters.0.fc1.0.weight": None}),
    "adapter of another shape": lambda packed, path: rewritten(
        packed, path, **{"seg_adapters.0.fc1.0.weight": torch.zeros(3, 3)}
    ),
    "another backbone inside": lambda packed, path: rewritten(
        packed, path, **{"backbone.visual.proj": torch.ones(32, 16)}
    ),
}


@pytest.mark.parametrize("case", DETECTORS)
def test_a_bad_detector(packed, tmp_path, case):
    DETECTORS[case](packed, tmp_path / "d.safetensors")
    trained.write_images(tmp_path / "in", 1)
    options = ("--run", tmp_path / "d.safetensors", "--output", tmp_path / "out")
    fails("predict", tmp_path / "in", *options, words="d.safetensors")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("trap", TRAPS)
def test_no_code_in_a_detector_is_run(tmp_path, trap):
    (tmp_path / "d.pt").write_bytes(TRAPS[trap](tmp_path / "trap"))
    trained.write_images(tmp_path / "in", 1)
    fails("predict", tmp_path / "in", "--run", tmp_path / "d.pt", words="d.pt")
    assert not (tmp_path / "trap").exists()


def test_foreign_checkpoints(project, packed, tmp_path):
    adapters = trained.opened(project).fresh_adapters()
    save_authors_format(tmp_path / "Brain.pth", adapters)
    trained.write_images(tmp_path / "in", 1)
    fails("predict", tmp_path / "in", "--run", tmp_path / "Brain.pth", words="is no detector")
    own = project / "runs/Brain/few-2-sound/draw-0/adapters.safetensors"
    fails("predict", tmp_path / "in", "--run", own, words="is no detector")
    fails("predict", tmp_path / "in", "--run", tmp_path / "none", words="none: cannot be read")


RUNS = {
    "empty folder": lambda run: [p.unlink() for p in run.iterdir()],
    "no adapters": lambda run: (run / "adapters.safetensors").unlink(),
    "no log": lambda run: (run / "log.csv").unlink(),
    "adapters cut": lambda run: (run / "adapters.safetensors").write_bytes(
        (run / "adapters.safetensors").read_bytes()[:-9]
    ),
    "broken description": lambda run: (run / "run.json").write_text("{"),
    "description of another kind": lambda run: (run / "run.json").write_text("[1]"),
    "unknown data set": lambda run: edit(run, dataset="Gone"),
    "support image gone": lambda run: edit(run, support={"normal": ["valid/good/x.png"], "abnormal": []}),
    "other backbone": lambda run: edit(run, provenance={"backbone": {"fingerprint": "0000"}}),
}


def edit(run: Path, **changes) -> None:
    record = json.loads((run / "run.json").read_text()) | changes
    (run / "run.json").write_text(json.dumps(record))


@pytest.mark.parametrize("case", RUNS)
def test_a_bad_run(project, tmp_path, case):
    run = shutil.copytree(project / "runs/Brain/few-2-sound/draw-0", tmp_path / "run")
    RUNS[case](run)
    options = ("--params", project / "params.yaml", "--output", tmp_path / "d.safetensors")
    fails("export", run, *options)
    assert not (tmp_path / "d.safetensors").exists()


# --- parameters and data --------------------------------------------------------------------------------

WRONG_VALUES = {
    "seed": [-1, 1.5, "one", None, [1]],
    "device": ["gpu", 3, None],
    "dtype": ["float32", 16],
    "protocols": [[], "sound", ["fair"], None],
    "backbone.image_size": [0, 15, 4096, "large", 32.5],
    "backbone.levels": [[], "all", [0], [4, 2], [99], [1, 0.5], None],
    "backbone.model": [None, 7, "none.json", "ViT-Z-99"],
    "backbone.weights": ["none.safetensors", 7],
    "backbone.activation": ["relu", None],
    "method.memory_weight": [-0.1, 1.1, "half", float("nan")],
    "method.residual": [[0.8, 0.1], "equal", [1, 2, "x"]],
    "few_shot.shots": [0, [0], [-1], [], "four", [99]],
    "few_shot.epochs": [0, "many", None],
    "few_shot.learning_rate": [0, -1, "small", float("inf")],
    "datasets": [{}, [], None, "Brain"],
    "datasets.Brain": [None, {}, "data/Brain_AD", {"root": 3}],
    "datasets.Brain.root": [None, 3, "nowhere", "params.yaml"],
    "datasets.Brain.organ": ["", None, 3],
    "datasets.Brain.masks": ["maybe", None, 2],
    "datasets.Brain.table": [3, "none.csv", "../labels.csv", "/etc/passwd"],
    "datasets.Brain.window": [[1], "wide", 3, [5, 5], [9, 1], [0, float("nan")]],
    "datasets.Brain.valid_share": [0, 1, "third"],
}
CASES = [(key, value) for key, values in WRONG_VALUES.items() for value in values]


@pytest.mark.parametrize(("key", "value"), CASES, ids=[f"{key}={value}" for key, value in CASES])
def test_a_wrong_value_in_params_yaml(project, tmp_path, key, value):
    """It stops the check of the data, or the training, whichever is the first to need it."""
    params = copy.deepcopy(small_params())
    *path, last = key.split(".")
    inner = params
    for part in path:
        inner = inner[part]
    inner[last] = value
    folder = tmp_path / "project"
    folder.mkdir()
    for name in ("clip.json", "clip.safetensors", "data"):
        (folder / name).symlink_to(project / name)
    shutil.copytree(project / "runs", folder / "runs")
    write_params(folder, params)
    message = None
    for command in (("manifest", "Brain"), ("export", folder / "runs/Brain/few-2-sound")):
        options = ("--params", folder / "params.yaml", "--output", folder / f"made-by-{command[0]}")
        done = CliRunner().invoke(app, [str(a) for a in (*command, *options)])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        if done.exit_code:
            message = done.output.splitlines()[-1]
            break
    if message is None:
        assert key == "few_shot.shots" and value == [99], "accepted"
        return
    assert message.startswith("error: ") and "Traceback" not in done.output
    assert not (folder / f"made-by-{command[0]}").exists() and not leftovers(folder / "runs")


@pytest.mark.parametrize(
    "text", [b"", b"\xff\xfe", b"a: [", b"- 1", b"null", b"a: &a [*a]\n", b"!!python/object:os.system {}"]
)
def test_a_params_yaml_that_is_none(tmp_path, text):
    (tmp_path / "params.yaml").write_bytes(text)
    fails("manifest", "Brain", "--params", tmp_path / "params.yaml", words="params.yaml")
    fails("manifest", "Brain", "--params", tmp_path / "none.yaml", words="none.yaml")


DATA = {
    "no folder": (lambda root: shutil.rmtree(root), "folder of data set"),
    "empty folder": (lambda root: [shutil.rmtree(root), root.mkdir()], "no normal images"),
    "no normal images": (lambda root: shutil.rmtree(root / "test/good"), "no normal images"),
    "no abnormal images": (lambda root: shutil.rmtree(root / "valid/Ungood"), "no abnormal images"),
    "no masks": (lambda root: shutil.rmtree(root / "test/Ungood/anomaly_mask"), "mask of 000.png is missing"),
    "a mask too few": (
        lambda root: (root / "test/Ungood/anomaly_mask/003.png").unlink(),
        "003.png is missing",
    ),
    "a mask of another size": (
        lambda root: Image.new("L", (9, 9)).save(root / "test/Ungood/anomaly_mask/003.png"),
        "9 x 9 px",
    ),
    "a mask of zero bytes": (
        lambda root: (root / "test/Ungood/anomaly_mask/003.png").write_bytes(b""),
        "is empty",
    ),
    "an image of zero bytes": (lambda root: (root / "test/good/img/003.png").write_bytes(b""), "is empty"),
    "a folder in place of an image": (lambda root: swap(root / "test/good/img/003.png"), "is no file"),
    "a link to itself": (lambda root: circle(root / "test/good/img/003.png"), "cannot be read"),
    "several frames": (lambda root: pages(root / "test/good/img/003.png"), "holds 2 pictures"),
}


def swap(path: Path) -> None:
    path.unlink()
    path.mkdir()


def circle(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def pages(path: Path) -> None:
    image = Image.open(path)
    image.save(path, "TIFF", save_all=True, append_images=[image.copy()])


@pytest.mark.parametrize("case", DATA)
def test_bad_data(project, tmp_path, case):
    spoil, words = DATA[case]
    folder = tmp_path / "project"
    folder.mkdir()
    shutil.copytree(project / "data" / "Brain_AD", folder / "data" / "Brain_AD")
    write_params(folder, small_params())
    spoil(folder / "data" / "Brain_AD")
    options = ("--params", folder / "params.yaml", "--output", folder / "made")
    fails("manifest", "Brain", *options, words=words)
    assert not (folder / "made").exists()
