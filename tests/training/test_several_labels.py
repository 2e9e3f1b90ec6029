"""Pictures with several labels from the table to the score: each class is said by itself, in every step."""

from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline.artifacts import Workspace
from pipeline.competition import Competition
from pipeline.data.competition_data import load_data
from pipeline.errors import DataError, RecipeError
from pipeline.predictions.aligned import align
from pipeline.predictions.blend import make_blend
from pipeline.predictions.compare import compare
from pipeline.predictions.decide import decision_from, fit_decision
from pipeline.predictions.pseudo import make_pseudo_labels
from pipeline.predictions.store import read_experiment, read_predictions
from pipeline.rehearsal.hosted import hosted_from
from pipeline.report.details import describe
from pipeline.submit.submission import check_submission, make_submission, write_submission
from pipeline.training.predict import fit_oof_temperature, predict_pictures, read_fold_models
from tests.conftest import write_competition, write_table
from tests.training.conftest import Run, recipe_of, stage

COLOURS = {"blue": (20, 40, 230), "red": (230, 40, 20)}
RECIPE = recipe_of(
    stage("warm", epochs=20, batch_size=8, learning_rate=0.02, mixup=0.1),
    label_smoothing=0.05,
    select_on="last",
    tta={"views": ["flip"]},
)


def draw(path: Path, colours: list[str], seed: int) -> None:
    """A patch of each colour on grey noise."""
    rng = np.random.default_rng(seed)
    picture = rng.integers(90, 130, (32, 32, 3)).astype(np.uint8)
    for number, colour in enumerate(colours):
        top, left = rng.integers(1, 17), 1 + 16 * number
        picture[top : top + 14, left : left + 14] = COLOURS[colour]
    Image.fromarray(picture).save(path)


def combinations(count: int, seed: int) -> list[list[str]]:
    rng = np.random.default_rng(seed)
    return [[name for name in COLOURS if rng.random() < 0.5] or ["red"] for _ in range(count)]


def write_several(root: Path, *, form: str, metric: str) -> Competition:
    folder = root / "competitions" / "patches"
    rows = {}
    for part, count, seed in (("train", 48, 0), ("test", 12, 1)):
        (folder / "data" / part).mkdir(parents=True)
        for number, colours in enumerate(combinations(count, seed)):
            draw(folder / "data" / part / f"{part}{number}.png", colours, 100 * seed + number)
            rows[f"{part}{number}.png"] = colours
    lines = [f"{key},{' '.join(colours)}" for key, colours in rows.items()]
    write_table(folder / "data" / "train.csv", "id,labels", *(line for line in lines if line.startswith("train")))
    write_table(folder / "solution.csv", "id,labels", *(line for line in lines if line.startswith("test")))
    header = "id,labels" if form == "names" else "id,red,blue"
    blank = "red" if form == "names" else "0,0"
    sample = [f"{key},{blank}" for key in rows if key.startswith("test")]
    write_table(folder / "data" / "sample.csv", header, *sample)
    train = {"pictures": "train", "table": "train.csv", "id_column": "id", "label_column": "labels"}
    return write_competition(
        root,
        "patches",
        train={**train, "label_separator": " "},
        test={"pictures": "test"},
        target="multilabel",
        sample_submission="sample.csv",
        submission=form,
        metric=metric,
        folds=2,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    root = tmp_path_factory.mktemp("several")
    trained = Run(write_several(root, form="names", metric="sample_f1"), Workspace(root), RECIPE, "several")
    trained.train()
    return trained


def test_each_class_is_said_by_itself_and_learnt(run: Run) -> None:
    manifest = read_experiment(run.workspace, "patches", "several").manifest
    assert (manifest["target"], manifest["classes"]) == ("multilabel", ["blue", "red"])
    floor = max(one["score"] for one in manifest["floors"].values())
    assert manifest["oof_score"] > floor + 3 * manifest["oof_score_se"]
    for name in ("oof", "oof_tta", "test", "test_tta"):
        found = read_predictions(run.oof / f"{name}.parquet")[["blue", "red"]].to_numpy()
        assert (np.abs(found.sum(axis=1) - 1) > 0.05).any(), "not one class among all"
        assert ((found > 0) & (found < 1)).all()


def test_the_score_is_that_of_the_stored_predictions(run: Run) -> None:
    stored = read_experiment(run.workspace, "patches", "several")
    truth = pd.read_csv(run.competition.data / "train.csv").set_index("id")["labels"].str.get_dummies(" ")
    chosen = (stored.oof.set_index("id").loc[truth.index, ["blue", "red"]] >= 0.5).to_numpy()
    both = (chosen & truth.to_numpy().astype(bool)).sum(axis=1)
    f1 = 2 * both / np.maximum(chosen.sum(axis=1) + truth.to_numpy().sum(axis=1), 1)
    assert stored.score == pytest.approx(f1.mean())


def test_the_submission_holds_and_the_rehearsal_scores_it(run: Run) -> None:
    stored = read_experiment(run.workspace, "patches", "several")
    path = write_submission(
        run.competition,
        stored.test,
        stored.classes,
        experiment="several",
        score=stored.score,
        workspace=run.workspace,
        now=datetime(2026, 1, 2),
    )
    assert check_submission(run.competition, path, classes=stored.classes).faults == ()
    hosted = hosted_from(run.competition, solution=run.competition.folder / "solution.csv")
    scored = hosted.score(path)
    assert min(scored.public, scored.private) > 0.6
    truth = write_table(path.parent / "truth.csv", *(run.competition.folder / "solution.csv").read_text().splitlines())
    assert (hosted.score(truth).public, hosted.score(truth).private) == (1, 1)


def test_thresholds_are_fitted_on_the_other_folds_and_used_where_that_is_better(run: Run, tmp_path: Path) -> None:
    stored = read_experiment(run.workspace, "patches", "several")
    said = stored.manifest["decision"]
    assert said["plain_score"] == pytest.approx(stored.score)
    labels = align([stored], dict(zip(run.data.train["id"], run.data.train["label"], strict=True)))
    again = fit_decision(labels.metric, labels.labels, labels.probabilities["several"], labels.folds, at_least_one=True)
    assert again == decision_from(said)
    # A threshold of 0.999 calls the likeliest class alone, whatever one half would say.
    strict = replace(again, used=True, kind="threshold", values=(0.999,))
    usual, changed = (make_submission(run.competition, stored.test, stored.classes, one) for one in (None, strict))
    assert usual["labels"].str.contains(" ").any() and not changed["labels"].str.contains(" ").all()
    assert (usual["labels"] != changed["labels"]).any()
    manifest = {**stored.manifest, "decision": {**asdict(strict), "score": 0.5, "score_se": 0.1, "plain_score": 0.4}}
    with_it = replace(stored, manifest=manifest)
    assert (with_it.submitted_score, with_it.submitted_score_se) == (0.5, 0.1)
    without = replace(stored, manifest={**manifest, "decision": {**manifest["decision"], "used": False}})
    assert without.submitted_score == 0.4, "of what is written, the likeliest where nothing is chosen"


def test_single_pictures_get_what_the_test_pictures_got(run: Run) -> None:
    models = read_fold_models(run.workspace, "patches", "several")
    assert fit_oof_temperature(models, run.workspace) is None
    data = load_data(run.competition)
    found = predict_pictures([Path(path) for path in data.test["path"][:3]], models=models)
    stored = read_experiment(run.workspace, "patches", "several").test
    np.testing.assert_allclose(found[["blue", "red"]], stored[["blue", "red"]][:3], atol=1e-5)


def test_experiments_are_compared_blended_and_described(run: Run) -> None:
    stored = read_experiment(run.workspace, "patches", "several")
    labels = dict(zip(run.data.train["id"], run.data.train["label"], strict=True))
    aligned = align([stored], labels)
    aligned.probabilities["worse"] = np.full_like(aligned.probabilities["several"], 0.5)
    comparison = compare(aligned)
    assert [one.name for one in comparison.standings] == ["several", "worse"]
    blend = make_blend(aligned)
    assert blend.method in ("single", "mean", "hill")
    with pytest.raises(DataError, match="the method stacking is for one label a picture"):
        make_blend(aligned, method="stacking")
    details = describe(stored, comparison.standings[0], aligned, None)
    assert details.matrix is None and [row["class"] for row in details.classes] == ["blue", "red"]
    assert all(one.true != one.predicted for one in details.mistakes)


def test_what_is_of_one_label_is_refused_by_name(run: Run, tmp_path: Path) -> None:
    at_once = recipe_of(
        stage("head", optimizer="logistic_regression", unfreeze=0, batch_norm="frozen", learning_rate=1),
        select_on="last",
    )
    with pytest.raises(RecipeError, match="logistic regression, which is of one label a picture"):
        Run(run.competition, Workspace(tmp_path), at_once, "probe").train()
    stored = read_experiment(run.workspace, "patches", "several")
    with pytest.raises(DataError, match="pseudo-labelling is for one label a picture"):
        make_pseudo_labels(stored, {}, folds_sha256="", min_confidence=0.9, workspace=run.workspace)


def test_extra_rows_have_several_labels_too(run: Run, tmp_path: Path) -> None:
    competition = write_several(tmp_path, form="names", metric="sample_f1")
    more = competition.folder / "data" / "more"
    more.mkdir()
    for number, colours in enumerate(combinations(6, 9)):
        draw(more / f"m{number}.png", colours, 900 + number)
    rows = [f"m{number}.png,{' '.join(colours)}" for number, colours in enumerate(combinations(6, 9))]
    write_table(competition.folder / "data" / "more.csv", "id,labels", *rows)
    source = {"pictures": "more", "table": "more.csv", "id_column": "id", "label_column": "labels"}
    settings = competition.model_dump(mode="json", exclude={"slug", "extra", "top", "class_weights"}, exclude_none=True)
    settings["train"] = {key: value for key, value in settings["train"].items() if value}
    competition = write_competition(tmp_path, "patches", **settings, extra={"more": {**source, "label_separator": " "}})
    brief = recipe_of(stage("brief", batch_size=8), extra=["more"], select_on="last")
    other = Run(competition, Workspace(tmp_path), brief, "more")
    manifest = other.train(folds=[0])
    assert [sum(counts.values()) for counts in manifest["extra_rows"].values()] == [6]


def test_a_column_a_class_is_cut_where_the_metric_wants_labels(run: Run, tmp_path: Path) -> None:
    stored = read_experiment(run.workspace, "patches", "several")
    for metric, values in (("micro_f1", {"0", "1"}), ("roc_auc", None)):
        wide = write_several(tmp_path / metric, form="probabilities", metric=metric)
        path = write_submission(
            wide,
            stored.test,
            stored.classes,
            experiment="x",
            score=0.5,
            workspace=Workspace(tmp_path / metric),
            now=datetime(2026, 1, 2),
        )
        table = pd.read_csv(path, dtype=str)
        assert list(table) == ["id", "red", "blue"]
        assert values is None or set(table[["red", "blue"]].to_numpy().ravel()) <= values
