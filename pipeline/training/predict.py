"""Pictures predicted by the fold models of a finished experiment, as the test pictures were."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.artifacts import Workspace
from pipeline.competition import Competition, Target, load_competition
from pipeline.data.competition_data import sample_form
from pipeline.data.decode import resize
from pipeline.data.index import train_index
from pipeline.data.pictures import MemoryPictures, Pictures
from pipeline.errors import DataError, PictureError
from pipeline.predictions.aligned import align
from pipeline.predictions.calibration import OofTemperature, apply_temperature, oof_temperature
from pipeline.predictions.manifests import ended_on, finished_weights, require_networks
from pipeline.predictions.store import Experiment, read_experiment, read_predictions
from pipeline.progress import Progress
from pipeline.recipe import Recipe, parse_recipe
from pipeline.training.fold import Machine
from pipeline.training.network import prediction_network
from pipeline.training.validation import mean_of, predict_views


@dataclass(frozen=True)
class FoldModels:
    """What a finished experiment's networks are rebuilt from.

    Attributes:
        weights: The file of each fold.
        sizes: Height and width in pixels of the pictures of the stage that each fold ends on.
    """

    stored: Experiment
    recipe: Recipe
    competition: Competition
    weights: dict[int, Path]
    sizes: dict[int, tuple[int, int]]


def read_fold_models(
    workspace: Workspace, slug: str, experiment: str, *, folds: Sequence[int] | None = None
) -> FoldModels:
    """Find the fold models of a finished experiment.

    Args:
        folds: All by default.

    Raises:
        DataError: It is not finished, it is a blend, it has no such fold, or as of `finished_weights`.
    """
    stored = read_experiment(workspace, slug, experiment)
    require_networks(stored.manifest)
    recipe = parse_recipe(stored.manifest["recipe"], source=f"of {experiment}")
    competition = load_competition(slug, root=workspace.root)
    ends, fingerprint = ended_on(stored.manifest), stored.manifest["fingerprint"]
    weights, sizes = {}, {}
    for fold in chosen_folds(stored, folds):
        end = ends[fold]
        weights[fold] = finished_weights(workspace, slug, experiment, fold, stage=end, fingerprint=fingerprint)
        height, width = stored.manifest["stages"][end]["size"]
        sizes[fold] = height, width
    return FoldModels(stored, recipe, competition, weights, sizes)


def chosen_folds(stored: Experiment, folds: Sequence[int] | None) -> list[int]:
    """These folds, each once; None is all of them.

    Raises:
        DataError: The experiment has no such fold.
    """
    known = [int(fold) for fold in stored.manifest["fold_scores"]]
    wanted = known if folds is None else list(dict.fromkeys(folds))
    unknown = [fold for fold in wanted if fold not in known]
    if unknown:
        raise DataError(
            f"{stored.name} has no fold {unknown[0]}"
            + (": it is not trained yet" if unknown[0] in stored.manifest["missing_folds"] else ""),
            expected="one of " + ", ".join(map(str, known)),
            next_step=f"give its `kit train` command with --fold {unknown[0]}"
            if unknown[0] in stored.manifest["missing_folds"]
            else f"`kit folds {stored.slug}` shows them",
        )
    return wanted


def fit_oof_temperature(models: FoldModels, workspace: Workspace) -> OofTemperature | None:
    """The temperature of what the fold models are used for: OOF predictions with TTA where the test pictures had it.

    Returns:
        None where there is none to be fitted (`oof_temperature`).

    Raises:
        DataError: The labels are not there, or are of other rows or classes than the OOF predictions. That a row has
            another of these classes by now is not seen.
    """
    stored = models.stored
    try:
        rows = train_index(models.competition)
        file = "oof_tta.parquet" if stored.manifest["tta_used"] else "oof.parquet"
        used = replace(stored, oof=read_predictions(workspace.oof(stored.slug, stored.name) / file))
        labels = dict(zip(rows["id"], rows["label"], strict=True))
        aligned = align([used], labels, competition=models.competition, form=sample_form)
    except DataError as error:
        raise DataError(
            f"no temperature can be fitted: {error.problem}",
            expected=error.expected,
            next_step=f"{error.next_step}; or take the probabilities as predicted: --raw",
        ) from None
    return oof_temperature(aligned.probabilities[stored.name], aligned.labels, aligned.folds)


def predict_pictures(paths: Sequence[Path], *, models: FoldModels, temperature: float | None = None) -> pd.DataFrame:
    """Class probabilities, the mean over the fold models.

    Args:
        temperature: What each fold model's probabilities are scaled by before the mean is taken; None leaves them.

    Returns:
        One row a path, in their order: column `picture`, then one float32 column a class.

    Raises:
        PictureError: A picture cannot be read; it is named.
    """
    try:
        with TemporaryDirectory(prefix="kit-predict-") as folder:
            found = predict_folds(
                models.recipe,
                list(models.weights.values()),
                at_sizes([str(path) for path in paths], list(models.sizes.values()), Path(folder)),
                classes=len(models.stored.classes),
                target=models.competition.target,
                with_views=models.stored.manifest["tta_used"],
                temperature=temperature,
            )
    except PictureError as error:
        # These pictures are of no competition, whose quarantine could leave them out.
        next_step = "replace the file, or predict the other pictures without it"
        raise PictureError(error.problem, expected=error.expected, next_step=next_step) from None
    frame = pd.DataFrame(found, columns=models.stored.classes)
    frame.insert(0, "picture", [str(path) for path in paths])
    return frame


def top_classes(probabilities: NDArray[np.float32], classes: Sequence[str], *, count: int) -> list[tuple[str, float]]:
    """The likeliest classes of one picture with their probabilities, the largest first; of equal ones the first.

    Args:
        probabilities: Shape (classes,).
    """
    order = np.argsort(-probabilities, kind="stable")[:count]
    return [(classes[number], float(probabilities[number])) for number in order]


class LoadedModels:
    """Fold models that stay in memory for one picture after the other: a network, and weights that it takes in turn."""

    def __init__(self, models: FoldModels, *, temperature: float | None = None) -> None:
        """Load the weights, and run the network once: its first run takes much longer than the next.

        Args:
            temperature: As of `predict_pictures`.
        """
        files = list(models.weights.values())
        self._sizes, self._temperature = list(models.sizes.values()), temperature
        self._target = models.competition.target
        self._views = models.recipe.tta.views if models.stored.manifest["tta_used"] else ()
        self._network, takes = prediction_network(models.recipe, classes=len(models.stored.classes), weights=files)
        self._models = []
        for take in Progress(takes, desc="fold models", leave=False, disable=None):
            take()
            self._models.append(partial(self._network.set_weights, self._network.get_weights()))
        self.predict(np.zeros((*self._sizes[0], 3), dtype=np.uint8))

    def predict(self, picture: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The class probabilities of an RGB picture of any size, (height, width, 3): float32 of shape (classes,).

        They are those that `predict_pictures` gives for its file. One call at a time.
        """
        resized = {size: MemoryPictures(resize(picture, size)[None]) for size in dict.fromkeys(self._sizes)}
        found = _by_model(
            self._network,
            self._models,
            [resized[size] for size in self._sizes],
            target=self._target,
            batch_size=1 + len(self._views),
            views=self._views,
        )
        first: NDArray[np.float32] = _mean_over_all(found, self._temperature)[0]
        return first


def at_sizes(paths: list[str], sizes: Sequence[tuple[int, int]], folder: Path) -> list[Pictures]:
    """The pictures at each of these sizes (height, width), kept in `folder`: one object for all that are equal."""
    opened = {size: Machine().open(paths, size, folder) for size in dict.fromkeys(sizes)}
    return [opened[size] for size in sizes]


def predict_folds(
    recipe: Recipe,
    weights: Sequence[Path],
    pictures: Sequence[Pictures],
    *,
    classes: int,
    target: Target,
    with_views: bool,
    temperature: float | None = None,
) -> NDArray[np.float32]:
    """Class probabilities of all pictures, the mean over the fold models: float32 of shape (pictures, classes).

    Args:
        weights: A file a fold.
        pictures: Of each fold, at the size of the stage that it ends on; one object for all folds of one size.
        with_views: Average over the recipe's views, too.
        temperature: As of `predict_pictures`.
    """
    network, models = prediction_network(recipe, classes=classes, weights=weights)
    views = recipe.tta.views if with_views else ()
    passes = len(pictures[0]) * (1 + len(views))
    batch_size = max(1, min(recipe.prediction_batch, passes))
    batches = len(weights) * -(-passes // batch_size)
    with Progress(total=batches, desc="predicting", unit="batch", leave=False, disable=None) as bar:
        found = _by_model(
            network,
            models,
            pictures,
            target=target,
            batch_size=batch_size,
            views=views,
            check=bar.update,
        )
    return _mean_over_all(found, temperature)


def _by_model(
    network: Any, models: Sequence[Callable[[], object]], pictures: Sequence[Pictures], **options: Any
) -> NDArray[np.float32]:
    """As `predict_views` of all pictures, each model with its own."""
    found: dict[int, NDArray[np.float32]] = {}
    for some in {id(one): one for one in pictures}.values():
        numbers = [number for number, one in enumerate(pictures) if one is some]
        chosen = [models[number] for number in numbers]
        predicted = predict_views(network, some, np.arange(len(some)), models=chosen, **options)
        found |= dict(zip(numbers, predicted, strict=True))
    return np.stack([found[number] for number in range(len(models))])


def _mean_over_all(found: NDArray[np.float32], temperature: float | None) -> NDArray[np.float32]:
    """The mean over the views, then over the models: of (models, views, pictures, classes), (pictures, classes)."""
    averaged = [mean_of(one) for one in found]
    return mean_of(averaged if temperature is None else [apply_temperature(one, temperature) for one in averaged])
