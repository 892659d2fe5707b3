"""Pretraining of the demo backbone: scenes from their numbers alone, honest masks, repeatable steps."""

import json

import numpy as np
import pytest
import torch
from open_clip.model import CLIP
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import load_file

from mvfa_core.demo import flaws, scenes
from mvfa_core.demo.pretrain import (
    CONFIG,
    Recipe,
    measure,
    schedule,
    train,
    write_weights,
)
from mvfa_core.demo.small_clip import build_model, encode_images
from mvfa_core.demo.views import (
    HELD_OUT,
    draw_batch,
    draw_captions,
    held_out_pool,
    plain_words,
    training_pool,
    unknown_noun,
)
from mvfa_core.prompts import ABNORMAL_STATES, NORMAL_STATES, TEMPLATES

SIZE_LIMIT = 12_000_000  # bytes of the shipped file
TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 96, "patch_size": 16, "width": 32, "layers": 2, "head_width": 16},
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
TINY_RECIPE = Recipe(
    seed=5, steps=20, scenes=24, sides=(48, 96), batches=(8, 8), until=(0.5, 1.0), warmup=3, rate=3e-3
)


@pytest.fixture(scope="module")
def pool():
    return held_out_pool(seed=5, count=24)


@pytest.fixture(scope="module")
def tokenizer():
    return SimpleTokenizer(context_length=32)


@pytest.mark.parametrize("index", [0, 17, HELD_OUT])
def test_a_scene_is_decided_by_seed_and_index(index):
    first, again, other = (scenes.draw_scene(seed, index) for seed in (3, 3, 4))
    for one, two in zip(first, again, strict=True):
        assert np.array_equal(one, two)
    assert not np.array_equal(first.flawless, other.flawless)


def test_scenes_do_not_depend_on_what_was_drawn_before():
    scenes.draw_scene(3, 1)
    alone = scenes.draw_scene(3, 2)
    assert np.array_equal(scenes.draw_scene(3, 2).damaged, alone.damaged)


@pytest.mark.parametrize("index", range(40))
def test_the_mask_marks_where_the_versions_differ(index):
    scene = scenes.draw_scene(11, index)
    differs = (scene.flawless != scene.damaged).any(axis=2)
    assert set(np.unique(scene.mask)) <= {0, 1}
    assert not differs[scene.mask == 0].any()
    if scene.mask.sum() > 25:
        assert differs[scene.mask == 1].mean() > 0.5


@pytest.mark.parametrize("name", flaws.FLAWS)
def test_every_flaw_changes_its_region_and_nothing_else(name, monkeypatch):
    monkeypatch.setattr(flaws, "FLAWS", {name: flaws.FLAWS[name]})
    rng = np.random.default_rng(2)
    picture = rng.uniform(0.3, 0.7, (scenes.SIDE, scenes.SIDE, 3))
    damaged, region, drawn = flaws.damage(picture, np.ones((scenes.SIDE, scenes.SIDE), bool), rng)
    assert drawn == name
    assert region.any()
    assert np.array_equal(damaged[~region], picture[~region])
    assert np.abs(damaged - picture)[region].mean() > 0.005


def test_captions_come_from_the_prompt_vocabulary(tokenizer):
    rng = np.random.default_rng(0)
    allowed = [
        {template.format(state.format("thing")) for state in states for template in TEMPLATES}
        for states in (NORMAL_STATES, ABNORMAL_STATES)
    ]
    for _ in range(50):
        for caption, sentences in zip(draw_captions("thing", rng), allowed, strict=True):
            assert caption in sentences


def test_captions_fit_the_context(pool, tokenizer):
    vocabulary = plain_words(tokenizer)
    rng = np.random.default_rng(0)
    nouns = [*pool.words, *(unknown_noun(vocabulary, rng) for _ in range(50))]
    roomy = SimpleTokenizer(context_length=77)
    for noun in nouns:
        for caption in draw_captions(noun, rng):
            assert (roomy(caption) != 0).sum() <= 32, caption


def test_no_scene_is_called_by_an_organ(pool):
    words = {word for phrase in pool.words for word in phrase.lower().split()}
    assert not words & {
        "brain",
        "liver",
        "retinal",
        "retina",
        "oct",
        "chest",
        "x-ray",
        "film",
        "histopathological",
    }


@pytest.mark.parametrize("side", [48, 96])
def test_a_view_keeps_images_and_masks_together(pool, side):
    batch = draw_batch(pool, 16, side, 8, ["word"], key=[0, 1])
    patches = (side // 8) ** 2
    assert batch.images.shape == (32, 3, side, side)
    assert batch.images.min() >= 0 and batch.images.max() <= 1
    assert batch.cover.shape == (32, patches)
    assert not batch.cover[:16].any()
    assert (batch.cover[16:].amax(dim=1) > 0).float().mean() > 0.7
    assert len(batch.captions) == 32


def test_a_batch_is_decided_by_its_key(pool):
    first, again, other = (draw_batch(pool, 4, 48, 8, ["word"], key=[0, step]) for step in (1, 1, 2))
    assert torch.equal(first.images, again.images)
    assert first.captions == again.captions
    assert not torch.equal(first.images, other.images)


def test_early_batches_see_the_plainest_flaws(pool):
    recipe = Recipe()
    shares = [recipe.share(step) for step in range(0, recipe.steps, 100)]
    assert shares == sorted(shares)
    assert shares[0] == recipe.plain_share
    assert shares[-1] == pytest.approx(recipe.final_share)
    assert sorted(pool.order) == list(range(len(pool)))


def test_every_step_has_a_stage_and_a_positive_rate():
    recipe = Recipe()
    for step in range(recipe.steps):
        side, count = recipe.stage(step)
        assert side in recipe.sides and count in recipe.batches
        assert 0 < schedule(recipe, step) <= 1


def test_pool_on_disk_equals_scenes_drawn_one_by_one(tmp_path):
    pool = training_pool(seed=9, count=3, scratch=tmp_path, workers=1)
    for index in range(3):
        scene = scenes.draw_scene(9, index)
        assert np.array_equal(pool.pictures[index], np.stack([scene.flawless, scene.damaged]))
        assert np.array_equal(pool.masks[index], scene.mask)
        assert pool.words[index] == scene.words


def test_full_views_give_what_open_clip_gives():
    model = build_model(TINY, seed=0).eval()
    images = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    pooled, patches, blocks = encode_images(model, images)
    assert torch.allclose(pooled, model.encode_image(images, normalize=True), atol=1e-5)
    assert patches.shape == (2, 36, 16)
    assert len(blocks) == 2


def test_training_reduces_the_loss_and_repeats_bit_for_bit(pool):
    runs = []
    for _ in range(2):
        means = []
        model = train(
            TINY_RECIPE,
            build_model(TINY, TINY_RECIPE.seed),
            pool,
            every=5,
            report=lambda step, losses, means=means: means.append(np.dot(losses, TINY_RECIPE.weights)),
        )
        assert means[-1] < means[0]
        runs.append(model.state_dict())
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])


def test_an_interrupted_training_ends_in_the_same_weights(pool, tmp_path):
    whole = train(TINY_RECIPE, build_model(TINY, 5), pool, every=10).state_dict()

    def interrupt(step, losses):
        raise KeyboardInterrupt

    checkpoint = tmp_path / "state.pt"
    with pytest.raises(KeyboardInterrupt):
        train(TINY_RECIPE, build_model(TINY, 5), pool, every=10, checkpoint=checkpoint, report=interrupt)
    resumed = train(TINY_RECIPE, build_model(TINY, 5), pool, every=10, checkpoint=checkpoint).state_dict()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_the_shipped_configuration_fits_the_size_limit(tmp_path):
    config = json.loads(CONFIG.read_text())
    model = build_model(config, seed=0)
    path = tmp_path / "backbone.safetensors"
    write_weights(model, path)
    assert path.stat().st_size <= SIZE_LIMIT
    assert CLIP(**config).load_state_dict(load_file(path)).missing_keys == []
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_figures_are_areas_under_a_curve(pool):
    figures = measure(build_model(TINY, seed=0), pool)
    assert set(figures) == {"pixel_auroc", "image_auroc_pooled", "image_auroc_patch_mean"}
    assert all(0 <= value <= 1 for value in figures.values())
