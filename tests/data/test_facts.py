"""Facts about pictures: the same whether they are read or kept, and never those of another file."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.data import facts
from pipeline.data.facts import Facts, read_pictures
from tests.conftest import make_picture


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths that were really read, in any order."""
    paths: list[str] = []
    original = facts._read

    def noted(path: str) -> object:
        paths.append(path)
        return original(path)

    monkeypatch.setattr(facts, "_read", noted)
    return paths


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    for number in range(4):
        make_picture(tmp_path / f"{number}.png", colour=number % 3, seed=number)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    return [str(tmp_path / name) for name in ("2.png", "0.png", "broken.png", "1.png", "3.png", "gone.png")]


def same(one: Facts, other: Facts) -> None:
    pd.testing.assert_frame_equal(one.table, other.table)
    np.testing.assert_array_equal(one.small_copies, other.small_copies)
    assert one.unreadable == other.unreadable


def test_what_is_kept_is_what_is_read(paths: list[str], read: list[str], tmp_path: Path) -> None:
    fresh = read_pictures(paths)
    same(read_pictures(paths, keep_in=tmp_path / "kept"), fresh)
    read.clear()
    kept = read_pictures(paths, keep_in=tmp_path / "kept")
    same(kept, fresh)
    assert sorted(read) == sorted(kept.unreadable) != [], "what cannot be read is tried anew"
    read.clear()
    turned = read_pictures(paths[::-1], keep_in=tmp_path / "kept")
    pd.testing.assert_frame_equal(turned.table, fresh.table[::-1])
    np.testing.assert_array_equal(turned.small_copies, fresh.small_copies[::-1])


def test_what_reads_some_pictures_leaves_the_facts_of_the_others(
    paths: list[str], read: list[str], tmp_path: Path
) -> None:
    read_pictures(paths[:2], keep_in=tmp_path / "kept")
    read_pictures([paths[0], paths[3]], keep_in=tmp_path / "kept", write=False)
    read.clear()
    read_pictures(paths[:2], keep_in=tmp_path / "kept")
    assert read == []


def test_a_file_that_changed_is_read_anew(paths: list[str], read: list[str], tmp_path: Path) -> None:
    read_pictures(paths[:2], keep_in=tmp_path / "kept")
    read.clear()
    before = Path(paths[0]).stat()
    make_picture(Path(paths[0]), colour=1, seed=9)
    os.utime(paths[0], ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    found = read_pictures(paths[:2], keep_in=tmp_path / "kept")
    assert read == [paths[0]]
    same(found, read_pictures(paths[:2]))


@pytest.mark.parametrize("damaged", ["facts.parquet", "small.npy"])
def test_kept_facts_that_are_damaged_are_made_anew(paths: list[str], tmp_path: Path, damaged: str) -> None:
    fresh = read_pictures(paths, keep_in=tmp_path / "kept")
    file = tmp_path / "kept" / damaged
    for content in (b"", file.read_bytes()[: file.stat().st_size // 2]):
        file.write_bytes(content)
        same(read_pictures(paths, keep_in=tmp_path / "kept"), fresh)
    file.unlink()
    same(read_pictures(paths, keep_in=tmp_path / "kept"), fresh)
