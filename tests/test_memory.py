import pytest
import torch

from mvfa_core.memory import MemoryBank, memory_maps


def test_distances_are_one_minus_the_largest_cosine():
    bank = MemoryBank([torch.tensor([[[2.0, 0.0], [0.0, 3.0]]])])
    query = torch.tensor([[[9.0, 9.0], [5.0, 0.0], [1.0, 1.0], [-1.0, 0.0]]])
    found = bank.distances([query], prefix=1)[0]
    assert torch.allclose(found, torch.tensor([[0.0, 1 - 2**-0.5, 1.0]]), atol=1e-6)


def test_the_block_size_changes_nothing():
    generator = torch.Generator().manual_seed(0)
    bank = MemoryBank([torch.randn(5, 10, 8, generator=generator)])
    query = [torch.randn(3, 10, 8, generator=generator)]
    whole = bank.distances(query, prefix=1)[0]
    for block in (1, 7, 50):
        assert torch.allclose(bank.distances(query, prefix=1, block=block)[0], whole, atol=1e-6)


def test_without_leaves_out_whole_images():
    tokens = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(1))
    bank = MemoryBank([tokens])
    assert len(bank) == 3 and len(bank.without([1])) == 2
    own = bank.distances([tokens[1:2]], prefix=0)[0]
    assert own.abs().max() < 1e-6
    assert bank.without([1]).distances([tokens[1:2]], prefix=0)[0].min() > 1e-3


def test_maps_sum_over_levels():
    tokens = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(2))
    bank = MemoryBank([tokens[:1], tokens[:1]])
    one = memory_maps(MemoryBank([tokens[:1]]), [tokens], prefix=1, size=6)
    assert one.shape == (2, 6, 6)
    assert torch.allclose(memory_maps(bank, [tokens, tokens], prefix=1, size=6), 2 * one)


def test_levels_must_match_the_bank():
    bank = MemoryBank([torch.randn(1, 5, 4)])
    with pytest.raises(ValueError):
        bank.distances([torch.randn(1, 5, 4)] * 2, prefix=1)
