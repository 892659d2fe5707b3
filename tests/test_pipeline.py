"""One small `dvc repro` from end to end, in a repository of its own."""

import hashlib
import sys
from pathlib import Path

import nbformat
import pytest
import yaml
from conftest import write_params
from pipelines import ROOT, dvc, ran, run, small_pipeline

from mvfa_core.report import TABLES

pytestmark = pytest.mark.slow


def digest(folder: Path, *kinds: str) -> dict[str, str]:
    """SHA-256 of every file below `results/<kind>`."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for kind in kinds
        for path in sorted((folder / "results" / kind).rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    return small_pipeline(tmp_path_factory.mktemp("clone"))


@pytest.fixture(scope="module")
def first(clone) -> str:
    return dvc(clone, "repro")


def test_it_runs_every_stage_and_a_second_run_does_nothing(clone, first):
    assert {name.split("@")[0] for name in ran(first)} == {
        "check",
        "train_zero",
        "train_few",
        "evaluate",
        "compare",
        "report",
    }
    second = dvc(clone, "repro")
    assert not ran(second) and "up to date" in second


def test_the_results_are_where_a_person_finds_them(clone, first):
    results = clone / "results"
    for name in set(TABLES) - {"protocols", "published_measured"}:
        assert all((results / "tables" / f"{name}.{kind}").stat().st_size for kind in ("csv", "md", "tex"))
    for name in ("image_auroc", "pixel_auroc", "roc", "panel-Brain", "panel-Chest"):
        assert all((results / "figures" / f"{name}.{kind}").stat().st_size for kind in ("png", "svg"))
    index = (results / "report" / "index.html").read_text()
    assert "MVFA 2-shot" in index and 'href="compare.html"' in index and 'href="evaluate-Brain.html"' in index
    assert str(clone) not in index


def test_rendered_notebooks_hold_outputs_but_no_time_and_no_place(clone, first):
    notebooks = sorted((clone / "results" / "notebooks").glob("*.ipynb"))
    assert len(notebooks) == 2 + 2 + 2 + 1
    for path in notebooks:
        text = path.read_text()
        assert str(clone) not in text and "papermill" not in text.lower() and "start_time" not in text
        notebook = nbformat.read(path, as_version=4)
        assert any(cell.get("outputs") for cell in notebook.cells)
        assert not [o for cell in notebook.cells for o in cell.get("outputs", []) if o.output_type == "error"]


def test_source_notebooks_are_kept_without_outputs():
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells), (
            path.name
        )
        assert sum("parameters" in cell.metadata.get("tags", []) for cell in notebook.cells) == 1, path.name


def test_metrics_plots_and_graph_say_something(clone, first):
    metrics = dvc(clone, "metrics", "show", "--md")
    assert "2-shot/sound.image_auroc" in metrics and "results/metrics/Brain.json" in metrics
    assert "train_few" in dvc(clone, "dag", "--mermaid")
    dvc(clone, "plots", "show", "--out", "plots")
    page = (clone / "plots" / "index.html").read_text()
    assert "few_shot" in page and "image_auroc.png" in page


def test_forced_again_it_gives_the_same_bytes(clone, first):
    kinds = ("metrics", "scores", "tables", "figures", "plots", "provenance", "notebooks")
    before = digest(clone, *kinds)
    dvc(clone, "repro", "--force", "--single-item", "train_few@Brain-2-sound")
    dvc(clone, "repro", "--force", "--single-item", "evaluate@Brain")
    dvc(clone, "repro", "--force", "--single-item", "compare")
    assert digest(clone, *kinds) == before


def test_changing_one_data_set_reruns_only_what_depends_on_it(clone, first):
    params = yaml.safe_load((clone / "params.yaml").read_text())
    params["datasets"]["Chest"]["organ"] = "Thorax"
    write_params(clone, params)
    again = ran(dvc(clone, "repro"))
    assert {"check:Chest", "train_few:Chest", "evaluate:Chest"} <= {
        name.replace("@", ":").split("-")[0] for name in again
    }
    assert not {name for name in again if name.startswith(("check@Brain", "train_few@Brain"))}


def test_bad_input_stops_the_pipeline_with_one_line(clone, first):
    mask = next((clone / "data/Brain_AD/test/Ungood/anomaly_mask").glob("*.png"))
    content = mask.read_bytes()
    mask.unlink()
    done = run(clone, sys.executable, "-m", "dvc", "repro")
    mask.write_bytes(content)
    assert done.returncode != 0
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("error:")]
    assert len(lines) == 1 and mask.name in lines[0] and "Traceback" not in done.stdout + done.stderr
