"""One fold: its stages in turn, then the predictions of its held-out rows and of the test pictures."""

import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.artifacts import Workspace, file_sha256, lock, read_json, write_json
from pipeline.competition import Competition
from pipeline.data.augment import Augmenter
from pipeline.data.competition_data import CompetitionData, load_data, sample_form
from pipeline.data.folds import choosing_rows, inner_rows
from pipeline.data.inputs import ExtraInput, TrainingInput
from pipeline.data.kept import Room
from pipeline.data.pictures import ChosenPictures, Pictures, open_pictures
from pipeline.data.workers import WorkerPool
from pipeline.errors import DataError, counted
from pipeline.predictions.manifests import stage_rule
from pipeline.predictions.metrics import metric_of
from pipeline.predictions.store import prediction_frame, write_predictions
from pipeline.predictions.tta import PLAIN
from pipeline.progress import Progress
from pipeline.recipe import LogisticRegression, OnInner, Recipe
from pipeline.targets import label_numbers
from pipeline.training.best_stage import best_stages
from pipeline.training.frozen import View, freeze
from pipeline.training.network import load_network, prediction_network, stage_seed
from pipeline.training.run_state import FOLDER as STATE
from pipeline.training.run_state import WEIGHTS, forget_state
from pipeline.training.stage import StageTask, stage_done, train_stage
from pipeline.training.time_limit import TimeLimit
from pipeline.training.validation import HeldOut, mean_of, predict, predict_views

log = logging.getLogger(__name__)
DONE = "fold.json"


@dataclass(frozen=True)
class Machine:
    """How much of this machine to use; no result depends on it.

    Attributes:
        workers: Augmentation processes; 0 augments in the training process itself.
        cache_gb: Room for decoded pictures on disk, in GB.
        stop_at: Unix time in seconds by which training must have ended; None for no limit.
    """

    workers: int = min(8, os.cpu_count() or 1)
    cache_gb: float = 20.0
    stop_at: float | None = None

    def room(self, folder: Path, check: Callable[[], None] = lambda: None) -> Room:
        """The room in `folder` for what is kept on disk; `check` as of `Room`."""
        return Room(folder, int(self.cache_gb * 1e9), check)

    def open(self, paths: list[str], size: tuple[int, int], folder: Path) -> Pictures:
        """Pictures at (height, width) `size`, kept in `folder`."""
        return open_pictures(paths, size=size, room=self.room(folder))


@dataclass(frozen=True)
class FoldTask:
    """The arguments of `train_fold`: with the files on disk, all that its result depends on."""

    recipe: Recipe
    competition: Competition
    fold: int
    workspace: Workspace
    experiment: str
    machine: Machine
    data_sha256: str
    extra_sha256: str | None = None

    @property
    def folder(self) -> Path:
        return self.workspace.fold(self.competition.slug, self.experiment, self.fold)

    @property
    def done(self) -> bool:
        return (self.folder / DONE).is_file()

    def stage_folder(self, number: int) -> Path:
        return self.folder / f"stage-{number}"

    @property
    def workers(self) -> int:
        """Augmentation processes; none where no stage has work for them."""
        stages = self.recipe.stages
        busy = any(stage.mixup or stage.cutmix or Augmenter(stage.augment).transforms for stage in stages)
        return self.machine.workers if busy else 0

    def room(self, doing: str) -> Room:
        """The competition's room for decoded pictures and features; whether time is over is looked at while `doing`."""
        cache = self.workspace.cache(self.competition.slug)
        return self.machine.room(cache, partial(self.limit.check, f"the end of {doing}"))

    def open(self, what: str, paths: list[str], size: tuple[int, int]) -> Pictures:
        """Pictures of this competition at (height, width) `size`, such as the `train` pictures."""
        room = self.room(f"decoding the {what} pictures at {size[0]}×{size[1]}")
        return open_pictures(paths, size=size, room=room)

    @property
    def best_stages(self) -> list[int]:
        """Of the finished fold: after each stage, the number of the best by then. On the last of these it ends."""
        found: list[int] = read_json(self.folder / DONE)["best_stages"]
        return found

    @property
    def weights(self) -> Path:
        """Weights of the finished fold."""
        return self.stage_folder(self.best_stages[-1]) / WEIGHTS

    @property
    def limit(self) -> TimeLimit:
        """The time that training is given, with what is finished by now."""
        run = self.workspace.run(self.competition.slug, self.experiment)
        folds = sorted(int(file.parent.name.removeprefix("fold-")) for file in run.glob(f"fold-*/{DONE}"))
        stages = [
            stage.name for number, stage in enumerate(self.recipe.stages) if stage_done(self.stage_folder(number))
        ]
        kept = [f"fold {fold}" for fold in folds] + [f"stage {name} of fold {self.fold}" for name in stages]
        if len(stages) < len(self.recipe.stages) and (self.stage_folder(len(stages)) / STATE).is_dir():
            kept.append(f"the state of stage {self.recipe.stages[len(stages)].name}")
        return TimeLimit(self.machine.stop_at, ", ".join(kept) or "nothing yet")


def train_fold(task: FoldTask) -> None:
    """Train a fold and store its predictions; stages that are done are not done again.

    Raises:
        BusyError: Another process is training this fold.
        OutOfTime: The machine's time is over; what is finished is kept.
        KitError: As the data, the backbone and the stages do.
    """
    if task.done:
        return
    with lock(task.folder / "lock", what=f"fold {task.fold} of {task.experiment}"):
        data = load_data(task.competition, extra=task.recipe.extra)
        if (data.sha256, data.extra.sha256) != (task.data_sha256, task.extra_sha256):
            raise DataError(
                f"the data of {task.competition.slug} changed while {task.experiment} was starting",
                expected="the same pictures and labels for every fold",
                next_step="run the command again",
            )
        with WorkerPool(task.workers) as pool:
            for number in range(len(task.recipe.stages)):
                _train_stage(task, data, number, pool)
        best = best_so_far(task, data, len(task.recipe.stages))
        test = _test_pictures(task, data, best[-1])  # decoded before the clock runs, as those of the stages are
        begun = time.perf_counter()
        _store_predictions(task, data, test, best[-1])
        done = {"fold": task.fold, "best_stages": best, "prediction_seconds": time.perf_counter() - begun}
        for number in set(range(len(best))) - {best[-1]}:  # the fold's weights are those of the best stage
            (task.stage_folder(number) / WEIGHTS).unlink(missing_ok=True)
        sha256 = file_sha256(task.stage_folder(best[-1]) / WEIGHTS)
        write_json(task.folder / DONE, {**done, "weights_sha256": sha256, "fingerprint": task.recipe.fingerprint()})


def _train_stage(task: FoldTask, data: CompetitionData, number: int, pool: WorkerPool) -> None:
    folder = task.stage_folder(number)
    if stage_done(folder):
        forget_state(folder)  # the process may have died before it did
        return
    task.limit.check(f"the beginning of stage {task.recipe.stages[number].name} of fold {task.fold}")
    folder.mkdir(parents=True, exist_ok=True)
    log.info("fold %d  %s begins", task.fold, task.recipe.stages[number].name)
    asked = stage_task(task, data, number, start=start_of(task, data, number))
    if asked.watched is not asked.held_out and not number:
        log.info("fold %d  %d inner rows choose the epochs", task.fold, len(asked.watched.rows))
    train_stage(task.recipe, asked, pool)
    _log_stage(task, stage_done(folder) or {})
    if (best := best_so_far(task, data, number + 1)[-1]) != number:
        _log_left_aside(task, number, best)


def best_so_far(task: FoldTask, data: CompetitionData, count: int) -> list[int]:
    """After each of the first `count` stages, which are done, the number of the best by then."""
    rows = data.rows_of(task.fold)
    return best_stages(
        task.recipe,
        [task.stage_folder(number) for number in range(count)],
        ids=list(data.train["id"].iloc[rows]),
        labels=data.labels[rows],
        classes=data.classes,
        metric=metric_of(task.competition, data.classes, form=sample_form),
    )


def start_of(task: FoldTask, data: CompetitionData, number: int) -> Path | None:
    """The weights that stage `number` begins from, those before it being done; None for the recipe's."""
    return task.stage_folder(best_so_far(task, data, number)[-1]) / WEIGHTS if number else None


def stage_task(task: FoldTask, data: CompetitionData, number: int, *, start: Path | None) -> StageTask:
    """The arguments of `train_stage` for stage `number`, its pictures decoded; nothing else is done."""
    rows, folder = stage_rows(task, data, number), task.stage_folder(number)
    return StageTask(
        number=number,
        classes=data.classes,
        source=rows.source,
        held_out=rows.held_out,
        watched=rows.watched,
        start=start,
        folder=folder,
        ids=list(data.train["id"].iloc[rows.held_out.rows]),
        limit=task.limit,
        room=task.room(f"the features of fold {task.fold}"),
        choosing=_choosing_rows(task, data, number),
        advise=number == 0 and not any(folder.parent.parent.glob(f"fold-*/{DONE}")),
    )


@dataclass(frozen=True)
class StageRows:
    """What a stage trains on, what its score is of, and what chooses its epoch: `held_out` itself, or inner rows."""

    source: TrainingInput
    held_out: HeldOut
    watched: HeldOut


def stage_rows(task: FoldTask, data: CompetitionData, number: int) -> StageRows:
    """The rows of stage `number`, their pictures decoded."""
    stage, pictures = task.recipe.stages[number], _train_pictures(task, data, number)
    trained, inner = _trained_rows(task, data)
    held_out = _held_out(task, data, pictures, data.rows_of(task.fold), batch_size=stage.prediction_batch)
    watched = held_out
    if len(inner):
        watched = _held_out(task, data, pictures, inner, batch_size=stage.prediction_batch)
    source = TrainingInput(
        pictures=pictures,
        ids=list(data.train["id"]),
        labels=data.labels,
        classes=len(data.classes),
        rows=trained,
        batch_size=stage.batch_size,
        augment=stage.augment,
        mixup=stage.mixup,
        cutmix=stage.cutmix,
        seed=task.recipe.seed,
        fold=task.fold,
        stage=number,
    )
    return StageRows(source.followed_by(_extra_input(task, data, number)), held_out, watched)


def _trained_rows(task: FoldTask, data: CompetitionData) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rows to train on, and the inner rows that choose the epoch; without the latter the second is empty."""
    rows, select_on = data.rows_without(task.fold), task.recipe.select_on
    if not isinstance(select_on, OnInner):
        return rows, rows[:0]
    # One choice for all stages: a stage that trained on what the next one chooses by would mislead it.
    seed = stage_seed(task.recipe.seed, task.fold, len(task.recipe.stages))
    inner = inner_rows(data.train, rows, one_in=select_on.one_in, seed=seed, target=task.competition.target)
    return np.setdiff1d(rows, inner), inner


def _choosing_rows(task: FoldTask, data: CompetitionData, number: int) -> NDArray[np.int64]:
    """Training rows that choose the strength of stage `number`'s logistic regression, where it is one."""
    rows, _ = _trained_rows(task, data)
    if not isinstance(task.recipe.stages[number].optimizer, LogisticRegression):
        return rows[:0]
    return choosing_rows(data.train, rows, seed=stage_seed(task.recipe.seed, task.fold, number))


def _held_out(
    task: FoldTask, data: CompetitionData, pictures: Pictures, rows: NDArray[np.int64], *, batch_size: int
) -> HeldOut:
    metric = metric_of(task.competition, data.classes, form=sample_form)
    return HeldOut(pictures=pictures, rows=rows, labels=data.labels[rows], batch_size=batch_size, metric=metric)


def _log_stage(task: FoldTask, result: dict[str, Any]) -> None:
    height, width = result["size"]
    # A frozen backbone sees each view of a picture once, and the head is trained on what it made of them.
    kept = f" on {counted(result['views_kept'], 'kept view', 'kept views')}" if result["views_kept"] else ""
    log.info(
        "fold %d  %-16s %4d×%-4d  %d/%d blocks unfrozen  %9s%s  %s %.4f  loss %.4f  %4.0f s",
        *(task.fold, result["name"], height, width, result["unfrozen"], result["blocks"]),
        *(counted(result["epochs"], "epoch", "epochs"), kept),
        *(task.competition.metric, result["score"], result["loss"], result["seconds"]),
    )


def _log_left_aside(task: FoldTask, number: int, best: int) -> None:
    stages = task.recipe.stages
    what = f"{stages[number + 1].name} begins from" if number + 1 < len(stages) else "the fold ends on"
    what += f" {stages[best].name}"
    rule = stage_rule(task.recipe.select_on.kind, stages[number].monitor, task.competition.metric)
    name = stages[number].name
    log.warning("fold %d  %s is left aside: an earlier stage is better by %s; %s", task.fold, name, rule, what)


def _train_pictures(task: FoldTask, data: CompetitionData, number: int) -> Pictures:
    size = task.recipe.stages[number].resolve_size(data.mean_size)
    return task.open("train", list(data.train["path"]), size)


def _extra_input(task: FoldTask, data: CompetitionData, number: int) -> ExtraInput | None:
    """The extra rows for this fold, where there are any."""
    rows = data.extra.of_fold(task.fold)
    if rows.empty:
        return None
    size = task.recipe.stages[number].resolve_size(data.mean_size)
    # Of all folds, so that they share what is decoded.
    paths = sorted(set(data.extra.frame["path"]))
    pictures = task.open("extra", paths, size)
    return ExtraInput(
        pictures=ChosenPictures(pictures, np.searchsorted(paths, list(rows["path"]))),
        ids=list(rows["id"]),
        labels=label_numbers(list(rows["label"]), data.classes, target=task.competition.target),
    )


def _test_pictures(task: FoldTask, data: CompetitionData, number: int) -> Pictures | None:
    """At the size of stage `number`; None where there are none."""
    size = task.recipe.stages[number].resolve_size(data.mean_size)
    return task.open("test", list(data.test["path"]), size) if len(data.test) else None


def _store_predictions(task: FoldTask, data: CompetitionData, test: Pictures | None, number: int) -> None:
    """Predict held-out and test rows from the weights of stage `number`, plain and averaged over the views."""
    stage, views = task.recipe.stages[number], task.recipe.tta.views
    tested, held_out = len(data.test), data.rows_of(task.fold)
    log.info("fold %d  predicting %d held-out and %d test pictures", task.fold, len(held_out), tested)
    by = _by_network if any(one.unfreeze for one in task.recipe.stages[: number + 1]) else _by_head
    passes = 1 + len(views)  # in batches across views, or of a head in each view's own
    apart, together = (1, passes) if by is _by_network else (passes, 1)
    batches = sum(apart * -(-rows * together // stage.prediction_batch) for rows in (len(held_out), tested))
    label = f"fold {task.fold} · predicting"
    with Progress(total=batches, desc=label, unit="batch", leave=False, disable=None) as bar:

        def check() -> None:
            task.limit.check(f"the end of the predictions of fold {task.fold}")
            bar.update()

        options: dict[str, Any] = {
            "target": task.competition.target,
            "batch_size": stage.prediction_batch,
            "views": views,
            "check": check,
        }
        predicted = by(task, task.stage_folder(number) / WEIGHTS, len(data.classes), **options)
        parts = {"oof": (_train_pictures(task, data, number), held_out, data.train["id"])}
        if test is not None:
            parts["test"] = (test, np.arange(tested), data.test["id"])
        for name, (source, rows, ids) in parts.items():
            found = predicted(source, rows)
            fold = task.fold if name == "oof" else None
            kept = list(ids.iloc[rows])
            write_predictions(
                task.folder / f"{name}.parquet", prediction_frame(kept, found[0], data.classes, fold=fold)
            )
            if views:
                frame = prediction_frame(kept, mean_of(found), data.classes, fold=fold)
                write_predictions(task.folder / f"{name}_tta.parquet", frame)


Predicted = Callable[[Pictures, NDArray[np.int64]], NDArray[np.float32]]
"""Class probabilities of these rows, plain and in each view: float32 of shape (1 + views, len(rows), classes)."""


def _by_network(task: FoldTask, weights: Path, classes: int, **options: Any) -> Predicted:
    network, [load] = prediction_network(task.recipe, classes=classes, weights=[weights])
    load()
    return lambda pictures, rows: np.asarray(predict_views(network, pictures, rows, **options)[0])


def _by_head(task: FoldTask, weights: Path, classes: int, *, views: Sequence[str], **options: Any) -> Predicted:
    """From features that all folds share, as no stage trained the backbone."""
    network = load_network(task.recipe, classes=classes, weights=weights)
    room = task.room(f"the features of fold {task.fold}")
    backbone, head = freeze(network, backbone=task.recipe.backbone, room=room, pool=WorkerPool(0))

    def predicted(pictures: Pictures, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        features = backbone.all_features(pictures, [View(name) for name in (PLAIN, *views)])
        if features is None:
            (found,) = predict_views(network, pictures, rows, views=views, **options)
            return np.asarray(found)
        return np.stack([predict(head, each, rows, **options) for each in features])

    return predicted
