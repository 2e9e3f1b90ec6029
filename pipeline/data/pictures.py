"""Decoded pictures of one size: kept in a file, so that no epoch decodes twice."""

import hashlib
import logging
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.data.decode import POLICY, decode, resize, unreadable
from pipeline.data.kept import KeptArray, Room, keep
from pipeline.progress import Progress

log = logging.getLogger(__name__)
_CHUNK = 256  # pictures decoded between two looks at whether to go on: some seconds' work
_SAMPLE = 64  # pictures decoded to tell how long all of them take


class Rows(Protocol):
    """Pictures, or what a network made of them, by row."""

    def __len__(self) -> int: ...

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Copies of these rows: shape (len(rows), …)."""
        ...


class Pictures(Rows, Protocol):
    """Pictures of one size: uint8 of shape (len(rows), height, width, 3). Can be pickled: workers open their own."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        ...


Source = TypeVar("Source", bound=Rows)


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
class MemoryRows:
    """Rows of an array."""

    array: NDArray[Any]

    def __len__(self) -> int:
        return len(self.array)

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        return np.asarray(self.array[rows])


@dataclass(frozen=True)
class MemoryPictures(MemoryRows):
    """Pictures that are decoded already: uint8 of shape (count, height, width, 3)."""

    @property
    def size(self) -> tuple[int, int]:
        height, width = self.array.shape[1:3]
        return height, width


@dataclass(frozen=True)
class ChosenPictures(Generic[Source]):
    """These rows of other pictures, or of their features, in this order; a row may come more than once."""

    pictures: Source
    rows: NDArray[np.int64]

    @property
    def size(self: "ChosenPictures[Pictures]") -> tuple[int, int]:
        return self.pictures.size

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        return self.pictures.take(self.rows[rows])


@dataclass(frozen=True)
class JoinedPictures(Generic[Source]):
    """The rows of `first`, then those of `second`, which are of the same size."""

    first: Source
    second: Source

    @property
    def size(self: "JoinedPictures[Pictures]") -> tuple[int, int]:
        return self.first.size

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        behind = rows >= len(self.first)
        parts = ((self.first, ~behind, 0), (self.second, behind, len(self.first)))
        found = [(mine, part.take(rows[mine] - offset)) for part, mine, offset in parts if mine.any()]
        if not found:
            return self.first.take(rows)
        taken = np.empty((len(rows), *found[0][1].shape[1:]), dtype=found[0][1].dtype)
        for mine, part in found:
            taken[mine] = part
        return taken


@dataclass(frozen=True)
class KeptPictures(KeptArray):
    """Pictures that were decoded into a file: uint8 of shape (count, height, width, 3)."""

    @property
    def size(self) -> tuple[int, int]:
        height, width = self.array.shape[1:3]
        return height, width


def open_pictures(paths: Sequence[str], *, size: tuple[int, int], room: Room) -> KeptPictures | FilePictures:
    """Pictures of `paths` at `size`, decoded once and kept if there is room.

    Raises:
        DataError: A picture cannot be read; it is named, and no file is left behind.
    """
    shape = (len(paths), *size, 3)
    kept = keep(
        kept_name(paths, size=size),
        room,
        shape=shape,
        dtype=np.uint8,
        fill=lambda array: _decode_all(paths, size, array, room.check),
    )
    if kept:
        return KeptPictures(kept.file).held()
    log.warning(
        "%d pictures of %d×%d need %.1f GB decoded, more than there is room for: "
        "they are decoded anew in every epoch, which is slower",
        *(len(paths), *size, np.prod(shape) / 1e9),
    )
    return FilePictures(tuple(paths), size)


def kept_name(paths: Sequence[str], *, size: tuple[int, int]) -> str:
    """What these pictures are kept as: of their paths, sizes, times of change, and how they are decoded.

    Raises:
        DataError: A picture is not there; it is named.
    """
    digest = hashlib.sha256(f"{POLICY} {size}".encode())
    for path in paths:
        try:
            status = os.stat(path)
        except OSError as error:
            raise unreadable(Path(path), error) from None
        digest.update(f"\n{os.path.realpath(path)} {status.st_size} {status.st_mtime_ns}".encode())
    return f"{size[0]}x{size[1]}-{digest.hexdigest()[:16]}"


def content_name(pictures: KeptPictures | FilePictures) -> str:
    """As of `kept_name`."""
    return pictures.file.stem if isinstance(pictures, KeptPictures) else kept_name(pictures.paths, size=pictures.size)


def are_kept(paths: Sequence[str], *, size: tuple[int, int], folder: Path) -> bool:
    """Whether `open_pictures` finds them decoded."""
    return (folder / f"{kept_name(paths, size=size)}.npy").is_file()


def decoding_seconds(paths: Sequence[str], *, size: tuple[int, int], folder: Path) -> float:
    """About how long `open_pictures` decodes, by some of the pictures; 0 where all are kept already.

    Raises:
        DataError: A picture cannot be read; it is named.
    """
    if not paths or are_kept(paths, size=size, folder=folder):
        return 0.0
    some = paths[:: -(-len(paths) // _SAMPLE)]
    started = time.perf_counter()
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for _ in pool.map(lambda path: resize(decode(Path(path)), size), some):
            pass
    return (time.perf_counter() - started) * len(paths) / len(some)


def _decode_all(
    paths: Sequence[str], size: tuple[int, int], array: NDArray[np.uint8], check: Callable[[], None]
) -> None:
    def fill(row: int) -> None:
        array[row] = resize(decode(Path(paths[row])), size)

    label = f"decoding at {size[0]}×{size[1]}"
    with (
        ThreadPoolExecutor(os.cpu_count() or 1) as pool,
        Progress(total=len(paths), desc=label, unit="picture", leave=False, disable=None) as bar,
    ):
        for start in range(0, len(paths), _CHUNK):
            check()
            # The first bad picture ends the work: what `map` has not begun by then it cancels.
            for _ in pool.map(fill, range(start, min(start + _CHUNK, len(paths)))):
                bar.update()
