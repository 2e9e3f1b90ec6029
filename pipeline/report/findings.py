"""What several experiments say of single rows: labels that are likely wrong, pictures that look the same."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.data.duplicates import Duplicate
from pipeline.predictions.aligned import Aligned
from pipeline.predictions.mistakes import how_sure, label_issues
from pipeline.targets import decided_like, label_texts


@dataclass(frozen=True)
class Issue:
    """A row whose label is likely wrong.

    Attributes:
        suggested: What the first experiment that says so takes it for, with which probability: of several labels, that
            the one most in question is there, or is not.
        said_by: How many experiments say so.
        asked: How many have a prediction for it.
        quality: The probability of the label, their mean.
    """

    id: str
    label: str
    suggested: str
    probability: float
    said_by: int
    asked: int
    quality: float


@dataclass(frozen=True)
class JudgedDuplicate:
    """Two pictures that are one, and what is said of them.

    Attributes:
        labels: Of both; None where there is none.
        predicted: As what one experiment takes both; None where it has no prediction.
        differs: "labels", "predictions" or "", whatever is worse.
    """

    duplicate: Duplicate
    labels: tuple[str | None, str | None]
    predicted: tuple[str | None, str | None]
    differs: str


def find_issues(experiments: Sequence[tuple[str, Aligned]]) -> list[Issue]:
    """Rows that any experiment finds mislabelled: those that most agree on first, then the least likely labels.

    Args:
        experiments: Names, each with predictions that hold it.
    """
    said: dict[str, list[tuple[float, str, str, float]]] = defaultdict(list)
    for name, aligned in experiments:
        probabilities = aligned.probabilities[name]
        found = label_issues(aligned.labels, probabilities)
        given = label_texts(aligned.labels[found.rows], aligned.classes)
        taken = label_texts(decided_like(aligned.labels, probabilities[found.rows]), aligned.classes)
        sure = how_sure(aligned.labels, probabilities)
        for row, label, chosen in zip(found.rows, given, taken, strict=True):
            said[aligned.ids[row]].append((float(found.quality[row]), label, chosen, float(sure[row])))
    asked = Counter(key for _, aligned in experiments for key in aligned.ids)
    issues = []
    for key, sayings in said.items():
        _, label, suggested, probability = sayings[0]
        quality = float(np.mean([one[0] for one in sayings]))
        issues.append(Issue(key, label, suggested, probability, len(sayings), asked[key], quality))
    return sorted(issues, key=lambda issue: (-issue.said_by, issue.quality, issue.id))


def judge_duplicates(
    duplicates: Sequence[Duplicate], *, labels: Mapping[str, str], predicted: Mapping[str, str]
) -> list[JudgedDuplicate]:
    """Those whose labels differ first, then those whose predictions do, then the likest.

    Args:
        predicted: The class of each row that has a prediction, by id.
    """
    found = []
    for one in duplicates:
        given = labels.get(one.id_a), labels.get(one.id_b)
        taken = predicted.get(one.id_a), predicted.get(one.id_b)
        differs = "labels" if given[0] != given[1] else "predictions" if taken[0] != taken[1] else ""
        found.append(JudgedDuplicate(one, given, taken, differs))
    order = {"labels": 0, "predictions": 1, "": 2}
    return sorted(found, key=lambda pair: (order[pair.differs], pair.duplicate.kind, -pair.duplicate.correlation))
