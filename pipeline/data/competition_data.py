"""Everything training reads of a competition before the first picture: rows, classes, folds, sizes."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.competition import Competition
from pipeline.data.extra import ExtraRows, load_extra
from pipeline.data.folds import NEVER_HELD_OUT, Folds, load_folds
from pipeline.data.forms import Form, form_of
from pipeline.data.index import mean_size, test_index, train_index
from pipeline.data.tables import read_table
from pipeline.errors import DataError, name_some
from pipeline.targets import classes_of, label_numbers


@dataclass(frozen=True)
class CompetitionData:
    """Rows of train, sorted by id; `labels`, `folds.frame` and the rows of `train` go together.

    Attributes:
        train: Columns id, path, label.
        test: Columns id, path.
        classes: Class names; a label is a number into them.
        labels: int64 of shape (train rows,), or for several labels a picture 0 and 1 of shape (train rows, classes).
        mean_size: Mean height and width of the training pictures in pixels.
        extra: Rows to train on beside those of `train`; never held out, and no part of anything above.
        form: What a submission looks like; None where the competition has no sample submission.
    """

    train: pd.DataFrame
    test: pd.DataFrame
    classes: list[str]
    labels: NDArray[np.int64]
    folds: Folds
    mean_size: tuple[float, float]
    extra: ExtraRows
    form: Form | None

    @property
    def sha256(self) -> str:
        """Hash of what is learned from and predicted: ids, labels and file sizes of train, ids of test."""
        digest = hashlib.sha256()
        for row in self.train.itertuples():
            digest.update(f"{row.id}\n{row.label}\n{Path(str(row.path)).stat().st_size}\n".encode())
        digest.update("\n".join(self.test["id"]).encode())
        return digest.hexdigest()

    @property
    def groups_sha256(self) -> str | None:
        """Hash of which rows belong together; None where none do."""
        if (self.train["group"] == "").all():
            return None
        lines = "".join(f"{row.id},{row.group}\n" for row in self.train.itertuples())
        return hashlib.sha256(lines.encode()).hexdigest()

    @property
    def scored_rows(self) -> NDArray[np.int64]:
        """The rows that are held out in some fold: with a predefined split not all of them."""
        return np.flatnonzero((self.folds.frame["fold"] != NEVER_HELD_OUT).to_numpy())

    def rows_of(self, fold: int) -> NDArray[np.int64]:
        """The rows held out in `fold`."""
        return np.flatnonzero((self.folds.frame["fold"] == fold).to_numpy())

    def rows_without(self, fold: int) -> NDArray[np.int64]:
        """The rows to train on when `fold` is held out."""
        return np.flatnonzero((self.folds.frame["fold"] != fold).to_numpy())


def load_data(competition: Competition, *, extra: Sequence[str] = ()) -> CompetitionData:
    """Read the index, make the folds if there are none yet, and check that all of it fits together.

    Args:
        extra: Names of extra rows, as a recipe has them.

    Raises:
        DataError: The sample submission does not go with the classes; and as `train_index`, `test_index`, `load_folds`
            and `load_extra` do.
        RecipeError: There are no extra rows of such a name.
    """
    train, test = train_index(competition), test_index(competition)
    classes = classes_of(competition, train["label"])
    _require_metric_fits(competition, classes)
    form, folds = sample_form(competition, classes), load_folds(competition, train)
    return CompetitionData(
        train=train,
        test=test,
        classes=classes,
        labels=label_numbers(list(train["label"]), classes, target=competition.target),
        folds=folds,
        mean_size=mean_size(train["path"]),
        extra=load_extra(competition, extra, train=train, test=test, classes=classes, folds=folds),
        form=form,
    )


def _require_metric_fits(competition: Competition, classes: list[str]) -> None:
    if competition.metric == "quadratic_kappa" and not all(name.lstrip("-").isdecimal() for name in classes):
        raise DataError(
            f"quadratic_kappa needs classes with an order; these are {name_some(classes)}",
            expected="classes that are whole numbers, such as grades 0, 1, 2",
            next_step="number the labels in the train table, or choose another metric in competition.yaml",
        )


def sample_form(competition: Competition, classes: list[str]) -> Form | None:
    """The form of a submission; None where there is no sample. Wrong ones are refused before hours of training."""
    if competition.sample_submission is None:
        return None
    columns = list(read_table(competition.data / competition.sample_submission).columns)
    return form_of(competition, columns, classes)
