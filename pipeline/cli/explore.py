"""The command explore: a competition before any training, and what can be done about what is found."""

from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.output import ROOT, CompetitionArgument, Format, show
from pipeline.errors import counted

if TYPE_CHECKING:
    from pipeline.data.explore import Exploration


def explore(
    competition: CompetitionArgument,
    augment: Annotated[str, typer.Option(help="The augmentation to show: none, light, medium or heavy.")] = "medium",
    write_groups: Annotated[
        bool, typer.Option("--write-groups", help="Write groups.csv: duplicates stay in one fold.")
    ] = False,
    quarantine: Annotated[
        bool, typer.Option("--quarantine", help="Add what cannot be trained on honestly to quarantine.csv.")
    ] = False,
) -> None:
    """Look at a competition before training: classes, sizes, samples, augmentation, duplicates, faults.

    Writes a page, pictures, and tables of duplicates and leaks into competitions/COMPETITION/explore; with an option
    also what it says.

    Example: kit explore demo --augment heavy
    """
    from pipeline.competition import load_competition

    described = load_competition(competition, root=ROOT)

    from pipeline.data.augment import check_augment

    check_augment(augment)
    typer.echo(f"looking at the pictures of {competition}", err=True)

    from pipeline.data.explore import explore as look
    from pipeline.data.explore import keep_audit, write_pairs
    from pipeline.data.remedies import refuse_groups_without_effect
    from pipeline.data.showcase import showcase
    from pipeline.report.explore_page import finding_rows, write_explore_page

    if write_groups:
        refuse_groups_without_effect(described)
    found = look(described)
    typer.echo("drawing the page", err=True)
    page = write_explore_page(described.folder / "explore", found, showcase(found, augment=augment))
    keep_audit(found)
    tables = write_pairs(described.folder / "explore", found)
    for name, value in found.facts.items():
        print(f"{name}: {value}")
    print()
    lines = finding_rows(found)
    show(lines, Format.table) if lines else print("nothing is wrong with the data as far as this can see")
    for note in found.notes:
        print(f"note: {note}")
    print(f"\nwrote {page}: open it in a browser; the pictures beside it are PNG files")
    for table, rows in tables.items():
        print(f"wrote {table}: {counted(rows, 'row', 'rows')}")
    if quarantine:
        _leave_out(found)
    if write_groups:
        _keep_together(found)
    apart = not found.has_split and not write_groups and _pairs_apart(found)
    if described.folds_file.is_file() and (quarantine or write_groups):
        print(f"next: remove {described.folds_file}, then: kit folds {competition}")
    elif apart:
        pairs = counted(apart, "pair of duplicates is", "pairs of duplicates are")
        print(f"next: kit explore {competition} --write-groups    ({pairs} not in one group: a fold may divide them)")
    else:
        print(f"next: kit folds {competition}")


def _pairs_apart(found: "Exploration") -> int:
    """How many pairs of training pictures are duplicates and not of one group already."""
    group = dict(zip(found.rows["id"], found.rows["group"], strict=True))
    return sum(not group[a] or group[a] != group[b] for a, b in found.training_pairs)


def _leave_out(found: "Exploration") -> None:
    from pipeline.data.remedies import add_to_quarantine

    competition = found.competition
    new = add_to_quarantine(competition, found.faults)
    print(f"{competition.quarantine_file}: {new} rows more")
    if new and competition.folds_file.is_file():
        print(
            f"{competition.folds_file} still names them: remove it to make the folds anew, or remove these rows from it"
        )


def _keep_together(found: "Exploration") -> None:
    from pipeline.data.remedies import merged_groups, write_groups

    competition = found.competition
    groups = merged_groups(found.rows, found.training_pairs)
    written = write_groups(competition, groups)
    if not written:
        print("no groups.csv: no two training pictures are one")
        return
    print(f"{competition.groups_file}: {written} rows in {len(set(groups.values()))} groups")
    if competition.folds_file.is_file():
        print(
            f"groups act on new folds alone, and {competition.folds_file} is there: remove it to make the folds anew. "
            "Experiments on the new folds cannot be compared with those on the old ones"
        )
