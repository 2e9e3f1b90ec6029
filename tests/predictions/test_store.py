"""The prediction store: keyed by id, exact, whole or not there."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline.artifacts import Workspace, read_json
from pipeline.errors import DataError
from pipeline.predictions.manifests import MANIFEST, list_experiments, read_manifest
from pipeline.predictions.store import (
    finish_experiment,
    prediction_frame,
    probabilities_of,
    read_experiment,
    read_predictions,
    write_predictions,
)
from tests.conftest import manifest_scores

CLASSES = ["10", "2", "a b"]
IDS = ["b", "d", "a", "c"]
VALUES = np.random.default_rng(0).dirichlet(np.ones(3), 4).astype(np.float32)


def frame(**options: Any) -> pd.DataFrame:
    return prediction_frame(IDS, VALUES, CLASSES, **options)


def manifest(**changes: Any) -> dict[str, Any]:
    return {"classes": CLASSES, "target": "single", **manifest_scores(0.5, folds=[0]), **changes}


def finish(workspace: Workspace, slug: str, name: str, **changes: Any) -> None:
    frames = {"oof.parquet": frame(fold=0), "test.parquet": frame()}
    finish_experiment(workspace.oof(slug, name), frames, manifest(**changes))


def test_round_trip_is_exact(tmp_path: Path) -> None:
    file = tmp_path / "oof.parquet"
    write_predictions(file, frame(fold=np.array([1, 0, 1, 0])))
    found = read_predictions(file)
    assert list(found.columns) == ["id", "fold", *CLASSES]
    assert list(found["id"]) == ["a", "b", "c", "d"]
    assert dict(zip(found["id"], found["fold"], strict=True)) == {"b": 1, "d": 0, "a": 1, "c": 0}
    assert (found.dtypes[CLASSES] == np.float32).all()
    np.testing.assert_array_equal(probabilities_of(found, IDS, CLASSES), VALUES)


def test_test_predictions_have_no_fold() -> None:
    assert list(frame().columns) == ["id", *CLASSES]


def test_ids_that_look_like_numbers_stay_text(tmp_path: Path) -> None:
    ids = ["007", "7", "1e3"]
    write_predictions(tmp_path / "x.parquet", prediction_frame(ids, VALUES[:3], CLASSES))
    found = read_predictions(tmp_path / "x.parquet")
    assert sorted(found["id"]) == sorted(ids)
    np.testing.assert_array_equal(probabilities_of(found, ids, CLASSES), VALUES[:3])


def test_predictions_are_joined_by_id_and_by_class() -> None:
    stored = frame()
    np.testing.assert_array_equal(probabilities_of(stored, ["c", "b"], CLASSES), VALUES[[3, 0]])
    np.testing.assert_array_equal(probabilities_of(stored, IDS, CLASSES[::-1]), VALUES[:, ::-1])


def test_a_missing_id_and_a_missing_class_are_named() -> None:
    with pytest.raises(DataError, match=r"1 ids \['nobody'\]"):
        probabilities_of(frame(), ["a", "nobody"], CLASSES)
    with pytest.raises(DataError, match=r"1 classes \['cat'\]"):
        probabilities_of(frame(), IDS, [*CLASSES, "cat"])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_prediction_that_is_not_finite_is_refused_and_its_id_named(tmp_path: Path, value: float) -> None:
    values = VALUES.copy()
    values[1, 2] = value
    with pytest.raises(DataError, match=r"1 ids without a finite prediction \['d'\]"):
        write_predictions(tmp_path / "x.parquet", prediction_frame(IDS, values, CLASSES))
    assert not list(tmp_path.iterdir())


def test_a_repeated_id_is_refused_and_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"1 repeated ids \['b'\]"):
        write_predictions(tmp_path / "x.parquet", prediction_frame(["b", "b", "a", "c"], VALUES, CLASSES))
    assert not list(tmp_path.iterdir())


def test_ids_and_predictions_of_different_number_are_refused(tmp_path: Path) -> None:
    with pytest.raises((DataError, ValueError)):
        write_predictions(tmp_path / "x.parquet", prediction_frame([*IDS, "e"], VALUES, CLASSES))
    with pytest.raises((DataError, ValueError)):
        write_predictions(tmp_path / "x.parquet", prediction_frame(IDS[:3], VALUES, CLASSES))


def test_a_failing_write_leaves_no_manifest(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    finish(workspace, "cards", "one")
    broken = frame()
    broken.loc[0, "2"] = np.nan
    with pytest.raises(DataError):
        finish_experiment(
            workspace.oof("cards", "one"), {"oof.parquet": frame(fold=0), "test.parquet": broken}, manifest()
        )
    assert not (workspace.oof("cards", "one") / MANIFEST).exists()
    assert list_experiments(workspace) == []
    with pytest.raises(DataError, match="no finished experiment 'one'"):
        read_experiment(workspace, "cards", "one")


def test_a_manifest_that_cannot_be_written_whole_is_not_written(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    with pytest.raises(ValueError, match="JSON"):
        finish(workspace, "cards", "one", score=float("nan"))
    assert sorted(path.name for path in workspace.oof("cards", "one").iterdir()) == [
        "oof.parquet",
        "test.parquet",
    ]


@pytest.mark.parametrize(("used", "suffix", "score"), [(False, "", 0.5), (True, "_tta", 0.75)])
def test_reading_takes_the_predictions_that_the_score_is_of(
    tmp_path: Path, used: bool, suffix: str, score: float
) -> None:
    other = prediction_frame(IDS, VALUES[::-1], CLASSES)
    stored = {
        "oof.parquet": frame(fold=0),
        "test.parquet": frame(),
        "oof_tta.parquet": other.assign(fold=0),
        "test_tta.parquet": other,
    }
    workspace = Workspace(tmp_path)
    finish_experiment(
        workspace.oof("cards", "one"), stored, manifest(**manifest_scores(0.5, tta=0.75 if used else None, folds=[0]))
    )
    found = read_experiment(workspace, "cards", "one")
    assert found.score == score
    assert found.classes == CLASSES
    for kept, name in ((found.oof, "oof"), (found.test, "test")):
        pd.testing.assert_frame_equal(kept[CLASSES], stored[f"{name}{suffix}.parquet"][CLASSES])


def test_without_test_pictures_there_are_no_test_rows(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    finish_experiment(workspace.oof("cards", "one"), {"oof.parquet": frame(fold=0)}, manifest())
    found = read_experiment(workspace, "cards", "one")
    assert list(found.test.columns) == ["id", *CLASSES]
    assert len(found.test) == 0
    assert len(found.oof) == len(IDS)


def test_the_manifest_comes_back_as_it_was(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    finish(workspace, "cards", "one", note="größer × 2")
    assert read_manifest(workspace, "cards", "one") == manifest(note="größer × 2")
    assert read_json(workspace.oof("cards", "one") / MANIFEST)["note"] == "größer × 2"
