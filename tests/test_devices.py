"""Devices and precisions, as far as a machine without a graphics card can tell."""

import copy
import os
from pathlib import Path

import pytest
import torch
from conftest import small_params, write_params
from torch.nn import functional as F

from mvfa_core import devices
from mvfa_core.errors import MvfaError
from mvfa_core.experiment import Experiment
from mvfa_core.metrics import auroc
from mvfa_core.training import TrainingPart, batch_losses, fit

CORE = Path(__file__).parent.parent / "mvfa_core"


def opened(project, **changes) -> Experiment:
    write_params(project, small_params() | changes)
    return Experiment.open(project / "params.yaml", say=lambda line: None)


def weights(run) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in run.adapters.parameters()])


def test_no_file_of_the_core_is_bound_to_cuda():
    for path in CORE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert ".cuda(" not in text, path.name
        if path.name != "devices.py":
            assert "torch.cuda" not in text and 'device("cuda")' not in text, path.name


def test_what_a_machine_lacks_is_one_line():
    assert devices.pick_device("auto").type in {"cpu", "mps"} and devices.pick_device("cpu").type == "cpu"
    with pytest.raises(MvfaError, match="no usable 'cuda'; set auto or cpu"):
        devices.pick_device("cuda")


def test_fp16_on_the_cpu_is_refused_in_one_line(project):
    with pytest.raises(MvfaError, match="dtype: fp16 needs device cuda, this is cpu; set bf16 or fp32"):
        opened(project, dtype="fp16")


def test_cuda_is_made_repeatable(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before = torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32
    try:
        assert devices.pick_device("auto").type == "cuda"
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
        assert not torch.backends.cudnn.allow_tf32
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32 = before
        os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)


@pytest.mark.parametrize(("name", "metric"), [("Brain", "masks"), ("Chest", "labels")])
def test_bf16_trains_and_judges_nearly_as_fp32(project, name, metric):
    values = {}
    for dtype in ("fp32", "bf16"):
        experiment = opened(project, dtype=dtype)
        run = experiment.train_few_shot(name, 2)
        test = experiment.test_set(name)
        assert test.tokens.dtype == devices.DTYPES[dtype] and test.tokens.device.type == "cpu"
        assert weights(run).dtype == torch.float32 and weights(run).isfinite().all()
        values[dtype] = {}
        for method, verdict in experiment.verdicts(name, [run], test).items():
            assert verdict.scores.dtype == torch.float32 and verdict.scores.isfinite().all()
            values[dtype][method] = auroc(test.batch.labels.numpy(), verdict.scores.numpy())
    # 8 + 8 test images: one pair that changes its order moves the AUROC by 1 / 64
    for method, value in values["fp32"].items():
        assert abs(values["bf16"][method] - value) <= 4 / 64, method


def test_bf16_zero_shot_gives_finite_weights(project):
    run = opened(project, dtype="bf16").train_zero_shot("Brain", "paper")
    assert weights(run).isfinite().all() and run.log["total"].notna().all()


def test_losses_are_computed_in_full_precision(project, monkeypatch):
    """CUDA refuses a plain BCE under autocast, and bf16 keeps three digits of 100 x cosine."""
    experiment = opened(project, dtype="bf16")
    original = F.binary_cross_entropy

    def strict(score, *arguments, **options):
        assert score.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        return original(score, *arguments, **options)

    monkeypatch.setattr(F, "binary_cross_entropy", strict)
    support = experiment.support("Brain", 2, 0)
    part = TrainingPart(
        "Brain", *experiment.support_tokens("Brain", support.chosen), experiment.text("Brain")
    )
    found = batch_losses(
        experiment.backbone,
        experiment.fresh_adapters(),
        part,
        torch.arange(4),
        autocast=experiment.autocast,
    )
    assert found.dtype == torch.float32 and found.shape == (3, 4)


def test_images_may_stay_bytes(project):
    experiment = opened(project)
    batch = experiment.load("Brain", experiment.dataset("Brain").records("test"))
    assert torch.equal(experiment.tokens(batch.images), experiment.tokens(batch.scaled()))


def test_scaled_gradients_teach_the_same(project):
    """The scale is a power of two, so only what it saves from underflow may differ."""
    experiment = opened(project)
    support = experiment.support("Brain", 2, 0)
    part = TrainingPart(
        "Brain", *experiment.support_tokens("Brain", support.chosen), experiment.text("Brain")
    )
    fresh, found = experiment.fresh_adapters(), []
    for scaler in (None, torch.amp.GradScaler("cpu", enabled=True)):
        adapters = copy.deepcopy(fresh)
        options = {"epochs": 1, "learning_rate": 1e-3, "batch_size": 8, "seed": 1}
        list(fit(experiment.backbone, adapters, [part], scaler=scaler, **options))
        found.append(torch.cat([p.detach().flatten() for p in adapters.parameters()]))
    assert torch.allclose(*found, atol=1e-6)
    scalers = {dtype: devices.gradient_scaler(dtype, torch.device("cpu")) for dtype in devices.DTYPES}
    assert {dtype for dtype, scaler in scalers.items() if scaler.is_enabled()} == {"fp16"}
