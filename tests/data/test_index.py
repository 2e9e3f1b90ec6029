from pathlib import Path

import pandas as pd
import pytest

from pipeline.competition import Competition
from pipeline.data.index import find_pictures, mean_size, read_table, scan, train_index
from pipeline.data.index import test_index as index_of_test  # not to be collected
from pipeline.errors import DataError
from pipeline.targets import class_names
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


@pytest.mark.parametrize("match", ["path", "name", "stem"])
def test_match(tmp_path, match):
    competition = write_competition(tmp_path, "match", train={**TABLE, "match": match})
    names = {"path": ("a/1.jpg", "b/2.jpg"), "name": ("1.jpg", "2.jpg"), "stem": ("1", "2")}[match]
    make_picture(competition.data / "train" / "a" / "1.jpg")
    make_picture(competition.data / "train" / "b" / "2.jpg")
    write_table(table_of(competition), "id,label", f"{names[0]},x", f"{names[1]},y")
    paths = train_index(competition)["path"]
    assert [Path(path).relative_to(competition.data / "train").as_posix() for path in paths] == ["a/1.jpg", "b/2.jpg"]


def test_a_byte_order_mark_is_not_part_of_the_first_column(tiny_competition):
    table = table_of(tiny_competition)
    before = train_index(tiny_competition)
    table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes())
    pd.testing.assert_frame_equal(train_index(tiny_competition), before)


def test_a_repeated_id_is_refused(tiny_competition):
    add_row(tiny_competition, "003.jpg,red")
    with pytest.raises(DataError, match=r"train\.csv names 1 ids more than once: 003\.jpg"):
        train_index(tiny_competition)


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
