"""Ablations: what is varied, what is compared, what is said about it."""

import re
import sys
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import small_params, write_backbone, write_dataset, write_params
from pipelines import ROOT, copy_project, dvc, ran, run, start_repository
from test_stages import LOOKS, closure, imported, notebook_source

from mvfa_core.ablations import telling
from mvfa_core.ablations.bench import Bench, Plan, SegmentationAlone, Variation, changed, load_plan
from mvfa_core.ablations.measuring import Outcome, ask, outcome_table, write_outcomes
from mvfa_core.ablations.options import MVFA, PLAIN, SUPPORT, TEST
from mvfa_core.ablations.questions import QUESTIONS
from mvfa_core.backbones import resolve_levels
from mvfa_core.baselines import baseline_verdicts
from mvfa_core.errors import MvfaError
from mvfa_core.experiment import Experiment
from mvfa_core.metrics import auroc
from mvfa_core.settings import load_settings
from mvfa_core.training import batch_losses

OPTIONS = {
    "levels": [[2], [1, 2, 3, 4]],
    "adapters": ["no feedback", "projectors", "untrained"],
    "residual": [0, 0.4],
    "prompts": ["states only", "one prompt"],
    "branches": ["detection read", "detection alone", "segmentation alone"],
    "memory": [0, 1],
    "shots": [1],
    "epochs": [1, 3],
    "activation": ["quickgelu"],
    "normalise": [True],
}
PLAN = {"datasets": ["Brain", "Chest"], "shots": 2, "draws": 1, "test_images": 6, "questions": OPTIONS}


def quiet(_: str) -> None:
    pass


def opened(project: Path) -> Experiment:
    return Experiment.open(project / "params.yaml", say=quiet)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A project with the runs that the options are compared with."""
    folder = tmp_path_factory.mktemp("ablations")
    write_backbone(folder)
    params = small_params()
    params["datasets"].pop("Liver")
    write_params(folder, params)
    for seed, name in enumerate(params["datasets"]):
        write_dataset(folder / "data" / f"{name}_AD", params["datasets"][name]["masks"], seed=seed)
        for draw in range(2):
            few = opened(folder).train_few_shot(name, 2, "strict", draw)
            few.save(folder / "runs" / name / f"draw-{draw}")
    return folder


def asked(project: Path, question: str, **changes) -> pd.DataFrame:
    return ask(question, Plan(**PLAN | changes), project / "params.yaml", project / "runs")


def bench(project: Path, name: str = "Brain") -> Bench:
    return Bench(opened(project), project / "runs", name, 0, Plan(**PLAN))


def values(table: pd.DataFrame, dataset: str, metric: str = "image_auroc", series: str = MVFA) -> pd.Series:
    rows = (table["dataset"] == dataset) & (table["metric"] == metric) & (table["series"] == series)
    return table[rows].set_index("option")["value"]


EXPECTED = {
    "levels": ["levels 1, 2, 3, 4", "level 2 alone"],
    "adapters": ["adapters", "adapters, no feedback", "projectors", "untrained adapters"],
    "residual": ["share 0", "share 0.2", "share 0.4"],
    "prompts": ["states and templates", "states only", "one prompt"],
    "branches": ["both branches", "both trained, detection read", "detection alone", "segmentation alone"],
    "memory": ["weight 0", "weight 0.5", "weight 1"],
    "shots": ["1 shot", "2 shots"],
    "epochs": ["1 epoch", "2 epochs", "3 epochs"],
    "activation": ["GELU", "QuickGELU"],
    "normalise": ["pixels in [0, 1]", "CLIP's mean and deviation"],
}
SAME_OPTIONS = {"activation": (MVFA, PLAIN), "normalise": (MVFA, PLAIN), "epochs": (TEST,)}


@pytest.mark.parametrize("question", QUESTIONS)
def test_every_question_measures_its_options_beside_the_benchmarks_own(trained, question):
    table = asked(trained, question)
    experiment = opened(trained)
    for series in SAME_OPTIONS.get(question, (MVFA,)):
        part = table[table["series"] == series]
        assert list(values(table, "Brain", series=series).index) == EXPECTED[question]
        assert (part[part["reference"]].groupby("metric")["option"].nunique() == 1).all()
        assert part["value"].between(0, 1).all() and (part["low"] <= part["high"]).all()
        assert set(part[part["metric"] == "pixel_auroc"]["dataset"]) == {"Brain", "mean"}
        means = part[part["dataset"] == "mean"]
        assert means["p_holm"].notna().equals(~means["reference"])
        assert (means["p_holm"].dropna() >= means["p"].dropna()).all()
        if series == PLAIN:
            continue
        for name in ("Brain", "Chest"):
            own = bench(trained, name)
            labels = own.test.batch.labels.numpy()
            expected = auroc(labels, experiment.verdict(name, own.reference, own.test).scores.numpy())
            rows = part[part["reference"] & (part["dataset"] == name) & (part["metric"] == "image_auroc")]
            assert rows["value"].tolist() == [pytest.approx(expected)] and len(labels) == 12
    telling.question_figure(table, QUESTIONS[question])
    assert f"{table[table['reference']]['option'].iloc[0]}" in telling.finding(table)


# --- the options mean what they are called --------------------------------------------------------------------


def test_a_long_training_passes_through_the_benchmarks_own_run(trained):
    """The curve over epochs is made by another loop than the runs are; at their last epoch both must agree."""
    own = bench(trained)
    seen = {(s.series, s.option): s for s in QUESTIONS["epochs"].measure(own, (1, 3))}
    assert torch.equal(seen[TEST, "2 epochs"].verdict.scores, own.reference_verdict.scores)
    assert seen[TEST, "2 epochs"].reference
    assert not torch.allclose(seen[TEST, "3 epochs"].verdict.scores, own.reference_verdict.scores, atol=1e-4)
    on_support = seen[SUPPORT, "2 epochs"]
    assert on_support.labels.tolist() == [1.0] * 22 + [0.0] * 22
    per_image = on_support.masks.flatten(1).any(dim=1)
    assert per_image[:22].all() and not per_image[22:].any()


def test_memory_weight_nought_is_the_text_branch_and_one_is_the_memory(trained):
    own = bench(trained)
    judge = own.experiment.judge("Brain", own.reference.adapters)
    banks = judge.banks(own.experiment.memory_tokens(own.reference))
    branches = judge.branches(own.test.tokens, banks)
    seen = {s.option: s.verdict.scores for s in QUESTIONS["memory"].measure(own, (0, 1))}
    for option, maps in (("weight 0", branches.text_maps), ("weight 1", branches.memory_maps)):
        assert torch.equal(seen[option].argsort(), maps.amax(dim=(1, 2)).argsort()), option


def test_projectors_are_the_baselines(trained):
    own = bench(trained)
    seen = {s.option: s.verdict for s in QUESTIONS["adapters"].measure(own, ("projectors",))}
    expected = dict(baseline_verdicts(own.experiment, "Brain", own.test, shots=[2], draws=[0]))
    assert torch.allclose(
        seen["projectors"].scores, expected["2-projector/sound/0"].scores, atol=1e-5, rtol=1e-5
    )


def test_segmentation_alone_hears_nothing_of_the_detection_branch(trained):
    own = bench(trained)
    changes = {"method": {"residual": (0.9, 0.1, 0.0)}}
    alone = own.vary(Variation("alone", changes=changes, adapters=SegmentationAlone))
    both = own.vary(Variation("both", changes=changes))
    part = own.support_part(alone)
    for experiment, silent in ((alone, True), (both, False)):
        adapters = experiment.fresh_adapters()
        detection = batch_losses(experiment.backbone, adapters, part, torch.arange(4))[0].sum()
        detection.backward()
        reached = [p.grad is not None and bool(p.grad.any()) for p in adapters.seg_adapters.parameters()]
        assert any(reached) != silent
        assert any(p.grad is not None and p.grad.any() for p in adapters.det_adapters.parameters())
    assert torch.equal(
        alone.fresh_adapters()(alone.backbone, part.tokens[:2]).last,
        both.fresh_adapters()(both.backbone, part.tokens[:2]).last,
    )


def test_other_sentences_and_levels_reach_training_and_judging(trained):
    own = bench(trained)
    single = own.vary(Variation("one", prompts="one prompt"))
    assert not torch.allclose(single.text("Brain"), own.experiment.text("Brain"), atol=1e-3)
    assert single.backbone is own.experiment.backbone
    level = own.vary(Variation("level", changes={"backbone": {"levels": (2,)}}))
    assert level.fresh_adapters().levels == (2,) and level.backbone is own.experiment.backbone
    other = own.vary(Variation("quick", changes={"backbone": {"activation": "quickgelu"}}))
    assert other.backbone is not own.experiment.backbone


def test_an_option_that_changes_nothing_is_the_reference_and_is_not_trained(trained, monkeypatch):
    def never(*_, **__):
        raise AssertionError("trained")

    monkeypatch.setattr(Experiment, "train_few_shot", never)
    table = asked(trained, "residual", questions=OPTIONS | {"residual": [0.2]})
    assert table["reference"].all() and set(table["option"]) == {"share 0.2"}
    with pytest.raises(AssertionError, match="trained"):
        asked(trained, "residual", questions=OPTIONS | {"residual": [0.3]})


def test_all_questions_share_the_test_images_and_they_are_balanced(trained):
    names = [record.name for record in bench(trained).test.records]
    assert names == [record.name for record in bench(trained).test.records] and len(set(names)) == 12
    whole = Bench(opened(trained), trained / "runs", "Brain", 0, Plan(**PLAN | {"test_images": None}))
    assert len(whole.test.records) == 16 and set(names) < {record.name for record in whole.test.records}


def test_the_same_question_gives_the_same_bytes(trained):
    first, second = (write_outcomes(asked(trained, "levels", draws=2)) for _ in range(2))
    assert first == second and "np.float" not in first


@pytest.mark.slow
def test_processes_change_nothing(trained):
    tables = [write_outcomes(asked(trained, "memory", draws=2, workers=n)) for n in (1, 2)]
    assert tables[0] == tables[1]


# --- the table and what is said about it ----------------------------------------------------------------------


def outcome(option: str, value: float, samples: np.ndarray, reference: bool = False, **more) -> Outcome:
    known = {"image_auroc": value}, {"image_auroc": samples}
    return Outcome(option, more.get("series", MVFA), more.get("x"), reference, *known)


def table_of(**shifts: float) -> pd.DataFrame:
    """Two data sets, two draws; each option's samples are the reference's, moved by its shift and some noise."""
    rng, outcomes = np.random.default_rng(0), {}
    for place, name in enumerate(("A", "B")):
        drawn = rng.normal(0.8 + place / 10, 0.02, 400)
        for draw in range(2):
            found = [outcome("own", 0.8 + place / 10, drawn, reference=True)]
            for option, shift in shifts.items():
                noise = rng.normal(0, 0.004, 400) if shift else 0
                found.append(outcome(option, 0.8 + place / 10 + shift, drawn + shift + noise))
            outcomes[name, draw] = found
    return outcome_table(outcomes)


def test_differences_are_paired_and_averaged_over_data_sets():
    table = table_of(better=0.05, same=0.0, worse=-0.03)
    means = table[table["dataset"] == "mean"].set_index("option")
    assert means.loc["own", "value"] == pytest.approx(0.85) and np.isnan(means.loc["own", "difference"])
    assert means["difference"].drop("own").tolist() == pytest.approx([0.05, 0.0, -0.03])
    # an interval of the values is ten times as wide: the images are the same for both options
    width = means["difference_high"] - means["difference_low"]
    assert width["better"] < (means["high"] - means["low"])["better"] / 2 and width["same"] == 0
    assert means["above"].drop("own").tolist() == [4, 0, 0] and (means["pairs"].drop("own") == 4).all()
    assert means.loc["same", "p"] == 1.0 and means.loc["better", "p"] < 0.01
    assert means.loc["better", "p_holm"] == pytest.approx(3 * means.loc["better", "p"])
    assert telling.told_apart(means).to_dict() == {
        "own": False,
        "better": True,
        "same": False,
        "worse": True,
    }


def test_an_option_that_some_data_sets_lack_is_compared_where_it_is_known():
    draws = np.full(100, 0.9)
    outcomes = {
        ("A", 0): [outcome("own", 0.9, draws, reference=True), outcome("other", 0.8, draws - 0.1)],
        ("B", 0): [outcome("own", 0.5, draws - 0.4, reference=True)],
    }
    means = outcome_table(outcomes).query("dataset == 'mean'").set_index("option")
    assert means["value"].to_dict() == {"own": pytest.approx(0.7), "other": pytest.approx(0.8)}
    assert means.loc["other", "difference"] == pytest.approx(-0.1) and means.loc["other", "datasets"] == 1
    assert "lower in 1 of 1 runs, 1 data sets" in telling.finding(means.reset_index())


def test_the_finding_says_what_the_table_says():
    text = telling.finding(table_of(better=0.05, same=0.0, worse=-0.03))
    assert re.search(
        r"Mean image AUROC is 0\.850 \[0\.8\d\d, 0\.8\d\d\] with own, the benchmark's own;", text
    )
    assert re.search(r"better: better \(\+0\.050 \[\+0\.04\d, \+0\.05\d\], higher in 4 of 4 runs\)", text)
    assert re.search(r"worse: worse \(-0\.030 .*lower in 4 of 4 runs\)", text)
    assert "not told apart from it: same (interval [+0.000, +0.000])" in text
    nothing = telling.finding(table_of(first=0.0, second=0.0))
    assert "better:" not in nothing and "worse:" not in nothing and "not told apart from it: first" in nothing


def test_figures_fill_a_point_only_where_it_is_told_apart():
    question = QUESTIONS["levels"]
    table = table_of(better=0.05, same=0.0, worse=-0.03)
    axis = telling.question_figure(table, question).axes[0]
    faces = {
        line.get_markerfacecolor(): list(line.get_xdata())
        for line in axis.lines
        if line.get_zorder() == 5 and len(line.get_xdata())
    }
    assert faces[telling.INK] == pytest.approx([0.05, -0.03]) and faces["white"] == pytest.approx([0.0])
    assert [t.get_text() for t in axis.get_yticklabels()] == ["own", "better", "same", "worse"]


def test_tables_survive_the_disk(tmp_path):
    table = table_of(better=0.05, same=0.0)
    (tmp_path / "x.csv").write_text(write_outcomes(table))
    again = telling.read_outcomes(tmp_path / "x.csv")
    assert telling.finding(again) == telling.finding(table)
    shown = telling.wide_outcomes(again)
    assert shown.loc["better", "image AUROC, mean"].endswith(")*")
    for content in ("", "a,b\n1,2\n"):
        (tmp_path / "x.csv").write_text(content)
        with pytest.raises(MvfaError, match=r"x\.csv: no table of a question; run"):
            telling.read_outcomes(tmp_path / "x.csv")


# --- what a user can get wrong ----------------------------------------------------------------------------------


def test_problems_are_one_line(trained, tmp_path):
    with pytest.raises(MvfaError, match="unknown question 'level': there are levels, adapters"):
        asked(trained, "level")
    with pytest.raises(MvfaError, match="unknown data set 'Brian'"):
        asked(trained, "memory", datasets=["Brian"])
    with pytest.raises(MvfaError, match=r"draw-2: is not a complete run"):
        asked(trained, "memory", draws=3)
    with pytest.raises(MvfaError, match=r"is a 2-shot/strict/0 run; train the reference again"):
        asked(trained, "memory", shots=1)
    with pytest.raises(MvfaError, match="levels: this backbone has blocks 1 to 4"):
        asked(trained, "levels", questions=OPTIONS | {"levels": [[9]]})
    with pytest.raises(MvfaError, match="questions: .* is no setting"):
        changed(load_settings(trained / "params.yaml"), {"few_shot": {"epochs": 0}})
    for text, problem in (
        ("datasets: [A]\nshots: 4\n", "'draws' is missing"),
        (yaml.safe_dump(PLAN | {"worker": 2}), "unknown setting 'worker', did you mean 'workers'?"),
        (yaml.safe_dump(PLAN | {"questions": OPTIONS | {"memory": [2]}}), "'questions.memory.0'"),
        (yaml.safe_dump(PLAN | {"questions": OPTIONS | {"prompts": ["none"]}}), "'questions.prompts.0'"),
    ):
        (tmp_path / "plan.yaml").write_text(text)
        with pytest.raises(MvfaError, match=re.escape(problem)):
            load_plan(tmp_path / "plan.yaml")


# --- the pipeline -------------------------------------------------------------------------------------------------


ABLATIONS = ROOT / "ablations"
STAGES = yaml.safe_load((ABLATIONS / "dvc.yaml").read_text())["stages"]


@pytest.mark.parametrize(
    ("stage", "notebook", "without"),
    [("reference", "train", LOOKS), ("ablate", "ablate", LOOKS | {"ablations/telling"})],
)
def test_a_stage_lists_every_module_that_decides_its_figures(stage, notebook, without):
    listed = {d for d in STAGES[stage]["deps"] if d.startswith("../mvfa_core/")}
    wanted = closure(imported(notebook_source(notebook)), without)
    assert listed == {f"../mvfa_core/{name}.py" for name in wanted}
    assert all((ABLATIONS / d).exists() for d in listed)


def test_the_summary_lists_what_its_notebook_imports():
    listed = {Path(d).stem for d in STAGES["ablations"]["deps"] if "mvfa_core/" in d}
    assert listed >= {name.split("/")[-1] for name in imported(notebook_source("ablations"))} | {"report"}


def test_the_plan_fits_the_benchmark():
    plan, settings = load_plan(ABLATIONS / "params.yaml"), load_settings(ROOT / "params.yaml")
    assert plan.asked == list(QUESTIONS) and plan.draws <= settings.few_shot.draws
    assert {settings.dataset(name).masks for name in plan.datasets} == {True, False}
    for levels in plan.questions.levels:
        resolve_levels(levels, 8)


def test_the_root_pipeline_waits_for_no_ablation():
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    for name, stage in stages.items():
        waits = [
            d for d in stage.get("do", stage)["deps"] if d.removeprefix("${project}/").startswith("ablations")
        ]
        assert not waits, name


@pytest.mark.slow
def test_the_pipeline_asks_what_has_changed_and_nothing_else(tmp_path):
    copy_project(tmp_path, "dvc.yaml", ".gitignore", ".dvcignore")
    write_backbone(tmp_path)
    params = {"project": "."} | small_params()
    params["datasets"].pop("Liver")
    write_params(tmp_path, params)
    for seed, entry in enumerate(params["datasets"].values()):
        write_dataset(tmp_path / entry["root"], entry["masks"], seed=seed)
    folder = tmp_path / "ablations"
    folder.mkdir()
    (folder / "dvc.yaml").write_text((ABLATIONS / "dvc.yaml").read_text())
    some = {name: OPTIONS[name] for name in ("branches", "memory", "epochs")}
    plan = PLAN | {"workers": 1, "questions": some}
    (folder / "params.yaml").write_text(yaml.safe_dump(plan))
    start_repository(tmp_path)

    def repro(*arguments: str) -> set[str]:
        return {name.removeprefix("ablations/dvc.yaml:") for name in ran(dvc(tmp_path, "repro", *arguments))}

    checks, runs = {"check@Brain", "check@Chest"}, {"reference@Brain", "reference@Chest"}
    questions = {f"ablate@{name}" for name in some}
    assert repro("ablations/dvc.yaml") == checks | runs | questions | {"ablations"}
    assert not repro("ablations/dvc.yaml")

    results = folder / "results"
    assert {path.stem for path in (results / "figures").glob("*.png")} == set(some)
    assert len((results / "findings.md").read_text().splitlines()) == len(some)
    rendered = nbformat.read(results / "notebooks" / "ablations.ipynb", as_version=4)
    pictures = [o for c in rendered.cells for o in c.get("outputs", []) if "image/png" in o.get("data", {})]
    assert len(pictures) == len(some)
    before = {path: path.read_bytes() for path in results.rglob("*") if path.is_file()}
    assert not [path for path, content in before.items() if str(tmp_path).encode() in content]

    plan["questions"] = some | {"memory": [0, 0.25]}
    (folder / "params.yaml").write_text(yaml.safe_dump(plan))
    assert repro("ablations/dvc.yaml") == {"ablate@memory", "ablations"}
    repro("--force", "-s", "ablations/dvc.yaml:ablate@epochs")
    others = {path.stem for path, content in before.items() if path.read_bytes() != content}
    assert others == {"memory", "ablate-memory", "ablations", "findings"}

    (folder / "params.yaml").write_text(yaml.safe_dump(plan | {"questions": some | {"memory": [7]}}))
    wrong = run(tmp_path, sys.executable, "-m", "dvc", "repro", "ablations/dvc.yaml")
    assert wrong.returncode != 0 and "error: params.yaml: 'questions.memory.0'" in wrong.stderr
