"""Tables of significance on evaluations made by hand."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from mvfa_core import significance
from mvfa_core.evaluation import Evaluation
from mvfa_core.methods import group_of
from mvfa_core.metrics import image_metrics
from mvfa_core.uncertainty import delong_test, holm, image_auroc_samples, macro_samples


def evaluation(dataset: str, labels, methods: dict, pixel: dict | None = None) -> Evaluation:
    """From image scores `{method: scores}` and, for pixels, `{group: (value, samples)}`."""
    metrics, samples = {}, {}
    for group in dict.fromkeys(map(group_of, methods)):
        members = [scores for method, scores in methods.items() if group_of(method) == group]
        table = pd.DataFrame([image_metrics(labels, scores) for scores in members], dtype=float)
        metrics[group] = {key: None if table[key].isna().any() else table[key].mean() for key in table}
        metrics[group]["draws"] = len(members)
        if metrics[group]["image_auroc"] is not None:
            samples[f"{group}:image_auroc"] = np.mean(
                [image_auroc_samples(labels, scores, 200, 0) for scores in members], axis=0
            ).astype(np.float32)
            if len(members) > 1:
                column = table["image_auroc"]
                spread = {"std": column.std(), "min": column.min(), "max": column.max()}
                metrics[group] |= {f"image_auroc_{key}": value for key, value in spread.items()}
    for group, (value, found) in (pixel or {}).items():
        metrics[group]["pixel_auroc"] = value
        samples[f"{group}:pixel_auroc"] = np.asarray(found, np.float32)
    scores = pd.DataFrame({"image": range(len(labels)), "label": labels} | methods)
    return Evaluation(dataset, metrics, scores, samples, {}, {})


def made(seed: int, gain: float, draws: int = 3, count: int = 80) -> Evaluation:
    """MVFA with several draws, a memory baseline with as many, and CLIP; the first is better by `gain`."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    base = rng.standard_normal(count) + 0.5 * labels
    methods = {"clip-pooled": base + 0.3 * rng.standard_normal(count)}
    for draw in range(draws):
        methods[f"4-shot/sound/{draw}"] = base + gain * labels + 0.3 * rng.standard_normal(count)
    for draw in range(draws):
        methods[f"4-memory/sound/{draw}"] = base + 0.3 * rng.standard_normal(count)
    return evaluation(f"set-{seed}", labels, methods)


# --- other test images ---


def test_p_of_a_single_draw_is_delongs_and_holm_runs_over_data_sets():
    evaluations = [made(seed, gain, draws=1) for seed, gain in ((0, 1.2), (1, 0.15), (2, 0.0))]
    table = significance.significance_table(evaluations, ["image_auroc"], baselines=["clip-pooled"])
    raw = [
        delong_test(e.scores["label"], e.scores["4-shot/sound/0"], e.scores["clip-pooled"]).p
        for e in evaluations
    ]
    assert list(table["dataset"]) == ["set-0", "set-1", "set-2", "mean"]
    np.testing.assert_allclose(table["p"][:3], raw)
    np.testing.assert_allclose(table["p_holm"][:3], holm(raw))
    assert list(table["test"]) == ["DeLong"] * 3 + ["bootstrap"]
    assert list(table["mark"][:3]) == ["*" if p < 0.05 else "" for p in holm(raw)]
    assert table["mark"][0] == "*" and table["mark"][2] == ""
    for row, e in zip(table.itertuples(), evaluations, strict=False):
        expected = e.metrics["4-shot/sound"]["image_auroc"] - e.metrics["clip-pooled"]["image_auroc"]
        assert row.difference == pytest.approx(expected) and row.low <= row.difference <= row.high


def test_delong_of_several_draws_tests_their_mean_auroc():
    """By hand: the mean kernel over draws, its placements, DeLong's variance of them."""
    one = made(4, 0.4)
    labels = one.scores["label"].to_numpy() == 1

    def kernel(method):
        scores = one.scores[method].to_numpy()
        gaps = scores[labels][:, None] - scores[~labels]
        return (gaps > 0) + 0.5 * (gaps == 0)

    first = np.mean([kernel(f"4-shot/sound/{d}") for d in range(3)], axis=0)
    second = np.mean([kernel(f"4-memory/sound/{d}") for d in range(3)], axis=0)
    gap = first - second
    variance = gap.mean(axis=1).var(ddof=1) / labels.sum() + gap.mean(axis=0).var(ddof=1) / (~labels).sum()
    p = 2 * norm.sf(abs(gap.mean()) / np.sqrt(variance))
    table = significance.significance_table([one], ["image_auroc"], baselines=["4-memory/sound"])
    assert table["p"].iloc[0] == pytest.approx(p) and table["test"].iloc[0] == "DeLong"
    assert table["difference"].iloc[0] == pytest.approx(gap.mean())


def test_draws_that_are_copies_add_nothing():
    one = made(5, 0.5, draws=1)
    scores = one.scores["4-shot/sound/0"].to_numpy()
    copies = np.stack([scores] * 3)
    labels, other = one.scores["label"], one.scores["clip-pooled"]
    single, several = delong_test(labels, scores, other), delong_test(labels, copies, other)
    assert several.p == pytest.approx(single.p) and several.auc_a == pytest.approx(single.auc_a)


def test_p_values_over_draws_are_uniform_without_difference():
    """Nominal 5 %: draws share images and noise, which must not make the test too eager."""
    rng, found = np.random.default_rng(6), []
    for _ in range(400):
        labels = np.arange(60) % 2
        base = rng.standard_normal(60) + labels
        noise = rng.standard_normal((2, 3, 60))
        found.append(delong_test(labels, *(base + noise)).p)
    assert 0.02 <= np.mean(np.array(found) < 0.05) <= 0.085


def test_pixels_are_tested_by_the_bootstrap():
    labels = np.arange(20) % 2
    scores = {"clip-patch": np.arange(20.0), "4-shot/sound/0": np.arange(20.0) + labels}
    low, high = np.full(99, 0.7), np.linspace(0.71, 0.9, 99)
    one = evaluation("A", labels, scores, {"clip-patch": (0.7, low), "4-shot/sound": (0.8, high)})
    mixed = high - 0.1 * (np.arange(99) < 10)
    other = evaluation("B", labels, scores, {"clip-patch": (0.7, low), "4-shot/sound": (0.8, mixed)})
    table = significance.significance_table([one, other], ["pixel_auroc"])
    # none of 99 resamples at or below zero: 2 * (0 + 1) / 100; ten of them: 2 * (10 + 1) / 100
    assert table["p"][:2].tolist() == pytest.approx([0.02, 0.22])
    assert table["p_holm"][:2].tolist() == pytest.approx([0.04, 0.22])
    assert list(table["mark"][:2]) == ["*", ""] and set(table["test"]) == {"bootstrap"}
    samples = macro_samples([(high - low).astype(np.float32), (mixed - low).astype(np.float32)])
    assert table["low"].iloc[2] == pytest.approx(np.quantile(samples, 0.025), abs=1e-6)


def test_undefined_comparisons_are_said_to_be_so():
    one_class = evaluation(
        "dull", np.zeros(6, int), {"clip-pooled": np.arange(6.0), "4-shot/sound/0": np.arange(6.0)}
    )
    table = significance.significance_table([one_class])
    assert (
        list(table["metric"]) == ["image_auroc"] and table["p_holm"].isna().all() and not any(table["mark"])
    )
    wide = significance.wide_significance(table)
    assert wide.iloc[0, 0] == "undefined: one class only"
    # it takes part neither in the correction nor in the mean
    sound = made(7, 0.5, draws=1)
    both = significance.significance_table([one_class, sound], ["image_auroc"], baselines=["clip-pooled"])
    alone = significance.significance_table([sound], ["image_auroc"], baselines=["clip-pooled"])
    assert both.set_index("dataset").loc["set-7", "p_holm"] == pytest.approx(alone["p"].iloc[0])
    assert both.set_index("dataset").loc["mean", "difference"] == pytest.approx(alone["difference"].iloc[0])


def test_metrics_that_nobody_can_have_have_no_row():
    table = significance.significance_table([made(7, 0.5)], ["pixel_auroc"])
    assert table.empty and "p_holm" in table
    assert significance.wide_significance(table).empty


def test_a_star_follows_the_corrected_test_against_the_stronger_reading():
    evaluations = [made(seed, gain, draws=1) for seed, gain in ((0, 1.2), (1, 0.15), (2, 0.0))]
    table = significance.significance_table(evaluations, ["image_auroc"], baselines=["clip-pooled"])
    expected = {(r.dataset, r.method) for r in table.itertuples() if r.p_holm < 0.05}
    found = significance.marks(evaluations, "image_auroc")
    assert found == expected and ("set-0", "4-shot/sound") in found and ("set-2", "4-shot/sound") not in found
    assert significance.marks(evaluations, "pixel_auroc") == set()


def test_no_difference_from_itself():
    labels, scores = np.arange(30) % 2, np.random.default_rng(8).standard_normal(30)
    same = [evaluation(name, labels, {"clip-pooled": scores, "zero-shot/sound": scores}) for name in "AB"]
    table = significance.significance_table(same, ["image_auroc"])
    assert (table["p"] == 1).all() and (table["difference"] == 0).all() and (table["mark"] == "").all()


def test_every_mvfa_group_meets_every_baseline():
    table = significance.significance_table([made(9, 0.2), made(10, 0.2)])
    pairs = table[["method", "baseline"]].drop_duplicates().to_numpy().tolist()
    assert pairs == [["4-shot/sound", "clip-pooled"], ["4-shot/sound", "4-memory/sound"]]


def test_wide_significance_is_readable():
    table = significance.significance_table([made(0, 1.2), made(2, 0.0)], ["image_auroc"])
    wide = significance.wide_significance(table)
    assert list(wide.columns) == ["set-0", "set-2", "mean"]
    assert "image AUROC: MVFA 4-shot (sound) - CLIP + memory, 4 normal" in wide.index
    assert wide.iloc[0, 0].startswith("+0.") and "* (p < 0.001)" in wide.iloc[0, 0]


# --- other support images ---


def test_draws_by_hand():
    labels = np.array([0, 0, 1, 1])
    methods = {
        "clip-pooled": np.array([0.0, 1, 2, 3]),
        "4-shot/sound/0": np.array([0.0, 1, 2, 3]),  # 1.0
        "4-shot/sound/1": np.array([0.0, 2, 1, 3]),  # 0.75
        "4-shot/sound/2": np.array([2.0, 0, 1, 3]),  # 0.75
    }
    table = significance.draws_table([evaluation("A", labels, methods)])
    assert len(table) == 1
    row = table.iloc[0]
    assert (row["dataset"], row["method"], row["draws"]) == ("A", "4-shot/sound", 3)
    assert row["mean"] == pytest.approx(2.5 / 3) and row["sd"] == pytest.approx(0.25 / np.sqrt(3))
    assert (row["min"], row["max"]) == (0.75, 1.0)
    assert significance.wide_draws(table).iloc[0, 0] == "0.833 (sd 0.144; 0.750 to 1.000)"


# --- other data sets ---


def ranked(values: dict[str, list]) -> list[Evaluation]:
    """One evaluation a place in the lists, with these image AUROCs."""
    count = len(next(iter(values.values())))
    scores = pd.DataFrame({"image": [], "label": []})
    return [
        Evaluation(
            f"set-{i}", {m: {"image_auroc": v[i], "draws": 1} for m, v in values.items()}, scores, {}, {}, {}
        )
        for i in range(count)
    ]


def test_ranks_by_hand():
    evaluations = ranked(
        {"clip-pooled": [0.5, 0.7, 0.6], "winclip": [0.6, 0.7, 0.5], "4-shot/sound": [0.9, 0.6, 0.8]}
    )
    table = significance.rank_table(evaluations, ["image_auroc"]).set_index("method")
    assert table.loc["4-shot/sound", "mean_rank"] == pytest.approx((1 + 3 + 1) / 3)
    assert table.loc["clip-pooled", "mean_rank"] == pytest.approx((3 + 1.5 + 2) / 3)
    assert table.loc["winclip", "mean_rank"] == pytest.approx((2 + 1.5 + 3) / 3)
    assert table["wins"].to_dict() == {"4-shot/sound": 2, "clip-pooled": 1, "winclip": 1}
    assert table.index[0] == "4-shot/sound" and (table["datasets"] == 3).all()


def test_methods_without_the_metric_are_not_ranked():
    evaluations = ranked({"clip-pooled": [None, None], "winclip": [0.6, None], "4-shot/sound": [0.9, None]})
    table = significance.rank_table(evaluations, ["image_auroc"])
    assert list(table["method"]) == ["4-shot/sound", "winclip"] and set(table["datasets"]) == {1}
    assert significance.rank_table(evaluations, ["pixel_auroc"]).empty


def test_critical_difference_is_the_tables():
    """Demsar 2006, table 5(a): q at 5 % is 1.960, 2.343, 2.569, 2.728 for 2 to 5 methods."""
    for methods, q in zip(range(2, 6), (1.960, 2.343, 2.569, 2.728), strict=True):
        expected = q * np.sqrt(methods * (methods + 1) / (6 * 10))
        assert significance.critical_difference(methods, 10) == pytest.approx(expected, abs=1e-3)


def test_rank_statements_tell_what_can_be_told():
    clear = {"clip-pooled": [0.5] * 8, "winclip": [0.6] * 8, "4-shot/sound": list(np.linspace(0.7, 0.9, 8))}
    (sentence,) = significance.rank_statements(ranked(clear), ["image_auroc"])
    assert "MVFA 4-shot (sound) has the best mean rank (1.0 of 3; it leads on 8)" in sentence
    assert sentence.endswith("sets it apart from CLIP, pooled.")
    (sentence,) = significance.rank_statements(ranked({m: [0.5] * 8 for m in clear}), ["image_auroc"])
    assert "no more than chance allows (Friedman, p = 1.000)" in sentence
    assert significance.rank_statements(ranked(clear)[:1], ["image_auroc"]) == []


def test_draws_that_agree_are_told_from_draws_that_do_not():
    labels = np.array([0, 0, 1, 1])
    perfect, half, wrong = np.array([0.0, 1, 2, 3]), np.array([0.0, 2, 1, 3]), np.array([3.0, 2, 1, 0])
    plain = np.array([0.0, 3, 2, 1])  # 0.5

    def one(name, *draws):
        methods = {f"4-shot/sound/{i}": scores for i, scores in enumerate(draws)}
        return evaluation(name, labels, {"clip-pooled": plain} | methods)

    evaluations = [one("A", perfect, half), one("B", perfect, wrong), one("C", wrong, wrong)]
    (sentence,) = significance.draw_statements(evaluations)
    assert "in every draw on A; in some draws only on B (1 of 2); in no draw on C." in sentence
    assert "over 2 support draws" in sentence and "is 0.000 to 0.707" in sentence
    assert significance.draw_statements([one("A", perfect)]) == []
