"""What the cells of a table, or the path of a picture, say of its label; several labels in one string, and back."""

import re
from collections.abc import Collection, Iterable

import pandas as pd

from pipeline.competition import LabelledPictures, Target
from pipeline.errors import DataError, name_some
from pipeline.targets import JOINT, class_names

BINARY = {"0": 0, "0.0": 0, "false": 0, "1": 1, "1.0": 1, "true": 1}


def labels_in(table: pd.DataFrame, source: LabelledPictures, target: Target) -> tuple[list[str], list[str]]:
    """The label of each row of the table of `source`, and what is wrong with it.

    Returns:
        Labels ("" for none) and faults ("" for none), one a row. With a multilabel target a label is the row's
        classes, in their order, joined by `|`.

    Raises:
        DataError: A label column holds other values than 0 and 1, or the name of a class holds `|`.
    """
    if source.label_columns:
        return _from_columns(table, source, target)
    cells = table[source.label_column].str.strip()
    if source.label_separator:
        split = [[part.strip() for part in cell.split(source.label_separator) if part.strip()] for cell in cells]
        place = {name: number for number, name in enumerate(class_names(part for parts in split for part in parts))}
        _refuse_joints(place, source)
        labels = [JOINT.join(sorted(set(parts), key=place.__getitem__)) for parts in split]
    else:
        labels = cells.tolist()
    return labels, ["" if label else "no label" for label in labels]


def label_in_path(path: str, pattern: re.Pattern[str]) -> str:
    """What the pattern's group `label` finds in a path; "" for nothing."""
    found = pattern.search(path)
    return (found["label"] or "").strip() if found else ""


def split_long(key: str, classes: Collection[str], separator: str) -> tuple[str, str]:
    """The picture's id and the class that an id of a long submission is made of, as `cat.jpg_dog` is.

    Raises:
        DataError: It ends with no class.
    """
    place = key.find(separator)
    while place >= 0:
        if key[place + len(separator) :] in classes:
            return key[:place], key[place + len(separator) :]
        place = key.find(separator, place + 1)
    raise DataError(
        f"the id {key!r} of the sample submission does not end with {separator!r} and a class",
        expected=f"ids such as cat.jpg{separator}{next(iter(sorted(classes)), 'dog')}; the classes are "
        + name_some(class_names(classes)),
        next_step="check `submission`, `separator` and the label columns in competition.yaml",
    )


def _from_columns(table: pd.DataFrame, source: LabelledPictures, target: Target) -> tuple[list[str], list[str]]:
    names = list(source.label_columns)
    cells = table[names].apply(lambda column: column.str.strip().str.lower())
    numbers = cells.apply(lambda column: column.map(BINARY))
    strange = numbers.isna() & (cells != "")
    if strange.any(axis=None):
        column = str(strange.any().idxmax())
        values = sorted(set(cells[column][strange[column]]))
        raise DataError(
            f"the label column {column!r} of {source.table} holds {', '.join(map(repr, values[:5]))}",
            expected="0 and 1 alone in each label column",
            next_step="mend the table, or name other columns (train.label_columns; kit init --label-columns a,b,c), or "
            "one column of names (train.label_column; kit init --label-column)",
        )
    _refuse_joints(names, source)
    empty = numbers.isna().any(axis=1).tolist()
    labels, faults = [], []
    for row, incomplete in zip((numbers == 1).to_numpy(), empty, strict=True):
        found = [name for name, has in zip(names, row, strict=True) if has]
        fault = "no label" if incomplete else ""
        if target == "single" and len(found) != 1:
            fault = fault or ("several labels: " + ", ".join(found) if found else "no label")
        labels.append("" if fault else JOINT.join(found))
        faults.append(fault)
    return labels, faults


def _refuse_joints(names: Iterable[str], source: LabelledPictures) -> None:
    joined = [name for name in names if JOINT in name]
    if joined:
        raise DataError(
            f"the class {joined[0]!r} of {source.table} holds a {JOINT!r}, which stands between classes here",
            expected=f"names without {JOINT!r}",
            next_step="rename it in the table; or, if several classes are in one cell, name what stands between them "
            f"(train.label_separator: '{JOINT}'; kit init --label-separator '{JOINT}')",
        )
