import pytest
import torch
from families import load_family
from safetensors.torch import save_file

from mvfa_core import mapped
from mvfa_core.adapters import Adapters
from mvfa_core.token_cache import TokenCache
from mvfa_core.training import TrainingPart, batches


def part(name: str, count: int) -> TrainingPart:
    return TrainingPart(name, torch.zeros(count, 1, 1), torch.zeros(count), None, torch.zeros(1, 2))


def test_an_epoch_shows_every_image_once_in_batches_of_one_data_set():
    parts = [part("a", 7), part("b", 4)]
    found = batches(parts, 3, torch.Generator().manual_seed(0))
    seen = {name: sorted(int(r) for p, rows in found if p.name == name for r in rows) for name in "ab"}
    assert seen == {"a": list(range(7)), "b": list(range(4))}
    assert sorted(len(rows) for _, rows in found) == [1, 1, 3, 3, 3]


def test_the_order_comes_from_the_generator_alone():
    def order(seed):
        return [
            (p.name, rows.tolist())
            for p, rows in batches([part("a", 9)], 2, torch.Generator().manual_seed(seed))
        ]

    assert order(1) == order(1) != order(2)


@pytest.mark.parametrize(
    ("levels", "forwards", "backwards"),
    [
        ((1, 2, 3, 4), [(1, 2)], [(1, 2), (3, 4)]),
        ((1, 2, 4), [(1, 2)], [(1, 2), (2, 4)]),
        ((2, 4), [], [(2, 4)]),
        ((4,), [], []),
    ],
)
def test_weights_rest_when_a_step_has_no_use_for_them(tmp_path, monkeypatch, levels, forwards, backwards):
    backbone, seen = load_family(tmp_path, "openai-vit"), []
    monkeypatch.setattr(backbone, "rest_blocks", lambda *stretch: seen.append(stretch))
    adapters = Adapters.for_backbone(backbone, levels, seed=0)
    tokens = torch.randn(2, 17, 48, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        adapters(backbone, tokens)
    assert seen == []
    found = adapters(backbone, tokens, to_the_end=False)
    assert seen == forwards
    torch.stack(found.seg + found.det).square().sum().backward()
    assert seen == backwards


@pytest.mark.parametrize("name", ["openai-vit", "siglip"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_through_mapped_weights_are_those_through_copied_ones(tmp_path, monkeypatch, name, dtype):
    """Over two steps: what was given back in the first is read again in the second."""
    monkeypatch.setattr(mapped, "WORTH", 0)
    path = tmp_path / "weights.safetensors"
    save_file(load_family(tmp_path, name).model.state_dict(), path)
    found = []
    for cache in (None, TokenCache(tmp_path / "cache", 10**9)):
        backbone = load_family(tmp_path, name, weights=str(path), cache=cache)
        adapters = Adapters.for_backbone(backbone, (1, 2, 3, 4), seed=0)
        images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
        for _ in range(2):
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype != torch.float32):
                with torch.no_grad():
                    tokens = backbone.run(backbone.embed(images), 0, 1)
                backbone.rest()
                levels = adapters(backbone, tokens, to_the_end=False)
            torch.stack(levels.seg + levels.det).float().square().sum().backward()
        found.append([p.grad for p in adapters.parameters() if p.grad is not None])
    assert len(found[0]) == 14 and any(gradient.abs().sum() > 0 for gradient in found[0])
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))
