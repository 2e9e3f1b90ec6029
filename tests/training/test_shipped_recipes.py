"""Every shipped recipe runs, at its smallest; with the smallest network."""

import functools
import json
from collections.abc import Callable
from typing import Any

import pytest

from pipeline.model.backbones import BACKBONES
from pipeline.predictions.store import read_predictions
from pipeline.recipe import Stage, load_recipe, shipped_recipes, smoke
from tests.training.conftest import Run

WHOLE = "progressive-lite"


def kind(stage: Stage) -> str:
    """What a stage is beside numbers: two of one kind go through the same code."""

    def without_numbers(value: Any, name: str = "") -> Any:
        if isinstance(value, dict):
            return {key: without_numbers(one, key) for key, one in value.items()}
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        ends = (0, 1) if name in ("unfreeze", "accumulate") else (0,)
        return "a number" if is_number and value not in ends else value

    content = stage.model_dump(mode="json", exclude={"name", "size", "epochs", "batch_size", "learning_rate"})
    return json.dumps(without_numbers(content))


@functools.cache
def new_kinds() -> dict[str, list[int]]:
    """Of each recipe the stages of a kind that none before it has, at least its last; of the first all."""
    names = [WHOLE, *(name for name in shipped_recipes() if name != WHOLE)]
    found, seen = {}, set[str]()
    for name in names:
        kinds = [kind(stage) for stage in load_recipe(name).stages]
        new = [number for number, one in enumerate(kinds) if one not in seen and one not in kinds[:number]]
        found[name] = list(range(len(kinds))) if name == WHOLE else new or [len(kinds) - 1]
        seen |= set(kinds)
    return found


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
def test_a_smoke_run_ends_with_predictions(
    name: str, begin: Callable[..., Run], request: pytest.FixtureRequest
) -> None:
    """Every kind of stage that there is, and every head, choice and views; all stages with `--every-backbone`."""
    recipe = load_recipe(name)
    # Its own network is a matter of test_every_backbone.py.
    recipe = recipe.model_copy(update={"backbone": "tiny"})
    if not request.config.getoption("--every-backbone"):
        recipe = recipe.model_copy(update={"stages": [recipe.stages[number] for number in new_kinds()[name]]})
    run = begin()
    run = Run(run.competition, run.workspace, smoke(recipe, side=BACKBONES[recipe.backbone].smallest))
    run.train(folds=[0])
    assert run.task(0).done
    suffixes = ("", "_tta") if recipe.tta.views else ("",)
    for suffix in suffixes:
        assert len(read_predictions(run.task(0).folder / f"oof{suffix}.parquet")) == 12
