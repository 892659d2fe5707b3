"""A data set of one's own, from `add-dataset` through `dvc repro` to the report, without a change of code."""

import hashlib
import json
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from conftest import write_params
from own_table import PATIENTS, save_table, write_table
from pipelines import dvc, ran, run, small_pipeline

pytestmark = pytest.mark.slow
ORGAN = "Skin <script>alert(1)</script>"


def code(folder: Path) -> dict[str, str]:
    """Everything that is not data, parameters or a result."""
    files = [folder / "dvc.yaml", *folder.glob("mvfa_core/**/*.py"), *folder.glob("notebooks/*")]
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in files if p.is_file()}


@pytest.mark.timeout(3600)
def test_a_table_with_patients_and_without_masks(tmp_path):
    folder = small_pipeline(tmp_path / "project", draws=1)
    # one data set beside the new one is enough
    params = yaml.safe_load((folder / "params.yaml").read_text())
    del params["datasets"]["Chest"]
    write_params(folder, params)
    before = code(folder)
    rows = write_table(folder / "own", masks=False, columns=("path", "label", "patient"))
    # names that a page, a figure or a table might take for something to run
    for row, name in zip(rows, ("<img src=x onerror=alert(1)>.png", "$x_1 & =1+1.png"), strict=False):
        (folder / "own" / row["path"]).rename(folder / "own" / "pictures" / name)
        row["path"] = f"pictures/{name}"
    save_table(folder / "own", rows)
    added = run(
        folder,
        *(sys.executable, "-m", "mvfa_core", "add-dataset", "Own", "own"),
        *("--organ", ORGAN, "--table", "labels.csv"),
    )
    assert added.returncode == 0 and "Own added (without masks)" in added.stdout, added.stderr

    done = ran(dvc(folder, "repro"))
    assert {"check@Own", "train_zero@Own-sound", "train_few@Own-2-sound", "evaluate@Own", "report"} <= done
    assert code(folder) == before

    patients = {}
    for split in ("valid", "test"):
        files = json.loads((folder / "runs" / "data" / split / "Own.json").read_text())["files"]
        found = {name.split("/", 2)[2] for name in files}
        patients[split] = {row["patient"] for row in rows if row["path"] in found}
    assert not patients["valid"] & patients["test"] and len(set.union(*patients.values())) == PATIENTS

    results = folder / "results"
    images, pixels, gains = (
        pd.read_csv(results / "tables" / f"{name}.csv") for name in ("image_auroc", "pixel_auroc", "gain")
    )
    own = images[images["dataset"] == "Own"]
    assert {"clip-pooled", "zero-shot/sound", "2-shot/sound"} <= set(own["method"])
    assert own[["value", "low", "high"]].notna().all(axis=None)
    assert "Own" not in set(pixels["dataset"]) and "Own" in set(gains["dataset"])
    assert (results / "figures" / "panel-Own.png").stat().st_size
    assert 'href="evaluate-Own.html"' in (results / "report" / "index.html").read_text()
    pages = {page.name: page.read_text() for page in (results / "report").glob("*.html")}
    assert "Own" in pages["compare.html"] and any("&lt;script&gt;alert(1)" in text for text in pages.values())
    assert not [name for name, text in pages.items() if "<script>alert(1)" in text or "<img src=x" in text]
    assert "results/metrics/Own.json" in dvc(folder, "metrics", "show", "--md")
