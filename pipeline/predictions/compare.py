"""Experiments held against each other on the same rows: scores, paired differences, and whether they mean anything.

What varies here is the rows. A verdict is about the trained models as they are: the same recipe with another seed
gives other predictions and another score.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, norm

from pipeline.predictions.aligned import Aligned
from pipeline.predictions.calibration import calibration
from pipeline.predictions.metrics import METRICS, Labels, Metric, Probabilities

Verdict = Literal["better", "worse", "not distinguishable"]
Weights = NDArray[np.float64]

LEVEL = 0.05
POWER = 0.8
RESAMPLES = 2000
_SEED = 0


@dataclass(frozen=True)
class Standing:
    """One experiment's scores.

    Attributes:
        score_se: Standard error over the rows.
        fold_scores: By fold.
        calibration_error: See `calibration.py`.
    """

    name: str
    score: float
    score_se: float
    fold_scores: dict[int, float]
    accuracy: float
    log_loss: float
    macro_f1: float
    calibration_error: float


@dataclass(frozen=True)
class Difference:
    """An experiment against the reference, on the same rows.

    Attributes:
        gain: How much better it scores; negative if it is worse.
        gain_se: Standard error of that.
        low, high: 95 % interval of the gain, by itself: percentiles of a paired bootstrap over the rows.
        right_alone: Rows that it gets right and the reference wrong.
        reference_right_alone: Rows that the reference gets right and it wrong.
        mcnemar_p: Of the exact test that neither is right more often (`mcnemar`); about accuracy, by itself.
        p: For the verdict, corrected for the number of pairs (`holm`).
        rows_needed: See `rows_needed`.
    """

    gain: float
    gain_se: float
    low: float
    high: float
    right_alone: int
    reference_right_alone: int
    mcnemar_p: float
    p: float
    rows_needed: int | None

    @property
    def verdict(self) -> Verdict:
        """Better or worse only where the interval leaves out zero and the corrected p is below 5 %: doubt wins."""
        if self.p >= LEVEL or self.low <= 0 <= self.high:
            return "not distinguishable"
        return "better" if self.gain > 0 else "worse"


@dataclass(frozen=True)
class Comparison:
    """Experiments, best first.

    Attributes:
        reference: The experiment that the others are held against.
        differences: By experiment, of all but the reference.
        pairs: For how many pairs of experiments the verdicts were corrected.
        resamples: Of the bootstrap.
    """

    metric: Metric
    rows: int
    standings: list[Standing]
    reference: str
    differences: dict[str, Difference]
    pairs: int
    resamples: int


def compare(aligned: Aligned, *, baseline: str | None = None, resamples: int = RESAMPLES) -> Comparison:
    """Hold experiments against the best of them, or against one that was named.

    For accuracy the p of a pair is McNemar's, for other metrics that of the gain over its standard error (normal).
    Holm's correction makes all verdicts hold together at 95 %. Its family is every pair of experiments where the
    reference was chosen because it scored best on these very rows, as any of them might have been chosen; and the
    pairs with the baseline where that was named.

    Args:
        aligned: Two experiments or more.
        baseline: One of them. Defaults to the best.
    """
    names = list(aligned.probabilities)
    found = _sample(aligned, resamples)
    standings = [
        _standing(aligned, name, score=float(found.scores[number]), score_se=found.error(found.weights_of(number)))
        for number, name in enumerate(names)
    ]
    ordered = sorted(standings, key=lambda one: one.score, reverse=aligned.metric.greater_is_better)
    reference = names.index(baseline or ordered[0].name)
    others = [number for number in range(len(names)) if number != reference]
    to_baseline = [(other, reference) for other in others]
    family = to_baseline if baseline is not None else list(combinations(range(len(names)), 2))
    corrected = holm([found.p(*pair) for pair in family])
    p = {frozenset(pair): value for pair, value in zip(family, corrected, strict=True)}
    differences = {
        names[other]: found.difference(other, reference, p=p[frozenset((other, reference))], pairs=len(family))
        for other in others
    }
    return Comparison(
        metric=aligned.metric,
        rows=len(aligned.ids),
        standings=ordered,
        reference=names[reference],
        differences=differences,
        pairs=len(family),
        resamples=resamples,
    )


def mcnemar(one_alone: int, other_alone: int) -> float:
    """Two-sided p of McNemar's test (1947): that a row which one alone gets right is as often the one's as the other's.

    By the binomial distribution, which is exact for few rows and for many.
    """
    rows = one_alone + other_alone
    return float(binomtest(one_alone, rows, 0.5).pvalue) if rows else 1.0


def holm(p: Sequence[float]) -> list[float]:
    """The p of several tests, corrected (Holm, 1979): with 95 % none of those below 5 % is a false alarm."""
    adjusted, largest = [0.0] * len(p), 0.0
    for rank, position in enumerate(sorted(range(len(p)), key=lambda one: p[one])):
        largest = max(largest, min(1.0, (len(p) - rank) * p[position]))
        adjusted[position] = largest
    return adjusted


def rows_needed(gain: float, gain_se: float, *, rows: int, pairs: int = 1) -> int | None:
    """About how many rows tell a difference of this size at 95 % confidence with 80 % power; None for no difference.

    With d the gain and s² = rows · gain_se² the variance of one row's part in it:

        n = (z(1 - 0.025 / pairs) · √(s² + d²) + z(0.8) · √s²)² / d²

    which for accuracy, where s² + d² is the share of rows that one alone gets right, is Connor's formula for
    McNemar's test (Biometrics 43, 1987, 207-211). It takes the difference that was seen for the true one.

    Args:
        rows: On which the gain was seen.
        pairs: Of experiments that share the 5 % of false alarms, in equal parts.
    """
    if gain == 0:
        return None
    variance = rows * gain_se**2
    alarm, power = norm.ppf(1 - LEVEL / 2 / pairs), norm.ppf(POWER)
    return int(np.ceil(((alarm * np.sqrt(variance + gain**2) + power * np.sqrt(variance)) / gain) ** 2))


def _standing(aligned: Aligned, name: str, *, score: float, score_se: float) -> Standing:
    labels, found = aligned.labels, aligned.probabilities[name]

    def of_fold(fold: int) -> float:
        rows = aligned.folds == fold
        return aligned.metric.score(labels[rows], found[rows])

    return Standing(
        name=name,
        score=score,
        score_se=score_se,
        fold_scores={int(fold): of_fold(fold) for fold in np.unique(aligned.folds)},
        accuracy=METRICS["accuracy"].score(labels, found),
        log_loss=METRICS["log_loss"].score(labels, found),
        macro_f1=METRICS["macro_f1"].score(labels, found),
        calibration_error=calibration(labels, found).error,
    )


@dataclass(frozen=True)
class _Sample:
    """Experiments, by number, on the rows that there are and on resamples of them.

    Attributes:
        scores: Shape (experiments,).
        values: The rows' parts in the scores, of shape (rows, experiments), where a score is their mean; else None.
        resampled: Shape (resamples, experiments).
        alone: Shape (experiments, experiments): how many rows the first gets right and the second wrong.
    """

    metric: Metric
    rows: int
    scores: NDArray[np.float64]
    values: NDArray[np.float64] | None
    resampled: NDArray[np.float64]
    alone: NDArray[np.int64]

    def weights_of(self, one: int, against: int | None = None) -> Weights:
        """The weights with which the scores sum to one's score, or to its gain over another's."""
        weights = np.zeros(len(self.scores))
        weights[one] = 1
        if against is not None:
            weights[against] = -1
            weights *= 1 if self.metric.greater_is_better else -1
        return weights

    def error(self, weights: Weights) -> float:
        """Standard error of a weighted sum of the scores: by formula where they are means, else by bootstrap."""
        if self.values is not None:
            return float((self.values @ weights).std() / np.sqrt(self.rows))
        return float((self.resampled @ weights).std(ddof=1))

    def p(self, one: int, other: int) -> float:
        """Two-sided p of there being no difference between two, by itself."""
        if self.metric.name == "accuracy":
            return self.mcnemar(one, other)
        weights = self.weights_of(one, other)
        gain, error = abs(float(self.scores @ weights)), self.error(weights)
        if gain == 0:
            return 1.0
        return float(2 * norm.sf(gain / error)) if error else 0.0

    def mcnemar(self, one: int, other: int) -> float:
        return mcnemar(int(self.alone[one, other]), int(self.alone[other, one]))

    def difference(self, one: int, reference: int, *, p: float, pairs: int) -> Difference:
        weights = self.weights_of(one, reference)
        gain, error = float(self.scores @ weights), self.error(weights)
        low, high = np.quantile(self.resampled @ weights, [LEVEL / 2, 1 - LEVEL / 2])
        return Difference(
            gain=gain,
            gain_se=error,
            low=float(low),
            high=float(high),
            right_alone=int(self.alone[one, reference]),
            reference_right_alone=int(self.alone[reference, one]),
            mcnemar_p=self.mcnemar(one, reference),
            p=p,
            rows_needed=rows_needed(gain, error, rows=self.rows, pairs=pairs),
        )


def _sample(aligned: Aligned, resamples: int) -> _Sample:
    metric, labels, predictions = aligned.metric, aligned.labels, list(aligned.probabilities.values())
    values = _row_values(metric, labels, predictions)
    right = np.stack([found.argmax(axis=1) == labels for found in predictions]).astype(np.float64)
    return _Sample(
        metric=metric,
        rows=len(labels),
        scores=np.array([metric.score(labels, found) for found in predictions]),
        values=values,
        resampled=_resample(_rescorer(metric, labels, predictions, values), len(labels), resamples),
        alone=(right @ (1 - right).T).astype(np.int64),
    )


# --- Resampling. Scores are computed from how often each row was drawn, for all experiments at once, so that they
# are paired and no prediction is copied.

Rescorer = Callable[[Weights], NDArray[np.float64]]


def _resample(rescore: Rescorer, rows: int, resamples: int) -> NDArray[np.float64]:
    """The scores of each bootstrap sample (Efron, 1979), of shape (resamples, experiments)."""
    rng = np.random.default_rng(_SEED)
    return np.stack(
        [rescore(np.bincount(rng.integers(0, rows, rows), minlength=rows).astype(np.float64)) for _ in range(resamples)]
    )


def _row_values(metric: Metric, labels: Labels, predictions: Sequence[Probabilities]) -> NDArray[np.float64] | None:
    """The rows' parts in the scores, of shape (rows, experiments), where a score is their mean; else None."""
    of_rows = _auc_values if metric.name == "roc_auc" else metric.per_row
    return None if of_rows is None else np.stack([of_rows(labels, found) for found in predictions], axis=1)


def _rescorer(
    metric: Metric, labels: Labels, predictions: Sequence[Probabilities], values: NDArray[np.float64] | None
) -> Rescorer:
    if values is not None:
        return lambda weights: weights @ values / len(labels)
    chosen = [found.argmax(axis=1) for found in predictions]
    return _RESCORERS[metric.name](labels, chosen, predictions[0].shape[1])


def _macro_f1_rescorer(labels: Labels, chosen: Sequence[Labels], classes: int) -> Rescorer:
    """As `METRICS["macro_f1"]`: a class that is neither among the labels nor predicted does not count."""
    right = [one == labels for one in chosen]

    def rescore(weights: Weights) -> NDArray[np.float64]:
        actual = np.bincount(labels, weights=weights, minlength=classes)
        scores = []
        for one, hit in zip(chosen, right, strict=True):
            total = actual + np.bincount(one, weights=weights, minlength=classes)
            both = np.bincount(labels, weights=weights * hit, minlength=classes)
            scores.append(np.mean(2 * both[total > 0] / total[total > 0]))
        return np.array(scores)

    return rescore


def _kappa_rescorer(labels: Labels, chosen: Sequence[Labels], classes: int) -> Rescorer:
    """Quadratic weights make kappa a function of five sums; they are whole numbers, so that 0/0 is seen."""
    actual = labels.astype(np.float64)
    predicted = np.stack(chosen, axis=1).astype(np.float64)
    actual_squared, predicted_squared = actual**2, predicted**2
    distances = (predicted - actual[:, None]) ** 2

    def rescore(weights: Weights) -> NDArray[np.float64]:
        squares = weights @ actual_squared + weights @ predicted_squared
        by_chance = len(labels) * squares - 2 * (weights @ actual) * (weights @ predicted)
        safe = np.where(by_chance > 0, by_chance, 1.0)
        return np.where(by_chance > 0, 1 - len(labels) * (weights @ distances) / safe, 0.0)

    return rescore


_RESCORERS: dict[str, Callable[[Labels, Sequence[Labels], int], Rescorer]] = {
    "macro_f1": _macro_f1_rescorer,
    "quadratic_kappa": _kappa_rescorer,
}


def _auc_values(labels: Labels, probabilities: Probabilities) -> NDArray[np.float64]:
    """The rows' parts in the mean one-versus-rest ROC AUC, by the placement values of DeLong, DeLong & Clarke-Pearson
    (1988): exact for the score, and to first order for its resamples, as ranking each of them anew would take hours.
    """
    rows, classes = probabilities.shape
    own = np.bincount(labels, minlength=classes)
    known = np.flatnonzero((own > 0) & (own < rows))
    values, score = np.zeros(rows), 0.0
    for number in known:
        column = np.ascontiguousarray(probabilities[:, number])
        positive = labels == number
        won = _share_below(column[positive], column[~positive])
        kept = 1 - _share_below(column[~positive], column[positive])
        area = float(won.mean())
        score += area
        values[positive] += (won - area) * rows / len(won)
        values[~positive] += (kept - area) * rows / len(kept)
    return (values + score) / len(known) if len(known) else np.full(rows, 0.5)


def _share_below(values: NDArray[np.floating], others: NDArray[np.floating]) -> NDArray[np.float64]:
    """For each value the share of `others` that is smaller; equal ones count half."""
    ordered = np.sort(others)
    return (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")) / (2 * len(ordered))
