"""A trained classifier as others can run it: pictures in, probabilities out, of Keras' own layers alone.

Layers of the kit and of the `efficientnet` package are said in Keras' words, so that the file loads with
`keras.saving.load_model(path, safe_mode=True)` where neither is installed. Importing this module does not import Keras.
"""

from typing import TYPE_CHECKING, Any

from pipeline.competition import Target
from pipeline.model.layers import gem_layer

if TYPE_CHECKING:
    import keras


def portable_classifier(classifier: "keras.Model", target: Target = "single") -> "keras.Model":
    """Make a copy of a network of `build_classifier` that needs no code but Keras.

    Args:
        classifier: Its precision is float32; it keeps its weights.
        target: With several labels a picture each class has a probability by itself.

    Returns:
        A model from RGB pictures, uint8 [batch, height, width, 3], to probabilities, float32 [batch, classes]. Height
        and width are free. It is for inference: GeM's power is fixed, and Dropout no longer drops whole pictures.
    """
    import keras

    backbone = classifier.get_layer("backbone")
    pooling = classifier.get_layer("pooling")
    gem_power = float(pooling.p.numpy()) if isinstance(pooling, gem_layer()) else None
    preprocessing = backbone.get_layer("preprocessing").settings

    def clone(layer: Any) -> Any:
        if layer.name == "preprocessing":
            return _rescaling(preprocessing)
        if isinstance(layer, keras.layers.Dropout):  # of `efficientnet`: a class of its own
            return keras.layers.Dropout(layer.rate, name=layer.name)
        config = layer.get_config()
        if getattr(getattr(layer, "activation", None), "__name__", "") == "swish":  # of `efficientnet`, likewise
            config["activation"] = "silu"
        return type(layer).from_config(config)

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        if layer.name == "preprocessing" and preprocessing["bgr"]:
            return layer(keras.ops.flip(args[0], axis=-1))
        if layer.name == "pooling" and gem_power is not None:
            return _gem(args[0], gem_power)
        if isinstance(layer, keras.layers.Activation) and layer.activation is keras.activations.gelu:
            return _gelu(args[0])
        return layer(*args, **kwargs)

    copy = keras.models.clone_model(classifier, clone_function=clone, call_function=call, recursive=True)
    for source, made in ((classifier, copy), (backbone, copy.get_layer("backbone"))):
        for layer in source.layers:
            if layer.weights and layer is not backbone and not isinstance(layer, gem_layer()):
                made.get_layer(layer.name).set_weights(layer.get_weights())
    pictures = keras.Input((None, None, 3), dtype="uint8", name="pictures")
    if target == "multilabel":
        to_probabilities = keras.layers.Activation("sigmoid", dtype="float32", name="probabilities")
    else:
        to_probabilities = keras.layers.Softmax(dtype="float32", name="probabilities")
    return keras.Model(pictures, to_probabilities(copy(pictures)), name="pictures_to_probabilities")


def _rescaling(settings: dict[str, Any]) -> Any:
    """(picture / divisor − mean) / std as picture · scale + offset."""
    import keras

    scale = [1.0 / (settings["divisor"] * std) for std in settings["std"]]
    offset = [-mean / std for mean, std in zip(settings["mean"], settings["std"], strict=True)]
    return keras.layers.Rescaling(scale, offset, dtype="float32", name="preprocessing")


def _gelu(x: Any) -> Any:
    """Keras' exact GELU (Hendrycks & Gimpel, 2016), by erf: the converter to ONNX does not know TensorFlow's Erfc."""
    from keras import ops

    return 0.5 * x * (1.0 + ops.erf(x * 0.5**0.5))


def _gem(features: Any, power: float) -> Any:
    """Generalised-mean pooling as `layers.gem_layer` does it, of operations that Keras can save."""
    from keras import ops

    mean = ops.mean(ops.power(ops.maximum(features, 1e-6), power), axis=(1, 2))
    return ops.power(mean, 1.0 / power)
