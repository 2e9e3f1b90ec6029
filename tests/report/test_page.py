"""The shell of every page: escaped, whole in one file, and usable in a browser by mouse and by keyboard."""

import base64
import io
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from jinja2 import DictLoader, PackageLoader
from matplotlib.figure import Figure
from PIL import Image

from pipeline.report import page as page_module
from pipeline.report.page import Cell, Pair, Picture, data_uri, figure_svg, render_page
from tests.browser import Browser, until

NASTY = """<script>alert("x")</script>&amp;'"`{{ 1 }} 猫 🂡 \u202e"""
EVERYTHING = """
{% extends "base.html.j2" %}{% import "parts.html.j2" as parts %}
{% block content %}
<section id="one"><h2>One</h2>
  {{ parts.table("rows", rows, "All rows", notes={"n": "how many"}, filter="Filter the rows") }}
  {{ parts.figure(svg, "A line") }}
</section>
<section id="two"><h2>Two</h2>
  {{ parts.gallery("pictures", pictures, "All pictures", filter="Filter the pictures") }}
  {{ parts.pairs("pairs", pairs, "Pairs") }}
  {{ parts.facts({"name": name}) }}
</section>
{% endblock %}
"""


def coloured(colour: tuple[int, int, int], *, height: int = 60, width: int = 80) -> np.ndarray:
    return np.full((height, width, 3), colour, dtype=np.uint8)


@pytest.fixture
def html(monkeypatch: pytest.MonkeyPatch) -> str:
    """A page with one of everything, names as nasty as can be."""

    class Both(PackageLoader):
        def get_source(self, environment, template):  # type: ignore[no-untyped-def]
            source = DictLoader({"all.html.j2": EVERYTHING}) if template == "all.html.j2" else super()
            return source.get_source(environment, template)

    monkeypatch.setattr(page_module, "PackageLoader", Both)
    rows = [
        {"class": "b", "n": 10, "share": 0.5, "verdict": Cell("worse", "worse", "bad")},
        {"class": NASTY, "n": 9, "share": None, "verdict": Cell("better", "better", "good")},
        {"class": "a10", "n": 100, "share": 0.25, "verdict": ""},
        {"class": "a9", "n": 1000, "share": 1.0, "verdict": ""},
    ]
    pictures = [
        Picture(data_uri(coloured((250, 0, 0))), "red.jpg", ["true: red"]),
        Picture(None, NASTY, ["true: green"]),
        Picture(data_uri(coloured((0, 0, 250))), "blue.jpg", ["true: blue"]),
    ]
    svg = figure_svg(line(), name="line", label=NASTY)
    pairs = [Pair(pictures[0], pictures[2], ["distance 3"])]
    return render_page("all.html.j2", title=NASTY, rows=rows, pictures=pictures, pairs=pairs, svg=svg, name=NASTY)


def line(title: str = "$ & <b>") -> Figure:
    figure = Figure(figsize=(4, 2))
    figure.subplots().plot([1, 2, 3])
    figure.suptitle(title)
    return figure


@pytest.fixture
def shown(html: str, tmp_path: Path, browser: Browser) -> Iterator[Browser]:
    file = tmp_path / "page.html"
    file.write_text(html, "utf-8")
    browser.open(file)
    yield browser
    assert browser.complaints() == []


def test_nothing_that_is_given_becomes_markup(html: str) -> None:
    assert "alert(" in html
    assert "<script>alert" not in html
    assert html.count("{{ 1 }}") == html.count("猫") > 5


def test_nothing_is_loaded_from_elsewhere(html: str) -> None:
    outside = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?\s*(?!data:|#)([^"')>]+)""", html)
    assert [found for found in outside if "w3.org" not in found and "." in found] == []


def test_a_name_that_is_not_utf_8_breaks_no_page(html: str) -> None:
    page = render_page("base.html.j2", title="caf\udce9")
    assert "<h1>caf?</h1>" in page
    page.encode("utf-8")


def test_a_name_that_the_template_lacks_is_an_error() -> None:
    with pytest.raises(TypeError):
        render_page("base.html.j2")  # type: ignore[call-arg]


def test_a_data_uri_keeps_its_shape_and_colours() -> None:
    uri = data_uri(coloured((200, 40, 10), height=300, width=600), side=100)
    head, data = uri.split(",")
    assert head == "data:image/webp;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        assert image.size == (100, 50)
        assert np.abs(np.array(image.convert("RGB")).mean(axis=(0, 1)) - [200, 40, 10]).max() < 6
    small = data_uri(coloured((0, 0, 0), height=5, width=7))
    with Image.open(io.BytesIO(base64.b64decode(small.split(",")[1]))) as image:
        assert image.size == (7, 5)


def test_figures_of_one_page_share_no_names() -> None:
    first, second = (figure_svg(line(), name=name, label="x") for name in ("first", "second"))
    names = [set(re.findall(r'\bid="([^"]+)"', svg)) for svg in (first, second)]
    assert names[0]
    assert not names[0] & names[1]
    for svg, own in zip((first, second), names, strict=True):
        assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg)) <= own
    assert "$ &amp; &lt;b&gt;" in first


def test_the_page_opens_without_a_network(shown: Browser) -> None:
    assert shown.broken_pictures() == []
    assert len(shown.find_all("#pictures .missing")) == 1
    assert shown.find("#rows tbody tr:nth-child(2) th").text.startswith("<script>alert")
    assert [link.text for link in shown.find_all("#sections a")] == ["One", "Two"]


def test_a_table_is_sorted_by_mouse_and_by_keyboard(shown: Browser) -> None:
    heading = shown.find("#rows thead th:nth-child(2)")
    heading.find_element("css selector", "button").click()
    assert shown.column("rows", 1) == ["1,000", "100", "10", "9"]
    assert heading.get_attribute("aria-sort") == "descending"
    shown.press("\ue007")  # Enter
    assert shown.column("rows", 1) == ["9", "10", "100", "1,000"]
    assert heading.get_attribute("aria-sort") == "ascending"
    shown.press("\ue004", " ")  # Tab, space
    assert shown.column("rows", 2) == ["1.0000", "0.5000", "0.2500", ""]
    shown.press(" ")
    assert shown.column("rows", 2) == ["0.2500", "0.5000", "1.0000", ""]
    assert heading.get_attribute("aria-sort") is None
    shown.find("#rows thead th:nth-child(1) button").click()
    assert [name for name in shown.column("rows", 0) if name[0] in "ab"] == ["a9", "a10", "b"]


def test_a_filter_leaves_what_holds_every_word(shown: Browser) -> None:
    field, count = shown.find("#rows-filter"), shown.find("#rows-filter + output")
    assert count.text == "4"
    field.send_keys("A1")
    assert (shown.column("rows", 0), count.text) == (["a10"], "1 of 4")
    field.clear()
    field.send_keys("worse B")
    assert (shown.column("rows", 0), count.text) == (["b"], "1 of 4")
    field.clear()
    field.send_keys("nothing")
    assert (shown.column("rows", 0), count.text) == ([], "0 of 4")
    shown.find("#pictures-filter").send_keys("blue")
    assert [item.is_displayed() for item in shown.find_all("#pictures > li")] == [False, False, True]


def test_a_picture_is_enlarged_by_keyboard(shown: Browser) -> None:
    shown.run("document.querySelector('#pictures .enlarge').focus()")
    shown.press("\ue007")
    assert shown.find("#enlarged").is_displayed()
    assert "red.jpg" in shown.find("#enlarged-text").text
    shown.press("\ue014")  # right: past the picture that cannot be shown
    assert "blue.jpg" in shown.find("#enlarged-text").text
    assert not shown.find("#next").is_enabled()
    shown.press("\ue00c")  # Escape
    assert not shown.find("#enlarged").is_displayed()
    # The dialog gives the focus back after it has closed.
    until(lambda: shown.run("return document.activeElement.getAttribute('aria-label')") == "Enlarge blue.jpg")
    shown.find("#pairs .enlarge").click()
    assert len(shown.find_all("#enlarged-picture img")) == 2


def test_the_first_key_leads_to_the_content(shown: Browser) -> None:
    shown.run("document.activeElement.blur()")
    shown.find("body").send_keys("\ue004")
    assert shown.run("return document.activeElement.className") == "skip"
    outline = shown.run("return getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_page_fits_a_phone_and_has_two_themes(html: str, tmp_path: Path, browser: Browser, theme: str) -> None:
    file = tmp_path / "page.html"
    file.write_text(html, "utf-8")
    browser.open(file, width=390, theme=theme)
    assert browser.overflow() == 0
    colours = "const style = getComputedStyle(document.body); return [style.backgroundColor, style.color]"
    first = browser.run(colours)
    browser.find("#theme").click()
    second = browser.run(colours)
    dark, light = (first, second) if theme == "dark" else (second, first)
    assert light[0] == "rgb(255, 255, 255)"
    assert sum(map(int, re.findall(r"\d+", dark[0]))) < 100 < 600 < sum(map(int, re.findall(r"\d+", dark[1])))
    assert browser.complaints() == []
