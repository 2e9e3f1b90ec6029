"""The page of `kit explore`: whole, small enough, and usable in a browser without a network."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.competition import Competition, TrainData
from pipeline.data.explore import Exploration
from pipeline.data.labels import Variant
from pipeline.data.showcase import Showcase
from pipeline.report.explore_page import write_explore_page
from pipeline.report.explore_plots import plot_classes, plot_sizes
from tests.browser import Browser
from tests.report.test_plots import overlaps

NASTY = 'a < b & "c" $\\bad{$ <script>alert(1)</script> 猫'
PARTS = ("part", "id", "label", "path", "height", "width", "format", "mode", "brightness")


def explored(
    *, side: int = 40, samples: int = 8, pairs: int = 3, of_pairs: int = 3, noise: int = 30
) -> tuple[Exploration, Showcase]:
    random = np.random.default_rng(0)
    labels = [NASTY, "b", "a10", "a9"]
    rows = [
        ("train", f"{n:03}.jpg", labels[n % 4], f"/d/{n:03}.jpg", side, side + n % 3, "JPEG", "RGB", float(n % 250))
        for n in range(samples)
    ]
    rows += [("test", f"t{n}.jpg", "", f"/d/t{n}.jpg", side, side, "PNG", "L", 100.0) for n in range(pairs)]
    pictures = pd.DataFrame(rows, columns=list(PARTS))
    shown = {
        path: random.integers(128 - noise, 128 + noise, (side, side, 3)).astype(np.uint8) for path in pictures["path"]
    }
    train = pictures[pictures["part"] == "train"].reset_index(drop=True)
    linked = pd.DataFrame(
        [
            ("near", *pictures.loc[n % samples, list(PARTS[:4])], "test", f"t{n}.jpg", "", f"/d/t{n}.jpg", 2, 0.99)
            for n in range(pairs)
        ],
        columns=[
            *("kind", "part_a", "id_a", "label_a", "path_a", "part_b", "id_b", "label_b", "path_b"),
            *("distance", "correlation"),
        ],
    )
    found = Exploration(
        competition=Competition(slug="odd", train=TrainData(pictures="train")),
        pictures=pictures,
        unreadable=pd.DataFrame([("train", NASTY + ".jpg", "is empty (0 bytes)")], columns=["part", "id", "reason"]),
        pairs=linked,
        contradictory={},
        faults={},
        in_train={"held out": 0, "test": pairs},
        variants=[Variant(NASTY, 2, "b", 1, "w")],
        left_out={"x.jpg": NASTY},
        notes=[NASTY],
        rows=train,
    )
    showcase = Showcase(
        samples=train,
        extremes=train.head(2).assign(extreme="darkest"),
        pairs={"In training and in test": (of_pairs, linked)},
        augment="medium",
        augmented={path: np.stack([shown[path]] * 6) for path in train["path"][:5]},
        pictures=shown,
    )
    return found, showcase


def test_everything_is_written_and_nothing_becomes_markup(tmp_path: Path) -> None:
    page = write_explore_page(tmp_path, *explored(of_pairs=1234))
    names = ["augmented.png", "classes.png", "explore.html", "samples.png", "sizes.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    text = page.read_text("utf-8")
    assert "<script>alert" not in text
    assert "1,234 pairs; the first 3 are shown" in text
    assert "8 pictures of 4 of the 4 classes" in text


@pytest.mark.parametrize("classes", [2, 12, 60, 120])
def test_words_of_the_figures_do_not_lie_over_one_another(classes: int) -> None:
    names = [f"c{number} a car of a long name, convertible" for number in range(classes)]
    counts = pd.DataFrame({"train": [3] * classes, "held out": [1] * classes}, index=names)
    figure = plot_classes(counts)
    assert overlaps(figure) == []
    if classes <= 60:
        assert all(float(tick.get_text()).is_integer() for tick in figure.axes[0].get_xticklabels())
    assert overlaps(plot_sizes(explored()[0].pictures)) == []


def test_a_competition_without_a_readable_picture_has_a_page(tmp_path: Path) -> None:
    found, shown = explored()
    samples, extremes = shown.samples.head(0), shown.extremes.head(0)
    nothing = replace(shown, samples=samples, extremes=extremes, pairs={}, augmented={}, pictures={})
    empty = replace(found, pictures=found.pictures.head(0), pairs=found.pairs.head(0))
    page = write_explore_page(tmp_path, empty, nothing)
    assert [path.name for path in tmp_path.iterdir()] == ["explore.html"]
    assert "the file is missing or cannot be read" in page.read_text("utf-8")


def test_a_page_full_of_noise_stays_below_10_mb(tmp_path: Path) -> None:
    """With as many pictures as `showcase` gives at most."""
    found, shown = explored(side=240, samples=120, noise=127)
    extremes = shown.samples.head(18).assign(extreme="darkest")
    linked = shown.pairs["In training and in test"][1]
    many = pd.concat([linked] * 10).head(30)
    pairs = {f"heading {number}": (30, many) for number in range(5)}
    page = write_explore_page(tmp_path, found, replace(shown, extremes=extremes, pairs=pairs))
    assert page.stat().st_size < 10_000_000


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_page_in_a_browser(tmp_path: Path, browser: Browser, theme: str) -> None:
    page = write_explore_page(tmp_path, *explored())
    browser.open(page, width=1280, theme=theme)
    assert browser.broken_pictures() == []
    assert len(browser.find_all("#unreadable-gallery .missing")) == 1
    sections = [
        "Findings",
        "Classes",
        "Sizes and brightness",
        "Samples",
        "Augmented",
        "Duplicates",
        "Labels",
        "Unreadable",
    ]
    assert [link.text for link in browser.find_all("#sections a")] == sections
    browser.find("#classes-table thead th:nth-child(1) button").click()
    browser.find("#classes-table thead th:nth-child(1) button").click()
    assert browser.column("classes-table", 0) == ["b", "a10", "a9", NASTY]
    browser.find("#classes-table-filter").send_keys("a1")
    assert browser.column("classes-table", 0) == ["a10"]
    browser.find("#samples-gallery-filter").send_keys("003.jpg")
    assert [item.is_displayed() for item in browser.find_all("#samples-gallery > li")].count(True) == 1
    browser.run("document.querySelector('#pairs-1 .enlarge').click()")  # the page scrolls smoothly, which takes time
    assert len(browser.find_all("#enlarged-picture img")) == 2
    assert browser.cut_off() == []
    assert browser.complaints() == []

    browser.open(page, width=390, theme=theme)
    assert browser.overflow() == 0
    assert browser.cut_off() == []
    assert browser.find("#theme").size["height"] < 45  # one line
    assert browser.complaints() == []
