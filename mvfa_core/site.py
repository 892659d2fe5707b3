"""Results -> a static site: no server, nothing from elsewhere, works from the file system."""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from urllib.parse import quote

import jinja2
from nbformat import NotebookNode
from pygments.formatters import HtmlFormatter

from mvfa_core import report
from mvfa_core.errors import MvfaError
from mvfa_core.evaluation import Evaluation
from mvfa_core.gallery_page import (
    FALSE_ALARM_RATE,
    OUTCOMES,
    counts,
    first_choice,
    gallery_cards,
)
from mvfa_core.methods import group_of, method_name
from mvfa_core.notebook_pages import markdown, read_notebook, render_notebook, title_of
from mvfa_core.pictures import Album
from mvfa_core.table_pages import Table, read_tables, split_cell
from mvfa_core.writing import write_text

GROUPS = ("Results", "Data sets", "Runs", "Lessons", "About")
ASSETS = ("site.css", "site.js", "theme.js")
# readable on the site's grounds: contrast of every colour at least 4.5
CODE_STYLES = {"light": "xcode", "dark": "monokai"}
DEMO_BACKBONE = "demo_clip.json"


@dataclass
class Page:
    """One file of the site. headings: (id, level, text), for the search."""

    file: str
    title: str
    group: str
    template: str = "notebook.html.j2"
    notebook: NotebookNode | None = None
    beside: Path = Path()
    dataset: str = ""
    shots: int = 0
    content: dict = field(default_factory=dict)
    headings: list[tuple[str, int, str]] = field(default_factory=list)


def build_site(results: Path, bulk: Path = Path("evaluations"), project: Path = Path()) -> int:
    """Write `<results>/report` anew and return the number of pages; the old site stays until the new one stands.

    Args:
        results: folder of the results.
        bulk: folder of the evaluations' arrays; without it there is no gallery.
        project: folder of the code, whose lessons and ablations get pages where they have been run.

    Raises:
        MvfaError: a table that the landing page shows is missing, or a notebook cannot be read.
    """
    target, scratch = results / "report", results / "report.part"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        pages = _pages(results, bulk, project, scratch)
        _render(pages, scratch)
        _assets(pages, scratch)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    shutil.rmtree(target, ignore_errors=True)
    os.replace(scratch, target)
    return len(pages)


def _pages(results: Path, bulk: Path, project: Path, site: Path) -> list[Page]:
    """Every page in the order of the navigation, with all that its template wants."""
    album = Album(site)
    tables = read_tables(results / "tables", site)
    order = [row[0] for row in tables[0].rows]
    pages = [
        Page(
            "index.html", "Overview", "Results", "index.html.j2", content=_landing(results, tables[0], album)
        ),
        Page("tables.html", "Tables", "Results", "tables.html.j2", content={"tables": tables}),
    ]
    evaluations = _evaluations(results, bulk, order)
    cards = [card for evaluation in evaluations for card in gallery_cards(evaluation, site)]
    if cards:
        content = _gallery(cards, evaluations)
        pages.append(Page("gallery.html", "Heat-map gallery", "Results", "gallery.html.j2", content=content))
    executed = _notebooks((results / "notebooks").glob("*.ipynb"))
    notebooks = [
        *sorted(executed, key=lambda page: (_by(order)(page.dataset), page.shots, page.title)),
        *_notebooks((project / "ablations" / "results" / "notebooks").glob("ablations.ipynb")),
        *_notebooks((project / "notebooks" / "walkthrough").glob("*.ipynb"), "Lessons"),
    ]
    known = {page.file.removesuffix(".html"): page.file for page in notebooks}
    for page in notebooks:
        lesson = page.group == "Lessons"
        body = render_notebook(page.notebook, page.title, album, page.beside, known, unfolded=lesson)
        page.content, page.headings = {"body": body}, body.headings
    about = {"provenance": _provenance(results), "rate": FALSE_ALARM_RATE}
    pages += [
        *notebooks,
        Page("about.html", "How to read this, and limits", "About", "about.html.j2", content=about),
    ]
    return sorted(pages, key=lambda page: GROUPS.index(page.group))


def _notebooks(paths: Iterable[Path], group: str = "") -> list[Page]:
    """Pages of executed notebooks; the name of the file tells what they are about."""
    pages = []
    for path in sorted(paths, key=lambda p: p.stem):
        notebook = read_notebook(path)
        known = (
            {"title": title_of(notebook, _plain(path.stem)), "group": "Lessons"}
            if group
            else _about(path.stem)
        )
        pages.append(Page(f"{path.stem}.html", **known, notebook=notebook, beside=path.parent))
    return pages


def _about(stem: str) -> dict:
    """What the name of a notebook of the pipeline says."""
    run = re.fullmatch(r"train-(.+)-(?:zero|(\d+)-shot)-(\w+)", stem)
    if run:
        name, shots, protocol = run[1], int(run[2] or 0), run[3]
        setting = group_of(method_name(shots, protocol)).replace(f"/{protocol}", f" ({protocol})")
        return {"title": f"{_plain(name)}, {setting}", "group": "Runs", "dataset": name, "shots": shots}
    if stem.startswith("evaluate-"):
        name = stem.removeprefix("evaluate-")
        return {"title": _plain(name), "group": "Data sets", "dataset": name}
    names = {"compare": "Comparison", "ablations": "Ablations"}
    return {"title": names.get(stem, _plain(stem)), "group": "Results"}


def _plain(name: str) -> str:
    return name.replace("_", " ")


def _evaluations(results: Path, bulk: Path, order: list[str]) -> list[Evaluation]:
    """Of every data set whose pictures are there."""
    there = {path.parent.name for path in bulk.glob("*/gallery.npz")}
    found = {path.stem for path in (results / "scores").glob("*.csv")} & there
    return [Evaluation.load(name, results, bulk / name) for name in sorted(found, key=_by(order))]


def _by(order: list[str]) -> Callable[[str], tuple]:
    """A key that sorts names as `order` has them, others behind."""
    return lambda name: (order.index(name) if name in order else len(order), name)


def _landing(results: Path, table: Table, album: Album) -> dict:
    findings = results / "tables" / "findings.md"
    try:
        sentences = re.findall(r"^[-*] (.+)$", findings.read_text(encoding="utf-8"), re.M)
    except OSError:
        raise MvfaError(f"{findings}: is missing; run the compare stage") from None
    figures = results / "figures"
    panels = sorted(figures.glob("panel-*.png"))
    return {
        "table": table,
        "findings": [markdown(sentence, escape=True) for sentence in sentences],
        "figures": {
            name: album.add((figures / f"{name}.png").read_bytes())
            for name in (*report.METRIC_NAMES, "roc")
            if (figures / f"{name}.png").is_file()
        },
        "panels": {_plain(p.stem.removeprefix("panel-")): album.add(p.read_bytes()) for p in panels[:1]},
    }


def _gallery(cards: list, evaluations: list[Evaluation]) -> dict:
    methods = {card.method: card.method_name for card in cards}
    return {
        "cards": cards,
        "methods": methods,
        "datasets": list(dict.fromkeys(card.dataset for card in cards)),
        "outcomes": dict(OUTCOMES.values()),
        "chosen": first_choice(cards),
        "rate": FALSE_ALARM_RATE,
        "counts": [
            (evaluation.dataset, methods[group_of(method)], counts(evaluation, method))
            for evaluation in evaluations
            for method in evaluation.pictured.values()
        ],
    }


def _provenance(results: Path) -> dict:
    """What the runs of the first data set say of the backbone and the versions; empty where nothing does."""
    for path in sorted((results / "provenance").glob("*.json")):
        for run in json.loads(path.read_text(encoding="utf-8")).get("runs", {}).values():
            if "backbone" in run:
                return run
    return {}


def _render(pages: list[Page], site: Path) -> None:
    folder = resources.files("mvfa_core") / "templates"
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(str(folder)), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"address": quote, "plain": _plain, "cell": split_cell}
    navigation = [(group, [page for page in pages if page.group == group]) for group in GROUPS]
    about = next(page for page in pages if page.file == "about.html")
    model = about.content["provenance"].get("backbone", {}).get("model")
    shared = {"navigation": [part for part in navigation if part[1]], "is_demo": model == DEMO_BACKBONE}
    shared["files"] = {page.file for page in pages}
    for page in pages:
        html = environment.get_template(page.template).render(page=page, **shared, **page.content)
        write_text(site / page.file, html)


def _assets(pages: list[Page], site: Path) -> None:
    """Style, scripts, colours of code, and the words that the search looks through."""
    for name in ASSETS:
        shutil.copyfile(resources.files("mvfa_core") / "templates" / name, site / name)
    write_text(site / "code.css", _code_style())
    index = []
    for page in pages:
        headings = page.headings or [(table.name, 2, table.title) for table in page.content.get("tables", ())]
        index.append(
            {
                "file": quote(page.file),
                "title": page.title,
                "group": page.group,
                "parts": [[quote(name), text] for name, _, text in headings],
            }
        )
    write_text(site / "search.js", f"const SEARCH = {json.dumps(index, indent=0)};\n")


def _code_style() -> str:
    """Colours of code in both themes: chosen by the button, or else by the system."""

    def rules(mode: str, scope: str) -> str:
        return HtmlFormatter(style=CODE_STYLES[mode], nobackground=True).get_style_defs(scope)

    system = rules("dark", ":root:not([data-theme]) .highlight")
    return "\n".join(
        (
            rules("light", ".highlight"),
            f"@media (prefers-color-scheme: dark) {{\n{system}\n}}",
            rules("dark", ':root[data-theme="dark"] .highlight') + "\n",
        )
    )
