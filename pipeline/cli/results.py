"""Commands about finished experiments: oof list, submission make, submission check."""

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.output import (
    ROOT,
    CompetitionOption,
    ExperimentArgument,
    Format,
    FormatOption,
    competition_of,
    show,
    train_command,
    warn_of_order,
)


def oof_list(competition: CompetitionOption = None, format: FormatOption = Format.table) -> None:
    """List the experiments with their OOF scores, best first, and the floor of chance.

    One that is trained on some folds is listed with the score of these folds' rows.

    Example: kit oof list --format csv
    """
    from pipeline.artifacts import Workspace
    from pipeline.competition import competition_folder, folds_sha256, list_competitions, load_competition
    from pipeline.predictions.manifests import list_experiments, read_manifest
    from pipeline.report.tables import leaderboard_rows

    workspace = Workspace(ROOT)
    if competition:
        load_competition(competition, root=ROOT)  # a misspelt slug is not an empty list
    manifests = [read_manifest(workspace, *key) for key in list_experiments(workspace, competition)]
    if not manifests and format is Format.table:
        known = [competition] if competition else list_competitions(ROOT)
        several = "kit train RECIPE COMPETITION" if known else "kit demo, or kit init COMPETITION --data FOLDER"
        print(f"no finished experiment yet; next: {train_command(known[0]) if len(known) == 1 else several}")
        return
    slugs = {manifest["competition"] for manifest in manifests}
    folds = {slug: folds_sha256(competition_folder(slug, root=ROOT) / "folds.csv") for slug in slugs}
    show(leaderboard_rows(manifests, folds=folds), format)
    if format is Format.table:
        print("\nscore: each fold with TTA if the other folds gain by it; in brackets what knows no picture")


def submission_make(experiment: ExperimentArgument, competition: CompetitionOption = None) -> None:
    """Write an experiment's test predictions as a submission, checked against the sample submission.

    Example: kit submission make demo
    """
    from pipeline.artifacts import Workspace
    from pipeline.competition import load_competition
    from pipeline.predictions.manifests import find_experiment, folds_in_words

    workspace = Workspace(ROOT)
    slug, name = find_experiment(workspace, experiment, slug=competition)
    described = load_competition(slug, root=ROOT)

    from pipeline.predictions.store import read_experiment
    from pipeline.submit.submission import write_submission

    stored = read_experiment(workspace, slug, name)
    path = write_submission(
        described,
        stored.test,
        stored.classes,
        experiment=name,
        score=stored.submitted_score,
        workspace=workspace,
        now=datetime.now(),
        decision=stored.decision,
    )
    print(f"wrote {path}: it matches the sample submission ({len(stored.test)} rows)")
    if stored.manifest["missing_folds"]:
        print(f"it is of {folds_in_words(stored.manifest)} fold models")


def submission_check(
    csv_file: Annotated[Path, typer.Argument(metavar="CSV")], competition: CompetitionOption = None
) -> None:
    """Hold a CSV against the competition's sample submission.

    Example: kit submission check submissions/demo/mine.csv --competition demo
    """
    from pipeline.competition import load_competition

    slug = competition or competition_of(csv_file)
    described = load_competition(slug, root=ROOT)

    from pipeline.data.index import train_index
    from pipeline.submit.submission import check_submission, require
    from pipeline.targets import classes_of

    classes = classes_of(described, train_index(described)["label"])
    check = check_submission(described, csv_file, classes=classes)
    require(check, csv_file)
    if check.order:
        warn_of_order(check.order)
    print(f"{csv_file} matches the sample submission of {slug} ({check.rows} rows)")
