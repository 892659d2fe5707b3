import torch

from mvfa_core.augmentation import FOLDS, augment


def test_order_and_number_of_folds():
    images = torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    result = augment(images)
    assert result.shape == (3 * FOLDS, 1, 16, 16)
    assert torch.equal(result[:3], images)
    assert torch.equal(result[9 * 3 : 10 * 3], images.flip(-1))
    assert torch.equal(result[10 * 3 :], images.flip(-2))


def test_each_image_is_augmented_alone():
    images = torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    together = augment(images).reshape(FOLDS, 2, 3, 12, 12)
    for i in range(2):
        assert torch.allclose(together[:, i], augment(images[i : i + 1]), atol=1e-6)


def test_reflection_keeps_a_constant_image_constant():
    assert torch.allclose(augment(torch.full((1, 1, 20, 20), 0.3)), torch.tensor(0.3), atol=1e-5)
