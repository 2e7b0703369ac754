"""The page of a report in a browser: what is drawn, what a reader does, and what is never run."""

from __future__ import annotations

import base64
import json
import re
import xml.etree.ElementTree as ElementTree
import zlib
from collections import Counter

import pytest
from chromium import DESKTOP, TELEPHONE
from hostile import COLUMN, IMAGE_ID, IMAGE_URL, MARKUP, RECORDS, SCRIPT_ID
from selenium.webdriver.common.keys import Keys

CHARTS = ("phases", "speeds", "lengths", "norms", "neighbours")
FIGURES = (*CHARTS, "map")
COUNT = len(RECORDS)
ONE, NONE = f"1 of {COUNT} points", f"0 of {COUNT} points"
COLOURS = ["length", "flags", "kind", "mass", "image", COLUMN]
SVG = "{http://www.w3.org/2000/svg}"


def test_figures_are_drawn(browser):
    assert browser.texts("figure [data-save]") == ["Save as SVG"] * len(FIGURES)
    for name in FIGURES:
        drawn = browser.find(f'[data-figure="{name}"]').find_elements("css selector", "svg, canvas")
        assert [element.tag_name for element in drawn] == ["canvas" if name == "map" else "svg"]
        assert drawn[0].size["width"] > 600 and drawn[0].size["height"] > 40, name


@pytest.mark.parametrize("screen", [TELEPHONE, DESKTOP])
def test_canvas_is_shown_as_it_is_drawn(browser, screen):
    """Vega finds the point under the mouse by the canvas's own pixels."""
    browser.open(screen)
    drawn = browser.evaluate("""const canvas = document.querySelector('[data-figure="map"] canvas');
      const box = canvas.getBoundingClientRect();
      return [canvas.width - box.width, canvas.height - box.height]""")
    assert drawn == [0, 0]


@pytest.mark.parametrize("screen", [TELEPHONE, DESKTOP])
def test_nothing_is_wider_than_the_screen(browser, screen):
    browser.open(screen)
    assert browser.evaluate("return innerWidth") == screen[0]
    assert browser.evaluate("return document.documentElement.scrollWidth") == screen[0]
    script = """return [...document.querySelectorAll("body *")].filter((element) =>
      !element.closest(".scroll, script, style") &&
      element.getBoundingClientRect().right > innerWidth + 0.5)
      .map((element) => element.outerHTML)"""
    assert browser.evaluate(script) == []


def read_tooltip(browser, name: str, word: str | None = None) -> dict[str, str]:
    """Return what the page says at the point of an id, by label; that of the id is ""."""
    lines, kinds = browser.hover(*browser.locate(word or name, ONE))
    assert kinds == ["b"] + ["div"] * (len(lines) - 1)
    assert lines[0] == name
    return dict(line.split(": ", 1) for line in lines[1:])


@pytest.mark.parametrize("name", [SCRIPT_ID, IMAGE_ID])
def test_hostile_ids_are_shown_as_text(browser, name):
    shown = read_tooltip(browser, name)
    record = next(record for record in RECORDS if record.id == name)
    assert shown["description"] == record.description
    assert shown["kind"] == record.kind
    assert shown["mass"] == f"{record.mass:,}"
    assert shown["image"] == IMAGE_URL
    assert shown["length"] == str(len(record.residues))
    assert shown["file"] == "hostile.fasta" and shown["flags"] == "none"


def test_descriptions_are_shown_as_text_and_cut(browser):
    assert read_tooltip(browser, "markup")["description"] == MARKUP.strip()
    long = read_tooltip(browser, "long_description")
    assert re.fullmatch("long x+…", long["description"]) and len(long["description"]) == 200
    assert "mass" not in long
    assert read_tooltip(browser, "windowed1")["flags"] == "windowed"


def test_tooltip_ends_beside_points(browser):
    x, y = browser.locate(SCRIPT_ID, ONE)
    assert browser.hover(x, y)
    box = browser.find('[data-figure="map"] canvas').rect
    top = browser.evaluate("return scrollY")
    assert browser.hover(box["x"] + 4, box["y"] - top + 4) is None


@pytest.mark.parametrize("name", ["lengths", "norms", "neighbours"])
def test_bars_show_their_counts(browser, name):
    script = """const bars = [...document.querySelectorAll(arguments[0])];
      bars[0].scrollIntoView({block: "center", behavior: "instant"});
      return bars.map((bar) => bar.getBoundingClientRect())
        .map((b) => [b.x + b.width / 2, b.bottom - 2])"""
    bars = browser.evaluate(script, f'[data-figure="{name}"] .mark-rect path')
    shown = [browser.hover(*place)[0] for place in bars]
    assert all(re.match("from: .+to: .+sequences: ", "".join(lines)) for lines in shown)
    assert sum(int(lines[2].removeprefix("sequences: ")) for lines in shown) in (COUNT, COUNT - 2)


def test_search_rings_points_by_id(browser):
    plain = browser.map_picture()
    browser.search(SCRIPT_ID.upper(), ONE)
    one = browser.map_picture()
    browser.search("p1", f"11 of {COUNT} points")
    many = browser.map_picture()
    assert browser.find("#hits").text == "p1, p10, p11, p12, p13, p14, p15, p16, p17, p18, …"
    browser.search("nobody", NONE)
    none = browser.map_picture()
    browser.search("", "")
    assert browser.map_picture() == plain == none
    assert len({plain, one, many}) == 3


def test_every_colour_and_layout_draws(browser):
    assert browser.options("#colour") == COLOURS
    pictures = []
    for layout in browser.options("#layout"):
        browser.choose("#layout", layout)
        for colour in COLOURS:
            browser.choose("#colour", colour)
            pictures.append(browser.map_picture())
    assert len(set(pictures)) == len(pictures) >= len(COLOURS)


def test_quick_changes_end_with_the_last(browser):
    browser.choose("#colour", "kind")
    wanted = browser.map_picture()
    script = """const select = document.getElementById("colour");
      for (const value of arguments[0]) {
        select.value = value;
        select.dispatchEvent(new Event("change"));
      }"""
    browser.evaluate(script, [0, 1, 2, 3, 0, 3, 2])
    assert browser.map_picture() == wanted
    assert len(browser.texts('[data-figure="map"] canvas')) == 1


def read_light_and_dark(browser) -> tuple[dict[str, str], dict[str, str]]:
    """Return the colours of the page on light and on dark screens, by CSS variable."""
    light = json.loads(browser.texts("#figures")[0])["light"]
    browser.emulate("dark")
    script = (
        "return getComputedStyle(document.documentElement).getPropertyValue('--' + arguments[0])"
    )
    return light, {name: browser.evaluate(script, name).strip() for name in light}


def as_numbers(colour: str) -> tuple[int, ...]:
    """Return the red, green and blue of a colour, #rrggbb."""
    return tuple(bytes.fromhex(colour.removeprefix("#")))


def as_rgb(colour: str) -> str:
    """Return a colour, #rrggbb, as a computed style has it."""
    return "rgb({}, {}, {})".format(*as_numbers(colour))


def test_dark_screens_get_dark_colours(browser):
    light_pixels = browser.count_pixels("#1c2330")
    light, dark = read_light_and_dark(browser)
    assert light["ink"] == "#1c2330" != dark["ink"]
    assert browser.style("body", "backgroundColor") == as_rgb(dark["paper"])
    assert browser.count_pixels(light["ink"]) == 0 < browser.count_pixels(dark["ink"])
    label = '[data-figure="norms"] .role-axis-label text'
    assert browser.style(label, "fill") == as_rgb(dark["ink"])
    browser.emulate("light")
    assert browser.style("body", "backgroundColor") == as_rgb(light["paper"])
    assert browser.count_pixels(light["ink"]) == light_pixels > 0


def count_pdf_colours(pdf: bytes) -> Counter[tuple[int, ...]]:
    """Return how often each colour is set for filling on the pages of a PDF by Chromium."""
    colours: Counter[tuple[int, ...]] = Counter()
    for stream in re.findall(rb"/FlateDecode[^>]*>> stream\n(.*?)\nendstream", pdf, re.DOTALL):
        found = re.findall(rb"([\d.]+) ([\d.]+) ([\d.]+) rg\b", zlib.decompress(stream))
        colours.update(tuple(round(255 * float(part)) for part in one) for one in found)
    return colours


def print_page(browser) -> bytes:
    return base64.b64decode(browser.command("Page.printToPDF", printBackground=True)["data"])


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_print_is_light(browser, colours):
    light, dark = read_light_and_dark(browser)
    browser.open(colours=colours)
    pdf = print_page(browser)
    assert pdf.startswith(b"%PDF-") and len(re.findall(rb"/Type /Page\b", pdf)) > 2
    printed = count_pdf_colours(pdf)
    assert printed[as_numbers(light["ink"])] > 20
    assert printed[as_numbers(dark["ink"])] == printed[as_numbers(dark["paper"])] == 0
    browser.emulate(colours, media="print")
    assert browser.style("body", "backgroundColor") == as_rgb(light["paper"])
    assert browser.style("body", "color") == as_rgb(light["ink"])
    assert {browser.style(part, "display") for part in ("nav", "#controls", "button")} == {"none"}


def test_screen_is_as_before_after_print(browser):
    browser.emulate("dark")
    before = browser.map_picture()
    print_page(browser)
    assert browser.map_picture() == before
    assert len(browser.texts('[data-figure="map"] canvas')) == 1


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_saved_as_svg(browser, name):
    browser.emulate("dark")
    path = browser.save(name)
    assert path.name.startswith(f"hostile_{name}")
    text = path.read_text("utf-8")
    root = ElementTree.fromstring(text)
    assert root.tag == f"{SVG}svg" and float(root.get("width")) > 600
    assert "var(" not in text and "<script" not in text and "#1c2330" in text
    groups = [group for group in root.iter(f"{SVG}g") if "mark-symbol" in group.get("class", "")]
    points = [len(group) for group in groups if "role-mark" in group.get("class")]
    assert points == {"map": [COUNT, 0]}.get(name, points)


def test_saved_map_has_rings_of_the_search(browser):
    browser.search("p1", f"11 of {COUNT} points")
    root = ElementTree.parse(browser.save("map")).getroot()
    marks = [group for group in root.iter(f"{SVG}g") if "role-mark" in group.get("class", "")]
    assert [len(group) for group in marks if "mark-symbol" in group.get("class")] == [COUNT, 11]


def test_copy_puts_the_paragraph_on_the_clipboard(browser):
    (paragraph,) = browser.texts("#paragraph")
    assert len(paragraph) > 200
    browser.click("[data-copy]")
    assert browser.texts("[data-copy]") == ["Copied"]
    field = browser.find("#search")
    field.send_keys(Keys.CONTROL, "v")
    assert field.get_property("value") == paragraph
    browser.search("", "")


def test_page_without_javascript_has_its_texts(running, page):
    running.open()
    texts = {name: running.texts(name) for name in ("h2", "section > p", "td", "th", "li")}
    running.command("Emulation.setScriptExecutionDisabled", value=True)
    try:
        running.driver.get(running.url)
        assert {name: running.texts(name) for name in texts} == texts
        assert running.find("noscript p").is_displayed()
        assert not running.find("#controls").is_displayed()
    finally:
        running.command("Emulation.setScriptExecutionDisabled", value=False)
