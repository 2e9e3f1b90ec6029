"""Figures of results: learning curves, leaderboard against OOF; figures as PNG files."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipeline.artifacts import atomic_path

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

INK, FAINT, GRID = "#333333", "#8c8c8c", "#e6e6e6"
_BOARDS = {"public": "#2a6f97", "private": "#c8553d"}
_MOST_NAMES = 12  # more of them cannot be read
_LETTER = 0.075  # width of a letter of a stage's name, in inches


def plot_learning_curves(curves: "pd.DataFrame", path: Path, *, title: str, metric: str, select_on: str) -> None:
    """Write the figure of `learning_curves_figure`."""
    save_figure(learning_curves_figure(curves, title=title, metric=metric, select_on=select_on), path)


def plot_leaderboard(entries: Sequence[dict[str, Any]], path: Path, *, title: str, metric: str) -> None:
    """Write the figure of `leaderboard_figure`."""
    save_figure(leaderboard_figure(entries, title=title, metric=metric), path)


def save_figure(figure: "Figure", path: Path) -> None:
    """Write a figure as a PNG file, on white."""
    with atomic_path(path) as temporary, plain_text(figure):
        figure.savefig(temporary, dpi=120, format="png")


def new_figure(width: float, height: float, *, title: str = "") -> "Figure":
    """An empty figure, measured in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    if title:
        figure.suptitle(title, fontsize=12, color=INK)
    return figure


def quiet(axis: Any, along: Literal["x", "y", "both"]) -> None:
    """No frame at the top and the right; a faint grid behind what is drawn."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis=along, color=GRID, linewidth=0.7)
    axis.set_axisbelow(True)


def legend_above(axis: Any) -> None:
    """Above the axes: inside there may be something anywhere."""
    axis.legend(frameon=False, fontsize=8, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3)


def short(name: str, longest: int) -> str:
    """A name of at most `longest` letters."""
    return name if len(name) <= longest else name[: longest - 1] + "…"


@contextmanager
def plain_text(figure: "Figure") -> Iterator[None]:
    """Draw names as they are: a dollar sign begins no formula, and a letter that the font lacks is no warning."""
    import matplotlib
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)
    with matplotlib.rc_context({"text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        yield


def learning_curves_figure(curves: "pd.DataFrame", *, title: str, metric: str, select_on: str) -> "Figure":
    """Validation metric and loss by epoch, one line a fold, stages marked.

    Args:
        curves: Columns fold, stage, step, loss, val_loss, val_score, one row an epoch.
        select_on: The kind of a recipe's `select_on`: with "inner" the curves are of inner rows.
    """
    figure = new_figure(10, 4.2, title=title)
    score_axis, loss_axis = figure.subplots(1, 2)
    _draw(score_axis, curves, "val_score", f"validation {metric}")
    _draw(loss_axis, curves, "val_loss", "loss")
    _draw_training(loss_axis, curves)
    for axis in (score_axis, loss_axis):
        _mark_stages(axis, curves)
    whose = "inner rows of fold" if select_on == "inner" else "held-out fold"
    score_axis.legend(frameon=False, fontsize=8, loc="lower right", title=whose, title_fontsize=8)
    return figure


def leaderboard_figure(entries: Sequence[dict[str, Any]], *, title: str, metric: str) -> "Figure":
    """Leaderboard score over OOF score, a panel a server, the OOF with its standard error to each side.

    Args:
        entries: Rows of the ledger that have an OOF score and a score on a board: server, experiment, oof_score,
            oof_score_se, public_score and private_score, the last three None where they are not known.
    """
    servers = sorted({entry["server"] for entry in entries})
    figure = new_figure(0.6 + 5.2 * len(servers), 5, title=title)
    for axis, server in zip(figure.subplots(1, len(servers), squeeze=False)[0], servers, strict=True):
        _scatter(axis, [entry for entry in entries if entry["server"] == server], metric)
        axis.set_title(server, fontsize=10, color=INK, loc="left")
    return figure


def _scatter(axis: Any, entries: Sequence[dict[str, Any]], metric: str) -> None:
    for board, colour in _BOARDS.items():
        shown = [entry for entry in entries if entry[f"{board}_score"] is not None]
        axis.errorbar(
            [entry["oof_score"] for entry in shown],
            [entry[f"{board}_score"] for entry in shown],
            xerr=[entry["oof_score_se"] or 0.0 for entry in shown],
            fmt="o",
            markersize=5,
            color=colour,
            elinewidth=1.0,
            capsize=2.5,
            label=board if shown else None,
        )
    if len(entries) <= _MOST_NAMES:
        _name(axis, entries)
    # Both axes show one range, so that the line where OOF and leaderboard are equal is the diagonal.
    low = min(axis.get_xlim()[0], axis.get_ylim()[0])
    high = max(axis.get_xlim()[1], axis.get_ylim()[1])
    room = 0.08 * (high - low)  # for names at the edge
    low, high = low - room, high + room
    axis.plot([low, high], [low, high], color=FAINT, linewidth=0.8, linestyle=":", label="equal")
    axis.set_xlim(low, high)
    axis.set_ylim(low, high)
    axis.set_aspect("equal")
    axis.set_xlabel(f"OOF {metric} ± standard error")
    axis.set_ylabel(f"leaderboard {metric}")
    quiet(axis, "both")
    legend_above(axis)


def _name(axis: Any, entries: Sequence[dict[str, Any]]) -> None:
    for entry in entries:
        scores = [entry[f"{board}_score"] for board in _BOARDS]
        axis.annotate(
            entry["experiment"],
            (entry["oof_score"], min(score for score in scores if score is not None)),
            xytext=(0, -6),
            textcoords="offset points",
            ha="center",
            va="top",
            fontsize=7,
            color=FAINT,
        )


def _draw(axis: Any, curves: "pd.DataFrame", column: str, label: str) -> None:
    from matplotlib import colormaps
    from matplotlib.ticker import MaxNLocator

    colours = colormaps["viridis"]
    folds = sorted(curves["fold"].unique())
    for position, fold in enumerate(folds):
        rows = curves[curves["fold"] == fold].sort_values("step")
        colour = colours(0.1 + 0.65 * position / max(1, len(folds) - 1))
        # Where a fold stopped early its line is interrupted until the next stage.
        for _, stage in rows.groupby("number"):
            axis.plot(stage["step"], stage[column], color=colour, linewidth=1.4, marker=".", markersize=4)
        if column == "val_score":
            axis.plot([], [], color=colour, label=f"{fold}")
    axis.set_xlabel("epoch")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_title(label, fontsize=10, color=INK)
    quiet(axis, "y")


def _draw_training(axis: Any, curves: "pd.DataFrame") -> None:
    style: dict[str, Any] = {"color": FAINT, "linewidth": 1.2, "linestyle": "--", "marker": ".", "markersize": 3}
    for _, stage in curves.groupby("number"):
        mean = stage.groupby("step")["loss"].mean()
        axis.plot(mean.index, mean, **style)
    axis.plot([], [], label="training (mean)", **style)
    axis.plot([], [], color=INK, linewidth=1.4, label="validation, a line a fold")
    axis.legend(frameon=False, fontsize=8, loc="upper right", bbox_to_anchor=(1.0, 0.94))


def _mark_stages(axis: Any, curves: "pd.DataFrame") -> None:
    low, high = axis.get_ylim()
    stages = [(stage["stage"].iloc[0], stage["step"]) for _, stage in curves.groupby("number")]
    # A name that is longer than its stage would run into the next: then all stand upright.
    panel = axis.get_window_extent().transformed(axis.figure.dpi_scale_trans.inverted())
    epoch = panel.width / (curves["step"].nunique() + 1)
    upright = any(_LETTER * len(name) > epoch * steps.nunique() for name, steps in stages[:-1])
    # Where a stage is narrower than a line of text, the next name begins below this one.
    below = [0.0]
    for name, steps in stages[:-1]:
        narrow = upright and epoch * steps.nunique() < 2 * _LETTER
        below.append(below[-1] + _LETTER * (len(name) + 1) if narrow else 0.0)
    room = max(start + _LETTER * (len(name) + 1) for start, (name, _) in zip(below, stages, strict=True))
    axis.set_ylim(low, high + (room / panel.height if upright else 0.08) * (high - low))
    # A curve of one epoch has no width of its own, and the stages' names would lie far outside.
    axis.set_xlim(curves["step"].min() - 0.6, curves["step"].max() + 0.6)
    for number, (name, steps) in enumerate(stages):
        start = steps.min() - 0.5
        if number:
            axis.axvline(start, color=FAINT, linewidth=0.8, linestyle=":")
        axis.annotate(
            name,
            (start, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(4, -3 - 72 * below[number]),
            textcoords="offset points",
            va="top",
            rotation=90 if upright else 0,
            fontsize=8,
            color=INK,
        )
