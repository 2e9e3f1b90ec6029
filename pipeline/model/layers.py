"""Layers and networks that the kit brings itself; importing this module does not import Keras."""

import functools
import math
from collections.abc import Sequence
from typing import Any


def tiny_network(pictures: Any) -> Any:
    """Four blocks of convolution, BatchNorm and ReLU, three of which halve the map: 98 thousand weights.

    For runs from random weights on a CPU: He initialisation, and a BatchNorm whose moving statistics settle
    within the few hundred steps that such a run takes (momentum 0.9; Keras' 0.99 needs thousands).
    """
    import keras

    features = pictures
    for number, channels in enumerate((16, 32, 64, 128), start=1):
        if number > 1:
            features = keras.layers.MaxPooling2D(name=f"block{number}_pool")(features)
        features = keras.layers.Conv2D(
            channels,
            3,
            padding="same",
            use_bias=False,
            kernel_initializer="he_normal",
            name=f"block{number}_conv",
        )(features)
        features = keras.layers.BatchNormalization(momentum=0.9, name=f"block{number}_bn")(features)
        features = keras.layers.ReLU(name=f"block{number}_relu")(features)
    return features


# Kernel, stride, expansion, channels, repeats: EfficientNet-B0's blocks.
_LITE_BLOCKS = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)


def lite_network(pictures: Any, *, width: float, depth: float) -> Any:
    """EfficientNet-Lite (Liu, “Higher accuracy on vision models with EfficientNet-Lite”, 2020): EfficientNet without
    squeeze-and-excitation, with ReLU6, and with stem, first block, last block and top as B0 has them.

    Args:
        pictures: Prepared, of shape [batch, height, width, 3].
        width: What the blocks' channels are multiplied by.
        depth: What the blocks' repeats are multiplied by.

    Returns:
        Features of shape [batch, height / 32, width / 32, 1280], rounded up.
    """
    import keras

    layers = keras.layers

    def normalised(x: Any, name: str, *, relu: bool = True) -> Any:
        x = layers.BatchNormalization(name=f"{name}bn")(x)
        return layers.ReLU(max_value=6.0, name=f"{name}activation")(x) if relu else x

    def convolved(x: Any, channels: int, size: int, name: str, *, stride: int = 1) -> Any:
        options = {"strides": stride, "padding": "same", "use_bias": False, "kernel_initializer": _FAN_OUT}
        return layers.Conv2D(channels, size, name=f"{name}conv", **options)(x)

    x = normalised(convolved(pictures, 32, 3, "stem_", stride=2), "stem_")
    ends = (0, len(_LITE_BLOCKS) - 1)
    repeats = [block[-1] if i in ends else math.ceil(depth * block[-1]) for i, block in enumerate(_LITE_BLOCKS)]
    number = 0
    for stage, (size, stride, expansion, base, _) in enumerate(_LITE_BLOCKS):
        channels = _multiple_of_8(base * width)
        for repeat in range(repeats[stage]):
            name, before, strides = f"block{stage + 1}{chr(ord('a') + repeat)}_", x, 1 if repeat else stride
            if expansion > 1:
                x = normalised(convolved(x, x.shape[-1] * expansion, 1, f"{name}expand_"), f"{name}expand_")
            depthwise = {"strides": strides, "padding": "same", "use_bias": False, "depthwise_initializer": _FAN_OUT}
            x = normalised(layers.DepthwiseConv2D(size, name=f"{name}dwconv", **depthwise)(x), name)
            x = convolved(x, channels, 1, f"{name}project_")
            x = normalised(x, f"{name}project_", relu=False)
            if strides == 1 and before.shape[-1] == channels:
                # Stochastic depth: a block is left out of a picture's way, the later the more often.
                rate = 0.2 * number / sum(repeats)
                x = layers.Dropout(rate, noise_shape=(None, 1, 1, 1), name=f"{name}drop")(x) if rate else x
                x = layers.Add(name=f"{name}add")([x, before])
            number += 1
    return normalised(convolved(x, 1280, 1, "top_"), "top_")


_FAN_OUT = {
    "class_name": "VarianceScaling",
    "config": {"scale": 2.0, "mode": "fan_out", "distribution": "truncated_normal"},
}


def _multiple_of_8(channels: float) -> int:
    """Rounded to a multiple of 8, but not down by more than a tenth."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


@functools.cache
def preprocessing_layer() -> Any:
    """Make the class of the preprocessing layer: on first use, so that importing this needs no Keras."""
    import keras

    @keras.saving.register_keras_serializable(package="pipeline")
    class PicturePreprocessing(keras.layers.Layer):
        """(picture / divisor − mean) / std, after turning RGB to BGR where `bgr` says so; no weights.

        Input [batch, height, width, 3] of any numeric dtype, RGB; output the same shape, float32.
        """

        def __init__(
            self, *, divisor: float, mean: Sequence[float], std: Sequence[float], bgr: bool, **kwargs: Any
        ) -> None:
            super().__init__(**kwargs)
            self.settings = {"divisor": divisor, "mean": list(mean), "std": list(std), "bgr": bgr}

        def call(self, pictures: Any) -> Any:
            pictures = keras.ops.cast(pictures, "float32")
            if self.settings["bgr"]:
                pictures = keras.ops.flip(pictures, axis=-1)
            mean = keras.ops.convert_to_tensor(self.settings["mean"], "float32")
            std = keras.ops.convert_to_tensor(self.settings["std"], "float32")
            return (pictures / self.settings["divisor"] - mean) / std

        def compute_output_shape(self, input_shape: Any) -> Any:
            return input_shape

        def get_config(self) -> dict[str, Any]:
            return {**super().get_config(), **self.settings}

    return PicturePreprocessing


@functools.cache
def gem_layer() -> Any:
    """Make the class of the GeM layer: on first use, so that importing this needs no Keras."""
    import keras

    @keras.saving.register_keras_serializable(package="pipeline")
    class GeM(keras.layers.Layer):
        """Generalised-mean pooling: (mean over height and width of max(x, 1e-6) ** p) ** (1 / p).

        p is learned, one for all channels, from 3; p = 1 is average pooling, p → ∞ max pooling. Radenović,
        Tolias & Chum, “Fine-tuning CNN image retrieval with no human annotation”, TPAMI 2018.

        Input [batch, height, width, channels]; output [batch, channels]. Meant for dtype float32: the
        third power of a feature soon leaves float16's range.
        """

        def __init__(self, *, p: float = 3.0, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.initial_p = p

        def build(self, input_shape: Any) -> None:
            self.p = self.add_weight(shape=(), initializer=keras.initializers.Constant(self.initial_p), name="p")

        def call(self, features: Any) -> Any:
            clipped = keras.ops.maximum(features, 1e-6)
            mean = keras.ops.mean(keras.ops.power(clipped, self.p), axis=(1, 2))
            return keras.ops.power(mean, 1.0 / self.p)

        def compute_output_shape(self, input_shape: Any) -> Any:
            return (input_shape[0], input_shape[-1])

        def get_config(self) -> dict[str, Any]:
            return {**super().get_config(), "p": self.initial_p}

    return GeM
