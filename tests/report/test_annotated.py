"""Pictures with their predicted classes drawn beside or below them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import DataError
from pipeline.report.annotated import Annotation, annotate, annotated_names, heated, write_annotated
from tests.conftest import make_picture

CLASSES = [("blue", 0.75), ("Волга & <b>", 0.25), ("red", 0.0)]
_FIRST = (0x1F, 0x5F, 0x8B)


def blank(height: int, width: int, value: int = 255) -> np.ndarray:
    return np.full((height, width, 3), value, dtype=np.uint8)


def drawn(height: int, width: int, value: int = 255, **changes: object) -> Image.Image:
    options = {"classes": CLASSES, "title": "a.jpg", "note": "as predicted", **changes}
    return annotate(blank(height, width, value), **options)  # type: ignore[arg-type]


def first_bar(image: Image.Image) -> int:
    """The length of the bar of the likeliest class, in pixels."""
    return int((np.asarray(image) == _FIRST).all(axis=2).sum(axis=1).max())


def test_the_list_stands_beside_an_upright_picture_and_below_any_other() -> None:
    assert drawn(600, 400).size == (400 + 360, 600)
    below = drawn(400, 600)
    assert below.width == 600
    assert below.height > 400
    assert drawn(500, 500).width == 500


@pytest.mark.parametrize(
    ("size", "width"),
    [
        ((1, 1), 360),
        ((20, 30), 360),
        ((1, 4000), 640),
        ((4000, 1), 360),
        ((3000, 4000), 640),
        ((400, 500), 500),
        ((33, 32), 360),
    ],
)
def test_a_picture_of_any_size_gets_a_list_that_can_be_read(size: tuple[int, int], width: int) -> None:
    made = drawn(*size, 0)
    assert 320 <= max(made.size) <= 1024 + 360
    assert first_bar(made) == pytest.approx(0.75 * (width - 36), abs=1)


@pytest.mark.parametrize("value", [0, 127, 255])
def test_the_list_is_the_same_whatever_the_picture_is_like(value: int) -> None:
    lists = [np.asarray(drawn(600, 400, other))[:, 402:] for other in (value, 60)]
    np.testing.assert_array_equal(*lists)
    assert (lists[0] < 100).any()  # dark letters
    assert (lists[0] == 255).mean() > 0.5  # on white


def test_long_names_end_as_they_end() -> None:
    """Of two long names that begin alike, both are told by their ends."""
    one, other = (
        np.asarray(drawn(600, 400, classes=[("long " * 30 + end, 1.0)], title="t" * 300)) for end in ("2011", "2012")
    )
    assert one.shape == other.shape == (600, 760, 3)
    assert (one != other).any()


def test_of_very_many_classes_the_first_are_drawn(tmp_path: Path) -> None:
    """A JPEG holds 65,500 pixels a side."""
    classes = [(f"class {number}", 0.5) for number in range(1600)]
    made = drawn(1024, 1023, classes=classes)
    assert made.height == 1500 * 42 + 2 * 18 + 28 + 20
    drawn(1023, 1024, classes=classes).save(tmp_path / "tall.jpg")
    assert drawn(1024, 1023, classes=classes[:1500]).height == made.height


def test_no_two_pictures_get_the_same_file() -> None:
    paths = [
        Path(name)
        for name in (
            "x/a.jpg",
            "y/a.png",
            "a-2.jpg",
            "A.gif",
            "Zoo.png",
            "zoo.jpg",
            "é.jpg",
            "e\u0301.jpg",
            "z" * 250 + ".jpg",
        )
    ]
    names = annotated_names(paths)
    assert names[:4] == ["a.jpg", "a-2.jpg", "a-2-2.jpg", "A-3.jpg"]
    assert len({name.casefold() for name in names}) == len(paths)
    assert names[4:6] == ["Zoo.jpg", "zoo-2.jpg"]
    assert names[7] == "e\u0301-2.jpg"
    assert max(len(name.encode()) for name in names) < 255


def test_all_are_written_or_none(tmp_path: Path) -> None:
    good, broken = make_picture(tmp_path / "good.jpg"), tmp_path / "broken.jpg"
    broken.write_bytes(good.read_bytes()[:200])
    folder = tmp_path / "made" / "here"
    with pytest.raises(DataError, match=r"broken\.jpg"):
        write_annotated(folder, [("1.jpg", Annotation(good, CLASSES)), ("2.jpg", Annotation(broken, CLASSES))], note="")
    assert list((tmp_path / "made").iterdir()) == []
    folder.mkdir()  # an empty one will do
    write_annotated(folder, [("1.jpg", Annotation(good, CLASSES))], note="")
    with Image.open(folder / "1.jpg") as image:
        assert image.size == (360, 256 + 28 + 36 + 42 * 3 + 20)
    before = good.read_bytes()
    with pytest.raises(DataError, match="is there already and not empty"):
        write_annotated(tmp_path, [("good.jpg", Annotation(good, CLASSES))], note="")
    assert good.read_bytes() == before


def test_heat_lies_over_the_picture_where_there_is_any() -> None:
    grey = blank(40, 60, 100)
    np.testing.assert_array_equal(heated(grey, np.zeros((2, 3), np.float32)), grey)
    shown = heated(grey, np.array([[0, 0, 0], [0, 0, 7]], np.float32))
    np.testing.assert_array_equal(shown[:10, :10], grey[:10, :10])
    red, green, blue = shown[-1, -1].astype(int)  # 0.4 · 100, and 0.6 of turbo's last colour, (122, 4, 3)
    assert (red, green, blue) == (round(40 + 0.6 * 122), round(40 + 0.6 * 4), round(40 + 0.6 * 3))
    np.testing.assert_array_equal(shown, heated(grey, np.array([[0, 0, 0], [0, 0, 1]], np.float32)))
