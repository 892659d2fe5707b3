import pytest
import torch

from mvfa_core.scoring import Range, fuse, patch_logits, text_maps, text_scores, upsample

TEXT = torch.tensor([[1.0, 0.0], [0.0, 1.0]])


def test_patch_logits_are_a_hundred_cosines_without_the_prefix():
    tokens = torch.tensor([[[7.0, 7.0], [3.0, 0.0], [1.0, 1.0]]])
    found = patch_logits(tokens, TEXT, prefix=1)
    assert torch.allclose(found, torch.tensor([[[100.0, 0.0], [100 / 2**0.5] * 2]]), atol=1e-4)


def test_text_scores_are_mean_probabilities_summed_over_levels():
    tokens = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]]])
    assert text_scores([tokens, tokens], TEXT, prefix=1) == pytest.approx(2 * (0.0 + 0.5) / 2, abs=1e-6)


def test_maps_are_softmaxed_after_upsampling():
    tokens = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]])
    maps = text_maps([tokens], TEXT, prefix=0, size=3)
    assert maps.shape == (1, 3, 3)
    assert torch.allclose(maps[0], torch.tensor([0.0, 0.5, 1.0]).expand(3, 3), atol=1e-6)


def test_upsampling_keeps_the_corners():
    grid = torch.tensor([1.0, 2.0, 3.0, 4.0]).reshape(1, 4, 1)
    large = upsample(grid, 5)[0, 0]
    assert [large[0, 0], large[0, -1], large[-1, 0], large[-1, -1]] == [1, 2, 3, 4]
    with pytest.raises(ValueError, match="square grid"):
        upsample(torch.zeros(1, 5, 1), 4)


def test_fusion_weighs_the_normalised_branches():
    text, memory = torch.tensor([0.0, 2.0, 4.0]), torch.tensor([1.0, 1.0, 3.0])
    fused = fuse(text, memory, Range.of(text), Range.of(memory))
    assert fused.tolist() == [0.0, 0.25, 1.0]
    assert fuse(text, memory, Range.of(text), Range.of(memory), 1.0).tolist() == [0.0, 0.0, 1.0]


def test_a_constant_branch_says_nothing():
    text, memory = torch.tensor([0.0, 1.0]), torch.tensor([5.0, 5.0])
    assert fuse(text, memory, Range.of(text), Range.of(memory)).tolist() == [0.0, 0.5]
