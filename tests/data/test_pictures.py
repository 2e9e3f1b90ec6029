import gc
import multiprocessing
import os
import pickle
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.data import pictures as module
from pipeline.data.decode import decode, resize
from pipeline.data.kept import Room
from pipeline.data.pictures import (
    ChosenPictures,
    FilePictures,
    JoinedPictures,
    KeptPictures,
    decoding_seconds,
    open_pictures,
)
from pipeline.errors import DataError
from tests.conftest import make_picture

SIZE = (16, 24)
BYTES = 16 * 24 * 3
HEADER = 128  # of a NumPy file
PLENTY = 10**9


@pytest.fixture
def paths(tmp_path):
    return [str(make_picture(tmp_path / "in" / f"{n}.jpg", colour=n % 3, seed=n)) for n in range(6)]


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def kept(cache):
    return sorted(path.name for path in cache.glob("*.npy"))


def everything(pictures):
    return pictures.take(np.arange(len(pictures)))


def open_kept(paths, cache, *, size=SIZE, limit=PLENTY):
    return open_pictures(paths, size=size, room=Room(cache, limit))


def test_kept_pixels_are_the_decoded_and_resized_ones(paths, cache):
    pictures = open_kept(paths, cache)
    assert isinstance(pictures, KeptPictures)
    assert len(pictures) == 6
    rows = np.array([4, 0, 4])
    expected = np.stack([resize(decode(Path(paths[row])), SIZE) for row in rows])
    assert np.array_equal(pictures.take(rows), expected)
    assert pictures.take(rows).dtype == np.uint8


def test_what_is_taken_is_a_copy(paths, cache):
    pictures = open_kept(paths, cache)
    before = everything(pictures)
    everything(pictures)[:] = 0
    batch = pictures.take(np.array([0, 1]))
    batch += 1
    assert np.array_equal(everything(pictures), before)


def test_nothing_is_decoded_twice(paths, cache):
    first = everything(open_kept(paths, cache))
    for path in paths:  # same size and time, but no picture any more
        status = os.stat(path)
        Path(path).write_bytes(b"\0" * status.st_size)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert np.array_equal(everything(open_kept(paths, cache)), first)
    with pytest.raises(DataError):
        open_kept(paths, cache, size=(8, 8))


def test_a_changed_picture_makes_a_new_file(paths, cache):
    before = everything(open_kept(paths, cache))
    make_picture(Path(paths[2]), colour=5, seed=77)
    after = everything(open_kept(paths, cache))
    assert (before != after).any(axis=(1, 2, 3)).tolist() == [False, False, True, False, False, False]
    assert len(kept(cache)) == 2


def test_another_size_order_or_policy_is_another_file(paths, cache, monkeypatch):
    open_kept(paths, cache)
    reverse = open_kept(paths[::-1], cache)
    assert np.array_equal(everything(reverse)[::-1], everything(open_kept(paths, cache)))
    open_kept(paths, cache, size=(24, 16))
    assert len(kept(cache)) == 3
    monkeypatch.setattr(module, "POLICY", module.POLICY + 1)
    open_kept(paths, cache)
    assert len(kept(cache)) == 4


def test_what_does_not_fit_is_decoded_from_the_files(paths, cache, caplog):
    pictures = open_kept(paths, cache, limit=6 * BYTES - 1)
    assert isinstance(pictures, FilePictures)
    assert "decoded anew in every epoch" in caplog.text
    assert kept(cache) == []
    fits = open_kept(paths, cache, limit=6 * BYTES)
    assert isinstance(fits, KeptPictures)
    assert np.array_equal(everything(pictures), everything(fits))
    assert pictures.size == fits.size == SIZE
    assert len(pictures) == 6


def test_the_least_recently_used_goes_first(paths, cache):
    limit = 2 * (6 * BYTES + HEADER)
    first, second = (open_kept(order, cache, limit=limit).file for order in (paths, paths[::-1]))
    gc.collect()  # nobody has them open any more
    os.utime(first, (1, 1))
    os.utime(second, (2, 2))
    open_kept(paths, cache, limit=limit)  # used again: now the second is the older
    third = open_kept([*paths[1:], paths[0]], cache, limit=limit).file
    assert kept(cache) == sorted([first.name, third.name])


def test_a_file_that_is_in_use_does_not_go(paths, cache):
    first = open_kept(paths, cache, limit=6 * BYTES)
    second = open_kept(paths[::-1], cache, limit=6 * BYTES)
    assert isinstance(second, FilePictures)
    assert kept(cache) == [first.file.name]
    assert np.array_equal(everything(pickle.loads(pickle.dumps(first))), everything(second)[::-1])
    del first
    gc.collect()
    third = open_kept(paths[::-1], cache, limit=6 * BYTES)
    assert kept(cache) == [third.file.name]


@pytest.mark.parametrize("fault", ["damaged", "missing"])
def test_an_unreadable_picture_is_named_and_leaves_nothing_behind(paths, cache, fault):
    if fault == "damaged":
        Path(paths[3]).write_bytes(b"not a picture")
    else:
        Path(paths[3]).unlink()
    with pytest.raises(DataError, match=r"3\.jpg"):
        open_kept(paths, cache)
    assert [path.name for path in cache.glob("*") if path.name != "locks"] == []


def test_decoding_that_is_to_end_leaves_nothing_and_begins_anew(paths, cache, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK", 2)
    decoded, looks = [], []
    monkeypatch.setattr(module, "decode", lambda path: decoded.append(path) or decode(path))

    def open_until(look):
        def check():
            looks.append(len(decoded))
            if len(looks) == look:
                raise TimeoutError

        return open_pictures(paths, size=SIZE, room=Room(cache, PLENTY, check))

    with pytest.raises(TimeoutError):
        open_until(3)
    assert looks == [0, 2, 4]
    assert len(decoded) == 4
    assert [path.name for path in cache.glob("*") if path.name != "locks"] == []
    looks.clear()
    decoded.clear()
    assert np.array_equal(everything(open_until(99)), np.stack([resize(decode(Path(path)), SIZE) for path in paths]))
    assert looks == [0, 2, 4]
    open_until(4)  # there is nothing to decode any more
    assert looks == [0, 2, 4]


def test_decoding_is_timed_by_some_pictures_where_it_is_to_be_done(paths, cache, monkeypatch):
    decoded = []
    monkeypatch.setattr(module, "decode", lambda path: decoded.append(path.name) or decode(path))
    monkeypatch.setattr(module, "_SAMPLE", 2)
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=iter([10.0, 12.0]).__next__))
    assert decoding_seconds(paths, size=SIZE, folder=cache) == 2.0 * 6 / 2
    assert sorted(decoded) == ["0.jpg", "3.jpg"]
    open_kept(paths, cache)
    assert decoding_seconds(paths, size=SIZE, folder=cache) == 0
    assert decoding_seconds([], size=SIZE, folder=cache) == 0


@pytest.mark.parametrize("fault", ["cut off", "of another shape", "no array", "empty"])
def test_a_damaged_file_is_made_anew(paths, cache, caplog, fault):
    pictures = open_kept(paths, cache)
    before, file = everything(pictures), pictures.file
    content = {"cut off": file.read_bytes()[:-1], "no array": b"\0" * file.stat().st_size, "empty": b""}
    if fault == "of another shape":
        np.save(file, before[:5])
    else:
        file.write_bytes(content[fault])
    again = open_kept(paths, cache)
    assert np.array_equal(everything(again), before)
    assert f"{file} is damaged and made anew" in caplog.text


def test_pickling_carries_no_pixels(paths, cache):
    pictures = open_kept(paths, cache)
    before = everything(pictures)  # the map is open
    content = pickle.dumps(pictures)
    assert len(content) < 600
    assert np.array_equal(everything(pickle.loads(content)), before)


def _open_and_sum(paths, cache, together, queue):
    together.wait(60)
    try:
        pictures = open_pictures(paths, size=SIZE, room=Room(cache, PLENTY))
        queue.put((pictures.file.stat().st_ino, int(pictures.take(np.arange(len(pictures))).sum())))
    except Exception as error:
        queue.put((0, repr(error)))


def test_two_processes_at_once_make_one_file(paths, cache):
    many = paths * 60
    context = multiprocessing.get_context("spawn")
    queue, together = context.Queue(), context.Barrier(2)
    processes = [context.Process(target=_open_and_sum, args=(many, cache, together, queue)) for _ in range(2)]
    for process in processes:
        process.start()
    results = [queue.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(timeout=30)
    expected = sum(int(resize(decode(Path(path)), SIZE).sum()) for path in paths) * 60
    assert [total for _, total in results] == [expected] * 2
    assert len({inode for inode, _ in results}) == 1
    assert len(kept(cache)) == 1


def test_chosen_and_joined_pictures_are_those_of_their_rows(paths, cache):
    whole = everything(open_kept(paths, cache))
    chosen = ChosenPictures(open_kept(paths[3:], cache), np.array([2, 0, 2]))
    joined = JoinedPictures(open_kept(paths[:3], cache), chosen)
    assert (len(chosen), len(joined), joined.size) == (3, 6, SIZE)
    expected = whole[[0, 1, 2, 5, 3, 5]]
    assert np.array_equal(everything(joined), expected)
    for rows in ([5, 0, 3, 3, 2], [1], [4], []):
        assert np.array_equal(joined.take(np.array(rows, dtype=np.int64)), expected[rows])
    assert joined.take(np.array([1])).dtype == np.uint8
    content = pickle.dumps(joined)
    assert len(content) < 2000
    assert np.array_equal(everything(pickle.loads(content)), expected)
