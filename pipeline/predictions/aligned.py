"""Several experiments' OOF predictions on the same rows, in the same order, with the same classes.

Experiments that are trained on some folds meet the others on the rows of the folds that all of them have. What is
compared or blended must have been held out in the same folds: an experiment that was trained on a row that
another held out would look better than it is.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.competition import Competition
from pipeline.errors import DataError
from pipeline.predictions.metrics import METRIC_SETTINGS, Metric, metric_of
from pipeline.predictions.store import Experiment, probabilities_of
from pipeline.targets import is_label, label_numbers


@dataclass(frozen=True)
class Aligned:
    """OOF predictions of experiments on one competition.

    Attributes:
        ids: Of the rows, sorted.
        labels: int64 of shape (rows,), numbers into `classes`; for several labels 0 and 1 of shape (rows, classes).
        folds: int64 of shape (rows,): the fold each row was held out in.
        probabilities: By experiment, float32 of shape (rows, classes); with TTA where the experiment uses it.
    """

    metric: Metric
    classes: list[str]
    ids: list[str]
    labels: NDArray[np.int64]
    folds: NDArray[np.int64]
    probabilities: dict[str, NDArray[np.float32]]


def align(
    experiments: Sequence[Experiment],
    labels: Mapping[str, str],
    *,
    competition: Competition | None = None,
    form: Callable[[Competition, list[str]], Any] | None = None,
) -> Aligned:
    """Bring experiments together by id.

    Args:
        labels: The label of each training row, by id.
        competition: As `form` of `metric_of`: where the metric may be a file of the competition's.

    Raises:
        DataError: They are of different competitions, folds, rows, classes or metrics; they have no fold in common; or
            a row has no label now.
    """
    first = experiments[0]
    for other in experiments[1:]:
        _require_comparable(first, other)
    common = common_folds(experiments)
    if not common:
        raise DataError(
            "no fold is trained in all of "
            + ", ".join(f"{one.name} (has {', '.join(map(str, one.manifest['folds']))})" for one in experiments),
            expected="experiments that have a fold in common: they are held against each other on its rows",
            next_step="train that fold of the others, too: kit train ... --fold",
        )
    ordered = first.oof[first.oof["fold"].isin(common)].sort_values("id")
    ids = list(ordered["id"])
    target, known = first.manifest["target"], frozenset(first.classes)
    unknown = [key for key in ids if key not in labels or not is_label(labels[key], known, target)]
    if unknown:
        raise DataError(
            f"{len(unknown)} rows of {first.name} have no label it knows, such as {unknown[0]}",
            expected="the training data that the experiments were made from",
            next_step="were rows removed or relabelled? train the experiments again",
        )
    return Aligned(
        metric=metric_of(first.manifest, competition=competition, form=form),
        classes=first.classes,
        ids=ids,
        labels=label_numbers([labels[key] for key in ids], first.classes, target=target),
        folds=ordered["fold"].to_numpy(dtype=np.int64),
        probabilities={one.name: probabilities_of(one.oof, ids, first.classes) for one in experiments},
    )


def common_folds(experiments: Sequence[Experiment]) -> list[int]:
    """The folds that all of them are trained on."""
    first, *others = (one.manifest["folds"] for one in experiments)
    return [fold for fold in first if all(fold in folds for folds in others)]


def comparable_groups(experiments: Sequence[Experiment]) -> list[tuple[list[Experiment], str]]:
    """Experiments on the same rows, in groups, and why each group is not of the first.

    Those on most folds come first, whatever one-fold trials there are beside them; then the largest group.

    Among groups of one size, that whose first experiment comes first in `experiments` is first.
    """
    groups: list[list[Experiment]] = []
    for one in experiments:
        home = next((group for group in groups if not _differences(group[0], one, rows=True)), None)
        if home is None:
            groups.append([one])
        else:
            home.append(one)
    groups.sort(key=lambda group: (len(group[0].manifest["folds"]), len(group)), reverse=True)
    return [(group, ", ".join(_differences(groups[0][0], group[0], rows=True))) for group in groups]


def _require_comparable(first: Experiment, other: Experiment) -> None:
    differs = _differences(first, other)
    if differs:
        raise DataError(
            f"{other.name} cannot be held against {first.name}: it has {', '.join(differs)}",
            expected="experiments on the same rows, held out in the same folds",
            next_step=f"train {other.name} again, or leave it out",
        )


def _differences(first: Experiment, other: Experiment, *, rows: bool = False) -> list[str]:
    """What keeps two from being compared, in words that follow "it has".

    Args:
        rows: That one has rows which the other has not, of folds that it is not trained on, is a difference, too.
    """
    what = {
        "folds_sha256": "other folds",
        "data_sha256": "other pictures or labels",
        "classes": "other classes",
        **dict.fromkeys(METRIC_SETTINGS, "another metric"),
    }
    found = [words for key, words in what.items() if first.manifest.get(key) != other.manifest.get(key)]
    differs = list(dict.fromkeys(found))
    if first.slug != other.slug:
        differs.insert(0, f"another competition ({other.slug})")
    if not differs and set(first.oof["id"]) != set(other.oof["id"]):
        same = first.manifest["folds"] == other.manifest["folds"]
        if same or rows:
            differs.append("other rows" if same else f"the folds {', '.join(map(str, other.manifest['folds']))}")
    return differs
