"""The static site on a small made-up results folder."""

from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from mvfa_core.errors import MvfaError
from mvfa_core.site import build_site


@pytest.fixture
def results(tmp_path) -> Path:
    rows = [
        (dataset, method) for dataset in ("Brain<b>", "mean") for method in ("clip-pooled", "4-shot/sound")
    ]
    table = pd.DataFrame(
        [{"dataset": d, "method": m, "value": 0.7, "low": 0.6, "high": 0.8} for d, m in rows]
    )
    (tmp_path / "tables").mkdir()
    for metric in ("image_auroc", "pixel_auroc"):
        table.to_csv(tmp_path / "tables" / f"{metric}.csv", index=False)
    gains = [("image_auroc", "4-shot/sound", "clip-pooled", d, 0.1, 0.05, 0.2) for d in ("Brain<b>", "mean")]
    columns = ["metric", "method", "baseline", "dataset", "difference", "low", "high"]
    pd.DataFrame(gains, columns=columns).to_csv(tmp_path / "tables" / "gain.csv", index=False)
    (tmp_path / "tables" / "findings.md").write_text("- adapters *help*\n")
    (tmp_path / "figures").mkdir()
    for name in ("image_auroc", "pixel_auroc", "roc", "panel-Brain"):
        (tmp_path / "figures" / f"{name}.png").write_bytes(b"png")
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_markdown_cell("# A lesson"), nbformat.v4.new_code_cell("1 + 1")]
    (tmp_path / "notebooks").mkdir()
    for name in ("compare", "evaluate-Brain", "train-Brain-4-shot-sound"):
        nbformat.write(notebook, tmp_path / "notebooks" / f"{name}.ipynb")
    return tmp_path


class Links(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        self.found += [value for key, value in attributes if key in ("href", "src")]


def test_every_link_of_every_page_leads_to_a_file_of_the_results(results):
    assert build_site(results) == 4
    for page in (results / "report").glob("*.html"):
        links = Links()
        links.feed(page.read_text())
        assert links.found
        for link in links.found:
            if not link.startswith(("#", "data:")):
                assert "://" not in link and (page.parent / link).exists(), f"{page.name} -> {link}"


def test_names_are_escaped_and_the_table_is_on_the_landing_page(results):
    build_site(results)
    page = (results / "report" / "index.html").read_text()
    assert "Brain&lt;b&gt;" in page and "Brain<b>" not in page
    assert "0.700 [0.600, 0.800]" in page and "<em>help</em>" in page


def test_building_twice_gives_the_same_bytes_and_leaves_no_scratch(results):
    build_site(results)
    first = {p.name: p.read_bytes() for p in (results / "report").iterdir()}
    build_site(results)
    assert {p.name: p.read_bytes() for p in (results / "report").iterdir()} == first
    assert not (results / "report.part").exists()


def test_a_missing_table_keeps_the_old_site(results):
    build_site(results)
    (results / "tables" / "gain.csv").unlink()
    with pytest.raises(MvfaError, match=r"gain\.csv"):
        build_site(results)
    assert (results / "report" / "index.html").exists()
