"""The main recipe's stages on a real EfficientNetB7, one step each: too large to learn here, but all there.

Run eagerly: tracing a graph of B7 four times would take minutes.
"""

from typing import Any

import keras
import numpy as np
import pytest

from pipeline.model.classifier import build_classifier
from pipeline.model.freezing import unfreeze
from pipeline.recipe import load_recipe
from pipeline.training.schedule import make_optimizer


@pytest.mark.slow
def test_b7_passes_all_stages() -> None:
    # Without the warm-up, in which the first step's rate is zero.
    steady = [f"stages.{number}.schedule=constant" for number in range(4)]
    recipe = load_recipe("progressive-b7", overrides=["weights=none", *steady])
    backbone = recipe.backbone
    network = build_classifier(backbone=backbone, weights="none", head=recipe.head, classes=3)
    inside = network.get_layer("backbone")
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (2, 32, 64, 3), dtype=np.uint8)
    targets = np.eye(3, dtype=np.float32)[:2]
    shares = []
    for stage in recipe.stages:
        summary = unfreeze(inside, backbone, stage.unfreeze, batch_norm=stage.batch_norm)
        optimizer = make_optimizer(stage, steps_per_epoch=1, precision="float32", scales={})
        loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=recipe.label_smoothing)
        network.compile(optimizer=optimizer, loss=loss, run_eagerly=True, jit_compile=False)
        before = values(network)
        assert np.isfinite(network.train_on_batch(pictures, targets))
        after = values(network)
        moved = {path for path in before if not np.array_equal(before[path], after[path])}
        trained = {weight.path for weight in network.trainable_weights}
        assert moved <= trained, "frozen weights and BatchNorm statistics stay"
        # A step may leave a few weights as they are, such as a bias without gradient; most move.
        assert len(moved) > 0.9 * len(trained)
        shares.append(summary.unfrozen / summary.blocks)
    assert shares == pytest.approx([0, 0.5, 0.75, 1], abs=0.02)


def values(network: Any) -> dict[str, Any]:
    return {w.path: w.numpy().copy() for w in network.weights if "seed_generator" not in w.path}
