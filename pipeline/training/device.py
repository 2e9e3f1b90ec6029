"""The devices that TensorFlow may use, and its silence; a network on several GPUs, or one batch part after the other.

On several GPUs each has a copy of the network and takes an equal part of every batch (`MirroredStrategy`). Batch sizes
stay what the recipe says, and so does the result but for rounding, and for BatchNorm that is trained: it sees the part.
The same holds for a batch that is taken in parts. Dropout draws other numbers in both.
"""

import json
import os
import platform
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def import_tensorflow_quietly() -> None:
    """Import TensorFlow set up for this machine, without its start-up notices; GPU memory is left to those who need it.

    The notices come from its C++ code, some before any setting reaches it, so the stream itself is turned off
    meanwhile. An import that fails still raises.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if platform.machine().lower() in {"x86_64", "amd64"}:
        # On x86 CPUs without VNNI TensorFlow leaves oneDNN off: its own convolutions are slower there, and take and
        # give back large blocks of memory at every step.
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    backend = keras_backend()
    stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        with _as_if_missing("sklearn", "matplotlib", *(() if backend == "jax" else ("jax",))):
            import tensorflow as tf

        # Its warnings are about the retracing of functions, which several stages take one each of.
        tf.get_logger().setLevel("ERROR")
        gpus = tf.config.list_physical_devices("GPU")
        if backend != "tensorflow":
            # There TensorFlow only feeds the network; by default it would take most of the GPU's memory.
            tf.config.set_visible_devices([], "GPU")
        else:
            for gpu in gpus:
                tf.config.experimental.set_memory_growth(gpu, True)
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)


def keras_backend() -> str:
    """What Keras runs on, or will once it is imported: `KERAS_BACKEND`, else what `keras.json` in its folder says."""
    kept = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras") / "keras.json"
    try:
        written = json.loads(kept.read_text("utf-8"))["backend"]
    except (OSError, ValueError, LookupError, TypeError):  # none, or one that Keras itself says what is wrong with
        written = "tensorflow"
    return os.environ.get("KERAS_BACKEND") or str(written)


@contextmanager
def _as_if_missing(*names: str) -> Iterator[None]:
    """Packages that TensorFlow and Keras load where they are installed, for parts that are not used here: wrappers of
    scikit-learn, plots of pictures, JAX to TFLite. They take half of its seconds. Afterwards they can be had."""
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: as Python marks what is not to be found
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


def accelerators() -> list[str]:
    """Names of the devices that a network is to be shared by: all GPUs that TensorFlow sees."""
    import keras
    import tensorflow as tf

    if keras.backend.backend() != "tensorflow":
        return []
    return [device.name for device in tf.config.list_logical_devices("GPU")]


def device() -> str:
    """The kind of device that a network runs on, such as `CPU` or `GPU`."""
    import keras

    return str(keras.distribution.list_devices()[0]).partition(":")[0].upper()


def resolved_precision(precision: str) -> str:
    """A recipe's `precision`; of `auto`, what this machine's devices compute fastest in.

    NVIDIA's tensor cores take float16 from compute capability 7.0 on, bfloat16 from 8.0 (NVIDIA, “Train with mixed
    precision”), TPUs take bfloat16. bfloat16 has float32's range: no loss has to be scaled. CPUs mostly emulate both.
    """
    if precision != "auto":
        return precision
    import keras

    if keras.backend.backend() == "jax":
        import jax

        devices = jax.devices()
        if devices[0].platform == "tpu":
            return "mixed_bfloat16"
        # AMD's are of another form, such as gfx90a.
        found = [re.fullmatch(r"(\d+)\.(\d+)", str(getattr(one, "compute_capability", ""))) for one in devices]
        capability = min((int(one[1]), int(one[2])) if one else (0, 0) for one in found)
    else:
        import tensorflow as tf

        details = map(tf.config.experimental.get_device_details, tf.config.list_physical_devices("GPU"))
        capability = min((one.get("compute_capability", (0, 0)) for one in details), default=(0, 0))
    return "mixed_bfloat16" if capability >= (8, 0) else "mixed_float16" if capability >= (7, 0) else "float32"


def slow_here(network: Any, precision: str) -> list[str]:
    """What this machine's devices are known to be slow at, of what the network asks for: a sentence each."""
    import keras

    if device() != "CPU":
        return []
    found = []
    if precision != "float32":
        found.append(f"precision: {precision} is several times slower than float32 on a CPU; `precision: auto` knows")
    if keras.backend.backend() == "jax" and any(map(_is_depthwise, network._flatten_layers())):
        found.append(
            "depthwise convolutions are about ten times slower on JAX than on TensorFlow on a CPU: "
            "leave KERAS_BACKEND out, or take a backbone without them"
        )
    return found


def _is_depthwise(layer: Any) -> bool:
    import keras

    return isinstance(layer, keras.layers.DepthwiseConv2D | keras.layers.SeparableConv2D)


def onednn() -> bool:
    """Whether TensorFlow was told to use oneDNN, which changes results in the last digits."""
    import keras

    return keras.backend.backend() == "tensorflow" and os.environ.get("TF_ENABLE_ONEDNN_OPTS") == "1"


def seen() -> dict[str, str]:
    """What a training computes with here: `backend`, `devices`, the `precision` that `auto` is, `onednn` on or off."""
    import keras

    return {
        "backend": keras.backend.backend(),
        "devices": ", ".join(keras.distribution.list_devices()),
        "precision": resolved_precision("auto"),
        "onednn": "on" if onednn() else "off",
    }


def distribution() -> AbstractContextManager[Any]:
    """Context in which a network is built and compiled for all of `accelerators()`; with fewer than two, nothing.

    The network remembers it: fitting and predicting need not be inside.
    """
    strategy = _strategy()
    scope: AbstractContextManager[Any] = nullcontext() if strategy is None else strategy.scope()
    return scope


def replicas() -> int:
    """How many copies of the network are trained together; 1 without distribution."""
    strategy = _strategy()
    return 1 if strategy is None else int(strategy.num_replicas_in_sync)


def peak_device_memory() -> int | None:
    """Most memory in bytes that one of the `accelerators()` has held since this was last asked; None without."""
    import tensorflow as tf

    names = [f"GPU:{number}" for number in range(len(accelerators()))]
    peaks = [int(tf.config.experimental.get_memory_info(name)["peak"]) for name in names]
    for name in names:
        tf.config.experimental.reset_memory_stats(name)
    return max(peaks, default=None)


def divisible(batch_size: int, *, parts: int = 1) -> int:
    """The batch size, raised to a multiple of the replicas and of each one's parts.

    A replica without a row is an error in TensorFlow.
    """
    times = replicas() * parts
    return -(-batch_size // times) * times


def for_training(dataset: Any, *, batch_size: int, parts: int) -> Any:
    """(pictures, targets, weights) of `training_dataset`, so that every part of a batch counts for what it holds.

    The mean of each replica, and of each of its parts, has the same weight, however few real rows are in it. So the
    weights of a batch are scaled to a mean of 1: then the mean over all rows is the mean over the real ones.
    A batch that does not divide by the replicas and parts is filled up with rows of weight 0.
    """
    import tensorflow as tf

    size = divisible(batch_size, parts=parts)

    def prepare(pictures: Any, targets: Any, weights: Any) -> tuple[Any, Any, Any]:
        rows = tf.range(size) % batch_size
        real = tf.cast(tf.range(size) < batch_size, weights.dtype) * tf.gather(weights, rows)
        scaled = real * (size / tf.reduce_sum(real))
        if size == batch_size:
            return pictures, targets, scaled
        return tf.gather(pictures, rows), tf.gather(targets, rows), scaled

    return dataset.map(prepare)


def for_prediction(batch: NDArray[np.uint8]) -> Any:
    """Pictures for `predict_on_batch`: an equal part for each replica. Their number divides by the replicas."""
    strategy = _strategy()
    if strategy is None:
        return batch
    import tensorflow as tf

    parts = np.split(batch, replicas())
    return strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(parts[context.replica_id_in_sync_group])
    )


def gradient(function: Callable[[Any], Any], values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The gradient of the sum of what `function`, made of Keras' operations, gives for `values`: of their shape."""
    import keras

    if keras.backend.backend() == "jax":
        import jax

        return np.asarray(jax.grad(lambda given: function(given).sum())(jax.numpy.asarray(values)))
    import tensorflow as tf

    given = tf.constant(values)
    with tf.GradientTape() as tape:
        tape.watch(given)
        found = function(given)
    return np.asarray(tape.gradient(found, given))


def in_parts(network: Any, parts: int) -> Any:
    """The network, not compiled, that takes its training batches in `parts` equal parts, one after the other.

    The mean of the parts' gradients is applied once a batch, by Keras' optimizer as it is: schedules, clipping, moving
    averages and loss scales see batches, and nothing is left over between two. Keras' `gradient_accumulation_steps`
    would let them see parts, and keep a group that is not finished for the next `fit`.
    """
    import keras

    if parts == 1:
        return network
    step: Callable[..., Any] = _jax_step if keras.backend.backend() == "jax" else _tensorflow_step

    class InParts(keras.Model):
        optimizer: Any

        def train_step(self, *given: Any) -> Any:
            """Of (data,) with TensorFlow, of (state, data) with JAX."""
            *state, data = given
            pieces = tuple(keras.ops.reshape(each, (parts, -1, *each.shape[1:])) for each in data)
            optimizer = self.optimizer
            self.optimizer = kept = _Kept(optimizer)
            try:
                return step(self, super().train_step, kept, *state, pieces)
            finally:
                self.optimizer = optimizer

    return InParts(network.input, network.output, name=network.name)


class _Kept:
    """Stands in for the optimizer while a part is trained on: it keeps the gradients and applies nothing."""

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer
        self.gradients: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.optimizer, name)

    def apply_gradients(self, pairs: Iterable[tuple[Any, Any]]) -> None:
        self.gradients = [gradient for gradient, _ in pairs]

    def stateless_apply(self, state: Any, gradients: list[Any], variables: Any) -> tuple[Any, Any]:
        self.gradients = gradients
        return variables, state


def _tensorflow_step(network: Any, of_part: Callable[..., Any], kept: _Kept, pieces: tuple[Any, ...]) -> Any:
    import tensorflow as tf

    def added(number: Any, sums: list[Any]) -> list[Any]:
        of_part(tuple(piece[number] for piece in pieces))
        return [total + gradient for total, gradient in zip(sums, kept.gradients, strict=True)]

    weights = network.trainable_weights
    sums = [tf.zeros_like(weight) for weight in weights]
    parts = pieces[0].shape[0]
    if tf.distribute.has_strategy():  # replicas cannot meet, as random states do, inside a loop of the graph
        for number in range(parts):
            with tf.control_dependencies(sums):  # else all parts would be in memory at once
                sums = added(number, sums)
    else:
        _, sums = tf.while_loop(
            lambda number, _: number < parts,
            lambda number, sums: (number + 1, added(number, sums)),
            (0, sums),
            parallel_iterations=1,
        )
    kept.optimizer.apply([total / parts for total in sums], weights)
    return network.get_metrics_result()


def _jax_step(network: Any, of_part: Callable[..., Any], kept: _Kept, state: Any, pieces: tuple[Any, ...]) -> Any:
    import jax

    def added(carried: Any, piece: tuple[Any, ...]) -> Any:
        sums, state = carried
        logs, state = of_part(state, piece)
        return ([total + gradient for total, gradient in zip(sums, kept.gradients, strict=True)], state), logs

    sums = [jax.numpy.zeros_like(variable) for variable in state[0]]
    (sums, state), logs = jax.lax.scan(added, (sums, state), pieces)
    variables, others, of_optimizer, metrics = state
    mean = [total / len(pieces[0]) for total in sums]
    variables, of_optimizer = kept.optimizer.stateless_apply(of_optimizer, mean, variables)
    return {name: values[-1] for name, values in logs.items()}, (variables, others, of_optimizer, metrics)


@cache  # a network works in the very strategy it was built in
def _strategy() -> Any:
    devices = accelerators()
    if len(devices) < 2:
        return None
    import tensorflow as tf

    return tf.distribute.MirroredStrategy(devices)
