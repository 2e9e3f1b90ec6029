"""The competitions' metrics, their standard errors, and the floor: what chance reaches.

Every function takes labels as class numbers, int of shape (rows,), and probabilities, float of shape
(rows, classes) whose rows sum to one.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn import metrics
from sklearn.dummy import DummyClassifier

Labels = NDArray[np.int64]
Probabilities = NDArray[np.floating]

_RESAMPLES = 200


@dataclass(frozen=True)
class Metric:
    """A score, and how to tell better from worse.

    Attributes:
        score: (labels, probabilities) → float.
        per_row: The rows' contributions, of shape (rows,), where the score is their mean; else None.
    """

    name: str
    greater_is_better: bool
    score: Callable[[Labels, Probabilities], float]
    per_row: Callable[[Labels, Probabilities], NDArray[np.float64]] | None = None

    def gain(self, before: float, after: float) -> float:
        """How much better `after` is; negative if it is worse."""
        return after - before if self.greater_is_better else before - after


def _hits(labels: Labels, probabilities: Probabilities) -> NDArray[np.float64]:
    return np.asarray(probabilities.argmax(axis=1) == labels, dtype=np.float64)


def _losses(labels: Labels, probabilities: Probabilities) -> NDArray[np.float64]:
    chosen = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    losses: NDArray[np.float64] = -np.log(np.clip(chosen, np.finfo(np.float32).eps, 1.0))
    return losses


def _macro_f1(labels: Labels, probabilities: Probabilities) -> float:
    return float(metrics.f1_score(labels, probabilities.argmax(axis=1), average="macro", zero_division=0))


def _quadratic_kappa(labels: Labels, probabilities: Probabilities) -> float:
    classes, chosen = list(range(probabilities.shape[1])), probabilities.argmax(axis=1)
    if len({*labels, *chosen}) == 1:
        return 0.0  # 0/0: one class alone, predicted without fail
    return float(metrics.cohen_kappa_score(labels, chosen, labels=classes, weights="quadratic"))


def _roc_auc(labels: Labels, probabilities: Probabilities) -> float:
    """Mean over the classes of one-versus-rest ROC AUC; classes without both sides are left out.

    By rank sums (Mann & Whitney, 1947), all classes at once: the bootstrap asks for it hundreds of times.
    """
    ranks = rankdata(probabilities, axis=0)
    own = labels[:, None] == np.arange(probabilities.shape[1])
    positive = own.sum(axis=0)
    pairs = positive * (len(labels) - positive)
    wins = (ranks * own).sum(axis=0) - positive * (positive + 1) / 2
    known = pairs > 0
    return float(np.mean(wins[known] / pairs[known])) if known.any() else 0.5


METRICS: dict[str, Metric] = {
    "accuracy": Metric("accuracy", True, lambda y, p: float(_hits(y, p).mean()), _hits),
    "log_loss": Metric("log_loss", False, lambda y, p: float(_losses(y, p).mean()), _losses),
    "macro_f1": Metric("macro_f1", True, _macro_f1),
    "quadratic_kappa": Metric("quadratic_kappa", True, _quadratic_kappa),
    "roc_auc": Metric("roc_auc", True, _roc_auc),
}


def standard_error(metric: Metric, labels: Labels, probabilities: Probabilities) -> float:
    """Standard error of the score over the rows: of a mean where it is one, else by bootstrap (Efron, 1979)."""
    if metric.per_row is not None:
        return _of_mean(metric.per_row(labels, probabilities))
    return _bootstrap(len(labels), lambda rows: metric.score(labels[rows], probabilities[rows]))


def paired_gain(metric: Metric, labels: Labels, before: Probabilities, after: Probabilities) -> tuple[float, float]:
    """How much better `after` scores than `before` on the same rows, and that difference's standard error."""
    gain = metric.gain(metric.score(labels, before), metric.score(labels, after))
    if metric.per_row is not None:
        return gain, _of_mean(metric.per_row(labels, after) - metric.per_row(labels, before))
    error = _bootstrap(
        len(labels),
        lambda rows: metric.score(labels[rows], after[rows]) - metric.score(labels[rows], before[rows]),
    )
    return gain, error


def floors(labels: Labels, classes: int) -> dict[str, Probabilities]:
    """Predictions that know nothing of the pictures, by name: a random class, and the majority class.

    For metrics of probabilities the majority's are the classes' frequencies.
    """
    strategies = {"random classifier": "uniform", "majority class": "prior"}
    everything = np.zeros((len(labels), 1))
    predictions: dict[str, Probabilities] = {}
    for name, strategy in strategies.items():
        dummy = DummyClassifier(strategy=strategy, random_state=0).fit(everything, labels)
        found = np.zeros((len(labels), classes))
        found[:, dummy.classes_] = dummy.predict_proba(everything)
        if strategy == "uniform":
            # Equal probabilities have no largest: a hair decides which class is taken.
            found[np.arange(len(labels)), dummy.predict(everything)] += 1e-6
            found /= found.sum(axis=1, keepdims=True)
        predictions[name] = found
    return predictions


def _of_mean(values: NDArray[np.float64]) -> float:
    return float(values.std() / np.sqrt(len(values)))


def _bootstrap(count: int, statistic: Callable[[NDArray[np.int64]], float]) -> float:
    rng = np.random.default_rng(0)
    return float(np.std([statistic(rng.integers(0, count, count)) for _ in range(_RESAMPLES)], ddof=1))
