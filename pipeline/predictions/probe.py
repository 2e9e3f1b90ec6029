"""Linear probes: how well classes are told apart by features that nothing has been trained on, and at what cost.

Each fold's rows are scored by a linear head that was fitted on the other folds (Alain & Bengio, “Understanding
intermediate layers using linear classifier probes”, 2016; Kornblith, Shlens & Le, “Do better ImageNet models transfer
better?”, CVPR 2019).
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from pipeline.predictions.aligned import Aligned
from pipeline.predictions.compare import compare
from pipeline.predictions.metrics import METRICS
from pipeline.predictions.scores import Labels

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)
"""C of the logistic regression, the inverse of the penalty's weight, on standardised features: what is chosen from."""

DEFAULT_STRENGTH = 1e-2
"""Where there are too few rows to choose by."""

_ITERATIONS = 300
_NEVER = -50.0  # the logit of a class without a training row


@dataclass(frozen=True)
class Candidate:
    """A backbone with its weights, both as a recipe names them."""

    backbone: str
    weights: str

    @property
    def name(self) -> str:
        return f"{self.backbone} ({self.weights})"


@dataclass(frozen=True)
class Pass:
    """What one pass of a backbone over the training pictures cost.

    Attributes:
        parameters: Of the backbone.
        weight_bytes: Memory that they take.
        flops: Floating-point operations a picture (`model/cost.py`).
        pictures_per_second: Over the pass, pictures in, features out.
        peak_bytes: Largest memory of the process.
        device_bytes: Of one GPU; None without.
        device: What the network ran on, such as `CPU`.
        measured: When, as `2026-11-21 17:05` in UTC.
    """

    parameters: int
    weight_bytes: int
    flops: int
    pictures_per_second: float
    peak_bytes: int
    device_bytes: int | None
    device: str
    measured: str


@dataclass(frozen=True)
class Probed:
    """A backbone's score with a linear head, beside its cost.

    Attributes:
        gain: How much better than the best it scores on the same rows: at most 0, and 0 for the best itself.
        gain_se: Standard error of that.
        told_apart: Whether the best is better by more than noise would make it, as `compare` finds: with 95 % this is
            right for all pairs together.
    """

    candidate: Candidate
    score: float
    score_se: float
    gain: float
    gain_se: float
    told_apart: bool
    cost: Pass

    @property
    def as_good(self) -> bool:
        """Within one standard error of the best, of the paired difference."""
        return -self.gain <= self.gain_se


@dataclass(frozen=True)
class Probes:
    """Backbones held against each other.

    Attributes:
        metric: Name of the competition's metric.
        rows: How many were scored.
        size: Height and width of the pictures in pixels.
        found: Best first.
        left_out: Those that could not be tried, with the reason.
        floor: The better of the scores that know nothing of the pictures.
        decoding: Whether pictures were decoded while they were passed over, as there was no room to keep them.
    """

    metric: str
    rows: int
    size: tuple[int, int]
    found: list[Probed]
    left_out: dict[Candidate, str]
    floor: float
    decoding: bool


@dataclass(frozen=True)
class LinearHead:
    """Logits of features: `features @ kernel + bias`.

    Attributes:
        kernel: float32 of shape (channels, classes).
        bias: float32 of shape (classes,).
    """

    kernel: NDArray[np.float32]
    bias: NDArray[np.float32]

    def probabilities(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Of shape (rows, classes)."""
        found: NDArray[np.float32] = softmax(features @ self.kernel + self.bias, axis=1)
        return found


def fit_head(
    features: NDArray[np.float32],
    labels: Labels,
    *,
    trained: NDArray[np.int64],
    inner: NDArray[np.int64],
    classes: int,
    strength: float | None = None,
) -> LinearHead:
    """Fit a linear head.

    Multinomial logistic regression on features that are standardised by the training rows. Its strength is the one of
    `STRENGTHS` with the least log loss on the inner rows, when fitted on the other training rows; then all are used.

    Args:
        features: Of all rows, of shape (rows, channels).
        labels: Of all rows; those of no other rows than `trained` are looked at.
        trained: Rows to fit on.
        inner: Some of them, which choose the strength; empty for `DEFAULT_STRENGTH`.
        strength: Told.
    """
    if strength is None and len(inner):
        outer = np.setdiff1d(trained, inner)
        losses = [
            METRICS["log_loss"].score(
                labels[inner], _fitted(features, labels, outer, value, classes).probabilities(features[inner])
            )
            for value in STRENGTHS
        ]
        strength = STRENGTHS[int(np.argmin(losses))]
    return _fitted(features, labels, trained, strength or DEFAULT_STRENGTH, classes)


def _fitted(
    features: NDArray[np.float32], labels: Labels, trained: NDArray[np.int64], strength: float, classes: int
) -> LinearHead:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scaler, regression = StandardScaler(), LogisticRegression(C=strength, max_iter=_ITERATIONS)
    # One thread: on products this small, threads that share busy cores wait for one another most of the time.
    with warnings.catch_warnings(), threadpool_limits(1):
        # A head that is stopped early is a little more regularised, no more.
        warnings.simplefilter("ignore", ConvergenceWarning)
        regression.fit(scaler.fit_transform(features[trained]), labels[trained])
    slopes, intercepts = regression.coef_, regression.intercept_
    if len(regression.classes_) == 2:  # scikit-learn gives the difference of the two classes' logits
        slopes, intercepts = (np.concatenate([-half, half]) for half in (slopes / 2, intercepts / 2))
    kernel, bias = np.zeros((features.shape[1], classes)), np.full(classes, _NEVER)
    kernel[:, regression.classes_] = (slopes / scaler.scale_).T
    bias[regression.classes_] = intercepts - scaler.mean_ @ kernel[:, regression.classes_]
    return LinearHead(kernel.astype(np.float32), bias.astype(np.float32))


def rank(aligned: Aligned, costs: Mapping[Candidate, Pass]) -> list[Probed]:
    """Score candidates on the same rows, best first; of equal ones the cheaper first.

    Args:
        aligned: Their predictions, by `Candidate.name`.
        costs: One candidate at least.
    """
    named = {one.name: one for one in sorted(costs, key=lambda one: costs[one].flops)}
    found = compare(replace(aligned, probabilities={name: aligned.probabilities[name] for name in named}))
    ranked = []
    for standing in found.standings:
        one, difference = named[standing.name], found.differences.get(standing.name)
        gain = (difference.gain, difference.gain_se, difference.verdict == "worse") if difference else (0.0, 0.0, False)
        ranked.append(Probed(one, standing.score, standing.score_se, *gain, costs[one]))
    return ranked


def recommended(found: Sequence[Probed]) -> Probed:
    """The one with the fewest operations within one standard error of the best (the rule of Breiman et al., 1984)."""
    return min((one for one in found if one.as_good), key=lambda one: (one.cost.flops, one.cost.parameters))
