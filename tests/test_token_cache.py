"""The cache of prefix tokens: never stale, never in the way, never the reason for another result."""

import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import small_params, write_params
from PIL import Image
from safetensors.torch import load_file, save_file

from mvfa_core import token_cache
from mvfa_core.baselines import baseline_verdicts
from mvfa_core.experiment import Experiment
from mvfa_core.token_cache import CachedTokens, PrefixTokens, TokenCache, digest

FOLDER = ".mvfa-cache"


def opened(project: Path, cache: dict | None = None, **changes) -> Experiment:
    write_params(project, small_params() | {"cache": cache or {}} | changes)
    return Experiment.open(project / "params.yaml", say=lambda line: None)


def counted(experiment: Experiment, monkeypatch) -> list[int]:
    """Numbers of images that go through the prefix from now on."""
    seen, prefix = [], experiment._prefix
    monkeypatch.setattr(experiment, "_prefix", lambda images: seen.append(len(images)) or prefix(images))
    return seen


def images(experiment: Experiment, name: str = "Brain") -> torch.Tensor:
    return experiment.load(name, experiment.dataset(name).records("test")).images


def entries(project: Path) -> list[Path]:
    """All but the backbone's weights, which are a safetensors file."""
    files = [path for path in (project / FOLDER).glob("??/*") if path.is_file()]
    return sorted(path for path in files if path.read_bytes()[8:24] != b'{"__metadata__":')


def weights(run) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in run.adapters.parameters()])


@pytest.mark.parametrize("protocol", ["sound", "paper"])
def test_the_same_bytes_without_with_and_out_of_the_cache(project, protocol):
    found = []
    for cache in ({"folder": None}, {}, {}, {"memory_gb": 0}, {"disk_gb": 1e-5}):
        experiment = opened(project, cache)
        run = experiment.train_few_shot("Brain", 2, protocol)
        verdict = experiment.verdict("Brain", run, experiment.test_set("Brain"))
        found.append((weights(run), verdict.scores, verdict.maps, run.ranges))
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0][:3], other[:3], strict=True))
        assert other[3] == found[0][3]


def test_an_image_goes_through_the_prefix_once_for_all_processes(project, monkeypatch):
    first, second = opened(project), opened(project)
    seen = counted(first, monkeypatch)
    tokens = first.tokens(images(first))
    assert seen == [1] * 16 and len(entries(project)) == 16
    again = counted(second, monkeypatch)
    assert torch.equal(second.tokens(images(second)), tokens) and again == []
    assert torch.equal(second.tokens(images(second)[[3, 1]]), tokens[[3, 1]]) and again == []


def test_a_large_set_is_read_batch_by_batch(project):
    whole = opened(project).tokens(images(opened(project)))
    experiment = opened(project, {"memory_gb": 1e-6})
    found = experiment.tokens(images(experiment))
    assert isinstance(found, CachedTokens) and len(found) == len(whole) and found.dtype == whole.dtype
    chosen = torch.arange(16) % 3 == 0
    for rows in (slice(2, 5), [4, 1], torch.tensor([7, 0, 7]), chosen, 3):
        assert torch.equal(found[rows], whole[rows])
    assert [len(part) for part in found.split(5)] == [5, 5, 5, 1]
    assert torch.equal(torch.cat(list(found.split(5))), whole)


def test_a_changed_image_is_computed_again(project, monkeypatch):
    before = opened(project).tokens(images(opened(project)))
    path = project / "data" / "Brain_AD" / "test" / "good" / "img" / "003.png"
    Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    experiment = opened(project)
    seen = counted(experiment, monkeypatch)
    after = experiment.tokens(images(experiment))
    assert seen == [1] and not torch.equal(after[3], before[3])
    assert torch.equal(after[:3], before[:3]) and torch.equal(after[4:], before[4:])


def test_changed_weights_are_another_backbone(project, monkeypatch):
    before = opened(project).tokens(images(opened(project)))
    file = project / "clip.safetensors"
    stored = load_file(file)
    stored["visual.transformer.resblocks.0.mlp.c_fc.weight"][0, 0] += 0.5
    save_file(stored, file)
    experiment = opened(project)
    seen = counted(experiment, monkeypatch)
    assert not torch.equal(experiment.tokens(images(experiment)), before) and len(seen) == 16
    # and in the middle of a run, where no file changes
    after = experiment.tokens(images(experiment))
    with torch.no_grad():
        experiment.backbone.model.visual.ln_pre.weight[0] += 1
    assert not torch.equal(experiment.tokens(images(experiment)), after) and len(seen) == 32


@pytest.mark.parametrize(
    "changes",
    [
        {"dtype": "bf16"},
        {"backbone": small_params()["backbone"] | {"levels": [2, 3, 4]}},
        {"backbone": small_params()["backbone"] | {"normalise": True}},
        {"backbone": small_params()["backbone"] | {"activation": "quickgelu"}},
        {"backbone": small_params()["backbone"] | {"image_size": 40}},
    ],
)
def test_whatever_decides_about_tokens_is_part_of_the_key(project, monkeypatch, changes):
    experiment = opened(project)
    experiment.tokens(images(experiment))
    other = opened(project, **changes)
    seen = counted(other, monkeypatch)
    found = other.tokens(images(other))
    assert len(seen) == 16
    assert torch.equal(found, opened(project, {"folder": None}, **changes).tokens(images(other)))


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "zeros"])
def test_damaged_entries_are_computed_again(project, damage):
    experiment = opened(project)
    whole = experiment.tokens(images(experiment))
    for path in entries(project):
        content = bytearray(path.read_bytes())
        if damage == "flipped":
            content[-1] ^= 1
        path.write_bytes(
            {"cut": content[:-7], "flipped": content, "empty": b"", "zeros": bytes(len(content))}[damage]
        )
    assert torch.equal(opened(project).tokens(images(experiment)), whole)
    assert torch.equal(opened(project).tokens(images(experiment)), whole)


def test_a_run_killed_half_way_leaves_nothing_harmful(project, monkeypatch):
    experiment = opened(project)
    expected = opened(project, {"folder": None}).tokens(images(experiment))
    experiment.backbone.rest()  # its weights have their entry by now

    def killed(path: Path, target: Path):
        # as after a kill, which leaves nobody to clear up
        os.link(path, path.with_name(f"left-{path.name}"))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "replace", killed)
        experiment.tokens(images(experiment))
    left = entries(project)
    assert [path.suffix for path in left] == [".part"]
    assert torch.equal(opened(project).tokens(images(experiment)), expected)
    # an hour later nobody can be at work on it any more
    old = time.time() - 2 * token_cache.ABANDONED
    os.utime(left[0], (old, old))
    TokenCache(project / FOLDER, 10**9).put("ab" * 32, torch.zeros(2))
    assert not left[0].exists()


def test_a_folder_that_cannot_be_written_to_stops_nothing(project):
    (project / FOLDER).write_text("a file where the folder should be")
    experiment = opened(project)
    assert len(experiment.tokens(images(experiment))) == 16


def test_the_limit_holds_and_the_oldest_entries_go_first(tmp_path):
    value = torch.zeros(1000)
    first = TokenCache(tmp_path, 10**9)
    for i in range(8):
        first.put(digest(str(i)), value + i)
        os.utime(first._path(digest(str(i))), (i, i))
    size = sum(path.stat().st_size for path in tmp_path.glob("??/*"))
    later = TokenCache(tmp_path, size)
    assert later.get(digest("0"))[0] == 0  # asked for: the youngest now
    later.put(digest("new"), value)
    kept = {str(i) for i in range(8) if later._path(digest(str(i))).exists()}
    assert "0" in kept and "1" not in kept and later.get(digest("new")) is not None
    assert sum(path.stat().st_size for path in tmp_path.glob("??/*")) <= size


def test_a_set_larger_than_the_limit_keeps_what_it_has(tmp_path):
    """Throwing away its own oldest entries, a run would find none of them in the next round."""
    cache = TokenCache(tmp_path, 20_000)
    for i in range(10):
        cache.put(digest(str(i)), torch.zeros(1000) + i)
    assert [i for i in range(10) if cache.get(digest(str(i))) is not None] == [0, 1, 2, 3]


def test_every_batch_of_the_prefix_has_the_same_shape(tmp_path):
    """Elsewhere than on the CPU images go in many at once, and a full batch must not differ from a rest."""
    shapes = []

    def prefix(images: torch.Tensor) -> torch.Tensor:
        shapes.append(tuple(images.shape))
        return images.flatten(2)

    found = torch.randint(0, 256, (7, 3, 2, 2), dtype=torch.uint8)
    tokens = PrefixTokens(TokenCache(None, 0), 0, "here", prefix, at_once=4)(found)
    assert shapes == [(4, 3, 2, 2)] * 2 and torch.equal(tokens, (found / 255).flatten(2))


def test_text_features_are_kept_by_sentences_and_weights(project, monkeypatch):
    expected = opened(project).text("Brain")
    experiment = opened(project)
    monkeypatch.setattr(experiment.backbone, "encode_text", lambda sentences: pytest.fail("encoded again"))
    assert torch.equal(experiment.text("Brain"), expected)
    other = opened(project)
    with torch.no_grad():
        other.backbone.model.text_projection[0, 0] += 1
    assert not torch.equal(other.text("Brain"), expected)


def test_baselines_take_tokens_that_memory_does_not_hold(project):
    found = []
    for cache in ({}, {"memory_gb": 0}):
        experiment = opened(project, cache)
        test = experiment.test_set("Brain")
        found.append(dict(baseline_verdicts(experiment, "Brain", test, shots=[2], draws=[0])))
    assert isinstance(test.tokens, CachedTokens)
    assert list(found[0]) == list(found[1])
    for method, verdict in found[0].items():
        assert torch.equal(verdict.scores, found[1][method].scores)
