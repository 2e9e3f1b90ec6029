"""Every network through the whole story: built, unfrozen block by block, trained, saved, predicted with, exported.

A few of them; all with `pytest --every-backbone`, which takes hours.
"""

import math
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras.src.applications import convnext as keras_convnext
from scipy.special import softmax

from pipeline.errors import OutOfMemory
from pipeline.model import layers
from pipeline.model.backbones import BACKBONES, build_backbone
from pipeline.model.classifier import build_classifier
from pipeline.model.freezing import blocks, unfreeze
from pipeline.model.portable import portable_classifier
from pipeline.recipe import Head, Stage
from pipeline.training.export import ModelFormat, write_and_run
from pipeline.training.grad_cam import grad_cam
from pipeline.training.memory import available_memory
from pipeline.training.onnx_file import memory_for_onnx, require_memory
from pipeline.training.schedule import make_optimizer
from tests.training.test_grad_cam import class_activation_map

# In the short form; of the blocks one of each family. What the five sources used is in the long form.
STORY = ("tiny", "efficientnet-lite0", "convnext-tiny")
FAMILIES = (*STORY, "keras-efficientnet-b0", "efficientnet-v2-b0", "mobilenet-0.25", "mobilenet-v2-0.35")
FAMILIES += ("mobilenet-v3-large", "resnet-50", "resnet-v2-50", "xception", "densenet-121")
# How many blocks each has, counted in its paper or source; the others have more than ten.
BLOCKS = {
    "tiny": 4,
    "efficientnet-lite0": 1 + 16 + 1,  # stem, MBConv, top
    "efficientnet-lite1": 1 + (1 + 3 + 3 + 4 + 4 + 5 + 1) + 1,
    "efficientnet-lite2": 1 + (1 + 3 + 3 + 4 + 4 + 5 + 1) + 1,
    "efficientnet-b0": 1 + 16 + 1,
    "efficientnet-b7": 1 + (4 + 7 + 7 + 10 + 10 + 13 + 4) + 1,
    "keras-efficientnet-b0": 1 + 16 + 1,
    "efficientnet-v2-b0": 1 + 21 + 1,
    "convnext-tiny": 1 + 3 + (3 + 3 + 9 + 3),  # stem, downsampling, blocks
    "mobilenet-0.25": 1 + 13,
    "mobilenet-v2-0.35": 1 + 17 + 1,
    "mobilenet-v3-small": 1 + 11 + 1,
    "mobilenet-v3-large": 1 + 15 + 1,
    "resnet-50": 1 + (3 + 4 + 6 + 3),
    "resnet-v2-50": 1 + (3 + 4 + 6 + 3),
    "xception": 14,
    "densenet-121": 1 + (6 + 12 + 24 + 16) + 3,  # stem, dense layers, transitions
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for argument, chosen in {"name": STORY, "family": FAMILIES}.items():
        if argument in metafunc.fixturenames:
            names = list(BACKBONES) if metafunc.config.getoption("--every-backbone") else chosen
            slow = [pytest.param(one, marks=pytest.mark.slow) for one in names if one != "tiny"]
            metafunc.parametrize(argument, ["tiny", *slow])


def settled(network: Any, batch: np.ndarray) -> None:
    """Give BatchNorm the statistics of these pictures: with fresh ones a deep network gives one answer to all.

    Without dropout: of a network that left out blocks they would be statistics of another one, and what it answers
    then would grow from block to block, and with it what rounding does.
    """
    for layer in network.get_layer("backbone")._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0
    network(batch, training=True)


def values(network: Any) -> dict[str, np.ndarray]:
    weights = [weight for weight in network.weights if "seed_generator" not in weight.path]
    found = {weight.path: keras.ops.convert_to_numpy(weight).copy() for weight in weights}
    assert len(found) == len(weights), "two weights have one path"
    return found


def step(network: Any, batch: np.ndarray, name: str, fraction: float) -> None:
    """One step moves what is unfrozen and nothing else."""
    summary = unfreeze(network.get_layer("backbone"), name, fraction, batch_norm="frozen")
    assert summary.unfrozen == math.floor(fraction * summary.blocks + 0.5)
    stage = Stage(name="one", unfreeze=fraction, epochs=1, learning_rate=1e-3, clip_norm=1.0)
    optimizer = make_optimizer(stage, steps_per_epoch=1, precision="float32", scales={})
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    network.compile(optimizer=optimizer, loss=loss, run_eagerly=True, jit_compile=False)  # tracing takes longer
    before = values(network)
    assert np.isfinite(network.train_on_batch(batch, np.eye(3, dtype=np.float32)[np.arange(len(batch)) % 3]))
    after = values(network)
    moved = {path for path in before if not np.array_equal(before[path], after[path])}
    trained = {weight.path for weight in network.trainable_weights}
    assert moved <= trained, "frozen weights and BatchNorm's statistics stay"
    assert len(moved) > 0.75 * len(trained), "some may stay, such as a bias without a gradient"


def test_blocks_and_their_unfreezing(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for draws in (keras.initializers.VarianceScaling, keras.initializers.TruncatedNormal):  # half of the time
        monkeypatch.setattr(draws, "__call__", lambda self, shape, dtype=None, **_: keras.ops.zeros(shape, dtype))
    backbone = build_backbone(family, weights="none")
    grouped = blocks(backbone, family)
    assert len(grouped) == BLOCKS[family] if family in BLOCKS else len(grouped) > 10
    # Every weight in one block, in the network's own order, and none of BatchNorm alone: it would train nothing.
    assert [w.path for block in grouped for layer in block for w in layer.weights] == [w.path for w in backbone.weights]
    assert all(any(not isinstance(x, keras.layers.BatchNormalization) for x in block) for block in grouped)
    parts = (0, 0.25, 0.5, 0.75, 1)
    shares = [unfreeze(backbone, family, part, batch_norm="trained").trainable_parameters for part in parts]
    assert shares[0] == 0 and shares == sorted(set(shares))
    everything = {w.path for w in backbone.weights if "moving_" not in w.path}
    assert {w.path for w in backbone.trainable_weights} == everything


def make_shallow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks of all kinds of their layers, but with a block of each kind alone: the others are converted for a
    minute."""
    shallow = {"depths": [1, 1, 1, 1], "projection_dims": [24, 48, 96, 192], "default_size": 224}
    monkeypatch.setitem(keras_convnext.MODEL_CONFIGS, "tiny", shallow)
    # Of EfficientNet-Lite a stage with a block that is added to what goes into it, and left out now and then.
    lite = tuple((*block, 2 if number == 1 else 1) for number, (*block, _) in enumerate(layers._LITE_BLOCKS))
    monkeypatch.setattr(layers, "_LITE_BLOCKS", lite)


def answers(network: Any, batch: np.ndarray) -> np.ndarray:
    """Class probabilities, (rows, classes), of the logits in float64."""
    logits = keras.ops.convert_to_numpy(network(batch, training=False))
    return np.asarray(softmax(logits.astype(np.float64), axis=1))


def tolerance(network: Any, batch: np.ndarray) -> np.ndarray:
    """How far rounding may move each row's probabilities, (rows, 1): as far as the weights' last digit does.

    Deep random networks answer some pictures chaotically: of B6 one of three moves by 2e-3 with 1e-7 of the weights,
    the others by 5e-6.
    """
    wanted, moved, rng = answers(network, batch), [], np.random.default_rng(1)
    floats = [weight for weight in network.weights if weight.dtype == "float32"]
    kept, eps = [keras.ops.convert_to_numpy(weight).copy() for weight in floats], np.finfo(np.float32).eps
    for _ in range(3):
        for weight, values in zip(floats, kept, strict=True):
            weight.assign(values * (1 + eps * rng.standard_normal(values.shape)).astype(np.float32))
        moved.append(np.abs(answers(network, batch) - wanted))
    for weight, values in zip(floats, kept, strict=True):
        weight.assign(values)
    return np.asarray(1e-4 + 8 * np.max(moved, axis=(0, 2))[:, None])


def test_the_whole_story(name: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: Any) -> None:
    if not request.config.getoption("--every-backbone"):
        make_shallow(monkeypatch)
    keras.utils.clear_session(free_memory=True)
    keras.utils.set_random_seed(0)
    side = max(64, BACKBONES[name].smallest)
    noise = np.random.default_rng(0).integers(0, 256, (3, side, side + 32, 3))
    batch = (noise * np.linspace(0.2, 1, 3)[:, None, None, None] * [1.0, 0.7, 0.4]).astype(np.uint8)
    network = build_classifier(backbone=name, weights="none", head=Head(dropout=0), classes=3)
    settled(network, batch)
    # Deep random networks answer nearly the same to all pictures: a head that makes more of what differs.
    kernel, logits = network.get_layer("logits").kernel, keras.ops.convert_to_numpy(network(batch, training=False))
    kernel.assign(kernel / np.ptp(logits, axis=0).max())
    [heat] = grad_cam(network, batch, [[0], [1], [2]])
    activation = class_activation_map(network, batch, [0, 1, 2])
    np.testing.assert_allclose(heat * heat[0].size, activation, rtol=1e-3, atol=1e-4 * activation.max())
    network.save_weights(tmp_path / "all.weights.h5")
    again = build_classifier(backbone=name, weights="none", head=Head(dropout=0), classes=3)
    again.load_weights(tmp_path / "all.weights.h5")
    batches = [batch, batch[:1, :, :side]]
    wanted, allowed = [answers(network, some) for some in batches], [tolerance(network, some) for some in batches]
    for some, expected in zip(batches, wanted, strict=True):
        np.testing.assert_array_equal(answers(again, some), expected)
    assert np.ptp(wanted[0], axis=0).max() > 0.05

    portable = portable_classifier(again)
    for format in ModelFormat:
        if format is ModelFormat.onnx and 0 < available_memory() < memory_for_onnx(portable):
            with pytest.raises(OutOfMemory, match="writing this network as ONNX takes about"):
                require_memory(portable)
            continue
        found = write_and_run(portable, tmp_path / f"all.{format.value}", batches, labels={})
        for one, expected, most in zip(found, wanted, allowed, strict=True):
            assert most.min() < 5e-3 and (np.abs(one - expected) <= most).all(), (format, one, expected, most)

    for fraction in (0.25, 0.5, 0.75, 1) if name == "tiny" else (0.5, 1):
        step(network, batch, name, fraction)


@pytest.mark.slow
@pytest.mark.parametrize("mixed", ["convnext-tiny", "efficientnet-lite0"])
def test_a_step_in_mixed_precision(mixed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers that are cloned keep the precision that they were to have."""
    make_shallow(monkeypatch)
    batch = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    network = build_classifier(
        backbone=mixed, weights="none", head=Head(dropout=0), classes=3, precision="mixed_bfloat16"
    )
    settled(network, batch)
    weighted = [x for x in network.get_layer("backbone")._flatten_layers() if x.weights]
    assert all(x.compute_dtype == "bfloat16" for x in weighted if isinstance(x, keras.layers.DepthwiseConv2D))
    assert {x.compute_dtype for x in weighted} <= {"bfloat16", "float32"}
    step(network, batch, mixed, 1)
