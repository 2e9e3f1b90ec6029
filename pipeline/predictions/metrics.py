"""The competitions' metrics and their standard errors.

What every function takes as labels and probabilities, for one label a picture and for several, says `scores.py`.
"""

import difflib
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.competition import METRIC_NEEDS, Competition, Needs, metric_kind
from pipeline.errors import DataError, name_some
from pipeline.predictions import scores
from pipeline.predictions.scores import Confusion, Labels, Probabilities, Weights

if TYPE_CHECKING:
    import pandas as pd

RESAMPLES = 200
"""Of a bootstrap, for a standard error."""
FEW = 50
"""Resamples where each score takes long: a standard error is then known to a tenth of itself."""


@dataclass(frozen=True)
class Metric:
    """A score, and how to tell better from worse.

    Attributes:
        needs: What it looks at: where labels, those are the likeliest class, or for several labels all from one half
            on; where a ranking, the order of the classes.
        score: (labels, probabilities) → float.
        rescorer: (labels, probabilities) → what gives the score of a resample from how often each row was drawn,
            float of shape (rows,): no prediction is copied.
        per_row: (labels, probabilities) → the rows' contributions, of shape (rows,), where the score is their mean;
            else None. The spread of their mean is that of the score: for ROC AUC, where a row's contribution depends
            on the other rows, to first order.
        of_confusion: The score by how many rows of class i were taken for class j, where it depends on these alone.
        by_place: For one label a picture: what a row is worth by the place of its class among all, counted from 1,
            where that alone counts.
        of_tables: (solution, submission) → float, both in the form of a submission and the same rows: of a metric in a
            file, else None.
        costly: Whether each score takes long, so that a bootstrap is of few resamples.
    """

    name: str
    greater_is_better: bool
    needs: Needs
    score: Callable[[Labels, Probabilities], float]
    rescorer: Callable[[Labels, Probabilities], Callable[[Weights], float]]
    per_row: Callable[[Labels, Probabilities], NDArray[np.float64]] | None = None
    of_confusion: Callable[[Confusion], float] | None = None
    by_place: Callable[[NDArray[np.int64]], NDArray[np.float64]] | None = None
    of_tables: "Callable[[pd.DataFrame, pd.DataFrame], float] | None" = None
    costly: bool = False

    def gain(self, before: float, after: float) -> float:
        """How much better `after` is; negative if it is worse."""
        return after - before if self.greater_is_better else before - after

    def affordable(self, resamples: int) -> int:
        """How many resamples are made where so many are wanted."""
        return min(resamples, FEW) if self.costly else resamples


def _of_rows(
    name: str,
    per_row: Callable[[Labels, Probabilities], NDArray[np.float64]],
    *,
    needs: Needs = "probabilities",
    score: Callable[[Labels, Probabilities], float] | None = None,
    by_place: Callable[[NDArray[np.int64]], NDArray[np.float64]] | None = None,
    greater_is_better: bool = True,
) -> Metric:
    """A metric that is a mean over the rows; `score` where that is faster."""

    def rescorer(labels: Labels, probabilities: Probabilities) -> Callable[[Weights], float]:
        values = per_row(labels, probabilities)
        return lambda weights: float(weights @ values / len(values))

    mean = score or (lambda labels, probabilities: float(per_row(labels, probabilities).mean()))
    return Metric(name, greater_is_better, needs, mean, rescorer, per_row, by_place=by_place)


def _of_places(name: str, by_place: Callable[[NDArray[np.int64]], NDArray[np.float64]]) -> Metric:
    """A metric of the place of the row's class among all."""

    def per_row(labels: Labels, probabilities: Probabilities) -> NDArray[np.float64]:
        return by_place(scores.places(labels, probabilities))

    return _of_rows(name, per_row, needs="ranking", by_place=by_place)


def _of_confusion(name: str, of_confusion: Callable[[Confusion], float]) -> Metric:
    """A metric of the confusion alone: how many rows of class i were taken for class j."""

    def rescorer(labels: Labels, probabilities: Probabilities) -> Callable[[Weights | None], float]:
        count = scores.counter(labels, probabilities)
        return lambda weights: of_confusion(count(weights))

    score = lambda labels, probabilities: rescorer(labels, probabilities)(None)  # noqa: E731
    return Metric(name, True, "labels", score, rescorer, of_confusion=of_confusion)


def _is_first(places: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.asarray(places == 1, dtype=np.float64)


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        _of_rows("accuracy", scores.hits, needs="labels", by_place=_is_first),
        _of_confusion("balanced_accuracy", scores.balanced_accuracy),
        _of_confusion("macro_f1", scores.macro_f1),
        _of_confusion("micro_f1", scores.micro_f1),
        _of_rows("sample_f1", scores.f1_of_rows, needs="labels", by_place=_is_first),
        _of_confusion("matthews", scores.matthews),
        _of_confusion("quadratic_kappa", scores.quadratic_kappa),
        _of_rows("log_loss", scores.losses, greater_is_better=False),
        _of_rows("brier", scores.squared_errors, greater_is_better=False),
        _of_rows("roc_auc", scores.auc_parts, score=scores.roc_auc),
    )
}
"""Those that need to know nothing else of a competition; `metric_of` knows the others, too."""


METRIC_SETTINGS = ("metric", "metric_sha256", "class_weights", "positive")


def metric_settings(competition: Competition) -> dict[str, Any]:
    """What a manifest says of a competition's metric: what `metric_of` reads, beside the classes.

    Raises:
        DataError: The file of a metric of its own is not there.
    """
    settings: dict[str, Any] = {"metric": competition.metric}
    if competition.class_weights:
        settings["class_weights"] = dict(competition.class_weights)
    if metric_kind(competition.metric) == "partial_roc_auc@T" and competition.submission == "probability":
        settings["positive"] = competition.positive or "1"
    if competition.metric_file is not None:
        content = require_metric_file(competition.metric_file).read_bytes()
        settings["metric_sha256"] = hashlib.sha256(content).hexdigest()
    return settings


def metric_of(
    source: Competition | Mapping[str, Any],
    classes: Sequence[str] | None = None,
    *,
    competition: Competition | None = None,
    form: Callable[[Competition, list[str]], Any] | None = None,
) -> Metric:
    """The metric of a competition, or of an experiment by its manifest.

    Args:
        classes: In the order of the predictions' columns; by default those of the manifest.
        competition: Where a manifest may name a file: whose file that is.
        form: What a submission looks like, asked for where the metric is a file: `data.competition_data.sample_form`.

    Raises:
        DataError: There is no such metric, it names a class that there is not, or its file does not hold.
    """
    said = metric_settings(source) if isinstance(source, Competition) else source
    name, known = str(said["metric"]), list(said.get("classes", ()) if classes is None else classes)
    if name in METRICS:
        return METRICS[name]
    number = re.sub("[^0-9.]", "", name)
    match metric_kind(name):
        case "weighted_log_loss":
            weights: Mapping[str, float] = said.get("class_weights", {})
            _require_classes("class_weights", list(weights), known)
            return _weighted_log_loss([weights.get(one, 1.0) for one in known])
        case "partial_roc_auc@T":
            positive = [said["positive"]] if "positive" in said else []
            _require_classes("positive", positive, known)
            return _partial_roc_auc(name, float(number), [known.index(one) for one in positive] or None)
        case "map@K":
            return _of_places(name, lambda places: np.where(places <= int(number), 1 / places, 0.0))
        case "top_K_accuracy":
            return _of_places(name, lambda places: np.asarray(places <= int(number), dtype=np.float64))
    competition = source if isinstance(source, Competition) else competition
    if competition is not None and competition.metric == name and form is not None:
        from pipeline.predictions.own_metric import own_metric

        return own_metric(competition, form(competition, known))
    raise DataError(
        f"there is no metric {name!r}", expected=", ".join(METRIC_NEEDS), next_step="check `metric` in competition.yaml"
    )


def require_metric_file(file: Path) -> Path:
    if not file.is_file():
        raise DataError(
            f"{file} does not exist",
            expected="the metric that `metric` in competition.yaml names, beside that file",
            next_step="copy it there from the competition's page, or name another: " + ", ".join(METRIC_NEEDS),
        )
    return file


def _require_classes(setting: str, names: Sequence[str], classes: Sequence[str]) -> None:
    unknown = [name for name in names if name not in classes]
    if unknown:
        close = difflib.get_close_matches(unknown[0], classes, n=1)
        raise DataError(
            f"{setting} in competition.yaml names {name_some(unknown)}, which is no class",
            expected=f"of {name_some(classes)}",
            next_step=f"did you mean {close[0]!r}?" if close else f"correct {setting}",
        )


def _weighted_log_loss(class_weights: Sequence[float]) -> Metric:
    """The classes' mean log losses, averaged with their weights: Σ w_c · (mean over class c of -log p_c) / Σ w_c.

    That of PLAsTiCC (Malz et al., 2019): how many rows a class has does not matter; one without rows does not count.
    Where a weight is that of each row instead, as in some competitions of the RSNA, frequent classes count more: such a
    metric wants a file of its own.
    """
    by_class = np.array(class_weights)

    def rescorer(labels: Labels, probabilities: Probabilities) -> Callable[[Weights], float]:
        found, classes = scores.losses(labels, probabilities), probabilities.shape[1]

        def score(weights: Weights) -> float:
            rows = np.bincount(labels, weights, classes)
            means = np.bincount(labels, weights * found, classes)[rows > 0] / rows[rows > 0]
            return float(np.average(means, weights=by_class[rows > 0]))

        return score

    score = lambda labels, probabilities: rescorer(labels, probabilities)(np.ones(len(labels)))  # noqa: E731
    return Metric("weighted_log_loss", False, "probabilities", score, rescorer)


def _partial_roc_auc(name: str, least: float, columns: Sequence[int] | None) -> Metric:
    """Of the positive class; where none is said, the mean over all, each against the rest."""

    def rescorer(labels: Labels, probabilities: Probabilities) -> Callable[[Weights | None], float]:
        return scores.partial_auc(labels, probabilities, least, columns)

    score = lambda labels, probabilities: rescorer(labels, probabilities)(None)  # noqa: E731
    return Metric(name, True, "probabilities", score, rescorer)


def resampling(rows: int, resamples: int) -> Iterator[Weights]:
    """How often each row is drawn in so many bootstrap samples (Efron, 1979); the same ones every time."""
    rng = np.random.default_rng(0)
    for _ in range(resamples):
        yield np.bincount(rng.integers(0, rows, rows), minlength=rows).astype(np.float64)


def standard_error(metric: Metric, labels: Labels, probabilities: Probabilities) -> float:
    """Standard error of the score over the rows: of a mean where it is one, else by bootstrap (Efron, 1979)."""
    if metric.per_row is not None:
        return _of_mean(metric.per_row(labels, probabilities))
    return float(np.nanstd(_bootstrapped(metric, labels, probabilities), ddof=1))


def paired_gain(metric: Metric, labels: Labels, before: Probabilities, after: Probabilities) -> tuple[float, float]:
    """How much better `after` scores than `before` on the same rows, and that difference's standard error."""
    gain = metric.gain(metric.score(labels, before), metric.score(labels, after))
    if metric.per_row is not None:
        return gain, _of_mean(metric.per_row(labels, after) - metric.per_row(labels, before))
    drawn = _bootstrapped(metric, labels, after) - _bootstrapped(metric, labels, before)
    return gain, float(np.nanstd(drawn, ddof=1))


def _of_mean(values: NDArray[np.float64]) -> float:
    return float(values.std() / np.sqrt(len(values)))


def _bootstrapped(metric: Metric, labels: Labels, probabilities: Probabilities) -> NDArray[np.float64]:
    """Scores of resamples, the same rows for all predictions: shape (resamples,); NaN where there is none."""
    rescore = metric.rescorer(labels, probabilities)
    return np.array([rescore(weights) for weights in resampling(len(labels), metric.affordable(RESAMPLES))])
