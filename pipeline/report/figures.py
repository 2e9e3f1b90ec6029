"""Figures about experiments: scores, gains, calibration, confusion. Each stands in the report and as a PNG file."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.predictions.calibration import Calibration
from pipeline.predictions.compare import Standing
from pipeline.report.plots import FAINT, GRID, INK, LETTER, PANEL, legend_above, new_figure, quiet, short

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, RED, GREEN = "#2a6f97", "#c8553d", "#2f7d4f"
_NAMED = 60  # classes; more have names too small to draw
COUNTED = 30
"""Classes; with more, the cells of a confusion matrix have no room for their counts."""
_LONGEST = 24  # letters of a name


def scores_figure(standings: Sequence[Standing], *, metric: str, reference: str) -> "Figure":
    """Scores with their standard errors, best first, the reference marked; each name stands above its score."""
    figure = new_figure(PANEL, 1.0 + 0.45 * len(standings))
    axis = figure.subplots()
    places = np.arange(len(standings))
    for place, one in zip(places, standings, strict=True):
        colour = RED if one.name == reference else BLUE
        axis.errorbar(one.score, place, xerr=one.score_se, fmt="o", color=colour, markersize=6, capsize=3)
        axis.annotate(
            short(one.name, 60),
            (0, place),
            xycoords=axis.get_yaxis_transform(),
            xytext=(4, 6),
            textcoords="offset points",
            fontsize=8,
            color=INK,
        )
    axis.set_yticks([])
    axis.set_ylim(len(standings) - 0.6, -0.9)
    axis.set_xlabel(f"OOF {metric} ± standard error")
    quiet(axis, "x")
    return figure


def gains_figure(steps: Sequence[dict[str, Any]], *, metric: str, title: str) -> "Figure":
    """The score after each step, and what each step gained on the same rows.

    Args:
        steps: name, score, score_se, gain, gain_se; the gain is that over the step before, None where not known.
    """
    known = [(place, step) for place, step in enumerate(steps) if step["gain"] is not None]
    figure = new_figure(PANEL, 5.6 if known else 3.4, title=title)
    axes = figure.subplots(2 if known else 1, 1, sharex=True, squeeze=False)[:, 0]
    names = [short(step["name"], 18) for step in steps]
    axes[0].errorbar(
        range(len(steps)),
        [step["score"] for step in steps],
        yerr=[step["score_se"] for step in steps],
        fmt="o-",
        color=BLUE,
        linewidth=1.0,
        capsize=3,
    )
    crowded = LETTER * (max(map(len, names)) + 2) > 0.85 * PANEL / len(steps)
    axes[-1].set_xticks(range(len(steps)), names, fontsize=9)
    if crowded:
        axes[-1].tick_params(axis="x", rotation=90)
    axes[0].set_title(f"OOF {metric} ± standard error", fontsize=10, color=INK)
    axes[0].set_xlim(-0.5, len(steps) - 0.5)
    quiet(axes[0], "y")
    if known:
        axis = axes[1]
        axis.axhline(0, color=FAINT, linewidth=1)
        axis.errorbar(
            [place for place, _ in known],
            [step["gain"] for _, step in known],
            yerr=[1.96 * step["gain_se"] for _, step in known],
            fmt="o",
            color=RED,
            capsize=3,
        )
        axis.set_title("gain over the step before, with 95 % interval", fontsize=10, color=INK)
        quiet(axis, "y")
    return figure


def calibration_figure(found: Calibration, *, title: str) -> "Figure":
    """A reliability diagram: how often what is predicted with a probability is right, and how many rows there are."""
    figure = new_figure(PANEL, 5.6, title=title)
    upper, lower = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [4, 1]})
    bins = len(found.counts)
    some = found.counts > 0
    lefts = np.arange(bins) / bins
    upper.plot([0, 1], [0, 1], color=FAINT, linestyle=":", linewidth=1, label="perfect calibration")
    upper.bar(lefts[some], found.accuracy[some], width=1 / bins, align="edge", color=BLUE, alpha=0.35, edgecolor=BLUE)
    upper.plot(found.confidence[some], found.accuracy[some], "o-", color=RED, markersize=4, linewidth=1.2, label="OOF")
    upper.set_ylim(0, 1.02)
    upper.set_xlim(lefts[some].min(initial=1 - 1 / bins), 1)  # nothing is drawn where there are no rows
    upper.set_ylabel("share that is right")
    legend_above(upper)
    lower.bar(lefts, found.counts, width=1 / bins, align="edge", color=FAINT, alpha=0.6)
    lower.set_xlabel("probability of the predicted class")
    lower.set_ylabel("rows")
    for axis in (upper, lower):
        quiet(axis, "y")
    return figure


def range_test_figure(
    rates: NDArray[np.float64],
    losses: NDArray[np.float64],
    smoothed: NDArray[np.float64],
    *,
    marks: Mapping[str, float],
    title: str,
) -> "Figure":
    """Loss over learning rate on a log axis, the first of the marked rates in a full line.

    Args:
        rates: Ascending; `losses` and `smoothed` of the same shape (updates,).
        marks: At most three rates by name.
    """
    figure = new_figure(8, 4.6, title=title)
    axis = figure.subplots()
    axis.plot(rates, losses, color=FAINT, alpha=0.5, linewidth=0.8, label="of each batch")
    axis.plot(rates, smoothed, color=BLUE, linewidth=1.6, label="smoothed")
    for number, (name, rate) in enumerate(marks.items()):
        line = "--" if number else "-"
        axis.axvline(rate, linewidth=1.2, label=f"{name}: {rate:.1e}", color=(RED, GREEN, INK)[number], linestyle=line)
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:.0e}")
    # What exploded would press the rest flat.
    finite = smoothed[np.isfinite(smoothed)]
    if len(finite):
        low, high = finite.min(), finite[: len(finite) // 2 + 1].max()
        room = 0.5 * (high - low) + 0.05 * abs(low)
        axis.set_ylim(low - room, high + room)
    axis.set_xlabel("learning rate")
    axis.set_ylabel("training loss")
    quiet(axis, "both")
    legend_above(axis)
    return figure


def confusion_figure(matrix: NDArray[np.int64], classes: Sequence[str], *, title: str) -> "Figure":
    """The confusion matrix by the root of a row's share: green what is right, red what is not; up to `COUNTED` classes
    have their counts in it."""
    count = len(classes)
    cell = 0.4 if count <= COUNTED else 0.2
    side = float(np.clip(2.2 + cell * count, 5, 14))
    figure = new_figure(side, side, title=title)
    axis = figure.subplots()
    shares = row_shares(matrix)
    axis.imshow(_coloured(shares), interpolation="nearest")
    for true, predicted in np.argwhere(matrix) if count <= COUNTED else ():
        colour = "white" if shares[true, predicted] > 0.4 else INK
        rows = f"{matrix[true, predicted]}"
        axis.text(predicted, true, rows, ha="center", va="center", fontsize=9 - len(rows) // 2, color=colour)
    if count <= _NAMED:
        size = 9 if count <= 20 else 7
        names = [short(name, _LONGEST) for name in classes]
        axis.set_xticks(range(count), names, rotation=90, fontsize=size)
        axis.set_yticks(range(count), names, fontsize=size)
    axis.set_xlabel("predicted")
    axis.set_ylabel("true")
    axis.spines[:].set_color(GRID)
    return figure


def row_shares(matrix: NDArray[np.int64]) -> NDArray[np.float64]:
    """A confusion matrix with rows that sum to 1; a class without rows has zeros."""
    return np.asarray(matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1), dtype=np.float64)


def _coloured(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """RGB of shape (classes, classes, 3): few wrong rows are what is looked for, so that the root is shown."""
    from matplotlib.colors import to_rgb

    strength = np.sqrt(shares)[..., None]
    on_diagonal = np.eye(len(shares), dtype=bool)[..., None]
    colour = np.where(on_diagonal, np.array(to_rgb(GREEN)), np.array(to_rgb("#b3261e")))
    return np.asarray(1 - strength * (1 - colour), dtype=np.float64)
