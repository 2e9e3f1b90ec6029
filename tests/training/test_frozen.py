"""A frozen backbone sees each view of a picture once; a head trained on features is what it would have been."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pipeline.data.augment import Augmenter, picture_seeds
from pipeline.data.folds import choosing_rows
from pipeline.data.inputs import TrainingInput
from pipeline.data.kept import Room
from pipeline.data.pictures import ChosenPictures, JoinedPictures, MemoryRows, Pictures, open_pictures
from pipeline.data.workers import WorkerPool
from pipeline.errors import KitError
from pipeline.model.classifier import build_classifier, split_classifier
from pipeline.predictions.probe import fit_head
from pipeline.predictions.store import probabilities_of, read_predictions
from pipeline.recipe import Head, Stage
from pipeline.training.fold import Machine, stage_rows
from pipeline.training.frozen import FrozenBackbone, View, freeze, kept_views
from pipeline.training.network import load_network, stage_network, stage_seed
from pipeline.training.run_state import LOG
from pipeline.training.stage import OOF, stage_done
from pipeline.training.validation import predict, predict_views
from tests.conftest import make_picture
from tests.training.conftest import Run, recipe_of, stage

SIZE = (32, 32)
PLENTY = 10**9


@pytest.fixture
def pictures(tmp_path: Path) -> Pictures:
    paths = [str(make_picture(tmp_path / "in" / f"{n}.jpg", colour=n % 3, seed=n)) for n in range(40)]
    return open_pictures(paths, size=SIZE, room=Room(tmp_path / "cache", PLENTY))


def classifier(**head: Any) -> Any:
    return build_classifier(backbone="tiny", weights="none", head=Head(**head), classes=3)


def frozen(network: Any, folder: Path, *, workers: int = 0, limit: int = PLENTY) -> FrozenBackbone:
    return freeze(network, backbone="tiny", room=Room(folder, limit), pool=WorkerPool(workers))[0]


def made(backbone: FrozenBackbone, pictures: Pictures, seen: View = View()) -> Any:  # noqa: B008
    """All features of the pictures."""
    features = backbone.features(pictures, seen)
    assert features is not None
    return features.take(np.arange(len(features)))


def features_in(folder: Path) -> list[Path]:
    return sorted(folder.glob("features-*.npy"))


def everything(pictures: Pictures) -> Any:
    return pictures.take(np.arange(len(pictures)))


def frozen_stage(name: str = "head", **changes: Any) -> dict[str, Any]:
    return stage(name, unfreeze=0, batch_norm="frozen", **changes)


@pytest.mark.parametrize(
    "head",
    [
        {},
        {"pooling": "max", "batch_norm": True, "dense": [8], "dropout": 0.3},
        {"pooling": "gem", "dense": [8]},
    ],
)
def test_features_give_the_logits_of_the_network(pictures: Pictures, tmp_path: Path, head: dict[str, Any]) -> None:
    network = classifier(**head)
    features = made(frozen(network, tmp_path), pictures)
    assert features.dtype == np.float16
    assert features.shape == ((40, 4, 4, 128) if head.get("pooling") == "gem" else (40, 128))
    found = split_classifier(network)[1].predict(features, verbose=0)
    expected = network.predict(everything(pictures), verbose=0)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
    assert np.ptp(expected) > 0.1


def test_a_view_is_the_picture_augmented_from_its_row_and_number(pictures: Pictures, tmp_path: Path) -> None:
    network = classifier()
    by_hand = everything(pictures)
    Augmenter("medium")(by_hand, picture_seeds(map(str, range(40)), seed=0, fold=0, stage=0, epoch=2))
    expected = split_classifier(network)[0].predict(by_hand, verbose=0)
    seen = View(augment="medium", number=2)
    found = [made(frozen(network, tmp_path / str(n), workers=n), pictures, seen) for n in (0, 1, 2)]
    np.testing.assert_allclose(found[0], expected, rtol=2e-3, atol=1e-3)
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])
    flipped = made(frozen(network, tmp_path), pictures, View("flip"))
    assert np.abs(flipped - found[0]).max() > 0.1


def test_what_is_kept_is_named_by_all_that_it_depends_on(pictures: Pictures, tmp_path: Path) -> None:
    network = classifier()
    frozen(network, tmp_path).features(pictures, View())
    same = classifier(dense=[8])  # another head on the same backbone
    same.get_layer("backbone").set_weights(network.get_layer("backbone").get_weights())
    frozen(same, tmp_path).features(pictures, View())
    assert len(features_in(tmp_path)) == 1
    max_pooled = classifier(pooling="max")
    max_pooled.get_layer("backbone").set_weights(network.get_layer("backbone").get_weights())
    frozen(max_pooled, tmp_path).features(pictures, View())
    frozen(network, tmp_path).features(pictures, View("flip"))
    frozen(network, tmp_path).features(pictures, View(augment="light"))
    frozen(network, tmp_path).features(pictures, View(augment="light", number=1))
    frozen(network, tmp_path).features(pictures, View(augment="medium"))
    weights = network.get_layer("backbone").get_weights()
    weights[0][0, 0, 0, 0] += 1e-3
    network.get_layer("backbone").set_weights(weights)
    frozen(network, tmp_path).features(pictures, View())
    assert len(features_in(tmp_path)) == 7


def test_features_of_joined_and_chosen_pictures_are_those_of_their_rows(pictures: Pictures, tmp_path: Path) -> None:
    backbone = frozen(classifier(), tmp_path)
    plain = made(backbone, pictures)
    chosen = ChosenPictures(pictures, np.array([5, 0, 5]))
    joined = made(backbone, JoinedPictures(pictures, chosen))
    np.testing.assert_array_equal(joined, plain[[*range(40), 5, 0, 5]])
    assert len(features_in(tmp_path)) == 1


def test_a_damaged_file_is_made_anew(pictures: Pictures, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    backbone = frozen(classifier(), tmp_path)
    before = made(backbone, pictures)
    (file,) = features_in(tmp_path)
    file.write_bytes(file.read_bytes()[:-2])
    np.testing.assert_array_equal(made(backbone, pictures), before)
    assert "damaged and made anew" in caplog.text


@pytest.mark.parametrize("fault", ["no room", "overflow"])
def test_without_room_or_range_every_batch_goes_through_the_backbone(
    pictures: Pictures, tmp_path: Path, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    network = classifier()
    if fault == "overflow":
        last = network.get_layer("backbone").layers[-2]  # BatchNorm: the ReLU behind it passes its shift on
        last.set_weights([last.get_weights()[0], np.full(128, 1e5, np.float32), *last.get_weights()[2:]])
    backbone = frozen(network, tmp_path, limit=100 if fault == "no room" else PLENTY)
    assert backbone.all_features(pictures, [View(), View("flip")]) is None
    assert features_in(tmp_path) == []
    assert "every batch goes through the backbone" in caplog.text


def test_which_stages_train_on_kept_views() -> None:
    def views(**changes: Any) -> int | None:
        found = kept_views(Stage.model_validate(frozen_stage(epochs=9) | {"augment": "light"} | changes))
        return None if found is None else len(found)

    assert views() == 5
    assert views(feature_views=2) == 3
    assert views(epochs=3) == 4  # more views than epochs would not all be seen
    assert views(augment="none") == 1
    assert views(feature_views="every") is None
    assert views(mixup=0.2) is None
    assert views(cutmix=1.0) is None
    assert views(unfreeze=0.5) is None


def test_every_view_of_a_row_comes_once_before_one_comes_again() -> None:
    features = tuple(MemoryRows(np.array([[10 * row + n] for row in range(7)], np.float16)) for n in range(3))
    source = TrainingInput(
        pictures=features[0],  # type: ignore[arg-type]  # not looked at
        ids=[str(row) for row in range(7)],
        labels=np.arange(7) % 2,
        classes=2,
        rows=np.array([0, 2, 3, 4, 6]),
        batch_size=2,
        augment="light",
        seed=1,
        fold=0,
        stage=0,
        features=features,
    )
    seen: list[list[int]] = []
    with WorkerPool(0) as pool:
        for number, (batch, targets, weights) in enumerate(source.batches(pool, epochs=range(6))):
            assert batch.dtype == np.float32
            rows = batch[:, 0].astype(int) // 10
            np.testing.assert_array_equal(targets.argmax(axis=1), rows % 2)
            seen += [[]] if number % 3 == 0 else []
            seen[-1] += list(batch[weights == 1, 0].astype(int))
    assert [sorted(value // 10 for value in epoch) for epoch in seen] == [[0, 2, 3, 4, 6]] * 6
    each = [10 * row + number for row in (0, 2, 3, 4, 6) for number in range(3)]
    for epochs in (seen[:3], seen[3:]):
        assert sorted(value for epoch in epochs for value in epoch) == each
    assert any({value % 10 for value in epoch} == {0, 1, 2} for epoch in seen)


def weights_of(run: Run) -> list[Any]:
    network = load_network(run.recipe, classes=3, weights=run.task(0).weights)
    return [network.get_weights(), predict(network, *held_out(run), target="single", batch_size=5)]


def held_out(run: Run) -> tuple[Pictures, Any]:
    paths = list(run.data.train["path"])
    return run.task(0).machine.open(paths, SIZE, run.workspace.cache("tiny")), run.data.rows_of(0)


@pytest.mark.parametrize("augment", ["none", "light"])
def test_a_logistic_regression_is_what_scikit_learn_fits_to_the_features(
    begin: Callable[..., Run], augment: str
) -> None:
    probe = stage("probe", unfreeze=0, augment=augment, optimizer={"kind": "logistic_regression", "c": 0.1}, epochs=1)
    stages = [{**probe, "learning_rate": 1, "batch_norm": "frozen"}]
    folds, select_on = [0, 1], "last"
    if augment == "none":
        stages, folds, select_on = [*stages, stage("tuned", epochs=1)], [0], "fold"
    run = begin(*stages, select_on=select_on, tta={"views": ["flip"]})
    assert run.train(folds=folds)["folds"] == folds
    task = run.task(0)
    source = stage_rows(task, run.data, 0).source
    network, _ = stage_network(run.recipe, 0, source, classes=3, start=None)
    backbone, _ = freeze(network, backbone="tiny", room=task.room("a test"), pool=WorkerPool(0))
    seen = backbone.all_features(source.pictures, kept_views(run.recipe.stages[0]))
    assert len(seen) == (1 if augment == "none" else 5)
    rows, held_out = source.rows, run.data.rows_of(0)
    features = np.concatenate([view.take(rows) for view in seen]).astype(np.float32)
    theirs = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=300))
    theirs.fit(features, np.tile(source.labels[rows], len(seen)))
    stored = read_predictions(task.stage_folder(0) / OOF).set_index("id").loc[run.data.train["id"].iloc[held_out]]
    expected = theirs.predict_proba(seen[0].take(held_out).astype(np.float32))
    np.testing.assert_allclose(stored[run.data.classes], expected, atol=1e-3)
    curves = pd.read_csv(run.oof / "learning_curves.csv")
    assert list(curves["stage"]) == [one["name"] for one in stages] * len(folds)


def test_rows_of_all_views_choose_the_strength_of_a_logistic_regression(
    begin: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.data.folds.CHOOSING", 3)  # a class has four rows here
    probe = {"unfreeze": 0, "augment": "light", "optimizer": "logistic_regression", "batch_norm": "frozen"}
    run = begin(stage("probe", epochs=1, **{**probe, "learning_rate": 1}), seed=3, select_on="last")
    run.train(folds=[0])
    task, source = run.task(0), stage_rows(run.task(0), run.data, 0).source
    network, _ = stage_network(run.recipe, 0, source, classes=3, start=None)
    backbone, _ = freeze(network, backbone="tiny", room=task.room("a test"), pool=WorkerPool(0))
    seen = backbone.all_features(source.pictures, kept_views(run.recipe.stages[0]))
    features = np.concatenate([view.take(source.rows) for view in seen]).astype(np.float32)
    chosen = choosing_rows(run.data.train, run.data.rows_without(0), seed=stage_seed(3, 0, 0))
    inner = [place for place, row in enumerate([*source.rows] * len(seen)) if row in chosen]
    assert len(inner) == len(chosen) * 5 > 0
    labels = np.tile(source.labels[source.rows], len(seen))
    expected = fit_head(features, labels, trained=np.arange(len(labels)), inner=np.array(inner), classes=3)
    trained = load_network(run.recipe, classes=3, weights=task.weights).get_layer("logits").get_weights()
    np.testing.assert_allclose(trained[0], expected.kernel, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(trained[1], expected.bias, rtol=1e-3, atol=1e-5)


def test_without_room_for_features_there_is_no_logistic_regression(begin: Callable[..., Run]) -> None:
    run = begin(
        stage("probe", unfreeze=0, optimizer="logistic_regression", epochs=1, learning_rate=1, batch_norm="frozen"),
        select_on="last",
    )
    with pytest.raises(KitError, match="needs features of the frozen backbone, which could not be kept"):
        run.train(machine=Machine(workers=0, cache_gb=0))


def test_a_head_trained_on_features_is_the_one_trained_behind_its_backbone(begin: Callable[..., Run]) -> None:
    found = []
    for views in ({}, {"feature_views": "every"}):
        run = begin(frozen_stage(epochs=4, augment="none", **views), head={"dense": [8], "dropout": 0})
        run.train(folds=[0])
        result = stage_done(run.task(0).stage_folder(0)) or {}
        assert result["views_kept"] == (0 if views else 1)
        found.append((*weights_of(run), pd.read_csv(run.task(0).stage_folder(0) / LOG)))
        run.forget()
    (kept, kept_found, kept_log), (each, each_found, each_log) = found
    for one, other in zip(kept, each, strict=True):
        np.testing.assert_allclose(one, other, atol=5e-3)
    np.testing.assert_allclose(kept_found, each_found, atol=5e-3)
    np.testing.assert_allclose(kept_log["val_loss"], each_log["val_loss"], rtol=5e-3)
    np.testing.assert_allclose(kept_log["loss"], each_log["loss"], rtol=5e-3)


def test_stored_weights_and_predictions_are_of_the_whole_network(begin: Callable[..., Run]) -> None:
    run = begin(
        frozen_stage(epochs=3, augment="light"),
        stage("all", epochs=1, learning_rate=1e-12, batch_norm="frozen"),
        select_on={"kind": "inner", "one_in": 4},
        head={"pooling": "gem", "dropout": 0.2},
    )
    run.train(folds=[0])
    first, second = (stage_done(run.task(0).stage_folder(number)) or {} for number in (0, 1))
    assert (first["views_kept"], second["views_kept"]) == (4, 0)
    assert first["loss"] == pytest.approx(second["loss"], abs=2e-3)  # the second did not move


def test_folds_and_experiments_share_what_is_kept(begin: Callable[..., Run], tmp_path: Path) -> None:
    weights = tmp_path / "backbone.weights.h5"
    classifier().get_layer("backbone").save_weights(weights)
    run = begin(frozen_stage(epochs=3, augment="light"), weights=str(weights), tta={"views": ["flip"]})
    run.train()
    network = load_network(run.recipe, classes=3, weights=run.task(0).weights)
    expected = predict_views(network, *held_out(run), target="single", batch_size=5, views=["flip"])[0].mean(axis=0)
    frame = read_predictions(run.task(0).folder / "oof_tta.parquet")
    ids = list(run.data.train["id"].iloc[run.data.rows_of(0)])
    np.testing.assert_allclose(probabilities_of(frame, ids, run.data.classes), expected, atol=1e-3)
    folder = run.workspace.cache("tiny")
    files = {file: file.stat().st_ino for file in features_in(folder)}
    assert len(features_in(folder)) == 4 + 1 + 2  # the flipped view of all, and both of the test pictures
    changed = recipe_of(frozen_stage(epochs=2, augment="light", learning_rate=1e-3), weights=str(weights), seed=7)
    replace(run, recipe=changed, experiment="other").train(folds=[0])
    assert {file: file.stat().st_ino for file in features_in(folder)} == files
