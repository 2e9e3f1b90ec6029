"""Calibration: whether what is predicted at 90 % is right nine times in ten, and the temperature that mends it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.predictions.scores import LEAST, Labels, Probabilities
from pipeline.targets import all_right

BINS = 15
_TEMPERATURE_CELLS = 2_000_000  # rows × classes: one number binds here, more rows would add nothing that can be seen


@dataclass(frozen=True)
class Calibration:
    """Rows by the probability of the class they were predicted as, in bins of equal width (lower, upper].

    Attributes:
        counts: int64 of shape (bins,): rows.
        confidence: float64 of shape (bins,): their mean largest probability; 0 where there are no rows.
        accuracy: float64 of shape (bins,): the share of them that is right; 0 where there are no rows.
    """

    counts: NDArray[np.int64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]

    @property
    def error(self) -> float:
        """Expected calibration error (Naeini et al., 2015; Guo et al., 2017): the bins' gaps, weighted by rows."""
        gaps = np.abs(self.accuracy - self.confidence)
        return float((self.counts * gaps).sum() / self.counts.sum())


def calibration(labels: Labels, probabilities: Probabilities, *, bins: int = BINS) -> Calibration:
    """Bin the rows by their largest probability; of several labels, each class of each row by its own."""
    if labels.ndim == 2:
        confidence, right = probabilities.ravel().astype(np.float64), labels.ravel() == 1
    else:
        confidence, right = probabilities.max(axis=1).astype(np.float64), all_right(labels, probabilities)
    place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    counts = np.bincount(place, minlength=bins)
    divisor = np.maximum(counts, 1)
    return Calibration(
        counts=counts,
        confidence=np.bincount(place, weights=confidence, minlength=bins) / divisor,
        accuracy=np.bincount(place, weights=right, minlength=bins) / divisor,
    )


@dataclass(frozen=True)
class OofTemperature:
    """A temperature fitted on OOF predictions.

    Attributes:
        value: Above 1 the model was too sure of itself, below 1 not sure enough.
        error_before: Expected calibration error of the predictions as they are.
        error_after: The same after scaling; each fold's rows by the temperature that the other folds give.
        folds: How many there are; with one, `error_after` is of the rows that the temperature was fitted on.
    """

    value: float
    error_before: float
    error_after: float
    folds: int

    @property
    def helps(self) -> bool:
        """Whether the calibration error is lower with it."""
        return self.error_after < self.error_before


def oof_temperature(
    probabilities: NDArray[np.float32], labels: Labels, folds: NDArray[np.int64]
) -> OofTemperature | None:
    """The temperature of these OOF predictions; None where every row is right, as then no doubt is too small, or where
    a picture may have several labels.

    Args:
        probabilities: Shape (rows, classes).
        folds: The fold that each row was held out in, of shape (rows,).
    """
    if labels.ndim == 2 or all_right(labels, probabilities).all():
        return None
    scaled, numbers = np.empty_like(probabilities), np.unique(folds)
    for fold in numbers:
        own = folds == fold
        others = ~own if len(numbers) > 1 else own
        scaled[own] = apply_temperature(probabilities[own], fit_temperature(probabilities[others], labels[others]))
    return OofTemperature(
        value=fit_temperature(probabilities, labels),
        error_before=calibration(labels, probabilities).error,
        error_after=calibration(labels, scaled).error,
        folds=len(numbers),
    )


def fit_temperature(probabilities: NDArray[np.float32], labels: Labels) -> float:
    """The temperature in 0.05..20 that minimises the log loss of softmax(log p / T) (Guo et al., 2017)."""
    from scipy.optimize import minimize_scalar  # a comparison, which asks for `calibration` alone, does not wait for it

    rows = some_rows(len(labels), _TEMPERATURE_CELLS // probabilities.shape[1])
    logs = log_probabilities(probabilities[rows])
    logs -= logs.max(axis=1, keepdims=True)
    own = logs[np.arange(len(rows)), labels[rows]]

    def loss(log_temperature: float) -> float:
        inverse = np.float32(np.exp(-log_temperature))
        return float(np.mean(np.log(np.exp(logs * inverse).sum(axis=1)) - own * inverse, dtype=np.float64))

    found = minimize_scalar(loss, bounds=(np.log(0.05), np.log(20.0)), method="bounded", options={"xatol": 1e-4})
    return float(np.exp(found.x))


def apply_temperature(probabilities: NDArray[np.float32], temperature: float) -> NDArray[np.float32]:
    """softmax(log p / T), of the same shape: (rows, classes). Which class is first does not change."""
    return softmax(log_probabilities(probabilities) / np.float32(temperature))


def log_probabilities(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.log(np.maximum(probabilities, np.float32(LEAST)))


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True), dtype=np.float32)


def some_rows(count: int, limit: int) -> NDArray[np.int64]:
    """At most `limit` of `count` rows, drawn at random and the same every time, in order."""
    limit = max(limit, 1)
    return np.arange(count) if count <= limit else np.sort(np.random.default_rng(0).permutation(count)[:limit])
