"""From a folder of files to a competition: each layout read as a person would, or refused with both readings."""

import os
from pathlib import Path

import pytest

from pipeline.competition import load_competition
from pipeline.data.describe import init_competition
from pipeline.data.index import test_index as index_of_test
from pipeline.data.index import train_index
from pipeline.data.infer import infer
from pipeline.data.infer_wishes import Wishes
from pipeline.errors import DataError
from tests.conftest import make_picture, make_pictures, write_table

NO_WISH = Wishes()


def numbered(folder: Path, names, *, colour=0):
    for seed, name in enumerate(names):
        make_picture(folder / name, colour=colour, seed=seed)


def cars_like(data: Path) -> Path:
    """As Kaggle's sf-dl-car-classification: class folders, and a table of the names without the folders."""
    rows = []
    for label in range(3):
        names = [f"{label}{number:04}.jpg" for number in range(3)]
        numbered(data / "train" / str(label), names, colour=label)
        rows += [f"{name},{label}" for name in names]
    numbered(data / "test_upload", [f"{number}.jpg" for number in range(4)])
    write_table(data / "train.csv", "Id,Category", *rows)
    write_table(data / "sample-submission.csv", "Id,Category", *(f"{number}.jpg,0" for number in range(4)))
    return data


def stems(data: Path, *, header: str = "id,breed", rows: list[str] | None = None) -> Path:
    """A table of names without suffix, pictures in train/ and test/."""
    numbered(data / "train", [f"a{number}.png" for number in range(4)])
    numbered(data / "test", [f"b{number}.png" for number in range(3)])
    write_table(data / "labels.csv", header, *(rows or [f"a{n},{'xy'[n % 2]}" for n in range(4)]))
    return data


def init(data: Path, root: Path, *, slug: str = "new", wishes: Wishes = NO_WISH):
    return init_competition(slug, data, root=root, wishes=wishes)


def test_cars_like(tmp_path):
    competition, findings, audited = init(cars_like(tmp_path / "cars"), tmp_path)
    train = competition.train
    assert (train.table, train.id_column, train.label_column) == ("train.csv", "Id", "Category")
    assert (train.pictures, train.match) == ("train", "name")
    assert competition.test.pictures == "test_upload"
    assert list(index_of_test(competition)["id"]) == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]
    assert competition.sample_submission == "sample-submission.csv"
    assert (competition.submission, competition.metric) == ("class", "accuracy")
    assert (audited.pictures, audited.test_pictures, audited.classes) == (9, 4, ["0", "1", "2"])
    assert all(finding.reason for finding in findings)
    assert {"train.table", "train.pictures", "train.label_column", "test.pictures", "metric"} <= {
        finding.key for finding in findings
    }


def test_what_is_written_is_what_was_inferred(tmp_path):
    competition, _, _ = init(cars_like(tmp_path / "cars"), tmp_path)
    assert load_competition("new", root=tmp_path) == competition
    assert (competition.folder / "data").resolve() == (tmp_path / "cars").resolve()
    assert sorted(os.listdir(competition.folder)) == ["competition.yaml", "data", "explore"]
    assert os.listdir(tmp_path / "competitions") == ["new"]
    assert len(train_index(competition)) == 9


def cards_like(data: Path, *, test: bool) -> Path:
    """As Kaggle's cards: class folders in parts, and a table with several columns that could be the label."""
    rows = []
    for part, count in {"train": 3, "valid": 1, **({"test": 1} if test else {})}.items():
        for path in make_pictures(data / part, {"ace of clubs": count, "joker": count}):
            label = path.parent.name
            rows.append(f"0,{path.relative_to(data).as_posix()},{label},{label.split()[0]},{part}")
    rows.append("0,train/ace of clubs/output,ace of clubs,ace,train")
    write_table(data / "cards.csv", "class index,filepaths,labels,card type,data set", *rows)
    return data


@pytest.mark.parametrize("test", [False, True])
def test_cards_like(tmp_path, test):
    competition, _, audited = init(cards_like(tmp_path / "cards", test=test), tmp_path)
    train = competition.train
    assert (train.table, train.id_column, train.label_column) == ("cards.csv", "filepaths", "labels")
    assert train.match == "path"
    assert train.split.model_dump() == {
        "column": "data set",
        "train": "train",
        "held_out": "valid",
        "test": "test" if test else None,
    }
    assert audited.faults == {"train/ace of clubs/output": "no such file"}
    assert (competition.folder / "quarantine.csv").read_text() == (
        "id,reason\ntrain/ace of clubs/output,no such file\n"
    )
    rows = train_index(competition)
    assert len(rows) == 8
    assert sorted(rows["id"][rows["split"] == "held_out"]) == [
        "valid/ace of clubs/000.jpg",
        "valid/joker/000.jpg",
    ]
    expected = ["test/ace of clubs/000.jpg", "test/joker/000.jpg"] if test else []
    assert list(index_of_test(competition)["id"]) == expected


def test_plain_class_folders(tmp_path):
    make_pictures(tmp_path / "flowers", {"rose": 3, "tulip": 2})
    competition, _, audited = init(tmp_path / "flowers", tmp_path)
    assert (competition.train.pictures, competition.train.table, competition.test) == (".", None, None)
    assert (audited.classes, audited.pictures) == (["rose", "tulip"], 5)
    assert "rose/000.jpg" in set(train_index(competition)["id"])


def test_train_valid_test_class_folders(tmp_path):
    for part, count in {"train": 3, "val": 1, "test": 2}.items():
        make_pictures(tmp_path / "d" / part, {"a": count, "b": count})
    competition, _, audited = init(tmp_path / "d", tmp_path)
    assert (competition.train.pictures, competition.train.held_out_pictures) == ("train", "val")
    assert (competition.test.pictures, competition.test.match) == ("test", "path")
    assert (audited.pictures, audited.test_pictures) == (8, 4)
    assert list(index_of_test(competition)["id"]) == ["a/000.jpg", "a/001.jpg", "b/000.jpg", "b/001.jpg"]


def test_table_of_stems(tmp_path):
    competition, _, audited = init(stems(tmp_path / "dogs"), tmp_path)
    assert (competition.train.match, competition.train.pictures) == ("stem", "train")
    assert (competition.train.label_column, competition.test.pictures) == ("breed", "test")
    assert audited.pictures == 4


def test_a_wide_sample_is_of_probabilities(tmp_path):
    data = stems(tmp_path / "dogs")
    write_table(data / "sample_submission.csv", "id,x,y", *(f"b{number},0.5,0.5" for number in range(3)))
    competition, _, _ = init(data, tmp_path)
    assert (competition.submission, competition.metric) == ("probabilities", "log_loss")
    assert (competition.test.pictures, competition.test.match) == ("test", "stem")


def test_a_numbered_label_does_not_pass_for_the_id(tmp_path):
    """Labels 0 … 3 are also the names of pictures."""
    data = tmp_path / "d"
    numbered(data / "train", [f"{number}.png" for number in range(8)])
    write_table(data / "train.csv", "digit,picture", *(f"{n % 4},{n}" for n in range(8)))
    competition, _ = infer("d", data, NO_WISH)
    assert (competition.train.id_column, competition.train.label_column) == ("picture", "digit")


@pytest.mark.parametrize("match", ["name", "path", "stem"])
def test_train_and_test_pictures_of_one_name(tmp_path, match):
    data = tmp_path / "d"
    numbered(data / "test", [f"{number}.png" for number in range(12)])
    numbered(data / "train", [f"{number}.png" for number in range(6)], colour=1)
    key = {"name": "{}.png", "path": "train/{}.png", "stem": "{}"}[match]
    write_table(data / "train.csv", "id,label", *(f"{key.format(n)},{'ab'[n % 2]}" for n in range(6)))
    competition, _ = infer("d", data, NO_WISH)
    top = competition.train.pictures if match != "path" else competition.train.pictures + "/train"
    assert (data / top).resolve() == data / "train"
    assert competition.test.pictures == "test"


def test_two_folders_that_hold_every_name_are_refused(tmp_path):
    data = tmp_path / "d"
    for folder in ("left", "right"):
        numbered(data / folder, [f"{number}.png" for number in range(6)])
    write_table(data / "train.csv", "id,label", *(f"{n}.png,{'ab'[n % 2]}" for n in range(6)))
    with pytest.raises(DataError) as caught:
        infer("d", data, NO_WISH)
    assert "'left'" in caught.value.problem
    assert "'right'" in caught.value.problem


def test_train_and_test_in_one_folder(tmp_path):
    data = tmp_path / "d"
    numbered(data / "images", [f"{number}.png" for number in range(8)])
    write_table(data / "train.csv", "id,label", *(f"{n},{'ab'[n % 2]}" for n in range(5)))
    write_table(data / "sample_submission.csv", "id,label", *(f"{n},a" for n in range(5, 8)))
    competition, _, audited = init(data, tmp_path)
    assert list(index_of_test(competition)["id"]) == ["5", "6", "7"]
    assert audited.pictures == 5
    assert not [note for note in audited.notes if "not used" in note]


def test_a_table_of_the_test_pictures_is_not_the_train_table(tmp_path):
    data = cars_like(tmp_path / "cars")
    write_table(data / "test.csv", "Id,Width", *(f"{number}.jpg,40" for number in range(4)))
    assert infer("cars", data, NO_WISH)[0].train.table == "train.csv"


# Two readings


def refused(data: Path, wishes: Wishes = NO_WISH) -> str:
    with pytest.raises(DataError) as caught:
        infer("slug", data, wishes)
    return caught.value.problem


def test_two_train_tables(tmp_path):
    data = stems(tmp_path / "dogs")
    write_table(data / "more.csv", "id,breed", *(f"a{n},z{n % 2}" for n in range(4)))
    problem = refused(data)
    assert "two readings" in problem
    assert "'labels.csv'" in problem
    assert "'more.csv'" in problem
    assert infer("slug", data, Wishes(table="more.csv"))[0].train.table == "more.csv"


def test_two_label_columns(tmp_path):
    rows = [f"a{n},{'xy'[n % 2]},{'uv'[n // 2]}" for n in range(4)]
    data = stems(tmp_path / "dogs", header="id,breed,owner", rows=rows)
    problem = refused(data)
    assert "'breed' or 'owner'" in problem
    train = infer("slug", data, Wishes(label_column="owner", group_column="breed"))[0].train
    assert (train.label_column, train.group_column) == ("owner", "breed")


def test_two_sample_submissions(tmp_path):
    data = cars_like(tmp_path / "cars")
    write_table(data / "sample_submission_2.csv", "Id,Category", "0.jpg,0")
    problem = refused(data)
    assert "'sample-submission.csv'" in problem
    assert "'sample_submission_2.csv'" in problem


def test_two_folders_of_test_pictures(tmp_path):
    data = cars_like(tmp_path / "cars")
    numbered(data / "test_copy", [f"{number}.jpg" for number in range(4)])
    problem = refused(data)
    assert "'test_copy'" in problem
    assert "'test_upload'" in problem


@pytest.mark.parametrize(("first", "second"), [("train", "training"), ("valid", "val"), ("test", "testing")])
def test_two_folders_of_one_part(tmp_path, first, second):
    for part in {"train", first, second}:
        make_pictures(tmp_path / "d" / part, {"a": 1, "b": 1})
    problem = refused(tmp_path / "d")
    assert f"'{first}'" in problem
    assert f"'{second}'" in problem


# What is refused


@pytest.mark.parametrize(
    ("wishes", "problem"),
    [
        (Wishes(table="away.csv"), "there is no table 'away.csv'"),
        (Wishes(label_column="away"), "has no column 'away'"),
        (Wishes(id_column="away"), "has no column 'away'"),
        (Wishes(group_column="away"), "has no column 'away'"),
        (Wishes(folds=1), "folds"),
    ],
)
def test_a_wish_that_does_not_fit_is_named(tmp_path, wishes, problem):
    assert problem in refused(stems(tmp_path / "dogs"), wishes)


def test_no_labels_at_all(tmp_path):
    numbered(tmp_path / "d", ["1.jpg", "2.jpg"])
    assert "holds no labels" in refused(tmp_path / "d")


def test_no_pictures(tmp_path):
    write_table(tmp_path / "d" / "train.csv", "id,label", "1,a")
    assert "holds no pictures" in refused(tmp_path / "d")


def test_a_sample_that_names_no_picture(tmp_path):
    data = stems(tmp_path / "dogs")
    write_table(data / "sample_submission.csv", "id,breed", "zzz,x")
    assert "no picture bears an id of the sample submission, such as zzz" in refused(data)


def test_hidden_tables_are_ignored(tmp_path):
    data = cars_like(tmp_path / "cars")
    for name in ("__MACOSX/._train.csv", "._train.csv", ".ipynb_checkpoints/train.csv"):
        path = data / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"\x00\x05\x16\x07\x00\xff\xfe")
    assert infer("cars", data, NO_WISH)[0].train.table == "train.csv"


def test_a_missing_folder(tmp_path):
    with pytest.raises(DataError, match=r"nowhere does not exist"):
        init(tmp_path / "nowhere", tmp_path)
    assert os.listdir(tmp_path) == []


def test_a_bad_slug(tmp_path):
    with pytest.raises(DataError, match="slug"):
        init(cars_like(tmp_path / "cars"), tmp_path, slug="My Cars")
    assert os.listdir(tmp_path) == ["cars"]


def test_an_existing_competition_is_left_alone(tmp_path):
    competition, _, _ = init(cars_like(tmp_path / "cars"), tmp_path)
    before = (competition.folder / "competition.yaml").read_bytes()
    make_pictures(tmp_path / "flowers", {"rose": 3, "tulip": 2})
    with pytest.raises(DataError, match="exists already"):
        init(tmp_path / "flowers", tmp_path)
    assert (competition.folder / "competition.yaml").read_bytes() == before


# Nothing half-written


def test_a_failing_audit_leaves_nothing_behind(tmp_path):
    data = cars_like(tmp_path / "cars")
    (data / "test_upload" / "2.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"test pictures cannot be read: 2\.jpg"):
        init(data, tmp_path)
    assert not (tmp_path / "competitions").exists() or os.listdir(tmp_path / "competitions") == []
    assert len(list(data.rglob("*.jpg"))) == 13

    make_picture(data / "test_upload" / "2.jpg")
    assert init(data, tmp_path)[2].test_pictures == 4


def test_leftovers_of_a_killed_run_do_not_stand_in_the_way(tmp_path):
    leftover = tmp_path / "competitions" / ".new.new"
    leftover.mkdir(parents=True)
    (leftover / "competition.yaml").write_text("half")
    competition, _, _ = init(cars_like(tmp_path / "cars"), tmp_path)
    assert load_competition("new", root=tmp_path) == competition
    assert os.listdir(tmp_path / "competitions") == ["new"]


def test_data_that_lies_in_the_folder_already_stays_there(tmp_path):
    data = cars_like(tmp_path / "competitions" / "new" / "data")
    before = sorted(data.rglob("*"))
    competition, _, audited = init(data, tmp_path)
    assert not data.is_symlink()
    assert sorted(data.rglob("*")) == before
    assert sorted(os.listdir(competition.folder)) == ["competition.yaml", "data", "explore"]
    assert audited.pictures == len(train_index(competition)) == 9


def test_other_data_in_the_folder_is_not_taken_for_what_was_read(tmp_path):
    make_pictures(tmp_path / "competitions" / "new" / "data", {"rose": 2, "tulip": 2})
    with pytest.raises(DataError, match="holds other data"):
        init(cars_like(tmp_path / "cars"), tmp_path)
    assert os.listdir(tmp_path / "competitions" / "new") == ["data"]


# Real data


@pytest.mark.slow
def test_cars10(tmp_path, shared_data):
    competition, _, audited = init(shared_data / "cars10", tmp_path)
    assert competition.train.model_dump(exclude_none=True, exclude_defaults=True) == {
        "pictures": "train",
        "table": "train.csv",
        "id_column": "Id",
        "label_column": "Category",
    }
    assert (competition.test.pictures, competition.sample_submission) == ("test_upload", "sample-submission.csv")
    assert (audited.pictures, audited.test_pictures, len(audited.classes)) == (800, 200, 10)
    assert audited.faults == {}
    height, width = audited.mean_size
    assert 300 < height < 400 < width


def test_cards(tmp_path, shared_data):
    competition, _, audited = init(shared_data / "cards", tmp_path)
    assert (competition.train.label_column, competition.train.split.column) == ("labels", "data set")
    assert list(audited.faults) == ["train/ace of clubs/output"]
    assert len(audited.classes) == 53
    assert audited.mean_size == (224.0, 224.0)
    (two_labels,) = [note for note in audited.notes if "different labels" in note]
    assert "four of clubs/127.jpg" in two_labels
    assert "four of spades/120.jpg" in two_labels


@pytest.mark.parametrize("name", ["test", "valid"])
def test_a_part_among_class_folders_may_be_a_class_too(tmp_path, name):
    data = tmp_path / "data"
    make_pictures(data, {"cat": 2, "dog": 2, name: 2})
    with pytest.raises(DataError, match=f"two readings are possible: the folder '{name}' may be a class"):
        init(data, tmp_path)


def test_mended_data_described_anew_has_no_quarantine(tmp_path):
    data = tmp_path / "data"
    broken = make_pictures(data, {"cat": 3, "dog": 3})[0]
    whole = broken.read_bytes()
    broken.write_bytes(b"")
    competition, _, audited = init(data, tmp_path)
    assert len(audited.faults) == 1
    broken.write_bytes(whole)
    (competition.folder / "competition.yaml").unlink()
    competition, _, audited = init(data, tmp_path)
    assert not competition.quarantine_file.exists()
    assert len(train_index(competition)) == 6


def test_a_quarantined_id_that_is_not_there_is_named(tiny_competition):
    write_table(tiny_competition.quarantine_file, "id,reason", "nobody.jpg,gone")
    with pytest.raises(DataError, match=r"names 1 ids that are not in the data: nobody.jpg"):
        train_index(tiny_competition)


def test_messages_name_the_data_as_the_user_does(tmp_path):
    data = tmp_path / "data"
    make_pictures(data, {"cat": 3, "dog": 3})[0].write_bytes(b"no picture")
    competition, _, audited = init(data, tmp_path)
    assert ".new" not in competition.quarantine_file.read_text()
    assert list(audited.faults) == ["cat/000.jpg"]
    (data / "empty").mkdir()
    with pytest.raises(DataError) as caught:
        init(data, tmp_path, slug="other")
    assert str(data) in caught.value.problem
    assert ".new" not in str(caught.value)
