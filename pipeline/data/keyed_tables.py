"""Tables that name pictures: which column does, how, and in which folder the pictures lie."""

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from pipeline.competition import Match
from pipeline.data.files import key_of
from pipeline.errors import DataError, name_some

PART_NAMES = {
    "train": {"train", "training"},
    "held_out": {"valid", "val", "validation", "dev"},
    "test": {"test", "testing"},
}
MATCHES: tuple[Match, ...] = ("path", "name", "stem")
_ENOUGH = 0.5  # of a column's values must name pictures for the column to be the id
_Keys = Mapping[tuple[Match, Path], Sequence[tuple[str, Path]]]


@dataclass(frozen=True)
class KeyedTable:
    """A table whose column names pictures."""

    name: str
    table: pd.DataFrame
    id_column: str
    match: Match
    folder: Path
    files: dict[str, Path]


def keyed_tables(
    data: Path,
    pictures: Sequence[Path],
    tables: Mapping[str, pd.DataFrame],
    *,
    sample: str | None,
    table: str | None,
    id_column: str | None,
) -> list[KeyedTable]:
    """The tables with a column of pictures and at least one more column that could be the label.

    Args:
        sample: The sample submission's name, which is none of them.
        table: The one table to look at, or all.
        id_column: The one column to look at, where a table has it.

    Raises:
        DataError: There is no such table, or two folders hold pictures of the names in the column.
    """
    if table and table not in tables:
        raise DataError(
            f"there is no table {table!r} in {data}",
            expected="one of " + (name_some(tables) or "no CSV at all"),
            next_step="check --table",
        )
    candidates = []
    to_predict = set(tables[sample].iloc[:, 0]) if sample else set()
    keys = _keys(data, pictures)
    for name, content in tables.items():
        if name == sample or (table and name != table) or len(content.columns) < 2:
            continue
        readings = _readings(name, content, data, keys, id_column)
        if not readings:
            continue
        keyed = _one_folder(readings, data)
        # A table of the pictures to predict has their ids, but is not what to learn from.
        if not set(content[keyed.id_column]) <= to_predict or is_part(keyed.folder, "train"):
            candidates.append(keyed)
    return candidates


def two_readings(what: str, names: Sequence[str], next_step: str) -> DataError:
    return DataError(
        f"two readings are possible: the {what} may be " + " or ".join(repr(name) for name in names),
        expected="data that can be read in one way",
        next_step=next_step,
    )


def is_part(folder: Path, part: str) -> bool:
    return folder.name.lower() in PART_NAMES[part]


def _keys(data: Path, pictures: Sequence[Path]) -> _Keys:
    """What the pictures below each folder are called, by each way to match."""
    keys: dict[tuple[Match, Path], list[tuple[str, Path]]] = defaultdict(list)
    for path in pictures:
        for top in path.parents:
            for match in MATCHES:
                keys[match, top].append((key_of(path, top, match), path))
            if top == data:
                break
    return keys


def _readings(name: str, table: pd.DataFrame, data: Path, keys: _Keys, id_column: str | None) -> list[KeyedTable]:
    """The column that names most pictures, and how: by path from some folder, by file name, by stem.

    Several, where folders hold pictures of the same names.
    """
    columns = [id_column] if id_column in table.columns else list(table.columns)
    tops = sorted({top for _, top in keys})
    best: list[KeyedTable] = []
    best_score: tuple[float, bool, int] = (_ENOUGH, False, -len(MATCHES))
    for column in columns:
        values = set(table[column])
        for rank, match in enumerate(MATCHES):
            # Paths are told from the top of the data or from any folder; names from the top, if none comes twice.
            at_top = None if match == "path" else _hits(values, keys[match, data])
            for top in [data] if at_top else tops:
                hits = at_top or _hits(values, keys[match, top])
                # Labels may be the names of pictures too (0, 1, 2 …), but an id comes once.
                score = (len(hits) / max(1, len(values)), bool(table[column].is_unique), -rank)
                if score < best_score or (score == best_score and column != best[0].id_column):
                    continue
                folder = top if match == "path" else _common(list(hits.values()))
                # Other pictures of the same name outside the common folder do not count.
                reading = KeyedTable(name, table, str(column), match, folder, dict(keys[match, folder]))
                best = [reading] if score > best_score else [*best, reading]
                best_score = score
    return best


def _hits(values: set[str], keys: Sequence[tuple[str, Path]]) -> dict[str, Path]:
    """The pictures that `values` name; none if one value names two."""
    hits = [(key, path) for key, path in keys if key in values]
    named = dict(hits)
    return named if len(named) == len(hits) else {}


def _one_folder(readings: Sequence[KeyedTable], data: Path) -> KeyedTable:
    """Of folders that hold pictures of the same names, the one that is named train."""
    folders = {reading.folder: reading for reading in readings}
    named = [folder for folder in folders if is_part(folder, "train")]
    if len(folders) > 1 and len(named) != 1:
        names = [folder.relative_to(data).as_posix() for folder in folders]
        raise two_readings("folder of train pictures", names, "name one of them train, or remove one")
    return folders[named[0]] if len(named) == 1 else readings[0]


def _common(paths: Sequence[Path]) -> Path:
    return Path(os.path.commonpath([path.parent for path in paths]))
