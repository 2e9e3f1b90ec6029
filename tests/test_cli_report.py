"""`kit report`: what it reads, what it writes where, and what it refuses."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline.artifacts import Workspace, read_json, write_json, write_text
from pipeline.competition import Competition
from pipeline.predictions.store import CURVES, finish_experiment, prediction_frame
from pipeline.submit.ledger import COLUMNS
from tests.conftest import manifest_scores
from tests.test_cli import kit, refused

CLASSES = ["blue", "green", "red"]
Make = Callable[..., Path]


@pytest.fixture
def make(tiny_competition: Competition, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Writes a finished experiment on the tiny competition that is wrong about this many of the 24 rows."""
    monkeypatch.chdir(tmp_path)
    table = pd.read_csv(tiny_competition.data / "train.csv", dtype=str)
    truth = table["label"].map(CLASSES.index).to_numpy()

    def finished(name: str, wrong: int, *, slug: str = "tiny", **manifest: Any) -> Path:
        chosen = np.where(np.arange(24) < wrong, (truth + 1) % 3, truth)
        values = np.eye(3)[chosen] * 0.7 + 0.1
        frame = prediction_frame(list(table["id"]), values, CLASSES, fold=np.arange(24) % 2)
        described = {
            "competition": slug,
            "experiment": name,
            "metric": "accuracy",
            "target": "single",
            "greater_is_better": True,
            **manifest_scores(1 - wrong / 24),
            "floors": {},
            "stages": [],
            "recipe": None,
            "classes": CLASSES,
            "folds_sha256": "f" * 64,
            "data_sha256": "d" * 64,
            "created": "2026-02-03T04:05:06+00:00",
            **manifest,
        }
        folder = Workspace(tmp_path).oof(slug, name)
        finish_experiment(folder, {"oof.parquet": frame}, described)
        return folder

    return finished


def test_the_page_and_its_figures_lie_beside_the_experiments(make: Make, tmp_path: Path) -> None:
    make("good", 3)
    rows = "fold,number,stage,epoch,step,loss,val_loss,val_score"
    write_text(make("poor", 12) / CURVES, f"{rows}\n0,0,head,0,1,1.0,1.1,0.5\n0,0,head,1,2,0.9,1.0,0.6\n")
    result = kit("report")
    assert result.exit_code == 0, result.output
    folder = tmp_path / "oof" / "tiny" / "_report"
    html = (folder / "report.html").read_text("utf-8")
    assert "2 finished experiments; 24 rows in 3 classes" in html
    names = {path.stem for path in (folder / "report-figures").glob("*.png")}
    assert {"scores", "confusion-good", "confusion-poor", "calibration-good", "learning-curves-poor"} <= names
    assert "learning-curves-good" not in names
    assert "2 experiments of tiny, best good: accuracy 0.8750 ± " in result.stdout
    assert "oof/tiny/_report/report.html" in result.stdout
    assert (folder / "report.html").as_uri() in result.stdout
    assert kit("oof", "list", "--format", "csv").stdout.count("tiny,") == 2  # the report is no experiment


def test_what_is_named_is_shown_in_detail(make: Make, tmp_path: Path) -> None:
    for number in range(5):
        make(f"e-{number}", number)
    assert kit("report").exit_code == 0
    assert kit("report", "e-4", "--output", "mine.html").exit_code == 0
    assert {path.name for path in (tmp_path / "report-figures").iterdir()} == {
        "scores.png",
        "confusion-e-4.png",
        "calibration-e-4.png",
    }
    assert len(list((tmp_path / "oof/tiny/_report/report-figures").iterdir())) == 1 + 2 * 3  # those of the best three
    assert kit("report", "e-4", "--output", "elsewhere").exit_code == 0
    assert (tmp_path / "elsewhere/report.html").is_file()
    assert "manifest.json is a file" in refused("report", "--output", "oof/tiny/e-4/manifest.json")
    html = (tmp_path / "mine.html").read_text("utf-8")
    assert "5 finished experiments" in html
    assert "Chosen by name." in html


def test_scored_submissions_stand_on_the_page(make: Make, tmp_path: Path) -> None:
    make("good", 3)
    entry = {
        **dict.fromkeys(COLUMNS, ""),
        "time": "2026-02-03T04:05:06+00:00",
        "server": "kaggle.com",
        "file": "submissions/tiny/x.csv",
        "sha256": "a" * 64,
        "experiment": "good",
        "oof_score": "0.875",
        "oof_score_se": "0.01",
        "public_score": "0.86",
        "ref": "7",
        "status": "COMPLETE",
        "tag": "0123abcd",
    }
    write_text(tmp_path / "submissions/tiny/log.csv", ",".join(COLUMNS) + "\n" + ",".join(entry.values()) + "\n")
    assert kit("report").exit_code == 0
    assert (tmp_path / "oof/tiny/_report/report-figures/leaderboard.png").is_file()


def test_a_picture_that_is_gone_or_damaged_breaks_no_page(
    make: Make, tiny_competition: Competition, tmp_path: Path
) -> None:
    make("poor", 12)
    (tiny_competition.data / "train" / "000.jpg").unlink()
    (tiny_competition.data / "train" / "001.jpg").write_bytes(b"no picture")
    result = kit("report")
    assert result.exit_code == 0
    assert "near-duplicates were not looked for: 1 rows of train.csv cannot be used: 000.jpg" in result.stderr
    html = (tmp_path / "oof/tiny/_report/report.html").read_text("utf-8")
    mistakes = html[html.index('id="e1-mistakes"') : html.index('id="labels"')]
    assert mistakes.count("<li>") == 12
    assert mistakes.count("the file is missing or cannot be read") == 2
    assert mistakes.count("<img") == 10


def test_pictures_that_look_the_same_stand_side_by_side(
    make: Make, tiny_competition: Competition, tmp_path: Path
) -> None:
    make("good", 3)
    folder = tiny_competition.data / "train"
    shutil.copy(folder / "000.jpg", folder / "023.jpg")  # blue and red
    assert kit("report").exit_code == 0
    html = (tmp_path / "oof/tiny/_report/report.html").read_text("utf-8")
    pairs = html[html.index('id="pairs"') : html.index("</main>")]
    assert re.findall(r'alt="(\d+\.jpg)"', pairs)[:2] == ["000.jpg", "023.jpg"]
    assert "the labels differ" in pairs
    assert "identical files" in pairs
    assert kit("report", "--no-duplicates").exit_code == 0
    assert 'id="duplicates"' not in (tmp_path / "oof/tiny/_report/report.html").read_text("utf-8")


def test_what_explore_found_is_not_looked_for_again(make: Make, tmp_path: Path) -> None:
    make("good", 3)
    assert kit("explore", "tiny").exit_code == 0
    kept = tmp_path / "competitions/tiny/explore/duplicates.json"
    pair = {"id_a": "000.jpg", "id_b": "007.jpg", "kind": "near", "distance": 5, "correlation": 0.9876}
    write_json(kept, {**read_json(kept), "pairs": [pair]})
    assert kit("report").exit_code == 0
    html = (tmp_path / "oof/tiny/_report/report.html").read_text("utf-8")
    assert "near: 5 of 64 bits differ, correlation 0.9876" in html


def test_what_cannot_be_reported_is_said(make: Make, tmp_path: Path) -> None:
    assert "run: kit train RECIPE COMPETITION" in refused("report")
    assert "run: kit train RECIPE tiny" in refused("report", "--competition", "tiny")
    make("good", 3)
    make("other", 3, slug="cars")
    assert "2 competitions have finished experiments: cars, tiny" in refused("report")
    assert "the experiments named are of 2 competitions: cars, tiny" in refused("report", "good", "other")
    assert "did you mean 'good'?" in refused("report", "goood")
    assert "did you mean 'tiny'?" in refused("report", "--competition", "tinny")
    assert not (tmp_path / "oof" / "tiny" / "_report").exists()
