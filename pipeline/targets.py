"""Targets: labels as text, as the index has them, and as the numbers that are learned."""

import re
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet

import numpy as np
from numpy.typing import NDArray

from pipeline.competition import Competition, Target
from pipeline.errors import DataError

THRESHOLD = 0.5
"""From which probability on a picture has a label, where it may have several and nothing better is fitted."""
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
    columns = competition.train.label_columns  # whether a picture is of them or not
    if competition.target == "multilabel":
        return list(columns) or class_names(name for label in labels for name in split_names(label))
    return class_names(columns or (label for label in labels if label))


def is_label(label: str, classes: AbstractSet[str], target: Target) -> bool:
    """Whether a label of the index is of these classes."""
    return set(split_names(label)) <= classes if target == "multilabel" else label in classes


def require_single(target: Target, what: str) -> None:
    """Raise `DataError` where a picture may have several labels, which `what` is not made for."""
    if target == "multilabel":
        raise DataError(
            f"{what} is for one label a picture, and here a picture may have several",
            expected="a competition of a single target",
            next_step="go on without it",
        )


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


def likeliest(probabilities: NDArray[np.floating]) -> NDArray[np.int64]:
    """The likeliest class of each row, of equal ones the first: (rows, classes) → (rows,)."""
    return np.asarray(probabilities.argmax(axis=1), dtype=np.int64)


def above_half(probabilities: NDArray[np.floating]) -> NDArray[np.int64]:
    """1 for each class that is likelier than not, else 0: of the same shape, (rows, classes)."""
    return np.asarray(probabilities >= THRESHOLD, dtype=np.int64)


def decided_like(labels: NDArray[np.int64], probabilities: NDArray[np.floating]) -> NDArray[np.int64]:
    """Predicted labels of the same kind as `labels`: numbers of classes, or 0 and 1."""
    return above_half(probabilities) if labels.ndim == 2 else likeliest(probabilities)


def all_right(labels: NDArray[np.int64], probabilities: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Whether each row's label is predicted, all of them where there may be several: (rows,)."""
    same = np.asarray(decided_like(labels, probabilities) == labels)
    return np.asarray(same.all(axis=1)) if same.ndim == 2 else same


def label_texts(labels: NDArray[np.int64], classes: Sequence[str]) -> list[str]:
    """Labels as a person reads them: the class, or all classes of the row."""
    if labels.ndim == 1:
        return [classes[int(number)] for number in labels]
    return [", ".join(classes[int(number)] for number in np.flatnonzero(row)) or "none" for row in labels]
