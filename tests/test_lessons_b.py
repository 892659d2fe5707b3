"""What lessons 4, 5 and 6 measure, on small data sets and a small backbone."""

import numpy as np
import pytest
import torch
from conftest import NAMES
from trained import opened

from mvfa_core.augmentation import augment
from mvfa_core.errors import MvfaError
from mvfa_core.judging import Branches, FusionRanges, few_shot_verdict
from mvfa_core.lessons import choosing, fooling, remembering, transferring
from mvfa_core.lessons.smaller import SmallExperiment, evenly
from mvfa_core.memory import MemoryBank
from mvfa_core.metrics import auroc


@pytest.fixture
def experiment(project):
    return opened(project)


# --- fewer images -----------------------------------------------------------------------------------------


def test_evenly_takes_both_ends_of_each_class(experiment):
    records = experiment.dataset("Brain").records("test")
    chosen = evenly(records, 3)
    assert [record.label for record in chosen] == [0, 0, 0, 1, 1, 1]
    normal = [record for record in records if record.label == 0]
    assert (chosen[0], chosen[2]) == (normal[0], normal[-1])
    assert evenly(records, 1000) == records


def test_small_experiment_thins_the_test_split_only(experiment):
    small = SmallExperiment(experiment, 2, ["Liver", "Brain"])
    assert len(small.dataset("Brain").records("test")) == 4
    assert small.dataset("Brain").records("valid") == experiment.dataset("Brain").records("valid")
    assert small.backbone is experiment.backbone and list(small.settings.datasets) == ["Liver", "Brain"]
    with pytest.raises(MvfaError, match="Heart"):
        SmallExperiment(experiment, 2, ["Heart"])


# --- lesson 4 ---------------------------------------------------------------------------------------------


def test_view_names_tell_where_the_image_moves():
    image = torch.zeros(1, 1, 40, 40)
    image[..., 20, 20] = 1
    for view, name in zip(augment(image), remembering.view_names(), strict=True):
        row, column = divmod(int(view.flatten().argmax()), 40)
        if name.startswith("to the"):
            assert ("left" in name) == (column < 20) and ("up" in name) == (row < 20), name


def test_nearest_agrees_with_the_distances_of_the_bank():
    generator = torch.Generator().manual_seed(0)
    bank = MemoryBank([torch.randn(3, 10, 4, generator=generator) for _ in range(2)])
    levels = [torch.randn(10, 4, generator=generator) for _ in range(2)]
    distances = bank.distances([level[None] for level in levels], prefix=1)
    for patch in range(9):
        for match, known in zip(remembering.nearest(bank, levels, 1, patch), distances, strict=True):
            assert match.distance == pytest.approx(float(known[0, patch]), abs=1e-6)


def test_nearest_finds_a_remembered_token_and_says_when_it_is_the_class_token():
    tokens = torch.eye(10).reshape(2, 5, 10)
    bank = MemoryBank([tokens])
    found, other = (remembering.nearest(bank, [tokens[1]], 1, patch)[0] for patch in (0, 3))
    assert (found.view, found.patch, other.patch) == (1, 0, 3) and found.distance == pytest.approx(0)
    as_patch = torch.stack([tokens[0, 1], tokens[1, 0]])
    assert remembering.nearest(bank, [as_patch], 1, 0)[0].patch is None


def test_patch_in_finds_the_patch_with_most_of_the_mask():
    mask = torch.zeros(24, 24, dtype=torch.uint8)
    mask[13:18, 1:7] = 1
    assert remembering.patch_in(mask, 4) == 2 * 4 + 0
    assert remembering.mirrored(2 * 4 + 0, 4) == 2 * 4 + 3


def test_fusion_table_ends_at_the_branches_alone():
    generator = torch.Generator().manual_seed(1)
    maps = [torch.rand(8, 6, 6, generator=generator) for _ in range(2)]
    branches = Branches(maps[0], maps[0].mean((1, 2)), maps[1], maps[1].mean((1, 2)))
    labels = torch.tensor([0.0, 1.0] * 4)
    masks = (torch.rand(8, 6, 6, generator=generator) > 0.7).byte()
    table = remembering.fusion_table(branches, FusionRanges.of(branches), labels, masks)
    for weight, found in zip((0, 1), maps, strict=True):
        assert table.loc[weight, "image_auroc"] == auroc(labels.numpy(), found.amax((1, 2)).numpy())
    alone = remembering.memory_table({"bank": branches}, FusionRanges.of(branches), labels, masks)
    assert alone.loc["bank"].tolist() == table.loc[1].tolist()


def test_draws_table_judges_both_methods_on_the_same_draws(experiment):
    test = experiment.test_set("Brain")
    table = remembering.draws_table(experiment, "Brain", (1, 2), 2, test)
    assert (
        len(table) == 2 * 2 * 2
        and ((table["low"] <= table["value"]) & (table["value"] <= table["high"])).all()
    )
    run = experiment.train_few_shot("Brain", 2, "strict", 1)
    expected = auroc(test.batch.labels.numpy(), experiment.verdict("Brain", run, test).scores.numpy())
    rows = table.set_index(["method", "shots", "draw"])["value"].sort_index()
    assert rows["few-shot", 2, 1] == expected
    short = remembering.spread_table(table)
    assert short["mean"][remembering.METHODS["memory"], 1] == pytest.approx(rows["memory", 1].mean())
    best, worst = remembering.extreme_draws(table, 2)
    assert rows["few-shot", 2, best] == rows["few-shot", 2].max() >= rows["few-shot", 2, worst]
    plain = remembering.references(experiment.verdicts("Brain", [], test), test)
    assert remembering.strip_figure(table, plain).axes


def test_pictures_of_lesson_four_are_drawn(experiment):
    test = experiment.test_set("Brain")
    run = experiment.train_few_shot("Brain", 1)
    judge = experiment.judge("Brain", run.adapters)
    banks = judge.banks(experiment.memory_tokens(run))
    levels = remembering.tokens_of(experiment, run, test.tokens[8])
    prefix = experiment.backbone.prefix
    matches = {"lesion": remembering.nearest(banks.seg, levels, prefix, 5)}
    support = experiment.load("Brain", experiment.support("Brain", 1, 0).normal)
    views = augment(support.scaled())
    figure = remembering.neighbours_figure(
        test.batch.images[8], test.batch.masks[8], {"lesion": 5}, matches, views, experiment.levels, 4
    )
    assert len(figure.axes) == 1 + len(experiment.levels)
    branches = judge.branches(test.tokens, banks)
    masks = test.batch.masks
    assert remembering.fusion_figure(test.batch.images, masks, branches, run.ranges, [8, 0]).axes
    assert sum(axis.get_visible() for axis in remembering.views_figure(views[0]).axes) == 11


# --- lesson 5 ---------------------------------------------------------------------------------------------


def test_training_on_one_source_reads_no_image_of_the_target(experiment, project):
    for file in (project / "data" / "Liver_AD").rglob("*.png"):
        file.write_bytes(b"not a picture")
    run = transferring.train_on(experiment, ["Brain"], "Liver", per_class=5)
    assert list(run.provenance["sources"]) == ["Brain"] and run.shots == 0


def test_transfer_table_and_its_summary(experiment):
    sets = {name: transferring.unread_set(experiment, name) for name in NAMES}
    assert {record.name.split("/")[0] for images in sets.values() for record in images.records} == {"valid"}
    single, others = (
        train(experiment, 5) for train in (transferring.train_singles, transferring.train_others)
    )
    assert list(others["Liver"].provenance["sources"]) == ["Brain", "Chest"]
    table = transferring.transfer_table(experiment, single, others, sets)
    rows = table.set_index(["source", "target"])["value"]
    verdict = experiment.verdict("Chest", single["Brain"], sets["Chest"])
    assert rows["Brain", "Chest"] == auroc(sets["Chest"].batch.labels.numpy(), verdict.scores.numpy())
    short = transferring.summary(table)
    elsewhere = (rows["Brain", "Chest"] + rows["Liver", "Chest"]) / 2
    assert short.loc["one source, elsewhere", "Chest"] == pytest.approx(elsewhere)
    assert short.loc["one source, at home", "Liver"] == rows["Liver", "Liver"]
    assert transferring.transfer_figure(table).axes and transferring.organs_figure(experiment).axes

    found = transferring.target_verdicts(experiment, "Brain", {"others": others["Brain"]}, sets["Brain"])
    gain = transferring.gain_over(sets["Brain"], found, "CLIP, pooled", 100)
    assert gain.loc["others", "AUROC"] == pytest.approx(rows["all others", "Brain"])
    assert "CLIP, pooled" not in gain.index and (gain["low"] <= gain["high"]).all()
    shown = {name: verdict for name, verdict in found.items() if verdict.maps is not None}
    assert transferring.maps_figure(sets["Brain"], shown, [0, 7]).axes
    assert transferring.scores_figure(sets["Brain"], found).axes
    assert (
        transferring.found_table(sets["Brain"], found).loc["others", "AUROC"] == gain.loc["others", "AUROC"]
    )
    home = transferring.home_table(experiment, single["Brain"], experiment.test_set("Brain"), sets["Brain"])
    assert home.loc["other images", "value"] == rows["Brain", "Brain"]


def test_scores_of_the_levels_add_up_to_the_detection_score(experiment):
    test = experiment.test_set("Brain")
    adapters = experiment.fresh_adapters()
    parts = transferring.level_scores(experiment, "Brain", adapters, test.tokens)
    whole = experiment.judge("Brain", adapters).branches(test.tokens, zero_shot=True).text_scores
    assert torch.allclose(parts.sum(0), whole, atol=1e-5)
    table = transferring.level_table(experiment, adapters, {"Brain": test})
    assert table.loc["Brain", "level 3"] == auroc(test.batch.labels.numpy(), parts[2].numpy())


# --- lesson 6 ---------------------------------------------------------------------------------------------


def test_useless_detectors_are_useless_on_average_and_the_best_is_not():
    values = fooling.useless_aurocs(20, 300, seed=3)
    assert values.mean() == pytest.approx(0.5, abs=0.02)
    assert 0.5 < fooling.best_of(values, 8) < fooling.best_of(values, 64) <= values.max()
    assert fooling.luck_figure({10: fooling.useless_aurocs(10, 16, 0), 20: values[:16]}, 20).axes


def test_many_comparisons_find_something_and_holm_does_not():
    table = fooling.comparisons_table(20, 10, seed=1)
    assert (table["p_holm"] >= table["p"]).all() and table["p"].is_monotonic_increasing
    found = fooling.false_discoveries(20, 10, 40, seed=1)
    assert found["p"] > 0.15 and found["p_holm"] < found["p"]


def test_choosing_on_the_test_set_makes_useless_detectors_look_good():
    useless = choosing.Candidates(*fooling.useless_detectors(40, 16, seed=2))
    table = choosing.studies_table(useless, useless.among_all, 15, 30, seed=0)
    summary = choosing.optimism_table({"best": table})
    assert summary.loc["best", "optimism"] > 0.08
    assert summary.loc["best", choosing.FRESH] == pytest.approx(0.5, abs=0.06)
    assert choosing.claims_figure(summary).axes


def test_a_group_of_one_leaves_nothing_to_choose():
    labels, scores = fooling.useless_detectors(10, 4, seed=0)
    candidates = choosing.Candidates(labels, scores, np.array([0, 0, 1, 1]), np.array([1, 2, 1, 2]))
    assert candidates.nothing == [[1], [3]] and candidates.among_epochs == [[0, 1], [2, 3]]
    assert candidates.among_draws == [[1, 3]] and candidates.among_all == [[0, 1, 2, 3]]
    table = choosing.studies_table(candidates, [[2]], 4, 5, seed=0)
    # what is claimed and what is left over are the two parts of the same images
    assert len(table) == 5 and not table[choosing.SEEN].equals(table[choosing.FRESH])


def test_trained_candidates_end_where_the_strict_protocol_ends(experiment):
    test = experiment.test_set("Chest")
    found = choosing.trained_candidates(experiment, "Chest", 2, 2, test)
    assert found.draws.tolist() == [0, 0, 1, 1] and found.epochs.tolist() == [1, 2, 1, 2]
    run = experiment.train_few_shot("Chest", 2, "strict", 1)
    expected = experiment.judge("Chest", run.adapters).branches(test.tokens).text_scores.numpy()
    assert np.allclose(found.scores[3], expected, atol=1e-5)
    untrained = choosing.untrained_candidates(experiment, "Chest", 3, test)
    assert untrained.scores.shape == (3, len(test.records)) and not np.allclose(*untrained.scores[:2])


def test_fresh_images_are_others(experiment):
    used = SmallExperiment(experiment, 3).test_set("Brain")
    fresh = choosing.fresh_set(experiment, "Brain", used, 4)
    assert not {r.name for r in used.records} & {r.name for r in fresh.records}
    assert fresh.batch.labels.tolist() == [0] * 4 + [1] * 4


def test_a_score_with_test_ranges_depends_on_the_neighbours(experiment):
    test = experiment.test_set("Chest")
    run = experiment.train_few_shot("Chest", 2, "paper")
    judge = experiment.judge("Chest", run.adapters)
    tokens = fooling.with_broken_picture(experiment, test.tokens)
    assert len(tokens) == len(test.records) + 1 and torch.equal(tokens[:-1], test.tokens)
    branches = judge.branches(tokens, judge.banks(experiment.memory_tokens(run)))
    image = fooling.median_abnormal(branches, test.batch.labels)
    assert test.batch.labels[image] == 1
    # with the whole split as company it is the score that the protocol itself gives
    everyone = range(len(test.records))
    expected = experiment.verdict("Chest", run, test).scores[image]
    assert fooling.score_in_company(branches, image, everyone, judge.masks) == pytest.approx(float(expected))
    table = fooling.company_table(branches, test.batch.labels, image, judge.masks, size=4, repeats=3)
    assert table.groupby("abnormal")["score"].count().tolist() == [3] * 5 and table["score"].nunique() > 1
    fixed = fooling.sound_score(branches, image, run.ranges, judge.masks)
    alone = few_shot_verdict(fooling.rows_of(branches, [image]), run.ranges, judge.masks, 0.5)
    assert fixed == pytest.approx(float(alone.scores)) and fooling.company_figure(table, fixed).axes


def test_a_threshold_from_the_test_set_is_best_there_and_not_elsewhere():
    labels, scores = fooling.useless_detectors(15, 2, seed=4)
    places = choosing.SEEN, choosing.FRESH
    table = fooling.threshold_table(
        dict.fromkeys(places, torch.tensor(labels)), dict(zip(places, torch.tensor(scores), strict=True))
    )
    assert table["all called abnormal"].to_numpy() == pytest.approx(2 / 3)
    gap = table["best F1 there"] - table["F1 at that threshold"]
    assert gap[choosing.SEEN] == pytest.approx(0) and gap[choosing.FRESH] > 0


def test_accuracy_praises_the_detector_that_finds_nothing():
    table = fooling.accuracy_table(100, (50, 1, 0))
    assert table["accuracy"].tolist() == [0.5, 0.99, 1.0]
    assert table["AUROC"].tolist()[:2] == [0.5, 0.5] and np.isnan(table["AUROC"].iloc[2])


def test_small_test_sets_scatter_more():
    labels, scores = fooling.useless_detectors(100, 1, seed=5)
    table = fooling.subset_table(torch.tensor(labels), torch.tensor(scores[0]), (5, 50), 20, seed=0)
    few, many = (part["value"].std() for _, part in table.groupby("per_class"))
    assert few > 2 * many and fooling.subset_figure(table, 0.5).axes
