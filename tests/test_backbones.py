import json
from pathlib import Path

import open_clip
import pytest
import torch
from families import EXEMPT, FAMILIES, TEXT, VIT, load_family, stub_tokenizer

from mvfa_core import backbones
from mvfa_core.adapters import Adapters
from mvfa_core.backbones import Backbone, load_backbone, resolve_levels
from mvfa_core.errors import MvfaError
from mvfa_core.objectives import detection_loss, segmentation_losses
from mvfa_core.prompts import PromptEnsemble, text_features
from mvfa_core.scoring import text_maps
from mvfa_core.settings import BackboneSettings

FEW_PROMPTS = PromptEnsemble(("{}", "flawless {}"), ("damaged {}",), ("a photo of a {}.",))


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    """A small backbone of each family, its expectations, and four images."""
    expected = FAMILIES[request.param]
    backbone = load_family(tmp_path_factory.mktemp("family"), request.param)
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(4, 3, expected.image_size, expected.image_size, generator=generator)
    return backbone, expected, images


def levels_of(backbone):
    return resolve_levels((0.25, 0.5, 0.75, 1.0), backbone.depth)


def test_shapes_are_what_the_backbone_says(family):
    backbone, expected, images = family
    assert type(backbone).__name__ == expected.tower
    assert backbone.prefix == expected.prefix
    assert backbone.image_size == expected.image_size
    assert backbone.text_width == 24
    tokens = backbone.embed(images)
    for block in range(backbone.depth):
        tokens = backbone.run(tokens, block, block + 1)
        patches = tokens.shape[1] - backbone.prefix
        assert tokens.shape == (4, patches + backbone.prefix, backbone.widths[block])
        assert int(patches**0.5) ** 2 == patches
    assert backbone.pool(tokens).shape == (4, 24)
    assert backbone.project(tokens).shape == (4, patches, 24)
    assert backbone.encode_text(["a brain", "a liver", "a lung"]).shape == (3, 24)


@torch.no_grad()
def test_the_whole_is_the_models_own_image_feature(family):
    backbone, _, images = family
    tokens = backbone.run(backbone.embed(images), 0, backbone.depth)
    own = backbone.model.encode_image(images, normalize=False)
    assert own.abs().max() > 1e-4
    torch.testing.assert_close(backbone.pool(tokens), own, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_running_in_parts_is_running_at_once(family):
    backbone, _, images = family
    tokens = backbone.embed(images)
    parts = backbone.run(backbone.run(tokens, 0, 2), 2, backbone.depth)
    torch.testing.assert_close(parts, backbone.run(tokens, 0, backbone.depth), rtol=1e-5, atol=1e-5)
    assert torch.equal(backbone.run(tokens, 2, 2), tokens)


@torch.no_grad()
def test_batch_one_equals_batch_four(family):
    backbone, _, images = family
    levels = levels_of(backbone)
    adapters = Adapters.for_backbone(backbone, levels, seed=0)

    def everything(batch):
        tokens = adapters(backbone, backbone.run(backbone.embed(batch), 0, levels[0]))
        last = tokens.last
        return [*tokens.seg, *tokens.det, backbone.pool(last), backbone.project(last)]

    together = everything(images)
    for row in range(4):
        for one, all_four in zip(everything(images[row : row + 1]), together, strict=True):
            torch.testing.assert_close(one[0], all_four[row], rtol=1e-5, atol=1e-5)


def test_training_moves_adapters_and_nothing_else(family):
    backbone, expected, images = family
    levels = levels_of(backbone)
    adapters = Adapters.for_backbone(backbone, levels, seed=0)
    frozen = {name: value.clone() for name, value in backbone.state_dict().items()}
    fresh = {name: value.clone() for name, value in adapters.state_dict().items()}
    backbone.train()
    text = text_features(backbone, "brain", FEW_PROMPTS)
    masks = torch.zeros(4, expected.image_size, expected.image_size)
    masks[2:, 4:20, 8:24] = 1
    optimiser = torch.optim.Adam(
        [*adapters.branch_parameters("seg"), *adapters.branch_parameters("det")], lr=1e-3
    )
    for _ in range(2):
        tokens = adapters(backbone, backbone.run(backbone.embed(images), 0, levels[0]))
        detection = detection_loss(tokens.det, text, torch.tensor([0.0, 0, 1, 1]), backbone.prefix)
        focal, dice = segmentation_losses(tokens.seg, text, masks, backbone.prefix)
        adapters.zero_grad()
        (detection + focal + dice).mean().backward()
        optimiser.step()

    unreachable = {f"{branch}_adapters.{len(levels) - 1}.fc2.0.weight" for branch in ("seg", "det")}
    for name, parameter in adapters.named_parameters():
        if name in unreachable:
            assert parameter.grad is None and torch.equal(parameter, fresh[name])
        else:
            assert parameter.grad.abs().max() > 0, name
            assert not torch.equal(parameter, fresh[name]), name
    assert all(parameter.grad is None for parameter in backbone.parameters())
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, frozen[name]), name


@torch.no_grad()
def test_maps_cover_the_image(family):
    backbone, expected, images = family
    tokens = backbone.run(backbone.embed(images), 0, backbone.depth)
    text = text_features(backbone, "brain", FEW_PROMPTS)
    maps = text_maps([backbone.project(tokens)], text, 0, expected.image_size)
    assert maps.shape == (4, expected.image_size, expected.image_size)
    assert maps.isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize("name", ["openai-vit", "coca", "siglip", "perception-encoder", "openai-resnet"])
def test_patch_features_are_what_pooling_sees(name, tmp_path):
    """Where every patch is the same, attention has no choice, and patch and pooled feature agree."""
    backbone = load_family(tmp_path, name)
    width = backbone.widths[-1]
    patch = torch.randn(width, generator=torch.Generator().manual_seed(0))
    tokens = patch.expand(2, 16 + backbone.prefix, width)
    if name == "openai-resnet":
        # there a position embedding and the mean token enter the pooling: keep the first, level the others
        backbone.model.visual.attnpool.positional_embedding.copy_(
            backbone.model.visual.attnpool.positional_embedding[:1].expand(5, -1)
        )
        tokens = tokens[:, :4]
    pooled = backbone.pool(tokens)
    torch.testing.assert_close(backbone.project(tokens)[:, 0], pooled, rtol=1e-4, atol=1e-5)


def settings(tmp_path, **changes) -> BackboneSettings:
    path = tmp_path / "clip.json"
    path.write_text(json.dumps({"embed_dim": 24, "vision_cfg": VIT, "text_cfg": TEXT}))
    return BackboneSettings(
        **{"model": str(path), "weights": None, "image_size": 32, "levels": (1, 2)} | changes
    )


@pytest.mark.parametrize("activation", ["gelu", "quickgelu"])
@pytest.mark.parametrize("configured", [True, False])
def test_activation_is_the_settings_choice(activation, configured, tmp_path):
    asked = settings(tmp_path, activation=activation)
    config = {"embed_dim": 24, "vision_cfg": VIT, "text_cfg": TEXT, "quick_gelu": configured}
    (tmp_path / "clip.json").write_text(json.dumps(config))
    backbone = load_backbone(asked)
    kinds = {type(m).__name__ for m in backbone.model.modules() if "GELU" in type(m).__name__}
    assert kinds == {"QuickGELU" if activation == "quickgelu" else "GELU"}
    assert backbone.description["activation"] == activation


def test_random_weights_come_from_the_seed(tmp_path):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, again, other = (load_backbone(settings(tmp_path), seed=seed) for seed in (1, 1, 2))
    assert first.fingerprint() == again.fingerprint() != other.fingerprint()
    assert torch.equal(torch.get_rng_state(), state)


def test_description_names_no_folder(tmp_path):
    description = load_backbone(settings(tmp_path)).description
    assert description == {
        "model": "clip.json",
        "weights": "random (seed 0)",
        "activation": "gelu",
        "normalise": False,
        "tower": "OpenClipVit",
        "image_size": 32,
        "fingerprint": description["fingerprint"],
    }


@torch.no_grad()
def test_normalisation_is_the_models_own(tmp_path):
    images = torch.rand(2, 3, 32, 32)
    plain = load_backbone(settings(tmp_path))
    normalised = load_backbone(settings(tmp_path, normalise=True))
    mean, deviation = (
        torch.tensor(values).view(3, 1, 1)
        for values in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    )
    torch.testing.assert_close(normalised.embed(images), plain.embed((images - mean) / deviation))
    assert normalised.fingerprint() == plain.fingerprint()

    siglip = backbones._configuration(settings(tmp_path, model="ViT-B-16-SigLIP"))[1]
    assert siglip == {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


@pytest.mark.parametrize(
    ("levels", "depth", "blocks"),
    [
        ((6, 12, 18, 24), 24, (6, 12, 18, 24)),
        ((0.25, 0.5, 0.75, 1.0), 24, (6, 12, 18, 24)),
        ((0.25, 0.5, 0.75, 1.0), 27, (7, 14, 20, 27)),
        ((0.01, 1.0), 12, (1, 12)),
        ((3,), 4, (3,)),
    ],
)
def test_levels(levels, depth, blocks):
    assert resolve_levels(levels, depth) == blocks


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ((), "must be block numbers or fractions"),
        ((True, 2), "must be block numbers or fractions"),
        ((0, 2), "blocks 1 to 12"),
        ((2, 13), "blocks 1 to 12"),
        ((4, 4), "must increase"),
        ((4, 2), "must increase"),
        ((0.5, 1), "mixes block numbers and fractions"),
        ((0.0, 0.5), "lie in (0, 1]"),
        ((0.5, 1.5), "lie in (0, 1]"),
        ((0.5, 0.51), "blocks [6, 6] of 12"),
        ((float("nan"),), "lie in (0, 1]"),
    ],
)
def test_levels_that_make_no_sense(levels, message):
    with pytest.raises(MvfaError) as error:
        resolve_levels(levels, 12)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ("{", "not valid JSON"),
        ("[1]", "has no 'embed_dim'"),
        ('{"embed_dim": 8, "vision_cfg": {}}', "has no 'text_cfg'"),
        ('{"embed_dim": 8, "vision_cfg": {"wdith": 8}, "text_cfg": {}}', "wdith"),
        ('{"embed_dim": 8, "vision_cfg": {"width": "x"}, "text_cfg": {}}', "no configuration to build from"),
        (
            '{"embed_dim": 8, "vision_cfg": {"head_width": 0}, "text_cfg": {}}',
            "no configuration to build from",
        ),
        ('{"embed_dim": 8, "vision_cfg": {"timm_model_name": "vit_none"}, "text_cfg": {}}', "vit_none"),
        (
            '{"embed_dim": 8, "vision_cfg": {"layers": 1}, "text_cfg": {"layers": 1, "vocab_size": 9}}',
            "49408",
        ),
    ],
)
def test_unreadable_configuration_is_one_line(content, message, tmp_path):
    path = tmp_path / "broken.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(MvfaError) as error:
        load_backbone(BackboneSettings(model=str(path), weights=None, image_size=32, levels=(1,)))
    assert message in str(error.value)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "ViT-L-14-366"}, "did you mean 'ViT-L-14-336'?"),
        ({"model": "ViT-B-32", "weights": "openay"}, "no tag of ViT-B-32: openai"),
        ({"model": "ViT-B-32", "weights": "gone.pt"}, "gone.pt: cannot be read"),
        ({"model": "ViT-B-16-SigLIP", "activation": "quickgelu"}, "brings its own activation"),
        ({"model": "vit_relpos_medium_patch16_cls_224"}, "without blocks to adapt"),
        ({"model": "ViT-B-32", "image_size": 16}, "needs at least 32 px"),
        ({"model": "convnext_tiny", "image_size": 16}, "needs at least 32 px"),
        ({"model": "RN50", "image_size": 255}, "take one more or less"),
        ({"model": "vit_medium_patch16_gap_256", "image_size": 16}, None),
    ],
)
def test_impossible_settings_are_one_line(changes, message, tmp_path):
    with torch.device("meta"):
        asked = BackboneSettings(**{"weights": None, "image_size": 224, "levels": (1,)} | changes)
        if message is None:
            assert load_backbone(asked, "meta", tokenizer=stub_tokenizer).image_size == 16
            return
        with pytest.raises(MvfaError) as error:
            load_backbone(asked, "meta", tokenizer=stub_tokenizer)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_failed_download_is_one_line(tmp_path, monkeypatch):
    def offline(*_, **__):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(backbones, "download_pretrained", offline)
    monkeypatch.setattr(backbones, "download_pretrained_from_hf", offline)
    monkeypatch.setattr(open_clip, "get_tokenizer", offline)
    for model, weights in (
        ("ViT-B-32", "openai"),
        ("hf-hub:nobody/nothing", None),
        ("ViT-B-32", "hf-hub:a/b"),
    ):
        with pytest.raises(MvfaError, match="could not be downloaded") as error, torch.device("meta"):
            load_backbone(settings(tmp_path, model=model, weights=weights))
        assert "\n" not in str(error.value)
    with (
        pytest.raises(MvfaError, match="tokenizer of ViT-B-32: could not be downloaded"),
        torch.device("meta"),
    ):
        load_backbone(settings(tmp_path, model="ViT-B-32"))


def test_a_new_kind_of_backbone_is_one_class():
    class Stripes(Backbone):
        """Two 'blocks' on four patches, without a network."""

        depth, widths, prefix, text_width, image_size = 2, (6, 6), 0, 5, 8

        def embed(self, images):
            return images.mean(1).reshape(len(images), 4, 16)[..., :6]

        def run(self, tokens, start, stop):
            return tokens * 2.0 ** (stop - start)

    adapters = Adapters.for_backbone(Stripes(), (1, 2), seed=0)
    backbone = Stripes()
    tokens = adapters(backbone, backbone.run(backbone.embed(torch.rand(3, 3, 8, 8)), 0, 1))
    assert [level.shape for level in tokens.seg] == [(3, 4, 5)] * 2
    with pytest.raises(NotImplementedError, match="Stripes must pool"):
        backbone.pool(tokens.last)


@pytest.mark.slow
@pytest.mark.parametrize("name", open_clip.list_models())
def test_every_registered_model_is_served(name, tmp_path):
    """At full size, without memory: the meta device knows shapes only."""
    config, model = open_clip.get_model_config(name), name
    if "hf_model_name" in config["text_cfg"]:
        # the layout of the text tower would have to be downloaded; the image tower is judged beside another
        config["text_cfg"] = TEXT | {"output_tokens": "multimodal_cfg" in config}
        model = str(tmp_path / "exchanged.json")
        Path(model).write_text(json.dumps(config))
    context = config["text_cfg"].get("context_length", 77)
    asked = BackboneSettings(model=model, weights=None, image_size=240, levels=(1.0,))

    def tokenizer(sentences):
        return torch.zeros(len(sentences), context, dtype=torch.long)

    with torch.device("meta"):
        if name in EXEMPT:
            with pytest.raises(MvfaError, match="without blocks to adapt"):
                load_backbone(asked, "meta", tokenizer=tokenizer)
            return
        backbone = load_backbone(asked, "meta", tokenizer=tokenizer)
        tokens = backbone.embed(torch.empty(2, 3, 240, 240))
        for block in range(backbone.depth):
            tokens = backbone.run(tokens, block, block + 1)
            assert tokens.shape[-1] == backbone.widths[block]
        assert backbone.pool(tokens).shape == (2, backbone.text_width)
        patches = tokens.shape[1] - backbone.prefix
        assert backbone.project(tokens).shape == (2, patches, backbone.text_width)
        assert backbone.encode_text(["a brain"]).shape == (1, backbone.text_width)
