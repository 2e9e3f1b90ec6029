"""The demo competition: its cards, its photographs and the files it leaves on disk."""

import csv
import hashlib
import os
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pipeline.demo import competition
from pipeline.demo.cards import CARD_PIXELS, CLASSES, DECKS, Deck, draw_back, draw_face
from pipeline.demo.competition import MEAN_SIZE, SIZE_SPREAD, draw_size, write_demo
from pipeline.demo.photograph import render_card
from pipeline.errors import DataError

TRAIN, TEST = 24, 13


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> competition.DemoSummary:
    return write_demo(tmp_path_factory.mktemp("demo") / "cards", seed=3, train=TRAIN, test=TEST)


def _rows(path: Path) -> dict[str, str]:
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    table = {row["id"]: row["label"] for row in rows}
    assert len(table) == len(rows), "an id is repeated"
    return table


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _pieces_of_ink(face: NDArray[np.uint8]) -> int:
    """Count connected shapes on a card whose paper is bright in every channel."""
    inside = face[6:-6, 6:-6, :3]
    inked = (inside.min(axis=2) < 150).astype(np.uint8)
    return int(cv2.connectedComponents(inked)[0]) - 1


@pytest.mark.parametrize("deck", DECKS)
@pytest.mark.parametrize(("rank", "pips"), [("ace", 1), ("five", 5)])
@pytest.mark.parametrize("suit", ["spades", "hearts", "clubs", "diamonds"])
def test_a_card_has_as_many_pips_as_it_says(deck: Deck, rank: str, pips: int, suit: str) -> None:
    face = draw_face(f"{rank} of {suit}", deck)
    in_both_corners = 2 * 2
    assert _pieces_of_ink(face) == pips + in_both_corners


@pytest.mark.parametrize("label", CLASSES)
def test_suits_are_printed_in_their_colour(label: str) -> None:
    for deck in DECKS:
        pixels = draw_face(label, deck)[..., :3].reshape(-1, 3)
        suit_ink = deck.red if label.endswith(("hearts", "diamonds")) else deck.black
        assert (pixels == suit_ink).all(axis=1).mean() > 0.01
        if not label.startswith("king"):
            other_ink = deck.black if suit_ink == deck.red else deck.red
            assert not (pixels == other_ink).all(axis=1).any()


def test_every_king_looks_the_same_after_half_a_turn_but_for_his_seal() -> None:
    for label in CLASSES[8:]:
        # In blocks of 8 pixels, because a thin line may come out one pixel off when the sheet is turned.
        face = cv2.resize(draw_face(label, DECKS[0]), (30, 42), interpolation=cv2.INTER_AREA).astype(int)
        differs = (np.abs(face - face[::-1, ::-1]) > 30).any(axis=2)
        rows, columns = np.nonzero(differs)
        assert np.hypot(rows - 20.5, columns - 14.5).max(initial=0) < 5


def test_cards_are_cut_out_along_round_corners() -> None:
    for card in (draw_face(CLASSES[0], DECKS[0]), draw_back(DECKS[0])):
        assert card.shape == (*CARD_PIXELS, 4)
        assert not card[0, 0].any()
        assert card[..., 3].mean() > 250
        assert not card.flags.writeable


def test_an_unknown_card_is_named() -> None:
    with pytest.raises(ValueError, match="two of cups"):
        render_card("two of cups", rng=np.random.default_rng(0), size=(32, 32))


def test_a_picture_too_small_to_draw_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(15, 40\)"):
        render_card(CLASSES[0], rng=np.random.default_rng(0), size=(15, 40))


@pytest.mark.parametrize("size", [(83, 216), (173, 104), (16, 16), (97, 131)])
def test_a_photograph_has_the_size_asked_for_and_shows_the_card(size: tuple[int, int]) -> None:
    for seed in range(6):
        picture = render_card("ace of hearts", rng=np.random.default_rng(seed), size=size)
        assert picture.shape == (*size, 3)
        assert picture.dtype == np.uint8
        # The pip of an ace is at the card's centre, and the card is never far from the picture's.
        height, width = size
        middle = picture[height // 3 : -(height // 3), width // 5 : -(width // 5)].astype(int)
        assert (middle[..., 0] - middle[..., 1]).max() > 60


def test_photographs_of_a_label_differ_with_the_generator_alone() -> None:
    first, again, other = (
        render_card(CLASSES[9], rng=np.random.default_rng(seed), size=(48, 60)) for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_sizes_vary_each_side_on_its_own_around_the_mean() -> None:
    rng = np.random.default_rng(0)
    sizes = np.array([draw_size(rng) for _ in range(3000)])
    assert sizes.mean(axis=0) == pytest.approx(MEAN_SIZE, rel=0.02)
    reach = SIZE_SPREAD * np.array(MEAN_SIZE)
    assert (np.abs(sizes - MEAN_SIZE) <= reach + 0.5).all()
    assert (np.abs(sizes - MEAN_SIZE) > 0.9 * reach).any(axis=0).all()
    assert abs(np.corrcoef(sizes.T)[0, 1]) < 0.06
    assert 0.05 < (sizes[:, 0] > sizes[:, 1]).mean() < 0.4


def test_tables_and_files_name_the_same_ids(demo: competition.DemoSummary) -> None:
    data = demo.folder / "data"
    train, solution = _rows(data / "train.csv"), _rows(demo.solution)
    sample = _rows(data / "sample_submission.csv")
    assert set(train) == set(os.listdir(data / "train"))
    assert set(solution) == set(os.listdir(data / "test"))
    assert list(sample) == list(solution)
    assert not set(train) & set(solution)
    assert (len(train), len(solution)) == (demo.train, demo.test) == (TRAIN, TEST)
    assert sorted(train)[0] == "card-0001.jpg"


def test_every_class_is_there_and_balanced(demo: competition.DemoSummary) -> None:
    train = Counter(_rows(demo.folder / "data" / "train.csv").values())
    test = Counter(_rows(demo.solution).values())
    assert train == dict.fromkeys(CLASSES, TRAIN // len(CLASSES))
    assert set(test) == set(CLASSES) == set(demo.classes)
    assert max(test.values()) - min(test.values()) == 1


def test_ids_do_not_follow_the_classes(demo: competition.DemoSummary) -> None:
    labels = list(_rows(demo.folder / "data" / "train.csv").values())
    first, second = labels[: len(CLASSES)], labels[len(CLASSES) :]
    assert first != second
    assert list(CLASSES) not in (first, second)


def test_the_answers_lie_outside_the_data(demo: competition.DemoSummary) -> None:
    data = demo.folder / "data"
    expected = ["sample_submission.csv", "test", "train", "train.csv"]
    assert sorted(os.listdir(data)) == expected
    assert sorted(os.listdir(demo.folder)) == ["data", "preview.png", "solution.csv"]
    assert len(set(_rows(data / "sample_submission.csv").values())) == 1


def test_pictures_are_jpegs_of_many_sizes(demo: competition.DemoSummary) -> None:
    sizes = set()
    for path in sorted((demo.folder / "data" / "train").iterdir()):
        with Image.open(path) as picture:
            assert (picture.format, picture.mode) == ("JPEG", "RGB")
            sizes.add(picture.size)
    assert len(sizes) > TRAIN // 2


def test_the_preview_is_a_contact_sheet(demo: competition.DemoSummary) -> None:
    with Image.open(demo.preview) as sheet:
        assert sheet.format == "PNG"
        assert 850 <= sheet.width <= 950


def test_the_same_seed_gives_the_same_bytes_whatever_the_number_of_workers(
    demo: competition.DemoSummary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    again = write_demo(tmp_path / "again", seed=3, train=TRAIN, test=TEST)
    assert _digests(again.folder) == _digests(demo.folder)


def test_another_seed_gives_other_pictures_and_a_smaller_demo_begins_the_same(
    demo: competition.DemoSummary, tmp_path: Path
) -> None:
    old = _digests(demo.folder / "data" / "train")
    other = write_demo(tmp_path / "other", seed=4, train=12, test=1)
    assert not set(_digests(other.folder / "data" / "train").values()) & set(old.values())
    smaller = write_demo(tmp_path / "smaller", seed=3, train=12, test=1)
    start = _digests(smaller.folder / "data" / "train")
    assert len(start) == 12
    assert start.items() <= old.items()


def test_data_that_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.txt").write_text("mine")
    with pytest.raises(DataError) as refusal:
        write_demo(tmp_path, train=12, test=1)
    assert str(tmp_path / "data") in refusal.value.problem
    assert refusal.value.expected
    assert refusal.value.next_step
    assert [path.name for path in tmp_path.rglob("*")] == ["data", "mine.txt"]


@pytest.mark.parametrize(("name", "given"), [("train", 11), ("test", 0), ("seed", -1)])
def test_counts_out_of_range_are_refused_before_anything_is_made(tmp_path: Path, name: str, given: int) -> None:
    with pytest.raises(DataError, match=f"{name} is {given}"):
        write_demo(tmp_path / "cards", **{"train": 12, "test": 1, name: given})
    assert not any(tmp_path.iterdir())


def test_a_file_in_the_folders_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cards").write_text("mine")
    with pytest.raises(DataError, match="is a file"):
        write_demo(tmp_path / "cards", train=12, test=1)
    assert (tmp_path / "cards").read_text() == "mine"


@pytest.mark.parametrize("exists", [False, True], ids=["new folder", "folder with a file"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_nothing_is_left_behind_when_rendering_is_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exists: bool, error: type[BaseException]
) -> None:
    folder = tmp_path / "cards"
    if exists:
        folder.mkdir()
        (folder / "competition.yaml").write_text("mine")
    rendered = []

    def stumble(label: str, *, rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.uint8]:
        rendered.append(label)
        rng.random()
        if len(rendered) == 5:
            raise error
        return np.zeros((*size, 3), np.uint8)

    monkeypatch.setattr(competition, "render_card", stumble)
    with pytest.raises(error):
        write_demo(folder, train=24, test=1)
    left = [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))]
    assert left == (["cards", "cards/competition.yaml"] if exists else [])


def test_a_failure_while_publishing_takes_everything_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = os.replace

    def refuse_data(source: Path, target: Path) -> None:
        if target.name == "data":
            raise OSError("disk full")
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse_data)
    with pytest.raises(OSError, match="disk full"):
        write_demo(tmp_path / "cards", train=12, test=1)
    assert not any(tmp_path.iterdir())
