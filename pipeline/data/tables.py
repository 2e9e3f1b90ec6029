"""Tables as the user gives them, every value as text."""

import csv
import re
import warnings
from collections.abc import Iterable
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from pipeline.data.decode import PICTURE_SUFFIXES
from pipeline.errors import DataError

_SEPARATORS = "\t,;"
_MOST_TEXTS = 20


def read_table(path: Path, columns: Iterable[str] = ()) -> pd.DataFrame:
    """A table with every value as text, so that the class "01" stays "01".

    Its first line says what stands between the values: tabs, commas or semicolons, or in a .txt file spaces. Where that
    line names a picture, or is of numbers as the next one is, it is no header: the columns are `column 1` and so on.

    Raises:
        DataError: There is no such file, it cannot be read, or a column is missing.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise DataError(f"{path} {what}", expected="a CSV file", next_step="check the path")
    try:
        layout, surplus = _layout(path)
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # values beyond the header would be lost
            table: pd.DataFrame = pd.read_csv(
                path, dtype=str, keep_default_na=False, index_col=False, encoding="utf-8-sig", **layout
            )
        if surplus:
            if (table[surplus] != "").to_numpy().any():
                raise pd.errors.ParserWarning
            table = table.drop(columns=surplus)  # what ends each row is a separator
    except (ValueError, OSError, csv.Error, pd.errors.ParserWarning) as error:
        why = "rows have more values than the first one" if isinstance(error, pd.errors.ParserWarning) else error
        raise DataError(
            f"{path} cannot be read: {why}",
            expected="a CSV file in UTF-8, a value with a comma in it between quotes",
            next_step="mend the file",
        ) from None
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise DataError(
            f"{path} has no column {', '.join(map(repr, missing))}",
            expected="columns " + ", ".join(map(repr, columns)) + "; it has " + ", ".join(map(repr, table)),
            next_step="correct the column names in competition.yaml",
        )
    return table


def read_tables(files: Iterable[Path]) -> tuple[dict[Path, pd.DataFrame], dict[Path, DataError]]:
    """Those that can be read, and why others cannot.

    A .txt file is a table only where it has several columns, and there are not so many that there seems to be one a
    picture.
    """
    listed = list(files)
    texts = {path for path in listed if path.suffix.lower() == ".txt"}
    tables: dict[Path, pd.DataFrame] = {}
    errors: dict[Path, DataError] = {}
    for path in listed:
        if path in texts and len(texts) > _MOST_TEXTS:
            continue
        try:
            table = read_table(path)
        except DataError as error:
            if path not in texts:
                errors[path] = error
            continue
        if path not in texts or len(table.columns) > 1:
            tables[path] = table
    return tables, errors


def _layout(path: Path) -> tuple[dict[str, Any], list[str]]:
    """What pandas is to know of a table, from its first two lines; and names of columns that have none."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = list(islice((line for line in file if line.strip()), 2))
    if not lines:
        return {}, []
    between = max(_SEPARATORS, key=lines[0].count)
    if between not in lines[0] and path.suffix.lower() == ".txt":
        first, *rest = (line.split() for line in lines)
        layout: dict[str, Any] = {"sep": r"\s+"}
    else:
        first, *rest = csv.reader(lines, delimiter=between)
        layout = {"sep": between}
    second = rest[0] if rest else []
    if not _is_header(first, second):
        return layout | {"header": None, "names": [f"column {number + 1}" for number in range(len(first))]}, []
    if len(second) <= len(first):
        return layout, []
    surplus = [f"column {number + 1}" for number in range(len(first), len(second))]
    return layout | {"header": 0, "names": [*first, *surplus]}, surplus


def _is_header(first: list[str], second: list[str]) -> bool:
    if any(PurePosixPath(cell.strip()).suffix.lower() in PICTURE_SUFFIXES for cell in first):
        return False
    counted = [str(number) for number in range(len(first))]  # as pandas names columns without a name
    numbers = [re.fullmatch("[0-9]+", row[0].strip()) for row in (first, second) if row]
    return len(numbers) < 2 or not all(numbers) or first == counted
