"""The benchmarks compare like with like: the plain loop computes what this project computes."""

import platform
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from trained import opened, trained_project

from benchmarks import growth, precision, rows, thresholds
from benchmarks.measuring import alternate, block_flops
from benchmarks.plain_loop import evaluate
from benchmarks.rows import LongRun, Parts, loss_gap
from benchmarks.scene import SIZES, Scene
from mvfa_core.adapters import Adapters
from mvfa_core.calibration import calibrate
from mvfa_core.evaluation import Evaluation
from mvfa_core.judging import Banks

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Scene:
    return Scene.in_folder(replace(SIZES["small"], train=4, test=6), tmp_path_factory.mktemp("scene"))


def test_weights_that_went_through_a_file_are_the_same(scene):
    assert scene.backbone.fingerprint() == Scene(scene.size).backbone.fingerprint()


def test_the_plain_loop_has_the_same_losses_over_several_epochs(scene):
    assert loss_gap(scene, epochs=3) <= 1e-5


def test_the_check_of_losses_can_fail(scene, monkeypatch):
    """Another rate of learning shows within the first epoch."""
    plain = scene.plain_epochs
    monkeypatch.setattr(scene, "plain_epochs", lambda model: plain(model, rate=2e-3))
    assert loss_gap(scene, epochs=1) > 1e-3


def test_the_plain_loop_asks_every_parameter_for_a_gradient(scene):
    model = scene.plain()
    next(scene.plain_epochs(model))
    visual = dict(model.visual.named_parameters())
    without = {name for name, p in visual.items() if p.grad is None}
    # behind the last level only the pooled feature is left, which no loss reaches
    assert without == {"proj", "ln_post.weight", "ln_post.bias"}
    assert all(not p.requires_grad for p in scene.backbone.parameters())


def test_the_plain_loop_judges_as_this_project_does(scene):
    model, adapters = scene.plain(), scene.adapters()
    normal = scene.normal
    tested = scene.tested
    memory = model.memory([image[None] for image in normal])
    expected = evaluate(
        model, scene.images[tested], scene.labels[tested].numpy(), scene.masks[tested].numpy(), memory
    )
    judge = scene.judge(adapters, "fp32")
    banks = judge.banks(scene.prefix(normal, "fp32"))
    assert isinstance(banks, Banks) and isinstance(adapters, Adapters)
    branches = judge.branches(scene.prefix(scene.images[tested], "fp32"), banks)
    text, far = model.judge(scene.images[tested][:1], memory)
    assert np.allclose(branches.text_maps[0], text, atol=1e-4)
    assert np.allclose(branches.memory_maps[0], far, atol=1e-4)
    assert scene.evaluate(branches) == pytest.approx(expected, abs=1e-4)


def test_sides_run_in_turn_and_the_first_turn_does_not_count():
    order, clock = [], iter(range(100))
    sides = {name: lambda name=name: order.append(name) for name in "AB"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(alternate.__globals__["CLOCKS"], "test", lambda: next(clock))
        assert alternate(sides, 2, "test") == {"A": 1, "B": 1}
    assert "".join(order) == "ABABAB"


def test_operations_of_a_block_are_those_that_pytorch_counts(scene):
    block = scene.backbone.model.visual.transformer.resblocks[0]
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        block(torch.randn(1, 145, 128, requires_grad=True)).sum().backward()
    total = counter.get_total_flops()
    assert total == pytest.approx(block_flops(145, 128) + block_flops(145, 128, backwards=True), rel=1e-6)


def test_long_runs_are_sums_of_their_parts():
    parts = Parts(prefix=1.0, step=2.0, together=9.0, forward=3.0, judge=4.0, pixel=0.5)
    run = LongRun(shots=1, epochs=10, test_images=100)
    assert parts.training(run) == 10 * 2 * 11 * 2.0
    assert parts.evaluation(run, side=2) == 11 * 3.0 + 100 * (4.0 + 4 * 0.5)


def test_growth_measures_a_point_and_draws_every_axis(monkeypatch, tmp_path):
    found = growth.measure(growth.Point(shots=1, images=2, side=32), "wall")
    assert found["seconds"] > 0 and found["peak_mib"] > 50
    table = pd.DataFrame(
        [
            {"axis": axis, **vars(point), "seconds": float(number), "peak_mib": 2.0 * number}
            for number, (axis, point) in enumerate(growth.points(), start=1)
        ]
    )
    panels = growth.growth_figure(table).axes
    assert [len(panel.lines[0].get_xdata()) for panel in panels[:3]] == [5, 4, 4]
    assert all(max(panel.lines[0].get_ydata()) < panel.get_ylim()[1] for panel in panels)


def test_precision_compares_the_same_runs_on_the_same_images(tmp_path):
    project = trained_project(tmp_path / "project", (("Brain", 0), ("Brain", 2)), draws=2)
    exact = opened(project)
    rounded = precision.RoundedStart(exact.settings, exact.base)
    same = precision.compared(exact, opened(project), rounded, "Brain", project / "runs")
    assert {"clip-pooled", "zero-shot/sound", "2-shot/sound/0"} <= set(same["method"])
    assert set(same.loc[same["method"] == "2-shot/sound/0", "metric"]) == {"image", "pixel"}
    found = precision.differences(same)
    # from the same seed training ends where the kept run ended
    assert (found.loc[found["what"] != precision.CONTROL, "largest"] == 0).all() and len(found) == 6
    for what in (precision.TRAINED, precision.CONTROL):
        assert found.loc[found["what"] == what, "values"].tolist() == [1, 1]
    start, weights = (experiment.fresh_adapters(1).state_dict() for experiment in (rounded, exact))
    assert all(torch.equal(start[name], weights[name].bfloat16().float()) for name in weights)
    assert not any(torch.equal(start[name], weights[name]) for name in weights)


def test_differences_by_hand():
    table = pd.DataFrame({"metric": ["image"] * 3, "fp32": [0.5, 0.6, 0.7]})
    table[precision.JUDGED], table[precision.TRAINED] = [0.5, 0.63, 0.69], [None, 0.5, None]
    table[precision.CONTROL] = [0.51, None, None]
    judged, trained, control = precision.differences(table).to_dict("records")
    assert judged["values"] == 3 and judged["largest"] == pytest.approx(0.03)
    assert judged["mean size"] == pytest.approx(0.04 / 3) and judged["mean"] == pytest.approx(0.02 / 3)
    assert trained["values"] == 1 and trained["mean"] == pytest.approx(-0.1)
    assert control["largest"] == pytest.approx(0.01)


def test_thresholds_are_applied_to_the_scores_of_the_evaluation(tmp_path):
    project = trained_project(tmp_path / "project", (("Brain", 0), ("Brain", 2)), draws=2)
    experiment = opened(project)
    test = experiment.test_set("Brain")
    runs = experiment.load_runs("Brain", project / "runs")
    verdicts = experiment.verdicts("Brain", runs, test)
    Evaluation.of(experiment, "Brain", test, verdicts, runs).save(project / "results", project / "bulk")
    table = pd.DataFrame(thresholds.measured(experiment, "Brain", project / "runs", project / "results"))
    assert list(table["rule"].unique()) == ["f1", "youden", "false-alarm, 0.05", "false-alarm, 0.2"]
    few = table[(table["method"] == "2-shot/sound/0") & (table["rule"] == "youden")].iloc[0]
    threshold = calibrate(experiment, runs[1]).reference.threshold("youden")
    flagged = verdicts["2-shot/sound/0"].scores.numpy() >= threshold
    assert few["found"] == pytest.approx(flagged[test.batch.labels == 1].mean())
    assert few["false alarms"] == pytest.approx(flagged[test.batch.labels == 0].mean())
    found = thresholds.summary(table)
    assert found["detectors"].tolist() == [2] * 4


@pytest.mark.slow
def test_the_small_benchmark_prints_and_writes_one_table(tmp_path):
    command = [sys.executable, "-m", "benchmarks", "--small", "--threads", "1", "--rounds", "1"]
    done = subprocess.run(
        [*command, "--output", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = pd.read_csv(tmp_path / "small.csv")
    assert set(found["precision"]) == {"fp32", "bf16"} and len(found) == 17
    assert (found["ratio"] > 0).all() and found["ours_mib"].notna().sum() == 2
    text = (tmp_path / "small.md").read_text()
    assert "few-shot run, sound protocol" in text and "computed from" in text and text in done.stdout + text
    for name in (socket.gethostname(), platform.node(), str(ROOT)):
        assert name not in text
    assert rows.PLAIN in found.columns[2]
