"""Worker processes that make augmented batches, in an order that does not depend on their number.

Step `k` is made by worker `k % workers` and handed out as step `k`. The pictures come back through a file mapped
by both sides, not through a pipe. Workers import neither TensorFlow nor Keras.
"""

import multiprocessing
import os
import pickle
import shutil
import tempfile
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.data.augment import Augmenter
from pipeline.data.mix import Mix, mix_pictures
from pipeline.data.pictures import Pictures
from pipeline.errors import KitError
from pipeline.recipe import Augment

AHEAD = 3
"""Batches a worker may be ahead of the training."""

_SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class Task:
    """What a batch is made of: rows of the pictures, shape (batch,), a seed for each, and how they are mixed."""

    rows: NDArray[np.int64]
    seeds: NDArray[np.uint32]
    mix: Mix | None = None


def make_batch(pictures: Pictures, augmenter: Augmenter, task: Task) -> NDArray[np.uint8]:
    """Augmented pictures, uint8 of shape (batch, height, width, 3)."""
    batch = pictures.take(task.rows)
    augmenter(batch, task.seeds)
    if task.mix:
        mix_pictures(batch, task.mix)
    return batch


class WorkerPool:
    """`workers` processes that live as long as the pool; with none, batches are made in this process."""

    def __init__(self, workers: int) -> None:
        context = multiprocessing.get_context("spawn")  # forking a process that runs TensorFlow can hang
        self._connections: list[Connection] = []
        self._processes = []
        # What the workers owe the stream in progress, in order: worker, slot, pictures.
        self._waiting: deque[tuple[int, int, int]] = deque()
        self._stream = 0  # the number of that stream: a newer one takes the workers over
        self._lock = threading.Lock()  # tf.data consumes a stream in threads of its own
        for _ in range(workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            self._connections.append(ours)
            self._processes.append(process)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:  # a stream that has not ended does so now, at its next step
            self._stream += 1
            self._waiting.clear()
        for connection in self._connections:
            connection.close()  # a worker that finds its pipe closed ends
        for process in self._processes:
            process.join(timeout=1)
            if process.is_alive():
                process.terminate()
                process.join()

    def batches(
        self, pictures: Pictures, augment: Augment, tasks: Iterable[Task], *, batch_size: int
    ) -> Iterator[NDArray[np.uint8]]:
        """The batches of `tasks`, in order; each is uint8 of shape (len(task.rows), height, width, 3).

        A new stream takes the workers from one that has not ended, which then raises `RuntimeError`; so does
        the end of the pool.

        Raises:
            KitError: As raised in a worker, or: a worker has died.
        """
        if not self._connections:
            augmenter = Augmenter(augment)
            for task in tasks:
                yield make_batch(pictures, augmenter, task)
            return
        shape = (AHEAD, batch_size, *pictures.size, 3)
        with self._lock, tempfile.TemporaryDirectory(prefix=f"kit-{os.getpid()}-", dir=_slot_folder(shape)) as folder:
            self._stream += 1
            stream = self._stream
            self._settle()
            slots = []
            for number, connection in enumerate(self._connections):
                file = Path(folder) / f"{number}.u8"
                slots.append(np.memmap(file, dtype=np.uint8, mode="w+", shape=shape))
                _send(connection, (pictures, augment, file, shape))
            faults = [fault for connection in self._connections if (fault := _answer(connection))]
            if faults:
                raise faults[0]
        # The files are unlinked and live on in the maps: nothing is left behind, however this process ends.
        yield from self._in_order(stream, tasks, slots)

    def _in_order(self, stream: int, tasks: Iterable[Task], slots: list[Any]) -> Iterator[NDArray[np.uint8]]:
        for step, task in enumerate(tasks):
            if step >= AHEAD * len(self._connections):
                yield self._collect(stream, slots)
            worker = step % len(self._connections)
            slot = step // len(self._connections) % AHEAD
            with self._lock:
                self._require(stream)
                _send(self._connections[worker], (task, slot))
                self._waiting.append((worker, slot, len(task.rows)))
        while self._waiting:
            yield self._collect(stream, slots)

    def _collect(self, stream: int, slots: list[Any]) -> NDArray[np.uint8]:
        with self._lock:
            self._require(stream)
            worker, slot, count = self._waiting.popleft()
            fault = _answer(self._connections[worker])
            if fault:
                raise fault
            return np.array(slots[worker][slot, :count])  # a copy: the slot is written again

    def _require(self, stream: int) -> None:
        if stream != self._stream:
            raise RuntimeError("the workers have gone to a newer stream of batches, or ended")

    def _settle(self) -> None:
        """Take the answers to a stream that was left early, so that the next one does not read them."""
        while self._waiting:
            with suppress(KitError):
                _answer(self._connections[self._waiting.popleft()[0]])


def _send(connection: Connection, message: object) -> None:
    try:
        connection.send(message)
    except (BrokenPipeError, ConnectionResetError):
        raise _died() from None


def _answer(connection: Connection) -> BaseException | None:
    """What went wrong in the worker's last task, if anything did; raises if the worker has died."""
    try:
        answer: BaseException | None = connection.recv()
    except (EOFError, ConnectionResetError):
        raise _died() from None
    return answer


def _died() -> KitError:
    return KitError(
        "an augmentation worker has died",
        expected="workers that live as long as the training",
        next_step="most often memory ran out: take fewer (`--workers 1`) or a smaller batch_size; then run again",
    )


def _slot_folder(shape: tuple[int, ...]) -> Path | None:
    """Shared memory where it has room to spare (containers often give it 64 MB), else the temporary folder."""
    need = int(np.prod(shape)) * (os.cpu_count() or 1)
    roomy = _SHARED_MEMORY.is_dir() and shutil.disk_usage(_SHARED_MEMORY).free > 2 * need
    return _SHARED_MEMORY if roomy else None


def _work(connection: Connection) -> None:
    """A worker's life: (pictures, augment, file, shape) opens a stream, (task, slot) makes a batch of it."""
    cv2.setNumThreads(0)  # OpenCV's own threads would fight the other workers
    pictures: Pictures
    augmenter: Augmenter
    slots: NDArray[np.uint8]
    while True:
        try:
            message = connection.recv()
        except (EOFError, OSError, KeyboardInterrupt):
            return
        try:
            if len(message) == 4:
                pictures, augment, file, shape = message
                augmenter = Augmenter(augment)
                slots = np.memmap(file, dtype=np.uint8, mode="r+", shape=shape)
            else:
                task, slot = message
                slots[slot, : len(task.rows)] = make_batch(pictures, augmenter, task)
            connection.send(None)
        except KeyboardInterrupt:
            return
        except Exception as error:
            connection.send(_portable(error))


def _portable(error: Exception) -> Exception:
    """The error itself, or one with its text, where it does not survive the way between processes."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
