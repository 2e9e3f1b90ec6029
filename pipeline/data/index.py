"""Index: which pictures there are, where, and with which label; keyed and sorted by id.

Sorting makes everything after it independent of the order of the rows in train.csv. `scan` finds what does
not fit together and says so; `train_index` and `test_index` refuse it, unless the quarantine names it.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.competition import Competition, Match
from pipeline.data.decode import picture_size
from pipeline.data.files import by_key, find_pictures, id_key, is_hidden
from pipeline.data.row_labels import label_in_path, labels_in, split_long
from pipeline.data.tables import read_table
from pipeline.errors import DataError, name_some
from pipeline.targets import class_names, classes_of, split_names


@dataclass(frozen=True)
class Scan:
    """What the train table and folders hold, faults included.

    Attributes:
        rows: Columns id, path (str, "" without a file), label (str, "" without one), group, split; by id. With a
            multilabel target a label is the row's classes joined by `|`, "" for none of them.
        faults: id → why the row cannot be trained on.
        without_row: Files in the train folders that no row names.
    """

    rows: pd.DataFrame
    faults: dict[str, str] = field(default_factory=dict)
    without_row: list[str] = field(default_factory=list)


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
        where = competition.train.table or competition.train.pictures
        raise DataError(
            f"{len(faults)} rows of {where} cannot be used: "
            + name_some(f"{key} ({why})" for key, why in sorted(faults.items())),
            expected="a picture and a label for every row",
            next_step=f"mend them, or leave them out by rows `id,reason` in {competition.quarantine_file}",
        )
    rows = found.rows[~found.rows["id"].isin(set(quarantine))].reset_index(drop=True)
    single = competition.target == "single"
    count = len({part for label in set(rows["label"]) for part in ([label] if single else split_names(label))})
    if count < 2:
        raise DataError(
            f"{competition.slug} has {len(rows)} labelled pictures in {count} classes",
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
    files = by_key(find_pictures(folder), folder, competition.test.match)
    named = _test_ids(competition)
    ids = list(files) if named is None else named
    _refuse_repeated(pd.Series(ids, dtype=str), str(competition.sample_submission))
    keys = ids if named is None else [id_key(key, competition.test.match) for key in ids]
    missing = [one for one, key in zip(ids, keys, strict=True) if key not in files]
    if missing:
        raise DataError(
            f"{len(missing)} ids of {competition.sample_submission} have no picture in "
            f"{competition.test.pictures}: {name_some(missing)}",
            expected=f"a picture for every id, matched by {competition.test.match}",
            next_step="check test.pictures and test.match in competition.yaml, and that the download is whole",
        )
    surplus = sorted(set(files) - set(keys))
    if surplus:  # train pictures may lie in the same folder
        known = set(scan(competition).rows["path"])
        surplus = [key for key in surplus if str(files[key]) not in known]
    if surplus:
        raise DataError(
            f"{len(surplus)} test pictures are not in {competition.sample_submission}: {name_some(surplus)}",
            expected="the same ids in both",
            next_step="check sample_submission and test.pictures in competition.yaml",
        )
    rows = pd.DataFrame({"id": ids, "path": [str(files[key]) for key in keys]})
    return _sorted(rows)


def mean_size(paths: Iterable[str]) -> tuple[float, float]:
    """Mean height and mean width in pixels, from the files' headers."""
    sizes = np.array([picture_size(Path(path)) for path in paths], dtype=np.float64)
    height, width = sizes.mean(axis=0)
    return float(height), float(width)


def _test_ids(competition: Competition) -> list[str] | None:
    """The ids to predict as the sample submission or the table's test rows name them, if either does."""
    if competition.sample_submission:
        key = competition.sample_id_column
        table = read_table(competition.data / competition.sample_submission, [key] if key else [])
        ids = list(table[key] if key else table.iloc[:, 0])
        if competition.submission != "long":
            return ids
        classes = set(classes_of(competition, scan_rows(competition).rows["label"]))
        return list(dict.fromkeys(split_long(key, classes, competition.separator)[0] for key in ids))
    split = competition.train.split
    if split and split.test and competition.train.table:
        table = read_table(competition.data / competition.train.table)
        return list(table.loc[table[split.column] == split.test, competition.train.id_column])
    return None


def _scan_table(competition: Competition, name: str) -> Scan:
    train = competition.train
    assigned = [train.id_column, train.label_column, train.group_column, train.split and train.split.column]
    table = read_table(competition.data / name, [column for column in (*assigned, *train.label_columns) if column])
    rows = pd.DataFrame({"id": table[train.id_column], "split": "train"})
    rows["group"] = table[train.group_column] if train.group_column else ""
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
    rows["label"], wrong = labels_in(table.loc[rows.index], train, competition.target)
    folder = competition.data / train.pictures
    files = by_key(find_pictures(folder), folder, train.match)
    rows["path"] = [str(files.get(id_key(key, train.match), "")) for key in rows["id"]]
    _refuse_repeated_pictures(rows, name, train.match)
    faults = dict.fromkeys(rows["id"][rows["path"] == ""], "no such file")
    faults |= {key: why for key, why in zip(rows["id"], wrong, strict=True) if why}
    listed = {id_key(key, train.match) for key in table[train.id_column]}
    without_row = [_place(path, folder, competition) for key, path in files.items() if key not in listed]
    return Scan(_sorted(rows), faults, sorted(without_row))


def _scan_folders(competition: Competition) -> Scan:
    train = competition.train
    pattern = re.compile(train.label_pattern) if train.label_pattern else None
    frames, faults = [], dict[str, str]()
    for pictures, split in ((train.pictures, "train"), (train.held_out_pictures, "held_out")):
        if pictures is None:
            continue
        folder = competition.data / pictures
        files = find_pictures(folder)
        if pattern is None:
            _require_class_folders(folder, files)
            labels = [path.relative_to(folder).parts[0] for path in files]
        else:
            labels = [label_in_path(path.relative_to(folder).as_posix(), pattern) for path in files]
        places = [_place(path, folder, competition) for path in files]
        faults |= {
            place: f"label_pattern finds no label in {place}"
            for place, label in zip(places, labels, strict=True)
            if not label
        }
        paths = [str(path) for path in files]
        frames.append(pd.DataFrame({"id": places, "path": paths, "label": labels, "group": "", "split": split}))
    return Scan(_sorted(pd.concat(frames)), faults)


def _require_class_folders(folder: Path, files: Sequence[Path]) -> None:
    """Every picture in the folder of its class, and a picture in every one."""
    used = {path.parent for path in files}
    classes = [entry for entry in sorted(folder.iterdir()) if entry.is_dir() and not is_hidden(entry.name)]
    filled = {parent for path in used for parent in (path, *path.parents)}
    empty = [entry.name for entry in classes if entry not in filled]
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


def _place(path: Path, folder: Path, competition: Competition) -> str:
    """Where a picture lies in data/; in its own folder, where competition.yaml names that by an absolute path."""
    return path.relative_to(competition.data if path.is_relative_to(competition.data) else folder).as_posix()


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


def _refuse_repeated_pictures(rows: pd.DataFrame, name: str, match: Match) -> None:
    """`_refuse_repeated`, with the labels that the rows of one picture have, and for ids that mean one picture."""
    for column in ("id", "path"):
        repeated = rows[rows.duplicated(column, keep=False) & (rows[column] != "")]
        if repeated.empty:
            continue
        found = []
        for _, same in repeated.groupby(column):
            labels = " and ".join(map(repr, class_names(same["label"])))
            times = f"as {labels}" if same["label"].nunique() > 1 else f"({len(same)} times)"
            found.append(f"{' = '.join(dict.fromkeys(same['id']))} {times}")
        two = any(" as " in one for one in found)
        raise DataError(
            f"{name} names {len(found)} {'ids' if column == 'id' else 'pictures'} more than once"
            + (", with different labels: " if two else ": ")
            + name_some(found),
            expected="a row a picture" + (f", matched by {match}" if column == "path" else ""),
            next_step="remove the rows that are wrong"
            + ("; where a picture is of several classes, join them in one row (labels a|b)" if two else ""),
        )


def _sorted(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.sort_values("id", kind="stable").reset_index(drop=True)
