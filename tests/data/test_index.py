from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.competition import Competition
from pipeline.data.files import find_pictures
from pipeline.data.index import mean_size, scan, train_index
from pipeline.data.index import test_index as index_of_test  # not to be collected
from pipeline.data.row_labels import split_long
from pipeline.data.tables import read_table
from pipeline.errors import DataError
from pipeline.targets import class_names, classes_of, label_numbers
from tests.conftest import make_picture, make_pictures, write_competition, write_table

TABLE = {"pictures": "train", "table": "train.csv", "id_column": "id", "label_column": "label"}


def table_of(competition: Competition) -> Path:
    return competition.data / "train.csv"


def add_row(competition: Competition, row: str, *, file: str = "train.csv") -> None:
    with (competition.data / file).open("a", encoding="utf-8") as table:
        table.write(row + "\n")


def quarantine(competition: Competition, *rows: str) -> None:
    write_table(competition.quarantine_file, "id,reason", *rows)


def folder_competition(root: Path, classes: dict[str, int], **settings: object) -> Competition:
    competition = write_competition(root, "folders", train={"pictures": "train", "match": "path"}, **settings)
    make_pictures(competition.data / "train", classes)
    return competition


# Table layout


def test_table_layout(tiny_competition):
    rows = train_index(tiny_competition)
    table = pd.read_csv(table_of(tiny_competition))

    assert list(rows["id"]) == sorted(table["id"])
    assert dict(zip(rows["id"], rows["label"], strict=True)) == dict(zip(table["id"], table["label"], strict=True))
    assert [Path(path).name for path in rows["path"]] == list(rows["id"])
    assert all(Path(path).is_file() for path in rows["path"])
    assert set(rows["split"]) == {"train"}
    assert set(rows["group"]) == {""}


def test_the_order_of_rows_means_nothing(tiny_competition):
    train, test = train_index(tiny_competition), index_of_test(tiny_competition)
    for file in ("train.csv", "sample_submission.csv"):
        path = tiny_competition.data / file
        pd.read_csv(path).sample(frac=1, random_state=3).to_csv(path, index=False)

    pd.testing.assert_frame_equal(train_index(tiny_competition), train)
    pd.testing.assert_frame_equal(index_of_test(tiny_competition), test)


def test_ids_and_classes_stay_text(tmp_path):
    competition = write_competition(tmp_path, "text", train={**TABLE, "match": "stem"})
    for number, name in enumerate(("007", "7", "NA", "1e3")):
        make_picture(competition.data / "train" / f"{name}.png", seed=number)
    write_table(table_of(competition), "id,label", "007,01", "7,1", "NA,None", "1e3,nan")

    rows = train_index(competition).set_index("id")
    assert rows["label"].to_dict() == {"007": "01", "7": "1", "NA": "None", "1e3": "nan"}
    assert Path(rows.loc["007", "path"]).name == "007.png"


@pytest.mark.parametrize(
    ("match", "names"),
    [
        ("path", ("a/01.jpg", "b/02.jpg")),
        ("path_stem", ("a/01", "b/02")),
        ("path_stem", ("a/01.png", "b/02.JPG")),
        ("name", ("01.jpg", "02.jpg")),
        ("name", ("left/01.jpg", "02.jpg")),
        ("stem", ("01", "02")),
        ("stem", ("left/01.png", "02.jpg")),
        ("number", ("1", "2")),
        ("number", ("0001", "2.png")),
    ],
)
def test_match(tmp_path, match, names):
    competition = write_competition(
        tmp_path,
        "match",
        train={**TABLE, "match": match},
        test={"pictures": "train", "match": match},
        sample_submission="train.csv",
    )
    make_picture(competition.data / "train" / "a" / "01.jpg")
    make_picture(competition.data / "train" / "b" / "02.jpg")
    write_table(table_of(competition), "id,label", f"{names[0]},x", f"{names[1]},y")
    for rows in (train_index(competition), index_of_test(competition)):
        paths = dict(zip(rows["id"], rows["path"], strict=True))
        places = [Path(paths[name]).relative_to(competition.data / "train").as_posix() for name in names]
        assert places == ["a/01.jpg", "b/02.jpg"]
    assert scan(competition).without_row == []


def test_a_dot_in_a_stem_is_no_suffix(tmp_path):
    competition = write_competition(tmp_path, "dots", train={**TABLE, "match": "stem"})
    for number, name in enumerate(("a.1", "a.2", "0")):
        make_picture(competition.data / "train" / f"{name}.jpg", seed=number)
    write_table(table_of(competition), "id,label", "a.1,x", "a.2,y", "0,y")
    assert len(train_index(competition)) == 3


def test_a_byte_order_mark_is_not_part_of_the_first_column(tiny_competition):
    table = table_of(tiny_competition)
    before = train_index(tiny_competition)
    table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes())
    pd.testing.assert_frame_equal(train_index(tiny_competition), before)


def test_a_repeated_id_is_refused(tiny_competition):
    add_row(tiny_competition, "003.jpg,blue")
    with pytest.raises(DataError, match=r"train\.csv names 1 ids more than once: 003\.jpg \(2 times\)"):
        train_index(tiny_competition)


def test_a_picture_of_two_labels_is_named_with_both(tiny_competition):
    add_row(tiny_competition, "003.jpg,red")
    with pytest.raises(DataError, match=r"with different labels: 003\.jpg as 'blue' and 'red'"):
        train_index(tiny_competition)


def test_two_ids_of_one_picture_are_refused(tmp_path):
    competition = write_competition(tmp_path, "twice", train={**TABLE, "match": "stem"})
    make_picture(competition.data / "train" / "1.jpg")
    write_table(table_of(competition), "id,label", "1,a", "1.jpg,b")
    with pytest.raises(DataError, match=r"names 1 pictures more than once, .*: 1 = 1\.jpg as 'a' and 'b'"):
        train_index(competition)


def test_a_row_without_a_file_is_refused_until_it_is_in_quarantine(tiny_competition):
    before = train_index(tiny_competition)
    add_row(tiny_competition, "ghost.jpg,red")
    with pytest.raises(DataError, match=r"1 rows of train\.csv cannot be used: ghost\.jpg \(no such file\)"):
        train_index(tiny_competition)
    quarantine(tiny_competition, "ghost.jpg,not there")
    pd.testing.assert_frame_equal(train_index(tiny_competition), before)


@pytest.mark.parametrize("label", ["", "  "])
def test_a_row_without_a_label_is_refused_until_it_is_in_quarantine(tiny_competition, label):
    make_picture(tiny_competition.data / "train" / "new.jpg")
    add_row(tiny_competition, f"new.jpg,{label}")
    with pytest.raises(DataError, match=r"new\.jpg \(no label\)"):
        train_index(tiny_competition)
    quarantine(tiny_competition, "new.jpg,no label")
    assert len(train_index(tiny_competition)) == 24


def test_quarantine_leaves_out_a_sound_picture_too(tiny_competition):
    quarantine(tiny_competition, "000.jpg,mislabelled")
    assert "000.jpg" not in set(train_index(tiny_competition)["id"])
    assert len(train_index(tiny_competition)) == 23


def test_a_file_without_a_row_is_told_but_not_used(tiny_competition):
    make_picture(tiny_competition.data / "train" / "extra.jpg")
    assert scan(tiny_competition).without_row == ["train/extra.jpg"]
    assert len(train_index(tiny_competition)) == 24


def test_two_files_of_one_name_are_refused(tiny_competition):
    make_picture(tiny_competition.data / "train" / "sub" / "000.jpg")
    with pytest.raises(DataError, match=r"two pictures have the name '000\.jpg'") as caught:
        train_index(tiny_competition)
    assert str(Path("sub") / "000.jpg") in caught.value.problem


@pytest.mark.parametrize("header", ["id,klass", "Id,label"])
def test_a_missing_column_is_named_with_those_there_are(tiny_competition, header):
    table = table_of(tiny_competition)
    table.write_text(table.read_text().replace("id,label", header))
    with pytest.raises(DataError, match="has no column") as caught:
        train_index(tiny_competition)
    assert repr(header.split(",")[1]) in caught.value.expected


@pytest.mark.parametrize("content", [b"", b"id,label\n\xff\xfe,x\n", b'id,label\n"unclosed,x\n'])
def test_a_table_that_cannot_be_read_is_named(tiny_competition, content):
    table_of(tiny_competition).write_bytes(content)
    with pytest.raises(DataError, match=r"train\.csv cannot be read"):
        train_index(tiny_competition)


def test_a_missing_table_and_a_missing_folder_are_named(tiny_competition):
    table_of(tiny_competition).rename(tiny_competition.data / "away.csv")
    with pytest.raises(DataError, match=r"train\.csv does not exist"):
        train_index(tiny_competition)
    (tiny_competition.data / "away.csv").rename(table_of(tiny_competition))
    (tiny_competition.data / "train").rename(tiny_competition.data / "elsewhere")
    with pytest.raises(DataError, match=r"data/train does not exist"):
        train_index(tiny_competition)


def test_one_class_is_nothing_to_learn(tmp_path):
    with pytest.raises(DataError, match="3 labelled pictures in 1 classes"):
        train_index(folder_competition(tmp_path, {"only": 3}))


def test_groups_and_a_predefined_split(tmp_path):
    split = {"column": "set", "train": "tr", "held_out": "va", "test": "te"}
    train = {**TABLE, "group_column": "owner", "split": split}
    competition = write_competition(tmp_path, "split", train=train, test={"pictures": "train"})
    for number in range(5):
        make_picture(competition.data / "train" / f"{number}.jpg", seed=number)
    rows = ["4.jpg,b,o2,va", "0.jpg,a,o1,tr", "1.jpg,b,o1,tr", "2.jpg,a,o2,va", "3.jpg,,o9,te"]
    write_table(table_of(competition), "id,label,owner,set", *rows)

    index = train_index(competition)
    assert index[["id", "label", "group", "split"]].to_numpy().tolist() == [
        ["0.jpg", "a", "o1", "train"],
        ["1.jpg", "b", "o1", "train"],
        ["2.jpg", "a", "o2", "held_out"],
        ["4.jpg", "b", "o2", "held_out"],
    ]


def test_the_test_pictures_may_lie_with_the_train_pictures(tmp_path):
    split = {"column": "set", "train": "tr", "held_out": "va", "test": "te"}
    competition = write_competition(tmp_path, "one-folder", train={**TABLE, "split": split}, test={"pictures": "train"})
    for number in range(4):
        make_picture(competition.data / "train" / f"{number}.jpg", seed=number)
    write_table(table_of(competition), "id,label,set", "0.jpg,a,tr", "1.jpg,b,tr", "2.jpg,a,va", "3.jpg,,te")
    assert list(index_of_test(competition)["id"]) == ["3.jpg"]
    assert scan(competition).without_row == []

    make_picture(competition.data / "train" / "4.jpg")  # of neither
    with pytest.raises(DataError, match=r"1 test pictures are not .*: 4\.jpg"):
        index_of_test(competition)


def test_an_unknown_value_of_the_split_is_refused(tmp_path):
    split = {"column": "set", "train": "tr", "held_out": "va"}
    competition = write_competition(tmp_path, "split", train={**TABLE, "split": split})
    make_picture(competition.data / "train" / "0.jpg")
    write_table(table_of(competition), "id,label,set", "0.jpg,a,te")
    with pytest.raises(DataError, match=r"column 'set' of train\.csv holds te") as caught:
        train_index(competition)
    assert "None" not in caught.value.expected


# Labels in columns, several in a cell, or in the path


def columns_competition(root: Path, *rows: str, target: str = "single", **train: object) -> Competition:
    settings = {"pictures": "train", "table": "train.csv", "id_column": "id", "label_columns": ["scab", "healthy"]}
    forms = {"single": {}, "multilabel": {"submission": "probabilities", "metric": "roc_auc"}}
    train = {key: value for key, value in {**settings, **train}.items() if value is not None}
    competition = write_competition(root, "columns", target=target, train=train, **forms[target])
    for number in range(len(rows)):
        make_picture(competition.data / "train" / f"{number}.jpg", seed=number)
    header = "id,healthy,scab" if "label_column" not in train else "id,names"
    write_table(table_of(competition), header, *(f"{number}.jpg,{row}" for number, row in enumerate(rows)))
    return competition


def test_a_column_a_class(tmp_path):
    competition = columns_competition(tmp_path, "1,0", "0,1", "1.0,0.0", "False,True")
    rows = train_index(competition)
    assert list(rows["label"]) == ["healthy", "scab", "healthy", "scab"]
    assert classes_of(competition, rows["label"]) == ["healthy", "scab"]


def test_a_row_of_no_column_or_of_several_is_a_fault(tmp_path):
    competition = columns_competition(tmp_path, "1,0", "0,0", "1,1", "0,", "0,1")
    faults = {"1.jpg": "no label", "2.jpg": "several labels: scab, healthy", "3.jpg": "no label"}
    assert scan(competition).faults == faults
    quarantine(competition, *(f"{key},mended later" for key in faults))
    assert list(train_index(competition)["label"]) == ["healthy", "scab"]


def test_several_columns_may_be_1_or_none(tmp_path):
    competition = columns_competition(tmp_path, "1,0", "0,0", "1,1", ",1", target="multilabel")
    assert scan(competition).faults == {"3.jpg": "no label"}
    quarantine(competition, "3.jpg,no label")
    rows = train_index(competition)
    classes = classes_of(competition, rows["label"])
    assert classes == ["scab", "healthy"]  # in the order of label_columns
    assert list(rows["label"]) == ["healthy", "", "scab|healthy"]
    matrix = label_numbers(list(rows["label"]), classes, target="multilabel")
    assert matrix.dtype == np.int64
    assert matrix.tolist() == [[0, 1], [0, 0], [1, 1]]
    assert classes_of(competition, rows["label"][:1]) == classes
    with pytest.raises(KeyError):
        label_numbers(["rust"], classes, target="multilabel")


@pytest.mark.parametrize("value", ["2", "-1", "0.5", "yes"])
def test_a_label_column_of_other_values_is_refused(tmp_path, value):
    competition = columns_competition(tmp_path, "1,0", f"{value},1")
    with pytest.raises(DataError, match=f"column 'healthy' of train.csv holds '{value}'") as caught:
        train_index(competition)
    assert "--label-column" in caught.value.next_step


@pytest.mark.parametrize(
    ("separator", "cells"),
    [(" ", ["rust scab", "10  rust ", "rust", ""]), (";", ["rust; scab", "10;rust", ";rust;", ";"])],
)
def test_several_names_in_a_cell(tmp_path, separator, cells):
    changes = {"label_columns": None, "label_column": "names", "label_separator": separator}
    competition = columns_competition(tmp_path, *cells, "scab" + separator + "scab", target="multilabel", **changes)
    assert scan(competition).faults == {"3.jpg": "no label"}
    quarantine(competition, "3.jpg,no label")
    rows = train_index(competition)
    assert list(rows["label"]) == ["rust|scab", "10|rust", "rust", "scab"]
    assert classes_of(competition, rows["label"]) == ["10", "rust", "scab"]
    assert label_numbers(list(rows["label"]), ["10", "rust", "scab"], target="multilabel").tolist() == [
        [0, 1, 1],
        [1, 1, 0],
        [0, 1, 0],
        [0, 0, 1],
    ]


def test_one_class_in_several_columns_is_nothing_to_learn(tmp_path):
    with pytest.raises(DataError, match="2 labelled pictures in 1 classes"):
        train_index(columns_competition(tmp_path, "1,0", "0,0", target="multilabel"))


def test_a_column_named_with_the_joint_is_refused(tmp_path):
    competition = columns_competition(tmp_path, "1,0", label_columns=["a|b", "healthy"], target="multilabel")
    write_table(table_of(competition), "id,healthy,a|b", "0.jpg,1,0")
    with pytest.raises(DataError, match=r"class 'a\|b' of train.csv holds a '\|'"):
        train_index(competition)


def test_a_class_named_with_the_joint_is_refused(tmp_path):
    changes = {"label_columns": None, "label_column": "names", "label_separator": " "}
    with pytest.raises(DataError, match=r"class 'a\|b' of train.csv holds a '\|'"):
        train_index(columns_competition(tmp_path, "a|b x", "x", target="multilabel", **changes))


def test_labels_in_the_names_of_the_files(tmp_path):
    train = {"pictures": "train", "label_pattern": r"(?P<label>[a-z]+)\.[0-9]+", "match": "path"}
    competition = write_competition(tmp_path, "redux", train=train)
    for number, name in enumerate(("cat.0", "cat.1", "deeper/dog.0", "1")):
        make_picture(competition.data / "train" / f"{name}.jpg", seed=number)
    assert scan(competition).faults == {"train/1.jpg": "label_pattern finds no label in train/1.jpg"}
    with pytest.raises(DataError, match="1 rows of train cannot be used"):
        train_index(competition)
    quarantine(competition, "train/1.jpg,no label")
    rows = train_index(competition)
    assert rows[["id", "label"]].to_numpy().tolist() == [
        ["train/cat.0.jpg", "cat"],
        ["train/cat.1.jpg", "cat"],
        ["train/deeper/dog.0.jpg", "dog"],
    ]


# Folder layout


def test_folder_layout(tmp_path):
    competition = folder_competition(tmp_path, {"dog": 2, "ant": 1})
    make_picture(competition.data / "train" / "ant" / "deeper" / "z.png")
    rows = train_index(competition)
    assert rows[["id", "label"]].to_numpy().tolist() == [
        ["train/ant/000.jpg", "ant"],
        ["train/ant/deeper/z.png", "ant"],
        ["train/dog/000.jpg", "dog"],
        ["train/dog/001.jpg", "dog"],
    ]
    assert [Path(path) for path in rows["path"]] == [competition.data / key for key in rows["id"]]


def test_held_out_folder(tmp_path):
    train = {"pictures": "train", "held_out_pictures": "valid", "match": "path"}
    competition = write_competition(tmp_path, "parts", train=train)
    make_pictures(competition.data / "train", {"a": 2, "b": 2})
    make_pictures(competition.data / "valid", {"a": 1, "b": 1})
    rows = train_index(competition)
    assert dict(zip(rows["id"], rows["split"], strict=True)) == {
        "train/a/000.jpg": "train",
        "train/a/001.jpg": "train",
        "train/b/000.jpg": "train",
        "train/b/001.jpg": "train",
        "valid/a/000.jpg": "held_out",
        "valid/b/000.jpg": "held_out",
    }


def test_an_empty_class_folder_is_refused(tmp_path):
    competition = folder_competition(tmp_path, {"a": 1, "b": 1})
    (competition.data / "train" / "c").mkdir()
    with pytest.raises(DataError, match=r"1 class folders in .* hold no picture: c"):
        train_index(competition)


def test_a_loose_picture_is_refused(tmp_path):
    competition = folder_competition(tmp_path, {"a": 1, "b": 1})
    make_picture(competition.data / "train" / "loose.jpg")
    with pytest.raises(DataError, match=r"lie in no class folder: loose\.jpg"):
        train_index(competition)


def test_hidden_files_and_folders_are_ignored(tmp_path):
    competition = folder_competition(tmp_path, {"a": 2, "b": 1})
    train = competition.data / "train"
    for name in (".hidden.jpg", "a/._000.jpg", ".cache/x.jpg", "__MACOSX/a/000.jpg", "a/.ipynb_checkpoints/000.jpg"):
        make_picture(train / name)
    (train / "a" / "notes.txt").write_text("not a picture")
    (train / "a" / "folder.jpg").mkdir()
    assert list(train_index(competition)["id"]) == ["train/a/000.jpg", "train/a/001.jpg", "train/b/000.jpg"]


def test_a_hidden_folder_above_the_data_hides_nothing(tmp_path):
    folder = tmp_path / ".kaggle" / "data"
    make_pictures(folder, {"a": 1})
    assert find_pictures(folder) == [folder / "a" / "000.jpg"]


def test_suffixes_count_in_capitals_too(tmp_path):
    path = make_picture(tmp_path / "one.jpg")
    path.rename(tmp_path / "ONE.JPG")
    assert [found.name for found in find_pictures(tmp_path)] == ["ONE.JPG"]


def test_a_linked_class_folder_counts(tmp_path):
    make_pictures(tmp_path / "elsewhere", {"b": 2})
    competition = folder_competition(tmp_path, {"a": 2})
    (competition.data / "train" / "b").symlink_to(tmp_path / "elsewhere" / "b")
    assert list(train_index(competition)["label"]) == ["a", "a", "b", "b"]


def test_a_link_to_a_folder_above_is_not_followed_for_ever(tmp_path):
    make_pictures(tmp_path / "a", {"b": 2})
    (tmp_path / "a" / "b" / "up").symlink_to(tmp_path / "a")
    assert [path.name for path in find_pictures(tmp_path / "a")] == ["000.jpg", "001.jpg"]


# Test pictures


def test_the_sample_names_a_picture_that_is_not_there(tiny_competition):
    add_row(tiny_competition, "t9.jpg,red", file="sample_submission.csv")
    with pytest.raises(DataError, match=r"1 ids of sample_submission\.csv have no picture in test: t9\.jpg"):
        index_of_test(tiny_competition)


def test_a_test_picture_that_the_sample_does_not_name(tiny_competition):
    make_picture(tiny_competition.data / "test" / "t9.jpg")
    with pytest.raises(DataError, match=r"1 test pictures are not in sample_submission\.csv: t9\.jpg"):
        index_of_test(tiny_competition)


def test_the_sample_names_a_picture_twice(tiny_competition):
    add_row(tiny_competition, "t1.jpg,red", file="sample_submission.csv")
    with pytest.raises(DataError, match=r"names 1 ids more than once: t1\.jpg"):
        index_of_test(tiny_competition)


def test_a_long_sample_names_each_picture_once_a_class(tiny_competition):
    long = tiny_competition.model_copy(update={"submission": "long", "separator": "_"})
    write_table(
        tiny_competition.data / "sample_submission.csv",
        "id,p",
        *(f"t{number}.jpg_{label},0" for number in range(6) for label in ("red", "blue", "green")),
    )
    assert list(index_of_test(long)["id"]) == [f"t{number}.jpg" for number in range(6)]
    add_row(tiny_competition, "t1.jpg_pink,0", file="sample_submission.csv")
    with pytest.raises(DataError, match=r"'t1\.jpg_pink' of the sample submission does not end with '_' and a class"):
        index_of_test(long)


@pytest.mark.parametrize(
    ("key", "found"), [("a_b_any", ("a_b", "any")), ("a_b_of_any", ("a_b", "of_any")), ("_any", ("", "any"))]
)
def test_the_class_in_a_long_id_is_the_longest(key, found):
    assert split_long(key, {"any", "of_any"}, "_") == found


def test_without_a_sample_the_ids_are_those_of_the_files(tiny_competition):
    rows = index_of_test(tiny_competition.model_copy(update={"sample_submission": None}))
    assert list(rows["id"]) == [f"t{number}.jpg" for number in range(6)]


def test_without_test_pictures_the_index_is_empty(tiny_competition):
    rows = index_of_test(tiny_competition.model_copy(update={"test": None}))
    assert list(rows.columns) == ["id", "path"]
    assert len(rows) == 0


# Small parts


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["10", "2", "1", "2"], ["1", "2", "10"]),
        (["2", "-1", "10"], ["-1", "2", "10"]),
        (["1", "01", "1"], ["01", "1"]),
        (["10", "2", "joker"], ["10", "2", "joker"]),
        (["b", "B", "a"], ["B", "a", "b"]),
        (["--1", "3"], ["--1", "3"]),
        (["²", "3"], ["3", "²"]),
    ],
)
def test_class_order(labels, expected):
    assert class_names(labels) == expected
    assert class_names(reversed(labels)) == expected


def test_mean_size_is_height_then_width(tmp_path):
    first = make_picture(tmp_path / "1.png", size=(10, 40))
    second = make_picture(tmp_path / "2.png", size=(21, 60))
    assert mean_size([str(first), str(second)]) == (15.5, 50.0)


def test_read_table_keeps_empty_cells_empty(tmp_path):
    path = write_table(tmp_path / "t.csv", "a,b", ",NA", "null,")
    assert read_table(path).to_numpy().tolist() == [["", "NA"], ["null", ""]]
