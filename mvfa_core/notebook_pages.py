"""A notebook -> the body of a page: its figures as files, its code foldable, nothing that runs or loads."""

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from urllib.parse import quote, urlsplit

import nbformat
from bleach.sanitizer import Cleaner
from bs4 import BeautifulSoup, Tag
from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode

from mvfa_core.errors import MvfaError
from mvfa_core.pictures import Album

# richest first; widgets and scripts need a running notebook, so that their static neighbours are shown
_SHOWN = ["text/html", "image/png", "image/jpeg", "text/plain"]
_WIDGET = "application/vnd.jupyter.widget-view+json"
_FORMULAS = """math mrow mi mn mo ms mtext mspace msup msub msubsup mfrac msqrt mroot mover munder munderover mtable
    mtr mtd mstyle mpadded"""
_WORDS = """p br hr div span pre code em strong b i s sub sup a ul ol li dl dt dd blockquote h1 h2 h3 h4 h5 h6 details
    summary figure figcaption table caption thead tbody tfoot tr th td"""
# what an output may hold; file names of users end up in outputs
_CLEANER = Cleaner(
    tags={*_FORMULAS.split(), *_WORDS.split()},
    attributes={
        "*": ["class", "id", "title"],
        "a": ["href"],
        "details": ["open"],
        "td": ["colspan", "rowspan"],
        "th": ["colspan", "rowspan", "scope"],
        **{
            tag: ["display", "mathvariant", "stretchy", "form", "fence", "columnalign", "width"]
            for tag in _FORMULAS.split()
        },
    },
    protocols={"http", "https"},
    strip=True,
)


@dataclass
class Body:
    """A page's content. headings: (id, level, text) in reading order, the title left out."""

    title: str
    html: str
    headings: list[tuple[str, int, str]] = field(default_factory=list)
    has_code: bool = False


class _Renderer(IPythonRenderer):
    """Markdown with formulas as MathML, which browsers draw without a script."""

    def inline_math(self, body: str) -> str:
        return _formula(body, "inline")

    def block_math(self, body: str) -> str:
        return _formula(body, "block")

    def latex_environment(self, name: str, body: str) -> str:
        return _formula(f"\\begin{{{name}}}{body}\\end{{{name}}}", "block")


def _formula(body: str, display: str) -> str:
    try:
        return convert(body, display=display)
    except Exception:  # the converter has a class of its own for every mishap
        return f"<code>{escape(body)}</code>"


def markdown(text: str, escape: bool = False) -> str:
    """Markdown -> HTML. `escape`: markup inside the text is shown, not obeyed."""
    return MarkdownWithMath(renderer=_Renderer(escape=escape, exclude_anchor_links=True)).render(text)


class _Exporter(HTMLExporter):
    def __init__(self, **options):
        super().__init__(template_name="basic", exclude_anchor_links=True, **options)
        self.register_filter("markdown2html", lambda text: markdown(text))


def read_notebook(path: Path) -> NotebookNode:
    """Raises: MvfaError: the file is no notebook."""
    try:
        return nbformat.read(path, as_version=4)
    except (OSError, ValueError, nbformat.reader.NotJSONError) as error:
        raise MvfaError(f"{path}: is no readable notebook ({error}); run its stage again") from None


def title_of(notebook: NotebookNode, otherwise: str) -> str:
    """The first heading of a notebook."""
    for cell in notebook.cells:
        found = re.search(r"^# +(.+)$", cell.source, re.M) if cell.cell_type == "markdown" else None
        if found:
            return re.sub(r"[*_`]", "", found[1]).strip()
    return otherwise


def render_notebook(
    notebook: NotebookNode,
    title: str,
    album: Album,
    beside: Path,
    pages: Mapping[str, str] | None = None,
    unfolded: bool = False,
) -> Body:
    """The body of a notebook.

    Args:
        notebook: is left as it is.
        title: of the page, in place of the notebook's own.
        album: where its figures go.
        beside: folder that its relative paths start from.
        pages: page of each notebook that has one, by the notebook's name without its ending.
        unfolded: code is shown at once.
    """
    prepared = nbformat.from_dict(notebook)
    prepared.cells = [_prepared(nbformat.from_dict(cell)) for cell in prepared.cells]
    exporter = _Exporter(config={"NbConvertBase": {"display_data_priority": _SHOWN}})
    soup = BeautifulSoup(exporter.from_notebook_node(prepared)[0], "html.parser")
    for unwanted in soup.select("script, style, link, iframe, .prompt"):
        unwanted.decompose()
    for tag in soup.find_all(True):
        tag.attrs = {
            key: value for key, value in tag.attrs.items() if key != "style" and not key.startswith("on")
        }
    first = soup.find("h1")
    if first is not None:
        first.decompose()
    body = Body(title, "", _mark_headings(soup), bool(soup.select(".input_area")))
    _fold_code(soup, unfolded)
    _file_figures(soup, album, beside)
    _frame_tables(soup)
    _turn_links(soup, pages or {})
    body.html = str(soup)
    return body


def _prepared(cell: NotebookNode) -> NotebookNode:
    """Outputs cut down to what a page may show, cleaned of everything that acts."""
    for output in cell.get("outputs", []):
        data = output.get("data")
        if data is None:
            continue
        if "text/markdown" in data and "text/html" not in data:
            data["text/html"] = markdown(data["text/markdown"])
        if _WIDGET in data and not set(data) & {"text/html", "image/png"}:
            data["text/html"] = '<p class="note">A control of the running notebook stands here.</p>'
        if "text/html" in data:
            text = re.sub(r"<(style|script)\b.*?</\1\s*>", "", data["text/html"], flags=re.S | re.I)
            data["text/html"] = _CLEANER.clean(text)
        output["data"] = {kind: data[kind] for kind in _SHOWN if kind in data}
    return cell


def _mark_headings(soup: BeautifulSoup) -> list[tuple[str, int, str]]:
    """Give every heading an id of its own and list them; a second `#` heading steps down a level."""
    found, taken = [], set()
    for heading in soup.find_all(re.compile("^h[1-6]$")):
        if heading.name == "h1":
            heading.name = "h2"
        text = heading.get_text(" ", strip=True)
        stem = anchor(text)
        name, number = stem, 2
        while name in taken:
            name, number = f"{stem}-{number}", number + 1
        taken.add(name)
        heading["id"] = name
        found.append((name, int(heading.name[1]), text))
    return found


def anchor(text: str) -> str:
    """A heading as the fragment of an address.

    >>> anchor("In plain words: is it *so*?")
    'in-plain-words-is-it-so'
    """
    return re.sub(r"[^\w]+", "-", text.lower()).strip("-") or "part"


def _fold_code(soup: BeautifulSoup, unfolded: bool) -> None:
    for area in soup.select("div.input"):
        code = area.find("pre")
        if code is None:
            continue
        code["tabindex"] = "0"
        fold = soup.new_tag("details", attrs={"class": "code"} | ({"open": ""} if unfolded else {}))
        summary = soup.new_tag("summary")
        summary.string = "Code"
        area.wrap(fold)
        fold.insert(0, summary)
    for block in soup.select("pre"):
        block["tabindex"] = "0"


def _nearest_heading(tag: Tag) -> str:
    heading = tag.find_previous(re.compile("^h[1-6]$"))
    return heading.get_text(" ", strip=True) if heading else ""


def _file_figures(soup: BeautifulSoup, album: Album, beside: Path) -> None:
    """Embedded and neighbouring pictures become files of the site; others are left out."""
    seen: dict[str, int] = {}
    for image in soup.find_all("img"):
        data = _picture_bytes(image.get("src", ""), beside)
        if data is None:
            image.replace_with(f"[picture: {image.get('alt', '')}]")
            continue
        kept = album.add(data)
        place = _nearest_heading(image)
        seen[place] = seen.get(place, 0) + 1
        alt = image.get("alt", "")
        if not alt or alt.startswith("No description"):
            alt = f"Figure {seen[place]} of the section: {place}" if place else f"Figure {seen[place]}"
        image.attrs = {**kept, "alt": alt, "loading": "lazy"}
        image.wrap(soup.new_tag("a", attrs={"href": kept["src"], "class": "figure"}))


def _picture_bytes(source: str, beside: Path) -> bytes | None:
    embedded = re.match(r"data:image/[\w.+-]+;base64,(.*)", source, re.S)
    if embedded:
        return None if "svg" in source[:20] else base64.b64decode(embedded[1])
    path = beside / source
    # what is kept as a drawing lies beside it as pixels
    path = path.with_suffix(".png") if path.suffix.lower() == ".svg" else path
    raster = path.suffix.lower() in {".png", ".jpg", ".jpeg", ".webp"}
    return path.read_bytes() if raster and path.is_file() else None


def _turn_links(soup: BeautifulSoup, pages: Mapping[str, str]) -> None:
    """Links to notebooks lead to their pages; those to files that the site does not hold become plain words."""
    for link in soup.find_all("a", href=True):
        address = urlsplit(link["href"])
        page = pages.get(Path(address.path).stem) if address.path.endswith(".ipynb") else None
        if page is not None:
            link["href"] = quote(page) + (f"#{anchor(address.fragment)}" if address.fragment else "")
        elif address.path and not address.scheme and "figure" not in link.get("class", []):
            link.unwrap()


def _frame_tables(soup: BeautifulSoup) -> None:
    """Every table gets a frame that scrolls, reachable by keyboard, with a name."""
    for number, table in enumerate(soup.find_all("table"), 1):
        place = _nearest_heading(table)
        label = f"Table {number}" + (f": {place}" if place else "")
        table.wrap(
            soup.new_tag(
                "div", attrs={"class": "scroll", "tabindex": "0", "role": "region", "aria-label": label}
            )
        )
        del table["border"]
        for cell in table.find_all("td"):
            if len(cell.get_text(strip=True)) > 40:
                cell["class"] = [*cell.get("class", []), "words"]
        head = table.find("thead")
        for corner in head.find_all("th") if head else []:
            # an unnamed corner is no heading
            if not corner.get_text(strip=True):
                corner.name = "td"
