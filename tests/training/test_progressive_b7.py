"""The main recipe with real EfficientNetB7 networks, one step a stage: too large to learn here, but all there."""

from pathlib import Path

import pytest

from pipeline.artifacts import Workspace
from pipeline.competition import Competition
from pipeline.recipe import load_recipe
from pipeline.training.cross_validate import cross_validate
from pipeline.training.fold import FoldTask, Machine, train_fold
from pipeline.training.stage import stage_done

STAGES = ("head", "half", "three-quarters", "all")


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["efficientnet-b7", "keras-efficientnet-b7"])
def test_b7_passes_all_stages(backbone: str, tiny_competition: Competition, tmp_path: Path) -> None:
    small = [f"stages.{n}.{setting}" for n in range(4) for setting in ("size=[32, 32]", "epochs=1", "batch_size=16")]
    plain = [f"stages.{n}.schedule=cosine" for n in range(4)]
    recipe = load_recipe(
        "progressive-b7",
        overrides=[f"backbone={backbone}", "weights=none", "precision=float32", "tta.views=[]", *small, *plain],
    )
    assert tuple(stage.name for stage in recipe.stages) == STAGES
    workspace = Workspace(tmp_path)
    progress = cross_validate(
        recipe,
        tiny_competition,
        experiment="b7",
        workspace=workspace,
        folds=[0],
        machine=Machine(workers=0),
        engine=train_fold,
    )
    assert progress.missing == (1,)
    task = FoldTask(recipe, tiny_competition, 0, workspace, "b7", Machine(workers=0))
    results = [stage_done(task.stage_folder(number)) for number in range(4)]
    assert [result["epochs"] for result in results if result] == [1, 1, 1, 1]
    unfrozen = [result["unfrozen"] / result["blocks"] for result in results if result]
    assert unfrozen[0] == 0
    assert unfrozen[1] == pytest.approx(0.5, abs=0.02)
    assert unfrozen[2] == pytest.approx(0.75, abs=0.02)
    assert unfrozen[3] == 1
    trained = [result["trainable_parameters"] for result in results if result]
    assert trained == sorted(set(trained))
