"""Calibration: whether what is predicted at 90 % is right nine times in ten."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.predictions.metrics import Labels, Probabilities

BINS = 15


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
    """Bin the rows by their largest probability."""
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == labels
    place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    counts = np.bincount(place, minlength=bins)
    divisor = np.maximum(counts, 1)
    return Calibration(
        counts=counts,
        confidence=np.bincount(place, weights=confidence, minlength=bins) / divisor,
        accuracy=np.bincount(place, weights=right, minlength=bins) / divisor,
    )
