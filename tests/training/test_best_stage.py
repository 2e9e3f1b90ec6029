"""A stage that harms is left aside: which stage is the best by then, what begins from it, and what the fold ends on."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from pipeline.artifacts import Workspace, read_json, write_json
from pipeline.competition import load_competition
from pipeline.data.decode import decode
from pipeline.data.pictures import FilePictures
from pipeline.errors import KitError
from pipeline.predictions.manifests import ended_on
from pipeline.predictions.metrics import METRICS, paired_gain
from pipeline.predictions.store import prediction_frame, read_experiment, read_predictions, write_predictions
from pipeline.recipe import Recipe
from pipeline.report.tables import result_text
from pipeline.submit.job import predict_job
from pipeline.training import fold as fold_module
from pipeline.training.best_stage import best_stages
from pipeline.training.export import Export, ModelFormat, export_average, export_folds
from pipeline.training.fold import best_so_far, start_of, train_fold
from pipeline.training.grad_cam import grad_cam, mistake_maps
from pipeline.training.lr_find import find_learning_rate
from pipeline.training.network import load_network
from pipeline.training.predict import LoadedModels, predict_pictures, read_fold_models
from pipeline.training.run_state import WEIGHTS
from pipeline.training.stage import StageTask, train_stage
from tests.conftest import write_tiny_competition
from tests.training.conftest import EXPERIMENT, Run, recipe_of, stage
from tests.training.test_plan import here

CLASSES = ["blue", "green", "red"]
PREDICTIONS = ("oof.parquet", "oof_tta.parquet", "test.parquet", "test_tta.parquet")

# --- Which stage is the best, of stages that are done.


def right_on(rows: int, *wrong: int) -> NDArray[np.float32]:
    """Probabilities of class 0 for each row, but of class 1 for these."""
    found = np.tile(np.array([0.8, 0.1, 0.1], dtype=np.float32), (rows, 1))
    found[list(wrong)] = [0.1, 0.8, 0.1]
    return found


def best_of(
    folder: Path,
    recipe: Recipe,
    *,
    found: list[NDArray[np.float32]] | None = None,
    watched: list[tuple[float, float]] | None = None,
    labels: NDArray[np.int64] | None = None,
    metric: str = "accuracy",
) -> list[int]:
    """`best_stages` of stages that left these predictions of their held-out rows, and these (loss, score) of what they
    watched."""
    count = len(recipe.stages)
    found, watched = found or [right_on(12)] * count, watched or [(0.0, 0.0)] * count
    rows = len(found[0])
    ids, labels = [f"{row:03}" for row in range(rows)], np.zeros(rows, dtype=np.int64) if labels is None else labels
    folders = [folder / f"stage-{number}" for number in range(count)]
    for number, one in enumerate(folders):
        write_predictions(one / "oof.parquet", prediction_frame(ids, found[number], CLASSES, fold=0))
        (loss, score), reached = watched[number], METRICS[metric].score(labels, found[number])
        write_json(one / "stage.json", {"score": reached, "watched": {"loss": loss, "score": score}})
    return best_stages(recipe, folders, ids=ids, labels=labels, classes=CLASSES, metric=METRICS[metric])


def stages(count: int, *monitors: str, **changes: Any) -> Recipe:
    watching = monitors or ("loss",) * count
    return recipe_of(*(stage(f"s{number}", monitor=one) for number, one in enumerate(watching)), **changes)


@pytest.mark.parametrize("select_on", ["fold", "inner"])
def test_the_rows_that_choose_the_epochs_choose_the_stage_by_its_monitor(tmp_path: Path, select_on: str) -> None:
    watched = [(0.30, 0.90), (0.40, 0.95), (0.35, 0.80), (0.20, 0.92)]
    by_loss, by_score = (stages(4, *[monitor] * 4, select_on=select_on) for monitor in ("loss", "score"))
    assert best_of(tmp_path, by_loss, watched=watched) == [0, 0, 0, 3]
    assert best_of(tmp_path, by_score, watched=watched) == [0, 1, 1, 1]
    mixed = stages(4, "score", "loss", "score", "loss", select_on=select_on)
    assert best_of(tmp_path, mixed, watched=watched) == [0, 0, 0, 3]
    assert best_of(tmp_path, by_loss.model_copy(update={"end_on": "last"}), watched=watched) == [0, 1, 2, 3]


def test_a_score_of_which_less_is_better_is_known_as_such(tmp_path: Path) -> None:
    recipe = stages(2, "score", "score", select_on="inner")
    assert best_of(tmp_path, recipe, watched=[(0.3, 0.3), (0.2, 0.4)], metric="log_loss") == [0, 0]
    assert best_of(tmp_path, recipe, watched=[(0.3, 0.3), (0.4, 0.2)], metric="log_loss") == [0, 1]


def test_of_equal_stages_the_later_is_kept(tmp_path: Path) -> None:
    for kind in ("fold", "inner", "last"):
        assert best_of(tmp_path, stages(3, select_on=kind)) == [0, 1, 2]


def test_where_nothing_chooses_a_stage_is_left_aside_by_more_than_the_error_of_the_difference(tmp_path: Path) -> None:
    """Of 100 rows, by hand: n of one alone right and m of the other are (n - m) / 100 ± sqrt(n + m - …) / 100 apart."""
    recipe = stages(2, select_on="last")
    head = right_on(100, 0, 1, 2, 3, 4)
    slightly, clearly = right_on(100, *range(5, 12)), right_on(100, *range(5, 20))
    gain, error = paired_gain(METRICS["accuracy"], np.zeros(100, dtype=np.int64), head, slightly)
    assert (gain, error) == (pytest.approx(-0.02), pytest.approx(np.sqrt(0.12 - 0.02**2) / 10))
    assert best_of(tmp_path, recipe, found=[head, slightly]) == [0, 1]
    assert best_of(tmp_path, recipe, found=[head, clearly]) == [0, 0]
    # What was watched is not asked: it is the very same rows, or nothing.
    assert best_of(tmp_path, recipe, found=[head, slightly], watched=[(0.1, 1.0), (9.0, 0.0)]) == [0, 1]


def test_small_steps_down_do_not_add_up(tmp_path: Path) -> None:
    """Each of these is within the error of the one before, the last one well below the first."""
    steps = [right_on(100, *range(20 * number, 20 * number + wrong)) for number, wrong in enumerate((4, 7, 11))]
    labels = np.zeros(100, dtype=np.int64)
    for before, after in ((0, 1), (1, 2)):
        gain, error = paired_gain(METRICS["accuracy"], labels, steps[before], steps[after])
        assert -error < gain < 0
    assert best_of(tmp_path, stages(3, select_on="last"), found=steps) == [0, 1, 1]


@pytest.mark.parametrize(("kind", "least", "most"), [("last", 0.05, 0.35), ("plain best", 0.3, 0.6)])
def test_how_much_leaving_aside_flatters_stages_of_noise(tmp_path: Path, kind: str, least: float, most: float) -> None:
    """Of two stages that know nothing, in standard errors of their difference: φ(1) = 0.24 with the one error that the
    later may be worse by, φ(0) = 0.40 without (of a normal difference; here it comes in whole rows)."""
    rng, rows, flattery = np.random.default_rng(3), 60, []
    labels, accuracy = np.arange(rows) % 3, METRICS["accuracy"]
    recipe = stages(2, "score", "score", select_on="fold") if kind != "last" else stages(2, select_on="last")
    for _ in range(80):
        found = [rng.dirichlet([1, 1, 1], rows).astype(np.float32) for _ in range(2)]
        reached = [accuracy.score(labels, one) for one in found]
        best = best_of(tmp_path, recipe, found=found, watched=[(0, one) for one in reached], labels=labels)[-1]
        _, error = paired_gain(accuracy, labels, *found)
        flattery.append((reached[best] - reached[1]) / error)
    assert least < np.mean(flattery) < most


# --- Networks that were really trained: the second and the fourth stage wreck what they begin from.

WRECK = {"optimizer": "sgd", "learning_rate": 3.0, "augment": "none"}
WRECKED = recipe_of(
    stage("warm", epochs=8, augment="none"),
    stage("harm", **WRECK),
    # It cannot move, so that its weights show where it began.
    stage("still", learning_rate=1e-12, augment="none", batch_norm="frozen", size=[32, 48]),
    stage("wreck", size=[32, 64], **WRECK),
    select_on="last",
    tta={"views": ["flip"]},
)


def arrays(file: Path, recipe: Recipe = WRECKED) -> list[NDArray[np.float32]]:
    return list(load_network(recipe, classes=3, weights=file).get_weights())


def same(one: list[NDArray[np.float32]], other: list[NDArray[np.float32]], **tolerance: float) -> bool:
    return all(np.allclose(*pair, **{"rtol": 0, "atol": 1e-7, **tolerance}) for pair in zip(one, other, strict=True))


class Watched:
    """Stands for `train_stage`: what each stage began from, and the weights that it ended on."""

    def __init__(self, copies: Path | None = None) -> None:
        self.began: dict[int, Path | None] = {}
        self.ended: dict[int, list[NDArray[np.float32]]] = {}
        self.copies = copies
        self.told: list[str] = []

    def between(self, number: int) -> Path:
        """The workspace as a kill before this stage would have left it."""
        assert self.copies
        return self.copies / f"before-{number}"

    def __call__(self, recipe: Recipe, asked: StageTask, pool: Any) -> None:
        if self.copies and asked.number == 2:
            shutil.copytree(asked.folder.parents[4], self.between(2))
        train_stage(recipe, asked, pool)
        self.began[asked.number], self.ended[asked.number] = asked.start, arrays(asked.folder / WEIGHTS, recipe)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    watching = Watched()
    monkeypatch.setattr(fold_module, "train_stage", watching)
    return watching


@pytest.fixture(scope="module")
def wrecked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Watched]:
    root, watching = tmp_path_factory.mktemp("wrecked"), Watched(tmp_path_factory.mktemp("copies"))
    run = Run(write_tiny_competition(root), Workspace(root), WRECKED)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fold_module, "train_stage", watching)
        patch.setattr(fold_module.log, "warning", lambda text, *words: watching.told.append(text % words))
        run.train(folds=[0])
    return run, watching


def test_the_next_stage_begins_from_the_best_weights(wrecked: tuple[Run, Watched]) -> None:
    run, seen = wrecked
    folder = run.task(0).stage_folder
    assert seen.began == {0: None, 1: folder(0) / WEIGHTS, 2: folder(0) / WEIGHTS, 3: folder(2) / WEIGHTS}
    warm, harm, still, wreck = seen.ended.values()
    assert same(still, warm)
    assert not same(harm, warm, atol=1e-2)
    assert not same(wreck, still, atol=1e-2)


def test_the_fold_ends_on_the_best_stage_and_keeps_its_weights_alone(wrecked: tuple[Run, Watched]) -> None:
    run, seen = wrecked
    task = run.task(0)
    assert task.best_stages == [0, 0, 2, 2] == best_so_far(task, run.data, 4)
    assert task.weights == task.stage_folder(2) / WEIGHTS
    assert list(task.folder.rglob("*.h5")) == [task.weights]
    assert same(arrays(task.weights), seen.ended[2], atol=0)


def test_its_predictions_are_those_of_the_best_stage_at_its_size(wrecked: tuple[Run, Watched]) -> None:
    run, _ = wrecked
    task, data = run.task(0), run.data
    oof, still, wreck = (
        read_predictions(folder / "oof.parquet")[CLASSES].to_numpy()
        for folder in (task.folder, task.stage_folder(2), task.stage_folder(3))
    )
    np.testing.assert_allclose(oof, still, atol=1e-5)
    assert np.abs(oof - wreck).max() > 0.3
    # By hand: the network, on test pictures of that stage's size.
    test = read_predictions(task.folder / "test.parquet")
    network = load_network(run.recipe, classes=3, weights=task.weights)
    for size, close in (((32, 48), True), ((32, 64), False)):
        pictures = FilePictures(tuple(data.test["path"]), size).take(np.arange(6))
        expected = keras.ops.convert_to_numpy(keras.ops.softmax(network(pictures)))
        assert np.allclose(test[CLASSES], expected, atol=1e-5) is close


def test_the_manifest_and_the_table_say_which_stage_it_was(wrecked: tuple[Run, Watched]) -> None:
    manifest = read_json(wrecked[0].oof / "manifest.json")
    assert (manifest["ends_on"], manifest["stages_chosen_on"]) == ({"0": "still"}, "fold")
    assert [one["left_aside"] for one in manifest["stages"]] == [[], [0], [], [0]]
    assert manifest["score"] == manifest["stages"][2]["score"] > manifest["stages"][3]["score"]
    assert ended_on(manifest) == {0: 2}
    text = result_text(manifest)
    rows = {line.split("  ")[0]: re.split("  +", line) for line in text.splitlines()}
    assert text.partition("\n")[0].endswith("  left aside in folds")
    assert [rows[f"stage {name}"][6:] for name in ("warm", "harm", "still", "wreck")] == [[], ["0"], [], ["0"]]
    assert (
        "\nstages kept: still (fold 0) (end_on: best); left aside: harm (fold 0), wreck (fold 0), as an "
        "earlier stage was better by more than the standard error of the difference, in accuracy on the scored fold, "
        "which flatters the score a little" in text
    )


def test_the_gain_of_a_stage_is_over_what_it_began_from(wrecked: tuple[Run, Watched]) -> None:
    warm, harm, still, wreck = read_json(wrecked[0].oof / "manifest.json")["stages"]
    assert warm["gain"] is None
    for later, earlier in ((harm, warm), (still, warm), (wreck, still)):
        assert later["gain"] == pytest.approx(later["score"] - earlier["score"])


def test_a_fold_ended_between_two_stages_comes_to_the_same(
    wrecked: tuple[Run, Watched], tmp_path: Path, watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    first, seen = wrecked
    root = tmp_path / "copy"
    shutil.copytree(seen.between(2), root)
    run = Run(load_competition("tiny", root=root), Workspace(root), WRECKED)
    assert not run.task(0).done and not list(run.task(0).folder.rglob("stage-2/*"))
    run.train(folds=[0])
    assert list(watched.ended) == [2, 3]
    assert_equal_folds(run, first)
    better = "is better by more than the standard error of the difference, in accuracy on the scored fold"
    said = [
        f"fold 0  harm is left aside: an earlier stage {better}; still begins from warm",
        f"fold 0  wreck is left aside: an earlier stage {better}; the fold ends on still",
    ]
    assert [one for one in seen.told if "left aside" in one] == said
    assert [one for one in caplog.messages if "left aside" in one] == said[1:]


def test_a_fold_ended_before_it_was_done_comes_to_the_same(
    wrecked: tuple[Run, Watched], tmp_path: Path, watched: Watched
) -> None:
    first, _ = wrecked
    shutil.copytree(first.workspace.root, tmp_path / "copy")
    run = Run(load_competition("tiny", root=tmp_path / "copy"), Workspace(tmp_path / "copy"), WRECKED)
    for name in (*PREDICTIONS, "fold.json"):
        (run.task(0).folder / name).unlink()
    train_fold(run.task(0))
    assert not watched.ended
    assert_equal_folds(run, first)


def assert_equal_folds(run: Run, other: Run) -> None:
    task, first = run.task(0), other.task(0)
    assert task.best_stages == first.best_stages
    for name in PREDICTIONS:
        one, two = (read_predictions(each.folder / name) for each in (task, first))
        pd.testing.assert_frame_equal(one, two, check_exact=True)


def test_with_end_on_last_a_stage_begins_where_the_one_before_ended(
    begin: Callable[..., Run], watched: Watched
) -> None:
    content = WRECKED.model_dump(mode="json", exclude_none=True)["stages"][:3]
    content[2]["size"] = [32, 32]
    run = begin(*content, select_on="last", end_on="last")
    manifest = run.train(folds=[0])
    task = run.task(0)
    assert watched.began == {0: None, 1: task.stage_folder(0) / WEIGHTS, 2: task.stage_folder(1) / WEIGHTS}
    assert same(watched.ended[2], watched.ended[1], atol=1e-6)
    assert (task.best_stages, task.weights) == ([0, 1, 2], task.stage_folder(2) / WEIGHTS)
    oof, still = (read_predictions(one / "oof.parquet")[CLASSES] for one in (task.folder, task.stage_folder(2)))
    np.testing.assert_allclose(oof, still, atol=1e-5)
    assert (manifest["ends_on"], manifest["stages_chosen_on"]) == ({"0": "still"}, None)
    assert [one["left_aside"] for one in manifest["stages"]] == [[]] * 3
    text = result_text(manifest)
    assert "\nstages kept: the last in every fold (end_on: last)" in text
    assert "left aside" not in text


@pytest.mark.parametrize("select_on", ["fold", {"kind": "inner", "one_in": 4}])
def test_a_regression_that_is_better_than_what_follows_is_what_is_predicted_with(
    begin: Callable[..., Run], select_on: Any
) -> None:
    """The head alone, on features of a backbone of random weights."""
    run = begin(
        {"name": "head", "optimizer": "logistic_regression", "size": [32, 32], "augment": "none"},
        stage("wreck", size=[32, 64], **WRECK),
        select_on=select_on,
        tta={"views": ["flip"]},
    )
    manifest = run.train(folds=[0])
    task = run.task(0)
    assert task.best_stages == [0, 0]
    oof, of_stage = (
        read_predictions(file)[CLASSES] for file in (task.folder / "oof.parquet", task.stage_folder(0) / "oof.parquet")
    )
    np.testing.assert_allclose(oof, of_stage, atol=1e-6)  # both of the same features
    rows = "inner" if isinstance(select_on, dict) else "fold"
    assert manifest["stages_chosen_on"] == rows
    on = "inner rows" if rows == "inner" else "scored fold"
    assert f"as an earlier stage was better by loss on the {on}" in result_text(manifest)
    assert ("flatters" in result_text(manifest).split("stages kept:")[1]) == (rows == "fold")


def test_a_range_test_begins_from_the_best_stage(wrecked: tuple[Run, Watched], tmp_path: Path) -> None:
    first, _ = wrecked
    shutil.copytree(first.workspace.root, tmp_path / "copy")
    run = Run(first.competition, Workspace(tmp_path / "copy"), WRECKED)
    task, data = run.task(0), run.data
    assert start_of(task, data, 0) is None
    assert [start_of(task, data, number) for number in (1, 2, 3)] == [
        task.stage_folder(number) / WEIGHTS for number in (0, 0, 2)
    ]
    options: dict[str, Any] = {
        "experiment": EXPERIMENT,
        "workspace": run.workspace,
        "machine": task.machine,
        "run": here,
    }
    starts = [find_learning_rate(WRECKED, run.competition, number=number, **options).start for number in (2, 3)]
    assert starts == [None, task.stage_folder(2) / WEIGHTS]  # those of `warm` went when the fold was done


# --- Folds that end on different stages, of different sizes.

DIVIDED = recipe_of(
    stage("small", epochs=3), stage("wide", size=[32, 64]), tta={"views": ["flip"], "use": "always"}, select_on="last"
)
SIZES = {0: (32, 64), 1: (32, 32)}


@pytest.fixture(scope="module")
def divided(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Fold 0 ends on its second stage, fold 1 on its first, whatever they score."""

    def decided(recipe: Recipe, folders: list[Path], **_: Any) -> list[int]:
        return ([0, 0] if folders[0].parent.name == "fold-1" else [0, 1])[: len(folders)]

    root = tmp_path_factory.mktemp("divided")
    run = Run(write_tiny_competition(root), Workspace(root), DIVIDED)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fold_module, "best_stages", decided)
        run.train()
    return run


def test_each_fold_model_predicts_pictures_of_its_own_size(divided: Run) -> None:
    manifest = read_json(divided.oof / "manifest.json")
    assert manifest["ends_on"] == {"0": "wide", "1": "small"}
    assert "stages kept: small (fold 1), wide (fold 0) (end_on: best)" in result_text(manifest)
    models = read_fold_models(divided.workspace, "tiny", EXPERIMENT)
    assert models.sizes == SIZES
    paths = [Path(path) for path in divided.data.test["path"]]
    stored = read_experiment(divided.workspace, "tiny", EXPERIMENT).test[CLASSES]
    np.testing.assert_allclose(predict_pictures(paths, models=models)[CLASSES], stored, atol=1e-5)
    # By hand, too, as both of these could be wrong in the same way.
    expected = []
    for fold, size in SIZES.items():
        network = load_network(DIVIDED, classes=3, weights=divided.task(fold).weights)
        plain = FilePictures(tuple(map(str, paths)), size).take(np.arange(6))
        for pictures in (plain, plain[:, :, ::-1]):
            expected.append(keras.ops.convert_to_numpy(keras.ops.softmax(network(pictures))))
    np.testing.assert_allclose(stored, np.mean(expected, axis=0), atol=1e-5)
    loaded = LoadedModels(models)
    found = [loaded.predict(decode(path)) for path in paths]
    np.testing.assert_allclose(found, stored, atol=1e-5)


def test_a_kernel_that_predicts_is_told_each_folds_stage_and_size(divided: Run) -> None:
    manifest = read_json(divided.oof / "manifest.json")
    model = predict_job(manifest, divided.competition, bundle="bundle").model
    assert model is not None
    assert (model["folds"], model["stages"], model["sizes"]) == ([0, 1], [1, 0], [[32, 64], [32, 32]])


def test_exported_files_say_their_own_size_and_no_average_is_made(divided: Run, tmp_path: Path) -> None:
    where: dict[str, Any] = {"slug": "tiny", "experiment": EXPERIMENT, "workspace": divided.workspace}
    made: Export = export_folds(**where, folder=tmp_path / "files", formats=[ModelFormat.keras])
    assert [file.size for file in made.files] == list(SIZES.values())
    assert all(file.oof_difference is not None and file.oof_difference < 1e-5 for file in made.files)
    described = read_json(made.folder / "model.json")
    assert [tuple(file["size"]) for file in described["files"]] == list(SIZES.values())
    card = (made.folder / "README.md").read_text("utf-8")
    assert "stretched to 32×64 for fold 0, 32×32 for fold 1 (height × width)" in card
    assert "A stage was left aside where an earlier one did better on the held-out fold, which flatters the" in card
    picture = Path(divided.data.test["path"].iloc[0])
    command = [sys.executable, "predict.py", str(picture)]
    done = subprocess.run(command, cwd=made.folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    models = read_fold_models(divided.workspace, "tiny", EXPERIMENT)
    plain = replace(models, stored=replace(models.stored, manifest={**models.stored.manifest, "tta_used": False}))
    by_kit = predict_pictures([picture], models=plain).iloc[0][CLASSES].astype(float).to_dict()
    assert {name: float(value) for value, name in map(str.split, done.stdout.splitlines())} == pytest.approx(
        by_kit, abs=1e-4
    )
    with pytest.raises(KitError, match=r"different sizes \(fold 0 at 32×64, fold 1 at 32×32\)[\s\S]*--set end_on=last"):
        export_average(**where, folder=tmp_path / "average", formats=[ModelFormat.keras])


def test_a_heatmap_is_of_the_folds_own_size(divided: Run) -> None:
    models, data = read_fold_models(divided.workspace, "tiny", EXPERIMENT), divided.data
    for fold, (height, width) in SIZES.items():
        row = data.rows_of(fold)[0]
        key, path = data.train["id"].iloc[row], data.train["path"].iloc[row]
        found = mistake_maps(models, [(key, "blue", "red")], lambda _, path=path: decode(Path(path)))[key]
        network = load_network(DIVIDED, classes=3, weights=divided.task(fold).weights)
        pictures = FilePictures((path,), (height, width)).take(np.arange(1))
        expected = grad_cam(network, pictures, [[0, 2]])
        np.testing.assert_allclose(np.array(found), np.concatenate(expected), atol=1e-5)
