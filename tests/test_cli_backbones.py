"""`kit backbones`, `kit lr-find` and `kit train --plan`, with a process for each network."""

import importlib
import json
import re
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from typer.testing import Result

from pipeline.cli.train import moment_of
from pipeline.competition import Competition
from pipeline.training.lr_find import RangeTest
from tests.test_cli import RECIPE, kit, refused, run


@pytest.fixture
def workspace(tiny_competition: Competition, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "colours.yaml").write_text(yaml.safe_dump(RECIPE), "utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


LINEAR = {
    "name": "linear",
    "description": "one pass",
    "backbone": "tiny",
    "weights": "none",
    "stages": [{"name": "linear", "size": [32, 32], "optimizer": "logistic_regression", "augment": "none"}],
}


def done_by(*words: str) -> Result:
    done = kit(*words)
    assert done.exit_code == 0, done.output
    return done


@pytest.mark.slow
def test_backbones_from_the_command_line(workspace: Path) -> None:
    words = ["backbones", "tiny", "--backbone", "tiny=none", "--backbone", "mobilenet-0.25"]
    done = run([*words, "--format", "json", "--cache-gb", "0"], workspace)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    [row] = json.loads(done.stdout)  # nothing that Keras or the log says is among it
    assert row["recommended"] is True
    assert "decoded anew" in done.stderr
    assert (row["backbone"], row["weights"], row["difference"]) == ("tiny", "none", 0.0)
    assert "left out: mobilenet-0.25 (imagenet): its weights are not in" in done.stderr
    assert "1 network over 24 pictures of" in done.stderr
    assert (workspace / "oof" / "tiny" / "_report" / "backbones.png").stat().st_size > 5000
    again = kit("backbones", "tiny", "--backbone", "tiny=none")  # of what was kept
    assert "recommended: tiny (none)" in again.stdout
    assert "next: kit train" not in again.stdout, "a frozen head on random weights leads nowhere"
    assert "_report/backbones.png" in again.stdout


@pytest.mark.slow
def test_a_plan_from_the_command_line(workspace: Path) -> None:
    done = done_by("train", "colours.yaml", "tiny", "--plan", "--workers", "0", "--fold", "1")
    assert "1 fold: " in done.stdout
    assert "fits into a session of 12 h" in done.stdout
    assert not (workspace / "oof").exists()
    assert not (workspace / "runs" / "tiny" / "colours").exists()


@pytest.mark.slow
def test_a_range_test_from_the_command_line(workspace: Path) -> None:
    words = ["lr-find", "colours.yaml", "tiny", "--stage", "only", "--workers", "0", "--set", "seed=3"]
    done = done_by(*words)
    rate = re.search(r"^  (\S+)  suggested", done.stdout, flags=re.M)
    assert rate
    assert "1.0e-02  the recipe's" in done.stdout
    assert f"kit train colours.yaml tiny --set seed=3 --set stages.0.learning_rate={rate[1]}" in done.stdout
    picture = workspace / "oof" / "tiny" / "_report" / "lr-find-colours-only.png"
    assert str(picture.relative_to(workspace)) in done.stdout
    assert picture.stat().st_size > 5000
    assert [path.name for path in (workspace / "runs" / "tiny").iterdir()] == ["_decoded"]


@pytest.mark.parametrize("losses", [np.linspace(1, 2, 100), np.array([np.nan])])
def test_a_curve_that_nothing_can_be_read_from_is_drawn(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, losses: NDArray[np.float64]
) -> None:
    rates = np.logspace(-7, 1, 100)[: len(losses)]
    found = RangeTest("only", 0, 0, 6, None, rates, losses, exploded=len(losses) == 1)
    monkeypatch.setattr("pipeline.training.lr_find.find_learning_rate", lambda *_, **__: found)
    message = refused("lr-find", "colours.yaml", "tiny")
    assert ("the loss never fell" if len(losses) > 1 else "exploded") in message
    assert "; see oof/tiny/_report/lr-find-colours-only.png" in message
    assert (workspace / "oof/tiny/_report/lr-find-colours-only.png").stat().st_size > 5000


def test_what_is_misspelt_or_has_no_effect_is_refused(workspace: Path) -> None:
    assert "did you mean 'tiny'?" in refused("backbones", "tiny", "--backbone", "tinny=none")
    assert "no weights 'imagenet'" in refused("backbones", "tiny", "--backbone", "tiny")
    assert "'big' is no size" in refused("backbones", "tiny", "--backbone", "tiny=none", "--size", "big")
    assert "no competition 'tinny'" in refused("backbones", "tinny")
    assert "one of only (0)" in refused("lr-find", "colours.yaml", "tiny", "--stage", "1")
    assert "--plan" in refused("train", "colours.yaml", "tiny", "--session-hours", "3")
    assert "--submission" in refused("train", "colours.yaml", "tiny", "--plan", "--submission")
    assert kit("oof", "list").exit_code == 0


@pytest.mark.slow
def test_a_budget_from_the_command_line(workspace: Path) -> None:
    """With one competition it need not be named; the same command again goes on with what was chosen."""
    words = ["train", "colours.yaml", "--budget", "20m", "--workers", "0", "--fold", "1", "--submission"]
    done = done_by(*words)
    assert re.search(r"about \d+ s of the \d+ min that are left: the whole recipe", done.stdout)
    assert "1 of 2 folds are trained" in done.stdout
    assert "next: the same command with --fold 0 trains the other folds, too" in done.stdout
    assert "it is of 1 of 2 fold models" in done.stdout
    assert (workspace / "oof/tiny/colours-20m/manifest.json").is_file()
    before = json.loads((workspace / "runs/tiny/colours-20m/fold-1/fold.json").read_text("utf-8"))
    again = done_by(*words)
    assert "going on with what was chosen for this budget" in again.stdout
    assert json.loads((workspace / "runs/tiny/colours-20m/fold-1/fold.json").read_text("utf-8")) == before
    assert "begun with other settings" in refused(*words, "--set", "seed=3")


@pytest.mark.slow
def test_what_does_not_fit_into_a_budget_becomes_a_linear_head(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the recipe was not named."""
    (workspace / "long.yaml").write_text(yaml.safe_dump(long_recipe()), "utf-8")
    (workspace / "linear.yaml").write_text(yaml.safe_dump(LINEAR), "utf-8")
    command = importlib.import_module("pipeline.cli.train")
    monkeypatch.setattr(command, "recipe_for_this_machine", lambda: "long.yaml")
    monkeypatch.setattr(command, "CHEAPEST", "linear.yaml")
    done = kit("train", "--budget", "5m", "--workers", "0", "--fold", "1")
    assert done.exit_code == 0, done.output
    assert "long does not fit into 5 min" in done.stderr
    assert "so linear-5m instead: one pass" in done.stdout
    assert (workspace / "oof/tiny/linear-5m/manifest.json").is_file()
    again = kit("train", "--budget", "5m", "--workers", "0", "--fold", "1")
    assert "going on with what was chosen" in again.stdout and "trying" not in again.stdout


def long_recipe() -> dict[str, Any]:
    stage = {**RECIPE["stages"][0], "epochs": 10**7}
    return {**RECIPE, "name": "long", "stages": [stage]}


@pytest.mark.slow
def test_trying_a_recipe_out_ends_with_its_share_of_the_budget(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.import_module("pipeline.cli.train"), "TRYING", 0.0)
    message = refused("train", "colours.yaml", "tiny", "--budget", "5m", "--workers", "0")
    assert "colours does not fit into 5 min: trying it was not done in 0 s" in message
    assert not (workspace / "oof").exists()


@pytest.mark.slow
def test_a_training_whose_deadline_is_over_ends_with_a_code_of_its_own(workspace: Path) -> None:
    done = kit("train", "colours.yaml", "tiny", "--workers", "0", "--deadline", "1s")
    assert done.exit_code == 75, done.output
    assert "to be continued: the time for training ends before " in done.stderr
    assert "run the same command again" in done.stderr


def test_a_deadline_is_a_moment_to_come(workspace: Path) -> None:
    now = datetime.now()
    for text, wanted in {
        "1h30m": now + timedelta(hours=1.5),
        (now + timedelta(minutes=2)).strftime("%H:%M"): now + timedelta(minutes=2),
        (now - timedelta(minutes=2)).strftime("%H:%M"): now + timedelta(days=1, minutes=-2),
        (now + timedelta(days=3)).isoformat(" ", "minutes"): now + timedelta(days=3),
    }.items():
        assert abs(moment_of(text) - wanted.timestamp()) <= 60
    for text, problem in {
        "soon": "no moment",
        "25:00": "no moment",
        "2026-01-01 06:30": "over",
        "0m": "no moment",
    }.items():
        assert f"{text!r} is {problem}" in refused("train", "colours.yaml", "tiny", "--deadline", text)
    assert "--deadline has no effect with --plan" in refused(
        "train", "colours.yaml", "tiny", "--deadline", "5m", "--plan"
    )


def test_a_budget_that_is_none_is_refused(workspace: Path) -> None:
    for text in ("soon", "0m", "20", "5m1h", ""):
        assert f"{text!r} is no time" in refused("train", "colours.yaml", "tiny", "--budget", text)
    assert "--budget has no effect with --plan" in refused("train", "colours.yaml", "tiny", "--budget", "5m", "--plan")
