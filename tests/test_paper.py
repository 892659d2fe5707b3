"""The switch from the demo to the paper's setting, run on stand-ins in the real formats."""

import json
import shutil
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import yaml
from conftest import NAMES, write_dataset
from open_clip.model import CLIP
from parity import fill_by_name
from pipelines import ROOT, copy_project, dvc, ran, run, start_repository
from standins import SMALL, write_openai_archive

from mvfa_core.settings import load_settings

PARAMS = ROOT / "paper" / "params.yaml"


def test_the_papers_setting():
    settings, demo = load_settings(PARAMS), load_settings(ROOT / "params.yaml")
    assert settings.protocols == ("sound", "paper") and settings.seed == 111
    backbone, few, zero = settings.backbone, settings.few_shot, settings.zero_shot
    assert (backbone.model, backbone.image_size, backbone.levels) == ("ViT-L-14-336", 240, (6, 12, 18, 24))
    assert (backbone.activation, backbone.normalise) == ("gelu", False)
    assert (few.shots, few.epochs, few.batch_size, few.learning_rate) == ((2, 4, 8, 16), 50, 1, 1e-3)
    assert (zero.epochs, zero.batch_size, zero.learning_rate) == (50, 1, 1e-4)
    assert zero.images_per_class is None and few.support_lists is None
    assert settings.method == demo.method
    for name, entry in settings.datasets.items():
        assert entry.root == f"data/{name}_AD"
        assert (entry.organ, entry.masks) == (demo.datasets[name].organ, demo.datasets[name].masks)
    assert settings.datasets.keys() == demo.datasets.keys()


def test_both_settings_share_one_pipeline():
    link = ROOT / "paper" / "dvc.yaml"
    assert link.is_symlink() and link.readlink() == Path("../dvc.yaml")
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    for name, stage in stages.items():
        for entry in stage.get("do", stage)["deps"]:
            assert not entry.startswith(("mvfa_core", "notebooks")), f"{name}: {entry} needs ${{project}}/"


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """The project's own files, with two small data sets and a small OpenAI archive for the paper's setting."""
    folder = tmp_path_factory.mktemp("paper")
    copy_project(folder, "dvc.yaml", "params.yaml", ".gitignore", ".dvcignore")
    place = folder / "paper"
    (place / ".dvc").mkdir(parents=True)
    for name in ("dvc.yaml", ".gitignore", ".dvcignore", ".dvc/config", ".dvc/.gitignore"):
        shutil.copy(ROOT / "paper" / name, place / name, follow_symlinks=False)
    write_params(place)
    start_repository(folder)
    return folder


def write_params(place: Path) -> None:
    """The paper's parameters, shrunk: fewer data sets, shots and epochs, a small model of the same kind."""
    params = yaml.safe_load(PARAMS.read_text())
    (place / "clip.json").write_text(json.dumps(STAND_IN))
    params["backbone"] |= {"model": "clip.json", "image_size": 32, "levels": [1, 2, 3, 4]}
    params["few_shot"] |= {"shots": [2], "epochs": 2}
    params["zero_shot"] |= {"epochs": 2, "batch_size": 4}
    params["evaluation"] |= {"bootstrap": 100, "gallery": 3}
    params["device"] = "cpu"
    params["datasets"] = {name: params["datasets"][name] for name in ("Brain", "Chest")}
    (place / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))


STAND_IN = SMALL | {"vision_cfg": SMALL["vision_cfg"] | {"layers": 4}}


def run_paper(clone: Path, *arguments: str):
    # PYTHONPATH is the folder that the command starts in, and the code lies one above
    script = f"cd paper && PYTHONPATH={clone} python -m dvc {' '.join(arguments)}"
    return run(clone, "bash", "-c", script)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_the_papers_pipeline_on_stand_ins(clone):
    missing = run_paper(clone, "repro")
    lines = [line for line in (missing.stdout + missing.stderr).splitlines() if line.strip()]
    assert missing.returncode != 0 and len(lines) == 1, lines
    assert "check@Brain" in lines[0] and "Brain_AD" in lines[0]

    data = clone / "paper" / "data"
    for seed, name in enumerate(("Brain", "Chest")):
        write_dataset(data / f"{name}_AD", NAMES[name], seed=seed)
    model = CLIP(**STAND_IN)
    fill_by_name(model, salt=3, scale=2)
    (data / "weights").mkdir()
    write_openai_archive(data / "weights" / "ViT-L-14-336px.pt", model)

    done = run_paper(clone, "repro")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    trained = {name for name in ran(done.stdout) if name.startswith("train")}
    assert trained == {
        f"{kind}-{protocol}"
        for protocol in ("sound", "paper")
        for data_set in ("Brain", "Chest")
        for kind in (f"train_zero@{data_set}", f"train_few@{data_set}-2")
    }
    second = run_paper(clone, "repro")
    assert not ran(second.stdout) and "up to date" in second.stdout

    tables = clone / "paper" / "results" / "tables"
    for metric, sets in (("image_auroc", {"Brain", "Chest", "mean"}), ("pixel_auroc", {"Brain", "mean"})):
        found = pd.read_csv(tables / f"{metric}.csv")
        for group in ("zero-shot/sound", "zero-shot/paper", "2-shot/sound", "2-shot/paper"):
            rows = found[found["method"] == group]
            assert sets <= set(rows["dataset"]), f"{metric} of {group}"
        both = pd.read_csv(tables / "protocols.csv")
        both = both[both["metric"] == metric]
        assert set(both["dataset"]) >= sets and set(both["setting"]) == {"zero-shot", "2-shot"}
        assert (both["optimism"] - (both["paper"] - both["sound"])).abs().max() < 2e-6
        assert ((both["low"] <= both["high"]) & both["low"].notna()).all()
    provenance = yaml.safe_load((clone / "paper/results/provenance/Brain.json").read_text())
    backbone = provenance["runs"]["2-shot/paper/0"]["backbone"]
    assert backbone["weights_kind"] == "TorchScript archive" and backbone["activation"] == "gelu"
    rendered = nbformat.read(clone / "paper/results/notebooks/compare.ipynb", as_version=4)
    assert any("optimism" in str(cell.get("outputs", "")) for cell in rendered.cells)

    # the demo beside it has noticed nothing
    assert not (clone / "results").exists() and not (clone / "dvc.lock").exists()
    assert "paper" not in dvc(clone, "dag") and "paper" not in dvc(clone, "metrics", "show")


def test_data_can_be_put_under_dvc():
    """DVC 3.67 overlooks `.dvc` files in a folder where `!pattern` brings them back: nothing would be pushed."""
    lines = (ROOT / "paper" / ".gitignore").read_text().split()
    assert not [line for line in lines if line.startswith("!")] and "/data/*" not in lines
