"""Blocks claim every layer once, and unfreezing trains what it says, no more."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import pytest

from pipeline.model.backbones import build_backbone
from pipeline.model.freezing import blocks, depth_scales, unfreeze


def names(grouped: Sequence[Sequence[Any]]) -> list[list[str]]:
    return [[layer.name for layer in block] for block in grouped]


def test_blocks_by_name() -> None:
    tiny = names(blocks(build_backbone("tiny", weights="none"), "tiny"))
    assert tiny == [[f"block{i}_conv", f"block{i}_bn"] for i in range(1, 5)]
    mobilenet = names(blocks(build_backbone("mobilenet-0.25", weights="none"), "mobilenet-0.25"))
    assert mobilenet[0] == ["conv1", "conv1_bn"]
    assert mobilenet[13] == ["conv_dw_13", "conv_dw_13_bn", "conv_pw_13", "conv_pw_13_bn"]
    resnet = names(blocks(build_backbone("resnet-v2-50", weights="none"), "resnet-v2-50"))
    assert resnet[-1][-1] == "post_bn" and resnet[-1][0] == "conv5_block3_preact_bn"


def test_xception_residuals_belong_to_the_block_they_bridge() -> None:
    backbone = build_backbone("xception", weights="none")
    grouped = blocks(backbone, "xception")
    for index, block in enumerate(grouped, start=1):
        residuals = [layer for layer in block if type(layer) is keras.layers.Conv2D and "block" not in layer.name]
        assert len(residuals) == (1 if index in (2, 3, 4, 13) else 0)
        if residuals:
            added = residuals[0].output.shape[-1]
            assert added == block[-1].output.shape[-1] == {2: 128, 3: 256, 4: 728, 13: 1024}[index]


def test_unclaimed_layer_is_an_error() -> None:
    tiny = build_backbone("tiny", weights="none")
    more = keras.Model(tiny.input, keras.layers.Conv2D(2, 1, name="surprise")(tiny.output))
    with pytest.raises(ValueError, match="'surprise' of the backbone tiny belongs to no block"):
        blocks(more, "tiny")
    with pytest.raises(ValueError, match="belongs to no block"):
        blocks(tiny, "resnet-50")


def test_block_torn_apart_is_an_error() -> None:
    tiny = build_backbone("tiny", weights="none")
    nested = keras.Sequential([keras.layers.Conv2D(2, 1, name="block1_conv")], name="nested")
    torn = keras.Model(tiny.input, nested(tiny.output))
    with pytest.raises(ValueError, match="stands outside its block 'block1'"):
        blocks(torn, "tiny")


# Convolutions without bias: 3·3·in·out; each BatchNorm trains 2·out.
CONV = [432, 4608, 18432, 73728]
NORM = [32, 64, 128, 256]


@pytest.mark.parametrize(
    ("fraction", "unfrozen"),
    [(0, 0), (0.01, 1), (0.25, 1), (0.37, 1), (0.375, 2), (0.5, 2), (0.62, 2), (0.75, 3), (0.88, 4), (1, 4)],
)
def test_tiny_by_hand(fraction: float, unfrozen: int) -> None:
    tiny = build_backbone("tiny", weights="none")
    frozen = unfreeze(tiny, "tiny", fraction, batch_norm="frozen")
    assert frozen.unfrozen == unfrozen and frozen.blocks == 4 and frozen.parameters == 98_160
    assert frozen.trainable_parameters == sum(CONV[4 - unfrozen :])
    assert len(tiny.trainable_weights) == unfrozen
    trained = unfreeze(tiny, "tiny", fraction, batch_norm="trained")
    assert trained.trainable_parameters == sum(CONV[4 - unfrozen :]) + sum(NORM[4 - unfrozen :])
    assert len(tiny.trainable_weights) == 3 * unfrozen
    first = f"block{5 - unfrozen}_conv" if unfrozen else None
    assert frozen.first_layer == trained.first_layer == first
    flags = [tiny.get_layer(f"block{i}_bn").trainable for i in range(1, 5)]
    assert flags == [i > 4 - unfrozen for i in range(1, 5)]


@pytest.mark.parametrize("fraction", [-0.1, 1.1, math.nan])
def test_fraction_out_of_range(fraction: float) -> None:
    with pytest.raises(ValueError, match="fraction must be from 0 to 1"):
        unfreeze(build_backbone("tiny", weights="none"), "tiny", fraction, batch_norm="frozen")


@pytest.mark.parametrize("name", ["convnext-tiny", "mobilenet-0.25"])
def test_more_is_trained_the_larger_the_fraction(name: str) -> None:
    backbone = build_backbone(name, weights="none")
    outer = keras.Sequential([backbone, keras.layers.GlobalAveragePooling2D()])
    grouped = blocks(backbone, name)
    backbone.trainable = False  # as a caller may have left it; it would hide all that is unfrozen inside
    counts = []
    for step in range(6):
        summary = unfreeze(backbone, name, step / 5, batch_norm="trained")
        counts.append(summary.trainable_parameters)
        expected = [layer for block in grouped[len(grouped) - summary.unfrozen :] for layer in block]
        trainable = [w.path for layer in expected for w in layer.weights if "moving_" not in w.path]
        # From the outer model, whose optimizer it is that counts; through ConvNeXt's nested models too.
        assert [w.path for w in outer.trainable_weights] == trainable
    assert counts == sorted(counts) and counts[0] == 0 and len(set(counts)) == 6
    # And back again: nothing stays trainable from before.
    assert unfreeze(backbone, name, 0, batch_norm="frozen").trainable_parameters == 0


def statistics(backbone: Any) -> dict[str, np.ndarray]:
    return {w.path: np.array(keras.ops.convert_to_numpy(w)) for w in backbone.weights}


@pytest.mark.parametrize("batch_norm", ["frozen", "trained"])
def test_training_moves_what_is_unfrozen_and_nothing_else(batch_norm: Any) -> None:
    tiny = build_backbone("tiny", weights="none")
    unfreeze(tiny, "tiny", 0.5, batch_norm=batch_norm)
    pooled = keras.layers.GlobalAveragePooling2D()(tiny.output)
    model = keras.Model(tiny.input, keras.layers.Dense(2)(pooled))
    model.compile(keras.optimizers.SGD(0.1), "mse")
    before = statistics(tiny)
    x = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype("float32")
    model.fit(x, np.eye(2, dtype="float32")[[0, 1, 0, 1]], epochs=1, verbose=0)
    after = statistics(tiny)
    moved = {path for path in before if not np.array_equal(before[path], after[path])}
    kernels = {"block3_conv/kernel", "block4_conv/kernel"}
    norms = {f"block{i}_bn/{v}" for i in (3, 4) for v in ("gamma", "beta", "moving_mean", "moving_variance")}
    assert moved == (kernels if batch_norm == "frozen" else kernels | norms)


def test_deeper_blocks_learn_more_slowly() -> None:
    backbone = build_backbone("tiny", weights="none")
    scales = depth_scales(backbone, "tiny", 0.5)
    assert set(scales) == {weight.path for weight in backbone.weights}
    by_block = [
        {scales[weight.path] for layer in block for weight in layer.weights} for block in blocks(backbone, "tiny")
    ]
    assert by_block == [{0.5**4}, {0.5**3}, {0.5**2}, {0.5}]
    assert depth_scales(backbone, "tiny", 1.0) == {}
