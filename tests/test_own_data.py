import hashlib
import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from clinical_files import write_dicom
from conftest import draw_image, write_dataset
from own_table import PATIENTS, save_table, write_table
from PIL import Image
from trained import opened
from typer.testing import CliRunner

from mvfa_core.cli import app
from mvfa_core.datasets import ImageDataset
from mvfa_core.errors import MvfaError
from mvfa_core.own_data import with_entry
from mvfa_core.settings import DatasetEntry, load_settings
from mvfa_core.tables import Row, safe_path, split_rows


def entry(**changes) -> DatasetEntry:
    return DatasetEntry(**{"root": "own", "organ": "Skin", "masks": True, "table": "labels.csv"} | changes)


def add(project, *arguments):
    return CliRunner().invoke(
        app, ["add-dataset", "--params", str(project / "params.yaml"), *map(str, arguments)]
    )


# --- tables ---------------------------------------------------------------------------------------------


def test_a_patient_is_never_in_two_splits(tmp_path):
    rows = write_table(tmp_path / "own")
    of = {row["path"]: row["patient"] for row in rows}
    dataset = ImageDataset("Own", entry(), tmp_path)
    found = {split: dataset.records(split) for split in ("valid", "test")}
    patients = {split: {of["pictures/" + r.path.name] for r in records} for split, records in found.items()}
    assert not patients["valid"] & patients["test"] and len(patients["valid"] | patients["test"]) == PATIENTS
    assert len(patients["valid"]) == 4
    assert sum(len(records) for records in found.values()) == 48
    assert all(r.label == (r.mask is not None) for records in found.values() for r in records)
    assert [r.label for r in found["test"]] == sorted(r.label for r in found["test"])


def test_the_order_of_the_lines_does_not_matter(tmp_path):
    rows = write_table(tmp_path / "own")
    names = [r.name for r in ImageDataset("Own", entry(), tmp_path).records("valid")]
    save_table(tmp_path / "own", rows[::-1])
    assert [r.name for r in ImageDataset("Own", entry(), tmp_path).records("valid")] == names


def test_the_share_of_valid_can_be_turned(tmp_path):
    write_table(tmp_path / "own", columns=("path", "label"))
    sizes = [
        len(ImageDataset("Own", entry(masks=False, valid_share=share), tmp_path).records("valid"))
        for share in (0.1, 0.5, 0.9)
    ]
    assert sizes == [5, 24, 43]


def test_splits_of_the_table_count(tmp_path):
    rows = write_table(tmp_path / "own")
    for row in rows:
        row["split"] = ("val", "test", "train")[int(row["patient"][1:]) // 4]
    save_table(tmp_path / "own", rows)
    dataset = ImageDataset("Own", entry(), tmp_path)
    assert len(dataset.records("valid")) == len(dataset.records("test")) == 16
    rows[0]["split"] = "test"
    save_table(tmp_path / "own", rows)
    with pytest.raises(MvfaError, match="patient 'p0' is in valid and in test"):
        ImageDataset("Own", entry(), tmp_path).records("valid")


def test_images_and_masks_are_those_of_the_table(tmp_path):
    write_table(tmp_path / "own")
    dataset = ImageDataset("Own", entry(), tmp_path)
    batch = dataset.load(dataset.records("test"), 32)
    assert torch.equal(batch.masks.flatten(1).any(dim=1).float(), batch.labels)


@pytest.mark.parametrize("mark", [",", ";", "\t"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_what_spreadsheets_write(tmp_path, mark, start):
    rows = write_table(tmp_path / "own", columns=("path", "label"))
    words = {0: "Normal", 1: "ABNORMAL"}
    lines = [f"Path{mark}Label{mark}comment", *(f"{r['path']}{mark}{words[r['label']]}{mark}x" for r in rows)]
    (tmp_path / "own" / "labels.csv").write_bytes((start + "\r\n".join(lines)).encode())
    assert len(ImageDataset("Own", entry(masks=False), tmp_path).records("test")) == 33


@pytest.mark.parametrize(
    "path",
    [
        "",
        ".",
        "..",
        "../x.png",
        "a/../../x.png",
        "/etc/passwd",
        "C:\\x",
        "C:x.png",
        "a\\b",
        "\\\\host\\x",
        "a\0b",
    ],
)
def test_paths_that_lead_out_are_refused(path):
    with pytest.raises(MvfaError):
        safe_path(path, "labels.csv, line 2")


TABLES = {
    "no column": ("image,label\na.png,0\n", "no column 'path'"),
    "typo": ("path,label,patients\na.png,0,x\n", "did you mean 'patient'"),
    "no line": ("path,label\n", "names no image"),
    "nothing": ("", "no column 'path'"),
    "label": ("path,label\na.png,maybe\n", "line 2: label is 'maybe'"),
    "no label": ("path,label\na.png\n", "line 2: label is ''"),
    "split": ("path,label,split\na.png,0,holdout\n", "line 2: split is 'holdout'"),
    "twice": ("path,label\na.png,0\n./a.png,1\n", "line 3: 'a.png' is there already in line 2"),
    "some patients": ("path,label,patient\na.png,0,x\nb.png,0,\n", "line 3: has no patient"),
    "some splits": ("path,label,split\na.png,0,test\nb.png,0,\n", "line 3: has no split"),
    "out": ("path,label\n../../secret.png,0\n", "leads out of the data set's folder"),
    "out by the mask": ("path,label,mask\na.png,1,/etc/passwd\n", "leads out of the data set's folder"),
    "one class": ("path,label\na.png,0\nb.png,0\n", "no abnormal images"),
    "one image": ("path,label\na.png,0\nb.png,1\n", "only one of the images"),
    "quotes": ('path,label\n"a.png,0\n', "not valid CSV"),
    "binary": (b"\xff\xfe\x00path", "not UTF-8"),
    "no mask": ("path,label\na.png,0\nb.png,0\nc.png,1\nd.png,1\n", "has no mask"),
}


@pytest.mark.parametrize("case", TABLES)
def test_every_mistake_in_a_table_is_one_line(tmp_path, case):
    text, message = TABLES[case]
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "labels.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(MvfaError) as error:
        ImageDataset("Own", entry(), tmp_path).records("valid")
    assert (
        message in str(error.value) and "\n" not in str(error.value) and "own/labels.csv" in str(error.value)
    )


def test_a_missing_table_and_one_outside(tmp_path):
    (tmp_path / "own").mkdir()
    with pytest.raises(MvfaError, match="own/labels.csv: cannot be read"):
        ImageDataset("Own", entry(), tmp_path).records("valid")
    with pytest.raises(MvfaError, match="leads out"):
        ImageDataset("Own", entry(table="../labels.csv"), tmp_path).records("valid")


def test_small_tables_still_give_two_splits():
    rows = [Row(f"{i}.png", i % 2, None, None, None, i) for i in range(4)]
    found = split_rows(rows, 0.01, "t")
    assert len(found["valid"]) == len(found["test"]) == 2


# --- add-dataset ----------------------------------------------------------------------------------------


def test_the_entry_is_one_line_more_and_nothing_else_changes(project):
    path = project / "params.yaml"
    text = "# a comment\n" + path.read_text() + "# the end\n"
    path.write_text(text)
    write_dataset(project / "data" / "Skin_AD", masks=True, seed=9)
    done = add(project, "Skin", project / "data" / "Skin_AD", "--organ", "skin: a photograph")
    assert done.exit_code == 0, done.output
    before, after = text.splitlines(), path.read_text().splitlines()
    added = [line for line in after if line not in before]
    assert len(after) == len(before) + 1 and len(added) == 1
    assert added[0].startswith("  Skin: { root: data/Skin_AD, organ: 'skin: a photograph', masks: true")
    assert load_settings(path).dataset("Skin").masks


@pytest.mark.parametrize("style", ["flow", "block", "no newline", "crlf"])
def test_other_ways_to_write_the_entries(tmp_path, style):
    text = (
        "datasets:\n  A: { root: a, organ: a } # first\n  B:\n    root: b\n    organ: b\n\n# end\nseed: 1\n"
    )
    if style == "flow":
        text = "seed: 1\ndatasets:\n    A: { root: a, organ: a,\n         masks: true }\n\n"
    if style == "no newline":
        text = "seed: 1\ndatasets:\n  A: { root: a, organ: a, masks: true }"
    if style == "crlf":
        text = text.replace("\n", "\r\n")
    (tmp_path / "params.yaml").write_bytes(text.encode())
    result = with_entry(tmp_path / "params.yaml", "New", entry())
    assert yaml.safe_load(result)["datasets"]["New"]["table"] == "labels.csv"
    assert ("\r\n" in result) == (style == "crlf")
    kept = [line for line in result.splitlines() if not line.strip().startswith("New:")]
    assert kept == text.splitlines()


def test_datasets_in_braces_are_left_to_the_user(tmp_path):
    (tmp_path / "params.yaml").write_text("datasets: { A: { root: a } }\n")
    with pytest.raises(MvfaError, match=r"add this by hand: New: \{ root: own"):
        with_entry(tmp_path / "params.yaml", "New", entry())


def test_a_table_from_the_command_line_to_scores(project):
    write_table(project / "own")
    done = add(project, "Own", project / "own", "--organ", "Skin", "--table", "labels.csv")
    assert done.exit_code == 0, done.output
    assert "Own valid: 12 normal, 4 abnormal" in done.output and "with masks" in done.output
    arguments = ["manifest", "Own", "--params", str(project / "params.yaml"), "--output", str(project / "m")]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert len(json.loads((project / "m" / "test" / "Own.json").read_text())["files"]) == 32
    experiment = opened(project)
    run, test = experiment.train_few_shot("Own", 2), experiment.test_set("Own")
    verdict = experiment.verdict("Own", run, test)
    assert torch.isfinite(verdict.scores).all() and len(verdict.scores) == 32
    assert experiment.train_zero_shot("Own").adapters is not None


def test_deep_images_and_dicom_as_a_data_set(project):
    rng, rows = np.random.default_rng(0), []
    (project / "ct").mkdir()
    for number in range(16):
        image, _ = draw_image(rng, number % 2 == 1)
        stored = (image.astype(np.uint16) * 4 + 900).astype(np.uint16)
        write_dicom(project / "ct" / f"{number}.dcm", stored, RescaleSlope=1, RescaleIntercept=-1024)
        rows.append({"path": f"{number}.dcm", "label": number % 2})
    save_table(project / "ct", rows)
    window = ("--window", "-124", "896")
    done = add(project, "Ct", project / "ct", "--organ", "Liver", "--table", "labels.csv", *window)
    assert done.exit_code == 0, done.output
    assert load_settings(project / "params.yaml").dataset("Ct").window == (-124, 896)
    batch = opened(project).load("Ct", opened(project).dataset("Ct").records("test"))
    assert 80 < batch.images.float().mean() < 140


WRONG = {
    "taken": ("Brain", "already"),
    "taken in small letters": ("brain", "already"),
    "reserved": ("data", "the results use this name"),
    "folder": ("a/b", "use letters"),
    "dots": ("..", "use letters"),
    "empty": ("", "use letters"),
    "a truth value": ("yes", "use letters"),
    "nothing": ("null", "use letters"),
}


@pytest.mark.parametrize("case", WRONG)
def test_names_that_cannot_be_used(project, case):
    name, message = WRONG[case]
    before = (project / "params.yaml").read_bytes()
    done = add(project, "--organ", "x", "--", name, project / "data" / "Brain_AD")
    assert done.exit_code == 1 and message in done.output
    assert (project / "params.yaml").read_bytes() == before


def spoil_copy(folder):
    shutil.copy(folder / "valid/good/img/000.png", folder / "test/good/img/000.png")


def spoil_mask_values(folder):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (32, 32), dtype=np.uint8)).save(
        folder / "test/Ungood/anomaly_mask/000.png"
    )


def spoil_mask_empty(folder):
    Image.new("L", (32, 32)).save(folder / "test/Ungood/anomaly_mask/000.png")


def spoil_mask_size(folder):
    Image.new("L", (30, 32), 255).save(folder / "test/Ungood/anomaly_mask/000.png")


def spoil_mask_gone(folder):
    (folder / "test/Ungood/anomaly_mask/000.png").unlink()


def spoil_image(folder):
    (folder / "test/good/img/001.png").write_bytes(b"not an image")


def spoil_class(folder):
    shutil.rmtree(folder / "valid/Ungood")


def spoil_count(folder):
    for number in range(1, 6):
        (folder / f"valid/good/img/{number:03d}.png").unlink()


def spoil_folder(folder):
    shutil.rmtree(folder)


SPOILED = {
    spoil_copy: "are the same image",
    spoil_mask_values: "grey values; save it without loss",
    spoil_mask_empty: "marks nothing",
    spoil_mask_size: "mask is 30 x 32 px",
    spoil_mask_gone: "mask of 000.png is missing",
    spoil_image: "001.png: is not a readable image",
    spoil_class: "no abnormal images",
    spoil_count: "few_shot.shots needs 2 of each",
    spoil_folder: "is no folder",
}


@pytest.mark.parametrize("spoil", SPOILED, ids=lambda spoil: spoil.__name__)
def test_spoiled_data_never_reach_the_parameter_file(project, spoil):
    folder = write_dataset(project / "data" / "New_AD", masks=True, seed=9)
    spoil(folder)
    before = hashlib.sha256((project / "params.yaml").read_bytes()).digest()
    done = add(project, "New", folder, "--organ", "x")
    assert done.exit_code == 1 and SPOILED[spoil] in done.output, done.output
    assert len([line for line in done.output.splitlines() if line.startswith("error")]) == 1
    assert hashlib.sha256((project / "params.yaml").read_bytes()).digest() == before
    assert not list(project.glob("*.part"))
