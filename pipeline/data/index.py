"""Index: which pictures there are, where, and with which label; keyed and sorted by id.

Sorting makes everything after it independent of the order of the rows in train.csv. `scan` finds what does
not fit together and says so; `train_index` and `test_index` refuse it, unless the quarantine names it.
"""

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.competition import Competition, Match
from pipeline.data.decode import PICTURE_SUFFIXES, picture_size
from pipeline.errors import DataError
from pipeline.errors import name_some as name_some
from pipeline.progress import Progress


@dataclass(frozen=True)
class Scan:
    """What the train table and folders hold, faults included.

    Attributes:
        rows: Columns id, path (str, "" without a file), label (str, "" without one), group, split; by id.
        faults: id → why the row cannot be trained on.
        without_row: Files in the train folders that no row names.
    """

    rows: pd.DataFrame
    faults: dict[str, str] = field(default_factory=dict)
    without_row: list[str] = field(default_factory=list)


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


def find_pictures(folder: Path) -> list[Path]:
    """All picture files below `folder`, hidden ones left out, sorted.

    Raises:
        DataError: There is no such folder.
    """
    if not folder.is_dir():
        raise DataError(
            f"the folder {folder} does not exist",
            expected="a folder of pictures",
            next_step="check the path, and where competitions/<slug>/data points to",
        )
    return find_files(folder, PICTURE_SUFFIXES)


def find_files(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """The files below `folder` with one of the (lower-case) suffixes, hidden ones left out, sorted."""
    # Whoever names a large folder by mistake sees which it is.
    files = Progress(_files(folder), desc=f"searching {folder}", unit=" files", leave=False, disable=None, delay=1)
    return sorted(path for path in files if path.suffix.lower() in suffixes and path.is_file())


def key_of(path: Path, folder: Path, match: Match) -> str:
    """What a table calls the picture `path`."""
    relative = path.relative_to(folder)
    return {"path": relative.as_posix(), "name": relative.name, "stem": relative.stem}[match]


def scan(competition: Competition) -> Scan:
    """Read the train table and folders; what a row lacks is a fault, what cannot be read is an error.

    A row's group is the one in groups.csv, or else the one in the table's group column.
    """
    found = scan_rows(competition)
    groups = read_groups(competition)
    _refuse_unknown(groups, found.rows, competition.groups_file)
    if groups:
        own = zip(found.rows["id"], found.rows["group"], strict=True)
        found.rows["group"] = [groups.get(key, group) for key, group in own]
    return found


def scan_rows(competition: Competition) -> Scan:
    """`scan` without groups.csv, which is about the training rows alone."""
    table = competition.train.table
    return _scan_folders(competition) if table is None else _scan_table(competition, table)


def read_quarantine(competition: Competition) -> dict[str, str]:
    """id → reason of the rows that are left out."""
    if not competition.quarantine_file.is_file():
        return {}
    table = read_table(competition.quarantine_file, ["id", "reason"])
    return dict(zip(table["id"], table["reason"], strict=True))


def read_groups(competition: Competition) -> dict[str, str]:
    """id → group, as groups.csv has it.

    Raises:
        DataError: It names an id twice.
    """
    if not competition.groups_file.is_file():
        return {}
    table = read_table(competition.groups_file, ["id", "group"])
    _refuse_repeated(table["id"], str(competition.groups_file))
    return dict(zip(table["id"], table["group"], strict=True))


def train_index(competition: Competition) -> pd.DataFrame:
    """The labelled pictures: columns id, path, label, group, split, sorted by id.

    Raises:
        DataError: A row has no file or no label and is not in the quarantine, or there is nothing to train on.
    """
    found = scan(competition)
    quarantine = read_quarantine(competition)
    _refuse_unknown(quarantine, found.rows, competition.quarantine_file)
    faults = {key: why for key, why in found.faults.items() if key not in quarantine}
    if faults:
        raise DataError(
            f"{len(faults)} rows of {competition.train.table} cannot be used: "
            + name_some(f"{key} ({why})" for key, why in sorted(faults.items())),
            expected="a picture and a label for every row",
            next_step=f"mend them, or leave them out by rows `id,reason` in {competition.quarantine_file}",
        )
    rows = found.rows[~found.rows["id"].isin(set(quarantine))].reset_index(drop=True)
    if rows["label"].nunique() < 2:
        raise DataError(
            f"{competition.slug} has {len(rows)} labelled pictures in {rows['label'].nunique()} classes",
            expected="pictures of at least two classes",
            next_step="check train.pictures and train.table in competition.yaml",
        )
    return rows


def test_index(competition: Competition) -> pd.DataFrame:
    """The pictures to predict: columns id, path, sorted by id; empty where the competition has none.

    Raises:
        DataError: The sample submission and the test pictures do not name the same ids.
    """
    empty = pd.DataFrame({"id": pd.Series(dtype=str), "path": pd.Series(dtype=str)})
    if competition.test is None:
        return empty
    folder = competition.data / competition.test.pictures
    files = _by_key(find_pictures(folder), folder, competition.test.match)
    ids = _test_ids(competition)
    if ids is None:
        ids = list(files)
    _refuse_repeated(pd.Series(ids, dtype=str), str(competition.sample_submission))
    missing = [key for key in ids if key not in files]
    if missing:
        raise DataError(
            f"{len(missing)} ids of {competition.sample_submission} have no picture in "
            f"{competition.test.pictures}: {name_some(missing)}",
            expected=f"a picture for every id, matched by {competition.test.match}",
            next_step="check test.pictures and test.match in competition.yaml, and that the download is whole",
        )
    surplus = sorted(set(files) - set(ids))
    if surplus:  # train pictures may lie in the same folder
        known = set(scan(competition).rows["path"])
        surplus = [key for key in surplus if str(files[key]) not in known]
    if surplus:
        raise DataError(
            f"{len(surplus)} test pictures are not in {competition.sample_submission}: {name_some(surplus)}",
            expected="the same ids in both",
            next_step="check sample_submission and test.pictures in competition.yaml",
        )
    rows = pd.DataFrame({"id": ids, "path": [str(files[key]) for key in ids]})
    return _sorted(rows)


def mean_size(paths: Iterable[str]) -> tuple[float, float]:
    """Mean height and mean width in pixels, from the files' headers."""
    sizes = np.array([picture_size(Path(path)) for path in paths], dtype=np.float64)
    height, width = sizes.mean(axis=0)
    return float(height), float(width)


def _test_ids(competition: Competition) -> list[str] | None:
    """The ids to predict as the sample submission or the table's test rows name them, if either does."""
    if competition.sample_submission:
        table = read_table(competition.data / competition.sample_submission)
        return list(table.iloc[:, 0])
    split = competition.train.split
    if split and split.test and competition.train.table:
        table = read_table(competition.data / competition.train.table)
        return list(table.loc[table[split.column] == split.test, competition.train.id_column])
    return None


def _scan_table(competition: Competition, name: str) -> Scan:
    train = competition.train
    assigned = [train.id_column, train.label_column, train.group_column, train.split and train.split.column]
    table = read_table(competition.data / name, [column for column in assigned if column])
    rows = pd.DataFrame({"id": table[train.id_column], "label": table[train.label_column].str.strip()})
    rows["group"] = table[train.group_column] if train.group_column else ""
    rows["split"] = "train"
    if train.split:
        rows["split"] = table[train.split.column]
        names = {train.split.train: "train", train.split.held_out: "held_out"}
        unknown = set(rows["split"]) - set(names) - {train.split.test}
        if unknown:
            raise DataError(
                f"column {train.split.column!r} of {name} holds {name_some(sorted(unknown))}",
                expected="only " + ", ".join(repr(name) for name in [*names, train.split.test] if name),
                next_step="correct train.split in competition.yaml",
            )
        rows = rows[rows["split"] != train.split.test].assign(split=lambda frame: frame["split"].map(names))
    _refuse_repeated(rows["id"], name)
    folder = competition.data / train.pictures
    files = _by_key(find_pictures(folder), folder, train.match)
    rows["path"] = [str(files.get(key, "")) for key in rows["id"]]
    faults = dict.fromkeys(rows["id"][rows["path"] == ""], "no such file")
    faults |= dict.fromkeys(rows["id"][rows["label"] == ""], "no label")
    listed = set(table[train.id_column])
    without_row = [_place(path, folder, competition) for key, path in files.items() if key not in listed]
    return Scan(_sorted(rows), faults, sorted(without_row))


def _scan_folders(competition: Competition) -> Scan:
    train = competition.train
    frames = []
    for pictures, split in ((train.pictures, "train"), (train.held_out_pictures, "held_out")):
        if pictures is None:
            continue
        folder = competition.data / pictures
        files = find_pictures(folder)
        used = {path.parent for path in files}
        classes = [entry for entry in sorted(folder.iterdir()) if entry.is_dir() and not _hidden(Path(entry.name))]
        empty = [entry.name for entry in classes if not any(entry == p or entry in p.parents for p in used)]
        if empty:
            raise DataError(
                f"{len(empty)} class folders in {folder} hold no picture: {name_some(empty)}",
                expected="at least one picture in every class folder",
                next_step="fill the folder or remove it",
            )
        loose = [path.name for path in files if path.parent == folder]
        if loose:
            raise DataError(
                f"{len(loose)} pictures in {folder} lie in no class folder: {name_some(loose)}",
                expected="every picture in the folder of its class",
                next_step="move them, or give a train table",
            )
        frames.append(
            pd.DataFrame(
                {
                    "id": [_place(path, folder, competition) for path in files],
                    "path": [str(path) for path in files],
                    "label": [path.relative_to(folder).parts[0] for path in files],
                    "group": "",
                    "split": split,
                }
            )
        )
    return Scan(_sorted(pd.concat(frames)))


def _place(path: Path, folder: Path, competition: Competition) -> str:
    """Where a picture lies in data/; in its own folder, where competition.yaml names that by an absolute path."""
    return path.relative_to(competition.data if path.is_relative_to(competition.data) else folder).as_posix()


def _files(folder: Path) -> Iterator[Path]:
    """The files below `folder`, without hidden ones; links to folders are followed, but not in a circle."""
    for parent, folders, names in os.walk(folder, followlinks=True):
        here = Path(parent)
        real = here.resolve()
        folders[:] = [
            name
            for name in folders
            if not _hidden(Path(name))
            and not ((here / name).is_symlink() and real.is_relative_to((here / name).resolve()))
        ]
        yield from (here / name for name in names if not _hidden(Path(name)))


def _by_key(paths: Iterable[Path], folder: Path, match: Match) -> Mapping[str, Path]:
    files: dict[str, Path] = {}
    for path in paths:
        other = files.setdefault(key_of(path, folder, match), path)
        if other != path:
            raise DataError(
                f"two pictures have the {match} {key_of(path, folder, match)!r}: {other} and {path}",
                expected=f"each {match} once below {folder}",
                next_step="remove one, or match by path in competition.yaml",
            )
    return files


def _refuse_unknown(ids: Iterable[str], rows: pd.DataFrame, file: Path) -> None:
    strange = sorted(set(ids) - set(rows["id"]))
    if strange:
        raise DataError(
            f"{file} names {len(strange)} ids that are not in the data: {name_some(strange)}",
            expected="ids of training rows",
            next_step="correct or remove those rows",
        )


def _refuse_repeated(ids: pd.Series, where: str) -> None:
    repeated = ids[ids.duplicated()].unique()
    if len(repeated):
        raise DataError(
            f"{where} names {len(repeated)} ids more than once: {name_some(sorted(repeated))}",
            expected="every id once",
            next_step="remove the repeated rows",
        )


def _sorted(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.sort_values("id", kind="stable").reset_index(drop=True)


def _hidden(path: Path) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in path.parts)
