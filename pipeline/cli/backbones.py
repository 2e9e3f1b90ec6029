"""The command that compares backbones."""

import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.output import (
    ROOT,
    CacheOption,
    CompetitionArgument,
    Format,
    FormatOption,
    recipe_for_this_machine,
    say_left_out,
    show,
)

if TYPE_CHECKING:
    from pipeline.predictions.probe import Candidate


def backbones(
    competition: CompetitionArgument,
    backbone: Annotated[
        list[str] | None,
        typer.Option(
            help="One to compare, NAME or NAME=WEIGHTS; may be repeated. By default one or two of each family whose "
            "weights are here or can be fetched."
        ),
    ] = None,
    weights: Annotated[
        str, typer.Option(help="Weights of those that name none: imagenet, none, noisy-student, or an .h5 file.")
    ] = "imagenet",
    size: Annotated[
        str | None,
        typer.Option(help="HEIGHTxWIDTH, mean, or a fraction of it. By default the mean's shape with 224×224 pixels."),
    ] = None,
    cache_gb: CacheOption = 20.0,
    format: FormatOption = Format.table,
) -> None:
    """Compare backbones on a competition: one pass of each over the pictures, a linear head a fold, score and cost.

    Nothing of a backbone is trained. A table, best first, a recommendation, and a picture of score against cost.

    Example: kit backbones cars --backbone mobilenet-0.75 --backbone efficientnet-b0 --size 160x288
    """
    from pipeline.artifacts import Workspace
    from pipeline.competition import load_competition
    from pipeline.recipe import read_size

    described, workspace = load_competition(competition, root=ROOT), Workspace(ROOT)
    pixels = None if size is None else read_size(size)

    from pipeline.predictions.probe import recommended
    from pipeline.report.backbones import backbone_rows, backbones_figure, backbones_text, left_out_text
    from pipeline.report.plots import save_figure
    from pipeline.training.compare_backbones import candidates_of, compare_backbones
    from pipeline.training.fold import Machine

    chosen = candidates_of(backbone or (), weights=weights)
    say_left_out(described)
    probes = compare_backbones(
        described,
        chosen,
        workspace=workspace,
        size=pixels,
        machine=Machine(cache_gb=cache_gb),
        say=lambda line: typer.echo(line, err=True),
    )
    picture = workspace.report(competition) / "backbones.png"
    save_figure(backbones_figure(probes, title=f"backbones on {competition}, nothing of them trained"), picture)
    if format is Format.table:
        print(backbones_text(probes))
        if (chosen_one := recommended(probes.found).candidate).weights != "none":
            print(f"next: {_training(chosen_one, competition)}")
        print(f"\nfigure: {picture}")
        return
    show(backbone_rows(probes), format)
    for line in left_out_text(probes):
        typer.echo(line, err=True)


def _training(chosen: "Candidate", competition: str) -> str:
    """The command that trains it step by step."""
    from pipeline.recipe import load_recipe

    name = recipe_for_this_machine()
    recipe, command = load_recipe(name), f"kit train {name} {competition}"
    if chosen.backbone != recipe.backbone:
        command += f" --set backbone={chosen.backbone}"
    return command if chosen.weights == recipe.weights else f"{command} --set weights={shlex.quote(chosen.weights)}"
