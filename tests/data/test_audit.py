import os
import shutil

import pytest

from pipeline.data.audit import audit
from pipeline.data.explore import explore
from pipeline.errors import DataError
from tests.conftest import make_picture, write_table
from tests.data.test_decode import write_hostile


def copy_train(competition, source, target):
    shutil.copy(competition.data / "train" / source, competition.data / "train" / target)


def add_rows(competition, *rows):
    with (competition.data / "train.csv").open("a") as table:
        table.writelines(row + "\n" for row in rows)


def test_sound_data(tiny_competition):
    found = audit(tiny_competition)
    assert found.pictures == 24
    assert found.classes == ["blue", "green", "red"]
    assert found.mean_size == (32.0, 40.0)
    assert found.test_pictures == 6
    assert found.faults == {}
    assert found.notes == []


def test_each_fault_is_named_with_its_reason(tiny_competition):
    train = tiny_competition.data / "train"
    whole = (train / "003.jpg").read_bytes()
    (train / "003.jpg").write_bytes(whole[: len(whole) // 2])
    (train / "004.jpg").write_bytes(b"")
    (train / "005.jpg").write_text("not found")
    make_picture(train / "nolabel.jpg", seed=50)
    add_rows(tiny_competition, "ghost.jpg,red", "nolabel.jpg,")

    found = audit(tiny_competition)
    assert sorted(found.faults) == ["003.jpg", "004.jpg", "005.jpg", "ghost.jpg", "nolabel.jpg"]
    assert found.faults["ghost.jpg"] == "no such file"
    assert found.faults["nolabel.jpg"] == "no label"
    assert found.faults["003.jpg"].startswith("cannot be read as a picture")
    assert found.faults["004.jpg"] == "is empty (0 bytes)"
    assert str(tiny_competition.data) not in found.faults["005.jpg"].split(":")[0]
    assert found.pictures == 21


def test_every_kind_of_file_among_the_pictures(tiny_competition, tmp_path):
    """Those that cannot be read are named with the reason; links are followed out of the folder; what is no file, and a
    link to nothing, is no picture."""
    train = tiny_competition.data / "train"
    known = write_hostile(train)
    (train / "elsewhere.jpg").symlink_to(make_picture(tmp_path / "elsewhere" / "a.jpg", seed=60))
    (train / "broken-elsewhere.jpg").symlink_to(tmp_path / "elsewhere" / "b.jpg")
    (tmp_path / "elsewhere" / "b.jpg").write_bytes(b"no picture")
    (train / "nowhere.jpg").symlink_to(tmp_path / "nowhere")
    os.mkfifo(train / "pipe.jpg")
    (train / "folder.jpg").mkdir()
    known |= {"elsewhere.jpg": [], "broken-elsewhere.jpg": "cannot identify"}
    known |= dict.fromkeys(("nowhere.jpg", "pipe.jpg", "folder.jpg"), "no such file")
    add_rows(tiny_competition, *(f"{name},red" for name in known))

    found = explore(tiny_competition)
    assert sorted(found.faults) == sorted(name for name, what in known.items() if isinstance(what, str))
    assert {name: why for name, why in found.faults.items() if known[name] not in why} == {}
    assert len(found.rows) == 24 + sum(isinstance(what, list) for what in known.values())
    assert found.faults == audit(tiny_competition).faults


def test_what_is_in_quarantine_is_not_read(tiny_competition):
    (tiny_competition.data / "train" / "003.jpg").write_bytes(b"")
    write_table(tiny_competition.quarantine_file, "id,reason", "003.jpg,empty")
    found = audit(tiny_competition)
    assert found.faults == {}
    assert found.pictures == 23


def test_mean_size_is_that_of_the_pictures_that_can_be_used(tiny_competition):
    train = tiny_competition.data / "train"
    for number in range(1, 24):
        (train / f"{number:03}.jpg").write_bytes(b"")
    make_picture(train / "002.jpg", size=(64, 20))
    assert audit(tiny_competition).mean_size == (48.0, 30.0)


def test_identical_pictures_under_two_labels(tiny_competition):
    copy_train(tiny_competition, "000.jpg", "001.jpg")  # a blue one in the place of a green one
    assert audit(tiny_competition).notes == [
        "identical pictures under different labels (1): 000.jpg (blue) = 001.jpg (green)"
    ]


def test_identical_pictures_under_one_label(tiny_competition):
    copy_train(tiny_competition, "000.jpg", "003.jpg")
    copy_train(tiny_competition, "000.jpg", "006.jpg")
    (note,) = audit(tiny_competition).notes
    assert note.startswith("identical pictures, which may end up in different folds (1): ")
    assert note.endswith("000.jpg = 003.jpg = 006.jpg")


def test_train_pictures_that_are_in_test(tiny_competition):
    shutil.copy(tiny_competition.data / "train" / "004.jpg", tiny_competition.data / "test" / "t2.jpg")
    assert audit(tiny_competition).notes == ["test pictures that are also in train (1): t2.jpg = 004.jpg"]


def test_pictures_without_a_row_are_noted(tiny_competition):
    make_picture(tiny_competition.data / "train" / "extra.jpg", seed=99)
    (note,) = audit(tiny_competition).notes
    assert note == "pictures with no row in train.csv, not used (1): train/extra.jpg"


def test_an_unreadable_test_picture_is_an_error_that_names_it(tiny_competition):
    (tiny_competition.data / "test" / "t3.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"1 test pictures cannot be read: t3\.jpg"):
        audit(tiny_competition)


def test_no_readable_picture_at_all(tiny_competition):
    for path in (tiny_competition.data / "train").iterdir():
        path.write_bytes(b"")
    found = audit(tiny_competition)
    assert (found.pictures, found.classes, found.mean_size, len(found.faults)) == (0, [], (0.0, 0.0), 24)
