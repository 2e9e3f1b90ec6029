"""kit explore on the command line, and what other commands say about what it wrote."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.competition import Competition
from tests.conftest import write_table
from tests.data.test_duplicates import scene


def kit(*words: str) -> str:
    result = CliRunner().invoke(app, list(words))
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def faulty(tiny_competition: Competition, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Competition:
    train = tiny_competition.data / "train"
    shutil.copy(train / "000.jpg", train / "001.jpg")  # blue and green
    Image.fromarray(scene(2)).save(train / "006.jpg", quality=95)
    Image.fromarray(scene(2)).save(train / "009.jpg", quality=40)
    (train / "023.jpg").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    return tiny_competition


def test_without_an_option_only_the_page_and_its_pictures_are_written(faulty: Competition) -> None:
    before = {path for path in faulty.folder.rglob("*") if path.is_file()}
    output = kit("explore", "tiny")
    new = {path for path in faulty.folder.rglob("*") if path.is_file()} - before
    names = ["augmented.png", "classes.png", "duplicates.json", "explore.html"]
    names += ["facts/facts.parquet", "facts/small.npy", "leaks.csv", "pairs.csv", "samples.png", "sizes.png"]
    assert sorted(path.relative_to(faulty.folder / "explore").as_posix() for path in new) == names
    assert output.index("looking at the pictures of tiny") < output.index("drawing the page") < output.index("wrote")
    assert "pictures: 23 train, 6 test" in output
    assert "training pictures that are also there under another label      2" in output
    assert "competitions/tiny/explore/explore.html" in output
    for picture in (faulty.folder / "explore").glob("*.png"):
        with Image.open(picture) as image:
            image.verify()


def test_a_training_that_a_picture_would_end_is_refused_before_it_begins(faulty: Competition) -> None:
    refused = CliRunner().invoke(app, ["train", "demo", "tiny"])
    assert refused.exit_code == 1
    assert (
        "1 picture of tiny cannot be used (1 in training, 0 to predict): 023.jpg (is empty (0 bytes))" in refused.output
    )
    assert "--quarantine" in refused.output
    assert not Path("runs").exists() and not faulty.folds_file.exists()


def test_leaked_test_pictures_and_all_pairs_are_tables(faulty: Competition) -> None:
    Image.fromarray(scene(5)).save(faulty.data / "test" / "t0.jpg")  # before, it is like one in train
    assert "leaks.csv" not in kit("explore", "tiny")
    shutil.copy(faulty.data / "train" / "004.jpg", faulty.data / "test" / "t2.jpg")
    output = kit("explore", "tiny")
    assert "explore/pairs.csv: 3 rows" in output and "explore/leaks.csv: 1 row\n" in output
    leaks = pd.read_csv(faulty.folder / "explore" / "leaks.csv", dtype=str).to_dict("records")
    assert leaks == [
        {"test_id": "t2.jpg", "train_id": "004.jpg", "label": "green", "kind": "identical", "distance": "0"}
    ]
    pairs = pd.read_csv(faulty.folder / "explore" / "pairs.csv")
    assert set(zip(pairs["id_a"], pairs["id_b"], strict=True)) == {
        ("000.jpg", "001.jpg"),
        ("004.jpg", "t2.jpg"),
        ("006.jpg", "009.jpg"),
    }
    Image.fromarray(scene(7)).save(faulty.data / "test" / "t2.jpg")
    assert "leaks.csv" not in kit("explore", "tiny")
    assert not (faulty.folder / "explore" / "leaks.csv").exists(), "of pictures that are there no longer"


def test_pairs_that_folds_may_divide_are_the_next_step_and_said_each_time(faulty: Competition) -> None:
    write_table(faulty.quarantine_file, "id,reason", "023.jpg,empty", "001.jpg,which?", "000.jpg,which?")
    assert "next: kit explore tiny --write-groups    (1 pair of duplicates is not in one group" in kit(
        "explore", "tiny"
    )
    write_table(faulty.folds_file, "id,fold", *(f"{n:03}.jpg,{n % 2}" for n in range(2, 23)))
    assert "note: 1 pair of duplicates lies in different folds" in kit("folds", "tiny")
    assert "next: remove" in kit("explore", "tiny", "--write-groups")
    output = kit("folds", "tiny")  # which are older than the groups
    assert "rows of one group are in one fold" not in output
    assert (
        "flatters the score: remove competitions/tiny/folds.csv, then `kit folds tiny` makes them by the groups"
        in output
    )
    faulty.folds_file.unlink()
    output = kit("folds", "tiny")
    assert "rows of one group are in one fold: 1 group" in output and "different folds" not in output
    assert "next: kit folds" in kit("explore", "tiny")


def test_from_what_is_found_to_the_folds(faulty: Competition) -> None:
    output = kit("explore", "tiny", "--quarantine", "--write-groups")
    assert "quarantine.csv: 3 rows more" in output
    assert "groups.csv: 4 rows in 2 groups" in output
    assert "remove it" not in output
    assert "leaves out 3 rows" in kit("folds", "tiny")
    folds = dict(line.split(",") for line in faulty.folds_file.read_text().splitlines())
    assert folds["006.jpg"] == folds["009.jpg"]
    assert not {"000.jpg", "001.jpg", "023.jpg"} & set(folds)


def test_folds_that_are_there_are_named_with_what_to_do(faulty: Competition) -> None:
    write_table(faulty.quarantine_file, "id,reason", "023.jpg,empty")
    kit("folds", "tiny")
    output = kit("explore", "tiny", "--quarantine", "--write-groups")
    assert "folds.csv still names them: remove it to make the folds anew" in output
    assert "groups act on new folds alone" in output
    result = CliRunner().invoke(app, ["folds", "tiny"])
    assert result.exit_code == 1
    assert "were quarantined since the folds were made" in result.stderr


def test_groups_without_effect_are_refused_before_anything_is_read(faulty: Competition) -> None:
    (faulty.folder / "competition.yaml").write_text("slug: tiny\ntrain: {pictures: train, held_out_pictures: valid}\n")
    result = CliRunner().invoke(app, ["explore", "tiny", "--write-groups"])
    assert result.exit_code == 1
    assert "groups have no effect" in result.stderr
    assert not (faulty.folder / "explore").exists()


def test_an_augmentation_that_is_not_there_is_refused(faulty: Competition) -> None:
    result = CliRunner().invoke(app, ["explore", "tiny", "--augment", "wild"])
    assert result.exit_code == 1
    assert "no augmentation preset 'wild'" in result.stderr
    assert not (faulty.folder / "explore").exists()
