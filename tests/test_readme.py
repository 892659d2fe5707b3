from pathlib import Path

import pytest

from mvfa_core.errors import MvfaError
from mvfa_core.readme import DOCUMENTS, embed

ROOT = Path(__file__).parent.parent


def test_embedding_fills_and_refills_a_block(tmp_path):
    (tmp_path / "gain.md").write_text("| a |\n")
    once = embed("x\n<!-- gain: begin -->\nold\n<!-- gain: end -->\ny\n", tmp_path)
    assert once == "x\n<!-- gain: begin -->\n\n| a |\n\n<!-- gain: end -->\ny\n"
    assert embed(once, tmp_path) == once


def test_a_missing_table_is_one_line(tmp_path):
    with pytest.raises(MvfaError, match=r"gain\.md"):
        embed("<!-- gain: begin -->\n<!-- gain: end -->", tmp_path)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_shows_the_tables_that_the_repository_holds(name):
    document = (ROOT / name).read_text()
    assert embed(document, ROOT / DOCUMENTS[name]) == document, "run `python -m mvfa_core.readme`"
    assert ": begin -->" in document


def test_every_local_link_of_the_documents_leads_somewhere():
    import re

    for document in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name} -> {target}"
