"""Everything training reads of a competition before the first picture: rows, classes, folds, sizes."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.competition import Competition
from pipeline.data.folds import Folds, load_folds
from pipeline.data.index import class_names, mean_size, test_index, train_index


@dataclass(frozen=True)
class CompetitionData:
    """Rows of train, sorted by id; `labels`, `folds.frame` and the rows of `train` go together.

    Attributes:
        train: Columns id, path, label.
        test: Columns id, path.
        classes: Class names; a label is a number into them.
        labels: int64 of shape (train rows,).
        mean_size: Mean height and width of the training pictures in pixels.
    """

    train: pd.DataFrame
    test: pd.DataFrame
    classes: list[str]
    labels: NDArray[np.int64]
    folds: Folds
    mean_size: tuple[float, float]

    def rows_of(self, fold: int) -> NDArray[np.int64]:
        """The rows held out in `fold`."""
        return np.flatnonzero((self.folds.frame["fold"] == fold).to_numpy())

    def rows_without(self, fold: int) -> NDArray[np.int64]:
        """The rows to train on when `fold` is held out."""
        return np.flatnonzero((self.folds.frame["fold"] != fold).to_numpy())


def load_data(competition: Competition) -> CompetitionData:
    """Read the index, make the folds if there are none yet, and check that all of it fits together.

    Raises:
        DataError: As `train_index`, `test_index` and `load_folds` do.
    """
    train, test = train_index(competition), test_index(competition)
    classes = class_names(train["label"])
    number = {name: position for position, name in enumerate(classes)}
    return CompetitionData(
        train=train,
        test=test,
        classes=classes,
        labels=np.array([number[label] for label in train["label"]], dtype=np.int64),
        folds=load_folds(competition, train),
        mean_size=mean_size(train["path"]),
    )
