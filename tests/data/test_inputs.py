from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from pipeline.data.inputs import ErrorRelay, ExtraInput, TrainingInput, prediction_blocks, training_dataset
from pipeline.data.pictures import FilePictures
from pipeline.data.workers import WorkerPool
from pipeline.errors import DataError
from tests.conftest import make_picture

SIZE = (8, 10)
COUNT = 11


@pytest.fixture
def pictures(tmp_path):
    return FilePictures(
        tuple(str(make_picture(tmp_path / f"{n}.png", colour=n % 3, seed=n, size=SIZE)) for n in range(COUNT)), SIZE
    )


@pytest.fixture
def source(pictures):
    return TrainingInput(
        pictures=pictures,
        ids=[f"{n}.png" for n in range(COUNT)],
        labels=np.arange(COUNT, dtype=np.int64) % 3,
        classes=3,
        rows=np.array([1, 2, 3, 5, 6, 8, 10]),
        batch_size=3,
        augment="none",
        seed=0,
        fold=0,
        stage=0,
    )


@pytest.fixture(scope="module")
def pool():
    with WorkerPool(0) as pool:
        yield pool


def row_of(picture, pictures):
    """Which row a picture that was not augmented is of."""
    everything = pictures.take(np.arange(COUNT))
    (row,) = np.flatnonzero((everything == picture).all(axis=(1, 2, 3)))
    return int(row)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 6, 7, 8, 20])
def test_every_row_comes_once_an_epoch_whatever_the_remainder(source, pool, batch_size):
    source = replace(source, batch_size=batch_size)
    batches = list(source.batches(pool, epochs=range(2)))
    steps = -(-7 // batch_size)
    assert source.steps_per_epoch == steps
    assert len(batches) == 2 * steps
    for epoch in range(2):
        seen, filler = Counter(), 0
        for pictures, targets, weights in batches[epoch * steps : (epoch + 1) * steps]:
            assert pictures.shape == (batch_size, *SIZE, 3)
            assert targets.shape == (batch_size, 3)
            assert set(weights) <= {0, 1}
            for picture, target, weight in zip(pictures, targets, weights, strict=True):
                row = row_of(picture, source.pictures)
                assert target.tolist() == np.eye(3)[row % 3].tolist()
                seen[row] += int(weight)
                filler += weight == 0
                assert row in source.rows
        assert seen == Counter({int(row): 1 for row in source.rows})
        assert filler == steps * batch_size - 7


def test_the_order_differs_by_epoch_and_by_everything_that_seeds_it(source):
    orders = {tuple(source.epoch_rows(epoch)) for epoch in range(4)}
    orders |= {tuple(replace(source, **{key: 1}).epoch_rows(0)) for key in ("seed", "fold", "stage")}
    assert len(orders) == 7
    assert {tuple(sorted(order)) for order in orders} == {tuple(source.rows)}
    assert np.array_equal(source.epoch_rows(3), source.epoch_rows(3))


def test_going_on_from_an_epoch_gives_what_would_have_come(source, pool):
    source = replace(source, augment="heavy")
    whole = list(source.batches(pool, epochs=range(3)))
    rest = list(source.batches(pool, epochs=range(2, 3)))
    assert_same(whole[2 * source.steps_per_epoch :], rest)


def test_the_same_picture_is_augmented_anew_in_each_epoch(source, pool):
    source = replace(source, augment="heavy", rows=np.array([4]), batch_size=1)
    versions = {pictures.tobytes() for pictures, _, _ in source.batches(pool, epochs=range(5))}
    assert len(versions) == 5


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_the_number_of_workers_changes_nothing(source, pool, workers):
    source = replace(source, augment="heavy", mixup=0.4, cutmix=1.0)
    with WorkerPool(workers) as several:
        dataset = training_dataset(source, several, epochs=range(5))
        got = [tuple(part.numpy() for part in batch) for batch in dataset]
    assert_same(got, list(source.batches(pool, epochs=range(5))))


def assert_same(left, right):
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_training_dataset_is_the_batches(source, pool):
    dataset = training_dataset(source, pool, epochs=range(2))
    got = [tuple(part.numpy() for part in batch) for batch in dataset]
    assert_same(got, list(source.batches(pool, epochs=range(2))))
    pictures, targets, weights = dataset.element_spec
    assert pictures.shape == (3, *SIZE, 3)
    assert (pictures.dtype.name, targets.dtype.name, weights.dtype.name) == ("uint8", "float32", "float32")


def test_tensorflow_takes_the_batches_where_the_workers_wrote_them(source, monkeypatch):
    places, plain = [], WorkerPool.batches

    def noted(*arguments, **options):
        for batch in plain(*arguments, **options):
            places.append(batch.ctypes.data)
            yield batch

    monkeypatch.setattr(WorkerPool, "batches", noted)
    with WorkerPool(1) as pool:
        dataset = training_dataset(source, pool, epochs=range(8))
        got = [np.asarray(memoryview(pictures)).ctypes.data for pictures, _, _ in dataset]
    assert got == places


def test_training_may_stop_early_and_the_next_stage_uses_the_pool(source):
    source = replace(source, augment="heavy")
    with WorkerPool(2) as pool:
        expected = list(source.batches(pool, epochs=range(2)))
        unfinished = iter(training_dataset(source, pool, epochs=range(50)))
        next(unfinished)
        got = [tuple(part.numpy() for part in batch) for batch in training_dataset(source, pool, epochs=range(2))]
        assert_same(got, expected)
        del unfinished


def mirrored(batch):
    return batch[:, :, ::-1]


@pytest.mark.parametrize("rows", [0, 1, 2, 5, 6, 7, 11])
@pytest.mark.parametrize("batch_size", [3, 4])
@pytest.mark.parametrize("views", [[mirrored], [lambda batch: batch, mirrored]])
@pytest.mark.parametrize("block_bytes", [0, 2**11, 2**30])
def test_prediction_keeps_the_order_and_loses_no_row(pictures, rows, batch_size, views, block_bytes):
    order = np.random.default_rng(rows).permutation(COUNT)[:rows]
    blocks = list(prediction_blocks(pictures, order, batch_size=batch_size, views=views, block_bytes=block_bytes))
    batches = [batch for block in blocks for batch in block]
    assert len(batches) == -(-rows * len(views) // batch_size)
    found = np.zeros((len(views) * rows, *SIZE, 3), dtype=np.uint8)
    for batch, places in batches:
        assert batch.shape == (batch_size, *SIZE, 3)
        found[places] = batch[: len(places)]
    places = np.concatenate([[], *(places for _, places in batches)])
    assert sorted(places) == list(range(len(views) * rows))
    expected = [view(pictures.take(order)) for view in views] if rows else found
    assert np.array_equal(found, np.concatenate(expected) if rows else found)
    assert len(blocks) <= 1 or block_bytes < 2**30


def test_each_picture_is_taken_once_for_all_views(pictures):
    taken = []

    class Counted:
        size = pictures.size

        def take(self, rows):
            taken.extend(rows)
            return pictures.take(rows)

    list(prediction_blocks(Counted(), np.arange(7), batch_size=3, views=[mirrored, mirrored], block_bytes=2**30))
    assert taken == [0, *range(7)]  # the first alone, to know how large they are


def test_an_unreadable_picture_is_named_through_tf_data(source, pool, tmp_path):
    (tmp_path / "5.png").write_bytes(b"")
    relay = ErrorRelay()
    dataset = training_dataset(source, pool, epochs=range(1), relay=relay)
    with pytest.raises(DataError, match=r"5\.png is empty"), relay:
        list(dataset)


def test_an_unreadable_picture_to_predict_is_named(pictures, tmp_path):
    (tmp_path / "5.png").write_bytes(b"")
    blocks = prediction_blocks(pictures, np.arange(COUNT), batch_size=2, views=[mirrored])
    with pytest.raises(DataError, match=r"5\.png is empty"):
        list(blocks)


def test_the_relay_leaves_other_errors_alone():
    with pytest.raises(ZeroDivisionError), ErrorRelay():
        raise ZeroDivisionError


def test_extra_pictures_come_in_every_epoch_and_the_others_as_before(source, tmp_path):
    paths = [str(make_picture(tmp_path / "more" / f"{n}.png", colour=4, seed=n, size=SIZE)) for n in range(2)]
    extra = ExtraInput(FilePictures(tuple(paths), SIZE), ["extra:x/0", "extra:x/1"], np.array([2, 1]))
    assert source.followed_by(None) is source
    longer = replace(source, augment="heavy").followed_by(extra)
    assert longer.steps_per_epoch == 3
    assert sorted(longer.epoch_rows(0)) == [*source.rows, COUNT, COUNT + 1]
    assert [longer.ids[row] for row in (10, COUNT, COUNT + 1)] == ["10.png", "extra:x/0", "extra:x/1"]
    assert longer.labels[[COUNT, COUNT + 1]].tolist() == [2, 1]
    assert np.array_equal(longer.pictures.take(np.arange(COUNT)), source.pictures.take(np.arange(COUNT)))
    assert np.array_equal(longer.pictures.take(np.array([COUNT + 1])), extra.pictures.take(np.array([1])))
    with WorkerPool(0) as none, WorkerPool(2) as two:
        assert_same(list(longer.batches(two, epochs=range(2))), list(longer.batches(none, epochs=range(2))))


@pytest.mark.parametrize("mixing", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}])
def test_mixed_batches_are_the_plain_ones_mixed_and_the_same_from_workers(source, pool, mixing):
    plain = list(source.batches(pool, epochs=range(2)))
    mixed = list(replace(source, **mixing).batches(pool, epochs=range(2)))
    with WorkerPool(2) as workers:
        again = list(replace(source, **mixing).batches(workers, epochs=range(2)))
    for before, after, other in zip(plain, mixed, again, strict=True):
        assert all((one == two).all() for one, two in zip(after, other, strict=True))
        assert (before[2] == after[2]).all()
        np.testing.assert_allclose(after[1].sum(axis=1), 1, atol=1e-6)
        assert after[1].shape == before[1].shape
    assert any((before[0] != after[0]).any() for before, after in zip(plain, mixed, strict=True))
    assert any(((after[1] > 0) & (after[1] < 1)).any() for after in mixed)
    first, second = mixed[: len(mixed) // 2], mixed[len(mixed) // 2 :]
    assert any((one[1] != two[1]).any() for one, two in zip(first, second, strict=True))  # another epoch, other shares


def test_what_fills_up_a_batch_is_never_mixed_in(source, pool):
    """A row of weight 0 would be seen twice in an epoch through its partner."""
    for _, targets, weights in replace(source, batch_size=4, mixup=5.0).batches(pool, epochs=range(3)):
        whole = targets.max(axis=1) == 1
        assert whole[weights == 0].all()
