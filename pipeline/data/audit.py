"""Audit: read every picture once and say what is wrong with the data, before anything is trained on it."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

from pipeline.competition import Competition
from pipeline.data.facts import Facts, kept_facts, read_pictures
from pipeline.data.folds import small_classes_note
from pipeline.data.index import read_quarantine, scan, test_index
from pipeline.errors import DataError, name_some
from pipeline.targets import classes_of


@dataclass(frozen=True)
class Survey:
    """Every picture of a competition, read once, before anything is concluded from it.

    Attributes:
        train: Training rows that can be used: columns id, path, label, group, split; sorted by id.
        test: Columns id, path, readable or not.
        facts: Of all of these files, by path.
        faults: id → reason, for every row that cannot be trained on and is not in the quarantine.
        left_out: id → reason, as quarantine.csv has it. Their pictures are not read.
        notes: What a person should know and decide; nothing is left out for it.
    """

    train: pd.DataFrame
    test: pd.DataFrame
    facts: Facts
    faults: dict[str, str]
    left_out: dict[str, str]
    notes: list[str]

    @property
    def unreadable_test(self) -> dict[str, str]:
        """id → reason, for the pictures to predict that cannot be read."""
        reasons = self.facts.unreadable
        return {
            key: reasons[path] for key, path in zip(self.test["id"], self.test["path"], strict=True) if path in reasons
        }


@dataclass(frozen=True)
class Audit:
    """What was found.

    Attributes:
        pictures: Training pictures that can be used.
        mean_size: Their mean height and width in pixels; (0, 0) without any.
        faults: id → reason, for every row that cannot be trained on.
        notes: What a person should know and decide; nothing is left out for it.
    """

    pictures: int
    classes: list[str]
    mean_size: tuple[float, float]
    test_pictures: int
    faults: dict[str, str]
    notes: list[str]


def audit(competition: Competition) -> Audit:
    """Decode every training and test picture, and compare their contents.

    Raises:
        DataError: The data cannot be indexed at all, or a test picture cannot be read.
    """
    found = survey(competition)
    broken = found.unreadable_test
    if broken:
        raise DataError(
            f"{len(broken)} test pictures cannot be read: {name_some(broken)}",
            expected="every test picture readable: each needs a prediction",
            next_step="download them again; if the competition ships them so, put a readable picture in their place",
        )
    small = small_classes_note(found.train, folds=competition.folds, target=competition.target)
    sizes = found.facts.table.loc[found.train["path"], ["height", "width"]]
    return Audit(
        pictures=len(found.train),
        classes=classes_of(competition, found.train["label"]),
        mean_size=(float(sizes["height"].mean()), float(sizes["width"].mean())) if len(sizes) else (0.0, 0.0),
        test_pictures=len(found.test),
        faults=found.faults,
        notes=[*found.notes, *([small] if small else [])],
    )


def survey(competition: Competition) -> Survey:
    """Read every training and test picture that is not in the quarantine.

    Raises:
        DataError: The data cannot be indexed at all.
    """
    found = scan(competition)
    test = test_index(competition)
    left_out = read_quarantine(competition)
    rows = found.rows[~found.rows["id"].isin(set(found.faults) | set(left_out))]
    facts = read_pictures([*rows["path"], *test["path"]], keep_in=kept_facts(competition))
    bad = rows[rows["path"].isin(set(facts.unreadable))]
    faults = {key: why for key, why in found.faults.items() if key not in left_out}
    faults |= {key: facts.unreadable[path] for key, path in zip(bad["id"], bad["path"], strict=True)}
    used = rows[~rows["id"].isin(set(faults))].reset_index(drop=True)
    digests = facts.digests
    notes = [*_identical_notes(used, digests), *_shared_with_test(used, test, digests)]
    to_predict = set(test["path"])  # which may lie in the same folder
    unused = [path for path in found.without_row if str(competition.data / path) not in to_predict]
    if unused:
        what = f"no row in {competition.train.table}"
        notes.append(f"pictures with {what}, not used ({len(unused)}): {name_some(unused)}")
    return Survey(used, test, facts, faults, left_out, notes)


def identical(rows: pd.DataFrame, digests: dict[str, str]) -> list[list[tuple[str, str]]]:
    """The (id, label) of pictures that are byte for byte the same, a list for each content there is more than once.

    Args:
        rows: Columns id, path, label.
        digests: path → hash of the content.
    """
    groups: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for row in rows.itertuples():
        groups[digests[str(row.path)]].append((str(row.id), str(row.label)))
    return [group for group in groups.values() if len(group) > 1]


def _identical_notes(rows: pd.DataFrame, digests: dict[str, str]) -> Iterable[str]:
    repeated = identical(rows, digests)
    two_labels = [group for group in repeated if len({label for _, label in group}) > 1]
    one_label = [group for group in repeated if len({label for _, label in group}) == 1]
    if two_labels:
        named = name_some(" = ".join(f"{key} ({label})" for key, label in group) for group in two_labels)
        yield f"identical pictures under different labels ({len(two_labels)}): {named}"
    if one_label:
        named = name_some(" = ".join(key for key, _ in group) for group in one_label)
        yield f"identical pictures, which may end up in different folds ({len(one_label)}): {named}"


def _shared_with_test(rows: pd.DataFrame, test: pd.DataFrame, digests: dict[str, str]) -> Iterable[str]:
    train = {digests[path]: key for key, path in zip(rows["id"], rows["path"], strict=True)}
    pairs = zip(test["id"], test["path"], strict=True)
    shared = [f"{key} = {train[digests[path]]}" for key, path in pairs if digests.get(path) in train]
    if shared:
        yield f"test pictures that are also in train ({len(shared)}): {name_some(shared)}"
