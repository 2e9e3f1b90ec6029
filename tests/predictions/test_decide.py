"""Thresholds and cut points: against every other choice, on rows that they have not seen, and on noise."""

import itertools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics as sklearn_metrics

from pipeline.predictions import decide_fits
from pipeline.predictions.decide import Decision, decide, decision_from, fit_decision
from pipeline.predictions.decide_fits import fit_cuts, fit_threshold, fit_thresholds
from pipeline.predictions.metrics import METRICS, Metric, metric_of
from tests.predictions.test_scores import Found, single

KAPPA = METRICS["quadratic_kappa"]
F1S = ("macro_f1", "micro_f1", "sample_f1")
OF_SEVERAL = ("accuracy", *F1S)


def shy(rows: int = 1000, classes: int = 4, *, seed: int = 0) -> Found:
    """Several labels, of which the predictions are far too unsure: one half is rarely reached."""
    rng = np.random.default_rng([3, seed])
    labels = (rng.random((rows, classes)) < np.linspace(0.1, 0.4, classes)).astype(np.int64)
    logits = 2 * labels + rng.normal(size=labels.shape) - np.linspace(3, 1.5, classes)
    return labels, (1 / (1 + np.exp(-logits))).astype(np.float32)


def graded(rows: int = 1000, *, seed: int = 0) -> Found:
    """Grades whose likeliest one is drawn to the frequent ends."""
    rng = np.random.default_rng([4, seed])
    shares = np.array([0.5, 0.1, 0.2, 0.1, 0.1])
    labels = rng.choice(5, rows, p=shares)
    seen = labels + 0.8 * rng.normal(size=rows)
    logits = np.log(shares) - 0.5 * (np.arange(5) - seen[:, None]) ** 2
    exponentials = np.exp(logits)
    return labels, (exponentials / exponentials.sum(axis=1, keepdims=True)).astype(np.float32)


def folds_of(labels: NDArray[np.int64], count: int = 5) -> NDArray[np.int64]:
    return np.arange(len(labels)) % count


# --- Fitted to the optimum


@pytest.mark.parametrize("name", OF_SEVERAL)
def test_no_other_threshold_of_a_class_scores_better(name: str) -> None:
    metric, (labels, found) = METRICS[name], shy(200)
    found = found.round(2)  # ties
    values = fit_thresholds(metric, labels, found)
    best = metric.score(labels, found >= values)
    for number in range(4):
        for other in np.append(np.unique(found[:, number]), 2.0):
            changed = values.copy()
            changed[number] = other
            assert metric.score(labels, found >= changed) <= best + 1e-12
    assert best >= metric.score(labels, found >= fit_threshold(metric, labels, found))


def test_thresholds_of_macro_f1_are_each_class_best(monkeypatch: pytest.MonkeyPatch) -> None:
    labels, found = shy(100)
    monkeypatch.setattr(decide_fits, "POSITIVES", 1)
    values = fit_thresholds(METRICS["macro_f1"], labels, found)
    for number in range(4):
        own, column = labels[:, number], found[:, number]
        most = max(sklearn_metrics.f1_score(own, column >= one) for one in column)
        assert sklearn_metrics.f1_score(own, column >= values[number]) == pytest.approx(most)


@pytest.mark.parametrize("name", OF_SEVERAL)
def test_one_threshold_for_all(name: str) -> None:
    metric, (labels, found) = METRICS[name], shy()
    [value] = fit_threshold(metric, labels, found)
    tried = [metric.score(labels, found >= one) for one in np.linspace(0.01, 0.99, 99)]
    assert metric.score(labels, found >= value) > max(tried) - 0.01
    assert value < 0.45


def test_of_thresholds_that_score_alike_the_nearest_to_one_half_is_taken() -> None:
    labels = np.array([[1, 0], [0, 1]] * 20)
    assert fit_threshold(METRICS["accuracy"], labels, np.where(labels == 1, 0.9, 0.1)) == pytest.approx(0.5, abs=0.021)


def test_a_rare_class_takes_the_common_threshold() -> None:
    labels, found = shy()
    labels[decide_fits.POSITIVES - 1 :, 2] = 0
    labels[: decide_fits.POSITIVES - 1, 2] = 1
    values = fit_thresholds(METRICS["macro_f1"], labels, found)
    [common] = fit_threshold(METRICS["macro_f1"], labels, found)
    assert values[2] == common
    assert common not in values[[0, 1, 3]]
    labels[500, 2] = 1
    assert fit_thresholds(METRICS["macro_f1"], labels, found)[2] != common


def test_cut_points_that_are_there_are_found() -> None:
    rng = np.random.default_rng(0)
    expected = np.sort(rng.uniform(0, 3, 500))
    below = np.floor(expected).astype(np.int64)
    found = np.zeros((500, 4))
    found[np.arange(500), below] = 1 - (expected - below)
    found[np.arange(500), below + 1] += expected - below
    labels = np.searchsorted([0.3, 1.1, 2.7], expected)
    values = fit_cuts(KAPPA, labels, found)
    assert values == pytest.approx([0.3, 1.1, 2.7], abs=0.05)
    decision = Decision("cuts", tuple(values), True, *(0.0,) * 6)
    assert KAPPA.score(labels, np.eye(4)[decide(decision, found)]) > 0.99


def test_cut_points_score_what_no_cuts_nearby_exceed() -> None:
    labels, found = graded(300)

    def kappa(cuts: Sequence[float]) -> float:
        chosen = np.searchsorted(np.sort(cuts), found @ np.arange(5), "right")
        return sklearn_metrics.cohen_kappa_score(labels, chosen, weights="quadratic")

    values = fit_cuts(KAPPA, labels, found)
    assert list(values) == sorted(values)
    best = kappa(values)
    assert best > kappa([0.5, 1.5, 2.5, 3.5])
    assert best > sklearn_metrics.cohen_kappa_score(labels, found.argmax(axis=1), weights="quadratic")
    for steps in itertools.product((-0.1, 0, 0.1), repeat=4):
        assert kappa(values + np.array(steps)) < best + 0.01


def test_cut_points_of_predictions_that_are_hardly_apart_are_found_all_the_same() -> None:
    labels, found = graded(300)
    near = 0.98 / 5 + 0.02 * found
    values, among = fit_cuts(KAPPA, labels, found), fit_cuts(KAPPA, labels, near)
    best, score = (
        KAPPA.score(labels, np.eye(5)[np.searchsorted(cuts, said @ np.arange(5), "right")])
        for cuts, said in ((values, found), (among, near))
    )
    assert score > best - 0.03
    assert KAPPA.score(labels, near) < best - 0.02


# --- Cross-fitted


def cross_fitted(
    metric: Metric, labels: NDArray[np.int64], found: NDArray[np.float64], fit: Callable[..., object]
) -> float:
    """By hand: each fold's rows by what the others give."""
    folds, said = folds_of(labels), np.empty((len(labels), found.shape[1]))
    for fold in range(5):
        own = folds == fold
        values = fit(metric, labels[~own], found[~own])
        if labels.ndim == 2:
            said[own] = found[own] >= values
        else:
            said[own] = np.eye(5)[np.searchsorted(values, found[own] @ np.arange(5), "right")]
    return metric.score(labels, said)


@pytest.mark.parametrize("name", OF_SEVERAL)
def test_the_score_of_thresholds_is_of_rows_that_they_have_not_seen(name: str) -> None:
    metric, (labels, found) = METRICS[name], shy()
    decision = fit_decision(metric, labels, found, folds_of(labels))
    assert decision is not None and decision.used
    assert name != "macro_f1" or decision.kind == "thresholds"
    fit = {"threshold": fit_threshold, "thresholds": fit_thresholds}[decision.kind]
    assert decision.score == pytest.approx(cross_fitted(metric, labels, found, fit))
    assert decision.plain_score == pytest.approx(metric.score(labels, found))
    assert decision.gain == pytest.approx(decision.score - decision.plain_score)
    assert decision.gain > decision.gain_se > 0
    assert decision.values == pytest.approx(fit(metric, labels, found))
    chosen = decide(decision, found)
    assert chosen.dtype == np.int64 and set(np.unique(chosen)) == {0, 1}
    seen = metric.score(labels, chosen.astype(float))
    assert decision.optimism == pytest.approx(seen - decision.score) and seen >= decision.score - 1e-12


def test_the_score_of_cut_points_is_of_rows_that_they_have_not_seen() -> None:
    labels, found = graded()
    decision = fit_decision(KAPPA, labels, found, folds_of(labels))
    assert decision is not None and decision.used and decision.kind == "cuts"
    assert decision.score == pytest.approx(cross_fitted(KAPPA, labels, found, fit_cuts))
    assert decision.plain_score == pytest.approx(KAPPA.score(labels, found))
    chosen = decide(decision, found)
    assert chosen.shape == labels.shape and chosen.dtype == np.int64
    assert decision.optimism == pytest.approx(KAPPA.score(labels, np.eye(5)[chosen]) - decision.score)
    assert 0 < decision.optimism < 0.03


@pytest.mark.parametrize(("name", "make"), [*((name, shy) for name in OF_SEVERAL), ("quadratic_kappa", graded)])
def test_new_rows_score_as_it_says(name: str, make: Callable[..., Found]) -> None:
    metric = METRICS[name]
    labels, found = make()
    decision = fit_decision(metric, labels, found, folds_of(labels))
    assert decision is not None
    labels, found = make(20_000, seed=1)
    chosen = decide(decision, found)
    score = metric.score(labels, chosen.astype(float) if labels.ndim == 2 else np.eye(5)[chosen])
    assert abs(score - decision.score) < 3 * decision.score_se
    assert score > metric.score(labels, found)


# --- On noise

REPEATS = 20


def above(values: Sequence[float], level: float) -> float:
    """By how many standard errors the mean is above a level."""
    return float((np.mean(values) - level) / (np.std(values, ddof=1) / math.sqrt(len(values))))


def knowing_nothing(seed: int, rows: int = 100) -> Found:
    """Two labels, and of each combination of them as many rows in each of five folds; any predictions."""
    rng = np.random.default_rng([5, seed])
    labels = np.empty((rows, 2), dtype=np.int64)
    for fold in range(5):
        own = np.arange(rows) % 5 == fold
        numbers = rng.permutation(np.arange(own.sum()) % 4)
        labels[own] = np.stack([numbers // 2, numbers % 2], axis=1)
    return labels, rng.random((rows, 2))


@pytest.mark.parametrize(("name", "chance"), [("accuracy", 1 / 4), ("macro_f1", 2 / 3)])
def test_thresholds_of_noise_score_no_better_than_chance(name: str, chance: float) -> None:
    """F1 is best where every label is given to all: 2·(1/2)·1 / (1/2 + 1)."""
    scored, seen = [], []
    for seed in range(REPEATS):
        labels, found = knowing_nothing(seed)
        decision = fit_decision(METRICS[name], labels, found, folds_of(labels))
        assert decision is not None
        scored.append(decision.score)
        seen.append(decision.score + decision.optimism)
    assert above(scored, chance) < 3
    assert above(seen, chance) > 3  # what it would see of values that are scored on their own rows


def test_cut_points_of_noise_score_no_better_than_chance() -> None:
    scored, seen, used, errors = [], [], [], []
    for seed in range(REPEATS):
        rng = np.random.default_rng([6, seed])
        labels, found = np.empty(200, dtype=np.int64), rng.dirichlet(np.ones(4), 200)
        for fold in range(5):  # of each class as many rows in each
            labels[folds_of(labels) == fold] = rng.permutation(np.arange(40) % 4)
        decision = fit_decision(KAPPA, labels, found, folds_of(labels))
        assert decision is not None
        scored.append(decision.score)
        seen.append(decision.score + decision.optimism)
        used.append(decision.used)
        errors.append(decision.score_se)
    assert abs(above(scored, 0)) < 3
    assert above(seen, 0) > 3
    assert np.mean(used) < 0.4
    assert 0.5 < np.mean(errors) / np.std(scored, ddof=1) < 1.6


def test_where_one_half_is_right_it_is_left() -> None:
    seen = []
    for seed in range(8):
        rng = np.random.default_rng([7, seed])
        found = rng.random((500, 2))
        labels = (rng.random((500, 2)) < found).astype(np.int64)  # calibrated: accuracy cannot be improved
        decision = fit_decision(METRICS["accuracy"], labels, found, folds_of(labels))
        assert decision is not None and decision.used == (decision.gain > decision.gain_se)
        if not decision.used:
            assert len(decision.values) == 1
            assert decide(decision, found).tolist() == (found >= 0.5).astype(int).tolist()
        seen.append(decision.gain / decision.gain_se if decision.gain else 0)
    assert np.mean(np.array(seen) > 1) < 0.5
    assert any(0 < one <= 1 for one in seen)  # better, but not by more than its error


# --- The rest


def test_one_fold_alone_fits_nothing() -> None:
    for metric, (labels, found) in ((METRICS["macro_f1"], shy()), (KAPPA, graded())):
        decision = fit_decision(metric, labels, found, np.zeros(len(labels), dtype=np.int64))
        assert decision is not None and not decision.used and decision.values == ()
        assert decision.score == decision.plain_score == pytest.approx(metric.score(labels, found))
        plain = (found >= 0.5).astype(int) if labels.ndim == 2 else found.argmax(axis=1)
        assert (decide(decision, found) == plain).all()


def test_where_there_is_nothing_to_decide() -> None:
    labels, found = shy()
    for name in ("log_loss", "brier", "roc_auc"):
        assert fit_decision(METRICS[name], labels, found, folds_of(labels)) is None
    labels, found = single()
    ranking = metric_of({"metric": "map@3", "classes": []})
    for metric in (METRICS["accuracy"], METRICS["macro_f1"], METRICS["log_loss"], ranking):
        assert fit_decision(metric, labels, found, folds_of(labels)) is None


def test_a_manifest_keeps_it() -> None:
    labels, found = shy()
    decision = fit_decision(METRICS["macro_f1"], labels, found, folds_of(labels))
    assert decision is not None
    again = decision_from(json.loads(json.dumps(asdict(decision))))
    assert again == decision
    assert (decide(again, found) == decide(decision, found)).all()


def test_a_picture_without_a_label_is_given_the_likeliest_where_one_is_asked_for() -> None:
    labels, found = shy()
    rows = np.flatnonzero(labels.sum(axis=1) == 0)
    labels[rows, found[rows].argmax(axis=1)] = 1
    without, decision = (
        fit_decision(METRICS["sample_f1"], labels, found, folds_of(labels), at_least_one=one) for one in (False, True)
    )
    assert without is not None and decision is not None
    assert (decide(without, found).sum(axis=1) == 0).any()
    nothing = found.max(axis=1) < 0.5
    plain = (found >= 0.5).astype(int)
    plain[nothing] = np.eye(4)[found[nothing].argmax(axis=1)]
    assert decision.plain_score == pytest.approx(METRICS["sample_f1"].score(labels, plain.astype(float)))
    assert decision.plain_score > without.plain_score
    assert decision.score > without.score
    chosen = decide(decision, found)
    assert (chosen.sum(axis=1) > 0).all()
    lonely = decide(without, found).sum(axis=1) == 0
    assert (chosen[lonely].argmax(axis=1) == found[lonely].argmax(axis=1)).all()
    unused = replace(decision, used=False)
    assert (decide(unused, found) == plain).all()


def test_a_metric_whose_scores_take_long_is_asked_few_times() -> None:
    calls = []

    def score(labels: NDArray[np.int64], found: NDArray[np.float64]) -> float:
        calls.append(len(labels))
        return METRICS["sample_f1"].score(labels, found)

    own = replace(METRICS["sample_f1"], name="metric.py", score=score, costly=True)
    labels, found = shy()
    decision = fit_decision(own, labels, found, folds_of(labels))
    assert decision is not None and decision.used and decision.kind == "threshold"
    assert len(calls) < 6 * 15 + 10
    exact = fit_decision(METRICS["sample_f1"], labels, found, folds_of(labels))
    assert exact is not None and decision.score > exact.score - 0.02
