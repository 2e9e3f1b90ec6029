"""Targets: labels as text, as the index has them, and as the numbers that are learned."""

import re
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.competition import Competition, Target

JOINT = "|"
"""What stands between the names in the index, where a picture may have several."""


def split_names(label: str) -> list[str]:
    """The names in a label of several; none in an empty one."""
    return label.split(JOINT) if label else []


def class_names(labels: Iterable[str]) -> list[str]:
    """The classes in the one order used everywhere: numbers by value, anything else by text."""
    names = set(labels)
    if all(re.fullmatch("-?[0-9]+", name) for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def classes_of(competition: Competition, labels: Iterable[str]) -> list[str]:
    """The classes of a competition, in their order.

    Args:
        labels: Of the index; where a picture may have several, empty ones have none.
    """
    if competition.target == "multilabel":
        if competition.train.label_columns:  # whether a picture is of them or not
            return list(competition.train.label_columns)
        return class_names(name for label in labels for name in split_names(label))
    return class_names(label for label in labels if label)


def label_numbers(labels: Sequence[str], classes: Sequence[str], *, target: Target) -> NDArray[np.int64]:
    """Numbers of classes, int64 of shape (rows,); for several labels 0 and 1 of shape (rows, classes).

    Raises:
        KeyError: A label is none of the classes.
    """
    number = {name: position for position, name in enumerate(classes)}
    if target == "single":
        return np.array([number[label] for label in labels], dtype=np.int64)
    found = np.zeros((len(labels), len(classes)), dtype=np.int64)
    for row, label in enumerate(labels):
        found[row, [number[name] for name in split_names(label)]] = 1
    return found
