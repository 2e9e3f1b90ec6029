"""Picture files below a folder, and what a table calls them."""

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

from pipeline.competition import Match
from pipeline.data.decode import PICTURE_SUFFIXES
from pipeline.errors import DataError
from pipeline.progress import Progress


def find_pictures(folder: Path) -> list[Path]:
    """All picture files below `folder`, hidden ones left out, sorted.

    Raises:
        DataError: There is no such folder.
    """
    if not folder.is_dir():
        raise DataError(
            f"the folder {folder} does not exist",
            expected="a folder of pictures",
            next_step="check the path, and where competitions/<slug>/data points to",
        )
    return find_files(folder, PICTURE_SUFFIXES)


def find_files(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """The files below `folder` with one of the (lower-case) suffixes, hidden ones left out, sorted."""
    # Whoever names a large folder by mistake sees which it is.
    files = Progress(_files(folder), desc=f"searching {folder}", unit=" files", leave=False, disable=None, delay=1)
    found = (Path(file) for file in files if os.path.splitext(file)[1].lower() in suffixes)
    return sorted(path for path in found if path.is_file())


def id_key(key: str, match: Match) -> str:
    """What a picture is called by its path `key`; for an id of a table, what the picture that it means is called.

    The folder and the suffix that an id has do not count where the match is of less.
    """
    if match == "path":
        return key
    name = key if match == "path_stem" else key[key.rfind("/") + 1 :]
    if match == "name":
        return name
    dot = name.rfind(".")
    if name[dot:].lower() in PICTURE_SUFFIXES:
        name = name[:dot]
    return _number(name, match)


def _number(stem: str, match: Match) -> str:
    return stem.lstrip("0") or "0" if match == "number" and stem.isdecimal() else stem


def by_key(paths: Iterable[Path], folder: Path, match: Match) -> Mapping[str, Path]:
    """The pictures by what a table calls them.

    Raises:
        DataError: Two are called alike.
    """
    files: dict[str, Path] = {}
    for path in paths:
        key = id_key(path.relative_to(folder).as_posix(), match)
        other = files.setdefault(key, path)
        if other != path:
            raise DataError(
                f"two pictures have the {match} {key!r}: {other} and {path}",
                expected=f"each {match} once below {folder}",
                next_step="remove one, or match by path in competition.yaml",
            )
    return files


def _files(folder: Path) -> Iterator[str]:
    """The files below `folder`, without hidden ones; links to folders are followed, but not in a circle."""
    for here, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not is_hidden(name) and not _leads_back(os.path.join(here, name))]
        yield from (os.path.join(here, name) for name in names if not is_hidden(name))


def _leads_back(folder: str) -> bool:
    """Whether a folder is a link to one that it lies in."""
    return os.path.islink(folder) and Path(folder).parent.resolve().is_relative_to(Path(folder).resolve())


def is_hidden(name: str) -> bool:
    """Whether a file or folder is of those that systems and archives leave behind."""
    return name.startswith((".", "__MACOSX"))
