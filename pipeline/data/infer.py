"""What a folder of competition data holds, inferred from the files: the first draft of competition.yaml.

Every conclusion comes with its reason. Where two readings are possible both are named and none is taken.
"""

import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd
from pydantic import ValidationError

from pipeline.artifacts import atomic_folder
from pipeline.competition import (
    Competition,
    Match,
    Split,
    TestData,
    TrainData,
    competition_folder,
)
from pipeline.data.audit import Audit, audit
from pipeline.data.files import find_files, find_pictures, key_of
from pipeline.data.keyed_tables import MATCHES, PART_NAMES, KeyedTable, is_part, keyed_tables, two_readings
from pipeline.data.tables import read_table
from pipeline.errors import DataError, name_some
from pipeline.settings import explain

_LABEL_NAMES = {"label", "labels", "category", "class", "target", "class_name", "class_label"}


@dataclass(frozen=True)
class Wishes:
    """What the user decides where the data leaves it open."""

    table: str | None = None
    id_column: str | None = None
    label_column: str | None = None
    group_column: str | None = None
    metric: str | None = None
    folds: int = 5


@dataclass(frozen=True)
class Finding:
    """One conclusion: the key of competition.yaml, its value, and why."""

    key: str
    value: str
    reason: str


def init_competition(slug: str, data: Path, *, root: Path, wishes: Wishes) -> tuple[Competition, list[Finding], Audit]:
    """Infer `competitions/<slug>/competition.yaml` from `data`, audit the data, and write the folder.

    Rows that cannot be trained on go into quarantine.csv. The data itself is linked to, not copied.

    Raises:
        DataError: The competition exists, or the data cannot be read in one way.
    """
    folder = competition_folder(slug, root=root)
    if (folder / "competition.yaml").exists():
        raise DataError(
            f"the competition {slug} exists already ({folder / 'competition.yaml'})",
            expected="a new slug",
            next_step="edit that file, or remove it to infer it anew",
        )
    if not data.is_dir():
        raise DataError(
            f"{data} is a file, not a folder" if data.is_file() else f"the folder {data} does not exist",
            expected="the folder of the competition's data, unpacked",
            next_step="check --data",
        )
    present = folder / "data"
    if present.is_dir() and not present.is_symlink() and present.resolve() != data.resolve():
        raise DataError(
            f"{present} holds other data than {data}",
            expected="one of them",
            next_step=f"remove it, or describe it itself: --data {present}",
        )
    competition, findings = infer(slug, data, wishes)
    shutil.rmtree(folder.parent / f".{slug}.new", ignore_errors=True)  # of a run that was killed
    with atomic_folder(folder.parent / f".{slug}.new") as draft:
        (draft / "data").symlink_to(data.resolve())
        try:
            audited = audit(competition.model_copy(update={"folder": draft}))
        except DataError as error:
            # The user knows the data by its own path, not by that of the draft.
            problem = error.problem.replace(str(draft / "data"), str(data))
            raise DataError(problem, expected=error.expected, next_step=error.next_step) from None
        (draft / "competition.yaml").write_text(competition.to_yaml(), "utf-8")
        if audited.faults:
            faults = pd.DataFrame(sorted(audited.faults.items()), columns=["id", "reason"])
            faults.to_csv(draft / "quarantine.csv", index=False)
    _settle(folder.parent / f".{slug}.new", folder)
    return competition.model_copy(update={"folder": folder}), findings, audited


def _settle(draft: Path, folder: Path) -> None:
    """Move the draft into place; data that lies in the folder already stays where it is."""
    folder.mkdir(exist_ok=True)
    (folder / "quarantine.csv").unlink(missing_ok=True)  # of an earlier description: the data may have been mended
    shutil.rmtree(folder / "explore", ignore_errors=True)  # likewise
    for file in sorted(draft.iterdir(), key=lambda path: path.name == "competition.yaml"):
        if file.name == "data" and (folder / "data").is_dir() and not (folder / "data").is_symlink():
            continue
        os.replace(file, folder / file.name)
    shutil.rmtree(draft)


def infer(slug: str, data: Path, wishes: Wishes) -> tuple[Competition, list[Finding]]:
    """The competition that `data` holds, and why it is read so.

    Raises:
        DataError: There are no pictures, or two readings are possible.
    """
    pictures = find_pictures(data)
    if not pictures:
        raise DataError(
            f"{data} holds no pictures", expected="picture files in it or below it", next_step="check --data"
        )
    findings: list[Finding] = []
    tables = {path.relative_to(data).as_posix(): read_table(path) for path in find_files(data, {".csv"})}
    sample = _sample(tables, findings)
    keyed = keyed_tables(data, pictures, tables, sample=sample, table=wishes.table, id_column=wishes.id_column)
    if keyed:
        train = _train_from_table(data, _one_table(keyed), tables.get(sample or ""), wishes, findings)
    elif wishes.table:
        raise DataError(
            f"no column of {wishes.table} names the pictures",
            expected="a column of file names, paths or names without suffix",
            next_step="check --table and --id-column",
        )
    else:
        train = _train_from_folders(data, pictures, findings)
    test = _test(data, pictures, train, tables.get(sample or ""), findings)
    submission, metric = _submission(data, train, tables.get(sample or ""), wishes, findings)
    try:
        competition = Competition(
            slug=slug,
            metric=metric,
            train=train,
            test=test,
            sample_submission=sample,
            submission=submission,
            folds=wishes.folds,
        )
    except ValidationError as error:
        raise DataError(
            f"the competition cannot be described so:\n{explain(error, Competition)}",
            expected="the settings described in pipeline/competition.py",
            next_step="check the slug and the options",
        ) from None
    return competition, findings


def _sample(tables: dict[str, pd.DataFrame], findings: list[Finding]) -> str | None:
    names = [name for name in tables if "sample" in Path(name).name.lower()]
    if len(names) > 1:
        raise two_readings("sample submission", names, "remove one of them")
    if not names:
        findings.append(Finding("sample_submission", "none", "no CSV has `sample` in its name"))
        return None
    columns = ", ".join(tables[names[0]].columns[:4])
    findings.append(Finding("sample_submission", names[0], f"its name; columns {columns}"))
    return names[0]


def _one_table(keyed: Sequence[KeyedTable]) -> KeyedTable:
    if len(keyed) > 1:
        raise two_readings("train table", [entry.name for entry in keyed], "choose one with --table")
    return keyed[0]


def _train_from_table(
    data: Path, keyed: KeyedTable, sample: pd.DataFrame | None, wishes: Wishes, findings: list[Finding]
) -> TrainData:
    name, table = keyed.name, keyed.table
    found = len(set(table[keyed.id_column]) & set(keyed.files))
    label, why = _label_column(keyed, sample, wishes)
    split = _split(table, {keyed.id_column, label})
    pictures = keyed.folder.relative_to(data).as_posix()
    findings += [
        Finding("train.table", name, f"column {keyed.id_column!r} names {found} of {len(table)} pictures"),
        Finding("train.pictures", pictures, f"the folder that holds them; matched by {keyed.match}"),
        Finding("train.label_column", label, why),
    ]
    if split:
        counts = ", ".join(f"{value} {count}" for value, count in table[split.column].value_counts().items())
        findings.append(Finding("train.split", split.column, f"its values are {counts}: one predefined fold"))
    for wish, column in (("--group-column", wishes.group_column), ("--id-column", wishes.id_column)):
        if column and column not in table.columns:
            raise DataError(
                f"{name} has no column {column!r}",
                expected="one of " + ", ".join(table.columns),
                next_step=f"check {wish}",
            )
    return TrainData(
        pictures=pictures,
        table=name,
        id_column=keyed.id_column,
        label_column=label,
        match=keyed.match,
        group_column=wishes.group_column,
        split=split,
    )


def _label_column(keyed: KeyedTable, sample: pd.DataFrame | None, wishes: Wishes) -> tuple[str, str]:
    columns = [column for column in keyed.table.columns if column != keyed.id_column]
    if wishes.label_column:
        if wishes.label_column not in columns:
            raise DataError(
                f"{keyed.name} has no column {wishes.label_column!r}",
                expected="one of " + ", ".join(columns),
                next_step="check --label-column",
            )
        return wishes.label_column, "--label-column"
    if sample is not None and len(sample.columns) == 2 and sample.columns[1] in columns:
        return str(sample.columns[1]), "the sample submission has a column of that name"
    if len(columns) == 1:
        return columns[0], "the only other column"
    by_name = [column for column in columns if column.lower().replace(" ", "_") in _LABEL_NAMES]
    if len(by_name) == 1:
        return by_name[0], "its name"
    raise two_readings("label", by_name or columns, "choose one with --label-column")


def _split(table: pd.DataFrame, taken: set[str]) -> Split | None:
    """The column whose every value is the name of a part: train, valid, test."""
    for column in table.columns:
        if column in taken:
            continue
        parts = {
            part: value for value in set(table[column]) for part, names in PART_NAMES.items() if value.lower() in names
        }
        if len(parts) == table[column].nunique() and {"train", "held_out"} <= set(parts):
            return Split(column=column, train=parts["train"], held_out=parts["held_out"], test=parts.get("test"))
    return None


def _train_from_folders(data: Path, pictures: list[Path], findings: list[Finding]) -> TrainData:
    """Class folders: below train/ (and valid/), or at the top."""
    parts = _part_folders(data)
    train = parts.get("train")
    if len(train or []) > 1:
        raise two_readings("train folder", [path.name for path in train or []], "rename one of them")
    if train:
        held_out = parts.get("held_out", [])
        if len(held_out) > 1:
            raise two_readings("validation folder", [path.name for path in held_out], "rename one of them")
        _require_classes(train[0], pictures)
        findings.append(Finding("train.pictures", train[0].name, "a folder a class, and no table names the pictures"))
        if held_out:
            reason = "its name: one predefined fold"
            findings.append(Finding("train.held_out_pictures", held_out[0].name, reason))
        return TrainData(pictures=train[0].name, held_out_pictures=held_out[0].name if held_out else None, match="path")
    if parts:
        part, folder = next((part, folders[0].name) for part, folders in parts.items())
        what = "to predict" if part == "test" else "held out for validation"
        raise DataError(
            f"two readings are possible: the folder {folder!r} may be a class, or the pictures {what}",
            expected="a folder named train beside it, or no folder of that name",
            next_step="move the class folders into a folder train, or rename the class",
        )
    _require_classes(data, pictures)
    findings.append(Finding("train.pictures", ".", "a folder a class, and no table names the pictures"))
    return TrainData(pictures=".", match="path")


def _require_classes(folder: Path, pictures: list[Path]) -> None:
    classes = {
        path.relative_to(folder).parts[0] for path in pictures if path.parent != folder and folder in path.parents
    }
    if len(classes) < 2:
        raise DataError(
            f"{folder} holds no labels: {len(classes)} class folders, and no table names the pictures",
            expected="a folder a class (two or more), or a CSV with a column of picture names and one of labels",
            next_step="check --data, or name the table with --table and --id-column",
        )


def _test(
    data: Path, pictures: list[Path], train: TrainData, sample: pd.DataFrame | None, findings: list[Finding]
) -> TestData | None:
    if sample is not None:
        return _test_from_sample(data, pictures, train, sample, findings)
    if train.split and train.split.test:
        findings.append(Finding("test.pictures", train.pictures, f"rows {train.split.test!r} of {train.table}"))
        return TestData(pictures=train.pictures, match=train.match)
    folders = _part_folders(data).get("test", [])
    if len(folders) > 1:
        raise two_readings("test folder", [path.name for path in folders], "rename one of them")
    if not folders or folders[0].name == train.pictures:
        findings.append(Finding("test", "none", "no sample submission and no folder named test"))
        return None
    findings.append(Finding("test.pictures", folders[0].name, "its name; ids are the paths inside it"))
    return TestData(pictures=folders[0].name, match="path")


def _test_from_sample(
    data: Path, pictures: list[Path], train: TrainData, sample: pd.DataFrame, findings: list[Finding]
) -> TestData:
    """The folder whose pictures the sample submission names."""
    ids = set(sample.iloc[:, 0])
    folders = [folder for folder in _folders(data, pictures) if folder != data / train.pictures]
    found: list[tuple[float, Path, Match]] = []
    for folder in [*folders, data]:
        inside = [path for path in pictures if path.is_relative_to(folder)]
        for match in MATCHES:
            share = len(ids & {key_of(path, folder, match) for path in inside}) / max(1, len(ids))
            if share > 0:
                found.append((share, folder, match))
                break
    if not found:
        raise DataError(
            f"no picture bears an id of the sample submission, such as {name_some(sorted(ids), limit=3)}",
            expected="a test picture for every id, named like it, with or without suffix",
            next_step="check that the download is whole and unpacked",
        )
    share, folder, match = max(found, key=lambda entry: (entry[0], len(entry[1].parts)))
    equal = [path for other, path, _ in found if other == share and len(path.parts) == len(folder.parts)]
    if len(equal) > 1:
        names = [path.relative_to(data).as_posix() for path in equal]
        raise two_readings("folder of test pictures", names, "remove or rename one of them")
    name = folder.relative_to(data).as_posix()
    reason = f"holds {share:.0%} of the sample submission's ids, matched by {match}"
    findings.append(Finding("test.pictures", name, reason))
    return TestData(pictures=name, match=match)


def _submission(
    data: Path, train: TrainData, sample: pd.DataFrame | None, wishes: Wishes, findings: list[Finding]
) -> tuple[Literal["class", "probabilities"], str]:
    """What a submission holds, by the sample's columns; and the metric, which no file tells."""
    wide = sample is not None and len(sample.columns) > 2
    submission: Literal["class", "probabilities"] = "probabilities" if wide else "class"
    reason = "the sample has one column a class" if wide else "one label an id"
    findings.append(Finding("submission", submission, reason))
    metric: str = wishes.metric or ("log_loss" if wide else "accuracy")
    assumed = "assumed: the data does not say; choose another with --metric"
    findings.append(Finding("metric", metric, "--metric" if wishes.metric else assumed))
    return submission, metric


def _part_folders(data: Path) -> dict[str, list[Path]]:
    """Folders at the top of the data named like a part, by part."""
    parts: dict[str, list[Path]] = {}
    for folder in sorted(path for path in data.iterdir() if path.is_dir()):
        for part in PART_NAMES:
            if is_part(folder, part):
                parts.setdefault(part, []).append(folder)
    return parts


def _folders(data: Path, pictures: Iterable[Path]) -> list[Path]:
    """Every folder below `data` with pictures in it or below it."""
    found = {parent for path in pictures for parent in path.parents if data in parent.parents}
    return sorted(found)
