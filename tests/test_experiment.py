import shutil

import numpy as np
import pytest
import torch
import yaml
from conftest import NAMES, small_params, write_params

from mvfa_core.errors import MvfaError
from mvfa_core.evaluation import Evaluation
from mvfa_core.experiment import Experiment
from mvfa_core.methods import group_of, run_folder
from mvfa_core.runs import Run


def quiet(_: str) -> None:
    pass


def opened(project, **changes) -> Experiment:
    if changes:
        write_params(project, small_params() | changes)
    return Experiment.open(project / "params.yaml", say=quiet)


def weights(run: Run) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in run.adapters.parameters()])


def test_training_moves_the_adapters_and_leaves_the_backbone_alone(project):
    experiment = opened(project)
    before = {name: value.clone() for name, value in experiment.backbone.state_dict().items()}
    run = experiment.train_few_shot("Brain", 2)
    assert not torch.equal(
        weights(run), torch.cat([p.flatten() for p in experiment.fresh_adapters().parameters()])
    )
    for name, value in experiment.backbone.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert run.epoch == 2 and list(run.log["epoch"]) == [1, 2]
    assert run.log["total"].iloc[-1] < run.log["total"].iloc[0]


def test_segmentation_adapters_stay_untouched_without_masks(project):
    experiment = opened(project)
    fresh, run = experiment.fresh_adapters(), experiment.train_few_shot("Chest", 2)
    for before, after in zip(
        fresh.seg_adapters.parameters(), run.adapters.seg_adapters.parameters(), strict=True
    ):
        assert torch.equal(before, after)


@pytest.mark.parametrize("protocol", ["sound", "paper"])
def test_the_same_seed_gives_the_same_run(project, protocol):
    runs = [opened(project).train_few_shot("Brain", 2, protocol, draw=1) for _ in range(2)]
    assert torch.equal(weights(runs[0]), weights(runs[1])) and runs[0].support == runs[1].support
    zero = [opened(project).train_zero_shot("Chest", protocol) for _ in range(2)]
    assert torch.equal(weights(zero[0]), weights(zero[1]))


def hide_test_split(project, name):
    """The folder becomes a file: any attempt to list or read the split fails, for the superuser too."""
    folder = project / "data" / f"{name}_AD" / "test"
    shutil.rmtree(folder)
    folder.write_text("not to be read")


def test_sound_training_never_reads_the_targets_test_split(project):
    expected = opened(project)
    few, zero = expected.train_few_shot("Brain", 2), expected.train_zero_shot("Brain")
    hide_test_split(project, "Brain")
    blind = opened(project)
    assert torch.equal(weights(blind.train_few_shot("Brain", 2)), weights(few))
    assert torch.equal(weights(blind.train_zero_shot("Brain")), weights(zero))
    # the check itself must be able to fail: whoever reads the split is stopped
    with pytest.raises(MvfaError):
        blind.train_few_shot("Brain", 2, protocol="paper")


def test_few_shot_never_reads_another_data_set(project):
    for name in ("Liver", "Chest"):
        shutil.rmtree(project / "data" / f"{name}_AD")
    opened(project).train_few_shot("Brain", 2)


def test_zero_shot_never_reads_the_target_at_all(project):
    shutil.rmtree(project / "data" / "Brain_AD")
    opened(project).train_zero_shot("Brain")


@pytest.mark.parametrize("protocol", ["sound", "paper"])
def test_few_shot_selection_keeps_the_epoch_that_scores_best(project, protocol):
    run = opened(project).train_few_shot("Brain", 2, protocol)
    assert run.epoch == int(run.log.set_index("epoch")["selection"].idxmax())


def test_sound_selection_looks_at_the_rest_of_valid(project):
    experiment = opened(project)
    support = experiment.support("Brain", 2, draw=0)
    rest = experiment.held_out("Brain", support)
    names = {record.name for record in rest.records}
    assert names == {record.name for record in experiment.dataset("Brain").records("valid")} - {
        record.name for record in support.chosen
    }


def test_strict_reads_nothing_beside_the_support_images(project):
    run = opened(project).train_few_shot("Brain", 2, "strict")
    assert run.epoch == len(run.log) and run.log["selection"].isna().all()
    # the images that sound selects on may be gone
    for record in opened(project).support("Brain", 2, draw=0).rest:
        record.path.write_bytes(b"not an image")
    assert torch.equal(weights(opened(project).train_few_shot("Brain", 2, "strict")), weights(run))
    with pytest.raises(MvfaError):
        opened(project).train_few_shot("Brain", 2, "sound")


def test_without_a_rest_of_valid_the_last_epoch_is_kept(project):
    said = []
    pool = opened(project).dataset("Brain").records("valid")
    shots = len(pool) // 2
    run = Experiment.open(project / "params.yaml", said.append).train_few_shot("Brain", shots)
    assert run.epoch == len(run.log) and run.log["selection"].isna().all()
    assert any("last epoch is kept" in line for line in said)


def test_sound_scores_do_not_depend_on_the_other_test_images(project):
    experiment = opened(project)
    run = experiment.train_few_shot("Brain", 2)
    test = experiment.test_set("Brain")
    together = experiment.verdict("Brain", run, test)
    test.tokens = test.tokens[:3]
    alone = experiment.verdict("Brain", run, test)
    assert torch.allclose(together.scores[:3], alone.scores, atol=1e-5)
    run.protocol = "paper"
    assert not torch.allclose(together.scores[:3], experiment.verdict("Brain", run, test).scores, atol=1e-3)


def test_support_ranges_leave_a_normal_image_out_of_its_own_memory(project):
    run = opened(project).train_few_shot("Brain", 2)
    assert run.ranges.memory_maps.low >= 0 and run.ranges.memory_maps.high > run.ranges.memory_maps.low
    single = opened(project).train_few_shot("Brain", 1)
    assert single.ranges.memory_maps.high > 0


def test_batch_size_of_the_evaluation_changes_nothing(project):
    scores = []
    for batch_size in (1, 8):
        experiment = opened(project, evaluation={"batch_size": batch_size, "bootstrap": 100})
        run = experiment.train_few_shot("Liver", 2)
        scores.append(experiment.verdict("Liver", run, experiment.test_set("Liver")).scores)
    assert torch.allclose(scores[0], scores[1], atol=1e-5)


def test_support_lists_are_used_where_given(project):
    folder = project / "lists" / "Brain"
    folder.mkdir(parents=True)
    (folder / "2-shot.txt").write_text("n-0: 004.png 001.png\na-0: 003.png 002.png\n")
    few = small_params()["few_shot"] | {"support_lists": "lists", "draws": 1}
    run = opened(project, few_shot=few).train_few_shot("Brain", 2)
    assert run.support["normal"] == ["valid/good/004.png", "valid/good/001.png"]


def test_runs_and_evaluations_survive_the_disk(project):
    experiment = opened(project)
    for name in NAMES:
        experiment.train_zero_shot(name).save(project / "runs" / name / run_folder(0, "sound") / "draw-0")
        for draw in range(2):
            experiment.train_few_shot(name, 2, draw=draw).save(
                project / "runs" / name / run_folder(2, "sound") / f"draw-{draw}"
            )
    runs = experiment.load_runs("Brain", project / "runs")
    assert [run.method for run in runs] == ["zero-shot/sound", "2-shot/sound/0", "2-shot/sound/1"]
    test = experiment.test_set("Brain")
    verdicts = experiment.verdicts("Brain", runs, test)
    assert set(verdicts) == {"clip-pooled", "clip-patch", "untrained"} | {run.method for run in runs}
    evaluation = Evaluation.of(experiment, "Brain", test, verdicts, runs)
    evaluation.save(project / "results", project / "evaluations" / "Brain")
    again = Evaluation.load("Brain", project / "results", project / "evaluations" / "Brain")
    assert again.metrics.keys() == {group_of(method) for method in verdicts}
    found = again.metrics["2-shot/sound"]
    assert (
        found["draws"] == 2 and found["image_auroc_low"] <= found["image_auroc"] <= found["image_auroc_high"]
    )
    assert again.metrics["clip-pooled"].get("pixel_auroc") is None
    assert len(again.scores) == 16 and np.isfinite(again.scores.iloc[:, 2:].to_numpy()).all()
    text = yaml.safe_dump(again.provenance)
    assert str(project) not in text and "run" in text
    (project / "evaluations" / "Brain" / "samples.npz").unlink()
    with pytest.raises(MvfaError, match="Brain: evaluation is incomplete"):
        Evaluation.load("Brain", project / "results", project / "evaluations" / "Brain")


def test_unknown_and_missing_things_are_one_line(project):
    experiment = opened(project)
    with pytest.raises(MvfaError, match="unknown data set 'Brian'"):
        experiment.train_few_shot("Brian", 2)
    with pytest.raises(MvfaError, match="more than the 6 normal images"):
        experiment.train_few_shot("Brain", 7)
    with pytest.raises(MvfaError, match="not a complete run"):
        experiment.load_runs("Brain", project / "runs")
    (project / "clip.safetensors").unlink()
    with pytest.raises(MvfaError, match=r"clip\.safetensors"):
        opened(project).train_few_shot("Brain", 2)
