"""The report as a person meets it: in Chromium, from the file system, in both themes, at two widths.

The site is built from small results, and looked at a second time as it lies in `results/report`. MVFA_REPORT names
another report to be looked at. Without Chromium the tests are skipped; where MVFA_REQUIRE_BROWSER is set, as in the
continuous integration, they fail instead.
"""

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, Request, sync_playwright
from site_results import DATASETS, write_results

from mvfa_core.site import build_site

pytestmark = pytest.mark.slow
REPORT = Path(os.environ.get("MVFA_REPORT", Path(__file__).parent.parent / "results" / "report"))
NAMES = ("chromium", "chromium-browser", "google-chrome")
WIDE, NARROW = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
# of a large report one page of each kind is enough for what depends on the kind
KINDS = ("index", "tables", "gallery", "compare", "about", "ablations", "evaluate-", "train-", "0")


@pytest.fixture(scope="module")
def browser():
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        reason = (
            f"no Chromium: none of {', '.join(NAMES)} is on the PATH; on Debian: apt-get install chromium"
        )
        if os.environ.get("MVFA_REQUIRE_BROWSER"):
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as driver:
        options = ["--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND"]
        running = driver.chromium.launch(executable_path=program, args=options)
        yield running
        running.close()


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("browser")
    build_site(*write_results(root))
    return root / "results" / "report"


@dataclass
class Witness:
    """What went wrong or out while pages of a context were open."""

    noises: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def watch(self, page: Page) -> None:
        page.on("console", lambda m: self.noises.append(f"{page.url}: {m.type}: {m.text}"))
        page.on("pageerror", lambda error: self.noises.append(f"{page.url}: {error}"))
        page.on("requestfailed", lambda request: self.fail(page, request))
        page.on("dialog", lambda dialog: (self.noises.append(f"{page.url}: dialog"), dialog.dismiss()))
        page.on("request", lambda request: self.requests.append(request.url))

    def fail(self, page: Page, request: Request) -> None:
        # a picture that was still on its way when the page was left
        if request.failure != "net::ERR_ABORTED":
            self.noises.append(f"{page.url}: {request.failure}: {request.url}")

    def check(self) -> None:
        assert self.noises == []
        assert [url for url in self.requests if urlsplit(url).scheme not in ("file", "data")] == []
        assert self.requests


@pytest.fixture
def opened(browser, small):
    """A page that can be led through the small site, watched until the test ends."""
    witness = Witness()
    context = browser.new_context(viewport=WIDE)
    context.on("page", witness.watch)
    page = context.new_page()
    page.goto((small / "index.html").as_uri())
    yield page
    context.close()
    witness.check()


def walk(page: Page, site: Path) -> dict[str, list[str]]:
    """Follow every link from the landing page; the pages found, with the fragments that links ask of them."""
    asked: dict[str, set[str]] = {"index.html": set()}
    waiting, there = ["index.html"], {}
    while waiting:
        name = waiting.pop()
        page.goto((site / name).as_uri())
        there[name] = page.eval_on_selector_all("[id]", "all => all.map(one => one.id)")
        for link in page.eval_on_selector_all("a[href]", "all => all.map(one => one.getAttribute('href'))"):
            address, fragment = urldefrag(urljoin((site / name).as_uri(), link))
            if urlsplit(address).scheme in ("http", "https"):
                continue
            target = Path(unquote(urlsplit(address).path))
            assert target.is_file(), f"{name}: link to {link}"
            if target.suffix == ".html":
                assert target.is_relative_to(site), f"{name}: link to {link}"
                known = str(target.relative_to(site))
                if known not in asked:
                    waiting.append(known)
                asked.setdefault(known, set()).add(unquote(fragment))
    for name, fragments in asked.items():
        # a choice of the gallery is no place on its page
        lost = {f for f in fragments - {""} if "=" not in f} - set(there[name])
        assert not lost, f"{name} has no {lost}"
    return there


def one_of_each_kind(site: Path) -> list[str]:
    names = sorted(path.name for path in site.glob("*.html"))
    return [found for kind in KINDS if (found := next((n for n in names if n.startswith(kind)), None))]


def overflow(page: Page) -> int:
    """Pixels by which the page is wider than its window."""
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


def broken_pictures(page: Page) -> list[str]:
    """Pictures that are on show but cannot be drawn; those further down are fetched as well."""
    return page.evaluate("""async () => {
        const all = [...document.images].filter((one) => one.checkVisibility());
        for (const one of all) one.loading = "eager";
        const drawn = await Promise.allSettled(all.map((one) => one.decode()));
        return all.filter((_, i) => drawn[i].status === "rejected").map((one) => one.src);
    }""")


def shown(page: Page, selector: str) -> int:
    return page.locator(f"{selector}:visible").count()


def serious(page: Page) -> list[str]:
    found = Axe().run(page).response["violations"]
    return [
        f"{page.url}: {one['id']}: {node['html'][:200]}"
        for one in found
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]


def look_at(browser: Browser, site: Path, audited: list[str]) -> None:
    """Links, noises, requests and widths of all pages; accessibility of the audited ones in both themes."""
    witness = Witness()
    context = browser.new_context(viewport=WIDE)
    context.on("page", witness.watch)
    page = context.new_page()
    found = walk(page, site)
    assert set(found) == {path.name for path in site.glob("*.html")}
    for width in (WIDE, NARROW):
        page.set_viewport_size(width)
        for name in found:
            page.goto((site / name).as_uri())
            assert overflow(page) <= 0, f"{name} at {width['width']} px"
            assert broken_pictures(page) == [], name
    context.close()
    witness.check()
    for scheme in ("light", "dark"):
        context = browser.new_context(viewport=WIDE, color_scheme=scheme)
        page = context.new_page()
        for name in audited:
            page.goto((site / name).as_uri())
            page.eval_on_selector_all("details", "all => all.forEach(one => one.open = true)")
            assert serious(page) == [], scheme
        context.close()


def test_the_small_site_in_every_way(browser, small):
    look_at(browser, small, sorted(path.name for path in small.glob("*.html")))


def test_the_report_in_the_repository_in_every_way(browser):
    assert (REPORT / "index.html").is_file(), "no report; run `make results`"
    look_at(browser, REPORT, one_of_each_kind(REPORT))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_main_table_is_visible_at_once(browser, scheme):
    context = browser.new_context(viewport=WIDE, color_scheme=scheme)
    page = context.new_page()
    page.goto((REPORT / "index.html").as_uri())
    box = page.locator("table.results").first.bounding_box()
    assert box["y"] > 0 and box["y"] + box["height"] <= WIDE["height"]
    assert box["x"] + box["width"] <= WIDE["width"]
    context.close()


def test_the_report_is_small_enough_to_send():
    assert sum(path.stat().st_size for path in REPORT.rglob("*") if path.is_file()) < 8e6


def test_search_finds_titles_and_headings_by_keyboard(opened):
    opened.get_by_role("searchbox").fill("third comparison")
    link = opened.locator("#results a")
    assert link.count() == 1 and "Third part" in link.text_content()
    assert opened.locator("#found").text_content() == "1 found"
    opened.keyboard.press("ArrowDown")
    opened.keyboard.press("Enter")
    opened.wait_for_url("**/compare.html#third-part")
    opened.get_by_role("searchbox").fill("no such words")
    assert opened.locator("#results").text_content() == "Nothing found"
    opened.keyboard.press("Escape")
    assert shown(opened, "#results") == 0


def test_the_gallery_is_filtered_by_data_set_method_and_outcome(opened, small):
    opened.goto((small / "gallery.html").as_uri())
    assert shown(opened, ".card") == 24 and opened.locator("#method").input_value() == "4-shot/sound"
    opened.select_option("#dataset", "Brain")
    assert shown(opened, ".card") == 12
    opened.select_option("#method", "")
    assert shown(opened, ".card") == 36
    total = 0
    for outcome in ("hit", "miss", "alarm", "correct"):
        opened.select_option("#outcome", outcome)
        badges = opened.locator(".card:visible .badge").all_text_contents()
        names = {"alarm": "false alarm", "correct": "correct rejection"}
        assert set(badges) <= {names.get(outcome, outcome)}
        assert opened.locator("#shown").text_content().startswith(f"{len(badges)} of")
        assert opened.locator("#none").is_visible() == (not badges)
        total += len(badges)
    assert total == 36
    assert "outcome=correct" in opened.url


def test_an_address_opens_the_gallery_with_its_choice(opened, small):
    name = list(DATASETS)[1]
    opened.goto((small / f"evaluate-{name}.html").as_uri())
    opened.get_by_role("link", name="Heat maps of").click()
    opened.wait_for_url("**/gallery.html#*")
    assert opened.locator("#dataset").input_value() == name
    assert shown(opened, f".card[data-dataset={name}]") == shown(opened, ".card") == 12


def test_sliders_lead_from_image_to_map_by_keyboard(opened, small):
    opened.goto((small / "gallery.html").as_uri())
    card = opened.locator(".card:visible").first
    opacity = "one => Number(getComputedStyle(one).opacity)"
    heat, slider = card.locator(".heat"), card.locator("input")
    assert heat.evaluate(opacity) == 0.5
    slider.focus()
    opened.keyboard.press("End")
    assert heat.evaluate(opacity) == 1 and slider.get_attribute("aria-valuetext") == "100 % map"
    opened.keyboard.press("Home")
    opened.keyboard.press("ArrowRight")
    assert heat.evaluate(opacity) == 0.01
    opened.locator("#all").focus()
    opened.keyboard.press("End")
    assert {one.evaluate(opacity) for one in opened.locator(".card:visible .heat").all()} == {1}
    opened.locator("#edges").uncheck()
    assert shown(opened, ".edge") == 0


def test_the_theme_is_chosen_and_remembered(opened, small):
    ground = "() => getComputedStyle(document.body).backgroundColor"
    opened.emulate_media(color_scheme="light")
    light = opened.evaluate(ground)
    button = opened.locator("#theme")
    button.click()
    button.click()
    assert "dark" in button.text_content()
    dark = opened.evaluate(ground)
    assert dark != light
    opened.goto((small / "tables.html").as_uri())
    assert opened.evaluate(ground) == dark and "dark" in button.text_content()
    button.click()
    assert "auto" in button.text_content() and opened.evaluate(ground) == light
    opened.emulate_media(color_scheme="dark")
    assert opened.evaluate(ground) == dark


def test_code_unfolds_at_once(opened, small):
    opened.goto((small / "compare.html").as_uri())
    assert shown(opened, "details.code pre") == 0
    opened.locator(".fold-all").click()
    assert shown(opened, "details.code pre") == opened.locator("details.code").count() > 0
    assert opened.locator(".fold-all").text_content() == "Hide all code"


def test_on_a_phone_the_menu_opens_and_the_first_column_stays(opened, small):
    opened.set_viewport_size(NARROW)
    opened.goto((small / "tables.html").as_uri())
    assert shown(opened, "#navigation") == 0
    opened.get_by_role("button", name="Menu").click()
    assert shown(opened, "#navigation a") == opened.locator("nav p.group + ul a").count() > 5
    opened.goto((small / "compare.html").as_uri())
    frame = opened.locator(".scroll").first
    frame.evaluate("one => one.scrollLeft = 200")
    edge = frame.evaluate("one => one.getBoundingClientRect().left")
    first = frame.locator("tbody th").first.evaluate("one => one.getBoundingClientRect().left")
    assert frame.evaluate("one => one.scrollLeft") == 200
    assert abs(first - edge) <= 2


def test_without_scripts_everything_can_be_read(browser, small):
    context: BrowserContext = browser.new_context(viewport=NARROW, java_script_enabled=False)
    page = context.new_page()
    page.goto((small / "gallery.html").as_uri())
    assert shown(page, "#navigation a") > 5 and shown(page, ".card") == 24
    assert shown(page, "#theme") == shown(page, ".filters") == shown(page, "#search") == 0
    context.close()
