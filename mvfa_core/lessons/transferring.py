"""Lesson 5, zero-shot transfer: train on one organ or on all but one, judge on every organ."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from mvfa_core.adapters import Adapters
from mvfa_core.datasets import content_hash
from mvfa_core.experiment import Experiment, TestSet
from mvfa_core.judging import Verdict
from mvfa_core.lessons.smaller import SmallExperiment, evenly
from mvfa_core.lessons.style import COLOURS, canvas, show_image, show_map
from mvfa_core.metrics import auroc, sensitivity_at_specificity
from mvfa_core.report import method_label
from mvfa_core.runs import Run
from mvfa_core.scoring import text_scores
from mvfa_core.uncertainty import image_auroc_difference, image_auroc_interval

OTHERS = "all others"
PLAIN = ("clip-pooled", "untrained")


# --- training ---------------------------------------------------------------------------------------------


def train_on(experiment: Experiment, sources: Sequence[str], target: str, per_class: int) -> Run:
    """Zero-shot training as the benchmark does it, with `sources` as the only other data sets.

    The sound protocol is used, so no image of `target` is read.

    Args:
        experiment: settings and backbone.
        sources: data sets to learn from.
        target: the data set to be kept out.
        per_class: images of each label and source; a fifth of them selects the epoch.
    """
    return SmallExperiment(experiment, per_class, [*sources, target]).train_zero_shot(target)


def train_singles(experiment: Experiment, per_class: int) -> dict[str, Run]:
    """Adapters from each data set alone, by its name."""
    names = list(experiment.settings.datasets)
    # a target has to be named, but the sound protocol never opens it
    return {
        name: train_on(experiment, [name], next(n for n in names if n != name), per_class) for name in names
    }


def train_others(experiment: Experiment, per_class: int) -> dict[str, Run]:
    """Leave one out: for each target, adapters from all other data sets."""
    names = list(experiment.settings.datasets)
    return {name: train_on(experiment, [n for n in names if n != name], name, per_class) for name in names}


def unread_set(experiment: Experiment, name: str) -> TestSet:
    """The `valid` split, which zero-shot training never reads: fit to judge sources and targets alike."""
    records = experiment.dataset(name).records("valid")
    batch = experiment.load(name, records)
    return TestSet(records, batch, experiment.tokens(batch.images), content_hash(records))


# --- what carries over ------------------------------------------------------------------------------------


def _row(source: str, target: str, labels: np.ndarray, verdict: Verdict, resamples: int) -> dict:
    scores = verdict.scores.numpy()
    interval = image_auroc_interval(labels, scores, resamples)
    value = auroc(labels, scores)
    return {"source": source, "target": target, "value": value, "low": interval.low, "high": interval.high}


def transfer_table(
    experiment: Experiment, singles: Mapping[str, Run], others: Mapping[str, Run], sets: Mapping[str, TestSet]
) -> pd.DataFrame:
    """Image AUROC of every source on every target: source, target, value and the 95 % interval's bounds.

    Sources are the plain readings of `PLAIN`, each data set of `singles`, and `OTHERS`.
    """
    resamples, rows = experiment.settings.evaluation.bootstrap, []
    for target, images in sets.items():
        labels = images.batch.labels.numpy()
        plain = experiment.verdicts(target, [], images)
        found = {method_label(method): plain[method] for method in PLAIN}
        found |= {source: experiment.verdict(target, run, images) for source, run in singles.items()}
        found[OTHERS] = experiment.verdict(target, others[target], images)
        rows += [_row(source, target, labels, verdict, resamples) for source, verdict in found.items()]
    return pd.DataFrame(rows)


def transfer_figure(table: pd.DataFrame) -> Figure:
    """The table as a matrix, source by target; a frame marks a source that is judged on its own organ."""
    sources, targets = list(table["source"].unique()), list(table["target"].unique())
    matrix = table.pivot(index="source", columns="target", values="value").loc[sources, targets]
    figure, axis = canvas(width=8, height=4.8)
    sns.heatmap(
        matrix,
        ax=axis,
        cmap="PuOr_r",
        vmin=0,
        vmax=1,
        center=0.5,
        annot=True,
        fmt=".2f",
        linewidths=1,
        cbar_kws={"label": "image AUROC (white: chance)"},
    )
    for target in set(targets) & set(sources):
        corner = targets.index(target), sources.index(target)
        axis.add_patch(
            Rectangle(corner, 1, 1, fill=False, edgecolor="black", linewidth=2, clip_on=False, zorder=3)
        )
    for place in (len(PLAIN), len(sources) - 1):
        axis.axhline(place, color="white", linewidth=6)
    axis.set_xticks(axis.get_xticks(), [name.replace("_", "\n") for name in targets], rotation=0, fontsize=9)
    axis.set_yticks(axis.get_yticks(), [name.replace("_", " ") for name in sources], rotation=0, fontsize=9)
    axis.tick_params(length=0)
    axis.set_xlabel("judged on")
    axis.set_ylabel("trained on")
    return figure


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Mean image AUROC of each kind of source: at home, on a foreign organ, from all others, and untrained."""
    datasets = set(table["target"])
    home = table["source"] == table["target"]
    foreign = table["source"].isin(datasets) & ~home
    kinds = {"one source, at home": home, "one source, elsewhere": foreign}
    kinds |= {name: table["source"] == name for name in table["source"].unique() if name not in datasets}
    rows = {name: table[chosen].groupby("target")["value"].mean() for name, chosen in kinds.items()}
    frame = pd.DataFrame(rows).T[list(table["target"].unique())]
    return frame.assign(mean=frame.mean(axis=1))


def target_verdicts(
    experiment: Experiment, target: str, runs: Mapping[str, Run], images: TestSet
) -> dict[str, Verdict]:
    """Plain CLIP in both readings, untrained adapters and `runs`, by the names that tables call them."""
    found = {method_label(m): verdict for m, verdict in experiment.verdicts(target, [], images).items()}
    return found | {name: experiment.verdict(target, run, images) for name, run in runs.items()}


def home_table(experiment: Experiment, run: Run, trained_on: TestSet, other: TestSet) -> pd.DataFrame:
    """Image AUROC of a run on the images it was trained on and on others of one data set, with intervals."""
    name, resamples = next(iter(run.provenance["sources"])), experiment.settings.evaluation.bootstrap
    rows = []
    for place, images in (("trained on these images", trained_on), ("other images", other)):
        labels, verdict = images.batch.labels.numpy(), experiment.verdict(name, run, images)
        rows.append(_row(name, place, labels, verdict, resamples))
    return pd.DataFrame(rows).set_index("target")[["value", "low", "high"]].rename_axis("judged on")


def gain_over(
    images: TestSet, verdicts: Mapping[str, Verdict], baseline: str, resamples: int
) -> pd.DataFrame:
    """Each method's image AUROC and its difference to the baseline's, with paired 95 % intervals over images."""
    labels, rows = images.batch.labels.numpy(), {}
    for method, verdict in verdicts.items():
        if method == baseline:
            continue
        pair = verdict.scores.numpy(), verdicts[baseline].scores.numpy()
        found = image_auroc_difference(labels, *pair, resamples)
        rows[method] = {
            "AUROC": auroc(labels, pair[0]),
            "difference": found.value,
            "low": found.low,
            "high": found.high,
        }
    return pd.DataFrame(rows).T


# --- where and why ----------------------------------------------------------------------------------------


@torch.no_grad()
def level_scores(experiment: Experiment, name: str, adapters: Adapters, tokens: Tensor) -> Tensor:
    """(levels, N): what each level alone contributes to the detection score of images (N, L, width)."""
    parts = []
    for rows in tokens.split(experiment.settings.evaluation.batch_size):
        levels = adapters(experiment.backbone, rows).det
        prefix = experiment.backbone.prefix
        parts.append(torch.stack([text_scores([t], experiment.text(name), prefix) for t in levels]))
    return torch.cat(parts, dim=1)


def level_table(experiment: Experiment, adapters: Adapters, sets: Mapping[str, TestSet]) -> pd.DataFrame:
    """Image AUROC of each level alone, a row a data set."""
    rows = {}
    for name, images in sets.items():
        scores = level_scores(experiment, name, adapters, images.tokens)
        values = [auroc(images.batch.labels.numpy(), level.numpy()) for level in scores]
        rows[name] = dict(zip([f"level {level}" for level in experiment.levels], values, strict=True))
    return pd.DataFrame(rows).T


def found_table(images: TestSet, verdicts: Mapping[str, Verdict]) -> pd.DataFrame:
    """Image AUROC of each method, and the share of abnormal images that it finds without many false alarms."""
    labels, rows = images.batch.labels.numpy(), {}
    for method, verdict in verdicts.items():
        scores = verdict.scores.numpy()
        found = sensitivity_at_specificity(labels, scores, 0.95)
        rows[method] = {"AUROC": auroc(labels, scores), "sensitivity at 95 % specificity": found}
    return pd.DataFrame(rows).T


def scores_figure(images: TestSet, verdicts: Mapping[str, Verdict]) -> Figure:
    """How the scores of normal and abnormal images lie, a panel a method, each on its own scale."""
    labels = images.batch.labels.numpy()
    figure, axes = canvas(1, len(verdicts), width=3 * len(verdicts), height=2.6)
    for axis, (name, verdict) in zip(axes.flat, verdicts.items(), strict=True):
        scores = verdict.scores.numpy()
        bins = np.linspace(scores.min(), scores.max(), 16)
        for label, kind in enumerate(("normal", "abnormal")):
            axis.hist(scores[labels == label], bins, color=COLOURS[kind], alpha=0.65, label=kind)
        axis.set_title(f"{name}\nAUROC {auroc(labels, scores):.3f}", fontsize=10)
        axis.set_xlabel("score")
        axis.set_yticks([])
    axes.flat[0].legend(frameon=False, fontsize=9)
    return figure


def maps_figure(images: TestSet, verdicts: Mapping[str, Verdict], rows: Sequence[int]) -> Figure:
    """A line an image; its maps under each method, a method's maps on one colour scale."""
    spans = {n: tuple(np.quantile(v.maps.numpy(), [0.02, 0.998])) for n, v in verdicts.items()}
    figure, axes = canvas(
        len(rows), 1 + len(verdicts), width=2 * (1 + len(verdicts)), height=2.05 * len(rows)
    )
    for number, (line, row) in enumerate(zip(np.atleast_2d(axes), rows, strict=True)):
        mask = None if images.batch.masks is None else images.batch.masks[row]
        show_image(line[0], images.batch.images[row], "" if number else "image", mask)
        for axis, (name, verdict) in zip(line[1:], verdicts.items(), strict=True):
            show_map(axis, verdict.maps[row], "" if number else name, mask, span=spans[name])
    return figure


def organs_figure(experiment: Experiment) -> Figure:
    """One normal and one abnormal image of each data set, from the `valid` split."""
    names = list(experiment.settings.datasets)
    figure, axes = canvas(2, len(names), width=1.5 * len(names), height=3.2)
    for column, name in enumerate(names):
        batch = experiment.load(name, evenly(experiment.dataset(name).records("valid"), 3)[1::3])
        for line in (0, 1):
            mask = None if batch.masks is None else batch.masks[line]
            show_image(axes[line, column], batch.images[line], "" if line else name.replace("_", " "), mask)
    for line, kind in enumerate(("normal", "abnormal")):
        axes[line, 0].set_ylabel(kind)
    return figure
