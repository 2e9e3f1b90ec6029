"""Near duplicates: what is one picture is found, what only looks like it is not."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw

from pipeline.data.duplicates import (
    candidate_pairs,
    components,
    find_duplicates,
    near_duplicates,
    same_picture,
    training_duplicates,
)
from pipeline.data.facts import perceptual_hash, read_pictures, small_copy
from pipeline.errors import DataError


def scene(seed: int, *, size: tuple[int, int] = (240, 320)) -> np.ndarray:
    """Shapes on a ground of changing light, different for every seed."""
    random = np.random.default_rng(seed)
    height, width = size
    image = Image.fromarray(np.full((height, width, 3), random.integers(60, 200, 3), dtype=np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(14):
        left, top = int(random.integers(-30, width)), int(random.integers(-30, height))
        box = (left, top, left + int(random.integers(20, 150)), top + int(random.integers(20, 120)))
        (draw.ellipse if random.random() < 0.5 else draw.rectangle)(
            box, fill=tuple(map(int, random.integers(0, 256, 3)))
        )
    return np.asarray(image)


def card(number: int) -> np.ndarray:
    """A white card with spots and a small number in a corner, by which alone two of them can differ."""
    image = Image.new("RGB", (224, 224), "white")
    draw = ImageDraw.Draw(image)
    for left, top in ((60, 40), (140, 40), (60, 160), (140, 160)):
        draw.ellipse((left, top, left + 28, top + 28), fill=(190, 20, 30))
    if number == 5:
        draw.ellipse((100, 100, 128, 128), fill=(190, 20, 30))
    draw.text((10, 6), str(number), fill="black", font_size=28)
    return np.asarray(image)


def re_encoded(picture: np.ndarray) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=40)
    return np.asarray(Image.open(file).convert("RGB"))


def cropped(picture: np.ndarray) -> np.ndarray:
    height, width = picture.shape[:2]
    return picture[height // 50 : height - height // 40, width // 40 : width - width // 50]


CHANGES = {
    "identical": lambda picture: picture,
    "re-encoded": re_encoded,
    "resized": lambda picture: np.asarray(cv2.resize(picture, (100, 75), interpolation=cv2.INTER_AREA)),
    "cropped": cropped,
    "brighter": lambda picture: np.clip(picture.astype(int) + 30, 0, 255).astype(np.uint8),
    "darker": lambda picture: (picture * 0.7).astype(np.uint8),
    "all at once": lambda picture: re_encoded(cropped((picture * 0.8).astype(np.uint8))),
}


def duplicates(pictures: dict[str, np.ndarray]) -> set[tuple[str, str]]:
    small = [small_copy(picture) for picture in pictures.values()]
    hashes, rows = np.array([perceptual_hash(one) for one in small], dtype=np.uint64), np.arange(len(small))
    return {(pair.id_a, pair.id_b) for pair in near_duplicates(list(pictures), hashes, np.stack(small), rows=rows)}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_copy_is_found(name: str) -> None:
    pictures = {f"scene {seed}": scene(seed) for seed in range(12)}
    copies = {f"copy {seed}": CHANGES[name](scene(seed)) for seed in range(12)}
    assert duplicates({**pictures, **copies}) == {(f"scene {seed}", f"copy {seed}") for seed in range(12)}


def test_what_differs_in_one_place_alone_is_not_one_picture() -> None:
    """The hashes are near, and so are the pictures; the spot in the middle and the number are not there."""
    four, five = card(4), card(5)
    bits = perceptual_hash(small_copy(four)) ^ perceptual_hash(small_copy(five))
    assert bits.bit_count() <= 12
    assert duplicates({"four": four, "five": five}) == set()
    assert duplicates({"four": four, "again": re_encoded(four), "five": five}) == {("four", "again")}


def test_one_small_place_outweighs_the_whole() -> None:
    """The correlation is that of copies; the difference in one block says otherwise."""
    one, other = scene(4), scene(4).copy()
    other[100:116, 150:166] = 255 - other[100:116, 150:166]
    small = small_copy(one), small_copy(other)
    correlation = np.corrcoef(*(cv2.blur(picture, (3, 3)).ravel() for picture in small))[0, 1]
    assert correlation > 0.99
    assert same_picture(*small) is None


def test_one_outline_in_two_colours_is_two_pictures() -> None:
    red, black = card(4), card(4).copy()
    black[(black[..., 0] > 150) & (black[..., 1] < 100)] = (20, 20, 20)
    assert same_picture(small_copy(red), small_copy(red)) == pytest.approx(1, abs=1e-5)
    assert same_picture(small_copy(red), small_copy(black)) is None


def test_pictures_without_content_are_one_if_they_have_one_colour() -> None:
    def flat(value: int, size: tuple[int, int]) -> np.ndarray:
        return np.full((*size, 3), value, dtype=np.uint8)

    pictures = {
        "black": flat(0, (1, 1)),
        "black, larger": flat(0, (30, 20)),
        "grey": flat(128, (1, 1)),
        "scene": scene(0),
    }
    assert duplicates(pictures) == {("black", "black, larger")}


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_pictures(count: int) -> None:
    hashes, small = np.zeros(count, dtype=np.uint64), np.zeros((count, 64, 64, 3), dtype=np.uint8)
    assert near_duplicates(["a"] * count, hashes, small, rows=np.arange(count)) == []


def test_every_near_pair_of_hashes_is_a_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    """As counted one by one, and whatever the size of the blocks."""
    random = np.random.default_rng(0)
    hashes = random.integers(0, 2**16, 200, dtype=np.uint64)
    expected = {
        (a, b) for a in range(200) for b in range(a + 1, 200) if (int(hashes[a]) ^ int(hashes[b])).bit_count() <= 3
    }
    assert 50 < len(expected) < 5000
    for chunk in (1, 700, 2**22):
        monkeypatch.setattr("pipeline.data.duplicates._CHUNK", chunk)
        found = [tuple(map(int, pair)) for part in candidate_pairs(hashes, 3) for pair in part]
        assert set(found) == expected
        assert len(found) == len(expected)


def test_only_the_chosen_are_compared() -> None:
    small = np.stack([small_copy(scene(1))] * 4)
    hashes = np.full(4, perceptual_hash(small[0]), dtype=np.uint64)
    pairs = near_duplicates(["a", "b"], hashes, small, rows=np.array([3, 1]))
    assert [(pair.id_a, pair.id_b, pair.distance) for pair in pairs] == [("a", "b", 0)]


def test_components_are_numbered() -> None:
    numbers = components(5, [(0, 3), (3, 4)])
    assert numbers[0] == numbers[3] == numbers[4]
    assert len(set(numbers)) == 3
    assert components(0, []).shape == (0,)


def test_copies_of_copies_are_no_pairs_of_their_own(tmp_path) -> None:
    """Of 5 identical files 4 pairs, and one with another content that is near."""
    for number in range(5):
        Image.fromarray(scene(1)).save(tmp_path / f"{number}.png")
    Image.fromarray(scene(1)).save(tmp_path / "near.jpg", quality=50)
    Image.fromarray(scene(2)).save(tmp_path / "other.jpg")
    names = ["other.jpg", *(f"{number}.png" for number in range(5)), "near.jpg"]
    paths = [str(tmp_path / name) for name in names]
    found = find_duplicates(names, paths, read_pictures(reversed(paths)))
    assert [(pair.kind, pair.id_a, pair.id_b) for pair in found] == [
        *(("identical", "0.png", f"{number}.png") for number in range(1, 5)),
        ("near", "0.png", "near.jpg"),
    ]


def test_the_training_pictures_of_a_competition(tiny_competition) -> None:
    train = tiny_competition.data / "train"
    Image.fromarray(scene(1)).save(train / "000.jpg", quality=95)
    Image.fromarray(scene(1)).save(train / "005.jpg", quality=50)
    assert [(pair.id_a, pair.id_b) for pair in training_duplicates(tiny_competition)] == [("000.jpg", "005.jpg")]

    kept = tiny_competition.folder / "explore" / "duplicates.json"
    kept.write_text(kept.read_text().replace("005.jpg", "kept"))
    assert [pair.id_b for pair in training_duplicates(tiny_competition)] == ["kept"]

    (train / "003.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"003\.jpg is empty"):
        training_duplicates(tiny_competition)


def test_the_cards_and_cars_that_are_one(shared_data, tmp_path) -> None:
    """As seen by eye: docs/decisions/0005-near-duplicates.md."""
    from pipeline.data.describe import init_competition
    from pipeline.data.explore import explore
    from pipeline.data.infer_wishes import Wishes

    cards, _, _ = init_competition("cards", shared_data / "cards", root=tmp_path, wishes=Wishes())
    pairs = explore(cards).pairs
    assert (pairs["kind"] == "near").sum() == 18
    assert [(row.id_a, row.id_b) for row in pairs[pairs["kind"] == "identical"].itertuples()] == [
        ("train/four of clubs/127.jpg", "train/four of spades/120.jpg")
    ]
    assert (pairs["label_a"] != pairs["label_b"]).sum() == 1
