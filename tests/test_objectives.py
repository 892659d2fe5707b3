import math

import pytest
import torch

from mvfa_core.objectives import detection_loss, dice_loss, focal_loss

TEXT = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
SURE = torch.tensor([[[0.0, 1.0], [0.0, 1.0]]])
UNSURE = torch.tensor([[[1.0, 1.0], [1.0, 1.0]]])


def test_detection_loss_by_hand():
    label = torch.tensor([1.0])
    assert detection_loss([UNSURE], TEXT, label, 0).item() == pytest.approx(math.log(2))
    assert detection_loss([SURE, UNSURE], TEXT, label, 0).item() == pytest.approx(math.log(2), abs=1e-6)


def test_the_published_quirk_reads_a_probability_as_a_logit():
    found = detection_loss([SURE], TEXT, torch.tensor([1.0]), 0, logits_quirk=True).item()
    assert found == pytest.approx(math.log(1 + math.exp(-1)))


def test_focal_loss_is_small_where_the_map_is_right_and_known_where_it_is_unsure():
    masks = torch.tensor([[[0.0, 1.0]]])
    right = torch.stack([1 - masks, masks], dim=1)
    assert focal_loss(right, masks).item() < 1e-8
    half = torch.full((1, 2, 1, 2), 0.5)
    p = 0.5 + 1e-5
    assert focal_loss(half, masks).item() == pytest.approx(-((1 - p) ** 2) * math.log(p), rel=1e-5)


def test_dice_loss_by_hand():
    masks = torch.tensor([[[1.0, 1.0, 0.0, 0.0]]])
    assert dice_loss(masks, masks).item() == 0
    half = torch.full((1, 1, 4), 0.5)
    assert dice_loss(half, masks).item() == pytest.approx(1 - (2 * 1 + 1) / (2 + 2 + 1))
    assert dice_loss(torch.zeros(1, 1, 4), torch.zeros(1, 1, 4)).item() == 0


def test_losses_are_per_image():
    masks = torch.rand(5, 4, 4, generator=torch.Generator().manual_seed(0)).round()
    maps = torch.rand(5, 2, 4, 4, generator=torch.Generator().manual_seed(1)).softmax(dim=1)
    for loss, found in ((focal_loss, maps), (dice_loss, maps[:, 1])):
        together = loss(found, masks)
        alone = torch.cat([loss(found[i : i + 1], masks[i : i + 1]) for i in range(5)])
        assert together.shape == (5,) and torch.allclose(together, alone)
