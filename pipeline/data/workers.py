"""Worker processes that make augmented batches, in an order that does not depend on their number.

Step `k` is made by worker `k % workers` and handed out as step `k`. The pictures come back through a file mapped
by both sides, and are handed out where they lie. Workers import neither TensorFlow nor Keras.
"""

import multiprocessing
import os
import pickle
import shutil
import signal
import tempfile
import threading
import weakref
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from pathlib import Path
from types import TracebackType
from typing import IO, Literal, Self

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

_LENT = 6  # batches that the training may hold before the next is copied: tf.data's, the step's, the one let go last
_ALIGNMENT = 64  # bytes; TensorFlow takes an array over as it lies if it begins at a multiple of this, else copies it
_SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class Task:
    """What a batch is made of: rows of the pictures, shape (batch,), a seed for each, and how they are mixed."""

    rows: NDArray[np.int64]
    seeds: NDArray[np.uint32]
    mix: Mix | None = None


def make_batch(pictures: Pictures, augmenter: Augmenter, task: Task, out: NDArray[np.uint8]) -> None:
    """Write augmented pictures into `out`, uint8 of shape (len(task.rows), height, width, 3)."""
    for place, seed in enumerate(task.seeds):  # one by one: a picture stays in the processor's cache until it is done
        [picture] = pictures.take(task.rows[place : place + 1])
        out[place] = augmenter.one(picture, int(seed))
    if task.mix:
        mix_pictures(out, task.mix)


class _Slots:
    """Room for batches in a file mapped by this process and the workers.

    A batch that is lent out is its holder's until the last array that shows any of it is gone.
    """

    def __init__(self, file: IO[bytes], *, count: int, batch_shape: tuple[int, ...]) -> None:
        self.free = deque(range(count))
        self._room = _map_slots(file, "w+", count, batch_shape)
        self._picture = batch_shape[1:]

    def hand_out(self, slot: int, pictures: int) -> NDArray[np.uint8]:
        """The first `pictures` of a slot: the slot itself if there is another one free, else a copy."""
        count = pictures * int(np.prod(self._picture))
        # Of a buffer, not of an array: arrays made from this one then keep it, and not only the map behind it.
        lent = np.frombuffer(self._room[slot].data, dtype=np.uint8, count=count)
        batch = lent.reshape(pictures, *self._picture)
        if not self.free:
            self.free.append(slot)
            return batch.copy()
        weakref.finalize(lent, self.free.append, slot).atexit = False
        return batch


def _map_slots(
    file: IO[bytes], mode: Literal["w+", "r+"], count: int, batch_shape: tuple[int, ...]
) -> NDArray[np.uint8]:
    """The slots of a file, uint8 of shape (count, bytes of a batch, filled up to a multiple of `_ALIGNMENT`)."""
    length = -(-int(np.prod(batch_shape)) // _ALIGNMENT) * _ALIGNMENT
    return np.memmap(file, dtype=np.uint8, mode=mode, shape=(count, length))


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
        # A signal from the terminal, or to all processes, is for the training: workers end when it does.
        resource_tracker.ensure_running()  # which the first start would do, and lift the block
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            for _ in range(workers):
                ours, theirs = context.Pipe()
                process = context.Process(target=_work, args=(theirs,), daemon=True)
                self._processes.append(process)
                process.start()
                theirs.close()
                self._connections.append(ours)
        except BaseException:
            for process in self._processes:
                if process.pid:
                    process.kill()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

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
                process.kill()
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
                batch = np.empty((len(task.rows), *pictures.size, 3), dtype=np.uint8)
                make_batch(pictures, augmenter, task, batch)
                yield batch
            return
        count, batch_shape = AHEAD * len(self._connections) + _LENT, (batch_size, *pictures.size, 3)
        where = _slot_folder(count * int(np.prod(batch_shape)))
        # A file without a name, which lives on in the maps: nothing is left behind, however a process ends.
        with self._lock, tempfile.TemporaryFile(prefix=f"kit-{os.getpid()}-", dir=where) as file:
            self._stream += 1
            stream = self._stream
            self._settle()
            slots = _Slots(file, count=count, batch_shape=batch_shape)
            for connection, process in zip(self._connections, self._processes, strict=True):
                _send(connection, (pictures, augment, count, batch_shape))
                with suppress(BrokenPipeError, ConnectionResetError):  # its answer, which is awaited next, says so
                    send_handle(connection, file.fileno(), process.pid)
            faults = [fault for connection in self._connections if (fault := _answer(connection))]
            if faults:
                raise faults[0]
        yield from self._in_order(stream, tasks, slots)

    def _in_order(self, stream: int, tasks: Iterable[Task], slots: _Slots) -> Iterator[NDArray[np.uint8]]:
        for step, task in enumerate(tasks):
            if step >= AHEAD * len(self._connections):
                yield self._collect(stream, slots)
            worker = step % len(self._connections)
            with self._lock:
                self._require(stream)
                slot = slots.free.popleft()
                _send(self._connections[worker], (task, slot))
                self._waiting.append((worker, slot, len(task.rows)))
        while self._waiting:
            yield self._collect(stream, slots)

    def _collect(self, stream: int, slots: _Slots) -> NDArray[np.uint8]:
        with self._lock:
            self._require(stream)
            worker, slot, count = self._waiting.popleft()
            fault = _answer(self._connections[worker])
            if fault:
                raise fault
            return slots.hand_out(slot, count)

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


def _slot_folder(need: int) -> Path | None:
    """Shared memory where it has twice `need` bytes (containers often give it 64 MB), else the temporary folder."""
    roomy = _SHARED_MEMORY.is_dir() and shutil.disk_usage(_SHARED_MEMORY).free > 2 * need
    return _SHARED_MEMORY if roomy else None


def _work(connection: Connection) -> None:
    """A worker's life: what `batches` sends first opens a stream, (task, slot) makes a batch of it."""
    cv2.setNumThreads(0)  # OpenCV's own threads would fight the other workers
    pictures: Pictures
    augmenter: Augmenter
    slots: NDArray[np.uint8]
    while True:
        try:
            message = connection.recv()
        except (EOFError, OSError):
            return
        try:
            if len(message) == 4:
                pictures, augment, count, batch_shape = message
                with os.fdopen(recv_handle(connection), "r+b") as file:
                    slots = _map_slots(file, "r+", count, batch_shape)
                augmenter = Augmenter(augment)
            else:
                task, slot = message
                shape = (len(task.rows), *pictures.size, 3)
                make_batch(pictures, augmenter, task, slots[slot, : int(np.prod(shape))].reshape(shape))
            connection.send(None)
        except Exception as error:
            connection.send(_portable(error))


def _portable(error: Exception) -> Exception:
    """The error itself, or one with its text, where it does not survive the way between processes."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
