"""Decisions: labels from probabilities, where another rule than the likeliest class, or one half, scores better.

What is fitted on some folds' rows is scored on those of the others: no row is scored by values that have seen its
label. A rule is used only where its gain is greater than the gain's standard error. As that is asked of the rows that
are scored, it flatters by about half of that error where nothing is to be gained.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.predictions.decide_fits import WORTH, Values, expected_class, fit_cuts, fit_threshold, fit_thresholds
from pipeline.predictions.metrics import Metric, paired_gain, standard_error
from pipeline.predictions.scores import Labels, Probabilities
from pipeline.targets import above_half, likeliest

Kind = Literal["threshold", "thresholds", "cuts"]


@dataclass(frozen=True)
class Decision:
    """How labels are taken from probabilities.

    Attributes:
        kind: One `threshold` for all of several labels, `thresholds` of each class, or `cuts` between classes with an
            order, on the expected class.
        values: Fitted on all rows: one, one a class, or one fewer than classes. None where there is one fold alone, as
            nothing could say then what they are worth.
        used: Whether `decide` goes by them.
        score: Of the rows, each decided by the other folds' values; with its standard error.
        plain_score: With the likeliest class, or one half.
        gain: Of the first over the second, with its standard error; positive is better.
        optimism: By how much the score of all rows by `values`, which were fitted on them, is better than `score`.
        at_least_one: Whether a picture without a label is given the likeliest.
    """

    kind: Kind
    values: tuple[float, ...]
    used: bool
    score: float
    score_se: float
    plain_score: float
    gain: float
    gain_se: float
    optimism: float
    at_least_one: bool = False


def decision_from(manifest: Mapping[str, Any]) -> Decision:
    """A decision that was written as JSON by `dataclasses.asdict`."""
    return Decision(**{**manifest, "values": tuple(manifest["values"])})


def decide(decision: Decision, probabilities: Probabilities) -> Labels:
    """Class numbers, int64 of shape (rows,), or for several labels 0 and 1 of shape (rows, classes)."""
    kind = decision.kind if decision.used else None
    values = np.array(decision.values)
    return _decided(kind, values, probabilities, several=decision.kind != "cuts", at_least_one=decision.at_least_one)


def fit_decision(
    metric: Metric,
    labels: Labels,
    probabilities: Probabilities,
    folds: NDArray[np.int64],
    *,
    at_least_one: bool = False,
) -> Decision | None:
    """Fit thresholds of several labels, or cut points for `quadratic_kappa`; None where there is nothing to fit.

    Thresholds of each class are taken before one for all where they are better by more than the error of that gain.

    Args:
        labels: Class numbers in an order that means something, or 0 and 1 of shape (rows, classes).
        folds: The fold that each row was held out in, of shape (rows,).
        at_least_one: Whether a submission gives a picture without a label the likeliest, as one of names does.
    """
    several = labels.ndim == 2
    if metric.needs != "labels" or not (several or metric.name == "quadratic_kappa"):
        return None
    fits: dict[Kind, Callable[[Metric, Labels, Probabilities], Values]] = {"cuts": fit_cuts}
    if several:
        fits = {"threshold": fit_threshold}
        if metric.name in WORTH:
            fits["thresholds"] = fit_thresholds

    def decided(kind: Kind | None, values: Values, found: Probabilities) -> Labels:
        return _decided(kind, values, found, several=several, at_least_one=at_least_one)

    def said(chosen: Labels) -> Probabilities:
        """Probabilities that are sure of these labels."""
        return chosen.astype(np.float32) if several else np.eye(probabilities.shape[1], dtype=np.float32)[chosen]

    plain = said(decided(None, np.array([]), probabilities))
    plain_score, numbers = metric.score(labels, plain), np.unique(folds)
    if len(numbers) == 1:
        rest = (False, plain_score, standard_error(metric, labels, plain), plain_score, 0.0, 0.0, 0.0, at_least_one)
        return Decision(next(iter(fits)), (), *rest)
    best: tuple[Kind, Probabilities, float, float] | None = None
    for kind, fit in fits.items():
        chosen = np.empty_like(labels)
        for fold in numbers:
            own = folds == fold
            chosen[own] = decided(kind, fit(metric, labels[~own], probabilities[~own]), probabilities[own])
        found = said(chosen)
        gain, error = paired_gain(metric, labels, plain, found)
        if best is not None and best[2] > best[3]:  # it has to be better than a rule that is of use, too
            step, step_error = paired_gain(metric, labels, best[1], found)
            if step <= step_error:
                continue
        if best is None or gain > error:
            best = kind, found, gain, error
    assert best is not None
    kind, found, gain, error = best
    values, score = fits[kind](metric, labels, probabilities), metric.score(labels, found)
    seen = metric.score(labels, said(decided(kind, values, probabilities)))
    return Decision(
        kind=kind,
        values=tuple(map(float, values)),
        used=gain > error,
        score=score,
        score_se=standard_error(metric, labels, found),
        plain_score=plain_score,
        gain=gain,
        gain_se=error,
        optimism=metric.gain(score, seen),
        at_least_one=at_least_one,
    )


def _decided(
    kind: Kind | None, values: Values, probabilities: Probabilities, *, several: bool, at_least_one: bool
) -> Labels:
    """By these values; None takes the likeliest class, or all from one half on."""
    if not several:
        by_cuts = np.searchsorted(values, expected_class(probabilities), "right")
        return likeliest(probabilities) if kind is None else by_cuts
    chosen = above_half(probabilities) if kind is None else np.asarray(probabilities >= values, dtype=np.int64)
    if at_least_one:
        nothing = ~chosen.any(axis=1)
        chosen[nothing, probabilities[nothing].argmax(axis=1)] = 1
    return chosen
