"""A network whose BatchNorm is merged into its convolutions is the same function."""

import keras
import numpy as np
import pytest

from pipeline.model.classifier import build_classifier
from pipeline.model.cost import network_cost
from pipeline.model.merged import merge_batch_norm
from pipeline.recipe import Head

PICTURES = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)


def change_batch_norm(network: keras.Model, seed: int) -> None:
    """As after training: statistics of pictures, random gamma and beta."""
    random = np.random.default_rng(seed)
    for layer in network.get_layer("backbone").layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
            if layer.scale:
                layer.gamma.assign(random.uniform(0.5, 1.5, layer.gamma.shape))
            layer.beta.assign(random.uniform(-0.5, 0.5, layer.beta.shape))
    network(PICTURES, training=True)


def classifier(backbone: str, **settings: str) -> keras.Model:
    return build_classifier(backbone=backbone, weights="none", head=Head(batch_norm=True), classes=4, **settings)


@pytest.mark.parametrize(
    "backbone",
    [
        "tiny",
        "mobilenet-0.75",
        pytest.param("efficientnet-b0", marks=pytest.mark.slow),
        pytest.param("resnet-50", marks=pytest.mark.slow),
        pytest.param("xception", marks=pytest.mark.slow),
    ],
)
def test_it_predicts_as_the_classifier_does_whatever_its_weights(backbone: str) -> None:
    network = classifier(backbone)
    network_cost(network, (32, 32))  # which calls the layers once more, in a graph of its own
    merged, refresh = merge_batch_norm(network)
    assert merged.count_params() < network.count_params()
    for seed in (1, 2):
        change_batch_norm(network, seed)
        before = network.predict_on_batch(PICTURES)
        refresh()
        np.testing.assert_allclose(merged.predict_on_batch(PICTURES), before, rtol=1e-3, atol=1e-3)
        np.testing.assert_array_equal(network.predict_on_batch(PICTURES), before)
        assert np.abs(before[0] - before[1]).max() > 1e-3


def test_half_precision_is_left_as_it_is() -> None:
    network = classifier("tiny", precision="mixed_float16")
    assert merge_batch_norm(network)[0] is network
