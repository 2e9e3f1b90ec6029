"""Parameters and operations of networks, against counts made by hand and published ones."""

import keras
import pytest

from pipeline.model.backbones import build_backbone
from pipeline.model.classifier import build_classifier
from pipeline.model.cost import Cost, network_cost
from pipeline.recipe import Head


def test_every_kind_of_layer_by_hand() -> None:
    pictures = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(4, 3, padding="same", strides=2)(pictures)  # 8×12 → 4×6; 3·3·3·4 + 4
    x = keras.layers.DepthwiseConv2D(3, padding="valid", use_bias=False)(x)  # → 2×4; 3·3·4
    x = keras.layers.SeparableConv2D(5, 1, use_bias=False)(x)  # 4 + 4·5
    x = keras.Sequential([keras.layers.Conv2D(6, 1, groups=1, use_bias=False)])(x)  # 5·6
    frozen = keras.layers.BatchNormalization(trainable=False)
    x = frozen(x)  # 4·6, no operations counted
    x = keras.layers.Dense(7, use_bias=False)(x)  # at every place: 6·7
    x = keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(x))  # 7·2 + 2
    network = keras.Model(pictures, x)
    parameters = (108 + 4) + 36 + 24 + 30 + 24 + 42 + 16
    multiply_adds = 24 * 108 + 8 * 36 + 8 * 24 + 8 * 30 + 8 * 42 + 14
    cost = network_cost(network, (8, 12))
    # The convolutions, the normalisation, the dense layer at every place, pooling, the last.
    outputs = 24 * 4 + 8 * 4 + 8 * 5 + 8 * 6 + 8 * 6 + 8 * 7 + 7 + 2
    assert cost == Cost(parameters=parameters, trainable=parameters - 24, flops=2 * multiply_adds, outputs=outputs)
    assert cost.weight_bytes == 4 * parameters


def test_grouped_convolution_by_hand() -> None:
    pictures = keras.Input((None, None, 3))
    network = keras.Model(pictures, keras.layers.Conv2D(6, 3, groups=3, padding="same", use_bias=False)(pictures))
    assert network_cost(network, (4, 5)).flops == 2 * 20 * 9 * 6


def test_the_tiny_classifier_by_hand() -> None:
    network = build_classifier(backbone="tiny", weights="none", head=Head(), classes=3)
    by_hand = 9 * (32 * 32 * 3 * 16 + 16 * 16 * 16 * 32 + 8 * 8 * 32 * 64 + 4 * 4 * 64 * 128) + 128 * 3
    assert network_cost(network, (32, 32)).flops == 2 * by_hand


def test_the_network_works_as_before() -> None:
    network = build_backbone("tiny", weights="none")
    picture = keras.ops.ones((1, 16, 16, 3))
    before = keras.ops.convert_to_numpy(network(picture))
    network_cost(network, (16, 16))
    assert (keras.ops.convert_to_numpy(network(picture)) == before).all()


def test_a_layer_that_cannot_be_counted_is_no_silent_zero() -> None:
    pictures = keras.Input((None, None, 3))
    network = keras.Model(pictures, keras.layers.Conv2DTranspose(2, 3, name="odd")(pictures))
    with pytest.raises(ValueError, match="odd"):
        network_cost(network, (8, 8))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "side", "billions"),
    # Multiply-adds that the papers give, with the classification top that is missing here (a million or two).
    [
        ("mobilenet-1.0", 224, 0.569),
        ("mobilenet-v2-1.0", 224, 0.300),
        ("mobilenet-v3-large", 224, 0.219),
        ("efficientnet-b0", 224, 0.39),
        ("densenet-121", 224, 2.87),
        ("convnext-tiny", 224, 4.5),
        ("xception", 299, 8.4),
    ],
)
def test_published_counts(name: str, side: int, billions: float) -> None:
    network = build_backbone(name, weights="none")
    assert network_cost(network, (side, side)).flops / 2e9 == pytest.approx(billions, rel=0.03)
