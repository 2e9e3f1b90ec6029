"""A recipe's network: built, given weights, unfrozen as a stage says, compiled; or merged, to predict with."""

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.inputs import TrainingInput
from pipeline.errors import KitError
from pipeline.model.classifier import build_classifier
from pipeline.model.freezing import UnfreezeSummary, depth_scales, unfreeze
from pipeline.model.merged import merge_batch_norm
from pipeline.recipe import Recipe
from pipeline.training.device import distribution, in_parts, resolved_precision
from pipeline.training.schedule import make_optimizer


def stage_network(
    recipe: Recipe, number: int, source: TrainingInput, *, classes: int, start: Path | None
) -> tuple[Any, UnfreezeSummary]:
    """The network of stage `number`, unfrozen as far as the stage says, every random number seeded anew.

    Args:
        start: Weights to begin with; None for the recipe's.
    """
    import keras

    stage = recipe.stages[number]
    keras.backend.clear_session()
    keras.utils.set_random_seed(stage_seed(recipe.seed, source.fold, number))
    network = load_network(recipe, classes=classes, weights=start)
    freezing = unfreeze(network.get_layer("backbone"), recipe.backbone, stage.unfreeze, batch_norm=stage.batch_norm)
    return network, freezing


def compile_for(network: Any, recipe: Recipe, number: int, source: TrainingInput, *, classes: int) -> Any:
    """The network of stage `number`, or its head alone, ready to be fitted."""
    import keras

    stage, scales = recipe.stages[number], {}
    several = source.labels.ndim == 2
    loss = keras.losses.BinaryCrossentropy if several else keras.losses.CategoricalCrossentropy
    accuracy = keras.metrics.MeanMetricWrapper(_all_right, name="accuracy") if several else "accuracy"
    if stage.layer_decay:
        scales = depth_scales(network.get_layer("backbone"), recipe.backbone, stage.layer_decay)
    with distribution():
        network = in_parts(network, stage.parts)
        network.compile(
            optimizer=make_optimizer(
                stage,
                steps_per_epoch=source.steps_per_epoch,
                precision=resolved_precision(recipe.precision),
                scales=scales,
            ),
            # The mean over all rows: `for_training` sees to it that those that fill up the last batch do not count.
            loss=loss(from_logits=True, label_smoothing=recipe.label_smoothing),
            weighted_metrics=[accuracy],
        )
        _make_variables(network, classes=classes)
    return network


def _all_right(targets: Any, logits: Any) -> Any:
    """Whether all labels of a row are right, from one half on."""
    import keras

    return keras.ops.all((logits > 0) == (targets > 0.5), axis=-1)


def _make_variables(network: Any, *, classes: int) -> None:
    """Make the optimizer's and the metrics' variables before the first batch does: TensorFlow traces what makes
    variables a second time, and with the gradients in it that is half of a short stage's time."""
    network.optimizer.build(network.trainable_variables)
    nothing = np.zeros((1, classes), dtype=np.float32)
    network.compute_metrics(None, nothing, nothing)
    network.reset_metrics()


def load_network(recipe: Recipe, *, classes: int, weights: Path | None) -> Any:
    """The recipe's network, with its first weights or those of a stage.

    Raises:
        KitError: The file does not fit the network.
    """
    network = _build(recipe, classes=classes, weights="none" if weights else recipe.weights)
    if weights:
        load_weights(network, weights)
    return network


def _build(recipe: Recipe, *, classes: int, weights: str) -> Any:
    with distribution():
        return build_classifier(
            backbone=recipe.backbone,
            weights=weights,
            head=recipe.head,
            classes=classes,
            precision=resolved_precision(recipe.precision),
        )


def prediction_network(
    recipe: Recipe, *, classes: int, weights: Sequence[Path]
) -> tuple[Any, list[Callable[[], object]]]:
    """A network for predicting alone, and for each file what gives it these weights, with the errors of `load_weights`.

    Until then its weights are random.
    """
    network = _build(recipe, classes=classes, weights="none")
    with distribution():
        merged, refresh = merge_batch_norm(network)

    def take(file: Path) -> None:
        load_weights(network, file)
        refresh()

    return merged, [partial(take, file) for file in weights]


def load_weights(network: Any, weights: Path) -> None:
    """Give the recipe's network the weights of a stage.

    Raises:
        KitError: The file does not fit the network.
    """
    try:
        network.load_weights(weights)
    except (OSError, ValueError, KeyError) as error:
        raise KitError(
            f"{weights} cannot be loaded: {error}",
            expected="weights written by this recipe",
            next_step="remove the fold's folder and train it again",
        ) from None


def stage_seed(seed: int, fold: int, stage: int) -> int:
    """Seed of a stage's weights, dropout and the like."""
    digest = hashlib.blake2b(f"{seed}/{fold}/{stage}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little")
