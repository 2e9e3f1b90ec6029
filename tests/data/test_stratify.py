"""Rows of several labels in parts: every row once, groups whole, each label as frequent everywhere."""

import numpy as np
import pandas as pd
import pytest

from pipeline.data.folds import inner_rows, make_folds
from pipeline.data.stratify import spread
from pipeline.errors import DataError


def drawn(rows: int = 300, classes: int = 6, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.random((rows, classes)) < np.linspace(0.04, 0.6, classes)).astype(np.int64)


@pytest.mark.parametrize("seed", range(3))
def test_each_label_is_as_frequent_in_each_part(seed: int) -> None:
    labels = drawn(seed=seed)
    part = spread(labels, np.arange(len(labels)), count=5, seed=seed)
    counts = np.array([labels[part == number].sum(axis=0) for number in range(5)])
    assert (np.bincount(part) >= 55).all()
    # Random parts of these rows differ by 8 and more in some label.
    assert np.ptp(counts, axis=0).max() <= 2


def test_groups_stay_whole_and_parts_even() -> None:
    labels, groups = drawn(), np.repeat(np.arange(60), 5)
    part = spread(labels, groups, count=4, seed=1)
    assert pd.Series(part).groupby(groups).nunique().max() == 1
    assert np.ptp(np.bincount(part)) <= 15


def test_another_seed_is_another_division_and_the_same_the_same() -> None:
    labels, alone = drawn(), np.arange(300)
    first = spread(labels, alone, count=5, seed=0)
    assert (first == spread(labels, alone, count=5, seed=0)).all()
    assert (first != spread(labels, alone, count=5, seed=1)).any()


def index(labels: list[str], groups: list[str] | None = None) -> pd.DataFrame:
    ids = [f"p{number:03}" for number in range(len(labels))]
    return pd.DataFrame({"id": ids, "label": labels, "group": groups or "", "split": "train"})


def test_folds_of_several_labels() -> None:
    rows = index(["a|b", "a", "b", ""] * 10 + ["a|rare"])
    folds = make_folds(rows, folds=5, seed=0, target="multilabel")
    fold = folds.frame["fold"].to_numpy()
    assert fold[-1] == -1, "a label that one row has is never only held out"
    for name in ("a", "b"):
        has = rows["label"].str.split("|").map(lambda names, name=name: name in names).to_numpy()
        assert np.ptp(np.bincount(fold[has & (fold >= 0)])) <= 1
    assert (np.bincount(fold[:-1]) == 8).all()


def test_labels_that_one_row_has_each_make_no_folds() -> None:
    with pytest.raises(DataError, match="each of the 3 rows, or groups, has a label that no other has"):
        make_folds(index(["a", "b", "c"]), folds=2, seed=0, target="multilabel")


def test_inner_rows_of_several_labels() -> None:
    rows = index(["a|b", "a", "b", ""] * 10)
    found = inner_rows(rows, np.arange(8, 40), one_in=4, seed=0, target="multilabel")
    assert len(found) == 8 and (found >= 8).all()
