"""The command that looks for a stage's learning rate."""

import shlex
from typing import Annotated

import typer

from pipeline.cli.output import ROOT, CacheOption, CompetitionArgument, RecipeArgument, say_left_out
from pipeline.cli.train import SetOption, WorkersOption, machine_of
from pipeline.errors import KitError


def lr_find(
    recipe: RecipeArgument,
    competition: CompetitionArgument,
    stage: Annotated[str, typer.Option(help="Name of the stage, or its number, counted from 0.")] = "0",
    fold: Annotated[int | None, typer.Option(help="Whose rows to train on; the first by default.", min=0)] = None,
    set_: SetOption = None,
    workers: WorkersOption = None,
    cache_gb: CacheOption = 20.0,
) -> None:
    """Look for a stage's learning rate: train it on 100 batches while the rate rises, and see where the loss falls.

    A range test (Smith, 2015), read as fastai's lr_find reads it. Nothing that was trained is kept.

    Example: kit lr-find demo demo --stage larger
    """
    from pipeline.artifacts import Workspace
    from pipeline.competition import load_competition
    from pipeline.model.backbones import check_backbone, check_packaged
    from pipeline.recipe import load_recipe

    settings, workspace = load_recipe(recipe, overrides=set_ or ()), Workspace(ROOT)
    number, described = settings.stage_number(stage), load_competition(competition, root=ROOT)
    check_backbone(settings.backbone, weights=settings.weights, sizes=())
    check_packaged(settings.backbone, settings.weights)

    from pipeline.report.figures import range_test_figure
    from pipeline.report.plots import save_figure
    from pipeline.training.engines import log_to_stdout
    from pipeline.training.lr_find import UPDATES, find_learning_rate

    log_to_stdout()
    say_left_out(described)
    print("starting a process that tries the stage, which takes some seconds", flush=True)
    found = find_learning_rate(
        settings,
        described,
        number=number,
        experiment=settings.name,
        workspace=workspace,
        fold=fold,
        machine=machine_of(workers, cache_gb),
    )
    if found.start:
        print(f"begun with the weights of the stage before: {found.start}")
    elif found.number:
        print(
            "note: begun with the recipe's weights and a new head, as the stages before are not in runs/ (a finished "
            "fold keeps the stage it ends on alone).\n  A new head learns at rates that may be too high for what those "
            "stages will have trained: take the suggestion as an upper limit"
        )
    own = settings.stages[found.number].learning_rate
    picture = workspace.report(competition) / f"lr-find-{settings.name}-{found.stage}.png"

    def draw(marks: dict[str, float]) -> None:
        title = f"range test of stage {found.stage}, {settings.name} on {competition}"
        save_figure(range_test_figure(found.rates, found.losses, found.smoothed, marks=marks, title=title), picture)

    try:
        lowest, steepest = found.suggested
    except KitError as error:
        draw({"the recipe's": own})
        raise KitError(error.problem, expected=error.expected, next_step=f"{error.next_step}; see {picture}") from None
    draw({"lowest / 10, suggested": lowest, "steepest": steepest, "the recipe's": own})
    end = "stopped there: the loss exploded" if found.exploded else "the loss did not explode"
    given = "".join(f" --set {shlex.quote(one)}" for one in set_ or ())
    print(
        f"stage {found.stage} ({found.number}) of {settings.name}, fold {found.fold}: {len(found.rates)} of {UPDATES} "
        f"updates of {found.batch_size} pictures, learning rate {found.rates[0]:.0e} to {found.rates[-1]:.1e}; {end}"
    )
    print(f"  {lowest:.1e}  suggested: a tenth of the rate at which the smoothed loss was lowest")
    print(f"  {steepest:.1e}  where it fell most steeply")
    print(f"  {own:.1e}  the recipe's")
    print(f"figure: {picture}")
    print(f"next: kit train {recipe} {competition}{given} --set stages.{found.number}.learning_rate={lowest:.1e}")
