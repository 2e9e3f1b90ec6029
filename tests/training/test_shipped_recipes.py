"""Every shipped recipe runs, at its smallest; with the smallest network."""

from collections.abc import Callable

import pytest

from pipeline.model.backbones import BACKBONES
from pipeline.predictions.store import read_predictions
from pipeline.recipe import load_recipe, shipped_recipes, smoke
from tests.training.conftest import Run


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_smoke_run_changes_the_cost_and_not_the_story(name: str) -> None:
    recipe = load_recipe(name)
    smallest = smoke(recipe, side=32)
    assert smallest.weights == "none"
    assert smallest.head == recipe.head
    assert smallest.select_on.kind == recipe.select_on.kind
    for before, after in zip(recipe.stages, smallest.stages, strict=True):
        assert (after.size, after.epochs) == ((32, 32), 1)
        changed = {"size", "epochs", "batch_size", "schedule"}
        assert before.model_dump(exclude=changed) == after.model_dump(exclude=changed)
        assert before.schedule.kind == after.schedule.kind


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in shipped_recipes() if name != "demo"])
def test_a_smoke_run_ends_with_predictions(name: str, begin: Callable[..., Run]) -> None:
    recipe = load_recipe(name)
    # Its own network is a matter of test_every_backbone.py.
    recipe = recipe.model_copy(update={"backbone": "tiny"})
    run = begin()
    run = Run(run.competition, run.workspace, smoke(recipe, side=BACKBONES[recipe.backbone].smallest))
    run.train(folds=[0])
    assert run.task(0).done
    suffixes = ("", "_tta") if recipe.tta.views else ("",)
    for suffix in suffixes:
        assert len(read_predictions(run.task(0).folder / f"oof{suffix}.parquet")) == 12
