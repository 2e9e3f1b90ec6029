"""Pictures predicted by the fold models of a finished experiment, as the test pictures were."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from pipeline.artifacts import Workspace
from pipeline.competition import Competition, load_competition
from pipeline.data.pictures import FilePictures, Pictures
from pipeline.errors import DataError
from pipeline.predictions.store import Experiment, read_experiment, require_networks
from pipeline.recipe import Recipe, parse_recipe
from pipeline.training.fold import FoldTask, Machine, predict_views
from pipeline.training.stage import load_network, stage_done
from pipeline.training.validation import mean_of


@dataclass(frozen=True)
class FoldModels:
    """What a finished experiment's networks are rebuilt from.

    Attributes:
        weights: The file of each fold.
        size: Height and width in pixels of the pictures they were trained on last.
    """

    stored: Experiment
    recipe: Recipe
    competition: Competition
    weights: dict[int, Path]
    size: tuple[int, int]


def read_fold_models(workspace: Workspace, slug: str, experiment: str) -> FoldModels:
    """Find the fold models of a finished experiment.

    Raises:
        DataError: It is not finished, it is a blend, or the weights of a fold are gone.
    """
    stored = read_experiment(workspace, slug, experiment)
    require_networks(stored.manifest)
    recipe = parse_recipe(stored.manifest["recipe"], source=f"of {experiment}")
    competition = load_competition(slug, root=workspace.root)
    tasks = [
        FoldTask(recipe, competition, int(fold), workspace, experiment, Machine(), stored.manifest["data_sha256"])
        for fold in stored.manifest["fold_scores"]
    ]
    gone = [task.weights for task in tasks if not task.weights.is_file()]
    if gone:
        raise DataError(
            f"the weights {gone[0]} do not exist",
            expected="the weights of every fold, in runs/",
            next_step=f"remove {workspace.run(slug, experiment)} and train again: kit train {recipe.name} {slug}",
        )
    height, width = (stage_done(tasks[0].weights.parent) or {})["size"]
    return FoldModels(stored, recipe, competition, {task.fold: task.weights for task in tasks}, (height, width))


def predict_pictures(paths: Sequence[Path], *, slug: str, experiment: str, workspace: Workspace) -> pd.DataFrame:
    """Class probabilities, the mean over the fold models.

    Returns:
        One row a path, in their order: column `picture`, then one float32 column a class.

    Raises:
        DataError: A picture cannot be read, or the weights of a fold are gone.
    """
    for path in paths:
        if not path.is_file():
            raise DataError(
                f"{path} is a folder" if path.is_dir() else f"{path} does not exist",
                expected="picture files",
                next_step=f"name them: {path}/*.jpg" if path.is_dir() else "check the path",
            )
    models = read_fold_models(workspace, slug, experiment)
    stored, recipe = models.stored, models.recipe
    pictures = FilePictures(tuple(str(path) for path in paths), models.size)
    for row in range(len(paths)):
        pictures.take(np.array([row]))  # an unreadable picture is named before the networks are loaded
    found = predict_folds(
        recipe,
        list(models.weights.values()),
        pictures,
        classes=len(stored.classes),
        with_views=stored.manifest["tta_used"],
    )
    frame = pd.DataFrame(found, columns=stored.classes)
    frame.insert(0, "picture", [str(path) for path in paths])
    return frame


def predict_folds(
    recipe: Recipe, weights: Sequence[Path], pictures: Pictures, *, classes: int, with_views: bool
) -> NDArray[np.float32]:
    """Class probabilities of all pictures, the mean over the fold models: float32 of shape (pictures, classes).

    Args:
        weights: A file a fold.
        with_views: Average over the recipe's views, too.
    """
    rows, found = np.arange(len(pictures)), []
    for file in tqdm(weights, desc="fold models", leave=False, disable=None):
        network = load_network(recipe, classes=classes, weights=file)
        views = recipe.tta.views if with_views else ()
        plain, averaged = predict_views(network, pictures, rows, batch_size=recipe.stages[-1].batch_size, views=views)
        found.append(averaged if with_views else plain)
    return mean_of(found)
