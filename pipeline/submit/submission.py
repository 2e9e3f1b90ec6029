"""Submission: a CSV that holds against the competition's sample submission."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.artifacts import Workspace, atomic_path
from pipeline.competition import Competition
from pipeline.data.tables import name_some, read_table
from pipeline.errors import SubmissionError, counted


@dataclass(frozen=True)
class Check:
    """What `check` found: no faults means that the competition takes the file.

    Attributes:
        order: What is to be said of the order of the rows, where it is not the sample's: Kaggle joins by id, and takes
            such a file all but everywhere.
    """

    rows: int
    faults: tuple[str, ...]
    order: str = ""


def read_sample(competition: Competition) -> pd.DataFrame:
    """The sample submission, every value as text.

    Raises:
        SubmissionError: The competition has none.
    """
    if competition.sample_submission is None:
        raise SubmissionError(
            f"{competition.slug} has no sample submission",
            expected="sample_submission in competition.yaml: the CSV that shows what a submission looks like",
            next_step="add it; without one there is nothing to submit to",
        )
    return read_table(competition.data / competition.sample_submission)


def make_submission(competition: Competition, predictions: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """The sample submission filled with predictions, its rows and columns in the sample's order.

    Args:
        predictions: Column id and one column a class, in any order of rows.

    Raises:
        SubmissionError: The predictions lack an id, or the sample has a column that is no class.
    """
    sample = read_sample(competition)
    key = sample.columns[0]
    missing = sorted(set(sample[key]) - set(predictions["id"]))
    if missing:
        raise SubmissionError(
            f"{len(missing)} ids of the sample submission have no prediction: {name_some(missing)}",
            expected="a prediction for each",
            next_step="were the test pictures changed after training? train again",
        )
    ordered = predictions.set_index("id").loc[sample[key]]
    if competition.submission == "class":
        chosen = ordered[list(classes)].to_numpy().argmax(axis=1)
        labels = np.asarray(classes, dtype=object)[chosen]
        return pd.DataFrame({key: sample[key], sample.columns[1]: labels})
    strange = [column for column in sample.columns[1:] if column not in classes]
    if strange:
        raise SubmissionError(
            f"the sample submission has columns that are no class: {name_some(strange)}",
            expected=f"the classes {name_some(classes)}",
            next_step="check label_column and `submission` in competition.yaml",
        )
    values = ordered[list(sample.columns[1:])].to_numpy(dtype=np.float64)
    values = values / values.sum(axis=1, keepdims=True)  # float32 sums miss 1 by a little
    frame = pd.DataFrame(values, columns=sample.columns[1:])
    frame.insert(0, key, sample[key])
    return frame


def write_submission(
    competition: Competition,
    predictions: pd.DataFrame,
    classes: Sequence[str],
    *,
    experiment: str,
    score: float,
    workspace: Workspace,
    now: datetime,
) -> Path:
    """Make a submission, check it, and write it as `<time>-<experiment>-<score>.csv`.

    Raises:
        SubmissionError: It does not hold against the sample; nothing is written.
    """
    folder = workspace.submissions(competition.slug)
    while (path := folder / f"{now:%Y%m%d-%H%M%S}-{experiment}-{score:.4f}.csv").exists():
        now += timedelta(seconds=1)  # a submission is never overwritten
    write_checked(competition, predictions, classes, path=path)
    return path


def write_checked(competition: Competition, predictions: pd.DataFrame, classes: Sequence[str], *, path: Path) -> None:
    """Make a submission, check it, its order too, and write it.

    Raises:
        SubmissionError: It does not hold against the sample; nothing is written.
    """
    frame = make_submission(competition, predictions, classes)
    with atomic_path(path) as temporary:
        frame.to_csv(temporary, index=False)
        check = check_submission(competition, temporary, classes=classes)
        require(replace(check, faults=(*check.faults, check.order)) if check.order else check, path)


def require(check: Check, path: Path) -> None:
    """Raise `SubmissionError` with all faults, if there are any."""
    if check.faults:
        raise SubmissionError(
            f"{path} does not match the sample submission:\n" + "\n".join(f"  - {fault}" for fault in check.faults),
            expected="what the sample submission shows",
            next_step="mend the file, or make it anew with `kit submission make EXPERIMENT`",
        )


def check_submission(competition: Competition, path: Path, *, classes: Sequence[str]) -> Check:
    """Hold a CSV against the sample submission: columns, ids, values; and say whether its rows are in another order.

    Args:
        classes: The labels that may be predicted.

    Raises:
        DataError: The file cannot be read as a CSV.
    """
    sample, given = read_sample(competition), read_table(path)
    if list(given.columns) != list(sample.columns):
        fault = f"columns are {list(given.columns)}, expected {list(sample.columns)} in this order"
        return Check(len(given), (fault,))
    key = sample.columns[0]
    values = given[list(sample.columns[1:])]
    faults = _id_faults(given[key], sample[key])
    order = "" if faults else _order(given[key], sample[key])
    if competition.submission == "class":
        faults += _label_faults(given[key], values.iloc[:, 0], classes)
    else:
        faults += _probability_faults(given[key], values, competition.metric)
    return Check(len(given), tuple(faults), order)


def _id_faults(given: pd.Series, expected: pd.Series) -> list[str]:
    faults = []
    repeated = sorted(set(given[given.duplicated()]))
    missing, unknown = sorted(set(expected) - set(given)), sorted(set(given) - set(expected))
    for found, what in ((repeated, "repeated"), (missing, "missing"), (unknown, "unknown")):
        if found:
            faults.append(f"{counted(len(found), 'id is', 'ids are')} {what}: {name_some(found)}")
    return faults


def _order(given: pd.Series, expected: pd.Series) -> str:
    differing = (row for row, (a, b) in enumerate(zip(given, expected, strict=True)) if a != b)
    first = next(differing, None)
    if first is None:
        return ""
    return (
        f"the rows are in another order than the sample's, from row {first + 1} on: "
        f"{given.iloc[first]} instead of {expected.iloc[first]}"
    )


def _label_faults(ids: pd.Series, labels: pd.Series, classes: Sequence[str]) -> list[str]:
    faults = []
    empty = labels.str.strip().str.lower().isin({"", "nan"}) & ~labels.isin(list(classes))
    if empty.any():
        faults.append(f"{counted(int(empty.sum()), 'row has', 'rows have')} no label: {name_some(ids[empty])}")
    unknown = ~labels.isin(list(classes)) & ~empty
    if unknown.any():
        pairs = [f"{key} ({label!r})" for key, label in zip(ids[unknown], labels[unknown], strict=True)]
        unknown_labels = counted(len(pairs), "label is", "labels are")
        faults.append(f"{unknown_labels} unknown: {name_some(pairs)}; known are {name_some(classes)}")
    return faults


def _probability_faults(ids: pd.Series, values: pd.DataFrame, metric: str) -> list[str]:
    numbers = values.apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float64)
    finite = np.isfinite(numbers).all(axis=1)
    outside = finite & ((numbers < 0) | (numbers > 1)).any(axis=1)
    # Log loss is of a distribution; other metrics take any numbers in range.
    uneven = (metric == "log_loss") & finite & ~outside & (np.abs(numbers.sum(axis=1) - 1) > 1e-3)
    found = (
        (~finite, "an empty, NaN or non-numeric probability"),
        (outside, "a probability outside 0..1"),
        (uneven, "probabilities that do not sum to 1"),
    )
    return [
        f"{counted(int(rows.sum()), 'row has', 'rows have')} {what}: {name_some(ids[rows])}"
        for rows, what in found
        if rows.any()
    ]
