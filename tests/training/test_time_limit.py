"""Training that has to end at a given moment: nothing finished is lost, and nothing else comes out."""

import itertools
import multiprocessing
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

from pipeline.artifacts import read_json
from pipeline.data import pictures
from pipeline.errors import OutOfTime
from pipeline.predictions.manifests import MANIFEST
from pipeline.predictions.store import read_predictions
from pipeline.training import run_state, time_limit
from pipeline.training.engines import local_process
from pipeline.training.fold import DONE, FoldTask, Machine, train_fold
from pipeline.training.time_limit import TimeLimit
from tests.training.conftest import Run, stage


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """A clock that goes on by a second at each look at it, so that every run stops at the same batch; sets it to 0."""

    monkeypatch.setattr(run_state, "_SAVING", 0.0)
    monkeypatch.setattr(run_state, "SHARE", 1e-9)  # what the clock of the machine says decides nothing

    def reset() -> None:
        clock = itertools.count()
        monkeypatch.setattr(time_limit, "_now", lambda: float(next(clock)))

    return reset


def test_without_a_limit_everything_goes_on() -> None:
    assert TimeLimit(None).holds(1e12)


@pytest.mark.parametrize(("left", "seconds", "holds"), [(10, 0, True), (-1, 0, False), (10, 9, True), (10, 11, False)])
def test_what_ends_in_time_goes_on(monkeypatch: pytest.MonkeyPatch, left: float, seconds: float, holds: bool) -> None:
    monkeypatch.setattr(time_limit, "_now", lambda: 1_000_000.0)
    limit = TimeLimit(1_000_000 + left, "fold 3")
    assert limit.holds(seconds) == holds
    if left > 0:
        limit.check("the end of it")
        return
    with pytest.raises(OutOfTime, match=r"before the end of it[\s\S]*1970-01-12 13:4\d:\d\d UTC") as caught:
        limit.check("the end of it")
    assert "same command" in caught.value.next_step
    assert "fold 3" in caught.value.next_step


@pytest.mark.slow
def test_a_run_in_several_sessions_ends_as_one_that_was_never_stopped(
    finished: Run, begin: Callable[..., Run], looks: Callable[[], None]
) -> None:
    run = begin()
    stops: list[OutOfTime] = []
    while len(stops) < 20:
        looks()
        # Not long enough for a stage; a little longer each time, to stop elsewhere.
        limited = Machine(workers=0, stop_at=16.0 + 3 * len(stops))
        try:
            run.train(machine=limited)
            break
        except OutOfTime as error:
            stops.append(error)
            done = [task.fold for task in map(run.task, (0, 1)) if task.done]
            assert (read_json(run.oof / MANIFEST)["folds"] if done else []) == done
    assert len(stops) >= 3
    places = " | ".join(stop.problem for stop in stops)
    assert "predictions of fold" in places or "epoch" in places
    for name in ("oof.parquet", "oof_tta.parquet", "test.parquet", "test_tta.parquet"):
        one, other = (read_predictions(each.oof / name) for each in (finished, run))
        pd.testing.assert_frame_equal(one, other, check_exact=True)


def test_what_is_finished_is_kept_and_named(begin: Callable[..., Run], looks: Callable[[], None]) -> None:
    run = begin(stage("first", epochs=1), stage("second", epochs=3))
    looks()
    with pytest.raises(OutOfTime, match="second 32×32, epoch 1 of 3") as caught:
        run.train(folds=[1], machine=Machine(workers=0, stop_at=8.0))
    assert "stage first of fold 1" in caught.value.next_step
    folder = run.task(1).stage_folder(0)
    kept = (folder / "stage.json").stat().st_mtime_ns
    assert not (run.task(1).stage_folder(1) / "stage.json").exists()
    looks()
    assert run.train(folds=[1])["missing_folds"] == [0]
    assert (folder / "stage.json").stat().st_mtime_ns == kept
    looks()
    with pytest.raises(OutOfTime, match=r"beginning of stage first of fold 0[\s\S]*kept \(fold 1\)"):
        run.train(machine=Machine(workers=0, stop_at=-1.0))
    assert not run.task(0).stage_folder(0).exists()


def test_the_time_can_be_over_while_pictures_are_decoded(
    finished: Run, begin: Callable[..., Run], looks: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begin()
    monkeypatch.setattr(pictures, "_CHUNK", 4)
    looks()
    with pytest.raises(OutOfTime, match="decoding the train pictures at 32×32"):
        run.train(folds=[0], machine=Machine(workers=0, stop_at=2.0))  # the stage begins, and a part is decoded
    assert list(run.workspace.cache("tiny").glob("*.npy")) == []
    run.train(folds=[0])
    for name in ("oof.parquet", "oof_tta.parquet", "test.parquet", "test_tta.parquet"):
        one, other = (read_predictions(each.task(0).folder / name) for each in (finished, run))
        pd.testing.assert_frame_equal(one, other, check_exact=True)


def test_the_time_can_be_over_while_test_pictures_are_decoded(copied: Run, looks: Callable[[], None]) -> None:
    task = replace(copied.task(0), machine=Machine(workers=0, stop_at=-1.0))
    (task.folder / DONE).unlink()
    looks()  # the test pictures, which come first, would be decoded at 0
    with pytest.raises(OutOfTime, match=r"decoding the test pictures at 32×32[\s\S]*stage still of fold 0"):
        train_fold(task)
    assert not task.done


def test_a_training_that_is_stopped_leaves_no_worker_and_no_open_log(
    begin: Callable[..., Run], looks: Callable[[], None]
) -> None:
    run = begin(stage("one", epochs=4))
    looks()
    with pytest.raises(OutOfTime, match="one 32×32, epoch"):
        run.train(folds=[0], machine=Machine(workers=1, stop_at=8.0))
    assert multiprocessing.active_children() == []
    log = pd.read_csv(run.task(0).stage_folder(0) / "log.csv")
    assert len(log) == 1


@pytest.mark.slow
def test_the_end_of_the_time_is_told_across_processes(begin: Callable[..., Run]) -> None:
    run = begin(stage("one", epochs=10_000))
    seen: list[Any] = []

    def engine(task: FoldTask) -> None:
        seen.append(task.fold)
        local_process(task)

    stop_at = time.time() + 12
    with pytest.raises(OutOfTime, match=r"time for training ends[\s\S]*nothing yet"):
        run.train(machine=Machine(workers=1, stop_at=stop_at), engine=engine)
    assert seen == [0]
    assert time.time() < stop_at + 60  # a busy machine may take long to begin; the epochs would take far longer
    assert multiprocessing.active_children() == []
