"""A portable classifier gives what the classifier gives, and loads without the kit and without `efficientnet`."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from scipy.special import softmax

from pipeline.model.backbones import BACKBONES, CAFFE, TORCH, Preprocessing
from pipeline.model.classifier import build_classifier
from pipeline.model.portable import portable_classifier
from pipeline.recipe import Head

HEAD = Head(pooling="gem", batch_norm=True, dense=(8,), dropout=0.3)
LOAD = """
import sys
from pathlib import Path
import keras
import numpy as np
pictures = np.load("pictures.npy")
for file in sorted(Path().glob("*.keras")):
    model = keras.saving.load_model(file, safe_mode=True)
    np.save(file.with_suffix(".npy"), np.asarray(model(pictures)))
print([name for name in sys.modules if name.partition(".")[0] in ("pipeline", "efficientnet")])
"""


def pictures(height: int = 64, width: int = 96) -> np.ndarray:
    """Noise from dark to light, so that no two pictures are alike to a network."""
    noise = np.random.default_rng(0).integers(0, 256, (6, height, width, 3))
    return (noise * np.linspace(0.1, 1, 6)[:, None, None, None] * [1.0, 0.7, 0.4]).astype(np.uint8)


def classifier(backbone: str, head: Head = HEAD) -> Any:
    """Random weights, but for BatchNorm: its statistics are those of the pictures, so that the outputs differ."""
    keras.utils.set_random_seed(0)
    network = build_classifier(backbone=backbone, weights="none", head=head, classes=4)
    layers = [*network.layers, *network.get_layer("backbone").layers]
    for layer in layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    network(pictures(), training=True)
    if head.pooling == "gem":
        network.get_layer("pooling").p.assign(2.2)
    return network


def expected(network: Any, batch: np.ndarray) -> np.ndarray:
    found: np.ndarray = softmax(keras.ops.convert_to_numpy(network(batch, training=False)), axis=1)
    assert np.ptp(found, axis=0).max() > 0.01, "every picture is the same to this network: it can show nothing"
    return found


@pytest.mark.parametrize("head", [HEAD, Head(), Head(pooling="max", dropout=0)], ids=["gem", "avg", "max"])
@pytest.mark.parametrize("preprocessing", [TORCH, CAFFE], ids=["std", "bgr"])
def test_it_gives_the_softmax_of_the_logits(
    head: Head, preprocessing: Preprocessing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BACKBONES, "tiny", replace(BACKBONES["tiny"], preprocessing=preprocessing))
    network = classifier("tiny", head)
    portable = portable_classifier(network)
    for batch in (pictures(), pictures(41, 33)[:1]):
        found = keras.ops.convert_to_numpy(portable(batch, training=False))
        assert found.dtype == np.float32
        np.testing.assert_allclose(
            found, softmax(keras.ops.convert_to_numpy(network(batch, training=False)), axis=1), atol=1e-6
        )
    assert np.ptp(expected(network, pictures()), axis=0).max() > 0.01


def test_it_has_no_layer_but_keras_own() -> None:
    portable = portable_classifier(classifier("tiny"))
    inner = portable.layers[1]
    for layer in (*portable.layers, *inner.layers, *inner.get_layer("backbone").layers):
        assert type(layer).__module__.startswith("keras."), layer


@pytest.mark.slow
def test_a_saved_one_gives_the_same_in_a_process_without_the_kit(tmp_path: Path) -> None:
    """EfficientNet of both packages, whose reloaded networks have been wrong before (keras #20147)."""
    np.save(tmp_path / "pictures.npy", pictures())
    backbones = ("tiny", "efficientnet-b0", "keras-efficientnet-b0")
    wanted = {}
    for backbone in backbones:
        network = classifier(backbone)
        portable = portable_classifier(network)
        portable.save(tmp_path / f"{backbone}.keras")
        wanted[backbone] = keras.ops.convert_to_numpy(portable(pictures(), training=False))
        # Its preprocessing rounds otherwise, which deep random networks make more of than trained ones.
        np.testing.assert_allclose(wanted[backbone], expected(network, pictures()), atol=1e-4, err_msg=backbone)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", LOAD], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
    for backbone, values in wanted.items():
        np.testing.assert_allclose(np.load(tmp_path / f"{backbone}.npy"), values, atol=1e-5, err_msg=backbone)
