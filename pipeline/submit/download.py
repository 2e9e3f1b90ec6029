"""Downloading a competition's data: one zip, resumed where it broke off, then unpacked.

runs/<slug>/_download/<slug>.zip     until it is unpacked
"""

import os
import shutil
from contextlib import suppress
from pathlib import Path

from pipeline.artifacts import Workspace, lock
from pipeline.errors import DataError, KitError
from pipeline.submit.kaggle_client import Kaggle
from pipeline.submit.unzip import unpack


def download(kaggle: Kaggle, slug: str, *, folder: Path, workspace: Workspace, progress: bool) -> int:
    """Download and unpack a competition's data; returns the number of files.

    An interrupted download goes on where it was. A zip that is damaged is deleted; one that is refused is kept, to be
    looked at.

    Args:
        folder: Where the data goes; must be empty or not there.

    Raises:
        KaggleError: Kaggle refuses, or cannot be reached.
        DataError: The zip is damaged or refused, the disk is full, or `folder` has something in it.
        BusyError: Another process is downloading the same.
    """
    place = workspace.run(slug, "_download")
    # Beside the folder, which goes when the work is done: a lock that can be deleted locks nothing.
    with lock(place.with_name("_download.lock"), what=f"the download of {slug}"):
        if holds_data(folder):
            raise DataError(
                f"{folder} is not empty",
                expected="an empty folder, or none",
                next_step=f"choose another; if it is the data already: kit init {slug} --data {folder}",
            )
        place.mkdir(parents=True, exist_ok=True)
        try:
            files = unpack(kaggle.download(slug, place, progress=progress), folder, name=slug, progress=progress)
        except KitError:
            with suppress(OSError):  # something in it is kept
                place.rmdir()
            raise
        shutil.rmtree(place)
    return files


def holds_data(folder: Path) -> bool:
    """Whether there is something in the folder already.

    Raises:
        DataError: It is a file, or a link to nothing.
    """
    if folder.is_symlink() and not folder.exists():
        raise DataError(
            f"{folder} is a link to {os.readlink(folder)}, which does not exist",
            expected="a folder, or nothing",
            next_step="mount what it points to, or remove the link",
        )
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file", expected="a folder, or nothing", next_step="choose another folder")
    return folder.is_dir() and any(folder.iterdir())
