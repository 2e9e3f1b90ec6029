"""Metrics against values worked out by hand and against scikit-learn; standard errors; the floor of chance."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics as sklearn_metrics

from pipeline.predictions.floors import floor_scores
from pipeline.predictions.metrics import METRICS, Metric, paired_gain, standard_error

LABELS = np.array([0, 1, 2, 1])
PROBABILITIES = np.array(
    [
        [0.70, 0.20, 0.10],  # right
        [0.10, 0.80, 0.10],  # right
        [0.30, 0.40, 0.30],  # 1 instead of 2
        [0.50, 0.25, 0.25],  # 0 instead of 1
    ]
)
BY_HAND = {
    "accuracy": 2 / 4,
    "balanced_accuracy": (1 + 1 / 2 + 0) / 3,
    "micro_f1": 2 / 4,  # with one label a picture
    "sample_f1": 2 / 4,
    # Rows 4, right 2; of the classes 1, 2, 1; predicted 2, 2, 0.
    "matthews": (4 * 2 - (1 * 2 + 2 * 2)) / math.sqrt((16 - 8) * (16 - 6)),
    # Squared differences of each row: 0.3² + 0.2² + 0.1², ...
    "brier": ((0.09 + 0.04 + 0.01) + (0.01 + 0.04 + 0.01) + (0.09 + 0.16 + 0.49) + (0.25 + 0.5625 + 0.0625)) / 4,
    "log_loss": -(math.log(0.7) + math.log(0.8) + math.log(0.3) + math.log(0.25)) / 4,
    # 2·tp / (2·tp + fp + fn) of each class
    "macro_f1": (2 / (2 + 1 + 0) + 2 / (2 + 1 + 1) + 0) / 3,
    # Mean squared distance observed, (0 + 0 + 1 + 1) / 4, over that of independent marginals, which is 1.
    "quadratic_kappa": 1 - 0.5 / 1.0,
    # Pairs in the right order, of one class against the rest: 3 of 3, 3 of 4, 3 of 3.
    "roc_auc": (1 + 3 / 4 + 1) / 3,
}


def random_predictions(rows: int, classes: int, *, seed: int = 0) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Predictions that are better than chance and far from perfect."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, rows)
    logits = rng.normal(size=(rows, classes)) + 1.0 * np.eye(classes)[labels]
    exponentials = np.exp(logits)
    return labels, exponentials / exponentials.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("name", METRICS)
def test_score_by_hand(name: str) -> None:
    assert METRICS[name].score(LABELS, PROBABILITIES) == pytest.approx(BY_HAND[name], rel=1e-9)


def _roc_auc(labels: NDArray[np.int64], probabilities: NDArray[np.float64]) -> float:
    return float(sklearn_metrics.roc_auc_score(labels, probabilities, multi_class="ovr", average="macro"))


SCIKIT_LEARN: dict[str, Callable[[NDArray[np.int64], NDArray[np.float64]], float]] = {
    "accuracy": lambda y, p: sklearn_metrics.accuracy_score(y, p.argmax(axis=1)),
    "balanced_accuracy": lambda y, p: sklearn_metrics.balanced_accuracy_score(y, p.argmax(axis=1)),
    "micro_f1": lambda y, p: sklearn_metrics.f1_score(y, p.argmax(axis=1), average="micro"),
    "sample_f1": lambda y, p: sklearn_metrics.f1_score(np.eye(5)[y], np.eye(5)[p.argmax(axis=1)], average="samples"),
    "matthews": lambda y, p: sklearn_metrics.matthews_corrcoef(y, p.argmax(axis=1)),
    "brier": sklearn_metrics.brier_score_loss,
    "log_loss": sklearn_metrics.log_loss,
    "macro_f1": lambda y, p: sklearn_metrics.f1_score(y, p.argmax(axis=1), average="macro"),
    "quadratic_kappa": lambda y, p: sklearn_metrics.cohen_kappa_score(y, p.argmax(axis=1), weights="quadratic"),
    "roc_auc": _roc_auc,
}


@pytest.mark.parametrize("name", METRICS)
def test_score_is_scikit_learns(name: str) -> None:
    labels, probabilities = random_predictions(300, 5)
    expected = SCIKIT_LEARN[name](labels, probabilities)
    assert METRICS[name].score(labels, probabilities) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("decimals", [1, 2])
def test_roc_auc_with_many_ties_is_scikit_learns(decimals: int) -> None:
    labels, probabilities = random_predictions(300, 5)
    tied = probabilities.round(decimals)
    assert len(np.unique(tied)) < 102
    expected = [sklearn_metrics.roc_auc_score(labels == number, tied[:, number]) for number in range(5)]
    assert METRICS["roc_auc"].score(labels, tied) == pytest.approx(np.mean(expected), rel=1e-12)


@pytest.mark.parametrize("name", [name for name, metric in METRICS.items() if metric.per_row])
def test_a_score_is_the_mean_of_its_rows_parts(name: str) -> None:
    metric = METRICS[name]
    labels, probabilities = random_predictions(200, 4)
    for given in (labels, np.where(labels == 3, 0, labels), np.zeros_like(labels)):  # classes without rows, too
        for found in (probabilities, probabilities.round(1), probabilities.astype(np.float32)):
            assert metric.per_row is not None
            parts = metric.per_row(given, found)
            assert parts.shape == (200,)
            assert parts.mean() == pytest.approx(metric.score(given, found), rel=1e-12)


def test_the_rows_parts_in_roc_auc_by_hand() -> None:
    """Of class 1 two rows, of class 0 three; one pair ties."""
    labels = np.array([1, 0, 1, 0, 0])
    of_one = np.array([0.8, 0.5, 0.5, 0.2, 0.6])
    found = np.stack([1 - of_one, of_one], axis=1)
    # Shares of the other side that a row is in the right order with: 3/3 and 1.5/3; 1.5/2, 2/2 and 1/2.
    area, own, rest = 0.75, np.array([1, 0.5]), np.array([0.75, 1, 0.5])
    roc_auc = METRICS["roc_auc"]
    assert roc_auc.per_row is not None
    assert roc_auc.score(labels, found) == area
    by_hand = np.array([0, 0, 0, 0, 0]) + area
    by_hand[[0, 2]] += (own - area) * 5 / 2
    by_hand[[1, 3, 4]] += (rest - area) * 5 / 3
    assert roc_auc.per_row(labels, found) == pytest.approx(by_hand)
    # DeLong's variance: that of either side's shares over its number of rows.
    assert standard_error(roc_auc, labels, found) == pytest.approx(math.sqrt(own.var() / 2 + rest.var() / 3))


@pytest.mark.parametrize("name", METRICS)
def test_perfect_predictions_reach_the_best_score(name: str) -> None:
    labels = np.array([0, 1, 2, 2, 1, 0])
    best = 1.0 if METRICS[name].greater_is_better else 0.0
    assert METRICS[name].score(labels, np.eye(3)[labels]) == pytest.approx(best, abs=1e-6)


@pytest.mark.parametrize("name", METRICS)
def test_better_predictions_score_better(name: str) -> None:
    labels, weak = random_predictions(300, 4)
    metric = METRICS[name]
    strong = 0.5 * weak + 0.5 * np.eye(4)[labels]
    assert metric.gain(metric.score(labels, weak), metric.score(labels, strong)) > 0.01


@pytest.mark.parametrize("name", METRICS)
def test_one_class_alone_gives_a_number(name: str) -> None:
    labels = np.zeros(5, dtype=np.int64)
    probabilities = np.tile([0.6, 0.3, 0.1], (5, 1))
    assert math.isfinite(METRICS[name].score(labels, probabilities))
    assert math.isfinite(standard_error(METRICS[name], labels, probabilities))


def test_a_certain_mistake_costs_a_finite_loss() -> None:
    loss = METRICS["log_loss"].score(np.array([0]), np.array([[0.0, 1.0]], dtype=np.float32))
    assert loss == pytest.approx(-math.log(2**-23))


def test_standard_error_of_accuracy_is_the_binomial_one() -> None:
    labels, probabilities = random_predictions(400, 3)
    p = METRICS["accuracy"].score(labels, probabilities)
    assert 0.3 < p < 0.9
    found = standard_error(METRICS["accuracy"], labels, probabilities)
    assert found == pytest.approx(math.sqrt(p * (1 - p) / 400), rel=1e-9)


def test_standard_error_of_log_loss_by_hand() -> None:
    losses = [-math.log(value) for value in (0.7, 0.8, 0.3, 0.25)]
    mean = sum(losses) / 4
    deviation = math.sqrt(sum((loss - mean) ** 2 for loss in losses) / 4)
    found = standard_error(METRICS["log_loss"], LABELS, PROBABILITIES)
    assert found == pytest.approx(deviation / math.sqrt(4), rel=1e-9)


def _without_rows(metric: Metric) -> Metric:
    return dataclasses.replace(metric, per_row=None)


def test_bootstrap_agrees_with_the_formula_where_there_is_one() -> None:
    labels, probabilities = random_predictions(500, 3)
    for name in ("accuracy", "log_loss", "roc_auc"):
        exact = standard_error(METRICS[name], labels, probabilities)
        assert standard_error(_without_rows(METRICS[name]), labels, probabilities) == pytest.approx(exact, rel=0.2)


@pytest.mark.parametrize("name", METRICS)
def test_a_resample_is_scored_as_its_rows_are(name: str) -> None:
    labels, probabilities = random_predictions(60, 4)
    labels[labels == 3] = 0  # class 3 has no row, and is predicted
    rows = np.random.default_rng(0).integers(0, 60, 60)
    found = METRICS[name].rescorer(labels, probabilities)(np.bincount(rows, minlength=60).astype(float))
    tolerance = 0.02 if name == "roc_auc" else 1e-12  # to first order
    assert found == pytest.approx(METRICS[name].score(labels[rows], probabilities[rows]), rel=tolerance)
    assert METRICS[name].rescorer(labels, probabilities)(np.ones(60)) == pytest.approx(
        METRICS[name].score(labels, probabilities), rel=1e-12
    )


def test_standard_error_is_the_same_every_time() -> None:
    labels, probabilities = random_predictions(100, 3)
    bootstrapped = METRICS["macro_f1"]
    first, second = (standard_error(bootstrapped, labels, probabilities) for _ in range(2))
    assert first == second > 0


def test_paired_gain_in_accuracy_by_hand() -> None:
    labels = np.zeros(8, dtype=np.int64)
    right, wrong = [0.9, 0.1], [0.1, 0.9]
    before = np.array([wrong, wrong, wrong, right, right, right, wrong, wrong])
    after = np.array([right, right, right, wrong, right, right, wrong, wrong])
    gain, error = paired_gain(METRICS["accuracy"], labels, before, after)
    assert gain == pytest.approx((3 - 1) / 8)
    assert error == pytest.approx(math.sqrt(4 / 8 - (2 / 8) ** 2) / math.sqrt(8))


def test_paired_gain_in_log_loss_is_positive_when_the_loss_falls() -> None:
    labels = np.array([0, 0])
    before, after = np.array([[0.5, 0.5], [0.4, 0.6]]), np.array([[0.8, 0.2], [0.4, 0.6]])
    gain, error = paired_gain(METRICS["log_loss"], labels, before, after)
    assert gain == pytest.approx(math.log(0.8 / 0.5) / 2)
    assert error == pytest.approx(math.log(0.8 / 0.5) / 2 / math.sqrt(2))  # deviation of (g, 0) is g/2


@pytest.mark.parametrize("name", METRICS)
def test_paired_gain_changes_sign_with_its_arguments(name: str) -> None:
    labels, before = random_predictions(80, 2)
    after = 0.8 * before + 0.2 * np.eye(2)[labels]
    gain, error = paired_gain(METRICS[name], labels, before, after)
    back, same_error = paired_gain(METRICS[name], labels, after, before)
    assert gain == pytest.approx(-back)
    assert error == pytest.approx(same_error)
    assert gain > 0
    assert error > 0


def test_the_same_predictions_gain_nothing() -> None:
    labels, found = random_predictions(80, 2)
    for name in ("accuracy", "log_loss", "macro_f1", "roc_auc"):
        assert paired_gain(METRICS[name], labels, found, found) == (0.0, 0.0)


def test_bootstrapped_gains_in_roc_auc_spread_as_the_formula_says() -> None:
    labels, before = random_predictions(500, 3)
    after = 0.9 * before + 0.1 * random_predictions(500, 3, seed=1)[1]
    _, exact = paired_gain(METRICS["roc_auc"], labels, before, after)
    _, bootstrapped = paired_gain(_without_rows(METRICS["roc_auc"]), labels, before, after)
    assert bootstrapped == pytest.approx(exact, rel=0.2)


def test_paired_error_is_smaller_than_that_of_two_independent_scores() -> None:
    labels, before = random_predictions(400, 3)
    after = 0.9 * before + 0.1 * np.eye(3)[labels]
    for name in ("accuracy", "log_loss", "macro_f1", "roc_auc"):
        _, paired = paired_gain(METRICS[name], labels, before, after)
        alone = [standard_error(METRICS[name], labels, found) for found in (before, after)]
        assert 0 < paired < 0.7 * math.hypot(*alone)


FREQUENCIES = np.array([0.6, 0.3, 0.1])
UNBALANCED = np.repeat(np.arange(3), [600, 300, 100])


def test_random_floor_is_what_chance_is_expected_to_reach() -> None:
    """By hand where there is a formula; else the mean and the spread of many random classifiers, row by row."""

    def floor(name: str) -> tuple[float, float]:
        found = floor_scores(METRICS[name], UNBALANCED, 3)["random classifier"]
        return found["score"], found["score_se"]

    assert floor("accuracy") == pytest.approx((1 / 3, math.sqrt(1 / 3 * 2 / 3 / 1000)))
    assert floor("log_loss") == pytest.approx((math.log(3), 0))
    assert floor("roc_auc") == pytest.approx((0.5, 0))
    rng = np.random.default_rng(7)
    for name in ("macro_f1", "quadratic_kappa"):
        drawn = [METRICS[name].score(UNBALANCED, np.eye(3)[rng.integers(0, 3, 1000)]) for _ in range(400)]
        score, spread = floor(name)
        assert score == pytest.approx(np.mean(drawn), abs=4 * np.std(drawn) * math.sqrt(1 / 400 + 1 / 200))
        assert spread == pytest.approx(np.std(drawn), rel=0.25)


def test_majority_floor_is_the_frequencies() -> None:
    found = {name: floor_scores(metric, UNBALANCED, 3)["majority class"]["score"] for name, metric in METRICS.items()}
    assert found["accuracy"] == pytest.approx(0.6)
    entropy = float(-(FREQUENCIES * np.log(FREQUENCIES)).sum())
    assert found["log_loss"] == pytest.approx(entropy, rel=1e-6)
    assert found["macro_f1"] == pytest.approx(2 * 600 / (1200 + 400) / 3)
    assert found["quadratic_kappa"] == pytest.approx(0)
    assert found["roc_auc"] == pytest.approx(0.5)


def test_a_class_without_rows_is_not_what_chance_takes() -> None:
    labels = np.array([0, 0, 2, 2])
    assert floor_scores(METRICS["accuracy"], labels, 4)["random classifier"]["score"] == 0.5
    assert floor_scores(METRICS["log_loss"], labels, 4)["random classifier"]["score"] == pytest.approx(math.log(2))
    assert floor_scores(METRICS["macro_f1"], labels, 4)["majority class"]["score"] == pytest.approx(2 / 3 / 2)
