"""`kit export`: what it writes and prints, and what it refuses."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

from pipeline.artifacts import Workspace, read_json, write_json
from pipeline.competition import Competition
from pipeline.recipe import load_recipe
from pipeline.training.cross_validate import cross_validate
from pipeline.training.fold import Machine, train_fold
from tests.test_cli import experiment, kit, refused, workspace

__all__ = ["experiment", "workspace"]  # fixtures


@pytest.mark.slow
def test_fold_models_and_their_average(workspace: Path, tiny_competition: Competition) -> None:
    recipe = load_recipe("colours.yaml", overrides=["stages.0.epochs=2", "tta.views=[]"])
    cross_validate(
        recipe,
        tiny_competition,
        experiment="colours",
        workspace=Workspace(workspace),
        machine=Machine(workers=0),
        engine=train_fold,
    )
    done = kit("export", "colours")
    assert done.exit_code == 0, done.output
    folder = Path("runs/tiny/colours/export")
    assert f"wrote {folder}" in done.stdout
    for name in ("fold-0.keras", "fold-0.onnx", "fold-1.keras", "fold-1.onnx"):
        assert (folder / name).is_file()
        assert name in done.stdout
    one = kit("export", "colours", "--to", "my models/one", "--fold", "1", "--format", "onnx")
    assert one.exit_code == 0, one.output
    there = sorted(path.name for path in Path("my models/one").iterdir())
    assert there == ["README.md", "fold-1.onnx", "model.json", "predict.py"]
    first, second = (Path(f"runs/tiny/colours/fold-{fold}/stage-0/best.weights.h5") for fold in (0, 1))
    shutil.copy(first, second)  # the mean of equal models holds
    known = [read_json(file.parents[1] / "fold.json") for file in (first, second)]
    write_json(second.parents[1] / "fold.json", {**known[1], "weights_sha256": known[0]["weights_sha256"]})
    average = kit("export", "colours", "--average", "--format", "keras")
    assert average.exit_code == 0, average.output
    check = read_json(Path("runs/tiny/colours/export-average/model.json"))["average"]
    assert "score is not known" in average.stdout
    assert f"{check['bound']:.4f} ± " in average.stdout
    assert f"{check['test_agreement']:.1%} get the class" in average.stdout


def test_what_is_refused(workspace: Path, experiment: pd.DataFrame) -> None:
    assert "no finished experiment 'mad'" in refused("export", "mad")
    assert "--fold has no effect with --average" in refused("export", "made", "--average", "--fold", "0")
    assert "is not known here" in refused("export", "made", "--to", "~nobody-here/x")
    assert kit("export", "made", "--format", "tflite").exit_code == 2
