"""Verdicts on one data set's test split -> figures of merit with intervals, and what the report needs."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from mvfa_core.errors import MvfaError
from mvfa_core.experiment import Experiment, TestSet
from mvfa_core.judging import Verdict
from mvfa_core.methods import group_of, is_mvfa
from mvfa_core.metrics import image_metrics, pixel_metrics
from mvfa_core.runs import Run
from mvfa_core.uncertainty import bootstrap_interval, image_auroc_samples, pixel_auroc_samples, spread
from mvfa_core.writing import write_text, write_through


@dataclass
class Evaluation:
    """What is known of one data set after its test split was judged.

    metrics: {method group: {metric: value or None}}, AUROCs with `_low` and `_high` (95 % bootstrap over
        images) and, with several support draws, their mean as value and `_std`, `_min`, `_max` over draws.
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
        experiment: Experiment,
        name: str,
        test: TestSet,
        verdicts: Mapping[str, Verdict],
        runs: list[Run],
    ):
        options = experiment.settings.evaluation
        labels = test.batch.labels.numpy().astype(int)
        masks = None if test.batch.masks is None else test.batch.masks.numpy()
        groups: dict[str, list[Verdict]] = {}
        for method, verdict in verdicts.items():
            groups.setdefault(group_of(method), []).append(verdict)
        metrics, samples = {}, {}
        for group, members in groups.items():
            experiment.say(f"measuring {group}")
            metrics[group], found = _measure(
                members, labels, masks, options.bootstrap, experiment.settings.seed
            )
            samples |= {f"{group}:{metric}": values for metric, values in found.items()}
        scores = pd.DataFrame({"image": [record.name for record in test.records], "label": labels})
        for method, verdict in verdicts.items():
            scores[method] = verdict.scores.numpy()
        provenance = {
            "test_images": len(labels),
            "test_hash": test.hash,
            "runs": {
                run.method: run.provenance | {"epoch": run.epoch, "support": run.support} for run in runs
            },
        }
        return cls(name, metrics, scores, samples, _gallery(test, verdicts, options.gallery), provenance)

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


def _measure(members: list[Verdict], labels, masks, resamples: int, seed: int):
    """Metrics of one method group, averaged over its draws, and bootstrap samples of its AUROCs."""
    each, image_samples, pixel_samples = [], [], []
    for verdict in members:
        scores = verdict.scores.numpy()
        values = image_metrics(labels, scores)
        image_samples.append(image_auroc_samples(labels, scores, resamples, seed))
        if masks is not None and verdict.maps is not None:
            maps = verdict.maps.numpy()
            values |= pixel_metrics(maps, masks)
            pixel_samples.append(pixel_auroc_samples(maps, masks, labels, resamples, seed))
        each.append(values)
    table = pd.DataFrame(each, dtype=float)
    result: dict[str, float | None] = {}
    samples = {}
    for metric in table:
        column = table[metric]
        result[metric] = None if column.isna().any() else float(column.mean())
        found = {"image_auroc": image_samples, "pixel_auroc": pixel_samples}.get(metric)
        if found and result[metric] is not None:
            # the same images are drawn for every support draw, so the mean keeps their correlation
            samples[metric] = np.mean(found, axis=0).astype(np.float32)
            interval = bootstrap_interval(samples[metric])
            result[f"{metric}_low"], result[f"{metric}_high"] = interval.low, interval.high
            if len(members) > 1:
                over = spread(column)
                result |= {f"{metric}_{key}": getattr(over, key) for key in ("std", "min", "max")}
    result["draws"] = len(members)
    return result, samples


def _rounded(value):
    """Six decimals: beyond them two machines differ for no reason that a reader cares about."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return round(value, 6) if isinstance(value, float) else value


def _gallery(test: TestSet, verdicts: Mapping[str, Verdict], count: int) -> dict[str, np.ndarray]:
    """Images of either class spread over the range of the best-informed method's scores, with their maps.

    Two thirds are abnormal, from the clearest hit to the clearest miss; the others run from the loudest
    normal image downwards.
    """
    shown = [method for method, verdict in verdicts.items() if verdict.maps is not None]
    judge = verdicts[next((m for m in shown if is_mvfa(m) and not m.startswith("zero")), shown[-1])]
    labels, scores = test.batch.labels.numpy(), judge.scores.numpy()
    abnormal = round(count * 2 / 3)
    rows = []
    for label, quantity in ((1, abnormal), (0, count - abnormal)):
        order = np.flatnonzero(labels == label)
        order = order[np.argsort(-scores[order], kind="stable")]
        quantiles = np.linspace(0.03, 0.97 if label else 0.6, quantity)
        rows += [order[round(q * (len(order) - 1))] for q in quantiles]
    images = test.batch.images[rows].permute(0, 2, 3, 1).numpy()
    result = {"rows": np.asarray(rows), "images": images}
    if test.batch.masks is not None:
        result["masks"] = test.batch.masks[rows].numpy()
    for method in shown:
        maps = verdicts[method].maps
        # the spread over all test images fixes a shared colour scale
        result[f"range:{method}"] = np.quantile(maps[:, ::3, ::3].numpy(), [0.02, 0.998]).astype(np.float32)
        result[f"map:{method}"] = maps[rows].numpy().astype(np.float16)
    return result
