"""The demo competition on disk: pictures, tables, the solution Kaggle would hold back, a contact sheet.

Owns which picture gets which card, size and seed, and the order in which files appear. What a picture shows
is drawn by `cards.py` and `photograph.py`.
"""

import csv
import os
import shutil
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pipeline.demo.cards import CLASSES, RANKS, SUITS
from pipeline.demo.photograph import render_card
from pipeline.errors import DataError
from pipeline.progress import Progress

TRAIN_PICTURES = 1200
TEST_PICTURES = 300
MEAN_SIZE = (128, 160)
"""Mean height and width of a picture, pixels; each side varies on its own by up to `SIZE_SPREAD` of it."""
SIZE_SPREAD = 0.35
JPEG_QUALITY = 88

# Which stream of random numbers each draws from. The preview's is one that shows most tables at seed 0.
_SPLITS = {"train": 0, "test": 1, "preview": 4}


@dataclass(frozen=True)
class DemoSummary:
    """What `write_demo` wrote."""

    folder: Path
    classes: tuple[str, ...]
    train: int
    test: int
    solution: Path
    preview: Path


def write_demo(folder: Path, *, seed: int = 0, train: int = TRAIN_PICTURES, test: int = TEST_PICTURES) -> DemoSummary:
    """Render the demo competition.

    Writes `data/train.csv` (id, label), `data/train/`, `data/test/`, `data/sample_submission.csv`, and
    outside `data/`, where no recipe looks, `solution.csv` (the test labels) and `preview.png`. `data/` comes
    last and whole: where it exists, the rest does. Labels are balanced to within one picture a class
    in each split.

    The same seed gives the same bytes. A picture and its label depend on (seed, split, number) alone, so a
    smaller demo is the beginning of a larger one.

    Args:
        folder: The competition's folder; made if missing.
        seed: 0 or more.
        train: Number of labelled pictures, at least one a class.
        test: Number of pictures to predict, at least 1.

    Returns:
        Where things are and how many.

    Raises:
        DataError: If `folder/data` exists already, or if `seed`, `train` or `test` is out of range.
    """
    _check_counts(seed, train, test)
    data = folder / "data"
    if data.exists() or data.is_symlink():
        raise DataError(
            f"{data} exists already",
            expected="a folder without data, because pictures that are there are never overwritten",
            next_step=f"use them as they are, choose another folder, or remove {data} and run this again",
        )
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file", expected="a folder", next_step="choose another folder")

    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    # Inside `folder`, so that the renames below stay on one file system.
    scratch = Path(tempfile.mkdtemp(prefix=".demo-", dir=folder))
    published: list[Path] = []
    try:
        train_labels, test_labels = _write_pictures(scratch / "data", seed, train, test)
        _write_table(scratch / "data" / "train.csv", train_labels)
        _write_table(scratch / "data" / "sample_submission.csv", [(name, CLASSES[0]) for name, _ in test_labels])
        _write_table(scratch / "solution.csv", test_labels)
        _contact_sheet(seed).save(scratch / "preview.png")
        for name in ("solution.csv", "preview.png", "data"):
            os.replace(scratch / name, folder / name)
            published.append(folder / name)
    except BaseException:
        # `data` comes last, so whatever was published before a failure is a plain file.
        for path in published:
            path.unlink(missing_ok=True)
        shutil.rmtree(scratch, ignore_errors=True)
        if is_new:
            with suppress(OSError):
                folder.rmdir()
        raise
    scratch.rmdir()
    return DemoSummary(folder, CLASSES, train, test, folder / "solution.csv", folder / "preview.png")


def _check_counts(seed: int, train: int, test: int) -> None:
    for name, given, least in (("seed", seed, 0), ("train", train, len(CLASSES)), ("test", test, 1)):
        if given < least:
            raise DataError(
                f"{name} is {given}",
                expected=f"a whole number of at least {least}",
                next_step=f"give a larger {name}",
            )


def draw_size(rng: np.random.Generator) -> tuple[int, int]:
    """Draw a picture's height and width in pixels, each uniform within `SIZE_SPREAD` of its mean."""
    height, width = (round(side * rng.uniform(1 - SIZE_SPREAD, 1 + SIZE_SPREAD)) for side in MEAN_SIZE)
    return height, width


def _label_of(seed: int, split: str, number: int) -> str:
    """Deal the classes in shuffled rounds: balanced, and independent of how many pictures there are."""
    dealt, place = divmod(number, len(CLASSES))
    order = np.random.default_rng([seed, _SPLITS[split], 0, dealt]).permutation(len(CLASSES))
    return CLASSES[int(order[place])]


def _photograph(seed: int, split: str, number: int) -> NDArray[np.uint8]:
    rng = np.random.default_rng([seed, _SPLITS[split], 1, number])
    return render_card(_label_of(seed, split, number), rng=rng, size=draw_size(rng))


def _write_pictures(
    data: Path, seed: int, train: int, test: int
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Write both splits' JPEG files. Returns (id, label) of each, in the order of ids."""
    labels: dict[str, list[tuple[str, str]]] = {"train": [], "test": []}
    jobs: list[tuple[str, int, Path]] = []
    # Ids run on from train to test, so that an id names one picture of the competition.
    for split, count, first in (("train", train, 1), ("test", test, train + 1)):
        (data / split).mkdir(parents=True)
        for number in range(count):
            name = f"card-{first + number:04d}.jpg"
            labels[split].append((name, _label_of(seed, split, number)))
            jobs.append((split, number, data / split / name))

    def write(job: tuple[str, int, Path]) -> None:
        split, number, path = job
        Image.fromarray(_photograph(seed, split, number)).save(path, quality=JPEG_QUALITY)

    # Threads do, since OpenCV and Pillow release the interpreter's lock; and unlike spawned processes they
    # need no guarded main module from whoever calls this.
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        try:
            for _ in Progress(
                pool.map(write, jobs), total=len(jobs), desc="photographing cards", unit="", disable=None
            ):
                pass
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return labels["train"], labels["test"]


def _write_table(path: Path, rows: Iterable[tuple[str, str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("id", "label"))
        writer.writerows(rows)


def _contact_sheet(seed: int) -> Image.Image:
    """Photograph every class once more, larger than in the data, a rank a row and a suit a column."""
    height, width, gap, caption, margin = 166, 207, 12, 24, 18
    columns, rows = len(SUITS), len(RANKS)
    sheet = Image.new(
        "RGB",
        (
            2 * margin + columns * width + (columns - 1) * gap,
            2 * margin + rows * (height + caption) + (rows - 1) * gap,
        ),
        (247, 246, 242),
    )
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    # Drawn four times too large and shrunk: Pillow does not smooth the corners it draws.
    mask = Image.new("L", (4 * width, 4 * height), 0)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, 4 * width - 1, 4 * height - 1), 24, 255)
    mask = mask.reduce(4)
    for number, label in enumerate(CLASSES):
        rng = np.random.default_rng([seed, _SPLITS["preview"], 1, number])
        picture = render_card(label, rng=rng, size=(height, width))
        row, column = divmod(number, columns)
        x, y = margin + column * (width + gap), margin + row * (height + caption + gap)
        sheet.paste(Image.fromarray(picture), (x, y), mask)
        pen.text((x + width / 2, y + height + caption / 2 + 2), label, (92, 88, 80), font, anchor="mm")
    return sheet
