"""The prediction store: OOF and test predictions of an experiment, keyed by id.

    oof/<slug>/<experiment>/oof.parquet       id, fold, one float32 column a class: the plain pictures' predictions
    oof/<slug>/<experiment>/test.parquet      id, one float32 column a class: the mean of the fold models
    oof/<slug>/<experiment>/oof_tta.parquet   the same with test-time augmentation, where the recipe has views
    oof/<slug>/<experiment>/test_tta.parquet
    oof/<slug>/<experiment>/learning_curves.csv   every epoch of every fold, where something was trained
    oof/<slug>/<experiment>/manifest.json     written last: without it the experiment has no result

Columns of classes are in the order of `manifest.json: classes`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.artifacts import Workspace, atomic_path, write_json
from pipeline.errors import DataError
from pipeline.predictions.decide import Decision, decision_from
from pipeline.predictions.manifests import MANIFEST, read_manifest

CURVES = "learning_curves.csv"
KEYS = ("id", "fold")


@dataclass(frozen=True)
class Experiment:
    """An experiment with a result, of all folds or of some.

    Attributes:
        oof: The OOF predictions that its score is of, with or without TTA as the manifest's `tta_used_by_fold` says.
        test: The test predictions, as `tta_used` says; no rows where the competition has no test pictures.
    """

    slug: str
    name: str
    manifest: Mapping[str, Any]
    oof: pd.DataFrame
    test: pd.DataFrame

    @property
    def score(self) -> float:
        """The OOF score of the predictions that are used."""
        return float(self.manifest["oof_score"])

    @property
    def decision(self) -> Decision | None:
        """How a submission takes labels from probabilities, where that is better than the likeliest, or one half."""
        said = self.manifest.get("decision")  # a blend has none
        return decision_from(said) if said and said["used"] else None

    @property
    def submitted_score(self) -> float:
        """The OOF score of what is submitted: of the labels that are written, where labels are cut."""
        said = self.manifest.get("decision")
        return float(said["score" if said["used"] else "plain_score"]) if said else self.score

    @property
    def submitted_score_se(self) -> float:
        return self.decision.score_se if self.decision else float(self.manifest["oof_score_se"])

    @property
    def classes(self) -> list[str]:
        return list(self.manifest["classes"])


def prediction_frame(
    ids: Sequence[str], probabilities: NDArray[np.floating], classes: Sequence[str], *, fold: Any = None
) -> pd.DataFrame:
    """Predictions as the store keeps them, sorted by id.

    Args:
        probabilities: Shape (len(ids), len(classes)).
        fold: A fold for all rows or one a row; None for test predictions.
    """
    frame = pd.DataFrame(np.asarray(probabilities, dtype=np.float32), columns=list(classes))
    frame.insert(0, "id", list(ids))  # refuses another number of ids than of rows
    if fold is not None:
        frame.insert(1, "fold", np.broadcast_to(np.asarray(fold, dtype=np.int64), len(frame)))
    return frame.sort_values("id").reset_index(drop=True)


def write_predictions(path: Path, frame: pd.DataFrame) -> None:
    """Write a frame made by `prediction_frame`.

    Raises:
        DataError: An id is missing or repeated, or a prediction is not a number.
    """
    repeated = frame["id"][frame["id"].duplicated()]
    values = frame.drop(columns=[key for key in KEYS if key in frame]).to_numpy()
    broken = frame["id"][~np.isfinite(values).all(axis=1)]
    if len(repeated) or len(broken):
        raise DataError(
            f"predictions for {path.name}: {len(repeated)} repeated ids {list(repeated[:5])}, "
            f"{len(broken)} ids without a finite prediction {list(broken[:5])}",
            expected="every id once, with a finite number a class",
            next_step="the training diverged or its files are damaged: lower learning_rate, or train afresh",
        )
    with atomic_path(path) as temporary:
        frame.to_parquet(temporary, index=False)


def read_predictions(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise DataError(f"{path} does not exist", expected="stored predictions", next_step="train the experiment")
    return pd.read_parquet(path)


def probabilities_of(frame: pd.DataFrame, ids: Sequence[str], classes: Sequence[str]) -> NDArray[np.float32]:
    """The predictions for these ids in this order: float32 of shape (len(ids), len(classes)).

    Raises:
        DataError: An id or a class has no prediction.
    """
    indexed = frame.set_index("id")
    missing = [key for key in ids if key not in indexed.index]
    absent = [name for name in classes if name not in indexed.columns]
    if missing or absent:
        raise DataError(
            f"no predictions for {len(missing)} ids {missing[:5]} and {len(absent)} classes {absent[:5]}",
            expected="predictions for every id and class",
            next_step="were they made from other data? train the experiment again",
        )
    return indexed.loc[list(ids), list(classes)].to_numpy(dtype=np.float32)


def finish_experiment(folder: Path, frames: Mapping[str, pd.DataFrame], manifest: Mapping[str, Any]) -> None:
    """Write the predictions by file name, then the manifest; an earlier manifest goes first."""
    (folder / MANIFEST).unlink(missing_ok=True)
    for name, frame in frames.items():
        write_predictions(folder / name, frame)
    write_json(folder / MANIFEST, dict(manifest))


def read_experiment(workspace: Workspace, slug: str, name: str) -> Experiment:
    """Read an experiment's predictions.

    Raises:
        DataError: It has no manifest, that is, it does not exist or has no result yet.
    """
    folder, manifest = workspace.oof(slug, name), read_manifest(workspace, slug, name)
    files = {"oof.parquet"} | ({"oof_tta.parquet"} if any(manifest["tta_used_by_fold"].values()) else set())
    oof = with_choices({file: read_predictions(folder / file) for file in files}, manifest["tta_used_by_fold"])
    test_file = folder / ("test_tta.parquet" if manifest["tta_used"] else "test.parquet")
    test = read_predictions(test_file) if test_file.is_file() else oof.iloc[:0].drop(columns="fold")
    return Experiment(slug, name, manifest, oof, test)


def with_choices(frames: Mapping[str, pd.DataFrame], tta_used_by_fold: Mapping[str, bool]) -> pd.DataFrame:
    """The OOF predictions that count: of each fold those with TTA, or the plain ones.

    Args:
        frames: `oof.parquet`, and `oof_tta.parquet` where it is used.
    """
    plain = frames["oof.parquet"]
    used = plain["fold"].astype(str).map(tta_used_by_fold).astype(bool)
    if not used.any():
        return plain
    with_views = frames["oof_tta.parquet"]
    chosen = pd.concat([plain[~used], with_views[with_views["id"].isin(set(plain["id"][used]))]])
    return chosen.sort_values("id").reset_index(drop=True)


def read_learning_curves(workspace: Workspace, slug: str, name: str) -> pd.DataFrame:
    """Every epoch of every fold (`training.result.learning_curves`); empty where nothing was trained."""
    file = workspace.oof(slug, name) / CURVES
    return pd.read_csv(file) if file.is_file() and file.stat().st_size > 1 else pd.DataFrame()
