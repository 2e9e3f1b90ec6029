"""Ways to make one prediction of several members'.

A method fits a rule to members' predictions and labels; the rule then blends other rows. That no rule is applied to
rows it was fitted on is the business of `blend.py`.

`members` is float32 of shape (members, rows, classes), `labels` int64 of shape (rows,).
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from pipeline.predictions.calibration import apply_temperature, log_probabilities, softmax, some_rows
from pipeline.predictions.metrics import Metric
from pipeline.predictions.scores import LEAST, Labels

Members = NDArray[np.float32]
Blended = NDArray[np.float32]

_HILL_STEPS = 25
_STACKING_C = 0.03
_STACKING_ITERATIONS = 50

# What is fitted is a few numbers where these bind, so more rows would cost time and add nothing that can be seen;
# stacking alone would gain by them, and its score is of what was fitted.
_HILL_CELLS = {"roc_auc": 200_000}  # rows × classes, by what a score costs; log loss takes all rows
_HILL_CELLS_ELSE = 2_000_000
_STACKING_PRODUCTS = 100_000_000  # rows × features × classes


@dataclass(frozen=True)
class Rule:
    """A method, fitted.

    Attributes:
        apply: Members' predictions of any rows → the blend's, float32 of shape (rows, classes), rows summing to one.
        weights: A member's share each, summing to one; None where a member has no single weight.
    """

    apply: Callable[[Members], Blended]
    weights: tuple[float, ...] | None


@dataclass(frozen=True)
class Method:
    """A way to blend.

    Attributes:
        fit: (members, labels, metric) → rule.
        learns: Whether it learns weights from labels, so that only rows of other folds can tell what it is worth.
        several: Whether it is for pictures with several labels, too: what it gives need not sum to one.
    """

    fit: Callable[[Members, Labels, Metric], Rule]
    learns: bool
    several: bool = False


def apply_temperatures(members: Members, temperatures: Sequence[float]) -> Members:
    """Each member's softmax(log p / T)."""
    return np.stack([apply_temperature(one, t) for one, t in zip(members, temperatures, strict=True)])


def convex_weights(members: Members, labels: Labels) -> NDArray[np.float64]:
    """The weights, none negative and summing to one, that minimise the log loss of the weighted mean.

    A convex problem: what is found is the optimum. Equal members get equal weights.
    """
    own = np.maximum(_own(members, labels), LEAST).astype(np.float64)

    # With the sum added to the loss, weights that are free to sum to anything sum to one at the optimum: there the
    # loss does not change when all of them grow by a factor f, so the derivative of -log f + f·sum at f = 1 is zero.
    def loss(weights: NDArray[np.float64]) -> float:
        return float(weights.sum() - np.log(np.maximum(weights @ own, LEAST)).mean())

    def gradient(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        slope: NDArray[np.float64] = 1 - (own / np.maximum(weights @ own, LEAST)).mean(axis=1)
        return slope

    found = minimize(
        loss,
        np.full(len(own), 1 / len(own)),
        jac=gradient,
        method="L-BFGS-B",
        bounds=[(0.0, 1.0)] * len(own),
        options={"ftol": 1e-13, "gtol": 1e-8},
    )
    weights = np.where(found.x > 1e-6, found.x, 0.0)
    return np.asarray(weights / weights.sum(), dtype=np.float64)


def hill_weights(members: Members, labels: Labels, metric: Metric) -> NDArray[np.float64]:
    """Ensemble selection with replacement (Caruana et al., 2004): add the member that helps the score most, 25 times.

    The best ensemble on the way counts. Of equal scores the one of fewer members is taken, then the shorter one,
    then the member named first.
    """
    members, labels = _decisive(members, labels, metric)
    total, trial = np.zeros_like(members[0]), np.empty_like(members[0])
    picked: list[int] = []
    path: list[tuple[float, int, int]] = []  # (loss, members in it, length) after each step: the least is best
    for length in range(1, _HILL_STEPS + 1):
        choices = []
        for number, member in enumerate(members):
            np.add(total, member, out=trial)
            np.divide(trial, length, out=trial)
            choices.append((metric.gain(metric.score(labels, trial), 0.0), number not in picked, number))
        loss, _, best = min(choices)
        picked.append(best)
        total += members[best]
        path.append((loss, len(set(picked)), length))
    _, _, length = min(path)
    return np.bincount(picked[:length], minlength=len(members)) / length


def _single(members: Members, labels: Labels, metric: Metric) -> Rule:
    gains = [metric.gain(0.0, metric.score(labels, one)) for one in members]
    return _weighted(np.eye(len(members))[int(np.argmax(gains))])


def _mean(members: Members, labels: Labels, metric: Metric) -> Rule:
    return _weighted(_equal(members))


def _geometric(members: Members, labels: Labels, metric: Metric) -> Rule:
    def apply(others: Members) -> Blended:
        total = np.zeros_like(others[0])
        for one in others:  # one after the other: the logarithms of all of them are a lot of memory
            total += log_probabilities(one)
        return softmax(total / np.float32(len(others)))

    return Rule(apply, tuple(_equal(members).tolist()))


def _rank(members: Members, labels: Labels, metric: Metric) -> Rule:
    """The mean of the rows' ranks, class by class, turned back into probabilities.

    A mean rank becomes the mean of the members' probabilities at that rank (Bolstad et al., 2003), so that members of
    different sharpness count alike and the result is of use for every metric. The rows blended at once are ranked
    among each other.
    """

    def apply(others: Members) -> Blended:
        blended = np.empty_like(others[0])
        places = np.arange(others.shape[1])
        for number in range(others.shape[2]):
            ranks, ordered = zip(*(_ranked(one[:, number]) for one in others), strict=True)
            together, _ = _ranked(np.sum(ranks, axis=0))
            blended[:, number] = np.interp(together, places, np.mean(ordered, axis=0, dtype=np.float64))
        np.maximum(blended, LEAST, out=blended)
        return np.asarray(blended / blended.sum(axis=1, keepdims=True), dtype=np.float32)

    return Rule(apply, tuple(_equal(members).tolist()))


def _convex(members: Members, labels: Labels, metric: Metric) -> Rule:
    return _weighted(convex_weights(members, labels))


def _hill(members: Members, labels: Labels, metric: Metric) -> Rule:
    return _weighted(hill_weights(members, labels, metric))


def _stacking(members: Members, labels: Labels, metric: Metric) -> Rule:
    """Multinomial logistic regression on all members' log probabilities (Wolpert, 1992), strongly regularised.

    A class without rows to learn from keeps the members' mean probability.
    """
    count, rows, classes = members.shape
    if len(np.unique(labels)) < 2:
        return Rule(_weighted(_equal(members)).apply, None)  # nothing to tell apart
    taken = some_rows(rows, _STACKING_PRODUCTS // (count * classes * classes))
    model = LogisticRegression(C=_STACKING_C, max_iter=_STACKING_ITERATIONS)
    with warnings.catch_warnings():
        # Stopped on the way from "no member says anything" to the optimum, it is regularised a little more.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(_features(members[:, taken]), labels[taken])

    def apply(others: Members) -> Blended:
        blended = others.mean(axis=0)
        learnt = model.classes_
        unknown = np.ones(classes, dtype=bool)
        unknown[learnt] = False
        left = 1 - blended[:, unknown].sum(axis=1, keepdims=True)
        blended[:, learnt] = model.predict_proba(_features(others)) * np.maximum(left, 0)
        return np.asarray(blended, dtype=np.float32)

    return Rule(apply, None)


METHODS: dict[str, Method] = {
    "single": Method(_single, learns=False, several=True),
    "mean": Method(_mean, learns=False, several=True),
    "geometric": Method(_geometric, learns=False),
    "rank": Method(_rank, learns=False),
    "convex": Method(_convex, learns=True),
    "hill": Method(_hill, learns=True, several=True),
    "stacking": Method(_stacking, learns=True),
}
"""From the simplest to the most complicated. `single` is the member with the best score: it is chosen, not fitted."""

SIMPLEST = "single"


def _weighted(weights: NDArray[np.float64]) -> Rule:
    shares = weights.astype(np.float32)
    return Rule(lambda members: np.tensordot(shares, members, axes=1), tuple(weights.tolist()))


def _equal(members: Members) -> NDArray[np.float64]:
    return np.full(len(members), 1 / len(members))


def _ranked(values: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.floating]]:
    """Ranks from 0 on, equal values sharing the mean of theirs, and the values in order."""
    order = values.argsort()
    ordered = values[order]
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    ends = np.append(starts[1:], len(values))
    ranks = np.empty(len(values))
    ranks[order] = np.repeat((starts + ends - 1) / 2, ends - starts)
    return ranks, ordered


def _decisive(members: Members, labels: Labels, metric: Metric) -> tuple[Members, Labels]:
    """As little as decides which weights score better."""
    if labels.ndim == 2:
        rows = some_rows(len(labels), _HILL_CELLS_ELSE // members.shape[2])
        return members[:, rows], labels[rows]
    if metric.name == "log_loss":  # looks at the probability of the row's own class alone
        return _own(members, labels)[:, :, None], np.zeros_like(labels)
    if metric.name == "accuracy":  # where all members choose the same class, so does every mean of them
        choices = members.argmax(axis=2)
        contested = np.flatnonzero((choices != choices[0]).any(axis=0))
        rows = contested if len(contested) else np.arange(len(labels))
    else:
        rows = np.arange(len(labels))
    cells = _HILL_CELLS.get(metric.name, _HILL_CELLS_ELSE)
    rows = rows[some_rows(len(rows), cells // members.shape[2])]
    return members[:, rows], labels[rows]


def _own(members: Members, labels: Labels) -> NDArray[np.float32]:
    """The probabilities of the rows' own classes: shape (members, rows)."""
    return members[:, np.arange(len(labels)), labels]


def _features(members: Members) -> NDArray[np.float64]:
    """Log probabilities side by side: shape (rows, members × classes)."""
    return np.concatenate([log_probabilities(one) for one in members], axis=1).astype(np.float64)
