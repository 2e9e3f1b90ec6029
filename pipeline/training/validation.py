"""Predicting held-out rows, and the callbacks that validate, keep the best weights and show progress.

Validation goes through the same function as the final predictions, so what chose the weights is what is reported.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax

from pipeline.artifacts import atomic_path
from pipeline.competition import Target
from pipeline.data.inputs import prediction_blocks
from pipeline.data.pictures import Rows
from pipeline.predictions.metrics import METRICS, Metric
from pipeline.predictions.tta import PLAIN, view
from pipeline.progress import Progress
from pipeline.training.device import divisible, for_prediction

QUIET = 10.0
"""Seconds without a line about a stage that trains: short epochs do not fill the log."""

log = logging.getLogger(__name__)
_BLOCK_BYTES = 2**28  # of pictures that all models predict in turn; the next block is made meanwhile


def mean_of(predictions: Sequence[NDArray[np.float32]] | NDArray[np.float32]) -> NDArray[np.float32]:
    """Their mean, or that along the first axis, summed in float64."""
    return np.asarray(np.mean(predictions, axis=0, dtype=np.float64), dtype=np.float32)


def predict(
    network: Any,
    pictures: Rows,
    rows: NDArray[np.int64],
    *,
    target: Target,
    batch_size: int,
    check: Callable[[], object] | None = None,
) -> NDArray[np.float32]:
    """Class probabilities of these rows in this order: float32 of shape (len(rows), classes); the rest as below."""
    found = predict_views(network, pictures, rows, target=target, batch_size=batch_size, check=check)
    plain: NDArray[np.float32] = found[0, 0]
    return plain


def predict_views(
    network: Any, pictures: Rows, rows: NDArray[np.int64], *, target: Target, **options: Any
) -> NDArray[np.float32]:
    """Class probabilities of these rows by all models, plain and in all views; options and shape as of `outputs`."""
    found = outputs(network, pictures, rows, **options)
    for one in found:
        one[:] = probabilities_of_logits(one, target)
    return found


def probabilities_of_logits(logits: NDArray[np.float32], target: Target) -> NDArray[np.float64]:
    """Of one class among all (softmax) or of each class by itself (sigmoid), of the same shape: (…, classes)."""
    wide = logits.astype(np.float64)
    return np.asarray(expit(wide) if target == "multilabel" else softmax(wide, axis=-1))


def outputs(
    network: Any,
    pictures: Rows,
    rows: NDArray[np.int64],
    *,
    batch_size: int,
    views: Sequence[str] = (),
    models: Sequence[Callable[[], object]] = (lambda: None,),
    check: Callable[[], object] | None = None,
) -> NDArray[np.float32]:
    """What all models make of these rows, plain and in all views.

    Every batch has `batch_size` pictures, so that the network is compiled once for all rows, views and models.

    Args:
        models: Each gives the network its weights; by default it is the network as it is.
        check: Called before each batch; what it raises ends the prediction.

    Returns:
        float32 of shape (models, 1 + views, len(rows), …), the plain pictures first.

    Raises:
        PictureError: A picture cannot be read; it is named.
    """
    blocks = prediction_blocks(
        pictures,
        rows,
        batch_size=divisible(batch_size),
        views=[view(name) for name in (PLAIN, *views)],
        # A change of weights is worth many batches, and the views are made once for all models.
        block_bytes=_BLOCK_BYTES if len(models) > 1 else 0,
    )
    shape = network.output_shape[1:]
    found = np.empty((len(models), (1 + len(views)) * len(rows), *shape), dtype=np.float32)
    loaded = -1
    for block in blocks:
        for number, load in enumerate(models):
            if number != loaded:
                load()
                loaded = number
            for batch, places in block:
                if check:
                    check()
                found[number, places] = network.predict_on_batch(for_prediction(batch))[: len(places)]
    return found.reshape(len(models), 1 + len(views), len(rows), *shape)


@dataclass(frozen=True)
class HeldOut:
    """Rows that are not trained on.

    Attributes:
        labels: int64 of shape (len(rows),), or for several labels a picture (len(rows), classes).
    """

    pictures: Rows
    rows: NDArray[np.int64]
    labels: NDArray[np.int64]
    batch_size: int
    metric: Metric

    @property
    def target(self) -> Target:
        return "multilabel" if self.labels.ndim == 2 else "single"

    def predict(self, network: Any, *, check: Callable[[], object] | None = None) -> NDArray[np.float32]:
        """Their class probabilities, float32 of shape (len(rows), classes); `check` is called before each batch."""
        return predict(network, self.pictures, self.rows, target=self.target, batch_size=self.batch_size, check=check)


@dataclass
class Best:
    """The epoch that is kept: the best so far, or the last.

    Attributes:
        probabilities: Of the rows that were validated on, float32 of shape (rows, classes).
    """

    epoch: int = -1
    value: float = np.inf
    logs: dict[str, float] = field(default_factory=dict)
    probabilities: NDArray[np.float32] | None = None


def validation_callback(
    held_out: HeldOut,
    best: Best,
    *,
    monitor: Literal["loss", "score"] | None,
    weights: Path,
    check: Callable[[], object] | None = None,
) -> Any:
    """Callback that puts val_loss, val_accuracy and val_score into an epoch's logs, for those after it to use,
    and keeps the weights of the best epoch in `weights`.

    Of equal epochs the first is kept. An epoch whose predictions are not finite is never kept.

    Args:
        monitor: What an epoch is the best by; None keeps the last epoch instead.
        check: Called before each batch of the prediction.
    """
    import keras

    metric, accuracy, log_loss = held_out.metric, METRICS["accuracy"], METRICS["log_loss"]
    sign = -1.0 if monitor == "score" and metric.greater_is_better else 1.0

    class Validation(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self.started = time.perf_counter()

        def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
            logs["seconds"] = time.perf_counter() - self.started
            found = held_out.predict(self.model, check=check)
            if not np.isfinite(found).all():
                logs |= {"val_loss": np.nan, "val_accuracy": np.nan, "val_score": np.nan}
                return
            logs["val_loss"] = log_loss.score(held_out.labels, found)
            logs["val_accuracy"] = accuracy.score(held_out.labels, found)
            logs["val_score"] = metric.score(held_out.labels, found)
            value = sign * logs[f"val_{monitor}"] if monitor else -float(epoch)
            if value < best.value:
                with atomic_path(weights) as temporary:
                    # Without the optimizer, which would triple the file and is never read back.
                    keras.Model(self.model.inputs, self.model.outputs).save_weights(temporary)
                best.epoch, best.value, best.logs, best.probabilities = epoch, value, dict(logs), found

    return Validation()


def progress_callback(label: str, *, epochs: int, steps_per_epoch: int, done: int, pictures: int, metric: str) -> Any:
    """Callback with a bar for the stage, and a line in the log for an epoch that ends `QUIET` seconds after the
    last one.

    Args:
        done: Batches that were trained on before.
        pictures: Of an epoch.
    """
    import keras

    total = epochs * steps_per_epoch

    class ShowProgress(keras.callbacks.Callback):
        def on_train_begin(self, logs: Any = None) -> None:
            self.told = time.perf_counter()
            self.bar = Progress(total=total, initial=done, desc=label, unit="batch", leave=False, disable=None)

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self.rate = self.rate_now()

        def rate_now(self) -> str:
            return f"{float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)):.1e}"

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.bar.update()

        def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
            self.bar.set_postfix(
                {
                    "epoch": f"{epoch + 1}/{epochs}",
                    "loss": f"{logs['loss']:.3f}",
                    metric: f"{logs['val_score']:.4f}",
                }
            )
            if time.perf_counter() - self.told < QUIET:
                return
            self.told = time.perf_counter()
            log.info(
                "%s  epoch %d/%d  loss %.4f  %s %.4f  learning rate %s  %.0f pictures/s  %.0f s",
                *(label, epoch + 1, epochs, logs["loss"], metric, logs["val_score"]),
                " to ".join(dict.fromkeys((self.rate, self.rate_now()))),
                *(pictures / logs["seconds"], logs["seconds"]),
            )

        def on_train_end(self, logs: Any = None) -> None:
            self.bar.close()

    return ShowProgress()
