"""Extra rows in training: beside the fold's own, never among those that are scored, and without a leak."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.artifacts import read_json
from pipeline.competition import Competition
from pipeline.data.decode import decode, resize
from pipeline.data.index import train_index
from pipeline.data.pseudo import write_pseudo
from pipeline.errors import DataError, KitError, RecipeError
from pipeline.predictions.aligned import align
from pipeline.predictions.compare import compare
from pipeline.predictions.manifests import MANIFEST
from pipeline.predictions.pseudo import make_pseudo_labels
from pipeline.predictions.store import read_experiment, read_predictions
from pipeline.report.tables import leaderboard_rows, result_text
from pipeline.training import fold as fold_module
from pipeline.training.fold import FoldTask, train_fold
from pipeline.training.stage import StageTask
from tests.conftest import make_picture, make_pictures, write_competition
from tests.training.conftest import EXPERIMENT, Run, recipe_of, stage

CLASSES = ["blue", "green", "red"]


def pseudo_label(run: Run, name: str = "guessed", *, min_confidence: float = 0.0) -> pd.DataFrame:
    rows = train_index(run.competition)
    stored = read_experiment(run.workspace, run.competition.slug, EXPERIMENT)
    labels = dict(zip(rows["id"], rows["label"], strict=True))
    found = make_pseudo_labels(
        stored,
        labels,
        folds_sha256=stored.manifest["folds_sha256"],
        min_confidence=min_confidence,
        workspace=run.workspace,
    )
    write_pseudo(run.competition, name, found.rows, found.made)
    return found.rows


def with_more(run: Run, **classes: int) -> Competition:
    """The run's competition with the declared rows `more`: pictures unlike any of its own."""
    make_pictures(run.competition.data / "more", classes, size=(20, 30), suffix=".png")
    settings = run.competition.model_dump(mode="json", exclude_none=True, exclude={"slug", "extra"})
    return write_competition(run.workspace.root, "tiny", **settings, extra={"more": {"pictures": "more"}})


def using(run: Run, *extra: str, experiment: str = "with-extra", epochs: int = 1) -> Run:
    return Run(run.competition, run.workspace, recipe_of(stage("one", epochs=epochs), extra=extra), experiment)


class Seen(Exception):
    """Ends a fold before it is trained."""


def stage_of(run: Run, fold: int, monkeypatch: pytest.MonkeyPatch) -> StageTask:
    """What the fold's first stage is given."""
    seen: list[StageTask] = []

    def look(recipe: object, task: StageTask, pool: object) -> None:
        seen.append(task)
        raise Seen

    monkeypatch.setattr(fold_module, "train_stage", look)
    with pytest.raises(Seen):
        run.train(folds=[fold])
    return seen[0]


@pytest.mark.parametrize("fold", [0, 1])
def test_a_fold_trains_on_its_own_rows_and_the_extra_ones_for_it(
    copied: Run, fold: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = Run(with_more(copied, blue=1, red=2), copied.workspace)
    turn_round(copied, fold=1)
    pseudo_label(copied)
    run, data = using(copied, "guessed", "more"), copied.data
    task = stage_of(run, fold, monkeypatch)
    source, held_out = task.source, set(data.train["id"].iloc[data.rows_of(fold)])

    trained = [source.ids[row] for row in source.rows]
    own = set(data.train["id"]) - held_out
    guessed = {f"extra:guessed/{key}" for key in data.test["id"]}
    more = {f"extra:more/more/{name}" for name in ("blue/000.png", "red/000.png", "red/001.png")}
    assert len(trained) == len(set(trained))
    assert set(trained) == own | guessed | more

    # What the fold's own model says of the test pictures, and not the other, which differs.
    suffix = "_tta" if read_json(copied.oof / MANIFEST)["tta_used_by_fold"][str(fold)] else ""
    by_model = [read_predictions(copied.task(n).folder / f"test{suffix}.parquet").set_index("id") for n in (0, 1)]
    labelled = {source.ids[row]: CLASSES[source.labels[row]] for row in source.rows}
    expected, other = (by_model[number][CLASSES].idxmax(axis=1) for number in (fold, 1 - fold))
    assert (expected != other).any()
    assert {key: labelled[f"extra:guessed/{key}"] for key in expected.index} == expected.to_dict()
    assert {key: labelled[key] for key in own} == {
        key: label for key, label in zip(data.train["id"], data.train["label"], strict=True) if key in own
    }

    # Each id's picture is that id's.
    paths = dict(zip([*data.train["id"], *data.test["id"]], [*data.train["path"], *data.test["path"]], strict=True))
    for row in source.rows:
        key = source.ids[row].removeprefix("extra:guessed/")
        path = paths.get(key, str(copied.competition.data / key.removeprefix("extra:more/")))
        [picture] = source.pictures.take(np.array([row]))
        assert np.array_equal(picture, resize(decode(Path(path)), (32, 32))), key

    assert set(task.ids) == held_out
    assert len(task.held_out.pictures) == len(data.train)


def test_extra_rows_never_choose_the_epoch(begin: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    begun = begin(stage("one"))
    recipe = recipe_of(stage("one"), extra=["more"], select_on={"kind": "inner", "one_in": 4})
    run = Run(with_more(begun, blue=2, red=2), begun.workspace, recipe, "with-extra")
    task, data = stage_of(run, 0, monkeypatch), run.data
    trained, watched = ({int(row) for row in rows} for rows in (task.source.rows, task.watched.rows))
    assert watched
    assert len(task.watched.pictures) == len(data.train)
    assert not trained & watched
    assert trained | watched == {*data.rows_without(0), *range(len(data.train), len(data.train) + 4)}


def test_the_model_of_another_fold_has_no_part_in_a_folds_training(copied: Run) -> None:
    """The models of the other folds know the labels of a fold's held-out rows. Whatever they say: the same result."""
    predictions = {}
    for name, turned in (("first", None), ("other-1", 1), ("other-0", 0)):
        if turned is not None:
            turn_round(copied, fold=turned)
        pseudo_label(copied)
        run = using(copied, "guessed", experiment=f"with-{name}")
        run.train(folds=[0])
        shutil.rmtree(copied.competition.pseudo_file("guessed").parent)
        predictions[name] = read_predictions(run.task(0).folder / "oof.parquet")
    pd.testing.assert_frame_equal(predictions["other-1"], predictions["first"], check_exact=True)
    assert not predictions["other-0"].equals(predictions["first"])


def interrupted(task: FoldTask) -> None:
    raise KeyboardInterrupt


def turn_round(run: Run, *, fold: int) -> None:
    """Let a fold's model say another class of every test picture, and the experiment be the mean of such models."""
    for name in ("test.parquet", "test_tta.parquet"):
        file = run.task(fold).folder / name
        frame = read_predictions(file)
        frame[CLASSES] = frame[[*CLASSES[1:], CLASSES[0]]].to_numpy()
        frame.to_parquet(file, index=False)
        both = [read_predictions(run.task(number).folder / name) for number in (0, 1)]
        mean = both[0].copy()
        mean[CLASSES] = ((both[0][CLASSES] + both[1][CLASSES]) / 2).to_numpy()
        mean.to_parquet(run.oof / name, index=False)


def test_an_experiment_with_extra_rows_is_scored_on_the_same_rows(
    copied: Run, caplog: pytest.LogCaptureFixture
) -> None:
    copied = Run(with_more(copied, blue=1, red=2), copied.workspace)
    rows = pseudo_label(copied)
    run = using(copied, "more", "guessed")
    with caplog.at_level("INFO", logger="pipeline"):
        manifest = run.train()
    assert "extra rows: guessed 6, more 3" in caplog.text
    assert len(rows) == 12

    before, after = (read_experiment(run.workspace, "tiny", name) for name in (EXPERIMENT, "with-extra"))
    pd.testing.assert_frame_equal(after.oof[["id", "fold"]], before.oof[["id", "fold"]])
    assert list(after.test["id"]) == list(before.test["id"])
    assert manifest["oof_rows"] == 24
    for key in ("data_sha256", "folds_sha256", "classes", "floors"):
        assert manifest[key] == before.manifest[key]
    assert manifest["extra_rows"] == {"guessed": {"0": 6, "1": 6}, "more": {"0": 3, "1": 3}}
    assert manifest["extra_sha256"] == read_json(run.workspace.run("tiny", "with-extra") / "run.json")["extra_sha256"]
    assert before.manifest["extra_sha256"] is None
    assert before.manifest["extra_rows"] == {}

    index = train_index(run.competition)
    compared = compare(align([before, after], dict(zip(index["id"], index["label"], strict=True))))
    assert {one.name for one in compared.standings} == {EXPERIMENT, "with-extra"}
    assert "extra rows: guessed 6, more 3" in result_text(manifest)
    assert "extra rows" not in result_text(dict(before.manifest))
    listed = {row["experiment"]: row["extra rows"] for row in leaderboard_rows([before.manifest, after.manifest])}
    assert (listed["with-extra"], listed[EXPERIMENT]) == ("guessed, more", "")


def test_other_extra_rows_under_the_same_names_are_refused(begin: Callable[..., Run]) -> None:
    begun = begin(stage("one", epochs=1))
    run = using(Run(with_more(begun, blue=1), begun.workspace), "more")
    with pytest.raises(KeyboardInterrupt):
        run.train(folds=[0], engine=interrupted)
    make_picture(run.competition.data / "more" / "red" / "new.png", colour=2, seed=77)
    with pytest.raises(KitError, match="different settings or data: extra rows"):
        run.train(folds=[1])


def test_a_fold_whose_extra_rows_changed_while_it_began_is_refused(begin: Callable[..., Run]) -> None:
    begun = begin(stage("one", epochs=1))
    run = using(Run(with_more(begun, blue=1), begun.workspace), "more")
    with pytest.raises(DataError, match="changed while with-extra was starting"):
        train_fold(run.task(0))  # which knows of no extra rows


def test_an_extra_picture_that_cannot_be_read_is_named(begin: Callable[..., Run]) -> None:
    begun = begin(stage("one", epochs=1))
    run = using(Run(with_more(begun, blue=2), begun.workspace), "more")
    (run.competition.data / "more" / "blue" / "001.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"more/blue/001\.png"):
        run.train(folds=[0])


def test_an_unknown_name_is_refused_before_training(begin: Callable[..., Run]) -> None:
    run = using(begin(stage("one")), "more")
    with pytest.raises(RecipeError, match="tiny has no extra rows 'more'"):
        run.train()
    assert not run.workspace.run("tiny", "with-extra").exists()
