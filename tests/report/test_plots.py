"""The pictures of results: there, readable, and showing what they were given."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib import colormaps
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from numpy.typing import NDArray
from PIL import Image

from pipeline.report.plots import (
    _divide_stages,
    _draw,
    _draw_training,
    leaderboard_figure,
    learning_curves_figure,
    plain_text,
    plot_leaderboard,
    plot_learning_curves,
)


def curves(*, folds: int, epochs: tuple[int, ...] = (4, 3)) -> pd.DataFrame:
    rows = []
    for fold in range(folds):
        step = 0
        for number, length in enumerate(epochs):
            for epoch in range(length):
                step += 1
                row = {"fold": fold, "number": number, "stage": f"s{number}", "epoch": epoch, "step": step}
                loss = 2.0 / step + 0.3 * fold
                rows.append({**row, "loss": loss, "val_loss": loss + 0.1, "val_score": 1 - 1 / (step + 1 + fold)})
    return pd.DataFrame(rows)


def drawn(frame: pd.DataFrame, folder: Path) -> NDArray[np.uint8]:
    path = plot_learning_curves(frame, folder, title="demo on cards", metric="accuracy", select_on="fold")
    assert path == folder / "learning_curves.png"
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.array(image.convert("RGB"))


def pixels_of(picture: NDArray[np.uint8], fold: int, folds: int) -> int:
    colour = np.array(colormaps["viridis"](0.1 + 0.65 * fold / max(1, folds - 1))[:3]) * 255
    return int((np.abs(picture - colour).max(axis=2) < 3).sum())


def test_epochs_that_make_no_line_are_not_drawn(tmp_path: Path) -> None:
    for frame in (pd.DataFrame(), curves(folds=3, epochs=(1,))):
        assert plot_learning_curves(frame, tmp_path, title="t", metric="accuracy", select_on="last") is None
    assert not list(tmp_path.iterdir())


def test_every_fold_has_a_line_of_its_own_colour(tmp_path: Path) -> None:
    three = drawn(curves(folds=3), tmp_path / "three")
    assert all(pixels_of(three, fold, 3) > 200 for fold in range(3))
    two = curves(folds=3)
    without = drawn(two[two["fold"] != 1], tmp_path / "two")
    assert pixels_of(without, 1, 3) < 50


def test_stages_are_marked_and_other_numbers_give_another_picture(tmp_path: Path) -> None:
    base = curves(folds=1)
    first = drawn(base, tmp_path / "a")
    np.testing.assert_array_equal(first, drawn(base, tmp_path / "again"))
    renamed = base.assign(stage=base["stage"].replace("s1", "large"))
    assert (first != drawn(renamed, tmp_path / "b")).any()
    assert (first != drawn(base.assign(val_score=base["val_score"] / 2), tmp_path / "c")).any()


def test_a_single_epoch_a_stage_is_enough(tmp_path: Path) -> None:
    assert drawn(curves(folds=2, epochs=(1, 1)), tmp_path / "x").shape[2] == 3


def test_epochs_are_whole_numbers_and_no_line_crosses_into_another_stage() -> None:
    axis, frame = Figure().subplots(), curves(folds=2, epochs=(2, 1))
    _draw(axis, frame, "val_loss", "loss")
    _draw_training(axis, frame)
    _divide_stages(axis, frame)
    assert all(float(tick).is_integer() for tick in axis.get_xticks())
    spans = [list(line.get_xdata()) for line in axis.get_lines() if line.get_linestyle() == "--"]
    assert [span for span in spans if span] == [[1, 2], [3]]
    [mean, *_] = [line.get_ydata() for line in axis.get_lines() if line.get_linestyle() == "--"]
    assert list(mean) == pytest.approx([2.15, 1.15])  # of 2.0 and 2.3, of 1.0 and 1.3


def test_epochs_without_a_number_are_left_out(tmp_path: Path) -> None:
    frame = curves(folds=2)
    frame.loc[frame["step"] == 2, ["loss", "val_loss", "val_score"]] = np.nan
    assert drawn(frame, tmp_path / "x").std() > 1


def test_nothing_but_the_picture_is_left(tmp_path: Path) -> None:
    drawn(curves(folds=1), tmp_path / "sub" / "x")
    assert [path.name for path in (tmp_path / "sub" / "x").iterdir()] == ["learning_curves.png"]
    with pytest.raises(KeyError):
        drawn(curves(folds=1).drop(columns="loss"), tmp_path / "y")
    assert not list(tmp_path.glob("y/*"))


def submission(oof: float, *, public: float | None, private: float | None, **more: Any) -> dict[str, Any]:
    scores = {"oof_score": oof, "oof_score_se": 0.01, "public_score": public, "private_score": private}
    return {"server": "kaggle.com", "experiment": "demo", **scores, **more}


def scatter(entries: list[dict[str, Any]], path: Path) -> NDArray[np.uint8]:
    plot_leaderboard(entries, path, title="cards", metric="accuracy")
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.array(image.convert("RGB"))


def rows_of(picture: NDArray[np.uint8], colour: str) -> NDArray[np.intp]:
    """Which rows of pixels hold this colour, without the legend above the axes."""
    found = np.abs(picture - np.array(to_rgb(colour)) * 255).max(axis=2) < 3
    found[:LEGEND] = False
    return np.flatnonzero(found.any(axis=1))


PUBLIC, PRIVATE = "#2a6f97", "#c8553d"
LEGEND = 60  # rows of pixels above the axes


def test_each_board_has_its_colour_and_a_better_score_lies_higher(tmp_path: Path) -> None:
    both = scatter([submission(0.9, public=0.85, private=0.95)], tmp_path / "both.png")
    assert len(rows_of(both, PUBLIC))
    assert len(rows_of(both, PRIVATE))
    assert rows_of(both, PRIVATE).max() < rows_of(both, PUBLIC).min()
    one = scatter([submission(0.9, public=0.85, private=None)], tmp_path / "one.png")
    assert len(rows_of(one, PUBLIC))
    assert not len(rows_of(one, PRIVATE))


def test_the_error_of_the_oof_is_as_wide_as_it_is(tmp_path: Path) -> None:
    def width(error: float | None) -> int:
        # Two far points hold the axes, so that a pixel is worth the same in each picture.
        ends = [submission(end, public=None, private=end, oof_score_se=0.0, experiment="") for end in (0.5, 1.0)]
        entry = submission(0.75, public=0.6, private=None, oof_score_se=error, experiment="")
        picture = scatter([*ends, entry], tmp_path / "x.png")
        found = np.abs(picture - np.array(to_rgb(PUBLIC)) * 255).max(axis=2) < 40  # a thin line is blurred
        found[:LEGEND] = False
        columns = np.flatnonzero(found.any(axis=0))
        return int(columns.max() - columns.min())

    narrow, wide = width(0.05), width(0.1)
    assert wide == pytest.approx(2 * narrow, abs=6)
    assert width(None) < narrow / 3


def test_every_server_has_a_panel(tmp_path: Path) -> None:
    entry = submission(0.9, public=0.85, private=0.95)
    one = scatter([entry], tmp_path / "one.png")
    two = scatter([entry, {**entry, "server": "rehearsal"}], tmp_path / "two.png")
    assert two.shape[0] > 1.7 * one.shape[0]
    assert two.shape[1] == one.shape[1]
    many = [submission(0.9, public=0.85 + number / 1000, private=None) for number in range(40)]
    assert scatter(many, tmp_path / "many.png").std() > 1


def overlaps(figure: Figure) -> list[tuple[str, str]]:
    """Which texts of a figure, as it is drawn, lie over one another or reach beyond its edge."""
    drawn, draw = [], Text.draw

    def noted(text: Text, renderer: Any) -> None:
        drawn.append(text)  # of ticks beyond the limits there are texts, too, which are not drawn
        draw(text, renderer)

    with plain_text(figure), pytest.MonkeyPatch.context() as patch:
        patch.setattr(Text, "draw", noted)
        figure.canvas.draw()
    boxes = {text: text.get_window_extent().padded(-0.5) for text in drawn if text.get_visible() and text.get_text()}
    found = [
        (one.get_text(), other.get_text())
        for one, other in itertools.combinations(boxes, 2)
        if boxes[one].overlaps(boxes[other])
    ]
    edge = figure.bbox.padded(1)
    beyond = [text for text, box in boxes.items() if not (edge.contains(*box.min) and edge.contains(*box.max))]
    return found + [(text.get_text(), "the edge") for text in beyond]


NAMES = ("head", "half", "three-quarters", "all-of-it-with-larger-pictures")


@pytest.mark.parametrize(
    ("epochs", "folds"),
    [
        ((8, 4, 4, 12), 5),
        ((1, 1, 1, 1), 5),
        ((1, 1), 5),
        ((30, 1, 1, 30), 1),
        ((60, 1, 1, 1), 5),
        ((5, 5), 12),
        ((1,), 1),
    ],
)
def test_nothing_in_learning_curves_lies_over_a_name(epochs: tuple[int, ...], folds: int) -> None:
    frame = curves(folds=folds, epochs=epochs)
    names = {f"s{number}": name for number, name in enumerate(NAMES)}
    frame = frame.assign(stage=frame["stage"].map(names))
    figure = learning_curves_figure(frame, title="$x on cards", metric="accuracy", select_on="last")
    assert overlaps(figure) == []
    score = figure.axes[0]
    named = sorted(score.texts, key=lambda text: text.get_window_extent().x0)
    assert [text.get_text()[:12] for text in named] == [name[:12] for name in NAMES[: len(epochs)]]
    # Beside the axes there is nothing that the lines could lie under, and the names have the top to themselves.
    assert not any(axis.get_legend() for axis in figure.axes)
    [legend] = figure.legends
    assert not any(legend.get_window_extent().overlaps(axis.get_window_extent()) for axis in figure.axes)
    top = score.transData.transform((0, frame["val_score"].max()))[1]
    assert all(text.get_window_extent().y0 >= top - 1 for text in score.texts)


def test_names_of_submissions_that_score_alike_do_not_run_into_one_another() -> None:
    entries = [
        submission(0.93 + number / 5000, public=0.92, private=0.91 + number / 4000, experiment=f"a-long-name-{number}")
        for number in range(12)
    ]
    figure = leaderboard_figure(entries, title="cards", metric="accuracy")
    assert overlaps(figure) == []
    assert len({text.get_text() for text in figure.axes[0].texts if text.get_text()}) >= 10
