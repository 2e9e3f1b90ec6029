"""A competition before any training: what is in it and what is wrong with it."""

import hashlib
import os
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from pipeline.artifacts import atomic_path, read_json, write_json
from pipeline.competition import Competition
from pipeline.data.audit import Survey, identical, survey
from pipeline.data.decode import POLICY
from pipeline.data.duplicates import Duplicate, components, find_duplicates, keep_duplicates
from pipeline.data.index import test_index, train_index
from pipeline.data.labels import Variant, label_variants, natural
from pipeline.data.remedies import contradictions
from pipeline.errors import DataError, counted, name_some
from pipeline.targets import split_names

TRAIN, HELD_OUT, TEST = "train", "held out", "test"
_PAIR_COLUMNS = (
    *("kind", "part_a", "id_a", "label_a", "path_a", "part_b", "id_b", "label_b", "path_b"),
    *("distance", "correlation"),
)


@dataclass(frozen=True)
class Finding:
    """One line of the summary: what was found, how often, and what can be done."""

    what: str
    count: int
    next_step: str


@dataclass(frozen=True)
class Exploration:
    """What was found.

    Attributes:
        pictures: Every picture that can be read: columns part ("train", "held out" or "test"), id, label ("" in test),
            path, height, width, format, mode, brightness.
        unreadable: What cannot be read, and training rows without a file or a label: columns part, id, reason.
        pairs: Pictures that are one: columns kind ("identical" or "near"); part, id, label and path, each as _a and _b;
            distance (bits of 64), correlation. Of n identical pictures n - 1 pairs stand here: the first with each
            other one. Identical ones come first, then by falling correlation.
        contradictory: id → reason of the rows whose picture is there under another label, too.
        faults: id → reason of every row that cannot be trained on honestly, the contradictory ones among them.
        in_train: By part, "held out" or "test": how many of its pictures are in train (test: or held out), too.
        left_out: id → reason, as quarantine.csv has it. Their pictures are not looked at.
        notes: As the audit gives them.
        rows: The training rows: columns id, path, label, group, split.
    """

    competition: Competition
    pictures: pd.DataFrame
    unreadable: pd.DataFrame
    pairs: pd.DataFrame
    contradictory: dict[str, str]
    faults: dict[str, str]
    in_train: dict[str, int]
    variants: list[Variant]
    left_out: dict[str, str]
    notes: list[str]
    rows: pd.DataFrame

    @property
    def labelled(self) -> pd.DataFrame:
        return self.pictures[self.pictures["part"] != TEST]

    @property
    def classes(self) -> list[str]:
        """As they are shown."""
        return sorted(set(self.by_class["label"]), key=natural)

    @property
    def by_class(self) -> pd.DataFrame:
        """`labelled` with a row a picture and class: a picture of several comes once for each."""
        labelled = self.labelled
        names = _names(self.competition, labelled["label"])
        return labelled.drop(columns="label").join(names, how="inner")

    @property
    def has_split(self) -> bool:
        """Whether the data itself says what is held out."""
        return bool((self.pictures["part"] == HELD_OUT).any())

    @property
    def facts(self) -> dict[str, str]:
        """What it is, in some lines."""
        counts, labelled = self.pictures["part"].value_counts(), self.labelled
        facts = {
            "pictures": ", ".join(f"{counts[part]:,} {part}" for part in (TRAIN, HELD_OUT, TEST) if part in counts)
        }
        if labelled.empty:
            return facts
        of_class = self.by_class["label"].value_counts()
        means = labelled[["height", "width"]].mean()
        facts["classes"] = f"{len(of_class):,}, of {_range(of_class)} pictures"
        facts["mean size"] = f"{means['height']:.0f}×{means['width']:.0f} (height × width)"
        facts["heights"], facts["widths"] = _range(labelled["height"]), _range(labelled["width"])
        return facts

    @property
    def training_duplicates(self) -> list[Duplicate]:
        """The pairs without a test picture."""
        inside = self.pairs[self.pairs["part_b"] != TEST]
        columns = ["id_a", "id_b", "kind", "distance", "correlation"]
        return [Duplicate(*row) for row in inside[columns].itertuples(index=False, name=None)]

    @property
    def training_pairs(self) -> list[tuple[str, str]]:
        """The ids of both."""
        return [(one.id_a, one.id_b) for one in self.training_duplicates]


def _names(competition: Competition, labels: pd.Series) -> pd.Series:
    """The classes' names, as often as they are said."""
    return labels.map(split_names).explode().dropna() if competition.target == "multilabel" else labels


def explore(competition: Competition) -> Exploration:
    """Read every picture once and look for what is wrong.

    Raises:
        DataError: The data cannot be indexed at all. A picture that cannot be read is no error here.
    """
    found = survey(competition)
    pictures = _pictures(found)
    pairs = _pairs(pictures, found)
    contradictory = contradictions(identical(found.train, found.facts.digests))
    unreadable = [(TRAIN, key, why) for key, why in sorted(found.faults.items())]
    unreadable += [(TEST, key, why) for key, why in sorted(found.unreadable_test.items())]
    return Exploration(
        competition=competition,
        pictures=pictures,
        unreadable=pd.DataFrame(unreadable, columns=["part", "id", "reason"]),
        pairs=pairs,
        contradictory=contradictory,
        faults={**contradictory, **found.faults},
        in_train=_in_train(pictures, pairs),
        variants=label_variants(_names(competition, found.train["label"])),
        left_out=found.left_out,
        notes=found.notes,
        rows=found.train,
    )


def audited(competition: Competition) -> list[str]:
    """What a person should know before a training, a line each. The same pictures and labels are looked at once.

    Raises:
        DataError: A picture cannot be read, or the data cannot be indexed.
    """
    file, kept = _kept(competition), {}
    with suppress(OSError, ValueError, TypeError):
        kept = dict(read_json(file))
    if kept.get("sha256") == _sha256(competition, train_index(competition), test_index(competition)):
        return list(kept["notes"])
    found = explore(competition)
    unreadable = found.unreadable
    if len(unreadable):
        test = int((unreadable["part"] == TEST).sum())
        reasons = zip(unreadable["id"], unreadable["reason"], strict=True)
        raise DataError(
            f"{counted(len(unreadable), 'picture', 'pictures')} of {competition.slug} cannot be used"
            f" ({len(unreadable) - test} in training, {test} to predict): "
            + name_some(f"{key} ({why})" for key, why in reasons),
            expected="pictures that can be read, found out before hours of training",
            next_step="download those to predict again, or put readable ones in their place: each needs a prediction"
            if test
            else f"mend them, or leave them out: kit explore {competition.slug} --quarantine",
        )
    return keep_audit(found)


def keep_audit(found: Exploration) -> list[str]:
    """Keep what was found, for `audited` and for `training_duplicates`."""
    lines = findings(replace(found, left_out={}))  # which each command says itself
    notes = [f"{line.count} {line.what}: {line.next_step}" for line in lines]
    with suppress(OSError):  # a folder that is read only is looked at each time
        keep_duplicates(found.competition, found.rows, found.training_duplicates)
        if found.unreadable.empty:
            hashed = _sha256(found.competition, found.rows, test_index(found.competition))
            write_json(_kept(found.competition), {"sha256": hashed, "notes": notes})
    return notes


def _kept(competition: Competition) -> Path:
    return competition.folder / "explore" / "audit.json"


def _sha256(competition: Competition, train: pd.DataFrame, test: pd.DataFrame) -> str:
    """Hash of ids, labels, and sizes and times of the files; of the settings, and of what is known of groups."""
    groups = competition.folder / "groups.csv"
    digest = hashlib.sha256(f"{POLICY}\n{competition.model_dump_json()}\n".encode())
    digest.update(groups.read_bytes() if groups.is_file() else b"")
    both = pd.concat([train[["id", "label", "path"]], test.assign(label="")])
    for key, label, path in zip(both["id"], both["label"], both["path"], strict=True):
        status = os.stat(path)
        digest.update(f"{key}\n{label}\n{status.st_size} {status.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def write_pairs(folder: Path, exploration: Exploration) -> dict[Path, int]:
    """Write `pairs.csv`, every pair of duplicates, and `leaks.csv`, the labelled pictures that are a test picture, too.

    Returns:
        The files and how many rows each has; one that would have none is not written, and an earlier one removed.
    """
    pairs = exploration.pairs
    leaks = pairs[(pairs["part_b"] == TEST) & (pairs["part_a"] != TEST)]
    named = {"id_b": "test_id", "id_a": "train_id", "label_a": "label", "kind": "kind", "distance": "distance"}
    tables = {
        folder / "pairs.csv": pairs.drop(columns=["path_a", "path_b"]),
        folder / "leaks.csv": leaks[list(named)].rename(columns=named).sort_values(["test_id", "train_id"]),
    }
    for file, table in tables.items():
        file.unlink(missing_ok=True)
        if len(table):
            with atomic_path(file) as temporary:
                table.to_csv(temporary, index=False)
    return {file: len(table) for file, table in tables.items() if len(table)}


def findings(exploration: Exploration) -> list[Finding]:
    """What there is to know and to do; what was not found has no line."""
    pairs, competition = exploration.pairs, exploration.competition
    is_near, with_test = pairs["kind"] == "near", pairs["part_b"] == TEST
    within = pairs["part_a"] == pairs["part_b"]
    differ = (pairs["label_a"] != pairs["label_b"]) & ~with_test
    training = within & ~with_test & ~differ
    group = "in one fold with --write-groups"
    small = 0
    if exploration.has_split:
        group = "look at them: the fold is the data's own split"
    else:
        small = int((exploration.by_class["label"].value_counts() < competition.folds).sum())
    quarantine = competition.quarantine_file.name
    unreadable = exploration.unreadable["part"].value_counts()
    lines = [
        Finding(
            "training rows without a readable picture or a label",
            int(unreadable.get(TRAIN, 0)),
            "leave them out with --quarantine",
        ),
        Finding("test pictures that cannot be read", int(unreadable.get(TEST, 0)), "download them again"),
        Finding(
            "training pictures that are also there under another label",
            len(exploration.contradictory),
            "leave them out with --quarantine",
        ),
        Finding(
            "pairs of near duplicates under different labels",
            int((is_near & differ).sum()),
            "look at them: is a label wrong?",
        ),
        Finding("pairs of identical pictures in training", int((training & ~is_near).sum()), group),
        Finding("pairs of near duplicates in training", int((training & is_near).sum()), group),
        Finding(
            "held-out pictures that are also in train",
            exploration.in_train[HELD_OUT],
            f"they flatter the score: leave them out by rows in {quarantine}",
        ),
        Finding(
            "test pictures that are also in training",
            exploration.in_train[TEST],
            "the leaderboard's score is flattered by them",
        ),
        Finding(
            "pairs of duplicates within test", int((within & with_test).sum()), "nothing: they are predicted alike"
        ),
        Finding("pairs of labels that may be one", len(exploration.variants), "if they are, make them one in the data"),
        Finding(
            f"classes with fewer pictures than folds ({competition.folds})",
            small,
            "nothing: kit folds says what becomes of them",
        ),
        Finding(f"rows left out by {quarantine}", len(exploration.left_out), "they are not looked at here"),
    ]
    return [line for line in lines if line.count]


def _range(values: "pd.Series[int]") -> str:
    low, high = int(values.min()), int(values.max())
    return f"{low:,} to {high:,}" if low < high else f"{low:,}"


def _pictures(found: Survey) -> pd.DataFrame:
    train = found.train[["id", "path", "label"]].assign(
        part=found.train["split"].map({"train": TRAIN, "held_out": HELD_OUT})
    )
    readable = found.test[found.test["path"].isin(set(found.facts.table.index))]
    rows = pd.concat([train.sort_values("part", ascending=False, kind="stable"), readable.assign(label="", part=TEST)])
    facts = found.facts.table.loc[rows["path"], ["height", "width", "format", "mode", "brightness"]]
    return pd.concat(
        [rows[["part", "id", "label", "path"]].reset_index(drop=True), facts.reset_index(drop=True)], axis=1
    )


def _pairs(pictures: pd.DataFrame, found: Survey) -> pd.DataFrame:
    """Train stands before held out, and that before test, in `pictures`; so does the first of a pair."""
    keys = [f"{part}/{key}" for part, key in zip(pictures["part"], pictures["id"], strict=True)]
    place = {key: position for position, key in enumerate(keys)}
    rows = [
        (
            pair.kind,
            *_named(pictures, place[pair.id_a]),
            *_named(pictures, place[pair.id_b]),
            *(pair.distance, pair.correlation),
        )
        for pair in find_duplicates(keys, list(pictures["path"]), found.facts)
    ]
    pairs = pd.DataFrame(rows, columns=list(_PAIR_COLUMNS))
    return pairs.sort_values(["kind", "correlation"], ascending=[True, False], kind="stable").reset_index(drop=True)


def _named(pictures: pd.DataFrame, position: int) -> tuple[str, str, str, str]:
    row = pictures.iloc[position]
    return row["part"], row["id"], row["label"], row["path"]


def _in_train(pictures: pd.DataFrame, pairs: pd.DataFrame) -> dict[str, int]:
    number = {key: position for position, key in enumerate(zip(pictures["part"], pictures["id"], strict=True))}
    edges = [(number[row.part_a, row.id_a], number[row.part_b, row.id_b]) for row in pairs.itertuples()]
    of = components(len(pictures), edges)
    part = pictures["part"].to_numpy()
    in_train, in_training = set(of[part == TRAIN]), set(of[part != TEST])
    return {
        HELD_OUT: sum(component in in_train for component in of[part == HELD_OUT]),
        TEST: sum(component in in_training for component in of[part == TEST]),
    }
