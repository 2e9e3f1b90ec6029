"""Hosted: one competition as Kaggle would hold it, with the labels it keeps back, and how it scores."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from pipeline.competition import Competition
from pipeline.data.index import class_names, scan
from pipeline.data.tables import name_some, read_table
from pipeline.errors import DataError, counted
from pipeline.predictions.metrics import METRICS, Labels, Probabilities


@dataclass(frozen=True)
class Score:
    """What a submission is worth on the public and on the private part of the test pictures."""

    public: float
    private: float


@dataclass(frozen=True)
class Hosted:
    """A competition on the server.

    Attributes:
        data: The folder that is downloaded as `<slug>.zip` and shown to kernels.
        solution: id → label of every test picture.
        key: The submission's column of ids.
        columns: The submission's other columns: the label's, or one a class.
        classes: Every label that may be predicted.
        metric: Name in `METRICS`.
        sample: The sample submission, a file inside `data`.
        public_share: The part of the test pictures that the public score is of, 0..1; at least one picture, and
            never all, where there are two. Which ones follows from their ids.
        daily_limit: Submissions a day, UTC; those that end in an error count too.
        code_only: Files are refused: a submission is a kernel's version.
        entered: Whether the user has accepted the rules.
        hidden_test: What a submitted kernel is shown instead of `data`.
    """

    slug: str
    data: Path
    solution: Mapping[str, str] = field(repr=False)
    key: str
    columns: tuple[str, ...]
    classes: tuple[str, ...]
    metric: str
    submission: Literal["class", "probabilities"]
    sample: Path
    public_share: float = 0.3
    daily_limit: int = 5
    code_only: bool = False
    entered: bool = True
    hidden_test: Path | None = None

    def public_ids(self) -> frozenset[str]:
        ranked = sorted(self.solution, key=lambda key: hashlib.sha256(key.encode()).digest())
        count = round(len(ranked) * self.public_share)
        return frozenset(ranked[: max(1, min(count, len(ranked) - 1))])

    def score(self, path: Path) -> Score:
        """Score a CSV; the order of its rows does not matter.

        Raises:
            ValueError: It cannot be scored; the text says why, as Kaggle's `errorDescription` would.
        """
        try:
            given = read_table(path)
        except DataError as error:
            raise ValueError(error.problem) from None
        if sorted(given.columns) != sorted([self.key, *self.columns]):
            raise ValueError(f"columns are {list(given.columns)}, expected {[self.key, *self.columns]}")
        _require_ids(given[self.key], self.solution)
        given = given.set_index(self.key)
        public = self.public_ids()
        private = [key for key in self.solution if key not in public] or sorted(public)
        probabilities = pd.DataFrame(self._probabilities(given), index=given.index)
        return Score(self._score(probabilities, sorted(public)), self._score(probabilities, private))

    def _score(self, probabilities: pd.DataFrame, ids: list[str]) -> float:
        numbers = {label: number for number, label in enumerate(self.classes)}
        labels: Labels = np.array([numbers[self.solution[key]] for key in ids], dtype=np.int64)
        return float(METRICS[self.metric].score(labels, probabilities.loc[ids].to_numpy()))

    def _probabilities(self, given: pd.DataFrame) -> Probabilities:
        if self.submission == "class":
            labels = given[self.columns[0]].str.strip()
            unknown = sorted(set(labels) - set(self.classes))
            if unknown:
                labels_are = counted(len(unknown), "label is", "labels are")
                raise ValueError(f"{labels_are} unknown: {name_some(map(repr, unknown))}")
            return np.asarray(labels.to_numpy()[:, None] == np.array(self.classes, dtype=object), dtype=np.float64)
        values = given[list(self.classes)].apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float64)
        wrong = ~np.isfinite(values).all(axis=1) | (values < 0).any(axis=1) | (values.sum(axis=1) == 0)
        if wrong.any():
            rows = counted(int(wrong.sum()), "row holds", "rows hold")
            raise ValueError(f"{rows} no probabilities: {name_some(given.index[wrong])}")
        return np.asarray(values / values.sum(axis=1, keepdims=True))


def hosted_from(competition: Competition, *, solution: Path, **changes: Any) -> Hosted:
    """Host a competition of the kit.

    Args:
        solution: CSV with the labels held back: the id in the first column, the label in the second.
        changes: Other attributes of `Hosted`.

    Raises:
        DataError: There is no sample submission or no solution, or the two do not name the same ids.
    """
    if competition.sample_submission is None:
        raise DataError(
            f"{competition.slug} has no sample submission",
            expected="sample_submission in competition.yaml",
            next_step="add it: a competition without one takes no submissions",
        )
    sample = read_table(competition.data / competition.sample_submission)
    labels = _read_solution(solution)
    missing, unknown = sorted(set(sample.iloc[:, 0]) - set(labels)), sorted(set(labels) - set(sample.iloc[:, 0]))
    if missing or unknown:
        raise DataError(
            f"{solution} lacks {len(missing)} ids of {competition.sample_submission}"
            + (f" ({name_some(missing)})" if missing else "")
            + f" and has {len(unknown)} others"
            + (f" ({name_some(unknown)})" if unknown else ""),
            expected="a row for each id of the sample submission, and no other",
            next_step="correct the solution, or sample_submission in competition.yaml",
        )
    columns = tuple(sample.columns[1:])
    trained = scan(competition).rows["label"]
    classes = class_names([*trained[trained != ""], *labels.values()])
    if competition.submission == "probabilities" and set(columns) != set(classes):
        raise DataError(
            f"the sample submission's columns {name_some(columns)} are not the labels {name_some(classes)}",
            expected="a column for each class",
            next_step="check the solution's labels, and label_column in competition.yaml",
        )
    settings: dict[str, Any] = {
        "slug": competition.slug,
        "data": competition.data,
        "solution": labels,
        "key": sample.columns[0],
        "columns": columns,
        "classes": tuple(classes),
        "metric": competition.metric,
        "submission": competition.submission,
        "sample": competition.data / competition.sample_submission,
    }
    return Hosted(**{**settings, **changes})


def _read_solution(path: Path) -> dict[str, str]:
    table = read_table(path)
    if table.shape[1] < 2 or table.empty:
        raise DataError(
            f"{path} has {len(table)} rows and the columns {list(table.columns)}",
            expected="the labels held back: a column of ids, then a column of labels",
            next_step="correct the file",
        )
    ids, labels = table.iloc[:, 0], table.iloc[:, 1].str.strip()
    faulty = [*ids[ids.duplicated()], *ids[labels == ""]]
    if faulty:
        raise DataError(
            f"{path} repeats an id or has no label for it: {name_some(faulty)}",
            expected="one row and one label for each id",
            next_step="correct the file",
        )
    return dict(zip(ids, labels, strict=True))


def _require_ids(given: "pd.Series[str]", solution: Mapping[str, str]) -> None:
    repeated = sorted(set(given[given.duplicated()]))
    missing, unknown = sorted(set(solution) - set(given)), sorted(set(given) - set(solution))
    for found, what in ((repeated, "repeated"), (missing, "missing"), (unknown, "unknown")):
        if found:
            raise ValueError(f"{counted(len(found), 'id is', 'ids are')} {what}: {name_some(found)}")
