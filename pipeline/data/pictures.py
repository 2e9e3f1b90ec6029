"""Decoded pictures of one size: kept in a memory-mapped file, so that no epoch decodes twice.

A file holds all pictures of an index at one size. It is named by what it was made from, so a changed picture or
decoding policy makes a new one; it appears whole or not at all; the least recently used go when room is short.
"""

import fcntl
import hashlib
import logging
import os
import shutil
import sys
import time
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from pipeline.artifacts import atomic_path, lock
from pipeline.data.decode import POLICY, decode, resize, unreadable

log = logging.getLogger(__name__)
_SPARE_DISK = 2**30  # bytes left free on the disk
_CHUNK = 256  # pictures decoded between two looks at whether to go on: some seconds' work
_SAMPLE = 64  # pictures decoded to tell how long all of them take


class Pictures(Protocol):
    """Pictures of one size, by row. Can be pickled: workers open their own."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        ...

    def __len__(self) -> int: ...

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Copies of the pictures in these rows: uint8 of shape (len(rows), height, width, 3)."""
        ...


@dataclass(frozen=True)
class FilePictures:
    """Decodes from the original files at every call: where the decoded pictures would not fit."""

    paths: tuple[str, ...]
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        return np.stack([resize(decode(Path(self.paths[row])), self.size) for row in rows])


@dataclass(frozen=True)
class MemoryPictures:
    """Pictures that are decoded already: uint8 of shape (count, height, width, 3)."""

    array: NDArray[np.uint8]

    @property
    def size(self) -> tuple[int, int]:
        height, width = self.array.shape[1:3]
        return height, width

    def __len__(self) -> int:
        return len(self.array)

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        return np.asarray(self.array[rows])


@dataclass(frozen=True)
class ChosenPictures:
    """These rows of other pictures, in this order; a row may come more than once."""

    pictures: Pictures
    rows: NDArray[np.int64]

    @property
    def size(self) -> tuple[int, int]:
        return self.pictures.size

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        return self.pictures.take(self.rows[rows])


@dataclass(frozen=True)
class JoinedPictures:
    """The rows of `first`, then those of `second`, which are of the same size."""

    first: Pictures
    second: Pictures

    @property
    def size(self) -> tuple[int, int]:
        return self.first.size

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        taken = np.empty((len(rows), *self.size, 3), dtype=np.uint8)
        behind = rows >= len(self.first)
        for part, mine, offset in ((self.first, ~behind, 0), (self.second, behind, len(self.first))):
            if mine.any():
                taken[mine] = part.take(rows[mine] - offset)
        return taken


@dataclass(frozen=True)
class KeptPictures:
    """Reads from a file of raw uint8, `count` pictures one after the other.

    While it lives it holds a shared lock on the file, which keeps the file from being removed to make room; so
    workers, which open the file by its name, find it.
    """

    file: Path
    count: int
    size: tuple[int, int]

    def __len__(self) -> int:
        return self.count

    @cached_property
    def _array(self) -> NDArray[np.uint8]:
        descriptor = os.open(self.file, os.O_RDONLY)
        weakref.finalize(self, os.close, descriptor)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        return np.memmap(self.file, dtype=np.uint8, mode="r", shape=(self.count, *self.size, 3))

    def hold(self) -> Self:
        """Open the file now, before anybody else can remove it."""
        _ = self._array
        return self

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        return np.asarray(self._array[rows])

    def __getstate__(self) -> dict[str, object]:
        # The open map stays behind: pickling it would send every picture.
        return {"file": self.file, "count": self.count, "size": self.size}


def open_pictures(
    paths: Sequence[str],
    *,
    size: tuple[int, int],
    folder: Path,
    limit_bytes: int,
    check: Callable[[], None] | None = None,
) -> KeptPictures | FilePictures:
    """Pictures of `paths` at `size`, decoded once and kept in `folder` if they fit into `limit_bytes`.

    Args:
        check: Called every few seconds while pictures are decoded; what it raises ends that, and no file is left
            behind.

    Raises:
        DataError: A picture cannot be read; it is named, and no file is left behind.
    """
    height, width = size
    need = len(paths) * height * width * 3
    file = kept_file(paths, size=size, folder=folder)
    # One lock for the folder: a second run waits for the first to finish, then finds the file.
    with lock(folder / "lock", what=str(folder), wait=True):
        if not file.is_file():
            if not _make_room(folder, need, limit_bytes):
                log.warning(
                    "%d pictures of %d×%d need %.1f GB decoded, more than there is room for: "
                    "they are decoded anew in every epoch, which is slower",
                    *(len(paths), height, width, need / 1e9),
                )
                return FilePictures(tuple(paths), size)
            _decode_all(paths, size, file, check)
        os.utime(file)
        return KeptPictures(file, len(paths), size).hold()


def kept_file(paths: Sequence[str], *, size: tuple[int, int], folder: Path) -> Path:
    """Where `open_pictures` keeps these pictures, be they there or not.

    Raises:
        DataError: A picture is not there; it is named.
    """
    return folder / f"{size[0]}x{size[1]}-{_key(paths, size)}.u8"


def decoding_seconds(paths: Sequence[str], *, size: tuple[int, int], folder: Path) -> float:
    """About how long `open_pictures` decodes, by some of the pictures; 0 where all are kept already.

    Raises:
        DataError: A picture cannot be read; it is named.
    """
    if not paths or kept_file(paths, size=size, folder=folder).is_file():
        return 0.0
    some = paths[:: -(-len(paths) // _SAMPLE)]
    started = time.perf_counter()
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for _ in pool.map(lambda path: resize(decode(Path(path)), size), some):
            pass
    return (time.perf_counter() - started) * len(paths) / len(some)


def _decode_all(paths: Sequence[str], size: tuple[int, int], file: Path, check: Callable[[], None] | None) -> None:
    with atomic_path(file) as temporary:
        shape = (len(paths), *size, 3)
        array = np.memmap(temporary, dtype=np.uint8, mode="w+", shape=shape)

        def fill(row: int) -> None:
            array[row] = resize(decode(Path(paths[row])), size)

        label = f"decoding at {size[0]}×{size[1]}"
        with (
            ThreadPoolExecutor(os.cpu_count() or 1) as pool,
            tqdm(total=len(paths), desc=label, unit="picture", leave=False, disable=None) as bar,
        ):
            for start in range(0, len(paths), _CHUNK):
                if check:
                    check()
                # The first bad picture ends the work: what `map` has not begun by then it cancels.
                for _ in pool.map(fill, range(start, min(start + _CHUNK, len(paths)))):
                    bar.update()
        array.flush()


def _make_room(folder: Path, need: int, limit: int) -> bool:
    free = shutil.disk_usage(folder).free - _SPARE_DISK
    kept = sorted(folder.glob("*.u8"), key=lambda path: path.stat().st_mtime)
    total = sum(path.stat().st_size for path in kept)
    for oldest in kept:
        if total + need <= limit and need <= free:
            return True
        size = oldest.stat().st_size
        if _remove_unused(oldest):
            total -= size
            free += size
    return total + need <= limit and need <= free


def _remove_unused(file: Path) -> bool:
    with file.open("rb") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False  # somebody reads it
        file.unlink()
        return True


def _key(paths: Sequence[str], size: tuple[int, int]) -> str:
    digest = hashlib.sha256(f"{POLICY} {size} {sys.byteorder}".encode())
    for path in paths:
        try:
            status = os.stat(path)
        except OSError as error:
            raise unreadable(Path(path), error) from None
        digest.update(f"\n{os.path.realpath(path)} {status.st_size} {status.st_mtime_ns}".encode())
    return digest.hexdigest()[:16]
