"""Tables of pseudo-labels: test pictures with the labels that a fold's model gave them.

    competitions/<slug>/pseudo/<name>.csv     id, fold, label, confidence: a row may be trained on for this fold alone
    competitions/<slug>/pseudo/<name>.json    what they were made from; written last, so without it there is no table

A fold's rows were labelled by the model that never trained on the rows held out in that fold. Trained on for another
fold, they would carry the labels of that fold's held-out rows into its training.
"""

import re
from collections.abc import Mapping
from typing import Any

import pandas as pd

from pipeline.artifacts import read_json, write_json, write_text
from pipeline.competition import Competition
from pipeline.data.folds import Folds
from pipeline.data.tables import read_table
from pipeline.errors import DataError, name_some
from pipeline.settings import NAME

COLUMNS = ["id", "fold", "label", "confidence"]


def list_pseudo(competition: Competition) -> list[str]:
    """Names of the competition's tables, sorted."""
    return sorted(path.stem for path in competition.pseudo_file("x").parent.glob("[!.]*.json"))


def write_pseudo(competition: Competition, name: str, rows: pd.DataFrame, made: Mapping[str, Any]) -> None:
    """Write a table; one that is there already must be the same.

    Args:
        rows: `COLUMNS`.
        made: What the rows were made from; `folds_sha256` is read again by `read_pseudo`.

    Raises:
        DataError: The name cannot be one, or is that of another table or of rows that competition.yaml declares.
    """
    if not re.fullmatch(NAME, name) or name in competition.extra:
        declared = f"is declared in competition.yaml of {competition.slug}"
        raise DataError(
            f"{name!r} {declared if name in competition.extra else 'cannot be the name of extra rows'}",
            expected="a name of its own, since recipes use it: small letters, digits, dots, dashes and underscores",
            next_step="choose another: --name NAME",
        )
    file = competition.pseudo_file(name)
    about, text = file.with_suffix(".json"), rows[COLUMNS].to_csv(index=False, float_format="%.6f")
    differs = file.is_file() and file.read_text("utf-8") != text
    if differs or (about.is_file() and read_json(about) != dict(made)):
        raise DataError(
            f"{file} holds other pseudo-labels",
            expected="a name of its own for every table: experiments were or will be trained on it",
            next_step=f"choose another: --name NAME; or remove {file} and {about.name} beside it",
        )
    write_text(file, text)
    write_json(about, dict(made))


def read_pseudo(competition: Competition, name: str, *, test: pd.DataFrame, folds: Folds) -> pd.DataFrame:
    """Read a table.

    Args:
        test: As `test_index` returns it.

    Returns:
        Columns id, path, label, fold (int).

    Raises:
        DataError: It was made with other folds, or names a row that there is not.
    """
    file = competition.pseudo_file(name)
    table = read_table(file, COLUMNS)
    if read_json(file.with_suffix(".json"))["folds_sha256"] != folds.sha256:
        raise DataError(
            f"the pseudo-labels {name} were made with other folds than there are now",
            expected="the same folds: their rows would tell a fold's model what it is scored on",
            next_step=f"restore {competition.folds_file}; or make them again from an experiment on these folds",
        )
    paths = dict(zip(test["id"], test["path"], strict=True))
    faults = {
        "not test pictures": sorted(set(table["id"]) - set(paths)),
        "not folds": sorted(set(table["fold"]) - {str(number) for number in folds.numbers}),
        "repeated": sorted(table["id"][table.duplicated(["id", "fold"])]),
    }
    if any(faults.values()):
        raise DataError(
            f"{file} does not fit the competition: "
            + "; ".join(f"{len(found)} {what} ({name_some(found)})" for what, found in faults.items() if found),
            expected="ids of test pictures, once a fold",
            next_step="restore the file, or make it again: kit pseudo-label",
        )
    rows = table[["id", "label"]].assign(path=table["id"].map(paths), fold=table["fold"].astype(int))
    return rows[["id", "path", "label", "fold"]]
