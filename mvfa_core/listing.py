"""What has been trained: runs on disk with the figures their evaluation left."""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import safe_open

from mvfa_core.errors import MvfaError
from mvfa_core.methods import group_of, method_name
from mvfa_core.reference import DEFAULT_RATE, DEFAULT_RULE

if TYPE_CHECKING:
    from mvfa_core.detector import Detector


@dataclass(frozen=True)
class Listed:
    """A run: where it is, its data set, method and kept epoch, and figures of its method on the test split."""

    path: Path
    dataset: str
    method: str
    epoch: int
    figures: dict[str, float]

    def figure(self, metric: str) -> str:
        """`0.912 [0.881, 0.938]`, or `-` where it was not evaluated."""
        if metric not in self.figures:
            return "-"
        low, high = (self.figures.get(f"{metric}_{end}") for end in ("low", "high"))
        interval = "" if low is None or high is None else f" [{low:.3f}, {high:.3f}]"
        return f"{self.figures[metric]:.3f}{interval}"


def list_runs(runs: str | Path, results: str | Path) -> Iterator[Listed]:
    """Every run below the folder `runs`, with figures from `results/metrics`.

    Raises:
        MvfaError: there is none.
    """
    found = sorted(Path(runs).rglob("run.json"))
    if not found:
        raise MvfaError(
            f"{runs}: no trained run in this folder; train with dvc repro, or name another folder"
        )
    for file in found:
        record = read_run(file.parent)
        method = method_name(record["shots"], record.get("origin") or record["protocol"], record["draw"])
        figures = figures_of(results, record["dataset"], group_of(method))
        yield Listed(file.parent, record["dataset"], method, record["epoch"], figures)


def read_run(folder: str | Path) -> dict:
    """The description of a run.

    Raises:
        MvfaError: `folder` holds no complete run.
    """
    try:
        record = json.loads((Path(folder) / "run.json").read_text(encoding="utf-8"))
        if {"dataset", "shots", "protocol", "draw", "epoch"} <= record.keys():
            return record
    except (OSError, ValueError, AttributeError):
        pass
    raise MvfaError(f"{folder}: is not a complete run; see mvfa runs, or train it again")


def figures_of(results: str | Path, dataset: str, group: str) -> dict[str, float]:
    """Figures of merit on the test split that the evaluation left, empty where it has not run."""
    try:
        metrics = json.loads((Path(results) / "metrics" / f"{dataset}.json").read_text(encoding="utf-8"))
        found = metrics.get(group, {})
        return {key: value for key, value in found.items() if isinstance(value, int | float)}
    except (OSError, ValueError, AttributeError):
        return {}


def spare_imports(detector: str | Path) -> None:
    """Before a detector file is loaded by a command: do without `transformers` and `timm` where its backbone does.

    `open_clip` imports them where they are installed, which takes a fifth of the command's time; it goes without
    where the import fails. Whatever is wrong with the file is told when it is read.
    """
    try:
        with safe_open(detector, framework="np") as file:
            config = json.loads(file.metadata()["detector"])["backbone"]["config"]
        text, vision = config["text_cfg"], config["vision_cfg"]
        if not text.get("hf_model_name") and not text.get("hf_tokenizer_name"):
            sys.modules.setdefault("transformers", None)
        if not vision.get("timm_model_name"):
            sys.modules.setdefault("timm", None)
    # this is about time alone
    except Exception:
        return


def detector_of(
    run: str | Path,
    params: str | Path = "params.yaml",
    results: str | Path = "results",
    rule: str = DEFAULT_RULE,
    false_alarm_rate: float = DEFAULT_RATE,
    device: str | None = None,
) -> "Detector":
    """A detector from a trained run: its folder, or the folder of its draws, of which the first is taken.

    Args:
        run: `runs/<data set>/<kind>/draw-<n>`.
        params: the parameter file of training.
        results: folder with the figures for the model card.
        rule: of the threshold.
        false_alarm_rate: for the rule of that name.
        device: in place of the parameter file's.

    Raises:
        MvfaError: it is no run, or does not fit the parameters.
    """
    folder = Path(run)
    if not (folder / "run.json").is_file() and (folder / "draw-0" / "run.json").is_file():
        folder = folder / "draw-0"
    record = read_run(folder)
    # seconds of imports, after everything that can go wrong before them
    from mvfa_core.calibration import calibrate
    from mvfa_core.detector import checked_device
    from mvfa_core.experiment import Experiment
    from mvfa_core.runs import Run
    from mvfa_core.settings import load_settings

    settings = load_settings(params)
    if device is not None:
        settings = settings.model_copy(update={"device": checked_device(device)})
    settings.dataset(record["dataset"])
    experiment = Experiment(settings, Path(params).resolve().parent, say=lambda line: None)
    loaded = Run.load(folder, experiment.fresh_adapters())
    figures = figures_of(results, loaded.dataset, group_of(loaded.method))
    return calibrate(experiment, loaded, rule, false_alarm_rate, figures)
