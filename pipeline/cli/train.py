"""The command that trains."""

import math
import re
import time
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli import completion
from pipeline.cli.output import ROOT, CacheOption, recipe_for_this_machine, say_left_out, the_only_competition
from pipeline.cli.results import submission_make
from pipeline.errors import DoesNotFit, KitError, OutOfTime, counted
from pipeline.session import SESSION_HOURS

if TYPE_CHECKING:
    from pipeline.artifacts import Workspace
    from pipeline.competition import Competition
    from pipeline.recipe import Recipe
    from pipeline.training.fold import Machine

CHEAPEST = "probe"
"""The recipe for a budget that the one for this machine does not fit into."""

BUDGET = "budget.json"
"""What was chosen for a budget, in the folder of the run."""

TRYING = 0.5
"""The share of the time left that trying out a recipe may take."""

FoldOption = Annotated[list[int] | None, typer.Option(help="Train this fold alone; may be repeated.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change a setting: stages.1.epochs=3, stages.*.augment=heavy; may be repeated."),
]
WorkersOption = Annotated[int | None, typer.Option(help="Augmentation processes.", min=0)]


def train(
    recipe: Annotated[
        str | None,
        typer.Argument(
            help="A shipped recipe's name, or a YAML file; with --budget the one for this machine by default.",
            autocompletion=completion.recipes,
        ),
    ] = None,
    competition: Annotated[
        str | None,
        typer.Argument(
            help="Slug of the competition; with --budget by default the only one there is.",
            autocompletion=completion.competitions,
        ),
    ] = None,
    fold: FoldOption = None,
    set_: SetOption = None,
    suffix: Annotated[str | None, typer.Option(help="Name the experiment RECIPE-SUFFIX.")] = None,
    workers: WorkersOption = None,
    cache_gb: CacheOption = 20.0,
    submission: Annotated[bool, typer.Option("--submission", help="Make a submission of it, too.")] = False,
    smoke: Annotated[
        bool,
        typer.Option("--smoke", help="Only see that it runs: few and tiny pictures, random weights; nothing is kept."),
    ] = False,
    budget: Annotated[
        str | None,
        typer.Option(help="Train what fits into this time, such as 20m or 1h30m: fewer epochs, smaller, fewer folds."),
    ] = None,
    deadline: Annotated[
        str | None,
        typer.Option(
            help="End after 11h30m or at 06:30, say, with the state saved; exit code 75: the same command goes on."
        ),
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Only try some batches of each stage, and say what the training will cost.")
    ] = False,
    session_hours: Annotated[
        float | None,
        typer.Option(help=f"With --plan: how long a session lasts; {SESSION_HOURS:g} by default.", min=0.005),
    ] = None,
) -> None:
    """Train every fold of a recipe on a competition; what is done already is not done again.

    Example: kit train demo demo --set stages.1.epochs=3 --suffix short
    """
    if budget is None and (recipe is None or competition is None):  # not hours of training by a slip
        raise typer.BadParameter("name a RECIPE and a COMPETITION; with --budget they may be left out")

    from pipeline.artifacts import Workspace
    from pipeline.competition import load_competition
    from pipeline.model.backbones import check_backbone, check_packaged
    from pipeline.recipe import load_recipe
    from pipeline.report.tables import result_text

    if session_hours is not None and not plan:
        raise KitError(
            "--session-hours has no effect without --plan", expected="both or neither", next_step="add --plan"
        )
    started, limit = time.monotonic(), None if budget is None else seconds_of(budget)
    alone = "--smoke" if smoke else "--plan" if plan else None
    beside = {"--plan": smoke and plan, "--submission": submission, "--suffix": smoke and suffix is not None}
    beside |= {"--budget": budget is not None, "--deadline": deadline is not None}
    in_vain = [name for name, given in beside.items() if given]
    if alone and in_vain:
        script = "; scripts/train_folds.sh always gives --submission: call `kit train` itself"
        raise KitError(
            f"{in_vain[0]} has no effect with {alone}",
            expected="one of the two",
            next_step="leave one out" + script * ("--submission" in in_vain),
        )
    chosen_here = recipe is None and not set_
    recipe, competition = recipe or recipe_for_this_machine(), competition or the_only_competition()
    settings, workspace = load_recipe(recipe, overrides=set_ or ()), Workspace(ROOT)
    described = load_competition(competition, root=ROOT)
    # Not after minutes of reading the data.
    check_backbone(settings.backbone, weights="none" if smoke else settings.weights, sizes=())
    if plan or budget:
        check_packaged(settings.backbone, settings.weights)

    from pipeline.training.engines import log_to_stdout

    log_to_stdout()
    experiment = "-".join([settings.name, *([budget] if budget else []), *([suffix] if suffix else [])])
    machine = replace(machine_of(workers, cache_gb), stop_at=None if deadline is None else moment_of(deadline))
    print(f"{experiment} on {competition}: {settings.backbone}, {counted(len(settings.stages), 'stage', 'stages')}")
    say_left_out(described)
    if smoke:
        _smoke(settings, described, folds=fold, machine=machine)
        return
    if plan:
        from pipeline.report.plan import plan_text
        from pipeline.training.plan import plan_training

        print("trying some batches: about half a minute a stage, and the decoding, which is kept", flush=True)
        found = plan_training(
            settings,
            described,
            experiment=experiment,
            workspace=workspace,
            session_hours=session_hours or SESSION_HOURS,
            folds=fold,
            machine=machine,
        )
        print(plan_text(found))
        return
    _say_audited(described)
    if limit is not None:
        asked = settings, described, experiment, workspace, fold, machine
        within = _or_the_cheapest if chosen_here else _budgeted
        settings, experiment, fold = within(*asked, seconds=limit, started=started)
    until = math.inf if limit is None else started + limit
    manifest, picture = train_experiment(
        settings, described, experiment=experiment, workspace=workspace, folds=fold, machine=machine, until=until
    )
    print()
    print(result_text(manifest))
    print(f"this command took {time.monotonic() - started:.0f} s")
    curves = f"    learning curves: {picture}" if picture else ""
    print(f"\npredictions: {workspace.oof(competition, experiment)}{curves}")
    if until < math.inf and not set(fold or ()) & set(manifest["folds"]):
        print(f"next: more time, as a fold takes longer: with another --budget than {budget} it is another experiment")
    elif manifest["missing_folds"]:
        others = "--fold " + " --fold ".join(map(str, manifest["missing_folds"])) if budget else "no --fold"
        print(f"next: the same command with {others} trains the other folds, too")
    if described.sample_submission is None:
        print(f"no submission to make: {competition} has no sample submission")
    elif submission:
        submission_make(experiment, competition=competition)
    else:
        print(f"next: kit submission make {experiment} --competition {competition}")


def _say_audited(described: "Competition") -> None:
    """Read every picture, unless that was done before, and say what may spoil the training."""
    from pipeline.data.explore import audited

    notes = audited(described)
    if notes:
        print(f"found among the pictures, as `kit explore {described.slug}` shows them:")
    for note in notes:
        print(f"  {note}", flush=True)


def moment_of(deadline: str) -> float:
    """A moment to come, in Unix time: `11h30m` from now, `06:30` on the clock of this machine, `2026-11-29 06:30`.

    Raises:
        KitError: It is no such moment, or over.
    """
    now = datetime.now()
    if seconds := _seconds(deadline):
        return now.timestamp() + seconds
    found = None
    with suppress(ValueError):
        if re.fullmatch(r"\d?\d:\d\d", deadline):
            found = datetime.combine(now, datetime.strptime(deadline, "%H:%M").time())
            found += timedelta(days=found <= now)
        else:
            found = datetime.fromisoformat(deadline)
    if found is None or found.timestamp() <= now.timestamp():
        raise KitError(
            f"{deadline!r} is {'no moment' if found is None else 'over'}",
            expected="how long from now, such as 11h30m; or a moment to come, such as 06:30 or '2026-11-29 06:30'",
            next_step="give --deadline 11h30m for eleven and a half hours from now",
        )
    return found.timestamp()


def _seconds(text: str) -> float:
    """A time such as `90s`, `20m` or `1h30m` in seconds; 0 where it is none."""
    found = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", text)
    return (
        sum(int(number) * unit for number, unit in zip(found.groups("0"), (3600, 60, 1), strict=True)) if found else 0
    )


def seconds_of(budget: str) -> float:
    """A time such as `90s`, `20m` or `1h30m` in seconds.

    Raises:
        KitError: It is no such time, or none at all.
    """
    seconds = _seconds(budget)
    if not seconds:
        raise KitError(
            f"{budget!r} is no time",
            expected="hours, minutes or seconds, such as 1h30m, 20m or 90s",
            next_step="give --budget 20m for twenty minutes",
        )
    return float(seconds)


def _or_the_cheapest(
    settings: "Recipe", described: "Competition", experiment: str, workspace: "Workspace", *rest: Any, **clock: Any
) -> "tuple[Recipe, str, list[int]]":
    """As `_budgeted`; where nothing of the recipe fits, a linear head on a frozen backbone, by that recipe's name."""
    from pipeline.model.backbones import check_packaged
    from pipeline.recipe import load_recipe

    cheapest = load_recipe(CHEAPEST)
    instead = cheapest.name + experiment.removeprefix(settings.name)
    if not (workspace.run(described.slug, instead) / BUDGET).is_file():  # it did not come to that before
        try:
            return _budgeted(settings, described, experiment, workspace, *rest, **clock)
        except DoesNotFit as error:
            check_packaged(cheapest.backbone, cheapest.weights)
            typer.echo(f"note: {error.problem}", err=True)
            print(f"so {instead} instead: {cheapest.description}", flush=True)
    return _budgeted(cheapest, described, instead, workspace, *rest, **clock)


def _budgeted(
    settings: "Recipe",
    described: "Competition",
    experiment: str,
    workspace: "Workspace",
    folds: list[int] | None,
    machine: "Machine",
    *,
    seconds: float,
    started: float,
) -> "tuple[Recipe, str, list[int]]":
    """The recipe cut down to what fits, the experiment and its folds; as it was chosen where the experiment has begun.

    Args:
        started: When the command began, of `time.monotonic`: trying out is of the budget, too.
    """
    from pipeline.artifacts import read_json, write_json
    from pipeline.data.pictures import decoding_seconds
    from pipeline.errors import duration
    from pipeline.model.backbones import BACKBONES
    from pipeline.recipe import parse_recipe
    from pipeline.training.budget import within
    from pipeline.training.cross_validate import folds_of, prepare
    from pipeline.training.plan import try_out

    chosen = workspace.run(described.slug, experiment) / BUDGET
    if chosen.is_file():
        known = read_json(chosen)
        if known["of"] != settings.fingerprint():
            raise KitError(
                f"{experiment} was begun with other settings than these ({chosen})",
                expected="the recipe and settings it was begun with",
                next_step="give this one a name of its own: --suffix NAME",
            )
        print(f"going on with what was chosen for this budget ({chosen})")
        return parse_recipe(known["recipe"], source=str(chosen)), experiment, folds or known["folds"]
    data, _ = prepare(settings, described, experiment=experiment, workspace=workspace)
    numbers = folds_of(data, described.slug, folds)
    print(f"trying some batches of each stage, to see what fits into {duration(seconds)}", flush=True)
    left = max(seconds - (time.monotonic() - started), 0)
    hurried = replace(machine, stop_at=min(time.time() + TRYING * left, machine.stop_at or math.inf))
    try:
        tried = try_out(settings, described, experiment=experiment, workspace=workspace, folds=numbers, machine=hurried)
    except OutOfTime as error:
        tried_for = duration(TRYING * left)
        raise DoesNotFit(
            f"{settings.name} does not fit into {duration(seconds)}: trying it was not done in {tried_for}",
            expected="more time, or less to do",
            next_step="give it more time (sizes decoded whole are kept), or take a smaller network",
        ) from error
    paths, cache = list(data.train["path"]), workspace.cache(described.slug)
    used = time.monotonic() - started
    found = within(
        settings,
        tried,
        folds=numbers,
        smallest=BACKBONES[settings.backbone].smallest,
        budget=seconds,
        used=used,
        decoding=lru_cache(lambda size: decoding_seconds(paths, size=size, folder=cache)),
    )
    content = found.recipe.model_dump(mode="json")
    write_json(chosen, {"of": settings.fingerprint(), "recipe": content, "folds": found.folds, "kept": found.kept})
    kept = "; of the recipe it keeps " + ", ".join(found.kept) if found.kept else ": the whole recipe"
    print(f"about {duration(found.seconds)} of the {duration(seconds - used)} that are left{kept}", flush=True)
    return found.recipe, experiment, found.folds


def machine_of(workers: int | None, cache_gb: float) -> "Machine":
    from pipeline.training.fold import Machine

    return Machine(cache_gb=cache_gb) if workers is None else Machine(workers, cache_gb)


def train_experiment(
    settings: "Recipe",
    described: "Competition",
    *,
    experiment: str,
    workspace: "Workspace",
    machine: "Machine",
    folds: list[int] | None = None,
    until: float = math.inf,
) -> "tuple[dict[str, Any], Path | None]":
    """Train what is not done yet and draw its learning curves; returns the manifest, and their picture, if any."""
    from pipeline.report.plots import plot_learning_curves
    from pipeline.training.cross_validate import cross_validate
    from pipeline.training.result import learning_curves

    slug = described.slug
    manifest = cross_validate(
        settings, described, experiment=experiment, workspace=workspace, folds=folds, machine=machine, until=until
    )
    curves = learning_curves(workspace.run(slug, experiment), [stage.name for stage in settings.stages])
    picture = plot_learning_curves(
        curves,
        workspace.oof(slug, experiment),
        title=f"{experiment} on {slug}",
        metric=described.metric,
        select_on=settings.select_on.kind,
    )
    return manifest, picture


def _smoke(settings: "Recipe", described: "Competition", *, folds: list[int] | None, machine: "Machine") -> None:
    """Train the first fold, or those named, in a folder that is removed afterwards: nothing is taken for a result."""
    from pipeline.artifacts import Workspace
    from pipeline.data.competition_data import load_data
    from pipeline.data.few import few_rows
    from pipeline.model.backbones import BACKBONES
    from pipeline.recipe import smoke
    from pipeline.training.cross_validate import cross_validate

    smallest = smoke(settings, side=BACKBONES[settings.backbone].smallest)
    whole = load_data(described, extra=settings.extra)  # all that is wrong with the whole data shows here
    with TemporaryDirectory(prefix="kit-smoke-") as folder:
        few = few_rows(described, whole, root=Path(folder))
        print(f"only to see that it runs: on a few rows of each class, in {folder}, which is removed afterwards")
        cross_validate(
            smallest,
            few,
            experiment="smoke",
            workspace=Workspace(Path(folder)),
            folds=folds or whole.folds.numbers[:1],
            machine=machine,
        )
    print(
        "\nit runs. The scores mean nothing: few and tiny pictures, random weights, one epoch a stage. Nothing was kept"
    )
