"""An ablation's recipes: the recipe as it is, and with each change alone."""

from pathlib import Path

import pytest
import yaml

from pipeline.errors import RecipeError
from pipeline.training.ablation import ablations

RECIPE = {
    "name": "small",
    "backbone": "tiny",
    "weights": "none",
    "stages": [
        {"name": "head", "unfreeze": 0, "epochs": 2, "learning_rate": 0.01},
        {"name": "all", "unfreeze": 1, "epochs": 3, "learning_rate": 0.001},
    ],
}


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(RECIPE), "utf-8")
    return str(path)


def test_each_change_is_made_alone(file: str) -> None:
    changes = ["mixup:stages.*.mixup=0.2", "slow:stages.0.epochs=5  stages.1.optimizer={kind: sgd, momentum: 0.8}"]
    found = ablations(file, changes, overrides=["seed=7"], suffix="try")
    assert list(found) == ["small-try", "small-try-mixup", "small-try-slow"]
    base, mixup, slow = found.values()
    assert [recipe.seed for recipe in (base, mixup, slow)] == [7, 7, 7]
    assert [stage.mixup for stage in base.stages] == [None, None]
    assert [stage.mixup for stage in mixup.stages] == [0.2, 0.2]
    assert [stage.epochs for stage in mixup.stages] == [2, 3]
    assert slow.stages[0].epochs == 5
    assert slow.stages[1].optimizer.model_dump() == {"kind": "sgd", "momentum": 0.8}
    assert slow.stages[0].mixup is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["label_smoothing=0.1"], "cannot read the change"),
        (["seed=1:2"], "cannot read the change"),
        ([":seed=1"], "cannot read the change"),
        (["Mixup:seed=1"], "cannot read the change"),
        (["two words:seed=1"], "cannot read the change"),
        (["nothing:"], "cannot read the setting ''"),
        (["nothing:seed=0"], "it would be trained as small is"),
        (["a:seed=1", "b:seed=1"], "it would be trained as small-a is"),
        (["a:seed=1", "a:seed=2"], "two changes are called 'a'"),
        (["a:sede=1"], "did you mean 'seed'?"),
        (["a:seed=1", "b:seed=-1"], "the change 'b:seed=-1': "),
    ],
)
def test_changes_that_are_none_are_refused(file: str, changes: list[str], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        ablations(file, changes)
    assert message in str(caught.value)
