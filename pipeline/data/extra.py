"""Extra rows: labelled pictures to train on beside the competition's own, which are never held out and never scored.

A recipe names them under `extra`. They are declared in competition.yaml or are pseudo-labels (`pseudo.py`); from
here on both are the same: rows with the fold that they are for. As they never are OOF rows, an experiment with
them is scored on the same rows as one without.
"""

import difflib
import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pandas as pd

from pipeline.competition import Competition, TrainData
from pipeline.data.folds import NEVER_HELD_OUT, Folds
from pipeline.data.index import scan_rows
from pipeline.data.pseudo import list_pseudo, read_pseudo
from pipeline.errors import DataError, RecipeError, name_some
from pipeline.progress import Progress
from pipeline.targets import is_label


@dataclass(frozen=True)
class ExtraRows:
    """The extra rows that a recipe asks for.

    Attributes:
        frame: Columns source, id (`extra:<source>/…`), path, label, fold (int), sorted by id and fold. A row is
            trained on while `fold` is held out; with -1 it is for every fold.
        notes: What was left out, and what a person should know.
    """

    frame: pd.DataFrame
    notes: tuple[str, ...] = ()

    @property
    def sha256(self) -> str | None:
        """Hash of ids, labels, folds and file sizes; None without rows."""
        if self.frame.empty:
            return None
        digest = hashlib.sha256()
        for row in self.frame.itertuples():
            digest.update(f"{row.id}\n{row.label}\n{row.fold}\n{Path(str(row.path)).stat().st_size}\n".encode())
        return digest.hexdigest()

    def of_fold(self, fold: int) -> pd.DataFrame:
        """The rows to train on while `fold` is held out."""
        return self.frame[self.frame["fold"].isin([fold, NEVER_HELD_OUT])]

    def counts(self, folds: Sequence[int]) -> dict[str, dict[str, int]]:
        """By source and fold, how many rows are trained on."""
        each = {fold: self.of_fold(fold)["source"].value_counts() for fold in folds}
        sources = sorted(set(self.frame["source"]))
        return {name: {str(fold): int(found.get(name, 0)) for fold, found in each.items()} for name in sources}


def load_extra(
    competition: Competition,
    names: Sequence[str],
    *,
    train: pd.DataFrame,
    test: pd.DataFrame,
    classes: Sequence[str],
    folds: Folds,
) -> ExtraRows:
    """Read these sources; exact copies of training pictures are left out, as these are held out in some fold.

    Args:
        train: As `train_index` returns it.
        test: As `test_index` does.

    Raises:
        RecipeError: There is no source of this name.
        DataError: A source cannot be read, has other classes, or holds nothing but copies.
    """
    if not names:
        return ExtraRows(pd.DataFrame(columns=["source", "id", "path", "label", "fold"]))
    frames = []
    for name in names:
        declared = _is_declared(competition, name)
        rows = _read_declared(competition, name) if declared else read_pseudo(competition, name, test=test, folds=folds)
        known = frozenset(classes)
        unknown = sorted(label for label in set(rows["label"]) if not is_label(label, known, competition.target))
        if unknown:
            raise DataError(
                f"the extra rows {name} have {len(unknown)} labels that are no classes of {competition.slug}: "
                + name_some(unknown),
                expected=f"its classes alone: {name_some(classes)}",
                next_step="rename or remove them",
            )
        frames.append(rows.assign(source=name, id=f"extra:{name}/" + rows["id"]))
    frame, notes = _without_copies(pd.concat(frames), train)
    declared_rows = frame[frame["source"].isin(list(competition.extra))]
    in_test = _copies(declared_rows, test)
    if in_test:
        named = name_some(f"{key} = {other}" for key, other in in_test.items())
        notes.append(f"extra pictures that are also test pictures ({len(in_test)}): {named}")
    return ExtraRows(frame.sort_values(["id", "fold"], kind="stable").reset_index(drop=True), tuple(notes))


def _is_declared(competition: Competition, name: str) -> bool:
    """Whether competition.yaml has these rows, and not a table of pseudo-labels.

    Raises:
        RecipeError: Neither has, or both have.
    """
    declared, made = name in competition.extra, list_pseudo(competition)
    if declared and name in made:
        raise RecipeError(
            f"{competition.slug} has extra rows {name!r} in competition.yaml and as pseudo-labels",
            expected="one of the two",
            next_step=f"rename them in competition.yaml, or remove {competition.pseudo_file(name)}",
        )
    if not declared and name not in made:
        known = [*competition.extra, *made]
        close = difflib.get_close_matches(name, known, n=1)
        raise RecipeError(
            f"{competition.slug} has no extra rows {name!r}",
            expected="one of " + ", ".join(known) if known else f"names under `extra` in {competition.file}",
            next_step=f"did you mean {close[0]!r}?" if close else "declare them there, or make some: kit pseudo-label",
        )
    return declared


def _read_declared(competition: Competition, name: str) -> pd.DataFrame:
    source = TrainData(**competition.extra[name].model_dump())
    found = scan_rows(competition.model_copy(update={"train": source}))
    if found.faults:
        raise DataError(
            f"{len(found.faults)} extra rows of {name} cannot be used: "
            + name_some(f"{key} ({why})" for key, why in sorted(found.faults.items())),
            expected="a picture and a label for every row",
            next_step=f"mend {source.table}, or remove those rows",
        )
    if found.rows.empty:
        raise DataError(
            f"the extra rows {name} are none: {competition.data / source.pictures} holds no labelled picture",
            expected="a folder a class, or a table",
            next_step=f"check extra.{name} in competition.yaml",
        )
    return found.rows[["id", "path", "label"]].assign(fold=NEVER_HELD_OUT)


def _without_copies(frame: pd.DataFrame, train: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    copies, notes = _copies(frame, train), []
    kept = frame[~frame["id"].isin(set(copies))]
    for name, rows in frame.groupby("source"):
        dropped = {key: copies[key] for key in rows["id"] if key in copies}
        if not (kept["source"] == name).any():
            raise DataError(
                f"all {rows['id'].nunique()} pictures of the extra rows {name} are copies of training pictures",
                expected="further pictures",
                next_step=f"leave {name} out of the recipe's `extra`",
            )
        if dropped:
            named = name_some(f"{key} = {other}" for key, other in dropped.items())
            notes.append(f"extra pictures left out, as copies of training pictures ({len(dropped)}): {named}")
    return kept, notes


def _copies(rows: pd.DataFrame, others: pd.DataFrame) -> dict[str, str]:
    """id of each row whose file has the content of another's → id of that other. Only files of one size are read."""
    by_size: dict[int, list[tuple[str, str]]] = defaultdict(list)
    for key, path in zip(others["id"], others["path"], strict=True):
        by_size[Path(path).stat().st_size].append((key, path))

    @cache
    def digest(path: str) -> bytes:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").digest()

    found = {}
    unique = dict(zip(rows["id"], rows["path"], strict=True))
    for key, path in Progress(unique.items(), desc="extra pictures", unit="picture", leave=False, disable=None):
        for other, other_path in by_size.get(Path(path).stat().st_size, ()):
            if digest(path) == digest(other_path):
                found[key] = other
                break
    return found
