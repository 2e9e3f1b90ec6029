"""Arrays kept on disk for all folds, epochs and experiments: decoded pictures, and features of frozen backbones.

A file is named by what it was made from, so that a change makes a new one; it appears whole or not at all; of all that
are kept in a folder, the least recently used go when room is short.
"""

import errno
import fcntl
import logging
import os
import shutil
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from pipeline.artifacts import atomic_path, lock

log = logging.getLogger(__name__)
_SPARE_DISK = 2**30  # bytes left free on the disk


@dataclass(frozen=True)
class Room:
    """Where arrays are kept, and how much of the disk they may take.

    Attributes:
        check: Called every few seconds while an array is made or waited for; what it raises ends that, and no file is
            left behind.
    """

    folder: Path
    limit_bytes: int
    check: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class KeptArray:
    """A NumPy file, mapped and read as it is needed.

    From `held` or its first use on, while it lives, it holds a shared lock on the file, which keeps the file from being
    removed to make room; so processes that it is sent to, which open the file by its name, find it.
    """

    file: Path

    @cached_property
    def array(self) -> NDArray[Any]:
        descriptor = os.open(self.file, os.O_RDONLY)
        weakref.finalize(self, os.close, descriptor)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        mapped: NDArray[Any] = np.lib.format.open_memmap(self.file, mode="r")
        return mapped

    def held(self) -> Self:
        """Opened now, before anybody else can remove it."""
        _ = self.array
        return self

    def __len__(self) -> int:
        return len(self.array)

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Copies of these rows."""
        return np.asarray(self.array[rows])

    def __getstate__(self) -> dict[str, object]:
        return {"file": self.file}  # the open map stays behind: pickling it would send all of it


def keep(
    name: str, room: Room, *, shape: tuple[int, ...], dtype: DTypeLike, fill: Callable[[NDArray[Any]], None]
) -> KeptArray | None:
    """The array of that name, made by `fill` if it is not there yet; None where there is no room for it.

    A file that is damaged is made anew. Another process that needs the same one waits.

    Args:
        fill: Is given the array to write, zeros of `shape` and `dtype`.
    """
    file, locks = room.folder / f"{name}.npy", room.folder / "locks"
    with lock(locks / name, what=str(file), wait=room.check):
        kept = _opened(file, shape, np.dtype(dtype))
        if kept is None:
            with lock(locks / "room", what=str(room.folder), wait=room.check):
                if not _make_room(room, int(np.prod(shape)) * np.dtype(dtype).itemsize):
                    return None
            try:
                with atomic_path(file) as temporary:
                    array = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.dtype(dtype), shape=shape)
                    if hasattr(os, "posix_fallocate"):  # else a disk that is full by then would end the process
                        with temporary.open("r+b") as opened:
                            os.posix_fallocate(opened.fileno(), 0, temporary.stat().st_size)
                    fill(array)
                    array.flush()
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                return None
            kept = _opened(file, shape, np.dtype(dtype))
        os.utime(file)
        return kept


def _opened(file: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> KeptArray | None:
    """The kept array, held from now on; None where it is not there or damaged."""
    kept = KeptArray(file)
    try:
        if (kept.array.shape, kept.array.dtype) == (shape, dtype):
            return kept
        problem = f"it holds {kept.array.shape} {kept.array.dtype}"
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:  # cut off, or no NumPy file
        problem = str(error)
    log.warning("%s is damaged and made anew: %s", file, problem)
    return None


def _make_room(room: Room, need: int) -> bool:
    if need > room.limit_bytes:
        return False
    free = shutil.disk_usage(room.folder).free - _SPARE_DISK
    kept = sorted(room.folder.glob("[!.]*.npy"), key=lambda path: path.stat().st_mtime)  # none that is being written
    total = sum(path.stat().st_size for path in kept)
    for oldest in kept:
        if total + need <= room.limit_bytes and need <= free:
            return True
        size = oldest.stat().st_size
        if _remove_unused(oldest):
            total -= size
            free += size
    return total + need <= room.limit_bytes and need <= free


def _remove_unused(file: Path) -> bool:
    with file.open("rb") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False  # somebody reads it
        file.unlink()
        return True
