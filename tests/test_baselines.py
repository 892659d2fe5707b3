"""Baselines on a small project and, for the windows, on a small member of every backbone family."""

import itertools

import numpy as np
import pytest
import torch
from conftest import small_params, write_dataset, write_params
from families import FAMILIES, load_family

from mvfa_core import baselines, windows
from mvfa_core.adapters import Adapters
from mvfa_core.baselines import BASELINES, Projectors, baseline_verdicts
from mvfa_core.errors import MvfaError
from mvfa_core.evaluation import Evaluation
from mvfa_core.experiment import Experiment
from mvfa_core.judging import Judge
from mvfa_core.methods import baseline_label, group_of
from mvfa_core.metrics import auroc
from mvfa_core.plain import PlainPass, Support, plain_pass, plain_passes

FEW = [f"2-{key}/sound/{draw}" for draw in (0, 1) for key in ("memory", "probe", "projector")]


def judged(*arguments) -> dict:
    return dict(baseline_verdicts(*arguments))


def opened(project, **changes) -> Experiment:
    if changes:
        write_params(project, small_params() | changes)
    return Experiment.open(project / "params.yaml", say=lambda _: None)


@pytest.mark.parametrize("name", ["Brain", "Chest"])
def test_names_shapes_and_ranges(project, name):
    experiment = opened(project)
    found = judged(experiment, name, experiment.test_set(name))
    assert list(found) == ["clip-pooled", "clip-patch", "winclip", *FEW]
    for method, verdict in found.items():
        assert verdict.scores.shape == (16,) and verdict.scores.isfinite().all(), method
        assert verdict.scores.dtype == torch.float32 and verdict.scores.std() > 0, method
        if "probe" in method or method == "clip-pooled":
            assert verdict.maps is None
        else:
            assert verdict.maps.shape == (16, 32, 32) and verdict.maps.isfinite().all(), method
            assert verdict.maps.dtype == torch.float32, method
    assert found["winclip"].maps.min() > 0 and found["winclip"].maps.max() < 1
    memory = found["2-memory/sound/0"]
    assert memory.maps.min() >= 0 and memory.maps.max() <= 2 * len(experiment.levels)
    expected = memory.maps.amax(dim=(1, 2)) if name == "Brain" else memory.maps.mean(dim=(1, 2))
    assert torch.equal(memory.scores, expected)


def test_the_same_seed_gives_the_same_verdicts_and_another_draw_others(project):
    found = []
    for _ in range(2):
        experiment = opened(project)
        found.append(judged(experiment, "Liver", experiment.test_set("Liver"), [2], [1]))
    for method, verdict in found[0].items():
        assert torch.equal(verdict.scores, found[1][method].scores), method
    first = judged(experiment, "Liver", experiment.test_set("Liver"), [2], [0])
    for key in ("memory", "probe", "projector"):
        one, other = first[f"2-{key}/sound/0"], found[0][f"2-{key}/sound/1"]
        assert not torch.allclose(one.scores, other.scores), key


def test_scores_do_not_depend_on_batches_or_other_images(project):
    experiment = opened(project)
    test = experiment.test_set("Brain")
    together = judged(experiment, "Brain", test, [2], [0])
    evaluation = {"batch_size": 1, "bootstrap": 100}
    one_by_one = judged(opened(project, evaluation=evaluation), "Brain", test, [2], [0])
    test.tokens, test.batch.images = test.tokens[:3], test.batch.images[:3]
    alone = judged(experiment, "Brain", test, [2], [0])
    for method, verdict in together.items():
        assert torch.allclose(verdict.scores, one_by_one[method].scores, atol=1e-4), method
        assert torch.allclose(verdict.scores[:3], alone[method].scores, atol=1e-4), method


def test_an_easy_data_set_is_learnt(project):
    """Abnormal images have a bright square: whoever may see both kinds, or only normal ones, can tell."""
    write_dataset(project / "data" / "Easy_AD", masks=False, valid=12, test=20, seed=9)
    easy = {"root": "data/Easy_AD", "organ": "Brain", "masks": False}
    few = small_params()["few_shot"] | {"shots": [8], "draws": 1, "epochs": 8}
    experiment = opened(project, datasets={"Easy": easy}, few_shot=few)
    test = experiment.test_set("Easy")
    found = judged(experiment, "Easy", test)
    # the small backbone has random weights; chance has a standard deviation of 0.09 here
    for method in ("8-memory/sound/0", "8-probe/sound/0", "8-projector/sound/0"):
        assert auroc(test.batch.labels.numpy(), found[method].scores.numpy()) > 0.77, method


def test_support_is_that_of_the_runs_and_the_test_split_is_not_asked(project):
    experiment = opened(project)
    run = experiment.train_few_shot("Brain", 2, draw=1)
    assert experiment.support("Brain", 2, 1).names() == run.support
    (project / "data" / "Brain_AD" / "test").rename(project / "elsewhere")
    support = Support.of(experiment, "Brain", 2, 1)
    for fitted in BASELINES.values():
        fitted(support)


def test_too_many_shots_are_one_line(project):
    experiment = opened(project)
    with pytest.raises(MvfaError, match="more than the 6 normal images"):
        judged(experiment, "Brain", experiment.test_set("Brain"), [7], [0])


# --- memory ---


def test_memory_is_mvfas_memory_branch_with_adapters_that_change_nothing(project):
    experiment = opened(project)
    backbone, name = experiment.backbone, "Brain"
    widths = [backbone.widths[n - 1] for n in experiment.levels]
    adapters = Adapters(experiment.levels, widths, bottleneck=widths[0], residual=(1, 0, 0))
    for adapter in [*adapters.seg_adapters, *adapters.det_adapters]:
        adapter.fc1 = torch.nn.Identity()
    text = torch.nn.functional.normalize(
        torch.rand(widths[0], 2), dim=0
    )  # of the text branch, not asked here
    judge = Judge(backbone, adapters, text, 32, masks=True)
    support, test = Support.of(experiment, name, 2, 0), experiment.test_set(name)
    normal = experiment.support_tokens(name, experiment.support(name, 2, 0).normal)[0]
    expected = judge.branches(test.tokens, judge.banks(normal)).memory_maps
    found = judged(experiment, name, test, [2], [0])["2-memory/sound/0"].maps
    assert torch.allclose(found, expected, atol=1e-5)
    # and the ranges of the fusion leave a normal image out of its own memory, as MVFA's do
    abnormal = experiment.support_tokens(name, experiment.support(name, 2, 0).abnormal)[0]
    experiment.judge = lambda *_: judge
    ranges = experiment.support_ranges(name, adapters, normal, abnormal)
    own = support.own_memory_maps
    assert len(own) == 44
    assert (own.min().item(), own.max().item()) == pytest.approx(
        (ranges.memory_maps.low, ranges.memory_maps.high), abs=1e-5
    )


def test_the_plain_pass_is_the_backbone(project):
    experiment = opened(project)
    test = experiment.test_set("Chest")
    seen = next(plain_passes(experiment, test.tokens, test.batch.images))
    backbone, images = experiment.backbone, test.batch.scaled()[:5]
    assert len(seen) == 5 and torch.equal(seen.images, images)
    tokens = backbone.embed(images)
    for level, found in zip(experiment.levels, seen.levels, strict=True):
        assert torch.allclose(found, backbone.run(tokens, 0, level), atol=1e-5)
    assert torch.allclose(seen.pooled, backbone.pool(backbone.run(tokens, 0, 4)), atol=1e-5)


# --- projectors ---


def test_projectors_are_linear_and_only_they_are_trained(project):
    experiment = opened(project)
    before = {key: value.clone() for key, value in experiment.backbone.state_dict().items()}
    support = Support.of(experiment, "Brain", 2, 0)
    fresh = Projectors([(17, 32)] * 4, 16, seed=5)
    trained = baselines.train_projectors(support)
    for layer, start in zip(trained.seg, fresh.seg, strict=True):
        assert not torch.equal(layer.weight, start.weight)
    levels = trained(experiment.backbone, support.seen.packed)
    for tokens, layer, found in zip(support.seen.levels, trained.det, levels.det, strict=True):
        assert torch.allclose(found, tokens @ layer.weight.T + layer.bias, atol=1e-5)
    for key, value in experiment.backbone.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_the_epoch_is_the_one_that_the_rest_of_valid_likes_best(project, monkeypatch):
    support = Support.of(opened(project), "Brain", 2, 0)
    scores = iter([0.9, 0.1, 0.1, 0.9])
    monkeypatch.setattr(baselines, "_held_out_probe", lambda _: lambda _: next(scores))
    first, last = (baselines.train_projectors(support).state_dict() for _ in range(2))
    few = small_params()["few_shot"] | {"epochs": 1}
    monkeypatch.setattr(baselines, "_held_out_probe", lambda _: None)
    one_epoch = baselines.train_projectors(
        Support.of(opened(project, few_shot=few), "Brain", 2, 0)
    ).state_dict()
    assert all(torch.equal(first[key], one_epoch[key]) for key in first)
    assert not all(torch.equal(first[key], last[key]) for key in first)


def test_the_rest_of_valid_is_scored_as_mvfas_runs_are(project):
    experiment = opened(project)
    support = Support.of(experiment, "Brain", 2, 0)
    projectors = Projectors([(17, 32)] * 4, 16, seed=5)
    score = baselines._held_out_probe(support)(projectors)
    held = experiment.held_out("Brain", support.drawn)
    assert len(held.records) == 8 and not {r.name for r in held.records} & {
        r.name for r in support.drawn.chosen
    }
    # image AUROC and pixel AUROC together
    assert 0 < score < 2
    assert baselines._held_out_probe(Support.of(experiment, "Brain", 6, 0)) is None


def test_without_masks_the_segmentation_projectors_stay_as_they_were(project):
    support = Support.of(opened(project), "Chest", 2, 0)
    fresh, trained = Projectors([(17, 32)] * 4, 16, seed=5), baselines.train_projectors(support)
    for layer, start in zip(trained.seg, fresh.seg, strict=True):
        assert torch.equal(layer.weight, start.weight)


# --- windows ---


@pytest.mark.parametrize(
    ("grid", "side", "count"), [(12, 2, 36), (12, 3, 36), (17, 2, 81), (17, 3, 64), (4, 3, 4)]
)
def test_windows_cover_every_patch(grid, side, count):
    found = windows.window_patches(grid, side)
    assert found.shape == (count, side * side)
    assert set(found.flatten().tolist()) == set(range(grid * grid))
    for window in found:
        rows, columns = window // grid, window % grid
        assert rows.max() - rows.min() == columns.max() - columns.min() == side - 1


def test_windows_cost_less_than_five_passes():
    """In tokens that go through the blocks, class token included; 12 x 12 patches is the demo's grid."""
    for grid in (12, 14, 17, 24):
        tokens = sum(windows.window_patches(grid, side).numel() for side in windows.SCALES)
        tokens += sum(len(windows.window_patches(grid, side)) for side in windows.SCALES)
        assert tokens / (grid * grid + 1) + 1 < 5, grid


def test_harmonic_mean_by_hand():
    chances = torch.tensor([[0.2, 0.8], [0.4, 0.4], [0.6, 0.1]])
    expected = 3 / (1 / chances).sum(dim=0)
    assert torch.allclose(windows.harmonic(chances.logit(), dim=0).sigmoid(), expected)
    left_out = torch.cat([chances.logit(), torch.full((1, 2), torch.inf)])
    assert torch.allclose(windows.harmonic(left_out, dim=0).sigmoid(), expected)
    # far beyond what a 32-bit probability can hold
    assert windows.harmonic(torch.tensor([-300.0, 300.0]), dim=0) == pytest.approx(-300 + np.log(2), abs=1e-3)


def test_map_by_hand(project):
    """A patch's value is the harmonic mean over scales of the harmonic means over the windows around it."""
    experiment = opened(project)
    backbone, text = experiment.backbone, experiment.text("Brain")
    images = experiment.test_set("Brain").batch.scaled()[:1]
    tokens = backbone.embed(images)
    last = backbone.run(tokens, 0, 4)
    seen = PlainPass([], last, backbone.pool(last), images)
    found = windows.window_verdict(backbone, seen, text, 4)

    def chance(chosen):
        feature = torch.nn.functional.normalize(backbone.pool(backbone.run(chosen, 0, 4)), dim=-1)
        return (100 * feature @ text).softmax(dim=-1)[0, 1].item()

    expected = np.zeros((4, 4))
    per_scale = []
    for side, starts in ((2, (0, 2)), (3, (0, 1))):
        inverse = {place: [] for place in itertools.product(range(4), repeat=2)}
        for y, x in itertools.product(starts, repeat=2):
            inside = list(itertools.product(range(y, y + side), range(x, x + side)))
            rows = [0] + [1 + 4 * i + j for i, j in inside]
            for place in inside:
                inverse[place].append(1 / chance(tokens[:, rows]))
        per_scale.append(inverse)
    whole = chance(tokens)
    for place in per_scale[0]:
        means = [1 / whole] + [np.mean(inverse[place]) for inverse in per_scale]
        expected[place] = 1 / np.mean(means)
    np.testing.assert_allclose(found.maps[0].numpy(), expected, rtol=1e-3)
    assert found.scores[0].item() == pytest.approx((whole + expected.max()) / 2, rel=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_windows_work_on_every_family(family, tmp_path):
    if FAMILIES[family].hugging_face:
        pytest.importorskip("transformers")
    backbone = load_family(tmp_path, family)
    size, text = FAMILIES[family].image_size, torch.randn(backbone.text_width, 2)
    images = torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        seen = plain_pass(backbone, (1, backbone.depth), backbone.run(backbone.embed(images), 0, 1), images)
    found = windows.window_verdict(backbone, seen, text / text.norm(dim=0), size)
    assert found.scores.shape == (3,) and found.maps.shape == (3, size, size)
    assert found.scores.isfinite().all() and found.maps.isfinite().all()
    rotary = family.startswith(("eva02", "perception"))
    transformer = FAMILIES[family].tower in ("OpenClipVit", "TimmVit")
    assert windows.takes_windows(backbone) == (transformer and not rotary)


# --- with the rest ---


def test_mixed_precision_stays_near(project):
    experiment, half = opened(project), opened(project, dtype="bf16")
    exact = judged(experiment, "Brain", experiment.test_set("Brain"), [2], [0])
    rough = judged(half, "Brain", half.test_set("Brain"), [2], [0])
    for method in ("winclip", "2-memory/sound/0", "2-probe/sound/0"):
        assert rough[method].scores.dtype == torch.float32
        assert np.corrcoef(exact[method].scores, rough[method].scores)[0, 1] > 0.8, method


def test_baselines_can_be_evaluated_like_runs(project):
    experiment = opened(project)
    test = experiment.test_set("Brain")
    verdicts = experiment.verdicts("Brain", [], test) | judged(experiment, "Brain", test)
    metrics = Evaluation.of(experiment, "Brain", test, verdicts, []).metrics
    assert metrics["2-memory/sound"]["draws"] == 2 and metrics["winclip"]["draws"] == 1
    assert 0 <= metrics["2-projector/sound"]["pixel_auroc"] <= 1
    assert "pixel_auroc" not in metrics["2-probe/sound"]
    labels = {group: baseline_label(group) for group in map(group_of, verdicts)}
    assert labels["2-probe/sound"] == "linear probe, 2-shot" and labels["clip-pooled"] is None
