"""Extra rows: read from folders, tables and pseudo-labels alike, never a copy of what is held out in some fold."""

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pipeline.competition import Competition, load_competition
from pipeline.data.competition_data import CompetitionData, load_data
from pipeline.data.extra import ExtraRows, load_extra
from pipeline.data.pseudo import read_pseudo, write_pseudo
from pipeline.errors import DataError, KitError, RecipeError
from tests.conftest import make_picture, make_pictures, write_competition, write_table

TABLE = {"table": "more.csv", "id_column": "picture", "label_column": "colour"}


def declare(competition: Competition, **extra: Any) -> Competition:
    """The tiny competition with these entries of `extra`."""
    settings = competition.model_dump(mode="json", exclude_none=True, exclude={"slug", "extra"})
    return write_competition(competition.folder.parents[1], "tiny", **settings, extra=extra)


@pytest.fixture
def folders(tiny_competition: Competition) -> Competition:
    """With `more`: two pictures of blue, three of red, in class folders."""
    make_pictures(tiny_competition.data / "more", {"blue": 2, "x": 0, "red": 3}, suffix=".png")
    return declare(tiny_competition, more={"pictures": "more"})


def made(competition: Competition, *rows: tuple[str, int, str], name: str = "guessed") -> None:
    frame = pd.DataFrame(rows, columns=["id", "fold", "label"]).assign(confidence=0.97)
    write_pseudo(competition, name, frame, {"folds_sha256": load_data(competition).folds.sha256})


def extra(competition: Competition, *names: str) -> ExtraRows:
    return load_data(competition, extra=names).extra


def same_but_extra(one: CompetitionData, other: CompetitionData) -> None:
    pd.testing.assert_frame_equal(one.train, other.train)
    assert (one.sha256, one.folds.sha256, one.mean_size) == (other.sha256, other.folds.sha256, other.mean_size)


def test_class_folders(folders: Competition) -> None:
    found = extra(folders, "more")
    assert list(found.frame["id"]) == [
        *(f"extra:more/more/blue/{number:03}.png" for number in range(2)),
        *(f"extra:more/more/red/{number:03}.png" for number in range(3)),
    ]
    assert list(found.frame["label"]) == ["blue"] * 2 + ["red"] * 3
    assert all(Path(path).is_file() for path in found.frame["path"])
    assert found.notes == ()
    for fold in (0, 1):
        assert list(found.of_fold(fold)["id"]) == list(found.frame["id"])
    assert found.counts([0, 1]) == {"more": {"0": 5, "1": 5}}


@pytest.mark.parametrize(
    "table", [{}, {"table": "more.csv", "id_column": "id", "label_column": "label", "match": "path"}]
)
def test_an_absolute_path(tiny_competition: Competition, tmp_path: Path, table: dict[str, str]) -> None:
    make_pictures(tmp_path / "away", {"red": 1, "blue": 1}, suffix=".png")
    write_table(tiny_competition.data / "more.csv", "id,label", "red/000.png,red", "blue/000.png,blue")
    frame = extra(declare(tiny_competition, more={"pictures": str(tmp_path / "away"), **table}), "more").frame
    assert list(frame["id"]) == ["extra:more/blue/000.png", "extra:more/red/000.png"]
    assert list(frame["label"]) == ["blue", "red"]
    assert all(Path(path).is_file() for path in frame["path"])


def test_a_table(tiny_competition: Competition) -> None:
    for number in range(3):
        make_picture(tiny_competition.data / "pool" / f"{number}.png", colour=number, seed=50 + number)
    write_table(tiny_competition.data / "more.csv", "picture,colour", "2,red", "0,blue")
    competition = declare(tiny_competition, more={"pictures": "pool", "match": "stem", **TABLE})
    frame = extra(competition, "more").frame
    assert dict(zip(frame["id"], frame["label"], strict=True)) == {"extra:more/0": "blue", "extra:more/2": "red"}
    assert [Path(path).name for path in frame["path"]] == ["0.png", "2.png"]


def test_everything_else_stays_as_it_is(folders: Competition) -> None:
    made(folders, ("t0.jpg", 0, "red"))
    without, with_rows = load_data(folders), load_data(folders, extra=["more", "guessed"])
    same_but_extra(without, with_rows)
    assert without.extra.frame.empty
    assert without.extra.sha256 is None
    assert without.extra.counts([0, 1]) == {}
    assert not set(with_rows.extra.frame["id"]) & {*with_rows.train["id"], *with_rows.test["id"]}


def test_groups_are_of_the_training_rows_and_leave_extra_rows_alone(folders: Competition) -> None:
    write_table(folders.groups_file, "id,group", "000.jpg,one", "003.jpg,one")
    made(folders, ("t0.jpg", 0, "red"))
    found = load_data(folders, extra=["more", "guessed"])
    assert len(found.extra.frame) == 6
    same_but_extra(load_data(folders), found)
    assert list(found.train.loc[found.train["group"] == "one", "id"]) == ["000.jpg", "003.jpg"]
    write_table(folders.groups_file, "id,group", "more/red/000.png,one")
    with pytest.raises(DataError, match=r"ids that are not in the data: more/red/000\.png"):
        load_data(folders, extra=["more"])


def test_without_extra_rows_no_file_is_looked_at(folders: Competition) -> None:
    data = load_data(folders)
    gone = data.train.assign(path="gone.jpg")
    options = {"train": gone, "test": data.test, "classes": data.classes, "folds": data.folds}
    assert load_extra(folders, [], **options).frame.empty
    with pytest.raises(FileNotFoundError):
        load_extra(folders, ["more"], **options)


def test_pseudo_labels_are_for_their_fold_alone(folders: Competition) -> None:
    made(folders, ("t0.jpg", 0, "red"), ("t0.jpg", 1, "blue"), ("t3.jpg", 1, "green"))
    found = extra(folders, "guessed", "more")
    assert list(found.of_fold(0).loc[lambda rows: rows["source"] == "guessed", "label"]) == ["red"]
    of_one = found.of_fold(1)[found.of_fold(1)["source"] == "guessed"]
    assert list(of_one["id"]) == ["extra:guessed/t0.jpg", "extra:guessed/t3.jpg"]
    assert list(of_one["label"]) == ["blue", "green"]
    assert list(of_one["path"]) == [str(folders.data / "test" / name) for name in ("t0.jpg", "t3.jpg")]
    assert found.counts([0, 1]) == {"guessed": {"0": 1, "1": 2}, "more": {"0": 5, "1": 5}}


def test_the_hash_is_of_ids_labels_folds_and_sizes(folders: Competition) -> None:
    hashes = [extra(folders, "more").sha256]
    made(folders, ("t0.jpg", 0, "red"), name="a")
    made(folders, ("t0.jpg", 1, "red"), name="b")
    made(folders, ("t0.jpg", 1, "blue"), name="c")
    hashes += [extra(folders, name).sha256 for name in ("a", "b", "c")]
    hashes += [extra(folders, "more", "a").sha256]
    make_picture(folders.data / "more" / "red" / "000.png", colour=2, seed=9, size=(20, 20))
    hashes += [extra(folders, "more").sha256]
    assert len(set(hashes)) == 6
    assert extra(folders, "a", "more").sha256 == extra(folders, "more", "a").sha256


def test_copies_of_training_pictures_are_left_out_and_named(folders: Competition) -> None:
    shutil.copyfile(folders.data / "train" / "004.jpg", folders.data / "more" / "red" / "copy.jpg")
    near = bytearray((folders.data / "train" / "007.jpg").read_bytes())
    near[-3] ^= 1  # of the same size, and yet another picture
    (folders.data / "more" / "red" / "near.jpg").write_bytes(near)
    found = extra(folders, "more")
    names = [Path(path).name for path in found.frame["path"]]
    assert "copy.jpg" not in names
    assert "near.jpg" in names
    assert len(names) == 6
    assert found.notes == (
        "extra pictures left out, as copies of training pictures (1): extra:more/more/red/copy.jpg = 004.jpg",
    )


def test_a_test_picture_that_is_a_training_picture_is_left_out(folders: Competition) -> None:
    shutil.copyfile(folders.data / "train" / "004.jpg", folders.data / "test" / "t0.jpg")
    made(folders, ("t0.jpg", 0, "red"), ("t0.jpg", 1, "red"), ("t1.jpg", 1, "red"))
    found = extra(folders, "guessed")
    assert list(found.frame["id"]) == ["extra:guessed/t1.jpg"]
    assert "(1): extra:guessed/t0.jpg = 004.jpg" in found.notes[0]


def test_nothing_but_copies_is_refused(tiny_competition: Competition) -> None:
    competition = declare(
        tiny_competition, again={"pictures": "train", "table": "train.csv", "id_column": "id", "label_column": "label"}
    )
    with pytest.raises(DataError, match="all 24 pictures of the extra rows again are copies"):
        extra(competition, "again")


def test_test_pictures_are_allowed_and_named(folders: Competition) -> None:
    shutil.copyfile(folders.data / "test" / "t5.jpg", folders.data / "more" / "red" / "known.jpg")
    found = extra(folders, "more")
    assert len(found.frame) == 6
    assert found.notes == ("extra pictures that are also test pictures (1): extra:more/more/red/known.jpg = t5.jpg",)


def test_labels_that_are_no_classes_are_named(folders: Competition) -> None:
    make_picture(folders.data / "more" / "pink" / "0.png")
    with pytest.raises(DataError, match="extra rows more have 1 labels that are no classes of tiny: pink"):
        extra(folders, "more")


def test_rows_without_a_picture_or_label_are_named(tiny_competition: Competition) -> None:
    make_picture(tiny_competition.data / "pool" / "0.png", seed=60)
    write_table(tiny_competition.data / "more.csv", "picture,colour", "0.png,", "9.png,red")
    competition = declare(tiny_competition, more={"pictures": "pool", **TABLE})
    with pytest.raises(DataError, match=r"2 extra rows of more cannot be used: 0\.png \(no label\), 9\.png \(no such"):
        extra(competition, "more")


@pytest.mark.parametrize("folder", ["none", "empty"])
def test_no_pictures_are_refused(tiny_competition: Competition, folder: str) -> None:
    (tiny_competition.data / "empty").mkdir()
    competition = declare(tiny_competition, more={"pictures": folder})
    with pytest.raises(DataError, match=folder):
        extra(competition, "more")


def test_an_unknown_name_is_refused_with_the_known_ones(folders: Competition) -> None:
    made(folders, ("t0.jpg", 0, "red"))
    with pytest.raises(RecipeError) as caught:
        extra(folders, "guesed")
    assert "expected: one of more, guessed" in str(caught.value)
    assert "did you mean 'guessed'?" in str(caught.value)


def test_declared_rows_and_pseudo_labels_share_their_names(folders: Competition) -> None:
    with pytest.raises(DataError, match=r"'more' is declared in competition\.yaml"):
        made(folders, ("t0.jpg", 0, "red"), name="more")
    made(folders, ("t0.jpg", 0, "red"), name="late")
    both = declare(folders, late={"pictures": "more"})
    with pytest.raises(RecipeError, match=r"in competition\.yaml and as pseudo-labels"):
        extra(both, "late")


@pytest.mark.parametrize("name", ["../x", "Big", ""])
def test_a_name_stays_inside_its_folder(folders: Competition, name: str) -> None:
    with pytest.raises(DataError, match="cannot be the name of extra rows"):
        made(folders, ("t0.jpg", 0, "red"), name=name)


def test_another_table_is_not_overwritten(folders: Competition) -> None:
    made(folders, ("t0.jpg", 0, "red"))
    made(folders, ("t0.jpg", 0, "red"))
    file = folders.pseudo_file("guessed")
    before = file.read_bytes()
    with pytest.raises(DataError, match="holds other pseudo-labels"):
        made(folders, ("t0.jpg", 0, "blue"))
    assert file.read_bytes() == before
    assert sorted(path.name for path in file.parent.iterdir()) == ["guessed.csv", "guessed.json"]


def test_a_table_is_there_only_when_it_is_whole(folders: Competition) -> None:
    made(folders, ("t0.jpg", 0, "red"))
    folders.pseudo_file("guessed").with_suffix(".json").unlink()
    with pytest.raises(RecipeError, match="no extra rows 'guessed'"):
        extra(folders, "guessed")


def test_pseudo_labels_of_other_folds_are_refused(folders: Competition) -> None:
    made(folders, ("t0.jpg", 0, "red"))
    table = pd.read_csv(folders.folds_file)
    table.assign(fold=1 - table["fold"]).to_csv(folders.folds_file, index=False)
    with pytest.raises(DataError, match="guessed were made with other folds"):
        extra(folders, "guessed")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("000.jpg", 0, "red"), r"1 not test pictures \(000\.jpg\)"),
        (("t1.jpg", -1, "red"), r"1 not folds \(-1\)"),
        (("t1.jpg", 2, "red"), r"1 not folds \(2\)"),
        (("t0.jpg", 0, "blue"), r"1 repeated \(t0\.jpg\)"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(folders: Competition, row: tuple[str, int, str], message: str) -> None:
    """-1 above all: a test row for every fold."""
    made(folders, ("t0.jpg", 0, "red"), row)
    data = load_data(folders)
    with pytest.raises(DataError, match=message):
        read_pseudo(folders, "guessed", test=data.test, folds=data.folds)


@pytest.mark.parametrize(
    "entry",
    [
        {"pictures": "more", "label_column": "label"},
        {"pictures": "more", "table": "more.csv"},
        {"pictures": "more", "group_column": "x"},
        {},
    ],
)
def test_an_entry_that_does_not_hold_is_refused(tiny_competition: Competition, entry: dict[str, str]) -> None:
    with pytest.raises(KitError, match=r"extra\.more"):
        declare(tiny_competition, more=entry)


def test_the_description_is_written_and_read_again(folders: Competition) -> None:
    (folders.folder / "competition.yaml").write_text(folders.to_yaml(), "utf-8")
    assert load_competition("tiny", root=folders.folder.parents[1]) == folders
    assert "extra" not in folders.model_copy(update={"extra": {}}).to_yaml()
