"""The competitions' metrics, their standard errors, and the floor: what chance reaches.

Every function takes labels as class numbers, int of shape (rows,), and probabilities, float of shape
(rows, classes) whose rows sum to one.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64]
Probabilities = NDArray[np.floating]
Weights = NDArray[np.float64]
Confusion = NDArray[np.float64]

_RESAMPLES = 200
_SIDES: tuple[Literal["left", "right"], ...] = ("left", "right")  # how many are smaller; how many are not larger


@dataclass(frozen=True)
class Metric:
    """A score, and how to tell better from worse.

    Attributes:
        score: (labels, probabilities) → float.
        rescorer: (labels, probabilities) → what gives the score of a resample from how often each row was drawn,
            float of shape (rows,): no prediction is copied.
        per_row: (labels, probabilities) → the rows' contributions, of shape (rows,), where the score is their mean;
            else None. The spread of their mean is that of the score: for ROC AUC, where a row's contribution depends
            on the other rows, to first order.
        of_confusion: The score by how many rows of class i were taken for class j, where it depends on these alone.
    """

    name: str
    greater_is_better: bool
    score: Callable[[Labels, Probabilities], float]
    rescorer: Callable[[Labels, Probabilities], Callable[[Weights], float]]
    per_row: Callable[[Labels, Probabilities], NDArray[np.float64]] | None = None
    of_confusion: Callable[[Confusion], float] | None = None

    def gain(self, before: float, after: float) -> float:
        """How much better `after` is; negative if it is worse."""
        return after - before if self.greater_is_better else before - after


def _hits(labels: Labels, probabilities: Probabilities) -> NDArray[np.float64]:
    return np.asarray(probabilities.argmax(axis=1) == labels, dtype=np.float64)


def _losses(labels: Labels, probabilities: Probabilities) -> NDArray[np.float64]:
    chosen = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    losses: NDArray[np.float64] = -np.log(np.clip(chosen, np.finfo(np.float32).eps, 1.0))
    return losses


def _macro_f1(confused: Confusion) -> float:
    """A class that is neither among the labels nor predicted does not count."""
    right, total = np.diag(confused), confused.sum(axis=0) + confused.sum(axis=1)
    known = total > 0
    return float(np.mean(2 * right[known] / total[known]))


def _quadratic_kappa(confused: Confusion) -> float:
    """Zero for 0/0, where one class alone is predicted without fail; of whole numbers, so that this is seen."""
    numbers = np.arange(len(confused))
    distances = (numbers[:, None] - numbers) ** 2
    by_chance = float(confused.sum(axis=1) @ distances @ confused.sum(axis=0))
    return 1 - float(confused.sum() * (confused * distances).sum()) / by_chance if by_chance else 0.0


def _roc_auc(labels: Labels, probabilities: Probabilities) -> float:
    """Mean over the classes of one-versus-rest ROC AUC; classes without both sides are left out.

    The area of a class is the share of pairs in the right order, equal ones counting half (Mann & Whitney, 1947).
    """
    areas = []
    for own, column in _one_versus_rest(labels, probabilities):
        inside, outside = column[own], np.sort(column[~own])
        pairs = sum(int(np.searchsorted(outside, inside, side).sum()) for side in _SIDES)
        areas.append(pairs / (2 * len(inside) * len(outside)))
    return float(np.mean(areas)) if areas else 0.5


def _auc_parts(labels: Labels, probabilities: Probabilities) -> NDArray[np.float64]:
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


def _one_versus_rest(
    labels: Labels, probabilities: Probabilities
) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.floating]]]:
    """For each class that some rows are of and others not: which rows are, and all rows' probabilities of it."""
    for number, column in enumerate(np.ascontiguousarray(probabilities.T)):
        own = labels == number
        if own.any() and not own.all():
            yield own, column


def _of_rows(
    name: str,
    per_row: Callable[[Labels, Probabilities], NDArray[np.float64]],
    *,
    score: Callable[[Labels, Probabilities], float] | None = None,
    greater_is_better: bool = True,
) -> Metric:
    """A metric that is a mean over the rows; `score` where that is faster."""

    def rescorer(labels: Labels, probabilities: Probabilities) -> Callable[[Weights], float]:
        values = per_row(labels, probabilities)
        return lambda weights: float(weights @ values / len(values))

    mean = score or (lambda labels, probabilities: float(per_row(labels, probabilities).mean()))
    return Metric(name, greater_is_better, mean, rescorer, per_row)


def _of_confusion(name: str, of_confusion: Callable[[Confusion], float]) -> Metric:
    """A metric of the confusion matrix alone: how many rows of class i were taken for class j."""

    def rescorer(labels: Labels, probabilities: Probabilities) -> Callable[[Weights | None], float]:
        classes = probabilities.shape[1]
        cells = labels * classes + probabilities.argmax(axis=1)
        return lambda weights: of_confusion(
            np.bincount(cells, weights, classes**2).astype(np.float64).reshape(classes, classes)
        )

    score = lambda labels, probabilities: rescorer(labels, probabilities)(None)  # noqa: E731
    return Metric(name, True, score, rescorer, of_confusion=of_confusion)


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        _of_rows("accuracy", _hits),
        _of_rows("log_loss", _losses, greater_is_better=False),
        _of_confusion("macro_f1", _macro_f1),
        _of_confusion("quadratic_kappa", _quadratic_kappa),
        _of_rows("roc_auc", _auc_parts, score=_roc_auc),
    )
}


def resampling(rows: int, resamples: int) -> Iterator[Weights]:
    """How often each row is drawn in so many bootstrap samples (Efron, 1979); the same ones every time."""
    rng = np.random.default_rng(0)
    for _ in range(resamples):
        yield np.bincount(rng.integers(0, rows, rows), minlength=rows).astype(np.float64)


def standard_error(metric: Metric, labels: Labels, probabilities: Probabilities) -> float:
    """Standard error of the score over the rows: of a mean where it is one, else by bootstrap (Efron, 1979)."""
    if metric.per_row is not None:
        return _of_mean(metric.per_row(labels, probabilities))
    return float(_bootstrapped(metric, labels, probabilities).std(ddof=1))


def paired_gain(metric: Metric, labels: Labels, before: Probabilities, after: Probabilities) -> tuple[float, float]:
    """How much better `after` scores than `before` on the same rows, and that difference's standard error."""
    gain = metric.gain(metric.score(labels, before), metric.score(labels, after))
    if metric.per_row is not None:
        return gain, _of_mean(metric.per_row(labels, after) - metric.per_row(labels, before))
    return gain, float((_bootstrapped(metric, labels, after) - _bootstrapped(metric, labels, before)).std(ddof=1))


def floor_scores(metric: Metric, labels: Labels, classes: int) -> dict[str, dict[str, float]]:
    """What knows nothing of the pictures scores, by name: keys score and score_se of each.

    "random classifier": the expected score of one that takes each class that occurs as often as any other; for a metric
    of probabilities, of one that gives all of them the same. Accuracy's is one over their number; those of a confusion
    matrix are the mean of random ones. Its error is the spread of such a classifier's score on so many rows.

    "majority class": always the most frequent class; for a metric of probabilities the classes' frequencies.
    """
    counts = np.bincount(labels, minlength=classes)
    shares, occurs = counts / len(labels), counts > 0
    known = int(occurs.sum())
    prior, uniform = (np.broadcast_to(row, (len(labels), classes)) for row in (shares, occurs / known))
    if metric.of_confusion is not None:
        rng, chances = np.random.default_rng(0), occurs / known
        drawn = [metric.of_confusion(rng.multinomial(counts, chances).astype(np.float64)) for _ in range(_RESAMPLES)]
        expected, spread = float(np.mean(drawn)), float(np.std(drawn, ddof=1))
    elif metric.name == "accuracy":
        expected, spread = 1 / known, float(np.sqrt((1 - 1 / known) / known / len(labels)))
    else:
        expected, spread = metric.score(labels, uniform), standard_error(metric, labels, uniform)
    return {
        "random classifier": {"score": expected, "score_se": spread},
        "majority class": {
            "score": metric.score(labels, prior),
            "score_se": standard_error(metric, labels, prior),
        },
    }


def _of_mean(values: NDArray[np.float64]) -> float:
    return float(values.std() / np.sqrt(len(values)))


def _bootstrapped(metric: Metric, labels: Labels, probabilities: Probabilities) -> NDArray[np.float64]:
    """Scores of resamples, the same rows for all predictions: shape (resamples,)."""
    rescore = metric.rescorer(labels, probabilities)
    return np.array([rescore(weights) for weights in resampling(len(labels), _RESAMPLES)])
