"""The page and the figures of `kit explore`: a competition before any training."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.artifacts import write_text
from pipeline.data.explore import TEST, Exploration, findings
from pipeline.data.showcase import Showcase
from pipeline.report.explore_plots import plot_classes, plot_sheet, plot_sizes
from pipeline.report.page import Cell, Pair, Picture, data_uri, figure_svg, how_alike, render_page
from pipeline.report.plots import save_figure
from pipeline.report.tables import Row

PAGE = "explore.html"
_MOST_ROWS = 500


def finding_rows(found: Exploration) -> list[Row]:
    return [{"finding": line.what, "count": line.count, "what to do": line.next_step} for line in findings(found)]


def write_explore_page(folder: Path, found: Exploration, shown: Showcase) -> Path:
    """Write explore.html, which holds everything, and classes.png, sizes.png, samples.png and augmented.png.

    Returns:
        The page.
    """
    images = {path: data_uri(picture) for path, picture in shown.pictures.items()}
    labelled = found.by_class
    figures = {}
    if len(labelled):
        figures["classes"] = plot_classes(_counts(labelled, found.classes))
        figures["sizes"] = plot_sizes(found.pictures)
        by_class = {label: [shown.pictures[path] for path in rows["path"]] for label, rows in _by_label(shown)}
        figures["samples"] = plot_sheet(by_class, columns=max(map(len, by_class.values())))
        names = dict(zip(shown.samples["path"], shown.samples["label"], strict=True))
        versions = {
            f"{names[path]} {number}": list(stack) for number, (path, stack) in enumerate(shown.augmented.items(), 1)
        }
        figures["augmented"] = plot_sheet(versions, columns=max(map(len, versions.values())))
    for name, figure in figures.items():
        save_figure(figure, folder / f"{name}.png")
    labels = {"classes": "Pictures of each class", "sizes": "Sizes and brightness of the pictures"}
    drawings = {name: figure_svg(figures[name], name=name, label=label) for name, label in labels.items() if figures}
    text = render_page(
        "explore.html.j2",
        title=f"{found.competition.slug} before training",
        found=found,
        shown=shown,
        findings=finding_rows(found),
        variants=[vars(variant) for variant in found.variants],
        drawings=drawings,
        class_rows=_class_rows(labelled, found.classes, pictures=len(found.labelled))[:_MOST_ROWS],
        kind_rows=_kind_rows(found.pictures),
        samples=[_picture(row, images, [f"class {row.label}"]) for row in shown.samples.itertuples()],
        shown_classes=shown.samples["label"].nunique(),
        extremes=[_picture(row, images, _extreme_lines(row)) for row in shown.extremes.itertuples()],
        augmented=list(_augmented(shown)),
        versions=max(map(len, shown.augmented.values()), default=1),
        has_test=bool((found.pictures["part"] == TEST).any()),
        pairs=[
            (heading, count, [_pair(row, images) for row in rows.itertuples()])
            for heading, (count, rows) in shown.pairs.items()
        ],
        unreadable=[
            Picture(None, row["id"], [row["reason"], row["part"]])
            for row in _records(found.unreadable.head(_MOST_ROWS))
        ],
        left_out=[{"id": key, "reason": reason} for key, reason in found.left_out.items()][:_MOST_ROWS],
    )
    write_text(folder / PAGE, text)
    return folder / PAGE


def _counts(labelled: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    table = pd.crosstab(labelled["label"], labelled["part"])
    return table.reindex(index=list(classes), columns=[p for p in ("train", "held out") if p in table], fill_value=0)


def _class_rows(labelled: pd.DataFrame, classes: Sequence[str], *, pictures: int) -> list[Row]:
    if labelled.empty:
        return []
    counts = _counts(labelled, classes)
    means = labelled.groupby("label")[["height", "width", "brightness"]].mean()
    shares = counts.sum(axis=1) / pictures
    table = counts.assign(share=shares).join(means.round().astype(int).add_prefix("mean "))
    rows = _records(table.rename_axis("class").reset_index())
    return [{**row, "share": Cell(f"{row['share']:.2%}", row["share"])} for row in rows]


def _kind_rows(pictures: pd.DataFrame) -> list[Row]:
    kinds = pictures.groupby(["format", "mode", "part"]).size().unstack("part", fill_value=0)
    parts = [part for part in ("train", "held out", "test") if part in kinds]
    return _records(kinds[parts].reset_index())


def _records(frame: pd.DataFrame) -> list[Row]:
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def _by_label(shown: Showcase) -> Iterable[tuple[str, pd.DataFrame]]:
    return ((str(label), rows) for label, rows in shown.samples.groupby("label", sort=False))


def _picture(row: Any, images: Mapping[str, str], lines: Sequence[str]) -> Picture:
    return Picture(images[row.path], row.id, lines)


def _extreme_lines(row: Any) -> list[str]:
    return [
        row.extreme,
        f"{row.height} × {row.width}, brightness {row.brightness:.0f}",
        f"class {row.label}" if row.label else row.part,
    ]


def _augmented(shown: Showcase) -> Iterable[Picture]:
    names = dict(zip(shown.samples["path"], zip(shown.samples["id"], shown.samples["label"], strict=True), strict=True))
    for path, stack in shown.augmented.items():
        key, label = names[path]
        for number, version in enumerate(stack):
            yield Picture(
                data_uri(version), key, ["as it is" if number == 0 else f"version {number}", f"class {label}"]
            )


def _pair(row: Any, images: Mapping[str, str]) -> Pair:
    sides = [
        Picture(images[path], key, [f"class {label}", part] if label else [part])
        for path, key, label, part in (
            (row.path_a, row.id_a, row.label_a, row.part_a),
            (row.path_b, row.id_b, row.label_b, row.part_b),
        )
    ]
    return Pair(sides[0], sides[1], [how_alike(row.kind, row.distance, row.correlation)])
