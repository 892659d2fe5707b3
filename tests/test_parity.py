"""The project's own code against golden values of the published implementation: is it the same method?"""

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from open_clip.model import CLIP
from parity import fill_by_name

from mvfa_core.adapters import Adapters
from mvfa_core.augmentation import augment
from mvfa_core.backbones import OpenClipVit
from mvfa_core.judging import Branches, FusionRanges, few_shot_verdict
from mvfa_core.memory import MemoryBank, memory_maps
from mvfa_core.metrics import auroc
from mvfa_core.prompts import text_features
from mvfa_core.scoring import Range, fuse, text_maps, text_scores
from mvfa_core.training import TrainingPart, batch_losses, fit

GOLDEN = dict(np.load(Path(__file__).parent / "golden.npz"))
CONFIG = json.loads(str(GOLDEN["config"]))
LEVELS = len(CONFIG["features"])


def deviation(found, golden) -> float:
    """Largest absolute difference relative to the largest golden value."""
    found = found.detach().numpy() if isinstance(found, torch.Tensor) else np.asarray(found)
    assert found.shape == golden.shape
    return float(np.abs(found - golden).max() / np.abs(golden).max())


@pytest.fixture(scope="module")
def backbone():
    model = CLIP(CONFIG["embed_dim"], CONFIG["vision_cfg"], CONFIG["text_cfg"])
    assert [name for name, _ in model.named_parameters()] == list(GOLDEN["clip_parameter_names"])
    fill_by_name(model, CONFIG["salt"])
    return OpenClipVit(model, open_clip.SimpleTokenizer(context_length=CONFIG["text_cfg"]["context_length"]))


@pytest.fixture(scope="module")
def text(backbone):
    return text_features(backbone, CONFIG["organ"])


@pytest.fixture(scope="module")
def tokens(backbone):
    return backbone.run(backbone.embed(images()), 0, CONFIG["features"][0])


def images() -> torch.Tensor:
    return torch.from_numpy(GOLDEN["images"])


def initial_adapters(backbone) -> Adapters:
    adapters = Adapters.for_backbone(backbone, CONFIG["features"], seed=0)
    fill_by_name(adapters, CONFIG["salt"], scale=4)
    return adapters


def trained_adapters(backbone) -> Adapters:
    adapters = initial_adapters(backbone)
    adapters.load_state_dict(
        {name: torch.from_numpy(GOLDEN[f"after8/{name}"]) for name, _ in adapters.named_parameters()}
    )
    return adapters


def test_text_features(text):
    assert deviation(text, GOLDEN["text_features"]) <= 1e-5


@torch.no_grad()
def test_tokens_and_pooled_output(backbone, tokens):
    levels = initial_adapters(backbone)(backbone, tokens[:2])
    assert deviation(backbone.pool(levels.last), GOLDEN["pooled"]) <= 1e-5
    for i in range(LEVELS):
        assert deviation(levels.seg[i], GOLDEN[f"seg_tokens_{i}"]) <= 1e-5
        assert deviation(levels.det[i], GOLDEN[f"det_tokens_{i}"]) <= 1e-5


def test_augmentation():
    assert deviation(augment(images()[1:2]), GOLDEN["augment_image"]) <= 1e-5
    masks = torch.from_numpy(GOLDEN["masks"]).float()
    assert deviation(augment(masks[1:2]), GOLDEN["augment_mask"]) <= 1e-5


def training_part(tokens, text, rows) -> TrainingPart:
    return TrainingPart(
        "golden",
        tokens[rows],
        torch.from_numpy(GOLDEN["labels"])[rows],
        torch.from_numpy(GOLDEN["masks"])[rows, 0],
        text,
    )


def test_losses_gradients_and_weights_after_eight_steps(backbone, tokens, text):
    adapters = initial_adapters(backbone)
    # one image an "epoch" of its own keeps the golden order of steps; the optimisers live across epochs
    part = training_part(tokens, text, slice(0, 8))
    optimisers = {
        branch: torch.optim.Adam(adapters.branch_parameters(branch), lr=1e-3, betas=(0.5, 0.999))
        for branch in ("seg", "det")
    }
    for step in range(8):
        losses = batch_losses(backbone, adapters, part, torch.tensor([step]), True)[:, 0]
        found = [*losses.detach().tolist(), float(losses.detach().sum())]
        assert deviation(found, GOLDEN["losses"][step]) <= 1e-5
        adapters.zero_grad()
        losses.sum().backward()
        if step == 0:
            for name, parameter in adapters.named_parameters():
                golden = GOLDEN[f"grad0/{name}"]
                if parameter.grad is None:
                    assert not golden.any(), name
                else:
                    assert deviation(parameter.grad, golden) <= 1e-5, name
        for optimiser in optimisers.values():
            optimiser.step()
    for name, parameter in adapters.named_parameters():
        assert deviation(parameter, GOLDEN[f"after8/{name}"]) <= 1e-4, name


def test_the_training_loop_takes_the_same_steps(backbone, tokens, text):
    """`fit` over eight one-image epochs, fed one image each, must end where the golden steps end."""
    adapters = initial_adapters(backbone)

    class OneAfterAnother(list):
        """A list of parts that shows one image a pass, in order."""

        def __init__(self):
            super().__init__(training_part(tokens, text, slice(i, i + 1)) for i in range(8))
            self.passes = 0

        def __iter__(self):
            part = self[self.passes % 8]
            self.passes += 1
            return iter([part])

    logs = list(
        fit(
            backbone,
            adapters,
            OneAfterAnother(),
            epochs=8,
            learning_rate=1e-3,
            batch_size=1,
            seed=0,
            logits_quirk=True,
        )
    )
    assert [log.epoch for log in logs] == list(range(1, 9))
    assert deviation([log.total for log in logs], GOLDEN["losses"][:, 3]) <= 1e-5
    for name, parameter in adapters.named_parameters():
        assert deviation(parameter, GOLDEN[f"after8/{name}"]) <= 1e-4, name


@pytest.fixture(scope="module")
def branches(backbone, tokens, text) -> dict[str, Branches]:
    """Both adapter branches on images 8..23, with the memory of the augmented normal images 0 and 2."""
    size = CONFIG["vision_cfg"]["image_size"]
    with torch.no_grad():
        adapters = trained_adapters(backbone)
        levels = adapters(backbone, tokens[8:])
        normal = augment(images()[[0, 2]])
        memory = adapters(backbone, backbone.run(backbone.embed(normal), 0, CONFIG["features"][0]))
        return {
            branch: Branches(
                text_maps(getattr(levels, branch), text, 1, size),
                text_scores(getattr(levels, branch), text, 1),
                maps := memory_maps(MemoryBank(getattr(memory, branch)), getattr(levels, branch), 1, size),
                maps.mean(dim=(1, 2)),
            )
            for branch in ("seg", "det")
        }


def test_maps_and_scores(branches):
    assert deviation(branches["seg"].text_maps, GOLDEN["zero_maps"]) <= 1e-4
    assert deviation(branches["seg"].memory_maps, GOLDEN["few_maps"]) <= 1e-4
    assert deviation(branches["det"].text_scores, GOLDEN["zero_det"]) <= 1e-4
    assert deviation(branches["det"].memory_scores, GOLDEN["few_det"]) <= 1e-4


def test_the_five_areas_under_the_curve(branches):
    labels, masks = GOLDEN["labels"][8:], GOLDEN["masks"][8:].ravel()
    seg, det = branches["seg"], branches["det"]
    fused = few_shot_verdict(seg, FusionRanges.of(seg), True, 0.5)
    scores = fuse(det.text_scores, det.memory_scores, Range.of(det.text_scores), Range.of(det.memory_scores))
    found = {
        "pixel_auc": auroc(masks, fused.maps.numpy().ravel()),
        "image_auc_seg": auroc(labels, fused.scores.numpy()),
        "image_auc_det": auroc(labels, scores.numpy()),
        "zero_pixel_auc": auroc(masks, seg.text_maps.numpy().ravel()),
        "zero_image_auc": auroc(labels, det.text_scores.numpy()),
    }
    assert found == {name: pytest.approx(float(GOLDEN[name]), abs=1e-6) for name in found}


def test_batch_of_eight_equals_eight_batches_of_one(backbone, tokens, text):
    adapters = trained_adapters(backbone)
    part = training_part(tokens, text, slice(0, 8))
    together = batch_losses(backbone, adapters, part, torch.arange(8), True)
    alone = torch.cat(
        [batch_losses(backbone, adapters, part, torch.tensor([i]), True) for i in range(8)], dim=1
    )
    assert deviation(together, alone.detach().numpy()) <= 1e-5

    together.sum(dim=0).mean().backward()
    gradients = {name: p.grad.clone() for name, p in adapters.named_parameters() if p.grad is not None}
    adapters.zero_grad()
    for i in range(8):
        (batch_losses(backbone, adapters, part, torch.tensor([i]), True).sum() / 8).backward()
    for name, parameter in adapters.named_parameters():
        if parameter.grad is not None:
            assert deviation(parameter.grad, gradients[name].numpy()) <= 1e-4, name
