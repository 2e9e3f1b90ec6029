"""All folds of an experiment, and their predictions merged into its lasting result.

runs/<slug>/<experiment>/run.json      what the run was started with: another recipe is refused
oof/<slug>/<experiment>/               predictions, learning curves, manifest (see predictions/store.py)
"""

import logging
import math
import re
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pipeline.artifacts import Workspace, lock, read_json, write_json, write_text
from pipeline.competition import Competition
from pipeline.data.augment import check_augment
from pipeline.data.competition_data import CompetitionData, load_data
from pipeline.data.duplicates import divided_note, divided_pairs
from pipeline.errors import DataError, KitError, OutOfMemory, RecipeError, counted, duration
from pipeline.model.backbones import check_backbone, check_packaged
from pipeline.predictions.manifests import MANIFEST, extra_in_words
from pipeline.predictions.store import CURVES, KEYS, finish_experiment
from pipeline.predictions.tta import check_views
from pipeline.recipe import LogisticRegression, Recipe
from pipeline.settings import NAME
from pipeline.training.engines import Engine, local_process
from pipeline.training.fold import FoldTask, Machine
from pipeline.training.parts import in_more_parts, with_parts
from pipeline.training.result import learning_curves, run_identity, seconds_of, summarise
from pipeline.training.stage import stage_done

log = logging.getLogger(__name__)


def cross_validate(
    recipe: Recipe,
    competition: Competition,
    *,
    experiment: str,
    workspace: Workspace,
    folds: Sequence[int] | None = None,
    machine: Machine | None = None,
    engine: Engine = local_process,
    until: float = math.inf,
) -> dict[str, Any]:
    """Train the folds that are not done yet; write the predictions and the manifest of all folds done so far.

    Args:
        folds: The folds to train; all by default.
        until: No fold is begun that would end after this, of `time.monotonic`, if it took as long as the longest of
            those that are done; where none is, one is begun.

    Returns:
        The manifest: of an experiment on some folds where `missing_folds` is not empty.

    Raises:
        KitError: The recipe does not fit the competition, or the experiment was begun with other settings.
        OutOfTime: The machine's time is over; the next call goes on from what is saved.
    """
    data, tasks = prepare(recipe, competition, experiment=experiment, workspace=workspace, machine=machine)
    numbers, wanted = data.folds.numbers, folds_of(data, competition.slug, folds)
    _claim_run(tasks[numbers[0]], data)
    if recipe.extra:
        log.info("extra rows: %s", extra_in_words(data.extra.counts(numbers)))
    for note in data.extra.notes:
        log.info("%s", note)
    folds_by_id = dict(zip(data.folds.frame["id"], data.folds.frame["fold"], strict=True))
    divided = divided_pairs(competition, data.train, folds_by_id)
    if divided:
        log.warning("%s", divided_note(divided, competition))
    fitting = recipe
    if not all(tasks[fold].done for fold in wanted):
        check_packaged(recipe.backbone, recipe.weights)
        fitting = with_parts(recipe, data, folder=workspace.parts(competition.slug))
    to_train = [fold for fold in wanted if not tasks[fold].done]
    longest = 0.0
    if to_train and until < math.inf:
        longest = max((seconds_of([task]) for task in tasks.values() if task.done), default=0.0)
    for fold in wanted:
        if fold not in to_train:
            log.info("fold %d is done already", fold)
        elif longest and time.monotonic() + longest > until:
            there_are = f"{duration(max(until - time.monotonic(), 0))} of the time are left"
            log.info("fold %d is not begun: %s, and a fold took %s", fold, there_are, duration(longest))
        else:
            log.info("fold %d begins", fold)
            started = time.monotonic()
            fitting = _train(replace(tasks[fold], recipe=fitting), data, engine)
            seconds, others = time.monotonic() - started, len(to_train) - to_train.index(fold) - 1
            longest = max(longest, seconds)
            if others:
                left = f"{counted(others, 'fold', 'folds')} to come: about {duration(others * seconds)}"
                log.info("fold %d took %s; %s", fold, duration(seconds), left)
            # After each fold: what is done is a result, whatever becomes of the next one.
            _finish(list(tasks.values()), data, afresh=True)
    return _finish(list(tasks.values()), data, afresh=False)


def _train(task: FoldTask, data: CompetitionData, engine: Engine) -> Recipe:
    """Train a fold; where memory runs out in a stage, its batches go on in smaller parts.

    Returns:
        The recipe that fits.
    """
    while True:
        try:
            engine(task)
            return task.recipe
        except OutOfMemory as error:
            stages = range(len(task.recipe.stages))
            number = next((one for one in stages if not stage_done(task.stage_folder(one))), None)
            folder = task.workspace.parts(task.competition.slug)
            smaller = None if number is None else in_more_parts(task.recipe, number, data, folder=folder)
            if smaller is None or number is None:
                raise
            stage = smaller.stages[number]
            log.warning(
                "fold %d  %s: %s: its batches of %d go through the network in parts of %d now",
                *(task.fold, stage.name, error.problem, stage.batch_size, stage.at_once),
            )
            task = replace(task, recipe=smaller)


def _finish(tasks: Sequence[FoldTask], data: CompetitionData, *, afresh: bool) -> dict[str, Any]:
    """Write the result of the folds that are done, if it is not there already or `afresh`; returns its manifest."""
    first = tasks[0]
    folder = first.workspace.oof(first.competition.slug, first.experiment)
    finishing = first.folder.parent / "finish.lock"
    with lock(finishing, what=f"the result of {first.experiment}", wait=lambda: None):
        done = [task for task in tasks if task.done]
        there = read_json(folder / MANIFEST) if (folder / MANIFEST).is_file() else {}
        if set(there.get("folds", ())) > {task.fold for task in done}:
            return there  # runs/ can be made again, what it was made into is lasting
        if afresh or there.get("folds") != [task.fold for task in done]:
            frames, manifest = summarise(done, data)
            curves = learning_curves(first.folder.parent, [stage.name for stage in first.recipe.stages])
            if len(curves):  # of a fold that is being trained they are none of this result
                curves = curves[curves["fold"].isin(manifest["folds"])]
            write_text(folder / CURVES, curves.to_csv(index=False))
            finish_experiment(folder, frames, manifest)
        found: dict[str, Any] = read_json(folder / MANIFEST)
        return found


def prepare(
    recipe: Recipe,
    competition: Competition,
    *,
    experiment: str,
    workspace: Workspace,
    machine: Machine | None = None,
) -> tuple[CompetitionData, dict[int, FoldTask]]:
    """The data and a task a fold: all that can be refused before training is refused, and nothing of the run written.

    Raises:
        KitError: As `cross_validate` raises it.
    """
    if not re.fullmatch(NAME, experiment):
        raise KitError(
            f"{experiment!r} cannot be an experiment's name",
            expected="small letters, digits, dots, dashes and underscores, beginning with a letter or digit",
            next_step="choose another --suffix",
        )
    data = load_data(competition, extra=recipe.extra)
    check_recipe(recipe, data)
    tasks = {
        fold: FoldTask(
            recipe, competition, fold, workspace, experiment, machine or Machine(), data.sha256, data.extra.sha256
        )
        for fold in data.folds.numbers
    }
    _check_unclaimed(next(iter(tasks.values())), data)
    return data, tasks


def folds_of(data: CompetitionData, slug: str, folds: Sequence[int] | None) -> list[int]:
    """The folds that are asked for: all, where none is named.

    Raises:
        DataError: There is no such fold.
    """
    numbers = data.folds.numbers
    unknown = sorted(set(folds or ()) - set(numbers))
    if unknown:
        raise DataError(
            f"{slug} has no fold {unknown[0]}",
            expected=f"a fold from {numbers[0]} to {numbers[-1]}",
            next_step=f"`kit folds {slug}` shows them",
        )
    return list(numbers if folds is None else dict.fromkeys(folds))


def check_recipe(recipe: Recipe, data: CompetitionData) -> None:
    """Refuse now what would fail later.

    Raises:
        RecipeError: The backbone, its weights, a size, a view or a transform does not hold.
        DataError: A class has the name of a column that stands beside the classes'.
    """
    taken = sorted({*KEYS, "picture"} & set(data.classes))
    if taken:
        raise DataError(
            f"a class is called {taken[0]!r}",
            expected="other names than those of the columns in tables of predictions: id, fold, picture",
            next_step="rename the class in the training data",
        )
    at_once = [stage.name for stage in recipe.stages if isinstance(stage.optimizer, LogisticRegression)]
    if at_once and data.labels.ndim == 2:
        raise RecipeError(
            f"the stage {at_once[0]!r} is a logistic regression, which is of one label a picture",
            expected="another optimizer where a picture may have several labels",
            next_step="take a recipe whose head is trained step by step, or --set stages.*.optimizer=adamw",
        )
    sizes = [stage.resolve_size(data.mean_size) for stage in recipe.stages]
    check_backbone(recipe.backbone, weights=recipe.weights, sizes=sizes)
    check_views(recipe.tta.views)
    for stage in recipe.stages:
        check_augment(stage.augment)


def _check_unclaimed(task: FoldTask, data: CompetitionData) -> None:
    """Refuse a name under which another run was begun or finished."""
    wanted = run_identity(task, data)
    run = task.workspace.run(task.competition.slug, task.experiment)
    finished = task.workspace.oof(task.competition.slug, task.experiment)
    for file in (run / "run.json", finished / MANIFEST):
        begun = read_json(file) if file.is_file() else wanted
        changed = [key for key, value in wanted.items() if begun.get(key) != value]
        if changed:
            what = {"fingerprint": "recipe", "data_sha256": "pictures or labels", "folds_sha256": "folds"}
            what |= {"extra_sha256": "extra rows", "groups_sha256": "groups of rows"}
            raise KitError(
                f"{file.parent} holds an experiment made with different settings or data: "
                + ", ".join(what.get(key, key) for key in changed),
                expected="the settings and data it was begun with",
                next_step="give this experiment a name of its own: --suffix NAME; or remove "
                f"{run} and {finished} to start afresh",
            )


def _claim_run(task: FoldTask, data: CompetitionData) -> None:
    """Write what this run is."""
    run = task.workspace.run(task.competition.slug, task.experiment)
    if not (run / "run.json").is_file():
        write_text(run / "recipe.json", task.recipe.model_dump_json(indent=2) + "\n")
        write_json(run / "run.json", run_identity(task, data))
