"""The classifier: a backbone, pooling, and the head that a recipe asks for.

It takes pictures as they are stored and gives logits; softmax is left to the loss and to the predictions.
Its backbone is the layer named `backbone`, so that `freezing.unfreeze(classifier.get_layer("backbone"), …)`
finds it. Importing this module does not import Keras.
"""

from typing import TYPE_CHECKING, Any, Literal

from pipeline.model.backbones import build_backbone
from pipeline.model.layers import gem_layer
from pipeline.recipe import Head

if TYPE_CHECKING:
    import keras

Precision = Literal["float32", "mixed_float16", "mixed_bfloat16"]


def build_classifier(
    *, backbone: str, weights: str, head: Head, classes: int, precision: str = "float32"
) -> "keras.Model":
    """Build the network that is trained.

    Args:
        backbone: A key of `BACKBONES`.
        weights: What `build_backbone` takes. With `none` it can be rebuilt for a file of the whole
            classifier's weights: `model.save_weights("x.weights.h5")`, build again, `load_weights`.
        head: What stands on the backbone.
        classes: How many logits there are.
        precision: The dtype policy of all layers but the preprocessing, GeM and the logits, which compute
            in float32. Keras' global policy is the same afterwards as before.

    Returns:
        A model from RGB pictures [batch, height, width, 3] in the uint8 range, of any numeric dtype, to
        float32 logits [batch, classes]. Height and width are free. It is not compiled.

    Raises:
        RecipeError: See `build_backbone`.
    """
    import keras

    before = keras.config.dtype_policy()
    # keras.applications takes no dtype: the global policy is the only way in.
    keras.config.set_dtype_policy(precision)
    try:
        network = build_backbone(backbone, weights=weights)
        pictures = keras.Input((None, None, 3), name="pictures")
        features = _pooling(head.pooling)(network(pictures))
        if head.batch_norm:
            features = keras.layers.BatchNormalization(name="head_bn")(features)
        for number, units in enumerate(head.dense, start=1):
            features = keras.layers.Dense(units, activation="relu", name=f"head_dense{number}")(features)
        if head.dropout:
            features = keras.layers.Dropout(head.dropout, name="head_dropout")(features)
        logits = keras.layers.Dense(classes, dtype="float32", name="logits")(features)
        return keras.Model(pictures, logits, name="classifier")
    finally:
        keras.config.set_dtype_policy(before)


def split_classifier(classifier: "keras.Model") -> tuple["keras.Model", "keras.Model"]:
    """A classifier in two, which share its layers: what is not trained while the backbone is frozen, and the rest.

    Args:
        classifier: Built by `build_classifier`.

    Returns:
        A model from pictures to features, pooled unless the pooling itself is trained (GeM), and one from features,
        in float32, to logits.
    """
    import keras

    layers = classifier.layers
    pooling = classifier.get_layer("pooling")
    pooled = not pooling.weights
    fixed = keras.Model(classifier.input, pooling.output if pooled else pooling.input, name="fixed")
    features = logits = keras.Input(fixed.output_shape[1:], name="features")
    for layer in layers[layers.index(pooling) + pooled :]:
        logits = layer(logits)
    return fixed, keras.Model(features, logits, name="head")


def _pooling(kind: Literal["avg", "max", "gem"]) -> Any:
    import keras

    if kind == "avg":
        return keras.layers.GlobalAveragePooling2D(name="pooling")
    if kind == "max":
        return keras.layers.GlobalMaxPooling2D(name="pooling")
    return gem_layer()(dtype="float32", name="pooling")
