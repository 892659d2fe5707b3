"""Results -> a static site: no server, no script from elsewhere, works from the file system."""

import os
import shutil
from importlib import resources
from pathlib import Path

import jinja2
import nbformat
import pandas as pd
from nbconvert import HTMLExporter
from nbconvert.filters.markdown import markdown2html

from mvfa_core.errors import MvfaError
from mvfa_core.report import METRIC_NAMES, wide, wide_gains


def _templates() -> jinja2.Environment:
    folder = resources.files("mvfa_core") / "templates"
    return jinja2.Environment(loader=jinja2.FileSystemLoader(str(folder)), autoescape=True)


def _table(frame: pd.DataFrame) -> str:
    return frame.to_html(border=0, classes="table", justify="left")


def _read_table(results: Path, name: str) -> pd.DataFrame:
    path = results / "tables" / f"{name}.csv"
    try:
        return pd.read_csv(path)
    except (OSError, ValueError):
        raise MvfaError(f"{path}: table is missing; run the compare stage") from None


def _title(name: str) -> str:
    return name.replace("-", " ").replace("_", " ").capitalize()


def render_notebook(path: Path) -> str:
    """The body of a notebook as HTML: styles come from the site's own sheet."""
    exporter = HTMLExporter(template_name="basic", anchor_link_text="")
    return exporter.from_notebook_node(nbformat.read(path, as_version=4))[0]


def build_site(results: Path) -> int:
    """Write `<results>/report` anew and return the number of pages; the old site stays until the new one stands.

    Raises:
        MvfaError: a table that the landing page shows is missing.
    """
    target, scratch = results / "report", results / "report.part"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    environment = _templates()
    notebooks = sorted(
        (results / "notebooks").glob("*.ipynb"), key=lambda p: (not p.stem.startswith("compare"), p.stem)
    )
    pages = [{"file": f"{path.stem}.html", "title": _title(path.stem), "source": path} for path in notebooks]

    def write(file: str, template: str, **content) -> None:
        html = environment.get_template(template).render(pages=pages, file=file, **content)
        (scratch / file).write_text(html, encoding="utf-8")

    for page in pages:
        write(page["file"], "notebook.html.j2", title=page["title"], body=render_notebook(page["source"]))
    findings = (results / "tables" / "findings.md").read_text(encoding="utf-8")
    write(
        "index.html",
        "index.html.j2",
        title="MVFA against the CLIP baseline",
        findings=markdown2html(findings),
        tables=[(name, _table(wide(_read_table(results, metric)))) for metric, name in METRIC_NAMES.items()],
        gains=_table(wide_gains(_read_table(results, "gain"))),
        figures=[(f"{metric}.png", name) for metric, name in METRIC_NAMES.items()]
        + [("roc.png", "ROC curves")],
        panels=[path.name for path in sorted((results / "figures").glob("panel-*.png"))],
    )
    shutil.copy(resources.files("mvfa_core") / "templates" / "site.css", scratch / "site.css")
    shutil.rmtree(target, ignore_errors=True)
    os.replace(scratch, target)
    return len(pages) + 1
