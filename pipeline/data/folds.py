"""Folds: which part each training row is held out in; made once, shared by every experiment."""

import hashlib
import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.artifacts import atomic_path
from pipeline.competition import Competition, Target
from pipeline.data.index import read_quarantine
from pipeline.data.stratify import spread
from pipeline.data.tables import read_table
from pipeline.errors import DataError, counted, name_some
from pipeline.targets import label_numbers, split_names

CHOOSING = 5  # one training row in so many chooses a setting
NEVER_HELD_OUT = -1  # rows that a predefined split gives to training alone


@dataclass(frozen=True)
class Folds:
    """Fold of each id.

    Attributes:
        frame: Columns id (str) and fold (int; -1 is never held out), sorted by id.
    """

    frame: pd.DataFrame

    @property
    def numbers(self) -> list[int]:
        """The folds that are held out, ascending."""
        return sorted(int(fold) for fold in set(self.frame["fold"]) - {NEVER_HELD_OUT})

    @property
    def sha256(self) -> str:
        lines = "".join(f"{row.id},{row.fold}\n" for row in self.frame.itertuples())
        return hashlib.sha256(lines.encode()).hexdigest()


def make_folds(index: pd.DataFrame, *, folds: int, seed: int, target: Target = "single") -> Folds:
    """Divide the rows: stratified by label, or by each of several, whole groups together, or as the data's own split
    says.

    Every id is in exactly one fold. With a predefined split the held-out rows are fold 0 and the others -1. No class is
    taken out of the training whole: the only row, or group, of a class is never held out (-1).

    Args:
        index: As `train_index` returns it.

    Raises:
        DataError: No class has two rows (or, with groups, two groups).
    """
    held_out = (index["split"] == "held_out").to_numpy()
    if held_out.any():
        return Folds(pd.DataFrame({"id": index["id"], "fold": np.where(held_out, 0, NEVER_HELD_OUT)}))
    if target == "multilabel":
        return Folds(pd.DataFrame({"id": index["id"], "fold": _several(index, count=folds, seed=seed)}))
    grouped, groups = _groups(index)
    counts = groups.groupby(index["label"]).nunique()
    if (counts < folds).any():
        return Folds(pd.DataFrame({"id": index["id"], "fold": _with_small(index, count=folds, seed=seed)}))
    fold = np.full(len(index), NEVER_HELD_OUT)
    for number, rows in enumerate(_parts(index, groups if grouped else None, count=folds, seed=seed)):
        fold[rows] = number
    return Folds(pd.DataFrame({"id": index["id"], "fold": fold}))


def small_classes_note(index: pd.DataFrame, *, folds: int, target: Target) -> str:
    """What `make_folds` does with classes that have fewer pictures, or groups, than there are folds; "" without any."""
    if (index["split"] == "held_out").any():
        return ""
    grouped, groups = _groups(index)
    labels = index["label"].map(split_names).explode().dropna() if target == "multilabel" else index["label"]
    counts = groups.loc[labels.index].groupby(labels.to_numpy()).nunique()
    unit = "group" if grouped else "picture"
    alone, few = sorted(counts.index[counts == 1]), sorted(counts.index[(counts > 1) & (counts < folds)])
    said = []
    if alone:
        have = counted(len(alone), "class has", "classes have")
        said.append(f"{have} one {unit}, which is trained on and never held out ({name_some(alone)})")
    if few:
        have = counted(len(few), "class has", "classes have")
        said.append(f"{have} fewer {unit}s than {folds} folds: not every fold holds one out ({name_some(few)})")
    return "; ".join(said)


def inner_rows(
    index: pd.DataFrame, rows: NDArray[np.int64], *, one_in: int, seed: int, target: Target = "single"
) -> NDArray[np.int64]:
    """One in `one_in` of the `rows`, held out of the training to choose the epoch: stratified, whole groups together.

    No class is taken out of the training whole; with groups, the part whose size is nearest to what is asked for.

    Args:
        index: As `train_index` returns it.
        rows: Positions in the index, int64.
        seed: Another one takes other rows.

    Returns:
        Some of `rows`, ascending.

    Raises:
        DataError: Every class is too small to give a part of its rows.
    """
    part = index.iloc[rows].reset_index(drop=True)
    if target == "multilabel":
        return np.asarray(rows[_several(part, count=one_in, seed=seed) == 0], dtype=np.int64)
    grouped, groups = _groups(part)
    parts: list[NDArray[np.int64]] = []
    # Where every class has fewer rows than there are parts, scikit-learn raises; where some have, it warns.
    with warnings.catch_warnings(), suppress(ValueError):
        warnings.filterwarnings("ignore", message="The least populated class")
        divided = _parts(part, groups if grouped else None, count=one_in, seed=seed)
        parts = [_sparing(part, groups, found) for found in divided]
    parts = [found for found in parts if len(found)]
    if not parts:
        raise DataError(
            f"one in {one_in} cannot be taken from {len(part)} training rows in {part['label'].nunique()} classes",
            expected=f"at least one class with {one_in} {'groups' if grouped else 'rows'}",
            next_step="take a larger part (--set 'select_on={kind: inner, one_in: 4}'), or none (--set select_on=last)",
        )
    found = min(parts, key=lambda one: abs(len(one) - len(part) / one_in))
    return np.asarray(np.sort(rows[found]), dtype=np.int64)


def choosing_rows(index: pd.DataFrame, rows: NDArray[np.int64], *, seed: int) -> NDArray[np.int64]:
    """`inner_rows`, one in `CHOOSING`, to choose a setting by; none where every class is too small."""
    try:
        return inner_rows(index, rows, one_in=CHOOSING, seed=seed)
    except DataError:
        return rows[:0]


def _parts(index: pd.DataFrame, groups: pd.Series | None, *, count: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Positions of the rows of each part, stratified by label; whole groups together, where there are any."""
    # Not above: who reads folds that are made does not wait for it.
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    kind = StratifiedKFold if groups is None else StratifiedGroupKFold
    splitter = kind(n_splits=count, shuffle=True, random_state=seed)
    return (rows for _, rows in splitter.split(np.zeros(len(index)), index["label"], groups))


def _several(index: pd.DataFrame, *, count: int, seed: int) -> NDArray[np.int64]:
    """The part of each row of several labels; -1 for groups that are never held out, so that each label is learned.

    Raises:
        DataError: No row may be held out.
    """
    classes = sorted({name for label in index["label"] for name in split_names(label)})
    labels = label_numbers(list(index["label"]), classes, target="multilabel")
    groups = pd.factorize(_groups(index)[1])[0]
    alone = pd.DataFrame(labels.astype(bool)).groupby(groups).any().sum(axis=0).to_numpy() == 1
    shared = ~np.isin(groups, groups[labels[:, alone].any(axis=1)])
    fold = np.full(len(index), NEVER_HELD_OUT)
    if not shared.any():
        raise DataError(
            f"each of the {len(index)} rows, or groups, has a label that no other has",
            expected="labels that two rows or more have: what has no other like it is never held out",
            next_step="check the labels, or leave the rarest out",
        )
    fold[shared] = spread(labels[shared], pd.factorize(groups[shared])[0], count=count, seed=seed)
    for of_label in labels.T.astype(bool):  # all in one part, because of others: nothing would be left to learn it from
        if len(set(fold[of_label])) == 1:
            fold[groups == groups[of_label][0]] = NEVER_HELD_OUT
    return fold


def _with_small(index: pd.DataFrame, *, count: int, seed: int) -> NDArray[np.int64]:
    """The part of each row where some classes have fewer rows, or groups, than there are parts."""
    grouped, groups = _groups(index)
    fold = np.full(len(index), NEVER_HELD_OUT)
    if index["label"].value_counts().max() >= count:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The least populated class")
            for number, rows in enumerate(_parts(index, groups if grouped else None, count=count, seed=seed)):
                fold[rows] = number
    else:  # too small for scikit-learn: the groups of a class one after the other, and so into one part each
        order = index.assign(group=groups).sample(frac=1, random_state=seed).sort_values("label", kind="stable")
        dealt = {group: number % count for number, group in enumerate(dict.fromkeys(order["group"]))}
        fold[:] = groups.map(dealt)
    # Nor is the only row or group of a class held out, or one of those that came into one part because of others.
    parts = pd.Series(fold, index=index.index).groupby(index["label"]).transform("nunique")
    whole = groups[parts == 1].groupby(index["label"]).first()
    fold[groups.isin(set(whole))] = NEVER_HELD_OUT
    if (fold == NEVER_HELD_OUT).all():
        raise DataError(
            f"no class has two {'groups' if grouped else 'pictures'}, so that one could be held out",
            expected="classes with two or more" + (" (a picture without a group counts as one)" if grouped else ""),
            next_step="add pictures" + (", or go without groups (group_column, groups.csv)" if grouped else ""),
        )
    return fold


def _sparing(part: pd.DataFrame, groups: pd.Series, found: NDArray[np.int64]) -> NDArray[np.int64]:
    """`found` without the groups that hold a class of which no row would be left to train on."""
    left = set(part["label"].drop(found))
    gone = set(groups[found][~part["label"][found].isin(left)])
    return found[~groups[found].isin(gone).to_numpy()]


def _groups(index: pd.DataFrame) -> tuple[bool, pd.Series]:
    """Whether there are any, and the group of each row: one without is a group of its own."""
    own = "\0" + index["id"]  # which no other can have the name of
    return bool((index["group"] != "").any()), index["group"].where(index["group"] != "", own)


def load_folds(competition: Competition, index: pd.DataFrame) -> Folds:
    """The competition's folds: read from folds.csv, or made and written where there is none yet.

    Raises:
        DataError: folds.csv does not name exactly the ids of the index.
    """
    if not competition.folds_file.is_file():
        folds = make_folds(index, folds=competition.folds, seed=competition.fold_seed, target=competition.target)
        with atomic_path(competition.folds_file) as temporary:
            folds.frame.to_csv(temporary, index=False)
        return folds
    table = read_table(competition.folds_file, ["id", "fold"])
    unknown = sorted(set(table["id"]) - set(index["id"]))
    missing = sorted(set(index["id"]) - set(table["id"]))
    repeated = sorted(table["id"][table["id"].duplicated()])
    wrong = sorted(set(table["fold"][~table["fold"].str.fullmatch(r"-1|[0-9]{1,4}")]))
    _refuse_quarantined(competition, set(unknown))
    if unknown or missing or repeated or wrong:
        faults = {
            "unknown ids": unknown,
            "missing ids": missing,
            "repeated ids": repeated,
            "bad folds": wrong,
        }
        raise DataError(
            f"{competition.folds_file} does not fit the data: "
            + "; ".join(f"{len(found)} {what} ({name_some(found)})" for what, found in faults.items() if found),
            expected="every training id once, with its fold",
            next_step="restore the file; or, if the data has changed, remove it: experiments on the new folds "
            "cannot be compared with those on the old ones",
        )
    frame = pd.DataFrame({"id": table["id"], "fold": table["fold"].astype(int)})
    if (frame["fold"] == NEVER_HELD_OUT).all():
        raise DataError(
            f"{competition.folds_file} holds no fold: every row has {NEVER_HELD_OUT}, never held out",
            expected="rows to validate on, with a fold from 0",
            next_step="restore the file, or remove it to make the folds anew",
        )
    return Folds(frame.sort_values("id").reset_index(drop=True))


def _refuse_quarantined(competition: Competition, unknown: set[str]) -> None:
    """The likeliest reason for ids that the index no longer has, said as such."""
    since = sorted(unknown & set(read_quarantine(competition)))
    if since:
        raise DataError(
            f"{len(since)} rows of {competition.folds_file} were quarantined since the folds were made: "
            f"{name_some(since)}",
            expected=f"folds of the rows that {competition.quarantine_file.name} leaves in",
            next_step=f"remove {competition.folds_file} to make the folds anew: experiments on the new folds cannot "
            "be compared with those on the old ones. Or remove these rows from it, and every other row stays in its "
            f"fold. Or take them out of {competition.quarantine_file}",
        )
