"""The floor: what chance reaches, and what knows the classes' frequencies alone."""

import numpy as np

from pipeline.predictions.metrics import RESAMPLES, Metric, standard_error
from pipeline.predictions.scores import Labels


def floor_scores(metric: Metric, labels: Labels, classes: int) -> dict[str, dict[str, float]]:
    """What knows nothing of the pictures scores, by name: keys score and score_se of each.

    "random classifier": the expected score of one that takes each class that occurs as often as any other, or says of
    each of several labels by the toss of a coin whether a picture has it; for a metric of probabilities, of one that
    gives all of them the same. Accuracy's is one over their number, and the like for places; others are the mean of
    random ones. Its error is the spread of such a classifier's score on so many rows.

    "majority class": always the most frequent class; for a metric of probabilities the classes' frequencies.
    """
    several = labels.ndim == 2
    counts = labels.sum(axis=0) if several else np.bincount(labels, minlength=classes)
    shares, occurs = counts / len(labels), counts > 0
    known = int(occurs.sum())
    chances = occurs / (2 if several else known)
    prior, uniform = (np.broadcast_to(row, (len(labels), classes)) for row in (shares, chances))
    rng, drawn = np.random.default_rng(0), np.array([])
    if metric.by_place is not None and not several:
        worth = metric.by_place(np.arange(1, known + 1))
        expected, spread = float(worth.mean()), float(worth.std() / np.sqrt(len(labels)))
    elif metric.of_confusion is not None and not several:
        draws = (rng.multinomial(counts, chances).astype(np.float64) for _ in range(RESAMPLES))
        drawn = np.array([metric.of_confusion(confused) for confused in draws])
    elif metric.needs == "probabilities":
        expected, spread = metric.score(labels, uniform), standard_error(metric, labels, uniform)
    else:
        guesses = (rng.random((len(labels), classes)) * occurs for _ in range(metric.affordable(RESAMPLES)))
        drawn = np.array([metric.score(labels, guess) for guess in guesses])
    if drawn.size:
        expected, spread = float(drawn.mean()), float(drawn.std(ddof=1))
    return {
        "random classifier": {"score": expected, "score_se": spread},
        "majority class": {
            "score": metric.score(labels, prior),
            "score_se": standard_error(metric, labels, prior),
        },
    }
