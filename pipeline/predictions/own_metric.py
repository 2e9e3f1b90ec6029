"""A competition's own metric: the file with `score` that Kaggle publishes, run in a process of its own.

`score(solution, submission, row_id_column_name)` is given tables in the competition's form of a submission, with values
of the types that those of a CSV would have. The ids are made up, as a resample holds a picture several times: a metric
that reads an id finds another one there than in the data.
"""

import atexit
import math
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from functools import cache
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.competition import Competition, Needs
from pipeline.errors import DataError, duration, name_some
from pipeline.predictions.metrics import FEW, Metric, require_metric_file
from pipeline.predictions.scores import Labels, Probabilities, Weights

LIMIT = 60.0
"""Seconds that a score may take."""

_INSIDE = Path(__file__).with_name("own_metric_process.py")
_NEEDS: dict[str, Needs] = {"class": "labels", "names": "labels", "ranked": "ranking"}


class SubmissionForm(Protocol):
    """What `data/forms.py` knows of a submission, which is no business of this folder."""

    @property
    def kind(self) -> str: ...
    @property
    def key(self) -> str: ...
    @property
    def separator(self) -> str: ...
    @property
    def classes(self) -> Sequence[str]: ...
    def fill(self, keys: Sequence[str], predictions: pd.DataFrame) -> pd.DataFrame: ...
    def solution(self, keys: Sequence[str], labels: NDArray[np.int64]) -> pd.DataFrame: ...


class ScoreRaised(DataError):
    """The metric refuses these tables; others it may take."""


class ScoreProcess:
    """The process that a metric's file is loaded in; started by the first call, and anew after one that was killed."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        atexit.register(self.stop)

    def start(self) -> None:
        """Load the file.

        Raises:
            DataError: It is not there, cannot be loaded, or has no `score`.
        """
        with self._lock:
            self._started()

    def __call__(self, solution: pd.DataFrame, submission: pd.DataFrame, key: str) -> float:
        """What `score` returns.

        Raises:
            ScoreRaised: `score` raised an error.
            DataError: As of `start`; or `score` takes too long, ends its process, or returns no finite number.
        """
        with self._lock:
            connection = self._started()
            try:
                connection.send((solution, submission, key))
            except OSError:
                raise self._ended() from None
            answer, found = self._answer()
        columns = f"the columns of solution and submission are {name_some(solution.columns)}"
        if answer == "raised":
            raise ScoreRaised(
                f"{self.file}: score raised {found}", expected="a score", next_step=f"correct it; {columns}"
            )
        if answer != "score" or not math.isfinite(found):
            raise self._fault(f": score returned {found}, which is no finite number", expected="a score")
        return float(found)

    def stop(self) -> None:
        if self._process is not None and self._connection is not None:
            self._connection.close()
            self._process.kill()
            self._process.wait()
        self._process = self._connection = None

    def _started(self) -> Connection:
        if self._connection is not None:
            return self._connection
        require_metric_file(self.file)
        self._connection, theirs = Pipe()
        # -P: the folder of the kit's own file does not become a place to import from.
        command = [sys.executable, "-P", str(_INSIDE), str(self.file), str(theirs.fileno())]
        nothing = subprocess.DEVNULL
        self._process = subprocess.Popen(
            command, pass_fds=[theirs.fileno()], stdin=nothing, stdout=nothing, stderr=nothing
        )
        theirs.close()
        answer, found = self._answer()
        if answer != "ready":
            self.stop()
            raise self._fault(f" {answer}{': ' if found else ''}{found}")
        return self._connection

    def _answer(self) -> tuple[str, Any]:
        assert self._connection is not None
        try:
            if self._connection.poll(LIMIT):
                answer, found = self._connection.recv()
                return answer, found
        except (EOFError, OSError):
            raise self._ended() from None
        except BaseException:  # interrupted: its answer is not to be taken for the next one
            self.stop()
            raise
        self.stop()
        raise self._fault(
            f" took more than {duration(LIMIT)} and was stopped", expected=f"an answer within {duration(LIMIT)}"
        )

    def _ended(self) -> DataError:
        self.stop()
        return self._fault(" ended the process that it ran in", expected="a score")

    def _fault(self, what: str, *, expected: str = "") -> DataError:
        return DataError(
            f"{self.file}{what}",
            expected=expected
            or "the competition's metric as Kaggle publishes it: a file with a function "
            "`score(solution, submission, row_id_column_name)` that returns a number",
            next_step="correct the file, or `metric` in competition.yaml",
        )


@cache
def _process_of(file: Path, changed: int) -> ScoreProcess:
    """One process a file, as long as it does not change."""
    return ScoreProcess(file)


def own_metric(competition: Competition, form: SubmissionForm | None) -> Metric:
    """The metric of the file that a competition names.

    Its standard error is by bootstrap, of few resamples, as each is a call; those that `score` refuses, as where they
    lack a class, are left out, up to half of them.

    Raises:
        DataError: There is no sample submission; or the file is not there, cannot be loaded, or has no `score`.
    """
    file = competition.metric_file
    if form is None or file is None:
        raise DataError(
            f"{competition.metric} is given submissions, and {competition.slug} has no sample of one",
            expected="sample_submission in competition.yaml: the CSV that shows what a submission looks like",
            next_step="add it, or name one of the kit's metrics",
        )
    process = _process_of(file.resolve(), require_metric_file(file).stat().st_mtime_ns)
    process.start()
    return metric_by(process, form, name=competition.metric, greater_is_better=bool(competition.greater_is_better))


def metric_by(
    score: Callable[[pd.DataFrame, pd.DataFrame, str], float],
    form: SubmissionForm,
    *,
    name: str,
    greater_is_better: bool,
) -> Metric:
    """A metric of solution and submission.

    Args:
        score: (solution, submission, the column of ids) → float.
    """

    def keys(count: int) -> list[str]:
        pictures = [f"row-{number:07d}" for number in range(count)]
        if form.kind != "long":
            return pictures
        return [f"{picture}{form.separator}{one}" for picture in pictures for one in form.classes]

    def tables(labels: Labels, probabilities: Probabilities) -> tuple[pd.DataFrame, pd.DataFrame]:
        rows = keys(len(labels))
        repeated = np.repeat(labels, len(rows) // len(labels), axis=0)
        predictions = pd.DataFrame(np.asarray(probabilities, dtype=np.float64), columns=list(form.classes))
        predictions.insert(0, "id", [f"row-{number:07d}" for number in range(len(labels))])
        return as_read(form.solution(rows, repeated), form.fill(rows, predictions))

    def as_read(solution: pd.DataFrame, submission: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
        return _as_read(solution, form.key, whole=True), _as_read(submission, form.key, whole=False)

    def of_tables(solution: pd.DataFrame, submission: pd.DataFrame) -> float:
        return score(*as_read(solution, submission), form.key)

    def of_rows(labels: Labels, probabilities: Probabilities) -> float:
        return score(*tables(labels, probabilities), form.key)

    def rescorer(labels: Labels, probabilities: Probabilities) -> Callable[[Weights], float]:
        solution, submission = tables(labels, probabilities)
        block, refused = np.arange(len(solution) // len(labels)), list[ScoreRaised]()

        def rescore(weights: Weights) -> float:
            drawn = np.repeat(np.arange(len(labels)), weights.astype(np.int64))
            rows = (drawn[:, None] * len(block) + block).ravel()
            renamed = [table.iloc[rows].assign(**{form.key: keys(len(drawn))}) for table in (solution, submission)]
            try:
                return score(renamed[0].reset_index(drop=True), renamed[1].reset_index(drop=True), form.key)
            except ScoreRaised as error:
                refused.append(error)
                if len(refused) > FEW / 2:
                    raise
                return math.nan

        return rescore

    needs: Needs = _NEEDS.get(form.kind, "probabilities")
    return Metric(name, greater_is_better, needs, of_rows, rescorer, of_tables=of_tables, costly=True)


def _as_read(table: pd.DataFrame, key: str, *, whole: bool) -> pd.DataFrame:
    """With the types that pandas would find in a CSV: names that are numbers are numbers, and empty ones missing.

    Args:
        whole: Whether the numbers are whole ones, as those of a solution.
    """
    read = {key: table[key]}
    for name in table.columns.drop(key):
        column = table[name]
        if not pd.api.types.is_numeric_dtype(column):
            column = column.replace("", np.nan)
            found = pd.to_numeric(column, errors="coerce")
            column = found if (found.isna() == column.isna()).all() else column
        elif whole:
            column = column.astype(np.int64)
        read[name] = column
    return pd.DataFrame(read)
