"""The report as a whole: what it says, what it leaves out and says so, its size, and that it works in a browser."""

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image

from pipeline.data.duplicates import Duplicate
from pipeline.errors import DataError
from pipeline.predictions.store import Experiment, prediction_frame
from pipeline.report.findings import judge_duplicates
from pipeline.report.report_page import FIGURES, MOST_ISSUES, Report, Sources, build_report, write_report
from tests.browser import Browser
from tests.conftest import manifest_scores
from tests.report.test_plots import overlaps

NASTY = """queen <img src=x onerror="alert(1)">&'$a$ 猫\u202e"""
Make = Callable[..., Experiment]


def experiment(
    name: str, labels: list[int], probabilities: NDArray[Any], classes: list[str], **changes: Any
) -> Experiment:
    ids = [f"{row:05}.jpg" for row in range(len(labels))]
    score = float((probabilities.argmax(axis=1) == labels).mean())
    stage = {
        "size": [32, 48],
        "blocks": 4,
        "trainable_parameters": 51_200,
        "parameters": 4_049_564,
        "flops": 12_345_678_901,
        "seconds": 3.5,
        "images_per_second": 120.0,
        "score": score,
        "score_se": 0.01,
    }
    manifest = {
        "competition": "cards",
        "experiment": name,
        "metric": "accuracy",
        "target": "single",
        "greater_is_better": True,
        **manifest_scores(score),
        "floors": {"majority class": {"score": 0.25, "score_se": 0.01}},
        "stages": [
            {"name": "head", "unfrozen": 0, "gain": None, "gain_se": None, **stage},
            {"name": "all", "unfrozen": 4, "gain": 0.02, "gain_se": 0.005, **stage},
        ],
        "classes": classes,
        "recipe": {"backbone": "tiny", "weights": "none", "precision": "float32", "seed": 7, "tta": {"views": []}},
        "fingerprint": "f",
        "data_sha256": "d" * 64,
        "folds_sha256": "e" * 64,
        "versions": {"python": "3.12.1"},
        "created": "2026-02-03T04:05:06+00:00",
        **changes,
    }
    frame = prediction_frame(ids, probabilities, classes, fold=np.arange(len(labels)) % 2)
    return Experiment("cards", name, manifest, frame, frame.iloc[:0].drop(columns="fold"))


def predictions(labels: list[int], classes: int, *, wrong: dict[int, int], sure: float = 0.9) -> NDArray[np.float64]:
    """What is wrong, by row, with the class it is taken for; the rest is right."""
    chosen = np.array([wrong.get(row, label) for row, label in enumerate(labels)])
    found = np.full((len(labels), classes), (1 - sure) / (classes - 1))
    found[np.arange(len(labels)), chosen] = sure
    return found


LABELS = [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]
CLASSES = ["ace", "king", NASTY]


def sources(*experiments: Experiment, labels: list[int] = LABELS, **changes: Any) -> Sources:
    classes = experiments[0].classes
    return Sources(
        experiments=experiments,
        labels={f"{row:05}.jpg": classes[label] for row, label in enumerate(labels)},
        **{"load": lambda key: np.full((20, 30, 3), int(key[:5]) % 256, dtype=np.uint8), **changes},
    )


def good(**changes: Any) -> Experiment:
    return experiment("good", LABELS, predictions(LABELS, 3, wrong={0: 2}), CLASSES, **changes)


def poor(**changes: Any) -> Experiment:
    return experiment(
        "poor", LABELS, predictions(LABELS, 3, wrong={0: 2, 4: 0, 5: 0, 8: 1, 9: 1, 10: 1}), CLASSES, **changes
    )


def pair(id_a: str, id_b: str, correlation: float = 0.99) -> Duplicate:
    return Duplicate(id_a, id_b, "near", 2, correlation)


def curves() -> pd.DataFrame:
    rows = [
        {
            "fold": fold,
            "number": 0,
            "stage": "head",
            "epoch": epoch,
            "step": epoch + 1,
            "loss": 1.0,
            "val_loss": 1.2,
            "val_score": 0.5,
        }
        for fold in range(2)
        for epoch in range(3)
    ]
    return pd.DataFrame(rows)


def text_of(html: str) -> str:
    body = re.sub(r"<(script|style|svg).*?</\1>", " ", html[html.index("<main") :], flags=re.S)
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", " ", body)))


def cells(html: str, table: str) -> list[list[str]]:
    body = re.search(rf'<table id="{table}".*?<tbody>(.*?)</tbody>', html, flags=re.S)
    assert body, f"no table {table}"
    rows = re.findall(r"<tr>(.*?)</tr>", body[1], flags=re.S)
    return [[unescape(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, flags=re.S)] for row in rows]


def test_the_leaderboard_is_that_of_the_comparison() -> None:
    made = build_report(sources(poor(), good()))
    best, other = cells(made.html, "leaderboard-1")
    assert best[:3] == ["good", "0.9167", "0.0798"]  # 11/12 ± √(11/12 · 1/12 / 12)
    assert best[3] == "the best"
    assert (other[0], other[1]) == ("poor", "0.5000")
    assert other[3].startswith("-0.4167 (")
    assert "not distinguishable" in other or "worse" in other
    assert made.summary.startswith("2 experiments of cards, best good: accuracy 0.9167 ± 0.0798; 2 in detail")
    assert "majority class 0.2500" in made.html


def test_the_classes_are_those_computed_by_hand() -> None:
    made = build_report(sources(poor()))
    # ace: of 4 rows 3 right, 1 taken for the third; 5 predicted, as 2 kings were taken for it.
    ace, king, third = cells(made.html, "e1-classes")
    assert ace[1:] == ["4", "0.7500", "0.6000", "0.6667", "0.9000", f"{NASTY} (1×)"]
    assert king[1:] == ["4", "0.5000", "0.4000", "0.4444", "0.9000", "ace (2×)"]
    assert third[1:] == ["4", "0.2500", "0.5000", "0.3333", "0.9000", "king (3×)"]
    assert cells(made.html, "e1-pairs")[0] == [NASTY, "king", "3", "75.0%", "0"]


def test_names_are_never_markup() -> None:
    made = build_report(sources(poor(), good(), duplicates=[pair("00000.jpg", "00004.jpg")]))
    assert "alert(1)" in made.html
    assert not re.search(r"<img src=x", made.html)


def test_the_surest_mistakes_come_first_and_are_counted() -> None:
    found = predictions(LABELS, 3, wrong={0: 2, 5: 0, 9: 1})
    found[5] = [0.98, 0.01, 0.01]
    made = build_report(sources(experiment("some", LABELS, found, CLASSES)))
    mistakes = made.html[made.html.index('id="e1-mistakes"') :]
    assert re.findall(r'alt="(\d+\.jpg)"', mistakes)[:3] == ["00005.jpg", "00000.jpg", "00009.jpg"]
    assert "3 of 3 wrong rows" in text_of(made.html)
    assert "predicted: ace (98.0%)" in text_of(made.html)


def test_an_experiment_on_other_folds_stands_apart_and_the_reason_is_said() -> None:
    made = build_report(sources(good(folds_sha256="x" * 64), poor(), replace(poor(), name="poor-2")))
    assert [row[0] for row in cells(made.html, "leaderboard-1")] == ["poor", "poor-2"]
    assert [row[0] for row in cells(made.html, "leaderboard-2")] == ["good"]
    assert "Made with other folds, so that" in text_of(made.html)
    named = build_report(sources(good(folds_sha256="x" * 64), poor(), replace(poor(), name="poor-2"), named=["good"]))
    assert named.html.count("Chosen by name") == 1
    assert {name for name in named.figures if name.startswith("confusion")} == {"confusion-good"}


def test_the_best_three_are_shown_in_detail_and_the_page_says_so() -> None:
    many = [replace(good() if number else poor(), name=f"e-{number}") for number in range(5)]
    made = build_report(sources(*many))
    assert len(cells(made.html, "leaderboard-1")) == 5
    assert {name for name in made.figures if name.startswith("confusion")} == {f"confusion-e-{n}" for n in (1, 2, 3)}
    assert "In detail: the best 3 of the leaderboard." in text_of(made.html)


def test_a_blend_has_neither_curves_nor_stages() -> None:
    members = [{"experiment": "good", "score": 0.9, "weight": 0.75, "temperature": None}]
    blend = {"method": "mean", "reason": "it is the simplest", "members": members}
    made = build_report(sources(good(stages=[], recipe=None, blend=blend)))
    assert cells(made.html, "e1-members") == [["good", "0.9000", "0.7500", ""]]
    assert set(made.figures) == {"confusion-good", "calibration-good"}
    assert "Learning curves" not in text_of(made.html)


def test_each_stage_has_its_gain() -> None:
    made = build_report(sources(good()))
    steps = cells(made.html, "e1-steps")
    assert [row[3] for row in steps] == ["", "+0.0200 ± 0.0050"]
    aside = good()
    aside.manifest["stages"][1]["left_aside"] = [0]
    aside.manifest["recipe"] |= {"end_on": "best", "stages": [{"name": "all", "monitor": "score"}]}
    html = build_report(sources(aside)).html
    assert [row[0] for row in cells(html, "e1-steps")] == ["head", "all (left aside in 1 fold)"]
    assert "Stages kept: all (folds" in text_of(html)
    costs = cells(made.html, "e1-costs")
    assert costs[1] == ["all", "32×48", "4/4", "4.05 M", "0.0512 M", "12,346 M", "120", "4"]


@pytest.mark.parametrize(
    ("select_on", "weights", "rows"),
    [
        ("fold", "best", "which chose the epochs, too"),
        ("inner", "best", "its inner rows"),
        ("last", "last", "no epoch"),
    ],
)
def test_the_captions_say_what_chose_the_epochs(select_on: str, weights: str, rows: str) -> None:
    made = build_report(sources(good(select_on=select_on), curves={"good": curves()}))
    text = text_of(made.html)
    assert f"Each stage begins with the {weights} weights of the one before" in text
    assert rows in text[text.index("Each line is a fold, by") : text.index("The dashed line")]
    title = made.figures["learning-curves-good"].axes[0].get_title()
    assert title == f"accuracy: {'inner' if select_on == 'inner' else 'held-out'} rows, a line a fold"


def test_who_is_flattered_is_said_beside_the_verdicts() -> None:
    made = build_report(sources(good(select_on="fold"), poor(select_on="inner")))
    assert "by good and not by poor: the former are flattered a little" in text_of(made.html)
    assert "are flattered" not in text_of(build_report(sources(good(), poor())).html)


def test_extra_rows_have_a_column_where_there_are_any() -> None:
    made = build_report(sources(poor(), good(extra_rows={"more": {"0": 40, "1": 40}})))
    assert [row[-4] for row in cells(made.html, "leaderboard-1")] == ["more", ""]
    assert "extra rows more 40" in text_of(made.html)
    assert "extra rows" not in text_of(build_report(sources(poor(), good())).html)


def test_who_has_no_prediction_of_a_row_is_not_asked() -> None:
    """Both are sure that the first row is of the third class; the third experiment has another half of the rows."""
    half = poor(folds_sha256="x" * 64)
    half = replace(half, name="half", oof=half.oof.iloc[4:])
    made = build_report(sources(good(), poor(), half, named=["half", "good", "poor"]))
    issues = made.html[made.html.index('id="issues"') :]
    first = issues[: issues.index("</li>")]
    assert "00000.jpg" in first
    assert "said by 2 of 2" in first
    assert "of 3" in issues


def test_who_hardly_beats_chance_is_not_asked_about_labels() -> None:
    made = build_report(sources(good(), poor(oof_score=0.26)))
    assert "said by" in build_report(sources(good(), poor())).html
    assert "said by" not in made.html  # one experiment alone is asked


def test_rows_without_a_label_are_left_out_and_it_is_said() -> None:
    some = sources(good(), poor())
    fewer = replace(
        some, labels={key: label for key, label in some.labels.items() if key not in ("00000.jpg", "00001.jpg")}
    )
    made = build_report(fewer)
    assert "good: 2 rows have no label or no file any more and are left out." in made.html
    assert "good scored 0.9167 when it was made and 1.0000 with the labels as they are now." in made.html
    with pytest.raises(DataError, match="none of the 12 rows of good"):
        build_report(replace(some, labels={}))


def test_a_picture_that_cannot_be_read_is_named_and_breaks_nothing() -> None:
    made = build_report(sources(poor(), load=lambda key: None))
    assert "<img" not in made.html[made.html.index("<main") :]
    assert made.html.count("the file is missing or cannot be read") >= 6


def test_duplicates_that_disagree_come_first() -> None:
    pairs = [pair("a", "b", 1.0), pair("c", "d", 0.98), pair("e", "f", 0.99), pair("a", "x", 0.985)]
    labels = {"a": "1", "b": "1", "c": "1", "d": "2", "e": "1", "f": "1"}
    predicted = {"a": "1", "b": "1", "c": "1", "d": "1", "e": "1", "f": "2"}
    found = judge_duplicates(pairs, labels=labels, predicted=predicted)
    assert [(one.duplicate.id_a, one.duplicate.id_b, one.differs) for one in found] == [
        ("a", "x", "labels"),
        ("c", "d", "labels"),
        ("e", "f", "predictions"),
        ("a", "b", ""),
    ]
    two = [pair("00001.jpg", "00002.jpg"), pair("00000.jpg", "00004.jpg")]
    made = build_report(sources(good(), duplicates=two))
    assert "2 of 2 pairs; 1 have different labels or predictions" in text_of(made.html)
    both = build_report(sources(poor(), good(), duplicates=two, named=["poor"]))
    assert "The predictions are those of good." in text_of(both.html)
    assert "Pictures that look the same" not in build_report(sources(good())).html


def test_submissions_stand_beside_the_oof_scores() -> None:
    row = {
        "competition": "cards",
        "server": "kaggle.com",
        "experiment": "good",
        "status": "COMPLETE",
        "tag": "0123abcd",
    }
    scores = {"oof_score": 0.9, "oof_score_se": 0.01, "public_score": 0.88, "private_score": None}
    made = build_report(sources(good(), submissions=[{**row, **scores, "sha256": "s"}]))
    assert "leaderboard" in made.figures
    assert cells(made.html, "agreement") == [["kaggle.com", "public", "", "", "1"]]
    assert "OOF against the leaderboard" not in build_report(sources(good())).html


def many_classes(count: int, experiments: int = 1) -> Report:
    """Classes c1, c2, … in the order of their text, some with long names; predictions of any quality."""
    rng = np.random.default_rng(0)
    names = sorted(
        f"c{number}" + " a car of a long name, convertible" * (number % 3 == 0) for number in range(1, count + 1)
    )
    labels = rng.integers(0, count, 300)
    made = []
    for number in range(experiments):
        scores = rng.normal(size=(len(labels), count)) + (5 - number / 4) * np.eye(count)[labels]
        found = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        name = f"e-{number}" + "-of-a-name-that-is-long" * (number % 2)
        made.append(experiment(name, list(labels), found, names))
    shown = {one.name: curves() for one in made}
    return build_report(sources(*made, labels=list(labels), curves=shown, named=[made[0].name]))


def test_classes_stand_in_the_order_of_a_person_with_their_counts() -> None:
    made = many_classes(12)
    shown = [row[0].split()[0] for row in cells(made.html, "e1-classes")]
    assert shown == [f"c{number}" for number in range(1, 13)]
    figure = made.figures["confusion-e-0"].axes[0]
    assert [label.get_text().split()[0] for label in figure.get_yticklabels()] == shown
    rows = {row[0].split()[0]: int(row[1]) for row in cells(made.html, "e1-classes")}
    counted = np.zeros((12, 12), dtype=int)
    for text in figure.texts:
        column, row = text.get_position()
        counted[round(row), round(column)] = int(text.get_text())
    assert list(counted.sum(axis=1)) == [rows[name] for name in shown]
    recall = [float(row[2]) for row in cells(made.html, "e1-classes")]
    np.testing.assert_allclose(counted.diagonal() / counted.sum(axis=1), recall, atol=1e-4)
    drawn = re.search(r'<g class="counts".*?</g>', made.html, flags=re.S)
    assert drawn
    assert [int(one) for one in re.findall(r">(\d+)</text>", drawn[0])] == list(counted[counted > 0])


@pytest.mark.parametrize(("classes", "experiments"), [(2, 1), (12, 5), (30, 1)])
def test_no_figure_has_words_over_words(classes: int, experiments: int) -> None:
    made = many_classes(classes, experiments)
    assert {name: found for name, figure in made.figures.items() if (found := overlaps(figure))} == {}


def test_figures_are_written_and_those_of_earlier_reports_go(page: Path) -> None:
    names = {path.stem for path in (page.parent / FIGURES).glob("*.png")}
    of_each = {f"{kind}-{name}" for kind in ("confusion", "calibration", "gains") for name in ("good", "poor")}
    assert names == {"scores", "learning-curves-good", *of_each}
    for path in (page.parent / FIGURES).glob("*.png"):
        with Image.open(path) as image:
            corner = image.convert("RGB").getpixel((0, 0))
            assert corner == (255, 255, 255)


def test_a_report_of_many_rows_and_classes_stays_small(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    names = [f"class number {number}" for number in range(53)]
    labels = rng.integers(0, 53, 10_000)
    scores = rng.normal(size=(10_000, 53))
    scores[np.arange(10_000), labels] += 3
    found = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    noise = rng.integers(0, 256, (240, 320, 3), dtype=np.uint8)  # nothing is harder to compress
    many = [experiment(f"e-{number}", list(labels), found, names) for number in range(3)]
    began = time.monotonic()
    made = build_report(
        sources(
            *many,
            labels=list(labels),
            load=lambda key: noise,
            duplicates=[pair(f"{row:05}.jpg", f"{row + 1:05}.jpg") for row in range(0, 1000, 2)],
        )
    )
    assert time.monotonic() - began < 60
    assert len(made.html.encode()) < 10e6
    assert made.html.count("<img") > 200
    assert re.search(rf"{MOST_ISSUES} of [\d,]+ rows", made.html)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Beside it lies the figure of an earlier report."""
    folder = tmp_path_factory.mktemp("report")
    made = build_report(sources(poor(), good(), curves={"good": curves()}, duplicates=[pair("00000.jpg", "00004.jpg")]))
    (folder / FIGURES).mkdir()
    (folder / FIGURES / "confusion-gone.png").write_bytes(b"old")
    write_report(made, page=folder / "report.html")
    return folder / "report.html"


@pytest.fixture
def shown(page: Path, browser: Browser) -> Iterator[Browser]:
    browser.open(page)
    yield browser
    assert browser.complaints() == []


def test_the_report_works_in_a_browser(shown: Browser) -> None:
    assert shown.broken_pictures() == []
    assert shown.overflow() == 0
    links = [link.get_attribute("hash") for link in shown.find_all("#sections a")]
    assert links == ["#leaderboard", "#e1", "#e2", "#labels", "#duplicates"]
    assert all(shown.find_all(link) for link in links)
    shown.find("#e2-classes thead th:nth-child(3) button").click()
    assert shown.column("e2-classes", 2) == ["0.7500", "0.5000", "0.2500"]
    shown.find("#e2-pairs-filter").send_keys("king ace")
    assert len(shown.column("e2-pairs", 0)) == 1


def test_a_cell_of_the_confusion_matrix_is_reached_by_keyboard_and_by_mouse(shown: Browser) -> None:
    shown.run("document.querySelector('#e2-matrix').focus()")
    shown.press("\ue015")  # down: the first cell
    assert shown.find("#e2-matrix-readout").text == "true ace → predicted ace: 3 of 4 rows (75.0 %)"
    shown.press("\ue015")
    assert shown.find("#e2-matrix-readout").text == "true king → predicted ace: 2 of 4 rows (50.0 %)"
    shown.press("\ue012")  # left: there is no further cell
    assert "true king → predicted ace" in shown.find("#e2-matrix-readout").text
    middle = "const b = document.querySelector('#e2-matrix svg').getBoundingClientRect(); return [b.width, b.height]"
    assert min(shown.run(middle)) > 3 * 30
    point = """
        const svg = document.querySelector("#e2-matrix svg"), box = svg.getBoundingClientRect();
        const at = (n) => +svg.dataset.label + (n + 0.5) * svg.dataset.cell;
        svg.dispatchEvent(new PointerEvent("pointermove", { clientX: box.left + at(1), clientY: box.top + at(2) }));
    """
    shown.run(point)
    assert shown.find("#e2-matrix-readout").text.endswith("→ predicted king: 3 of 4 rows (75.0 %)")


@pytest.mark.parametrize("classes", [2, 120])
def test_nothing_is_cut_off_and_what_scrolls_says_so(classes: int, browser: Browser, tmp_path: Path) -> None:
    write_report(many_classes(classes, 6), page=tmp_path / "report.html")
    for width, theme in ((1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")):
        browser.open(tmp_path / "report.html", width=width, theme=theme)
        assert browser.overflow() == 0
        assert browser.cut_off() == []
        scrolled = browser.run(
            "return [...document.querySelectorAll('.hint')].filter((one) => one.checkVisibility()).length"
        )
        assert scrolled >= (1 if width == 1280 else 3)
        # All panels of a figure are on the screen.
        assert browser.run("return document.querySelector('.drawing svg').getBoundingClientRect().right") <= width
    assert browser.complaints() == []
