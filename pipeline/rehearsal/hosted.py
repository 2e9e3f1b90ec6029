"""Hosted: one competition as Kaggle would hold it, with the labels it keeps back, and how it scores."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.competition import Competition, LabelledPictures
from pipeline.data.forms import Form, form_of
from pipeline.data.index import scan
from pipeline.data.row_labels import labels_in
from pipeline.data.tables import read_table
from pipeline.errors import DataError, counted, name_some
from pipeline.predictions.metrics import Metric, metric_of
from pipeline.targets import classes_of, label_numbers


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
        solution: id → label of every test picture; several classes' names are joined by "|".
        rows: The ids that a submission has, in the sample's order.
        form: What a submission looks like.
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
    rows: tuple[str, ...] = field(repr=False)
    form: Form
    metric: Metric
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
        if sorted(given.columns) != sorted([self.form.key, *self.form.columns]):
            raise ValueError(f"columns are {list(given.columns)}, expected {[self.form.key, *self.form.columns]}")
        _require_ids(given[self.form.key], self.rows)
        faults = replace(self.form, sums_to_one=False).faults(given)  # Kaggle scales rows to a sum of one itself
        if faults:
            raise ValueError("; ".join(faults))
        said = given if self.metric.of_tables else self.form.read(given)
        nothing = said.isna().any(axis=1)
        if nothing.any():
            rows = counted(int(nothing.sum()), "row holds", "rows hold")
            raise ValueError(f"{rows} no probabilities: {name_some(said.index[nothing])}")
        public = self.public_ids()
        private = [key for key in self.solution if key not in public] or sorted(public)
        score = self._by_file if self.metric.of_tables else self._score
        try:
            return Score(score(said, sorted(public)), score(said, private))
        except DataError as error:  # a metric of the competition's own says what it does not take
            raise ValueError(error.problem) from None

    def _score(self, said: pd.DataFrame, ids: list[str]) -> float:
        labels = self._labels(ids)
        found = said.loc[ids].to_numpy()
        if self.form.kind == "ranked" and self.metric.by_place:  # who is not named has no place at all
            own = found[np.arange(len(ids)), labels]
            places = np.where(own > 0, np.round(1 / np.maximum(own, 1e-9)), np.iinfo(np.int32).max)
            return float(self.metric.by_place(places.astype(np.int64)).mean())
        return float(self.metric.score(labels, found))

    def _by_file(self, given: pd.DataFrame, ids: list[str]) -> float:
        """The score of these pictures' rows by a metric in a file: of what was submitted, as it is."""
        assert self.metric.of_tables
        pictures, part = dict(zip(self.rows, self.form.pictures(self.rows), strict=True)), set(ids)
        rows = [row for row in self.rows if pictures[row] in part]
        solution = self.form.solution(rows, self._labels([pictures[row] for row in rows]))
        found = given.set_index(self.form.key).loc[rows].reset_index()
        return self.metric.of_tables(solution, found[list(solution)])

    def _labels(self, ids: list[str]) -> NDArray[np.int64]:
        return label_numbers([self.solution[key] for key in ids], self.form.classes, target=self.form.target)


def hosted_from(competition: Competition, *, solution: Path, **changes: Any) -> Hosted:
    """Host a competition of the kit.

    Args:
        solution: CSV with the labels held back: the id in the first column, the label in the second; where a picture
            may have several, their names between the competition's separators, or columns of 0 and 1.
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
    labels = _read_solution(solution, competition)
    trained = scan(competition).rows["label"]
    classes = classes_of(competition, [*trained, *labels.values()])
    form = form_of(competition, list(sample.columns), classes)
    rows = list(sample[form.key])
    pictures = set(form.pictures(rows))
    missing, unknown = sorted(pictures - set(labels)), sorted(set(labels) - pictures)
    if missing or unknown:
        raise DataError(
            f"{solution} lacks {len(missing)} ids of {competition.sample_submission}"
            + (f" ({name_some(missing)})" if missing else "")
            + f" and has {len(unknown)} others"
            + (f" ({name_some(unknown)})" if unknown else ""),
            expected="a row for each id of the sample submission, and no other",
            next_step="correct the solution, or sample_submission in competition.yaml",
        )
    asked = {f"{picture}{form.separator}{name}" for picture in pictures for name in classes}
    lacking = sorted(asked - set(rows)) if form.kind == "long" else []
    if lacking:
        raise DataError(
            f"{competition.sample_submission} lacks rows of a picture and a class: {name_some(lacking)}",
            expected=f"a row for each of the {len(classes)} classes of each picture",
            next_step="add them; what a submission without them is worth cannot be said here",
        )
    settings: dict[str, Any] = {
        "slug": competition.slug,
        "data": competition.data,
        "solution": labels,
        "rows": tuple(rows),
        "form": form,
        "metric": metric_of(competition, classes, form=lambda *_: form),
        "sample": competition.data / competition.sample_submission,
    }
    return Hosted(**{**settings, **changes})


def _read_solution(path: Path, competition: Competition) -> dict[str, str]:
    table = read_table(path).drop(columns="Usage", errors="ignore")  # Kaggle's word for public and private rows
    if table.shape[1] < 2 or table.empty:
        raise DataError(
            f"{path} has {len(table)} rows and the columns {list(table.columns)}",
            expected="the labels held back: a column of ids, then a column of labels",
            next_step="correct the file",
        )
    ids, labels = table.iloc[:, 0], table.iloc[:, 1].str.strip()
    several = competition.target == "multilabel"
    if several:
        key, *columns = map(str, table.columns)
        between = competition.train.label_separator or competition.separator
        reading = (
            {"label_columns": columns} if len(columns) > 1 else {"label_column": columns[0], "label_separator": between}
        )
        source = LabelledPictures.model_validate({"pictures": ".", "table": path.name, "id_column": key, **reading})
        labels = pd.Series(labels_in(table, source, "multilabel")[0])
    faulty = [*ids[ids.duplicated()], *([] if several else ids[labels == ""])]
    if faulty:
        raise DataError(
            f"{path} repeats an id or has no label for it: {name_some(faulty)}",
            expected="one row and one label for each id",
            next_step="correct the file",
        )
    return dict(zip(ids, labels, strict=True))


def _require_ids(given: "pd.Series[str]", expected: Sequence[str]) -> None:
    repeated = sorted(set(given[given.duplicated()]))
    missing, unknown = sorted(set(expected) - set(given)), sorted(set(given) - set(expected))
    for found, what in ((repeated, "repeated"), (missing, "missing"), (unknown, "unknown")):
        if found:
            raise ValueError(f"{counted(len(found), 'id is', 'ids are')} {what}: {name_some(found)}")
