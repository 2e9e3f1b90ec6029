"""Layers and the small network that the kit brings itself; importing this module does not import Keras."""

import functools
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
