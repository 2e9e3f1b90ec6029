"""Exploring a competition, and what is done about what is found: groups and quarantine, up to the folds."""

import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline.competition import Competition
from pipeline.data.explore import audited, explore, findings
from pipeline.data.folds import load_folds, make_folds
from pipeline.data.index import train_index
from pipeline.data.remedies import (
    add_to_quarantine,
    contradictions,
    merged_groups,
    refuse_groups_without_effect,
    write_groups,
)
from pipeline.data.showcase import showcase
from pipeline.errors import DataError
from tests.conftest import make_picture, make_pictures, write_competition, write_table
from tests.data.test_duplicates import re_encoded, scene


@pytest.fixture
def sound(tiny_competition: Competition) -> Competition:
    """`tiny` without the one picture in test that has its square where one in train has it, too."""
    Image.fromarray(scene(9, size=(32, 40))).save(tiny_competition.data / "test" / "t0.jpg")
    return tiny_competition


@pytest.fixture
def faulty(sound: Competition) -> Competition:
    """`tiny` with real pictures in some places: 000 (blue) is there again as 003 (blue), as 004 (green, identical) and
    in test; 006 is there re-encoded as 009 (both blue); 023 is empty."""
    train, test = sound.data / "train", sound.data / "test"
    Image.fromarray(scene(1)).save(train / "000.jpg", quality=95)
    shutil.copy(train / "000.jpg", train / "003.jpg")
    shutil.copy(train / "000.jpg", train / "004.jpg")
    Image.fromarray(re_encoded(scene(1))).save(test / "t1.jpg")
    shutil.copy(test / "t1.jpg", test / "t2.jpg")
    Image.fromarray(scene(2)).save(train / "006.jpg", quality=95)
    Image.fromarray(scene(2)).save(train / "009.jpg", quality=40)
    (train / "023.jpg").write_bytes(b"")
    return sound


def test_sound_data(sound: Competition) -> None:
    found = explore(sound)
    assert findings(found) == []
    assert len(found.pictures) == 30
    assert found.pictures["part"].value_counts().to_dict() == {"train": 24, "test": 6}
    assert found.facts["classes"] == "3, of 8 pictures"
    first = found.pictures.iloc[0]
    assert (first["id"], first["label"], first["height"], first["width"]) == ("000.jpg", "blue", 32, 40)
    assert (first["format"], first["mode"]) == ("JPEG", "RGB")


def test_what_is_wrong_is_found(faulty: Competition) -> None:
    found = explore(faulty)
    pairs = {(row.kind, row.part_a, row.id_a, row.part_b, row.id_b) for row in found.pairs.itertuples()}
    assert pairs == {
        ("identical", "train", "000.jpg", "train", "003.jpg"),
        ("identical", "train", "000.jpg", "train", "004.jpg"),
        ("identical", "test", "t1.jpg", "test", "t2.jpg"),
        ("near", "train", "000.jpg", "test", "t1.jpg"),
        ("near", "train", "006.jpg", "train", "009.jpg"),
    }
    assert found.in_train == {"held out": 0, "test": 2}
    assert sorted(found.contradictory) == ["000.jpg", "003.jpg", "004.jpg"]
    assert sorted(found.faults) == ["000.jpg", "003.jpg", "004.jpg", "023.jpg"]
    assert found.unreadable.to_dict("records") == [{"part": "train", "id": "023.jpg", "reason": "is empty (0 bytes)"}]
    assert {finding.what: finding.count for finding in findings(found)} == {
        "training rows without a readable picture or a label": 1,
        "training pictures that are also there under another label": 3,
        "pairs of identical pictures in training": 1,
        "pairs of near duplicates in training": 1,
        "test pictures that are also in training": 2,
        "pairs of duplicates within test": 1,
    }


def test_nothing_is_written(faulty: Competition) -> None:
    before = sorted(faulty.folder.rglob("*"))
    explore(faulty)
    kept = [faulty.folder / "explore", *(faulty.folder / "explore").rglob("*")]  # the facts about the pictures
    assert sorted(set(faulty.folder.rglob("*")) - set(kept)) == before


def test_an_unreadable_test_picture_is_shown_not_refused(tiny_competition: Competition) -> None:
    (tiny_competition.data / "test" / "t3.jpg").write_text("no picture")
    (row,) = explore(tiny_competition).unreadable.to_dict("records")
    assert (row["part"], row["id"]) == ("test", "t3.jpg")


def test_before_a_training_everything_is_looked_at_once(faulty: Competition, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        DataError, match=r"1 picture of tiny cannot be used \(1 in training, 0 to predict\): 023\.jpg \(is"
    ) as caught:
        audited(faulty)
    assert caught.value.next_step.endswith("kit explore tiny --quarantine")
    write_table(faulty.quarantine_file, "id,reason", "023.jpg,empty")
    looked, notes = [], [f"{line.count} {line.what}: {line.next_step}" for line in findings(explore(faulty))[:-1]]
    monkeypatch.setattr("pipeline.data.explore.explore", lambda competition: looked.append(1) or explore(competition))
    assert audited(faulty) == audited(faulty) == notes
    assert "2 test pictures that are also in training: the leaderboard's score is flattered by them" in notes
    assert len(looked) == 1
    make_picture(faulty.data / "test" / "t2.jpg", seed=77)
    assert audited(faulty) != notes
    (faulty.data / "test" / "t2.jpg").write_bytes(bytes((faulty.data / "test" / "t2.jpg").stat().st_size))
    with pytest.raises(DataError, match=r"0 in training, 1 to predict\): t2\.jpg \(cannot be read"):
        audited(faulty)


def test_where_nothing_can_be_kept_a_training_is_looked_at_all_the_same(tiny_competition: Competition) -> None:
    (tiny_competition.folder / "explore").write_text("no folder can be made here", "utf-8")
    notes = [f"{line.count} {line.what}: {line.next_step}" for line in findings(explore(tiny_competition))]
    assert audited(tiny_competition) == audited(tiny_competition) == notes


def test_brightness_is_the_mean_grey_level(tiny_competition: Competition) -> None:
    pixels = np.zeros((10, 10, 3), dtype=np.uint8)
    pixels[:5] = (255, 0, 0)
    Image.fromarray(pixels).save(tiny_competition.data / "train" / "000.jpg", format="PNG")
    first = explore(tiny_competition).pictures.iloc[0]
    assert first["brightness"] == pytest.approx(255 * 0.299 / 2, abs=0.01)
    assert first["format"] == "PNG"


def test_every_kind_of_picture_and_name(tmp_path) -> None:
    """Grey, 16 bits, CMYK, one pixel; no test; a predefined split; class names that are markup."""
    data = tmp_path / "competitions" / "odd" / "data"
    classes = {'a < b & "c"': 2, "猫": 2}
    make_pictures(data / "train", classes)
    make_pictures(data / "valid", classes)
    first, second = (data / "train" / name for name in classes)
    Image.fromarray(np.full((1, 1), 7, dtype=np.uint8)).save(first / "pixel.png")
    Image.fromarray(np.full((1, 1), 7, dtype=np.uint8)).save(second / "pixel.png")
    Image.fromarray(np.arange(400, dtype=np.uint16).reshape(20, 20) * 100).save(first / "deep.png")
    Image.fromarray(scene(3)).convert("CMYK").save(second / "cmyk.jpg")
    odd = write_competition(tmp_path, "odd", train={"pictures": "train", "held_out_pictures": "valid", "match": "path"})

    found = explore(odd)
    assert found.has_split
    assert set(found.pictures["mode"]) == {"RGB", "L", "I;16", "CMYK"}
    assert found.in_train["held out"] == 4  # the same pictures in both
    assert len(found.contradictory) == 2  # the two pixels
    shown = showcase(found, augment="heavy")
    assert set(shown.samples["label"]) == set(classes)
    assert list(shown.pairs) == ["Different labels", "In train and in the held-out part"]
    with pytest.raises(DataError, match=r"groups have no effect on odd: .*'valid'"):
        refuse_groups_without_effect(odd)


def test_what_is_shown_is_capped_and_says_of_how_many(tmp_path, monkeypatch) -> None:
    data = tmp_path / "competitions" / "many" / "data"
    for number in range(150):
        make_picture(data / f"class {number:03}" / "0.png", colour=number, seed=number, size=(4, 4))
        shutil.copy(data / f"class {number:03}" / "0.png", data / f"class {number:03}" / "1.png")
    many = write_competition(tmp_path, "many", train={"pictures": ".", "match": "path"})
    shown = showcase(explore(many), augment="none")
    assert shown.samples["label"].nunique() == len(shown.samples) == 120
    assert {"class 000", "class 149"} <= set(shown.samples["label"])
    ((heading, (count, rows)),) = shown.pairs.items()
    assert (heading, count, len(rows)) == ("Within one part of training", 150, 30)
    assert all(len(stack) == 6 and (stack == stack[0]).all() for stack in shown.augmented.values())


def test_groups_go_into_the_folds_and_are_not_divided(faulty: Competition) -> None:
    found = explore(faulty)
    assert write_groups(faulty, merged_groups(found.rows, found.training_pairs)) == 5
    add_to_quarantine(faulty, {"023.jpg": "empty"})
    index = train_index(faulty)
    groups = dict(zip(index["id"], index["group"], strict=True))
    assert groups["000.jpg"] == groups["003.jpg"] == groups["004.jpg"] == "like 000.jpg"
    assert groups["006.jpg"] == groups["009.jpg"] == "like 006.jpg"
    assert groups["001.jpg"] == ""

    folds = load_folds(faulty, index).frame.set_index("id")["fold"]
    assert folds[["000.jpg", "003.jpg", "004.jpg"]].nunique() == folds[["006.jpg", "009.jpg"]].nunique() == 1
    counts = pd.crosstab(index["label"], index["id"].map(folds))
    assert ((counts.max(axis=1) - counts.min(axis=1)) <= 1).all()


def test_writing_groups_again_changes_nothing_and_keeps_what_was_added(faulty: Competition) -> None:
    write_table(faulty.groups_file, "id,group", "001.jpg,mine", "006.jpg,mine")
    for _ in range(2):
        found = explore(faulty)
        write_groups(faulty, merged_groups(found.rows, found.training_pairs))
        table = pd.read_csv(faulty.groups_file, dtype=str).set_index("id")["group"]
        assert table.to_dict() == {
            **dict.fromkeys(["000.jpg", "003.jpg", "004.jpg"], "like 000.jpg"),
            **dict.fromkeys(["001.jpg", "006.jpg", "009.jpg"], "mine"),
        }


def test_pairs_join_the_groups_that_the_data_has() -> None:
    rows = pd.DataFrame({"id": list("abcdefg"), "group": ["p", "p", "q", "q", "", "", "r"]})
    assert merged_groups(rows, [("b", "c"), ("e", "f")]) == {
        **dict.fromkeys("abcd", "p"),
        **dict.fromkeys("ef", "like e"),
    }
    assert merged_groups(rows, []) == {}


@pytest.mark.parametrize("seed", range(5))
def test_whatever_the_pairs_no_group_is_divided_and_classes_stay_even(seed: int) -> None:
    random = np.random.default_rng(seed)
    ids = [f"{number:04}" for number in range(400)]
    labels = random.choice(list("abcd"), 400)
    own = [f"g{number}" if number < 20 else "" for number in random.integers(0, 80, 400)]
    index = pd.DataFrame({"id": ids, "path": "", "label": labels, "group": own, "split": "train"})
    pairs = [(ids[a], ids[b]) for a, b in random.integers(0, 400, (40, 2)) if a != b]
    merged = merged_groups(index, pairs)
    index["group"] = [merged.get(key, group) for key, group in zip(ids, own, strict=True)]
    fold = make_folds(index, folds=5, seed=0).frame["fold"]

    of = dict(zip(ids, fold, strict=True))
    assert all(of[a] == of[b] for a, b in pairs)
    grouped = pd.DataFrame({"group": own, "fold": fold})[lambda frame: frame["group"] != ""]
    assert (grouped.groupby("group")["fold"].nunique() == 1).all()
    sizes = fold.value_counts()
    assert sizes.max() - sizes.min() <= 0.1 * 400
    shares = pd.crosstab(index["label"], fold, normalize="columns")
    assert (shares.max(axis=1) - shares.min(axis=1)).max() < 0.1


def test_a_class_that_is_one_group_is_never_held_out(tiny_competition: Competition) -> None:
    greens = [f"{number:03}.jpg" for number in range(1, 24, 3)]
    write_table(tiny_competition.groups_file, "id,group", *(f"{key},one" for key in greens))
    index = train_index(tiny_competition)
    held_out = load_folds(tiny_competition, index).frame["fold"]
    assert set(index["label"][held_out == -1]) == {"green"}
    assert set(index["label"][held_out != -1]) == {"blue", "red"}


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        (["000.jpg,a", "nowhere.jpg,a"], r"groups\.csv names 1 ids that are not in the data: nowhere\.jpg"),
        (["000.jpg,a", "000.jpg,b"], r"groups\.csv names 1 ids more than once: 000\.jpg"),
    ],
)
def test_groups_that_do_not_fit_are_refused(tiny_competition: Competition, rows: list[str], fault: str) -> None:
    write_table(tiny_competition.groups_file, "id,group", *rows)
    with pytest.raises(DataError, match=fault):
        train_index(tiny_competition)


def test_groups_csv_counts_before_the_group_column(tiny_competition: Competition) -> None:
    table = tiny_competition.data / "train.csv"
    pd.read_csv(table, dtype=str).assign(patient="p").to_csv(table, index=False)
    train = tiny_competition.train.model_copy(update={"group_column": "patient"})
    competition = tiny_competition.model_copy(update={"train": train})
    write_table(competition.groups_file, "id,group", "001.jpg,q")
    assert list(train_index(competition)["group"][:3]) == ["p", "q", "p"]


def test_the_quarantine_keeps_what_stands_in_it(faulty: Competition) -> None:
    write_table(faulty.quarantine_file, "id,reason", '023.jpg,"mine, really"')
    faults = explore(faulty).faults
    assert add_to_quarantine(faulty, faults) == 3
    assert add_to_quarantine(faulty, explore(faulty).faults) == 0
    table = pd.read_csv(faulty.quarantine_file).set_index("id")["reason"]
    assert list(table.index) == ["023.jpg", "000.jpg", "003.jpg", "004.jpg"]
    assert table["023.jpg"] == "mine, really"
    assert table["000.jpg"] == "labelled blue, but identical to 004.jpg (green)"
    assert table["004.jpg"] == "labelled green, but identical to 000.jpg (blue), 003.jpg (blue)"
    assert len(train_index(faulty)) == 20


def test_identical_pictures_with_one_label_contradict_nothing() -> None:
    assert contradictions([[("a", "x"), ("b", "x")]]) == {}


def test_folds_older_than_the_quarantine_say_so(faulty: Competition) -> None:
    made = load_folds(faulty, train_index(faulty)).frame.set_index("id")["fold"]
    add_to_quarantine(faulty, explore(faulty).faults)
    with pytest.raises(
        DataError, match=r"4 rows of .*folds\.csv were quarantined since the folds were made: 000\.jpg"
    ) as caught:
        load_folds(faulty, train_index(faulty))
    assert "remove these rows from it" in caught.value.next_step

    header, *rows = faulty.folds_file.read_text().splitlines()
    write_table(faulty.folds_file, header, *(row for row in rows if row[:7] not in explore(faulty).left_out))
    kept = load_folds(faulty, train_index(faulty)).frame.set_index("id")["fold"]
    assert kept.equals(made[kept.index])
