"""Files, folders and patterns that a user names, and the pictures they stand for."""

import os
import re
from pathlib import Path

import pytest

from pipeline.data.named_pictures import named_pictures
from pipeline.errors import DataError
from tests.conftest import make_picture


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pictures in a folder and one below it, with files that are none, in the current folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("b.jpg", "a.PNG", "below/c.jpg", "below/.hidden/d.jpg", "odd [1].jpg"):
        make_picture(Path("photos") / name)
    Path("photos/notes.txt").write_text("none")
    Path("photos/picture-without-ending").write_bytes(Path("photos/b.jpg").read_bytes())
    Path("empty").mkdir()
    return Path("photos")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["photos/b.jpg"], ["photos/b.jpg"]),
        (["photos/picture-without-ending"], ["photos/picture-without-ending"]),  # it is for the decoder to say
        (["photos"], ["photos/a.PNG", "photos/b.jpg", "photos/below/c.jpg", "photos/odd [1].jpg"]),
        (["photos/*"], ["photos/a.PNG", "photos/b.jpg", "photos/below/c.jpg", "photos/odd [1].jpg"]),
        (["photos/?.jpg"], ["photos/b.jpg"]),
        (["photos/[ab].*"], ["photos/a.PNG", "photos/b.jpg"]),
        (["**/*.jpg"], ["photos/b.jpg", "photos/below/c.jpg", "photos/odd [1].jpg"]),
        (["photos/odd [1].jpg"], ["photos/odd [1].jpg"]),  # a name, not a pattern
        (["photos/below", "photos/b.jpg", "photos/*.PNG"], ["photos/below/c.jpg", "photos/b.jpg", "photos/a.PNG"]),
    ],
    ids=lambda value: value[0],
)
def test_what_a_name_stands_for(photos: Path, names: list[str], expected: list[str]) -> None:
    assert [str(path) for path in named_pictures(names)] == expected


def test_each_picture_comes_once(photos: Path) -> None:
    found = named_pictures(["photos/b.jpg", "./photos/b.jpg", "photos", "photos/*.jpg"])
    assert len(found) == len(set(found)) == 4


def test_the_users_folder_is_meant_by_a_tilde(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", os.getcwd())
    assert named_pictures(["~/photos/b.jpg"]) == named_pictures(["~/photos/b.*"]) == [Path.cwd() / "photos/b.jpg"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("https://example.org/cat.jpg", "is a URL"),
        ("file:///photos/b.jpg", "is a URL"),
        ("photos/absent.jpg", "photos/absent.jpg does not exist"),
        ("empty", "the folder empty holds no picture"),
        ("photos/*.gif", "no picture matches photos/*.gif"),
        ("photos/*.txt", "no picture matches photos/*.txt"),
        ("", "the name of a picture is empty"),
        ("~no-such-user/b.jpg", "of a user that is not known here"),
        ("n" * 300 + ".jpg", "n.jpg cannot be read: File name too long"),
    ],
)
def test_what_is_refused(photos: Path, name: str, message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        named_pictures(["photos/b.jpg", name])
