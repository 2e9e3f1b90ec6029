"""Grad-CAM: the class activation map by hand, the place that decides, whose model it is of, and the report with it."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from pipeline.data.decode import decode, resize
from pipeline.model.classifier import build_classifier
from pipeline.recipe import Head
from pipeline.training.grad_cam import grad_cam, mistake_maps
from pipeline.training.network import load_network
from pipeline.training.predict import read_fold_models
from tests.test_cli import kit
from tests.training.conftest import EXPERIMENT, Run, own


def noise(count: int, side: int = 32) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, side, side + 8, 3), dtype=np.uint8)


def class_activation_map(network: Any, pictures: np.ndarray, classes: list[int]) -> np.ndarray:
    """Of a head that is linear on the mean of the features (Zhou et al., CVPR 2016), without what is negative."""
    features = np.asarray(network.get_layer("backbone")(pictures))
    kernel = network.get_layer("logits").get_weights()[0]
    return np.maximum(np.einsum("nhwc,cn->nhw", features, kernel[:, classes]), 0)


def test_with_a_linear_head_it_is_the_class_activation_map() -> None:
    keras.utils.set_random_seed(1)
    network = build_classifier(backbone="tiny", weights="none", head=Head(dropout=0.5), classes=3)
    pictures = noise(2)
    first, second = grad_cam(network, pictures, [[0, 2], [1, 1]])
    for found, classes in ((first, [0, 1]), (second, [2, 1])):
        expected = class_activation_map(network, pictures, classes)
        places = expected.shape[1] * expected.shape[2]
        assert expected.max() > 0
        np.testing.assert_allclose(found, expected / places, rtol=1e-4, atol=1e-6)


def test_the_peak_is_where_the_class_is_decided() -> None:
    """The features are the brightness of 4×4 pixels; the more, the more of the second class."""
    pictures = keras.Input((None, None, 3))
    brightness = keras.layers.AveragePooling2D(4)(keras.layers.Rescaling(1 / 255)(pictures))
    backbone = keras.Model(pictures, brightness, name="backbone")
    pooled = keras.layers.GlobalAveragePooling2D(name="pooling")(backbone(pictures))
    network = keras.Model(pictures, keras.layers.Dense(2, name="logits")(pooled))
    network.get_layer("logits").set_weights([np.array([[-1.0, 1.0]] * 3), np.zeros(2)])
    dark = np.full((1, 32, 48, 3), 10, dtype=np.uint8)
    dark[0, 8:12, 36:40] = 250
    against, for_it = grad_cam(network, dark, [[0, 1]])
    assert for_it.shape == (1, 8, 12)
    assert np.unravel_index(for_it[0].argmax(), (8, 12)) == (2, 9)
    assert not against.any()


@pytest.mark.parametrize(
    "head", [Head(pooling="max"), Head(pooling="gem", batch_norm=True, dense=(8,)), Head(pooling="gem")]
)
def test_the_weights_are_the_mean_slopes_of_the_logit_whatever_the_head(head: Head) -> None:
    """By differences: each channel raised a little everywhere raises the logit by its weight times the places."""
    keras.utils.set_random_seed(2)
    network = build_classifier(backbone="tiny", weights="none", head=head, classes=3)
    pictures = noise(1)
    [found] = grad_cam(network, pictures, [[1]])
    features = np.asarray(network.get_layer("backbone")(pictures), dtype=np.float64)
    layers = network.layers[network.layers.index(network.get_layer("pooling")) :]

    def logit(values: np.ndarray) -> float:
        for layer in layers:
            values = layer(values)
        return float(np.asarray(values)[0, 1])

    step, places = 0.01, features.shape[1] * features.shape[2]
    raised = np.eye(features.shape[-1])[:, None, None, None] * step
    weights = [(logit(features + one) - logit(features - one)) / (2 * step * places) for one in raised]
    expected = np.maximum((features * weights).sum(axis=-1), 0)
    assert found.max() > 0
    np.testing.assert_allclose(found, expected, atol=0.05 * expected.max())


JAX = """
import keras, numpy as np
from pipeline.model.classifier import build_classifier
from pipeline.recipe import Head
from pipeline.training.grad_cam import grad_cam
from tests.training.test_grad_cam import class_activation_map, noise
assert keras.backend.backend() == "jax"
network = build_classifier(backbone="tiny", weights="none", head=Head(), classes=3)
[found] = grad_cam(network, noise(1), [[2]])
expected = class_activation_map(network, noise(1), [2])
np.testing.assert_allclose(found, expected / expected[0].size, rtol=1e-4, atol=1e-6)
"""


@pytest.mark.jax
def test_on_jax_it_is_the_same() -> None:
    pytest.importorskip("jax")
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    done = subprocess.run([sys.executable, "-c", JAX], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_each_row_is_looked_at_by_the_model_that_held_it_out(finished: Run) -> None:
    models = read_fold_models(finished.workspace, "tiny", EXPERIMENT)
    folder = finished.competition.data / "train"
    keys = [models.stored.oof.loc[models.stored.oof["fold"] == fold, "id"].iloc[0] for fold in (1, 0)]
    mistakes = [(key, "blue", "red") for key in keys] + [("gone", "blue", "red")]
    models.stored.oof.loc[len(models.stored.oof), ["id", "fold"]] = ["gone", 0]
    # The weights that the training began with need not be here: of this backbone there are none.
    models = replace(models, recipe=models.recipe.model_copy(update={"weights": "imagenet"}))
    found = mistake_maps(models, mistakes, lambda key: None if key == "gone" else decode(folder / key))
    assert set(found) == set(keys)
    for fold, key in zip((1, 0), keys, strict=True):
        picture = resize(decode(folder / key), (32, 32))[None]
        own, other = (
            grad_cam(load_network(finished.recipe, classes=3, weights=models.weights[n]), picture, [[0, 2]])
            for n in (fold, 1 - fold)
        )
        for place in (0, 1):
            np.testing.assert_allclose(found[key][place], own[place][0], rtol=1e-5, atol=1e-7)
        assert not np.allclose(own[0], other[0]) or not np.allclose(own[1], other[1])


def test_the_report_shows_it_where_the_fold_models_are(copied: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A label is changed afterwards: the row is a mistake then, however well the tiny network has learned."""
    monkeypatch.chdir(copied.workspace.root)
    table = copied.competition.data / "train.csv"
    table.write_text(table.read_text("utf-8").replace("000.jpg,blue", "000.jpg,green"), "utf-8")
    page = Path("oof/tiny/_report/report.html")
    result = kit("report", "--grad-cam", "--no-duplicates")
    assert result.exit_code == 0, result.output
    mistakes = page.read_text("utf-8").partition('id="e1-mistakes"')[2].partition("</ul>")[0]
    first = mistakes.partition("</li>")[0]
    pictures = re.findall(r'<img src="([^"]+)" alt="([^"]+)"', first)
    assert [name for _, name in pictures][1:] == ["Grad-CAM"] * 2
    assert len({source for source, _ in pictures}) > 1
    assert re.findall(r"<div>(predicted|true): \w+ \(", first) == ["predicted", "true"]
    for file in (copied.task(0).weights, copied.task(1).weights):
        file.write_bytes(b"broken")
    own(copied.task(0))
    own(copied.task(1))
    result = kit("report", "--grad-cam", "--no-duplicates")
    assert result.exit_code == 0, result.output
    assert re.search(rf"note: {EXPERIMENT} is shown without Grad-CAM: \S+ cannot be loaded", result.stderr)
    copied.task(1).weights.unlink()
    result = kit("report", "--grad-cam", "--no-duplicates")
    assert result.exit_code == 0, result.output
    assert f"note: {EXPERIMENT} is shown without Grad-CAM: the weights " in result.stderr
    html = page.read_text("utf-8")
    assert "Without Grad-CAM: the weights " in html
    assert 'alt="Grad-CAM"' not in html
    assert "<img" in html.partition('id="e1-mistakes"')[2].partition("</ul>")[0]
