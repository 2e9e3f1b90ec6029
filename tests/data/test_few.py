"""A competition cut down: few rows of each class and fold, in the folds of the whole."""

from pathlib import Path

import pytest

from pipeline.competition import Competition
from pipeline.data.competition_data import load_data
from pipeline.data.few import ROWS, few_rows
from tests.conftest import make_pictures, write_competition, write_table


def test_few_rows_of_each_class_and_fold(tiny_competition: Competition, tmp_path: Path) -> None:
    write_table(tiny_competition.quarantine_file, "id,reason", "000.jpg,blurred")
    whole = load_data(tiny_competition)
    before = sorted(tiny_competition.folder.iterdir())
    few = load_data(few_rows(tiny_competition, whole, root=tmp_path / "few"))
    assert sorted(tiny_competition.folder.iterdir()) == before
    assert few.classes == whole.classes
    assert "000.jpg" not in set(few.train["id"])
    counts = few.train.assign(fold=few.folds.frame["fold"]).groupby(["label", "fold"]).size()
    assert counts.tolist() == [ROWS] * 6
    folds = dict(zip(whole.folds.frame["id"], whole.folds.frame["fold"], strict=True))
    assert all(folds[row.id] == row.fold for row in few.folds.frame.itertuples())
    assert few.test.empty


@pytest.mark.parametrize("held_out", [1, ROWS + 2])
def test_a_predefined_split_stays(held_out: int, tmp_path: Path) -> None:
    competition = write_competition(tmp_path, "split", train={"pictures": "train", "held_out_pictures": "valid"})
    make_pictures(competition.data / "train", {"blue": 6, "red": 5})
    make_pictures(competition.data / "valid", {"blue": held_out, "red": held_out})
    few = load_data(few_rows(competition, load_data(competition), root=tmp_path / "few"))
    kept = min(held_out, ROWS)
    assert (len(few.rows_of(0)), len(few.rows_without(0))) == (2 * kept, 2 * ROWS)
