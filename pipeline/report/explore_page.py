"""The page and the figures of `kit explore`: a competition before any training."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.artifacts import write_text
from pipeline.report.explore_plots import plot_classes, plot_sheet, plot_sizes, quiet_about_glyphs, save_png
from pipeline.report.page import Cell, Pair, Picture, figure_svg, render_page, thumbnail

PAGE = "explore.html"
_MOST_ROWS = 500
Row = dict[str, Any]


@dataclass(frozen=True)
class Explored:
    """What the page shows.

    Attributes:
        findings: Rows finding, count, what to do.
        facts: Names and values for the head of the page.
        classes: Class names in their order.
        pictures: Columns part, id, label, height, width, format, mode, brightness, of all pictures.
        samples: Columns path, id, label.
        extremes: Columns path, id, label, part, height, width, brightness, extreme.
        pairs: Heading → how many there are, and those to show: columns kind, distance, correlation, and part, id,
            label and path, each with _a and _b.
        augment: The name of the augmentation.
        augmented: Path → a picture and its versions, uint8 of shape (1 + versions, height, width, 3).
        shown: Path → picture, uint8 of shape (height, width, 3), of the samples, extremes and pairs.
        variants: Rows about labels that may be one.
        unreadable: Columns part, id, reason.
        left_out: id → reason.
    """

    slug: str
    findings: Sequence[Row]
    facts: Mapping[str, str]
    classes: Sequence[str]
    pictures: pd.DataFrame
    samples: pd.DataFrame
    extremes: pd.DataFrame
    pairs: Mapping[str, tuple[int, pd.DataFrame]]
    augment: str
    augmented: Mapping[str, NDArray[np.uint8]]
    shown: Mapping[str, NDArray[np.uint8]]
    variants: Sequence[Row]
    unreadable: pd.DataFrame
    left_out: Mapping[str, str]
    notes: Sequence[str]


def write_explore_page(folder: Path, explored: Explored) -> Path:
    """Write explore.html, which holds everything, and classes.png, sizes.png, samples.png and augmented.png.

    Returns:
        The page.
    """
    thumbs = {path: thumbnail(picture) for path, picture in explored.shown.items()}
    labelled = explored.pictures[explored.pictures["part"] != "test"]
    figures = {}
    if len(labelled):
        figures["classes"] = plot_classes(_counts(labelled, explored.classes))
        figures["sizes"] = plot_sizes(explored.pictures)
        by_class = {label: [explored.shown[path] for path in rows["path"]] for label, rows in _by_label(explored)}
        figures["samples"] = plot_sheet(by_class, columns=max(map(len, by_class.values())))
        names = dict(zip(explored.samples["path"], explored.samples["label"], strict=True))
        versions = {
            f"{names[path]} {number}": list(stack) for number, (path, stack) in enumerate(explored.augmented.items(), 1)
        }
        figures["augmented"] = plot_sheet(versions, columns=max(map(len, versions.values())))
    for name, figure in figures.items():
        save_png(figure, folder / f"{name}.png")
    labels = {"classes": "Pictures of each class", "sizes": "Sizes and brightness of the pictures"}
    with quiet_about_glyphs():
        drawings = {
            name: figure_svg(figures[name], name=name, label=label) for name, label in labels.items() if figures
        }
    text = render_page(
        "explore.html.j2",
        title=f"{explored.slug} before training",
        explored=explored,
        drawings=drawings,
        class_rows=_class_rows(labelled, explored.classes)[:_MOST_ROWS],
        kind_rows=_kind_rows(explored.pictures),
        samples=[_picture(row, thumbs, [f"class {row.label}"]) for row in explored.samples.itertuples()],
        shown_classes=explored.samples["label"].nunique(),
        extremes=[_picture(row, thumbs, _extreme_lines(row)) for row in explored.extremes.itertuples()],
        augmented=list(_augmented(explored)),
        versions=max(map(len, explored.augmented.values()), default=1),
        has_test=bool((explored.pictures["part"] == "test").any()),
        pairs=[
            (heading, count, [_pair(row, thumbs) for row in rows.itertuples()])
            for heading, (count, rows) in explored.pairs.items()
        ],
        unreadable=[
            Picture(None, row["id"], [row["reason"], row["part"]])
            for row in _records(explored.unreadable.head(_MOST_ROWS))
        ],
        left_out=[{"id": key, "reason": reason} for key, reason in explored.left_out.items()][:_MOST_ROWS],
    )
    write_text(folder / PAGE, text)
    return folder / PAGE


def _counts(labelled: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    table = pd.crosstab(labelled["label"], labelled["part"])
    return table.reindex(index=list(classes), columns=[p for p in ("train", "held out") if p in table], fill_value=0)


def _class_rows(labelled: pd.DataFrame, classes: Sequence[str]) -> list[Row]:
    if labelled.empty:
        return []
    counts = _counts(labelled, classes)
    means = labelled.groupby("label")[["height", "width", "brightness"]].mean()
    shares = counts.sum(axis=1) / len(labelled)
    table = counts.assign(share=shares).join(means.round().astype(int).add_prefix("mean "))
    rows = _records(table.rename_axis("class").reset_index())
    return [{**row, "share": Cell(f"{row['share']:.2%}", row["share"])} for row in rows]


def _kind_rows(pictures: pd.DataFrame) -> list[Row]:
    kinds = pictures.groupby(["format", "mode", "part"]).size().unstack("part", fill_value=0)
    parts = [part for part in ("train", "held out", "test") if part in kinds]
    return _records(kinds[parts].reset_index())


def _records(frame: pd.DataFrame) -> list[Row]:
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def _by_label(explored: Explored) -> Iterable[tuple[str, pd.DataFrame]]:
    return ((str(label), rows) for label, rows in explored.samples.groupby("label", sort=False))


def _picture(row: Any, thumbs: Mapping[str, str], lines: Sequence[str]) -> Picture:
    return Picture(thumbs[row.path], row.id, lines)


def _extreme_lines(row: Any) -> list[str]:
    return [
        row.extreme,
        f"{row.height} × {row.width}, brightness {row.brightness:.0f}",
        f"class {row.label}" if row.label else row.part,
    ]


def _augmented(explored: Explored) -> Iterable[Picture]:
    names = dict(
        zip(explored.samples["path"], zip(explored.samples["id"], explored.samples["label"], strict=True), strict=True)
    )
    for path, stack in explored.augmented.items():
        key, label = names[path]
        for number, version in enumerate(stack):
            yield Picture(
                thumbnail(version), key, ["as it is" if number == 0 else f"version {number}", f"class {label}"]
            )


def _pair(row: Any, thumbs: Mapping[str, str]) -> Pair:
    sides = [
        Picture(thumbs[path], key, [f"class {label}", part] if label else [part])
        for path, key, label, part in (
            (row.path_a, row.id_a, row.label_a, row.part_a),
            (row.path_b, row.id_b, row.label_b, row.part_b),
        )
    ]
    how = f"near: {row.distance} of 64 bits differ, correlation {row.correlation:.4f}"
    return Pair(sides[0], sides[1], ["identical files" if row.kind == "identical" else how])
