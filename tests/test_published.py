"""Published figures are data with sources, and stand beside measured ones only where both mean the same."""

import hashlib
import re
from importlib import resources
from pathlib import Path

import pandas as pd
import pytest
from conftest import small_params

from mvfa_core import published
from mvfa_core.errors import MvfaError
from mvfa_core.evaluation import Evaluation
from mvfa_core.settings import Settings, load_settings

ROOT = Path(__file__).parent.parent
PAPER = {"model": "ViT-L-14-336", "weights": "ViT-L-14-336px.pt", "image_size": 240}
DEMO = {"model": "demo_clip.json", "weights": "backbone.safetensors", "image_size": 96}


def measured(backbone: dict, metrics: dict | None = None, dataset: str = "Brain") -> Evaluation:
    provenance = {"runs": {"4-shot/sound/0": {"backbone": backbone}}}
    scores = pd.DataFrame({"image": [], "label": []})
    return Evaluation(dataset, metrics or {}, scores, {}, {}, provenance)


def paper_settings() -> Settings:
    return load_settings(ROOT / "paper" / "params.yaml")


def auroc(value: float, low: float, high: float) -> dict:
    return {"image_auroc": value, "image_auroc_low": low, "image_auroc_high": high, "draws": 1}


# --- the data ---


def test_every_row_has_a_source_and_a_sensible_value():
    table = published.read_published()
    assert len(table) == 150
    assert table.drop(columns="shots").notna().all().all()
    assert (table["source"].str.len() > 10).all()
    assert table["published_percent"].between(0, 100).all()
    assert set(table["setting"]) == set(published.SETTINGS) and set(table["metric"]) == set(published.METRICS)
    assert (table["shots"].isna() == (table["setting"] == "full-normal")).all()
    assert not table.duplicated(["setting", "shots", "method", "dataset", "metric", "source"]).any()


def test_the_table_is_the_given_file():
    """The fingerprint of the file as it was handed over, and some of its figures by hand."""
    content = (resources.files("mvfa_core") / "data" / "published.csv").read_bytes()
    assert (
        hashlib.sha256(content).hexdigest()
        == "192c5abbafec686cac8cb4e05ebdbf95698b301539503f3fd7f4727c9ff09745"
    )
    table = published.published_table("image_auroc", "few-shot", 4).set_index(["method", "dataset", "source"])
    printed = "MVFA paper (CVPR 2024), Table 1"
    assert table.loc[("MVFA", "Brain", printed), "published_percent"] == 92.44
    assert table.loc[("April-GAN", "Liver", printed), "published_percent"] == 53.05
    zero = published.published_table("pixel_auroc", "zero-shot").set_index(["method", "dataset", "source"])
    assert zero.loc[("MVFA", "Retina_RESC", "MVFA paper (CVPR 2024), Table 2"), "published_percent"] == 92.05


def test_names_are_those_of_the_parameter_file():
    assert set(published.read_published()["dataset"]) == set(paper_settings().datasets)


def test_unknown_questions_are_one_line():
    with pytest.raises(MvfaError, match="metric: 'auroc' is none of image_auroc, pixel_auroc"):
        published.published_table("auroc")
    with pytest.raises(MvfaError, match="setting: 'one-shot' is none of"):
        published.published_table(setting="one-shot")


def test_the_spread_between_sources_is_what_the_sentence_says():
    table = published.read_published().query("method == 'MVFA'")
    spread = table.groupby(["setting", "shots", "dataset", "metric"])["published_percent"].agg(["min", "max"])
    _, sentence = published.beside_measured(
        [measured(PAPER, {"zero-shot/paper": auroc(0.8, 0.7, 0.9)})], paper_settings()
    )
    assert f"up to {(spread['max'] - spread['min']).max():.1f} points" in sentence


def test_the_wide_table_says_published_and_keeps_sources():
    table = published.published_table(setting="few-shot")
    wide = published.wide_published(table)
    assert len(wide) == len(table[["method", "source"]].drop_duplicates())
    assert all("(published, %)" in column for column in wide.columns[4:])
    assert wide["Brain, image (published, %)"].ne("-").all()
    assert published.wide_published(published.read_published()).shape[0] > 10


# --- beside measured ones ---


@pytest.mark.parametrize(
    ("backbone", "words"),
    [
        (DEMO, "demo_clip with backbone.safetensors weights"),
        (PAPER | {"weights": "random (seed 0)"}, "random"),
        (PAPER | {"model": "ViT-B-16"}, "ViT-B-16"),
        (PAPER | {"image_size": 336}, "it at 336 instead of 240 px"),
        ({}, "an unnamed model"),
    ],
)
def test_another_backbone_is_refused(backbone, words):
    one = measured(backbone, {"4-shot/paper": auroc(0.92, 0.91, 0.93)})
    table, sentence = published.beside_measured([one], paper_settings())
    assert table is None and words in sentence and "say nothing about one another" in sentence


def test_the_demo_is_refused():
    settings = load_settings(ROOT / "params.yaml")
    one = measured(DEMO, {"4-shot/sound": auroc(0.92, 0.91, 0.93)})
    table, sentence = published.beside_measured([one], settings)
    assert table is None and "not set beside these" in sentence
    # nor do its phantoms become patients by a larger model
    table, sentence = published.beside_measured([measured(PAPER, one.metrics)], settings)
    assert table is None and "phantoms (Brain)" in sentence
    # and one small run among large ones is enough
    assert published.beside_measured([measured(PAPER), measured(DEMO)], paper_settings())[0] is None


def test_untrained_evaluations_are_refused():
    one = measured(PAPER)
    one.provenance = {}
    assert published.beside_measured([one], Settings(**small_params()))[0] is None


def test_the_papers_profile_is_set_beside_by_hand():
    metrics = {
        "4-shot/paper": auroc(0.93, 0.92, 0.94) | {"pixel_auroc": None},
        "4-memory/sound": auroc(0.70, 0.69, 0.71),
        "winclip": auroc(0.6649, 0.6, 0.7),
        "2-shot/paper": auroc(0.5, 0.4, 0.6),
    }
    table, sentence = published.beside_measured([measured(PAPER, metrics)], paper_settings())
    assert re.search("interval, not at the digit", sentence)
    few = table[(table["method"] == "MVFA") & table["source"].str.contains("Table 1")].iloc[0]
    assert few["published_percent"] == 92.44 and few["measured_percent"] == pytest.approx(93)
    assert few["difference_percent"] == pytest.approx(0.56) and few["within"] and few["same_method"]
    assert few["measured_as"] == "MVFA 4-shot (paper)"
    memory = table[table["method"] == "CLIP"].iloc[0]
    assert memory["difference_percent"] == pytest.approx(70 - 74.31) and not memory["within"]
    assert not memory["same_method"]
    assert set(table["metric"]) == {"image_auroc"} and set(table["dataset"]) == {"Brain"}
    assert len(table) == 5  # three sources for MVFA, one for CLIP with memory, one for WinCLIP
    wide = published.wide_beside(table)
    assert wide["measured, %"].iloc[0].count("[") == 1 and "another implementation" in wide.to_string()


def test_nothing_in_common_is_said():
    table, sentence = published.beside_measured(
        [measured(PAPER, {"2-shot/paper": auroc(0.5, 0.4, 0.6)})], paper_settings()
    )
    assert table is None and "no method and shots are in both" in sentence
