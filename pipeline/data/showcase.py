"""Pictures of a competition to look at, decoded small: some of each class, augmented ones, extremes, pairs."""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.data.augment import Augmenter, picture_seeds
from pipeline.data.decode import decode, shrink
from pipeline.data.explore import TEST, Exploration
from pipeline.recipe import Augment

SIDE = 240  # the longer side of what is shown, in pixels
# With these numbers a page stays below 10 MB even where every picture is noise.
_OF_A_CLASS, _SAMPLES = 4, 120
_AUGMENTED, _VERSIONS = 5, 5
_EXTREME = 3
_PAIRS = 30


@dataclass(frozen=True)
class Showcase:
    """What is shown, by path of the file.

    Attributes:
        samples: Rows of `Exploration.pictures`: some of each class, as many classes as fit.
        extremes: Rows of it with a column `extreme`, such as "smallest".
        pairs: Heading → how many there are, and those that are shown, as rows of `Exploration.pairs`.
        augment: The name of the augmentation.
        augmented: Path → the picture and versions of it, uint8 of shape (1 + versions, height, width, 3).
        pictures: Path → each of these pictures, uint8, its longer side at most 240.
    """

    samples: pd.DataFrame
    extremes: pd.DataFrame
    pairs: dict[str, tuple[int, pd.DataFrame]]
    augment: Augment
    augmented: dict[str, NDArray[np.uint8]]
    pictures: dict[str, NDArray[np.uint8]]


def showcase(exploration: Exploration, *, augment: Augment) -> Showcase:
    """Choose what is to be shown and decode it. The same pictures at every call.

    Raises:
        RecipeError: `augment` cannot be built.
    """
    samples, extremes = _samples(exploration), _extremes(exploration.pictures)
    pairs = {heading: (len(rows), rows.head(_PAIRS)) for heading, rows in _headed(exploration.pairs).items()}
    paths = [*samples["path"], *extremes["path"]]
    paths += [path for _, rows in pairs.values() for side in ("path_a", "path_b") for path in rows[side]]
    pictures = _decoded(paths)
    return Showcase(samples, extremes, pairs, augment, _augmented(samples, pictures, augment), pictures)


def _samples(exploration: Exploration) -> pd.DataFrame:
    """Evenly over the rows of each class; where not every class fits, evenly over the classes."""
    labelled, classes = exploration.by_class, exploration.classes
    each = min(_OF_A_CLASS, max(1, _SAMPLES // max(1, len(classes))))
    shown = [classes[position] for position in _evenly(len(classes), _SAMPLES // each)]
    chosen = []
    for label in shown:
        rows = labelled[labelled["label"] == label]
        chosen.append(rows.iloc[_evenly(len(rows), each)])
    return pd.concat(chosen) if chosen else labelled


def _extremes(pictures: pd.DataFrame) -> pd.DataFrame:
    area = pictures["height"] * pictures["width"]
    shape = pictures["width"] / pictures["height"]
    ranked = [
        ("smallest", area),
        ("largest", -area),
        ("widest", -shape),
        ("tallest", shape),
        ("darkest", pictures["brightness"]),
        ("brightest", -pictures["brightness"]),
    ]
    # Where all are the same in this there is no extreme.
    chosen = [
        pictures.loc[values.sort_values(kind="stable").index[:_EXTREME]].assign(extreme=name)
        for name, values in ranked
        if values.nunique() > 1
    ]
    return pd.concat(chosen) if chosen else pictures.head(0).assign(extreme="")


def _headed(pairs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Every pair under one heading, the worst first; headings without one are left out."""
    with_test = pairs["part_b"] == TEST
    across = pairs["part_a"] != pairs["part_b"]
    labels = (pairs["label_a"] != pairs["label_b"]) & ~with_test
    parts = {
        "Different labels": labels,
        "In train and in the held-out part": ~labels & across & ~with_test,
        "In training and in test": across & with_test,
        "Within one part of training": ~labels & ~across & ~with_test,
        "Within test": ~across & with_test,
    }
    return {heading: pairs[where] for heading, where in parts.items() if where.any()}


def _augmented(
    samples: pd.DataFrame, pictures: dict[str, NDArray[np.uint8]], augment: Augment
) -> dict[str, NDArray[np.uint8]]:
    augmenter = Augmenter(augment)
    shown = samples.iloc[_evenly(len(samples), _AUGMENTED)]
    versions = {}
    for row in shown.itertuples():
        picture = pictures[str(row.path)]
        stack = np.repeat(picture[None], 1 + _VERSIONS, axis=0)
        seeds = [
            int(picture_seeds([str(row.id)], seed=0, fold=0, stage=0, epoch=epoch)[0]) for epoch in range(_VERSIONS)
        ]
        augmenter(stack[1:], seeds)
        versions[str(row.path)] = stack
    return versions


def _decoded(paths: Iterable[str]) -> dict[str, NDArray[np.uint8]]:
    named = list(dict.fromkeys(paths))

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return dict(zip(named, pool.map(lambda path: shrink(decode(Path(path)), SIDE), named), strict=True))


def _evenly(count: int, most: int) -> list[int]:
    """At most `most` positions of `count`, spread over all of them."""
    return sorted({int(position) for position in np.linspace(0, count - 1, min(count, most))}) if count else []
