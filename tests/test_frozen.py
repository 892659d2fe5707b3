"""The CPU's own way through frozen blocks against `open_clip`'s blocks."""

import copy
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from open_clip.model import CLIP
from parity import fill_by_name
from torch import nn

from mvfa_core import frozen
from mvfa_core.backbones import OpenClipVit
from mvfa_core.frozen import FrozenBlock, FrozenLinear

SMALL = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 24, "layers": 2, "width": 128, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


def small(quick_gelu: bool = False, **vision) -> OpenClipVit:
    model = CLIP(**(SMALL | {"vision_cfg": SMALL["vision_cfg"] | vision}), quick_gelu=quick_gelu)
    fill_by_name(model, salt=3, scale=0.4)
    return OpenClipVit(model, tokenizer=None)


@pytest.fixture(scope="module")
def backbone() -> OpenClipVit:
    return small()


def tokens() -> torch.Tensor:
    return torch.randn(3, 10, 128, generator=torch.Generator().manual_seed(0)).requires_grad_()


def both(backbone, half: bool):
    """Output and input gradient of the blocks as `open_clip` runs them and as `run` does."""
    for own in (False, True):
        x = tokens()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            if own:
                y = backbone.run(x, 0, 2)
            else:
                y = x
                for block in backbone.model.visual.transformer.resblocks:
                    y = block(y)
        y.sin().sum().backward()
        yield y.detach(), x.grad


@pytest.mark.parametrize("options", [{}, {"ls_init_value": 0.3}])
@pytest.mark.parametrize(("half", "tolerance"), [(False, 1e-5), (True, 2e-2)])
def test_a_frozen_block_computes_what_the_block_computes(options, half, tolerance):
    theirs, ours = both(small(**options), half)
    for expected, found in zip(theirs, ours, strict=True):
        assert found.dtype == torch.float32
        assert (found - expected).abs().max() <= tolerance * expected.abs().max()
    assert not torch.equal(theirs[0], torch.zeros_like(theirs[0]))


@pytest.mark.parametrize("options", [{}, {"ls_init_value": 0.3}, {"quick_gelu": True}])
@pytest.mark.parametrize(("half", "tolerance"), [(False, 1e-5), (True, 2e-2)])
def test_without_a_gradient_it_computes_the_same_and_spares_its_input(options, half, tolerance):
    backbone, x = small(**options), tokens().detach()
    given = x.clone()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=half):
        expected = x
        for block in backbone.model.visual.transformer.resblocks:
            expected = block(expected)
        found = backbone.run(x, 0, 2)
    assert found.dtype == torch.float32 and torch.equal(x, given)
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()
    assert backbone._fast[0].plain_gelu == ("quick_gelu" not in options)


def test_in_single_precision_a_gradient_changes_no_bit(backbone):
    found = backbone.run(tokens(), 0, 2)
    with torch.no_grad():
        assert torch.equal(backbone.run(tokens(), 0, 2), found)


def test_without_the_operation_in_one_the_two_are_taken(backbone, monkeypatch):
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = backbone.run(tokens(), 0, 2)
        monkeypatch.setattr(frozen, "_LINEAR_GELU", {})
        assert backbone._fast[0].up.with_gelu(torch.zeros(1, 128, dtype=torch.bfloat16)) is None
        found = backbone.run(tokens(), 0, 2)
    assert (found - expected).abs().max() <= 2e-2 * expected.abs().max()


def test_long_sequences_go_to_the_fused_attention(backbone, monkeypatch):
    monkeypatch.setattr(frozen, "MOST_TOKENS", 4)
    theirs, ours = both(backbone, half=True)
    assert (ours[0] - theirs[0]).abs().max() <= 2e-2 * theirs[0].abs().max()


def test_without_onednn_the_results_are_the_same(backbone, monkeypatch):
    with torch.no_grad():
        expected = backbone.run(tokens(), 0, 2)
        monkeypatch.setattr(frozen, "_LINEAR", {})
        found = backbone.run(tokens(), 0, 2)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_changed_weights_are_noticed(backbone):
    changed = copy.deepcopy(backbone)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        before = changed.run(tokens(), 0, 1)
        for parameter in changed.parameters():
            parameter.mul_(1.5)
        after = changed.run(tokens(), 0, 1)
        assert not torch.allclose(before, after)
        assert torch.equal(backbone.run(tokens(), 0, 1), before)


def test_at_rest_no_copies_are_held_and_nothing_changes():
    backbone = small()
    layer = backbone._fast[1].up
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = backbone.run(tokens(), 0, 2)
        assert layer._copies.weight.dtype == torch.bfloat16
        backbone.rest()
        assert layer._copies is None
        assert torch.equal(backbone.run(tokens(), 0, 2), expected)


def test_a_block_that_learns_is_left_to_autograd():
    backbone = small()
    weight = backbone.model.visual.transformer.resblocks[1].mlp.c_fc.weight.requires_grad_(True)
    fast = backbone._fast
    assert fast[0].ready(tokens()) and not fast[1].ready(tokens())
    backbone.run(tokens(), 0, 2).sum().backward()
    assert weight.grad is not None and weight.grad.abs().sum() > 0


def test_blocks_built_otherwise_stay_with_open_clip():
    block = small().model.visual.transformer.resblocks[0]
    assert FrozenBlock.serves(block)
    assert not FrozenBlock.serves(nn.Linear(2, 2))
    block.mlp.add_module("extra", nn.Identity())
    assert not FrozenBlock.serves(block)


def test_threads_of_different_precision_do_not_disturb_each_other():
    weight, bias = torch.eye(4), torch.zeros(4)
    layers = [FrozenLinear(weight, bias) for _ in range(300)]
    meet = threading.Barrier(4)

    def ask(dtype):
        x = torch.ones(1, 4, dtype=dtype)
        meet.wait(timeout=60)
        return all(torch.equal(layer(x), x) for layer in layers for _ in range(3))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(ask, 2 * [torch.float32, torch.bfloat16]))
    finally:
        sys.setswitchinterval(interval)


def test_the_half_precision_backward_is_that_of_a_linear_layer():
    generator = torch.Generator().manual_seed(1)
    weight, bias = torch.randn(6, 4, generator=generator), torch.randn(6, generator=generator)
    layer = FrozenLinear(weight, bias)
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.bfloat16, 2e-2)):
        x = torch.randn(2, 3, 4, generator=generator).to(dtype).requires_grad_()
        y = layer(x)
        y.float().square().sum().backward()
        expected = 2 * (x.detach().float() @ weight.T + bias) @ weight
        assert y.dtype == dtype
        assert (x.grad.float() - expected).abs().max() <= tolerance * expected.abs().max()
