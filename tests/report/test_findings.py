"""What several experiments say of single rows."""

import numpy as np
import pytest

from pipeline.predictions.aligned import Aligned
from pipeline.predictions.metrics import METRICS
from pipeline.report.findings import find_issues


@pytest.mark.parametrize(("given", "suggested", "probability"), [(1, "a", 0.97), (0, "a, b", 0.98)])
def test_an_issue_of_several_labels_has_the_probability_of_the_one_in_question(
    given: int, suggested: str, probability: float
) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (200, 3))
    found = np.clip(labels * 0.8 + 0.1 + rng.normal(0, 0.03, labels.shape), 0, 1)
    wrong = [7, 20, 33, 40, 51]
    labels[wrong] = [1, given, 0]
    found[wrong] = [0.995, 1 - probability if given else probability, 0.001]
    ids = [f"{row:03}" for row in range(200)]
    aligned = Aligned(METRICS["sample_f1"], ["a", "b", "c"], ids, labels, np.arange(200) % 5, {"one": found})
    issues = {issue.id: issue for issue in find_issues([("one", aligned)])}
    assert {f"{row:03}" for row in wrong} <= set(issues)
    assert issues["007"].suggested == suggested
    assert issues["007"].probability == pytest.approx(probability)
