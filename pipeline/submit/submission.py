"""Submission: a CSV that holds against the competition's sample submission."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import pandas as pd

from pipeline.artifacts import Workspace, atomic_path
from pipeline.competition import Competition
from pipeline.data.forms import form_of
from pipeline.data.tables import read_table
from pipeline.errors import SubmissionError, counted, name_some
from pipeline.predictions.decide import Decision, decide

DIGITS = "%.9g"
"""Nine digits tell any two float32 numbers apart: no metric that ranks sees ties that are not there."""


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


def make_submission(
    competition: Competition, predictions: pd.DataFrame, classes: Sequence[str], decision: Decision | None = None
) -> pd.DataFrame:
    """The sample submission filled with predictions, its rows and columns in the sample's order.

    Args:
        predictions: Column id and one column a class, in any order of rows.
        decision: How labels are taken from probabilities; by default the likeliest class, or all from one half on.

    Raises:
        SubmissionError: The predictions lack an id.
        DataError: The sample's columns do not go with `submission` in competition.yaml, or with the classes.
    """
    sample = read_sample(competition)
    form = form_of(competition, list(sample.columns), classes)
    keys = list(sample[form.key])
    missing = sorted(set(form.pictures(keys)) - set(predictions["id"]))
    if missing:
        raise SubmissionError(
            f"{len(missing)} ids of the sample submission have no prediction: {name_some(missing)}",
            expected="a prediction for each",
            next_step="were the test pictures changed after training? train again",
        )
    return form.fill(keys, predictions, partial(decide, decision) if decision else None)


def write_submission(
    competition: Competition,
    predictions: pd.DataFrame,
    classes: Sequence[str],
    *,
    experiment: str,
    score: float,
    workspace: Workspace,
    now: datetime,
    decision: Decision | None = None,
) -> Path:
    """Make a submission, check it, and write it as `<time>-<experiment>-<score>.csv`.

    Raises:
        SubmissionError: It does not hold against the sample; nothing is written.
    """
    folder = workspace.submissions(competition.slug)
    while (path := folder / f"{now:%Y%m%d-%H%M%S}-{experiment}-{score:.4f}.csv").exists():
        now += timedelta(seconds=1)  # a submission is never overwritten
    write_checked(competition, predictions, classes, path=path, decision=decision)
    return path


def write_checked(
    competition: Competition,
    predictions: pd.DataFrame,
    classes: Sequence[str],
    *,
    path: Path,
    decision: Decision | None = None,
) -> None:
    """Make a submission, check it, its order too, and write it.

    Raises:
        SubmissionError: It does not hold against the sample; nothing is written.
    """
    frame = make_submission(competition, predictions, classes, decision)
    with atomic_path(path) as temporary:
        frame.to_csv(temporary, index=False, float_format=DIGITS)
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
        DataError: The file cannot be read as a CSV, or the sample's columns do not go with `submission`.
    """
    sample, given = read_sample(competition), read_table(path)
    if list(given.columns) != list(sample.columns):
        fault = f"columns are {list(given.columns)}, expected {list(sample.columns)} in this order"
        return Check(len(given), (fault,))
    form = form_of(competition, list(sample.columns), classes)
    faults = _id_faults(given[form.key], sample[form.key])
    order = "" if faults else _order(given[form.key], sample[form.key])
    return Check(len(given), (*faults, *form.faults(given)), order)


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
