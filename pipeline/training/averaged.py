"""One model for all folds: the mean of the fold models' weights, and what can be known of its score.

Wortsman et al., “Model soups: averaging weights of multiple fine-tuned models improves accuracy without increasing
inference time”, ICML 2022. Why it is measured as it is here stands in docs/decisions/0007-averaged-model.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.artifacts import Workspace
from pipeline.data.competition_data import CompetitionData, sample_form
from pipeline.data.pictures import Pictures
from pipeline.errors import KitError
from pipeline.predictions.metrics import metric_of, paired_gain, standard_error
from pipeline.predictions.store import probabilities_of, read_predictions
from pipeline.progress import Progress
from pipeline.recipe import Recipe
from pipeline.targets import above_half, likeliest
from pipeline.training.fold import Machine
from pipeline.training.network import load_network, load_weights
from pipeline.training.predict import FoldModels
from pipeline.training.validation import mean_of, predict


@dataclass(frozen=True)
class AverageCheck:
    """What is known of an averaged model. Its score on pictures that it has not seen is not.

    Attributes:
        bound: Its score on the OOF rows, each of which all members but one were trained on: too good.
        bound_se: That score's standard error.
        oof: The fold models' OOF score on the same rows, which is honest.
        gain: How much better `bound` is than `oof`; negative if it is worse.
        gain_se: That difference's standard error.
        test_agreement: The share of the test pictures to which it gives the class that the mean of the fold models
            gives; None without test pictures. Nobody has seen those, so this is honest, but it is no score.
        members_agreement: The same of a single fold model, the mean over them: what to hold it against.
    """

    bound: float
    bound_se: float
    oof: float
    gain: float
    gain_se: float
    test_agreement: float | None
    members_agreement: float | None


def require_one_size(models: FoldModels) -> None:
    """Refuse fold models of several sizes: what their average is, a picture of one size cannot show.

    Raises:
        KitError: Folds end on stages of different sizes.
    """
    sizes = {fold: f"{height}×{width}" for fold, (height, width) in models.sizes.items()}
    if len(set(sizes.values())) > 1:
        each = ", ".join(f"fold {fold} at {size}" for fold, size in sizes.items())
        raise KitError(
            f"the folds of {models.stored.name} end on stages of different sizes ({each}), and an average of their "
            "weights is of none",
            expected="fold models of one size",
            next_step="export the fold models and average their probabilities: leave --average out; or train again "
            "with --set end_on=last, so that all end on the last stage",
        )


def average_network(recipe: Recipe, weights: Sequence[Path], *, classes: int) -> Any:
    """The recipe's network with the mean of these files' weights, BatchNorm's statistics included.

    Raises:
        KitError: There is nothing to average, or a file does not fit the network.
    """
    if len(weights) < 2:
        raise KitError(
            "the experiment has one fold: there is nothing to average",
            expected="two folds or more",
            next_step="leave --average out",
        )
    sums: list[NDArray[np.float64]] = []
    network = load_network(recipe, classes=classes, weights=weights[0])
    for file in Progress(weights, desc="averaging", unit="fold", leave=False, disable=None):
        load_weights(network, file)
        arrays = [np.asarray(array, dtype=np.float64) for array in network.get_weights()]
        sums = [total + array for total, array in zip(sums, arrays, strict=True)] if sums else arrays
    network.set_weights([(total / len(weights)).astype(np.float32) for total in sums])
    return network


def check_average(network: Any, models: FoldModels, data: CompetitionData, workspace: Workspace) -> AverageCheck:
    """Score an averaged network on the OOF rows, and compare it with the fold models on the test pictures."""
    stored, slug = models.stored, models.competition.slug
    metric, folder = (
        metric_of(stored.manifest, competition=models.competition, form=sample_form),
        workspace.oof(slug, models.stored.name),
    )
    rows = np.flatnonzero(data.folds.frame["fold"].isin(list(models.weights)).to_numpy())
    ids = list(data.train["id"].iloc[rows])
    before = probabilities_of(read_predictions(folder / "oof.parquet"), ids, stored.classes)
    after = _predicted(network, _pictures(data.train["path"], models, workspace), rows, models)
    labels = data.labels[rows]
    gain, gain_se = paired_gain(metric, labels, before, after)
    agreement, of_members = _agreement(network, models, data, workspace) if len(data.test) else (None, None)
    return AverageCheck(
        bound=metric.score(labels, after),
        bound_se=standard_error(metric, labels, after),
        oof=metric.score(labels, before),
        gain=gain,
        gain_se=gain_se,
        test_agreement=agreement,
        members_agreement=of_members,
    )


def _agreement(network: Any, models: FoldModels, data: CompetitionData, workspace: Workspace) -> tuple[float, float]:
    """How often the average, and how often a fold model, gives the test pictures the class of the fold models' mean."""
    slug, name, classes = models.competition.slug, models.stored.name, models.stored.classes
    ids = list(data.test["id"])
    members = [
        probabilities_of(read_predictions(workspace.fold(slug, name, fold) / "test.parquet"), ids, classes)
        for fold in models.weights
    ]
    decide = above_half if models.competition.target == "multilabel" else likeliest
    together = decide(mean_of(members))

    def agreeing(found: NDArray[np.float32]) -> float:
        return float(np.mean((decide(found) == together).reshape(len(ids), -1).all(axis=1)))

    found = _predicted(network, _pictures(data.test["path"], models, workspace), np.arange(len(ids)), models)
    return agreeing(found), float(np.mean([agreeing(member) for member in members]))


def require_average_holds(check: AverageCheck, *, metric: str) -> None:
    """Refuse an averaged model that is worse than the fold models even where it has the advantage.

    Raises:
        KitError: Its optimistic score is below the OOF score by more than the difference's error.
    """
    if check.gain < -check.gain_se:
        raise KitError(
            f"averaging the weights destroys this network: {metric} {check.bound:.4f} on rows that its members were "
            f"trained on, where the fold models' OOF score is {check.oof:.4f} "
            f"(difference {check.gain:+.4f} ± {check.gain_se:.4f}, plus is better)",
            expected="at least the OOF score, on rows that the average has seen",
            next_step="export the fold models and average their probabilities: leave --average out",
        )


def _pictures(paths: Any, models: FoldModels, workspace: Workspace) -> Pictures:
    [size] = set(models.sizes.values())  # as `require_one_size` sees to
    return Machine().open(list(paths), size, workspace.cache(models.competition.slug))


def _predicted(network: Any, pictures: Pictures, rows: NDArray[np.int64], models: FoldModels) -> NDArray[np.float32]:
    return predict(network, pictures, rows, target=models.competition.target, batch_size=models.recipe.prediction_batch)
