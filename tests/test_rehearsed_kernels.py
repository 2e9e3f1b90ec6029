"""Built kernels really run: pushed by the real client to a local Kaggle, in a process and a folder of their own.

`KERNEL_PYTHON` names the Python they run with; `scripts/test.sh --kaggle-image` gives one with Kaggle's versions.
"""

import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner, Result

from pipeline.artifacts import Workspace, read_json
from pipeline.cli import app
from pipeline.competition import load_competition
from pipeline.predictions.store import read_predictions
from pipeline.recipe import load_recipe
from pipeline.rehearsal.sandbox import Sandbox
from pipeline.rehearsal.server import Rehearsal
from pipeline.training.cross_validate import cross_validate
from pipeline.training.fold import Machine, train_fold
from tests.conftest import write_tiny_competition

pytestmark = pytest.mark.slow
PYTHON = Path(os.environ.get("KERNEL_PYTHON", sys.executable))
KERNELS = Path(__file__).resolve().parents[1] / "kernels"
STAGE = {"unfreeze": 1, "size": [32, 32], "batch_size": 6, "learning_rate": 0.01, "batch_norm": "trained"}
RECIPE = {
    "name": "colours",
    "backbone": "tiny",
    "weights": "none",
    "stages": [{"name": "first", "epochs": 2, **STAGE}, {"name": "second", "epochs": 3, **STAGE}],
    "tta": {"views": ["flip"], "use": "always"},
}
# The kernel and this process must sum in the same order for their predictions to be the same.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "2")


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A user's folder: the tiny competition, a recipe and the kit's kernels."""
    root = tmp_path / "workspace"
    write_tiny_competition(root)
    shutil.copytree(KERNELS, root / "kernels", ignore=shutil.ignore_patterns("build", "bundle", "output"))
    (root / "colours.yaml").write_text(yaml.safe_dump(RECIPE))
    monkeypatch.chdir(root)
    return Workspace(root)


@pytest.fixture
def kaggle(rehearse: Callable[..., Rehearsal]) -> Callable[..., Rehearsal]:
    """A rehearsal that runs kernels with `KERNEL_PYTHON`."""
    return lambda **changes: rehearse(runner=Sandbox(python=PYTHON), **changes)


def kit(*words: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, list(words))
    assert result.exit_code == code, result.output + repr(result.exception)
    return result


def run_train(*words: str, code: int = 0) -> Result:
    return kit(
        *("kernel", "run", "train", "--recipe", "colours.yaml", "--competition", "tiny", "--no-gpu", *words), code=code
    )


def oof(workspace: Workspace, experiment: str) -> pd.DataFrame:
    return read_predictions(workspace.oof("tiny", experiment) / "oof.parquet")


def same(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    """The same predictions: to the last bit in the same Python, else as near as other versions come."""
    assert list(found["id"]) == list(expected["id"])
    assert list(found["fold"]) == list(expected["fold"])
    tolerance = 0.0 if Path(sys.executable) == PYTHON else 1e-3
    classes = ["blue", "green", "red"]
    np.testing.assert_allclose(found[classes], expected[classes], atol=tolerance, rtol=0)


def test_from_training_to_a_score_without_internet(
    kaggle: Callable[..., Rehearsal], workspace: Workspace, tmp_path: Path
) -> None:
    """A code competition: one fold a kernel, the second going on from the first; then predicting on hidden pictures."""
    hidden, visible = kaggle().hosted["tiny"].data, hide_pictures(kaggle().hosted["tiny"].data, tmp_path / "visible")
    kaggle(code_only=True, data=hidden)
    run_train("--no-internet", "--suffix", "parts", "--fold", "0")
    assert read_json(workspace.oof("tiny", "colours-parts") / "manifest.json")["missing_folds"] == [1]
    result = run_train("--no-internet", "--suffix", "parts", "--resume")
    assert "goes on from rehearsal-user/kit-train-tiny-colours-parts-fold-0" in result.output
    assert "now in oof/tiny/colours-parts" in result.output
    log = next(workspace.root.glob("kernels/train/output/*-part-2/kernel.log")).read_text()
    assert "going on from" in log
    assert "fold 0 is done already" in log
    assert not list(workspace.root.glob("kernels/train/output/*/runs/tiny/_decoded"))

    here: dict[str, Any] = {"experiment": "colours-here", "workspace": workspace, "machine": Machine(workers=0)}
    cross_validate(
        load_recipe("colours.yaml"), load_competition("tiny", root=workspace.root), engine=train_fold, **here
    )
    same(oof(workspace, "colours-parts"), oof(workspace, "colours-here"))
    theirs, ours = (read_json(workspace.oof("tiny", f"colours-{name}") / "manifest.json") for name in ("parts", "here"))
    for key in ("fingerprint", "data_sha256", "folds_sha256", "classes"):
        assert theirs[key] == ours[key]

    # The predict kernel runs on the public pictures, is submitted by version, and runs again on all of them.
    kaggle(code_only=True, data=visible, hidden_test=hidden)
    kit("kernel", "run", "predict", "--experiment", "colours-parts", "--no-gpu")
    public = pd.read_csv(next(workspace.root.glob("kernels/predict/output/*/submission.csv")))
    assert list(public["id"]) == ["t0.jpg", "t1.jpg", "t2.jpg"]
    kit("submit", "--kernel", "predict")
    ledger = pd.read_csv("submissions/tiny/log.csv")
    assert ledger["status"].tolist() == ["COMPLETE"]
    assert ledger["file"].tolist() == ["rehearsal-user/kit-predict-tiny-colours-parts/1"]
    assert [ledger["public_score"][0], ledger["private_score"][0]] == [1.0, 1.0]
    assert "colours-parts" in kit("submissions", "tiny").output


def hide_pictures(data: Path, visible: Path) -> Path:
    """The data as a code competition shows it: three of six test pictures."""
    shutil.copytree(data, visible)
    sample = (visible / "sample_submission.csv").read_text().splitlines()
    (visible / "sample_submission.csv").write_text("\n".join(sample[:4]) + "\n")
    for number in (3, 4, 5):
        (visible / "test" / f"t{number}.jpg").unlink()
    return visible


def test_a_kernel_stops_by_itself_before_its_session_does(
    kaggle: Callable[..., Rehearsal], workspace: Workspace
) -> None:
    kaggle()
    result = run_train("--no-internet", "--set", "stages.1.epochs=2000", "--session-hours", "0.01", code=6)
    assert "COMPLETE" in result.output
    assert "--resume" in result.output
    assert not workspace.oof("tiny", "colours-kaggle").exists()
    again = run_train("--no-internet", "--set", "stages.1.epochs=2000", "--session-hours", "0.01", "--resume", code=6)
    assert re.search(r"goes on in epoch \d+ of \d+, after \d batches", again.output)


def test_a_kernel_that_raises_is_a_failure_with_its_log(kaggle: Callable[..., Rehearsal], workspace: Workspace) -> None:
    kaggle()
    template = workspace.root / "kernels" / "train" / "train.py"
    template.write_text(template.read_text().replace("        session.train()\n", "        1 / 0\n"))
    result = run_train("--no-internet", code=3)
    assert "ZeroDivisionError" in result.output
    assert not workspace.oof("tiny", "colours-kaggle").exists()


def test_weights_from_a_package_travel_with_a_kernel_without_internet(
    kaggle: Callable[..., Rehearsal], workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recipe progressive-lite, its first stage, small; converted here, loaded there."""
    monkeypatch.setenv("KERAS_HOME", str(workspace.root / "keras"))
    content = load_recipe("progressive-lite").model_dump(mode="json")
    stage = {**content["stages"][0], "size": [32, 64], "epochs": 1, "schedule": "constant", "augment": "none"}
    small = {**content, "name": "lite", "stages": [stage]}
    (workspace.root / "lite.yaml").write_text(yaml.safe_dump(small))
    kaggle()
    words = ("--recipe", "lite.yaml", "--competition", "tiny", "--no-gpu", "--no-internet", "--fold", "0")
    kit("kernel", "run", "train", *words)
    [bundle] = workspace.root.glob("kernels/train/bundle/*/files")
    assert (bundle / "efficientnet-lite0-57934424.weights.h5").is_file()
    [found] = workspace.root.glob("kernels/train/output/*/runs/tiny/*/fold-0/oof.parquet")
    here: dict[str, Any] = {"experiment": "here", "workspace": workspace, "machine": Machine(workers=0), "folds": [0]}
    cross_validate(load_recipe("lite.yaml"), load_competition("tiny", root=workspace.root), engine=train_fold, **here)
    same(read_predictions(found), read_predictions(workspace.run("tiny", "here") / "fold-0" / "oof.parquet"))
