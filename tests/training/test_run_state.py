"""A stage that is stopped or killed goes on from its state, and ends as one that never was."""

import errno
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline.artifacts import Workspace
from pipeline.predictions.store import read_predictions
from pipeline.training import engines, run_state
from pipeline.training import stage as training_stage
from pipeline.training.fold import FoldTask, train_fold
from pipeline.training.run_state import FOLDER, LOG, WEIGHTS, read_state
from pipeline.training.stage import stage_done
from tests.conftest import write_tiny_competition
from tests.training.conftest import Run, recipe_of, stage

# 12 rows in batches of 5: three batches an epoch. Nothing that goes on from one batch to the next is left out.
HEAD = {"pooling": "gem", "batch_norm": True, "dense": [8], "dropout": 0.3}
SETTINGS = {
    "moving average": {
        "ema": 0.5,
        "optimizer": "adamw",
        "layer_decay": 0.9,
        "schedule": {"kind": "cosine"},
        "mixup": 0.2,
    },
    "plateau": {
        "optimizer": {"kind": "sgd", "momentum": 0.9},
        "schedule": {"kind": "plateau", "patience": 1},
        "early_stopping": {"patience": 2},
        "monitor": "score",
        "accumulate": 5,
    },
    "features": {"unfreeze": 0, "batch_norm": "frozen", "augment": "none"},
}


def results(task: FoldTask) -> dict[str, Any]:
    found: dict[str, Any] = {file.name: read_predictions(file) for file in sorted(task.folder.glob("*.parquet"))}
    log = pd.read_csv(task.stage_folder(0) / LOG)
    found["log"] = log.drop(columns=["seconds"])
    done = stage_done(task.stage_folder(0)) or {}
    return {**found, **{key: done[key] for key in ("epochs", "best_epoch", "score", "loss", "watched", "diverged")}}


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    for key, value in one.items():
        if isinstance(value, pd.DataFrame):
            pd.testing.assert_frame_equal(value, other[key], check_exact=True)
        else:
            assert value == other[key], key


class SoonAsked:
    """Whether to end: not at the first look in a process, but at the second."""

    def __init__(self) -> None:
        self.looks = 0

    @property
    def asked(self) -> bool:
        self.looks += 1
        return self.looks > 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", SETTINGS)
def test_a_stage_that_is_stopped_ends_as_one_that_was_not(
    begin: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    run = begin(stage("only", epochs=3, **SETTINGS[kind]), head=HEAD, tta={"views": ["flip"]})
    task = run.task(0)
    train_fold(task)
    wanted = results(task)
    assert wanted["epochs"] == 3
    shutil.rmtree(task.folder)
    places = []
    while not task.done:
        monkeypatch.setattr(run_state, "ending", SoonAsked())
        try:
            train_fold(task)
        except KeyboardInterrupt:
            generations = list((task.stage_folder(0) / FOLDER).iterdir())
            assert len(generations) <= 2
            state = read_state(task.stage_folder(0), of="")
            assert state
            places.append((state.epoch, state.batch))
    assert places == [
        (0, 2),
        (1, 1),
        (2, 0),
        (2, 2),
    ]  # looked at after the first two batches of an epoch, and at its end
    assert_same(results(task), wanted)
    assert not (task.stage_folder(0) / FOLDER).exists()


def stopped(run: Run, monkeypatch: pytest.MonkeyPatch, *, saves: int) -> FoldTask:
    """The fold, ended after so many saves, which come at each batch."""
    left, write = iter(range(saves)), run_state._write

    def writing(*given: Any) -> None:
        write(*given)
        if next(left) == saves - 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(run_state, "EVERY", 0)
        patched.setattr(run_state, "_write", writing)
        with pytest.raises(KeyboardInterrupt):
            train_fold(run.task(0))
    return run.task(0)


def damage(file: Path, how: str) -> None:
    content = file.read_bytes()
    if how == "removed":
        file.unlink()
    else:
        middle = len(content) // 2
        flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        file.write_bytes({"emptied": b"", "truncated": content[:middle], "flipped": flipped}[how])


@pytest.mark.parametrize("how", ["removed", "emptied", "truncated", "flipped"])
@pytest.mark.parametrize("name", ["arrays.npz", WEIGHTS, LOG, "state.json"])
def test_a_damaged_generation_is_named_and_the_one_before_it_taken(
    saved: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, how: str
) -> None:
    folder = tmp_path / "stage-0"
    shutil.copytree(saved, folder)
    newest, before = sorted((folder / FOLDER).iterdir(), key=lambda one: -int(one.name))
    wanted = json.loads((before / "state.json").read_text())["state"]
    damage(newest / name, how)
    state = read_state(folder, of="fold 0  only")
    assert state and (state.epoch, state.batch) == (wanted["epoch"], wanted["batch"])
    assert (folder / LOG).read_bytes() == (before / LOG).read_bytes()
    [said] = caplog.messages
    assert "fold 0  only: a saved state is damaged" in said and str(newest) in said
    damage(before / name, how)
    caplog.clear()
    assert read_state(folder, of="fold 0  only") is None
    assert "begins anew" in caplog.messages[-1]


def test_a_disk_that_is_full_does_not_make_a_state_a_damaged_one(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(saved, tmp_path / "stage-0")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(run_state.shutil, "copyfile", full)
    with pytest.raises(OSError, match="No space left"):
        read_state(tmp_path / "stage-0", of="fold 0  only")
    assert len(list((tmp_path / "stage-0" / FOLDER).iterdir())) == 2


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a stage that was ended in its third epoch; not to be changed."""
    root = tmp_path_factory.mktemp("stopped")
    recipe = recipe_of(stage("only", epochs=4), head=HEAD)
    with pytest.MonkeyPatch.context() as patch:
        task = stopped(Run(write_tiny_competition(root), Workspace(root), recipe), patch, saves=8)
    return task.stage_folder(0)


def other_paths(state: run_state.RunState) -> run_state.RunState:
    return replace(state, arrays={key + "x": array for key, array in state.arrays.items()})


def of_the_head_alone(state: run_state.RunState) -> run_state.RunState:
    return replace(state, variables=2, epoch=2)


@pytest.mark.parametrize("changed", [other_paths, of_the_head_alone])
def test_a_state_of_another_network_or_optimizer_is_not_taken(
    begin: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, changed: Any
) -> None:
    run = begin(stage("only", epochs=2))
    task = stopped(run, monkeypatch, saves=2)
    monkeypatch.setattr(training_stage, "read_state", lambda *given, **of: changed(read_state(*given, **of)))
    train_fold(task)
    assert any(
        "of another build, precision or room for features, so it begins anew" in line for line in caplog.messages
    )
    assert (stage_done(task.stage_folder(0)) or {})["epochs"] == 2


def test_what_is_saved_costs_little(begin: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where saving takes longer than its share, it waits until it does not."""
    run, write, writes = begin(stage("only", epochs=30)), run_state._write, []

    def writing(*given: Any) -> None:
        writes.append(given[1]["epoch"])
        time.sleep(0.2)
        write(*given)

    monkeypatch.setattr(run_state, "_write", writing)
    train_fold(run.task(0))
    assert writes[:1] == [1]
    assert len(writes) <= 3


@pytest.mark.slow
def test_killed_at_random_moments_a_fold_ends_as_one_that_was_not(
    begin: Callable[..., Run], request: pytest.FixtureRequest
) -> None:
    """`--kills 200` for the long form."""
    kills, rng = request.config.getoption("--kills"), random.Random(0)
    run = begin(stage("first", epochs=4, ema=0.5), stage("second", epochs=4, mixup=0.2), head=HEAD)
    train_fold(run.task(0))
    wanted = results(run.task(0))
    shutil.rmtree(run.task(0).folder)
    done, places = 0, set()
    while done < kills:
        process = engines.CONTEXT.Process(target=_train_saving_always, args=(run.task(0),))
        started = time.monotonic()
        process.start()
        process.join(timeout=rng.uniform(0.5, 6))
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            done += 1
            states = sorted(run.task(0).folder.glob(f"stage-*/{FOLDER}/*/state.json"))
            places.add(states[-1].read_text()[:40] if states else "")
        else:
            assert process.exitcode == 0, time.monotonic() - started
            assert_same(results(run.task(0)), wanted)
            shutil.rmtree(run.task(0).folder)
    train_fold(run.task(0))
    assert_same(results(run.task(0)), wanted)
    print(f"{done} kills, at {len(places)} places")


def _train_saving_always(task: FoldTask) -> None:
    run_state.SHARE, run_state.EVERY = np.inf, 0.0
    train_fold(task)
