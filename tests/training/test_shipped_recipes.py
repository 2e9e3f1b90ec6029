"""Every shipped recipe runs, at its smallest; with the smallest network."""

from collections.abc import Callable

import keras
import numpy as np
import pytest

from pipeline.model.backbones import BACKBONES
from pipeline.model.classifier import build_classifier
from pipeline.model.freezing import unfreeze
from pipeline.predictions.store import read_predictions
from pipeline.recipe import load_recipe, shipped_recipes, smoke
from pipeline.training.device import resolved_precision
from pipeline.training.schedule import make_optimizer
from tests.training.conftest import Run

ELSEWHERE = {"demo", "progressive-b7", "cars-two-steps"}  # B7 takes a minute a step in float16: test_progressive_b7.py


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_smoke_run_changes_the_cost_and_not_the_story(name: str) -> None:
    recipe = load_recipe(name)
    smallest = smoke(recipe, side=32)
    assert smallest.weights == "none"
    assert smallest.head == recipe.head
    assert smallest.select_on.kind == recipe.select_on.kind
    for before, after in zip(recipe.stages, smallest.stages, strict=True):
        assert (after.size, after.epochs) == ((32, 32), 1)
        changed = {"size", "epochs", "batch_size", "schedule"}
        assert before.model_dump(exclude=changed) == after.model_dump(exclude=changed)
        assert before.schedule.kind == after.schedule.kind


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(shipped_recipes().keys() - ELSEWHERE))
def test_the_recipes_own_network_trains_a_step_in_its_last_stage(name: str) -> None:
    """In the recipe's precision, run eagerly: tracing a graph of some of these takes a minute.

    BatchNorm is trained, as random weights need it: frozen, it lets the signal vanish on its way through MobileNetV3.
    """
    recipe = load_recipe(name, overrides=["weights=none", "stages.*.schedule=constant"])
    stage, precision = recipe.stages[-1], resolved_precision(recipe.precision)
    side = max(64, BACKBONES[recipe.backbone].smallest)  # at 32 its last maps are 1×1, too few to normalise by
    network = build_classifier(
        backbone=recipe.backbone, weights="none", head=recipe.head, classes=3, precision=precision
    )
    unfreeze(network.get_layer("backbone"), recipe.backbone, stage.unfreeze, batch_norm="trained")
    optimizer = make_optimizer(stage, steps_per_epoch=1, precision=precision, scales={})
    if precision == "mixed_float16":  # a scale that holds here need not be found by steps that are skipped
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer.inner_optimizer, initial_scale=64.0)
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    network.compile(optimizer=optimizer, loss=loss, run_eagerly=True, jit_compile=False)
    before = [weight.numpy() for weight in network.trainable_weights]
    pictures = np.random.default_rng(0).integers(0, 256, (4, side, side, 3), dtype=np.uint8)
    assert np.isfinite(network.train_on_batch(pictures, np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]))
    moved = [not np.array_equal(old, new) for old, new in zip(before, network.trainable_weights, strict=True)]
    assert np.mean(moved) > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in shipped_recipes() if name != "demo"])
def test_a_smoke_run_ends_with_predictions(name: str, begin: Callable[..., Run]) -> None:
    recipe = load_recipe(name)
    # Its own network trains a step above, or in test_progressive_b7.py.
    recipe = recipe.model_copy(update={"backbone": "tiny"})
    run = begin()
    run = Run(run.competition, run.workspace, smoke(recipe, side=BACKBONES[recipe.backbone].smallest))
    run.train(folds=[0])
    assert run.task(0).done
    suffixes = ("", "_tta") if recipe.tta.views else ("",)
    for suffix in suffixes:
        assert len(read_predictions(run.task(0).folder / f"oof{suffix}.parquet")) == 12
