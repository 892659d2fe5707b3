"""Tables and sentences from made-up evaluations whose values can be worked out by hand."""

import numpy as np
import pandas as pd
import pytest

from mvfa_core import report
from mvfa_core.evaluation import Evaluation
from mvfa_core.uncertainty import macro_interval

# 2.5 and 97.5 percentiles of these 101 evenly spaced values are 0.04 x -0.95 and 0.04 x 0.95
SPREAD = np.linspace(-0.04, 0.04, 101)
EDGE = 0.038

# image AUROC of every group on two data sets; the second has no masks
VALUES = {
    "clip-pooled": (0.60, 0.70),
    "clip-patch": (0.50, 0.40),
    "untrained": (0.50, 0.50),
    "2-shot/sound": (0.80, 0.70),
    "2-shot/paper": (0.90, 0.72),
    "10-shot/sound": (0.90, 0.90),
    "zero-shot/sound": (0.50, 0.60),
    "zero-shot/paper": (0.70, 0.60),
}
PIXEL = {"clip-patch": 0.55, "zero-shot/sound": 0.65, "zero-shot/paper": 0.85, "2-shot/sound": 0.45}


def evaluation(name: str, values: dict[str, dict[str, float]]) -> Evaluation:
    """Bootstrap samples move as one for every method, so that paired differences have no spread."""
    metrics, samples = {}, {}
    for group, known in values.items():
        metrics[group] = {"draws": 1}
        for metric, value in known.items():
            metrics[group] |= {metric: value, f"{metric}_low": value - EDGE, f"{metric}_high": value + EDGE}
            samples[f"{group}:{metric}"] = value + SPREAD
    return Evaluation(name, metrics, pd.DataFrame(), samples, {}, {})


def interval_of(parts: list[np.ndarray]) -> tuple[float, float]:
    found = macro_interval(parts)
    return found.low, found.high


@pytest.fixture
def evaluations() -> list[Evaluation]:
    first = {group: {"image_auroc": values[0]} for group, values in VALUES.items()}
    for group, value in PIXEL.items():
        first[group]["pixel_auroc"] = value
    second = {group: {"image_auroc": values[1]} for group, values in VALUES.items()}
    return [evaluation("Knee", first), evaluation("Ankle", second)]


def test_groups_stand_in_one_order_and_must_be_common(evaluations):
    assert report.groups_of(evaluations) == [
        "clip-pooled",
        "clip-patch",
        "untrained",
        "zero-shot/sound",
        "zero-shot/paper",
        "2-shot/sound",
        "2-shot/paper",
        "10-shot/sound",
    ]
    del evaluations[1].metrics["2-shot/paper"]
    assert "2-shot/paper" not in report.groups_of(evaluations)


def test_comparison_has_each_data_set_in_its_order_and_their_mean_last(evaluations):
    table = report.comparison(evaluations, "image_auroc")
    assert list(table["dataset"].unique()) == ["Knee", "Ankle", report.MEAN]
    rows = table[table["method"] == "2-shot/sound"].set_index("dataset")
    assert rows["value"].to_dict() == pytest.approx({"Knee": 0.80, "Ankle": 0.70, "mean": 0.75})
    # resamples of different data sets are independent: their mean varies less than each of them
    parts = [0.8 + SPREAD, 0.7 + SPREAD]
    assert rows.loc["mean", ["low", "high"]].to_list() == pytest.approx(list(interval_of(parts)))
    assert rows.loc["mean", "high"] - rows.loc["mean", "low"] < 1.8 * EDGE
    assert rows.loc["Knee", "low"] == pytest.approx(0.80 - EDGE)


def test_comparison_says_what_is_undefined_and_leaves_it_out_of_the_mean(evaluations):
    evaluations[1].metrics["clip-patch"]["pixel_auroc"] = None
    table = report.comparison(evaluations, "pixel_auroc")
    assert set(table["method"]) == set(PIXEL) - {"2-shot/paper"}
    table = table.set_index(["dataset", "method"])
    assert table.loc[("mean", "clip-patch"), "value"] == pytest.approx(0.55)
    assert np.isnan(table.loc[("Ankle", "clip-patch"), "value"])
    # a method that cannot have the metric there is another matter
    assert ("Ankle", "2-shot/sound") not in table.index
    shown = report.wide(table.reset_index())
    assert shown.loc["Ankle", "CLIP, patches"] == "undefined: one class only"
    assert shown.loc["Ankle", "MVFA 2-shot (sound)"] == "-"
    gains = report.wide_gains(report.gain_table(evaluations))
    assert gains.loc["pixel AUROC: MVFA 2-shot (sound) - CLIP, patches", "Ankle"] == "-"


def test_the_main_tables_leave_the_other_baselines_to_their_own(evaluations):
    for one in evaluations:
        one.metrics["2-memory/sound"] = one.metrics["clip-pooled"]
        one.samples["2-memory/sound:image_auroc"] = one.samples["clip-pooled:image_auroc"]
    groups = report.groups_of(evaluations)
    assert groups.index("untrained") < groups.index("2-memory/sound") < groups.index("zero-shot/sound")
    assert "2-memory/sound" not in report.main_groups(evaluations)
    assert "2-memory/sound" not in set(report.comparison(evaluations, "image_auroc")["method"])
    everything = report.comparison(evaluations, "image_auroc", groups)
    shown = report.wide(everything, by_method=True)
    assert shown.loc["CLIP + memory, 2 normal", "Knee"] == "0.600 [0.562, 0.638]"


def test_a_star_stands_where_it_is_asked_for(evaluations):
    shown = report.wide(report.comparison(evaluations, "image_auroc"), {("Knee", "2-shot/sound")})
    assert shown.loc["Knee", "MVFA 2-shot (sound)"].endswith("]*")
    assert not shown.loc["Ankle", "MVFA 2-shot (sound)"].endswith("*")


def test_the_stronger_reading_is_that_of_the_better_mean(evaluations):
    assert report.stronger_reading(evaluations, "image_auroc") == "clip-pooled"
    assert report.stronger_reading(evaluations, "pixel_auroc") == "clip-patch"
    assert report.stronger_reading([evaluation("Knee", {"2-shot/sound": {}})], "pixel_auroc") is None


def test_difference_is_paired(evaluations):
    table = report.difference(evaluations, "image_auroc", "2-shot/sound", "clip-pooled").set_index("dataset")
    assert table["difference"].to_dict() == pytest.approx({"Knee": 0.20, "Ankle": 0.0, "mean": 0.10})
    # each method alone varies by 0.038 either way, together not at all
    assert (table["high"] - table["low"]).abs().max() == pytest.approx(0, abs=1e-9)
    evaluations[0].samples["2-shot/sound:image_auroc"] = 0.8 - SPREAD
    table = report.difference(evaluations, "image_auroc", "2-shot/sound", "clip-pooled").set_index("dataset")
    assert table.loc["Knee", ["low", "high"]].to_list() == pytest.approx([0.2 - 2 * EDGE, 0.2 + 2 * EDGE])
    parts = [0.2 - 2 * SPREAD, np.zeros(101)]
    assert table.loc["mean", ["low", "high"]].to_list() == pytest.approx(list(interval_of(parts)))


def test_difference_of_an_undefined_metric_is_empty(evaluations):
    assert report.difference(evaluations, "pixel_auroc", "untrained", "clip-patch").empty


def test_wide_is_what_people_read(evaluations):
    image = report.wide(report.comparison(evaluations, "image_auroc"))
    assert list(image.index) == ["Knee", "Ankle", "mean"]
    assert list(image.columns)[:2] == ["CLIP, pooled", "CLIP, patches"]
    assert image.loc["Knee", "MVFA 2-shot (sound)"] == "0.800 [0.762, 0.838]"
    only = [evaluation("Knee", {"clip-pooled": {"image_auroc": 0.6}, "2-shot/sound": {"image_auroc": 0.8}})]
    assert list(report.wide(report.comparison(only, "image_auroc")).columns) == [
        "CLIP, pooled",
        "MVFA 2-shot",
    ]


def test_wide_marks_what_is_not_there(evaluations):
    second = {"clip-patch": {"image_auroc": 0.4, "pixel_auroc": 0.3}, "untrained": {"image_auroc": 0.5}}
    first = {"clip-patch": {"pixel_auroc": 0.5}, "untrained": {"pixel_auroc": 0.6}}
    table = report.wide(
        report.comparison([evaluation("Knee", first), evaluation("Ankle", second)], "pixel_auroc")
    )
    assert table.loc["Ankle", "untrained adapters"] == "-"


def test_gains_are_against_both_plain_readings(evaluations):
    gains = report.gain_table(evaluations)
    assert set(gains["baseline"]) == {"clip-pooled", "clip-patch"} and set(gains["metric"]) == set(
        report.METRIC_NAMES
    )
    row = gains.query("metric == 'image_auroc' and method == '10-shot/sound' and dataset == 'Ankle'")
    found = dict(zip(row["baseline"], row["difference"], strict=True))
    assert found == pytest.approx({"clip-pooled": 0.2, "clip-patch": 0.5})
    assert gains.query("metric == 'pixel_auroc' and baseline == 'clip-pooled'").empty
    shown = report.wide_gains(gains)
    assert (
        shown.loc["image AUROC: MVFA 10-shot (sound) - CLIP, pooled", "Ankle"] == "+0.200 [+0.200, +0.200]*"
    )
    assert shown.loc["pixel AUROC: MVFA 2-shot (sound) - CLIP, patches", "Ankle"] == "-"


# --- protocols ---


def test_optimism_is_paper_minus_sound(evaluations):
    table = report.protocol_table(evaluations)
    assert list(table.columns) == [
        "metric",
        "dataset",
        "setting",
        "sound",
        "paper",
        "optimism",
        "low",
        "high",
    ]
    image = table[table["metric"] == "image_auroc"].set_index(["setting", "dataset"])
    # the 10-shot setting was run under one protocol only
    assert set(image.index.get_level_values("setting")) == {"zero-shot", "2-shot"}
    assert image.loc[("zero-shot", "Knee"), ["sound", "paper", "optimism"]].to_list() == pytest.approx(
        [0.5, 0.7, 0.2]
    )
    assert image.loc[("2-shot", "mean"), ["sound", "paper", "optimism"]].to_list() == pytest.approx(
        [0.75, 0.81, 0.06]
    )
    pixel = table[table["metric"] == "pixel_auroc"]
    assert set(pixel["setting"]) == {"zero-shot"} and list(pixel["dataset"]) == ["Knee", "mean"]
    assert pixel["optimism"].to_list() == pytest.approx([0.2, 0.2])


def test_the_interval_of_the_optimism_is_paired(evaluations):
    evaluations[0].samples["zero-shot/paper:image_auroc"] = 0.7 - SPREAD
    table = report.protocol_table(evaluations).set_index(["metric", "setting", "dataset"])
    knee = table.loc[("image_auroc", "zero-shot", "Knee")]
    assert [knee["low"], knee["high"]] == pytest.approx([0.2 - 2 * EDGE, 0.2 + 2 * EDGE])
    shown = report.wide_protocols(report.protocol_table(evaluations))
    assert shown.loc["image AUROC: zero-shot", "Knee"] == "0.500 -> 0.700: +0.200 [+0.124, +0.276]*"
    assert shown.loc["image AUROC: zero-shot", "Ankle"] == "0.600 -> 0.600: +0.000 [+0.000, +0.000]"
    assert shown.loc["pixel AUROC: zero-shot", "Ankle"] == "-"


def test_one_protocol_alone_has_no_optimism():
    only = [evaluation("Knee", {"clip-pooled": {"image_auroc": 0.6}, "2-shot/sound": {"image_auroc": 0.8}})]
    table = report.protocol_table(only)
    assert table.empty and "optimism" in table.columns


def test_a_table_without_names_for_its_rows_is_saved_without_numbers(tmp_path):
    table = pd.DataFrame({"method": ["A_1", "B"], "value": ["0.50", "-"]})
    report.save_table(table, tmp_path, "plain")
    lines = (tmp_path / "plain.md").read_text().splitlines()
    assert [cell.strip() for cell in lines[2].split("|")[1:-1]] == ["A_1", "0.50"]
    assert r"A\_1 & 0.50 \\" in (tmp_path / "plain.tex").read_text()


def test_every_table_has_a_title_and_one_sentence():
    for name, (title, caption) in report.TABLES.items():
        assert name.replace("_", "").isalnum() and title[0].isupper() and caption.endswith("."), name
        assert len({title for title, _ in report.TABLES.values()}) == len(report.TABLES)


def test_tables_are_saved_in_three_formats(tmp_path, evaluations):
    table = report.protocol_table(evaluations)
    report.save_table(table, tmp_path, "protocols", report.wide_protocols(table))
    again = pd.read_csv(tmp_path / "protocols.csv")
    pd.testing.assert_frame_equal(again, table, check_dtype=False, atol=1e-6)
    assert "| image AUROC: zero-shot" in (tmp_path / "protocols.md").read_text()
    assert "\\toprule" in (tmp_path / "protocols.tex").read_text()
