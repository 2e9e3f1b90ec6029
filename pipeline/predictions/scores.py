"""What the metrics are made of: the rows' parts, confusion, areas under ROC curves.

Labels are class numbers, int64 of shape (rows,), with probabilities of shape (rows, classes) whose rows sum to one; or,
where a picture may have several, 0 and 1 of shape (rows, classes), with a probability of each class by itself.

Of equal probabilities the class that comes first counts as the likelier, as it is written first in a submission of
ranked names, too; scikit-learn's `top_k_accuracy_score` takes the later one.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.targets import THRESHOLD, all_right

Labels = NDArray[np.int64]
Probabilities = NDArray[np.floating]
Weights = NDArray[np.float64]
Confusion = NDArray[np.float64]
"""How many rows of class i were taken for class j, of shape (classes, classes); for several labels the same of each
class, where 1 is to have it: shape (classes, 2, 2)."""

LEAST = float(np.finfo(np.float32).eps)
"""A probability of nothing counts as this: one certain mistake costs a log loss of 15.9, as scikit-learn's of float32;
of float64 it costs 36.0 there."""

_SIDES: tuple[Literal["left", "right"], ...] = ("left", "right")  # how many are smaller; how many are not larger


def hits(labels: Labels, probabilities: Probabilities) -> NDArray[np.float64]:
    """1 for rows whose likeliest class is theirs; for several labels, for those of which every one is right."""
    return all_right(labels, probabilities).astype(np.float64)


def losses(labels: Labels, probabilities: Probabilities) -> NDArray[np.float64]:
    """-log of the probability of what is so, clipped at `LEAST`; for several labels its mean over the classes."""
    if labels.ndim == 2:
        wide = probabilities.astype(np.float64)
        cells = -np.log(np.clip(np.where(labels == 1, wide, 1 - wide), LEAST, 1.0))
        return np.asarray(cells.mean(axis=1))
    chosen = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return np.asarray(-np.log(np.clip(chosen, LEAST, 1.0)))


def squared_errors(labels: Labels, probabilities: Probabilities) -> NDArray[np.float64]:
    """Brier's (1950): the sum over the classes of squared differences from 0 and 1, so 0..2.

    With two classes half of it, 0..1: the squared error of either one, as in scikit-learn. For several labels the
    mean over the classes, 0..1.
    """
    truth = labels if labels.ndim == 2 else np.eye(probabilities.shape[1])[labels]
    squares = (probabilities.astype(np.float64) - truth) ** 2
    halved = labels.ndim == 2 or squares.shape[1] == 2
    return np.asarray(squares.mean(axis=1) if halved else squares.sum(axis=1))


def f1_of_rows(labels: Labels, probabilities: Probabilities) -> NDArray[np.float64]:
    """2·|true and predicted| / (|true| + |predicted|) of a row's labels; 0 for none of either, as in scikit-learn."""
    if labels.ndim == 1:
        return hits(labels, probabilities)
    chosen = probabilities >= THRESHOLD
    total = chosen.sum(axis=1) + labels.sum(axis=1)
    return np.asarray(2 * (chosen * labels).sum(axis=1) / np.maximum(total, 1))


def places(labels: Labels, probabilities: Probabilities) -> NDArray[np.int64]:
    """At which place the row's class stands among all, counted from 1."""
    own = probabilities[np.arange(len(labels)), labels][:, None]
    comes_first = np.arange(probabilities.shape[1]) < labels[:, None]
    before = (probabilities > own) | ((probabilities == own) & comes_first)
    return np.asarray(1 + before.sum(axis=1), dtype=np.int64)


def counter(labels: Labels, probabilities: Probabilities) -> Callable[[Weights | None], Confusion]:
    """What gives the confusion of a resample from how often each row was drawn; of the rows themselves for None."""
    classes = probabilities.shape[1]
    if labels.ndim == 1:
        cells = labels * classes + probabilities.argmax(axis=1)
        return lambda weights: np.bincount(cells, weights, classes**2).astype(np.float64).reshape(classes, classes)
    chosen = (probabilities >= THRESHOLD).astype(np.float64)
    truth = labels.astype(np.float64)
    both = truth * chosen

    def count(weights: Weights | None) -> Confusion:
        drawn = np.ones(len(labels)) if weights is None else weights
        true, predicted, right = (drawn @ values for values in (truth, chosen, both))
        cells = [[drawn.sum() - true - predicted + right, predicted - right], [true - right, right]]
        return np.moveaxis(np.array(cells), 2, 0)

    return count


def _right_and_total(confused: Confusion) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """By class: rows that are right in it; rows that are of it and rows that were predicted to be, together."""
    if confused.ndim == 2:
        return np.diag(confused), confused.sum(axis=0) + confused.sum(axis=1)
    right = confused[:, 1, 1]
    return right, 2 * right + confused[:, 0, 1] + confused[:, 1, 0]


def macro_f1(confused: Confusion) -> float:
    """A class that is neither among the labels nor predicted does not count."""
    right, total = _right_and_total(confused)
    known = total > 0
    return float(np.mean(2 * right[known] / total[known])) if known.any() else 0.0


def micro_f1(confused: Confusion) -> float:
    """Of all classes' counts together: with one label a picture it is accuracy. Zero for 0/0."""
    right, total = _right_and_total(confused)
    return float(2 * right.sum() / total.sum()) if total.any() else 0.0


def balanced_accuracy(confused: Confusion) -> float:
    """Mean recall over the classes that occur."""
    rows = confused.sum(axis=1)
    return float(np.mean(np.diag(confused)[rows > 0] / rows[rows > 0]))


def matthews(confused: Confusion) -> float:
    """R_K: Matthews' correlation coefficient for any number of classes (Gorodkin, 2004). Zero for 0/0."""
    true, predicted, rows = confused.sum(axis=1), confused.sum(axis=0), confused.sum()
    spread = (rows**2 - predicted @ predicted) * (rows**2 - true @ true)
    return float((rows * np.trace(confused) - true @ predicted) / np.sqrt(spread)) if spread else 0.0


def quadratic_kappa(confused: Confusion) -> float:
    """Zero for 0/0, where one class alone is predicted without fail; of whole numbers, so that this is seen."""
    numbers = np.arange(len(confused))
    distances = (numbers[:, None] - numbers) ** 2
    by_chance = float(confused.sum(axis=1) @ distances @ confused.sum(axis=0))
    return 1 - float(confused.sum() * (confused * distances).sum()) / by_chance if by_chance else 0.0


def roc_auc(labels: Labels, probabilities: Probabilities) -> float:
    """Mean over the classes of one-versus-rest ROC AUC; classes without both sides are left out.

    The area of a class is the share of pairs in the right order, equal ones counting half (Mann & Whitney, 1947).
    """
    areas = []
    for own, column in _one_versus_rest(labels, probabilities):
        inside, outside = column[own], np.sort(column[~own])
        pairs = sum(int(np.searchsorted(outside, inside, side).sum()) for side in _SIDES)
        areas.append(pairs / (2 * len(inside) * len(outside)))
    return float(np.mean(areas)) if areas else 0.5


def auc_parts(labels: Labels, probabilities: Probabilities) -> NDArray[np.float64]:
    """By the placement values of DeLong, DeLong & Clarke-Pearson (1988), from one sorting a class (Sun & Xu, 2014).

    A row's placement is the share of the other side's rows that it is in the right order with.
    """
    rows, areas = len(labels), []
    deviations = np.zeros(rows)
    for own, column in _one_versus_rest(labels, probabilities):
        inside, outside = np.flatnonzero(own), np.flatnonzero(~own)
        outside = outside[column[outside].argsort()]
        below = [np.searchsorted(column[outside], column[inside], side) for side in _SIDES]
        won = (below[0] + below[1]) / (2 * len(outside))
        lost = np.bincount(np.concatenate(below), minlength=len(outside) + 1).cumsum()[:-1]
        areas.append(won.mean())
        deviations[inside] += (won - areas[-1]) * rows / len(inside)
        deviations[outside] += (1 - lost / (2 * len(inside)) - areas[-1]) * rows / len(outside)
    return np.mean(areas) + deviations / len(areas) if areas else np.full(rows, 0.5)


def partial_auc(
    labels: Labels, probabilities: Probabilities, least: float, columns: Sequence[int] | None = None
) -> Callable[[Weights | None], float]:
    """What gives the mean over classes of the area right of the ROC curve and above a true-positive rate.

    Not normalised: 0..1-least, and (1-least)²/2 by chance. Classes without both sides are left out.

    Args:
        least: The true-positive rate above which the area counts.
        columns: The classes that count; by default all.
    """
    curves = []
    for own, column in _one_versus_rest(labels, probabilities, columns):
        order = np.argsort(-column, kind="stable")
        ends = np.append(np.flatnonzero(np.diff(column[order])), len(order) - 1)  # of rows with equal probabilities
        curves.append((order, own[order], ends))

    def score(weights: Weights | None) -> float:
        drawn = np.ones(len(labels)) if weights is None else weights
        areas = []
        for order, own, ends in curves:
            found, wrong = (np.append(0.0, np.cumsum(drawn[order] * side)[ends]) for side in (own, ~own))
            if found[-1] > 0 and wrong[-1] > 0:
                areas.append(_area_right_of(found / found[-1], wrong / wrong[-1], least))
        return float(np.mean(areas)) if areas else (1 - least) ** 2 / 2

    return score


def _area_right_of(rates: NDArray[np.float64], false_rates: NDArray[np.float64], least: float) -> float:
    """Between a ROC curve's corners and a false-positive rate of one, where the true-positive rate is above `least`."""
    rise = np.diff(rates)
    low = np.maximum(rates[:-1], least)
    inside = (rise > 0) & (rates[1:] > low)
    start, slope = false_rates[:-1][inside], (np.diff(false_rates)[inside] / rise[inside])
    left = start + slope * (low - rates[:-1])[inside]
    return float(((rates[1:] - low)[inside] * (1 - (left + false_rates[1:][inside]) / 2)).sum())


def _one_versus_rest(
    labels: Labels, probabilities: Probabilities, columns: Sequence[int] | None = None
) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.floating]]]:
    """For each class that some rows are of and others not: which rows are, and all rows' probabilities of it."""
    for number, column in enumerate(np.ascontiguousarray(probabilities.T)):
        own = labels[:, number] == 1 if labels.ndim == 2 else labels == number
        if own.any() and not own.all() and (columns is None or number in columns):
            yield own, column
