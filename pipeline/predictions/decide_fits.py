"""Thresholds and cut points, fitted on rows for what a metric makes of them there."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.predictions import scores
from pipeline.predictions.calibration import some_rows
from pipeline.predictions.metrics import Metric
from pipeline.predictions.scores import Labels, Probabilities
from pipeline.targets import THRESHOLD

Values = NDArray[np.float64]

POSITIVES = 20
"""A class with fewer rows takes the threshold that all have in common."""

_GRID = np.concatenate([np.geomspace(0.002, 0.5, 40), np.linspace(0.52, 0.98, 24)])
_COARSE = np.array([0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.7])  # each score is a call
_CELLS = 5_000_000  # rows × classes: one number binds here, more rows would add nothing that can be seen
_PASSES = 3  # over the classes: each threshold is the best beside the others as they are then


def expected_class(probabilities: Probabilities) -> NDArray[np.float64]:
    """Σ k·p_k of each row."""
    return np.asarray(probabilities.astype(np.float64) @ np.arange(probabilities.shape[1]))


def fit_cuts(metric: Metric, labels: Labels, probabilities: Probabilities) -> Values:
    """The cut points on the expected class that maximise quadratic kappa, of those that a search finds.

    It begins halfway between the classes, and where the classes would be as frequent as their labels.
    """
    from scipy.optimize import minimize

    classes, expected = probabilities.shape[1], expected_class(probabilities)
    order = expected.argsort()
    ordered = expected[order]
    # How many of each class are among the first rows: a cut's confusion is the difference of two of its rows.
    below = np.vstack([np.zeros(classes), np.eye(classes)[labels[order]].cumsum(axis=0)])

    def loss(cuts: Values) -> float:
        ends = np.concatenate([[0], np.searchsorted(ordered, np.sort(cuts)), [len(ordered)]])
        return -scores.quadratic_kappa(np.diff(below[ends], axis=0).T)

    shares = np.bincount(labels, minlength=classes).cumsum()[:-1] / len(labels)
    starts = np.arange(classes - 1) + 0.5, np.quantile(ordered, shares)
    found = []
    for start in starts:
        simplex = np.vstack([start, start + 0.25 * np.eye(len(start))])
        options: Any = {"initial_simplex": simplex, "xatol": 1e-3, "fatol": 1e-6, "maxiter": 200 * len(start)}
        found.append(minimize(loss, start, method="Nelder-Mead", options=options))
    return np.sort(min(found, key=lambda one: one.fun).x)


def fit_threshold(metric: Metric, labels: Labels, probabilities: Probabilities) -> Values:
    """The one threshold for all classes that scores best, of a grid; of equal ones that nearest to one half."""
    rows = some_rows(len(labels), _CELLS // labels.shape[1])
    labels, probabilities = labels[rows], probabilities[rows]
    grid = _COARSE if metric.costly else _GRID
    tried = [metric.gain(0.0, metric.score(labels, (probabilities >= one).astype(np.float32))) for one in grid]
    best = np.flatnonzero(np.isclose(tried, max(tried), rtol=1e-12, atol=0))
    return grid[best[[np.abs(grid[best] - THRESHOLD).argmin()]]]


def fit_thresholds(metric: Metric, labels: Labels, probabilities: Probabilities) -> Values:
    """A threshold a class: one by one that which scores best beside the others; the common one for a rare class."""
    values = np.repeat(fit_threshold(metric, labels, probabilities), labels.shape[1])
    chosen = probabilities >= values
    both, size = (chosen & (labels == 1)).sum(axis=1), chosen.sum(axis=1) + labels.sum(axis=1)
    worth, frequent = WORTH[metric.name], np.flatnonzero(labels.sum(axis=0) >= POSITIVES)
    for _ in range(_PASSES):
        before = values.copy()
        for number in frequent:
            truth, column = labels[:, number], probabilities[:, number]
            both -= truth * chosen[:, number]
            size -= truth + chosen[:, number]
            order = np.argsort(-column, kind="stable")
            values[number] = _best_cut(column[order], worth(both[order], size[order], truth[order]))
            chosen[:, number] = column >= values[number]
            both += truth * chosen[:, number]
            size += truth + chosen[:, number]
        if (values == before).all():
            break
    return values


def _best_cut(falling: Probabilities, worth: NDArray[np.float64]) -> float:
    """Between the rows that are taken and those that are not.

    Args:
        worth: By how many of the first rows are taken, of shape (rows + 1,).
    """
    bounds = np.concatenate([[1.0], falling.astype(np.float64), [0.0]])
    between = (bounds[:-1] + bounds[1:]) / 2
    apart = np.concatenate([[True], falling[:-1] > falling[1:], [True]])
    return float(between[apart][worth[apart].argmax()])


# --- What a score is, up to a constant, by how many rows are given a class, the likeliest first: from none to all.
# `both` and `size` are of the rows' other classes: how many are true and given; how many are true, plus how many given.


def _macro_f1(both: Labels, size: Labels, truth: Labels) -> NDArray[np.float64]:
    right, taken = _taken(truth)
    return np.asarray(2 * right / np.maximum(taken + truth.sum(), 1))


def _micro_f1(both: Labels, size: Labels, truth: Labels) -> NDArray[np.float64]:
    right, taken = _taken(truth)
    return np.asarray(2 * (both.sum() + right) / np.maximum(size.sum() + truth.sum() + taken, 1))


def _sample_f1(both: Labels, size: Labels, truth: Labels) -> NDArray[np.float64]:
    given, left = 2 * (both + truth) / (size + truth + 1), 2 * both / np.maximum(size + truth, 1)
    return np.append(0.0, (given - left).cumsum())


def _accuracy(both: Labels, size: Labels, truth: Labels) -> NDArray[np.float64]:
    others_right = 2 * both == size
    return np.append(0.0, (others_right * (2 * truth - 1)).cumsum())


def _taken(truth: Labels) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return np.append(0, truth.cumsum()), np.arange(len(truth) + 1)


WORTH: dict[str, Callable[[Labels, Labels, Labels], NDArray[np.float64]]] = {
    "accuracy": _accuracy,
    "macro_f1": _macro_f1,
    "micro_f1": _micro_f1,
    "sample_f1": _sample_f1,
}
