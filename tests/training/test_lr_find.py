"""The learning-rate range test: what is read from a curve; that it is of the stage's own training, and leaves none."""

import re
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pipeline.cli.lr_find import lr_find
from pipeline.data.inputs import ErrorRelay, training_dataset
from pipeline.data.workers import WorkerPool
from pipeline.errors import KitError, RecipeError
from pipeline.recipe import load_recipe
from pipeline.training.fold import Machine, stage_task
from pipeline.training.lr_find import HIGHEST, LOWEST, UPDATES, RangeTest, find_learning_rate, smoothed, suggested
from pipeline.training.network import stage_network
from pipeline.training.run_state import WEIGHTS
from tests.training.conftest import RECIPE, Run, recipe_of, stage
from tests.training.test_plan import here

RATES = np.geomspace(LOWEST, HIGHEST, UPDATES)


def found(run: Run, number: int = 0, /, **changes: Any) -> RangeTest:
    options = {"experiment": run.experiment, "workspace": run.workspace, "machine": Machine(0), "run": here}
    return find_learning_rate(run.recipe, run.competition, number=number, **options | changes)


def test_the_smoothed_loss_by_hand() -> None:
    assert smoothed([5.0] * 30) == pytest.approx([5.0] * 30)
    # 0.02 · 2 + 0.98 · 0.02 · 1 over 1 − 0.98².
    assert smoothed([1.0, 2.0]) == pytest.approx([1.0, 0.0596 / 0.0396])


def test_what_is_read_from_a_curve() -> None:
    """Over the decade from 1e-3 to 1e-2 it falls by half, from 1e-2 to 1e-1 by a tenth, then it rises."""
    curve = np.interp(np.log10(RATES), [-7, -3, -2, -1, 1], [2.0, 2.0, 1.0, 0.9, 9.0])
    curve[1:4] -= [0.5, 1.0, 1.5]  # the first updates do not count
    lowest, steepest = suggested(RATES, curve)
    step = RATES[1] / RATES[0]
    assert 1e-2 / step < lowest < 1e-2 * step
    assert 10**-2.5 / step < steepest < 10**-2.5 * step
    with pytest.raises(KitError, match="never fell"):
        suggested(RATES, np.linspace(1, 2, UPDATES))
    with pytest.raises(KitError, match="within the first updates"):
        suggested(RATES[:20], curve[:20])


def test_it_is_the_stages_own_training_and_leaves_none(begin: Callable[..., Run]) -> None:
    run = begin(stage("head", unfreeze=0, batch_norm="frozen", feature_views=1, schedule="cosine"), stage("all"))
    head, whole = found(run), found(run, 1, fold=1)
    assert (head.stage, head.fold, whole.stage, whole.fold, whole.start) == ("head", 0, "all", 1, None)
    for one in (head, whole):
        assert one.rates == pytest.approx(RATES[: len(one.rates)], rel=1e-4)
        assert len(one.losses) == len(one.rates)
    names = [path.name for path in (run.workspace.root / "runs" / "tiny").iterdir()]
    assert names == ["_decoded"]
    assert not run.oof.exists()
    # The first batch of the stage, seen by its network before any update.
    task = stage_task(run.task(1), run.data, 1, start=None)
    network, _ = stage_network(run.recipe, 1, task.source, classes=3, start=None)
    with WorkerPool(0) as pool, ErrorRelay() as relay:
        pictures, targets, _ = next(iter(training_dataset(task.source, pool, epochs=range(1), relay=relay)))
    logits = np.array(network(pictures, training=True), dtype=np.float64)
    log_softmax = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    assert whole.losses[0] == pytest.approx(-np.sum(log_softmax * targets.numpy(), axis=1).mean(), rel=1e-4)


def test_it_stops_where_the_loss_explodes(begin: Callable[..., Run]) -> None:
    run = begin(stage("all", optimizer={"kind": "sgd", "momentum": 0.99}), label_smoothing=0.1)
    one = found(run)
    assert one.exploded
    assert len(one.rates) < UPDATES
    assert not one.smoothed[-1] <= 4 * one.smoothed.min()
    assert (one.smoothed[:-1] <= 4 * np.minimum.accumulate(one.smoothed)[:-1]).all()


def test_it_begins_with_what_the_stage_before_ended_on(copied: Run) -> None:
    before = copied.task(0).stage_folder(0) / WEIGHTS
    fresh = found(copied, 1)
    assert fresh.start is None  # a finished fold keeps its last stage's alone
    shutil.copy(copied.task(0).weights, before)
    begun = found(copied, 1)
    assert begun.start == before
    assert begun.losses[0] != pytest.approx(fresh.losses[0])
    later = [RECIPE.stages[0], RECIPE.stages[1].model_copy(update={"learning_rate": 0.5})]
    earlier = [RECIPE.stages[0].model_copy(update={"learning_rate": 0.5}), RECIPE.stages[1]]
    for stages, start in ((later, before), (earlier, None)):
        recipe = RECIPE.model_copy(update={"stages": tuple(stages)})
        changed = Run(copied.competition, copied.workspace, recipe)
        assert found(changed, 1, run=lambda work, asked, *, what: asked).start == start


def test_a_regression_has_no_rate(begin: Callable[..., Run]) -> None:
    run = begin({"name": "linear", "optimizer": "logistic_regression", "size": [32, 32]}, select_on="last")
    with pytest.raises(RecipeError, match="stage linear of two-stages has no learning rate"):
        found(run)


def test_the_stage_of_the_example_is_one_of_the_recipes() -> None:
    [(recipe, stage)] = re.findall(r"Example: kit lr-find (\S+) \S+ --stage (\S+)", lr_find.__doc__ or "")
    assert load_recipe(recipe).stage_number(stage) == 1


def test_a_stage_is_named_or_numbered() -> None:
    recipe = recipe_of(stage("1"), stage("two"))
    assert [recipe.stage_number(name) for name in ("0", "1", "two")] == [0, 0, 1]
    with pytest.raises(RecipeError, match="no stage '2'"):
        recipe.stage_number("2")
