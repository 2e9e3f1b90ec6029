"""The report: one page about the finished experiments of a competition, and its figures as PNG files.

Nothing is read here: predictions, labels, learning curves, submissions and pictures are handed in.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.artifacts import atomic_folder, write_text
from pipeline.competition import Competition
from pipeline.data.competition_data import sample_form
from pipeline.data.decode import shrink
from pipeline.data.duplicates import Duplicate
from pipeline.errors import DataError, KitError, counted
from pipeline.predictions.aligned import Aligned, align, comparable_groups
from pipeline.predictions.compare import Comparison, Standing, compare
from pipeline.predictions.store import Experiment
from pipeline.progress import Progress
from pipeline.report.annotated import heated
from pipeline.report.comparison import comparison_notes, comparison_rows, format_p, selection_note, some_have_extra_rows
from pipeline.report.details import CLASS_NOTES, COST_NOTES, Details, Mistake, describe
from pipeline.report.figures import scores_figure
from pipeline.report.findings import Issue, JudgedDuplicate, find_issues, judge_duplicates
from pipeline.report.page import Cell, Pair, Picture, data_uri, figure_svg, how_alike, render_page
from pipeline.report.plots import leaderboard_figure, save_figure
from pipeline.report.tables import KEPT_EPOCH, VALIDATED_ON, Row, agreement_rows, scored
from pipeline.targets import decided_like, is_label, label_texts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DETAILED = 3
"""Experiments that are shown in detail where none is named."""
MOST_ISSUES = 60
MOST_DUPLICATES = 40
FIGURES = "report-figures"
_SAME = 1e-6
_TONES = {"better": "good", "worse": "bad"}
_LABELS = {
    "scores": "Scores of the experiments with their standard errors; the table below has the numbers",
    "leaderboard": "Leaderboard scores over OOF scores; `kit submissions` has the numbers",
    "learning-curves": "Validation metric and loss by epoch, a line a fold",
    "gains": "The score after each stage and what it gained; the table below has the numbers",
    "confusion": "Confusion matrix; the tables below have the numbers",
    "calibration": "Share of rows that are right by the probability of the predicted class",
}


Heat = Mapping[str, tuple[NDArray[np.float32], NDArray[np.float32]]]


@dataclass(frozen=True)
class Sources:
    """What a report is made from.

    Attributes:
        experiments: All finished ones of one competition.
        labels: Of the training rows, by id; a row without one is left out.
        load: The picture of a row by id, uint8 of shape (height, width, 3); None where it cannot be read.
        competition: Whose they are: needed where its metric is a file.
        named: Those to show in detail; empty for the best.
        curves: Learning curves by experiment, where they are known.
        submissions: Rows of the ledger, with the column competition.
        duplicates: Among the training pictures; None where nobody looked.
        explain: Of an experiment's name and rows (id, predicted class, true class), by id a heatmap of each class,
            float32 of shape (height', width'), not negative; None where nobody asked. It may raise `DataError`.
    """

    experiments: Sequence[Experiment]
    labels: Mapping[str, str]
    load: Callable[[str], NDArray[np.uint8] | None]
    competition: Competition | None = None
    named: Sequence[str] = ()
    curves: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    submissions: Sequence[Row] = ()
    duplicates: Sequence[Duplicate] | None = None
    explain: Callable[[str, Sequence[tuple[str, str, str]]], Heat] | None = None


@dataclass(frozen=True)
class Report:
    """A page as text, and its figures by the name of their PNG file, without the suffix."""

    html: str
    figures: Mapping[str, "Figure"]
    summary: str


def _beats_chance(experiment: Experiment) -> bool:
    """Whether it scores better than every floor by more than two standard errors: another says nothing about labels."""
    manifest = experiment.manifest
    sign = 1 if manifest["greater_is_better"] else -1
    gains = [sign * (manifest["oof_score"] - floor["score"]) for floor in manifest["floors"].values()]
    return all(gain > 2 * manifest["oof_score_se"] for gain in gains)


@dataclass(frozen=True)
class _Group:
    """Experiments on the same rows; `apart` is what they have that those of the first group have not."""

    aligned: Aligned
    comparison: Comparison
    experiments: Mapping[str, Experiment]
    apart: str

    @property
    def manifests(self) -> dict[str, Mapping[str, Any]]:
        return {name: one.manifest for name, one in self.experiments.items()}

    def standing(self, name: str) -> Standing:
        return next(one for one in self.comparison.standings if one.name == name)


def build_report(sources: Sources) -> Report:
    """Make the page.

    Raises:
        DataError: An experiment's rows have no labels any more.
    """
    groups, notes = _groups(sources)
    first = groups[0]
    names = sources.named or [one.name for one in first.comparison.standings[:DETAILED]]
    owners = [(name, group) for name in names for group in groups if name in group.experiments]
    details = [
        describe(group.experiments[name], group.standing(name), group.aligned, sources.curves.get(name))
        for name, group in owners
    ]
    issues = find_issues([(name, group.aligned) for name, group in owners if _beats_chance(group.experiments[name])])
    best, metric = first.comparison.standings[0], first.aligned.metric.name
    duplicates = _duplicates(sources, best.name, first)
    images = _images(
        sources.load,
        [mistake.id for one in details for mistake in one.mistakes]
        + [issue.id for issue in issues[:MOST_ISSUES]]
        + [key for pair in duplicates[:MOST_DUPLICATES] for key in (pair.duplicate.id_a, pair.duplicate.id_b)],
    )
    figures, svg = _figures(first, sources, details)
    slug = next(iter(first.experiments.values())).slug
    html = render_page(
        "report.html.j2",
        title=f"{slug}: experiments",
        lead=_lead(groups, sources),
        notes=notes,
        groups=[
            {
                "rows": _leaderboard(group),
                "apart": group.apart,
                "count": len(group.aligned.ids),
                "note": selection_note(group.manifests),
            }
            for group in groups
        ],
        leaderboard_notes=_leaderboard_notes(first.comparison),
        validated_on=VALIDATED_ON,
        kept_epoch=KEPT_EPOCH,
        chosen_by_name=bool(sources.named),
        svg=svg,
        details=[_detail(one, images, sources) for one in details],
        class_notes=CLASS_NOTES,
        cost_notes=COST_NOTES,
        agreement=[_without(row, "competition") for row in agreement_rows(sources.submissions)],
        issues=[_issue_picture(issue, images) for issue in issues[:MOST_ISSUES]],
        issues_found=len(issues),
        looked_for_duplicates=sources.duplicates is not None,
        duplicates=[_pair(pair, images) for pair in duplicates[:MOST_DUPLICATES]],
        duplicates_predicted_by=best.name,
        duplicates_found=len(duplicates),
        duplicates_differ=sum(pair.differs != "" for pair in duplicates),
        metric=metric,
    )
    summary = (
        f"{counted(len(sources.experiments), 'experiment', 'experiments')} of {slug}, best {best.name}: "
        f"{metric} {best.score:.4f} ± {best.score_se:.4f}; {len(details)} in detail, {len(issues)} labels to look at"
    )
    return Report(html, figures, summary)


def write_report(report: Report, *, page: Path) -> Path:
    """Write the page and, into a folder beside it that is made anew, its figures; returns that folder."""
    with atomic_folder(page.parent / FIGURES) as folder:
        for name, figure in report.figures.items():
            save_figure(figure, folder / f"{name}.png")
    write_text(page, report.html)
    return page.parent / FIGURES


def _groups(sources: Sources) -> tuple[list[_Group], list[str]]:
    """Experiments that can be compared with one another, and what is to be said of the labels."""
    known, notes = [], []
    for one in sources.experiments:
        target, classes = one.manifest["target"], frozenset(one.classes)
        labelled = {key for key, label in sources.labels.items() if is_label(label, classes, target)}
        has_label = one.oof["id"].isin(labelled)
        if not has_label.any():
            raise DataError(
                f"none of the {len(one.oof)} rows of {one.name} has a label any more",
                expected="the training data that the experiment was made from",
                next_step="check that competitions/<slug>/data leads to it",
            )
        if not has_label.all():
            notes.append(f"{one.name}: {(~has_label).sum():,} rows have no label or no file any more and are left out.")
        known.append(replace(one, oof=one.oof[has_label]))
    best_first = sorted(known, key=lambda one: one.score, reverse=known[0].manifest["greater_is_better"])
    groups = []
    for members, apart in comparable_groups(best_first):
        aligned = align(members, sources.labels, competition=sources.competition, form=sample_form)
        group = _Group(aligned, compare(aligned), {one.name: one for one in members}, apart)
        groups.append(group)
        for one in members:
            now = group.standing(one.name).score
            if abs(now - one.score) > _SAME:
                notes.append(
                    f"{one.name} scored {one.score:.4f} when it was made and {now:.4f} with the labels as they are now."
                )
    return groups, notes


def _duplicates(sources: Sources, name: str, group: _Group) -> list[JudgedDuplicate]:
    aligned = group.aligned
    chosen = label_texts(decided_like(aligned.labels, aligned.probabilities[name]), aligned.classes)
    predicted = dict(zip(aligned.ids, chosen, strict=True))
    return judge_duplicates(sources.duplicates or (), labels=sources.labels, predicted=predicted)


def _images(load: Callable[[str], NDArray[np.uint8] | None], ids: Iterable[str]) -> dict[str, str | None]:
    def made(key: str) -> str | None:
        picture = load(key)
        return None if picture is None else data_uri(picture)

    wanted = list(dict.fromkeys(ids))
    with ThreadPoolExecutor() as pool:
        bar = Progress(pool.map(made, wanted), desc="pictures", total=len(wanted), leave=False, disable=None)
        return dict(zip(wanted, bar, strict=True))


def _figures(group: _Group, sources: Sources, details: Sequence[Details]) -> tuple[dict[str, "Figure"], dict[str, Any]]:
    """Figures by the name of their file, and the same as SVG."""
    metric = group.aligned.metric.name
    figures: dict[str, Figure] = {}
    if len(group.comparison.standings) > 1:
        best = group.comparison.standings[0].name
        figures["scores"] = scores_figure(group.comparison.standings, metric=metric, reference=best)
    entries = [entry for board in ("public", "private") for entry in scored(sources.submissions, board)]
    distinct = list({entry["tag"]: entry for entry in entries}.values())
    if distinct:
        figures["leaderboard"] = leaderboard_figure(distinct, title="", metric=metric)
    kinds = dict.fromkeys(figures, "")
    for one in details:
        for kind, figure in one.figures.items():
            figures[f"{kind}-{one.experiment.name}"] = figure
            kinds[f"{kind}-{one.experiment.name}"] = kind
    svg = {
        name: figure_svg(figure, name=name, label=_LABELS[kinds[name] or name])
        for name, figure in figures.items()
        if kinds[name] != "confusion"  # which the page draws itself
    }
    return figures, svg


def _lead(groups: Sequence[_Group], sources: Sources) -> list[str]:
    """The result in plain sentences."""
    first = groups[0]
    metric, best = first.aligned.metric.name, first.comparison.standings[0]
    floors = next(iter(first.experiments.values())).manifest["floors"]
    chance = ", ".join(f"{name} {floor['score']:.4f}" for name, floor in floors.items())
    lead = [
        f"{counted(len(sources.experiments), 'finished experiment', 'finished experiments')}; "
        f"{len(first.aligned.ids):,} rows in {len(first.aligned.classes):,} classes, each predicted by a model that "
        "never saw it (OOF).",
        f"Best: {best.name}, {metric} {best.score:.4f} ± {best.score_se:.4f}" + (f" ({chance})." if chance else "."),
    ]
    equal = [name for name, one in first.comparison.differences.items() if one.verdict == "not distinguishable"]
    if equal:
        lead.append(f"Not distinguishable from it on these rows: {', '.join(equal)}.")
    return lead


def _leaderboard(group: _Group) -> list[Row]:
    return [_leaderboard_row(row, group) for row in comparison_rows(group.comparison, group.manifests)]


def _leaderboard_row(row: Row, group: _Group) -> Row:
    metric, best = group.aligned.metric.name, group.comparison.standings[0].name
    beside = {"accuracy": row["accuracy"], "log loss": row["log_loss"], "macro F1": row["macro_f1"]}
    against: Row = {"against the best": Cell("the best", 0.0), "p": None, "verdict": ""}
    if row["experiment"] != best:
        text = f"{row['gain']:+.4f} ({row['low']:+.4f} to {row['high']:+.4f})"
        difference = Cell(text, row["gain"], _TONES.get(row["verdict"], ""))
        against = {"against the best": difference, "p": Cell(format_p(row["p"]), row["p"]), "verdict": row["verdict"]}
    return {
        "experiment": row["experiment"],
        metric: row["score"],
        "± se": row["score_se"],
        **(against if len(group.experiments) > 1 else {}),
        **{name: score for name, score in beside.items() if name.replace(" ", "_").lower() != metric},
        "ECE": row["calibration_error"],
        "TTA": "yes" if row["tta_used"] else "no",
        "select_on": row["select_on"],
        **({"extra rows": row["extra_rows"]} if some_have_extra_rows(group.manifests) else {}),
        "seconds": row["seconds"],
        **{name.replace("_", " "): score for name, score in row.items() if name.startswith("fold_")},
    }


def _leaderboard_notes(comparison: Comparison) -> dict[str, str]:
    notes = comparison_notes(comparison, "best")
    return {
        "± se": "standard error over the rows",
        "against the best": f"plus is better; in brackets the 95 % interval {notes['95 % interval']}",
        "p": notes.get("p", notes["McNemar p"]),
        "verdict": notes["verdict"].replace("McNemar p", "p"),
        "ECE": notes["ECE"],
        "TTA": "whether predictions with test-time augmentation are used",
        "select_on": notes["select_on"],
        "seconds": "of all stages and predictions, without reading and decoding the pictures",
        "fold 0 …": "the score of each held-out fold",
    }


def _detail(one: Details, images: Mapping[str, str | None], sources: Sources) -> dict[str, Any]:
    mistakes = [Picture(images[mistake.id], mistake.id, _said(mistake)) for mistake in one.mistakes]
    explained, note = [], ""
    if sources.explain and one.mistakes:
        try:
            heat = sources.explain(one.experiment.name, [(row.id, row.predicted, row.true) for row in one.mistakes])
            explained = [_explained(mistake, images[mistake.id], heat, sources.load) for mistake in one.mistakes]
        except KitError as error:
            note = f"Without Grad-CAM: {error.problem}."
    return {"name": one.experiment.name, "of": one, "mistakes": mistakes, "explained": explained, "note": note}


def _said(mistake: Mistake) -> list[str]:
    return [f"true: {mistake.true} ({mistake.own:.1%})", f"predicted: {mistake.predicted} ({mistake.probability:.1%})"]


def _explained(
    mistake: Mistake, image: str | None, heat: Heat, load: Callable[[str], NDArray[np.uint8] | None]
) -> Pair:
    """The picture, and what spoke for the class it was predicted as and for its own."""
    picture, true_and_predicted, sides = load(mistake.id), _said(mistake), []
    for place, said in enumerate(reversed(true_and_predicted)):
        source, lines = None, [said]
        if picture is not None and mistake.id in heat:
            of_class = heat[mistake.id][place]
            source = data_uri(heated(shrink(picture, 160), of_class))
            lines += [] if of_class.any() else ["nothing spoke for it"]
        sides.append(Picture(source, "Grad-CAM", lines))
    return Pair(sides[0], sides[1], before=Picture(image, mistake.id))


def _issue_picture(issue: Issue, images: Mapping[str, str | None]) -> Picture:
    said = f"said by {issue.said_by} of {issue.asked}" if issue.asked > 1 else ""
    lines = [f"label: {issue.label} ({issue.quality:.1%})", f"looks like: {issue.suggested} ({issue.probability:.1%})"]
    return Picture(images[issue.id], issue.id, [*lines, *([said] if said else [])])


def _pair(pair: JudgedDuplicate, images: Mapping[str, str | None]) -> Pair:
    one = pair.duplicate
    first, second = (
        Picture(images[key], key, [f"label: {label or '–'}", f"predicted: {predicted or '–'}"])
        for key, label, predicted in zip((one.id_a, one.id_b), pair.labels, pair.predicted, strict=True)
    )
    words = {"labels": "the labels differ", "predictions": "the predictions differ", "": "same label, same prediction"}
    return Pair(first, second, [words[pair.differs], how_alike(one.kind, one.distance, one.correlation)])


def _without(row: Row, column: str) -> Row:
    return {name: value for name, value in row.items() if name != column}
