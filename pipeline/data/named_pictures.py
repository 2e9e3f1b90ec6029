"""Which pictures a user means who names files, folders or patterns, and which of them cannot be read."""

import glob
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pipeline.artifacts import home_expanded
from pipeline.data.decode import PICTURE_SUFFIXES, decode
from pipeline.data.files import find_pictures
from pipeline.errors import DataError, PictureError
from pipeline.progress import Progress

_EXPECTED = "picture files, folders of pictures or patterns such as 'photos/*.jpg'"
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def named_pictures(names: Sequence[str]) -> list[Path]:
    """The picture files of these names, each once, in the order of the names.

    Args:
        names: A file, whatever its suffix; a folder, which stands for all pictures below it; or a pattern as of the
            shell (`*`, `?`, `[…]`, and `**` for folders in folders), which stands for the pictures and folders that
            match it.

    Raises:
        DataError: A name is empty or a URL, there is no such file, or a folder or pattern holds no picture.
    """
    return list(dict.fromkeys(path for name in names for path in _pictures_of(name)))


def unreadable_pictures(paths: Sequence[Path]) -> dict[Path, str]:
    """Why pictures cannot be read, of those that cannot."""

    def why(path: Path) -> str | None:
        try:
            decode(path)
        except PictureError as error:
            return error.problem
        return None

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        reasons = Progress(pool.map(why, paths), desc="reading pictures", total=len(paths), leave=False, disable=None)
        return {path: reason for path, reason in zip(paths, reasons, strict=True) if reason}


def _pictures_of(name: str) -> list[Path]:
    try:
        return _found(name)
    except OSError as error:
        raise DataError(f"{name} cannot be read: {error.strerror}", expected=_EXPECTED, next_step="check it") from None


def _found(name: str) -> list[Path]:
    if not name:  # to the system that would be the current folder
        raise DataError(
            "the name of a picture is empty",
            expected=_EXPECTED,
            next_step="is a variable not set? the current folder is named by a dot",
        )
    if _URL.match(name):
        raise DataError(
            f"{name} is a URL",
            expected="files, folders or patterns on this machine",
            next_step="download the picture, then name the file",
        )
    path = home_expanded(Path(name))
    if path.is_file():  # before anything else: a file's name may look like a pattern
        return [path]
    if path.is_dir():
        return _require_some(find_pictures(path), f"the folder {path} holds no picture")
    if not glob.has_magic(name):
        raise DataError(
            f"{path} does not exist",
            expected=_EXPECTED,
            next_step="check the path",
        )
    found = []
    matches = Progress(
        glob.iglob(str(path), recursive=True), desc=f"searching {name}", unit=" matches", leave=False, disable=None
    )
    for match in map(Path, sorted(matches)):
        if match.is_dir():
            found += find_pictures(match)
        elif match.is_file() and match.suffix.lower() in PICTURE_SUFFIXES:
            found.append(match)
    return _require_some(found, f"no picture matches {name}")


def _require_some(found: list[Path], problem: str) -> list[Path]:
    if not found:
        raise DataError(
            problem,
            expected="files that end in " + " ".join(sorted(PICTURE_SUFFIXES)),
            next_step="check the path; a picture with another ending is taken if its file is named",
        )
    return found
