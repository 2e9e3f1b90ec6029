"""The command that exports trained models."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.output import ROOT, CompetitionOption, ExperimentArgument, Format, show


class Kind(StrEnum):
    """What `--format` takes."""

    keras = "keras"
    onnx = "onnx"


def export(
    experiment: ExperimentArgument,
    competition: CompetitionOption = None,
    to: Annotated[
        Path | None,
        typer.Option(
            help="Folder to write, runs/COMPETITION/EXPERIMENT/export by default; an earlier export there is replaced."
        ),
    ] = None,
    fold: Annotated[list[int] | None, typer.Option(help="Export this fold's model alone; may be repeated.")] = None,
    average: Annotated[
        bool, typer.Option("--average", help="Export one model with the mean of the folds' weights, if that holds.")
    ] = False,
    format: Annotated[list[Kind] | None, typer.Option(help="Write this format alone; both by default.")] = None,
) -> None:
    """Export the fold models of an experiment as .keras and ONNX files, checked, with a model card.

    Example: kit export demo --to ~/models/cards
    """
    from pipeline.artifacts import Workspace, home_expanded
    from pipeline.errors import KitError
    from pipeline.predictions.manifests import find_experiment

    if fold and average:
        raise KitError(
            "--fold has no effect with --average, which takes all folds",
            expected="one of the two",
            next_step="leave one out",
        )
    folder = None if to is None else home_expanded(to)
    workspace = Workspace(ROOT)
    slug, name = find_experiment(workspace, experiment, slug=competition)

    from pipeline.training.device import import_tensorflow_quietly
    from pipeline.training.export import ModelFormat, export_average, export_folds

    import_tensorflow_quietly()
    formats = [ModelFormat(kind.value) for kind in format or Kind]
    if average:
        done = export_average(slug=slug, experiment=name, workspace=workspace, folder=folder, formats=formats)
    else:
        done = export_folds(slug=slug, experiment=name, workspace=workspace, folder=folder, folds=fold, formats=formats)
    rows = [
        {
            "file": file.name,
            "MB": f"{file.size_bytes / 1e6:.1f}",
            "largest difference": f"{file.difference:.1e}",
            "from stored OOF": "" if file.oof_difference is None else f"{file.oof_difference:.1e}",
            "pictures": file.pictures,
            "seconds": f"{file.seconds:.1f}",
        }
        for file in done.files
    ]
    show(rows, Format.table)
    if done.average is not None:
        check = done.average
        print(f"\nthe averaged model's score is not known: {check.bound:.4f} ± {check.bound_se:.4f} on pictures that")
        print(f"its members were trained on, against the fold models' honest {check.oof:.4f}; see the model card")
        if check.test_agreement is not None:
            print(
                f"of the test pictures {check.test_agreement:.1%} get the class that the mean of the fold models gives"
            )
            print(f"(a single fold model: {check.members_agreement:.1%})")
    print(f"\nwrote {done.folder} with its model card, README.md")
