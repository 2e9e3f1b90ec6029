"""Features are the backbone's own map, averaged."""

import keras
import numpy as np

from pipeline.model.backbones import build_backbone
from pipeline.model.features import feature_network


def test_features_are_the_networks_own_output_pooled() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (3, 32, 48, 3)).astype(np.uint8)
    network = feature_network("tiny", weights="none", seed=4)
    keras.utils.set_random_seed(4)
    by_hand = keras.ops.convert_to_numpy(build_backbone("tiny", weights="none")(pictures)).mean(axis=(1, 2))
    found = keras.ops.convert_to_numpy(network(pictures))
    assert found.shape == (3, 128)
    np.testing.assert_allclose(found, by_hand, rtol=1e-5, atol=1e-6)
    other = feature_network("tiny", weights="none", seed=5)
    assert not np.allclose(keras.ops.convert_to_numpy(other(pictures)), by_hand)
