"""`kit ablate`: a recipe with and without a change, in one command."""

from pathlib import Path

import pytest

from pipeline.artifacts import Workspace
from pipeline.competition import Competition, load_competition
from pipeline.training.ablation import ablations
from pipeline.training.cross_validate import cross_validate
from pipeline.training.fold import FoldTask, Machine, train_fold
from tests.conftest import make_picture
from tests.test_cli import kit, refused, workspace

__all__ = ["workspace"]  # a fixture

EXTRA = "more:extra=[more]"
SHORT = ["--set", "stages.0.epochs=1", "--set", "tta.views=[]", "--workers", "0"]


@pytest.fixture
def with_extra(workspace: Path, tiny_competition: Competition) -> Competition:
    for colour, label in enumerate(("blue", "green", "red")):
        make_picture(tiny_competition.data / "more" / label / "0.jpg", colour=colour, seed=200)
    file = workspace / "competitions" / "tiny" / "competition.yaml"
    file.write_text(file.read_text("utf-8") + "extra:\n  more: {pictures: more}\n", "utf-8")
    return load_competition("tiny", root=workspace)


@pytest.mark.slow
def test_with_and_without_extra_rows_beside_a_change_that_fails(workspace: Path, with_extra: Competition) -> None:
    recipes = ablations("colours.yaml", [EXTRA], overrides=["stages.0.epochs=1", "tta.views=[]"])
    for experiment, recipe in recipes.items():  # fold 1 of the second remains
        cross_validate(
            recipe,
            with_extra,
            experiment=experiment,
            workspace=Workspace(workspace),
            folds=[0] if recipe.extra else None,
            machine=Machine(workers=0),
            engine=train_fold,
        )
    diverges = "wild:stages.0.learning_rate=1e30 stages.0.optimizer=sgd stages.0.augment=none"
    done = kit("ablate", "colours.yaml", "tiny", diverges, EXTRA, *SHORT)
    assert done.exit_code == 1, done.output
    assert "colours-wild is left out: fold 0, stage only: the loss is not a number" in done.stderr
    assert done.stderr.rstrip().splitlines()[-1].startswith("  next: lower the stage's learning_rate")
    for part in (
        "1 of 3: colours on tiny",
        "3 of 3: colours-more on tiny\n",
        "2 experiments on the same 24 rows",
        "Against colours, the baseline",
    ):
        assert part in done.stdout
    assert (workspace / "oof/tiny/colours-more/learning_curves.csv").is_file()


def test_all_changes_are_checked_before_the_first_training(workspace: Path, with_extra: Competition) -> None:
    for change, named in (("b:backbone=resnet", "resnet"), ("b:extra=[away]", "away")):
        assert named in refused("ablate", "colours.yaml", "tiny", "a:seed=1", change, *SHORT)
    assert not (workspace / "runs").exists()


def test_a_fold_that_does_not_exist_is_refused_before_the_first_training(
    workspace: Path, with_extra: Competition
) -> None:
    assert "tiny has no fold 7" in refused("ablate", "colours.yaml", "tiny", "a:seed=1", "--fold", "7", *SHORT)
    assert not (workspace / "runs").exists()


def test_a_name_that_another_run_has_is_refused_before_the_first_training(
    workspace: Path, with_extra: Competition
) -> None:
    def stop(task: FoldTask) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cross_validate(
            ablations("colours.yaml", [], overrides=["seed=5"])["colours"],
            with_extra,
            experiment="colours-b",
            workspace=Workspace(workspace),
            engine=stop,
        )
    assert "made with different settings" in refused("ablate", "colours.yaml", "tiny", "b:seed=1", *SHORT)
    assert not (workspace / "runs/tiny/colours").exists()
