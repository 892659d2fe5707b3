"""Verdicts on one data set's test split -> figures of merit with intervals, and what the report needs."""

import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mvfa_core.errors import MvfaError
from mvfa_core.gallery import Collector
from mvfa_core.methods import baseline_label, group_of, is_mvfa, place_of
from mvfa_core.metrics import at_threshold, image_metrics, pixel_metrics
from mvfa_core.uncertainty import bootstrap_interval, image_auroc_samples, pixel_auroc_samples, spread
from mvfa_core.writing import write_text, write_through

# tables and pages are made from evaluations without loading the backbone's libraries
if TYPE_CHECKING:
    from mvfa_core.experiment import Experiment, TestSet
    from mvfa_core.judging import Verdict
    from mvfa_core.runs import Run

# Settings that decide a result and are no paths: those differ between machines that find the same.
_PARAMETERS = {
    "protocols": set(),
    "backbone": {"model", "weights"},  # each run's backbone names them, with a hash
    "method": set(),
    "few_shot": {"support_lists"},  # each run names its support images
    "zero_shot": set(),
    "evaluation": set(),
}
_PACKAGES = ("torch", "open_clip_torch", "numpy", "scipy", "scikit-learn", "pandas")


@dataclass
class Evaluation:
    """What is known of one data set after its test split was judged.

    metrics: {method group: {metric: value or None}}, AUROCs with `_low` and `_high` (95 % bootstrap over
        images) and, with several support draws, their mean as value and `_std`, `_min`, `_max` over draws.
        None is a metric that is undefined on these images; one that a method cannot have is not there.
    scores: a row an image: name, label, one column a method.
    samples: {`<group>:<metric>`: (resamples,) bootstrap values}, for averages over data sets.
    gallery: arrays of the pictures that the panels show.
    provenance: what is needed to obtain the result again.
    """

    dataset: str
    metrics: dict[str, dict[str, float | None]]
    scores: pd.DataFrame
    samples: dict[str, np.ndarray]
    gallery: dict[str, np.ndarray]
    provenance: dict

    @classmethod
    def of(
        cls,
        experiment: "Experiment",
        name: str,
        test: "TestSet",
        verdicts: Mapping[str, "Verdict"] | Iterable[tuple[str, "Verdict"]],
        runs: Sequence["Run"],
        thresholds: Mapping[str, float] | None = None,
    ) -> "Evaluation":
        """Measure each verdict as it comes and let go of its maps, but for those of the gallery.

        Args:
            experiment: whose settings name resamples and seed.
            name: the data set.
            test: its test split.
            verdicts: of each method, see `baselines.all_verdicts`; no maps are kept back where a few-shot run is first.
            runs: the trained ones among the methods, for the provenance.
            thresholds: of methods for which one was set without the test split, see `operating.py`.
        """
        labels = test.batch.labels.numpy().astype(int)
        masks = None if test.batch.masks is None else test.batch.masks.numpy()
        measure = partial(
            _measure,
            labels=labels,
            masks=masks,
            resamples=experiment.settings.evaluation.bootstrap,
            seed=experiment.settings.seed,
        )
        gallery = Collector(test, experiment.settings.evaluation.gallery)
        measured: dict[str, _Measured] = {}
        scores: dict[str, np.ndarray] = {}
        pairs = verdicts.items() if isinstance(verdicts, Mapping) else verdicts
        for method, verdict in pairs:
            experiment.say(f"measuring {method}")
            measured[method] = measure(verdict, threshold=(thresholds or {}).get(method))
            scores[method] = verdict.scores.numpy()
            if baseline_label(group_of(method)) is None:  # maps of the other baselines are shown nowhere
                gallery.add(method, verdict)
        order = sorted(measured, key=lambda method: place_of(group_of(method)))
        metrics, samples = {}, {}
        for group in dict.fromkeys(map(group_of, order)):
            members = [measured[method] for method in order if group_of(method) == group]
            metrics[group], found = _over_draws(members)
            samples |= {f"{group}:{metric}": values for metric, values in found.items()}
        table = pd.DataFrame({"image": [record.name for record in test.records], "label": labels})
        return cls(
            name,
            metrics,
            pd.concat([table, pd.DataFrame({method: scores[method] for method in order})], axis=1),
            samples,
            gallery.arrays(order),
            _provenance(experiment, name, test, runs),
        )

    @property
    def pictured(self) -> dict[str, str]:
        """{group: method} with maps in the gallery: CLIP's patches and MVFA, of several support draws the first."""
        first: dict[str, str] = {}
        for key in self.gallery:
            group = group_of(key.removeprefix("map:"))
            if key.startswith("map:") and (group == "clip-patch" or is_mvfa(group)):
                first.setdefault(group, key.removeprefix("map:"))
        return first

    def save(self, results: str | Path, bulk: str | Path) -> None:
        """Small readable files under `results`, arrays under `bulk`."""
        results, bulk = Path(results), Path(bulk)
        for folder, content in (("metrics", self.metrics), ("provenance", self.provenance)):
            text = json.dumps(_rounded(content), indent=2, sort_keys=folder == "provenance")
            write_text(results / folder / f"{self.dataset}.json", text + "\n")
        write_text(
            results / "scores" / f"{self.dataset}.csv",
            self.scores.to_csv(index=False, float_format="%.6f", lineterminator="\n"),
        )
        for file, arrays in (("samples.npz", self.samples), ("gallery.npz", self.gallery)):
            write_through(bulk / file, partial(_savez, arrays))

    @classmethod
    def load(cls, dataset: str, results: str | Path, bulk: str | Path) -> "Evaluation":
        """Read what `save` wrote.

        Raises:
            MvfaError: a file is missing or unreadable.
        """
        results, bulk = Path(results), Path(bulk)
        try:
            metrics, provenance = (
                json.loads((results / folder / f"{dataset}.json").read_text(encoding="utf-8"))
                for folder in ("metrics", "provenance")
            )
            scores = pd.read_csv(results / "scores" / f"{dataset}.csv")
            arrays = []
            for file in ("samples.npz", "gallery.npz"):
                with np.load(bulk / file, allow_pickle=False) as stored:
                    arrays.append({key.replace("|", "/"): stored[key] for key in stored.files})
        except (OSError, ValueError) as error:
            raise MvfaError(
                f"{dataset}: evaluation is incomplete ({error}); run the evaluate stage"
            ) from None
        return cls(dataset, metrics, scores, *arrays, provenance)


def _savez(arrays: Mapping[str, np.ndarray], path: Path) -> None:
    # an open file keeps NumPy from putting an ending behind the name
    with path.open("wb") as handle:
        np.savez_compressed(handle, **{key.replace("/", "|"): value for key, value in arrays.items()})


@dataclass
class _Measured:
    """One verdict's metrics, and bootstrap samples of its AUROCs where they are defined."""

    values: dict[str, float | None]
    samples: dict[str, np.ndarray]


def _measure(
    verdict: "Verdict", labels, masks, resamples: int, seed: int, threshold: float | None
) -> _Measured:
    scores = verdict.scores.numpy()
    values = image_metrics(labels, scores)
    samples = {"image_auroc": image_auroc_samples(labels, scores, resamples, seed)}
    if threshold is not None:
        values |= at_threshold(labels, scores, threshold)
    if masks is not None and verdict.maps is not None:
        maps = verdict.maps.numpy()
        values |= pixel_metrics(maps, masks)
        samples["pixel_auroc"] = pixel_auroc_samples(maps, masks, labels, resamples, seed)
    return _Measured(values, samples)


def _over_draws(members: Sequence[_Measured]) -> tuple[dict[str, float | None], dict[str, np.ndarray]]:
    """Metrics of one method group, averaged over its draws, and bootstrap samples of its AUROCs."""
    table = pd.DataFrame([member.values for member in members], dtype=float)
    result: dict[str, float | None] = {}
    samples = {}
    for metric in table:
        column = table[metric]
        result[metric] = None if column.isna().any() else float(column.mean())
        if metric in members[0].samples and result[metric] is not None:
            # the same images are drawn for every support draw, so the mean keeps their correlation
            found = [member.samples[metric] for member in members]
            samples[metric] = np.mean(found, axis=0).astype(np.float32)
            interval = bootstrap_interval(samples[metric])
            result[f"{metric}_low"], result[f"{metric}_high"] = interval.low, interval.high
            if len(members) > 1:
                over = spread(column)
                result |= {f"{metric}_{key}": getattr(over, key) for key in ("std", "min", "max")}
    result["draws"] = len(members)
    return result, samples


def _provenance(experiment: "Experiment", name: str, test: "TestSet", runs: Sequence["Run"]) -> dict:
    """What is needed to obtain a result again; nothing of where or when it was."""
    settings = experiment.settings
    parameters = settings.model_dump(
        mode="json",
        include=set(_PARAMETERS),
        exclude={key: hidden for key, hidden in _PARAMETERS.items() if hidden},
    )
    parameters["dataset"] = settings.dataset(name).model_dump(mode="json", exclude={"root"})
    return {
        "test_images": len(test.records),
        "test_hash": test.hash,
        "seed": settings.seed,
        "dtype": settings.dtype,
        "device": experiment.device.type,
        "processor": platform.machine(),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in _PACKAGES},
        "parameters": parameters,
        "baselines": "fitted on the support images of the run with the same shots and draw; the rest of the valid "
        "split chooses the projector's epoch",
        "runs": {run.method: run.provenance | {"epoch": run.epoch, "support": run.support} for run in runs},
    }


def _rounded(value):
    """Six decimals: beyond them two machines differ for no reason that a reader cares about."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return round(value, 6) if isinstance(value, float) else value
