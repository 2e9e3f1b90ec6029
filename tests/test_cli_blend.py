"""`kit blend`: from finished experiments to a new one that is listed and submitted like any other."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer
from typer.testing import CliRunner, Result

from pipeline.artifacts import Workspace
from pipeline.cli.blend import Method, blend
from pipeline.cli.output import reports_errors
from pipeline.cli.results import oof_list, submission_make
from pipeline.competition import Competition
from pipeline.predictions.blend_methods import METHODS
from pipeline.predictions.manifests import read_manifest
from pipeline.predictions.metrics import METRICS
from pipeline.predictions.store import finish_experiment, prediction_frame, read_experiment
from tests.conftest import manifest_scores

CLASSES = ["blue", "green", "red"]
APP = typer.Typer()
for name, command in (("blend", blend), ("list", oof_list), ("make", submission_make)):
    APP.command(name)(reports_errors(command))


def kit(*words: str) -> Result:
    return CliRunner().invoke(APP, list(words))


def done(*words: str) -> str:
    result = kit(*words)
    assert result.exit_code == 0, (result.output, result.exception)
    return str(result.stdout)


def refused(*words: str) -> str:
    """The message on stderr of a call that must fail as a user's error does."""
    result = kit(*words)
    assert isinstance(result.exception, SystemExit) and result.exit_code, (result.output, result.exception)
    for part in ("error: ", "\n  expected: ", "\n  next: "):
        assert part in result.stderr
    return str(result.stderr)


@pytest.fixture
def workspace(tiny_competition: Competition, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """The tiny competition with the experiments `a`, `b` and `noise`; `alone` was held out in a single fold."""
    labels = pd.read_csv(tiny_competition.data / "train.csv", dtype=str)
    truth = labels["label"].map(CLASSES.index).to_numpy()
    tests = [f"t{number}.jpg" for number in range(6)]
    workspace = Workspace(tmp_path)
    for seed, (name, strength) in enumerate({"a": 1.5, "b": 1.5, "noise": 0.0, "alone": 1.5}.items()):
        rng = np.random.default_rng(seed)
        folds = np.zeros(24) if name == "alone" else np.arange(24) // 3 % 2
        logits = rng.normal(size=(24, 3)) + strength * np.eye(3)[truth]
        found = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        oof = prediction_frame(list(labels["id"]), found, CLASSES, fold=folds)
        manifest = {
            "competition": "tiny",
            "experiment": name,
            "metric": "accuracy",
            "target": "single",
            "greater_is_better": True,
            **manifest_scores(METRICS["accuracy"].score(truth, found), folds=sorted({int(fold) for fold in folds})),
            "classes": CLASSES,
            "floors": {"random classifier": {"score": 0.3, "score_se": 0.1}},
            "stages": [{"seconds": 2.0}],
            "fingerprint": name,
            "data_sha256": "data",
            "folds_sha256": "one" if name == "alone" else "two",
            "created": "2026-01-01T00:00:00+00:00",
        }
        frames = {"oof.parquet": oof, "test.parquet": prediction_frame(tests, found[:6], CLASSES)}
        finish_experiment(workspace.oof("tiny", name), frames, manifest)
    monkeypatch.chdir(tmp_path)
    return workspace


def test_the_methods_are_those_that_there_are() -> None:
    assert [method.value for method in Method] == list(METHODS)


def test_a_blend_is_made_listed_and_submitted(workspace: Workspace) -> None:
    printed = done("blend", "a", "b", "noise", "--name", "both")
    lines = printed.splitlines()
    assert lines[0].split()[:4] == ["method", "accuracy", "±", "se"]
    assert [line.split()[0] for line in lines[2:9]] == list(METHODS)
    manifest = read_manifest(workspace, "tiny", "both")
    [chosen] = [line.split() for line in lines[2:9] if " yes " in line]
    assert chosen[0] == manifest["blend"]["method"]
    assert chosen[1] == f"{manifest['score']:.4f}"
    assert f"chosen: {chosen[0]}, {manifest['blend']['reason']}" in printed
    assert "next: kit submission make both --competition tiny" in printed

    assert f"{manifest['score']:.4f}" in next(line for line in done("list").splitlines() if "both" in line)
    assert "matches the sample submission (6 rows)" in done("make", "both")
    [file] = Path("submissions/tiny").glob("*-both-*.csv")
    stored = read_experiment(workspace, "tiny", "both").test.set_index("id")
    submitted = pd.read_csv(file).set_index("id")["label"]
    assert submitted.to_dict() == stored[CLASSES].idxmax(axis=1).to_dict()


def test_the_method_the_temperature_and_the_name_are_as_told(workspace: Workspace) -> None:
    printed = done("blend", "a", "b", "--method", "convex", "--temperature")
    manifest = read_manifest(workspace, "tiny", "blend-convex-temperature-a-b")
    assert manifest["blend"]["method"] == "convex"
    assert all(member["temperature"] > 0 for member in manifest["blend"]["members"])
    assert "chosen: convex, as told" in printed
    assert "temperatures (above 1: less sure than predicted): a " in printed


def test_json_and_csv_hold_all_there_is_to_know(workspace: Workspace) -> None:
    rows = json.loads(done("blend", "a", "b", "--format", "json"))
    manifest = read_manifest(workspace, "tiny", "blend-a-b")
    assert [row["method"] for row in rows] == list(METHODS)
    [chosen] = [row for row in rows if row["chosen"]]
    assert (chosen["score"], chosen["score_se"]) == (manifest["score"], manifest["score_se"])
    assert {row["experiment"] for row in rows} == {"blend-a-b"}
    mean, stacking = rows[1], rows[-1]
    assert (mean["weight_a"], mean["weight_b"]) == (0.5, 0.5)
    assert stacking["weight_a"] is None
    as_csv = list(csv.DictReader(io.StringIO(done("blend", "a", "b", "--format", "csv"))))
    assert [row["score"] for row in as_csv] == [str(row["score"]) for row in rows]


def test_one_fold_leaves_what_fits_nothing(workspace: Workspace) -> None:
    other = workspace.oof("tiny", "lonely")
    other.mkdir()
    for file in workspace.oof("tiny", "alone").iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    printed = done("blend", "alone", "lonely")
    assert "there is one fold" in printed
    assert "convex" not in printed
    assert "convex has nothing to be fitted on" in refused("blend", "alone", "lonely", "--method", "convex")


def test_what_cannot_be_blended_is_refused(workspace: Workspace) -> None:
    assert "a is named 2 times" in refused("blend", "a", "b", "a")
    assert "a blend of a alone" in refused("blend", "a")
    assert "did you mean 'noise'" in refused("blend", "a", "nois")
    assert "alone cannot be held against a: it has other folds" in refused("blend", "a", "alone")
    assert "cannot be an experiment's name" in refused("blend", "a", "b", "--name", "A/b")
    assert "holds another experiment" in refused("blend", "a", "b", "--name", "noise")
    assert read_manifest(workspace, "tiny", "noise")["stages"]
    assert not (workspace.root / "oof" / "tiny" / "blend-a").exists()


def test_labels_that_have_changed_are_refused(workspace: Workspace, tiny_competition: Competition) -> None:
    table = tiny_competition.data / "train.csv"
    table.write_text(
        table.read_text("utf-8").replace("blue", "x").replace("green", "blue").replace("x", "green"), "utf-8"
    )
    assert "with the labels as they are now" in refused("blend", "a", "b")
