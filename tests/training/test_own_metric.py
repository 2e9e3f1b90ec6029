"""A competition whose metric is a file of its own: trained, compared, blended, reported and scored by it."""

import shutil
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from pipeline.artifacts import Workspace, read_json, write_json
from pipeline.cli import app
from pipeline.competition import load_competition
from pipeline.predictions.metrics import METRICS
from pipeline.predictions.store import probabilities_of, read_predictions
from pipeline.rehearsal.hosted import hosted_from
from tests.conftest import write_table, write_tiny_competition
from tests.training.conftest import Run, recipe_of, stage

METRIC = """
class ParticipantVisibleError(Exception):
    pass

def score(solution, submission, row_id_column_name: str) -> float:
    wrong = solution.iloc[:, 1] != submission.iloc[:, 1]
    return float(wrong.mean())
"""


@pytest.mark.slow
def test_from_training_to_a_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pipeline.predictions.metrics.FEW", 15)  # resamples
    competition = write_tiny_competition(tmp_path)
    said = yaml.safe_load(competition.file.read_text())
    competition.file.write_text(yaml.safe_dump(said | {"metric": "metric.py", "greater_is_better": False}))
    (competition.folder / "metric.py").write_text(METRIC)
    competition = load_competition("tiny", root=tmp_path)
    recipe = recipe_of(stage("once", size=[16, 16], batch_size=8, monitor="score"), select_on="fold")
    run = Run(competition, Workspace(tmp_path), recipe, "one")
    run.train()
    manifest, data = read_json(run.oof / "manifest.json"), run.data
    assert (manifest["metric"], manifest["greater_is_better"]) == ("metric.py", False)
    found = probabilities_of(read_predictions(run.oof / "oof.parquet"), list(data.train["id"]), data.classes)
    assert manifest["score"] == pytest.approx(1 - METRICS["accuracy"].score(data.labels, found))
    assert manifest["score_se"] > 0

    other = shutil.copytree(run.oof, run.oof.with_name("other")) / "manifest.json"
    write_json(other, manifest | {"experiment": "other"})
    for line in ("oof compare one other", "blend one other", "report --competition tiny"):
        done = CliRunner().invoke(app, line.split())
        assert done.exit_code == 0, f"{line}\n{done.output}\n{done.exception!r}"
        assert "metric.py" in done.output or "report" in line
    solution = write_table(tmp_path / "solution.csv", "id,label", *(f"t{number}.jpg,blue" for number in range(6)))
    sample = write_table(tmp_path / "made.csv", "id,label", *(f"t{number}.jpg,green" for number in range(6)))
    assert hosted_from(competition, solution=solution).score(sample).private == 1.0
