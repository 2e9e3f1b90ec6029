"""The command predict: any picture, by the fold models of an experiment."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.output import ROOT, CompetitionOption, ExperimentArgument, Format, FormatOption, show
from pipeline.errors import PictureError, counted

if TYPE_CHECKING:
    from pipeline.training.predict import FoldModels

FoldOption = Annotated[
    list[int] | None, typer.Option(help="Take this fold's model alone; may be repeated. All by default.")
]
_NAMED = 10  # of the pictures that cannot be read

RawOption = Annotated[bool, typer.Option("--raw", help="Probabilities as predicted, not calibrated.")]


def predict(
    experiment: ExperimentArgument,
    pictures: Annotated[
        list[str], typer.Argument(help="Files, folders (with their subfolders), patterns such as 'photos/*.jpg'.")
    ],
    competition: CompetitionOption = None,
    fold: FoldOption = None,
    top: Annotated[int, typer.Option(help="How many classes to name.", min=1)] = 3,
    raw: RawOption = False,
    annotate: Annotated[
        Path | None, typer.Option(help="New folder: write each picture into it, with its classes drawn beside it.")
    ] = None,
    format: FormatOption = Format.table,
) -> None:
    """Predict pictures with the fold models of an experiment.

    Pictures that cannot be read are named at the end, with exit code 1; the others are predicted.

    Probabilities are calibrated by a temperature that is fitted on the experiment's OOF predictions.

    Example: kit predict demo my-card.jpg --annotate looked-at
    """
    from pipeline.artifacts import home_expanded
    from pipeline.report.annotated import Annotation, annotated_names, require_new, write_annotated
    from pipeline.report.tables import printable

    folder = None if annotate is None else home_expanded(annotate)
    if folder is not None:
        require_new(folder)
    models, temperature, said = read_models(experiment, competition=competition, folds=fold, raw=raw)

    from pipeline.data.named_pictures import named_pictures, unreadable_pictures
    from pipeline.progress import Progress
    from pipeline.training.device import import_tensorflow_quietly
    from pipeline.training.predict import predict_pictures, top_classes

    paths = named_pictures(pictures)
    typer.echo(f"loading {counted(len(models.weights), 'fold model', 'fold models')}", err=True)
    import_tensorflow_quietly()
    broken: dict[Path, str] = {}
    try:
        found = predict_pictures(paths, models=models, temperature=temperature)
    except PictureError:
        broken = unreadable_pictures(paths)
        paths = [path for path in paths if path not in broken]
        if not paths:
            raise
        found = predict_pictures(paths, models=models, temperature=temperature)
    best = [top_classes(row, models.stored.classes, count=top) for row in found[models.stored.classes].to_numpy()]
    names = annotated_names(paths)
    rows = [
        {
            "picture": printable(str(path)),
            "rank": rank,
            "class": label,
            "probability": value,
            **({} if folder is None else {"annotated": printable(str(folder / file))}),
        }
        for path, file, classes in zip(paths, names, best, strict=True)
        for rank, (label, value) in enumerate(classes, start=1)
    ]
    if folder is not None:
        made = map(Annotation, paths, best)
        write_annotated(
            folder,
            Progress(zip(names, made, strict=True), desc="drawing", total=len(paths), leave=False, disable=None),
            note="as predicted" if temperature is None else f"calibrated: temperature {temperature:.2f}",
        )
    show(rows, format)
    # JSON and CSV are read by programs: what is said beside them goes to stderr.
    aside = format is not Format.table
    views = models.recipe.tta.views if models.stored.manifest["tta_used"] else ()
    each = f"each picture seen in {1 + len(views)} views: plain, {', '.join(views)}\n" if views else ""
    typer.echo(("" if aside else "\n") + f"{each}probabilities {said}", err=aside)
    if folder is not None:
        typer.echo(f"wrote {len(paths)} annotated picture{'s' if len(paths) > 1 else ''} to {folder}", err=aside)
    if broken:
        first = "; ".join(printable(reason) for reason in list(broken.values())[:_NAMED])
        more = f"; and {len(broken) - _NAMED} more" if len(broken) > _NAMED else ""
        raise PictureError(
            f"{counted(len(broken), 'picture is', 'pictures are')} not predicted: {first}{more}",
            expected="pictures that can be read; the others are predicted",
            next_step="replace the files, or leave them out",
        )


def read_models(
    experiment: str, *, competition: str | None, folds: list[int] | None, raw: bool
) -> "tuple[FoldModels, float | None, str]":
    """The fold models asked for, the temperature for their probabilities, and what is to be said of these."""
    from pipeline.artifacts import Workspace
    from pipeline.predictions.manifests import find_experiment, flattered_by
    from pipeline.report.tables import calibration_text

    workspace = Workspace(ROOT)
    slug, name = find_experiment(workspace, experiment, slug=competition)

    from pipeline.training.predict import fit_oof_temperature, read_fold_models

    models = read_fold_models(workspace, slug, name, folds=folds)
    fitted = None if raw else fit_oof_temperature(models, workspace)
    chosen = flattered_by(models.stored.manifest)
    said = calibration_text(fitted, chosen=chosen, models=len(models.weights), raw=raw)
    return models, fitted.value if fitted and fitted.helps else None, said
