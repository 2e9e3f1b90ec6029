"""The command that says what single changes of a recipe are worth."""

from typing import Annotated

import typer

from pipeline.cli.compare import oof_compare
from pipeline.cli.output import ROOT, CacheOption, CompetitionArgument, RecipeArgument, say_left_out
from pipeline.cli.train import FoldOption, SetOption, WorkersOption, machine_of, train_experiment
from pipeline.errors import KitError


def ablate(
    recipe: RecipeArgument,
    competition: CompetitionArgument,
    changes: Annotated[
        list[str],
        typer.Argument(metavar="NAME:SETTING...", help="Changes to try, each alone: mixup:stages.*.mixup=0.2"),
    ],
    fold: FoldOption = None,
    set_: SetOption = None,
    suffix: Annotated[str | None, typer.Option(help="Name the experiments RECIPE-SUFFIX-NAME.")] = None,
    workers: WorkersOption = None,
    cache_gb: CacheOption = 20.0,
) -> None:
    """Train a recipe as it is and once with each change, and compare: what is a change worth on the same rows?

    A change has a name and one setting or more, with blanks between. What is trained already is not trained again.

    Example: kit ablate demo demo 'smoothing:label_smoothing=0.1' 'longer:stages.0.epochs=12 stages.1.epochs=14'
    """
    from pipeline.artifacts import Workspace
    from pipeline.competition import load_competition
    from pipeline.training.ablation import ablations

    recipes, workspace = ablations(recipe, changes, overrides=set_ or (), suffix=suffix), Workspace(ROOT)
    described = load_competition(competition, root=ROOT)

    from pipeline.training.cross_validate import folds_of, prepare
    from pipeline.training.engines import log_to_stdout

    log_to_stdout()
    machine = machine_of(workers, cache_gb)
    say_left_out(described)
    for experiment, settings in recipes.items():  # what would fail after hours is refused now
        data, _ = prepare(settings, described, experiment=experiment, workspace=workspace)
        folds_of(data, competition, fold)
    finished: list[str] = []
    failed: list[KitError] = []
    for number, (experiment, settings) in enumerate(recipes.items(), start=1):
        print(f"{number} of {len(recipes)}: {experiment} on {competition}")
        try:
            train_experiment(
                settings, described, experiment=experiment, workspace=workspace, folds=fold, machine=machine
            )
            finished.append(experiment)
        except KitError as error:
            if not finished:
                raise
            typer.echo(f"{experiment} is left out: {error.problem}", err=True)
            failed.append(error)
        print()
    if len(finished) > 1:
        oof_compare(finished, competition=competition, baseline=finished[0])
    if failed:
        raise failed[0]
