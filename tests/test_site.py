"""The static site on a small made-up results folder; `test_browser.py` opens it in a browser."""

import re
import shutil
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from PIL import Image
from site_results import DATASETS, EVIL, evaluation, write_results
from test_stages import LOOKS, STAGES, closure

from mvfa_core.errors import MvfaError
from mvfa_core.evaluation import Evaluation
from mvfa_core.gallery import panel_of, spread_rows
from mvfa_core.gallery_page import FALSE_ALARM_RATE, counts, outcome_of, threshold_of
from mvfa_core.pictures import heat_png, outline
from mvfa_core.site import build_site
from mvfa_core.table_pages import read_table


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """The root of results with a site that no test changes."""
    root = tmp_path_factory.mktemp("site")
    build_site(*write_results(root))
    return root


@pytest.fixture
def fresh(tmp_path) -> tuple[Path, Path, Path]:
    return write_results(tmp_path)


def soup(site: Path, page: str) -> BeautifulSoup:
    return BeautifulSoup((site / page).read_text(encoding="utf-8"), "html.parser")


def pages(site: Path) -> list[str]:
    return sorted(path.name for path in site.glob("*.html"))


def test_every_notebook_lesson_and_topic_has_a_page(built):
    found = pages(built / "results" / "report")
    assert found == sorted(
        [
            *("index.html", "tables.html", "gallery.html", "about.html", "compare.html", "ablations.html"),
            *("01_first.html", "02_second.html"),
            *(f"evaluate-{name}.html" for name in DATASETS),
            *(f"train-{name}-{run}-sound.html" for name in DATASETS for run in ("4-shot", "zero")),
        ]
    )


def test_every_link_leads_to_a_file_of_the_site_itself(built):
    site = built / "results" / "report"
    for page in pages(site):
        links = [tag.get("href") or tag.get("src") for tag in soup(site, page).select("[href], [src]")]
        assert links
        for link in links:
            address = urlsplit(link)
            if address.scheme == "data" or not address.path:
                continue
            file = (site / unquote(address.path)).resolve()
            assert not address.scheme and file.is_file() and file.is_relative_to(site), f"{page} -> {link}"


def test_every_page_has_the_grouped_navigation_with_itself_marked(built):
    site = built / "results" / "report"
    for page in pages(site):
        navigation = soup(site, page).select_one("nav")
        words = navigation.get_text(" ", strip=True)
        assert re.match(r"Results .* Data sets .* Runs .* Lessons .* About ", words), page
        assert [link["href"] for link in navigation.select("[aria-current]")] == [page]
        assert {link["href"] for link in navigation.select("a")} == set(pages(site))


def test_data_sets_and_runs_come_in_the_order_of_the_table(fresh):
    results, bulk, project = fresh
    table = results / "tables" / "image_auroc.md"
    lines = table.read_text().splitlines()
    table.write_text("\n".join([*lines[:2], lines[3], lines[2], *lines[4:]]) + "\n")
    build_site(results, bulk, project)
    links = [link.text for link in soup(results / "report", "index.html").select("nav a")]
    assert links.index("Retina OCT") < links.index("Brain")
    assert links.index("Brain, zero-shot (sound)") < links.index("Brain, 4-shot (sound)")


def test_the_landing_page_shows_table_findings_and_whose_figures_they_are(built):
    page = soup(built / "results" / "report", "index.html")
    row = page.select_one("table.results tbody tr")
    assert row.get_text(" ", strip=True).startswith("Brain 0.700 [0.600, 0.800]")
    assert len(page.select("ol.findings li")) == 3
    assert page.select_one("ol.findings em").text == "help"
    assert "the fourth finding" in page.select_one("details.more").text
    assert "Demo figures." in page.select_one(".demo").text


def test_another_backbone_is_not_called_the_demo(fresh):
    results, bulk, project = fresh
    for path in (results / "provenance").glob("*.json"):
        path.write_text(path.read_text().replace("demo_clip.json", "ViT-L-14-336"))
    build_site(results, bulk, project)
    for page in pages(results / "report"):
        assert "Demo figures" not in (results / "report" / page).read_text()
    assert "ViT-L-14-336" in (results / "report" / "about.html").read_text()


def test_names_that_are_markup_stay_words_on_every_page(built):
    site = built / "results" / "report"
    for page in pages(site):
        tags = soup(site, page)
        assert not tags.select('img[src="x"], [onerror]'), page
        assert all(script.get("src") for script in tags.select("script")), page
    assert EVIL in soup(site, "gallery.html").select_one(".which").text
    assert EVIL in soup(site, "tables.html").text
    assert EVIL in soup(site, "index.html").select_one("ol.findings").text
    assert EVIL in soup(site, "compare.html").text


def test_a_notebook_page_holds_what_the_notebook_shows(built):
    page = soup(built / "results" / "report", "compare.html")
    assert [tag.text for tag in page.select("h1")] == ["Comparison"]
    assert [tag["id"] for tag in page.select("article h2")] == ["second-part", "second-part-2", "third-part"]
    assert page.select("math mfrac") and "$" not in page.select_one("article").text
    assert page.select_one("details.code .highlight .k").text == "for"
    assert page.select_one("article details:not(.code) code").text == "a < b"
    assert page.select_one("article a.figure img")["alt"]
    assert "IntSlider" not in page.text and "A control of the running notebook" in page.text
    assert "a printed line" in page.text


def test_links_between_lessons_lead_to_their_pages_and_others_become_words(built):
    links = soup(built / "results" / "report", "01_first.html").select("article a:not(.figure)")
    assert [(link["href"], link.text) for link in links] == [("02_second.html", "another lesson")]


def test_lessons_show_their_code_and_reports_fold_it(built):
    site = built / "results" / "report"
    assert soup(site, "01_first.html").select("details.code[open]")
    assert not soup(site, "compare.html").select("details.code[open]")


def test_tables_can_be_fetched_in_three_forms(built):
    results = built / "results"
    for ending in ("csv", "md", "tex"):
        source = (results / "tables" / f"gain.{ending}").read_bytes()
        assert (results / "report" / "tables" / f"gain.{ending}").read_bytes() == source
    links = [link["href"] for link in soup(results / "report", "tables.html").select(".downloads a")]
    assert {f"tables/gain.{ending}" for ending in ("csv", "md", "tex")} < set(links)


def test_the_search_knows_titles_and_headings(built):
    text = (built / "results" / "report" / "search.js").read_text()
    for words in ("Comparison", "Second part", "What is seen?", "Image AUROC", "second-part-2"):
        assert words in text


def test_building_twice_gives_the_same_bytes_and_leaves_no_scratch(fresh):
    results = fresh[0]

    def content() -> dict[str, bytes]:
        files = (results / "report").rglob("*")
        return {str(p.relative_to(results)): p.read_bytes() for p in files if p.is_file()}

    build_site(*fresh)
    first = content()
    build_site(*fresh)
    assert content() == first and len(first) > 40
    assert not (results / "report.part").exists()


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda results: (results / "tables" / "image_auroc.md").unlink(), r"image_auroc\.md"),
        (lambda results: (results / "tables" / "findings.md").unlink(), r"findings\.md"),
        (lambda results: (results / "notebooks" / "compare.ipynb").write_text("{"), r"compare\.ipynb"),
    ],
)
def test_what_is_missing_or_broken_is_named_and_the_old_site_stays(fresh, spoil, says):
    results = fresh[0]
    build_site(*fresh)
    spoil(results)
    with pytest.raises(MvfaError, match=says):
        build_site(*fresh)
    assert (results / "report" / "index.html").exists() and not (results / "report.part").exists()


def test_without_pictures_lessons_and_ablations_the_rest_is_built(fresh):
    results, bulk, project = fresh
    for folder in (bulk, project / "notebooks", project / "ablations"):
        shutil.rmtree(folder)
    build_site(results, bulk, project)
    found = pages(results / "report")
    assert "compare.html" in found and "gallery.html" not in found and "01_first.html" not in found


def test_the_gallery_tells_each_card_as_the_scores_do(built):
    cards = soup(built / "results" / "report", "gallery.html").select(".card")
    assert len(cards) == 2 * 12 * 3
    loaded = {n: Evaluation.load(n, built / "results", built / "evaluations" / n) for n in DATASETS}
    runs = {
        "clip-patch": "clip-patch",
        "zero-shot/sound": "zero-shot/sound",
        "4-shot/sound": "4-shot/sound/0",
    }
    for card in cards:
        scores = loaded[card["data-dataset"]].scores.set_index("image")
        column = runs[card["data-method"]]
        # two of twenty normal images may be flagged; the threshold lies halfway to the third
        threshold = scores.loc[scores["label"] == 0, column].sort_values().iloc[-3:-1].mean()
        row = scores.loc[card.select_one(".which").text]
        truth = {
            (1, True): "hit",
            (1, False): "miss",
            (0, True): "alarm",
            (0, False): "correct",
        }[row["label"], row[column] >= threshold]
        assert card["data-outcome"] == truth
        assert f"score {row[column]:.3g}" in card.text
        assert bool(card.select(".edge")) == (card["data-dataset"] == "Brain" and row["label"] == 1)
    assert {card["data-outcome"] for card in cards} == {"hit", "miss", "alarm", "correct"}


def test_the_threshold_flags_at_most_a_tenth_of_the_normal_images():
    one = evaluation("Brain", True, images=60)
    for method in one.pictured.values():
        normal = one.scores.loc[one.scores["label"] == 0, method]
        threshold = threshold_of(one, method)
        assert np.mean(normal >= threshold) == pytest.approx(FALSE_ALARM_RATE)
        found = counts(one, method)
        assert sum(found.values()) == 60 and found["false alarm"] == 3
    assert outcome_of(True, 0.5, 0.5) == ("hit", "hit") and outcome_of(False, 0.4, 0.5)[0] == "correct"


def test_the_choice_covers_both_classes_and_is_denser_where_false_alarms_are():
    labels = np.repeat([0, 1], 100)
    scores = np.r_[np.arange(100), np.arange(100)].astype(float)
    rows = spread_rows(labels, scores, 18)
    abnormal, normal = rows[:9], rows[9:]
    assert (labels[abnormal] == 1).all() and (labels[normal] == 0).all()
    assert scores[abnormal[0]] == 99 and scores[abnormal[-1]] == 0
    assert (scores[normal] >= 90).sum() >= 3 and scores[normal[-1]] == 0
    assert len(set(rows)) == 18


@pytest.mark.parametrize(
    ("labels", "count", "expected"), [([1, 1, 1], 4, 2), ([0, 0], 6, 2), ([0, 1], 18, 2)]
)
def test_few_images_or_one_class_give_what_there_is(labels, count, expected):
    labels = np.array(labels)
    assert len(spread_rows(labels, np.arange(len(labels), dtype=float), count)) == expected


def test_a_panel_is_a_part_of_the_gallery():
    one = evaluation("Brain", True)
    panel = panel_of(one.gallery, one.scores["label"].to_numpy())
    assert panel["rows"].tolist() == [1, 5, 7, 11, 0, 10]
    assert len(panel["images"]) == len(panel["map:clip-patch"]) == 6
    assert panel["range:clip-patch"].shape == (2,)


def test_a_mask_is_outlined_along_its_pixels_edges():
    mask = np.zeros((8, 8), dtype=np.uint8)
    mask[2:5, 3:8] = 1
    numbers = np.array([float(n) for n in re.findall(r"[\d.]+", outline(mask))]).reshape(-1, 2)
    assert numbers[:, 0].min() == 3 and numbers[:, 0].max() == 8
    assert numbers[:, 1].min() == 2 and numbers[:, 1].max() == 5
    assert outline(np.zeros((8, 8))) == ""


def test_a_heat_map_is_drawn_on_its_own_scale(tmp_path):
    (tmp_path / "heat.png").write_bytes(heat_png(np.array([[0.0, 1.0], [2.0, 9.0]]), 0, 2, "gray"))
    drawn = np.asarray(Image.open(tmp_path / "heat.png").convert("L"))
    assert drawn.tolist() == [[0, 128], [255, 255]]


def test_a_table_is_read_as_it_was_saved(built):
    table = read_table(built / "results" / "tables", "image_auroc")
    saved = pd.read_csv(built / "results" / "tables" / "image_auroc.csv")
    assert table.head[0] == "data set" and [row[0] for row in table.rows] == list(saved["dataset"].unique())


def test_the_report_stage_lists_the_modules_that_make_pages():
    listed = {Path(dependency).stem for dependency in STAGES["report"]["deps"] if "mvfa_core/" in dependency}
    made_by = closure({"site"}, LOOKS | {"evaluation"}) - {"errors", "evaluation", "writing"}
    assert {"gallery_page", "notebook_pages", "pictures"} < made_by <= listed
