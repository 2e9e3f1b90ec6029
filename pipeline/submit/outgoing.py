"""What is about to be submitted: a checked CSV and the experiment it is of. Nothing here needs the network."""

import hashlib
import re
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from pipeline.artifacts import Workspace
from pipeline.competition import Competition
from pipeline.data.index import train_index
from pipeline.errors import DataError, KitError
from pipeline.predictions.manifests import folds_in_words
from pipeline.predictions.store import Experiment, read_experiment
from pipeline.submit.submission import DIGITS, check_submission, make_submission, require, write_submission
from pipeline.targets import classes_of

_OWN_NAME = re.compile(r"\d{8}-\d{6}-(?P<experiment>.+)-[^-]+\.csv")
"""What `write_submission` calls its files; their times sort as text does."""


@dataclass(frozen=True)
class Outgoing:
    """A file, or a kernel's version, ready to be sent.

    Attributes:
        file: As the ledger names it: the CSV's path, or `owner/slug/version`.
        sha256: Of the CSV's bytes, or of the kernel's code.
        rows: Of the CSV; 0 for a kernel.
        experiment: Empty where the content is not known to be an experiment's predictions.
        oof_score: The experiment's, with the standard error beside it.
        order: As `Check` has it.
        folds: As `folds_in_words` has it; empty where no experiment is known.
    """

    slug: str
    file: str
    sha256: str
    rows: int = 0
    experiment: str = ""
    oof_score: float | None = None
    oof_score_se: float | None = None
    order: str = ""
    folds: str = ""


def outgoing_file(competition: Competition, path: Path, *, workspace: Workspace) -> Outgoing:
    """A CSV that matches the sample submission.

    A file named as `kit submission make` names it, or a copy of one, is its experiment's only if it holds what the
    experiment predicts now: trained anew under the same name, the OOF score would be another file's.

    Raises:
        SubmissionError: It does not hold.
        DataError: There is no such file, or it is no CSV.
    """
    classes = classes_of(competition, train_index(competition)["label"])
    check = check_submission(competition, path, classes=classes)
    require(check, path)
    content, made = path.read_bytes(), workspace.submissions(competition.slug).glob("*.csv")
    names = [path.name, *(file.name for file in sorted(made, reverse=True) if file.read_bytes() == content)]
    named = filter(None, map(_OWN_NAME.fullmatch, names))
    found = (_experiment(competition, each["experiment"], path, workspace) for each in named)
    outgoing = _of_file(competition, path, check.rows, next(filter(None, found), None))
    return replace(outgoing, order=check.order)


def outgoing_experiment(competition: Competition, name: str, *, workspace: Workspace, now: datetime) -> Outgoing:
    """The newest submission of a finished experiment, made if none holds what it predicts.

    Raises:
        DataError: There is no such experiment.
        SubmissionError: Its predictions do not hold against the sample submission.
    """
    experiment = read_experiment(workspace, competition.slug, name)
    content = _content(competition, experiment)
    files = sorted(workspace.submissions(competition.slug).glob(f"*-{name}-*.csv"), reverse=True)
    for path in files:
        named = _OWN_NAME.fullmatch(path.name)
        if named and named["experiment"] == name and path.read_bytes() == content:
            check = check_submission(competition, path, classes=experiment.classes)
            require(check, path)
            return _of_file(competition, path, check.rows, experiment)
    path = write_submission(
        competition,
        experiment.test,
        experiment.classes,
        experiment=name,
        score=experiment.submitted_score,
        workspace=workspace,
        now=now,
        decision=experiment.decision,
    )
    return _of_file(competition, path, len(experiment.test), experiment)


def outgoing_kernel(slug: str, kernel: str, version: int, *, sha256: str, experiment: Experiment | None) -> Outgoing:
    """A pushed kernel's version.

    Args:
        kernel: `owner/slug`.
        sha256: Of the code that was pushed.
        experiment: Whose networks it predicts with, where that is known.
    """
    return _with_scores(Outgoing(slug, f"{kernel}/{version}", sha256), experiment)


def _of_file(competition: Competition, path: Path, rows: int, experiment: Experiment | None) -> Outgoing:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return _with_scores(Outgoing(competition.slug, str(path), digest, rows), experiment)


def _with_scores(outgoing: Outgoing, experiment: Experiment | None) -> Outgoing:
    if experiment is None:
        return outgoing
    score, error = experiment.submitted_score, experiment.submitted_score_se
    scored = replace(outgoing, experiment=experiment.name, oof_score=score, oof_score_se=error)
    return replace(scored, folds=folds_in_words(experiment.manifest))


def _experiment(competition: Competition, name: str, path: Path, workspace: Workspace) -> Experiment | None:
    """The experiment of this name, if this file holds what it predicts."""
    try:
        experiment = read_experiment(workspace, competition.slug, name)
        return experiment if _content(competition, experiment) == path.read_bytes() else None
    except KitError:
        return None


def _content(competition: Competition, experiment: Experiment) -> bytes:
    """The submission of an experiment, as `write_submission` writes it."""
    if experiment.test.empty:
        raise DataError(
            f"{experiment.name} has predicted no test pictures",
            expected="predictions for the ids of the sample submission",
            next_step="name the folder of the test pictures in competition.yaml and train again",
        )
    frame = make_submission(competition, experiment.test, experiment.classes, experiment.decision)
    return frame.to_csv(index=False, float_format=DIGITS).encode()
