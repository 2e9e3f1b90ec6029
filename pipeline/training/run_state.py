"""Where a stage has come to while it is trained, so that one that was stopped or killed goes on from there.

    stage-<n>/state/<generation>/arrays.npz         variables of network, optimizer and metrics; the best predictions
    stage-<n>/state/<generation>/best.weights.h5    of the epoch that is kept by now
    stage-<n>/state/<generation>/log.csv
    stage-<n>/state/<generation>/state.json         the position, and what else there is; with SHA-256 of the others

A generation is written to a folder beside it and renamed, and the last two stay: one is whole when the process dies.
"""

import hashlib
import json
import logging
import math
import os
import shutil
import time
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.artifacts import atomic_folder, atomic_path, file_sha256
from pipeline.errors import KitError
from pipeline.training.time_limit import TimeLimit, ending
from pipeline.training.validation import Best

log = logging.getLogger(__name__)
FOLDER, WEIGHTS, LOG = "state", "best.weights.h5", "log.csv"
SHARE = 0.01
"""Of the time of training, what saving at the ends of epochs may take."""
EVERY = 600.0
"""Seconds without a save after which one comes in the middle of an epoch."""
_WORTH = 6.0  # seconds of training that are not risked where a validation of unknown length may outlast the time
_SAVING = 5.0  # seconds that are left for writing what a stage has made, beyond what a save has taken
_ARRAYS, _STATE, _BEST = "arrays.npz", "state.json", "best"
_GENERATIONS = 2
# What Keras' callbacks know, and forget when a fit begins.
_REMEMBERED = {
    "EarlyStopping": ("wait", "best", "best_epoch", "stopped_epoch"),
    "ReduceLROnPlateau": ("wait", "best", "cooldown_counter"),
    "SwapEMAWeights": ("_ema_weights_in_model",),
}


@dataclass(frozen=True)
class RunState:
    """A generation that was read.

    Attributes:
        variables: How many the network has: whether it is the whole one, or the head alone on kept features.
        epoch: The epoch to go on in, from 0; as many as the stage has where there is none to train.
        batch: How many batches of it are trained on.
        seconds: What the stage has taken so far.
        epoch_seconds: What of that the batches of `epoch` have taken.
        callbacks: By class name, what those of `_REMEMBERED` know.
        best: The fields of `Best`; its probabilities are in `arrays`.
    """

    variables: int
    epoch: int
    batch: int
    seconds: float
    epoch_seconds: float
    callbacks: dict[str, dict[str, Any]]
    best: dict[str, Any]
    arrays: dict[str, NDArray[Any]]

    def best_epoch(self) -> Best:
        return Best(**self.best, probabilities=self.arrays.get(_BEST))


def read_state(stage_folder: Path, *, of: str) -> RunState | None:
    """The newest whole generation; the weights and the log of it lie in the stage's folder then. None if there is none.

    Args:
        of: The stage, for what is said of a damaged generation.
    """
    generations = _generations(stage_folder)
    for folder in generations:
        try:
            written = json.loads((folder / _STATE).read_text("utf-8"))
            content, sha256 = written["state"], written["sha256"]
            for name, wanted in sha256.items():
                if (_digest(content) if name == _STATE else file_sha256(folder / name)) != wanted:
                    raise ValueError(f"{name} is not what was written")
            with np.load(folder / _ARRAYS, allow_pickle=False) as file:
                state = RunState(**content, arrays=dict(file))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
            log.warning("%s: a saved state is damaged, an earlier one is looked for (%s: %s)", of, folder, error)
            continue
        for name in (WEIGHTS, LOG):
            (stage_folder / name).unlink(missing_ok=True)
            if (folder / name).is_file():
                with atomic_path(stage_folder / name) as temporary:
                    shutil.copyfile(folder / name, temporary)
        return state
    if generations:
        log.warning("%s: no saved state is whole, so it begins anew", of)
    return None


def forget_state(stage_folder: Path) -> None:
    shutil.rmtree(stage_folder / FOLDER, ignore_errors=True)


def take_over(network: Any, state: RunState) -> bool:
    """Give a compiled network, and its optimizer, what they had; False, and nothing done, where they have other
    variables."""
    pairs = {**_variables(network.variables, "network"), **_variables(network.optimizer.variables, "optimizer")}
    saved = {key: array for key, array in state.arrays.items() if key.startswith(("network", "optimizer"))}
    if {key: tuple(variable.shape) for key, variable in pairs.items()} != {
        key: array.shape for key, array in saved.items()
    }:
        return False
    for key, variable in pairs.items():
        variable.assign(saved[key])
    return True


def require_room(network: Any, stage_folder: Path, *, of: str) -> None:
    """See that the disk has room for the states and weights of a compiled network.

    Raises:
        KitError: It has not.
    """
    weights, moments = (
        sum(math.prod(variable.shape) * np.dtype(variable.dtype).itemsize for variable in variables)
        for variables in (network.variables, network.optimizer.variables)
    )
    # Two generations and the next; weights of the best epoch in each of them, if they are of three epochs.
    there = {file.stat().st_ino: file.stat().st_size for file in stage_folder.rglob("*") if file.is_file()}
    need = 3 * (2 * weights + moments) - sum(there.values())
    free = shutil.disk_usage(stage_folder).free
    if need > free:
        megabytes = f"{need / 1e6:,.0f} MB, and the disk of {stage_folder} has {free / 1e6:,.0f} left"
        raise KitError(
            f"{of}: its checkpoints need {megabytes}",
            expected="room for the weights and the optimizer's state, three times",
            next_step="make room, then run the same command again: it goes on after what is finished",
        )


def state_callback(
    stage_folder: Path,
    *,
    label: str,
    epochs: int,
    steps: int,
    best: Best,
    callbacks: Sequence[Any],
    validation: Any,
    limit: TimeLimit,
    begun: float,
    state: RunState | None,
) -> Any:
    """Callback that saves the state, goes on from `state`, and ends the training in time or when asked to.

    It stands last: what the others know at the end of an epoch is of it. An epoch that is gone on with in its middle is
    the only one of its fit: the next fit goes on from what is saved at its end.

    Args:
        label: The stage, for messages.
        epochs: Of the stage.
        steps: Batches of an epoch.
        callbacks: The others.
        validation: That of them which validates.
        begun: When the stage began, of `time.perf_counter`; of one that is gone on with, earlier by what it had taken.
    """
    import keras

    class KeepState(keras.callbacks.Callback):
        def __init__(self) -> None:
            super().__init__()
            self.offset = state.batch if state else 0
            self.at = (state.epoch, state.batch) if state else (0, 0)
            self.cost, self.spent, self.validating, self.digests = 0.0, 0.0, 0.0, dict[tuple[int, int], str]()

        def set_model(self, model: Any) -> None:
            super().set_model(model)
            self.network = model  # `self.model` brings JAX's state back from the device at each look

        def on_train_begin(self, logs: Any = None) -> None:
            self.saved = time.monotonic()
            for one in callbacks:
                vars(one).update(state.callbacks.get(type(one).__name__, {}) if state else {})

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self.epoch, self.partial = epoch, self.offset > 0
            if state and self.partial:
                validation.started -= state.epoch_seconds
                for key, variable in _variables(self.network.metrics_variables, "metrics").items():
                    variable.assign(state.arrays[key])

        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            batch += self.offset
            last, at = batch == steps - 1, (self.epoch, batch)
            if not limit.holds(self.cost + _SAVING + (self.validating if last else 0)):
                if at != self.at:
                    self.save(*at)
                kept = f"{limit.kept}, {batch} of {steps} batches of {label}, epoch {self.epoch + 1}"
                raise replace(limit, kept=kept).over(f"the end of {label}, epoch {self.epoch + 1} of {epochs}")
            if last and limit.stop_at and not self.validating:  # the time may be over before it is validated
                self.save_if(time.monotonic() > self.saved + _WORTH, *at)

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.ended, batch = time.monotonic(), batch + self.offset + 1
            if batch < steps and not self.network.stop_training:
                self.save_if(time.monotonic() > self.saved + EVERY, self.epoch, batch)

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            over = epoch + 1 == epochs or self.network.stop_training
            self.validating = max(self.validating, time.monotonic() - self.ended)
            worth_it = self.cost < SHARE * (time.monotonic() - self.saved)
            self.save_if(worth_it or self.partial, epochs if over else epoch + 1, 0)
            if self.partial:
                self.network.stop_training = True

        def save_if(self, needed: bool, epoch: int, batch: int) -> None:
            asked = ending.asked  # it may be set at any moment
            if needed or asked:
                self.save(epoch, batch)
            if asked:
                raise KeyboardInterrupt

        def save(self, epoch: int, batch: int) -> None:
            started, model, lists = time.monotonic(), self.model, dict[str, Sequence[Any]]()
            if epoch < epochs:  # else nothing is trained any more; and on JAX the moving average's variables are gone
                lists = {"network": model.variables, "optimizer": model.optimizer.variables}
                lists["metrics"] = model.metrics_variables
            arrays = {
                key: keras.ops.convert_to_numpy(variable)
                for name, variables in lists.items()
                for key, variable in _variables(variables, name).items()
            }
            if best.probabilities is not None:
                arrays[_BEST] = best.probabilities
            remembered = {
                kind: {key: vars(one)[key] for key in keys}
                for one in callbacks
                for kind, keys in _REMEMBERED.items()
                if type(one).__name__ == kind
            }
            content = {
                "variables": len(model.variables),
                "epoch": epoch,
                "batch": batch,
                "seconds": time.perf_counter() - begun,
                "epoch_seconds": time.perf_counter() - validation.started if batch else 0.0,
                "callbacks": remembered,
                "best": {key: value for key, value in vars(best).items() if key != "probabilities"},
            }
            _write(stage_folder, content, arrays, self.digests)
            self.at, self.saved = (epoch, batch), time.monotonic()
            self.cost = self.saved - started
            self.spent += self.cost

    return KeepState()


def _write(
    stage_folder: Path,
    content: Mapping[str, Any],
    arrays: Mapping[str, NDArray[Any]],
    digests: dict[tuple[int, int], str],
) -> None:
    """Write a generation, and remove what is older than the one before it.

    Args:
        digests: Of files by inode and time: the weights of the best epoch are hashed once.
    """
    earlier = _generations(stage_folder)
    number = int(earlier[0].name) + 1 if earlier else 0
    with atomic_folder(stage_folder / FOLDER / str(number)) as folder:
        with (folder / _ARRAYS).open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        if (stage_folder / WEIGHTS).is_file():
            _link(stage_folder / WEIGHTS, folder / WEIGHTS)
        if (stage_folder / LOG).is_file():
            shutil.copyfile(stage_folder / LOG, folder / LOG)
        content = json.loads(json.dumps(content, default=lambda number: number.item()))  # infinities and NaN, too
        sha256 = {_STATE: _digest(content)}
        for written in folder.iterdir():
            key = (written.stat().st_ino, written.stat().st_mtime_ns)
            if key not in digests:
                digests[key] = file_sha256(written)
            sha256[written.name] = digests[key]
        (folder / _STATE).write_text(json.dumps({"state": content, "sha256": sha256}), "utf-8")
        for written in folder.iterdir():
            _to_disk(written)
        _to_disk(folder)
    _to_disk(stage_folder / FOLDER)
    kept = {str(number), *(folder.name for folder in earlier[: _GENERATIONS - 1])}
    for left in (stage_folder / FOLDER).iterdir():
        if left.name not in kept:
            shutil.rmtree(left, ignore_errors=True)


def _generations(stage_folder: Path) -> list[Path]:
    """The newest first."""
    found = (stage_folder / FOLDER).glob("*")
    return sorted((folder for folder in found if folder.name.isdigit()), key=lambda one: int(one.name), reverse=True)


def _variables(variables: Sequence[Any], name: str) -> dict[str, Any]:
    """By their place and path, as some have the same path."""
    return {f"{name}/{place:04}/{variable.path}": variable for place, variable in enumerate(variables)}


def _link(source: Path, target: Path) -> None:
    """Another name for a file that is replaced, and never written to; a copy where the disk has no such names."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
