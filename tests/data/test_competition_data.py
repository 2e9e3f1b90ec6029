import numpy as np
import pandas as pd

from pipeline.data.competition_data import load_data
from tests.conftest import write_table


def test_everything_goes_together_by_row(tiny_competition):
    data = load_data(tiny_competition)
    table = pd.read_csv(tiny_competition.data / "train.csv").set_index("id")["label"]

    assert data.classes == ["blue", "green", "red"]
    assert list(data.train["id"]) == sorted(table.index) == list(data.folds.frame["id"])
    assert [data.classes[label] for label in data.labels] == [table[key] for key in data.train["id"]]
    assert data.labels.dtype == np.int64
    assert data.mean_size == (32.0, 40.0)
    assert list(data.test["id"]) == [f"t{number}.jpg" for number in range(6)]


def test_rows_of_and_without_a_fold_are_two_halves_of_the_train_rows(tiny_competition):
    data = load_data(tiny_competition)
    for fold in (0, 1):
        held_out, kept = data.rows_of(fold), data.rows_without(fold)
        assert len(held_out) == 12
        assert sorted([*held_out, *kept]) == list(range(24))
        assert set(data.folds.frame["fold"].iloc[held_out]) == {fold}


def test_rows_that_are_never_held_out_are_trained_on(tiny_competition):
    data = load_data(tiny_competition)
    ids = list(data.train["id"])
    rows = [f"{key},{0 if number < 3 else -1}" for number, key in enumerate(ids)]
    write_table(tiny_competition.folds_file, "id,fold", *rows)

    edited = load_data(tiny_competition)
    assert list(edited.rows_of(0)) == [0, 1, 2]
    assert list(edited.rows_without(0)) == list(range(3, 24))


def test_the_order_of_the_table_changes_nothing(tiny_competition):
    before = load_data(tiny_competition)
    tiny_competition.folds_file.unlink()
    lines = (tiny_competition.data / "train.csv").read_text().splitlines()
    write_table(tiny_competition.data / "train.csv", lines[0], *reversed(lines[1:]))

    after = load_data(tiny_competition)
    pd.testing.assert_frame_equal(before.train, after.train)
    assert before.folds.sha256 == after.folds.sha256
    assert (before.labels == after.labels).all()
