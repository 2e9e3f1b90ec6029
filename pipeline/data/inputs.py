"""What goes into a network: training batches with augmentation, by tf.data, and batches to predict.

Pictures leave here as uint8; the network converts them on its device.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice, tee
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.data.augment import picture_seeds
from pipeline.data.mix import Mix, mix_targets, plan_mix
from pipeline.data.pictures import JoinedPictures, Pictures, Rows
from pipeline.data.workers import Task, WorkerPool
from pipeline.errors import KitError
from pipeline.recipe import Augment

T = TypeVar("T")

_PREFETCH = 2  # batches
_VIEWS = 2**32  # sets the drawing of views apart from that of orders and of mixed pictures

Batch = tuple[NDArray[Any], NDArray[np.float32], NDArray[np.float32]]


@dataclass(frozen=True)
class ExtraInput:
    """Pictures that are trained on and never held out; `ids` and `labels` as of `TrainingInput`."""

    pictures: Pictures
    ids: list[str]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class TrainingInput:
    """The training rows of one stage of one fold.

    Attributes:
        pictures: All training pictures of the competition at the stage's size; behind them extra ones.
        ids: Their ids, in the same order.
        labels: Their classes as int64 numbers below `classes`, likewise; for several labels a picture 0 and 1 of shape
            (pictures, classes).
        rows: The rows to train on, int64.
        mixup: Alpha of the Beta distribution of shares; None for no mixup.
        cutmix: Likewise.
        features: What a frozen backbone makes of all pictures, a view each; where they are given, batches are of
            them, in float32, instead of pictures.
    """

    pictures: Pictures
    ids: list[str]
    labels: NDArray[np.int64]
    classes: int
    rows: NDArray[np.int64]
    batch_size: int
    augment: Augment
    seed: int
    fold: int
    stage: int
    mixup: float | None = None
    cutmix: float | None = None
    features: tuple[Rows, ...] = ()

    def followed_by(self, extra: ExtraInput | None) -> Self:
        """The same with extra pictures behind the others, all of them to train on."""
        if extra is None:
            return self
        return replace(
            self,
            pictures=JoinedPictures(self.pictures, extra.pictures),
            ids=[*self.ids, *extra.ids],
            labels=np.concatenate([self.labels, extra.labels]),
            rows=np.concatenate([self.rows, len(self.ids) + np.arange(len(extra.ids))]),
        )

    def targets(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """What the network learns to say of these rows: 0 and 1 of shape (len(rows), classes)."""
        labels = self.labels[rows]
        return labels.astype(np.float32) if labels.ndim == 2 else np.eye(self.classes, dtype=np.float32)[labels]

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def epoch_rows(self, epoch: int) -> NDArray[np.int64]:
        """The rows in the order of this epoch."""
        rng = np.random.default_rng([self.seed, self.fold, self.stage, epoch])
        return rng.permutation(self.rows)

    def batches(self, pool: WorkerPool, *, epochs: range, skip: int = 0) -> Iterator[Batch]:
        """(pictures, targets, weights) of the epochs in turn, `steps_per_epoch` batches each, without the first `skip`.

        Every row comes once an epoch with weight 1. The last batch is filled up with rows of weight 0, so
        that every batch has one shape and the network is compiled once.
        """
        if self.features:
            yield from islice(self._feature_batches(epochs), skip, None)
            return
        ahead, plan = tee(islice((part for epoch in epochs for part in self._epoch(epoch)), skip, None))
        tasks = (task for task, _ in ahead)
        made = pool.batches(self.pictures, self.augment, tasks, batch_size=self.batch_size)
        for pictures, (task, weights) in zip(made, plan, strict=True):
            targets = self.targets(task.rows)
            yield pictures, mix_targets(targets, task.mix) if task.mix else targets, weights

    @property
    def example(self) -> tuple[tuple[int, ...], str]:
        """Shape and dtype of what a batch holds of each row."""
        if self.features:
            return self.features[0].take(self.rows[:1]).shape[1:], "float32"
        return (*self.pictures.size, 3), "uint8"

    def _feature_batches(self, epochs: range) -> Iterator[Batch]:
        """Each row comes in all of its views, in an order of its own, before one comes again."""
        count = len(self.features)
        for epoch in epochs:
            rng = np.random.default_rng([self.seed, self.fold, self.stage, epoch // count, _VIEWS])
            order = rng.permuted(np.tile(np.arange(count, dtype=np.uint8), (len(self.ids), 1)), axis=1)
            for task, weights in self._epoch(epoch):
                drawn = order[task.rows, epoch % count]
                batch = np.empty((len(task.rows), *self.example[0]), dtype=np.float32)
                for number in np.unique(drawn):
                    batch[drawn == number] = self.features[number].take(task.rows[drawn == number])
                yield batch, self.targets(task.rows), weights

    def _epoch(self, epoch: int) -> Iterator[tuple[Task, NDArray[np.float32]]]:
        rows = self.epoch_rows(epoch)
        for start in range(0, len(rows), self.batch_size):
            real = rows[start : start + self.batch_size]
            filler = np.resize(rows, self.batch_size - len(real))
            used = np.concatenate([real, filler])
            ids = (self.ids[row] for row in used)
            seeds = picture_seeds(ids, seed=self.seed, fold=self.fold, stage=self.stage, epoch=epoch)
            weights = np.zeros(self.batch_size, dtype=np.float32)
            weights[: len(real)] = 1
            yield Task(used, seeds, self._mix(len(real), epoch, start)), weights

    def _mix(self, real: int, epoch: int, start: int) -> Mix | None:
        if self.mixup is None and self.cutmix is None:
            return None
        rng = np.random.default_rng([self.seed, self.fold, self.stage, epoch, start])
        size, count = self.pictures.size, self.batch_size
        return plan_mix(count, real=real, size=size, mixup=self.mixup, cutmix=self.cutmix, rng=rng)


class ErrorRelay:
    """Brings a `KitError` raised while batches are made to whoever consumes them.

    tf.data would turn it into an error of its own, with a traceback in its text. Used as a context around the
    consumption; on leaving it by an error, the batches' own error is raised in its place.
    """

    def __init__(self) -> None:
        self._error: KitError | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and self._error is not None:
            raise self._error from None

    def watch(self, batches: Iterator[T]) -> Iterator[T]:
        """The same batches; an error among them is remembered."""
        try:
            yield from batches
        except KitError as error:
            self._error = error
            raise


def training_dataset(
    source: TrainingInput, pool: WorkerPool, *, epochs: range, skip: int = 0, relay: ErrorRelay | None = None
) -> Any:
    """`tf.data.Dataset` of (uint8 pictures, float32 one-hot targets, float32 weights) over all `epochs`, without the
    first `skip` batches.

    One pass over it is the whole stage: the workers go on to the next epoch while this one is validated.
    """
    import tensorflow as tf

    relay = relay or ErrorRelay()
    size = source.batch_size
    shape, dtype = source.example
    signature = (
        tf.TensorSpec((size, *shape), dtype),
        tf.TensorSpec((size, source.classes), tf.float32),
        tf.TensorSpec((size,), tf.float32),
    )
    dataset = tf.data.Dataset.from_generator(
        lambda: relay.watch(source.batches(pool, epochs=epochs, skip=skip)), output_signature=signature
    )
    return dataset.prefetch(_PREFETCH)


def prediction_blocks(
    pictures: Rows,
    rows: NDArray[np.int64],
    *,
    batch_size: int,
    views: Sequence[Callable[[NDArray[Any]], NDArray[Any]]],
    block_bytes: int = 0,
) -> Iterator[list[tuple[NDArray[Any], NDArray[np.int64]]]]:
    """The pictures of `rows`, or features, each in every view, in batches of one shape: the network is compiled once.

    Each block holds whole batches of about `block_bytes`, or the least that there can be. A block is made in a thread
    while the one before is used.

    Returns:
        Blocks of (pictures of shape (batch_size, …), places). Place `v * len(rows) + i` is view v of row i.
        The last batch has fewer places: it is filled up with repeats.
    """
    parts = 1
    if block_bytes and len(rows):
        parts = max(1, block_bytes // (batch_size * len(views) * pictures.take(rows[:1]).nbytes))

    def blocks() -> Iterator[list[tuple[NDArray[Any], NDArray[np.int64]]]]:
        for start in range(0, len(rows), batch_size * parts):
            part = rows[start : start + batch_size * parts]
            taken = pictures.take(part)
            seen = np.concatenate([view(taken) for view in views])
            places = np.add.outer(np.arange(len(views)) * len(rows), start + np.arange(len(part))).ravel()
            cuts = range(0, len(seen), batch_size)
            yield [(filled(seen[cut : cut + batch_size]), places[cut : cut + batch_size]) for cut in cuts]

    def filled(batch: NDArray[Any]) -> NDArray[Any]:
        return batch if len(batch) == batch_size else batch[np.resize(np.arange(len(batch)), batch_size)]

    with ThreadPoolExecutor(1) as thread:
        made = blocks()
        following = thread.submit(next, made, None)
        while (block := following.result()) is not None:
            following = thread.submit(next, made, None)
            yield block
