import numpy as np
import pandas as pd
import pytest

from pipeline.data.competition_data import load_data
from pipeline.errors import DataError
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


def test_its_hash_is_of_ids_labels_and_files(tiny_competition):
    before = load_data(tiny_competition).sha256
    table = tiny_competition.data / "train.csv"
    text = table.read_text()
    lines = text.splitlines()
    table.write_text("\n".join([lines[0], *lines[:0:-1]]) + "\n")
    assert load_data(tiny_competition).sha256 == before, "the order of the rows does not matter"
    table.write_text(text.replace("000.jpg,blue", "000.jpg,red"))
    tiny_competition.folds_file.unlink()
    assert load_data(tiny_competition).sha256 != before


def test_kappa_needs_classes_with_an_order(tiny_competition):
    with pytest.raises(DataError, match="quadratic_kappa needs classes with an order; these are blue, green, red"):
        load_data(tiny_competition.model_copy(update={"metric": "quadratic_kappa"}))


@pytest.mark.parametrize(
    ("submission", "columns"), [("probabilities", "blue,green"), ("probabilities", "a,b,c"), ("class", "label,more")]
)
def test_a_sample_submission_that_no_submission_can_match_is_refused_before_training(
    tiny_competition, submission, columns
):
    ids = [f"t{number}.jpg" for number in range(6)]
    values = ",0" * len(columns.split(","))
    write_table(tiny_competition.data / "sample_submission.csv", f"id,{columns}", *(key + values for key in ids))
    with pytest.raises(DataError, match=r"sample_submission.csv has the columns"):
        load_data(tiny_competition.model_copy(update={"submission": submission}))
