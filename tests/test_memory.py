import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

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


PRODUCTS = [torch.ops.aten.mm, torch.ops.aten.bmm, torch.ops.aten.addmm]
if hasattr(torch.ops.mkldnn, "_linear_pointwise"):
    PRODUCTS.append(torch.ops.mkldnn._linear_pointwise)


class Products(TorchDispatchMode):
    """Notes the size of every product of matrices."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        found = function(*arguments, **(options or {}))
        if function.overloadpacket in PRODUCTS:
            self.sizes.append(found.nelement())
        return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("shots", "images"), [(1, 1), (16, 3), (2, 40)])
def test_the_search_holds_a_bounded_piece_of_the_cosines(shots, images, dtype):
    """However many shots and test images: all cosines of 16 shots and 20,000 images would be 10^12 bytes."""
    bank = MemoryBank([torch.randn(shots * 11, 50, 4)])
    with Products() as products:
        found = bank.distances([torch.randn(images, 50, 4).to(dtype)], prefix=1, queries=64, block=128)[0]
    assert found.shape == (images, 49)
    assert max(products.sizes) <= 64 * 128 and sum(products.sizes) == images * 49 * shots * 11 * 50


def test_half_precision_finds_a_token_about_as_near_and_its_exact_distance():
    """Bank tokens lie close together, as real ones do: rounding whole cosines would choose among dozens of them."""
    generator = torch.Generator().manual_seed(3)
    common = 5 * torch.randn(32, generator=generator)
    bank = MemoryBank([common + torch.randn(20, 10, 32, generator=generator)])
    query = (common + torch.randn(3, 10, 32, generator=generator)).bfloat16()
    exact = bank.distances([query.float()], prefix=1)[0]
    for block in (7, 64, 1024):
        found = bank.distances([query], prefix=1, block=block)[0]
        assert found.dtype == torch.float32
        assert (found - exact).min() > -1e-6, "nearer than the nearest"
        assert ((found - exact) / exact).mean() < 2e-3
    unit = torch.nn.functional.normalize(query[:, 1:].float(), dim=-1).flatten(0, 1)
    every = 1 - unit @ bank.levels[0].flatten(0, 1).T
    assert (every - found.flatten()[:, None]).abs().amin(dim=1).max() < 1e-6, "the distance to no bank token"
