"""A fold: done once, in the steps that are missing, by one process at a time."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline.artifacts import lock
from pipeline.errors import BusyError, DataError
from pipeline.predictions.store import read_predictions
from pipeline.training.fold import train_fold
from pipeline.training.network import load_network
from pipeline.training.run_state import WEIGHTS
from tests.training.conftest import Run, stage

PREDICTIONS = ("oof.parquet", "oof_tta.parquet", "test.parquet", "test_tta.parquet")


def times(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_a_fold_leaves_its_predictions_and_the_last_weights_alone(finished: Run) -> None:
    task = finished.task(0)
    assert {*PREDICTIONS, "fold.json"} <= {path.name for path in task.folder.iterdir()}
    assert not (task.stage_folder(0) / WEIGHTS).exists()
    assert task.weights.is_file()


def test_a_fold_predicts_its_held_out_rows_and_all_test_pictures(finished: Run) -> None:
    data = finished.data
    for fold in (0, 1):
        oof = read_predictions(finished.task(fold).folder / "oof.parquet")
        assert list(oof["id"]) == list(data.train["id"].iloc[data.rows_of(fold)])
        assert set(oof["fold"]) == {fold}
        test = read_predictions(finished.task(fold).folder / "test.parquet")
        assert list(test["id"]) == list(data.test["id"])


def test_rows_held_out_are_never_trained_on(finished: Run) -> None:
    data = finished.data
    for fold in (0, 1):
        held_out, trained = data.rows_of(fold), data.rows_without(fold)
        assert len(set(held_out) & set(trained)) == 0
        assert sorted([*held_out, *trained]) == list(range(len(data.train)))


def test_tta_is_the_mean_of_the_plain_picture_and_its_views(copied: Run) -> None:
    """The mean less the plain half is what the network says of mirrored pictures."""
    task, data = copied.task(0), copied.data
    for path in data.test["path"]:
        with Image.open(path) as image:
            mirrored = np.array(image)[:, ::-1]
        Image.fromarray(mirrored).save(Path(path).with_suffix(".png"))
    names = [str(Path(path).with_suffix(".png")) for path in data.test["path"]]
    pictures = task.machine.open(names, (32, 32), copied.workspace.cache("tiny"))
    from pipeline.training.validation import predict

    network = load_network(copied.recipe, classes=3, weights=task.weights)
    flipped = predict(network, pictures, np.arange(len(names)), target="single", batch_size=5)
    plain, averaged = (
        read_predictions(task.folder / name)[data.classes].to_numpy() for name in ("test.parquet", "test_tta.parquet")
    )
    np.testing.assert_allclose(2 * averaged - plain, flipped, atol=1e-3)
    assert np.abs(flipped - plain).max() > 1e-3


def test_a_fold_that_is_done_is_not_touched(copied: Run) -> None:
    before = times(copied.workspace.root)
    train_fold(copied.task(0))
    assert times(copied.workspace.root) == before


def test_only_what_is_missing_is_done_again(copied: Run) -> None:
    """As after a kill between the last stage and `fold.json`: the predictions are made, no stage is trained."""
    task = copied.task(0)
    before = {name: read_predictions(task.folder / name) for name in PREDICTIONS}
    for name in ("fold.json", "oof.parquet", "test_tta.parquet"):
        (task.folder / name).unlink()
    stages = times(task.stage_folder(0)) | times(task.stage_folder(1))
    train_fold(task)
    assert times(task.stage_folder(0)) | times(task.stage_folder(1)) == stages
    for name, frame in before.items():
        pd.testing.assert_frame_equal(read_predictions(task.folder / name), frame, check_exact=True)
    assert task.done


def test_two_processes_cannot_train_the_same_fold(copied: Run) -> None:
    task = copied.task(1)
    (task.folder / "fold.json").unlink()
    with lock(task.folder / "lock", what="the test"):
        with pytest.raises(BusyError, match="fold 1 of two-stages is in use by another process"):
            train_fold(task)
    assert not task.done


def test_a_picture_that_cannot_be_read_is_named(begin: Callable[..., Run]) -> None:
    run = begin(stage("one"))
    run.data  # noqa: B018 makes the folds
    path = Path(run.data.train["path"].iloc[7])
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(DataError, match=path.name):
        train_fold(run.task(0))
    assert not run.task(0).done


@pytest.mark.slow
def test_the_held_out_pictures_have_no_part_in_the_weights(begin: Callable[..., Run], tmp_path: Path) -> None:
    """One epoch, so that validation has nothing to choose: other held-out pictures must give the same weights."""

    def weights(name: str) -> list[np.ndarray]:
        task = run.task(0)
        train_fold(task)
        found = load_network(run.recipe, classes=3, weights=task.weights).get_weights()
        shutil.move(task.folder, tmp_path / name)
        return list(found)

    run = begin(stage("one", epochs=1))
    data = run.data
    first = weights("first")
    held_out, trained = data.train["path"].iloc[data.rows_of(0)[0]], data.train["path"].iloc[data.rows_without(0)[0]]
    Image.new("RGB", (40, 32), (255, 255, 255)).save(held_out)
    for one, other in zip(first, weights("second"), strict=True):
        np.testing.assert_array_equal(one, other)
    Image.new("RGB", (40, 32), (255, 255, 255)).save(trained)
    assert any((one != other).any() for one, other in zip(first, weights("third"), strict=True))
