"""Facts about picture files: size, format, brightness, hashes. A picture is decoded once, and its facts are kept."""

import hashlib
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from pipeline.artifacts import atomic_folder
from pipeline.competition import Competition
from pipeline.data.decode import POLICY, decode, format_and_mode, resize
from pipeline.errors import DataError
from pipeline.progress import Progress

SMALL = 64  # height and width of the small copies
_KEPT_BYTES = 2**31
_COLUMNS = ("height", "width", "format", "mode", "brightness", "sha256", "phash")


@dataclass(frozen=True)
class Facts:
    """What was found in the files that can be read, and why the others cannot.

    Attributes:
        table: By path, in the order given: height and width in pixels (int), format and mode as in the file's header
            (str), brightness (float, mean of the grey levels, 0–255), sha256 of the file (str), phash (uint64).
        small_copies: uint8 of shape (len(table), 64, 64, 3), a memory map of a file that goes with it.
        unreadable: path → reason.
    """

    table: pd.DataFrame
    small_copies: NDArray[np.uint8]
    unreadable: dict[str, str]

    @property
    def digests(self) -> dict[str, str]:
        """path → sha256 of the file."""
        return dict(zip(self.table.index, self.table["sha256"], strict=True))

    def require_all(self) -> Self:
        """Itself, if every picture could be read.

        Raises:
            DataError: One could not.
        """
        for path, why in self.unreadable.items():
            raise DataError(
                f"{path} {why}" + (f", and {len(self.unreadable) - 1} more" if len(self.unreadable) > 1 else ""),
                expected="pictures that can be read",
                next_step="kit explore shows them all, and --quarantine leaves them out",
            )
        return self


def small_copy(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """What is hashed and compared: (height, width, 3) to (64, 64, 3), stretched."""
    return resize(picture, (SMALL, SMALL))


def perceptual_hash(small: NDArray[np.uint8]) -> int:
    """The 64-bit perceptual hash (pHash: the signs of the low frequencies) of a picture or its small copy."""
    import imagehash

    bits = imagehash.phash(Image.fromarray(small)).hash
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def read_pictures(paths: Iterable[str], *, keep_in: Path | None = None, write: bool = True) -> Facts:
    """Decode each picture once. What cannot be read is named in the result.

    Args:
        keep_in: A folder where what was found is kept by path, size and time of change, so that the next call reads
            only what is new. It is written whole or not at all; none is written above `_KEPT_BYTES` of small copies.
        write: Whether these are all pictures there are, whose facts alone are kept from now on.
    """
    named = list(dict.fromkeys(paths))
    earlier = _earlier(keep_in)
    keys = {path: key for path in named if (key := _key(path))} if keep_in else {}
    fresh = [path for path in named if keys.get(path) not in earlier.row_of]
    with tempfile.TemporaryFile() as file, ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        # On disk, so that memory does not grow with the number of pictures.
        shape = (max(1, len(named)), SMALL, SMALL, 3)
        small_copies = np.memmap(file, dtype=np.uint8, mode="w+", shape=shape)
        rows: list[tuple[Any, ...]] = []
        unreadable: dict[str, str] = {}
        read = pool.map(_read, fresh)
        bar = Progress(total=len(fresh), desc="reading pictures", unit="picture", leave=False, disable=None)
        with bar:
            for path in named:
                row = earlier.row_of.get(keys.get(path))
                if row is not None:
                    small_copies[len(rows)] = earlier.small_copies[row]
                    rows.append((path, *earlier.rows[row]))
                    continue
                found = next(read)
                bar.update()
                if isinstance(found, str):
                    unreadable[path] = found
                else:
                    facts, small = found
                    small_copies[len(rows)] = small
                    rows.append((path, *facts))
    table = pd.DataFrame(rows, columns=["path", *_COLUMNS]).set_index("path").astype({"phash": np.uint64})
    found_all = Facts(table, small_copies[: len(rows)], unreadable)
    if keep_in and write and fresh and found_all.small_copies.nbytes <= _KEPT_BYTES:
        with suppress(OSError), atomic_folder(keep_in) as folder:  # in a folder that is read only nothing is kept
            table.assign(key=[keys[path] for path in table.index]).to_parquet(folder / "facts.parquet", index=False)
            np.save(folder / "small.npy", found_all.small_copies)
    return found_all


def kept_facts(competition: Competition) -> Path:
    """Where the facts about a competition's pictures are kept."""
    return competition.folder / "explore" / "facts"


@dataclass(frozen=True)
class _Earlier:
    """What was found and kept: the row of each key, the rows of `Facts.table`, and the small copies."""

    row_of: Mapping[str | None, int]
    rows: Sequence[tuple[Any, ...]]
    small_copies: NDArray[np.uint8]


def _earlier(folder: Path | None) -> _Earlier:
    nothing = _Earlier({}, (), np.empty((0, SMALL, SMALL, 3), np.uint8))
    if folder is None or not folder.is_dir():
        return nothing
    try:
        table, small = pd.read_parquet(folder / "facts.parquet"), np.load(folder / "small.npy", mmap_mode="r")
        rows = list(table[list(_COLUMNS)].itertuples(index=False, name=None))
        row_of = {key: row for row, key in enumerate(table["key"])}
    except (OSError, EOFError, ValueError, KeyError):  # damaged: read anew
        return nothing
    return _Earlier(row_of, rows, small) if small.shape == (len(rows), SMALL, SMALL, 3) else nothing


def _key(path: str) -> str | None:
    """What a file's facts are kept by; None where there is no such file, which `_read` will say."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    what = f"{POLICY} {os.path.realpath(path)} {status.st_size} {status.st_mtime_ns}"
    return hashlib.blake2b(what.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


def _read(path: str) -> tuple[tuple[Any, ...], NDArray[np.uint8]] | str:
    """The columns of a row and the small copy, or why there are none."""
    import cv2  # not above: what reads no picture imports this module, too

    try:
        picture = decode(Path(path))
        header = format_and_mode(Path(path))
    except DataError as error:
        return error.problem.removeprefix(f"{path} ").replace(path, Path(path).name)
    small = small_copy(picture)
    # The weights of ITU-R 601, which Pillow and OpenCV turn colours into grey with.
    brightness = float(np.dot(cv2.mean(picture)[:3], (0.299, 0.587, 0.114)))
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    return (*picture.shape[:2], *header, brightness, digest, perceptual_hash(small)), small
