"""Predicting keeps rows and their order; the best epoch, and no other, is kept."""

import math
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from scipy.special import softmax

from pipeline.data.competition_data import load_data
from pipeline.data.pictures import FilePictures
from pipeline.errors import OutOfTime
from pipeline.predictions.metrics import METRICS
from pipeline.predictions.store import prediction_frame
from pipeline.submit.submission import make_submission
from pipeline.training.validation import Best, HeldOut, predict, predict_views, validation_callback
from tests.conftest import make_picture, write_competition, write_table

SIZE = (4, 6)


def pictures(folder: Path, count: int) -> tuple[FilePictures, NDArray[np.uint8]]:
    """Pictures whose left and right halves have colours of their own, and those colours: (count, 2, 3)."""
    colours = np.random.default_rng(0).integers(0, 256, (count, 2, 3), dtype=np.uint8)
    paths = []
    for number, halves in enumerate(colours):
        path = folder / f"{number}.png"
        Image.fromarray(np.broadcast_to(np.repeat(halves, 3, axis=0), (*SIZE, 3)).copy()).save(path)
        paths.append(str(path))
    return FilePictures(tuple(paths), SIZE), colours


@pytest.fixture(scope="module")
def left_half() -> Any:
    """A network whose logits are the mean colour of a picture's left half, in hundreds."""
    inputs = keras.Input((*SIZE, 3))
    cropped = keras.layers.Cropping2D(((0, 0), (0, 3)))(keras.layers.Rescaling(0.01)(inputs))
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(cropped))


@pytest.mark.parametrize("batch_size", [1, 3, 7, 50])
@pytest.mark.parametrize("rows", [[0, 1, 2, 3, 4, 5, 6], [6, 2, 4], [5]])
def test_row_i_is_the_prediction_of_row_i(tmp_path: Path, left_half: Any, batch_size: int, rows: list[int]) -> None:
    source, colours = pictures(tmp_path, 7)
    found = predict(left_half, source, np.array(rows), target="single", batch_size=batch_size)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, softmax(colours[rows, 0] / 100.0, axis=1), atol=1e-6)


def submitted(root: Path, left_half: Any, *, order: list[int], folders: bool, batch_size: int) -> tuple[Any, ...]:
    """Of a competition whose files and rows were written in this order: what is learned from, and the submission."""
    data = root / "competitions" / "c" / "data"
    for number in order:
        name = f"{number:02}.png"
        place = ("test" if number < 4 else f"train/{'abc'[number % 3]}" if folders else "train") + f"/{name}"
        make_picture(data / place, colour=number % 3, seed=number, size=SIZE)
    write_table(data / "train.csv", "id,label", *(f"{n:02}.png,{'abc'[n % 3]}" for n in order if n >= 4))
    write_table(data / "sample.csv", "id,label", *(f"{n:02}.png,a" for n in order if n < 4))
    table = {} if folders else {"table": "train.csv", "id_column": "id", "label_column": "label"}
    files = {"train": {"pictures": "train", **table}, "test": {"pictures": "test"}, "sample_submission": "sample.csv"}
    competition = write_competition(root, "c", **files, folds=2)
    read = load_data(competition)
    source = FilePictures(tuple(read.test["path"]), SIZE)
    found = predict(left_half, source, np.arange(len(source)), target="single", batch_size=batch_size)
    frame = prediction_frame(list(read.test["id"]), found, read.classes)
    rows = make_submission(competition, frame, read.classes).sort_values("id").to_csv(index=False)
    ids = [Path(key).name for key in read.train["id"]]
    return ids, read.labels.tolist(), read.folds.frame["fold"].tolist(), read.sha256, rows


@settings(max_examples=8, derandomize=True, database=None, deadline=None)
@given(st.permutations(range(24)), st.booleans(), st.sampled_from([1, 2, 3, 5, 7, 64]))
def test_no_order_and_no_batch_size_changes_the_submission(
    left_half: Any, order: list[int], folders: bool, batch_size: int
) -> None:
    with TemporaryDirectory() as first, TemporaryDirectory() as second:
        expected = submitted(Path(first), left_half, order=list(range(24)), folders=folders, batch_size=4)
        assert submitted(Path(second), left_half, order=order, folders=folders, batch_size=batch_size) == expected
        assert len(set(expected[-1].splitlines())) == 5 and len(set(expected[2])) == 2


def test_every_model_sees_every_picture_in_every_view(tmp_path: Path, left_half: Any) -> None:
    """Two models: the network after its logits, in hundreds of the colour, are weighted by 1 and by 2."""
    source, colours = pictures(tmp_path, 5)
    scale = keras.layers.Dense(3, use_bias=False)
    network = keras.Model(left_half.input, scale(left_half.output))
    models = [partial(network.set_weights, [np.eye(3) * factor]) for factor in (1, 2)]
    found = predict_views(
        network, source, np.array([3, 0, 4]), target="single", batch_size=2, views=["flip"], models=models
    )
    assert found.dtype == np.float32
    sides = np.stack([colours[[3, 0, 4], side] / 100.0 for side in (0, 1)])
    np.testing.assert_allclose(found, softmax(np.stack([sides, 2 * sides]), axis=-1), atol=1e-5)


def test_one_network_is_traced_once_for_all_rows_views_and_models(tmp_path: Path, left_half: Any) -> None:
    source, _ = pictures(tmp_path, 7)
    network = keras.Model(left_half.input, left_half.output)
    for rows in (7, 3, 1):
        predict(network, source, np.arange(rows), target="single", batch_size=4)
        predict_views(
            network, source, np.arange(rows), target="single", batch_size=4, views=["flip"], models=[lambda: None] * 2
        )
    assert network.predict_function.experimental_get_tracing_count() == 1


def test_what_the_check_raises_ends_the_prediction(tmp_path: Path, left_half: Any) -> None:
    source, _ = pictures(tmp_path, 7)
    calls: list[int] = []

    def check() -> None:
        calls.append(len(calls))
        if len(calls) == 3:
            raise OutOfTime("too late", expected="in time", next_step="again")

    with pytest.raises(OutOfTime, match="too late"):
        predict(left_half, source, np.arange(7), target="single", batch_size=2, check=check)
    assert len(calls) == 3


class Epochs:
    """A network that is a table of logits by picture, set anew for each epoch, and its validation callback."""

    def __init__(self, folder: Path, monitor: str, *, metric: str = "accuracy") -> None:
        source, _ = pictures(folder, 2)
        inputs = keras.Input((*SIZE, 3))
        pooled = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(0.0)(inputs))
        self.network = keras.Model(inputs, keras.layers.Dense(2)(pooled))
        self.weights = folder / "best.weights.h5"
        self.best = Best()
        held_out = HeldOut(source, np.arange(2), np.array([0, 0]), batch_size=2, metric=METRICS[metric])
        self.callback = validation_callback(held_out, self.best, monitor=monitor, weights=self.weights)
        self.callback.set_model(self.network)
        self.epoch = 0

    def end(self, bias: float) -> dict[str, float]:
        """End an epoch in which both pictures get class 0 with the logits (bias, 0)."""
        self.network.set_weights([np.zeros((3, 2)), np.array([bias, 0.0])])
        logs = {"loss": 1.0}
        self.callback.on_epoch_begin(self.epoch)
        self.callback.on_epoch_end(self.epoch, logs)
        self.epoch += 1
        return logs

    def stored_bias(self) -> float:
        self.network.load_weights(self.weights)
        return float(self.network.get_weights()[1][0])


def test_loss_and_score_by_hand(tmp_path: Path) -> None:
    logs = Epochs(tmp_path, "loss", metric="log_loss").end(1.0)
    expected = math.log(1 + math.exp(-1))
    assert logs["val_loss"] == pytest.approx(expected, rel=1e-5)
    assert logs["val_score"] == pytest.approx(expected, rel=1e-5)
    assert logs["val_accuracy"] == 1
    assert logs["seconds"] > 0


@pytest.mark.parametrize(("monitor", "metric"), [("loss", "accuracy"), ("score", "log_loss")])
def test_the_best_epoch_is_kept_not_the_last(tmp_path: Path, monitor: str, metric: str) -> None:
    epochs = Epochs(tmp_path, monitor, metric=metric)
    for bias in (0.5, 2.0, -1.0, 1.0):
        epochs.end(bias)
    assert epochs.best.epoch == 1
    assert epochs.stored_bias() == 2.0
    assert epochs.best.probabilities is not None
    np.testing.assert_allclose(epochs.best.probabilities[:, 0], 1 / (1 + math.exp(-2)), rtol=1e-6)
    assert epochs.best.logs["val_loss"] == pytest.approx(math.log(1 + math.exp(-2)), rel=1e-5)


def test_a_greater_score_is_better_and_of_equal_ones_the_first_is_kept(tmp_path: Path) -> None:
    epochs = Epochs(tmp_path, "score")
    for bias in (-1.0, 1.0, 3.0):
        epochs.end(bias)
    assert epochs.best.epoch == 1
    assert epochs.stored_bias() == 1.0


def test_an_epoch_that_is_not_finite_is_never_the_best(tmp_path: Path) -> None:
    epochs = Epochs(tmp_path, "loss")
    assert math.isnan(epochs.end(math.nan)["val_loss"])
    assert epochs.best.probabilities is None
    assert not epochs.weights.exists()
    epochs.end(-2.0)
    epochs.end(math.nan)
    assert epochs.best.epoch == 1
    assert epochs.stored_bias() == -2.0
