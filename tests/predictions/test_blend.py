"""Blends against values worked out by hand, brute force and grids; and that no row's own label helps to predict it."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray
from threadpoolctl import threadpool_limits

from pipeline.artifacts import Workspace, write_json
from pipeline.errors import DataError, KitError
from pipeline.predictions.aligned import Aligned, align
from pipeline.predictions.blend import (
    Blend,
    _weakest,
    blend_fingerprint,
    blend_name,
    check_members,
    claim_name,
    make_blend,
    store_blend,
)
from pipeline.predictions.blend_methods import (
    METHODS,
    apply_temperatures,
    convex_weights,
    hill_weights,
)
from pipeline.predictions.calibration import fit_temperature
from pipeline.predictions.manifests import list_experiments
from pipeline.predictions.metrics import METRICS, Metric, paired_gain, standard_error
from pipeline.predictions.store import (
    Experiment,
    finish_experiment,
    prediction_frame,
    probabilities_of,
    read_experiment,
)
from pipeline.report.tables import leaderboard_rows, result_text
from tests.conftest import manifest_scores

LEARNING = [name for name, method in METHODS.items() if method.learns]
LOG_LOSS, ACCURACY = METRICS["log_loss"], METRICS["accuracy"]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """As in `make_blend`; the methods alone are tested, too."""
    with threadpool_limits(1):
        yield


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float32]:
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True), dtype=np.float32)


def members_of(*members: ArrayLike) -> NDArray[np.float32]:
    return np.array(members, dtype=np.float32)


def made(
    rows: int = 120, classes: int = 4, members: int = 3, *, metric: str = "accuracy", folds: int = 3, seed: int = 0
) -> Aligned:
    """Members that are better than chance, each with errors of its own, the later the sharper; stratified folds."""
    rng = np.random.default_rng(seed)
    labels = np.arange(rows) % classes
    logits = rng.normal(size=(members, rows, classes)) + 1.5 * np.eye(classes)[labels]
    return Aligned(
        metric=METRICS[metric],
        classes=[str(number) for number in range(classes)],
        ids=[f"{number:04}" for number in range(rows)],
        labels=labels,
        folds=np.arange(rows) // classes % folds,
        probabilities={f"m{number}": softmax(one * (1 + number)) for number, one in enumerate(logits)},
    )


def stacked(aligned: Aligned) -> NDArray[np.float32]:
    return np.stack(list(aligned.probabilities.values()))


def blended(name: str, members: NDArray[np.float32], labels: ArrayLike = (0,), metric: str = "accuracy") -> Any:
    """The method fitted on some rows and applied to the same ones."""
    return METHODS[name].fit(members, np.array(labels), METRICS[metric]).apply(members)


def gains(blend: Blend) -> dict[str, tuple[float, float]]:
    return {one.name: (one.gain, one.gain_se) for one in blend.scored}


# --- The methods that fit nothing


def test_mean_and_geometric_mean_by_hand() -> None:
    members = members_of([[0.9, 0.1]], [[0.5, 0.5]])
    np.testing.assert_allclose(blended("mean", members), [[0.7, 0.3]], rtol=1e-6)
    # sqrt(0.45) : sqrt(0.05) = 3 : 1
    np.testing.assert_allclose(blended("geometric", members), [[0.75, 0.25]], rtol=1e-6)


def test_a_probability_of_nothing_is_no_veto() -> None:
    found = blended("geometric", members_of([[1.0, 0.0]], [[0.0, 1.0]]))
    np.testing.assert_allclose(found, [[0.5, 0.5]], rtol=1e-6)
    for least in (0.0, 1e-30):
        first, second = blended("geometric", members_of([[1.0, least]], [[0.4, 0.6]]))[0]
        assert second / first == pytest.approx(math.sqrt(2**-23 * 0.6 / 0.4), rel=1e-4)


def test_rank_mean_by_hand() -> None:
    members = members_of([[0.9, 0.1], [0.5, 0.5], [0.1, 0.9]], [[0.6, 0.4], [0.7, 0.3], [0.2, 0.8]])
    # Class 0: ranks 2 1 0 and 1 2 0, so the first two rows share rank 1.5 and the last has 0. The members' values at
    # the ranks 0 1 2 are 0.1 0.5 0.9 and 0.2 0.6 0.7, their means 0.15 0.55 0.8. Class 1 is the mirror image.
    half = (0.55 + 0.8) / 2
    np.testing.assert_allclose(blended("rank", members), [[half, 1 - half], [half, 1 - half], [0.15, 0.85]], rtol=1e-6)


def test_rank_mean_does_not_care_how_sharp_a_member_is() -> None:
    rng = np.random.default_rng(0)
    chance = rng.random(50)
    other = rng.random(50)
    steep = 1 / (1 + np.exp(-20 * (chance - 0.5)))  # the same order
    orders = [
        np.argsort(blended("rank", members_of(*(np.stack([one, 1 - one], axis=1) for one in (first, other))))[:, 0])
        for first in (chance, steep)
    ]
    np.testing.assert_array_equal(*orders)


def test_rank_mean_of_one_member_is_that_member_ties_included() -> None:
    one = np.repeat(softmax(np.random.default_rng(0).normal(size=(10, 3))), 2, axis=0)
    np.testing.assert_allclose(blended("rank", members_of(one)), one, rtol=1e-5)


# --- Weights


def _log_loss(weights: Sequence[float], members: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    return LOG_LOSS.score(labels, np.tensordot(np.array(weights), members.astype(np.float64), axes=1))


@pytest.mark.parametrize("seed", range(3))
def test_convex_weights_are_the_best_of_a_fine_grid(seed: int) -> None:
    case = made(seed=seed)
    members = stacked(case)
    found = convex_weights(members, case.labels)
    assert found.sum() == pytest.approx(1) and (found >= 0).all()
    steps = range(41)
    grid = [(a / 40, b / 40, (40 - a - b) / 40) for a in steps for b in steps if a + b <= 40]
    losses = [_log_loss(weights, members, case.labels) for weights in grid]
    assert _log_loss(found.tolist(), members, case.labels) <= min(losses) + 1e-9
    np.testing.assert_allclose(found, grid[int(np.argmin(losses))], atol=1 / 40)


def test_convex_weights_by_hand() -> None:
    # The first is sure and right on two rows of three, the second is always undecided: the loss of w : 1 - w is
    # -(2 log((1 + w) / 2) + log((1 - w) / 2)) / 3, least where 2 / (1 + w) = 1 / (1 - w).
    members = members_of([[1, 0], [1, 0], [0, 1]], np.full((3, 2), 0.5))
    np.testing.assert_allclose(convex_weights(members, np.zeros(3, dtype=np.int64)), [1 / 3, 2 / 3], atol=1e-5)


def test_a_member_that_only_harms_has_no_weight() -> None:
    case = made(600, 2)
    good = stacked(case)[0]
    members = members_of(good, good[:, ::-1])
    np.testing.assert_array_equal(convex_weights(members, case.labels), [1, 0])
    for metric in METRICS.values():
        np.testing.assert_array_equal(hill_weights(members, case.labels, metric), [1, 0])


def _counts(members: int, longest: int) -> list[tuple[int, ...]]:
    every = itertools.product(range(longest + 1), repeat=members)
    return [counts for counts in every if 0 < sum(counts) <= longest]


def _ensemble(counts: ArrayLike, members: NDArray[np.float32]) -> NDArray[np.float64]:
    counts = np.asarray(counts)
    return np.asarray(np.tensordot(counts / counts.sum(), members.astype(np.float64), axes=1))


@pytest.mark.parametrize("metric", [ACCURACY, LOG_LOSS], ids=lambda metric: metric.name)
@pytest.mark.parametrize("seed", range(4))
def test_hill_climbing_reaches_what_brute_force_finds(metric: Metric, seed: int) -> None:
    case = made(30, 3, 2, seed=seed)
    members = stacked(case)
    brute = [metric.gain(0, metric.score(case.labels, _ensemble(one, members))) for one in _counts(2, 25)]
    reached = metric.gain(0, metric.score(case.labels, _ensemble(hill_weights(members, case.labels, metric), members)))
    assert reached == pytest.approx(max(brute), abs=1e-6)
    assert (
        reached >= max(metric.gain(0, metric.score(case.labels, one)) for one in members) + (metric is LOG_LOSS) * 0.01
    )


CARUANA = {
    **{name: made(metric=name) for name in METRICS},
    # Cases in which scores are equal on the way.
    **{f"ties-{seed}": made(40, 3, 4, seed=seed) for seed in (8, 16, 33)},
}


@pytest.mark.parametrize("name", CARUANA)
def test_hill_climbing_is_caruanas(name: str) -> None:
    """Against the method written down plainly, on all rows and classes."""
    case = CARUANA[name]
    members, labels, metric = stacked(case), case.labels, case.metric
    picked: list[int] = []
    ways: list[tuple[float, int, list[int]]] = []
    for _ in range(25):
        trials = [[*picked, number] for number in range(len(members))]
        losses = [
            metric.gain(metric.score(labels, _ensemble(np.bincount(t), members[: max(t) + 1])), 0) for t in trials
        ]
        fewest = [(loss, len(set(trial)), trial[-1]) for loss, trial in zip(losses, trials, strict=True)]
        picked = trials[min(fewest)[2]]
        ways.append((min(losses), len(set(picked)), picked))
    best = min(ways, key=lambda way: (way[0], way[1], len(way[2])))[2]
    expected = np.bincount(best, minlength=len(members)) / len(best)
    np.testing.assert_allclose(hill_weights(members, labels, metric), expected, atol=1e-12)
    assert len(set(best)) > 1


def test_of_equal_scores_hill_climbing_takes_fewer_members_then_the_first() -> None:
    labels = np.array([0, 0, 1, 1])
    weak = np.array([[0.6, 0.4], [0.4, 0.6], [0.4, 0.6], [0.4, 0.6]])
    strong = np.where(weak > 0.5, 0.9, 0.1)
    for members in (members_of(weak, strong), members_of(strong, weak, strong)):
        assert hill_weights(members, labels, ACCURACY).tolist() == [1, *[0] * (len(members) - 1)]


def test_hill_climbing_by_hand() -> None:
    # Row 0 is the first's and row 1 the second's, whose claim is the weaker: only 2 : 1 gets both right.
    members = members_of([[0.6, 0.4], [0.6, 0.4]], [[0.3, 0.7], [0.9, 0.1]])
    weights = hill_weights(members, np.array([0, 0]), ACCURACY)
    np.testing.assert_allclose(weights, [1, 0])  # alone it is right on both
    members = members_of([[0.6, 0.4], [0.45, 0.55]], [[0.25, 0.75], [0.9, 0.1]])
    # w · 0.6 + (1 - w) · 0.25 > 0.5 takes w > 5/7, and w · 0.45 + (1 - w) · 0.9 > 0.5 takes w < 8/9: 3 of 4.
    np.testing.assert_allclose(hill_weights(members, np.array([0, 0]), ACCURACY), [0.75, 0.25])


# --- Temperatures


def test_temperatures_by_hand() -> None:
    found = apply_temperatures(members_of([[0.8, 0.2]], [[0.8, 0.2]]), [0.5, 2.0])
    np.testing.assert_allclose(found, [[[16 / 17, 1 / 17]], [[2 / 3, 1 / 3]]], rtol=1e-5)


@pytest.mark.parametrize("true", [0.4, 1.0, 3.0])
def test_the_temperature_is_the_best_of_a_fine_grid(true: float) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3000, 4)) * 1.5
    labels = np.array([rng.choice(4, p=row / row.sum()) for row in softmax(logits).astype(np.float64)])
    given = softmax(logits * true)  # too sharp by `true`
    grid = np.exp(np.linspace(math.log(0.2), math.log(6), 301))
    losses = [LOG_LOSS.score(labels, apply_temperatures(given[None], [one])[0]) for one in grid]
    found = fit_temperature(given, labels)
    assert found == pytest.approx(grid[int(np.argmin(losses))], rel=0.02)
    assert found == pytest.approx(true, rel=0.1)
    assert LOG_LOSS.score(labels, apply_temperatures(given[None], [found])[0]) <= min(losses) + 1e-6


def test_temperatures_make_members_alike_before_they_are_blended() -> None:
    case = made(600, metric="log_loss")
    before, after = (make_blend(case, calibration=how) for how in ("none", "temperature"))  # type: ignore[arg-type]
    assert before.temperatures is None
    assert after.temperatures is not None
    # `made` makes each member sharper than the one before.
    assert list(after.temperatures) == sorted(after.temperatures)
    assert before.scored[0].score - after.scored[0].score > 0.01
    scaled = apply_temperatures(stacked(case), after.temperatures)
    np.testing.assert_allclose(after.predict(stacked(case)), after.rule.apply(scaled), rtol=1e-6)


# --- Nested cross-fitting


@pytest.mark.parametrize("calibration", ["none", "temperature"])
@pytest.mark.parametrize("method", METHODS)
def test_a_rows_own_label_has_no_part_in_its_prediction(method: str, calibration: Any) -> None:
    case = made(60, 3, metric="log_loss")
    row = 7
    labels = case.labels.copy()
    labels[row] = (labels[row] + 1) % 3
    before, after = (
        make_blend(one, method=method, calibration=calibration).oof for one in (case, replace(case, labels=labels))
    )
    own = case.folds == case.folds[row]
    np.testing.assert_array_equal(before[own], after[own])
    if method in LEARNING or calibration == "temperature":
        assert not np.array_equal(before[~own], after[~own])  # where it has a part


def test_the_best_single_is_chosen_on_the_other_folds() -> None:
    labels = np.array([0, 1] * 6)
    folds = np.repeat([0, 1], 6)
    right, wrong = np.eye(2)[labels] * 0.8 + 0.1, np.eye(2)[1 - labels] * 0.8 + 0.1
    first, second = np.where(folds[:, None] == 0, right, wrong), np.where(folds[:, None] == 0, wrong, right)
    case = Aligned(
        ACCURACY,
        ["a", "b"],
        [str(n) for n in range(12)],
        labels,
        folds,
        dict(zip("xy", members_of(first, second), strict=True)),
    )
    found = make_blend(case, method="single")
    assert found.result.score == 0
    np.testing.assert_allclose(found.oof, wrong, rtol=1e-6)


def test_ranks_are_those_within_a_fold() -> None:
    case = made()
    own = case.folds == 0
    changed = {name: np.where(own[:, None], one, one[::-1]) for name, one in case.probabilities.items()}
    before, after = (make_blend(one, method="rank").oof for one in (case, replace(case, probabilities=changed)))
    np.testing.assert_array_equal(before[own], after[own])
    by_hand = METHODS["rank"].fit(stacked(case), case.labels, ACCURACY).apply(stacked(case)[:, own])
    np.testing.assert_allclose(before[own], by_hand, rtol=1e-6)


def cross_fitted(case: Aligned, method: str) -> NDArray[np.float32]:
    """Nested cross-fitting, written down plainly."""
    found = np.full_like(case.probabilities["m0"], np.nan)
    for fold in set(case.folds.tolist()):
        train, held = np.flatnonzero(case.folds != fold), np.flatnonzero(case.folds == fold)
        rule = METHODS[method].fit(stacked(case)[:, train], case.labels[train], case.metric)
        found[held] = rule.apply(stacked(case)[:, held])
    return found


@pytest.mark.parametrize("method", METHODS)
def test_each_fold_is_blended_by_what_the_others_taught(method: str) -> None:
    case = made(metric="log_loss")
    np.testing.assert_allclose(make_blend(case, method=method).oof, cross_fitted(case, method), rtol=1e-5)


@pytest.mark.parametrize("metric", ["accuracy", "log_loss", "macro_f1"])
def test_the_scores_are_those_of_the_cross_fitted_predictions(metric: str) -> None:
    case = made(metric=metric)
    best = max(case.probabilities.values(), key=lambda one: case.metric.gain(0, case.metric.score(case.labels, one)))
    for one in make_blend(case).scored:
        oof = cross_fitted(case, one.name)
        assert one.score == pytest.approx(case.metric.score(case.labels, oof))
        for fold, score in one.fold_scores.items():
            rows = case.folds == fold
            assert score == pytest.approx(case.metric.score(case.labels[rows], oof[rows]))
        if case.metric.per_row is not None:
            assert one.score_se == pytest.approx(standard_error(case.metric, case.labels, oof))
            assert (one.gain, one.gain_se) == pytest.approx(paired_gain(case.metric, case.labels, best, oof), abs=1e-12)
        elif one.name == "mean":  # the bootstrap draws other rows
            assert one.score_se == pytest.approx(standard_error(case.metric, case.labels, oof), rel=0.3)


@pytest.mark.parametrize("metric", ["accuracy", "log_loss"])
@pytest.mark.parametrize("calibration", ["none", "temperature"])
def test_with_shuffled_labels_every_method_is_at_chance(metric: str, calibration: Any) -> None:
    case = made(300, 10, 4, metric=metric)
    rng = np.random.default_rng(1)
    labels = case.labels.copy()
    for fold in range(3):  # within a fold, so that the folds stay stratified
        labels[case.folds == fold] = rng.permutation(labels[case.folds == fold])
    found = make_blend(replace(case, labels=labels), calibration=calibration)
    assert len(found.scored) == len(METHODS)
    for one in found.scored:
        if metric == "accuracy":
            assert abs(one.score - 0.1) < 3 * math.sqrt(0.1 * 0.9 / 300), one
        else:
            assert one.score > math.log(10) - 3 * one.score_se, one


@pytest.mark.parametrize("metric", ["accuracy", "log_loss"])
def test_a_useless_member_does_no_harm(metric: str) -> None:
    case = made(900, 4, 1, metric=metric)
    found = make_blend(_with_noise(case))
    gained = gains(found)
    assert gained["mean"][0] < -3 * gained["mean"][1]  # it would, if it were let
    assert found.result.gain >= -found.result.gain_se
    for method in LEARNING:
        assert gained[method][0] >= -2 * gained[method][1], method
    weights = {one.name: one.weights or () for one in found.scored}
    for method in ("convex", "hill"):
        assert weights[method][1] < 0.15


@pytest.mark.parametrize("metric", ["accuracy", "log_loss", "roc_auc"])
def test_duplicates_of_one_member_are_that_member(metric: str) -> None:
    case = made(metric=metric)
    one = case.probabilities["m0"]
    found = make_blend(replace(case, probabilities={"a": one, "b": one.copy(), "c": one.copy()}))
    assert found.method == "single"
    assert "blending gains nothing" in found.reason
    for method in METHODS:
        if method != "stacking":
            gain, _ = gains(found)[method]
            assert gain == pytest.approx(0, abs=1e-6), method
    weights = {one.name: one.weights for one in found.scored}
    assert weights["hill"] == weights["single"] == (1, 0, 0)
    assert weights["convex"] == pytest.approx((1 / 3, 1 / 3, 1 / 3), abs=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_predictions_are_distributions(method: str) -> None:
    found = make_blend(made(), method=method, calibration="temperature")
    for one in (found.oof, found.predict(stacked(made(seed=5)))):
        assert one.dtype == np.float32
        assert (one >= 0).all()
        np.testing.assert_allclose(one.sum(axis=1), 1, atol=1e-5)


def test_a_class_missing_in_what_is_fitted_on_keeps_its_probability() -> None:
    case = made(120, 4, metric="log_loss")
    case = replace(case, folds=np.where(case.labels == 3, 0, case.folds))  # fold 0 alone has class 3
    own = case.folds == 0
    found = make_blend(case, method="stacking", calibration="none")
    expected = stacked(case)[:, own, 3].mean(axis=0)
    np.testing.assert_allclose(found.oof[own, 3], expected, rtol=1e-5)
    np.testing.assert_allclose(found.oof[own].sum(axis=1), 1, atol=1e-5)
    assert all(math.isfinite(one.score) for one in found.scored)


def test_one_class_alone_in_what_is_fitted_on() -> None:
    labels, folds = np.array([0] * 8 + [1] * 8), np.repeat([0, 1], 8)
    case = replace(made(16, 2, 2, folds=2), labels=labels, folds=folds)
    found = make_blend(case, method="stacking", calibration="temperature")
    assert np.isfinite(found.oof).all()


# --- Which method is chosen


def _chosen_by_hand(case: Aligned) -> str:
    oof = {name: cross_fitted(case, name) for name in METHODS}
    best = max(METHODS, key=lambda name: case.metric.gain(0, case.metric.score(case.labels, oof[name])))
    for name in METHODS:
        gain, error = paired_gain(case.metric, case.labels, oof[name], oof[best])
        if gain <= error + 1e-6:
            return name
    raise AssertionError


def _with_noise(case: Aligned) -> Aligned:
    noise = softmax(4 * np.random.default_rng(9).normal(size=(len(case.ids), len(case.classes))))
    return replace(case, probabilities={**case.probabilities, "noise": noise})


CASES = {
    "one of two is noise": (_with_noise(made(members=1)), "single"),
    "two": (made(members=2, seed=1), "mean"),
    "of different sharpness": (made(metric="log_loss"), "geometric"),
    "two others": (made(members=2, seed=11), "convex"),
    "one of three is noise": (_with_noise(made(900, members=2)), "hill"),
    "many rows": (made(900, metric="log_loss"), "stacking"),
}


@pytest.mark.parametrize("name", CASES)
def test_the_simplest_within_one_standard_error_is_chosen(name: str) -> None:
    case, expected = CASES[name]
    found = make_blend(case)
    assert found.method == _chosen_by_hand(case) == expected
    best = max(found.scored, key=lambda one: case.metric.gain(0, one.score))
    if found.method == best.name:
        assert found.reason.startswith("the best")
    else:
        assert f"the simplest within one standard error of the best, {best.name}," in found.reason
    assert ("blending gains nothing" in found.reason) == (expected == "single")


def test_a_method_that_is_told_is_taken() -> None:
    case = made()
    itself = make_blend(case)
    for name in METHODS:
        found = make_blend(case, method=name)
        assert found.method == found.result.name == name
        assert found.reason.startswith("as told")
        assert itself.method in found.reason or name == itself.method
        assert found.scored == itself.scored


def test_with_one_fold_what_fits_is_refused_and_the_rest_goes() -> None:
    case = made()
    case = replace(case, folds=np.zeros_like(case.folds))
    found = make_blend(case)
    assert [one.name for one in found.scored] == ["single", "mean", "geometric", "rank"]
    assert "one fold" in found.reason
    best = max(case.probabilities.values(), key=lambda one: ACCURACY.score(case.labels, one))
    np.testing.assert_allclose(make_blend(case, method="single").oof, best, rtol=1e-6)
    for method in LEARNING:
        with pytest.raises(DataError, match=f"{method} has nothing to be fitted on"):
            make_blend(case, method=method)
    with pytest.raises(DataError, match="temperature has nothing to be fitted on"):
        make_blend(case, calibration="temperature")


def test_one_member_is_no_blend() -> None:
    case = made()
    with pytest.raises(DataError, match="a blend of m0 alone"):
        make_blend(replace(case, probabilities={"m0": case.probabilities["m0"]}))


# --- Stored

TEST_IDS = ["t3", "t1", "t2"]


def _experiments(workspace: Workspace, case: Aligned, **changes: Mapping[str, Any]) -> list[Experiment]:
    """Finished experiments of `cards` with what the case holds; `changes` by experiment go into the manifest."""
    for number, (name, found) in enumerate(case.probabilities.items()):
        order = np.roll(np.arange(len(case.ids)), 3 * number)
        oof = prediction_frame([case.ids[n] for n in order], found[order], case.classes, fold=case.folds[order])
        test = prediction_frame(np.roll(TEST_IDS, number).tolist(), np.roll(found[:3], number, axis=0), case.classes)
        manifest = {
            "competition": "cards",
            "experiment": name,
            "metric": case.metric.name,
            "target": "single",
            "greater_is_better": case.metric.greater_is_better,
            **manifest_scores(case.metric.score(case.labels, found), 0.01, folds=np.unique(case.folds).tolist()),
            "oof_rows": len(case.ids),
            "floors": {"random classifier": {"score": 0.25, "score_se": 0.01}},
            "stages": [{"seconds": 3.0}],
            "classes": case.classes,
            "fingerprint": f"of {name}",
            "data_sha256": "data",
            "folds_sha256": "folds",
            "created": "2026-01-01T00:00:00+00:00",
            **changes.get(name, {}),
        }
        finish_experiment(workspace.oof("cards", name), {"oof.parquet": oof, "test.parquet": test}, manifest)
    return [read_experiment(workspace, "cards", name) for name in case.probabilities]


def _labels(case: Aligned) -> dict[str, str]:
    return {key: case.classes[label] for key, label in zip(case.ids, case.labels, strict=True)}


def _stored(workspace: Workspace, case: Aligned, name: str = "both", **how: Any) -> tuple[Blend, Experiment]:
    experiments = _experiments(workspace, case)
    experiments[1] = replace(experiments[1], test=experiments[1].test.iloc[::-1])
    aligned = align(experiments, _labels(case))
    check_members(experiments, aligned)
    asked = {"method": None, "calibration": "none", **how}
    fingerprint = blend_fingerprint(experiments, **asked)
    claim_name(name, experiments[0], fingerprint=fingerprint, workspace=workspace)
    found = make_blend(aligned, **asked)
    store_blend(found, aligned, experiments, name=name, fingerprint=fingerprint, workspace=workspace)
    return found, read_experiment(workspace, "cards", name)


@pytest.mark.parametrize("method", ["convex", "stacking"])
def test_a_blend_is_an_experiment_like_any_other(tmp_path: Path, method: str) -> None:
    workspace, case = Workspace(tmp_path), made()
    found, stored = _stored(workspace, case, method=method, calibration="temperature")
    np.testing.assert_array_equal(probabilities_of(stored.oof, case.ids, case.classes), found.oof)
    assert dict(zip(stored.oof["id"], stored.oof["fold"], strict=True)) == dict(zip(case.ids, case.folds, strict=True))
    predicted = found.predict(stacked(case)[:, :3])
    np.testing.assert_allclose(probabilities_of(stored.test, TEST_IDS, case.classes), predicted, rtol=1e-5)
    assert stored.score == found.result.score == pytest.approx(ACCURACY.score(case.labels, found.oof))
    assert list_experiments(workspace) == [("cards", name) for name in ("both", "m0", "m1", "m2")]
    beside = align([stored, read_experiment(workspace, "cards", "m0")], _labels(case))
    np.testing.assert_array_equal(beside.probabilities["both"], found.oof)

    [row] = [row for row in leaderboard_rows([stored.manifest]) if row["experiment"] == "both"]
    assert (row["score"], row["± se"], row["seconds"]) == (found.result.score, found.result.score_se, None)
    assert f"{found.result.score:.4f}" in result_text(dict(stored.manifest))
    described = stored.manifest["blend"]
    assert (described["method"], described["reason"]) == (method, found.reason)
    assert [one["experiment"] for one in described["members"]] == ["m0", "m1", "m2"]
    assert [one["fingerprint"] for one in described["members"]] == ["of m0", "of m1", "of m2"]
    assert [one["temperature"] for one in described["members"]] == list(found.temperatures or ())
    weights = [one["weight"] for one in described["members"]]
    assert weights == ([None] * 3 if method == "stacking" else list(found.rule.weights or ()))
    assert [one["method"] for one in described["methods"]] == list(METHODS)


def test_a_blend_without_test_pictures_has_no_test_predictions(tmp_path: Path) -> None:
    workspace, case = Workspace(tmp_path), made()
    _experiments(workspace, case)
    for name in case.probabilities:
        (workspace.oof("cards", name) / "test.parquet").unlink()
    experiments = [read_experiment(workspace, "cards", name) for name in case.probabilities]
    aligned = align(experiments, _labels(case))
    check_members(experiments, aligned)
    store_blend(make_blend(aligned), aligned, experiments, name="both", fingerprint="f", workspace=workspace)
    assert read_experiment(workspace, "cards", "both").test.empty


def test_the_same_blend_may_be_made_again_and_no_other_under_its_name(tmp_path: Path) -> None:
    workspace, case = Workspace(tmp_path), made()
    first, _ = _stored(workspace, case)
    again, _ = _stored(workspace, case)
    np.testing.assert_array_equal(first.oof, again.oof)
    with pytest.raises(KitError, match="holds another experiment"):
        _stored(workspace, case, method="mean")
    with pytest.raises(KitError, match="holds another experiment"):
        _stored(workspace, case, calibration="temperature")


def test_the_same_blend_of_other_data_is_another(tmp_path: Path) -> None:
    workspace, case = Workspace(tmp_path), made()
    _stored(workspace, case)
    for key in ("data_sha256", "folds_sha256"):
        experiments = _experiments(workspace, case, m0={key: "other"})
        fingerprint = blend_fingerprint(experiments, method=None, calibration="none")
        with pytest.raises(KitError, match="holds another experiment"):
            claim_name("both", experiments[0], fingerprint=fingerprint, workspace=workspace)


def test_a_trained_or_begun_experiment_is_never_overwritten(tmp_path: Path) -> None:
    workspace, case = Workspace(tmp_path), made()
    with pytest.raises(KitError, match="holds another experiment"):
        _stored(workspace, case, name="m0")
    write_json(workspace.run("cards", "begun") / "run.json", {"fingerprint": "of begun"})
    with pytest.raises(KitError, match="holds another experiment"):
        _stored(workspace, case, name="begun")


@pytest.mark.parametrize("name", ["", "Both", "a/b", "../b", "-b", "b" * 101])
def test_what_cannot_be_a_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(KitError, match="cannot be an experiment's name"):
        _stored(Workspace(tmp_path), made(), name=name)


def test_the_name_tells_what_was_asked_for() -> None:
    assert blend_name(["a", "b"], method=None, calibration="none") == "blend-a-b"
    assert blend_name(["a", "b"], method="hill", calibration="temperature") == "blend-hill-temperature-a-b"
    wide = [blend_name(["m" * 30, name], method=None, calibration="none") for name in ("a" * 20, "b" * 20)]
    assert len(set(wide)) == 2
    assert all(name.startswith("blend-2-") and len(name) == 14 for name in wide)


def test_members_whose_labels_have_changed_are_refused(tmp_path: Path) -> None:
    case = made()
    experiments = _experiments(Workspace(tmp_path), case)
    wrong = case.probabilities["m0"].argmax(axis=1) != case.labels
    labels = np.where(wrong & (np.cumsum(wrong) == 1), case.probabilities["m0"].argmax(axis=1), case.labels)
    with pytest.raises(DataError, match="with the labels as they are now"):
        check_members(experiments, align(experiments, _labels(replace(case, labels=labels))))


def test_members_of_other_test_pictures_are_refused(tmp_path: Path) -> None:
    case = made()
    experiments = _experiments(Workspace(tmp_path), case)
    experiments[1] = replace(experiments[1], test=experiments[1].test.iloc[1:])
    with pytest.raises(DataError, match="m1 has predicted other test pictures than m0"):
        check_members(experiments, align(experiments, _labels(case)))


@pytest.mark.parametrize(
    ("members", "blend"),
    [
        (("last", "fold"), "fold"),
        (("last", "inner"), "inner"),
        (("last", "last"), "last"),
        ((None, "fold"), "fold"),  # where stages were left aside
        ((None, None), None),
    ],
)
def test_a_blend_is_as_flattered_as_its_members(members: tuple[str | None, str | None], blend: str | None) -> None:
    assert _weakest(members) == blend
