"""Test-time augmentation: the views of a picture, each a deterministic function.

The same views serve OOF and test. A view maps a batch, uint8 of shape (n, height, width, 3), to another
of the same shape, picture by picture: row i of the result belongs to row i of the batch.
"""

import difflib
from collections.abc import Callable, Iterable
from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import RecipeError

View = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]

PLAIN = "plain"
_SHIFT = 0.06  # of the picture's side
_ZOOM = 1.12
_CROP = 0.85  # of each side


def _plain(batch: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return batch


def _flip(batch: NDArray[np.uint8]) -> NDArray[np.uint8]:
    result = np.empty_like(batch)
    for source, target in zip(batch, result, strict=True):
        cv2.flip(source, 1, dst=target)  # ten times as fast as NumPy's copy of a reversed axis
    return result


def _window(batch: NDArray[np.uint8], *, top: float, left: float, height: float, width: float) -> NDArray[np.uint8]:
    """The window, in shares of the sides, stretched to the whole; what lies outside is mirrored in."""
    rows, columns = batch.shape[1:3]
    matrix = np.array([[width, 0, left * columns], [0, height, top * rows]], dtype=np.float64)
    matrix[:, 2] += (np.array([width, height]) - 1) / 2  # pixel centres, not corners, lie on the grid
    result = np.empty_like(batch)
    for source, target in zip(batch, result, strict=True):
        cv2.warpAffine(
            source,
            matrix,
            (columns, rows),
            dst=target,
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REFLECT_101,
        )
    return result


def _shift(x: float, y: float) -> View:
    return partial(_window, top=y, left=x, height=1, width=1)


def _centre(share: float) -> View:
    return partial(_window, top=(1 - share) / 2, left=(1 - share) / 2, height=share, width=share)


def _corner(x: float, y: float) -> View:
    return partial(_window, top=y * (1 - _CROP), left=x * (1 - _CROP), height=_CROP, width=_CROP)


VIEWS: dict[str, View] = {
    "flip": _flip,
    "shift_left": _shift(_SHIFT, 0),
    "shift_right": _shift(-_SHIFT, 0),
    "shift_up": _shift(0, _SHIFT),
    "shift_down": _shift(0, -_SHIFT),
    "zoom_in": _centre(1 / _ZOOM),
    "zoom_out": _centre(_ZOOM),
    "crop_centre": _centre(_CROP),
    "crop_top_left": _corner(0, 0),
    "crop_top_right": _corner(1, 0),
    "crop_bottom_left": _corner(0, 1),
    "crop_bottom_right": _corner(1, 1),
}


def view(name: str) -> View:
    """The view of that name; `plain` is the picture itself."""
    return _plain if name == PLAIN else VIEWS[name]


def check_views(names: Iterable[str]) -> None:
    """Raise `RecipeError` unless every name is a view's."""
    for name in names:
        if name not in VIEWS:
            close = difflib.get_close_matches(name, VIEWS, n=1)
            raise RecipeError(
                f"there is no TTA view {name!r}",
                expected="views from " + ", ".join(VIEWS) + " (the plain picture is always among them)",
                next_step=f"did you mean {close[0]!r}?" if close else "correct tta.views in the recipe",
            )
