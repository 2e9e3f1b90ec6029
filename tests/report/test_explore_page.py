"""The page of `kit explore`: whole, small enough, and usable in a browser without a network."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.report.explore_page import Explored, write_explore_page
from tests.browser import Browser

NASTY = 'a < b & "c" $x$ <script>alert(1)</script> 猫'
PARTS = ("part", "id", "label", "path", "height", "width", "format", "mode", "brightness")


def explored(*, side: int = 40, samples: int = 8, pairs: int = 3, of_pairs: int = 3, noise: int = 30) -> Explored:
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
    return Explored(
        slug="odd",
        findings=[{"finding": "f", "count": 2, "what to do": NASTY}],
        facts={"pictures": "8 train"},
        classes=sorted(labels),
        pictures=pictures,
        samples=train,
        extremes=train.head(2).assign(extreme="darkest"),
        pairs={"In training and in test": (of_pairs, linked)},
        augment="medium",
        augmented={path: np.stack([shown[path]] * 6) for path in train["path"][:5]},
        shown=shown,
        variants=[{"label": NASTY, "rows": 2, "variant": "b", "variant_rows": 1, "why": "w"}],
        unreadable=pd.DataFrame([("train", NASTY + ".jpg", "is empty (0 bytes)")], columns=["part", "id", "reason"]),
        left_out={"x.jpg": NASTY},
        notes=[NASTY],
    )


def test_everything_is_written_and_nothing_becomes_markup(tmp_path: Path) -> None:
    page = write_explore_page(tmp_path, explored(of_pairs=1234))
    names = ["augmented.png", "classes.png", "explore.html", "samples.png", "sizes.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    text = page.read_text("utf-8")
    assert "<script>alert" not in text
    assert "1,234 pairs; the first 3 are shown" in text
    assert "8 pictures of 4 of the 4 classes" in text


def test_a_competition_without_a_readable_picture_has_a_page(tmp_path: Path) -> None:
    full = explored()
    none = {name: getattr(full, name).head(0) for name in ("pictures", "samples", "extremes")}
    empty = Explored(**{**vars(full), **none, "classes": [], "pairs": {}, "augmented": {}, "shown": {}})
    page = write_explore_page(tmp_path, empty)
    assert [path.name for path in tmp_path.iterdir()] == ["explore.html"]
    assert "the file is missing or cannot be read" in page.read_text("utf-8")


def test_a_page_full_of_noise_stays_below_10_mb(tmp_path: Path) -> None:
    """With as many pictures as `showcase` gives at most."""
    full = explored(side=240, samples=120, noise=127)
    extremes = pd.concat([full.samples.head(18)]).assign(extreme="darkest")
    linked = full.pairs["In training and in test"][1]
    many = pd.concat([linked] * 10).head(30)
    pairs = {f"heading {number}": (30, many) for number in range(5)}
    page = write_explore_page(tmp_path, Explored(**{**vars(full), "extremes": extremes, "pairs": pairs}))
    assert page.stat().st_size < 10_000_000


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_page_in_a_browser(tmp_path: Path, browser: Browser, theme: str) -> None:
    page = write_explore_page(tmp_path, explored())
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
    assert browser.complaints() == []

    browser.open(page, width=390, theme=theme)
    assert browser.overflow() == 0
    assert browser.complaints() == []
