"""A stage: ends on its best weights, and the next one begins there."""

import math
import re
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from pipeline.artifacts import read_json
from pipeline.data.folds import inner_rows
from pipeline.errors import KitError
from pipeline.predictions.metrics import METRICS
from pipeline.predictions.store import probabilities_of, read_predictions
from pipeline.training.fold import stage_rows
from pipeline.training.network import compile_for, load_network, stage_network, stage_seed
from pipeline.training.run_state import LOG, WEIGHTS
from pipeline.training.stage import OOF, images_per_second, stage_done
from pipeline.training.validation import predict
from tests.training.conftest import Run, stage

FOLDS = (0, 1)


def stored(run: Run, fold: int, number: int) -> np.ndarray:
    """A stage's held-out predictions, in the order of the fold's rows."""
    data = run.data
    ids = list(data.train["id"].iloc[data.rows_of(fold)])
    return probabilities_of(read_predictions(run.task(fold).stage_folder(number) / OOF), ids, data.classes)


@pytest.mark.parametrize("fold", FOLDS)
def test_the_stored_weights_give_the_stored_predictions(finished: Run, fold: int) -> None:
    data, task = finished.data, finished.task(fold)
    network = load_network(finished.recipe, classes=len(data.classes), weights=task.weights)
    pictures = task.machine.open(
        list(data.train["path"]), (32, 32), finished.workspace.cache(finished.competition.slug)
    )
    found = predict(network, pictures, data.rows_of(fold), target="single", batch_size=5)
    np.testing.assert_allclose(found, stored(finished, fold, 1), atol=1e-4)  # of features in float16


@pytest.mark.parametrize("fold", FOLDS)
def test_a_stage_begins_on_the_best_weights_of_the_one_before(finished: Run, fold: int) -> None:
    """The second stage's rate is too small to change anything: it predicts what the first did at its best."""
    np.testing.assert_allclose(stored(finished, fold, 1), stored(finished, fold, 0), atol=1e-4)


def test_the_best_epoch_is_not_the_last_in_this_experiment(finished: Run) -> None:
    """Without this the test above would not tell the best weights from the last."""
    results = [stage_done(finished.task(fold).stage_folder(0)) or {} for fold in FOLDS]
    assert any(result["best_epoch"] < result["epochs"] - 1 for result in results)


@pytest.mark.parametrize("fold", FOLDS)
def test_the_result_is_that_of_the_best_epoch_in_the_log(finished: Run, fold: int) -> None:
    folder = finished.task(fold).stage_folder(0)
    log, result = pd.read_csv(folder / LOG), read_json(folder / "stage.json")
    assert len(log) == result["epochs"] == 6
    assert result["best_epoch"] == int(log["val_score"].argmax())
    assert result["score"] == pytest.approx(log["val_score"].max())
    assert result["loss"] == pytest.approx(log["val_loss"][result["best_epoch"]])
    assert result["pictures_trained"] == 12 * 6
    assert result["training_seconds"] == pytest.approx(log["seconds"].sum())
    labels = finished.data.labels[finished.data.rows_of(fold)]
    assert (stored(finished, fold, 0).argmax(axis=1) == labels).mean() == pytest.approx(result["score"])


def test_the_network_has_learned_the_colours(finished: Run) -> None:
    assert min(read_json(finished.task(fold).stage_folder(0) / "stage.json")["score"] for fold in FOLDS) >= 0.75


@pytest.mark.parametrize("fold", FOLDS)
def test_early_stopping_ends_a_stage_that_does_not_improve(finished: Run, fold: int) -> None:
    result = stage_done(finished.task(fold).stage_folder(1)) or {}
    assert result["epochs"] == 2  # the first, and `patience: 1` more, of 6
    assert result["best_epoch"] == 0


def swap_held_out_labels(run: Run, fold: int) -> None:
    """Give the fold's rows the labels of other classes; folds and all other rows stay."""
    data = run.data
    held_out = set(data.train["id"].iloc[data.rows_of(fold)])
    table = pd.read_csv(run.competition.data / "train.csv", dtype=str)
    other = dict(zip(data.classes, np.roll(data.classes, 1), strict=True))
    table["label"] = [other[row.label] if row.id in held_out else row.label for row in table.itertuples()]
    table.to_csv(run.competition.data / "train.csv", index=False)


@pytest.mark.parametrize("select_on", ["inner", "last"])
def test_the_scored_fold_has_no_part_in_what_is_kept(begin: Callable[..., Run], select_on: str) -> None:
    """With wrong labels on the held-out rows alone, every prediction stays as it was; only the score does not."""
    wanted = {"kind": "inner", "one_in": 4} if select_on == "inner" else select_on
    more = stage("more", epochs=2, augment="none") | {"unfreeze": 0, "batch_norm": "frozen"}
    stages = [stage("warm", epochs=4), more]
    run = begin(*stages, select_on=wanted)
    run.train(folds=[0])
    found, scores = [stored(run, 0, number) for number in (0, 1)], stage_done(run.task(0).stage_folder(1)) or {}
    run.forget()
    swap_held_out_labels(run, 0)
    run.train(folds=[0])
    for number in (0, 1):
        np.testing.assert_array_equal(stored(run, 0, number), found[number])
    assert (stage_done(run.task(0).stage_folder(1)) or {})["score"] != scores["score"]


def test_without_a_choice_the_last_epoch_is_kept(begin: Callable[..., Run]) -> None:
    run = begin(stage("warm", epochs=6, learning_rate=0.03), select_on="last")
    run.train(folds=[0])
    folder = run.task(0).stage_folder(0)
    log, result = pd.read_csv(folder / LOG), read_json(folder / "stage.json")
    assert result["best_epoch"] == 5
    assert result["loss"] == pytest.approx(log["val_loss"].iloc[-1])
    assert log["val_loss"].iloc[-1] > log["val_loss"].min()  # else the best would be the same


def test_inner_rows_choose_and_are_not_trained_on(begin: Callable[..., Run]) -> None:
    run = begin(stage("warm", epochs=5), select_on={"kind": "inner", "one_in": 4})
    run.train(folds=[0])
    task, data = run.task(0), run.data
    folder = task.stage_folder(0)
    log, result = pd.read_csv(folder / LOG), read_json(folder / "stage.json")
    inner = inner_rows(data.train, data.rows_without(0), one_in=4, seed=stage_seed(0, 0, 1))
    assert result["pictures_trained"] == (12 - len(inner)) * 5
    assert result["best_epoch"] == int(log["val_loss"].argmin())
    network = load_network(run.recipe, classes=3, weights=task.weights)
    pictures = task.machine.open(list(data.train["path"]), (32, 32), run.workspace.cache(run.competition.slug))
    found = predict(network, pictures, inner, target="single", batch_size=5)
    of_inner = METRICS["log_loss"].score(data.labels[inner], found)
    assert of_inner == pytest.approx(log["val_loss"].min(), rel=1e-4)
    np.testing.assert_allclose(
        predict(network, pictures, data.rows_of(0), target="single", batch_size=5), stored(run, 0, 0), atol=1e-6
    )


def test_what_is_validated_and_kept_is_the_moving_average(begin: Callable[..., Run]) -> None:
    """With a momentum near one the average stays near where it began, while the weights run away."""
    plain = begin(stage("warm", epochs=4, learning_rate=0.05, augment="none"), select_on="last")
    plain.train(folds=[0])
    first = [load_network(plain.recipe, classes=3, weights=plain.task(0).weights).get_weights(), stored(plain, 0, 0)]
    plain.forget()
    averaged = begin(stage("warm", epochs=4, learning_rate=0.05, augment="none", ema=0.999), select_on="last")
    averaged.train(folds=[0])
    network = load_network(averaged.recipe, classes=3, weights=averaged.task(0).weights)
    moved = [np.abs(one - other).max() for one, other in zip(first[0], network.get_weights(), strict=True)]
    assert max(moved) > 0.05
    pictures = averaged.task(0).machine.open(
        list(averaged.data.train["path"]), (32, 32), averaged.workspace.cache(averaged.competition.slug)
    )
    found = predict(network, pictures, averaged.data.rows_of(0), target="single", batch_size=5)
    np.testing.assert_allclose(found, stored(averaged, 0, 0), atol=1e-6)
    log = pd.read_csv(averaged.task(0).stage_folder(0) / LOG)
    assert log["val_loss"].iloc[-1] == pytest.approx((stage_done(averaged.task(0).stage_folder(0)) or {})["loss"])


def test_unfreezing_is_reported(finished: Run) -> None:
    first, second = (stage_done(finished.task(0).stage_folder(number)) or {} for number in (0, 1))
    assert first["unfrozen"] == first["blocks"] == second["blocks"] > 1
    assert second["unfrozen"] == 0
    network = load_network(finished.recipe, classes=3, weights=finished.task(0).weights)
    assert first["parameters"] == second["parameters"] == network.count_params()
    head = sum(math.prod(w.shape) for layer in network.layers if layer.name != "backbone" for w in layer.weights)
    assert first["trainable_parameters"] > second["trainable_parameters"] == head > 0


def test_the_settings_that_mix_pictures_reach_the_training_rows_alone(begin: Callable[..., Run]) -> None:
    run = begin(stage("plain"), stage("mixed", mixup=0.3, cutmix=0.7))
    sources = [stage_rows(run.task(0), run.data, number).source for number in (0, 1)]
    assert [(source.mixup, source.cutmix) for source in sources] == [(None, None), (0.3, 0.7)]


def test_layer_decay_reaches_the_steps(begin: Callable[..., Run]) -> None:
    """Plain gradient descent moves each block's weights by the rate × the gradient: with `layer_decay` by that × its
    share, from the same weights and the same batch."""
    plain = {"optimizer": {"kind": "sgd", "momentum": 0}, "augment": "none"}
    moves = []
    for settings in (plain, plain | {"layer_decay": 0.5}):
        run = begin(stage("only", **settings))
        source = stage_rows(run.task(0), run.data, 0).source
        network, freezing = stage_network(run.recipe, 0, source, classes=3, start=None)
        compile_for(network, run.recipe, 0, source, classes=3)
        pictures = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
        before = {weight.path: weight.numpy() for weight in network.trainable_weights}
        network.train_on_batch(pictures, np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 1]])
        moves.append({weight.path: weight.numpy() - before[weight.path] for weight in network.trainable_weights})
    shares = {path: np.linalg.norm(moves[1][path]) / np.linalg.norm(moves[0][path]) for path in moves[0]}
    kernels = [share for path, share in shares.items() if path.endswith("kernel")]
    np.testing.assert_allclose(sorted(kernels), [0.5**depth for depth in range(freezing.blocks, -1, -1)], rtol=1e-3)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_a_stage_with_every_setting_trains(
    begin: Callable[..., Run], optimizer: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("pipeline.training.validation.QUIET", 0)
    caplog.set_level("INFO", logger="pipeline")
    settings = {"mixup": 0.2, "cutmix": 1.0, "ema": 0.5, "layer_decay": 0.9, "clip_norm": 1.0, "accumulate": 5}
    run = begin(
        stage("every", optimizer=optimizer, schedule={"kind": "cosine"}, **settings),
        head={"pooling": "gem", "batch_norm": True, "dense": [8], "dropout": 0.1},
        label_smoothing=0.1,
    )
    run.train(folds=[0])
    assert run.task(0).done
    told = [line for line in caplog.messages if line.startswith("fold 0 · every 32×32  epoch")]
    logged = pd.read_csv(run.task(0).stage_folder(0) / LOG)
    assert len(told) == len(logged)
    for number, (line, row) in enumerate(zip(told, logged.itertuples(), strict=True), start=1):
        pattern = rf"epoch {number}/{len(told)}  loss {row.loss:.4f}  accuracy {row.val_score:.4f}  learning rate "
        pattern += r"(?:\S+ to )?\S+  "
        found = re.search(pattern + r"(\d+) pictures/s", line)
        assert found and int(found[1]) == pytest.approx(12 / row.seconds, rel=0.02, abs=1)
    assert f"learning rate {run.recipe.stages[0].learning_rate:.1e} to " in told[0]
    assert " to 0.0e+00  " in told[-1]


def test_label_smoothing_by_hand(begin: Callable[..., Run]) -> None:
    """Of three classes a tenth of each target goes to all alike: 0.9 + 0.1/3 for the true one, 0.1/3 for the others."""
    run = begin(stage("only"), label_smoothing=0.1)
    source = stage_rows(run.task(0), run.data, 0).source
    network, _ = stage_network(run.recipe, 0, source, classes=3, start=None)
    compile_for(network, run.recipe, 0, source, classes=3)
    logits = np.log([[0.5, 0.25, 0.25]]).astype(np.float32)
    true, other = 0.9 + 0.1 / 3, 0.1 / 3
    expected = -(true * math.log(0.5) + 2 * other * math.log(0.25))
    assert float(network.loss(np.eye(3, dtype=np.float32)[:1], logits)) == pytest.approx(expected, rel=1e-5)


def test_a_loss_that_is_not_a_number_is_an_error_that_says_what_to_do(begin: Callable[..., Run]) -> None:
    run = begin(stage("wild", learning_rate=1e30, augment="none", optimizer="sgd", epochs=2))
    with pytest.raises(KitError, match=r"fold 0, stage wild: the loss is not a number[\s\S]*learning_rate"):
        run.train(folds=[0])
    folder = run.task(0).stage_folder(0)
    assert stage_done(folder) is None
    assert not (folder / WEIGHTS).exists()
    assert not (folder / "state").exists(), "the same command would end at once"
    assert not run.task(0).done


# Keras warns of what it skips before it raises.
@pytest.mark.filterwarnings("ignore:Skipping nested container:UserWarning")
def test_weights_that_do_not_fit_are_an_error(finished: Run, copied: Run) -> None:
    weights = copied.task(0).weights
    with pytest.raises(KitError, match="cannot be loaded"):
        load_network(finished.recipe, classes=7, weights=weights)
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(KitError, match=r"cannot be loaded[\s\S]*train it again"):
        load_network(finished.recipe, classes=3, weights=weights)


def test_every_stage_of_every_fold_has_a_seed_of_its_own() -> None:
    keys = [(seed, fold, number) for seed in (0, 1, 11) for fold in (0, 1, 11) for number in (0, 1, 11)]
    assert len({stage_seed(*key) for key in keys}) == len(keys)
    assert all(0 <= stage_seed(*key) < 2**32 for key in keys)


def test_images_per_second_are_pictures_over_seconds_of_all_folds() -> None:
    results = [{"training_seconds": 2.0, "pictures_trained": 100}, {"training_seconds": 3.0, "pictures_trained": 50}]
    assert images_per_second(results) == pytest.approx(30)
    assert images_per_second([]) == 0
