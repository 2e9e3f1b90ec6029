"""Figures of a competition before any training: classes, sizes, brightness, and sheets of pictures."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.report.plots import INK, PANEL, legend_above, new_figure, quiet, short

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PARTS = {"train": "#2a6f97", "held out": "#e0a458", "test": "#c8553d"}
_MOST_BARS = 60
_MOST_DOTS = 1500


def plot_classes(counts: pd.DataFrame) -> "Figure":
    """Pictures of each class, largest first: bars with names, or a curve where there are too many classes.

    Args:
        counts: By class, a column a part ("train", "held out") with the number of pictures.
    """
    from matplotlib.ticker import MaxNLocator

    ordered = counts.loc[counts.sum(axis=1).sort_values(ascending=False, kind="stable").index]
    many = len(ordered) > _MOST_BARS
    figure = new_figure(PANEL, 3.5 if many else 1.1 + 0.2 * len(ordered))
    axis = figure.subplots()
    quiet(axis, "both" if many else "x")
    place, start = np.arange(len(ordered)), np.zeros(len(ordered))
    for part in ordered.columns:
        values = ordered[part].to_numpy()
        if many:
            axis.fill_between(place, start, start + values, step="mid", color=_PARTS[part], label=part, linewidth=0)
        else:
            axis.barh(place, values, left=start, height=0.7, color=_PARTS[part], label=part)
        start = start + values
    if many:
        axis.set_xlabel(f"the {len(ordered)} classes, largest first")
        axis.set_ylabel("pictures")
        axis.set_ylim(bottom=0)
    else:
        axis.set_yticks(place, [short(str(name), 30) for name in ordered.index], fontsize=8)
        axis.set_ylim(len(ordered) - 0.4, -0.6)
        axis.set_xlabel("pictures")
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    if len(ordered.columns) > 1:
        legend_above(axis)
    return figure


def plot_sizes(pictures: pd.DataFrame) -> "Figure":
    """Width and height of every picture, and below them the distribution of brightness, by part.

    Args:
        pictures: Columns part, height, width, brightness.
    """
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(PANEL, 7.5)
    sizes, light = figure.subplots(2, 1, height_ratios=(3, 2))
    for part, colour in _PARTS.items():
        rows = pictures[pictures["part"] == part]
        if rows.empty:
            continue
        dots = rows.groupby(["width", "height"]).size().sort_values(ascending=False).head(_MOST_DOTS)
        widths, heights = dots.index.get_level_values(0), dots.index.get_level_values(1)
        area = 12 + 60 * np.sqrt(dots.to_numpy() / len(pictures))
        sizes.scatter(widths, heights, s=area, color=colour, alpha=0.45, linewidths=0, label=part)
        bins = np.linspace(0, 255, 33)
        share, _ = np.histogram(rows["brightness"], bins=bins)
        light.stairs(100 * share / len(rows), bins, color=colour, linewidth=1.5, label=part)
    sizes.set_xlabel("width in pixels")
    sizes.set_ylabel("height in pixels")
    for axis in (sizes.xaxis, sizes.yaxis):
        axis.set_major_locator(MaxNLocator("auto", integer=True))
    light.set_xlabel("mean brightness (0 black, 255 white)")
    light.set_ylabel("pictures in %")
    light.set_xlim(0, 255)
    for panel in (sizes, light):
        quiet(panel, "both")
        legend_above(panel)
    return figure


def plot_sheet(rows: Mapping[str, Sequence[NDArray[np.uint8]]], *, columns: int) -> "Figure":
    """Pictures in rows with a name before each, several rows side by side where they are short.

    Args:
        rows: Name → pictures, uint8 of shape (height, width, 3) each.
        columns: Pictures of a row.
    """
    beside = max(1, min(len(rows), 10 // (columns + 1)))
    deep = -(-len(rows) // beside)
    figure = new_figure(1.15 * (columns + 1) * beside, 1.0 * deep)
    axes = figure.subplots(deep, (columns + 1) * beside, squeeze=False).ravel()
    for axis in axes:
        axis.set_axis_off()
    for number, (name, pictures) in enumerate(rows.items()):
        first = (number % deep) * (columns + 1) * beside + (number // deep) * (columns + 1)
        axes[first].text(0.95, 0.5, _wrapped(name), ha="right", va="center", fontsize=7, color=INK)
        for axis, picture in zip(axes[first + 1 : first + 1 + columns], pictures, strict=False):
            axis.imshow(picture)
    return figure


def _wrapped(name: str) -> str:
    return "\n".join(textwrap.wrap(short(name, 40), 14)) or " "
