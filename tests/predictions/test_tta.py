"""TTA views: the same rows in the same order, moved the way their names say."""

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.errors import RecipeError
from pipeline.predictions.tta import PLAIN, VIEWS, check_views, view

SIDE = 100
ALL = [PLAIN, *VIEWS]


def noise(*, rows: int = 5, size: tuple[int, int] = (24, 40), seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (rows, *size, 3), dtype=np.uint8)


def coordinates() -> NDArray[np.uint8]:
    """One picture that holds each pixel's row in its first channel and its column in the second."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    return np.stack([rows, columns, np.zeros_like(rows)], axis=-1)[None].astype(np.uint8)


def corners(name: str) -> list[tuple[int, int]]:
    """(row, column) of the source seen at the view's top left, top right, bottom left, bottom right."""
    seen = view(name)(coordinates())[0]
    return [(int(seen[r, c, 0]), int(seen[r, c, 1])) for r in (0, -1) for c in (0, -1)]


@pytest.mark.parametrize("name", ALL)
def test_shape_and_type_are_kept_and_the_batch_is_not_changed(name: str) -> None:
    batch = noise()
    before = batch.copy()
    seen = view(name)(batch)
    assert seen.shape == batch.shape
    assert seen.dtype == np.uint8
    np.testing.assert_array_equal(batch, before)


@pytest.mark.parametrize("name", ALL)
def test_row_i_of_the_view_belongs_to_row_i_of_the_batch(name: str) -> None:
    batch, order = noise(), np.array([3, 0, 4, 1, 2])
    seen = view(name)(batch)
    np.testing.assert_array_equal(view(name)(batch[order]), seen[order])
    for row in range(len(batch)):
        np.testing.assert_array_equal(view(name)(batch[row : row + 1])[0], seen[row])
    assert len({picture.tobytes() for picture in seen}) == len(batch)


@pytest.mark.parametrize("name", VIEWS)
def test_every_view_differs_from_the_plain_picture_and_from_the_others(name: str) -> None:
    batch = noise()
    for other in set(ALL) - {name}:
        assert (view(name)(batch) != view(other)(batch)).any(), other


@pytest.mark.parametrize("name", ALL)
def test_a_picture_of_one_colour_stays_as_it_is(name: str) -> None:
    batch = np.broadcast_to(np.array([200, 17, 90], dtype=np.uint8), (2, 24, 40, 3)).copy()
    np.testing.assert_array_equal(view(name)(batch), batch)


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_is_a_function_of_the_picture(name: str) -> None:
    np.testing.assert_array_equal(view(name)(noise()), view(name)(noise()))


def test_plain_is_the_picture() -> None:
    np.testing.assert_array_equal(view(PLAIN)(noise()), noise())


def test_flip_by_hand() -> None:
    row = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]], dtype=np.uint8)
    batch = np.stack([row, 10 * row])[:, None]  # two pictures of height 1 and width 3
    expected = np.stack([row[::-1], 10 * row[::-1]])[:, None]
    np.testing.assert_array_equal(view("flip")(batch), expected)


@pytest.mark.parametrize(
    ("name", "row", "column"),
    [
        ("shift_left", 50, 40 - 6),
        ("shift_right", 50, 40 + 6),
        ("shift_up", 50 - 6, 40),
        ("shift_down", 50 + 6, 40),
    ],
)
def test_a_shift_moves_a_pixel_by_six_per_cent(name: str, row: int, column: int) -> None:
    batch = np.zeros((1, SIDE, SIDE, 3), dtype=np.uint8)
    batch[0, 50, 40] = 255
    seen = view(name)(batch)[0, :, :, 0]
    assert np.argwhere(seen).tolist() == [[row, column]]
    assert seen[row, column] == 255


def test_a_shift_is_a_share_of_the_side_along_which_it_goes() -> None:
    batch = np.zeros((1, 50, 200, 3), dtype=np.uint8)
    batch[0, 20, 100] = 255
    assert np.argwhere(view("shift_left")(batch)[0, :, :, 0]).tolist() == [[20, 100 - 12]]
    assert np.argwhere(view("shift_up")(batch)[0, :, :, 0]).tolist() == [[20 - 3, 100]]


def test_what_a_shift_uncovers_is_mirrored_in() -> None:
    seen = view("shift_left")(coordinates())[0, 0, :, 1]
    # After column 99 come 98, 97, …: the edge itself is not repeated.
    assert seen[-7:].tolist() == [99, 98, 97, 96, 95, 94, 93]


@pytest.mark.parametrize(
    ("name", "top", "left"),
    [
        ("crop_top_left", 0, 0),
        ("crop_top_right", 0, 15),
        ("crop_bottom_left", 15, 0),
        ("crop_bottom_right", 15, 15),
        ("crop_centre", 7.5, 7.5),
    ],
)
def test_a_crop_shows_its_window_of_85_per_cent(name: str, top: float, left: float) -> None:
    expected = [(top + down, left + right) for down in (0, 84) for right in (0, 84)]
    np.testing.assert_allclose(corners(name), expected, atol=1)


def test_zooming_in_shows_the_middle_and_zooming_out_shows_more_than_all() -> None:
    margin = SIDE * (1 - 1 / 1.12) / 2
    low, high = margin, SIDE - 1 - margin
    np.testing.assert_allclose(corners("zoom_in"), [(low, low), (low, high), (high, low), (high, high)], atol=1)
    seen = view("zoom_out")(coordinates())[0, :, 50, 0].astype(int)
    # Six pixels of mirror image at each end, the whole height between them.
    assert seen.argmin() == pytest.approx(0.06 / 1.12 * SIDE, abs=1)
    assert seen.argmax() == pytest.approx(SIDE - 1 - 0.06 / 1.12 * SIDE, abs=1)
    assert seen[0] == pytest.approx(6, abs=1)


@pytest.mark.parametrize("name", ["zoom_in", "zoom_out", "crop_centre"])
def test_centred_views_keep_the_centre(name: str) -> None:
    middle = view(name)(coordinates())[0, 49:51, 49:51, :2].mean()
    assert middle == pytest.approx(49.5, abs=0.5)


@pytest.mark.parametrize("name", ["zoom_in", "zoom_out", "crop_centre"])
def test_centred_views_treat_left_and_right_alike(name: str) -> None:
    """Off by half a pixel, noise would differ by tens of levels."""
    batch = noise(size=(64, 96))
    mirrored = view(name)(view("flip")(batch))
    difference = view("flip")(view(name)(batch)).astype(int) - mirrored
    assert np.abs(difference).max() <= 2


def test_an_unknown_view_is_refused_with_a_suggestion() -> None:
    with pytest.raises(RecipeError, match=r"no TTA view 'crop_center'[\s\S]*did you mean 'crop_centre'\?"):
        check_views(["flip", "crop_center"])
    with pytest.raises(RecipeError, match="shift_left"):
        check_views(["xyz"])
    check_views(VIEWS)
