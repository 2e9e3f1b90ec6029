"""The command `kit`: parse, one call, print. The only file that prints or exits."""

import re
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime
from enum import StrEnum
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from pipeline.errors import DataError, KitError

# Everything else is imported inside the commands: `kit --help` must not wait for pandas or TensorFlow.

app = typer.Typer(
    name="kit",
    help="From an empty folder to a place on the leaderboard, honestly measured on the way.\n\n"
    "Example: kit demo, then: kit train demo demo",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
oof_app = typer.Typer(help="Out-of-fold results of the experiments.\n\nExample: kit oof list", no_args_is_help=True)
submission_app = typer.Typer(help="Submission files.\n\nExample: kit submission make demo", no_args_is_help=True)
app.add_typer(oof_app, name="oof")
app.add_typer(submission_app, name="submission")


class Format(StrEnum):
    """How a list is printed."""

    table = "table"
    json = "json"
    csv = "csv"


FormatOption = Annotated[Format, typer.Option("--format", help="How to print the list.")]
CompetitionOption = Annotated[str | None, typer.Option("--competition", help="Slug, where it is not clear.")]
ROOT = Path(".")
Command = TypeVar("Command", bound=Callable[..., Any])


def reports_errors(command: Command) -> Command:
    """Turn a user's error into a message and an exit code."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except KitError as error:
            typer.secho(f"error: {error}", fg="red", err=True)
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            typer.secho(
                "\ninterrupted: what is finished is kept; the same command goes on from there",
                fg="red",
                err=True,
            )
            raise typer.Exit(130) from None

    return run  # type: ignore[return-value]


@app.command()
@reports_errors
def demo(
    seed: Annotated[int, typer.Option(help="Another seed makes other pictures.")] = 0,
    if_missing: Annotated[bool, typer.Option("--if-missing", help="Do nothing if it is there.")] = False,
) -> None:
    """Render the demo competition: photographs of playing cards, in competitions/demo.

    Example: kit demo
    """
    from pipeline.competition import competition_folder
    from pipeline.demo.competition import write_demo

    folder = competition_folder("demo", root=ROOT)
    described, rendered = (folder / "competition.yaml").is_file(), (folder / "data").is_dir()
    if if_missing and described and rendered:
        print(f"the demo competition is there: {folder}")
        return
    # A set-up that was interrupted between rendering and describing goes on from there.
    if described or not rendered:
        summary = write_demo(folder, seed=seed)
        print(f"rendered {summary.train} training and {summary.test} test pictures of {len(summary.classes)} cards")
        print(f"look at them: {folder / 'preview.png'}")
    if not described:
        init("demo", data=folder / "data")


@app.command()
@reports_errors
def init(
    slug: Annotated[str, typer.Argument(help="A name for the competition, as in its address on Kaggle.")],
    data: Annotated[Path, typer.Option(help="Folder of the competition's data, unpacked.")],
    table: Annotated[str | None, typer.Option(help="The train table, where there are several.")] = None,
    id_column: Annotated[str | None, typer.Option(help="Its column of picture names.")] = None,
    label_column: Annotated[str | None, typer.Option(help="Its column of labels.")] = None,
    group_column: Annotated[str | None, typer.Option(help="Rows of one group stay in one fold.")] = None,
    metric: Annotated[
        str | None, typer.Option(help="accuracy, log_loss, macro_f1, quadratic_kappa or roc_auc.")
    ] = None,
    folds: Annotated[int, typer.Option(help="Number of folds.", min=2)] = 5,
) -> None:
    """Describe a competition from its data: infer what lies where, read every picture, report faults.

    Example: kit init cars --data ~/Downloads/cars
    """
    from pipeline.data.infer import Wishes, init_competition
    from pipeline.predictions.metrics import METRICS

    if metric is not None and metric not in METRICS:
        raise DataError(f"there is no metric {metric!r}", expected=", ".join(METRICS), next_step="check --metric")
    _check_slug(slug)
    wishes = Wishes(table, id_column, label_column, group_column, metric, folds)  # type: ignore[arg-type]
    competition, findings, audit = init_competition(slug, data, root=ROOT, wishes=wishes)
    show([{"setting": f.key, "value": f.value, "because": f.reason} for f in findings], Format.table)
    height, width = audit.mean_size
    print(
        f"\n{audit.pictures} training pictures in {len(audit.classes)} classes, mean size {height:.0f}×{width:.0f}"
        f" (height × width); {audit.test_pictures} to predict"
    )
    for note in audit.notes:
        print(f"note: {note}")
    if audit.faults:
        print(f"{len(audit.faults)} rows cannot be trained on and are left out ({competition.quarantine_file}):")
        for key, reason in sorted(audit.faults.items())[:10]:
            print(f"  {key}: {reason}")
    print(f"\nwrote {competition.folder / 'competition.yaml'}: correct it where it is wrong")
    print(f"next: kit train RECIPE {slug}    (shipped recipes: {', '.join(_recipe_names())})")


@app.command()
@reports_errors
def folds(competition: str, format: FormatOption = Format.table) -> None:
    """Show how the pictures of each class are divided into folds; made at the first call, then kept.

    Example: kit folds demo
    """
    from pipeline.competition import load_competition
    from pipeline.data.folds import NEVER_HELD_OUT, load_folds
    from pipeline.data.index import class_names, train_index

    described = load_competition(competition, root=ROOT)
    index = train_index(described)
    made = load_folds(described, index)
    names = {number: f"fold {number}" for number in made.numbers}
    if NEVER_HELD_OUT in set(made.frame["fold"]):
        names = {NEVER_HELD_OUT: "never held out", **names}
    counts = Counter(zip(index["label"], made.frame["fold"], strict=True))
    rows = [
        {"class": label, **{name: counts[label, number] for number, name in names.items()}}
        for label in class_names(index["label"])
    ]
    show(rows, format)
    if format is Format.table:
        print(f"\n{described.folds_file}, sha256 {made.sha256[:16]}…")


@app.command()
@reports_errors
def train(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe's name, or a YAML file.")],
    competition: Annotated[str, typer.Argument(help="Slug of the competition.")],
    fold: Annotated[list[int] | None, typer.Option(help="Train this fold alone; may be repeated.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Change a setting: stages.1.epochs=3; may be repeated.")
    ] = None,
    suffix: Annotated[str | None, typer.Option(help="Name the experiment RECIPE-SUFFIX.")] = None,
    workers: Annotated[int | None, typer.Option(help="Augmentation processes.", min=0)] = None,
    cache_gb: Annotated[float, typer.Option(help="Room for decoded pictures on disk, in GB.", min=0)] = 20.0,
    submission: Annotated[bool, typer.Option("--submission", help="Make a submission of it, too.")] = False,
) -> None:
    """Train every fold of a recipe on a competition; what is done already is not done again.

    Example: kit train demo demo --set stages.1.epochs=3 --suffix short
    """
    from pipeline.artifacts import Workspace
    from pipeline.competition import load_competition
    from pipeline.recipe import load_recipe
    from pipeline.report.plots import plot_learning_curves
    from pipeline.report.tables import result_text
    from pipeline.training.cross_validate import cross_validate, learning_curves
    from pipeline.training.engines import log_to_stdout
    from pipeline.training.fold import Machine

    log_to_stdout()
    # A polite end is an interrupt: the fold's process must not go on alone.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    settings, workspace = load_recipe(recipe, overrides=set_ or ()), Workspace(ROOT)
    described = load_competition(competition, root=ROOT)
    experiment = f"{settings.name}-{suffix}" if suffix else settings.name
    machine = Machine(cache_gb=cache_gb) if workers is None else Machine(workers, cache_gb)
    print(f"{experiment} on {competition}: {settings.backbone}, {len(settings.stages)} stages")
    progress = cross_validate(
        settings, described, experiment=experiment, workspace=workspace, folds=fold, machine=machine
    )
    curves = learning_curves(workspace.run(competition, experiment), [stage.name for stage in settings.stages])
    picture = workspace.oof(competition, experiment) / "learning_curves.png"
    if len(curves):
        plot_learning_curves(curves, picture, title=f"{experiment} on {competition}", metric=described.metric)
    if progress.manifest is None:
        print(f"folds not done yet: {', '.join(map(str, progress.missing))}; curves so far: {picture}")
        if submission:
            print("no submission yet: it takes all folds")
        return
    print()
    print(result_text(progress.manifest))
    print(f"\npredictions: {picture.parent}    learning curves: {picture}")
    if described.sample_submission is None:
        print(f"no submission to make: {competition} has no sample submission")
    elif submission:
        submission_make(experiment, competition=competition)
    else:
        print(f"next: kit submission make {experiment} --competition {competition}")


@app.command()
@reports_errors
def predict(
    experiment: str,
    pictures: Annotated[list[Path], typer.Argument(help="Picture files.")],
    competition: CompetitionOption = None,
    top: Annotated[int, typer.Option(help="How many classes to name.", min=1)] = 3,
    format: FormatOption = Format.table,
) -> None:
    """Predict pictures with the fold models of an experiment.

    Example: kit predict demo my-card.jpg
    """
    from pipeline.artifacts import Workspace
    from pipeline.predictions.store import find_experiment
    from pipeline.training.device import import_tensorflow_quietly
    from pipeline.training.predict import predict_pictures

    workspace = Workspace(ROOT)
    slug, name = find_experiment(workspace, experiment, slug=competition)
    import_tensorflow_quietly()
    found = predict_pictures(pictures, slug=slug, experiment=name, workspace=workspace)
    rows = []
    for _, row in found.iterrows():
        best = row.drop("picture").astype(float).sort_values(ascending=False, kind="stable").head(top)
        rows += [
            {"picture": row["picture"], "rank": rank, "class": label, "probability": round(float(value), 4)}
            for rank, (label, value) in enumerate(best.items(), start=1)
        ]
    show(rows, format)


@oof_app.command("list")
@reports_errors
def oof_list(competition: CompetitionOption = None, format: FormatOption = Format.table) -> None:
    """List the finished experiments with their OOF scores, best first, and the floor of chance.

    Example: kit oof list --format csv
    """
    from pipeline.artifacts import Workspace
    from pipeline.competition import load_competition
    from pipeline.predictions.store import list_experiments, read_manifest
    from pipeline.report.tables import leaderboard_rows

    workspace = Workspace(ROOT)
    if competition:
        load_competition(competition, root=ROOT)  # a misspelt slug is not an empty list
    manifests = [read_manifest(workspace, *key) for key in list_experiments(workspace, competition)]
    if not manifests and format is Format.table:
        print("no finished experiment yet; make one: kit train demo demo")
        return
    show(leaderboard_rows(manifests), format)


@submission_app.command("make")
@reports_errors
def submission_make(experiment: str, competition: CompetitionOption = None) -> None:
    """Write an experiment's test predictions as a submission, checked against the sample submission.

    Example: kit submission make demo
    """
    from pipeline.artifacts import Workspace
    from pipeline.competition import load_competition
    from pipeline.predictions.store import find_experiment, read_experiment
    from pipeline.submit.submission import write_submission

    workspace = Workspace(ROOT)
    slug, name = find_experiment(workspace, experiment, slug=competition)
    stored = read_experiment(workspace, slug, name)
    path = write_submission(
        load_competition(slug, root=ROOT),
        stored.test,
        stored.classes,
        experiment=name,
        score=stored.score,
        workspace=workspace,
        now=datetime.now(),
    )
    print(f"wrote {path}: it holds against the sample submission ({len(stored.test)} rows)")


@submission_app.command("check")
@reports_errors
def submission_check(
    csv_file: Annotated[Path, typer.Argument(metavar="CSV")], competition: CompetitionOption = None
) -> None:
    """Hold a CSV against the competition's sample submission.

    Example: kit submission check submissions/demo/mine.csv --competition demo
    """
    from pipeline.competition import load_competition
    from pipeline.data.index import class_names, train_index
    from pipeline.submit.submission import check_submission, require

    slug = competition or _competition_of(csv_file)
    described = load_competition(slug, root=ROOT)
    classes = class_names(train_index(described)["label"])
    check = check_submission(described, csv_file, classes=classes)
    require(check, csv_file)
    print(f"{csv_file} holds against the sample submission of {slug} ({check.rows} rows)")


def show(rows: Sequence[dict[str, Any]], format: Format) -> None:
    """Print rows that have the same keys."""
    from pipeline.report.tables import format_rows

    print(format_rows(rows, format.value))


def _competition_of(csv_file: Path) -> str:
    """The competition a CSV belongs to: its folder's name in submissions/, or the only one there is."""
    from pipeline.competition import list_competitions

    known = list_competitions(ROOT)
    if csv_file.parent.name in known:
        return csv_file.parent.name
    if len(known) == 1:
        return known[0]
    raise DataError(
        f"it is not clear which competition {csv_file} is for",
        expected="one of " + ", ".join(known) if known else "a competition made with `kit init`",
        next_step="name it: --competition SLUG",
    )


def _check_slug(slug: str) -> None:
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", slug):
        raise DataError(
            f"{slug!r} cannot be a competition's name",
            expected="small letters, digits and dashes, as in its address on Kaggle",
            next_step="choose another",
        )


def _recipe_names() -> list[str]:
    from pipeline.recipe import shipped_recipes

    return list(shipped_recipes())


def main() -> None:
    """Entry point."""
    app()
