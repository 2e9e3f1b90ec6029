"""What a folder of competition data holds, inferred from the files: the first draft of competition.yaml.

Every conclusion comes with its reason, and with its doubt and the option that decides otherwise. Where two readings are
possible both are named and none is taken.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd
from pydantic import ValidationError

from pipeline.competition import Competition, TestData, TrainData
from pipeline.data.containers import CONTAINERS, refuse_container
from pipeline.data.decode import PICTURE_SUFFIXES
from pipeline.data.files import find_files
from pipeline.data.infer_folders import test_pictures, train_from_folders
from pipeline.data.infer_labels import Reading
from pipeline.data.infer_submission import Submission, choose_sample, is_sample, long_ids, read_form
from pipeline.data.infer_table import group_offers, predefined_split, train_table
from pipeline.data.infer_wishes import Wishes
from pipeline.data.keyed_tables import KeyedTable, Pictures, keyed_tables, namings, several_a_row
from pipeline.data.tables import read_tables
from pipeline.errors import DataError, name_some
from pipeline.settings import explain

_TABLES = frozenset({".csv", ".tsv", ".txt"})
_MOST_FACTS = 600  # columns of facts about a picture; of more, there is one a pixel
_DOUBT = "in doubt"


@dataclass(frozen=True)
class Finding:
    """One conclusion: the key of competition.yaml, its value, and why; or, without a key, a doubt of the one before."""

    key: str
    value: str
    reason: str


def infer(slug: str, data: Path, wishes: Wishes) -> tuple[Competition, list[Finding]]:
    """The competition that `data` holds, and why it is read so.

    Raises:
        DataError: There are no pictures, or two readings are possible.
    """
    wishes = _from_data(wishes, data)
    files = find_files(data, PICTURE_SUFFIXES | _TABLES | CONTAINERS.keys())
    pictures = Pictures.of(data, _of(files, PICTURE_SUFFIXES))
    packed = _of(files, CONTAINERS)
    read, unread = read_tables(_of(files, _TABLES))
    tables = {path.relative_to(data).as_posix(): table for path, table in read.items()}
    errors = {path.relative_to(data).as_posix(): error for path, error in unread.items()}
    if not pictures.places:
        raise refuse_container(data, packed, f"{data} holds no pictures") if packed else _no_pictures(data, tables)
    for name, error in errors.items():
        if name in (wishes.table, wishes.sample) or is_sample(name):
            raise error
    sample, why = choose_sample(list(tables), wishes.sample, wishes.table)
    asked = tables[sample] if sample else None
    columns = f"; columns {', '.join(asked.columns[:4])}" if asked is not None else ""
    findings = [Finding("sample_submission", sample or "none", why + columns)]
    key = None
    if sample and asked is not None and (key := _later_ids(asked, pictures)):
        asked = tables[sample] = asked[[key, *asked.columns.drop(key)]]
        findings.append(Finding("sample_id_column", key, "not the first, but its values name pictures, each once"))
    keyed = _keyed(pictures, tables, sample, wishes)
    if keyed:
        train, reading = _from_table(keyed, asked, wishes, findings)
        findings += [Finding("", _DOUBT, f"not used: {error.problem}") for error in errors.values()]
    elif errors:  # one of them may have the labels
        raise next(iter(errors.values()))
    else:
        train, reading = _from_folders(pictures, tables, wishes, findings)
    test, long = _test(pictures, packed, train, reading, asked, wishes, findings)
    submission = read_form(
        asked, classes=reading.classes, target=reading.target, separator=reading.separator, long=long, wishes=wishes
    )
    findings += _of_submission(submission, reading, wishes)
    described = _described(slug, train, test, sample, reading, submission, wishes)
    return described.model_copy(update={"sample_id_column": key}), findings


def _later_ids(sample: pd.DataFrame, pictures: Pictures) -> str | None:
    """The sample submission's column of ids, where it is not the first."""
    first, *others = sample.columns
    if sample[first].is_unique:
        return None
    return next((one for one in others if sample[one].is_unique and namings(sample[one], pictures)), None)


def _from_data(wishes: Wishes, data: Path) -> Wishes:
    """Files and folders as they are called from the data folder, also where the user names them with it."""

    def plain(name: str | None) -> str | None:
        if name is None:
            return None
        return (Path(name).relative_to(data) if Path(name).is_relative_to(data) else PurePosixPath(name)).as_posix()

    return replace(
        wishes,
        table=plain(wishes.table),
        sample=plain(wishes.sample),
        pictures=plain(wishes.pictures),
        test_pictures=plain(wishes.test_pictures),
    )


def _of(files: Iterable[Path], suffixes: Collection[str]) -> list[Path]:
    return [path for path in files if path.suffix.lower() in suffixes]


def _no_pictures(data: Path, tables: Mapping[str, pd.DataFrame]) -> DataError:
    of_pixels = [
        name for name, table in tables.items() if len(table.columns) > _MOST_FACTS or "pixels" in table.columns
    ]
    if of_pixels:
        return DataError(
            f"{data} holds no picture files; those of {of_pixels[0]} seem to be numbers",
            expected="picture files, and a table of their names and labels",
            next_step="write each row to a PNG file named like its id (PIL.Image.fromarray), and the ids and labels to "
            "a table",
        )
    return DataError(f"{data} holds no pictures", expected="picture files in it or below it", next_step="check --data")


def _keyed(pictures: Pictures, tables: dict[str, pd.DataFrame], sample: str | None, wishes: Wishes) -> list[KeyedTable]:
    """The tables that name pictures; none, where the labels are to be in the paths."""
    of_table = wishes.table or wishes.id_column or wishes.label_column or wishes.label_columns or wishes.group_column
    if wishes.label_pattern:
        if of_table:
            raise DataError(
                "--label-pattern is for pictures whose path says the label, without a table",
                expected="it, or options of a table",
                next_step="go without --label-pattern, or without --table, --id-column, --label-column and the like",
            )
        return []
    inside = pictures.below(wishes.pictures) if wishes.pictures else pictures
    keyed = keyed_tables(inside, tables, sample=sample, table=wishes.table, id_column=wishes.id_column)
    if not keyed and of_table:
        raise DataError(
            f"no column of {wishes.table or 'any table'} names the pictures",
            expected="a column of file names, paths, names without suffix or numbers",
            next_step="check --table, --id-column and --pictures; or, if there is a folder a class, go without these "
            "and without label options",
        )
    return keyed


def _from_table(
    keyed: list[KeyedTable], sample: pd.DataFrame | None, wishes: Wishes, findings: list[Finding]
) -> tuple[TrainData, Reading]:
    chosen, reading, others = train_table(keyed, sample, wishes)
    table, name = chosen.table, chosen.name
    split = predefined_split(table, {chosen.id_column, reading.column or "", *reading.columns})
    if wishes.group_column and wishes.group_column not in table.columns:
        raise DataError(
            f"{name} has no column {wishes.group_column!r}",
            expected="one of " + name_some(table.columns, limit=20),
            next_step="check --group-column",
        )
    findings.append(
        Finding("train.table", name, f"{len(table)} rows; {chosen.id_column!r} names {chosen.found} pictures")
    )
    if others:
        findings.append(Finding("", _DOUBT, others))
    findings.append(Finding("train.pictures", chosen.folder, f"the folder that holds them; matched by {chosen.match}"))
    if reading.column:
        findings.append(Finding("train.label_column", reading.column, reading.why))
    else:
        findings.append(Finding("train.label_columns", name_some(reading.columns), reading.why))
    if reading.separator:
        findings.append(Finding("train.label_separator", repr(reading.separator), "what stands between the labels"))
    findings += [Finding("", _DOUBT, doubt) for doubt in reading.doubts]
    if split:
        counts = ", ".join(f"{value} {count}" for value, count in table[split.column].value_counts().items())
        findings.append(Finding("train.split", split.column, f"its values are {counts}: one predefined fold"))
    elif not (wishes.group_column or wishes.group_pattern):
        findings += _offers(chosen, reading)
    train = TrainData(
        pictures=chosen.folder,
        table=name,
        id_column=chosen.id_column,
        label_column=reading.column,
        label_columns=reading.columns,
        label_separator=reading.separator,
        match=chosen.match,
        group_column=wishes.group_column,
        split=split,
    )
    return train, reading


def _offers(keyed: KeyedTable, reading: Reading) -> Iterator[Finding]:
    """What may belong together, and what it costs to leave it apart."""
    for option, what in group_offers(keyed, reading):
        cost = "if these belong together, rows of one on both sides of a fold flatter the score"
        yield Finding("train.group_column", "none", f"{what}; {cost}: {option}")


def _from_folders(
    pictures: Pictures, tables: Mapping[str, pd.DataFrame], wishes: Wishes, findings: list[Finding]
) -> tuple[TrainData, Reading]:
    try:
        train, classes, why = train_from_folders(pictures, wishes.pictures, wishes.label_pattern)
    except DataError:
        several = several_a_row(pictures, tables)
        if several is None:
            raise
        table, column, places = several
        raise DataError(
            f"each value of column {column!r} of {table} is of several pictures, such as {name_some(places, limit=4)}",
            expected="one picture a row",
            next_step="write a table with a row a picture and its file's name; or, if several are channels of one "
            "picture, join them in one file named like the id",
        ) from None
    if train.label_pattern:
        other = "--label-pattern" if wishes.label_pattern else "another: --label-pattern"
        findings.append(Finding("train.pictures", train.pictures, "no table names the pictures"))
        findings.append(Finding("train.label_pattern", train.label_pattern, f"{why}; {other}"))
    else:
        findings.append(Finding("train.pictures", train.pictures, why))
    if train.held_out_pictures:
        findings.append(Finding("train.held_out_pictures", train.held_out_pictures, "its name: one predefined fold"))
    return train, Reading(classes=tuple(classes))


def _test(
    pictures: Pictures,
    packed: list[Path],
    train: TrainData,
    reading: Reading,
    sample: pd.DataFrame | None,
    wishes: Wishes,
    findings: list[Finding],
) -> tuple[TestData | None, str | None]:
    """The pictures to predict, and what stands before the class in the ids of a long sample submission."""
    ids, long = None, None
    if sample is not None:
        ids = list(sample.iloc[:, 0])
        found = None if namings(ids[:1000], pictures) else long_ids(ids, reading.classes)
        ids, long = found or (ids, None)
    try:
        test, why = test_pictures(pictures, train, ids, wishes.test_pictures)
    except DataError as error:
        if ids and packed and not namings(ids, pictures):
            raise refuse_container(pictures.data, packed, error.problem) from None
        raise
    findings.append(Finding("test.pictures" if test else "test", test.pictures if test else "none", why))
    return test, long


def _of_submission(submission: Submission, reading: Reading, wishes: Wishes) -> Iterator[Finding]:
    several = reading.target == "multilabel"
    yield Finding("target", reading.target, "a picture may be of several classes" if several else "a class a picture")
    yield Finding("submission", submission.form, submission.why)
    for doubt in submission.doubts:
        yield Finding("", _DOUBT, doubt)
    assumed = "assumed: the data does not say; choose another with --metric"
    yield Finding("metric", submission.metric, "--metric" if wishes.metric else assumed)


def _described(
    slug: str,
    train: TrainData,
    test: TestData | None,
    sample: str | None,
    reading: Reading,
    submission: Submission,
    wishes: Wishes,
) -> Competition:
    settings: dict[str, Any] = {
        "positive": submission.positive,
        "top": submission.top,
        "separator": submission.separator,
    }
    try:
        return Competition(
            slug=slug,
            metric=submission.metric,
            target=reading.target,
            train=train,
            test=test,
            sample_submission=sample,
            submission=submission.form,
            folds=wishes.folds,
            **{key: value for key, value in settings.items() if value is not None},
        )
    except ValidationError as error:
        raise DataError(
            f"the competition cannot be described so:\n{explain(error, Competition)}",
            expected="the settings described in pipeline/competition.py",
            next_step="check the slug and the options; --target, --submission and --metric have to go together",
        ) from None
