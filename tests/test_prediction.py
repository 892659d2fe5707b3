import csv
import json
import os
import subprocess
import sys

import nibabel
import numpy as np
import pytest
import trained
from clinical_files import AFFINE, PATIENT, write_dicom, write_nifti
from PIL import Image
from pipelines import ROOT, environment
from typer.testing import CliRunner

from mvfa_core.cli import app
from mvfa_core.detector import Detector
from mvfa_core.errors import MvfaError
from mvfa_core.prediction import find_images, predict_files


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return trained.trained_project(tmp_path_factory.mktemp("prediction") / "project")


@pytest.fixture(scope="module")
def packed(project):
    return trained.exported(project)


@pytest.fixture(scope="module")
def detector(packed):
    return Detector.load(packed)


@pytest.fixture
def folder(tmp_path):
    return trained.write_images(tmp_path / "images", 6)


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def content(folder) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


def table(folder) -> list[dict]:
    with (folder / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_folder_becomes_tables_maps_and_overlays(packed, detector, folder, tmp_path):
    done = run("predict", folder, "--run", packed, "--output", tmp_path / "out")
    assert done.exit_code == 0, done.output
    rows, scores = table(tmp_path / "out"), detector.score_samples(sorted(folder.iterdir()))
    assert [row["image"] for row in rows] == [f"{i:03d}.png" for i in range(6)]
    assert np.allclose([float(row["score"]) for row in rows], scores, atol=1e-6)
    told = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [row["score"] for row in told["images"]] == [float(row["score"]) for row in rows]
    assert told["threshold"] == detector.threshold and "Not a medical device" in told["notice"]
    for row in rows:
        assert row["decision"] in ("normal", "abnormal") and 0 <= float(row["percentile"]) <= 100
        assert Image.open(tmp_path / "out" / row["overlay"]).mode == "RGB"


def test_the_map_can_be_read_back(detector, folder, tmp_path):
    wide = Image.open(folder / "001.png").resize((90, 45))
    wide.save(folder / "001.png")
    predict_files(detector, find_images(folder / "001.png"), tmp_path / "out")
    told = json.loads((tmp_path / "out" / "results.json").read_text())
    low, high = told["map_range"]
    pixels = np.asarray(Image.open(tmp_path / "out" / told["images"][0]["map"]))
    assert pixels.dtype == np.uint16 and pixels.shape == (45, 90)
    anomaly_map = Image.fromarray(detector.predict(folder / "001.png").maps[0])
    expected = np.asarray(anomaly_map.resize((90, 45), Image.Resampling.BILINEAR))
    assert np.abs(low + pixels / 65535 * (high - low) - expected).max() < 1e-4


def test_bad_images_are_listed_and_the_good_ones_done(packed, folder, tmp_path):
    (folder / "002.png").write_bytes(b"")
    (folder / "bad\nname.png").write_bytes(b"text")
    done = run("predict", folder, "--run", packed, "--output", tmp_path / "out")
    assert done.exit_code == 1
    errors = [line for line in done.output.splitlines() if line.startswith("error")]
    assert len(errors) == 2 and "002.png: is empty" in errors[0] and "bad\\nname.png" in errors[1]
    assert len(table(tmp_path / "out")) == 5
    assert len(json.loads((tmp_path / "out" / "results.json").read_text())["failed"]) == 2
    assert not [p for p in content(tmp_path / "out") if "002" in p or ".part" in p or "journal" in p]


def test_volumes_and_cine_loops(packed, tmp_path):
    rng = np.random.default_rng(3)
    source = tmp_path / "clinic"
    source.mkdir()
    write_nifti(source / "v.nii.gz", rng.integers(0, 900, (20, 24, 9)).astype(np.int16))
    write_dicom(source / "cine.dcm", rng.integers(0, 4096, (3, 24, 30)).astype(np.uint16))
    out = tmp_path / "out"
    done = run("predict", source, "--run", packed, "--output", out, "--axis", 1)
    assert done.exit_code == 0, done.output
    rows = table(out)
    assert [row["frame"] for row in rows] == [*map(str, range(3)), *map(str, range(24))]
    written = nibabel.load(out / "maps" / "v.nii.gz")
    assert written.shape == (20, 24, 9) and np.array_equal(written.affine, AFFINE)
    loudest = max(rows[3:], key=lambda row: float(row["score"]))
    assert [row["overlay"] for row in rows[3:] if row["overlay"]] == [loudest["overlay"]]
    assert (out / "maps" / "cine.dcm.00002.png").is_file()
    for name, data in content(out).items():
        if name.endswith(".nii.gz"):
            data = written.header.binaryblock
        assert PATIENT.encode() not in data and b"4711" not in data, name


def interrupted(detector, images, out, after: int):
    """A run that ends in the middle of a file, as if its process had been killed."""

    def progress(items):
        for number, item in enumerate(items):
            if number == after:
                raise KeyboardInterrupt
            yield item

    with pytest.raises(KeyboardInterrupt):
        predict_files(detector, images, out, progress=progress)


@pytest.mark.parametrize("cut", [0, 7])
def test_an_interrupted_run_goes_on_and_ends_with_the_same_bytes(detector, folder, tmp_path, cut):
    images = find_images(folder)
    predict_files(detector, images, tmp_path / "whole")
    interrupted(detector, images, tmp_path / "out", 4)
    journal = tmp_path / "out" / ".journal.jsonl"
    if cut:
        journal.write_bytes(journal.read_bytes()[:-cut])
    (tmp_path / "out" / "maps" / "005.png.png.part").write_bytes(b"half")
    again = predict_files(detector, images, tmp_path / "out")
    assert again.kept == (3 if cut else 4) and again.done == 6
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_what_changed_since_is_judged_again(detector, folder, tmp_path):
    images = find_images(folder)
    interrupted(detector, images, tmp_path / "out", 5)
    Image.fromarray(np.full((32, 32), 7, dtype=np.uint8)).save(folder / "001.png")
    (tmp_path / "out" / "maps" / "002.png.png").unlink()
    assert predict_files(detector, images, tmp_path / "out").kept == 3
    predict_files(detector, images, tmp_path / "whole")
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_unfinished_results_of_another_detector_are_not_mixed_in(detector, folder, tmp_path):
    images = find_images(folder)
    interrupted(detector, images, tmp_path / "out", 2)
    with pytest.raises(MvfaError, match="unfinished results of another detector"):
        predict_files(detector.with_rule("false-alarm", 0.0), images, tmp_path / "out")
    (tmp_path / "out" / ".journal.jsonl").write_bytes(b"{broken}\n")
    with pytest.raises(MvfaError, match="is damaged; delete it"):
        predict_files(detector, images, tmp_path / "out")


def test_results_inside_the_folder_are_not_taken_for_images(packed, folder):
    for _ in range(2):
        done = run("predict", folder, "--run", packed, "--output", folder / "out")
        assert "6 of 6 files" in done.output
    assert run("predict", folder, "--run", packed, "--output", folder).exit_code == 1


def test_links_that_lead_in_circles_and_nowhere(packed, folder, tmp_path):
    (folder / "circle").symlink_to(folder)
    (folder / "a.png").symlink_to(folder / "b.png")
    (folder / "b.png").symlink_to(folder / "a.png")
    os.mkfifo(folder / "pipe.png")
    done = run("predict", folder, "--run", packed, "--output", tmp_path / "out")
    assert done.exit_code == 1 and "6 of 9 files" in done.output
    assert "pipe.png: is no file" in done.output and "a.png: cannot be read" in done.output


def test_odd_names(packed, folder, tmp_path):
    names = ["=SUM(A1).png", "-x.png", "ä ö.png", "x" * 250 + ".png", "日本.png", "a;b,c.png", "tab\t.png"]
    names.append("\udcff.png")
    for name in names:
        (folder / name).write_bytes((folder / "000.png").read_bytes())
    done = run("predict", folder, "--run", packed, "--output", tmp_path / "out")
    assert done.exit_code == 0, done.output
    rows = table(tmp_path / "out")
    assert len(rows) == 14 and len({row["map"] for row in rows}) == 14
    assert not [row["image"] for row in rows if row["image"][0] in "=-+@"]
    assert sum((tmp_path / "out" / row["map"]).is_file() for row in rows) >= 13


def test_a_run_folder_gives_what_its_export_gives(project, packed, folder, tmp_path):
    draws = project / "runs" / "Brain" / "few-2-sound"
    for number, what in enumerate((packed, draws, draws / "draw-0")):
        out = tmp_path / f"out{number}"
        done = run("predict", folder, "--run", what, "--output", out, "--params", project / "params.yaml")
        assert done.exit_code == 0, done.output
        assert content(out) == content(tmp_path / "out0")


def test_rules_and_tables_alone(packed, folder, tmp_path):
    out = tmp_path / "out"

    def told(*options) -> dict:
        done = run("predict", folder, "--run", packed, "--output", out, "--no-pictures", *options)
        assert done.exit_code == 0 and set(content(out)) == {"results.csv", "results.json"}
        return json.loads((out / "results.json").read_text())

    exported, youden, half = told(), told("--rule", "youden"), told("--false-alarm-rate", 0.5)
    assert (exported["rule"], exported["false_alarm_rate"]) == ("false-alarm", 0.05)
    assert youden["rule"] == "youden" and "false_alarm_rate" not in youden
    # a rate that is given counts, whether its rule is named or not
    assert half == told("--rule", "false-alarm", "--false-alarm-rate", 0.5)
    assert half["threshold"] < exported["threshold"]


def test_runs_and_export(project, tmp_path):
    listed = run("runs", project / "runs", "--results", project / "results")
    assert (
        listed.exit_code == 0 and "few-2-sound/draw-0" in listed.output and "2-shot/sound/0" in listed.output
    )
    made = run(
        *("export", project / "runs/Brain/few-2-sound", "--params", project / "params.yaml"),
        *("--output", tmp_path / "d.safetensors", "--rule", "youden", "--results", project / "results"),
    )
    assert made.exit_code == 0 and "Not a medical device" in made.output
    assert Detector.load(tmp_path / "d.safetensors").rule == "youden"
    assert run("runs", tmp_path / "none").exit_code == 1
    assert run("export", tmp_path, "--params", project / "params.yaml").exit_code == 1


def test_a_folder_for_colleagues_can_be_read_by_them(detector, folder, tmp_path):
    before = os.umask(0o027)
    try:
        predict_files(detector, find_images(folder), tmp_path / "out")
        detector.save(tmp_path / "d.safetensors")
    finally:
        os.umask(before)
    made = [tmp_path / "d.safetensors", *(tmp_path / "out").rglob("*")]
    assert {p.stat().st_mode & 0o777 for p in made if p.is_file()} == {0o640}
    assert {p.stat().st_mode & 0o777 for p in made if p.is_dir()} == {0o750}


@pytest.mark.parametrize("workers", [2, 5])
def test_several_files_at_once_give_the_same_bytes(detector, folder, tmp_path, workers):
    (folder / "003.png").write_bytes(b"")
    images = find_images(folder)
    predict_files(detector, images, tmp_path / "one")
    done = predict_files(detector, images, tmp_path / "many", workers=workers)
    assert done.done == 5 and len(done.bad) == 1 and content(tmp_path / "many") == content(tmp_path / "one")


MEMORY = """
import resource, sys, torch
from pathlib import Path
from mvfa_core.detector import Detector
from mvfa_core.prediction import find_images, predict_files
torch.set_num_threads(1)
detector, images = Detector.load(sys.argv[1], device="cpu"), find_images(sys.argv[2])
predict_files(detector, images[: int(sys.argv[4])], Path(sys.argv[3]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_folder(packed, tmp_path):
    """120 pictures and maps of 512 px are 200 MiB: a fifth of that would be noticed."""
    source = tmp_path / "in"
    source.mkdir()
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 255, (512, 512, 3), dtype=np.uint8))
    for number in range(130):
        picture.save(source / f"{number}.bmp")
    peaks = []
    for count in (10, 130):
        command = [sys.executable, "-c", MEMORY, packed, source, tmp_path / f"out{count}", count]
        done = subprocess.run(
            [str(part) for part in command],
            env=environment(ROOT),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        peaks.append(int(done.stdout) / 1024)
    assert peaks[1] - peaks[0] < 40, peaks
