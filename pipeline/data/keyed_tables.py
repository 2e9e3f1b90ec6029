"""Tables that name pictures: which column does, how, and in which folder the pictures lie."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from pipeline.competition import Match
from pipeline.data.files import id_key
from pipeline.errors import DataError, name_some

PART_NAMES = {
    "train": {"train", "training"},
    "held_out": {"valid", "val", "validation", "dev"},
    "test": {"test", "testing"},
}
_OF_PICTURES = r"([_ -]?(images?|imgs?|pictures|photos|jpe?g|png|data|set|[0-9]+))?"  # test1, train_images
_MATCHES: tuple[Match, ...] = ("path", "name", "stem", "path_stem", "number")
ENOUGH = 0.5  # of a column's values must name pictures for the column to be the id
_PROBED = 500  # values of a column that are looked at before all of it is


@dataclass(frozen=True)
class Pictures:
    """Picture files below `data`, by what tables may call them.

    Attributes:
        places: Their paths from `data`, sorted.
    """

    data: Path
    places: tuple[str, ...]

    @classmethod
    def of(cls, data: Path, paths: Iterable[Path]) -> "Pictures":
        return cls(data, tuple(path.relative_to(data).as_posix() for path in paths))

    def below(self, folder: str) -> "Pictures":
        """Those in a folder or below it; "." has all of them."""
        return self if folder == "." else Pictures(self.data, tuple(filter(_inside(folder), self.places)))

    def without(self, folder: str) -> "Pictures":
        return Pictures(self.data, tuple(place for place in self.places if not _inside(folder)(place)))

    @cached_property
    def numbers(self) -> frozenset[str]:
        """What each is called at the least: its stem, without the zeros before a number."""
        return frozenset(self.keys("number"))

    def keys(self, match: Match) -> list[str]:
        return [id_key(place, match) for place in self.places]

    def folders(self, inside: str = ".") -> Counter[str]:
        """The folders right inside `inside` that hold pictures or have some below them, and how many; "" for those
        that lie in no further folder."""
        start = 0 if inside == "." else len(inside) + 1
        parts = (place[start:].split("/") for place in self.below(inside).places)
        return Counter(first if rest else "" for first, *rest in parts)


@dataclass(frozen=True)
class Naming:
    """How ids name pictures.

    Attributes:
        folder: Below which the pictures lie, from the data folder; "." for that itself.
        found: How many ids name one.
    """

    folder: str
    match: Match
    found: int


@dataclass(frozen=True)
class KeyedTable:
    """A table whose column names pictures."""

    name: str
    table: pd.DataFrame
    id_column: str
    match: Match
    folder: str
    found: int


def keyed_tables(
    pictures: Pictures,
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
        DataError: There is no such table or column, or two folders hold pictures of the names in the column.
    """
    if table and table not in tables:
        raise DataError(
            f"there is no table {table!r} in {pictures.data}",
            expected="one of " + (name_some(tables) or "no CSV at all"),
            next_step="check --table",
        )
    if id_column and not any(id_column in content for name, content in tables.items() if table in (None, name)):
        columns = tables[table].columns if table else dict.fromkeys(c for one in tables.values() for c in one.columns)
        raise DataError(
            f"{table or 'every table'} has no column {id_column!r}",
            expected="one of " + name_some(columns, limit=20),
            next_step="check --id-column",
        )
    candidates = []
    to_predict = set(tables[sample].iloc[:, 0]) if sample else set()
    for name, content in tables.items():
        if name == sample or (table and name != table) or len(content.columns) < 2:
            continue
        keyed = _keyed(name, content, pictures, id_column)
        # A table of the pictures to predict has their ids, but is not what to learn from.
        if keyed and (not set(content[keyed.id_column]) <= to_predict or is_part(keyed.folder, "train")):
            candidates.append(keyed)
    return candidates


def several_a_row(pictures: Pictures, tables: Mapping[str, pd.DataFrame]) -> tuple[str, str, list[str]] | None:
    """A table and its column whose ids are each the beginning of several pictures' names, and those of one id."""
    by_beginning: dict[str, list[str]] = defaultdict(list)
    for place, stem in zip(pictures.places, pictures.keys("stem"), strict=True):
        beginning, *rest = re.split(r"[_-](?!.*[_-])", stem)
        if rest:
            by_beginning[beginning].append(place)
    for name, table in tables.items():
        for column in table.columns:
            probed = table[column].unique()[:_PROBED]
            hits = [value for value in probed if len(by_beginning.get(value, ())) > 1]
            if len(hits) > len(probed) * ENOUGH:
                return name, str(column), by_beginning[hits[0]]
    return None


def namings(ids: Iterable[str], pictures: Pictures) -> list[Naming]:
    """The ways in which most of these ids name pictures, a folder each, the plainest match.

    Several, where folders hold pictures of the same names; none, where no id names one.
    """
    given = list(dict.fromkeys(ids))
    best: list[Naming] = []
    for match in _MATCHES:
        found = _by_folder({id_key(key, match) for key in given}, pictures, match)
        most = max(found.values(), default=0)
        if most > (best[0].found if best else 0):
            folders = [folder for folder, count in found.items() if count == most]
            best = [Naming(folder, match, most) for folder in _innermost(folders)]
        if best and best[0].found == len(given):
            break
    return best


def one_folder(found: Sequence[Naming], part: str, option: str) -> Naming:
    """Of folders that hold pictures of the same names, the one that is named like the part.

    Raises:
        DataError: None is, or several are.
    """
    named = [naming for naming in found if is_part(naming.folder, part)]
    if len(found) > 1 and len(named) != 1:
        names = [naming.folder for naming in found]
        raise two_readings(f"folder of {part} pictures", names, f"choose one with {option} {names[0]}")
    return named[0] if len(named) == 1 else found[0]


def two_readings(what: str, names: Sequence[str], next_step: str) -> DataError:
    listed = " or ".join(repr(name) for name in names[:10])
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return DataError(
        f"two readings are possible: the {what} may be {listed}{more}",
        expected="data that can be read in one way",
        next_step=next_step,
    )


def is_part(folder: str, part: str) -> bool:
    """Whether a folder's name is that of a part: `train`, `Test1`, `val_images`."""
    name = folder.rsplit("/", 1)[-1].lower()
    return any(re.fullmatch(word + _OF_PICTURES, name) for word in PART_NAMES[part])


def _keyed(name: str, table: pd.DataFrame, pictures: Pictures, id_column: str | None) -> KeyedTable | None:
    """The column that names most pictures, and how."""
    best: tuple[tuple[int, int], str, list[Naming]] | None = None
    for column in [id_column] if id_column in table.columns else list(table.columns):
        values = table[column].unique()
        probed = values[:: max(1, len(values) // _PROBED)]
        hits = sum(id_key(value, "number") in pictures.numbers for value in probed)
        if hits < len(probed) * ENOUGH / 2:
            continue
        found = namings(values, pictures)
        if not found or found[0].found < len(values) * ENOUGH:
            continue
        # Labels may be the names of pictures, too (0, 1, 2 …), but of few.
        score = (found[0].found, -_MATCHES.index(found[0].match))
        if best is None or score > best[0]:
            best = (score, str(column), found)
    if best is None:
        return None
    if id_key(best[1], "number") in pictures.numbers:
        header = ",".join("id" if column == best[1] else f"column {n + 1}" for n, column in enumerate(table.columns))
        raise DataError(
            f"the first line of {name} is a row, and no header: {best[1]!r} names a picture",
            expected="a line with the names of the columns",
            next_step=f"put such a line before it: sed -i '1i {header}' '{pictures.data / name}'",
        )
    naming = one_folder(best[2], "train", "--pictures")
    return KeyedTable(name, table, best[1], naming.match, naming.folder, naming.found)


def _by_folder(wanted: set[str], pictures: Pictures, match: Match) -> dict[str, int]:
    """How many of the keys name a picture below each folder, where none names two of them there."""
    hits: dict[str, list[str]] = defaultdict(list)
    if match in ("path", "path_stem"):
        for place, key in zip(pictures.places, pictures.keys(match), strict=True):
            for start, folder in _folders_of(place):
                if key[start:] in wanted:
                    hits[folder].append(key[start:])
    else:
        for place, key in zip(pictures.places, pictures.keys(match), strict=True):
            if key in wanted:
                for _, folder in _folders_of(place):
                    hits[folder].append(key)
    return {folder: len(keys) for folder, keys in hits.items() if len(set(keys)) == len(keys)}


def _folders_of(place: str) -> Iterator[tuple[int, str]]:
    """Each folder that a picture lies in or below, and where in its path what follows it begins."""
    yield 0, "."
    end = place.find("/")
    while end >= 0:
        yield end + 1, place[:end]
        end = place.find("/", end + 1)


def _innermost(folders: Sequence[str]) -> list[str]:
    """Those that contain no other of them."""
    return [one for one in folders if not any(other != one and _inside(one)(other) for other in folders)]


def _inside(folder: str) -> Callable[[str], bool]:
    """Whether a path is that of something in a folder or below it."""
    return lambda place: folder == "." or place.startswith(folder + "/")
