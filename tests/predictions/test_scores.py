"""Metrics with settings of their own, and of several labels, against scikit-learn, values by hand and a bootstrap."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics as sklearn_metrics

from pipeline.competition import METRIC_NEEDS, SINGLE_ONLY, Competition, metric_kind
from pipeline.errors import DataError
from pipeline.predictions import scores
from pipeline.predictions.floors import floor_scores
from pipeline.predictions.metrics import METRICS, Metric, metric_of, metric_settings, paired_gain, standard_error

CLASSES = list("abcde")
WEIGHTS = {"a": 2.0, "c": 0.5}
SINGLE: dict[str, Mapping[str, object]] = {
    "weighted_log_loss": {"class_weights": WEIGHTS},
    "partial_roc_auc@0.8": {},
    "map@3": {},
    "top_2_accuracy": {},
}
SEVERAL = [name for name in METRICS if name not in SINGLE_ONLY] + ["partial_roc_auc@0.8"]
Found = tuple[NDArray[np.int64], NDArray[np.float64]]


def metric_named(name: str, classes: Sequence[str] = CLASSES) -> Metric:
    return metric_of({"metric": name, "classes": classes, **SINGLE.get(name, {})})


def single(rows: int = 300, classes: int = 5, *, seed: int = 0, decimals: int = 17) -> Found:
    rng = np.random.default_rng([9, seed])
    labels = rng.integers(0, classes, rows)
    exponentials = np.exp(rng.normal(size=(rows, classes)) + np.eye(classes)[labels])
    return labels, (exponentials / exponentials.sum(axis=1, keepdims=True)).round(decimals)


def several(rows: int = 300, classes: int = 5, *, seed: int = 0, decimals: int = 17) -> Found:
    """Each class with a prevalence of its own; some rows have no label."""
    rng = np.random.default_rng([9, seed])
    labels = (rng.random((rows, classes)) < np.linspace(0.1, 0.5, classes)).astype(np.int64)
    return labels, (1 / (1 + np.exp(-rng.normal(size=labels.shape) - 2 * labels + 1))).round(decimals)


def test_every_metric_that_a_competition_may_name_is_there() -> None:
    named = {*METRICS, *SINGLE}
    assert {metric_kind(name) for name in named} == set(METRIC_NEEDS)
    for name in named:
        assert metric_named(name).name == name
        assert metric_named(name).needs == METRIC_NEEDS[metric_kind(name) or ""]


# --- Metrics with settings


def plain_weighted_log_loss(labels: NDArray[np.int64], found: NDArray[np.float64]) -> float:
    means, weights = [], []
    for number, name in enumerate(CLASSES):
        rows = labels == number
        if rows.any():
            means.append(sklearn_metrics.log_loss(labels[rows], found[rows], labels=range(5)))
            weights.append(WEIGHTS.get(name, 1.0))
    return float(np.average(means, weights=weights))


def published_partial_auc(own: NDArray[np.bool_], found: NDArray[np.float64], least: float) -> float:
    """As published by a competition: sides and predictions swapped, so that a true-positive rate is a false one."""
    highest = 1 - least
    scaled = sklearn_metrics.roc_auc_score(~own, -found, max_fpr=highest)  # from 0.5 to 1
    return float(highest**2 / 2 + (highest - highest**2 / 2) * (scaled - 0.5) / 0.5)


def plain_map(labels: NDArray[np.int64], found: NDArray[np.float64], most: int) -> float:
    worth = []
    for label, row in zip(labels, found, strict=True):
        names = sorted(range(len(row)), key=lambda number: (-row[number], number))[:most]
        worth.append(1 / (1 + names.index(label)) if label in names else 0.0)
    return float(np.mean(worth))


REFERENCES: dict[str, Callable[[NDArray[np.int64], NDArray[np.float64]], float]] = {
    "weighted_log_loss": plain_weighted_log_loss,
    "partial_roc_auc@0.8": lambda y, p: float(
        np.mean([published_partial_auc(y == number, p[:, number], 0.8) for number in np.unique(y)])
    ),
    "map@3": lambda y, p: plain_map(y, p, 3),
    # Of equal ones scikit-learn takes the later class.
    "top_2_accuracy": lambda y, p: sklearn_metrics.top_k_accuracy_score(4 - y, p[:, ::-1], k=2, labels=range(5)),
}


@pytest.mark.parametrize("decimals", [17, 1])
@pytest.mark.parametrize("name", SINGLE)
def test_score_is_that_of_the_reference(name: str, decimals: int) -> None:
    labels, found = single(decimals=decimals)
    if name == "weighted_log_loss":  # where both clip, they do not clip alike
        found = np.maximum(found, 1e-3) / np.maximum(found, 1e-3).sum(axis=1, keepdims=True)
    for given in (labels, np.where(labels == 3, 0, labels)):  # a class without rows, too
        assert metric_named(name).score(given, found) == pytest.approx(REFERENCES[name](given, found), rel=1e-9)


def test_weighted_log_loss_by_hand() -> None:
    labels, found = np.array([0, 0, 1]), np.array([[0.5, 0.5], [0.8, 0.2], [0.9, 0.1]])
    metric = metric_of({"metric": "weighted_log_loss", "class_weights": {"a": 3.0}, "classes": ["a", "b"]})
    of_a, of_b = -(math.log(0.5) + math.log(0.8)) / 2, -math.log(0.1)
    assert metric.score(labels, found) == pytest.approx((3 * of_a + of_b) / 4)
    assert metric.score(labels[:2], found[:2]) == pytest.approx(of_a)  # a class without rows does not count


def test_a_class_weight_of_no_class_is_refused() -> None:
    with pytest.raises(DataError, match="names blak, which is no class") as caught:
        metric_of({"metric": "weighted_log_loss", "class_weights": {"blak": 2.0}, "classes": ["black", "white"]})
    assert "did you mean 'black'?" in str(caught.value)


@pytest.mark.parametrize("least", [0.3, 0.8, 0.99])
def test_partial_roc_auc_of_the_positive_class_is_the_published_one(least: float) -> None:
    labels, found = single(classes=2, decimals=2)
    for number, name in enumerate("ab"):
        metric = metric_of({"metric": f"partial_roc_auc@{least}", "positive": name, "classes": ["a", "b"]})
        expected = published_partial_auc(labels == number, found[:, number], least)
        assert metric.score(labels, found) == pytest.approx(expected, rel=1e-9)
        assert metric.score(labels, np.eye(2)[labels]) == pytest.approx(1 - least)
        assert metric.score(labels, np.full((300, 2), 0.5)) == pytest.approx((1 - least) ** 2 / 2)


def test_partial_roc_auc_by_hand() -> None:
    """Positives at 0.9 and 0.4, negatives at 0.6 and 0.2: the second positive is found after half of the negatives."""
    labels, of_b = np.array([1, 0, 1, 0]), np.array([0.9, 0.6, 0.4, 0.2])
    metric = metric_of({"metric": "partial_roc_auc@0.25", "positive": "b", "classes": ["a", "b"]})
    assert metric.score(labels, np.stack([1 - of_b, of_b], axis=1)) == pytest.approx(0.25 * 1 + 0.5 * 0.5)


def test_places_of_equal_probabilities_go_by_the_order_of_the_classes() -> None:
    found = np.array([[0.2, 0.3, 0.3, 0.2]] * 4)
    labels = np.arange(4)
    assert scores.places(labels, found).tolist() == [3, 1, 2, 4]
    assert metric_named("map@3", list("abcd")).score(labels, found) == pytest.approx((1 / 3 + 1 + 1 / 2) / 4)
    assert metric_named("top_2_accuracy", list("abcd")).score(labels, found) == pytest.approx(2 / 4)
    assert METRICS["accuracy"].score(labels, found) == pytest.approx(1 / 4)


def test_brier_of_two_classes_is_the_squared_error_of_one() -> None:
    labels, found = single(classes=2)
    expected = sklearn_metrics.brier_score_loss(labels, found[:, 1])
    assert METRICS["brier"].score(labels, found) == pytest.approx(expected, rel=1e-12)
    wrong = np.eye(3)[(np.arange(3) + 1) % 3]
    assert METRICS["brier"].score(np.arange(3), wrong) == pytest.approx(2)


def test_what_a_competition_says_of_its_metric_is_what_a_manifest_keeps() -> None:
    train = {"pictures": "p", "table": "t.csv", "id_column": "id", "label_column": "y"}
    settings = {"slug": "x", "train": train}
    weighted = {"metric": "weighted_log_loss", "submission": "probabilities", "class_weights": WEIGHTS}
    competition = Competition.model_validate({**settings, **weighted})
    kept = metric_settings(competition)
    assert kept == {"metric": "weighted_log_loss", "class_weights": WEIGHTS}
    labels, found = single()
    expected = metric_of({**kept, "classes": CLASSES}).score(labels, found)
    assert metric_of(competition, CLASSES).score(labels, found) == expected

    partial = {"metric": "partial_roc_auc@0.8", "submission": "probability"}
    kept = metric_settings(Competition.model_validate({**settings, **partial}))
    assert kept == {"metric": "partial_roc_auc@0.8", "positive": "1"}
    kept = metric_settings(Competition.model_validate({**settings, **partial, "positive": "ill"}))
    assert kept["positive"] == "ill"
    assert metric_settings(Competition.model_validate(settings)) == {"metric": "accuracy"}


# --- Several labels


def _cut(p: NDArray[np.float64]) -> NDArray[np.int64]:
    return (p >= 0.5).astype(np.int64)


def _both_sides(y: NDArray[np.int64]) -> NDArray[np.bool_]:
    return (y.min(axis=0) == 0) & (y.max(axis=0) == 1)


OF_SEVERAL: dict[str, Callable[[NDArray[np.int64], NDArray[np.float64]], float]] = {
    "accuracy": lambda y, p: sklearn_metrics.accuracy_score(y, _cut(p)),
    "macro_f1": lambda y, p: sklearn_metrics.f1_score(y, _cut(p), average="macro", zero_division=np.nan),
    "micro_f1": lambda y, p: sklearn_metrics.f1_score(y, _cut(p), average="micro"),
    "sample_f1": lambda y, p: sklearn_metrics.f1_score(y, _cut(p), average="samples", zero_division=0),
    "log_loss": lambda y, p: float(
        np.mean([sklearn_metrics.log_loss(y[:, j], p[:, j], labels=[0, 1]) for j in range(5)])
    ),
    "brier": lambda y, p: float(np.mean((y - p) ** 2)),
    "roc_auc": lambda y, p: sklearn_metrics.roc_auc_score(y[:, _both_sides(y)], p[:, _both_sides(y)], average="macro"),
    "partial_roc_auc@0.8": lambda y, p: float(
        np.mean([published_partial_auc(y[:, j] == 1, p[:, j], 0.8) for j in np.flatnonzero(_both_sides(y))])
    ),
}


@pytest.mark.parametrize("decimals", [17, 1])
@pytest.mark.parametrize("name", SEVERAL)
def test_score_of_several_labels_is_scikit_learns(name: str, decimals: int) -> None:
    labels, found = several(decimals=decimals)
    assert (labels.sum(axis=1) == 0).any()
    never, always = labels.copy(), labels.copy()
    never[:, 2], always[:, 1] = 0, 1
    clipped = np.clip(found, 1e-3, 1 - 1e-3)
    unsaid = clipped.copy()
    unsaid[:, 2] = 0.01
    for given, said in ((labels, clipped), (never, clipped), (never, unsaid), (always, clipped)):
        expected = OF_SEVERAL[name](given, said)
        assert metric_named(name).score(given, said) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", SEVERAL)
def test_perfect_predictions_of_several_labels(name: str) -> None:
    labels, _ = several()
    labels = labels[labels.any(axis=1)]  # a row without labels is worth 0 in sample_f1
    metric = metric_named(name)
    best = {"partial_roc_auc@0.8": 0.2}.get(name, 1.0 if metric.greater_is_better else 0.0)
    assert metric.score(labels, labels.astype(np.float32)) == pytest.approx(best, abs=1e-6)


@pytest.mark.parametrize("name", SEVERAL)
def test_no_labels_at_all_give_a_number(name: str) -> None:
    metric, nothing = metric_named(name), np.zeros((4, 5), dtype=np.int64)
    for found in (np.full((4, 5), 0.1), np.full((4, 5), 0.9)):
        assert math.isfinite(metric.score(nothing, found))
        assert math.isfinite(standard_error(metric, nothing, found))


def test_one_certain_mistake_in_several_labels_costs_a_finite_loss() -> None:
    labels, found = np.array([[1, 0]]), np.array([[0.0, 0.0]], dtype=np.float32)
    assert METRICS["log_loss"].score(labels, found) == pytest.approx(-math.log(2**-23) / 2, abs=1e-6)
    assert METRICS["log_loss"].score(1 - labels, 1 - found) == pytest.approx(-math.log(2**-23) / 2, abs=1e-6)


def test_a_certain_mistake_costs_what_it_costs_scikit_learn_in_float32() -> None:
    for kind, cost in ((np.float32, 15.9), (np.float64, 36.0)):
        found = np.array([[1, 0], [0, 1]], dtype=kind)
        assert sklearn_metrics.log_loss([1, 1], found, labels=[0, 1]) * 2 == pytest.approx(cost, abs=0.1)
        assert METRICS["log_loss"].score(np.array([1, 1]), found) * 2 == pytest.approx(15.9, abs=0.1)


# --- Errors

CASES = (
    [(name, single) for name in SINGLE] + [(name, single) for name in METRICS] + [(name, several) for name in SEVERAL]
)


@pytest.mark.parametrize(("name", "make"), CASES)
def test_standard_error_is_that_of_a_plain_bootstrap(name: str, make: Callable[..., Found]) -> None:
    """Rows drawn and scored anew; paired where two predictions are compared."""
    metric = metric_named(name)
    labels, before = make(300)
    after = 0.7 * before + 0.3 * make(300, seed=1)[1]
    rng = np.random.default_rng(1)
    draws = [rng.integers(0, 300, 300) for _ in range(300)]
    drawn = np.array([[metric.score(labels[rows], found[rows]) for rows in draws] for found in (before, after)])
    expected, paired = drawn[0].std(ddof=1), (drawn[1] - drawn[0]).std(ddof=1)
    assert standard_error(metric, labels, before) == pytest.approx(expected, rel=0.2)
    assert paired_gain(metric, labels, before, after)[1] == pytest.approx(paired, rel=0.25)


@pytest.mark.parametrize(("name", "make"), CASES)
def test_a_resample_is_scored_as_its_rows_are(name: str, make: Callable[..., Found]) -> None:
    labels, found = make(60, decimals=2)
    metric = metric_named(name)
    rows = np.random.default_rng(0).integers(0, 60, 60)
    rescore = metric.rescorer(labels, found)
    tolerance = 0.03 if name == "roc_auc" else 1e-9  # to first order
    weights = np.bincount(rows, minlength=60).astype(float)
    assert rescore(weights) == pytest.approx(metric.score(labels[rows], found[rows]), rel=tolerance)
    assert rescore(np.ones(60)) == pytest.approx(metric.score(labels, found), rel=1e-12)
    if metric.per_row is not None:
        assert metric.per_row(labels, found).mean() == pytest.approx(metric.score(labels, found), rel=1e-12)


# --- Floors


@pytest.mark.parametrize(("name", "make"), CASES)
def test_the_random_floor_is_what_random_predictions_reach(name: str, make: Callable[..., Found]) -> None:
    metric, (labels, _) = metric_named(name), make(200)
    labels = np.minimum(labels, 3) if labels.ndim == 1 else labels * [1, 1, 1, 1, 0]  # a class that never occurs
    floor = floor_scores(metric, labels, 5)["random classifier"]
    rng, occurs = np.random.default_rng(5), np.array([1, 1, 1, 1, 0])
    if metric.needs == "probabilities":
        uniform = np.tile(occurs / (4 if labels.ndim == 1 else 2), (200, 1))
        assert floor["score"] == pytest.approx(metric.score(labels, uniform))
        return
    drawn = [metric.score(labels, rng.random((200, 5)) * occurs) for _ in range(300)]
    assert floor["score"] == pytest.approx(np.mean(drawn), abs=4 * np.std(drawn) * math.sqrt(1 / 300 + 1 / 200))
    assert floor["score_se"] == pytest.approx(np.std(drawn), rel=0.25)


def test_floors_by_hand() -> None:
    labels = np.repeat(np.arange(3), [60, 30, 10])
    floors = {name: floor_scores(metric_named(name, list("abc")), labels, 3) for name in ("map@3", "top_2_accuracy")}
    assert floors["map@3"]["random classifier"]["score"] == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)
    assert floors["map@3"]["majority class"]["score"] == pytest.approx(0.6 + 0.3 / 2 + 0.1 / 3)
    assert floors["top_2_accuracy"]["random classifier"]["score"] == pytest.approx(2 / 3)
    assert floors["top_2_accuracy"]["majority class"]["score"] == pytest.approx(0.9)

    of_several = np.zeros((100, 2), dtype=np.int64)
    of_several[:80, 0], of_several[:30, 1] = 1, 1
    floor = floor_scores(METRICS["log_loss"], of_several, 2)
    assert floor["random classifier"]["score"] == pytest.approx(math.log(2))
    entropies = [-(p * math.log(p) + (1 - p) * math.log(1 - p)) for p in (0.8, 0.3)]
    assert floor["majority class"]["score"] == pytest.approx(np.mean(entropies))
    assert floor_scores(METRICS["accuracy"], of_several, 2)["majority class"]["score"] == pytest.approx(0.5)  # 1, 0
