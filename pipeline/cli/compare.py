"""Commands about several finished experiments: oof compare."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli import completion
from pipeline.cli.output import ROOT, CompetitionOption, Format, FormatOption, say_left_out, show
from pipeline.errors import DataError

if TYPE_CHECKING:
    from pipeline.artifacts import Workspace

_SAME = 1e-6


def oof_compare(
    experiments: Annotated[
        list[str] | None,
        typer.Argument(metavar="EXPERIMENT", show_default=False, autocompletion=completion.experiments),
    ] = None,
    competition: CompetitionOption = None,
    baseline: Annotated[
        str | None, typer.Option("--baseline", help="The experiment to hold the others against, instead of the best.")
    ] = None,
    format: FormatOption = Format.table,
) -> None:
    """Hold experiments against each other on the same rows: scores, differences, and whether they mean anything.

    Without names: all experiments of the competition that are trained on all folds, or all where fewer than two are.
    An experiment on some folds is held against others on the rows of the folds that all of them have.

    Example: kit oof compare head progressive --baseline head
    """
    from pipeline.artifacts import Workspace
    from pipeline.competition import load_competition

    workspace = Workspace(ROOT)
    chosen = _chosen(workspace, experiments or [], competition=competition, baseline=baseline)

    from pipeline.data.competition_data import sample_form
    from pipeline.data.index import train_index
    from pipeline.predictions.aligned import align, common_folds
    from pipeline.predictions.compare import compare
    from pipeline.predictions.manifests import folds_in_words
    from pipeline.predictions.store import read_experiment
    from pipeline.report.comparison import comparison_rows, comparison_text

    stored = [read_experiment(workspace, *key) for key in chosen]
    described = load_competition(stored[0].slug, root=ROOT)
    rows = train_index(described)
    say_left_out(described)
    labels = dict(zip(rows["id"], rows["label"], strict=True))
    found = compare(align(stored, labels, competition=described, form=sample_form), baseline=baseline)
    common = common_folds(stored)
    if any(one.manifest["folds"] != common for one in stored):
        there = ", ".join(f"{one.name} {folds_in_words(one.manifest)}" for one in stored)
        held = f"fold{'s' * (len(common) > 1)} {', '.join(map(str, common))}"
        typer.echo(f"note: on the rows of {held} alone, which all have; trained folds: {there}", err=True)
    scores = {one.name: one.score for one in found.standings}
    for one in stored:
        if one.manifest["folds"] == common and abs(scores[one.name] - one.score) > _SAME:
            typer.echo(
                f"note: {one.name} scored {one.score:.4f} when it was made and {scores[one.name]:.4f} with "
                "the labels as they are now",
                err=True,
            )
    manifests = {one.name: one.manifest for one in stored}
    if format is Format.table:
        print(comparison_text(found, manifests))
    else:
        show(comparison_rows(found, manifests), format)


def _chosen(
    workspace: "Workspace", names: Sequence[str], *, competition: str | None, baseline: str | None
) -> list[tuple[str, str]]:
    """(slug, experiment) of two experiments or more: those named, or all of the only competition that has any.

    Raises:
        DataError: They are fewer, or it is not clear which competition is meant.
    """
    from pipeline.competition import load_competition
    from pipeline.predictions.manifests import find_experiment, list_experiments, read_manifest

    if competition:
        load_competition(competition, root=ROOT)  # a misspelt slug is not an empty list
    finished = list_experiments(workspace, competition)
    slugs = sorted({slug for slug, _ in finished})
    if not names and len(slugs) > 1:
        raise DataError(
            f"{len(slugs)} competitions have finished experiments: {', '.join(slugs)}",
            expected="one of them, or the experiments by name",
            next_step=f"name it: --competition {slugs[0]}",
        )
    wanted = [*names, baseline] if baseline else names
    chosen = [find_experiment(workspace, name, slug=competition) for name in dict.fromkeys(wanted)]
    if not names:
        whole = [key for key in finished if not read_manifest(workspace, *key)["missing_folds"]]
        if 1 < len(whole) < len(finished):
            left = ", ".join(key[1] for key in finished if key not in [*whole, *chosen])
            if left:
                typer.echo(f"note: left out, as not all folds are trained: {left}; name it to compare it", err=True)
        chosen = list(dict.fromkeys([*(whole if len(whole) > 1 else finished), *chosen]))
    if len(chosen) < 2:
        raise _too_few(chosen, finished, competition=competition)
    return chosen


def _too_few(
    chosen: Sequence[tuple[str, str]], finished: Sequence[tuple[str, str]], *, competition: str | None
) -> DataError:
    slug, name = chosen[0] if chosen else (competition or "COMPETITION", None)
    others = [other for where, other in finished if where == slug and other != name]
    train = f"kit train RECIPE {slug}"
    return DataError(
        f"{name} is the only experiment to compare" if name else "there is no finished experiment",
        expected=f"two or more finished experiments of {slug}" if name or competition else "two or more of them",
        next_step="name another: " + ", ".join(others)
        if others
        else f"train {'another' if name else 'two'}: {train}; a recipe again: {train} --set seed=1 --suffix seed-1",
    )
