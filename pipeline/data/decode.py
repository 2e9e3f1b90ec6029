"""The one way a picture file becomes an array, for training, validation, test and single pictures.

EXIF orientation applied; grey, palette, CMYK, alpha and 16-bit converted; the first frame of an animation.
"""

import io
import math
import os
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError, features
from PIL.TiffImagePlugin import TiffImageFile

from pipeline.errors import DataError, PictureError

PICTURE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".jp2", ".avif"}
)
# Whatever a file is called, it is read as one of these or not at all: among Pillow's others are EPS, which it has
# Ghostscript run, and many that hardly anybody has looked at for years.
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "JPEG2000", "AVIF", "PPM")
_NEWER = {".avif": "avif", ".jp2": "jpg_2000"}  # what not every Pillow reads, and the name of that in it
_EXPECTED = "a complete picture file (" + " ".join(sorted(PICTURE_SUFFIXES)) + ")"
POLICY = 1  # raise when decoding or resizing changes: kept decoded pictures are then made anew
_EXIF_ORIENTATION = 0x0112
_TIFF_WIDTH, _TIFF_HEIGHT = 0x0100, 0x0101
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TRANSPOSED = {5, 6, 7, 8}  # orientations that exchange height and width
# Pillow warns of a damaged EXIF block and of palette transparency; the pixels are unharmed. Said once for the
# process: pictures are decoded in threads, and `warnings.catch_warnings` is not safe there.
warnings.filterwarnings("ignore", module=r"PIL\.")
_SIXTEEN_BIT = {"I;16", "I;16B", "I;16L", "I;16N", "I", "F"}


def decode(path: Path) -> NDArray[np.uint8]:
    """Read a picture as RGB.

    Returns:
        uint8 array of shape (height, width, 3).

    Raises:
        DataError: The file is missing, truncated or not a picture; the file is named.
    """
    try:
        with _opened(path) as image:
            return _to_rgb(image)
    except Exception as error:  # Pillow raises nearly every kind on damaged files
        raise unreadable(path, error) from None


def decode_bytes(content: bytes, *, most_pixels: float = math.inf) -> NDArray[np.uint8]:
    """What `decode` gives for a file with this content.

    Raises:
        DataError: It is not a whole picture, or has more pixels.
    """
    try:
        with _opened(io.BytesIO(content)) as image:
            if image.width * image.height <= most_pixels:
                return _to_rgb(image)
            problem = f"this picture has {image.width:,} × {image.height:,} pixels, more than {most_pixels:,} in all"
    except UnidentifiedImageError:
        problem = "this is not a picture, or of a format that is not known here" if content else "this file is empty"
    except Exception as error:  # Pillow raises nearly every kind on damaged files
        problem = f"this picture cannot be read: {error}"
    raise DataError(problem, expected=_EXPECTED, next_step="choose another file")


def picture_size(path: Path) -> tuple[int, int]:
    """Height and width in pixels, upright, from the file's header alone."""
    try:
        with _opened(path) as image:
            width, height = image.size
            if isinstance(image, TiffImageFile):  # whose `size` is upright already, in newer Pillows
                width, height = image.tag_v2[_TIFF_WIDTH], image.tag_v2[_TIFF_HEIGHT]
            transposed = image.getexif().get(_EXIF_ORIENTATION) in _TRANSPOSED
    except Exception as error:  # Pillow raises nearly every kind on damaged files
        raise unreadable(path, error) from None
    return (width, height) if transposed else (height, width)


def format_and_mode(path: Path) -> tuple[str, str]:
    """Pillow's names of the file's format (`JPEG`) and of its colour mode (`RGB`, `L`, `CMYK`), from the header."""
    try:
        with _opened(path) as image:
            return image.format or "unknown", image.mode
    except Exception as error:  # Pillow raises nearly every kind on damaged files
        raise unreadable(path, error) from None


def resize(picture: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Stretch to `size` (height, width); area averaging downwards, cubic upwards."""
    height, width = size
    if picture.shape[:2] == size:
        return picture
    shrinks = height * width <= picture.shape[0] * picture.shape[1]
    import cv2  # not above: what only lists pictures imports this module, too

    method = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(picture, (width, height), interpolation=method), dtype=np.uint8)


def shrink(picture: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """A picture in its own shape, its longer side at most `side` pixels."""
    height, width = picture.shape[:2]
    scale = min(1.0, side / max(height, width))
    return resize(picture, (max(1, round(height * scale)), max(1, round(width * scale))))


def _opened(file: Path | io.BytesIO) -> Image.Image:
    return Image.open(file, formats=_known_formats())


@cache
def _known_formats() -> list[str]:
    """Those of `_FORMATS` that this Pillow reads."""
    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]


def _to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    image.seek(0)
    image.load()  # which turns a TIFF upright and forgets its orientation
    # Not ImageOps.exif_transpose: it writes the EXIF block anew, and fails where that is damaged.
    turn = _TURNS.get(image.getexif().get(_EXIF_ORIENTATION, 1))
    upright = image if turn is None else image.transpose(turn)
    if upright.mode in _SIXTEEN_BIT:
        values = np.nan_to_num(np.asarray(upright, dtype=np.float64))
        # 65535 becomes 255. A 32-bit file that holds 8-bit values keeps them.
        grey = values / 257.0 if upright.mode.startswith("I;16") or values.max(initial=0) > 255 else values
        return np.repeat(np.clip(np.rint(grey), 0, 255).astype(np.uint8)[..., None], 3, axis=2)
    if upright.mode in {"LA", "PA", "RGBA", "RGBa", "La"} or "transparency" in upright.info:
        # What is transparent was drawn to stand on white paper more often than on black.
        rgba = upright.convert("RGBA")
        ground = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        upright = Image.alpha_composite(ground, rgba)
    return np.array(upright.convert("RGB"), dtype=np.uint8)


def unreadable(path: Path, error: Exception) -> PictureError:
    """The error that names a picture file and says what is wrong with it."""
    if not os.path.exists(path):  # a Path's own fails where the name is too long
        problem = f"{path} does not exist"
    elif os.path.getsize(path) == 0:
        problem = f"{path} is empty (0 bytes)"
    else:
        problem = f"{path} cannot be read as a picture: {error}"
    suffix = path.suffix.lower()
    if suffix in _NEWER and not features.check(_NEWER[suffix]):
        problem += f"; Pillow {PIL.__version__} here reads no {suffix} (pip install -U pillow: from 11.3 on it may)"
    return PictureError(
        problem,
        expected=_EXPECTED,
        next_step="replace the file, or leave it out by a row `id,reason` in the competition's quarantine.csv",
    )
