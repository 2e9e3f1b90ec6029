"""The result of folds that are done: their predictions merged and scored, and the manifest that says what made them."""

import importlib.metadata
import math
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.artifacts import read_json
from pipeline.competition import Competition
from pipeline.data.competition_data import CompetitionData, sample_form
from pipeline.errors import KitError
from pipeline.predictions.decide import fit_decision
from pipeline.predictions.floors import floor_scores
from pipeline.predictions.metrics import Metric, metric_of, metric_settings, paired_gain, standard_error
from pipeline.predictions.scores import Labels
from pipeline.predictions.store import prediction_frame, probabilities_of, read_predictions, with_choices
from pipeline.recipe import OnInner
from pipeline.training.device import keras_backend
from pipeline.training.fold import DONE, FoldTask
from pipeline.training.run_state import LOG
from pipeline.training.stage import OOF, images_per_second, stage_done
from pipeline.training.validation import mean_of

_PACKAGES = ("tensorflow", "keras", "efficientnet", "albumentations", "numpy", "pandas", "scikit-learn")


def run_identity(task: FoldTask, data: CompetitionData) -> dict[str, Any]:
    """What a run is: begun with one of these, it cannot go on with another."""
    return {
        **metric_settings(task.competition),
        "target": task.competition.target,
        "classes": data.classes,
        "fingerprint": task.recipe.fingerprint(),
        "data_sha256": data.sha256,
        "folds_sha256": data.folds.sha256,
        "extra_sha256": data.extra.sha256,
        # Folds know the groups that they were made with; inner rows are chosen by the groups of today.
        "groups_sha256": data.groups_sha256 if isinstance(task.recipe.select_on, OnInner) else None,
    }


def summarise(tasks: Sequence[FoldTask], data: CompetitionData) -> tuple[dict[str, pd.DataFrame], dict[str, Any]]:
    """Merge the predictions of folds that are done, and score them.

    Returns:
        The experiment's predictions by file name, and its manifest.
    """
    recipe, competition = tasks[0].recipe, tasks[0].competition
    metric, seconds = metric_of(competition, data.classes, form=sample_form), seconds_of(tasks)
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
    chosen = with_choices(frames, tta["tta_used_by_fold"])
    used = scored(chosen)
    stages, select_on = _stage_summaries(tasks, ids, labels, data.classes, scored), recipe.select_on.kind
    stages_on = "inner" if select_on == "inner" else "fold"  # with `last`, too
    manifest = {
        "competition": competition.slug,
        "experiment": tasks[0].experiment,
        "greater_is_better": metric.greater_is_better,
        **{f"oof_{key}": value for key, value in used.items()},
        **plain,
        **tta,
        "decision": _decision(chosen, ids, labels, competition, metric, data.classes),
        "select_on": select_on,
        "ends_on": {str(task.fold): stages[task.best_stages[-1]]["name"] for task in tasks},
        # The rows by which stages were left aside, where some were.
        "stages_chosen_on": stages_on if any(stage["left_aside"] for stage in stages) else None,
        "folds": [task.fold for task in tasks],
        "missing_folds": sorted(set(data.folds.numbers) - {task.fold for task in tasks}),
        "oof_rows": len(ids),
        "floors": floor_scores(metric, labels, len(data.classes)),
        "stages": stages,
        "seconds": seconds,
        "recipe": recipe.model_dump(mode="json"),
        **run_identity(tasks[0], data),
        "extra_rows": data.extra.counts([task.fold for task in tasks]),
        "backend": keras_backend(),
        "versions": _versions(),
        "git_commit": _git_commit(tasks[0].workspace.root),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return frames, manifest


def _decision(
    frame: pd.DataFrame, ids: list[str], labels: Labels, competition: Competition, metric: Metric, classes: list[str]
) -> dict[str, Any] | None:
    """Thresholds or cut points where a submission holds labels: `asdict` of a `Decision`; None where none is fitted."""
    if not competition.cuts_labels and (competition.target, competition.submission) != ("single", "class"):
        return None
    found, fold = probabilities_of(frame, ids, classes), frame.set_index("id").loc[ids, "fold"].to_numpy()
    decision = fit_decision(metric, labels, found, fold, at_least_one=competition.submission == "names")
    return asdict(decision) if decision else None


def seconds_of(tasks: Sequence[FoldTask]) -> float:
    """What the folds took: their stages from building to predicting, and the predictions at the end."""
    stages = [task.stage_folder(number) for task in tasks for number in range(len(task.recipe.stages))]
    found = [stage_done(folder) or {} for folder in stages]
    predicted = [read_json(task.folder / DONE) for task in tasks]
    known = all({"prediction_seconds", "best_stages"} <= set(one) for one in predicted)
    if not known or not all("seconds" in one for one in found):
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
    """A stage's size, cost and score, where it was left aside, and what it gained over the stage that it began from, on
    the same rows."""
    metric = metric_of(tasks[0].competition, classes, form=sample_form)
    summaries, found, best = [], [], {task.fold: task.best_stages for task in tasks}
    for number, stage in enumerate(tasks[0].recipe.stages):
        folders = [task.stage_folder(number) for task in tasks]
        results = [stage_done(folder) or {} for folder in folders]
        frame = _concatenated([folder / OOF for folder in folders])
        found.append(probabilities_of(frame, ids, classes))
        gain, error = None, None
        if number:
            folds = frame.set_index("id").loc[ids, "fold"]
            before = np.stack([found[best[fold][number - 1]][row] for row, fold in enumerate(folds)])
            gain, error = paired_gain(metric, labels, before, found[number])
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
                "left_aside": [fold for fold in best if best[fold][number] != number],
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
    metric, always = metric_of(task.competition, classes, form=sample_form), task.recipe.tta.use == "always"

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
