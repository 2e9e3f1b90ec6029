"""Tables as the user gives them, every value as text; a few names of many for a message."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from pipeline.errors import DataError


def read_table(path: Path, columns: Iterable[str] = ()) -> pd.DataFrame:
    """A CSV with every value as text, so that the class "01" stays "01".

    Raises:
        DataError: There is no such file, it cannot be read, or a column is missing.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise DataError(f"{path} {what}", expected="a CSV file", next_step="check the path")
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, index_col=False, encoding="utf-8-sig")
    except (ValueError, OSError) as error:
        raise DataError(
            f"{path} cannot be read: {error}", expected="a CSV file in UTF-8", next_step="mend the file"
        ) from None
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise DataError(
            f"{path} has no column {', '.join(map(repr, missing))}",
            expected="columns " + ", ".join(map(repr, columns)) + "; it has " + ", ".join(map(repr, table)),
            next_step="correct the column names in competition.yaml",
        )
    return table
