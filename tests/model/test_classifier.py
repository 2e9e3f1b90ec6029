"""The classifier: head options, GeM by hand, precision, and weights that survive being saved."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from pipeline.model.backbones import build_backbone
from pipeline.model.classifier import build_classifier
from pipeline.model.freezing import unfreeze
from pipeline.model.layers import gem_layer
from pipeline.recipe import Head


def numpy(tensor: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(tensor))


def pictures(height: int, width: int, *, batch: int = 2) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (batch, height, width, 3)).astype("uint8")


def tiny(head: Head | None = None, **arguments: Any) -> Any:
    return build_classifier(backbone="tiny", weights="none", head=head or Head(), classes=3, **arguments)


def test_logits() -> None:
    model = tiny()
    logits = model(pictures(32, 48))
    assert logits.shape == (2, 3) and keras.backend.standardize_dtype(logits.dtype) == "float32"
    assert model(pictures(70, 33)).shape == (2, 3)
    assert not np.allclose(numpy(logits).sum(axis=1), 1), "logits, not probabilities"


@pytest.mark.parametrize("dtype", ["uint8", "int32", "float16", "float32", "float64"])
def test_pictures_of_any_numeric_dtype(dtype: str) -> None:
    model = tiny()
    x = pictures(32, 32)
    expected = model.predict(x.astype("float32"), verbose=0)
    np.testing.assert_array_equal(model.predict(x.astype(dtype), verbose=0), expected)
    np.testing.assert_allclose(numpy(model(x.astype(dtype))), expected, rtol=1e-5, atol=1e-5)


def head_layers(model: Any) -> list[str]:
    return [layer.name for layer in model.layers]


def test_head_options() -> None:
    assert head_layers(tiny(Head(dropout=0))) == ["pictures", "backbone", "pooling", "logits"]
    head = Head(pooling="max", batch_norm=True, dense=(64, 16), dropout=0.5)
    model = tiny(head)
    expected = [
        "pictures",
        "backbone",
        "pooling",
        "head_bn",
        "head_dense1",
        "head_dense2",
        "head_dropout",
        "logits",
    ]
    assert head_layers(model) == expected
    assert model.get_layer("head_dropout").rate == 0.5
    assert model.get_layer("head_dense1").activation is keras.activations.relu
    # 98,160 of the backbone; 4·128; (128 + 1)·64; (64 + 1)·16; (16 + 1)·3.
    assert model.count_params() == 98_160 + 512 + 8256 + 1040 + 51


@pytest.mark.parametrize(("pooling", "reduce"), [("avg", np.mean), ("max", np.max)])
def test_pooling(pooling: Any, reduce: Any) -> None:
    model = tiny(Head(pooling=pooling, dropout=0))
    x = pictures(64, 64)
    features = numpy(model.get_layer("backbone")(x))
    kernel, bias = (numpy(w) for w in model.get_layer("logits").weights)
    np.testing.assert_allclose(numpy(model(x)), reduce(features, axis=(1, 2)) @ kernel + bias, rtol=1e-4, atol=1e-5)


def test_the_backbone_can_be_unfrozen() -> None:
    model = tiny(Head(batch_norm=True))
    unfreeze(model.get_layer("backbone"), "tiny", 0, batch_norm="frozen")
    trained = [w.path for w in model.trainable_weights]
    assert trained == ["head_bn/gamma", "head_bn/beta", "logits/kernel", "logits/bias"]
    unfreeze(model.get_layer("backbone"), "tiny", 0.2, batch_norm="frozen")
    assert [w.path for w in model.trainable_weights] == ["block4_conv/kernel", *trained]


def test_it_learns() -> None:
    """Red from green from blue, at two sizes in turn, within a few steps."""
    keras.utils.set_random_seed(0)
    model = tiny(Head(pooling="gem", dropout=0))
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    labels = np.arange(12) % 3
    for side in (32, 48):
        x = np.random.default_rng(side).integers(0, 100, (12, side, side, 3)).astype("uint8")
        x[np.arange(12), :, :, labels] += 100
        history = model.fit(x, labels, epochs=10, verbose=0, batch_size=12).history
        assert history["accuracy"][-1] == 1.0 and history["loss"][-1] < 0.1


# --- GeM ------------------------------------------------------------------------------------------------


def gem(p: float, values: np.ndarray, **arguments: Any) -> np.ndarray:
    return numpy(gem_layer()(p=p, dtype="float32", **arguments)(values))


def test_gem_by_hand() -> None:
    # Channel 0: ((1 + 8 + 27 + 64) / 4) ** (1/3) = 25 ** (1/3). Channel 1: below zero counts as 1e-6.
    features = np.array([[[[1.0, -5.0], [2.0, -1.0]], [[3.0, -3.0], [4.0, 2.0]]]], "float32")
    np.testing.assert_allclose(gem(3.0, features), [[25 ** (1 / 3), 2 ** (1 / 3)]], rtol=1e-5)


def test_gem_between_average_and_maximum() -> None:
    features = np.random.default_rng(0).uniform(0.1, 5, (2, 3, 4, 5)).astype("float32")
    np.testing.assert_allclose(gem(1.0, features), features.mean(axis=(1, 2)), rtol=1e-5)
    np.testing.assert_allclose(gem(60.0, features / 5), features.max(axis=(1, 2)) / 5, rtol=0.05)
    assert (gem(3.0, features) > features.mean(axis=(1, 2))).all()


def test_gem_is_learned_in_float32() -> None:
    model = tiny(Head(pooling="gem"), precision="mixed_float16")
    pooling = model.get_layer("pooling")
    assert [w.shape for w in pooling.trainable_weights] == [()] and float(pooling.p) == 3.0
    assert pooling.compute_dtype == "float32"
    # 100 ** 3 is past float16's 65,504.
    np.testing.assert_allclose(numpy(pooling(np.full((1, 2, 2, 128), 100, "float16"))), 100, rtol=1e-4)


def test_gem_round_trip() -> None:
    layer = gem_layer()(p=2.0, dtype="float32")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    features = np.ones((1, 2, 2, 1), "float32") * [[[[3.0]], [[4.0]]]]
    np.testing.assert_array_equal(numpy(again(features)), numpy(layer(features)))


def test_gem_of_nothing_has_a_gradient() -> None:
    model = keras.Sequential([keras.layers.Conv2D(2, 1, use_bias=False), gem_layer()()])
    model.compile("sgd", "mse")
    model.fit(np.zeros((1, 4, 4, 3), "float32"), np.ones((1, 2), "float32"), verbose=0)
    assert all(np.isfinite(numpy(w)).all() for w in model.weights)


# --- precision ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"])
def test_precision(precision: str) -> None:
    before = keras.config.dtype_policy()
    model = tiny(Head(dense=(8,)), precision=precision)
    assert keras.config.dtype_policy() is before
    inner = model.get_layer("backbone").layers
    half = [layer for layer in [*inner, *model.layers] if layer.dtype_policy.name == precision]
    assert {"block1_conv", "block4_bn", "pooling", "head_dense1"} <= {layer.name for layer in half}
    assert model.get_layer("logits").compute_dtype == "float32"
    assert model.get_layer("backbone").get_layer("preprocessing").compute_dtype == "float32"
    assert {keras.backend.standardize_dtype(w.dtype) for w in model.weights} == {"float32"}
    plain = tiny(Head(dense=(8,)))
    plain.set_weights(model.get_weights())
    x = pictures(32, 32)
    assert keras.backend.standardize_dtype(model(x).dtype) == "float32"
    expected, received = numpy(plain(x)), numpy(model(x))
    assert not np.array_equal(received, expected), "it computed in float32 all the same"
    np.testing.assert_allclose(received, expected, atol=0.1 * np.abs(expected).max())


def test_precision_is_restored_after_an_error() -> None:
    before = keras.config.dtype_policy()
    with pytest.raises(Exception, match="no backbone"):
        build_classifier(backbone="x", weights="none", head=Head(), classes=2, precision="mixed_float16")
    assert keras.config.dtype_policy() is before


# --- saving ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "backbone",
    [
        "tiny",
        "efficientnet-b0",
        pytest.param("keras-efficientnet-b0", marks=pytest.mark.slow),
        "mobilenet-v2-0.35",
        "mobilenet-v3-small",
        pytest.param("convnext-tiny", marks=pytest.mark.slow),
    ],
)
def test_saved_weights_give_the_same_bits(backbone: str, tmp_path: Path) -> None:
    head = Head(pooling="gem", batch_norm=True, dense=(16,))

    def build() -> Any:
        return build_classifier(backbone=backbone, weights="none", head=head, classes=4)

    model = build()
    # Frozen in part, as at the end of a stage: what is loaded must not depend on it.
    unfreeze(model.get_layer("backbone"), backbone, 0.3, batch_norm="frozen")
    random = np.random.default_rng(0)
    for weight in model.weights:
        if weight.path.endswith(("gamma", "moving_variance")):
            weight.assign(random.uniform(0.5, 1.5, weight.shape))
    x = pictures(75, 75)
    expected = numpy(model(x))
    model.save_weights(tmp_path / "x.weights.h5")
    again = build()
    assert not np.array_equal(numpy(again(x)), expected)
    again.load_weights(tmp_path / "x.weights.h5")
    np.testing.assert_array_equal(numpy(again(x)), expected)


def test_backbone_weights_are_taken_over(tmp_path: Path) -> None:
    backbone = build_backbone("tiny", weights="none")
    backbone.save_weights(tmp_path / "tiny.weights.h5")
    model = build_classifier(backbone="tiny", weights=str(tmp_path / "tiny.weights.h5"), head=Head(), classes=3)
    x = pictures(32, 32)
    np.testing.assert_array_equal(numpy(model.get_layer("backbone")(x)), numpy(backbone(x)))
