"""The command report: one page about the finished experiments of a competition."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli import completion
from pipeline.cli.output import ROOT, CompetitionOption
from pipeline.errors import DataError, KitError, counted

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pipeline.artifacts import Workspace
    from pipeline.competition import Competition
    from pipeline.data.duplicates import Duplicate
    from pipeline.training.grad_cam import Maps


def report(
    experiments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="EXPERIMENT",
            help="Those to show in detail.",
            show_default="the best three",
            autocompletion=completion.experiments,
        ),
    ] = None,
    competition: CompetitionOption = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", help="A folder, or an .html file, instead of oof/<competition>/_report/report.html."),
    ] = None,
    no_duplicates: Annotated[
        bool, typer.Option("--no-duplicates", help="Do not look for near-duplicates, which reads every picture once.")
    ] = False,
    grad_cam: Annotated[
        bool,
        typer.Option(
            "--grad-cam", help="Show what in each mistake spoke for its classes; needs the fold models in runs/."
        ),
    ] = False,
) -> None:
    """Make one self-contained HTML page about the finished experiments: scores, learning curves, mistakes, labels.

    All experiments of the competition stand on its leaderboard; the figures lie beside it as PNG files.

    Example: kit report progressive-b7
    """
    from pipeline.artifacts import Workspace
    from pipeline.competition import load_competition
    from pipeline.predictions.manifests import list_experiments
    from pipeline.submit.ledger import Ledger

    if output and (output.is_dir() if output.suffix == ".html" else output.is_file()):
        raise DataError(
            f"--output {output} is a {'folder' if output.is_dir() else 'file'}",
            expected="a folder, or a file that ends in .html",
            next_step="name another one",
        )
    workspace = Workspace(ROOT)
    slug, named = _chosen(workspace, experiments or [], competition=competition)
    described = load_competition(slug, root=ROOT)
    typer.echo(f"comparing the experiments of {slug}, drawing the page", err=True)

    from pipeline.data.index import scan
    from pipeline.predictions.store import read_experiment, read_learning_curves
    from pipeline.report.report_page import Sources, build_report, write_report

    found = scan(described)
    rows = found.rows
    finished = [read_experiment(workspace, *key) for key in list_experiments(workspace, slug)]
    load = _loader(dict(zip(rows["id"], rows["path"], strict=True)))
    made = build_report(
        Sources(
            experiments=finished,
            # Of several labels a row may have none; one whose picture is gone has its label all the same.
            labels={
                key: label
                for key, label in zip(rows["id"], rows["label"], strict=True)
                if label or (described.target == "multilabel" and key not in found.faults)
            },
            load=load,
            competition=described,
            named=named,
            curves={one.name: read_learning_curves(workspace, slug, one.name) for one in finished},
            submissions=[{"competition": slug, **asdict(entry)} for entry in Ledger(workspace, slug).read()],
            duplicates=None if no_duplicates else _duplicates(described),
            explain=_explainer(workspace, slug, load) if grad_cam else None,
        )
    )
    folder = output or workspace.report(slug)
    page = folder if folder.suffix == ".html" else folder / "report.html"
    figures = write_report(made, page=page)
    print(made.summary)
    print(f"{page}  {page.stat().st_size / 1e6:.1f} MB   figures: {figures}/*.png")
    print(f"open it: {page.resolve().as_uri()}")


def _chosen(workspace: "Workspace", names: list[str], *, competition: str | None) -> tuple[str, list[str]]:
    """The competition, and the experiments that were named.

    Raises:
        DataError: There is no finished experiment, or it is not clear which competition is meant.
    """
    from pipeline.competition import load_competition
    from pipeline.predictions.manifests import find_experiment, list_experiments

    if competition:
        load_competition(competition, root=ROOT)  # a misspelt slug is not an empty list
    keys = [find_experiment(workspace, name, slug=competition) for name in dict.fromkeys(names)]
    slugs = sorted({slug for slug, _ in keys or list_experiments(workspace, competition)})
    if not slugs:
        raise DataError(
            "there is no finished experiment" + (f" of {competition}" if competition else ""),
            expected="one experiment or more",
            next_step=f"run: kit train RECIPE {competition or 'COMPETITION'}",
        )
    if len(slugs) > 1:
        raise DataError(
            f"{len(slugs)} competitions have finished experiments: {', '.join(slugs)}"
            if not names
            else f"the experiments named are of {len(slugs)} competitions: {', '.join(slugs)}",
            expected="one competition a report",
            next_step=f"name it: --competition {slugs[0]}",
        )
    return slugs[0], [name for _, name in keys]


def _duplicates(competition: "Competition") -> "list[Duplicate] | None":
    """Those among the training pictures; None, saying why, where a file that cannot be read keeps from looking."""
    from pipeline.data.duplicates import training_duplicates

    try:
        return training_duplicates(competition)
    except DataError as error:
        typer.echo(f"note: near-duplicates were not looked for: {error.problem}", err=True)
        return None


def _explainer(
    workspace: "Workspace", slug: str, load: "Callable[[str], NDArray[np.uint8] | None]"
) -> "Callable[[str, Sequence[tuple[str, str, str]]], dict[str, Maps]]":
    """Heatmaps of an experiment's rows by its fold models; where these are gone, a line on stderr says so, too."""
    from pipeline.training.device import import_tensorflow_quietly
    from pipeline.training.predict import read_fold_models

    def explain(name: str, mistakes: "Sequence[tuple[str, str, str]]") -> "dict[str, Maps]":
        try:
            models = read_fold_models(workspace, slug, name)
            looked_at = counted(len(mistakes), "mistake", "mistakes")
            typer.echo(f"{name}: loading its fold models to look at {looked_at}", err=True)
            import_tensorflow_quietly()
            from pipeline.training.grad_cam import mistake_maps

            return mistake_maps(models, mistakes, load)
        except KitError as error:
            typer.echo(f"note: {name} is shown without Grad-CAM: {error.problem}", err=True)
            raise

    return explain


def _loader(paths: dict[str, str]) -> "Callable[[str], NDArray[np.uint8] | None]":
    from pipeline.data.decode import decode

    def load(key: str) -> "NDArray[np.uint8] | None":
        try:
            return decode(Path(paths[key])) if paths.get(key) else None
        except DataError:
            return None

    return load
