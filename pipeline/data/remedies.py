"""Remedies: what was found in a competition's data, written where the folds and the index act on it.

    competitions/<slug>/groups.csv        id, group: rows of one group are never divided between folds
    competitions/<slug>/quarantine.csv    id, reason: rows left out

What stands in either file already stays.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd

from pipeline.artifacts import atomic_path
from pipeline.competition import Competition
from pipeline.data.duplicates import components
from pipeline.data.index import read_groups, read_quarantine
from pipeline.errors import DataError, name_some


def refuse_groups_without_effect(competition: Competition, *, option: str = "--write-groups") -> None:
    """Raise `DataError` if the data's own split makes the folds, so that no group could act on them."""
    train = competition.train
    if train.split or train.held_out_pictures:
        where = f"the column {train.split.column!r}" if train.split else f"the folder {train.held_out_pictures!r}"
        raise DataError(
            f"groups have no effect on {competition.slug}: its one fold is the data's own split, {where}",
            expected="a competition whose folds the kit makes",
            next_step=f"go without {option}; or, to have folds of the kit's own, take "
            f"{'split' if train.split else 'held_out_pictures'} out of {competition.folder / 'competition.yaml'}",
        )


def merged_groups(rows: pd.DataFrame, pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """id → group of every row that shares a group with another because of a pair.

    Groups that the rows have already are joined where a pair connects them.

    Args:
        rows: Columns id and group ("" for none).
        pairs: Ids of two rows that belong together.
    """
    number = {str(key): position for position, key in enumerate(rows["id"])}
    known: dict[str, int] = {}
    own = []
    for position, group in enumerate(rows["group"]):
        if group:
            own.append((known.setdefault(str(group), position), position))
    new = [(number[a], number[b]) for a, b in pairs]
    of = components(len(rows), [*own, *new])
    touched = {of[a] for a, _ in new}
    members: dict[int, list[int]] = defaultdict(list)
    for position, component in enumerate(of):
        if component in touched:
            members[component].append(position)
    ids, groups = list(rows["id"]), list(rows["group"])
    named: dict[str, str] = {}
    for positions in members.values():
        first = min(positions, key=lambda position: ids[position])
        # The name of a group of the data's own, so that joining it needs no other row.
        name = min((groups[position] for position in positions if groups[position]), default=f"like {ids[first]}")
        named |= {ids[position]: name for position in positions}
    return named


def write_groups(competition: Competition, groups: Mapping[str, str]) -> int:
    """Add `groups` (id → group) to groups.csv. Returns how many rows it then has.

    The groups must contain those of the file, as `merged_groups` makes them from an index that has read it.
    """
    merged = {**read_groups(competition), **groups}
    if merged:
        _write(competition.groups_file, merged, "group")
    return len(merged)


def add_to_quarantine(competition: Competition, faults: Mapping[str, str]) -> int:
    """Add the rows `faults` (id → reason) to quarantine.csv. Returns how many of them are new there."""
    present = read_quarantine(competition)
    new = {key: why for key, why in sorted(faults.items()) if key not in present}
    if new:
        _write(competition.quarantine_file, {**present, **new}, "reason")
    return len(new)


def contradictions(identical: Iterable[list[tuple[str, str]]]) -> dict[str, str]:
    """id → reason of the pictures that are identical and bear different labels: nobody knows which is right.

    Args:
        identical: Lists of (id, label), as `audit.identical` returns them.
    """
    faults = {}
    for group in identical:
        if len({label for _, label in group}) < 2:
            continue
        for key, label in group:
            others = name_some(f"{other} ({its})" for other, its in group if its != label)
            faults[key] = f"labelled {label}, but identical to {others}"
    return faults


def _write(file: Path, values: Mapping[str, str], column: str) -> None:
    with atomic_path(file) as temporary:
        pd.DataFrame({"id": list(values), column: list(values.values())}).to_csv(temporary, index=False)
