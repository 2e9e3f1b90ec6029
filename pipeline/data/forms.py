"""Forms: predictions as a competition wants them submitted, what is wrong with such a table, and the way back."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.competition import METRIC_NEEDS, Competition, metric_kind
from pipeline.competition import Form as FormName
from pipeline.data.row_labels import split_long
from pipeline.errors import DataError, counted, name_some
from pipeline.targets import above_half, likeliest

Decide = Callable[[NDArray[np.floating]], NDArray[np.int64]]
"""(rows, classes) probabilities → class numbers of shape (rows,), or for several labels 0 and 1 of (rows, classes)."""
OF_A_DISTRIBUTION = {"log_loss", "weighted_log_loss", "brier"}
"""Metrics of probabilities that sum to one; others take any numbers in range."""


@dataclass(frozen=True)
class Form:
    """What a submission looks like.

    Attributes:
        key: The column of ids.
        columns: The other columns.
        key_place: Which column that of ids is, from 0.
        classes: Every class, in the order of the predictions' columns.
        positive: Of `probability`: the class whose probability is written.
        sums_to_one: Whether each row of `probabilities` has to.
        cut: Whether labels are written where there may be several: 0 and 1, or their names.
    """

    kind: FormName
    key: str
    columns: tuple[str, ...]
    classes: tuple[str, ...]
    target: Literal["single", "multilabel"] = "single"
    positive: str = ""
    top: int = 5
    separator: str = " "
    sums_to_one: bool = False
    cut: bool = False
    key_place: int = 0

    def pictures(self, keys: Sequence[str]) -> list[str]:
        """The ids of the pictures that these rows are about: in `long` form what stands before separator and class."""
        return [self._split(key)[0] for key in keys] if self.kind == "long" else list(keys)

    def fill(self, keys: Sequence[str], predictions: pd.DataFrame, decide: Decide | None = None) -> pd.DataFrame:
        """A submission with these rows.

        Args:
            predictions: Column id and one column a class, in any order of rows.
            decide: Chooses labels; by default the likeliest class, or all from one half on.

        Raises:
            DataError: A row of the `long` form names no picture and class.
        """
        pictures = self.pictures(keys)
        found = predictions.set_index("id").loc[pictures, list(self.classes)].to_numpy(dtype=np.float64)
        return self._frame(keys, found, decide or (above_half if self.target == "multilabel" else likeliest))

    def solution(self, keys: Sequence[str], labels: NDArray[np.int64]) -> pd.DataFrame:
        """The truth as a table of the same form, with 0 and 1 for probabilities and the true name alone for ranks.

        Args:
            labels: A class number a row, int64 of shape (rows,), or 0 and 1 of shape (rows, classes).
        """
        truth = labels if labels.ndim == 2 else np.eye(len(self.classes), dtype=np.int64)[labels]
        if self.kind == "ranked":
            names = np.asarray(self.classes, dtype=object)[truth.argmax(axis=1)]
            return self._table(keys, {self.columns[0]: names})
        return self._frame(keys, truth.astype(np.float64), above_half if self.target == "multilabel" else likeliest)

    def _frame(self, keys: Sequence[str], found: NDArray[np.float64], decide: Decide) -> pd.DataFrame:
        names = np.asarray(self.classes, dtype=object)
        values: dict[str, object]
        match self.kind:
            case "class":
                values = {self.columns[0]: names[decide(found)]}
            case "probability":
                values = {self.columns[0]: found[:, self.classes.index(self.positive)]}
            case "probabilities":
                if self.cut:
                    found = decide(found).astype(np.float64)
                elif self.target == "single":
                    found = found / found.sum(axis=1, keepdims=True)  # float32 sums miss 1 by a little
                table = pd.DataFrame(found.astype(int) if self.cut else found, columns=list(self.classes))
                values = {name: table[name] for name in self.columns}
            case "names":
                # A picture of which nothing is sure enough is given the likeliest name: few competitions take none.
                chosen = decide(found)
                nothing = ~chosen.any(axis=1) & found.any(axis=1)  # the truth may be that there is none
                chosen[nothing, found[nothing].argmax(axis=1)] = 1
                values = {self.columns[0]: [self.separator.join(names[row > 0]) for row in chosen]}
            case "ranked":
                order = np.argsort(-found, axis=1, kind="stable")[:, : self.top]
                values = {self.columns[0]: [self.separator.join(names[row]) for row in order]}
            case "long":
                column = [self.classes.index(self._split(key)[1]) for key in keys]
                found = decide(found).astype(np.float64) if self.cut else found
                values = {self.columns[0]: found[np.arange(len(keys)), column]}
        return self._table(keys, values)

    def _table(self, keys: Sequence[str], values: dict[str, object]) -> pd.DataFrame:
        table = pd.DataFrame(values, columns=list(self.columns))
        table.insert(self.key_place, self.key, list(keys))
        return table

    def _split(self, key: str) -> tuple[str, str]:
        return split_long(key, self.classes, self.separator)

    def faults(self, given: pd.DataFrame) -> list[str]:
        """What is wrong with the values of a table that has the right columns, every value as text."""
        ids, values = given[self.key], given[list(self.columns)]
        if self.kind in ("class", "names", "ranked"):
            return self._name_faults(ids, values.iloc[:, 0])
        numbers = values.apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float64)
        finite = np.isfinite(numbers).all(axis=1)
        outside = finite & ((numbers < 0) | (numbers > 1)).any(axis=1)
        uneven = finite & ~outside & (np.abs(numbers.sum(axis=1) - 1) > 1e-3) & self.sums_to_one
        between = finite & ~outside & (~np.isin(numbers, (0, 1))).any(axis=1) & self.cut
        found = (
            (~finite, "an empty, NaN or non-numeric probability"),
            (outside, "a probability outside 0..1"),
            (uneven, "probabilities that do not sum to 1"),
            (between, "a probability where 0 or 1 is asked for"),
        )
        return [
            f"{counted(int(rows.sum()), 'row has', 'rows have')} {what}: {name_some(ids[rows])}"
            for rows, what in found
            if rows.any()
        ]

    def _name_faults(self, ids: pd.Series, cells: pd.Series) -> list[str]:
        empty = cells.str.strip().str.lower().isin({"", "nan"}) & ~cells.isin(list(self.classes))
        faults = []
        if empty.any():
            faults.append(f"{counted(int(empty.sum()), 'row has', 'rows have')} no label: {name_some(ids[empty])}")
        listed = [self._names_in(cell) for cell in cells]
        known = set(self.classes)
        pairs = [
            f"{key} ({name!r})"
            for key, names, no in zip(ids, listed, empty, strict=True)
            for name in ([] if no else names)
            if name not in known
        ]
        if pairs:
            unknown = counted(len(pairs), "label is", "labels are")
            faults.append(f"{unknown} unknown: {name_some(pairs)}; known are {name_some(self.classes)}")
        twice = [key for key, names in zip(ids, listed, strict=True) if len(set(names)) < len(names)]
        long = [key for key, names in zip(ids, listed, strict=True) if self.kind == "ranked" and len(names) > self.top]
        for rows, what in ((twice, "a name twice"), (long, f"more than {self.top} names")):
            if rows:
                faults.append(f"{counted(len(rows), 'row has', 'rows have')} {what}: {name_some(rows)}")
        return faults

    def _names_in(self, cell: str) -> list[str]:
        """The names that a cell holds: one, or several between separators, some of which may hold a separator."""
        if self.kind == "class":
            return [cell]
        names, rest, known = [], cell.split(self.separator), set(self.classes)
        while rest:
            ends = [end for end in range(len(rest), 0, -1) if self.separator.join(rest[:end]) in known]
            end = ends[0] if ends else 1
            names.append(self.separator.join(rest[:end]))
            rest = rest[end:]
        return names

    def read(self, given: pd.DataFrame) -> pd.DataFrame:
        """What a table without faults says of each class: float64, a row a picture by id, a column a class.

        Names are 1, those at rank r 1/r, and all others 0.
        """
        classes, ids = list(self.classes), list(given[self.key])
        if self.kind in ("class", "names", "ranked"):
            found = np.zeros((len(given), len(classes)))
            numbers = {name: number for number, name in enumerate(classes)}
            for row, cell in enumerate(given[self.columns[0]]):
                for rank, name in zip(itertools.count(1), self._names_in(cell), strict=False):
                    found[row, numbers[name]] = 1 / rank if self.kind == "ranked" else 1
            return pd.DataFrame(found, index=ids, columns=classes)
        values = given[list(self.columns)].apply(pd.to_numeric).to_numpy(dtype=np.float64)
        match self.kind:
            case "probability":
                values = np.hstack([1 - values, values])
                order = [name for name in classes if name != self.positive] + [self.positive]
                return pd.DataFrame(values, index=ids, columns=order)[classes]
            case "long":
                pairs = [self._split(key) for key in ids]
                rows = pd.DataFrame(pairs, columns=["id", "class"]).assign(value=values[:, 0])
                return rows.pivot(index="id", columns="class", values="value")[classes]
            case _:
                frame = pd.DataFrame(values, index=ids, columns=list(self.columns))[classes]
                return frame.div(frame.sum(axis=1), axis=0) if self.sums_to_one else frame


def form_of(competition: Competition, columns: Sequence[str], classes: Sequence[str]) -> Form:
    """The form that a competition's sample submission shows.

    Args:
        columns: The sample's.

    Raises:
        DataError: The columns do not go with `submission` in competition.yaml, or with the classes.
    """
    key = competition.sample_id_column or columns[0]
    rest = [name for name in columns if name != key]
    wide = competition.submission == "probabilities"
    if key not in columns or (sorted(rest) != sorted(classes) if wide else len(rest) != 1):
        what = f"one column a class: {name_some(classes)}" if wide else "one column"
        raise DataError(
            f"{competition.sample_submission} has the columns {name_some(rest)} after the id",
            expected=f"{what}, for a submission of the form `{competition.submission}`",
            next_step="check `submission`, train.label_column and train.label_columns in competition.yaml",
        )
    between = [name for name in classes if competition.separator in name]
    if between and competition.submission in ("names", "ranked"):
        raise DataError(
            f"the class {between[0]!r} holds {competition.separator!r}, which stands between the names of a submission",
            expected="names without it",
            next_step="set `separator` in competition.yaml to what stands between the names in the sample submission",
        )
    kind = metric_kind(competition.metric)
    return Form(
        kind=competition.submission,
        key=key,
        columns=tuple(rest),
        classes=tuple(classes),
        target=competition.target,
        positive=_positive(competition, classes) if competition.submission == "probability" else "",
        top=competition.top,
        separator=competition.separator,
        sums_to_one=wide and competition.target == "single" and kind in OF_A_DISTRIBUTION,
        cut=competition.target == "multilabel" and kind is not None and METRIC_NEEDS[kind] == "labels",
        key_place=list(columns).index(key),
    )


def _positive(competition: Competition, classes: Sequence[str]) -> str:
    name = competition.positive or ("1" if sorted(classes) == ["0", "1"] else "")
    if len(classes) != 2 or name not in classes:
        raise DataError(
            f"`submission: probability` with {counted(len(classes), 'class', 'classes')} and "
            + (f"`positive: {name}`" if name else "without `positive`"),
            expected=f"two classes, one of which is the positive one; there are {name_some(classes)}",
            next_step=f"say in competition.yaml which it is, as in `positive: {classes[-1]!r}`",
        )
    return name
