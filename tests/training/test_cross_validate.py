"""An experiment: every row predicted by a model that never saw it, numbers that can be worked out again, and
the same result however the run went."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from pipeline.artifacts import Workspace, read_json, write_json
from pipeline.data.folds import load_folds
from pipeline.data.index import train_index
from pipeline.errors import DataError, KitError, RecipeError
from pipeline.predictions.manifests import MANIFEST, folds_in_words
from pipeline.predictions.store import CURVES, read_experiment, read_predictions, write_predictions
from pipeline.report.tables import result_text
from pipeline.training.engines import local_process
from pipeline.training.fold import FoldTask, Machine
from pipeline.training.result import learning_curves, summarise
from tests.conftest import make_picture, write_competition, write_table
from tests.training.conftest import RECIPE, Run, recipe_of, stage

CLASSES = ["blue", "green", "red"]


def never(task: FoldTask) -> None:
    raise AssertionError(f"fold {task.fold} is trained again")


def truth(run: Run) -> pd.Series:
    return pd.read_csv(run.competition.data / "train.csv", dtype=str).set_index("id")["label"]


def hits(run: Run, frame: pd.DataFrame) -> np.ndarray:
    """Whether each row of predictions is right, worked out from the files alone."""
    chosen = frame[CLASSES].idxmax(axis=1)
    return (chosen.to_numpy() == truth(run).loc[frame["id"]].to_numpy()).astype(float)


def same_results(one: Path, other: Path) -> None:
    for name in ("oof.parquet", "oof_tta.parquet", "test.parquet", "test_tta.parquet"):
        pd.testing.assert_frame_equal(read_predictions(one / name), read_predictions(other / name), check_exact=True)


def test_every_row_has_an_oof_prediction_from_its_fold(finished: Run) -> None:
    oof = read_predictions(finished.oof / "oof.parquet")
    folds = pd.read_csv(finished.competition.folds_file, dtype={"id": str})
    assert list(oof.columns) == ["id", "fold", *CLASSES]
    assert list(oof["id"]) == sorted(truth(finished).index)
    pd.testing.assert_frame_equal(oof[["id", "fold"]], folds.sort_values("id").reset_index(drop=True))
    assert oof[CLASSES].sum(axis=1).to_numpy() == pytest.approx(1, abs=1e-5)
    for fold in (0, 1):
        of_fold = read_predictions(finished.task(fold).folder / "oof.parquet")
        expected = oof[oof["fold"] == fold].reset_index(drop=True)
        pd.testing.assert_frame_equal(of_fold, expected, check_exact=True)


@pytest.mark.parametrize("suffix", ["", "_tta"])
def test_test_predictions_are_the_mean_of_the_fold_models(finished: Run, suffix: str) -> None:
    merged = read_predictions(finished.oof / f"test{suffix}.parquet").set_index("id")
    parts = [read_predictions(finished.task(fold).folder / f"test{suffix}.parquet").set_index("id") for fold in (0, 1)]
    sample = pd.read_csv(finished.competition.data / "sample_submission.csv")["id"]
    assert sorted(merged.index) == sorted(sample)
    mean = (parts[0].loc[sample].astype(float) + parts[1].loc[sample].astype(float)) / 2
    np.testing.assert_allclose(merged.loc[sample], mean, atol=1e-7)
    assert np.abs(parts[0].loc[sample] - parts[1].loc[sample]).to_numpy().max() > 1e-4


def test_the_manifest_holds_what_the_contract_names(finished: Run) -> None:
    manifest = read_json(finished.oof / MANIFEST)
    folds = load_folds(finished.competition, train_index(finished.competition))
    assert manifest["competition"] == "tiny"
    assert manifest["experiment"] == "two-stages"
    assert manifest["metric"] == "accuracy"
    assert manifest["classes"] == CLASSES
    assert manifest["oof_rows"] == 24
    assert manifest["recipe"] == RECIPE.model_dump(mode="json")
    assert manifest["fingerprint"] == RECIPE.fingerprint()
    text = "".join(f"{row.id},{row.fold}\n" for row in folds.frame.itertuples())
    assert manifest["folds_sha256"] == hashlib.sha256(text.encode()).hexdigest()
    assert {"python", "tensorflow", "keras", "numpy"} <= set(manifest["versions"])
    assert manifest["backend"] == "tensorflow"
    assert "git_commit" in manifest
    assert set(manifest["floors"]) == {"random classifier", "majority class"}
    assert manifest["floors"]["majority class"]["score"] == pytest.approx(1 / 3)
    assert [entry["name"] for entry in manifest["stages"]] == ["warm", "still"]
    for number, entry in enumerate(manifest["stages"]):
        results = [read_json(finished.task(fold).stage_folder(number) / "stage.json") for fold in (0, 1)]
        assert entry["size"] == [32, 32]
        assert entry["seconds"] == pytest.approx(sum(result["seconds"] for result in results))
        assert all(result["seconds"] > result["training_seconds"] for result in results)
        pictures = sum(result["pictures_trained"] for result in results)
        trained = sum(result["training_seconds"] for result in results)
        assert entry["images_per_second"] == pytest.approx(pictures / trained)
    assert manifest["seconds"] > sum(entry["seconds"] for entry in manifest["stages"])
    [of_all] = [line.split() for line in result_text(manifest).splitlines() if line.startswith("OOF  ")]
    assert of_all[-1] == f"{manifest['seconds']:.0f}"


def test_the_scores_can_be_worked_out_from_the_files(finished: Run) -> None:
    manifest = read_json(finished.oof / MANIFEST)
    for name, prefix in (("oof.parquet", ""), ("oof_tta.parquet", "tta_")):
        oof = read_predictions(finished.oof / name)
        right = hits(finished, oof)
        p = right.mean()
        assert manifest[f"{prefix}score"] == pytest.approx(p)
        assert manifest[f"{prefix}score_se"] == pytest.approx(np.sqrt(p * (1 - p) / len(right)))
        by_fold = {str(fold): right[oof["fold"] == fold].mean() for fold in (0, 1)}
        assert manifest[f"{prefix}fold_scores"] == pytest.approx(by_fold)
    assert manifest["tta_gain"] == pytest.approx(manifest["tta_score"] - manifest["score"])
    assert manifest["stages"][0]["gain"] is None
    assert manifest["stages"][1]["gain"] == pytest.approx(
        manifest["stages"][1]["score"] - manifest["stages"][0]["score"]
    )
    for number, entry in enumerate(manifest["stages"]):
        parts = [read_predictions(finished.task(fold).stage_folder(number) / "oof.parquet") for fold in (0, 1)]
        assert entry["score"] == pytest.approx(hits(finished, pd.concat(parts)).mean())


def with_oof(run: Run, *, plain: Sequence[float], tta: Sequence[float]) -> None:
    """Overwrite the folds' predictions by ones that are right with these shares, plain and with TTA."""
    for fold in (0, 1):
        for name, share in (("oof.parquet", plain[fold]), ("oof_tta.parquet", tta[fold])):
            path = run.task(fold).folder / name
            frame = read_predictions(path)
            numbers = truth(run).loc[frame["id"]].map(CLASSES.index).to_numpy()
            right = np.arange(len(frame)) < round(share * len(frame))
            chosen = np.where(right, numbers, (numbers + 1) % 3)
            frame[CLASSES] = np.eye(3, dtype=np.float32)[chosen] * 0.9 + np.float32(1 / 30)
            write_predictions(path, frame)


@pytest.mark.parametrize(
    ("use", "plain", "tta", "used", "by_fold", "scored"),
    [
        ("auto", (0.5, 0.5), (0.75, 0.75), True, (True, True), 0.75),
        ("auto", (0.75, 0.75), (0.5, 0.5), False, (False, False), 0.75),
        ("auto", (0.5, 0.5), (0.5, 0.5), False, (False, False), 0.5),
        ("always", (0.75, 0.75), (0.5, 0.5), True, (True, True), 0.5),
        # It helps fold 0 more than it harms fold 1; what each fold does the other one chose, and both chose badly.
        ("auto", (0.25, 0.75), (0.75, 0.5), True, (False, True), (0.25 + 0.5) / 2),
    ],
)
def test_tta_is_used_where_it_helps_or_is_asked_for_and_scored_where_it_was_not_chosen(
    copied: Run,
    use: str,
    plain: tuple[float, float],
    tta: tuple[float, float],
    used: bool,
    by_fold: tuple[bool, bool],
    scored: float,
) -> None:
    with_oof(copied, plain=plain, tta=tta)
    recipe = recipe_of(*RECIPE.model_dump()["stages"], tta={"views": ["flip"], "use": use})
    run = Run(copied.competition, copied.workspace, recipe)
    frames, manifest = summarise([run.task(0), run.task(1)], run.data)
    assert manifest["score"] == pytest.approx(np.mean(plain))
    assert manifest["tta_score"] == pytest.approx(np.mean(tta))
    assert manifest["tta_gain"] == pytest.approx(np.mean(tta) - np.mean(plain))
    assert manifest["tta_used"] is used
    assert manifest["tta_used_by_fold"] == {"0": by_fold[0], "1": by_fold[1]}
    assert manifest["oof_score"] == pytest.approx(scored)
    for name, frame in frames.items():
        write_predictions(copied.oof / name, frame)
    write_json(copied.oof / MANIFEST, manifest)
    stored = read_experiment(copied.workspace, "tiny", "two-stages")
    assert stored.score == pytest.approx(scored)
    assert hits(copied, stored.oof).mean() == pytest.approx(scored)
    assert list(stored.oof["id"]) == sorted(stored.oof["id"])
    kept = frames["test_tta.parquet" if used else "test.parquet"]
    pd.testing.assert_frame_equal(stored.test, kept)


def test_the_learning_curves_are_kept_with_the_result(finished: Run) -> None:
    kept = pd.read_csv(finished.oof / CURVES)
    pd.testing.assert_frame_equal(kept, learning_curves(finished.task(0).folder.parent, ["warm", "still"]))
    assert len(kept) == 2 * (6 + 2)


def test_an_experiment_that_is_done_is_not_done_again(copied: Run) -> None:
    before = read_json(copied.oof / MANIFEST)
    assert copied.train(engine=never) == before
    (copied.oof / MANIFEST).unlink()
    again = copied.train(engine=never)
    again["created"] = before["created"]
    assert again["git_commit"] == before["git_commit"]
    assert again == before


def test_a_missing_fold_alone_is_trained(copied: Run) -> None:
    shutil.rmtree(copied.task(0).folder)
    shutil.rmtree(copied.oof)
    copied.train(folds=[1], engine=never)
    trained: list[int] = []
    copied.train(engine=lambda task: trained.append(task.fold))
    assert trained == [0]


def test_the_folds_that_are_done_are_a_result(copied: Run) -> None:
    """Each fold's rows as the whole result has them; the test predictions are of the fold's model alone."""
    whole = read_experiment(copied.workspace, "tiny", copied.experiment)
    spare = copied.workspace.root / "spare"
    copied.task(0).folder.rename(spare)
    assert copied.train(folds=[1], engine=never) == whole.manifest, "a part takes no whole result's place"
    shutil.rmtree(copied.oof)
    manifest = copied.train(folds=[1], engine=never)
    assert (manifest["folds"], manifest["missing_folds"]) == ([1], [0])
    assert (folds_in_words(manifest), folds_in_words(whole.manifest)) == ("1 of 2", "2")
    assert manifest["fold_scores"] == {"1": whole.manifest["fold_scores"]["1"]}
    part = read_experiment(copied.workspace, "tiny", copied.experiment)
    plain, all_plain = (read_predictions(copied.oof / "oof.parquet"), whole.oof)
    assert set(plain["fold"]) == {1}
    assert set(plain["id"]) == set(all_plain["id"][all_plain["fold"] == 1])
    own = read_predictions(copied.task(1).folder / ("test_tta.parquet" if manifest["tta_used"] else "test.parquet"))
    np.testing.assert_allclose(part.test[part.classes], own[part.classes], atol=1e-7)
    spare.rename(copied.task(0).folder)
    again = copied.train(engine=never)
    assert (again["folds"], again["missing_folds"], again["score"]) == ([0, 1], [], whole.manifest["score"])
    pd.testing.assert_frame_equal(read_experiment(copied.workspace, "tiny", copied.experiment).oof, whole.oof)


def test_what_is_done_is_a_result_though_the_next_fold_fails(
    copied: Run, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the time that the next one will take is told by then; where it is not there, the next one is not begun."""
    now = 0.0
    monkeypatch.setattr("pipeline.training.cross_validate.time", SimpleNamespace(monotonic=lambda: now))
    spare = copied.workspace.root / "spare"
    copied.task(0).folder.rename(spare)
    shutil.rmtree(copied.task(1).folder)
    shutil.rmtree(copied.oof)

    def first_alone(task: FoldTask) -> None:
        nonlocal now
        now += 90
        if task.fold == 1:
            raise KitError("no more", expected="more", next_step="go on")
        spare.rename(task.folder)

    with pytest.raises(KitError, match="no more"), caplog.at_level("INFO", "pipeline"):
        copied.train(engine=first_alone)
    assert "fold 0 took 90 s; 1 fold to come: about 90 s" in caplog.text
    assert read_json(copied.oof / MANIFEST)["missing_folds"] == [1]

    copied.task(0).folder.rename(spare)
    shutil.rmtree(copied.oof)
    now = 0.0
    with caplog.at_level("INFO", "pipeline"):
        manifest = copied.train(engine=first_alone, until=179.0)
    assert "fold 1 is not begun: 89 s of the time are left, and a fold took 90 s" in caplog.text
    assert manifest["missing_folds"] == [1]
    with caplog.at_level("INFO", "pipeline"):  # nor by a command that trained none itself
        assert copied.train(engine=never, until=now) == manifest
    assert "fold 1 is not begun: 0 s of the time are left" in caplog.text


def test_another_recipe_under_the_same_name_is_refused(copied: Run) -> None:
    stages = RECIPE.model_dump()["stages"]
    other = Run(copied.competition, copied.workspace, recipe_of(*stages, tta={"views": ["flip"]}, seed=1))
    with pytest.raises(KitError, match=r"different settings or data: recipe[\s\S]*--suffix"):
        other.train(engine=never)
    shutil.rmtree(copied.workspace.root / "runs")
    with pytest.raises(KitError, match="different settings or data: recipe"):
        other.train(engine=never)


def test_a_name_or_a_description_does_not_make_another_recipe(copied: Run) -> None:
    changed = RECIPE.model_copy(update={"description": "the same, explained"})
    assert Run(copied.competition, copied.workspace, changed).train(engine=never)["folds"] == [0, 1]


def test_other_folds_are_refused(copied: Run) -> None:
    file = copied.competition.folds_file
    table = pd.read_csv(file)
    table["fold"] = 1 - table["fold"]
    table.to_csv(file, index=False)
    with pytest.raises(KitError, match="different settings or data: folds"):
        copied.train(engine=never)


def test_a_recipe_or_fold_that_does_not_hold_is_refused_before_training(begin: Callable[..., Run]) -> None:
    run = begin()
    with pytest.raises(DataError, match=r"tiny has no fold 2[\s\S]*from 0 to 1"):
        run.train(folds=[2], engine=never)
    for change in (
        {"tta": {"views": ["flop"]}},
        {"backbone": "tyni"},
        {"stages": [stage("x", augment="mild")]},
        {"backbone": "xception"},  # which takes no 32×32
    ):
        settings: dict[str, Any] = {"stages": [stage("x")], **change}
        wrong = Run(run.competition, run.workspace, recipe_of(*settings.pop("stages"), **settings))
        with pytest.raises(RecipeError):
            wrong.train(engine=never)
    assert not run.workspace.run("tiny", "two-stages").exists()


@pytest.mark.parametrize("name", ["id", "fold", "picture"])
def test_a_class_called_like_a_column_of_predictions_is_refused(begin: Callable[..., Run], name: str) -> None:
    run = begin(stage("one"))
    table = run.competition.data / "train.csv"
    table.write_text(table.read_text("utf-8").replace("green", name), "utf-8")
    with pytest.raises(DataError, match=f"a class is called '{name}'"):
        run.train(engine=never)


def test_learning_curves_put_a_stage_at_the_same_step_in_every_fold(tmp_path: Path) -> None:
    for fold, lengths in ((0, (3, 2)), (1, (2, 2)), (10, (1, 1))):
        for number, length in enumerate(lengths):
            rows = [f"{epoch},0.5,{fold}" for epoch in range(length)]
            write_table(tmp_path / f"fold-{fold}" / f"stage-{number}" / "log.csv", "epoch,loss,x", *rows)
    curves = learning_curves(tmp_path, ["s0", "s1"])
    steps = {key: list(part["step"]) for key, part in curves.groupby(["fold", "stage"])}
    assert steps == {
        (0, "s0"): [1, 2, 3],
        (0, "s1"): [4, 5],
        (1, "s0"): [1, 2],
        (1, "s1"): [4, 5],
        (10, "s0"): [1],
        (10, "s1"): [4],
    }
    assert (curves["x"] == curves["fold"]).all()


def test_with_a_split_of_its_own_and_no_test_set(tmp_path: Path) -> None:
    """Only the rows that the data holds out have OOF predictions, and there is nothing to submit."""
    data = tmp_path / "competitions" / "split" / "data"
    rows = []
    for number in range(15):
        make_picture(data / "pictures" / f"{number}.png", colour=number % 3, seed=number)
        rows.append(f"{number}.png,{CLASSES[number % 3]},{'valid' if number >= 9 else 'train'}")
    write_table(data / "train.csv", "id,label,part", *rows)
    columns = {"id_column": "id", "label_column": "label", "split": {"column": "part"}}
    competition = write_competition(
        tmp_path,
        "split",
        train={"pictures": "pictures", "table": "train.csv", **columns},
        metric="log_loss",
        submission="probabilities",
    )
    run = Run(competition, Workspace(tmp_path), recipe_of(stage("one")))
    manifest = run.train()
    stored = read_experiment(run.workspace, "split", "two-stages")
    assert list(stored.oof["id"]) == sorted(f"{number}.png" for number in range(9, 15))
    assert set(stored.oof["fold"]) == {0}
    assert manifest["oof_rows"] == 6
    assert set(manifest["fold_scores"]) == {"0"}
    assert len(stored.test) == 0
    assert not list(run.oof.glob("test*"))
    assert manifest["tta_score"] is None
    assert manifest["tta_used"] is False
    chosen = [stored.oof.set_index("id").loc[f"{number}.png", CLASSES[number % 3]].item() for number in range(9, 15)]
    assert manifest["score"] == pytest.approx(-np.log(chosen).mean(), rel=1e-5)


@pytest.mark.slow
def test_worker_processes_and_the_order_of_the_table_change_nothing(finished: Run, begin: Callable[..., Run]) -> None:
    run = begin()
    table = run.competition.data / "train.csv"
    header, *rows = table.read_text("utf-8").splitlines()
    table.write_text("\n".join([header, *rows[::-1][5:], *rows[::-1][:5]]) + "\n", "utf-8")
    run.train(engine=local_process, machine=Machine(workers=2))
    assert run.competition.folds_file.read_bytes() == finished.competition.folds_file.read_bytes()
    same_results(run.oof, finished.oof)
    before, after = (read_json(folder / MANIFEST) for folder in (finished.oof, run.oof))
    for key in ("score", "score_se", "fold_scores", "tta_score", "tta_gain", "floors", "fingerprint", "folds_sha256"):
        assert before[key] == after[key], key


def test_another_seed_gives_other_predictions(finished: Run, begin: Callable[..., Run]) -> None:
    run = begin(RECIPE.model_dump()["stages"][0], seed=1)
    run.train(folds=[0])
    frames = [read_predictions(each.task(0).stage_folder(0) / "oof.parquet") for each in (finished, run)]
    assert np.abs(frames[0][CLASSES] - frames[1][CLASSES]).to_numpy().max() > 1e-3


def kit_train(run: Run, *options: str, **environment: str) -> subprocess.Popen[bytes]:
    """Start `kit train` in a session of its own, so that a kill takes the fold's process along."""
    root = run.workspace.root
    content = run.recipe.model_dump(mode="json", exclude_none=True)
    (root / "two-stages.yaml").write_text(yaml.safe_dump(content), "utf-8")
    kit = [sys.executable, "-c", "from pipeline.cli import main; main()"]
    command = [*kit, "train", "two-stages.yaml", "tiny", *options]
    return subprocess.Popen(command, cwd=root, start_new_session=True, env={**os.environ, **environment})


def wait_for(condition: Callable[[], bool], *, seconds: float, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the process ended before"
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.005)


@pytest.mark.slow
def test_a_fold_that_was_killed_ends_as_one_that_was_not(finished: Run, begin: Callable[..., Run]) -> None:
    run = begin()
    first = run.task(0)
    with kit_train(run, "--workers", "0", "--fold", "0") as process:
        wait_for((first.stage_folder(0) / "stage.json").is_file, seconds=120, process=process)
        os.killpg(process.pid, signal.SIGKILL)
    assert not first.done
    assert not (first.stage_folder(1) / "stage.json").exists()
    kept = (first.stage_folder(0) / "stage.json").stat().st_mtime_ns
    with kit_train(run, "--workers", "1", "--fold", "0") as process:
        assert process.wait() == 0
    assert (first.stage_folder(0) / "stage.json").stat().st_mtime_ns == kept
    same_results(first.folder, finished.task(0).folder)


@pytest.mark.slow
@pytest.mark.jax
def test_jax_trains_too(begin: Callable[..., Run]) -> None:
    pytest.importorskip("jax", reason="needs JAX: pip install 'kaggle-image-kit[jax]'")
    run = begin(stage("one", epochs=6))
    with kit_train(run, "--workers", "0", "--fold", "1", KERAS_BACKEND="jax") as process:
        assert process.wait() == 0
    oof = read_predictions(run.task(1).folder / "oof.parquet")
    assert len(oof) == 12
    assert hits(run, oof).mean() > 0.6


def test_learning_curves_of_a_fold_in_its_first_epoch_are_left_out(tmp_path: Path) -> None:
    assert len(learning_curves(tmp_path, ["s0"])) == 0
    write_table(tmp_path / "fold-1" / "stage-0" / "log.csv", "epoch,loss", "0,0.5")
    empty = tmp_path / "fold-0" / "stage-0" / "log.csv"
    empty.parent.mkdir(parents=True)
    empty.touch()
    assert list(learning_curves(tmp_path, ["s0"])["fold"]) == [1]


@pytest.mark.parametrize(("select_on", "refused"), [({"kind": "inner", "one_in": 4}, True), ("last", False)])
def test_groups_that_changed_are_refused_where_they_choose_rows(
    begin: Callable[..., Run], select_on: Any, refused: bool
) -> None:
    """The folds were made before and stay; inner rows would be others."""
    run = begin(stage("one"), select_on=select_on)
    with pytest.raises(AssertionError, match="fold 0 is trained"):
        run.train(engine=never)
    ids = run.data.train["id"]
    run.competition.groups_file.write_text(f"id,group\n{ids[0]},g\n{ids[3]},g\n", "utf-8")
    if refused:
        with pytest.raises(KitError, match="different settings or data: groups of rows"):
            run.train(engine=never)
    else:
        with pytest.raises(AssertionError, match="fold 0 is trained"):
            run.train(engine=never)


def test_changed_labels_are_refused_though_the_folds_are_the_same(copied: Run) -> None:
    shutil.rmtree(copied.oof)
    table = copied.competition.data / "train.csv"
    text = table.read_text("utf-8").replace("green", "x").replace("blue", "green").replace("x", "blue")
    table.write_text(text, "utf-8")
    with pytest.raises(KitError, match="different settings or data: pictures or labels"):
        copied.train(engine=never)


def test_a_stage_may_be_renamed_on_the_way(copied: Run) -> None:
    shutil.rmtree(copied.oof)
    (copied.task(1).folder / "fold.json").unlink()
    kept = (copied.task(1).stage_folder(1) / "stage.json").stat().st_mtime_ns
    stages = [{**each, "name": name} for each, name in zip(RECIPE.model_dump()["stages"], ("uno", "due"), strict=True)]
    run = Run(copied.competition, copied.workspace, recipe_of(*stages, tta={"views": ["flip"]}))
    manifest = run.train()
    assert [entry["name"] for entry in manifest["stages"]] == ["uno", "due"]
    assert (copied.task(1).stage_folder(1) / "stage.json").stat().st_mtime_ns == kept


def test_the_name_of_an_experiment_stays_inside_its_folder(begin: Callable[..., Run]) -> None:
    run = begin(stage("one"))
    with pytest.raises(KitError, match="cannot be an experiment's name"):
        Run(run.competition, run.workspace, run.recipe, "../../elsewhere").train(engine=never)


def test_decoded_pictures_of_train_and_test_need_not_fit_together_and_stay_where_told(
    begin: Callable[..., Run], tmp_path: Path
) -> None:
    begun = begin(stage("one", epochs=1, size=[32, 32]))
    scratch = tmp_path / "elsewhere" / "scratch"
    run = Run(begun.competition, Workspace(tmp_path, scratch=scratch), begun.recipe)
    room = (24 + 3) * 32 * 32 * 3 / 1e9  # of 24 training and 6 test pictures
    run.train(folds=[0], machine=Machine(workers=0, cache_gb=room))
    assert run.task(0).done
    assert list(scratch.rglob("*.npy"))
    assert not list((tmp_path / "runs").rglob("*.npy"))


@pytest.mark.parametrize(("precision", "stages"), [("mixed_float16", 2), ("mixed_bfloat16", 1)])
def test_mixed_precision_trains(begin: Callable[..., Run], precision: str, stages: int) -> None:
    run = begin(*(stage(f"s{number}", epochs=2) for number in range(stages)), precision=precision)
    assert run.train(folds=[0])["missing_folds"] == [1]


def test_the_logged_loss_is_of_the_real_rows_alone(begin: Callable[..., Run]) -> None:
    """12 rows in one batch of 48, three quarters of it filler: at a rate of nothing, the loss is ln 3 or so."""
    run = begin(stage("one", epochs=1, batch_size=48, learning_rate=1e-12, augment="none"))
    run.train(folds=[0])
    log = pd.read_csv(run.task(0).stage_folder(0) / "log.csv")
    assert 0.5 < log["loss"].iloc[0] < 3
    assert log["loss"].iloc[0] > 0.5 * log["val_loss"].iloc[0]
