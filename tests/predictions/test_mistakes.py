"""Where predictions go wrong, against values computed by hand; and labels that were made wrong on purpose are found."""

import numpy as np
import pytest

from pipeline.predictions.mistakes import (
    ClassScore,
    ConfusedPair,
    class_scores,
    confident_mistakes,
    confused_pairs,
    confusion,
    label_issues,
)

CLASSES = ["ace", "king", "queen", "jack"]
LABELS = np.array([0, 0, 0, 0, 1, 1, 2])
# Rows 0 and 1 are right; 2 and 3 are aces taken for kings; 4 is right; 5 is a king taken for an ace; 6 is a queen taken
# for a king. Nobody is or is taken for a jack.
PROBABILITIES = np.array(
    [
        [0.7, 0.1, 0.1, 0.1],
        [0.4, 0.3, 0.2, 0.1],
        [0.1, 0.6, 0.2, 0.1],
        [0.2, 0.8, 0.0, 0.0],
        [0.0, 1.0, 0.0, 0.0],
        [0.5, 0.4, 0.1, 0.0],
        [0.0, 0.9, 0.1, 0.0],
    ]
)


def test_rows_of_the_matrix_are_true_classes() -> None:
    assert confusion(LABELS, PROBABILITIES).tolist() == [[2, 2, 0, 0], [1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]


def test_each_class_is_scored() -> None:
    ace, king, queen, jack = class_scores(LABELS, PROBABILITIES, CLASSES)
    assert ace == ClassScore("ace", 4, 3, 2 / 3, 0.5, pytest.approx(4 / 7), pytest.approx(2.5 / 4), ("king", 2))
    assert king == ClassScore("king", 2, 4, 0.25, 0.5, pytest.approx(1 / 3), pytest.approx(0.75), ("ace", 1))
    assert queen == ClassScore("queen", 1, 0, None, 0.0, 0.0, pytest.approx(0.9), ("king", 1))
    assert jack == ClassScore("jack", 0, 0, None, None, None, None, None)


def test_confused_pairs_are_counted_both_ways() -> None:
    assert confused_pairs(confusion(LABELS, PROBABILITIES), CLASSES) == [
        ConfusedPair("ace", "king", 2, 0.5, 1),
        ConfusedPair("king", "ace", 1, 0.5, 2),
        ConfusedPair("queen", "king", 1, 1.0, 0),
    ]


def test_the_surest_mistake_comes_first() -> None:
    assert confident_mistakes(LABELS, PROBABILITIES).tolist() == [6, 3, 2, 5]
    assert len(confident_mistakes(LABELS[:2], PROBABILITIES[:2])) == 0


def test_labels_that_were_changed_are_found() -> None:
    rng = np.random.default_rng(3)
    true = rng.integers(0, 4, 400)
    logits = rng.normal(size=(400, 4))
    logits[np.arange(400), true] += 6
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    changed = rng.choice(400, 12, replace=False)
    labels = true.copy()
    labels[changed] = (true[changed] + 1) % 4
    found = label_issues(labels, probabilities.astype(np.float32))
    assert len(set(found.rows) & set(changed)) >= 11
    assert len(set(found.rows) - set(changed)) <= 3
    quality = found.quality[found.rows]
    assert (np.diff(quality) >= 0).all()
    np.testing.assert_allclose(found.quality, probabilities[np.arange(400), labels], rtol=1e-5)


def test_classes_of_few_rows_or_none_are_no_error() -> None:
    assert label_issues(LABELS, PROBABILITIES).quality.tolist() == pytest.approx([0.7, 0.4, 0.1, 0.2, 1.0, 0.4, 0.1])
    rng = np.random.default_rng(0)
    many = rng.dirichlet(np.ones(50), 60)
    assert label_issues(rng.integers(0, 20, 60), many).quality.shape == (60,)


def test_of_several_labels_each_class_is_for_itself() -> None:
    labels = np.array([[1, 0], [1, 1], [0, 1], [0, 0]])
    found = np.array([[0.9, 0.6], [0.4, 0.8], [0.1, 0.2], [0.3, 0.1]])
    first, second = class_scores(labels, found, ["a", "b"])
    assert (first.rows, first.predicted, first.precision, first.recall) == (2, 1, 1.0, 0.5)
    assert first.confidence == pytest.approx((0.9 + 0.4) / 2)
    assert (second.rows, second.predicted, second.precision, second.recall) == (2, 2, 0.5, 0.5)
    # The third row's b has probability 0.2: 0.8 off, more than the first's b (0.6) and the second's a (0.6).
    assert confident_mistakes(labels, found).tolist() == [2, 0, 1]


def test_labels_of_several_that_are_likely_wrong() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (200, 3))
    found = np.clip(labels * 0.8 + 0.1 + rng.normal(0, 0.03, labels.shape), 0, 1)
    wrong = [7, 20, 33, 40, 51]  # cleanlab says nothing of one or two: findings/cleanlab-few-wrong-labels.sh
    turned = labels.copy()
    turned[wrong, 1] = 1 - turned[wrong, 1]
    issues = label_issues(turned, found)
    assert sorted(issues.rows) == wrong
    assert sorted(np.argsort(issues.quality)[:5]) == wrong
