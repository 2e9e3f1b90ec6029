"""Experiments brought together by id; what does not belong together is refused, with the reason."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline.errors import DataError
from pipeline.predictions.aligned import align, comparable_groups
from pipeline.predictions.store import Experiment, prediction_frame

CLASSES = ["10", "2", "a b"]
IDS = ["b", "d", "a", "c"]
FOLDS = np.array([1, 0, 1, 0])
LABELS = {"a": "10", "b": "2", "c": "a b", "d": "2"}
VALUES = np.random.default_rng(0).dirichlet(np.ones(3), 4).astype(np.float32)
MANIFEST = {"classes": CLASSES, "metric": "log_loss", "target": "single", "folds_sha256": "f", "data_sha256": "d"}
MANIFEST |= {"folds": [0, 1], "missing_folds": []}


def experiment(name: str, values: Any = VALUES, ids: list[str] = IDS, **manifest: Any) -> Experiment:
    frame = prediction_frame(ids, values, CLASSES, fold=FOLDS[: len(ids)])
    return Experiment("cards", name, {**MANIFEST, **manifest}, frame, frame.iloc[:0])


def refusal(*experiments: Experiment, labels: dict[str, str] = LABELS) -> str:
    with pytest.raises(DataError) as caught:
        align(experiments, labels)
    return str(caught.value)


def test_predictions_labels_and_folds_are_joined_by_id() -> None:
    first = experiment("one")
    turned = replace(first, name="two", oof=first.oof.iloc[::-1][["fold", "a b", "2", "10", "id"]])
    for pair in ((first, turned), (turned, first)):
        found = align(pair, LABELS)
        assert found.ids == ["a", "b", "c", "d"]
        assert list(found.labels) == [0, 1, 2, 1]
        assert list(found.folds) == [1, 1, 0, 0]
        assert list(found.probabilities) == [one.name for one in pair]
        for values in found.probabilities.values():
            assert values.dtype == np.float32
            np.testing.assert_array_equal(values, VALUES[[2, 0, 3, 1]])
        assert (found.metric.name, found.classes) == ("log_loss", CLASSES)


def test_each_experiment_keeps_its_own_predictions() -> None:
    other = VALUES[:, ::-1].copy()
    found = align([experiment("one"), experiment("two", other), experiment("three")], LABELS)
    np.testing.assert_array_equal(found.probabilities["two"], other[[2, 0, 3, 1]])
    np.testing.assert_array_equal(found.probabilities["three"], found.probabilities["one"])


def test_rows_that_were_not_held_out_need_no_prediction() -> None:
    assert align([experiment("one")], {**LABELS, "e": "10"}).ids == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"folds_sha256": "g"}, "other folds"),
        ({"data_sha256": "e"}, "other pictures or labels"),
        ({"classes": ["2", "10", "a b"]}, "other classes"),
        ({"metric": "accuracy"}, "another metric"),
    ],
)
def test_what_was_made_otherwise_is_refused(changes: dict[str, Any], reason: str) -> None:
    message = refusal(experiment("one"), experiment("two"), experiment("three", **changes))
    assert f"three cannot be held against one: it has {reason}\n" in message
    assert "train three again, or leave it out" in message


def test_another_competition_is_refused_and_every_reason_named() -> None:
    elsewhere = replace(experiment("two", folds_sha256="g"), slug="cars")
    assert "it has another competition (cars), other folds\n" in refusal(experiment("one"), elsewhere)


@pytest.mark.parametrize("ids", [["b", "d", "a"], ["b", "d", "a", "e"]])
def test_other_rows_are_refused(ids: list[str]) -> None:
    few = experiment("two", VALUES[: len(ids)], ids)
    assert "two cannot be held against one: it has other rows\n" in refusal(experiment("one"), few)
    assert "one cannot be held against two: it has other rows\n" in refusal(few, experiment("one"))


def on_fold(one: Experiment, fold: int) -> Experiment:
    """As if it were trained on this fold alone."""
    manifest = {**one.manifest, "folds": [fold], "missing_folds": [1 - fold]}
    return replace(one, manifest=manifest, oof=one.oof[one.oof["fold"] == fold])


def test_an_experiment_on_some_folds_meets_the_others_on_their_rows() -> None:
    whole, part = experiment("whole"), on_fold(experiment("part", VALUES[:, ::-1].copy()), 0)
    for order in ([whole, part], [part, whole]):
        found = align(order, LABELS)
        assert (found.ids, list(found.labels), list(found.folds)) == (["c", "d"], [2, 1], [0, 0])
        np.testing.assert_array_equal(found.probabilities["whole"], VALUES[[3, 1]])
        np.testing.assert_array_equal(found.probabilities["part"], VALUES[[3, 1], ::-1])
    assert [[one.name for one in members] for members, _ in comparable_groups([whole, part])] == [["whole"], ["part"]]
    assert [apart for _, apart in comparable_groups([whole, part])] == ["", "the folds 0"]
    trials = [on_fold(experiment(name), 0) for name in "abc"]
    assert comparable_groups([*trials, whole])[0][0] == [whole], "trials do not push whole experiments aside"


def test_experiments_without_a_fold_in_common_are_refused() -> None:
    message = refusal(on_fold(experiment("one"), 0), on_fold(experiment("two"), 1))
    assert "no fold is trained in all of one (has 0), two (has 1)\n" in message
    assert "train that fold of the others, too" in message


@pytest.mark.parametrize("labels", [{"a": "10", "b": "2", "d": "2"}, {**LABELS, "c": "king"}])
def test_a_row_without_a_known_label_is_named(labels: dict[str, str]) -> None:
    assert "1 rows of one have no label it knows, such as c\n" in refusal(experiment("one"), labels=labels)


def test_the_experiments_are_left_as_they_were() -> None:
    one = experiment("one")
    before = one.oof.copy()
    align([one, experiment("two")], LABELS)
    pd.testing.assert_frame_equal(one.oof, before)


def test_what_cannot_be_compared_is_grouped_apart_with_the_reason() -> None:
    one, two = experiment("one", folds_sha256="g"), experiment("two")
    three, four = experiment("three"), experiment("four", folds_sha256="g", metric="accuracy")
    groups = comparable_groups([one, two, three, four])
    assert [([member.name for member in members], apart) for members, apart in groups] == [
        (["two", "three"], ""),
        (["one"], "other folds"),
        (["four"], "other folds, another metric"),
    ]
    for members, _ in groups:
        align(members, LABELS)
    assert [members[0].name for members, _ in comparable_groups([one, two])] == ["one", "two"]
