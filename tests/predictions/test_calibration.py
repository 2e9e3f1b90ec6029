"""The temperature that is fitted on OOF predictions, and what is said of it."""

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.predictions.calibration import (
    OofTemperature,
    apply_temperature,
    calibration,
    fit_temperature,
    oof_temperature,
)
from pipeline.report.tables import calibration_text


def too_sure(rows: int = 900, *, by: float = 2.5) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """Predictions whose logits are too large by a factor, labels, and folds of three sizes."""
    random = np.random.default_rng(1)
    logits = random.normal(size=(rows, 4)) * 1.5
    true = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (random.random(rows)[:, None] > true.cumsum(axis=1)).sum(axis=1)
    given = np.exp(logits * by) / np.exp(logits * by).sum(axis=1, keepdims=True)
    return given.astype(np.float32), labels, random.choice(3, rows, p=[0.5, 0.3, 0.2])


def test_a_temperature_mends_what_is_too_sure() -> None:
    given, labels, folds = too_sure()
    found = oof_temperature(given, labels, folds)
    assert found is not None
    assert found.value == pytest.approx(2.5, rel=0.15)
    assert found.error_before == calibration(labels, given).error
    assert found.error_before > 0.1
    assert found.error_after < 0.05
    assert found.folds == 3


def test_what_it_is_worth_is_told_by_rows_that_it_was_not_fitted_on() -> None:
    given, labels, folds = too_sure(60)  # so few that it matters
    scaled = given.copy()
    for fold in range(3):
        temperature = fit_temperature(given[folds != fold], labels[folds != fold])
        scaled[folds == fold] = apply_temperature(given[folds == fold], temperature)
    found = oof_temperature(given, labels, folds)
    assert found is not None
    assert found.error_after == pytest.approx(calibration(labels, scaled).error)
    assert found.error_after != calibration(labels, apply_temperature(given, found.value)).error


def test_a_temperature_that_helps_nobody_is_not_applied() -> None:
    given, labels, folds = too_sure(300, by=1.0)  # as sure as it is right
    found = oof_temperature(given, labels, folds)
    assert found is not None
    assert not found.helps and found.error_after >= found.error_before
    said = calibration_text(found, chosen=[], models=3, raw=False)
    assert said.startswith("as predicted: a temperature") and "calibrated" not in said


def test_with_one_fold_it_says_that_there_is_no_other() -> None:
    given, labels, _ = too_sure(60)
    found = oof_temperature(given, labels, np.zeros(60, dtype=np.int64))
    assert found is not None
    assert found.error_after == pytest.approx(calibration(labels, apply_temperature(given, found.value)).error)
    assert "as there is one fold" in calibration_text(found, chosen=[], models=1, raw=False)


def test_it_is_said_what_the_calibration_error_is_of() -> None:
    found = OofTemperature(value=1.5, error_before=0.04, error_after=0.01, folds=5)
    first = (
        "calibrated by temperature 1.500, fitted on OOF predictions; ECE of single fold models there 0.0400 → 0.0100"
    )
    own, mean = (
        "on rows that chose the epochs and stages, too",
        "that of the mean of 5, shown here, is not known",
    )
    both = ["epochs", "stages"]
    for chosen, models, more in (
        ([], 1, []),
        ([], 5, [mean]),
        (both, 1, [own]),
        (both, 5, [own, mean]),
    ):
        text = calibration_text(found, chosen=chosen, models=models, raw=False)
        assert text == "; ".join([first, *more])
    assert calibration_text(found, chosen=both, models=5, raw=True) == "as predicted, not calibrated"


def test_where_every_row_is_right_there_is_no_temperature() -> None:
    """The best one would be the smallest: every probability would be 100 %."""
    given = np.full((6, 3), 0.2, dtype=np.float32) + 0.4 * np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 1, 2]]
    labels, folds = np.array([0, 1, 2, 0, 1, 2]), np.arange(6) % 2
    assert oof_temperature(given, labels, folds) is None
    assert "no temperature is fitted" in calibration_text(None, chosen=["epochs"], models=2, raw=False)
    assert oof_temperature(given, np.roll(labels, 1), folds) is not None


def test_a_temperature_changes_no_order() -> None:
    given, _, _ = too_sure(50)
    for temperature in (0.3, 1.0, 4.0):
        found = apply_temperature(given, temperature)
        np.testing.assert_array_equal(found.argmax(axis=1), given.argmax(axis=1))
        np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(apply_temperature(given, 1.0), given, atol=1e-6)
