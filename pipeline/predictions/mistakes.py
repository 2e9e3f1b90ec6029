"""Where predictions go wrong: classes, pairs of classes, single rows; and labels that are likely wrong themselves."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.predictions.scores import Labels, Probabilities
from pipeline.targets import THRESHOLD, all_right


@dataclass(frozen=True)
class ClassScore:
    """How one class fares; None where there is nothing to divide by.

    Attributes:
        rows: That are of it.
        predicted: Rows that were taken for it.
        confidence: Mean largest probability of its rows, whichever class that was of; of several labels, its own.
        taken_for: The class its rows are wrongly taken for most often, and how many are; None where all are right.
    """

    name: str
    rows: int
    predicted: int
    precision: float | None
    recall: float | None
    f1: float | None
    confidence: float | None
    taken_for: tuple[str, int] | None


@dataclass(frozen=True)
class ConfusedPair:
    """Rows of one class that were taken for another.

    Attributes:
        share: Of the rows of class `true`.
        reverse: Rows of class `predicted` that were taken for `true`.
    """

    true: str
    predicted: str
    rows: int
    share: float
    reverse: int


@dataclass(frozen=True)
class LabelIssues:
    """Rows whose label is likely wrong.

    Attributes:
        rows: int64, the least likely label first.
        quality: float64 of shape (all rows,): 0 to 1, the probability of the given label.
    """

    rows: NDArray[np.int64]
    quality: NDArray[np.float64]


def confusion(labels: Labels, probabilities: Probabilities) -> NDArray[np.int64]:
    """How many rows of each class (first axis) were predicted as each class: int64 of shape (classes, classes)."""
    classes = probabilities.shape[1]
    place = labels * classes + probabilities.argmax(axis=1)
    return np.bincount(place, minlength=classes**2).reshape(classes, classes)


def class_scores(labels: Labels, probabilities: Probabilities, classes: Sequence[str]) -> list[ClassScore]:
    """One entry a class, in their order; of several labels each class is for itself, predicted from one half on."""
    if labels.ndim == 2:
        chosen = probabilities >= THRESHOLD
        counts = zip((chosen & (labels == 1)).sum(axis=0), labels.sum(axis=0), chosen.sum(axis=0), strict=True)
        sure = (probabilities * labels).sum(axis=0)
        return [
            _class_score(name, *map(int, found), sure=float(one), taken_for=None)
            for name, found, one in zip(classes, counts, sure, strict=True)
        ]
    matrix = confusion(labels, probabilities)
    sure = np.bincount(labels, weights=probabilities.max(axis=1), minlength=len(classes))
    scores = []
    for number, name in enumerate(classes):
        right, rows, predicted = matrix[number, number], matrix[number].sum(), matrix[:, number].sum()
        wrong = matrix[number].copy()
        wrong[number] = 0
        worst = int(wrong.argmax())
        taken_for = (classes[worst], int(wrong[worst])) if wrong[worst] else None
        found = (int(right), int(rows), int(predicted))
        scores.append(_class_score(name, *found, sure=float(sure[number]), taken_for=taken_for))
    return scores


def _class_score(
    name: str, right: int, rows: int, predicted: int, *, sure: float, taken_for: tuple[str, int] | None
) -> ClassScore:
    return ClassScore(
        name=name,
        rows=rows,
        predicted=predicted,
        precision=right / predicted if predicted else None,
        recall=right / rows if rows else None,
        f1=2 * right / (rows + predicted) if rows + predicted else None,
        confidence=sure / rows if rows else None,
        taken_for=taken_for,
    )


def confused_pairs(matrix: NDArray[np.int64], classes: Sequence[str]) -> list[ConfusedPair]:
    """Every pair that occurs, the most frequent first.

    Args:
        matrix: From `confusion`.
    """
    totals = matrix.sum(axis=1)
    wrong = matrix - np.diag(np.diag(matrix))
    places = [(int(true), int(predicted)) for true, predicted in zip(*np.nonzero(wrong), strict=True)]
    places.sort(key=lambda place: (-wrong[place], place))
    return [
        ConfusedPair(
            true=classes[true],
            predicted=classes[predicted],
            rows=int(wrong[true, predicted]),
            share=float(wrong[true, predicted] / totals[true]),
            reverse=int(wrong[predicted, true]),
        )
        for true, predicted in places
    ]


def confident_mistakes(labels: Labels, probabilities: Probabilities) -> NDArray[np.int64]:
    """The rows that were predicted wrong, that with the most probable wrong class, or wrong absence, first."""
    wrong = np.flatnonzero(~all_right(labels, probabilities))
    return wrong[np.argsort(-how_sure(labels, probabilities)[wrong], kind="stable")]


def how_sure(labels: Labels, probabilities: Probabilities) -> NDArray[np.floating]:
    """The probability of what each row is taken for; of several labels, that one of them is there, or is not, that is
    given the other way round."""
    sure = np.abs(probabilities - labels) if labels.ndim == 2 else probabilities
    return np.asarray(sure.max(axis=1))


def label_issues(labels: Labels, probabilities: Probabilities) -> LabelIssues:
    """Rows whose label is likely wrong, by confident learning (Northcutt et al., 2021, "Confident Learning").

    Args:
        probabilities: Out-of-fold: a model that has learned a wrong label believes it.
    """
    if labels.ndim == 2:
        return _several_issues(labels, probabilities)
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    with warnings.catch_warnings():
        # It says so where a class has too few rows to flag any.
        warnings.filterwarnings("ignore", category=UserWarning, module="cleanlab")
        found = find_label_issues(labels, probabilities, return_indices_ranked_by="self_confidence", n_jobs=1)
        quality = get_label_quality_scores(labels, probabilities, method="self_confidence")
    return LabelIssues(np.asarray(found, dtype=np.int64), np.asarray(quality, dtype=np.float64))


def _several_issues(labels: Labels, probabilities: Probabilities) -> LabelIssues:
    """The same where there may be several labels (Thyagarajan et al., 2023)."""
    from cleanlab.multilabel_classification.filter import find_label_issues
    from cleanlab.multilabel_classification.rank import get_label_quality_scores

    given = [np.flatnonzero(row).tolist() for row in labels]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="cleanlab")
        found = find_label_issues(given, probabilities, return_indices_ranked_by="self_confidence", n_jobs=1)
        quality = get_label_quality_scores(given, probabilities)
    return LabelIssues(np.asarray(found, dtype=np.int64), np.asarray(quality, dtype=np.float64))
