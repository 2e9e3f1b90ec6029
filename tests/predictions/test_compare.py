"""Comparisons against values worked out by hand, against plain NumPy, and against what simulations must give."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binom

from pipeline.predictions.aligned import Aligned
from pipeline.predictions.calibration import calibration
from pipeline.predictions.compare import Comparison, Difference, compare, holm, mcnemar, rows_needed
from pipeline.predictions.metrics import METRICS, standard_error

Array = NDArray[Any]


def together(
    labels: Array, predictions: Mapping[str, Array], *, metric: str = "accuracy", folds: Array | None = None
) -> Aligned:
    classes = next(iter(predictions.values())).shape[1]
    return Aligned(
        metric=METRICS[metric],
        classes=[str(number) for number in range(classes)],
        ids=[f"{number:06}" for number in range(len(labels))],
        labels=labels,
        folds=np.arange(len(labels)) % 2 if folds is None else folds,
        probabilities={name: found.astype(np.float32) for name, found in predictions.items()},
    )


def right_on(rows: Sequence[int], count: int) -> Array:
    """Predictions that are right on these of `count` rows whose label is 0."""
    found = np.tile([0.2, 0.8], (count, 1))
    found[list(rows)] = [0.7, 0.3]
    return found


def against(alone: int, other_alone: int, *, rows: int) -> Aligned:
    """`one` alone is right on so many rows, `other` alone on so many others; both are right on the rest."""
    everything = range(rows)
    one = [row for row in everything if row >= other_alone]
    other = [row for row in everything if row < other_alone or row >= other_alone + alone]
    return together(np.zeros(rows, dtype=np.int64), {"one": right_on(one, rows), "other": right_on(other, rows)})


def noisy(labels: Array, *, strength: float, classes: int, seed: int, shared: Array | None = None) -> Array:
    """Probabilities that lean towards the labels; what `shared` adds is common to several of them."""
    logits = np.random.default_rng(seed).normal(size=(len(labels), classes)) + strength * np.eye(classes)[labels]
    exponentials = np.exp(logits if shared is None else logits + shared)
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True), dtype=np.float32)


def some(rows: int = 300, classes: int = 4, *, metric: str = "accuracy") -> Aligned:
    """A weak experiment and two seeds of a strong one; all find the same rows hard."""
    labels = np.random.default_rng(1).integers(0, classes, rows)
    shared = np.random.default_rng(2).normal(size=(rows, classes))
    strengths = {"weak": 0.5, "seed 1": 2.0, "seed 2": 2.0}
    predictions = {
        name: noisy(labels, strength=strength, classes=classes, seed=seed, shared=shared)
        for seed, (name, strength) in enumerate(strengths.items(), 3)
    }
    return together(labels, predictions, metric=metric)


def order(comparison: Comparison) -> list[str]:
    return [one.name for one in comparison.standings]


# --- By hand.

LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 1])
ONE = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.4, 0.6], [0.1, 0.9], [0.2, 0.8], [0.3, 0.7], [0.4, 0.6]])
TWO = np.array([[0.6, 0.4], [0.3, 0.7], [0.2, 0.8], [0.6, 0.4], [0.4, 0.6], [0.6, 0.4], [0.7, 0.3], [0.8, 0.2]])
FOLDS = np.array([2, 2, 2, 2, 5, 5, 5, 5])


def by_hand() -> Comparison:
    return compare(together(LABELS, {"two": TWO, "one": ONE}, folds=FOLDS))


def test_standings_by_hand() -> None:
    found = by_hand()
    assert (found.rows, found.pairs, found.reference, order(found)) == (8, 1, "one", ["one", "two"])
    one, two = found.standings
    assert (one.score, two.score) == (7 / 8, 3 / 8)
    assert (one.accuracy, two.accuracy) == (7 / 8, 3 / 8)
    assert one.score_se == pytest.approx(math.sqrt(7 / 8 * 1 / 8 / 8))
    assert one.fold_scores == {2: 3 / 4, 5: 1.0}
    assert two.fold_scores == {2: 2 / 4, 5: 1 / 4}
    losses = [math.log(p) for p in (0.9, 0.8, 0.7, 0.4, 0.9, 0.8, 0.7, 0.6)]
    assert one.log_loss == pytest.approx(-sum(losses) / 8, rel=1e-6)
    # 2·tp / (2·tp + fp + fn) of each class
    assert one.macro_f1 == pytest.approx((6 / (6 + 0 + 1) + 8 / (8 + 1 + 0)) / 2)
    assert two.macro_f1 == pytest.approx((4 / (4 + 3 + 2) + 2 / (2 + 2 + 3)) / 2)


def test_the_difference_by_hand() -> None:
    found = by_hand()
    assert list(found.differences) == ["two"]
    two = found.differences["two"]
    assert two.gain == pytest.approx(-4 / 8)
    # Of eight rows the one alone is right on five, the other on one.
    assert (two.right_alone, two.reference_right_alone) == (1, 5)
    assert two.gain_se == pytest.approx(math.sqrt(6 / 8 - (4 / 8) ** 2) / math.sqrt(8))
    # Tails of six tosses: 0, 1, 5 or 6 heads.
    assert two.mcnemar_p == pytest.approx((1 + 6 + 6 + 1) / 2**6)
    assert two.p == two.mcnemar_p
    assert two.verdict == "not distinguishable"


def test_calibration_by_hand() -> None:
    labels = np.zeros(6, dtype=np.int64)
    confidence = np.array([0.55, 0.60, 0.72, 0.74, 0.95, 1.0])
    found = np.stack([confidence, 1 - confidence], axis=1)
    found[[1, 4]] = found[[1, 4], ::-1]  # wrong, and as sure of it
    binned = calibration(labels, found, bins=10)
    assert list(binned.counts) == [0, 0, 0, 0, 0, 2, 0, 2, 0, 2]
    assert binned.confidence[[5, 7, 9]] == pytest.approx([0.575, 0.73, 0.975])
    assert binned.accuracy[[5, 7, 9]] == pytest.approx([0.5, 1.0, 0.5])
    assert binned.error == pytest.approx((2 * 0.075 + 2 * 0.27 + 2 * 0.475) / 6)


def test_calibration_error_of_the_bins_that_are_stated() -> None:
    aligned = some()
    found = aligned.probabilities["seed 1"].astype(np.float64)
    confidence, right = found.max(axis=1), found.argmax(axis=1) == aligned.labels
    gaps = 0.0
    for number in range(15):
        inside = (confidence > number / 15) & (confidence <= (number + 1) / 15)
        gaps += abs(right[inside].sum() - confidence[inside].sum()) / len(right)
    errors = {one.name: one.calibration_error for one in compare(aligned, resamples=2).standings}
    assert errors["seed 1"] == pytest.approx(gaps)


def test_who_says_what_holds_is_calibrated() -> None:
    rng = np.random.default_rng(0)
    found = rng.dirichlet(np.ones(3), 20_000)
    labels = (rng.random(20_000)[:, None] > found.cumsum(axis=1)).sum(axis=1)
    assert calibration(labels, found).error < 0.02
    assert calibration(labels, found**3 / (found**3).sum(axis=1, keepdims=True)).error > 0.1


@pytest.mark.parametrize(
    ("alone", "other", "p"),
    [(0, 0, 1.0), (3, 3, 1.0), (0, 5, 2 / 2**5), (6, 0, 2 / 2**6), (1, 7, 2 * (1 + 8) / 2**8)],
)
def test_mcnemar_by_hand(alone: int, other: int, p: float) -> None:
    assert mcnemar(alone, other) == pytest.approx(p)
    assert mcnemar(other, alone) == pytest.approx(p)


def test_mcnemar_of_many_rows_is_the_chi_squared_test() -> None:
    assert mcnemar(5200, 5000) == pytest.approx(math.erfc((200 - 1) / math.sqrt(2 * 10_200)), rel=0.01)


def test_the_p_of_a_log_loss_by_hand() -> None:
    gains = np.array([-0.3, -0.5, 0.1, -0.4, -0.2, 0.1, -0.3, -0.1, 0.2, -0.4])
    one = np.full(10, 0.5)
    two = one * np.exp(gains)
    labels = np.zeros(10, dtype=np.int64)
    predictions = {"one": np.stack([one, 1 - one], axis=1), "two": np.stack([two, 1 - two], axis=1)}
    found = compare(together(labels, predictions, metric="log_loss")).differences["two"]
    error = math.sqrt(np.mean((gains - gains.mean()) ** 2) / 10)
    assert (found.gain, found.gain_se) == (pytest.approx(-0.18, rel=1e-5), pytest.approx(error, rel=1e-5))
    assert found.p == pytest.approx(math.erfc(0.18 / error / math.sqrt(2)), rel=1e-4)
    assert found.verdict == "worse"


def test_holm_by_hand() -> None:
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.03]) == [0.03]


def test_rows_needed_by_hand() -> None:
    # Of 1000 rows one alone is right on 30 and the other on 20: Connor's formula with shares of 0.05 and 0.01.
    by_hand = ((1.959964 * math.sqrt(0.05) + 0.841621 * math.sqrt(0.05 - 0.01**2)) / 0.01) ** 2
    found = compare(against(30, 20, rows=1000)).differences["other"]
    assert found.gain == pytest.approx(-0.01)
    assert found.rows_needed == pytest.approx(by_hand, abs=1.1)
    assert rows_needed(0.01, 0.0, rows=1000) == 4  # every row says the same: 1.96²
    assert rows_needed(0.0, 0.1, rows=1000) is None
    several = rows_needed(0.01, 0.005, rows=1000, pairs=3)
    assert several == pytest.approx(0.025 * (2.393980 * math.sqrt(1.004) + 0.841621) ** 2 / 0.01**2, rel=1e-3)


# --- Against plain NumPy.


def plain_resamples(aligned: Aligned, resamples: int) -> Array:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(resamples):
        rows = rng.integers(0, len(aligned.labels), len(aligned.labels))
        labels = aligned.labels[rows]
        found.append([aligned.metric.score(labels, each[rows]) for each in aligned.probabilities.values()])
    return np.array(found)


@pytest.mark.parametrize("name", METRICS)
def test_the_interval_is_that_of_a_plain_paired_bootstrap(name: str) -> None:
    aligned = some(metric=name)
    resampled = dict(zip(aligned.probabilities, plain_resamples(aligned, 150).T, strict=True))
    found = compare(aligned, resamples=150)
    # ROC AUC is resampled to first order.
    tolerance: dict[str, float] = {"rel": 0.05} if name == "roc_auc" else {"rel": 1e-6, "abs": 1e-9}
    assert len(found.differences) == 2
    for other, one in found.differences.items():
        gains = METRICS[name].gain(resampled[found.reference], resampled[other])
        low, high = np.quantile(gains, [0.025, 0.975])
        assert (one.low, one.high) == (pytest.approx(low, **tolerance), pytest.approx(high, **tolerance))
        assert one.gain_se == pytest.approx(np.std(gains, ddof=1), rel=0.15)
        before, after = (
            METRICS[name].score(aligned.labels, aligned.probabilities[key]) for key in (found.reference, other)
        )
        assert one.gain == pytest.approx(METRICS[name].gain(before, after))


@pytest.mark.parametrize("name", METRICS)
def test_a_scores_error_is_that_which_is_stored(name: str) -> None:
    aligned = some(150, metric=name)
    one = compare(aligned, resamples=400).standings[-1]
    stored = standard_error(aligned.metric, aligned.labels, aligned.probabilities[one.name])
    assert one.score_se == pytest.approx(stored, rel=0.15 if aligned.metric.per_row is None else 1e-6)


@pytest.mark.parametrize("name", ["macro_f1", "quadratic_kappa", "roc_auc"])
def test_rare_classes_are_resampled_as_they_are_scored(name: str) -> None:
    """Class 3 has no row; class 2 has one, which many resamples lack."""
    labels = np.array([0, 1, 0, 1, 0, 1, 0, 1, 0, 2])
    predictions = {f"seed {seed}": noisy(labels, strength=0.5, classes=4, seed=seed) for seed in (0, 1)}
    aligned = together(labels, predictions, metric=name)
    found = compare(aligned, resamples=50)
    assert all(math.isfinite(one.score_se) for one in found.standings)
    if name != "roc_auc":
        plain = plain_resamples(aligned, 50)
        errors = dict(zip(predictions, plain.std(axis=0, ddof=1), strict=True))
        assert {one.name: one.score_se for one in found.standings} == pytest.approx(errors)


def test_kappa_of_one_class_alone_is_zero_in_resamples_too() -> None:
    """Of three rows, two alike: a third of the resamples has one class alone, where kappa is 0/0."""
    labels = np.array([0, 0, 1])
    aligned = together(labels, {"one": np.eye(2)[labels], "two": np.eye(2)[[0, 1, 1]]}, metric="quadratic_kappa")
    plain = plain_resamples(aligned, 40)
    assert 0 < (plain[:, 0] == 0).sum() < 40
    errors = dict(zip(aligned.probabilities, plain.std(axis=0, ddof=1), strict=True))
    assert {one.name: one.score_se for one in compare(aligned, resamples=40).standings} == pytest.approx(errors)


# --- Against known distributions.


def test_the_interval_of_a_one_sided_difference_is_binomial() -> None:
    """Where one alone is right on k of n rows and the other on none, n times the resampled gain is Binomial(n, k/n)."""
    found = compare(against(0, 40, rows=500))
    one = found.differences["one"]
    assert (found.reference, one.gain) == ("other", pytest.approx(-40 / 500))
    low, high = binom.ppf([0.975, 0.025], 500, 40 / 500) / -500
    assert one.low == pytest.approx(low, abs=1.01 / 500)
    assert one.high == pytest.approx(high, abs=1.01 / 500)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    truth, repeats = np.array([0.85, 0.10, 0.05]), 100  # both or neither right, one alone, the other alone
    rng = np.random.default_rng(7)
    covered = 0
    for _ in range(repeats):
        _, alone, other = (int(count) for count in rng.multinomial(250, truth))
        found = compare(against(alone, other, rows=250), baseline="other", resamples=250).differences["one"]
        covered += found.low <= 0.05 <= found.high
    # 95 %, three standard errors around it
    assert 0.90 <= covered / repeats <= 0.99


def test_as_many_rows_as_needed_have_the_power_that_is_claimed() -> None:
    rows = rows_needed(0.05, math.sqrt((0.15 - 0.05**2) / 250), rows=250)
    assert rows is not None
    draws = np.random.default_rng(3).multinomial(rows, [0.85, 0.10, 0.05], 600)
    seen = np.mean([mcnemar(int(one), int(other)) < 0.05 for _, one, other in draws])
    assert 0.74 < seen < 0.86


# --- Verdicts.


@pytest.mark.parametrize("name", METRICS)
def test_identical_experiments_are_not_distinguishable(name: str) -> None:
    found = some(metric=name).probabilities["seed 1"]
    aligned = together(some().labels, {"a": found, "b": found, "c": found}, metric=name)
    comparison = compare(aligned, resamples=100)
    assert order(comparison) == ["a", "b", "c"]
    for one in comparison.differences.values():
        assert one.verdict == "not distinguishable"
        assert (one.gain, one.p, one.mcnemar_p, one.rows_needed) == (0.0, 1.0, 1.0, None)
        assert (one.right_alone, one.reference_right_alone) == (0, 0)
        assert abs(one.low) < 1e-12
        assert abs(one.high) < 1e-12


@pytest.mark.parametrize("name", METRICS)
def test_a_clearly_better_experiment_is_better_and_another_seed_is_not_distinguishable(name: str) -> None:
    aligned = some(metric=name)
    from_best = compare(aligned, resamples=300)
    best, second, last = order(from_best)
    assert (best, last) == (from_best.reference, "weak")
    scores = [one.score for one in from_best.standings]
    assert scores == sorted(scores, reverse=METRICS[name].greater_is_better)
    assert from_best.pairs == 3
    assert from_best.differences["weak"].verdict == "worse"
    near = from_best.differences[second]
    assert near.verdict == "not distinguishable"
    assert near.rows_needed is not None
    assert near.rows_needed > len(aligned.labels)
    from_weak = compare(aligned, baseline="weak", resamples=300)
    assert (from_weak.reference, from_weak.pairs) == ("weak", 2)
    assert order(from_weak) == order(from_best)
    assert {key: one.verdict for key, one in from_weak.differences.items()} == {best: "better", second: "better"}
    back, forth = from_weak.differences[best], from_best.differences["weak"]
    assert (back.gain, back.low, back.high) == pytest.approx((-forth.gain, -forth.high, -forth.low))
    assert (back.right_alone, back.reference_right_alone) == (forth.reference_right_alone, forth.right_alone)


@pytest.mark.parametrize(
    ("gain", "low", "high", "p", "verdict"),
    [
        (0.1, 0.01, 0.2, 0.049, "better"),
        (-0.1, -0.2, -0.01, 0.049, "worse"),
        (0.1, 0.01, 0.2, 0.05, "not distinguishable"),
        (0.1, 0.0, 0.2, 0.001, "not distinguishable"),
        (-0.1, -0.2, 0.01, 0.001, "not distinguishable"),
    ],
)
def test_a_verdict_needs_both_the_interval_and_p(gain: float, low: float, high: float, p: float, verdict: str) -> None:
    assert Difference(gain, 0.05, low, high, 20, 10, p, p, 1000).verdict == verdict


def test_where_the_exact_test_doubts_the_interval_does_not_decide() -> None:
    one = compare(against(0, 5, rows=400)).differences["one"]
    assert one.high < 0
    assert one.p == pytest.approx(0.0625)
    assert one.verdict == "not distinguishable"
    assert compare(against(0, 6, rows=400)).differences["one"].verdict == "worse"


def test_the_best_of_several_must_be_better_by_more() -> None:
    """Between two experiments p is 0.03; that the better was chosen among three on these rows makes it 0.09."""
    one, two = against(17, 6, rows=400).probabilities.values()
    labels = np.zeros(400, dtype=np.int64)
    alone = compare(together(labels, {"one": one, "two": two})).differences["two"]
    assert 0.03 < alone.p < 0.04
    assert alone.verdict == "worse"
    chosen = compare(together(labels, {"one": one, "two": two, "three": one})).differences["two"]
    assert chosen.p == pytest.approx(3 * alone.p)
    assert chosen.mcnemar_p == alone.p
    assert chosen.verdict == "not distinguishable"
    assert chosen.rows_needed is not None
    assert chosen.rows_needed > 400
    named = compare(together(labels, {"one": one, "two": two, "three": two}), baseline="one").differences["two"]
    assert named.p == pytest.approx(2 * alone.p)


def test_equally_good_experiments_are_seldom_told_apart() -> None:
    """Five of one true accuracy: with 95 % the best of them is called better than none of the others."""
    rng, repeats, alarms = np.random.default_rng(11), 60, 0
    for _ in range(repeats):
        right = rng.random((5, 150)) < 0.7
        predictions = {str(number): right_on(np.flatnonzero(hits), 150) for number, hits in enumerate(right)}
        found = compare(together(np.zeros(150, dtype=np.int64), predictions), resamples=60)
        alarms += any(one.verdict != "not distinguishable" for one in found.differences.values())
    assert alarms <= 3


@pytest.mark.parametrize("name", METRICS)
def test_with_shuffled_labels_everything_is_at_chance(name: str) -> None:
    aligned = some(rows=600, metric=name)
    rng, alarms = np.random.default_rng(5), 0
    chance = {"accuracy": 1 / 4, "macro_f1": 1 / 4, "quadratic_kappa": 0.0, "roc_auc": 0.5}
    for _ in range(10):
        labels = rng.permutation(aligned.labels)
        shuffled = together(labels, {key: aligned.probabilities[key] for key in ("seed 1", "seed 2")}, metric=name)
        found = compare(shuffled, resamples=60)
        for one in found.standings:
            assert abs(one.accuracy - 1 / 4) < 3 * math.sqrt(1 / 4 * 3 / 4 / 600)
            assert one.log_loss > math.log(4)
            if name in chance:
                assert abs(one.score - chance[name]) < 3 * one.score_se
        alarms += next(iter(found.differences.values())).verdict != "not distinguishable"
    if name != "log_loss":  # it rightly sees who is surer of nothing
        assert alarms <= 2


def test_the_same_comparison_gives_the_same_numbers() -> None:
    aligned = some(metric="macro_f1")
    assert compare(aligned, resamples=50) == compare(aligned, resamples=50)
