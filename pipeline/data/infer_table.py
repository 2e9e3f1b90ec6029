"""Which table is the train table, and what it says beside the labels: parts, and rows that belong together."""

import re
from collections.abc import Sequence

import pandas as pd

from pipeline.competition import Split
from pipeline.data.infer_labels import Reading, read_labels
from pipeline.data.infer_wishes import Wishes
from pipeline.data.keyed_tables import PART_NAMES, KeyedTable, is_part, two_readings
from pipeline.errors import DataError, name_some

_GROUP_NAMES = {"subject", "patient", "person", "driver", "participant", "individual", "owner", "group", "session"}
_GROUP_NAMES |= {"video", "sequence", "scene", "lesion", "plant", "tree", "farm", "slide", "study", "series", "animal"}
_SIDES = re.compile(r"(?P<group>.+)[_-](left|right)(\.\w+)?", re.IGNORECASE)


def train_table(
    keyed: Sequence[KeyedTable], sample: pd.DataFrame | None, wishes: Wishes
) -> tuple[KeyedTable, Reading, str]:
    """The table that has the labels, the reading of these, and what is said of the others.

    Raises:
        DataError: None or several have.
    """
    if len(keyed) == 1:
        return keyed[0], read_labels(keyed[0], sample, wishes), ""
    readings: dict[str, Reading] = {}
    errors: list[DataError] = []
    for table in keyed:
        if is_part(table.name.rsplit(".", 1)[0], "test"):
            continue
        try:
            readings[table.name] = read_labels(table, sample, wishes)
        except DataError as error:
            errors.append(error)
    if not readings:
        raise errors[0] if errors else two_readings("train table", [table.name for table in keyed], _choose(keyed[0]))
    sure = max(reading.sure for reading in readings.values())
    names = [name for name, reading in readings.items() if reading.sure == sure]
    best = readings[names[0]]
    # Another table with the same columns may be more of the labels, or others.
    rivals = {table.name: table for table in keyed if table.name in names or _has(table, best)}
    if len(rivals) > 1:
        raise two_readings("train table", list(rivals), _choose(rivals[names[0]]))
    others = [table.name for table in keyed if table.name != names[0]]
    said = f"not used, as the labels are here: {name_some(others)}; another: --table NAME"
    return rivals[names[0]], best, said


def predefined_split(table: pd.DataFrame, taken: set[str]) -> Split | None:
    """The column whose every value is the name of a part: train, valid, test."""
    for column in table.columns:
        if column in taken:
            continue
        parts = {
            part: value
            for value in table[column].unique()
            for part, names in PART_NAMES.items()
            if value.lower() in names
        }
        if len(parts) == table[column].nunique() and {"train", "held_out"} <= set(parts):
            return Split(column=column, train=parts["train"], held_out=parts["held_out"], test=parts.get("test"))
    return None


def group_offers(keyed: KeyedTable, reading: Reading) -> list[tuple[str, str]]:
    """What may say which rows belong together, as (option, what it is): a column, or the ids before left and right."""
    table = keyed.table
    found = []
    labels = [reading.column] if reading.column else list(reading.columns)
    for column in table.columns:
        if column not in {keyed.id_column, *labels} and _is_group(table, column, labels, len(reading.classes)):
            values = table[column].nunique()
            found.append((f"--group-column '{column}'", f"{values} values of {column!r} in {len(table)} rows"))
    sides = table[keyed.id_column].str.extract(_SIDES, expand=True)["group"].dropna()
    if len(sides) * 2 > len(table) and sides.duplicated().any():
        option = "--group-pattern '(?P<group>.+)[_-](left|right)'"
        found.append((option, f"{sides.nunique()} ids before left and right, such as {sides.iloc[0]}"))
    return found


def groups_by_pattern(ids: Sequence[str], pattern: str) -> dict[str, str]:
    """id → what the pattern's group `group` finds in it, for the ids in which it finds something.

    Raises:
        DataError: It is no pattern with such a group, or finds nothing.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        problem = f"{pattern!r} is no regular expression: {error}"
    else:
        problem = "" if "group" in compiled.groupindex else f"the pattern {pattern!r} has no group named group"
        matches = ((key, compiled.search(key)) for key in ids)
        groups = {} if problem else {key: match["group"] for key, match in matches if match and match["group"]}
        if groups:
            return groups
    raise DataError(
        problem or f"the pattern {pattern!r} finds no group in ids such as {name_some(ids, limit=3)}",
        expected="a pattern that finds in an id what it has in common with others, as '(?P<group>.+)_(left|right)'",
        next_step="check --group-pattern",
    )


def _choose(table: KeyedTable) -> str:
    return f"choose one with --table '{table.name}'"


def _has(table: KeyedTable, reading: Reading) -> bool:
    wanted = reading.columns or (reading.column,)
    return set(wanted) <= set(table.table.columns) and not is_part(table.name.rsplit(".", 1)[0], "test")


def _is_group(table: pd.DataFrame, column: str, labels: list[str], classes: int) -> bool:
    """Whether the values of a column repeat as those of persons or places do, and say less than a class."""
    values = table[column]
    counts = values[values != ""].value_counts()
    if len(counts) < 3 or (counts > 1).sum() * 2 < len(counts):
        return False
    words = re.split(r"[^a-z]+", column.lower())
    if words[-1] != "id" and not _GROUP_NAMES & set(words):
        names = sum(not re.fullmatch(r"-?[0-9.]*", value) for value in counts.index)
        if len(counts) < max(10, 2 * classes) or names * 2 < len(counts):
            return False
    return bool(table.groupby(labels)[column].nunique().max() > 1)  # otherwise it is another name of the class
