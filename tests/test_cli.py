"""The command line: what it prints, what it refuses, and the whole story from a data set to a submission."""

import csv
import errno
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import typer
import yaml
from typer.testing import CliRunner, Result

from pipeline.artifacts import Workspace
from pipeline.cli import app
from pipeline.competition import Competition
from pipeline.errors import disk_full
from pipeline.predictions.store import finish_experiment, prediction_frame
from tests.conftest import manifest_scores

KIT = [sys.executable, "-c", "from pipeline.cli import main; main()"]
# Which of the heavy modules a command may load, beside those of the commands before it: they run in one process.
HEAVY = {"tensorflow", "keras", "jax", "albumentations", "cv2", "kaggle", "matplotlib", "numpy", "pandas", "requests"}
HEAVY |= {"rich", "scipy", "scipy.optimize", "scipy.stats", "sklearn"}
LOADS: dict[str, set[str]] = {
    "--help": set(),
    "--version": set(),
    "train --help": set(),
    "trai": set(),
    "train colours.yaml": set(),
    "train colours.yaml tiny --budget soon": set(),
    "train colour tiny": set(),
    "train colours.yaml tinny": set(),
    "train colours.yaml tiny --set backbone=tinny": set(),
    "ablate colours.yaml tinny seed:seed=1": set(),
    "lr-find colours.yaml tiny --stage last": set(),
    "backbones tinny": set(),
    "explore tinny": set(),
    "folds tinny": set(),
    "submit mad --dry-run": set(),
    "report mad": set(),
    "export mad": set(),
    "oof compare made mad": set(),
    "oof list": set(),
    "submissions": set(),
    "folds tiny": {"numpy", "pandas"},
    "init Tiny --data .": set(),
    "predict mad t0.jpg": set(),
    "explore tiny --augment strong": {"cv2"},
    "submission check sample.csv --competition tiny": set(),
    "oof compare": {"scipy"},
    "submission make made": set(),
    "train colours.yaml tiny --fold 9": set(),
}
RECIPE = {
    "name": "colours",
    "backbone": "tiny",
    "weights": "none",
    "stages": [
        {
            "name": "only",
            "unfreeze": 1,
            "size": [32, 32],
            "epochs": 5,
            "batch_size": 6,
            "learning_rate": 0.01,
            "batch_norm": "trained",
        }
    ],
    "tta": {"views": ["flip"]},
}


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command and sub-command with the words that call it."""
    yield path, group
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*path, name))


ALL = dict(commands(typer.main.get_command(app)))


def kit(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def refused(*words: str) -> str:
    """The message on stderr of a call that must fail as a user's error does."""
    result = kit(*words)
    assert result.exit_code not in (0, None), result.output
    assert isinstance(result.exception, SystemExit), result.exception
    for part in ("error: ", "\n  expected: ", "\n  next: "):
        assert part in result.stderr
    assert "Traceback" not in result.output
    return str(result.stderr)


@pytest.fixture
def workspace(tiny_competition: Competition, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny competition and a recipe, in the folder where the commands run."""
    (tmp_path / "colours.yaml").write_text(yaml.safe_dump(RECIPE), "utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def experiment(workspace: Path, tiny_competition: Competition) -> pd.DataFrame:
    """A finished experiment `made` without training; its test predictions, by id."""
    labels = pd.read_csv(tiny_competition.data / "train.csv", dtype=str)
    classes = ["blue", "green", "red"]
    truth = labels["label"].map(classes.index).to_numpy()
    oof = prediction_frame(list(labels["id"]), np.eye(3)[truth] * 0.9 + 1 / 30, classes, fold=np.arange(24) % 2)
    test = prediction_frame([f"t{number}.jpg" for number in range(6)], np.eye(3)[[0, 1, 2, 2, 1, 0]], classes)
    floors = {"random classifier": {"score": 0.3, "score_se": 0.1}}
    manifest = {
        "competition": "tiny",
        "experiment": "made",
        "metric": "accuracy",
        "target": "single",
        "greater_is_better": True,
        **manifest_scores(1.0, 0.0),
        "classes": classes,
        "floors": floors,
        "stages": [{"seconds": 2.0}],
        "folds_sha256": "f",
        "data_sha256": "d",
        "created": "2026-01-01T00:00:00+00:00",
    }
    finish_experiment(Workspace(workspace).oof("tiny", "made"), {"oof.parquet": oof, "test.parquet": test}, manifest)
    return test.set_index("id")


def submissions(workspace: Path) -> list[Path]:
    return sorted((workspace / "submissions").rglob("*.csv"))


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_every_command_has_help_with_an_example(path: tuple[str, ...]) -> None:
    result = kit(*path, "--help")
    assert result.exit_code == 0
    assert f"Example: kit {' '.join(path)}".rstrip() in " ".join(result.output.replace("│", " ").split())


def test_there_are_the_commands_that_the_story_needs() -> None:
    story = {("init",), ("folds",), ("train",), ("predict",), ("oof", "list"), ("submission", "make")}
    assert story | {("demo",), ("submission", "check")} <= set(ALL)


def loaded_by(*commands: str, folder: Path) -> dict[str, set[str]]:
    """The heavy modules that each of the commands loads, one after another in a fresh process that it shares."""
    code = """
import sys
from pipeline.cli import app
known = set()
for command in sys.argv[1:]:
    try:
        app(command.split())
    except SystemExit:
        print("LOADED", *set(sys.modules) - known, flush=True)
    known |= set(sys.modules)
"""
    words = [sys.executable, "-c", code, *commands]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=True)
    loaded = [set(line.split()) for line in done.stdout.splitlines() if line.startswith("LOADED")]
    assert "typer" in loaded[0]
    return {command: names & HEAVY for command, names in zip(commands, loaded, strict=True)}


def test_no_command_loads_what_it_does_not_need(workspace: Path, experiment: pd.DataFrame) -> None:
    kit("folds", "tiny")  # which makes them, by scikit-learn
    shutil.copytree(workspace / "oof/tiny/made", workspace / "oof/tiny/other")
    shutil.copy(workspace / "competitions/tiny/data/sample_submission.csv", workspace / "sample.csv")
    assert loaded_by(*LOADS, folder=workspace) == LOADS


def test_unknown_competition(workspace: Path) -> None:
    message = refused("train", "colours.yaml", "tinny")
    assert "no competition 'tinny'" in message
    assert "did you mean 'tiny'?" in message
    assert "tinny" in refused("folds", "tinny")
    assert "tinny" in refused("submission", "check", "x.csv", "--competition", "tinny")


def test_unknown_recipe(workspace: Path) -> None:
    assert "did you mean 'demo'?" in refused("train", "dema", "tiny")
    assert "absent.yaml" in refused("train", "absent.yaml", "tiny")


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("nonsense", "nonsense"),
        ("stages.7.epochs=1", "stages has no entry '7'"),
        ("stages.0.epochs=many", "stages.0.epochs"),
        ("stages.0.epochs=0", "stages.0.epochs"),
        ("stages.0.epoch=3", "did you mean 'epochs'?"),
        ("backbone=tyni", "tyni"),
        ("tta.views=[flop]", "flop"),
        ("name=Ä", "name"),
    ],
)
def test_bad_setting(workspace: Path, setting: str, named: str) -> None:
    assert named in refused("train", "colours.yaml", "tiny", "--set", setting)
    assert not (workspace / "runs" / "tiny" / "colours").exists()
    assert not (workspace / "oof").exists()


def test_unknown_fold(workspace: Path) -> None:
    assert "tiny has no fold 5" in refused("train", "colours.yaml", "tiny", "--fold", "5")


def test_missing_data(workspace: Path, tiny_competition: Competition) -> None:
    assert "nowhere" in refused("init", "new", "--data", "nowhere")
    assert not (workspace / "competitions" / "new" / "competition.yaml").exists()
    shutil.rmtree(tiny_competition.data)
    assert str(Path("competitions/tiny/data")) in refused("train", "colours.yaml", "tiny")


def test_bad_name_or_metric_of_a_new_competition(workspace: Path) -> None:
    assert "'New One'" in refused("init", "New One", "--data", "competitions/tiny/data")
    assert "'auc'" in refused("init", "new", "--data", "competitions/tiny/data", "--metric", "auc")
    for option in ("--target", "--submission"):
        message = refused("init", "new", "--data", "competitions/tiny/data", option, "many")
        assert "'many'" in message
        assert f"check {option}" in message


@pytest.mark.parametrize(
    "words", [["submission", "make", "made2"], ["predict", "made2", "x.jpg"], ["submission", "make", ""]]
)
def test_unknown_experiment(experiment: pd.DataFrame, words: list[str]) -> None:
    assert f"no finished experiment {words[-1] if words[0] == 'submission' else words[1]!r}" in refused(*words)


def test_a_csv_with_faults(workspace: Path, experiment: pd.DataFrame) -> None:
    lines = ["id,label", "t0.jpg,blue", "t1.jpg,purple", "t2.jpg,red", "t2.jpg,red", "t4.jpg,red", "t5.jpg,"]
    (workspace / "mine.csv").write_text("\n".join(lines) + "\n", "utf-8")
    message = refused("submission", "check", "mine.csv")
    for named in ("t2.jpg", "t3.jpg", "t1.jpg ('purple')", "no label: t5.jpg"):
        assert named in message
    assert "absent.csv" in refused("submission", "check", "absent.csv")


def test_usage_errors_have_an_exit_code_and_no_traceback(workspace: Path) -> None:
    for words in (["train"], ["train", "colours.yaml", "tiny", "--workers", "-1"], ["frobnicate"]):
        result = kit(*words)
        assert result.exit_code == 2
        assert "Traceback" not in result.output


def test_folds_are_made_once_and_printed_in_each_format(workspace: Path, tiny_competition: Competition) -> None:
    found = json.loads(kit("folds", "tiny", "--format", "json").stdout)
    assert found == [{"class": name, "fold 0": 4, "fold 1": 4} for name in ("blue", "green", "red")]
    before = tiny_competition.folds_file.read_bytes()
    table = list(csv.DictReader(io.StringIO(kit("folds", "tiny", "--format", "csv").stdout)))
    assert table == [{key: str(value) for key, value in row.items()} for row in found]
    text = kit("folds", "tiny").stdout
    assert text.splitlines()[0].split() == ["class", "fold", "0", "fold", "1"]
    assert "sha256" in text
    assert tiny_competition.folds_file.read_bytes() == before


def test_the_leaderboard_in_each_format(experiment: pd.DataFrame) -> None:
    rows = json.loads(kit("oof", "list", "--format", "json").stdout)
    assert [(row["experiment"], row["score"]) for row in rows] == [("made", 1.0), ("(random classifier)", 0.3)]
    table = list(csv.DictReader(io.StringIO(kit("oof", "list", "--format", "csv").stdout)))
    assert [row["experiment"] for row in table] == [row["experiment"] for row in rows]
    assert [float(row["score"]) for row in table] == [1.0, 0.3]
    assert "1.0000" in kit("oof", "list").stdout


def test_an_empty_leaderboard_parses_too(workspace: Path) -> None:
    assert json.loads(kit("oof", "list", "--format", "json").stdout) == []
    assert "kit train" in kit("oof", "list").stdout


def test_a_submission_is_made_of_the_predictions_and_holds(workspace: Path, experiment: pd.DataFrame) -> None:
    result = kit("submission", "make", "made")
    assert result.exit_code == 0, result.output
    [path] = submissions(workspace)
    assert path.parent.name == "tiny"
    assert path.name.endswith("-made-1.0000.csv")
    written = pd.read_csv(path).set_index("id")["label"]
    assert dict(written) == dict(experiment.idxmax(axis=1))
    check = kit("submission", "check", str(path))
    assert check.exit_code == 0
    assert "matches" in check.stdout
    assert "(6 rows)" in check.stdout


def test_init_describes_the_data_and_says_what_comes_next(workspace: Path) -> None:
    result = kit("init", "again", "--data", "competitions/tiny/data", "--folds", "3")
    assert result.exit_code == 0, result.output
    described = yaml.safe_load((workspace / "competitions" / "again" / "competition.yaml").read_text("utf-8"))
    assert described["train"]["label_column"] == "label"
    assert described["folds"] == 3
    assert "24 training pictures in 3 classes" in result.stdout
    assert "kit train" in result.stdout


def test_every_option_of_init_is_heard(workspace: Path) -> None:
    data = workspace / "competitions" / "tiny" / "data"
    table = pd.read_csv(data / "train.csv")
    hot = pd.get_dummies(table["label"]).astype(int)
    pd.concat([table.rename(columns={"id": "picture"}), hot], axis=1).to_csv(data / "other.csv", index=False)
    shutil.copy(data / "sample_submission.csv", data / "sample_submission_2.csv")
    given = {
        "table": "other.csv",
        "sample": "sample_submission_2.csv",
        "pictures": "train",
        "test-pictures": "test",
        "id-column": "picture",
        "label-columns": "red,green,blue",
        "group-column": "label",
        "target": "single",
        "submission": "ranked",
        "top": "2",
        "metric": "map@2",
        "folds": "3",
    }
    result = kit("init", "new", "--data", str(data), *(word for name in given for word in (f"--{name}", given[name])))
    assert result.exit_code == 0, result.output
    assert yaml.safe_load((workspace / "competitions" / "new" / "competition.yaml").read_text("utf-8")) == {
        "slug": "new",
        "metric": "map@2",
        "target": "single",
        "train": {
            "pictures": "train",
            "table": "other.csv",
            "id_column": "picture",
            "label_columns": ["red", "green", "blue"],
            "match": "path",
            "group_column": "label",
        },
        "test": {"pictures": "test", "match": "path"},
        "sample_submission": "sample_submission_2.csv",
        "submission": "ranked",
        "top": 2,
        "separator": " ",
        "folds": 3,
        "fold_seed": 0,
    }
    each = ("--label-columns", "red", "--label-columns", "green", "--label-columns", "blue")
    words = ["--table", "other.csv", "--sample", "sample_submission.csv", *each, "--group-pattern", "(?P<group>.).*"]
    result = kit("init", "newer", "--data", str(data), *words)
    assert result.exit_code == 0, result.output
    groups = pd.read_csv(workspace / "competitions" / "newer" / "groups.csv", dtype=str)
    assert dict(zip(groups["id"], groups["group"], strict=True)) == {name: name[0] for name in table["id"]}


def test_labels_in_names_and_in_cells(workspace: Path, tiny_competition: Competition) -> None:
    """The other options: of labels in paths and of several in a cell."""
    data = workspace / "competitions" / "tiny" / "data"
    words = ["--label-separator", "e", "--label-column", "label"]
    assert kit("init", "cells", "--data", str(data), *words).exit_code == 0
    described = yaml.safe_load((workspace / "competitions" / "cells" / "competition.yaml").read_text("utf-8"))
    assert (described["target"], described["train"]["label_separator"]) == ("multilabel", "e")
    for row in pd.read_csv(data / "train.csv").itertuples():
        if row.label == "blue":
            (data / "train" / str(row.id)).unlink()
        else:
            (data / "train" / str(row.id)).rename(data / "train" / f"{row.label}x{row.id}")
    words = [
        "--label-pattern",
        "(?P<label>.+)x",
        "--submission",
        "probability",
        "--positive",
        "green",
        "--metric",
        "brier",
    ]
    assert kit("init", "paths", "--data", str(data), *words).exit_code == 0
    described = yaml.safe_load((workspace / "competitions" / "paths" / "competition.yaml").read_text("utf-8"))
    assert described["train"]["label_pattern"] == "(?P<label>.+)x"
    assert (described["positive"], described["metric"]) == ("green", "brier")


def run(words: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*KIT, *words], cwd=folder, capture_output=True, text=True, check=False)


FULL = """
mount -t tmpfs -o size=16k tmpfs runs
"$@"; echo first $?
mount -o remount,size=50m runs
"$@"; echo second $?
"""


@pytest.mark.slow
def test_a_full_disk_is_told_and_once_there_is_room_the_training_goes_on(workspace: Path) -> None:
    alone = ["unshare", "--map-root-user", "--mount"]
    if subprocess.run([*alone, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, check=False).returncode:
        pytest.skip("a small disk cannot be mounted here")
    (workspace / "runs").mkdir()
    command = [*KIT, "train", "colours.yaml", "tiny", "--workers", "0", "--fold", "0", "--set", "stages.0.epochs=2"]
    done = subprocess.run(
        [*alone, "sh", "-c", FULL, "sh", *command], cwd=workspace, capture_output=True, text=True, check=True
    )
    assert "first 1\n" in done.stdout and "second 0\n" in done.stdout, done.stderr
    assert done.stderr.count("error: the disk is full") == 1
    assert "Traceback" not in done.stderr


def test_which_errors_say_that_a_disk_is_full() -> None:
    hdf5 = "[Errno 28] Can't write data (file write failed: error message = 'No space left on device')"
    of_tensorflow = type("ResourceExhaustedError", (Exception,), {})("/x/events; No space left on device")
    for error in (
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Quota"),
        OSError(hdf5),
        of_tensorflow,
    ):
        assert "make room" in str(disk_full(error))
    for other in (OSError(errno.EACCES, "Permission denied"), ValueError("No space left on device")):
        assert disk_full(other) is None


@pytest.mark.slow
def test_the_whole_story_with_an_interruption(workspace: Path, tiny_competition: Competition) -> None:
    words = ["train", "colours.yaml", "tiny", "--workers", "1", "--suffix", "first"]
    marker = workspace / "runs" / "tiny" / "colours-first" / "fold-0" / "fold.json"
    # Ctrl+C reaches all processes, what a process manager sends reaches the command alone.
    for send, how, code in ((os.killpg, signal.SIGINT, 130), (os.kill, signal.SIGTERM, 143)):
        with subprocess.Popen(
            [*KIT, *words], cwd=workspace, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0
        ) as process:
            assert process.stdout
            for line in process.stdout:
                if line.startswith("fold 1 begins"):
                    break
            time.sleep(0.3)
            send(process.pid, how)
            _, stderr = process.communicate(timeout=60)
        assert process.returncode == code
        # Where there is no terminal, a slow machine tells its progress in lines before that.
        told = re.sub(r"^fold \d · .*: [\d,]+ of [\d,]+, [\d:]+ so far\n", "", stderr, flags=re.M)
        assert told.startswith("\ninterrupted: nothing is left half-written")
        assert len(told.splitlines()) == 2  # no traceback, no warning
    kept = marker.stat().st_mtime_ns
    trained = run(words, workspace)
    assert trained.returncode == 0, trained.stderr
    assert "fold 0 is done already" in trained.stdout
    assert marker.stat().st_mtime_ns == kept
    assert "OOF by fold" in trained.stdout
    assert "random classifier" in trained.stdout
    assert "Traceback" not in trained.stderr
    manifest = json.loads((workspace / "oof" / "tiny" / "colours-first" / "manifest.json").read_text("utf-8"))
    assert (workspace / "oof" / "tiny" / "colours-first" / "learning_curves.png").stat().st_size > 1000

    rows = json.loads(kit("oof", "list", "--format", "json").stdout)
    assert {row["experiment"]: row["score"] for row in rows}["colours-first"] == manifest["score"]

    assert kit("submission", "make", "colours-first").exit_code == 0
    [path] = submissions(workspace)
    assert kit("submission", "check", str(path), "--competition", "tiny").exit_code == 0
    answer = pd.read_csv(path, dtype=str)
    assert list(answer["id"]) == [f"t{number}.jpg" for number in range(6)]

    picture = tiny_competition.data / "test" / "t1.jpg"
    predicted = kit("predict", "colours-first", str(picture), "--format", "json", "--top", "2")
    assert predicted.exit_code == 0, predicted.stderr
    first, second = json.loads(predicted.stdout)
    assert first["class"] == answer.set_index("id").loc["t1.jpg", "label"]
    assert [first["rank"], second["rank"]] == [1, 2]
    assert first["probability"] >= second["probability"]

    again = kit("train", "colours.yaml", "tiny", "--suffix", "first", "--submission")
    assert again.exit_code == 0, again.output
    assert marker.stat().st_mtime_ns == kept
    assert len(submissions(workspace)) == 2 or answer.equals(pd.read_csv(submissions(workspace)[0], dtype=str))


@pytest.mark.slow
def test_a_smoke_run_leaves_nothing_that_could_be_taken_for_a_result(workspace: Path) -> None:
    before = sorted(path.name for path in workspace.iterdir())
    done = run(["train", "colours.yaml", "tiny", "--smoke", "--workers", "0"], workspace)
    assert done.returncode == 0, done.stderr
    assert "The scores mean nothing" in done.stdout
    assert re.search(r"fold 0 .* 1 epoch ", done.stdout)
    assert "fold 1" not in done.stdout
    [folder] = re.findall(r"only to see that it runs: on a few rows of each class, in (\S+), which", done.stdout)
    assert not Path(folder).exists()
    assert sorted(path.name for path in workspace.iterdir()) == before
    assert json.loads(kit("oof", "list", "--format", "json").stdout) == []


def test_a_smoke_run_makes_no_submission(workspace: Path) -> None:
    assert "--submission has no effect with --smoke" in refused("train", "demo", "tiny", "--smoke", "--submission")
    assert "--plan has no effect with --smoke" in refused("train", "demo", "tiny", "--smoke", "--plan")
    assert "--suffix has no effect with --smoke" in refused("train", "demo", "tiny", "--smoke", "--suffix", "x")


def test_a_demo_that_was_rendered_but_not_described_is_described(
    tmp_path: Path, tiny_competition: Competition, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    demo = tmp_path / "competitions" / "demo"
    demo.mkdir()
    tiny_competition.data.rename(demo / "data")
    result = kit("demo", "--if-missing")
    assert result.exit_code == 0, result.output
    assert (demo / "competition.yaml").is_file()
    assert "is there" in kit("demo", "--if-missing").output


def test_listing_a_competition_that_does_not_exist_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = kit("oof", "list", "--competition", "nope")
    assert result.exit_code == 1
    assert "there is no competition 'nope'" in result.stderr
