"""Facts about picture files: size, format, brightness, hashes. Every picture is decoded once."""

import hashlib
import os
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from pipeline.data.decode import decode, format_and_mode, resize
from pipeline.errors import DataError

SMALL = 64  # height and width of the small copies
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


def read_pictures(paths: Iterable[str]) -> Facts:
    """Decode each picture once. What cannot be read is named in the result."""
    named = list(dict.fromkeys(paths))
    with tempfile.TemporaryFile() as file, ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        # On disk, so that memory does not grow with the number of pictures.
        shape = (max(1, len(named)), SMALL, SMALL, 3)
        small_copies = np.memmap(file, dtype=np.uint8, mode="w+", shape=shape)
        rows: list[tuple[Any, ...]] = []
        unreadable: dict[str, str] = {}
        read = tqdm(
            pool.map(_read, named),
            total=len(named),
            desc="reading pictures",
            unit="picture",
            leave=False,
            disable=None,
        )
        for path, found in zip(named, read, strict=True):
            if isinstance(found, str):
                unreadable[path] = found
            else:
                facts, small = found
                small_copies[len(rows)] = small
                rows.append((path, *facts))
    table = pd.DataFrame(rows, columns=["path", *_COLUMNS]).set_index("path").astype({"phash": np.uint64})
    return Facts(table, small_copies[: len(rows)], unreadable)


def _read(path: str) -> tuple[tuple[Any, ...], NDArray[np.uint8]] | str:
    """The columns of a row and the small copy, or why there are none."""
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
