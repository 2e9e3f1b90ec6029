"""What the report says about one experiment: tables, figures and the most confident mistakes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray

from pipeline.data.labels import natural
from pipeline.errors import counted
from pipeline.predictions.aligned import Aligned
from pipeline.predictions.calibration import calibration
from pipeline.predictions.compare import Standing
from pipeline.predictions.manifests import extra_in_words, folds_in_words, stages_in_words
from pipeline.predictions.mistakes import class_scores, confident_mistakes, confused_pairs, confusion
from pipeline.predictions.scores import Probabilities
from pipeline.predictions.store import Experiment
from pipeline.report.figures import COUNTED, calibration_figure, confusion_figure, gains_figure, row_shares
from pipeline.report.page import Cell
from pipeline.report.plots import learning_curves_figure
from pipeline.report.tables import Row, kept_epochs
from pipeline.targets import decided_like, label_texts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_MISTAKES = 48
_MOST_PAIRS = 300
_LEVELS = 10
_NAME_WIDTH = 145  # pixels for a class's name at its row

COST_NOTES = {
    "parameters": "numbers in the network's weights, in millions",
    "trained": "those that the stage trains",
    "FLOPs a picture": "floating-point operations forwards, in millions; a multiplication and an addition are two",
    "images/s": "in training, over all folds; `kit train --plan` measures prediction and memory, too",
    "seconds": "over all folds: building and compiling the network, the epochs with their validation",
}
CLASS_NOTES = {
    "rows": "how many rows are of this class",
    "recall": "the share of them that was predicted as this class",
    "precision": "of what was predicted as this class, the share that is",
    "F1": "the harmonic mean of the two",
    "confidence": "mean probability of whatever its rows were predicted as; above recall: too sure of itself",
    "most often taken for": "the class that most of its wrong rows were predicted as",
}


@dataclass(frozen=True)
class Mistake:
    """A row that was predicted wrong.

    Attributes:
        probability: Of the class it was predicted as.
        own: Of its label.
    """

    id: str
    true: str
    predicted: str
    probability: float
    own: float


@dataclass(frozen=True)
class Details:
    """One experiment; figures by the name of their PNG file, what does not apply being left out."""

    experiment: Experiment
    standing: Standing
    figures: Mapping[str, "Figure"]
    steps: Sequence[Row]
    costs: Sequence[Row]
    members: Sequence[Row]
    classes: Sequence[Row]
    pairs: Sequence[Row]
    pairs_found: int
    matrix: Mapping[str, Any] | None
    mistakes: Sequence[Mistake]
    wrong: int
    rows: int
    kept: str
    kept_stages: str
    facts: Mapping[str, str]
    recipe: str


def describe(experiment: Experiment, standing: Standing, aligned: Aligned, curves: pd.DataFrame | None) -> Details:
    """Everything about one experiment.

    Args:
        aligned: With this experiment among others.
        curves: See `plots.learning_curves_figure`; None or empty where there are none.
    """
    found, manifest = aligned.probabilities[experiment.name], experiment.manifest
    metric, title = aligned.metric.name, f"{experiment.name} on {experiment.slug}"
    order = sorted(range(len(aligned.classes)), key=lambda number: natural(aligned.classes[number]))
    classes = [aligned.classes[number] for number in order]
    matrix, pairs = None, []
    if aligned.labels.ndim == 1:
        matrix = confusion(aligned.labels, found)[np.ix_(order, order)]
        pairs = confused_pairs(matrix, classes)
    scores = class_scores(aligned.labels, found, aligned.classes)
    wrong = confident_mistakes(aligned.labels, found)
    steps = _steps(manifest)
    figures = {}
    if curves is not None and len(curves):
        figures["learning-curves"] = learning_curves_figure(
            curves, title=title, metric=metric, select_on=manifest["select_on"]
        )
    if len(steps) > 1:
        figures["gains"] = gains_figure(steps, metric=metric, title=title)
    if matrix is not None:
        figures["confusion"] = confusion_figure(matrix, classes, title=title)
    figures["calibration"] = calibration_figure(calibration(aligned.labels, found), title=title)
    return Details(
        experiment=experiment,
        standing=standing,
        figures=figures,
        steps=[_step_row(step, metric) for step in steps],
        costs=_cost_rows(manifest),
        members=_member_rows(manifest),
        classes=[
            {
                "class": one.name,
                "rows": one.rows,
                "recall": one.recall,
                "precision": one.precision,
                "F1": one.f1,
                "confidence": one.confidence,
                "most often taken for": "{} ({}×)".format(*one.taken_for) if one.taken_for else "",
            }
            for one in (scores[number] for number in order)
        ],
        pairs=[
            {
                "true": one.true,
                "predicted as": one.predicted,
                "rows": one.rows,
                "share of the class": Cell(f"{one.share:.1%}", one.share),
                "the other way round": one.reverse,
            }
            for one in pairs[:_MOST_PAIRS]
        ],
        pairs_found=len(pairs),
        matrix=None if matrix is None else matrix_view(matrix, classes),
        mistakes=_mistakes(aligned, found, wrong[:MOST_MISTAKES]),
        wrong=len(wrong),
        rows=len(aligned.ids),
        kept=kept_epochs(manifest),
        kept_stages=stages_in_words(manifest),
        facts=_facts(manifest, rows=len(aligned.ids)),
        recipe=yaml.safe_dump(manifest.get("recipe") or manifest.get("blend"), sort_keys=False, allow_unicode=True),
    )


def _mistakes(aligned: Aligned, found: Probabilities, rows: NDArray[np.int64]) -> list[Mistake]:
    """These rows with the probability of what was predicted and of what is true; of several labels, of the one that is
    most wrong."""
    labels = aligned.labels[rows]
    said = label_texts(decided_like(labels, found[rows]), aligned.classes)
    if labels.ndim == 2:
        wrong = np.abs(found[rows] - labels).max(axis=1)
        right = 1 - wrong
    else:
        wrong, right = found[rows].max(axis=1), found[rows, labels]
    return [
        Mistake(aligned.ids[row], true, predicted, float(probability), float(own))
        for row, true, predicted, probability, own in zip(
            rows, label_texts(labels, aligned.classes), said, wrong, right, strict=True
        )
    ]


def matrix_view(matrix: NDArray[np.int64], classes: Sequence[str]) -> dict[str, Any]:
    """A confusion matrix as the page draws it: cells of one strength are one path, so that 196 classes stay small.

    Returns:
        `paths` of (right or wrong, strength from 0 to 1, SVG path in units of cells); the sizes of a `cell`, the `font`
        and the `label` in pixels, the `longest` name in letters, and the `counted` font of counts in the cells, 0 where
        these have no room for them; and what the page needs to name a cell: `classes`,
        `totals` by class, `cells` of [true, predicted, rows].
    """
    count = len(classes)
    # Few wrong rows are what is looked for, so the root of the share is shown.
    levels = np.ceil(np.sqrt(row_shares(matrix)) * _LEVELS).astype(np.int64)
    is_right = np.eye(count, dtype=bool)
    paths = []
    for level in range(1, _LEVELS + 1):
        for tone, place in (("right", is_right), ("wrong", ~is_right)):
            cells = np.argwhere((levels == level) & place)
            if len(cells):
                path = "".join(f"M{predicted} {true}h1v1h-1z" for true, predicted in cells)
                paths.append((tone, level / _LEVELS, path))
    cell, font = (34, 13) if count <= 15 else (26, 11) if count <= COUNTED else (16, 11) if count <= 60 else (11, 9)
    digits = len(str(matrix.max(initial=0)))
    longest = min(round(_NAME_WIDTH / (0.58 * font)), max(map(len, classes)))
    return {
        "paths": paths,
        "cell": cell,
        "font": font,
        "longest": longest,
        "counted": min(font, round(1.5 * cell / digits, 1)) if count <= COUNTED else 0,
        "label": round(12 + 0.6 * font * longest),
        "classes": list(classes),
        "totals": matrix.sum(axis=1).tolist(),
        "cells": [[int(true), int(predicted), int(matrix[true, predicted])] for true, predicted in np.argwhere(matrix)],
    }


def _steps(manifest: Mapping[str, Any]) -> list[Row]:
    """The stages and TTA, each with its gain over what it began from."""
    keys = ("name", "score", "score_se", "gain", "gain_se")
    steps = [
        {**{key: stage[key] for key in keys}, "left_aside": stage.get("left_aside")} for stage in manifest["stages"]
    ]
    if manifest["tta_gain"] is not None:
        scores = {"score": manifest["tta_score"], "score_se": manifest["tta_score_se"]}
        gains = {"gain": manifest["tta_gain"], "gain_se": manifest["tta_gain_se"]}
        steps.append({"name": "TTA" if manifest["tta_used"] else "TTA (not used)", **scores, **gains})
    return steps


def _step_row(step: Row, metric: str) -> Row:
    gain = Cell("", None)
    if step["gain"] is not None:
        error = step["gain_se"]
        tone = "" if abs(step["gain"]) <= 1.96 * error else "good" if step["gain"] > 0 else "bad"
        gain = Cell(f"{step['gain']:+.4f} ± {error:.4f}", step["gain"], tone)
    aside = f" (left aside in {counted(len(folds), 'fold', 'folds')})" if (folds := step.get("left_aside")) else ""
    return {
        "stage": step["name"] + aside,
        metric: step["score"],
        "± se": step["score_se"],
        "gain over the stage it began from": gain,
    }


def _cost_rows(manifest: Mapping[str, Any]) -> list[Row]:
    """What each stage trains, and at which speed."""
    return [
        {
            "stage": stage["name"],
            "size": "×".join(map(str, stage["size"])),
            "blocks unfrozen": f"{stage['unfrozen']}/{stage['blocks']}",
            "parameters": _millions(stage["parameters"]),
            "trained": _millions(stage["trainable_parameters"]),
            "FLOPs a picture": _millions(stage["flops"]),
            "images/s": round(stage["images_per_second"]),
            "seconds": round(stage["seconds"]),
        }
        for stage in manifest["stages"]
    ]


def _millions(count: int) -> Cell:
    millions = count / 1e6
    return Cell(f"{millions:,.0f} M" if millions >= 100 else f"{millions:.3g} M", count)


def _member_rows(manifest: Mapping[str, Any]) -> list[Row]:
    members = (manifest.get("blend") or {}).get("members", [])
    return [
        {
            "member": member["experiment"],
            "score": member["score"],
            "weight": member["weight"],
            "temperature": member["temperature"],
        }
        for member in members
    ]


def _facts(manifest: Mapping[str, Any], *, rows: int) -> dict[str, str]:
    recipe, blend = manifest.get("recipe") or {}, manifest.get("blend") or {}
    views = (recipe.get("tta") or {}).get("views") or []
    facts = {
        "rows": f"{rows:,} in {len(manifest['classes']):,} classes",
        "folds": f"{folds_in_words(manifest)}, sha256 {manifest['folds_sha256'][:16]}…",
        "data": f"sha256 {manifest['data_sha256'][:16]}…",
        "fingerprint": manifest.get("fingerprint"),
        "network": recipe and f"{recipe['backbone']}, weights {recipe['weights']}, {recipe['precision']}",
        "extra rows": extra_in_words(manifest.get("extra_rows") or {}),  # a blend has none of its own
        "seed": recipe.get("seed"),
        "TTA views": ", ".join(views),
        "blend": blend and f"{blend['method']}: {blend['reason']}",
        "versions": ", ".join(f"{name} {version}" for name, version in manifest.get("versions", {}).items()),
        "git commit": manifest.get("git_commit"),
        "created": manifest.get("created"),
    }
    return {name: str(value) for name, value in facts.items() if value not in (None, "", {})}
