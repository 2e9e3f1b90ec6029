"""The picture of the learning curves: there, readable, and showing what it was given."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image

from pipeline.report.plots import plot_learning_curves


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


def drawn(frame: pd.DataFrame, path: Path) -> NDArray[np.uint8]:
    plot_learning_curves(frame, path, title="demo on cards", metric="accuracy")
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.array(image.convert("RGB"))


def pixels_of(picture: NDArray[np.uint8], fold: int, folds: int) -> int:
    colour = np.array(colormaps["viridis"](0.1 + 0.75 * fold / max(1, folds - 1))[:3]) * 255
    return int((np.abs(picture - colour).max(axis=2) < 3).sum())


def test_every_fold_has_a_line_of_its_own_colour(tmp_path: Path) -> None:
    three = drawn(curves(folds=3), tmp_path / "three.png")
    assert all(pixels_of(three, fold, 3) > 200 for fold in range(3))
    two = curves(folds=3)
    without = drawn(two[two["fold"] != 1], tmp_path / "two.png")
    assert pixels_of(without, 1, 3) < 50


def test_stages_are_marked_and_other_numbers_give_another_picture(tmp_path: Path) -> None:
    base = curves(folds=1)
    first = drawn(base, tmp_path / "a.png")
    np.testing.assert_array_equal(first, drawn(base, tmp_path / "again.png"))
    renamed = base.assign(stage=base["stage"].replace("s1", "large"))
    assert (first != drawn(renamed, tmp_path / "b.png")).any()
    assert (first != drawn(base.assign(val_score=base["val_score"] / 2), tmp_path / "c.png")).any()


@pytest.mark.parametrize("frame", [curves(folds=1, epochs=(1,)), curves(folds=2, epochs=(1, 1))])
def test_a_single_epoch_is_enough(tmp_path: Path, frame: pd.DataFrame) -> None:
    assert drawn(frame, tmp_path / "x.png").shape[2] == 3


def test_epochs_without_a_number_are_left_out(tmp_path: Path) -> None:
    frame = curves(folds=2)
    frame.loc[frame["step"] == 2, ["loss", "val_loss", "val_score"]] = np.nan
    assert drawn(frame, tmp_path / "x.png").std() > 1


def test_nothing_but_the_picture_is_left(tmp_path: Path) -> None:
    drawn(curves(folds=1), tmp_path / "sub" / "x.png")
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["x.png"]
    with pytest.raises(KeyError):
        plot_learning_curves(curves(folds=1).drop(columns="loss"), tmp_path / "y.png", title="", metric="")
    assert not (tmp_path / "y.png").exists()
