"""A network as an ONNX file, and what the file predicts in ONNX Runtime."""

import copy
import json
import logging
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import OutOfMemory
from pipeline.training.memory import available_memory

_COPIES = 24
"""How often the weights are in memory when TensorFlow freezes a network for the converter: measured, RESULTS.md."""


def memory_for_onnx(network: Any) -> int:
    """About how many bytes of memory writing its ONNX file takes, beside what is taken already."""
    return _COPIES * 4 * int(network.count_params())


def require_memory(network: Any) -> None:
    """Refuse now what would be killed after minutes.

    Raises:
        OutOfMemory: This machine has too little memory to write the ONNX file.
    """
    need, there = memory_for_onnx(network), available_memory()
    if 0 < there < need:
        raise OutOfMemory(
            f"writing this network as ONNX takes about {need / 1e9:.1f} GB of memory; {there / 1e9:.1f} GB are free",
            expected=f"memory for {_COPIES} times the weights, which are {network.count_params() * 4 / 1e9:.2f} GB",
            next_step="leave the format out (--format keras), or export on a machine with more memory",
        )


def write_onnx(portable: Any, file: Path, labels: dict[str, Any]) -> None:
    import keras
    import onnx

    signature = [keras.InputSpec(shape=(None, None, None, 3), dtype="uint8", name="pictures")]
    with warnings.catch_warnings(), _quiet(logging.getLogger("tf2onnx")), _weights_shared():
        warnings.simplefilter("ignore")  # Keras asks NumPy for names that tf2onnx wants and that NumPy warns of
        portable.export(file, format="onnx", verbose=False, input_signature=signature)
    model = onnx.load(file)
    # The converter numbers what it does not know the names of.
    [made], [given] = model.graph.output, model.graph.input
    for node in model.graph.node:
        node.output[:] = ["probabilities" if name == made.name else name for name in node.output]
    made.name = "probabilities"
    for value, names in ((given, ("batch", "height", "width")), (made, ("batch",))):
        for dimension, name in zip(value.type.tensor_type.shape.dim, names, strict=False):
            dimension.dim_param = name
    _keep_padding(model.graph)
    onnx.helper.set_model_props(model, {key: json.dumps(value, ensure_ascii=False) for key, value in labels.items()})
    onnx.checker.check_model(model)
    onnx.save(model, file)


def _keep_padding(graph: Any) -> None:
    """Put an operation that changes nothing between zeros around a picture and the maximum over windows of it.

    ONNX Runtime merges the two, and its own padding is no zero: of negative values the maximum would be another one
    (ResNet V2; `findings/onnxruntime-pad-maxpool.sh`).
    """
    import onnx

    consumers: dict[str, list[Any]] = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            consumers[name].append(node)

    def reaches_maximum(name: str) -> bool:
        return any(
            one.op_type == "MaxPool" or (one.op_type == "Transpose" and reaches_maximum(one.output[0]))
            for one in consumers[name]
        )

    for place, node in reversed(list(enumerate(graph.node))):
        if node.op_type == "Pad" and reaches_maximum(node.output[0]):
            [name] = node.output
            node.output[0] = f"{name}/padded"
            graph.node.insert(place + 1, onnx.helper.make_node("LeakyRelu", [node.output[0]], [name], alpha=1.0))


@contextmanager
def _quiet(log: logging.Logger) -> Iterator[None]:
    """Errors alone: tf2onnx warns with tracebacks of what it could not shorten, and goes on without; it is checked."""
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


@contextmanager
def _weights_shared() -> Iterator[None]:
    """tf2onnx copies the graph for each of some forty shortenings, and writes the constants of each copy twice, in
    circles of references that Python's collector lets pile up (`findings/tf2onnx-copies.sh`). Here the copies share the
    weights, and a constant, which no shortening changes but by another one in its place, is not written anew.
    """
    from tf2onnx import optimizer
    from tf2onnx.graph import Graph, Node

    update = Node.update_proto

    def copied(thing: Any) -> Any:
        nodes = thing.get_nodes() if isinstance(thing, Graph) else ()
        kept = {id(part): part for node in nodes if node.is_const() for part in (node.op, *node.attr.values())}
        return copy.deepcopy(thing, kept)

    def updated(node: Any, *arguments: Any, **named: Any) -> None:
        if not node.is_const():
            update(node, *arguments, **named)

    optimizer.copy, Node.update_proto = SimpleNamespace(deepcopy=copied), updated
    try:
        yield
    finally:
        optimizer.copy, Node.update_proto = copy, update


def run_onnx(file: Path, batches: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    found = [session.run(["probabilities"], {"pictures": pictures})[0] for pictures in batches]
    return [np.asarray(one, dtype=np.float32) for one in found]
