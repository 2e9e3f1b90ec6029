"""Figures of results: learning curves, leaderboard against OOF; figures as PNG files."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipeline.artifacts import atomic_path

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

INK, FAINT, GRID = "#333333", "#8c8c8c", "#e6e6e6"
_BOARDS = {"public": "#2a6f97", "private": "#c8553d"}
PANEL = 6.0
"""Width of a figure in inches: its panels stand one below the other, so that a phone shows them all."""
LETTER = 0.075
"""Width of a small letter, in inches."""
_MOST_NAMES = 12  # more of them cannot be read
_LONGEST = 18  # letters of a stage's name
_BESIDE = ((1, 0), (1, 1), (1, -1), (0, 1), (0, -1), (-1, 0), (-1, 1), (-1, -1))  # where a name may stand


def plot_learning_curves(
    curves: "pd.DataFrame", folder: Path, *, title: str, metric: str, select_on: str
) -> Path | None:
    """Write the figure of `learning_curves_figure` into a folder; None where there is no second epoch to draw to."""
    if not len(curves) or curves["step"].max() == 1:
        return None
    path = folder / "learning_curves.png"
    save_figure(learning_curves_figure(curves, title=title, metric=metric, select_on=select_on), path)
    return path


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


def lay_out(figure: "Figure") -> None:
    """Give the axes their places and sizes, which drawing does else."""
    with plain_text(figure):
        figure.draw_without_rendering()


def legend_above(axis: Any) -> None:
    """Above the axes: inside there may be something anywhere."""
    axis.legend(frameon=False, fontsize=8, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3)


def short(name: str, longest: int) -> str:
    """A name of at most `longest` letters."""
    return name if len(name) <= longest else name[: longest - 1] + "…"


def name_points(axis: Any, points: Sequence[tuple[str, float, float, str]], *, size: float) -> None:
    """Write a name beside each point, where it lies over no name, no point and no line; from further off a line leads
    to it. A name that finds no place is left out.

    Args:
        points: Name, x, y and colour; the limits of the axes are to be as they will be.
        size: Of the letters, in points.
    """
    from matplotlib.transforms import Bbox

    lay_out(axis.figure)
    panel, on_screen = axis.get_window_extent(), axis.transData.transform
    taken = [Bbox([place, place]).padded(6) for place in on_screen([(x, y) for _, x, y, _ in points])]
    bars = [segment for one in axis.containers for lines in one[2] for segment in lines.get_segments()]
    taken += [Bbox(on_screen(segment)).padded(2) for segment in bars]
    for name, x, y, colour in points:
        for away, (right, up) in product((6, 14, 24, 36, 50, 66), _BESIDE):
            there: dict[str, Any] = {"xy": (x, y), "xytext": (away * right, away * up), "textcoords": "offset points"}
            sides = {"ha": ("center", "left", "right")[right], "va": ("center", "bottom", "top")[up]}
            text = axis.annotate(name, **there, **sides, fontsize=size, color=colour, parse_math=False)
            box = text.get_window_extent()
            inside = (panel.min <= box.min).all() and (box.max <= panel.max).all()
            if inside and not box.count_overlaps(taken):
                taken.append(box)
                if away > 6:
                    axis.annotate("", **there, arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.5})
                break
            text.remove()


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
    figure = new_figure(PANEL, 7, title=title)
    score_axis, loss_axis = figure.subplots(2, 1, sharex=True)
    whose = "inner rows" if select_on == "inner" else "held-out rows"
    _draw(score_axis, curves, "val_score", f"{metric}: {whose}, a line a fold")
    _draw(loss_axis, curves, "val_loss", f"loss: {whose}, a line a fold, and training (mean, dashed)")
    _draw_training(loss_axis, curves)
    loss_axis.set_xlabel("epoch")
    figure.legend(loc="outside lower center", ncols=6, frameon=False, fontsize=8)
    lay_out(figure)
    for axis in (score_axis, loss_axis):
        _divide_stages(axis, curves)
    _name_stages(score_axis, curves)
    return figure


def leaderboard_figure(entries: Sequence[dict[str, Any]], *, title: str, metric: str) -> "Figure":
    """Leaderboard score over OOF score, a panel a server, the OOF with its standard error to each side.

    Args:
        entries: Rows of the ledger that have an OOF score and a score on a board: server, experiment, oof_score,
            oof_score_se, public_score and private_score, the last three None where they are not known.
    """
    servers = sorted({entry["server"] for entry in entries})
    figure = new_figure(PANEL, 5.8 * len(servers), title=title)
    own = [[entry for entry in entries if entry["server"] == server] for server in servers]
    panels = list(zip(figure.subplots(len(servers), 1, squeeze=False)[:, 0], own, strict=True))
    for (axis, there), server in zip(panels, servers, strict=True):
        _scatter(axis, there, metric)
        axis.set_title(server, fontsize=10, color=INK, loc="left")
    for axis, there in panels:  # once all of them have their place
        if len(there) <= _MOST_NAMES:
            names = [(entry["experiment"], entry["oof_score"], _lowest(entry), FAINT) for entry in there]
            name_points(axis, names, size=7)
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


def _lowest(entry: dict[str, Any]) -> float:
    scores = [entry[f"{board}_score"] for board in _BOARDS]
    return float(min(score for score in scores if score is not None))


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
            axis.plot([], [], color=colour, label=f"fold {fold}")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_title(label, fontsize=10, color=INK)
    quiet(axis, "y")


def _draw_training(axis: Any, curves: "pd.DataFrame") -> None:
    style: dict[str, Any] = {"color": FAINT, "linewidth": 1.2, "linestyle": "--", "marker": ".", "markersize": 3}
    for _, stage in curves.groupby("number"):
        mean = stage.groupby("step")["loss"].mean()
        axis.plot(mean.index, mean, **style)
    axis.plot([], [], label="training (mean)", **style)


def _divide_stages(axis: Any, curves: "pd.DataFrame") -> None:
    # A curve of one epoch has no width of its own.
    axis.set_xlim(curves["step"].min() - 0.6, curves["step"].max() + 0.6)
    for start in list(curves.groupby("number")["step"].min())[1:]:
        axis.axvline(start - 0.5, color=FAINT, linewidth=0.8, linestyle=":")


def _name_stages(axis: Any, curves: "pd.DataFrame") -> None:
    low, high = axis.get_ylim()
    stages = [(short(stage["stage"].iloc[0], _LONGEST), stage["step"]) for _, stage in curves.groupby("number")]
    # A name that is longer than its stage would run into the next: then all stand upright, each beside the one before.
    panel = axis.get_window_extent().transformed(axis.figure.dpi_scale_trans.inverted())
    left, right = axis.get_xlim()
    epoch = panel.width / (right - left)
    longest = LETTER * (max(len(name) for name, _ in stages) + 1)
    upright = any(LETTER * (len(name) + 1) > epoch * steps.nunique() for name, steps in stages)
    places = [epoch * (steps.min() - 0.5 - left) + LETTER / 2 for _, steps in stages]
    if upright:
        for number in range(1, len(places)):
            places[number] = max(places[number], places[number - 1] + 2 * LETTER)
        for number, place in enumerate(places):
            places[number] = min(place, panel.width - 2 * LETTER * (len(places) - number))
    # The names have this share of the panel to themselves.
    share = longest / panel.height if upright else 0.1
    axis.set_ylim(low, low + (high - low) / (1 - share))
    for place, (name, _) in zip(places, stages, strict=True):
        axis.annotate(
            name,
            (place / panel.width, 1.0),
            xycoords="axes fraction",
            xytext=(0, -3),
            textcoords="offset points",
            va="top",
            rotation=90 if upright else 0,
            fontsize=8,
            color=INK,
        )
