"""`kit pseudo-label`, and `kit train` with what it made: the real commands on the tiny competition."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml

from pipeline.artifacts import Workspace, read_json
from pipeline.competition import Competition
from pipeline.predictions.store import read_predictions
from pipeline.recipe import load_recipe
from tests.conftest import write_tiny_competition
from tests.test_cli import RECIPE, kit, refused
from tests.training.conftest import Run

CLASSES = ["blue", "green", "red"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with the experiment `colours` of `colours.yaml`."""
    root = tmp_path_factory.mktemp("trained")
    (root / "colours.yaml").write_text(yaml.safe_dump(RECIPE), "utf-8")
    recipe = load_recipe(str(root / "colours.yaml"))
    Run(write_tiny_competition(root), Workspace(root), recipe, "colours").train()
    return root


def table(root: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(root / "competitions" / "tiny" / "pseudo" / f"{name}.csv")


@pytest.mark.slow
def test_test_rows_become_extra_rows_of_a_second_experiment(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained)
    result = kit("pseudo-label", "colours", "--min-confidence", "0.4")
    assert result.exit_code == 0, result.output
    rows = table(trained, "pseudo-0.4")
    assert list(rows.columns) == ["id", "fold", "label", "confidence"]
    used = read_json(trained / "oof/tiny/colours/manifest.json")["tta_used_by_fold"]
    for fold in (0, 1):
        own = read_predictions(
            trained / f"runs/tiny/colours/fold-{fold}/test{'_tta' if used[str(fold)] else ''}.parquet"
        )
        sure = own[own[CLASSES].max(axis=1) >= 0.4].set_index("id")
        found = rows[rows["fold"] == fold].set_index("id")
        assert found["label"].to_dict() == sure[CLASSES].idxmax(axis=1).to_dict()
        assert found["confidence"].to_dict() == pytest.approx(sure[CLASSES].max(axis=1).to_dict(), abs=1e-6)
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines[4:8]] == [*CLASSES, "all"]
    assert f"wrote competitions/tiny/pseudo/pseudo-0.4.csv: {len(rows)} rows, of all folds together" in lines
    assert "next: kit train RECIPE tiny --set 'extra=[pseudo-0.4]' --suffix pseudo-0.4" in lines

    again = kit("pseudo-label", "colours", "--min-confidence", "0.4", "--format", "json")
    assert [row["label"] for row in json.loads(again.stdout)] == [*CLASSES, None]
    assert json.loads(again.stdout)[-1]["test_rows"] == pytest.approx(len(rows) / 2)

    words = ["train", "colours.yaml", "tiny", "--set", "extra=[pseudo-0.4]", "--suffix", "pseudo", "--fold", "1"]
    done = kit(*words, "--workers", "0")
    assert done.exit_code == 0, done.output
    assert "extra rows: pseudo-0.4" in done.stdout
    before, after = (trained / f"runs/tiny/{name}/fold-1/oof.parquet" for name in ("colours", "colours-pseudo"))
    assert list(read_predictions(after)["id"]) == list(read_predictions(before)["id"])


def test_what_cannot_be_pseudo_labelled_is_refused(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained)
    assert "did you mean 'colours'?" in refused("pseudo-label", "colour")
    assert "cannot be the name of extra rows" in refused(
        "pseudo-label", "colours", "--min-confidence", "0", "--name", "/x"
    )
    kit("pseudo-label", "colours", "--min-confidence", "0", "--name", "all")
    assert len(table(trained, "all")) == 12
    assert "holds other pseudo-labels" in refused("pseudo-label", "colours", "--min-confidence", "0.3", "--name", "all")
    assert kit("pseudo-label", "colours", "--min-confidence", "1.5").exit_code == 2
    run = trained / "runs" / "tiny" / "colours"
    run.rename(run.with_name("away"))
    message = refused("pseudo-label", "colours", "--min-confidence", "0")
    run.with_name("away").rename(run)
    assert "remove runs/tiny/colours and train it again, with the --set it had: kit train colours tiny" in message


def test_rows_quarantined_since_the_training_are_refused_before_anything_is_written(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(trained, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    folder = Path("competitions/tiny")
    (folder / "quarantine.csv").write_text("id,reason\n000.jpg,blurred\n", "utf-8")
    words = ("pseudo-label", "colours", "--min-confidence", "0", "--name", "late")
    assert "quarantined since the folds were made: 000.jpg" in refused(*words)
    folds = folder / "folds.csv"
    kept = [line for line in folds.read_text("utf-8").splitlines(keepends=True) if not line.startswith("000.jpg")]
    folds.write_text("".join(kept), "utf-8")
    assert "colours was trained on other folds than tiny has now" in refused(*words)
    assert not (folder / "pseudo" / "late.csv").exists()


def test_unknown_extra_rows_are_refused(
    tiny_competition: Competition, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    message = refused("train", "demo", "tiny", "--set", "extra=[more]")
    assert "tiny has no extra rows 'more'" in message
    assert not (tmp_path / "runs").exists()
