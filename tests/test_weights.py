import io
import json
import pickle
import tarfile

import pytest
import torch
from families import FAMILIES, load_family, shrunk
from open_clip.model import CLIP, CustomTextCLIP, resize_pos_embed
from parity import fill_by_name
from safetensors.torch import save_file
from standins import SMALL, TRAPS, WRITERS, write_openai_archive
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from mvfa_core import backbones, weights
from mvfa_core.archives import read_archive
from mvfa_core.backbones import load_backbone
from mvfa_core.errors import MvfaError
from mvfa_core.settings import BackboneSettings
from mvfa_core.token_cache import TokenCache
from mvfa_core.weights import load_weights, read_weights, resize_positions

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
    pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning"),
]


@pytest.fixture(scope="module")
def original():
    model = CLIP(**SMALL)
    fill_by_name(model, salt=7)
    return model


@pytest.fixture(scope="module")
def published(original, tmp_path_factory):
    """The same weights in every format; the training checkpoint's have moved by one step."""
    folder = tmp_path_factory.mktemp("published")
    for name, write in WRITERS.items():
        model = CLIP(**SMALL)
        model.load_state_dict(original.state_dict())
        write(folder / name, model)
    (folder / "clip.json").write_text(json.dumps(SMALL))
    return folder


def refused(action, *arguments) -> str:
    """The one line that it is refused with."""
    with pytest.raises(MvfaError) as error:
        action(*arguments)
    line = str(error.value)
    assert "\n" not in line and len(line) < 500
    return line


KINDS = {
    "openai.pt": "TorchScript archive",
    "openai-state.pt": "state dict",
    "epoch_3.pt": "open_clip checkpoint",
    "legacy.bin": "state dict",
    "model.safetensors": "safetensors",
    "half.safetensors": "safetensors",
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_published_format_loads(name, published, original):
    model = CLIP(**SMALL)
    assert load_weights(model, published / name) == KINDS[name]
    tolerance = 2e-3 if name == "epoch_3.pt" else 1e-3 if name in ("openai.pt", "openai-state.pt") else 0
    tolerance = 1e-3 if name == "half.safetensors" else tolerance
    for key, value in original.state_dict().items():
        loaded = model.state_dict()[key]
        assert loaded.dtype == torch.float32
        if key != "logit_scale":
            torch.testing.assert_close(loaded, value, rtol=tolerance, atol=tolerance)


def test_content_decides_not_the_suffix(published, tmp_path):
    for name in WRITERS:
        disguised = tmp_path / "weights.txt"
        disguised.write_bytes((published / name).read_bytes())
        assert read_weights(disguised)[1] == KINDS[name]


def test_openai_archive_gives_a_backbone(published):
    settings = {"model": str(published / "clip.json"), "image_size": 32, "levels": (1, 2)}
    archive = load_backbone(BackboneSettings(weights=str(published / "openai.pt"), **settings))
    plain = load_backbone(BackboneSettings(weights=str(published / "openai-state.pt"), **settings))
    assert archive.fingerprint() == plain.fingerprint()
    assert archive.description["weights"] == "openai.pt"
    assert archive.description["weights_kind"] == "TorchScript archive"
    assert str(published) not in str(archive.description)


def test_archive_reads_as_torch_jit_would(published):
    expected = torch.jit.load(published / "openai.pt", map_location="cpu").state_dict()
    found = read_archive(published / "openai.pt")
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype and torch.equal(found[name], value), name


class Odd(nn.Module):
    """Shared, transposed, empty and integer tensors, a list, and a mask that is no weight."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = self.first
        self.turned = nn.Parameter(torch.arange(6.0).reshape(2, 3).t())
        self.register_buffer("empty", torch.zeros(0))
        self.register_buffer("count", torch.tensor(3))
        self.register_buffer("brain", torch.ones(2, dtype=torch.bfloat16))
        self.mask = torch.zeros(2, 2)
        self.sizes = [1, 2]

    def forward(self, x):
        return self.second(self.first(x)) @ self.turned + self.mask.sum() + self.sizes[0]


def test_archive_of_an_odd_module(tmp_path):
    scripted = torch.jit.script(Odd())
    scripted.save(str(tmp_path / "odd.pt"))
    found = read_archive(tmp_path / "odd.pt")
    assert set(found) == set(scripted.state_dict())
    for name, value in scripted.state_dict().items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize("trap", TRAPS)
def test_code_in_a_file_is_refused_and_does_not_run(trap, tmp_path):
    sprung, path = tmp_path / "sprung", tmp_path / "weights.pt"
    path.write_bytes(TRAPS[trap](sprung))
    line = refused(load_weights, CLIP(**SMALL), path)
    assert str(path) in line and "code" in line and "convert it where you trust it" in line
    assert not sprung.exists()
    # the trap itself is sound
    if trap == "pickle":
        pickle.loads(path.read_bytes())
        assert sprung.is_dir()


def test_tar_file_is_refused(tmp_path):
    """Also under a first name that makes it look like another format: early versions of PyTorch ran it."""
    disguise = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.".decode("utf-8", "surrogateescape")
    path = tmp_path / "weights.pt"
    for name, message in (("pickle", "neither safetensors nor a PyTorch"), (disguise, "is a tar file")):
        with tarfile.open(path, "w", format=tarfile.GNU_FORMAT, encoding="utf-8") as archive:
            archive.addfile(tarfile.TarInfo(name), io.BytesIO(b""))
        assert message in refused(read_weights, path)


@pytest.mark.parametrize("name", WRITERS)
def test_truncated_files_are_refused(name, published, tmp_path):
    whole = (published / name).read_bytes()
    path = tmp_path / name
    for share in (0, 1, 7, 64, len(whole) // 3, len(whole) // 2, len(whole) * 9 // 10, len(whole) - 1):
        path.write_bytes(whole[:share])
        line = refused(load_weights, CLIP(**SMALL), path)
        assert str(path) in line and "fetch it again" in line


@pytest.mark.parametrize("name", WRITERS)
def test_damaged_files_never_break_out(name, published, tmp_path):
    """A flipped byte may go unnoticed where it hits a number; it must not surface as another exception."""
    whole = (published / name).read_bytes()
    path, model = tmp_path / name, CLIP(**SMALL)
    positions = torch.randint(len(whole), (12,), generator=torch.Generator().manual_seed(0)).tolist()
    for position in [*range(0, 160, 8), *range(len(whole) - 160, len(whole), 8), *positions]:
        broken = bytearray(whole)
        broken[position] ^= 0xFF
        path.write_bytes(broken)
        try:
            load_weights(model, path)
        except MvfaError as error:
            assert "\n" not in str(error) and str(path) in str(error)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "neither safetensors nor a PyTorch file"),
        (b"<!DOCTYPE html>", "neither safetensors nor a PyTorch file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"PK\x03\x04", "damaged or truncated"),
        (b"\xff" * 8 + b"{", "damaged or truncated"),
        (pickle.dumps({"a": 1}), "is a Python pickle"),
    ],
)
def test_other_files_are_refused(content, message, tmp_path):
    path = tmp_path / "weights.bin"
    path.write_bytes(content)
    assert message in refused(read_weights, path)


def test_missing_file_and_folder_are_refused(tmp_path):
    assert "No such file" in refused(read_weights, tmp_path / "gone.pt")
    assert "cannot be read" in refused(read_weights, tmp_path)


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        (torch.zeros(3), "holds no state dict"),
        ({}, "holds no state dict"),
        ({"epoch": 3}, "'epoch' is a int and no tensor"),
        ({1: torch.zeros(3)}, "'1' is no name"),
        ({"state_dict": {"a": "b"}}, "'a' is a str and no tensor"),
    ],
)
def test_files_without_a_state_dict_are_refused(saved, message, tmp_path):
    torch.save(saved, tmp_path / "weights.pt")
    assert message in refused(read_weights, tmp_path / "weights.pt")


def altered(original, **changes):
    state = {name: value.clone() for name, value in original.state_dict().items()}
    for name, value in changes.items():
        state.pop(name) if value is None else state.update({name: value})
    return state


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"visual.proj": torch.zeros(48, 16)}, "'visual.proj' is 48 x 16, the model needs 32 x 16"),
        ({"visual.proj": None, "ln_final.bias": None}, "'visual.proj' and 1 more is missing"),
        ({"ln_final.bias": None}, "'ln_final.bias' is missing (the model has"),
        ({"extra": torch.zeros(1)}, "'extra' is unknown to the model"),
        (
            {"positional_embedding": torch.zeros(32, 16)},
            "is 32 x 16, the model needs 77 x 16",
        ),
        ({"visual.positional_embedding": torch.zeros(13, 32)}, "is 13 x 32, the model needs 17 x 32"),
        ({"visual.positional_embedding": torch.zeros(())}, "is a scalar, the model needs 17 x 32"),
        ({"visual.ln_post.weight": torch.zeros(64)}, "is 64, the model needs 32"),
        ({"visual.proj": torch.zeros(32, 16).char()}, "'visual.proj' is int8, the model needs float32"),
    ],
)
def test_weights_of_another_model_are_refused(changes, message, original, tmp_path):
    path = tmp_path / "other.safetensors"
    save_file(altered(original, **changes), path)
    model = CLIP(**SMALL)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    line = refused(load_weights, model, path)
    assert (
        message in line
        and line.startswith(str(path))
        and ("belong together" in line or "unquantised" in line)
    )
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_temperature_is_not_needed(original, tmp_path):
    path = tmp_path / "model.safetensors"
    changes = {"logit_scale": None, "logit_bias": torch.zeros(1), "text_decoder.weight": torch.zeros(3)}
    save_file(altered(original, **changes), path)
    load_weights(CLIP(**SMALL), path)


def test_layout_of_models_with_a_text_module(original, tmp_path):
    """Weights in CLIP's older layout enter a model that keeps its text tower apart."""
    path = tmp_path / "model.safetensors"
    save_file(altered(original), path)
    model = CustomTextCLIP(**SMALL)
    load_weights(model, path)
    tokens = torch.randint(49408, (2, 77))
    torch.testing.assert_close(model.encode_text(tokens), original.encode_text(tokens))


def test_positions_are_resized_as_open_clip_does(original):
    bigger = SMALL | {"vision_cfg": SMALL["vision_cfg"] | {"image_size": 56}}
    state = altered(original)
    resize_pos_embed(state, CLIP(**bigger))
    found = resize_positions(original.visual.positional_embedding, 1, 7)
    assert torch.equal(found, state["visual.positional_embedding"])
    assert resize_positions(found, 1, 7) is found


@pytest.mark.parametrize(
    "name", ["openai-vit", "siglip", "eva02-clip", "biomedclip", "openai-resnet", "convnext"]
)
def test_weights_enter_at_another_image_size(name, tmp_path):
    """Saved at one size, run at another, saved there again and brought back."""
    small, large = FAMILIES[name].image_size, FAMILIES[name].image_size * 2
    first = load_family(tmp_path, name)
    path = tmp_path / "first.safetensors"
    save_file({n: v.contiguous() for n, v in first.model.state_dict().items()}, path)
    same = load_family(tmp_path, name, weights=str(path))
    assert same.fingerprint() == first.fingerprint()

    enlarged = load_family(tmp_path, name, weights=str(path), image_size=large)
    image = torch.rand(1, 3, large, large)
    tokens = enlarged.run(enlarged.embed(image), 0, enlarged.depth)
    assert tokens.shape[1] - enlarged.prefix == 4 * (
        first.run(first.embed(image[..., :small, :small]), 0, first.depth).shape[1] - first.prefix
    )
    assert enlarged.pool(tokens).shape == (1, 24)
    for key, value in first.model.state_dict().items():
        if "pos" not in key:
            assert torch.equal(enlarged.model.state_dict()[key], value), key

    save_file({n: v.contiguous() for n, v in enlarged.model.state_dict().items()}, path)
    back = load_family(tmp_path, name, weights=str(path))
    again = load_family(tmp_path, name, weights=str(path), image_size=large)
    assert again.fingerprint() == enlarged.fingerprint()
    assert back.embed(image[..., :small, :small]).shape == first.embed(image[..., :small, :small]).shape


def test_tag_is_fetched_and_brings_its_normalisation(published, monkeypatch, tmp_path):
    """A registered name and tag, with open_clip's download replaced by a local archive."""
    monkeypatch.setattr(backbones, "download_pretrained", lambda tag: str(published / "openai.pt"))
    monkeypatch.setattr(backbones.open_clip, "get_model_config", lambda name: json.loads(json.dumps(SMALL)))
    settings = {"model": "ViT-L/14-336", "weights": "openai", "image_size": 32, "levels": (0.5, 1.0)}
    backbone = load_backbone(BackboneSettings(normalise=True, **settings))
    description = backbone.description
    assert (description["model"], description["weights"]) == ("ViT-L/14-336", "openai")
    assert backbone.mean.flatten().tolist() == pytest.approx([0.48145466, 0.4578275, 0.40821073])


def test_hub_model_is_fetched(published, monkeypatch, tmp_path):
    """`hf-hub:` names: configuration, preprocessing and weights come from the repository."""
    wrapped = {"model_cfg": SMALL, "preprocess_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7]}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(wrapped))
    asked = []

    def fetch(repository, filename=None):
        asked.append((repository, filename))
        return str(tmp_path / filename if filename else published / "model.safetensors")

    monkeypatch.setattr(backbones, "download_pretrained_from_hf", fetch)
    owner = "hf-hub:owner/name"
    settings = BackboneSettings(model=owner, weights=owner, image_size=32, levels=(1,), normalise=True)
    backbone = load_backbone(settings, tokenizer=lambda sentences: torch.zeros(len(sentences), 77).long())
    assert asked == [("owner/name", "open_clip_config.json"), ("owner/name", None)]
    assert backbone.description["model"] == "hf-hub:owner/name"
    assert backbone.deviation.flatten().tolist() == pytest.approx([0.5, 0.6, 0.7])


def test_hugging_face_tokenizer_from_a_folder(tmp_path):
    """A real word-piece tokenizer, read offline from the folder that the configuration names."""
    from transformers import BertTokenizerFast

    family = load_family(tmp_path, "biomedclip")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "photo", "of", "brain", "."]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path / "bert")
    with shrunk(FAMILIES["biomedclip"].shrink):
        settings = {"weights": None, "image_size": 32, "levels": (1,)}
        backbone = load_backbone(BackboneSettings(model=str(tmp_path / "biomedclip.json"), **settings))
    assert backbone.tokenizer(["a photo of a brain."])[0, :8].tolist() == [2, 5, 6, 7, 5, 8, 9, 3]
    assert backbone.encode_text(["a photo of a brain."]).shape == (1, family.text_width)


def test_archive_with_a_mask_among_its_buffers(original, tmp_path):
    """Tracing keeps `attn_mask`, which open_clip makes anew: it is not an unknown weight."""
    write_openai_archive(tmp_path / "traced.pt", original)
    assert "attn_mask" in read_weights(tmp_path / "traced.pt")[0]
    load_weights(CLIP(**SMALL), tmp_path / "traced.pt")


# --- mapped from the cache ------------------------------------------------------------------------------


def cache_in(folder) -> TokenCache:
    return TokenCache(folder / "cache", 10**9)


def files(folder) -> list:
    return [path for path in (folder / "cache").glob("??/*") if path.is_file()]


def copied(published) -> CLIP:
    model = CLIP(**SMALL)
    load_weights(model, published / "model.safetensors")
    return model


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_weights_through_the_cache(name, published, tmp_path):
    plain = CLIP(**SMALL)
    load_weights(plain, published / name)
    for _ in range(2):
        model = CLIP(**SMALL)
        assert load_weights(model, published / name, cache_in(tmp_path)) == KINDS[name]
        assert not any(
            value.requires_grad != own.requires_grad for value, own in zip_parameters(model, plain)
        )
        for key, value in plain.state_dict().items():
            assert torch.equal(model.state_dict()[key], value), key
    assert len(files(tmp_path)) == 1


def zip_parameters(*models):
    return zip(*(model.parameters() for model in models), strict=True)


def test_the_second_time_nothing_is_translated(published, tmp_path, monkeypatch):
    load_weights(CLIP(**SMALL), published / "openai.pt", cache_in(tmp_path))
    monkeypatch.setattr(weights, "read_weights", None)
    load_weights(CLIP(**SMALL), published / "openai.pt", cache_in(tmp_path))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_comes_out_of_the_cache_as_it_went_in(name, tmp_path):
    """Also where the file has another image size than the model."""
    stored = load_family(tmp_path, name)
    path = tmp_path / "weights.safetensors"
    save_file({k: v.contiguous() for k, v in stored.model.state_dict().items()}, path)
    larger = {} if FAMILIES[name].image_size % 32 else {"image_size": 64}
    for change in ({}, larger):
        plain = load_family(tmp_path, name, weights=str(path), **change)
        for _ in range(2):
            mapped = load_family(tmp_path, name, weights=str(path), cache=cache_in(tmp_path), **change)
            assert mapped.description == plain.description


def test_another_file_or_model_is_another_entry(published, tmp_path):
    cache, path = cache_in(tmp_path), tmp_path / "model.safetensors"
    path.write_bytes((published / "model.safetensors").read_bytes())
    load_weights(CLIP(**SMALL), path, cache)
    bigger = CLIP(**(SMALL | {"vision_cfg": SMALL["vision_cfg"] | {"image_size": 64}}))
    load_weights(bigger, path, cache)
    assert len(files(tmp_path)) == 2
    path.write_bytes((published / "half.safetensors").read_bytes())
    model = CLIP(**SMALL)
    load_weights(model, path, cache)
    assert len(files(tmp_path)) == 3
    assert torch.equal(model.visual.proj, model.visual.proj.half().float())


@pytest.mark.parametrize("damage", [b"", b"x" * 100, "cut", "flipped"])
def test_a_damaged_entry_is_made_anew(damage, published, tmp_path):
    load_weights(CLIP(**SMALL), published / "model.safetensors", cache_in(tmp_path))
    (entry,) = files(tmp_path)
    whole = entry.read_bytes()
    entry.write_bytes(
        {"cut": whole[:-100], "flipped": whole[:-1] + bytes([whole[-1] ^ 1])}.get(damage, damage)
    )
    model = CLIP(**SMALL)
    load_weights(model, published / "model.safetensors", cache_in(tmp_path))
    assert torch.equal(model.visual.proj, copied(published).visual.proj)
    assert entry.read_bytes() == whole


@pytest.mark.parametrize("limit", [0, 1000])
def test_without_room_weights_are_copied(limit, published, tmp_path):
    model = CLIP(**SMALL)
    load_weights(model, published / "model.safetensors", TokenCache(tmp_path / "cache", limit))
    assert torch.equal(model.visual.proj, copied(published).visual.proj) and not files(tmp_path)


def test_a_full_disk_leaves_no_half_entry(published, tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(weights, "write_file", full)
    model = CLIP(**SMALL)
    load_weights(model, published / "model.safetensors", cache_in(tmp_path))
    assert torch.equal(model.visual.proj, copied(published).visual.proj) and not files(tmp_path)


def test_errors_are_the_same_with_a_cache(original, tmp_path):
    path = tmp_path / "other.safetensors"
    save_file(altered(original, **{"visual.proj": torch.zeros(48, 16)}), path)
    lines = [refused(load_weights, CLIP(**SMALL), path, cache) for cache in (None, cache_in(tmp_path))]
    assert lines[0] == lines[1] and not files(tmp_path)
    assert "No such file" in refused(load_weights, CLIP(**SMALL), tmp_path / "gone", cache_in(tmp_path))


class Drawn(TorchDispatchMode):
    """Counts numbers that tensors are filled with at random."""

    count = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        if function in (torch.ops.aten.normal_.default, torch.ops.aten.uniform_.default):
            self.count += arguments[0].numel()
        return function(*arguments, **(options or {}))


def test_large_weights_that_come_from_a_file_are_not_drawn_first(published):
    """That would take seconds and memory at the paper's size."""
    settings = {"model": str(published / "clip.json"), "image_size": 32, "levels": (1, 2)}
    counts, state = [], torch.get_rng_state()
    for file in (None, str(published / "model.safetensors")):
        with Drawn() as drawn:
            load_backbone(BackboneSettings(weights=file, **settings))
        counts.append(drawn.count)
    assert counts[0] > 800_000 and counts[1] == 0
    assert torch.equal(torch.get_rng_state(), state)
