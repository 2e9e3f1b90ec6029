"""One finished experiment that the training tests share; whoever changes it works on a copy."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.artifacts import Workspace, file_sha256, read_json, write_json
from pipeline.competition import Competition, load_competition
from pipeline.data.competition_data import CompetitionData, load_data
from pipeline.recipe import Recipe, parse_recipe
from pipeline.training.cross_validate import cross_validate
from pipeline.training.fold import DONE, FoldTask, Machine, train_fold
from tests.conftest import import_keras_for_good, write_tiny_competition

import_keras_for_good()

EXPERIMENT = "two-stages"


def stage(name: str, **changes: Any) -> dict[str, Any]:
    """12 training rows in batches of 5: the last batch of an epoch is a partial one."""
    settings = {"size": [32, 32], "batch_size": 5, "epochs": 1, "learning_rate": 0.01}
    return {"name": name, **settings, "unfreeze": 1, "batch_norm": "trained", **changes}


def recipe_of(*stages: dict[str, Any], **changes: Any) -> Recipe:
    content = {"name": EXPERIMENT, "backbone": "tiny", "weights": "none", "select_on": "fold", "stages": stages}
    content |= changes
    return parse_recipe(content, source="of the test")


# The second stage cannot move: its first epoch shows where it began, and its early stopping must end it.
RECIPE = recipe_of(
    stage("warm", epochs=6, monitor="score"),
    stage("still", epochs=6, monitor="score", learning_rate=1e-12, augment="none", early_stopping={"patience": 1})
    | {"unfreeze": 0, "batch_norm": "frozen"},
    tta={"views": ["flip"]},
)


@dataclass(frozen=True)
class Run:
    """An experiment and where it lies."""

    competition: Competition
    workspace: Workspace
    recipe: Recipe = RECIPE
    experiment: str = EXPERIMENT

    @property
    def data(self) -> CompetitionData:
        return load_data(self.competition)

    @property
    def oof(self) -> Path:
        return self.workspace.oof(self.competition.slug, self.experiment)

    def task(self, fold: int) -> FoldTask:
        return FoldTask(
            self.recipe,
            self.competition,
            fold,
            self.workspace,
            self.experiment,
            Machine(workers=0),
            load_data(self.competition).sha256,
        )

    def forget(self) -> None:
        """Remove what was trained, and its result."""
        shutil.rmtree(self.workspace.run(self.competition.slug, self.experiment))
        shutil.rmtree(self.oof)

    def train(self, **options: Any) -> Any:
        options = {"machine": Machine(workers=0), "engine": train_fold, **options}
        return cross_validate(
            self.recipe, self.competition, experiment=self.experiment, workspace=self.workspace, **options
        )


def own(task: FoldTask) -> None:
    """Let weights that a test has written be the fold's own."""
    done = task.folder / DONE
    write_json(done, {**read_json(done), "weights_sha256": file_sha256(task.weights)})


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """RECIPE trained on all folds of the tiny competition; not to be changed."""
    root = tmp_path_factory.mktemp("finished")
    run = Run(write_tiny_competition(root), Workspace(root))
    run.train()
    return run


@pytest.fixture
def copied(finished: Run, tmp_path: Path) -> Run:
    """A copy of the finished experiment, to be changed at will."""
    root = tmp_path / "copy"
    shutil.copytree(finished.workspace.root, root, copy_function=shutil.copy2)
    return Run(load_competition(finished.competition.slug, root=root), Workspace(root))


@pytest.fixture
def begin(tmp_path: Path) -> Callable[..., Run]:
    """Makes a new run of the tiny competition, not trained yet."""

    def make(*stages: dict[str, Any], **changes: Any) -> Run:
        recipe = recipe_of(*stages, **changes) if stages else RECIPE
        return Run(write_tiny_competition(tmp_path), Workspace(tmp_path), recipe)

    return make
