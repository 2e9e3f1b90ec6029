"""A network to predict with: its BatchNorm merged into the convolutions before it, which is the same function in fewer
operations. Keras computes BatchNorm as two operations of their own on every activation.

Jacob et al., “Quantization and training of neural networks for efficient integer-arithmetic-only inference”, CVPR 2018,
section 3.2, says it as here. Importing this module does not import Keras.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import keras


def merge_batch_norm(classifier: "keras.Model") -> "tuple[keras.Model, Callable[[], None]]":
    """A network that predicts as the classifier does, to within rounding.

    Args:
        classifier: A network of `build_classifier`.

    Returns:
        The network, and what is to be called after the classifier was given other weights. All layers are the
        classifier's own but for convolutions that BatchNorm follows. In half precision, and where there are none, it is
        the classifier itself.
    """
    import keras

    backbone = classifier.get_layer("backbone")
    found = {} if backbone.compute_dtype != "float32" else dict(_followed(backbone))
    if not found:
        return classifier, lambda: None
    merged = {conv.name: type(conv).from_config({**conv.get_config(), "use_bias": True}) for conv, _ in found.values()}

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        return args[0] if layer.name in found else layer(*args, **kwargs)

    network = keras.models.clone_model(
        classifier, clone_function=lambda layer: merged.get(layer.name, layer), call_function=call, recursive=True
    )

    def refresh() -> None:
        for conv, norm in found.values():
            kernel, *bias = conv.get_weights()
            # By `numpy()`: NumPy makes nothing useful of a variable that several devices share.
            mean, variance = norm.moving_mean.numpy(), norm.moving_variance.numpy()
            scale = 1 / np.sqrt(variance + norm.epsilon) * (norm.gamma.numpy() if norm.scale else 1)
            offset = ((bias[0] if bias else 0) - mean) * scale + (norm.beta.numpy() if norm.center else 0)
            # A depthwise kernel has its output channels on its last two axes.
            by_channel = scale.reshape(kernel.shape[2:] if hasattr(conv, "depth_multiplier") else -1)
            merged[conv.name].set_weights([kernel * by_channel, offset])

    refresh()
    return network, refresh


def _followed(backbone: Any) -> Any:
    """Each BatchNorm's name, the convolution before it whose output goes nowhere else, and the BatchNorm."""
    import keras

    kinds = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)
    # A layer knows the nodes of every graph that it is part of.
    inside = {id(node) for nodes in backbone._nodes_by_depth.values() for node in nodes}
    for norm in backbone.layers:
        if isinstance(norm, keras.layers.BatchNormalization):
            conv = norm.input._keras_history.operation
            if type(conv) not in kinds or conv.activation is not keras.activations.linear:
                continue
            if sum(id(node) in inside for node in conv._outbound_nodes) == 1:
                yield norm.name, (conv, norm)
