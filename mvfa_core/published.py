"""Published AUROCs, as data with their sources, and beside them what a run of the paper's profile measured.

`data/published.csv` holds a row per setting, shots, method, data set and metric. `shots` is per class for
few-shot (k normal + k abnormal) and counts normal images only for few-normal; zero-shot has 0, and methods that
were trained on all normal images have none. Several sources may give a figure for the same thing.
"""

from collections.abc import Sequence
from importlib import resources
from pathlib import PurePath

import pandas as pd

from mvfa_core.errors import MvfaError
from mvfa_core.evaluation import Evaluation
from mvfa_core.report import method_label
from mvfa_core.settings import Settings

PAPER_MODEL = "ViT-L-14-336"
PAPER_IMAGE_SIZE = 240
SETTINGS = ("full-normal", "few-normal", "few-shot", "zero-shot")
METRICS = ("image_auroc", "pixel_auroc")
DIFFERENT_BACKBONE = (
    "The published figures are not set beside these: they were measured with {model} on clinical images, and "
    "this run used {found}. The two say nothing about one another."
)

# Which of our groups a published row may stand beside. Only MVFA is the same method; the others are the same
# idea with another implementation, and `same_method` says so.
COUNTERPARTS = {
    ("few-shot", "MVFA"): "{k}-shot/{protocol}",
    ("zero-shot", "MVFA"): "zero-shot/{protocol}",
    ("few-normal", "CLIP"): "{k}-memory/sound",
    ("few-shot", "April-GAN"): "{k}-projector/sound",
    ("zero-shot", "WinCLIP"): "winclip",
}


def read_published() -> pd.DataFrame:
    """All rows: setting, shots (Int64, may be missing), method, dataset, metric, published_percent, source."""
    file = resources.files("mvfa_core") / "data" / "published.csv"
    with file.open(encoding="utf-8") as handle:
        table = pd.read_csv(handle, dtype={"shots": "Int64"})
    return table.rename(columns={"value_percent": "published_percent"})


def published_table(
    metric: str | None = None, setting: str | None = None, shots: int | None = None
) -> pd.DataFrame:
    """Published AUROCs in percent with their sources; None takes all.

    Raises:
        MvfaError: a metric or setting that nobody published.
    """
    table = read_published()
    for name, value, known in (("metric", metric, METRICS), ("setting", setting, SETTINGS)):
        if value is None:
            continue
        if value not in known:
            raise MvfaError(f"{name}: '{value}' is none of {', '.join(known)}")
        table = table[table[name] == value]
    if shots is not None:
        table = table[table["shots"] == shots]
    return table.reset_index(drop=True)


def wide_published(table: pd.DataFrame) -> pd.DataFrame:
    """As people read it: a row a method and source, a column a data set and metric, percent."""
    short = {"image_auroc": "image", "pixel_auroc": "pixel"}
    shots = table["shots"].astype("string").fillna("all")
    cells = table.assign(
        shots=shots, column=[f"{r.dataset}, {short[r.metric]} (published, %)" for r in table.itertuples()]
    )
    keys = ["setting", "shots", "method", "source"]
    result = cells.pivot(index=keys, columns="column", values="published_percent")
    order = pd.MultiIndex.from_frame(cells[keys].drop_duplicates())
    result = result.reindex(index=order, columns=cells["column"].unique())
    result.columns.name = None
    return result.map(lambda value: "-" if pd.isna(value) else f"{value:.2f}").reset_index()


def phantoms(evaluations: Sequence[Evaluation], settings: Settings) -> list[str]:
    """Names of the data sets that are the demo's."""
    return [e.dataset for e in evaluations if "demo" in PurePath(settings.dataset(e.dataset).root).parts]


def why_not_comparable(evaluations: Sequence[Evaluation], settings: Settings) -> str | None:
    """One sentence why published figures may not stand beside these, or None if they may.

    They may where every trained run used the paper's model with weights from a file or a tag at the paper's
    image size, and no data set is the demo's. That the folders hold the published splits cannot be seen.
    """
    backbones = [
        run.get("backbone", {}) for e in evaluations for run in e.provenance.get("runs", {}).values()
    ]
    if not backbones:
        return "The published figures are not set beside these: the evaluations name no trained run."
    for backbone in backbones:
        model, weights = backbone.get("model", "an unnamed model"), str(backbone.get("weights", "random"))
        if model.replace("/", "-") != PAPER_MODEL or weights.startswith("random"):
            named = f"{PurePath(model).stem} with {PurePath(weights).name} weights"
            return DIFFERENT_BACKBONE.format(model=PAPER_MODEL, found=named)
        if backbone.get("image_size") != PAPER_IMAGE_SIZE:
            found = f"it at {backbone.get('image_size')} instead of {PAPER_IMAGE_SIZE} px"
            return DIFFERENT_BACKBONE.format(model=PAPER_MODEL, found=found)
    drawn = phantoms(evaluations, settings)
    if drawn:
        return DIFFERENT_BACKBONE.format(model=PAPER_MODEL, found=f"phantoms ({', '.join(drawn)})")
    return None


def beside_measured(evaluations: Sequence[Evaluation], settings: Settings) -> tuple[pd.DataFrame | None, str]:
    """Measured AUROCs beside the published ones, in percent, where the run is the paper's profile.

    Returns:
        The table and a sentence about it. The table is None where the two may not be compared, and the
        sentence says why. Columns: those of `published_table`, measured_as, same_method, measured_percent,
        low_percent, high_percent (95 % over test images), draws, difference_percent (measured - published),
        within (the published figure lies in the interval).
    """
    reason = why_not_comparable(evaluations, settings)
    if reason is not None:
        return None, reason
    known = {evaluation.dataset: evaluation for evaluation in evaluations}
    rows = []
    for row in read_published().to_dict("records"):
        pattern = COUNTERPARTS.get((row["setting"], row["method"]))
        if pattern is None or row["dataset"] not in known:
            continue
        groups = [pattern.format(k=row["shots"], protocol=protocol) for protocol in settings.protocols]
        for group in dict.fromkeys(groups):
            found = known[row["dataset"]].metrics.get(group, {})
            if found.get(row["metric"]) is not None:
                rows.append(row | _measured(row, group, found))
    if not rows:
        return None, "The published figures are not set beside these: no method and shots are in both."
    return pd.DataFrame(rows), (
        "Published and measured AUROC in percent. Two published runs of MVFA differ by up to 5.8 points, so "
        "look at the interval, not at the digit; it speaks of other test images only. Rows whose method is not "
        "the same hold another implementation of the idea. Whether the folders hold the published splits, "
        "this table cannot know."
    )


def _measured(row: dict, group: str, found: dict) -> dict:
    value, low, high = (100 * found[row["metric"] + end] for end in ("", "_low", "_high"))
    return {
        "measured_as": method_label(group, True),
        "same_method": row["method"] == "MVFA",
        "measured_percent": value,
        "low_percent": low,
        "high_percent": high,
        "draws": found.get("draws", 1),
        "difference_percent": value - row["published_percent"],
        "within": low <= row["published_percent"] <= high,
    }


def wide_beside(table: pd.DataFrame) -> pd.DataFrame:
    """As people read it: `measured [low, high]` with the difference, a row a published figure."""
    return pd.DataFrame(
        {
            "data set": table["dataset"],
            "metric": table["metric"].str.replace("_auroc", " AUROC"),
            "published": [f"{r.method}, {r.setting}, {r.source}" for r in table.itertuples()],
            "published, %": [f"{value:.2f}" for value in table["published_percent"]],
            "measured as": [
                r.measured_as + ("" if r.same_method else " (another implementation)")
                for r in table.itertuples()
            ],
            "measured, %": [
                f"{r.measured_percent:.2f} [{r.low_percent:.2f}, {r.high_percent:.2f}]"
                for r in table.itertuples()
            ],
            "difference": [f"{value:+.2f}" for value in table["difference_percent"]],
        }
    )
