"""Which columns of a table are the labels, whether a picture has one or several, and how sure that is."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from pipeline.competition import LabelledPictures, Target
from pipeline.data.infer_wishes import Wishes
from pipeline.data.keyed_tables import KeyedTable, two_readings
from pipeline.data.row_labels import BINARY, labels_in
from pipeline.errors import DataError, name_some
from pipeline.targets import class_names, split_names

SEPARATORS = (";", ",", "|", " ")
_LABEL_NAMES = {"label", "labels", "category", "class", "target", "class_name", "classname", "class_label"}
_ALONE = 0.75  # of the names in cells that hold several stand alone in others
_MANY_NAMES = 5_000  # cells that are looked at to find out


@dataclass(frozen=True)
class Reading:
    """Where the labels of a table are.

    Attributes:
        classes: Of all rows, in the order in which they are counted; those of `columns` in the given order.
        why: What speaks for it.
        sure: 3 where the sample submission says so, 2 for a name, 1 for want of another, 4 for the user.
        doubts: What else it might be, and the option that would say so.
    """

    column: str | None = None
    columns: tuple[str, ...] = ()
    separator: str | None = None
    target: Target = "single"
    classes: tuple[str, ...] = ()
    why: str = ""
    sure: int = 4
    doubts: tuple[str, ...] = ()


def read_labels(keyed: KeyedTable, sample: pd.DataFrame | None, wishes: Wishes) -> Reading:
    """The labels of a table, by what the user says, by the sample submission, by names.

    Args:
        sample: The sample submission, its first column the ids.

    Raises:
        DataError: Two readings are possible, the cells cannot be labels, or the classes are not the sample's.
    """
    columns = [str(column) for column in keyed.table.columns if column != keyed.id_column]
    wide = _wide(sample)
    _require_there(keyed, columns, wishes)
    reading = (
        _by_wish(wishes)
        or (_by_wide_sample(keyed, columns, wide) if wide else None)
        or _by_narrow_sample(keyed, columns, sample)
        or _by_name(keyed, columns)
    )
    reading = _completed(keyed, reading, sample, wishes)
    if wide:
        _require_the_samples(keyed, reading, wide, columns)
    return reading


def separator_of(cells: Iterable[str], shown: Iterable[str] = ()) -> tuple[str, str] | None:
    """What stands between the names in cells that hold several, and an example; None where a cell is one name.

    Cells hold several where most of the names in them stand alone in others, as `dark` of 'dark red' and `ace` of 'ace
    of clubs' do not; or where the sample submission has several of the names in a cell, and that is no cell of the
    table, or half of the cells are cells without one of their names, too.

    Args:
        shown: Cells of the sample submission.
    """
    names = list(dict.fromkeys(cells))[:_MANY_NAMES]
    for separator in SEPARATORS:
        split = {name: frozenset(_split(name, separator)) for name in names}
        several = {name: parts for name, parts in split.items() if len(parts) > 1}
        if not several:
            continue
        whole, parts = set(split.values()), set().union(*several.values())
        alone = sum(frozenset({part}) in whole for part in parts)
        asked = [cell for cell in shown if len(_split(cell, separator)) > 1 and names_of([cell], separator) <= parts]
        composed = sum(any(of_one - {part} in whole for part in of_one) for of_one in several.values())
        if alone >= _ALONE * len(parts) or (
            asked and (composed * 2 >= len(several) or not any(cell in split for cell in asked))
        ):
            return separator, next(iter(several))
    return None


def names_of(cells: Iterable[str], separator: str) -> set[str]:
    """All names in cells that hold several."""
    return {part for cell in set(cells) for part in _split(cell, separator)}


def _split(cell: str, separator: str) -> list[str]:
    return [part.strip() for part in cell.split(separator) if part.strip()]


def _wide(sample: pd.DataFrame | None) -> list[str]:
    """The columns of a sample submission that has several beside the ids."""
    return list(sample.columns[1:]) if sample is not None and len(sample.columns) > 2 else []


def _by_wish(wishes: Wishes) -> Reading | None:
    if wishes.label_columns:
        return Reading(columns=wishes.label_columns, why="--label-columns")
    return Reading(column=wishes.label_column, why="--label-column") if wishes.label_column else None


def _by_wide_sample(keyed: KeyedTable, columns: list[str], wide: list[str]) -> Reading | None:
    """Labels whose classes are the sample's columns: columns of these names, or a column of these values."""
    table = keyed.table
    if set(wide) <= set(columns):
        return Reading(columns=tuple(wide), why="the sample submission has these columns, too", sure=3)
    values = [column for column in columns if _names(table[column]) == set(wide)]
    if values:
        column = _one_column(values, "its values are the sample submission's columns")
        return replace(column, sure=3)
    for separator in SEPARATORS:
        joined = [column for column in columns if table[column].str.contains(separator, regex=False).any()]
        parts = [column for column in joined if names_of(table[column], separator) >= set(wide)]
        if parts:
            column = _one_column(parts, "the names in its cells are the sample submission's columns")
            return replace(column, separator=separator, sure=3)
    likest = max(columns, key=lambda column: len(_names(table[column]) & set(wide)))
    near = len(_names(table[likest]) & set(wide)) * 2 >= len(wide)
    return Reading(column=likest, why="its values are like the sample submission's columns", sure=3) if near else None


def _by_narrow_sample(keyed: KeyedTable, columns: list[str], sample: pd.DataFrame | None) -> Reading | None:
    if sample is None or len(sample.columns) != 2:
        return None
    name = str(sample.columns[1])
    if name in columns:
        return Reading(column=name, why="the sample submission has a column of that name", sure=3)
    shown = _names(sample.iloc[:, 1])
    for parts in (shown, *(names_of(shown, separator) for separator in SEPARATORS)):
        # Numbers are the values of many columns.
        if parts and not all(re.fullmatch(r"[0-9.]*", part) for part in parts):
            holding = [column for column in columns if parts <= _names(keyed.table[column])]
            if holding:
                return replace(_one_column(holding, "it holds the values of the sample submission"), sure=3)
    return None


def _by_name(keyed: KeyedTable, columns: list[str]) -> Reading:
    if len(columns) == 1:
        return Reading(column=columns[0], why="the only other column", sure=1)
    named = [column for column in columns if column.lower().replace(" ", "_") in _LABEL_NAMES]
    if len(named) == 1:
        return Reading(column=named[0], why="its name", sure=2)
    binary = [column for column in columns if _is_binary(keyed.table[column])]
    if len(binary) > 1:
        hot = keyed.table[binary].apply(lambda column: column.str.strip().str.lower().map(BINARY))
        if (hot.sum(axis=1) == 1).all():
            return Reading(columns=tuple(binary), why="columns of 0 and 1, one of them 1 in each row", sure=1)
        raise DataError(
            f"two readings are possible: the columns of 0 and 1 may be labels ({name_some(binary)}), or another column "
            f"of {keyed.name} is ({name_some(column for column in columns if column not in binary)})",
            expected="data that can be read in one way",
            next_step=f"choose with --label-columns {shown_columns(binary)} or with --label-column NAME",
        )
    raise two_readings("label", named or columns, f"choose one with --label-column '{(named or columns)[0]}'")


def _one_column(columns: Sequence[str], why: str) -> Reading:
    named = [column for column in columns if column.lower().replace(" ", "_") in _LABEL_NAMES]
    if len(columns) > 1 and len(named) != 1:
        raise two_readings("label", columns, f"choose one with --label-column '{columns[0]}'")
    return Reading(column=(named or list(columns))[0], why=why)


def _completed(keyed: KeyedTable, reading: Reading, sample: pd.DataFrame | None, wishes: Wishes) -> Reading:
    """The reading with its separator, its target, its classes and what may be doubted."""
    wide = _wide(sample)
    doubts = []
    separator, target = wishes.label_separator or reading.separator, wishes.target
    cells = keyed.table[reading.column].str.strip() if reading.column else pd.Series(dtype=str)
    lists = cells[cells.str.fullmatch(r"\[.*\]")]
    if len(lists) * 2 > len(cells):
        raise DataError(
            f"the cells of column {reading.column!r} of {keyed.name} are written as lists, such as {lists.iloc[0]!r}",
            expected="a name a cell, or several with something between them",
            next_step="write them as in a|b to another table, and name that with --table",
        )
    if reading.column and not separator and target != "single":
        shown = _names(sample.iloc[:, 1]) if sample is not None and not wide and len(sample.columns) > 1 else set()
        found = None if wide and _names(cells) == set(wide) else separator_of(cells, shown)
        if found:
            separator = found[0]
            doubts.append(
                f"cells such as {found[1]!r} are taken for several names, which are in other cells, too; if each is "
                "one name: --target single"
            )
        elif target == "multilabel":
            raise DataError(
                f"no cell of the column {reading.column!r} of {keyed.name} holds several names",
                expected="names with something between them that stand in other cells, too",
                next_step="say what stands between them with --label-separator, name columns of 0 and 1 with "
                "--label-columns, or go without --target",
            )
    source = LabelledPictures.model_construct(
        pictures=".",
        table=keyed.name,
        id_column=keyed.id_column,
        label_column=reading.column,
        label_columns=reading.columns,
        label_separator=separator,
    )
    if target is None:
        target = "multilabel" if separator else "single"
        if reading.columns:
            labels, faults = labels_in(keyed.table, source, "multilabel")
            counts = [len(split_names(label)) for label, fault in zip(labels, faults, strict=True) if not fault]
            others = sum(count != 1 for count in counts)
            target = "multilabel" if others else "single"
            if others:
                doubts.append(
                    f"{others} of {len(counts)} rows have none or several of these; if that is wrong, and each picture "
                    "is of one class: --target single"
                )
    labels, _ = labels_in(keyed.table, source, target)
    held = {name for label in set(labels) for name in split_names(label)}
    without = [column for column in reading.columns if column not in held]
    if without:
        doubts.append(f"no picture is of {name_some(without)}: nothing will be learned of it but that it is rare")
    classes = class_names(
        part for label in set(labels) for part in (split_names(label) if separator else [label]) if part
    )
    return replace(
        reading,
        separator=separator,
        target=target,
        classes=reading.columns or tuple(classes),
        doubts=tuple(doubts),
    )


def _require_there(keyed: KeyedTable, columns: list[str], wishes: Wishes) -> None:
    for option, wanted in (("--label-column", [wishes.label_column]), ("--label-columns", wishes.label_columns)):
        missing = [column for column in wanted if column and column not in columns]
        if missing:
            raise DataError(
                f"{keyed.name} has no column {', '.join(map(repr, missing))}"
                + (" beside that of the pictures" if missing[0] == keyed.id_column else ""),
                expected="one of " + name_some(columns, limit=20),
                next_step=f"check {option}",
            )


def _require_the_samples(keyed: KeyedTable, reading: Reading, wide: list[str], columns: list[str]) -> None:
    """A reading whose classes are not those that the sample submission asks for is none."""
    given, asked = set(reading.classes), set(wide)
    if given == asked:
        return
    what = f"column {reading.column!r}" if reading.column else "label columns"
    advice = "name the labels in the table as the sample submission does, and give every class a picture"
    if asked <= set(columns) and set(reading.columns) != asked:
        advice = f"choose them with --label-columns {shown_columns(wide)}"
    else:
        fitting = [column for column in columns if _names(keyed.table[column]) == asked]
        if fitting:
            advice = f"choose it with --label-column '{fitting[0]}'"
        elif reading.separator and asked < given:
            spaced = keyed.table[reading.column].str.contains(f"{reading.separator} ", regex=False).any()
            between = reading.separator + " " * int(spaced)
            advice = (
                "if the others mean that a picture has none of the classes, give the table columns of 0 and 1 "
                f"(pandas: table.join(table[{reading.column!r}].str.get_dummies({between!r})))"
            )
        elif reading.column in asked:
            advice = (
                "the kit predicts one column of labels: name a copy of the sample submission without the others with "
                "--sample, and fill these in yourself"
            )
    differences = ((asked - given, "only the sample has"), (given - asked, "only the train table has"))
    raise DataError(
        f"the {what} of {keyed.name} has other classes than the sample submission: "
        + "; ".join(f"{has} {name_some(class_names(names))}" for names, has in differences if names),
        expected=f"the {len(wide)} classes that are the sample's columns: {name_some(wide)}",
        next_step=advice,
    )


def shown_columns(columns: Iterable[str]) -> str:
    """Column names as one value of an option."""
    joined = ",".join(columns)
    return f"'{joined}'" if any(character in joined for character in " ()&;|$") else joined


def _names(cells: Any) -> set[str]:
    return {cell for value in cells.unique() if (cell := value.strip())}


def _is_binary(cells: pd.Series) -> bool:
    values = {value.lower() for value in _names(cells)}
    return values <= set(BINARY) and len(values) > 1
