"""What a network costs before it has seen a picture: its parameters, and its floating-point operations a picture.

Operations are counted from the layers' shapes, on any backend: two (a multiplication and an addition) for every weight
of a convolution or dense layer at every place where it is applied. Papers mostly name half of that, the multiply-adds.
Biases, normalisation, activations and pooling are left out, as papers do; they are a few per cent of the whole.
Importing this module does not import Keras.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Cost:
    """A network's size.

    Attributes:
        parameters: Numbers in all of its weights.
        trainable: Numbers in those that are trained.
        flops: Floating-point operations of one picture's forward pass; a training step takes about three times as many.
        outputs: Numbers in the outputs of all layers for one picture, which are more than training keeps.
    """

    parameters: int
    trainable: int
    flops: int
    outputs: int

    @property
    def weight_bytes(self) -> int:
        """Weights are kept in float32, also where a network computes in less."""
        return 4 * self.parameters


def network_cost(network: "keras.Model", size: tuple[int, int]) -> Cost:
    """Count a network's weights, and its operations on one RGB picture of (height, width) `size`.

    Its layers are called once more on symbols, so that a layer's own `output` is no longer the only one afterwards.
    """

    def numbers(weights: Any) -> int:
        return sum(math.prod(weight.shape) for weight in weights)

    multiply_adds, outputs = _counted(network, (1, *size, 3))
    return Cost(
        parameters=numbers(network.weights),
        trainable=numbers(network.trainable_weights),
        flops=2 * multiply_adds,
        outputs=outputs,
    )


def _counted(network: Any, shape: tuple[int, ...]) -> tuple[int, int]:
    """Multiply-adds, and numbers in all layers' outputs."""
    import keras

    total = outputs = 0

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal total, outputs
        result = layer(*args, **kwargs)
        if isinstance(layer, keras.Model):
            inner = _counted(layer, args[0].shape)
            total, outputs = total + inner[0], outputs + inner[1]
            return result
        outputs += math.prod(result.shape)
        if hasattr(layer, "kernel") or hasattr(layer, "depthwise_kernel"):
            total += _of_layer(layer, args[0].shape, result.shape)
        return result

    symbol = keras.Input(shape[1:], batch_size=1)
    if isinstance(network, keras.Sequential):
        for layer in network.layers:
            symbol = call(layer, symbol)
    else:
        # The very layers: copies of a large network would take seconds and its memory again. Not `network` itself, with
        # which its optimizer would be cloned, too.
        bare = keras.Model(network.input, network.output)
        keras.models.clone_model(bare, input_tensors=symbol, clone_function=lambda layer: layer, call_function=call)
    return total, outputs


def _of_layer(layer: Any, before: tuple[int, ...], after: tuple[int, ...]) -> int:
    """Multiply-adds of one picture: every weight of a kernel is used once at each place of the output map."""
    import keras

    if isinstance(layer, keras.layers.SeparableConv2D):
        kernels = [layer.depthwise_kernel, layer.pointwise_kernel]
    elif isinstance(layer, keras.layers.Conv2D | keras.layers.DepthwiseConv2D | keras.layers.Dense):
        kernels = [layer.kernel]
    else:
        raise ValueError(f"the operations of layer {layer.name!r}, a {type(layer).__name__}, cannot be counted")
    return sum(math.prod(after[1:-1]) * math.prod(kernel.shape) for kernel in kernels)
