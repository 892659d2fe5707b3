"""Foreign adapters become runs, and published weights files."""

from pathlib import Path

import pytest
import torch
from conftest import small_params, write_params
from typer.testing import CliRunner

from mvfa_core import fetching
from mvfa_core.authors import import_adapters
from mvfa_core.checkpoints import save_authors_format
from mvfa_core.cli import app
from mvfa_core.errors import MvfaError
from mvfa_core.evaluation import Evaluation
from mvfa_core.experiment import Experiment
from mvfa_core.methods import run_folder
from mvfa_core.runs import Run


@pytest.fixture
def published(project) -> Path:
    """A project with support lists, and `Brain.pth` as the authors write it."""
    folder = project / "lists" / "Brain"
    folder.mkdir(parents=True)
    (folder / "2-shot.txt").write_text("n-0: 004.png 001.png\na-0: 003.png 002.png\n")
    params = small_params() | {"protocols": ["sound"]}
    params["few_shot"] |= {"support_lists": "lists", "draws": 1}
    write_params(project, params)
    experiment = opened(project)
    run = experiment.train_few_shot("Brain", 2, "paper")
    save_authors_format(project / "Brain.pth", run.adapters)
    return project


def opened(project: Path) -> Experiment:
    return Experiment.open(project / "params.yaml", say=lambda line: None)


def mvfa(folder: Path, *arguments: str):
    """The command in this process, run from `folder`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return CliRunner().invoke(app, list(arguments))


def test_imported_adapters_are_judged_as_those_that_were_written(published):
    experiment = opened(published)
    own = experiment.train_few_shot("Brain", 2, "paper")
    run = import_adapters(experiment, published / "Brain.pth", "Brain", 2)
    assert run.method == "2-shot/authors/0" and run.support == own.support
    test = experiment.test_set("Brain")
    theirs, ours = (experiment.verdict("Brain", r, test) for r in (run, own))
    assert torch.allclose(theirs.scores, ours.scores, atol=1e-6)
    assert run.ranges.memory_maps.high == pytest.approx(own.ranges.memory_maps.high, abs=1e-5)
    assert run.provenance["imported"] == "Brain.pth" and run.provenance["support_from"] == "lists"


def test_the_command_makes_a_run_that_the_evaluation_picks_up(published):
    done = mvfa(published, "import-adapters", "Brain.pth", "--dataset", "Brain", "--shots", "2", "--evaluate")
    assert done.exit_code == 0, done.output
    rows = [line.split("|")[1].strip() for line in done.stdout.splitlines() if line.startswith("|")]
    assert rows[2:] == ["clip-pooled", "clip-patch", "untrained", "2-shot/authors"]
    assert "2-shot/authors/0 of Brain, support set from the lists" in done.stdout
    zero = mvfa(published, "import-adapters", "Brain.pth", "--dataset", "Brain", "--shots", "0")
    assert zero.exit_code == 0, zero.stderr
    experiment = opened(published)
    for shots, train in ((0, experiment.train_zero_shot), (2, lambda n: experiment.train_few_shot(n, 2))):
        train("Brain").save(published / "runs" / "Brain" / run_folder(shots, "sound") / "draw-0")
    runs = experiment.load_runs("Brain", published / "runs")
    assert [run.method for run in runs] == [
        "zero-shot/sound",
        "2-shot/sound/0",
        "2-shot/authors/0",
        "zero-shot/authors",
    ]
    test = experiment.test_set("Brain")
    evaluation = Evaluation.of(experiment, "Brain", test, experiment.verdicts("Brain", runs, test), runs)
    assert {"2-shot/authors", "zero-shot/authors"} <= set(evaluation.metrics)
    assert evaluation.provenance["runs"]["2-shot/authors/0"]["sha256"]


def test_ordinary_runs_say_nothing_of_an_origin(published):
    run = opened(published).train_few_shot("Brain", 2)
    run.save(published / "somewhere")
    assert "origin" not in (published / "somewhere" / "run.json").read_text()
    assert Run.load(published / "somewhere", opened(published).fresh_adapters()).origin is None


def test_what_does_not_fit_is_one_line(published):
    torch.save({"seg_adapters": {}}, published / "half.pth")
    asked = [
        ("half.pth", "2", "half.pth"),
        ("none.pth", "2", "cannot be read"),
        ("Brain.pth", "4", "4-shot.txt"),
    ]
    for file, shots, message in asked:
        done = mvfa(published, "import-adapters", file, "--dataset", "Brain", "--shots", shots)
        assert done.exit_code == 1 and message in done.output
        assert done.output.startswith("error:") and done.output.count("\n") == 1, done.output
    assert not list((published / "runs").glob("**/imported"))


# --- weights ---


@pytest.fixture
def download(project, monkeypatch):
    """`open_clip` finds a small file in its cache; the configurations that were asked for."""
    asked = []

    def fetch(config):
        asked.append(config)
        return str(project / "clip.safetensors")

    monkeypatch.setattr(fetching, "download_pretrained", fetch)
    return asked


def test_weights_become_a_file(project, download):
    file = project / "data" / "weights" / "ViT-L-14-336px.pt"
    tensors, kind = fetching.fetch_weights("ViT-L/14-336", "openai", file)
    assert kind == "safetensors" and tensors > 20
    assert file.read_bytes() == (project / "clip.safetensors").read_bytes()
    assert len(download) == 1 and "ViT-L-14-336px" in download[0]["url"]
    with pytest.raises(MvfaError, match="exists already"):
        fetching.fetch_weights("ViT-L-14-336", "openai", file)


def test_no_file_is_left_where_fetching_fails(project, download, monkeypatch):
    file = project / "weights.pt"
    for model, tag, message in (
        ("ViT-L-14-337", "openai", "no model of open_clip; did you mean 'ViT-L-14-336'"),
        ("ViT-L-14-336", "opanai", "no tag of ViT-L-14-336; it has openai"),
    ):
        with pytest.raises(MvfaError, match=message):
            fetching.fetch_weights(model, tag, file)
    (project / "clip.safetensors").write_bytes(b"PK and then nothing")
    with pytest.raises(MvfaError, match="damaged or truncated"):
        fetching.fetch_weights("ViT-L-14-336", "openai", file)

    def offline(config):
        raise OSError("no route")

    monkeypatch.setattr(fetching, "download_pretrained", offline)
    with pytest.raises(MvfaError, match="could not be downloaded"):
        fetching.fetch_weights("ViT-L-14-336", "openai", file)
    assert not file.exists() and not file.with_name("weights.pt.part").exists()
