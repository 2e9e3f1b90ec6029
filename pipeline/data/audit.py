"""Audit: read every picture once and say what is wrong with the data, before anything is trained on it."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from pipeline.competition import Competition
from pipeline.data.decode import decode
from pipeline.data.index import class_names, name_some, read_quarantine, scan, test_index
from pipeline.errors import DataError


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
    found = scan(competition)
    test = test_index(competition)
    left_out = read_quarantine(competition)
    rows = found.rows[~found.rows["id"].isin(set(found.faults) | set(left_out))]
    digests, sizes, unreadable = _read_all([*rows["path"], *test["path"]])
    broken_test = test[test["path"].isin(set(unreadable))]
    if len(broken_test):
        raise DataError(
            f"{len(broken_test)} test pictures cannot be read: {name_some(broken_test['id'])}",
            expected="every test picture readable: each needs a prediction",
            next_step="download them again; if the competition ships them so, put a readable picture in their place",
        )
    bad = rows[rows["path"].isin(set(unreadable))]
    faults = found.faults | dict(zip(bad["id"], (unreadable[path] for path in bad["path"]), strict=True))
    used = rows[~rows["id"].isin(set(faults))]
    measured = [sizes[path] for path in used["path"]]
    mean = tuple(sum(side) / len(measured) for side in zip(*measured, strict=True)) if measured else (0.0, 0.0)
    notes = [*_identical_notes(used, digests), *_shared_with_test(used, test, digests)]
    to_predict = set(test["path"])  # which may lie in the same folder
    unused = [path for path in found.without_row if str(competition.data / path) not in to_predict]
    if unused:
        what = f"no row in {competition.train.table}"
        notes.append(f"pictures with {what}, not used ({len(unused)}): {name_some(unused)}")
    return Audit(
        pictures=len(used),
        classes=class_names(used["label"]),
        mean_size=(mean[0], mean[1]),
        test_pictures=len(test),
        faults=faults,
        notes=notes,
    )


def _read_all(paths: list[str]) -> tuple[dict[str, str], dict[str, tuple[int, int]], dict[str, str]]:
    """Content hash and (height, width) of each readable file, and why the others are not."""

    def read(path: str) -> tuple[str, tuple[int, int] | None, str]:
        try:
            height, width = decode(Path(path)).shape[:2]
        except DataError as error:
            return "", None, error.problem.removeprefix(f"{path} ").replace(path, Path(path).name)
        return hashlib.sha256(Path(path).read_bytes()).hexdigest(), (height, width), ""

    digests, sizes, unreadable = {}, {}, {}
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        results = tqdm(
            pool.map(read, paths),
            total=len(paths),
            desc="reading pictures",
            unit="picture",
            leave=False,
            disable=None,
        )
        for path, (digest, size, why) in zip(paths, results, strict=True):
            if size is None:
                unreadable[path] = why
            else:
                digests[path], sizes[path] = digest, size
    return digests, sizes, unreadable


def _identical_notes(rows: pd.DataFrame, digests: dict[str, str]) -> Iterable[str]:
    groups: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for row in rows.itertuples():
        groups[digests[str(row.path)]].append((str(row.id), str(row.label)))
    repeated = [group for group in groups.values() if len(group) > 1]
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
    shared = [f"{key} = {train[digests[path]]}" for key, path in pairs if digests[path] in train]
    if shared:
        yield f"test pictures that are also in train ({len(shared)}): {name_some(shared)}"
