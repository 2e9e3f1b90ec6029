"""Labels that have nothing to do with the pictures: no score that the kit reports may be above chance.

What is fitted, chosen or averaged on the way could leak a row's label into its own score. In every fold each class has
as many rows, so that a row's label says nothing of the others', and what knows nothing reaches exactly chance.
"""

import itertools
import math
import os

os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")  # tiny pictures: more threads only get in each other's way
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "2")

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from threadpoolctl import threadpool_limits

from pipeline.artifacts import Workspace
from pipeline.competition import Competition
from pipeline.data.index import train_index
from pipeline.predictions.aligned import Aligned, align
from pipeline.predictions.blend import Calibration, make_blend
from pipeline.predictions.blend_methods import METHODS
from pipeline.predictions.compare import compare
from pipeline.predictions.decide import decision_from, fit_decision
from pipeline.predictions.metrics import METRICS, metric_of
from pipeline.predictions.store import CURVES, Experiment, read_experiment
from pipeline.recipe import parse_recipe
from pipeline.training.cross_validate import cross_validate
from pipeline.training.fold import Machine, train_fold
from tests.conftest import write_competition, write_table

CLASSES = ("blue", "green", "red", "white")
FOLDS = 5

# --- Predictions of nothing, many times over: small leaks add up.

ROWS, MEMBERS, REPEATS = 200, 4, 20
CHANCE = {
    "accuracy": 1 / 4,
    "macro_f1": 1 / 4,
    "quadratic_kappa": 0.0,
    "roc_auc": 1 / 2,
    "map@3": (1 + 1 / 2 + 1 / 3) / 4,
}


def knowing_nothing(metric: str, seed: int) -> Aligned:
    """Experiments of random probabilities, the later the surer of themselves."""
    rng = np.random.default_rng([7, seed])
    folds = np.arange(ROWS) % FOLDS
    labels = np.arange(ROWS) // FOLDS % len(CLASSES)
    for fold in range(FOLDS):
        labels[folds == fold] = rng.permutation(labels[folds == fold])
    exponentials = np.exp([(0.5 + 0.5 * number) * rng.normal(size=(ROWS, len(CLASSES))) for number in range(MEMBERS)])
    members = (exponentials / exponentials.sum(axis=2, keepdims=True)).astype(np.float32)
    return Aligned(
        metric=metric_of({"metric": metric, "classes": CLASSES}),
        classes=list(CLASSES),
        ids=[f"{number:04}" for number in range(ROWS)],
        labels=labels,
        folds=folds,
        probabilities={f"m{number}": found for number, found in enumerate(members)},
    )


def several_knowing_nothing(seed: int) -> Aligned:
    """The same where a picture has any of three labels, each of them in half of every fold's rows."""
    rng = np.random.default_rng([8, seed])
    folds, labels = np.arange(ROWS) % FOLDS, np.zeros((ROWS, 3), dtype=np.int64)
    for fold in range(FOLDS):
        own = np.flatnonzero(folds == fold)
        for column in range(3):
            labels[rng.permutation(own)[: len(own) // 2], column] = 1
    return Aligned(
        metric=METRICS["roc_auc"],
        classes=["a", "b", "c"],
        ids=[f"{number:04}" for number in range(ROWS)],
        labels=labels,
        folds=folds,
        probabilities={f"m{number}": rng.random((ROWS, 3), dtype=np.float32) for number in range(MEMBERS)},
    )


def errors_above(scores: Sequence[float], level: float) -> float:
    """By how many standard errors the mean of repeats is above a level."""
    return float((np.mean(scores) - level) / (np.std(scores, ddof=1) / math.sqrt(len(scores))))


@pytest.mark.parametrize("calibration", ["none", "temperature"])
@pytest.mark.parametrize("metric", CHANCE)
def test_cross_fitted_blends_of_nothing_score_at_chance(metric: str, calibration: Calibration) -> None:
    blends = [make_blend(knowing_nothing(metric, seed), calibration=calibration) for seed in range(REPEATS)]
    for number, name in enumerate(METHODS):
        scored = [blend.scored[number] for blend in blends]
        assert {one.name for one in scored} == {name}
        assert abs(errors_above([one.score for one in scored], CHANCE[metric])) < 3, name
        # and the errors that are stated are of the size of what is seen
        spread = np.std([one.score for one in scored], ddof=1)
        assert 0.5 < np.mean([one.score_se for one in scored]) / spread < 1.6, name
    # What is stored is the chosen method's, and it is chosen by these very scores: that flatters, by a known amount.
    flattery = np.mean([(blend.result.score - CHANCE[metric]) / blend.result.score_se for blend in blends])
    assert 0 < flattery < 1.3


def test_cross_fitted_blends_of_several_labels_score_at_chance() -> None:
    blends = [make_blend(several_knowing_nothing(seed)) for seed in range(REPEATS)]
    assert [one.name for one in blends[0].scored] == ["single", "mean", "hill"]
    for number in range(3):
        scored = [blend.scored[number] for blend in blends]
        assert abs(errors_above([one.score for one in scored], 1 / 2)) < 3, scored[0].name


@pytest.mark.parametrize("calibration", ["none", "temperature"])
def test_the_log_loss_of_blends_of_nothing_is_no_better_than_that_of_chance(calibration: Calibration) -> None:
    blends = [make_blend(knowing_nothing("log_loss", seed), calibration=calibration) for seed in range(REPEATS)]
    for number, name in enumerate(METHODS):
        scores = [blend.scored[number].score for blend in blends]
        assert errors_above(scores, math.log(4)) > -3, name
        if calibration == "temperature":  # which learns that the members know nothing
            assert np.mean(scores) < math.log(4) + 0.02, name


@pytest.mark.parametrize(
    ("metric", "fitted"),
    [
        ("accuracy", ["single", "hill", "stacking"]),
        ("roc_auc", ["single", "convex", "hill", "stacking"]),
        ("log_loss", ["stacking"]),
    ],
)
def test_blends_scored_on_the_rows_they_were_fitted_on_score_above_chance(metric: str, fitted: list[str]) -> None:
    """What the tests above would see if something were not cross-fitted."""
    chance = CHANCE.get(metric, math.log(4))
    with threadpool_limits(1):
        for name in fitted:
            gains = []
            for seed in range(REPEATS):
                case = knowing_nothing(metric, seed)
                members = np.stack(list(case.probabilities.values()))
                found = METHODS[name].fit(members, case.labels, case.metric).apply(members)
                gains.append(case.metric.gain(chance, case.metric.score(case.labels, found)))
            assert errors_above(gains, 0) > 3, name


# --- Networks that were really trained, on noise.

PICTURES, SIDE, HALVES = 240, 16, 2


@dataclass(frozen=True)
class Noise:
    """A competition of pictures of noise, each label as often in one fold as in the other."""

    competition: Competition
    workspace: Workspace

    def trained(self, select_on: str, seed: int, *, epochs: int = 30) -> Experiment:
        stage: dict[str, Any] = {"name": "all", "unfreeze": 1, "size": [SIDE, SIDE], "batch_norm": "trained"}
        stage |= {"epochs": epochs, "batch_size": 40, "learning_rate": 0.01, "augment": "none"}
        stage |= {"monitor": "score"} if select_on == "fold" else {}
        recipe = parse_recipe(
            {
                "name": f"{select_on}-{seed}",
                "backbone": "tiny",
                "weights": "none",
                "seed": seed,
                "select_on": select_on,
                "stages": [stage],
                "tta": {"views": ["flip"]},
            },
            source="of the test",
        )
        how: dict[str, Any] = {"machine": Machine(workers=0), "engine": train_fold}
        cross_validate(recipe, self.competition, experiment=recipe.name, workspace=self.workspace, **how)
        return read_experiment(self.workspace, "noise", recipe.name)


def noise_in(root: Path, cells: Sequence[str], *, columns: Sequence[str] = (), **settings: Any) -> Noise:
    """Pictures that are given these labels one after the other, and over again.

    Args:
        columns: Of 0 and 1, where a picture may have several labels.
    """
    rng, numbers = np.random.default_rng(0), range(PICTURES)
    data = root / "competitions" / "noise" / "data"
    (data / "train").mkdir(parents=True)
    for number in numbers:
        picture = Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))
        picture.save(data / "train" / f"{number:03}.png")
    header = ",".join(["id", *(columns or ["label"])])
    write_table(data / "train.csv", header, *(f"{n:03}.png,{cells[n % len(cells)]}" for n in numbers))
    write_table(data.parent / "folds.csv", "id,fold", *(f"{n:03}.png,{n // len(cells) % HALVES}" for n in numbers))
    labels = {"label_columns": columns} if columns else {"label_column": "label"}
    train = {"pictures": "train", "table": "train.csv", "id_column": "id", **labels}
    return Noise(write_competition(root, "noise", train=train, folds=HALVES, **settings), Workspace(root))


def at_chance(score: float, chance: float = 1 / 4, error: float = math.sqrt(1 / 4 * 3 / 4 / PICTURES)) -> bool:
    """Whether a score is, within three standard errors; by default an accuracy with its binomial one."""
    return abs(score - chance) < 3 * error


def aligned_on(noise: Noise, members: Sequence[Experiment]) -> Aligned:
    table = train_index(noise.competition)
    return align(members, dict(zip(table["id"], table["label"], strict=True)))


@pytest.mark.slow
def test_what_is_trained_on_noise_scores_at_chance_unless_the_scored_rows_choose(tmp_path: Path) -> None:
    noise = noise_in(tmp_path, CLASSES)
    honest = [noise.trained("last", seed) for seed in (0, 1)]
    aligned = aligned_on(noise, honest)
    for one in honest:
        assert one.manifest["tta_score"] is not None
        for score in ("oof_score", "score", "tta_score"):
            assert at_chance(one.manifest[score]), (one.name, score)
    compared = compare(aligned, resamples=200)
    assert [one.verdict for one in compared.differences.values()] == ["not distinguishable"]
    for calibration in get_args(Calibration):
        for method in make_blend(aligned, calibration=calibration).scored:
            assert at_chance(method.score), (calibration, method)

    flattered = noise.trained("fold", 0)
    # The same networks, as nothing else differs: where the scored rows choose the epoch, it is the best of 30 by luck.
    curves = pd.read_csv(noise.workspace.oof("noise", "last-0") / CURVES)
    by_fold = curves.groupby("fold")["val_accuracy"]
    assert (curves.groupby("fold")["accuracy"].max() > 0.95).all()  # learnt by heart
    assert list(honest[0].manifest["fold_scores"].values()) == pytest.approx(by_fold.last().tolist())
    assert list(flattered.manifest["fold_scores"].values()) == pytest.approx(by_fold.max().tolist())
    assert flattered.manifest["score"] > honest[0].manifest["score"]
    assert flattered.manifest["score"] > by_fold.mean().mean() + 0.02


@pytest.mark.slow
@pytest.mark.parametrize("target", ["several labels", "grades"])
def test_thresholds_and_cut_points_of_a_network_trained_on_noise_score_at_chance(tmp_path: Path, target: str) -> None:
    """To have all of three labels right is one in eight whatever is said, as each set of them is as frequent in each
    fold; the kappa of what knows nothing of the grades is 0."""
    if target == "grades":
        noise = noise_in(tmp_path, "0123", metric="quadratic_kappa")
    else:
        cells = [",".join(row) for row in itertools.product("01", repeat=3)]
        settings = {"target": "multilabel", "submission": "probabilities", "metric": "accuracy"}
        noise = noise_in(tmp_path, cells, columns=["a", "b", "c"], **settings)
    network = noise.trained("last", 0, epochs=10)
    curves = pd.read_csv(noise.workspace.oof("noise", "last-0") / CURVES)
    assert (curves.groupby("fold")["accuracy"].max() > 0.95).all()  # learnt by heart
    aligned = aligned_on(noise, [network])
    blind = np.random.default_rng(9).random((PICTURES, len(aligned.classes)), dtype=np.float32)
    blind = blind / blind.sum(axis=1, keepdims=True) if target == "grades" else blind
    blend = make_blend(replace(aligned, probabilities={**aligned.probabilities, "blind": blind}))
    of_blend = fit_decision(aligned.metric, aligned.labels, blend.oof, aligned.folds)
    assert of_blend is not None
    decisions = [decision_from(network.manifest["decision"]), of_blend]
    assert {one.kind for one in decisions} <= ({"cuts"} if target == "grades" else {"threshold", "thresholds"})

    scores = [network.manifest[score] for score in ("oof_score", "score", "tta_score")]
    scores += [method.score for method in blend.scored] + [one.score for one in decisions]
    chance, error = 1 / 8, math.sqrt(1 / 8 * 7 / 8 / PICTURES)
    if target == "grades":
        chance, error = 0, network.manifest["score_se"]
    assert all(at_chance(score, chance, error) for score in scores), scores
    # Fitted on the rows that are scored they score higher there, which 240 rows alone are too few to show every time.
    assert min(one.optimism for one in decisions) > 0
