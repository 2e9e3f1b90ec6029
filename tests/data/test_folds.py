import hashlib

import numpy as np
import pandas as pd
import pytest

from pipeline.data.folds import inner_rows, load_folds, make_folds, small_classes_note
from pipeline.data.index import train_index
from pipeline.errors import DataError
from tests.conftest import write_table


def index_of(labels, *, groups=None, split="train"):
    ids = [f"{number:04}" for number in range(len(labels))]
    return pd.DataFrame({"id": ids, "path": "", "label": labels, "group": groups or "", "split": split})


@pytest.mark.parametrize("folds", [2, 3, 5])
def test_every_row_is_held_out_once_and_the_classes_are_spread_evenly(folds):
    labels = ["a"] * 23 + ["b"] * 5 + ["c"] * 11
    index = index_of(labels)
    made = make_folds(index, folds=folds, seed=0)

    assert list(made.frame["id"]) == list(index["id"])
    assert made.numbers == list(range(folds))
    counts = pd.crosstab(index["label"], made.frame["fold"])
    assert counts.shape == (3, folds)
    assert ((counts.max(axis=1) - counts.min(axis=1)) <= 1).all()


def test_the_seed_and_nothing_else_chooses_the_folds():
    index = index_of(["a", "b"] * 20)
    first = make_folds(index, folds=4, seed=1)
    assert make_folds(index, folds=4, seed=1).sha256 == first.sha256
    assert make_folds(index, folds=4, seed=2).sha256 != first.sha256


def test_a_group_is_never_divided():
    random = np.random.default_rng(0)
    groups = [f"g{number}" for number in random.integers(0, 30, 200)]
    labels = [str(int(group[1:]) % 3) for group in groups]
    index = index_of(labels, groups=groups)
    made = make_folds(index, folds=3, seed=0)

    assert made.numbers == [0, 1, 2]
    assert (made.frame.groupby(index["group"])["fold"].nunique() == 1).all()
    counts = pd.crosstab(index["label"], made.frame["fold"])
    assert (counts > 0).all().all()


def test_rows_without_a_group_stand_alone():
    """They are not one large group that must stay together."""
    labels = ["a", "b"] * 20
    groups = ["g1", "g1", "g2", "g2", *[""] * 36]
    made = make_folds(index_of(labels, groups=groups), folds=4, seed=0)
    alone = made.frame["fold"][4:]
    assert alone.nunique() == 4
    assert made.frame["fold"][:2].nunique() == made.frame["fold"][2:4].nunique() == 1


def folds_of(index, made):
    """By class, in which folds its rows are."""
    return made.frame["fold"].groupby(index["label"]).agg(sorted).to_dict()


@pytest.mark.parametrize("seed", [0, 1])
def test_a_class_smaller_than_the_number_of_folds_is_in_as_many_as_it_has_pictures(seed):
    labels = ["a"] * 23 + ["b"] * 4 + ["c"] * 2 + ["d"] * 2 + ["e", "f"]
    made = make_folds(index_of(labels), folds=5, seed=seed)
    found = folds_of(index_of(labels), made)
    assert found["e"] == found["f"] == [-1]
    for label in "bcd":
        assert len(set(found[label])) == len(found[label])
        assert -1 not in found[label]
    counts = np.bincount(found["a"], minlength=5)
    assert counts.max() - counts.min() <= 1
    assert made.sha256 == make_folds(index_of(labels), folds=5, seed=seed).sha256


def test_the_folds_of_large_classes_alone_are_as_they_were():
    """Those of experiments that exist: hashes of folds made before small classes were taken."""
    plain = make_folds(index_of(["a"] * 23 + ["b"] * 6), folds=5, seed=0)
    groups = [f"g{number // 2}" for number in range(40)]
    grouped = make_folds(index_of(["a", "b"] * 20, groups=groups), folds=4, seed=3)
    assert plain.sha256[:16] == "8a3e23132e9533dc"
    assert grouped.sha256[:16] == "eda71d233680a7ac"


def test_small_classes_alone_are_spread():
    labels = [f"c{number % 20}" for number in range(40)]
    made = make_folds(index_of(labels), folds=5, seed=0)
    assert all(len(set(found)) == 2 for found in folds_of(index_of(labels), made).values())
    assert set(np.bincount(made.frame["fold"])) == {8}


@pytest.mark.parametrize("seed", range(5))
def test_no_class_of_few_groups_is_taken_out_of_the_training_whole(seed):
    random = np.random.default_rng(seed)
    groups = [f"g{number}" for number in random.integers(0, 25, 120)]
    labels = [str(number) for number in random.choice(30, 120, p=np.arange(30) / np.arange(30).sum())]
    index = index_of(labels, groups=groups)
    made = make_folds(index, folds=5, seed=seed)
    assert (made.frame.groupby(index["group"])["fold"].nunique() == 1).all()
    assert all(len(set(found)) > 1 or found[0] == -1 for found in folds_of(index, made).values())
    assert (made.frame["fold"] != -1).any()


def test_one_of_the_groups_of_a_class_that_came_into_one_fold_is_never_held_out():
    """The class c has both its groups in common with others."""
    index = index_of([*"aabbcc"], groups=["u", "v", "x", "y", "u", "x"])
    kept = []
    for seed in range(8):
        made = make_folds(index, folds=3, seed=seed)
        assert len(set(folds_of(index, made)["c"])) == 2
        kept.append(int((made.frame["fold"] == -1).sum()))
    assert set(kept) == {0, 2}


def test_the_only_group_of_a_class_is_never_held_out():
    index = index_of(["a"] * 6 + ["b"] * 6, groups=[*"uvwxyz", *"kkkkkk"])
    made = make_folds(index, folds=3, seed=0)
    assert folds_of(index, made) == {"a": [0, 0, 1, 1, 2, 2], "b": [-1] * 6}


@pytest.mark.parametrize("groups", [None, [*"aabbcc"]])
def test_where_nothing_can_be_held_out_that_is_said(groups):
    labels = ["x", "x", "y", "y", "z", "z"] if groups else list("uvwxyz")
    unit = "groups" if groups else "pictures"
    with pytest.raises(DataError, match=f"no class has two {unit}"):
        make_folds(index_of(labels, groups=groups), folds=3, seed=0)


@pytest.mark.parametrize("seed", range(3))
def test_no_label_of_several_is_taken_out_of_the_training_whole(seed):
    """Of three pictures that have two labels each in common, two are in one of two folds."""
    index = index_of(["a|b", "b|c", "a|c", "", ""])
    fold = make_folds(index, folds=2, seed=seed, target="multilabel").frame["fold"]
    for label in "abc":
        assert fold[index["label"].str.contains(label)].nunique() == 2
    assert list(fold).count(-1) == 1


def test_small_classes_are_named():
    labels = ["a"] * 5 + ["b"] * 4 + ["c", "d"]
    note = small_classes_note(index_of(labels), folds=5, target="single")
    assert note == (
        "2 classes have one picture, which is trained on and never held out (c, d); "
        "1 class has fewer pictures than 5 folds: not every fold holds one out (b)"
    )
    assert small_classes_note(index_of(labels), folds=2, target="single").endswith("(c, d)")
    assert small_classes_note(index_of(["a"] * 5), folds=5, target="single") == ""
    grouped = index_of(["a"] * 5, groups=[*"uuuuu"])
    assert "one group, which" in small_classes_note(grouped, folds=5, target="single")
    several = index_of(["a|b", "a", "a", ""])
    assert small_classes_note(several, folds=2, target="multilabel").endswith("never held out (b)")
    split = index_of(["a", "b"], split=["train", "held_out"])
    assert small_classes_note(split, folds=5, target="single") == ""


def test_a_predefined_split_is_fold_0():
    split = ["train", "held_out", "train", "held_out"]
    made = make_folds(index_of(["a", "a", "b", "b"], split=split), folds=5, seed=0)
    assert list(made.frame["fold"]) == [-1, 0, -1, 0]
    assert made.numbers == [0]


def test_sha256_is_that_of_the_lines():
    made = make_folds(index_of(["a", "b"], split=["train", "held_out"]), folds=5, seed=0)
    assert made.sha256 == hashlib.sha256(b"0000,-1\n0001,0\n").hexdigest()


def test_folds_are_made_once(tiny_competition):
    index = train_index(tiny_competition)
    made = load_folds(tiny_competition, index)
    content = tiny_competition.folds_file.read_bytes()
    assert content.startswith(b"id,fold\n000.jpg,")

    again = load_folds(tiny_competition.model_copy(update={"fold_seed": 7, "folds": 3}), index)
    assert again.sha256 == made.sha256
    pd.testing.assert_frame_equal(again.frame, made.frame)
    assert tiny_competition.folds_file.read_bytes() == content


def test_the_order_of_the_rows_in_folds_csv_means_nothing(tiny_competition):
    index = train_index(tiny_competition)
    made = load_folds(tiny_competition, index)
    header, *rows = tiny_competition.folds_file.read_text().splitlines()
    write_table(tiny_competition.folds_file, header, *reversed(rows))
    read = load_folds(tiny_competition, index)
    pd.testing.assert_frame_equal(read.frame, made.frame)
    assert read.sha256 == made.sha256


def test_a_permuted_train_table_gives_the_same_folds(tiny_competition):
    made = load_folds(tiny_competition, train_index(tiny_competition))
    tiny_competition.folds_file.unlink()
    table = tiny_competition.data / "train.csv"
    pd.read_csv(table).sample(frac=1, random_state=1).to_csv(table, index=False)
    assert load_folds(tiny_competition, train_index(tiny_competition)).sha256 == made.sha256


def edit_first(row):
    return lambda rows: [row, *rows[1:]]


@pytest.mark.parametrize(
    ("edit", "fault"),
    [
        (lambda rows: rows[1:], r"1 missing ids \(000\.jpg\)"),
        (lambda rows: [*rows, rows[0]], r"1 repeated ids \(000\.jpg\)"),
        (lambda rows: [*rows, "x.jpg,0"], r"1 unknown ids \(x\.jpg\)"),
        (edit_first("000.jpg,"), "1 bad folds"),
        (edit_first("000.jpg,one"), r"1 bad folds \(one\)"),
        (edit_first("000.jpg,1.0"), r"1 bad folds \(1\.0\)"),
        (edit_first("000.jpg,-2"), r"1 bad folds \(-2\)"),
        (edit_first("000.jpg,99999999999999999999"), "1 bad folds"),
        (edit_first("y.jpg,0"), r"1 unknown ids \(y\.jpg\); 1 missing ids \(000\.jpg\)"),
        (lambda rows: [row.split(",")[0] + ",-1" for row in rows], "no fold"),
    ],
)
def test_an_edited_folds_csv_that_does_not_fit_is_refused(tiny_competition, edit, fault):
    index = train_index(tiny_competition)
    load_folds(tiny_competition, index)
    header, *rows = tiny_competition.folds_file.read_text().splitlines()
    write_table(tiny_competition.folds_file, header, *edit(rows))
    with pytest.raises(DataError, match=fault):
        load_folds(tiny_competition, index)


def test_folds_that_cannot_be_made_leave_no_file(tiny_competition):
    index = train_index(tiny_competition).drop_duplicates("label")
    with pytest.raises(DataError, match="no class has two pictures"):
        load_folds(tiny_competition, index)
    assert sorted(path.name for path in tiny_competition.folder.iterdir()) == ["competition.yaml", "data"]


@pytest.mark.parametrize(("one_in", "each"), [(10, 2), (4, 5), (2, 10)])
def test_inner_rows_are_a_stratified_part_of_the_rows(one_in, each):
    index = index_of(["a", "b", "c"] * 30)
    rows = np.arange(15, 75)  # 20 of each class
    inner = inner_rows(index, rows, one_in=one_in, seed=0)
    assert set(inner) <= set(rows)
    assert list(inner) == sorted(set(inner))
    assert dict(index.iloc[inner]["label"].value_counts()) == dict.fromkeys("abc", each)


def test_the_seed_chooses_the_inner_rows():
    index, rows = index_of(["a", "b"] * 40), np.arange(80)
    found = [inner_rows(index, rows, one_in=5, seed=seed).tolist() for seed in (1, 1, 2)]
    assert found[0] == found[1] != found[2]


def test_inner_rows_are_whole_groups():
    groups = [f"g{number // 4}" for number in range(80)]
    index, rows = index_of(["a", "b"] * 40, groups=groups), np.arange(8, 80)
    inner = inner_rows(index, rows, one_in=5, seed=0)
    outside = set(rows) - set(inner)
    assert len(inner)
    assert not set(index["group"].iloc[inner]) & set(index["group"].iloc[sorted(outside)])


@pytest.mark.filterwarnings("error")
def test_a_small_class_may_have_no_inner_row_but_all_of_them_may_not():
    index = index_of(["a"] * 40 + ["b"] * 2)
    assert len(inner_rows(index, np.arange(42), one_in=10, seed=0)) > 0
    with pytest.raises(DataError, match=r"one in 10 cannot be taken from 12 training rows in 2 classes"):
        inner_rows(index_of(["a", "b"] * 6), np.arange(12), one_in=10, seed=0)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.filterwarnings("error")
def test_no_class_is_taken_out_of_the_training(seed):
    labels = [f"rare{number:02}" for number in range(20)] + [f"common{number}" for number in range(5)] * 20
    index, rows = index_of(labels), np.arange(len(labels))
    inner = inner_rows(index, rows, one_in=10, seed=seed)
    assert len(inner) >= 8
    assert set(index["label"].drop(inner)) == set(labels)


@pytest.mark.parametrize("seed", range(6))
def test_one_large_group_does_not_become_the_inner_rows(seed):
    groups = ["large"] * 600 + [f"g{number}" for number in range(400)]
    index = index_of(["a", "b"] * 500, groups=groups)
    assert len(inner_rows(index, np.arange(1000), one_in=10, seed=seed)) == pytest.approx(100, abs=60)
