"""Commands that make and describe competitions: demo, init, folds."""

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, NoReturn, cast

import typer

from pipeline.cli.output import (
    ROOT,
    CompetitionArgument,
    Format,
    FormatOption,
    first_recipe,
    say_left_out,
    show,
    train_command,
)
from pipeline.errors import DataError, counted


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


def init(
    slug: Annotated[str, typer.Argument(help="A name for the competition, as in its address on Kaggle.")],
    data: Annotated[Path, typer.Option(help="Folder of the competition's data, unpacked.")],
    table: Annotated[str | None, typer.Option(help="The train table, where there are several.")] = None,
    sample: Annotated[str | None, typer.Option(help="The sample submission, where there are several.")] = None,
    pictures: Annotated[str | None, typer.Option(help="Folder of the pictures to learn from.")] = None,
    test_pictures: Annotated[str | None, typer.Option(help="Folder of the pictures to predict.")] = None,
    id_column: Annotated[str | None, typer.Option(help="The train table's column of picture names.")] = None,
    label_column: Annotated[str | None, typer.Option(help="Its column of labels.")] = None,
    label_columns: Annotated[
        list[str] | None, typer.Option(help="Its columns of 0 and 1, one a class: a,b,c, or each with the option.")
    ] = None,
    label_separator: Annotated[
        str | None, typer.Option(help="What stands between several labels in a cell, such as ' '.")
    ] = None,
    label_pattern: Annotated[
        str | None, typer.Option(help="Where a picture's path says its label: '(?P<label>[a-z]+)'.")
    ] = None,
    group_column: Annotated[str | None, typer.Option(help="Rows of one group stay in one fold.")] = None,
    group_pattern: Annotated[
        str | None, typer.Option(help="The same, by what ids have in common: '(?P<group>.+)_(left|right)'.")
    ] = None,
    target: Annotated[str | None, typer.Option(help="single, or multilabel: any number of labels a picture.")] = None,
    submission: Annotated[
        str | None, typer.Option(help="class, probability, probabilities, names, ranked or long.")
    ] = None,
    positive: Annotated[str | None, typer.Option(help="The class whose probability a submission holds.")] = None,
    top: Annotated[int | None, typer.Option(help="How many names a ranked submission holds.", min=1)] = None,
    metric: Annotated[str | None, typer.Option(help="accuracy, log_loss, roc_auc, map@5 …")] = None,
    folds: Annotated[int, typer.Option(help="Number of folds.", min=2)] = 5,
) -> None:
    """Describe a competition from its data: infer what lies where, read every picture, report faults.

    The options decide what the data leaves open; each refusal names the one that leads on.

    Example: kit init cars --data ~/Downloads/cars
    """
    from typing import get_args

    from pipeline.competition import METRIC_NEEDS, Form, Target, metric_kind

    check_slug(slug)
    if metric is not None and metric_kind(metric) is None and not metric.endswith(".py"):
        _refuse_choice("--metric", "metric", metric, METRIC_NEEDS)
    if target is not None and target not in get_args(Target):
        _refuse_choice("--target", "target", target, get_args(Target))
    if submission is not None and submission not in get_args(Form):
        _refuse_choice("--submission", "form of a submission", submission, get_args(Form))

    from pipeline.data.describe import init_competition
    from pipeline.data.infer_wishes import Wishes

    wishes = Wishes(
        table=table,
        sample=sample,
        pictures=pictures,
        test_pictures=test_pictures,
        id_column=id_column,
        label_column=label_column,
        label_columns=_listed(label_columns),
        label_separator=label_separator,
        label_pattern=label_pattern,
        group_column=group_column,
        group_pattern=group_pattern,
        target=cast(Target | None, target),
        submission=cast(Form | None, submission),
        positive=positive,
        top=top,
        metric=metric,
        folds=folds,
    )
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
    print(f"next: kit explore {slug}    (duplicates, leaks, wrong rows; before folds are made)")
    print(f"then: {train_command(slug)}")
    print("how long it takes: the same with --plan; to end within a time: the same with --budget 30m")
    print(f"other recipes: {', '.join(name for name in _recipe_names() if name != first_recipe(slug))}")


def folds(competition: CompetitionArgument, format: FormatOption = Format.table) -> None:
    """Show how the pictures of each class are divided into folds; made at the first call, then kept.

    Example: kit folds demo
    """
    from pipeline.competition import load_competition

    described = load_competition(competition, root=ROOT)

    from pipeline.data.duplicates import divided_note, divided_pairs
    from pipeline.data.folds import NEVER_HELD_OUT, load_folds, small_classes_note
    from pipeline.data.index import train_index
    from pipeline.data.labels import natural
    from pipeline.targets import classes_of, split_names

    index = train_index(described)
    made = load_folds(described, index)
    say_left_out(described)
    names = {number: f"fold {number}" for number in made.numbers}
    if NEVER_HELD_OUT in set(made.frame["fold"]):
        names = {NEVER_HELD_OUT: "never held out", **names}
    several = described.target == "multilabel"
    counts = Counter(
        (name, fold)
        for label, fold in zip(index["label"], made.frame["fold"], strict=True)
        for name in (split_names(label) if several else [label])
    )
    rows = [
        {"class": label, **{name: counts[label, number] for number, name in names.items()}}
        for label in sorted(classes_of(described, index["label"]), key=natural)
    ]
    show(rows, format)
    if format is Format.table:
        print(f"\n{described.folds_file}, sha256 {made.sha256[:16]}…")
    in_groups = index.loc[index["group"] != "", ["id", "group"]].merge(made.frame, on="id")
    grouped = int(in_groups["group"].nunique())
    if grouped and (in_groups.groupby("group")["fold"].nunique() == 1).all():  # folds may be older than the groups
        typer.echo(f"rows of one group are in one fold: {counted(grouped, 'group', 'groups')}", err=True)
    small = small_classes_note(index, folds=described.folds, target=described.target)
    if small:
        typer.echo(f"note: {small}", err=True)
    divided = divided_pairs(described, index, dict(zip(made.frame["id"], made.frame["fold"], strict=True)))
    if divided:
        typer.echo(f"note: {divided_note(divided, described)}", err=True)


def _refuse_choice(option: str, what: str, given: str, known: Iterable[str]) -> NoReturn:
    raise DataError(f"there is no {what} {given!r}", expected=", ".join(known), next_step=f"check {option}")


def _listed(names: list[str] | None) -> tuple[str, ...]:
    """Names given with one option, commas between them, or each with its own."""
    return tuple(names[0].split(",")) if names and len(names) == 1 else tuple(names or ())


def check_slug(slug: str) -> None:
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", slug):
        raise DataError(
            f"{slug!r} cannot be a competition's name",
            expected="small letters, digits and dashes, as in its address on Kaggle",
            next_step="choose another",
        )


def _recipe_names() -> list[str]:
    from pipeline.recipe import shipped_recipes

    return list(shipped_recipes())
