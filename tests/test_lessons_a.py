"""What lessons 1, 2 and 3 measure and draw, their widgets and the cheat sheet, mostly on a small project."""

from itertools import combinations
from pathlib import Path

import ipywidgets
import numpy as np
import open_clip
import pandas as pd
import pytest
import torch
from conftest import small_params
from matplotlib.figure import Figure
from trained import opened

from mvfa_core.errors import MvfaError
from mvfa_core.figures import save_figure
from mvfa_core.judging import clip_verdicts
from mvfa_core.lessons import adapting, adapting_figures, cheat_sheet, seeing, shapes, style, widgets, wording
from mvfa_core.prompts import PromptEnsemble, text_features
from mvfa_core.settings import load_settings
from mvfa_core.uncertainty import image_auroc_interval

ROOT = Path(__file__).parent.parent


@pytest.fixture
def experiment(project):
    return opened(project)


@pytest.fixture
def seen(experiment):
    return seeing.Seen.of(experiment, "Brain")


# --- style ------------------------------------------------------------------------------------------------


def test_a_solution_is_folded_below_its_question():
    text = style.exercise("How many?", "`42`").data
    assert text.index("How many?") < text.index("<details>") < text.index("42") < text.index("</details>")


def test_the_project_is_found_from_below_and_changes_apply(project):
    below = project / "notebooks" / "walkthrough"
    below.mkdir(parents=True)
    experiment = style.open_demo(below, few_shot={"epochs": 9}, seed=3)
    assert experiment.base == project.resolve()
    assert experiment.settings.few_shot.epochs == 9 and experiment.settings.seed == 3
    assert experiment.settings.few_shot.shots == tuple(small_params()["few_shot"]["shots"])


def test_outside_of_a_project_or_without_the_demo_one_line_says_so(project, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(MvfaError, match=r"params\.yaml: not found"):
        style.find_project(tmp_path / "elsewhere")
    (project / "clip.safetensors").unlink()
    with pytest.raises(MvfaError, match=r"clip\.safetensors: the demo has not been fetched"):
        style.open_demo(project)


def test_colours_are_the_reports_and_all_different():
    from mvfa_core.figures import COLOURS

    assert COLOURS.items() <= style.COLOURS.items()
    assert len(set(style.COLOURS.values())) == len(style.COLOURS)
    assert len(set(style.level_colours(4))) == 4


# --- shapes -----------------------------------------------------------------------------------------------


def test_the_route_of_a_real_model_has_the_shapes_that_the_table_says(experiment, seen):
    backbone, text = experiment.backbone, experiment.text("Brain")
    route = dict(shapes.route(shapes.Shapes.of(experiment)))
    tokens = backbone.embed(seen.images[:1] / 255)
    last = backbone.run(tokens, 0, backbone.depth)
    assert route["image"] == seen.images.shape[1:]
    assert route["tokens before block 1"] == tokens.shape[1:]
    assert route["tokens behind the last block"] == last.shape[1:]
    assert route["patch features in text space"] == seen.features.patches.shape[1:]
    assert route["pooled image feature"] == seen.features.pooled.shape[1:]
    assert route["text features, normal and abnormal"] == text.shape
    assert route["anomaly map"] == seen.features.maps(text).shape[1:]
    assert list(shapes.route_table(experiment).index) == list(route)


def test_the_papers_shapes_are_those_of_its_model_and_settings():
    backbone = load_settings(ROOT / "paper" / "params.yaml").backbone
    model = open_clip.get_model_config(backbone.model)
    assert (
        shapes.Shapes(
            image=backbone.image_size,
            patch=model["vision_cfg"]["patch_size"],
            width=model["vision_cfg"]["width"],
            text=model["embed_dim"],
            depth=model["vision_cfg"]["layers"],
            levels=backbone.levels,
        )
        == shapes.PAPER
    )


def test_adapter_weights_are_counted_as_torch_counts_them(experiment):
    counts = adapting.weight_table(experiment)
    assert counts.loc["all adapters", "demo"] == shapes.Shapes.of(experiment).adapter_weights
    assert counts.loc["all adapters", "paper"] == 12_582_912


# --- seeing -----------------------------------------------------------------------------------------------


def test_features_say_what_the_baselines_say(experiment, seen):
    text = experiment.text("Brain")
    tokens = experiment.tokens(seen.images)
    verdicts = clip_verdicts(experiment.backbone, tokens, experiment.levels[0], text, 32)
    assert np.allclose(seen.features.scores(text), verdicts["clip-pooled"].scores, atol=1e-5)
    assert torch.allclose(seen.features.maps(text), verdicts["clip-patch"].maps, atol=1e-5)
    margins = torch.from_numpy(seen.features.margins(text))
    assert np.allclose(margins.sigmoid(), seen.features.scores(text), atol=1e-5)
    assert torch.allclose(seen.features.margin_maps(text).sigmoid(), seen.features.maps(text), atol=1e-5)


def test_auroc_table_has_a_row_a_data_set_with_its_interval(experiment, seen):
    table = seeing.auroc_table([seen], experiment)
    row = table.loc["Brain"]
    assert row["low"] <= row["AUROC"] <= row["high"]
    assert row["AUROC"] == seen.auroc(experiment.text("Brain"))


def test_a_patch_is_its_own_nearest_neighbour(experiment, seen):
    found = seeing.neighbours(experiment.backbone, seen.images[0] / 255, 6, (0, 2, 4))
    assert found.shape == (3, 4, 4)
    assert torch.allclose(found[:, 1, 2], torch.ones(3), atol=1e-5) and found.max() < 1 + 1e-5


def test_heat_share():
    maps = torch.tensor([[[3.0, 1.0], [0.0, 0.0]]])
    assert seeing.heat_share(maps, maps > 2) == (0.75, 0.25)


def test_painting_out_touches_the_lesion_alone_and_takes_its_surroundings():
    images, masks = torch.rand(2, 3, 32, 32), torch.zeros(2, 32, 32)
    images[0, :, 10:20, 10:20] = 0.5
    images[0, :, 14:16, 14:16] = 1.0
    masks[0, 14:16, 14:16] = 1
    healed = seeing.paint_out(images, masks, margin=1, ring=2)
    assert torch.allclose(healed[0, :, 12:18, 12:18], torch.tensor(0.5))
    assert torch.equal(healed[0, :, :10], images[0, :, :10]) and torch.equal(healed[1], images[1])


def test_figures_of_the_first_lesson_have_their_panels(experiment, seen):
    image, text = seen.images[0], experiment.text("Brain")
    found = seeing.neighbours(experiment.backbone, image / 255, 6, (0, 4))
    maps = seen.features.maps(text)
    assert len(seeing.patch_figure(image, 8, 6).axes) == 3
    assert len(seeing.neighbour_figure(image, found, 6, (0, 4), 8).axes) == 4
    assert len(seeing.score_figure([seen, seen], experiment).axes) == 2
    assert len(seeing.healthy_figure([seen], experiment).axes) == 3
    assert seeing.auroc_figure(seeing.auroc_table([seen], experiment)).axes
    few = seen.images[:2] / 255
    painted = seeing.painted_figure(
        few, few, torch.stack([maps[:2]] * 2), seen.masks[:2], np.array([-1.0, 2])
    )
    assert len(painted.axes) == 9
    rows = style.image_rows(seen.images[:3], maps[:3], ["a", "b", "c"], seen.masks[:3])
    assert [axis.get_title() for axis in rows.axes[:3]] == ["a", "b", "c"]


# --- wording ----------------------------------------------------------------------------------------------


@pytest.fixture
def sentences(experiment):
    return wording.Sentences.of(experiment.backbone, "Brain")


def test_all_sentences_together_are_the_methods_text_features(experiment, sentences):
    assert torch.allclose(sentences.text(), text_features(experiment.backbone, "Brain"), atol=1e-6)
    part = PromptEnsemble(("flawless {}",), ("broken {}",), sentences.ensemble.templates[3:5])
    expected = text_features(experiment.backbone, "Brain", part)
    assert torch.allclose(sentences.text([1], [1], [3, 4]), expected, atol=1e-6)


def test_closeness_is_the_mean_over_pairs(sentences):
    table, normal = wording.closeness(sentences), sentences.normal.flatten(0, 1)
    pairs = [float(normal[i] @ normal[j]) for i, j in combinations(range(0, len(normal)), 2)]
    assert table["two normal sentences"] == pytest.approx(np.mean(pairs), abs=1e-4)


def test_positions_are_measured_between_the_two_features(experiment):
    backbone = experiment.backbone
    places = wording.positions(backbone, "Brain", ["broken {}"])
    normal, abnormal = text_features(backbone, "Brain").T
    own = text_features(backbone, "Brain", PromptEnsemble(("broken {}",), ("broken {}",)))[:, 0]
    rest = own - normal - places["broken {}"] * (abnormal - normal)
    assert float(rest @ (abnormal - normal)) == pytest.approx(0, abs=1e-5)


def test_parts_of_the_ensemble_are_judged_one_by_one(experiment, seen, sentences):
    table = wording.single_aurocs(seen, sentences)
    assert table["part"].value_counts().to_dict() == {"one template": 35, "one pair of states": 35}
    alone = PromptEnsemble(templates=(sentences.ensemble.templates[7],))
    expected = seen.auroc(text_features(experiment.backbone, "Brain", alone))
    assert table["AUROC"][7] == pytest.approx(expected)
    figure = wording.single_figure({"Brain": table}, {"Brain": 0.5})
    assert figure.axes[0].get_yticklabels()[0].get_text() == "Brain"


def test_swapped_words_reverse_the_ranking(experiment, seen):
    whole = PromptEnsemble()
    table = wording.wording_table(
        experiment, [seen], {"as it is": whole, "swapped": PromptEnsemble(whole.abnormal, whole.normal)}
    )
    first, second = table["AUROC"]
    assert first + second == pytest.approx(1) and table["cosine"][0] == pytest.approx(table["cosine"][1])
    assert len(wording.wording_figure(table).axes) == 1


def test_organs_are_the_rows_and_data_sets_the_columns(experiment, seen):
    table = wording.organ_aurocs([seen], experiment.backbone, ["Brain", "banana"])
    assert table.loc["Brain", "Brain"] == pytest.approx(seen.auroc(experiment.text("Brain")))
    assert list(table.index) == ["Brain", "banana"]


def test_a_word_search_keeps_half_of_each_class_away(experiment, seen):
    table = wording.word_search(seen, experiment.backbone, "Brain", ["broken {}", "flaw"], seed=0)
    again = wording.word_search(seen, experiment.backbone, "Brain", ["broken {}", "flaw"], seed=0)
    other = wording.word_search(seen, experiment.backbone, "Brain", ["broken {}", "flaw"], seed=1)
    assert table.equals(again) and not table.equals(other)
    # four images of either class in a half: an AUROC is a number of sixteenths
    assert np.allclose(table * 16 % 1, 0)
    assert wording.search_figure(table).axes


def test_figures_of_the_second_lesson(sentences):
    figure = wording.position_figure(pd.Series({"broken {}": 0.9, "perfect {}": 0.1}))
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [
        "perfect Brain",
        "broken Brain",
    ]
    names = wording.plane_figure(sentences).axes[0].get_legend_handles_labels()[1]
    assert names == ["normal sentence", "normal feature", "abnormal sentence", "abnormal feature"]


# --- adapting ---------------------------------------------------------------------------------------------


@pytest.fixture
def part(experiment):
    return adapting.support_part(experiment, "Brain", 2)


def test_gradients_flow_back_to_earlier_levels_and_never_to_the_last_second_matrix(experiment, part):
    table = adapting.gradient_table(experiment, experiment.fresh_adapters(), part, torch.arange(4))
    for loss, row in table.iterrows():
        branch, level = loss.split()[0], int(loss.split()[1])
        for key, norm in row.items():
            own_branch, at, layer = key.split()
            earlier = int(at) < level
            expected = earlier or (own_branch == branch and int(at) == level and layer == "fc1")
            assert (norm > 0) == expected, (loss, key)
    assert (
        len(adapting_figures.flow_figure(table).axes) == 1
        and len(adapting_figures.gradient_figure(table).axes) == 2
    )


def test_watching_does_not_change_the_training(experiment, part):
    """The watched adapters end where the benchmark's own training ends."""
    images = experiment.load("Brain", experiment.dataset("Brain").records("test")).images
    snapshots = adapting.watch(experiment, part, images, experiment.settings.few_shot.epochs)
    run = experiment.train_few_shot("Brain", 2)
    branches = experiment.judge("Brain", run.adapters).branches(experiment.tokens(images))
    assert torch.allclose(snapshots[-1].maps.sum(dim=0), branches.text_maps, atol=1e-5)
    assert torch.allclose(snapshots[-1].scores.sum(dim=0), branches.text_scores, atol=1e-5)
    assert [shot.loss for shot in snapshots[1:]] == pytest.approx(run.log["total"].tolist(), rel=1e-5)
    assert [shot.epoch for shot in snapshots] == [0, 1, 2]


def test_progress_and_other_mixing_weights(experiment, part):
    batch = experiment.load("Brain", experiment.dataset("Brain").records("test"))
    snapshots = adapting.watch(experiment, part, batch.images, 2, every=[2])
    table = adapting.progress_table(snapshots, batch.labels, batch.masks)
    assert list(table["level"].unique()) == ["1", "2", "3", "4", "sum"] and list(table["epoch"].unique()) == [
        0,
        2,
    ]
    rows = adapting.residual_table(
        experiment, part, batch.images, batch.labels, batch.masks, [(1.0, 0.0)], snapshots[-1]
    )
    assert rows.loc["1 token + 0 each", "mean token change"] == 0 < rows["mean token change"].iloc[0]
    assert rows["pixel AUROC"].iloc[0] == table[table["level"] == "sum"]["pixel AUROC"].iloc[-1]
    assert len(adapting_figures.progress_figure(table, snapshots).axes) == 3
    diary = adapting_figures.diary_figure(snapshots, batch.images[0], batch.masks[0], 0)
    assert [axis.get_title() for axis in diary.axes[:6]] == [
        "image",
        *(f"level {n}" for n in range(1, 5)),
        "sum",
    ]


def test_the_bottleneck_is_drawn_with_its_numbers():
    figure = adapting_figures.bottleneck_figure(shapes.PAPER, (0.8, 0.1, 0.1))
    words = " ".join(text.get_text() for text in figure.axes[0].texts)
    assert "1024 → 768" in words and "768 → 1024" in words and "× 0.8" in words


# --- widgets ----------------------------------------------------------------------------------------------


def test_confusion_counts_by_hand():
    counts = widgets.Confusion.of(np.array([0, 0, 0, 1, 1]), np.array([0.1, 0.5, 0.2, 0.5, 0.4]), 0.5)
    assert (counts.hits, counts.misses, counts.false_alarms, counts.passed) == (1, 1, 1, 2)
    assert counts.sensitivity == 0.5 and counts.specificity == pytest.approx(2 / 3)


def test_confusion_of_one_class_has_one_undefined_share():
    counts = widgets.Confusion.of(np.zeros(3, dtype=int), np.arange(3), 1)
    assert counts.sensitivity is None and counts.specificity == pytest.approx(1 / 3)


@pytest.fixture
def judged(experiment, seen):
    text, few = experiment.text("Brain"), [0, 9]
    maps = seen.features.rows(few).margin_maps(text)
    return widgets.Judged(
        seen.labels, seen.features.margins(text), few, seen.images[few], maps, seen.masks[few]
    )


def test_the_threshold_decides_what_images_are_called(judged):
    low, high = judged.scores.min(), judged.scores.max() + 1
    called = {
        value: [axis.get_title() for axis in widgets.threshold_figure(judged, value).axes[2:]]
        for value in (low, high)
    }
    assert called[low] == ["called abnormal,\nwrong", "called abnormal,\nright"]
    assert called[high] == ["called normal,\nright", "called normal,\nwrong"]


def test_the_slider_redraws_and_is_a_plain_figure_without_a_kernel(judged):
    assert isinstance(widgets.threshold_slider(judged, live=False), Figure)
    shown = widgets.threshold_slider(judged, live=True)
    slider, _, image = shown.children
    before = image.value
    slider.value = slider.max
    assert bytes(image.value) != bytes(before) and bytes(image.value).startswith(b"\x89PNG")


def test_the_prompt_box_redraws_and_tells_of_a_mistake(experiment, seen):
    few = seen.images[:2], seen.masks[:2], seen.features.rows([0, 1])
    assert isinstance(widgets.prompt_box(experiment.backbone, *few, "Brain", live=False), Figure)
    shown = widgets.prompt_box(experiment.backbone, *few, "Brain", live=True)
    assert isinstance(shown, ipywidgets.VBox)
    _, normal, abnormal, trouble, image = shown.children
    before = image.value
    abnormal.value = "broken {}\n{} with flaw"
    assert image.value != before and trouble.value == ""
    kept = image.value
    normal.value = "  \n"
    assert "the normal side is empty" in trouble.value and image.value == kept


@pytest.mark.parametrize("line", ["{", "a {b}", "}{", "{0}"])
def test_a_lone_brace_in_a_wording_is_named(line):
    with pytest.raises(MvfaError, match="lone brace"):
        widgets.wording("fine {}", line)


def test_widgets_are_live_where_a_notebook_application_started_the_kernel(monkeypatch, judged):
    for name in widgets.FRONT_ENDS:
        monkeypatch.delenv(name, raising=False)
    assert isinstance(widgets.threshold_slider(judged), Figure)
    monkeypatch.setenv("JPY_SESSION_NAME", "lesson.ipynb")
    assert isinstance(widgets.threshold_slider(judged), ipywidgets.VBox)


# --- cheat sheet ------------------------------------------------------------------------------------------


@pytest.fixture
def sheet():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 255, (5, 3, 96, 96), generator=generator, dtype=torch.uint8)
    mask = torch.zeros(96, 96)
    mask[40:60, 40:60] = 1
    maps = torch.rand(3, 96, 96, generator=generator)
    demo = shapes.Shapes(96, 8, 128, 128, 8, (2, 4, 6, 8))
    return cheat_sheet.draw(demo, cheat_sheet.Pictures(images[0], mask, *maps, images[1:]))


def test_the_cheat_sheets_words_stay_on_the_page_and_apart(sheet):
    sheet.canvas.draw()
    page = sheet.bbox
    boxes = [(t.get_text(), t.get_window_extent()) for t in sheet.axes[0].texts if t.get_text().strip("+")]
    for text, extent in boxes:
        assert (
            page.x0 <= extent.x0 and extent.x1 <= page.x1 and page.y0 <= extent.y0 <= extent.y1 <= page.y1
        ), text
    for (first, a), (second, b) in combinations(boxes, 2):
        assert not a.overlaps(b), (first, second)


def test_the_cheat_sheet_names_both_settings_and_is_written_alike_twice(sheet, tmp_path):
    words = " ".join(text.get_text() for text in sheet.axes[0].texts)
    for shape in ("145 × 128", "290 × 1024", "128 × 2 | 768 × 2", "7-8 | 19-24"):
        assert shape in words
    for name in ("a", "b"):
        save_figure(sheet, tmp_path / name, "cheat-sheet")
    for kind in ("svg", "png"):
        first, second = ((tmp_path / name / f"cheat-sheet.{kind}").read_bytes() for name in ("a", "b"))
        assert first == second
        assert (ROOT / "docs" / f"cheat-sheet.{kind}").is_file()


# --- what the lessons' text says of the demo ----------------------------------------------------------------


@pytest.fixture(scope="module")
def demo():
    return style.open_demo(ROOT)


def test_the_demos_text_network_reads_words_not_sentences(demo):
    places = wording.positions(
        demo.backbone, "Brain", ["not damaged {}", "{} without damage", "diseased {}", "{} with tumour"]
    )
    assert places["not damaged {}"] > 0.9
    assert places.drop("not damaged {}").max() < 0.2


@pytest.mark.slow
def test_the_liver_fails_for_the_reasons_that_lesson_1_gives(demo):
    liver, text = seeing.Seen.of(demo, "Liver"), demo.text("Liver")
    assert image_auroc_interval(liver.labels, liver.features.margins(text)).high < 0.5
    healthy, ill = liver.rows(0), liver.rows(1)
    bone = liver.images[healthy].float().mean(dim=1) / 255 > 0.6
    heat, pixels = seeing.heat_share(liver.features.maps(text)[healthy], bone)
    assert heat > 0.6 and pixels < 0.2
    after = seeing.features_of(demo, seeing.paint_out(liver.images[ill] / 255, liver.masks[ill]))
    change = liver.features.margins(text)[ill] - after.margins(text)
    assert (change < 0).mean() > 0.65
    dimmed = seeing.features_of(demo, (liver.images / 255).clamp(max=0.6)).margins(text)
    interval = image_auroc_interval(liver.labels, dimmed)
    assert interval.low < 0.5 < interval.high
