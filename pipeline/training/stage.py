"""One stage of one fold: build, load the weights of the best stage before it, unfreeze, fit, keep an epoch.

The network is built anew and every random number seeded at the start of a stage, so a stage that follows a
restart is the same as one that follows its predecessor.
"""

import logging
import math
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.artifacts import atomic_path, read_json, write_json
from pipeline.data.inputs import ErrorRelay, TrainingInput, training_dataset
from pipeline.data.kept import Room
from pipeline.data.workers import WorkerPool
from pipeline.errors import KitError, OutOfTime, counted
from pipeline.model.cost import network_cost
from pipeline.predictions.metrics import METRICS
from pipeline.predictions.probe import fit_head
from pipeline.predictions.store import prediction_frame, write_predictions
from pipeline.recipe import LogisticRegression, OnLast, Recipe
from pipeline.training.device import for_training, onednn, replicas, slow_here
from pipeline.training.frozen import freeze, kept_views
from pipeline.training.network import compile_for, stage_network
from pipeline.training.run_state import (
    LOG,
    WEIGHTS,
    RunState,
    forget_state,
    read_state,
    require_room,
    state_callback,
    take_over,
)
from pipeline.training.schedule import ema_callback, plateau_callback
from pipeline.training.time_limit import TimeLimit, ends_by_itself
from pipeline.training.validation import Best, HeldOut, progress_callback, validation_callback

log = logging.getLogger(__name__)
DONE = "stage.json"
OOF = "oof.parquet"


@dataclass(frozen=True)
class StageTask:
    """What a stage needs beyond the recipe.

    Attributes:
        number: The stage's position in the recipe, from 0.
        classes: Class names.
        held_out: The fold's rows, whose predictions are the stage's result.
        watched: The rows that are predicted after every epoch: `held_out` itself, or the inner rows.
        start: Weights of the best stage before it; None for the first.
        folder: Where weights, logs and the held-out predictions go.
        ids: Ids of the held-out rows.
        limit: When to stop.
        room: Where features of a frozen backbone are kept.
        advise: Whether to say what this machine is slow at.
        choosing: Training rows that choose the strength of a logistic regression.
    """

    number: int
    classes: list[str]
    source: TrainingInput
    held_out: HeldOut
    watched: HeldOut
    start: Path | None
    folder: Path
    ids: list[str]
    limit: TimeLimit
    room: Room
    advise: bool
    choosing: NDArray[np.int64]


def train_stage(recipe: Recipe, task: StageTask, pool: WorkerPool) -> None:
    """Train one stage, from where it has come to; `stage.json`, written last, says that it is done.

    Raises:
        KitError: The loss was never a number, so that there are no weights to keep.
        OutOfTime: The time is over; the next call goes on from the state that was saved.
    """
    import keras

    begun, stage = time.perf_counter(), recipe.stages[task.number]
    network, freezing = stage_network(recipe, task.number, task.source, classes=len(task.classes), start=task.start)
    for note in slow_here(network, network.get_layer("backbone").dtype_policy.name) if task.advise else ():
        log.warning("%s", note)
    cost = network_cost(network, task.source.pictures.size)
    started, saving_seconds = time.perf_counter(), 0.0
    frozen = on_features(recipe, task, network, pool)
    feature_seconds = time.perf_counter() - started if frozen else 0.0
    fitted, source, held_out, watched = frozen or (network, task.source, task.held_out, task.watched)
    if isinstance(stage.optimizer, LogisticRegression):
        best = _fit_at_once(fitted, stage.optimizer, source, watched, task)
    else:
        fitted = compile_for(fitted, recipe, task.number, source, classes=len(task.classes))
        best, begun, saving_seconds = _fit(fitted, recipe, source, watched, task, pool, begun=begun)
    log_frame = pd.read_csv(task.folder / LOG)
    if best.probabilities is None:
        forget_state(task.folder)  # there is nothing to go on from
        raise KitError(
            f"fold {source.fold}, stage {stage.name}: the loss is not a number after "
            + counted(len(log_frame), "epoch", "epochs"),
            expected="a loss that falls",
            next_step="lower the stage's learning_rate; with precision mixed_float16 try mixed_bfloat16 or float32",
        )
    diverged = not np.isfinite(log_frame["loss"].to_numpy()).all()
    if diverged:
        log.warning(
            "fold %d, stage %s: the loss was not a number in epoch %d; weights from before it are kept",
            *(source.fold, stage.name, len(log_frame)),
        )
    found = best.probabilities
    if frozen or watched is not held_out:
        keras.Model(fitted.inputs, fitted.outputs).load_weights(task.folder / WEIGHTS)
    if watched is not held_out:
        what = f"the end of the predictions of fold {source.fold}, stage {stage.name}"
        found = held_out.predict(fitted, check=partial(task.limit.check, what))
    if frozen:  # the file held the head alone
        with atomic_path(task.folder / WEIGHTS) as temporary:
            network.save_weights(temporary)
    oof = prediction_frame(task.ids, found, task.classes, fold=source.fold)
    write_predictions(task.folder / OOF, oof)
    write_json(
        task.folder / DONE,
        {
            "name": stage.name,
            "size": list(source.pictures.size),
            "precision": network.get_layer("backbone").dtype_policy.name,
            "onednn": onednn(),
            "views_kept": len(source.features),
            "blocks": freezing.blocks,
            "unfrozen": freezing.unfrozen,
            "trainable_parameters": cost.trainable,
            "parameters": cost.parameters,
            "flops": cost.flops,
            "epochs": len(log_frame),
            "diverged": diverged,
            "best_epoch": best.epoch,
            "score": task.held_out.metric.score(task.held_out.labels, found),
            "loss": METRICS["log_loss"].score(task.held_out.labels, found),
            "watched": {key: best.logs[f"val_{key}"] for key in ("loss", "score")},
            "training_seconds": float(log_frame["seconds"].sum()) + feature_seconds,
            "saving_seconds": saving_seconds,
            "seconds": time.perf_counter() - begun,
            "pictures_trained": len(source.rows) * len(log_frame),
            "devices": replicas(),
            "parts": stage.parts,
        },
    )
    forget_state(task.folder)


def _fit(
    fitted: Any,
    recipe: Recipe,
    source: TrainingInput,
    watched: HeldOut,
    task: StageTask,
    pool: WorkerPool,
    *,
    begun: float,
) -> tuple[Best, float, float]:
    """Train the compiled network epoch by epoch, from where it has come to; what is kept has its weights in the stage's
    folder then.

    Args:
        begun: When this process began the stage, of `time.perf_counter`.

    Returns:
        The epoch that is kept; `begun`, earlier by what the stage had taken before; the seconds that saving its state
        took of this process.
    """
    stage, what = recipe.stages[task.number], f"fold {source.fold}  {recipe.stages[task.number].name}"

    def goes_on(state: RunState) -> bool:
        return state.variables == len(fitted.variables) and (state.epoch == stage.epochs or take_over(fitted, state))

    require_room(fitted, task.folder, of=what)
    state = read_state(task.folder, of=what)
    if state and not goes_on(state):
        log.warning("%s: its saved state is of another build, precision or room for features, so it begins anew", what)
        state = None
    if state:
        if state.epoch < stage.epochs:
            log.info("%s goes on in epoch %d of %d, after %d batches", what, state.epoch + 1, stage.epochs, state.batch)
        begun -= state.seconds
    else:
        for left in (WEIGHTS, LOG):
            (task.folder / left).unlink(missing_ok=True)
    saving_seconds = 0.0
    while True:
        epoch, skip = (state.epoch, state.batch) if state else (0, 0)
        best = state.best_epoch() if state else Best()
        if state:  # the network has the others, which are large
            state = replace(
                state, arrays={key: kept for key, kept in state.arrays.items() if key.startswith("metrics")}
            )
        if epoch < stage.epochs:
            callbacks = _callbacks(recipe, task, watched, best, begun=begun, state=state)
            with ends_by_itself(), ErrorRelay() as relay:
                batches = training_dataset(source, pool, epochs=range(epoch, stage.epochs), skip=skip, relay=relay)
                try:
                    fitted.fit(
                        for_training(batches, batch_size=source.batch_size, parts=stage.parts),
                        initial_epoch=epoch,
                        epochs=stage.epochs,
                        steps_per_epoch=source.steps_per_epoch - skip,
                        callbacks=callbacks,
                        shuffle=False,  # the batches come in the order of their epoch already
                        verbose=0,
                    )
                except (OutOfTime, KeyboardInterrupt):
                    for callback in callbacks:
                        callback.on_train_end()  # closes the logs and the progress bar, which Keras does not
                    raise
            saving_seconds += callbacks[-1].spent
        if not skip:
            return best, begun, saving_seconds
        state = read_state(task.folder, of=what)  # of the end of the epoch that was gone on with
        if not (state and goes_on(state)):
            raise KitError(
                f"{what}: what was saved at the end of an epoch cannot be read back from {task.folder}",
                expected="a disk that keeps what is written to it",
                next_step="look at the disk, then run the same command again",
            )


def _fit_at_once(
    head: Any, optimizer: LogisticRegression, source: TrainingInput, watched: HeldOut, task: StageTask
) -> Best:
    """Fit the head to its optimum; as after an only epoch its weights and its log are in the stage's folder then.

    Raises:
        KitError: There was no room to keep the features of the frozen backbone.
    """
    import keras

    if not source.features:
        raise KitError(
            f"fold {source.fold}: a logistic regression needs features of the frozen backbone, which could not be kept",
            expected="room for them on the disk, and features within the range of float16",
            next_step="raise --cache-gb, free disk space, or take another optimizer",
        )
    best, rows, views = Best(), source.rows, source.features
    what = f"the end of the predictions of fold {source.fold}"
    validation = validation_callback(
        watched, best, monitor=None, weights=task.folder / WEIGHTS, check=partial(task.limit.check, what)
    )
    callbacks = keras.callbacks.CallbackList([validation, keras.callbacks.CSVLogger(task.folder / LOG)], model=head)
    callbacks.on_train_begin()
    callbacks.on_epoch_begin(0)
    features = np.concatenate([view.take(rows).astype(np.float32) for view in views])
    labels = np.tile(source.labels[rows], len(views))
    found = fit_head(
        features,
        labels,
        trained=np.arange(len(labels)),
        inner=np.flatnonzero(np.tile(np.isin(rows, task.choosing), len(views))),
        classes=len(task.classes),
        strength=None if optimizer.c == "auto" else optimizer.c,
    )
    head.get_layer("logits").set_weights([found.kernel, found.bias])
    reached = found.probabilities(features)
    names = {"loss": "log_loss", "accuracy": "accuracy"}
    callbacks.on_epoch_end(0, {key: METRICS[name].score(labels, reached) for key, name in names.items()})
    callbacks.on_train_end()
    return best


def on_features(
    recipe: Recipe, task: StageTask, network: Any, pool: WorkerPool
) -> tuple[Any, TrainingInput, HeldOut, HeldOut] | None:
    """The head alone, and a stage's rows as features of the frozen backbone: what is trained, what is held out, what is
    watched. None where the stage goes through the whole network (`kept_views`), or where there is no room for them."""
    stage = recipe.stages[task.number]
    views = kept_views(stage)
    if views is None:
        return None
    backbone, head = freeze(network, backbone=recipe.backbone, room=task.room, pool=pool)
    features = backbone.all_features(task.source.pictures, views)
    if features is None:
        return None
    held_out = replace(task.held_out, pictures=features[0])
    watched = held_out if task.watched is task.held_out else replace(task.watched, pictures=features[0])
    return head, replace(task.source, features=tuple(features)), held_out, watched


def stage_done(folder: Path) -> dict[str, Any] | None:
    """The stage's result, if it is done."""
    file = folder / DONE
    result: dict[str, Any] | None = read_json(file) if file.is_file() else None
    return result


def _callbacks(
    recipe: Recipe, task: StageTask, watched: HeldOut, best: Best, *, begun: float, state: RunState | None
) -> list[Any]:
    import keras

    stage, metric = recipe.stages[task.number], watched.metric
    monitor = f"val_{stage.monitor}"
    mode = "max" if stage.monitor == "score" and metric.greater_is_better else "min"
    height, width = task.source.pictures.size
    label = f"fold {task.source.fold} · {stage.name} {height}×{width}"
    stopping = []
    if stage.early_stopping:
        stopping = [keras.callbacks.EarlyStopping(monitor=monitor, mode=mode, patience=stage.early_stopping.patience)]
    check = partial(task.limit.check, f"the end of the predictions of {label}")
    chosen_by = None if isinstance(recipe.select_on, OnLast) else stage.monitor
    weights = task.folder / WEIGHTS
    # Before the callbacks that read what it puts into the logs, and after the moving average, which it validates.
    validation = validation_callback(watched, best, monitor=chosen_by, weights=weights, check=check)
    steps = task.source.steps_per_epoch
    callbacks = [
        *ema_callback(stage),
        validation,
        progress_callback(
            label,
            epochs=stage.epochs,
            steps_per_epoch=steps,
            done=state.epoch * steps + state.batch if state else 0,
            pictures=len(task.source.rows),
            metric=metric.name,
        ),
        *plateau_callback(stage, monitor=monitor, mode=mode),
        *stopping,
        keras.callbacks.TerminateOnNaN(),
        keras.callbacks.CSVLogger(task.folder / LOG, append=True),
        keras.callbacks.TensorBoard(task.folder / "tensorboard", write_graph=False),
    ]
    in_time = state_callback(
        task.folder,
        label=label,
        epochs=stage.epochs,
        steps=steps,
        best=best,
        callbacks=callbacks,
        validation=validation,
        limit=task.limit,
        begun=begun,
        state=state,
    )
    return [*callbacks, in_time]


def images_per_second(stages: list[dict[str, Any]]) -> float:
    """Pictures trained on a second, over all folds of a stage; validation is not counted."""
    seconds = math.fsum(stage["training_seconds"] for stage in stages)
    return sum(stage["pictures_trained"] for stage in stages) / seconds if seconds else 0.0
