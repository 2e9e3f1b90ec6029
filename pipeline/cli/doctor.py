"""The command doctor: what this machine has, what will be slow, what to do about it."""

from typing import Annotated

import typer

from pipeline.cli.output import ROOT
from pipeline.errors import counted

_COLOURS = {"note": "yellow", "problem": "red"}


def doctor(
    online: Annotated[
        bool, typer.Option("--online", help="Sign in to Kaggle, too, and ask it for the GPU hours that are left.")
    ] = False,
) -> None:
    """Say what this machine has, what will be slow on it and why, and what to do about it.

    Each line is ok, a note, or a problem, which is to be mended before `kit train` works: exit code 1.

    Example: kit doctor --online
    """
    from pipeline.doctor import Level, examine

    problems = 0
    typer.echo("looking; importing TensorFlow takes some seconds", err=True)
    for finding in examine(ROOT, online=online):
        problems += finding.level is Level.problem
        level = typer.style(f"{finding.level:<9}", fg=_COLOURS.get(finding.level))
        typer.echo(f"{level}{finding.about:<11}{finding.found}")
        if finding.next_step:
            typer.echo(f"{'':20}next: {finding.next_step}")
    if problems:
        typer.echo(f"\n{counted(problems, 'problem', 'problems')} to mend before `kit train` works", err=True)
        raise typer.Exit(1)
