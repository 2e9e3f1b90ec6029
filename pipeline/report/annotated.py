"""Pictures with what was predicted of them: a list of classes with bars, beside or below the picture; with heatmaps."""

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pipeline.artifacts import atomic_folder, require_writable
from pipeline.data.decode import decode, resize
from pipeline.errors import DataError
from pipeline.report.tables import printable

_LONGEST, _SHORTEST = 1024, 320  # pixels of the picture's longer side: larger ones shrink, smaller ones grow
_PANEL = 360  # pixels: the width of the list beside a picture, and its least width below one
_WIDEST = 640
_MARGIN, _ROW, _BAR = 18, 42, 9
_GROUND, _INK, _FAINT, _TRACK, _FIRST, _OTHERS = "#ffffff", "#1d2430", "#5b6573", "#e6e9ee", "#1f5f8b", "#8fb3cd"
_MOST_ROWS = 1500  # of the list: a JPEG holds 65,500 pixels a side
_MOST_LETTERS = 60  # of a file's name: 255 bytes are the limit, and a letter may take four


@dataclass(frozen=True)
class Annotation:
    """What is written to a picture.

    Attributes:
        classes: Class names and their probabilities, the largest first.
    """

    path: Path
    classes: Sequence[tuple[str, float]]


def annotated_names(paths: Sequence[Path]) -> list[str]:
    """A file name for each picture, all different, also where capitals are not told from small letters."""
    taken: set[str] = set()
    names = []
    for path in paths:
        stem, number = path.stem[:_MOST_LETTERS], 1
        while _same(name := f"{stem}.jpg" if number == 1 else f"{stem}-{number}.jpg") in taken:
            number += 1
        taken.add(_same(name))
        names.append(name)
    return names


def require_new(folder: Path) -> None:
    """Refuse a folder that holds anything: a picture of the same name would be lost.

    Raises:
        DataError: It does, it is a file, or it cannot be written.
    """
    require_writable(folder)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise DataError(
            f"{folder} is there already" + (" and not empty" if folder.is_dir() else ""),
            expected="a new or an empty folder for the annotated pictures",
            next_step="name another one: --annotate FOLDER",
        )


def write_annotated(folder: Path, annotations: Iterable[tuple[str, Annotation]], *, note: str) -> None:
    """Write annotated pictures, by file name; all of them or none.

    Args:
        folder: New or empty.
        note: A short line below the list.

    Raises:
        DataError: The folder holds something, or a picture cannot be read.
    """
    require_new(folder)
    with atomic_folder(folder) as temporary:
        for name, annotation in annotations:
            made = annotate(decode(annotation.path), annotation.classes, title=annotation.path.name, note=note)
            made.save(temporary / name, "JPEG", quality=90, subsampling=0)
        require_new(folder)  # it may have been filled meanwhile


def annotate(picture: NDArray[np.uint8], classes: Sequence[tuple[str, float]], *, title: str, note: str) -> Image.Image:
    """A picture with its classes beside it where it is upright, below it where it is not.

    Args:
        picture: uint8 of shape (height, width, 3), RGB.
        classes: As of `Annotation`; of very many the first are drawn, and it is said that there are more.
    """
    shown = Image.fromarray(resize(picture, _shown_size(picture.shape[0], picture.shape[1])))
    beside = shown.height > shown.width
    width = _PANEL if beside else min(max(shown.width, _PANEL), _WIDEST)
    if len(classes) > _MOST_ROWS:
        note = f"the first {_MOST_ROWS:,} of {len(classes):,} classes; {note}"
    panel = _panel(classes[:_MOST_ROWS], width=width, title=title, note=note)
    if beside:
        size, place = (shown.width + panel.width, max(shown.height, panel.height)), (shown.width, 0)
    else:
        size, place = (max(shown.width, panel.width), shown.height + panel.height), (0, shown.height)
    made = Image.new("RGB", size, _GROUND)
    made.paste(shown, (0, 0))
    made.paste(panel, place)
    # A picture with a white edge must not run into the list.
    end = (shown.width, size[1]) if beside else (size[0], shown.height)
    ImageDraw.Draw(made).line([place, end], fill=_TRACK, width=2)
    return made


def heated(picture: NDArray[np.uint8], heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    """A picture with a heatmap laid over it, red where it is largest; where it is 0 the picture is left as it is.

    Args:
        picture: uint8 of shape (height, width, 3), RGB.
        heat: Not negative, of any shape (height', width'): it is stretched over the picture.
    """
    import cv2
    from matplotlib import colormaps

    height, width = picture.shape[:2]
    share = np.asarray(cv2.resize(heat / (heat.max() or 1), (width, height), interpolation=cv2.INTER_LINEAR))
    opaque = 0.6 * share[..., None]
    mixed = (1 - opaque) * picture + opaque * 255 * colormaps["turbo"](share)[..., :3]
    return np.asarray(np.rint(mixed), dtype=np.uint8)


def _panel(classes: Sequence[tuple[str, float]], *, width: int, title: str, note: str) -> Image.Image:
    height = 2 * _MARGIN + 28 + _ROW * len(classes) + 20
    panel = Image.new("RGB", (width, height), _GROUND)
    draw = ImageDraw.Draw(panel)
    left, right = _MARGIN, width - _MARGIN
    draw.text((left, _MARGIN), _fitting(title, _font(14), right - left), font=_font(14), fill=_FAINT)
    for number, (name, probability) in enumerate(classes):
        font = _font(18, bold=number == 0)
        top = _MARGIN + 28 + _ROW * number
        share = f"{probability:.1%}"
        start = right - font.getlength(share)
        draw.text((left, top), _fitting(name, font, start - left - 12), font=font, fill=_INK)
        draw.text((start, top), share, font=font, fill=_INK)
        bar = top + 25
        draw.rectangle((left, bar, right, bar + _BAR), fill=_TRACK)
        filled = round((right - left) * probability)
        if filled:
            draw.rectangle((left, bar, left + filled, bar + _BAR), fill=_OTHERS if number else _FIRST)
    draw.text((left, height - _MARGIN - 14), _fitting(note, _font(13), right - left), font=_font(13), fill=_FAINT)
    return panel


def _shown_size(height: int, width: int) -> tuple[int, int]:
    longer = max(height, width)
    factor = min(max(longer, _SHORTEST), _LONGEST) / longer
    return max(1, round(height * factor)), max(1, round(width * factor))


def _fitting(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """The text on one line, its middle left out where there is no room: names often differ at their ends."""
    line = " ".join(printable(text).split())
    shown, kept = line, len(line)
    while kept and font.getlength(shown) > width:
        kept -= 1
        shown = line[: (kept + 1) // 2].rstrip() + "…" + line[len(line) - kept // 2 :].lstrip()
    return shown


@cache
def _font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib brings along: it has more alphabets than Pillow's own font."""
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name, size)


def _same(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
