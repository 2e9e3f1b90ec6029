"""How fast input, training and prediction are: a few batches of the real thing, timed once they flow evenly."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.data.inputs import ErrorRelay, TrainingInput, training_dataset
from pipeline.data.workers import AHEAD, WorkerPool
from pipeline.training.device import for_training
from pipeline.training.validation import HeldOut

_SETTLING, _MEASURING, _PATIENCE = 2.0, 2.0, 15.0  # seconds
_FEWEST = 8  # batches measured, where patience lasts
_ENDLESS = range(10**6)  # epochs


class Clock:
    """Pictures a second of a stream of batches, once it has settled.

    Batches that were ready before they were asked for do not count, nor those of the first seconds.

    Attributes:
        first: Seconds until the first batch.
    """

    def __init__(self, *, batch_size: int, workers: int, now: Callable[[], float] = time.perf_counter) -> None:
        self.batch_size, self.now = batch_size, now
        # What the workers hold ready comes from the queue, faster than it is made.
        self.skipped = AHEAD * workers + 3
        self.started = now()
        self.first = 0.0
        self.ends: list[float] = []
        self.settled: int | None = None

    def tick(self) -> bool:
        """A batch is done; whether enough have been."""
        self.ends.append(self.now())
        count, since = len(self.ends), self.ends[-1] - self.ends[0]
        if count == 1:
            self.first = self.ends[0] - self.started
        if self.settled is None:
            if count > self.skipped or (count > 1 and since > _SETTLING):
                self.settled = count - 1
            return False
        measured, seconds = count - 1 - self.settled, self.ends[-1] - self.ends[self.settled]
        return (measured >= _FEWEST and seconds >= _MEASURING) or seconds >= _PATIENCE

    @property
    def rate(self) -> float:
        begin = self.settled or 0
        return self.batch_size * (len(self.ends) - 1 - begin) / (self.ends[-1] - self.ends[begin])


def input_rate(source: TrainingInput, pool: WorkerPool, *, workers: int) -> float:
    """Pictures a second that the input makes when nothing else is done."""
    clock = Clock(batch_size=source.batch_size, workers=workers)
    with ErrorRelay() as relay:
        for _ in training_dataset(source, pool, epochs=_ENDLESS, relay=relay):
            if clock.tick():
                break
    return clock.rate


def training_rate(
    network: Any, source: TrainingInput, pool: WorkerPool, *, parts: int, workers: int
) -> tuple[float, float]:
    """Seconds until the first batch was trained on, and pictures a second afterwards."""
    import keras

    clock = Clock(batch_size=source.batch_size, workers=workers)

    class Stopping(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.model.stop_training = clock.tick()

    with ErrorRelay() as relay:
        batches = training_dataset(source, pool, epochs=_ENDLESS, relay=relay)
        network.fit(
            for_training(batches, batch_size=source.batch_size, parts=parts),
            steps_per_epoch=len(_ENDLESS),
            callbacks=[Stopping()],
            shuffle=False,
            verbose=0,
        )
    return clock.first, clock.rate


def prediction_rate(network: Any, watched: HeldOut) -> tuple[float, float]:
    """What the first prediction takes more than a later one in seconds, and pictures a second of a later one."""

    def seconds(rows: Any) -> float:
        started = time.perf_counter()
        HeldOut(watched.pictures, rows, watched.labels[: len(rows)], watched.batch_size, watched.metric).predict(
            network
        )
        return time.perf_counter() - started

    some = watched.rows[: 4 * watched.batch_size]
    first, taken = seconds(some), seconds(some)
    # Of a few batches the beginning of a prediction is a large part: as many rows as there is patience for.
    enough = int(_PATIENCE * len(some) / taken) // watched.batch_size * watched.batch_size
    rows = watched.rows[: max(enough, len(some))]
    predicted, spent = (len(some), taken) if len(rows) == len(some) else (0, 0.0)
    while spent < _MEASURING:
        spent += seconds(rows)
        predicted += len(rows)
    rate = predicted / spent
    return max(0.0, first - len(some) / rate), rate


def save_seconds(network: Any) -> float:
    """How long writing a network's weights takes."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        network.save_weights(Path(folder) / "probe.weights.h5")
        return time.perf_counter() - started
