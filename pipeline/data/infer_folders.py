"""Which folders are parts: to learn from and to predict; labels without a table, by folders or names of files."""

import re
from collections import Counter
from collections.abc import Sequence

from pipeline.competition import TestData, TrainData
from pipeline.data.keyed_tables import ENOUGH, PART_NAMES, Naming, Pictures, is_part, namings, one_folder, two_readings
from pipeline.data.row_labels import label_in_path
from pipeline.errors import DataError, name_some
from pipeline.targets import class_names

# A name and a number in either order, as in cat.0.jpg, great_pyrenees_12.jpg, rose3.png, 7-rose.png.
_PATTERNS = (
    r"(?P<label>[^/]*?\w)([^\w/]|_)+[0-9]+\.\w+$",
    r"(?P<label>[^/]*?[^\W\d_])[0-9]+\.\w+$",
    r"(^|/)[0-9]+([^\w/]|_)+(?P<label>\w[^/]*?)\.\w+$",
)


def outer_folder(pictures: Pictures, folder: str) -> str:
    """`folder`, or the only folder in it that holds pictures, if none lies beside that: archives make such."""
    found = pictures.folders(folder)
    if len(found) == 1 and "" not in found:
        (only,) = found
        inner = only if folder == "." else f"{folder}/{only}"
        if "" not in pictures.folders(inner) or any(is_part(only, part) for part in PART_NAMES):
            return outer_folder(pictures, inner)
    return folder


def part_folders(pictures: Pictures) -> dict[str, list[str]]:
    """Folders named like a part, by part: those at the top of the data, or in the one folder that holds them all."""
    top = outer_folder(pictures, ".")
    if any(is_part(top, part) for part in PART_NAMES):  # its only part
        return {part: [top] for part in PART_NAMES if is_part(top, part)}
    parts: dict[str, list[str]] = {}
    for name in sorted(pictures.folders(top)):
        for part in PART_NAMES:
            if name and is_part(name, part):
                parts.setdefault(part, []).append(name if top == "." else f"{top}/{name}")
    return parts


def train_from_folders(pictures: Pictures, folder: str | None, pattern: str | None) -> tuple[TrainData, list[str], str]:
    """Where the training pictures are, their classes, and why: a folder a class, or names of files.

    Args:
        folder: Where the user says that they are.
        pattern: The user's, for the label in a path.

    Raises:
        DataError: Two readings are possible, or there are no labels.
    """
    held_out: str | None = None
    if folder:
        if not pictures.below(folder).places:
            raise DataError(
                f"{pictures.data / folder} holds no pictures",
                expected="a folder inside the data with pictures in it or below it",
                next_step="check --pictures",
            )
        train = folder
    else:
        train, held_out = _train_folder(pictures)
    train, held_out = outer_folder(pictures, train), held_out and outer_folder(pictures, held_out)
    found = pictures.folders(train)
    if not pattern and len(found) > 1 and "" not in found:
        data = TrainData(pictures=train, held_out_pictures=held_out, match="path")
        return data, class_names(found), "a folder a class, and no table names the pictures"
    pattern = pattern or _pattern(pictures, train)
    if pattern is None and "" in found and len(found) > 2:
        loose = [place for place in pictures.below(train).places if "/" not in _from(place, train)]
        raise DataError(
            f"{len(loose)} pictures in {pictures.data / train} lie in no class folder: {name_some(loose)}",
            expected="every picture in the folder of its class",
            next_step="move them; or, if the labels are in the names of the files, say where with --label-pattern",
        )
    if pattern is None:
        raise DataError(
            f"{pictures.data / train} holds no labels: {len(found) - ('' in found)} class folders, no table that names "
            "the pictures, and no class in the names of the files",
            expected="a folder a class (two or more), or a table with a column of picture names and one of labels, or "
            "names such as cat.0.jpg",
            next_step="check --data; or name the table with --table and --id-column, the folder of class folders with "
            "--pictures, or where a class stands in a path with --label-pattern '(?P<label>[a-z]+)'",
        )
    classes, why = _of_pattern(pictures, train, pattern)
    return TrainData(pictures=train, held_out_pictures=held_out, label_pattern=pattern, match="path"), classes, why


def test_pictures(
    pictures: Pictures, train: TrainData, ids: Sequence[str] | None, wish: str | None
) -> tuple[TestData | None, str]:
    """The folder of the pictures to predict, and why.

    Args:
        ids: As the sample submission names the pictures; None without one.
        wish: The folder that the user names.

    Raises:
        DataError: No picture bears an id, or several folders hold pictures of these names.
    """
    if wish and not pictures.below(wish).places:
        raise DataError(
            f"{pictures.data / wish} holds no pictures",
            expected="a folder inside the data with pictures in it or below it",
            next_step="check --test-pictures",
        )
    if ids is not None:
        naming = _named_by_sample(pictures, train, ids, wish)
        reason = f"holds {naming.found / len(ids):.0%} of the sample submission's ids, matched by {naming.match}"
        return TestData(pictures=naming.folder, match=naming.match), reason
    if wish:
        return TestData(pictures=wish, match="path"), "--test-pictures; ids are the paths inside it"
    if train.split and train.split.test:
        return TestData(pictures=train.pictures, match=train.match), f"rows {train.split.test!r} of {train.table}"
    # Without a table all that lies in the training pictures' folder is of a class.
    others = pictures.without(train.pictures) if train.table is None else pictures
    found = part_folders(pictures).get("test", [])
    folders = [folder for folder in found if folder != train.pictures and others.below(folder).places]
    if len(folders) > 1:
        raise two_readings("test folder", folders, f"choose one with --test-pictures {folders[0]}")
    if not folders:
        return None, "no sample submission and no folder named test"
    folder = outer_folder(pictures, folders[0])
    return TestData(pictures=folder, match="path"), "its name; ids are the paths inside it"


def _named_by_sample(pictures: Pictures, train: TrainData, ids: Sequence[str], wish: str | None) -> Naming:
    """The folder whose pictures the sample submission names: not that of the training pictures, if another does."""
    all_of_them = pictures.below(wish) if wish else pictures
    found = namings(ids, all_of_them if wish or train.pictures == "." else pictures.without(train.pictures))
    everywhere = namings(ids, all_of_them)
    if everywhere and (not found or everywhere[0].found > found[0].found):
        found = everywhere
    if not found or found[0].found < len(set(ids)) * ENOUGH:
        raise DataError(
            f"{'few pictures bear' if found else 'no picture bears'} an id of the sample submission, such as "
            + name_some(sorted(ids), limit=3),
            expected="a test picture for every id, named like it, with or without suffix",
            next_step="check that the download is whole and unpacked, and that --data is the folder that paths begin "
            "in; if the sample submission is another table: --sample NAME",
        )
    return one_folder(found, "test", "--test-pictures")


def _train_folder(pictures: Pictures) -> tuple[str, str | None]:
    """The folder to learn from, and the one held out for validation, where there is one."""
    parts = part_folders(pictures)
    train, held_out = parts.get("train", []), parts.get("held_out", [])
    if len(train) > 1:
        raise two_readings("train folder", train, f"choose one with --pictures {train[0]}")
    if len(held_out) > 1:
        go_on = f"rename one of them; or go without both: --pictures {train[0] if train else 'FOLDER'}"
        raise two_readings("validation folder", held_out, go_on)
    if train:
        return train[0], held_out[0] if held_out else None
    if not parts:
        return ".", None
    top = outer_folder(pictures, ".")
    named = {folder for folders in parts.values() for folder in folders}
    others = [name if top == "." else f"{top}/{name}" for name in pictures.folders(top) if name]
    others = [folder for folder in others if folder not in named]
    if len(others) == 1 and len(pictures.folders(others[0])) > 1:
        return others[0], held_out[0] if held_out else None
    part, folder = next((part, folders[0]) for part, folders in parts.items())
    what = "to predict" if part == "test" else "held out for validation"
    raise DataError(
        f"two readings are possible: the folder {folder!r} may be a class, or the pictures {what}",
        expected="a folder named train beside it, or no folder of that name",
        next_step=f"move the class folders into a folder train; or, if it is a class: --pictures {top}",
    )


def _pattern(pictures: Pictures, folder: str) -> str | None:
    """The pattern by which the name of every file is a class and a number, a few classes of several pictures each."""
    names = [_from(place, folder) for place in pictures.below(folder).places]
    for pattern in _PATTERNS:
        compiled = re.compile(pattern)
        counts = Counter(label_in_path(name, compiled) for name in names)
        words = {re.sub(r"[\W\d_]+", "", label) for label in counts}  # IMG_20190101 and IMG_20190102 are no classes
        if all(words) and len(words) > 1 and min(counts.values()) > 1:
            return pattern
    return None


def _of_pattern(pictures: Pictures, folder: str, pattern: str) -> tuple[list[str], str]:
    """The classes that a pattern finds, and what it is."""
    names = [_from(place, folder) for place in pictures.below(folder).places]
    try:
        compiled = re.compile(pattern)
        counts = Counter(label_in_path(name, compiled) for name in names)
    except (re.error, IndexError) as error:
        raise DataError(
            f"--label-pattern {pattern!r} cannot be used: {error}",
            expected="a regular expression with a group `label`, as in '(?P<label>[a-z]+)\\.[0-9]+'",
            next_step="check --label-pattern",
        ) from None
    classes = class_names(label for label in counts if label)
    if len(classes) < 2:
        raise DataError(
            f"the pattern {pattern!r} finds {len(classes)} classes in names such as {name_some(names, limit=3)}",
            expected="at least two",
            next_step="check --label-pattern",
        )
    example = next(name for name in names if label_in_path(name, compiled))
    return classes, f"labels are in the names of the files: {example} is {label_in_path(example, compiled)!r}"


def _from(place: str, folder: str) -> str:
    return place if folder == "." else place[len(folder) + 1 :]
