"""Experiments held against each other on the same rows: scores, paired differences, and whether they mean anything.

What varies here is the rows. A verdict is about the trained models as they are: the same recipe with another seed
gives other predictions and another score.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, ndtr, ndtri
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from pipeline.predictions.aligned import Aligned
from pipeline.predictions.calibration import calibration
from pipeline.predictions.metrics import METRICS, Metric, resampling
from pipeline.predictions.scores import Labels, Probabilities, Weights, hits

Verdict = Literal["better", "worse", "not distinguishable"]

LEVEL = 0.05
POWER = 0.8
RESAMPLES = 2000


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
    found = sample(aligned, resamples)
    standings = [
        _standing(aligned, name, score=float(found.scores[number]), score_se=found.score_se(number))
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
        resamples=len(found.resampled),
    )


def mcnemar(one_alone: int, other_alone: int) -> float:
    """Two-sided p of McNemar's test (1947): that a row which one alone gets right is as often the one's as the other's.

    By the binomial distribution, which is exact for few rows and for many.
    """
    rows = one_alone + other_alone
    return min(1.0, 2 * float(bdtr(min(one_alone, other_alone), rows, 0.5)))


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
    alarm, power = ndtri(1 - LEVEL / 2 / pairs), ndtri(POWER)
    return int(np.ceil(((alarm * np.sqrt(variance + gain**2) + power * np.sqrt(variance)) / gain) ** 2))


def fold_scores(aligned: Aligned, name: str) -> dict[int, float]:
    """An experiment's score on each fold."""
    labels, found = aligned.labels, aligned.probabilities[name]
    rows_of = {int(fold): aligned.folds == fold for fold in np.unique(aligned.folds)}
    return {fold: aligned.metric.score(labels[rows], found[rows]) for fold, rows in rows_of.items()}


def _standing(aligned: Aligned, name: str, *, score: float, score_se: float) -> Standing:
    labels, found = aligned.labels, aligned.probabilities[name]
    return Standing(
        name=name,
        score=score,
        score_se=score_se,
        fold_scores=fold_scores(aligned, name),
        accuracy=METRICS["accuracy"].score(labels, found),
        log_loss=METRICS["log_loss"].score(labels, found),
        macro_f1=METRICS["macro_f1"].score(labels, found),
        calibration_error=calibration(labels, found).error,
    )


@dataclass(frozen=True)
class Sample:
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
            weights[against] -= 1
            weights *= 1 if self.metric.greater_is_better else -1
        return weights

    def error(self, weights: Weights) -> float:
        """Standard error of a weighted sum of the scores: by formula where they are means, else by bootstrap."""
        if self.values is not None:
            return float((self.values @ weights).std() / np.sqrt(self.rows))
        return float((self.resampled @ weights).std(ddof=1))

    def score_se(self, one: int) -> float:
        return self.error(self.weights_of(one))

    def gain(self, one: int, against: int) -> tuple[float, float]:
        """How much better one scores than another, and that difference's standard error."""
        weights = self.weights_of(one, against)
        return float(self.scores @ weights), self.error(weights)

    def p(self, one: int, other: int) -> float:
        """Two-sided p of there being no difference between two, by itself."""
        if self.metric.name == "accuracy":
            return self.mcnemar(one, other)
        gain, error = self.gain(one, other)
        if gain == 0:
            return 1.0
        return float(2 * ndtr(-abs(gain) / error)) if error else 0.0

    def mcnemar(self, one: int, other: int) -> float:
        return mcnemar(int(self.alone[one, other]), int(self.alone[other, one]))

    def difference(self, one: int, reference: int, *, p: float, pairs: int) -> Difference:
        gain, error = self.gain(one, reference)
        low, high = np.quantile(self.resampled @ self.weights_of(one, reference), [LEVEL / 2, 1 - LEVEL / 2])
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


def sample(aligned: Aligned, resamples: int) -> Sample:
    """Score experiments on the rows that there are, and on resamples of them, the same for all of them.

    Args:
        resamples: Fewer are made where each score takes long.
    """
    metric, labels, predictions = aligned.metric, aligned.labels, list(aligned.probabilities.values())
    right = np.stack([hits(labels, found) for found in predictions])
    values = None
    if metric.per_row is not None:
        values = np.stack([metric.per_row(labels, found) for found in predictions], axis=1)
    with threadpool_limits(1):  # products as narrow as these are several times as slow on two threads
        return Sample(
            metric=metric,
            rows=len(labels),
            scores=np.array([metric.score(labels, found) for found in predictions]),
            values=values,
            resampled=_resampled(metric, labels, predictions, values, metric.affordable(resamples)),
            alone=(right @ (1 - right).T).astype(np.int64),
        )


def _resampled(
    metric: Metric,
    labels: Labels,
    predictions: Sequence[Probabilities],
    values: NDArray[np.float64] | None,
    resamples: int,
) -> NDArray[np.float64]:
    """Scores of resamples, of shape (resamples, experiments); paired, as all experiments have the same rows."""
    draws = resampling(len(labels), resamples)
    if values is not None:
        return np.stack([weights @ values / len(labels) for weights in draws])
    rescorers = [metric.rescorer(labels, found) for found in predictions]
    drawn = np.array([[rescore(weights) for rescore in rescorers] for weights in draws], dtype=np.float64)
    return drawn[np.isfinite(drawn).all(axis=1)]  # a metric of a competition's own may refuse some
