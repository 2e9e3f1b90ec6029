"""Real processes: the same batches whatever their number, and errors rather than hangs."""

import multiprocessing
import os
import signal
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from pipeline.data import workers
from pipeline.data.augment import picture_seeds
from pipeline.data.pictures import FilePictures
from pipeline.data.workers import _LENT, AHEAD, Task, WorkerPool
from pipeline.errors import DataError, KitError, RecipeError
from tests.conftest import make_picture

SIZE = (16, 20)
BATCH = 4


@pytest.fixture
def pictures(tmp_path):
    paths = tuple(str(make_picture(tmp_path / f"{n}.png", colour=n % 3, seed=n)) for n in range(10))
    return FilePictures(paths, SIZE)


@pytest.fixture(scope="module")
def pool():
    with WorkerPool(2) as pool:
        yield pool


def plan(count=17, *, epoch=0):
    random = np.random.default_rng(epoch)
    for step in range(count):
        rows = random.integers(0, 10, BATCH)
        yield Task(rows, picture_seeds(map(str, rows), seed=step, fold=0, stage=0, epoch=epoch))


def made(pool, pictures, tasks=None, augment="heavy"):
    tasks = plan() if tasks is None else tasks
    return list(pool.batches(pictures, augment, tasks, batch_size=BATCH))


def expected(pictures, tasks=None):
    with WorkerPool(0) as alone:
        return made(alone, pictures, tasks)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_the_number_of_workers_changes_nothing(pictures, workers):
    with WorkerPool(workers) as pool:
        got = made(pool, pictures)
    assert len(got) == 17
    assert all(np.array_equal(a, b) for a, b in zip(got, expected(pictures), strict=True))


def test_one_pool_serves_one_stream_after_another(pool, pictures):
    for epoch in (1, 2):
        got = made(pool, pictures, plan(epoch=epoch))
        assert all(np.array_equal(a, b) for a, b in zip(got, expected(pictures, plan(epoch=epoch)), strict=True))
    plain = made(pool, FilePictures(pictures.paths, (8, 8)), plan(3), augment="none")
    assert [batch.shape for batch in plain] == [(BATCH, 8, 8, 3)] * 3


def test_batches_are_the_consumers_own(pool, pictures):
    """A batch kept is not written over when its slot is used again."""
    kept, copies = [], []
    for batch in pool.batches(pictures, "light", plan(), batch_size=BATCH):
        kept.append(batch)
        copies.append(batch.copy())
    assert all(np.array_equal(a, b) for a, b in zip(kept, copies, strict=True))


def test_a_part_of_a_batch_keeps_it(pool, pictures):
    """A view holds the slot it shows, though NumPy lets it point past the array that it was made from."""
    kept, copies = [], []
    for batch in pool.batches(pictures, "light", plan(40), batch_size=BATCH):
        if len(kept) < 3:
            kept.append(batch[1:][0, ::2])
            copies.append(kept[-1].copy())
    assert all(np.array_equal(a, b) for a, b in zip(kept, copies, strict=True))


def test_batches_that_are_let_go_are_not_copied_and_take_no_more_room(pool, tmp_path):
    paths = tuple(str(make_picture(tmp_path / f"{n}.png", colour=n % 3, seed=n)) for n in range(10))
    places = set()
    for batch in pool.batches(FilePictures(paths, (7, 9)), "light", plan(60), batch_size=BATCH):
        places.add(batch.ctypes.data)
        assert not batch.flags.owndata
        assert batch.ctypes.data % 64 == 0, "TensorFlow would copy it"
    assert 1 < len(places) <= AHEAD * 2 + _LENT


def test_a_smaller_batch_and_no_batch_at_all(pool, pictures):
    small = Task(np.array([3]), np.array([1], dtype=np.uint32))
    assert [batch.shape for batch in made(pool, pictures, [small])] == [(1, *SIZE, 3)]
    assert made(pool, pictures, []) == []


@pytest.mark.parametrize("taken", [1, 8])
def test_leaving_early_and_using_the_pool_again(pool, pictures, taken):
    stream = pool.batches(pictures, "heavy", plan(epoch=5), batch_size=BATCH)
    for _ in range(taken):
        next(stream)
    stream.close()
    assert all(np.array_equal(a, b) for a, b in zip(made(pool, pictures), expected(pictures), strict=True))


def test_a_new_stream_takes_the_workers_from_one_that_was_never_closed(pool, pictures):
    """As when training stops early and tf.data still holds the old generator."""
    old = pool.batches(pictures, "heavy", plan(epoch=5), batch_size=BATCH)
    next(old)
    new = pool.batches(pictures, "heavy", plan(), batch_size=BATCH)
    got = [next(new)]
    with pytest.raises(RuntimeError, match="newer"):
        next(old)
    old.close()
    got += list(new)
    assert all(np.array_equal(a, b) for a, b in zip(got, expected(pictures), strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_arrives_as_it_was_raised_and_the_pool_goes_on(pictures, workers, tmp_path):
    paths = list(pictures.paths)
    paths[6] = str(tmp_path / "away.png")
    sound, broken = (Task(np.array(rows), np.arange(4, dtype=np.uint32)) for rows in ([0, 1, 2, 3], [1, 6, 2, 3]))
    tasks = [*[sound] * 4, broken, broken, *[sound] * 6]
    with WorkerPool(workers) as pool:
        stream = pool.batches(FilePictures(tuple(paths), SIZE), "light", iter(tasks), batch_size=BATCH)
        assert len([next(stream) for _ in range(4)]) == 4
        with pytest.raises(DataError, match=r"away\.png does not exist") as caught:
            next(stream)
        assert caught.value.expected
        assert caught.value.next_step
        assert all(np.array_equal(a, b) for a, b in zip(made(pool, pictures), expected(pictures), strict=True))


def test_a_bad_augmentation_is_refused_and_the_pool_goes_on(pool, pictures):
    with pytest.raises(RecipeError, match="no augmentation preset 'bad'"):
        made(pool, pictures, augment="bad")
    assert all(np.array_equal(a, b) for a, b in zip(made(pool, pictures), expected(pictures), strict=True))


class AwkwardError(Exception):
    def __init__(self, first, second):
        super().__init__(f"awkward {first}")
        self.handle = lambda: second  # cannot be pickled


@dataclass(frozen=True)
class AwkwardPictures:
    size: tuple[int, int] = SIZE

    def __len__(self):
        return 10

    def take(self, rows):
        raise AwkwardError("thing", 2)


def test_an_error_that_cannot_travel_is_told_all_the_same(pool, pictures):
    with pytest.raises(Exception, match="awkward thing"):
        made(pool, AwkwardPictures())
    assert len(made(pool, pictures)) == 17


def test_a_killed_worker_is_an_error_and_not_a_hang(pictures):
    before = set(multiprocessing.active_children())
    with WorkerPool(2) as pool:
        victim = (set(multiprocessing.active_children()) - before).pop()
        stream = pool.batches(pictures, "light", plan(500), batch_size=BATCH)
        next(stream)
        os.kill(victim.pid, signal.SIGKILL)
        start = time.monotonic()
        with pytest.raises(KitError, match="worker has died") as caught:
            list(stream)
        assert time.monotonic() - start < 10
        assert "--workers" in caught.value.next_step


def leftovers():
    places = [Path(tempfile.gettempdir()), Path("/dev/shm")]
    return {path for place in places if place.is_dir() for path in place.glob(f"kit-{os.getpid()}-*")}


def test_nothing_is_left_behind(pictures, monkeypatch):
    files, children = leftovers(), set(multiprocessing.active_children())
    starting, plain = [], workers._answer
    monkeypatch.setattr(workers, "_answer", lambda connection: (starting.append(leftovers()), plain(connection))[1])
    with WorkerPool(2) as pool:
        stream = pool.batches(pictures, "light", plan(), batch_size=BATCH)
        next(stream)
        assert leftovers() <= files  # not even while it runs: a killed process leaves nothing either
        assert len(starting) >= 2
        assert all(seen <= files for seen in starting), "killed while its workers start, it would leave a file"
    assert set(multiprocessing.active_children()) <= children
    assert leftovers() <= files


def test_a_stream_outlives_its_pool_without_harm(pictures):
    with WorkerPool(1) as pool:
        stream = pool.batches(pictures, "light", plan(), batch_size=BATCH)
        next(stream)
    with pytest.raises(RuntimeError, match="ended"):
        next(stream)
    stream.close()
