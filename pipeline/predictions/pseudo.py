"""Pseudo-labels (Lee, 2013): test rows that a finished experiment is sure of, to be trained on by another one.

Each fold has its own, from its own model. The mean of the fold models will not do: for any fold, all models but one
were trained on the rows that the fold holds out, so what they say of similar test pictures would carry those rows'
labels into the training that is then scored on them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.artifacts import Workspace
from pipeline.errors import DataError
from pipeline.predictions.manifests import require_all_folds, require_networks
from pipeline.predictions.store import Experiment, probabilities_of, read_predictions
from pipeline.targets import require_single

_SAME = 1e-5  # float32 sums in another order


@dataclass(frozen=True)
class Expected:
    """What is to be expected of the pseudo-labels of a class, or of all.

    Attributes:
        label: None for all classes.
        test_rows: Mean over the folds.
        test_share: `test_rows` by the number of test rows.
        oof_rows: OOF rows that were predicted so, with that confidence.
        accuracy: The share of them whose label is this; None without any.
        accuracy_se: Of a binomial proportion, by the posterior of Jeffreys' prior: unlike that of the normal
            approximation it is not 0 where all rows are right (Brown, Cai & DasGupta, 2001).
    """

    label: str | None
    test_rows: float
    test_share: float
    oof_rows: int
    accuracy: float | None
    accuracy_se: float | None


@dataclass(frozen=True)
class PseudoLabels:
    """Confident test rows.

    Attributes:
        rows: Columns id, fold, label, confidence, sorted by fold and id; a row may be trained on for its fold alone.
        expected: By class, and last for all.
        made: What they were made from.
    """

    rows: pd.DataFrame
    expected: list[Expected]
    made: dict[str, Any]


def make_pseudo_labels(
    experiment: Experiment,
    labels: Mapping[str, str],
    *,
    folds_sha256: str,
    min_confidence: float,
    workspace: Workspace,
) -> PseudoLabels:
    """The test rows whose largest probability is `min_confidence` or more, by fold.

    Args:
        labels: The label of each row of those folds, by id.
        folds_sha256: Of the folds as they are now, on which the rows are to be trained on.

    Raises:
        DataError: There are no networks or no test pictures, the folds or the fold models' predictions are gone or
            others, or no row is that sure.
    """
    require_networks(experiment.manifest)
    require_single(experiment.manifest["target"], "pseudo-labelling")
    require_all_folds(experiment.manifest, why="each fold's pseudo-labels are made by its own model")
    if experiment.manifest["folds_sha256"] != folds_sha256:
        raise DataError(
            f"{experiment.name} was trained on other folds than {experiment.slug} has now",
            expected="the same folds: its rows would tell a fold's model what it is scored on",
            next_step="restore folds.csv, or train it again on these folds under another name: --suffix NAME",
        )
    found = read_fold_predictions(experiment, workspace)
    frames = []
    for fold, frame in found.items():
        sure = _confident(frame, experiment.classes, min_confidence)
        frames.append(sure.assign(fold=fold)[["id", "fold", "label", "confidence"]])
    rows = pd.concat(frames).sort_values(["fold", "id"]).reset_index(drop=True)
    if rows.empty:
        largest = max(float(frame[experiment.classes].to_numpy().max()) for frame in found.values())
        raise DataError(
            f"{experiment.name} gives no test row a probability of {min_confidence:g}; its largest is {largest:.4f}",
            expected="some rows to train on",
            next_step="take a lower --min-confidence",
        )
    manifest = experiment.manifest
    return PseudoLabels(
        rows=rows,
        expected=_expected(experiment, labels, rows, min_confidence, folds=len(found)),
        made={
            "experiment": experiment.name,
            "fingerprint": manifest["fingerprint"],
            "min_confidence": min_confidence,
            "tta_used_by_fold": manifest["tta_used_by_fold"],
            "folds_sha256": manifest["folds_sha256"],
        },
    )


def read_fold_predictions(experiment: Experiment, workspace: Workspace) -> dict[int, pd.DataFrame]:
    """The test predictions of each fold's model, by fold; with TTA where the fold's OOF rows are.

    Raises:
        DataError: There are no test pictures; or the run is gone, or is another one than that of the experiment.
    """
    manifest, slug, name = experiment.manifest, experiment.slug, experiment.name
    if experiment.test.empty:
        raise DataError(
            f"{slug} has no test pictures, or {name} has not predicted them",
            expected="test predictions: pseudo-labels are labels of test pictures",
            next_step=f"check `test` in competition.yaml; then train {name} again",
        )

    def file(fold: str, with_views: bool) -> Path:
        return workspace.fold(slug, name, int(fold)) / ("test_tta.parquet" if with_views else "test.parquet")

    # By fold, as of the OOF rows: what the fold's own rows say of TTA has no part in it.
    own = {int(fold): file(fold, with_views) for fold, with_views in manifest["tta_used_by_fold"].items()}
    averaged = [file(fold, manifest["tta_used"]) for fold in manifest["tta_used_by_fold"]]
    gone = [path for path in [*own.values(), *averaged] if not path.is_file()]
    remake = _remake(experiment, workspace)
    if gone:
        raise DataError(
            f"{gone[0]} does not exist: the test predictions of each fold's own model are needed",
            expected="the run of the experiment, beside its result",
            next_step=remake,
        )
    ids = list(experiment.test["id"])
    mean = np.mean([probabilities_of(read_predictions(path), ids, experiment.classes) for path in averaged], axis=0)
    if not np.allclose(mean, experiment.test[experiment.classes], atol=_SAME):
        raise DataError(
            f"the predictions in {workspace.run(slug, name)} are not those that {name} is the mean of",
            expected="the run that the result was made of",
            next_step=remake,
        )
    return {fold: read_predictions(path) for fold, path in own.items()}


def _remake(experiment: Experiment, workspace: Workspace) -> str:
    recipe, slug = experiment.manifest["recipe"]["name"], experiment.slug
    suffix = experiment.name.removeprefix(f"{recipe}-")
    named = f" --suffix {suffix}" if suffix != experiment.name else ""
    run = workspace.run(slug, experiment.name)
    return f"remove {run} and train it again, with the --set it had: kit train {recipe} {slug}{named}"


def _confident(frame: pd.DataFrame, classes: list[str], min_confidence: float) -> pd.DataFrame:
    """Columns id, label, confidence of the rows that are sure."""
    found = frame[classes].to_numpy(dtype=np.float32)
    rows = np.flatnonzero(found.max(axis=1) >= np.float32(min_confidence))  # 0.9 is less in float32 than in float64
    chosen = [classes[number] for number in found[rows].argmax(axis=1)]
    return pd.DataFrame({"id": frame["id"].to_numpy()[rows], "label": chosen, "confidence": found[rows].max(axis=1)})


def _expected(
    experiment: Experiment, labels: Mapping[str, str], rows: pd.DataFrame, min_confidence: float, *, folds: int
) -> list[Expected]:
    """OOF rows tell it: they, too, were each predicted by one fold's model that had not seen them."""
    sure = _confident(experiment.oof, experiment.classes, min_confidence)
    right = sure["label"] == pd.Series([labels[key] for key in sure["id"]], dtype=object)  # a row without is no mistake

    def of(label: str | None) -> Expected:
        own, test = (slice(None) if label is None else frame["label"] == label for frame in (sure, rows))
        hits, count, test_rows = int(right[own].sum()), len(right[own]), len(rows[test]) / folds
        a, b = hits + 0.5, count - hits + 0.5
        return Expected(
            label=label,
            test_rows=test_rows,
            test_share=test_rows / len(experiment.test),
            oof_rows=count,
            accuracy=hits / count if count else None,
            accuracy_se=float(np.sqrt(a * b / (a + b + 1)) / (a + b)) if count else None,
        )

    return [*(of(label) for label in experiment.classes), of(None)]
