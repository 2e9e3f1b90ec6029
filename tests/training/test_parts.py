"""A batch in parts trains as the whole batch does; in how many parts, where the machine decides."""

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline.artifacts import read_json
from pipeline.errors import DataError, OutOfMemory
from pipeline.predictions.store import read_predictions
from pipeline.recipe import Stage
from pipeline.training import parts as parts_module
from pipeline.training.device import for_training, in_parts
from pipeline.training.fold import DONE, FoldTask, stage_rows, train_fold
from pipeline.training.parts import Trial, try_batch, with_parts
from pipeline.training.schedule import ema_callback, make_optimizer
from pipeline.training.stage import stage_done
from tests.training.conftest import Run, stage

ROOT = Path(__file__).parents[2]
BATCH, STEPS = 8, 3  # 20 rows: the last batch has 4 of its own, in one half of it


def epoch() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Three batches of 8 rows of 5 numbers, one-hot targets of 3 classes, and weights as `TrainingInput` gives them."""
    random = np.random.default_rng(0)
    rows = random.normal(size=(BATCH * STEPS, 5)).astype(np.float32)
    targets = np.eye(3, dtype=np.float32)[random.integers(0, 3, BATCH * STEPS)]
    return rows, targets, (np.arange(BATCH * STEPS) < 20).astype(np.float32)


def network_of(settings: dict[str, Any], parts: int, *, precision: str) -> Any:
    keras.backend.clear_session()
    keras.utils.set_random_seed(1)
    inputs = keras.Input((5,), name="inputs")
    hidden = keras.layers.Dense(7, activation="tanh", name="hidden")(inputs)
    network = in_parts(keras.Model(inputs, keras.layers.Dense(3, name="logits")(hidden)), parts)
    content = {"name": "s", "unfreeze": 1, "epochs": 2, "learning_rate": 0.05, "batch_size": BATCH, **settings}
    scales = {network.get_layer("hidden").kernel.path: 0.25} if "layer_decay" in content else {}
    one = Stage.model_validate(content)
    network.compile(
        optimizer=make_optimizer(one, steps_per_epoch=STEPS, precision=precision, scales=scales),
        loss=keras.losses.CategoricalCrossentropy(from_logits=True),
        weighted_metrics=["accuracy"],
    )
    network.optimizer.build(network.trainable_variables)
    return network


class Watching(keras.callbacks.Callback):
    """Counts batches and keeps the learning rate after each."""

    def on_train_begin(self, logs: Any = None) -> None:
        self.rates: list[float] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        optimizer = getattr(self.model.optimizer, "inner_optimizer", self.model.optimizer)
        schedule = optimizer._learning_rate
        rate = schedule(optimizer.iterations) if callable(schedule) else schedule
        self.rates.append(float(keras.ops.convert_to_numpy(rate)))


def fitted(
    settings: dict[str, Any], parts: int, *, precision: str = "float32", epochs: int = 2, steps: int = STEPS
) -> tuple[Any, Any, list[float]]:
    network = network_of(settings, parts, precision=precision)
    dataset = tf.data.Dataset.from_tensor_slices(epoch()).batch(BATCH).repeat(epochs)
    average = ema_callback(
        Stage.model_validate({"name": "s", "unfreeze": 1, "epochs": 1, "learning_rate": 1, **settings})
    )
    watching = Watching()
    history = network.fit(
        for_training(dataset, batch_size=BATCH, parts=parts),
        epochs=epochs,
        steps_per_epoch=steps,
        callbacks=[*average, watching],
        shuffle=False,
        verbose=0,
    )
    return network, history.history, watching.rates


SETTINGS: list[tuple[dict[str, Any], str]] = [
    ({"optimizer": "sgd"}, "float32"),
    ({"optimizer": "adam"}, "float32"),
    ({"clip_norm": 0.1, "schedule": {"kind": "cosine", "warmup_epochs": 0.5}, "ema": 0.5}, "mixed_float16"),
    ({"optimizer": {"kind": "adamw", "weight_decay": 0.3}, "layer_decay": 0.5, "schedule": "exponential"}, "float32"),
]


@pytest.mark.parametrize(("settings", "precision"), SETTINGS)
def test_parts_train_as_the_whole_batch_does(settings: dict[str, Any], precision: str) -> None:
    """Weights, average, logs and the rate after each batch, with a last batch that is filled up."""
    whole, history, rates = fitted(settings, 1, precision=precision)
    network, logs, seen = fitted(settings, 4, precision=precision)
    assert len(seen) == int(network.optimizer.iterations) == 2 * STEPS
    np.testing.assert_allclose(seen, rates, rtol=1e-6)
    for one, other in zip(whole.get_weights(), network.get_weights(), strict=True):
        np.testing.assert_allclose(other, one, atol=1e-6)
    for name, values in history.items():
        np.testing.assert_allclose(logs[name], values, atol=1e-6)
    # The optimizer's moments, moving averages and loss scale: nothing is kept beside them.
    for one, other in zip(whole.optimizer.variables, network.optimizer.variables, strict=True):
        np.testing.assert_allclose(keras.ops.convert_to_numpy(other), keras.ops.convert_to_numpy(one), atol=1e-6)


def test_the_whole_s_mean_by_hand() -> None:
    """Rows 1, 2, 3 and a filler, target 0, weight 1: the squares' slope is 2·(1 + 4 + 9)/3, not the mean of the
    halves' slopes, 2·(5/2 + 9/1)/2."""
    inputs = keras.Input((1,))
    network = in_parts(keras.Model(inputs, keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")(inputs)), 2)
    network.compile(optimizer=keras.optimizers.SGD(0.1), loss="mse")
    rows, weights = np.array([[1], [2], [3], [100]], np.float32), np.array([1, 1, 1, 0], np.float32)
    dataset = tf.data.Dataset.from_tensors((rows, np.zeros((4, 1), np.float32), weights))
    logs = network.fit(for_training(dataset, batch_size=4, parts=2), shuffle=False, verbose=0).history
    assert float(network.get_weights()[0][0, 0]) == pytest.approx(1 - 0.1 * 2 * 14 / 3, abs=1e-6)
    assert logs["loss"] == pytest.approx([14 / 3])


def test_a_batch_that_does_not_divide_is_filled_up() -> None:
    rows = np.arange(5, dtype=np.float32)[:, None]
    dataset = tf.data.Dataset.from_tensors((rows, rows, np.ones(5, np.float32)))
    ((made, _, weights),) = for_training(dataset, batch_size=5, parts=2).as_numpy_iterator()
    assert made.ravel().tolist() == [0, 1, 2, 3, 4, 0]
    assert weights.tolist() == pytest.approx([1.2] * 5 + [0])


def test_nothing_is_left_over_for_the_next_fit() -> None:
    """An epoch that ends after one batch, and a fit without any gradient."""
    settings = {"optimizer": {"kind": "sgd", "momentum": 0}}
    network, _, _ = fitted(settings, 4, epochs=1, steps=1)
    before = network.get_weights()
    rows, targets, _ = epoch()
    network.fit(rows[:BATCH], targets[:BATCH], sample_weight=np.zeros(BATCH), batch_size=BATCH, verbose=0)
    for one, other in zip(before, network.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_one_part_is_the_network_itself() -> None:
    network = keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(1)])
    assert in_parts(network, 1) is network


@pytest.mark.slow
@pytest.mark.jax
def test_parts_on_jax(request: pytest.FixtureRequest) -> None:
    """Of the settings the two that have the most in them; with `--every-backbone` all."""
    pytest.importorskip("jax")
    every = request.config.getoption("--every-backbone")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-n0",
        "-p",
        "no:cacheprovider",
        __file__,
        "-k",
        "the_whole or next_fit" if every else "settings2 or settings3 or by_hand or next_fit",
    ]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "KERAS_BACKEND": "jax"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert f"{len(SETTINGS) + 2 if every else 4} passed" in done.stdout


# `accumulate: auto`


class Machine:
    """Stands in for a fresh process: batches of at most `fits` pictures fit."""

    def __init__(self, fits: int) -> None:
        self.fits, self.tried = fits, list[int]()

    def __call__(self, work: Callable[..., Any], trial: Trial, *, what: str) -> str:
        assert work is try_batch
        one = trial.recipe.stages[trial.number]
        self.tried.append(one.parts)
        if one.at_once > self.fits:
            raise OutOfMemory(what, expected="more", next_step="less")
        return "tried"


AUTO = {"batch_norm": "frozen", "batch_size": 48, "accumulate": "auto"}


@pytest.mark.parametrize(
    ("batch_size", "fits", "tried"),
    [(48, 48, [1]), (48, 10, [1, 2, 4, 8]), (48, 1, [1, 2, 4, 8, 16, 48]), (9, 3, [1, 3]), (7, 6, [1, 7]), (1, 1, [1])],
)
def test_the_fewest_parts_that_fit(
    begin: Callable[..., Run], tmp_path: Path, batch_size: int, fits: int, tried: list[int]
) -> None:
    run, machine = begin(stage("one", **AUTO | {"batch_size": batch_size})), Machine(fits)
    [found] = with_parts(run.recipe, run.data, folder=tmp_path / "_parts", run=machine).stages
    assert machine.tried == tried
    assert (found.parts, found.batch_size) == (tried[-1], batch_size)
    assert found.at_once <= fits


def test_what_was_found_is_told_and_remembered(
    begin: Callable[..., Run], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stages = [stage("by-hand", batch_size=6, accumulate=3), stage("one", **AUTO)]
    run, machine, folder = begin(*stages), Machine(24), tmp_path / "_parts"
    with caplog.at_level(logging.INFO):
        found = [with_parts(run.recipe, run.data, folder=folder, run=machine) for _ in range(2)]
    assert [[one.parts for one in recipe.stages] for recipe in found] == [[3, 2]] * 2
    assert machine.tried == [1, 2]
    told = [record.message for record in caplog.records]
    assert told == [f"stage one: batches of 48 in 2 parts of 24 ({how})" for how in ("tried", "remembered")]
    [file] = folder.iterdir()
    assert read_json(file)["parts"] == 2
    assert found[0].fingerprint() == run.recipe.fingerprint()


@pytest.mark.parametrize(
    "changes", [{"batch_size": 24}, {"size": [64, 32]}, {"unfreeze": 0.5}, {"optimizer": "sgd"}, {"ema": 0.9}], ids=str
)
def test_another_need_is_tried_anew(
    begin: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    machine, run = Machine(12), begin(stage("one", **AUTO))
    with_parts(run.recipe, run.data, folder=tmp_path, run=machine)
    machine.tried.clear()
    with_parts(begin(stage("other", epochs=9, **AUTO)).recipe, run.data, folder=tmp_path, run=machine)
    assert machine.tried == []
    with_parts(begin(stage("one", **AUTO | changes)).recipe, run.data, folder=tmp_path, run=machine)
    assert machine.tried[0] == 1
    machine.tried.clear()
    monkeypatch.setattr(parts_module, "machine_memory", lambda: ["another GPU"])
    with_parts(run.recipe, run.data, folder=tmp_path, run=machine)
    assert machine.tried[0] == 1


def test_where_not_one_picture_fits_the_error_is_the_trial_s(begin: Callable[..., Run], tmp_path: Path) -> None:
    run = begin(stage("one", **AUTO))
    with pytest.raises(OutOfMemory, match="1 picture at once"):
        with_parts(run.recipe, run.data, folder=tmp_path, run=Machine(0))
    assert list(tmp_path.glob("*.json")) == []


def test_another_error_is_not_taken_for_too_little_memory(begin: Callable[..., Run], tmp_path: Path) -> None:
    def broken(*_: Any, **__: Any) -> str:
        raise DataError("broken", expected="whole", next_step="mend")

    run = begin(stage("one", **AUTO))
    with pytest.raises(DataError):
        with_parts(run.recipe, run.data, folder=tmp_path, run=broken)


def test_a_stage_for_which_memory_runs_out_goes_on_in_parts(
    begin: Callable[..., Run], caplog: pytest.LogCaptureFixture
) -> None:
    run = begin(stage("small"), stage("large", batch_size=6, batch_norm="frozen"))

    def engine(task: FoldTask) -> None:
        if task.recipe.stages[1].at_once > 2:
            train_fold(replace(task, recipe=task.recipe.model_copy(update={"stages": task.recipe.stages[:1]})))
            (task.folder / DONE).unlink()
            raise OutOfMemory("memory ran out (MemoryError)", expected="more", next_step="take less")
        train_fold(task)

    run.train(folds=[0], engine=engine)
    large = stage_done(run.task(0).stage_folder(1)) or {}
    assert (large["parts"], (stage_done(run.task(0).stage_folder(0)) or {})["parts"]) == (6, 1)
    told = [line for line in caplog.messages if "memory ran out" in line]
    assert [line.rpartition("in ")[2] for line in told] == ["parts of 3 now", "parts of 1 now"]
    known = with_parts(run.recipe, run.data, folder=run.workspace.parts("tiny"))
    assert [one.parts for one in known.stages] == [1, 6]  # the next fold, and the next experiment, begin with it
    assert known.fingerprint() == run.recipe.fingerprint()


ON_FEATURES = {"unfreeze": 0, "batch_norm": "frozen", "augment": "none"}


@pytest.mark.parametrize(
    "settings", [{"batch_size": 1, "batch_norm": "frozen"}, {"batch_norm": "trained"}, ON_FEATURES], ids=str
)
def test_where_smaller_parts_would_not_do_the_error_is_told(
    begin: Callable[..., Run], settings: dict[str, Any]
) -> None:
    run = begin(stage("one", **settings))

    def engine(task: FoldTask) -> None:
        raise OutOfMemory("memory ran out", expected="more", next_step="take less")

    with pytest.raises(OutOfMemory):
        run.train(folds=[0], engine=engine)


@pytest.mark.slow
def test_a_fold_with_parts_that_the_machine_chose(begin: Callable[..., Run]) -> None:
    run = begin(stage("one", **AUTO))
    run.train()
    [file] = run.workspace.parts("tiny").iterdir()
    assert read_json(file)["how"] == "estimated"
    assert read_json(run.task(0).stage_folder(0) / "stage.json")["parts"] == 1
    manifest = read_json(run.oof / "manifest.json")
    assert manifest["recipe"]["stages"][0]["accumulate"] == "auto"
    assert manifest["fingerprint"] == run.recipe.fingerprint()


def test_parts_of_a_fold_give_what_batches_at_once_give(begin: Callable[..., Run], tmp_path: Path) -> None:
    """12 rows in batches of 6 and of 8, the last of which is filled up."""
    settings = {"augment": "none", "batch_norm": "frozen", "epochs": 2}
    found = []
    for parts in (1, 2):
        stages = [
            stage("one", **settings, batch_size=6, accumulate=parts),
            stage("two", **settings, batch_size=8, accumulate=parts**3),
        ]
        run = begin(*stages, head={"dropout": 0})
        assert stage_rows(run.task(0), run.data, 1).watched.batch_size == min(32, 4 * (8 // parts**3))
        run.train(folds=[0])
        assert read_json(run.task(0).stage_folder(1) / "stage.json")["parts"] == parts**3
        found.append(read_predictions(run.task(0).folder / "oof.parquet"))
        run.task(0).folder.rename(tmp_path / f"fold-in-{parts}")
    np.testing.assert_allclose(found[0].iloc[:, 2:], found[1].iloc[:, 2:], atol=1e-4)
