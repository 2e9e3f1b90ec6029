"""Pseudo-labels: each fold's from its own model alone, and what is to be expected of them, worked out by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.artifacts import Workspace
from pipeline.errors import DataError
from pipeline.predictions.pseudo import make_pseudo_labels
from pipeline.predictions.store import Experiment, prediction_frame, write_predictions
from tests.conftest import manifest_scores

CLASSES = ["cat", "dog"]
IDS = ["a", "b", "c", "d"]
# The probability of `cat` that the model of each fold gives the four test pictures.
OF_FOLD = {0: (0.95, 0.05, 0.70, 0.92), 1: (0.05, 0.97, 0.91, 0.50)}
# That of the OOF rows, and which of them are cats. Sure to 0.9: 0 1 2 4 of cats, 6 7 of dogs.
OOF = (0.99, 0.95, 0.90, 0.89, 0.91, 0.50, 0.10, 0.02)
CATS = (0, 1, 2, 3, 7)


def two(cat: Any) -> np.ndarray:
    found = np.asarray(cat, dtype=np.float64)
    return np.stack([found, 1 - found], axis=1)


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    """Two folds; the run beside it."""
    manifest = {
        "target": "single",
        "experiment": "base-long",
        "recipe": {"name": "base"},
        "classes": CLASSES,
        **manifest_scores(0.5),
        "fingerprint": "f",
        "folds_sha256": "s",
    }
    for fold, cat in OF_FOLD.items():
        path = Workspace(tmp_path).fold("pets", "base-long", fold) / "test.parquet"
        write_predictions(path, prediction_frame(IDS, two(cat), CLASSES))
    oof = prediction_frame([f"r{n}" for n in range(8)], two(OOF), CLASSES, fold=np.arange(8) % 2)
    test = prediction_frame(IDS, two(np.mean(list(OF_FOLD.values()), axis=0)), CLASSES)
    return Experiment("pets", "base-long", manifest, oof, test)


LABELS = {f"r{n}": "cat" if n in CATS else "dog" for n in range(8)}


def test_the_rows_of_a_fold_are_those_that_its_own_model_is_sure_of(experiment: Experiment, tmp_path: Path) -> None:
    found = make_pseudo_labels(experiment, LABELS, folds_sha256="s", min_confidence=0.9, workspace=Workspace(tmp_path))
    rows = [(row.id, row.fold, row.label) for row in found.rows.itertuples()]
    assert rows == [
        ("a", 0, "cat"),
        ("b", 0, "dog"),
        ("d", 0, "cat"),
        ("a", 1, "dog"),
        ("b", 1, "cat"),
        ("c", 1, "cat"),
    ]
    assert list(found.rows["confidence"]) == pytest.approx([0.95, 0.95, 0.92, 0.95, 0.97, 0.91])
    assert found.made == {
        "experiment": "base-long",
        "fingerprint": "f",
        "min_confidence": 0.9,
        "tta_used_by_fold": {"0": False, "1": False},
        "folds_sha256": "s",
    }


def test_another_folds_model_has_no_part_in_a_folds_rows(experiment: Experiment, tmp_path: Path) -> None:
    """Whatever the model of fold 1 says, the rows of fold 0 are the same."""
    workspace = Workspace(tmp_path)
    before = make_pseudo_labels(experiment, LABELS, folds_sha256="s", min_confidence=0.9, workspace=workspace).rows
    other = two((0.93, 0.94, 0.99, 0.02))
    write_predictions(workspace.fold("pets", "base-long", 1) / "test.parquet", prediction_frame(IDS, other, CLASSES))
    mean = prediction_frame(IDS, (two(OF_FOLD[0]) + other) / 2, CLASSES)
    changed = Experiment("pets", "base-long", experiment.manifest, experiment.oof, mean)
    after = make_pseudo_labels(changed, LABELS, folds_sha256="s", min_confidence=0.9, workspace=workspace).rows
    assert before[before["fold"] == 0].equals(after[after["fold"] == 0])
    assert list(after.loc[after["fold"] == 1, "label"]) == ["cat", "cat", "cat", "dog"]


def test_what_is_to_be_expected(experiment: Experiment, tmp_path: Path) -> None:
    found = make_pseudo_labels(experiment, LABELS, folds_sha256="s", min_confidence=0.9, workspace=Workspace(tmp_path))
    cat, dog, everything = found.expected
    assert (cat.label, cat.test_rows, cat.test_share, cat.oof_rows, cat.accuracy) == ("cat", 2.0, 0.5, 4, 0.75)
    assert (dog.label, dog.test_rows, dog.test_share, dog.oof_rows, dog.accuracy) == ("dog", 1.0, 0.25, 2, 0.5)
    assert (everything.label, everything.test_rows, everything.oof_rows) == (None, 3.0, 6)
    assert everything.accuracy == pytest.approx(4 / 6)
    assert cat.accuracy_se == pytest.approx(np.sqrt(3.5 * 1.5 / (25 * 6)))  # of Beta(3.5, 1.5)
    assert dog.accuracy_se == pytest.approx(np.sqrt(1.5 * 1.5 / (9 * 4)))


def test_all_right_is_not_certain_and_none_is_unknown(experiment: Experiment, tmp_path: Path) -> None:
    found = make_pseudo_labels(experiment, LABELS, folds_sha256="s", min_confidence=0.95, workspace=Workspace(tmp_path))
    cat, dog, _ = found.expected
    assert (cat.oof_rows, cat.accuracy) == (2, 1.0)
    assert cat.accuracy_se == pytest.approx(np.sqrt(2.5 * 0.5 / (9 * 4)))
    assert (dog.oof_rows, dog.accuracy, dog.accuracy_se) == (1, 0.0, pytest.approx(np.sqrt(0.75 / (4 * 3))))
    nothing = make_pseudo_labels(
        experiment, dict.fromkeys(LABELS, "cat"), folds_sha256="s", min_confidence=0.97, workspace=Workspace(tmp_path)
    )
    assert [(one.test_rows, one.oof_rows) for one in nothing.expected] == [(0.5, 1), (0.0, 1), (0.5, 2)]


def test_with_tta_where_the_oof_rows_of_the_fold_are(experiment: Experiment, tmp_path: Path) -> None:
    workspace, with_views = Workspace(tmp_path), two((0.99, 0.5, 0.5, 0.5))
    for fold in (0, 1):
        path = workspace.fold("pets", "base-long", fold) / "test_tta.parquet"
        write_predictions(path, prediction_frame(IDS, with_views, CLASSES))
    manifest = {**experiment.manifest, "tta_used": True, "tta_used_by_fold": {"0": False, "1": True}}
    mixed = Experiment("pets", "base-long", manifest, experiment.oof, prediction_frame(IDS, with_views, CLASSES))
    rows = make_pseudo_labels(mixed, LABELS, folds_sha256="s", min_confidence=0.9, workspace=workspace).rows
    assert [(row.id, row.fold) for row in rows.itertuples()] == [("a", 0), ("b", 0), ("d", 0), ("a", 1)]


def test_a_run_that_is_gone_or_another_is_refused(experiment: Experiment, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    file = workspace.fold("pets", "base-long", 1) / "test.parquet"
    write_predictions(file, prediction_frame(IDS, two((0.9, 0.97, 0.91, 0.50)), CLASSES))
    with pytest.raises(DataError, match="are not those that base-long is the mean of"):
        make_pseudo_labels(experiment, LABELS, folds_sha256="s", min_confidence=0.9, workspace=workspace)
    file.unlink()
    with pytest.raises(DataError) as caught:
        make_pseudo_labels(experiment, LABELS, folds_sha256="s", min_confidence=0.9, workspace=workspace)
    assert f"{file} does not exist" in str(caught.value)
    assert "kit train base pets --suffix long" in str(caught.value)


def test_other_folds_or_a_row_without_a_label_are_no_mistakes_of_the_model(
    experiment: Experiment, tmp_path: Path
) -> None:
    """Either way the row would count as wrong, and `kit train` would refuse the table."""
    workspace = Workspace(tmp_path)
    with pytest.raises(DataError, match="base-long was trained on other folds than pets has now"):
        make_pseudo_labels(experiment, LABELS, folds_sha256="t", min_confidence=0.9, workspace=workspace)
    without = {key: label for key, label in LABELS.items() if key != "r0"}
    with pytest.raises(KeyError, match="r0"):
        make_pseudo_labels(experiment, without, folds_sha256="s", min_confidence=0.9, workspace=workspace)


def test_what_has_no_networks_no_test_rows_or_no_sure_row_is_refused(experiment: Experiment, tmp_path: Path) -> None:
    def refused(changed: Experiment, min_confidence: float = 0.9) -> str:
        with pytest.raises(DataError) as caught:
            make_pseudo_labels(
                changed, LABELS, folds_sha256="s", min_confidence=min_confidence, workspace=Workspace(tmp_path)
            )
        return str(caught.value)

    rest = experiment.oof, experiment.test
    assert "is a blend" in refused(Experiment("pets", "base-long", {**experiment.manifest, "recipe": None}, *rest))
    none = Experiment("pets", "base-long", experiment.manifest, experiment.oof, experiment.test.iloc[:0])
    assert "has no test pictures" in refused(none)
    assert "its largest is 0.9700" in refused(experiment, 0.98)
