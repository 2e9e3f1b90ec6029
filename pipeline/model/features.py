"""Pooled features: what a backbone alone, with nothing of it trained, makes of a picture.

Importing this module does not import Keras.
"""

from typing import TYPE_CHECKING

from pipeline.model.backbones import build_backbone

if TYPE_CHECKING:
    import keras


def feature_network(backbone: str, *, weights: str, seed: int = 0) -> "keras.Model":
    """A backbone and average pooling over height and width.

    Args:
        backbone: A key of `BACKBONES`.
        weights: What `build_backbone` takes.
        seed: Of the random weights, with `none`; it becomes Keras' global seed.

    Returns:
        A model from RGB pictures [batch, height, width, 3] in the uint8 range to float32 [batch, channels].

    Raises:
        RecipeError: See `build_backbone`.
    """
    import keras

    keras.utils.set_random_seed(seed)
    network = build_backbone(backbone, weights=weights)
    pooled = keras.layers.GlobalAveragePooling2D(name="pooling")(network.output)
    return keras.Model(network.input, pooled, name="features")
