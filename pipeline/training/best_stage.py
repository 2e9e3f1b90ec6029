"""Which of a fold's stages is the best by now: the next one begins from it, and the fold ends on it.

Which rows say so, and what that does to the score, is in docs/decisions/0010-a-stage-that-harms.md.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.artifacts import read_json
from pipeline.predictions.metrics import METRICS, Metric, paired_gain
from pipeline.predictions.store import probabilities_of, read_predictions
from pipeline.recipe import OnLast, Recipe
from pipeline.training.stage import DONE, OOF


def best_stages(
    recipe: Recipe,
    folders: Sequence[Path],
    *,
    ids: list[str],
    labels: NDArray[np.int64],
    classes: list[str],
    metric: Metric,
) -> list[int]:
    """After each of a fold's stages, by their folders, the number of the best by then: the last that no earlier one is
    better than. It depends on the recipe and on what the stages left, so that it is the same whenever it is asked for.

    Args:
        ids: Of the fold's held-out rows.
        labels: Theirs, as of `HeldOut`.
    """
    if not recipe.chooses_stage:
        return list(range(len(folders)))
    results: list[dict[str, Any]] = [read_json(folder / DONE) for folder in folders]

    def predicted(number: int) -> NDArray[np.float32]:
        return probabilities_of(read_predictions(folders[number] / OOF), ids, classes)

    def is_better(earlier: int, later: int) -> bool:
        before, after = results[earlier], results[later]
        if not isinstance(recipe.select_on, OnLast):
            monitor = recipe.stages[later].monitor
            watched = metric if monitor == "score" else METRICS["log_loss"]
            return watched.gain(before["watched"][monitor], after["watched"][monitor]) < 0
        if not metric.gain(before["score"], after["score"]) < 0:
            return False  # without a bootstrap, which may take long
        # By more than chance: nothing else is chosen by these rows, which the fold is scored on.
        gain, error = paired_gain(metric, labels, predicted(earlier), predicted(later))
        return gain < -error

    best: list[int] = []
    for later in range(len(folders)):
        harms = any(is_better(earlier, later) for earlier in range(later))
        best.append(best[-1] if harms else later)
    return best
