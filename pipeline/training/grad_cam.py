"""Grad-CAM: which parts of a picture speak for a class (Selvaraju et al., “Grad-CAM: visual explanations from deep
networks via gradient-based localization”, ICCV 2017)."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data.decode import resize
from pipeline.progress import Progress
from pipeline.targets import require_single
from pipeline.training.device import gradient
from pipeline.training.network import load_network, load_weights
from pipeline.training.predict import FoldModels

Maps = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Of the class that a row was predicted as, and of its own: each of shape (height', width')."""


def grad_cam(network: Any, pictures: NDArray[np.uint8], classes: Sequence[Sequence[int]]) -> list[NDArray[np.float32]]:
    """Heatmaps of the backbone's last map of features.

    The features, weighted by the mean over the map of their gradients of the class's logit, summed; what is negative
    speaks against the class and is 0.

    Args:
        network: Built by `build_classifier`, whatever its backbone and head.
        pictures: uint8 of shape (count, height, width, 3).
        classes: Some classes for each picture, as numbers: as many for all.

    Returns:
        For each place in `classes[…]` float32 of shape (count, height', width'), not negative and not scaled.
    """
    import keras

    layers, pooling = network.layers, network.get_layer("pooling")
    maps = logits = keras.Input(network.get_layer("backbone").output.shape[1:])
    for layer in layers[layers.index(pooling) :]:
        logits = layer(logits)
    head = keras.Model(maps, logits)
    # Called, not `predict`ed: compiling takes longer than some pictures do.
    features = keras.ops.convert_to_numpy(network.get_layer("backbone")(pictures, training=False)).astype(np.float32)
    found = []
    for chosen in np.asarray(classes).T:
        one_hot = np.eye(logits.shape[-1], dtype=np.float32)[chosen]
        slopes = gradient(partial(_logits, head, one_hot), features)
        weights = slopes.mean(axis=(1, 2), keepdims=True)
        found.append(np.maximum((weights * features).sum(axis=-1), 0))
    return found


def _logits(head: Any, one_hot: NDArray[np.float32], features: Any) -> Any:
    return head(features, training=False) * one_hot


def mistake_maps(
    models: FoldModels,
    mistakes: Sequence[tuple[str, str, str]],
    load: Callable[[str], NDArray[np.uint8] | None],
) -> dict[str, Maps]:
    """Heatmaps of rows, each by the fold model that held it out, of the plain picture.

    Args:
        mistakes: Ids, the class each was predicted as, and its own.
        load: The picture of a row by id, uint8 of shape (height, width, 3); None where it cannot be read.

    Returns:
        By id, rows whose picture cannot be read being left out.
    """
    stored, classes = models.stored, models.stored.classes
    folds = dict(zip(stored.oof["id"], stored.oof["fold"], strict=True))
    some = next(iter(models.weights.values()))  # not the published ones, which need not be here
    network, loaded = load_network(models.recipe, classes=len(classes), weights=some), None
    require_single(models.competition.target, "Grad-CAM of mistakes")
    found: dict[str, Maps] = {}
    ordered = sorted(mistakes, key=lambda mistake: folds[mistake[0]])
    for key, predicted, true in Progress(ordered, desc=f"Grad-CAM of {stored.name}", leave=False, disable=None):
        picture = load(key)
        if picture is None:
            continue
        if loaded != folds[key]:
            loaded = folds[key]
            load_weights(network, models.weights[loaded])
        numbers = [[classes.index(predicted), classes.index(true)]]
        first, second = grad_cam(network, resize(picture, models.sizes[folds[key]])[None], numbers)
        found[key] = first[0], second[0]
    return found
