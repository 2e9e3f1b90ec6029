"""`kit predict`: what it takes, prints, writes and refuses."""

import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from pipeline.artifacts import Workspace
from pipeline.competition import load_competition
from pipeline.predictions.store import read_predictions, write_predictions
from pipeline.recipe import load_recipe
from pipeline.training.cross_validate import cross_validate
from pipeline.training.fold import Machine, train_fold
from tests.conftest import make_picture, write_tiny_competition
from tests.test_cli import RECIPE, kit, refused

CLASSES = ["blue", "green", "red"]


def train_quickly(root: Path) -> None:
    """`colours` on the tiny competition in `root`, its OOF predictions too sure: wrong about a quarter of the rows."""
    write_tiny_competition(root)
    (root / "colours.yaml").write_text(yaml.safe_dump(RECIPE), "utf-8")
    cross_validate(
        load_recipe(str(root / "colours.yaml"), overrides=["stages.0.epochs=1"]),
        load_competition("tiny", root=root),
        experiment="colours",
        workspace=Workspace(root),
        machine=Machine(workers=0),
        engine=train_fold,
    )
    for name in ("oof.parquet", "oof_tta.parquet"):
        file = root / "oof" / "tiny" / "colours" / name
        too_sure(file, wrong_every=4)


def too_sure(file: Path, *, wrong_every: int) -> None:
    """Let stored OOF predictions of the tiny competition, whose labels go by turns, have 0.98 for one class."""
    frame = read_predictions(file)
    numbers = frame["id"].str[:3].astype(int).to_numpy()
    chosen = (numbers + (np.arange(len(frame)) % wrong_every == 0)) % 3
    frame[CLASSES] = np.eye(3, dtype=np.float32)[chosen] * 0.97 + 0.01
    write_predictions(file, frame)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with the experiment `colours`; not to be changed."""
    root = tmp_path_factory.mktemp("trained")
    train_quickly(root)
    return root


@pytest.fixture
def here(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it as the current folder, with a folder of pictures."""
    root = tmp_path / "copy"
    shutil.copytree(trained, root, copy_function=shutil.copy2)
    monkeypatch.chdir(root)
    for number, name in enumerate(("a/one.jpg", "b/one.png", "b/two.jpg")):
        make_picture(root / "photos" / name, colour=number, seed=50, size=(40, 32 + number))
    return root


def test_a_folder_and_a_pattern_in_every_format(here: Path) -> None:
    table = kit("predict", "colours", "photos", "--top", "2")
    assert table.exit_code == 0, table.output
    lines = table.stdout.splitlines()
    assert lines[0].split() == ["picture", "rank", "class", "probability"]
    assert [line.split()[:2] for line in lines[2:8]] == [
        [f"photos/{name}", str(rank)] for name in ("a/one.jpg", "b/one.png", "b/two.jpg") for rank in (1, 2)
    ]
    assert "probabilities calibrated by temperature" in lines[-1]
    assert "fitted on OOF predictions; ECE of single fold models there 0." in lines[-1]
    assert lines[-1].endswith("; that of the mean of 2, shown here, is not known")
    by_pattern = kit("predict", "colours", "photos/**/*.*g", "--top", "2", "--format", "json")
    assert json.loads(by_pattern.stdout)[0].keys() == {"picture", "rank", "class", "probability"}
    assert "calibrated by temperature" in by_pattern.stderr
    as_csv = kit("predict", "colours", "photos", "--top", "2", "--format", "csv")
    shares = [row["probability"] for row in json.loads(by_pattern.stdout)]
    assert [line.split()[3] for line in lines[2:8]] == [f"{share:.4f}" for share in shares]
    assert any(share != round(share, 6) for share in shares)  # for programs: not rounded
    rows = list(csv.DictReader(io.StringIO(as_csv.stdout)))
    assert [tuple(row.values()) for row in rows] == [
        tuple(map(str, row.values())) for row in json.loads(by_pattern.stdout)
    ]


def probabilities(*words: str) -> pd.DataFrame:
    """By picture and class, of `kit predict colours photos` with these words."""
    result = kit("predict", "colours", "photos", "--format", "json", *words)
    assert result.exit_code == 0, result.output
    return pd.DataFrame(json.loads(result.stdout)).pivot(index="picture", columns="class", values="probability")


def test_raw_calibrated_and_one_fold(here: Path) -> None:
    raw, calibrated = probabilities("--raw"), probabilities()
    assert "as predicted, not calibrated" in kit("predict", "colours", "photos/a", "--raw").stdout
    first, second = (probabilities("--raw", "--fold", fold) for fold in "01")
    np.testing.assert_allclose(raw, (first + second) / 2, atol=1e-6)
    assert np.abs(first - second).to_numpy().max() > 1e-3
    assert np.abs(raw - calibrated).to_numpy().max() > 1e-3
    np.testing.assert_allclose(calibrated.sum(axis=1), 1, atol=1e-6)


def test_annotated_pictures(here: Path) -> None:
    result = kit("predict", "colours", "photos", "--annotate", "made/here", "--format", "json")
    assert result.exit_code == 0, result.output
    assert "wrote 3 annotated pictures to made/here" in result.stderr
    files = {row["picture"]: row["annotated"] for row in json.loads(result.stdout)}
    assert files == {
        "photos/a/one.jpg": "made/here/one.jpg",
        "photos/b/one.png": "made/here/one-2.jpg",
        "photos/b/two.jpg": "made/here/two.jpg",
    }
    for file in files.values():
        with Image.open(file) as image:
            assert min(image.size) > 300
    assert sorted(path.name for path in Path("made/here").iterdir()) == ["one-2.jpg", "one.jpg", "two.jpg"]
    assert "made/here is there already and not empty" in refused(
        "predict", "colours", "photos", "--annotate", "made/here"
    )


def test_one_broken_picture_does_not_cost_the_others(here: Path) -> None:
    whole = kit("predict", "colours", "photos", "--format", "json")
    Path("photos/a/zz.jpg").write_bytes(Path("photos/b/two.jpg").read_bytes()[:300])
    Path("photos/b/empty.jpg").write_bytes(b"")
    part = kit("predict", "colours", "photos", "--format", "json", "--annotate", "made")
    assert part.exit_code == 1
    assert "2 pictures are not predicted: photos/a/zz.jpg cannot be read as a picture" in part.stderr
    assert "; photos/b/empty.jpg is empty (0 bytes)\n  expected: " in part.stderr
    for one, other in zip(json.loads(whole.stdout), json.loads(part.stdout), strict=True):
        assert one == {key: value for key, value in other.items() if key != "annotated"}
    assert len(list(Path("made").rglob("*.jpg"))) == 3


def test_what_is_refused(here: Path) -> None:
    assert "has no fold 7" in refused("predict", "colours", "photos", "--fold", "7")
    assert "is a URL" in refused("predict", "colours", "https://example.org/cat.jpg")
    assert "name of a picture is empty" in refused("predict", "colours", "")
    for folder, problem in (("photos/a/one.jpg/out", "Not a directory"), ("~nobody-here/out", "is not known here")):
        # Before anything is searched for or predicted.
        assert problem in refused("predict", "colours", "no-such.jpg", "--annotate", folder)
    assert "no picture matches photos/*.gif" in refused("predict", "colours", "photos/*.gif")
    Path("photos/b/broken.jpg").write_bytes(Path("photos/b/two.jpg").read_bytes()[:300])
    assert "photos/b/broken.jpg cannot be read" in refused("predict", "colours", "photos/b/broken.jpg")
    Path("competitions/tiny/data/train.csv").unlink()
    assert "take the probabilities as predicted: --raw" in refused("predict", "colours", "photos/a")
    assert kit("predict", "colours", "photos/a", "--raw").exit_code == 0
