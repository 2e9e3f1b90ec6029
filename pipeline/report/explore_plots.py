"""Figures of a competition before any training: classes, sizes, brightness, and sheets of pictures."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.artifacts import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_INK, _FAINT, _GRID = "#333333", "#8c8c8c", "#e6e6e6"
_PARTS = {"train": "#2a6f97", "held out": "#e0a458", "test": "#c8553d"}
_MOST_BARS = 60
_MOST_DOTS = 1500


def plot_classes(counts: pd.DataFrame) -> "Figure":
    """Pictures of each class, largest first: bars with names, or a curve where there are too many classes.

    Args:
        counts: By class, a column a part ("train", "held out") with the number of pictures.
    """
    ordered = counts.loc[counts.sum(axis=1).sort_values(ascending=False, kind="stable").index]
    many = len(ordered) > _MOST_BARS
    figure, (axis,) = _figure(9, 4 if many else 1.1 + 0.2 * len(ordered))
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
        axis.set_yticks(place, [_short(str(name)) for name in ordered.index], fontsize=8)
        axis.set_ylim(len(ordered) - 0.4, -0.6)
        axis.set_xlabel("pictures")
        axis.grid(axis="y", visible=False)
    if len(ordered.columns) > 1:
        _legend(axis)
    return figure


def plot_sizes(pictures: pd.DataFrame) -> "Figure":
    """Width and height of every picture, and the distribution of brightness, by part.

    Args:
        pictures: Columns part, height, width, brightness.
    """
    figure, (sizes, light) = _figure(9.5, 4.2, columns=2)
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
    sizes.set_xlim(left=0)
    sizes.set_ylim(bottom=0)
    light.set_xlabel("mean brightness (0 black, 255 white)")
    light.set_ylabel("pictures in %")
    light.set_xlim(0, 255)
    for axis in (sizes, light):
        _legend(axis)
    return figure


def plot_sheet(rows: Mapping[str, Sequence[NDArray[np.uint8]]], *, columns: int) -> "Figure":
    """Pictures in rows with a name before each, several rows side by side where they are short.

    Args:
        rows: Name → pictures, uint8 of shape (height, width, 3) each.
        columns: Pictures of a row.
    """
    beside = max(1, min(len(rows), 10 // (columns + 1)))
    deep = -(-len(rows) // beside)
    figure, axes = _figure(1.15 * (columns + 1) * beside, 1.0 * deep, columns=(columns + 1) * beside, rows=deep)
    for axis in axes:
        axis.set_axis_off()
    for number, (name, pictures) in enumerate(rows.items()):
        first = (number % deep) * (columns + 1) * beside + (number // deep) * (columns + 1)
        axes[first].text(0.95, 0.5, _wrapped(name), ha="right", va="center", fontsize=7, color=_INK)
        for axis, picture in zip(axes[first + 1 : first + 1 + columns], pictures, strict=False):
            axis.imshow(picture)
    return figure


def save_png(figure: "Figure", path: Path) -> None:
    with atomic_path(path) as temporary, quiet_about_glyphs():
        figure.savefig(temporary, dpi=110, format="png")


@contextmanager
def quiet_about_glyphs() -> Iterator[None]:
    """Names may be in a script that the font lacks: matplotlib draws boxes for it, and need not say so."""
    import matplotlib

    with warnings.catch_warnings(), matplotlib.rc_context({"text.parse_math": False}):
        warnings.filterwarnings("ignore", message=".*[Gg]lyph")
        yield


def _figure(width: float, height: float, *, columns: int = 1, rows: int = 1) -> "tuple[Figure, list[Any]]":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(rows, columns, squeeze=False).ravel())
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(color=_GRID, linewidth=0.7)
        axis.set_axisbelow(True)
    return figure, axes


def _legend(axis: Any) -> None:
    axis.legend(frameon=False, fontsize=8, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3)


def _short(name: str) -> str:
    return name if len(name) <= 40 else name[:39] + "…"


def _wrapped(name: str) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(_short(name), 14)) or " "
