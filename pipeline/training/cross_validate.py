"""All folds of an experiment, and their predictions merged into its lasting result.

runs/<slug>/<experiment>/run.json      what the run was started with: another recipe is refused
oof/<slug>/<experiment>/               predictions, learning curves, manifest (see predictions/store.py)
"""

import importlib.metadata
import logging
import math
import os
import platform
import re
import subprocess
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.artifacts import Workspace, lock, read_json, write_json, write_text
from pipeline.competition import Competition
from pipeline.data.augment import check_augment
from pipeline.data.competition_data import CompetitionData, load_data
from pipeline.data.duplicates import divided_note, divided_pairs
from pipeline.errors import DataError, KitError, counted, duration
from pipeline.model.backbones import check_backbone, check_packaged
from pipeline.predictions.manifests import MANIFEST, extra_in_words
from pipeline.predictions.metrics import METRICS, floor_scores, paired_gain, standard_error
from pipeline.predictions.store import (
    CURVES,
    KEYS,
    finish_experiment,
    prediction_frame,
    probabilities_of,
    read_predictions,
    with_choices,
)
from pipeline.predictions.tta import check_views
from pipeline.recipe import OnInner, Recipe
from pipeline.settings import NAME
from pipeline.training.engines import Engine, local_process
from pipeline.training.fold import DONE, FoldTask, Machine
from pipeline.training.parts import with_parts
from pipeline.training.stage import LOG, OOF, images_per_second, stage_done
from pipeline.training.validation import mean_of

log = logging.getLogger(__name__)
_PACKAGES = ("tensorflow", "keras", "efficientnet", "albumentations", "numpy", "pandas", "scikit-learn")


def cross_validate(
    recipe: Recipe,
    competition: Competition,
    *,
    experiment: str,
    workspace: Workspace,
    folds: Sequence[int] | None = None,
    machine: Machine | None = None,
    engine: Engine = local_process,
) -> dict[str, Any]:
    """Train the folds that are not done yet; write the predictions and the manifest of all folds done so far.

    Args:
        folds: The folds to train; all by default.

    Returns:
        The manifest: of an experiment on some folds where `missing_folds` is not empty.

    Raises:
        KitError: The recipe does not fit the competition, or the experiment was begun with other settings.
        OutOfTime: The machine's time is over; the next call goes on after what is finished.
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
    for fold in wanted:
        if fold not in to_train:
            log.info("fold %d is done already", fold)
        else:
            log.info("fold %d begins", fold)
            started = time.perf_counter()
            engine(replace(tasks[fold], recipe=fitting))
            seconds, others = time.perf_counter() - started, len(to_train) - to_train.index(fold) - 1
            if others:
                left = f"{counted(others, 'fold', 'folds')} to come: about {duration(others * seconds)}"
                log.info("fold %d took %s; %s", fold, duration(seconds), left)
            # After each fold: what is done is a result, whatever becomes of the next one.
            _finish(list(tasks.values()), data, afresh=True)
    return _finish(list(tasks.values()), data, afresh=False)


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
    sizes = [stage.resolve_size(data.mean_size) for stage in recipe.stages]
    check_backbone(recipe.backbone, weights=recipe.weights, sizes=sizes)
    check_views(recipe.tta.views)
    for stage in recipe.stages:
        check_augment(stage.augment)


def _identity(task: FoldTask, data: CompetitionData) -> dict[str, Any]:
    """What a run is: begun with one of these, it cannot go on with another."""
    return {
        "metric": task.competition.metric,
        "classes": data.classes,
        "fingerprint": task.recipe.fingerprint(),
        "data_sha256": data.sha256,
        "folds_sha256": data.folds.sha256,
        "extra_sha256": data.extra.sha256,
        # Folds know the groups that they were made with; inner rows are chosen by the groups of today.
        "groups_sha256": data.groups_sha256 if isinstance(task.recipe.select_on, OnInner) else None,
    }


def _check_unclaimed(task: FoldTask, data: CompetitionData) -> None:
    """Refuse a name under which another run was begun or finished."""
    identity = _identity(task, data)
    run = task.workspace.run(task.competition.slug, task.experiment)
    finished = task.workspace.oof(task.competition.slug, task.experiment)
    for file in (run / "run.json", finished / MANIFEST):
        begun = read_json(file) if file.is_file() else identity
        changed = [key for key, value in identity.items() if begun.get(key) != value]
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
        write_json(run / "run.json", _identity(task, data))


def summarise(tasks: Sequence[FoldTask], data: CompetitionData) -> tuple[dict[str, pd.DataFrame], dict[str, Any]]:
    """Merge the predictions of folds that are done, and score them.

    Returns:
        The experiment's predictions by file name, and its manifest.
    """
    recipe, competition = tasks[0].recipe, tasks[0].competition
    metric = METRICS[competition.metric]
    rows = np.concatenate([data.rows_of(task.fold) for task in tasks])
    rows.sort()
    ids, labels = list(data.train["id"].iloc[rows]), data.labels[rows]
    frames = {}
    for suffix in ("", "_tta") if recipe.tta.views else ("",):
        frames[f"oof{suffix}.parquet"] = _concatenated([task.folder / f"oof{suffix}.parquet" for task in tasks])
        if len(data.test):
            frames[f"test{suffix}.parquet"] = _mean([task.folder / f"test{suffix}.parquet" for task in tasks], data)

    def scored(frame: pd.DataFrame) -> dict[str, Any]:
        found = probabilities_of(frame, ids, data.classes)
        fold = frame.set_index("id").loc[ids, "fold"].to_numpy()
        each = {str(n): metric.score(labels[fold == n], found[fold == n]) for n in sorted(set(fold))}
        return {
            "score": metric.score(labels, found),
            "score_se": standard_error(metric, labels, found),
            "fold_scores": each,
        }

    plain = scored(frames["oof.parquet"])
    tta = _tta_effect(frames, ids, labels, data.classes, tasks[0], scored)
    used = scored(with_choices(frames, tta["tta_used_by_fold"]))
    manifest = {
        "competition": competition.slug,
        "experiment": tasks[0].experiment,
        "greater_is_better": metric.greater_is_better,
        **{f"oof_{key}": value for key, value in used.items()},
        **plain,
        **tta,
        "select_on": recipe.select_on.kind,
        "folds": [task.fold for task in tasks],
        "missing_folds": sorted(set(data.folds.numbers) - {task.fold for task in tasks}),
        "oof_rows": len(ids),
        "floors": floor_scores(metric, labels, len(data.classes)),
        "stages": _stage_summaries(tasks, ids, labels, data.classes, scored),
        "seconds": _seconds(tasks),
        "recipe": recipe.model_dump(mode="json"),
        **_identity(tasks[0], data),
        "extra_rows": data.extra.counts([task.fold for task in tasks]),
        "backend": os.environ.get("KERAS_BACKEND", "tensorflow"),
        "versions": _versions(),
        "git_commit": _git_commit(tasks[0].workspace.root),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return frames, manifest


def _seconds(tasks: Sequence[FoldTask]) -> float:
    """What the folds took: their stages from building to predicting, and the predictions at the end."""
    stages = [task.stage_folder(number) for task in tasks for number in range(len(task.recipe.stages))]
    found = [stage_done(folder) or {} for folder in stages]
    predicted = [read_json(task.folder / DONE) for task in tasks]
    if not all("seconds" in one for one in found) or not all("prediction_seconds" in one for one in predicted):
        raise KitError(
            f"{tasks[0].folder.parent} was begun by an earlier build of the kit",
            expected="folds trained by one build",
            next_step="remove it and train afresh, or take another name: --suffix NAME",
        )
    return math.fsum([*(one["seconds"] for one in found), *(one["prediction_seconds"] for one in predicted)])


def learning_curves(tasks_folder: Path, stages: Sequence[str]) -> pd.DataFrame:
    """Every epoch of every fold: columns fold, stage, step (epochs counted over all stages), and the log's.

    The first epoch of a stage stands at the same step in every fold, however early a fold stopped. Empty where
    nothing has been trained yet.
    """
    frames = []
    for folder in sorted(tasks_folder.glob("fold-*")):
        for number, name in enumerate(stages):
            file = folder / f"stage-{number}" / LOG
            if file.is_file() and file.stat().st_size:  # it is empty during the first epoch
                frame = pd.read_csv(file)
                frames.append(frame.assign(fold=int(folder.name.removeprefix("fold-")), number=number, stage=name))
    if not frames:
        return pd.DataFrame()
    curves = pd.concat(frames, ignore_index=True)
    lengths = curves.groupby("number")["epoch"].max() + 1
    offsets = lengths.cumsum() - lengths
    curves["step"] = curves["epoch"] + 1 + curves["number"].map(offsets)
    return curves


def _stage_summaries(
    tasks: Sequence[FoldTask], ids: list[str], labels: Any, classes: list[str], scored: Any
) -> list[dict[str, Any]]:
    """A stage's size, cost and score, and what it gained over the stage before on the same rows."""
    metric, summaries, before = METRICS[tasks[0].competition.metric], [], None
    for number, stage in enumerate(tasks[0].recipe.stages):
        folders = [task.stage_folder(number) for task in tasks]
        results = [stage_done(folder) or {} for folder in folders]
        frame = _concatenated([folder / OOF for folder in folders])
        found = probabilities_of(frame, ids, classes)
        gain, error = (None, None) if before is None else paired_gain(metric, labels, before, found)
        before = found
        summaries.append(
            {
                "name": stage.name,
                "size": results[0]["size"],
                "unfrozen": results[0]["unfrozen"],
                "blocks": results[0]["blocks"],
                **{key: results[0][key] for key in ("trainable_parameters", "parameters", "flops")},
                "devices": max(result["devices"] for result in results),
                # Folds may have been trained on different machines.
                **{key: sorted({result[key] for result in results}) for key in ("precision", "onednn", "views_kept")},
                **scored(frame),
                "gain": gain,
                "gain_se": error,
                "seconds": math.fsum(result["seconds"] for result in results),
                "images_per_second": images_per_second(results),
            }
        )
    return summaries


def _tta_effect(
    frames: dict[str, pd.DataFrame], ids: list[str], labels: Any, classes: list[str], task: FoldTask, scored: Any
) -> dict[str, Any]:
    """Score with TTA, its gain over the plain score, and where it is used.

    `tta_used` is for the test predictions. For the OOF rows of a fold the rows of the other folds decide, so that
    the choice is not scored on what it was made by; where there is one fold alone, that cannot be.
    """
    numbers = sorted(set(frames["oof.parquet"]["fold"]))
    if "oof_tta.parquet" not in frames:
        nothing = dict.fromkeys(("tta_score", "tta_score_se", "tta_fold_scores", "tta_gain", "tta_gain_se"))
        return {**nothing, "tta_used": False, "tta_used_by_fold": dict.fromkeys(map(str, numbers), False)}
    averaged = scored(frames["oof_tta.parquet"])
    before, after = (probabilities_of(frames[name], ids, classes) for name in ("oof.parquet", "oof_tta.parquet"))
    fold = frames["oof.parquet"].set_index("id").loc[ids, "fold"].to_numpy()
    metric, always = METRICS[task.competition.metric], task.recipe.tta.use == "always"

    def helps(rows: Any) -> bool:
        plain, with_views = (metric.score(labels[rows], found[rows]) for found in (before, after))
        return always or metric.gain(plain, with_views) > 0

    gain, error = paired_gain(metric, labels, before, after)
    used = helps(slice(None))
    return {
        **{f"tta_{key}": value for key, value in averaged.items()},
        "tta_gain": gain,
        "tta_gain_se": error,
        "tta_used": used,
        "tta_used_by_fold": {str(n): helps(fold != n) if len(numbers) > 1 else used for n in numbers},
    }


def _concatenated(files: Sequence[Path]) -> pd.DataFrame:
    frame = pd.concat([read_predictions(file) for file in files])
    return frame.sort_values("id").reset_index(drop=True)


def _mean(files: Sequence[Path], data: CompetitionData) -> pd.DataFrame:
    """The mean of the fold models' test predictions, id by id."""
    ids = list(data.test["id"])
    found = [probabilities_of(read_predictions(file), ids, data.classes) for file in files]
    return prediction_frame(ids, mean_of(found), data.classes)


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def _git_commit(folder: Path) -> str | None:
    """The commit checked out in the workspace, `-dirty` if changed since; None outside git."""
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
