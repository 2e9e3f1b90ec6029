"""`kit oof compare`: what it compares when it is told what, and what it refuses."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline.artifacts import Workspace
from pipeline.competition import Competition, folds_sha256
from pipeline.data.folds import load_folds
from pipeline.data.index import train_index
from pipeline.predictions.store import finish_experiment, prediction_frame
from tests.conftest import manifest_scores, write_table
from tests.test_cli import kit, refused

CLASSES = ["blue", "green", "red"]
Make = Callable[..., None]


@pytest.fixture
def make(tiny_competition: Competition, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Writes a finished experiment on the tiny competition that is wrong about this many of the 24 rows."""
    monkeypatch.chdir(tmp_path)
    table = pd.read_csv(tiny_competition.data / "train.csv", dtype=str)
    truth = table["label"].map(CLASSES.index).to_numpy()

    def finished(name: str, wrong: int, *, slug: str = "tiny", tta_wrong: int | None = None, **manifest: Any) -> None:
        def frame(count: int) -> pd.DataFrame:
            chosen = np.where(np.arange(24) < count, (truth + 1) % 3, truth)
            values, fold = np.eye(3)[chosen] * 0.7 + 0.1, np.arange(24) % 2
            frame = prediction_frame(list(table["id"]), values, CLASSES, fold=fold)
            return frame[frame["fold"].isin(manifest.get("folds", [0, 1]))]

        frames = {"oof.parquet": frame(wrong), "oof_tta.parquet": frame(wrong if tta_wrong is None else tta_wrong)}
        described = {
            "competition": slug,
            "experiment": name,
            "metric": "accuracy",
            "target": "single",
            "floors": {},
            "greater_is_better": True,
            "oof_rows": 24,
            "created": "2026-11-28",
            **manifest_scores(1 - wrong / 24, tta=None if tta_wrong is None else 1 - tta_wrong / 24),
            "classes": CLASSES,
            "stages": [{"seconds": 2.0}, {"seconds": 3.4}],
            "folds_sha256": "f",
            "data_sha256": "d",
            **manifest,
        }
        finish_experiment(Workspace(tmp_path).oof(slug, name), frames, described)

    return finished


def compared(*words: str) -> list[dict[str, Any]]:
    result = kit("oof", "compare", *words, "--format", "json")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    rows: list[dict[str, Any]] = json.loads(result.stdout)
    return rows


def test_experiments_are_compared_with_the_best(make: Make) -> None:
    make("poor", 12)
    make("good", 3)
    make("fair", 5)
    rows = compared("poor", "good", "fair")
    assert [row["experiment"] for row in rows] == ["good", "fair", "poor"]
    assert [row["score"] for row in rows] == pytest.approx([21 / 24, 19 / 24, 12 / 24])
    assert {row["reference"] for row in rows} == {"good"}
    assert [row["reference_right_alone"] for row in rows] == [None, 2, 9]
    assert [row["verdict"] for row in rows] == [None, "not distinguishable", "worse"]
    assert rows[0]["seconds"] == 5
    assert (rows[0]["fold_0"], rows[0]["fold_1"]) == (10 / 12, 11 / 12)


def test_what_is_on_other_folds_than_there_are_is_listed_so(make: Make, tiny_competition: Competition) -> None:
    make("whole", 4)
    make("part", 6, folds=[0], missing_folds=[1])
    assert folds_sha256(tiny_competition.folds_file) is None
    kit("folds", "tiny")
    current = load_folds(tiny_competition, train_index(tiny_competition)).sha256
    assert folds_sha256(tiny_competition.folds_file) == current
    make("renewed", 5, folds_sha256=current)
    listed = {row["experiment"]: row["folds"] for row in json.loads(kit("oof", "list", "--format", "json").stdout)}
    assert listed == {"whole": "2, other folds", "part": "1 of 2, other folds", "renewed": "2"}
    assert "cannot be held against" in refused("oof", "compare", "whole", "renewed")


def test_an_experiment_on_one_fold_is_one(make: Make) -> None:
    """It is listed, meets others on its own rows, and where all folds are needed it is refused."""
    make("whole", 4)
    make("part", 6, folds=[0], missing_folds=[1])
    listed = {row["experiment"]: row["folds"] for row in json.loads(kit("oof", "list", "--format", "json").stdout)}
    assert (listed["whole"], listed["part"]) == ("2", "1 of 2")
    found = kit("oof", "compare", "whole", "part", "--format", "json")
    assert "note: on the rows of fold 0 alone, which all have; trained folds: whole 2, part 1 of 2" in found.stderr
    assert "when it was made" not in found.stderr
    rows = json.loads(found.stdout)
    assert [(row["experiment"], row["rows"], row["score"]) for row in rows] == [
        ("whole", 12, pytest.approx(10 / 12)),
        ("part", 12, pytest.approx(9 / 12)),
    ]
    assert "members of a blend have the same folds" in refused("blend", "whole", "part")
    make("other", 8)
    found = kit("oof", "compare", "--format", "json")
    assert [row["experiment"] for row in json.loads(found.stdout)] == ["whole", "other"]
    assert "left out, as not all folds are trained: part; name it to compare it" in found.stderr


def test_each_format_has_the_same_rows(make: Make) -> None:
    make("poor", 12)
    make("good", 3)
    rows = compared("poor", "good")
    table = list(csv.DictReader(io.StringIO(kit("oof", "compare", "poor", "good", "--format", "csv").stdout)))
    assert [list(row) for row in table] == [list(row) for row in rows]
    assert [float(row["score"]) for row in table] == [row["score"] for row in rows]
    text = kit("oof", "compare", "poor", "good").stdout
    assert text.startswith("tiny: 2 experiments on the same 24 rows, best first\n")
    assert "Against good, the best" in text
    assert "Traceback" not in text


def test_a_baseline_is_compared_too(make: Make) -> None:
    make("poor", 12)
    make("good", 3)
    for words in (("good", "--baseline", "poor"), ("poor", "good", "--baseline", "poor"), ("--baseline", "poor")):
        good, poor = compared(*words)
        assert (poor["experiment"], poor["reference"], poor["verdict"]) == ("poor", "poor", None)
        assert (good["experiment"], good["verdict"], good["right_alone"]) == ("good", "better", 9)
    assert "no finished experiment 'pure'" in refused("oof", "compare", "good", "--baseline", "pure")


def test_without_names_all_finished_experiments_are_compared(make: Make, tmp_path: Path) -> None:
    make("poor", 12)
    make("good", 3)
    (tmp_path / "oof" / "tiny" / "unfinished").mkdir()
    assert [row["experiment"] for row in compared()] == ["good", "poor"]
    assert [row["experiment"] for row in compared("--competition", "tiny")] == ["good", "poor"]


def test_the_predictions_that_an_experiment_uses_are_compared(make: Make) -> None:
    make("plain", 4)
    make("with-tta", 9, tta_wrong=1)
    first, second = compared()
    assert (first["experiment"], first["score"], first["tta_used"]) == ("with-tta", pytest.approx(23 / 24), True)
    assert (second["experiment"], second["score"], second["tta_used"]) == ("plain", pytest.approx(20 / 24), False)


def test_fewer_than_two_are_refused_and_what_to_do_is_said(make: Make) -> None:
    assert "kit train RECIPE COMPETITION" in refused("oof", "compare")
    assert "two or more finished experiments of tiny" in refused("oof", "compare", "--competition", "tiny")
    make("good", 3)
    message = refused("oof", "compare")
    assert "good is the only experiment to compare" in message
    assert "kit train RECIPE tiny --set seed=1 --suffix seed-1" in message
    make("poor", 12)
    for words in (("good",), ("good", "good"), ("good", "--baseline", "good")):
        assert "next: name another: poor" in refused("oof", "compare", *words)


def test_of_several_competitions_one_must_be_named(make: Make) -> None:
    for name in ("good", "poor"):
        make(name, 3)
        make(name, 3, slug="cars")
    message = refused("oof", "compare")
    assert "2 competitions have finished experiments: cars, tiny" in message
    assert "--competition cars" in message
    assert len(compared("--competition", "tiny")) == 2
    assert "exists in 2 competitions" in refused("oof", "compare", "good", "poor")
    make("other", 3, slug="cars")
    make("own", 3)
    assert "it has another competition" in refused("oof", "compare", "own", "other")


def test_a_misspelt_competition_or_experiment_is_named(make: Make) -> None:
    make("good", 3)
    make("poor", 12)
    assert "did you mean 'tiny'?" in refused("oof", "compare", "--competition", "tinny")
    assert "did you mean 'good'?" in refused("oof", "compare", "goood", "poor")


@pytest.mark.parametrize(
    ("changes", "reason"), [({"folds_sha256": "g"}, "other folds"), ({"data_sha256": "e"}, "other pictures or labels")]
)
def test_other_folds_or_rows_are_refused_with_the_reason(make: Make, changes: dict[str, str], reason: str) -> None:
    make("good", 3)
    make("poor", 12, **changes)
    message = refused("oof", "compare", "good", "poor")
    assert f"poor cannot be held against good: it has {reason}" in message
    assert "leave it out" in message


def test_labels_that_have_changed_since_are_pointed_out(make: Make, tiny_competition: Competition) -> None:
    make("good", 3)
    make("poor", 12)
    table = pd.read_csv(tiny_competition.data / "train.csv", dtype=str)
    table.loc[table.index[-1], "label"] = "blue"  # it was red, and predicted so
    rows = [f"{key},{label}" for key, label in zip(table["id"], table["label"], strict=True)]
    write_table(tiny_competition.data / "train.csv", "id,label", *rows)
    result = kit("oof", "compare", "good", "poor", "--format", "json")
    assert result.exit_code == 0
    assert [row["score"] for row in json.loads(result.stdout)] == pytest.approx([20 / 24, 11 / 24])
    assert "good scored 0.8750 when it was made and 0.8333 with the labels as they are now" in result.stderr
