"""Linear heads on features, and what is recommended."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pipeline.predictions.aligned import Aligned
from pipeline.predictions.metrics import METRICS
from pipeline.predictions.probe import Candidate, Pass, Probed, fit_head, rank, recommended

CLASSES = 3


def rows(seed: int = 0, count: int = 90) -> tuple[np.ndarray, np.ndarray]:
    """Features of which the first three tell the class."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    features = random.normal(size=(count, 6)).astype(np.float32)
    features[np.arange(count), labels] += 4
    return features, labels


def fit(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    trained, held_out = np.arange(60), np.arange(60, 90)
    head = fit_head(features, labels, trained=trained, inner=np.arange(12), classes=CLASSES + 1)
    return head.probabilities(features[held_out])


def test_a_head_tells_apart_what_the_features_tell_apart() -> None:
    features, labels = rows()
    found = fit(features, labels)
    assert METRICS["accuracy"].score(labels[60:], found) > 0.9
    assert found.sum(axis=1) == pytest.approx(1, abs=1e-5)
    assert (found[:, CLASSES] < 1e-15).all()  # a class without a training row


@pytest.mark.parametrize("known", [[0, 1, 2], [0, 2]])
def test_the_head_is_scikit_learns_on_standardised_features(known: list[int]) -> None:
    features, labels = rows()
    features *= 10 ** np.arange(6)  # of very different scales
    trained = np.flatnonzero(np.isin(labels[:60], known))
    theirs = make_pipeline(StandardScaler(), LogisticRegression(C=0.5, max_iter=300)).fit(
        features[trained], labels[trained]
    )
    ours = fit_head(features, labels, trained=trained, inner=trained[:0], classes=3, strength=0.5)
    found = ours.probabilities(features[60:])
    np.testing.assert_allclose(found[:, known], theirs.predict_proba(features[60:]), atol=1e-4)


def test_the_held_out_fold_has_no_part_in_its_head() -> None:
    features, labels = rows()
    found = fit(features, labels)
    changed = labels.copy()
    changed[60:] = (changed[60:] + 1) % CLASSES
    np.testing.assert_array_equal(fit(features, changed), found)
    others = features.copy()
    others[61:] *= 100  # nor do its features, but for their own row
    np.testing.assert_array_equal(fit(others, labels)[0], found[0])


def test_inner_rows_choose_the_strength() -> None:
    """Inner labels that are noise ask for the strongest penalty, which leaves probabilities small."""
    features, labels = rows()
    noise = labels.copy()
    noise[:12] = np.random.default_rng(1).permutation(noise[:12])
    assert fit(features, noise).max() < fit(features, labels).max()


def candidate(name: str, flops: int, score: float, *, gain: float = 0.0, gain_se: float = 0.1) -> Probed:
    return Probed(Candidate(name, "imagenet"), score, 0.1, gain, gain_se, False, cost(flops))


def cost(flops: int) -> Pass:
    return Pass(1, 4, flops, 1.0, 1, None, "CPU", "2026-11-21 17:05")


def aligned(metric: str, labels: np.ndarray, predictions: dict[Candidate, np.ndarray]) -> Aligned:
    rows = len(labels)
    named = {one.name: found for one, found in predictions.items()}
    classes = ["a", "b"]
    return Aligned(METRICS[metric], classes, [f"{n:03d}" for n in range(rows)], labels, np.arange(rows) % 2, named)


def test_the_cheapest_within_one_standard_error_is_recommended() -> None:
    found = [
        candidate("large", 100, 0.9, gain_se=0.0),
        candidate("near", 50, 0.85, gain=-0.05),
        candidate("edge", 20, 0.8, gain=-0.1),
        candidate("far", 1, 0.7, gain=-0.2),
    ]
    assert recommended(found).candidate.name == "edge (imagenet)"
    assert recommended([found[0], found[3]]) is found[0]


def test_ranking_is_best_first_with_paired_differences() -> None:
    labels = np.array([0, 1, 0, 1])
    right, one_wrong = np.eye(2, dtype=np.float32)[labels], np.eye(2, dtype=np.float32)[[0, 1, 0, 0]]
    names = {name: Candidate(name, "none") for name in ("dear", "cheap", "worse")}
    costs = {one: cost(flops) for one, flops in zip(names.values(), (9, 3, 1), strict=True)}
    predictions = {names["worse"]: one_wrong, names["dear"]: right, names["cheap"]: right}
    for metric in ("accuracy", "log_loss"):
        found = rank(aligned(metric, labels, predictions), costs)
        assert [one.candidate.backbone for one in found] == ["cheap", "dear", "worse"]
        assert found[0].gain == found[1].gain == 0
        assert found[2].gain < 0
    accuracy = rank(aligned("accuracy", labels, predictions), costs)[2]
    assert (accuracy.score, accuracy.gain) == (0.75, -0.25)
    assert accuracy.gain_se == pytest.approx(np.std([0, 0, 0, 1]) / 2)


def test_what_is_told_apart_is_corrected_for_the_number_of_pairs() -> None:
    """The best is right on 9 of 100 rows where another is wrong, never the reverse: p = 2 / 2⁹ = 0.0039."""
    labels = np.zeros(100, dtype=np.int64)
    right = np.tile(np.array([0.9, 0.1], dtype=np.float32), (100, 1))
    worse = right.copy()
    worse[:9] = worse[:9, ::-1]
    names = [Candidate(f"n{number}", "none") for number in range(7)]

    def told_apart(count: int) -> list[bool]:
        chosen = names[: count + 1]
        predictions = {one: right if number == 0 else worse for number, one in enumerate(chosen)}
        found = rank(aligned("accuracy", labels, predictions), {one: cost(1) for one in chosen})
        return [one.told_apart for one in found]

    assert told_apart(1) == [False, True]
    assert told_apart(6) == [False] * 7  # 21 pairs: 21 · 0.0039 > 0.05
    assert rank(aligned("accuracy", labels, {names[0]: right}), {names[0]: cost(1)})[0].gain == 0
