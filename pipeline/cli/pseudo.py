"""The command that makes extra training rows of test pictures: pseudo-label."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli.output import ROOT, CompetitionOption, ExperimentArgument, Format, FormatOption, show

if TYPE_CHECKING:
    from pipeline.competition import Competition
    from pipeline.predictions.store import Experiment


def pseudo_label(
    experiment: ExperimentArgument,
    min_confidence: Annotated[
        float, typer.Option(help="Test rows whose largest probability is this or more.", min=0.0, max=1.0)
    ] = 0.95,
    name: Annotated[str | None, typer.Option(help="Of the rows, instead of pseudo-CONFIDENCE.")] = None,
    competition: CompetitionOption = None,
    format: FormatOption = Format.table,
) -> None:
    """Make extra training rows of the test pictures that an experiment is sure of, for another experiment.

    Each fold gets its own, labelled by the model that never trained on the rows it is scored on, so that the new
    experiment's OOF score stays honest.

    Example: kit pseudo-label demo --min-confidence 0.95
    """
    from pipeline.artifacts import Workspace
    from pipeline.competition import load_competition
    from pipeline.predictions.manifests import find_experiment

    workspace = Workspace(ROOT)
    key = find_experiment(workspace, experiment, slug=competition)

    from pipeline.data.folds import load_folds
    from pipeline.data.index import train_index
    from pipeline.data.pseudo import write_pseudo
    from pipeline.predictions.pseudo import make_pseudo_labels
    from pipeline.predictions.store import read_experiment

    stored = read_experiment(workspace, *key)
    described, chosen = load_competition(stored.slug, root=ROOT), name or f"pseudo-{min_confidence:g}"
    rows = train_index(described)
    labels = dict(zip(rows["id"], rows["label"], strict=True))
    found = make_pseudo_labels(
        stored,
        labels,
        folds_sha256=load_folds(described, rows).sha256,
        min_confidence=min_confidence,
        workspace=workspace,
    )
    write_pseudo(described, chosen, found.rows, found.made)
    if format is not Format.table:
        head = {"competition": stored.slug, "experiment": stored.name, "name": chosen}
        show([{**head, "min_confidence": min_confidence, **vars(one)} for one in found.expected], format)
        return
    cells: list[dict[str, Any]] = [
        {
            "class": one.label or "all",
            "test rows": f"{one.test_rows:9.1f}",
            "share": f"{one.test_share:6.1%}",
            "expected accuracy": one.accuracy,
            "± se": one.accuracy_se,
            "OOF rows": one.oof_rows,
        }
        for one in found.expected
    ]
    print(f"{stored.name} on {stored.slug}: test rows with a probability of {min_confidence:g} or more\n")
    show(cells, format)
    print("\ntest rows          of a fold, in the mean: each fold's own model chooses and labels them")
    print("expected accuracy  that of the OOF rows with such a probability, which one fold's model predicted, too;")
    print("                   ± is not 0 where all of them are right: a few rows prove little")
    print(f"\nwrote {described.pseudo_file(chosen)}: {len(found.rows)} rows, of all folds together")
    recipe = _recipe_of(stored)
    setting = f"'extra={_extra(described, stored, chosen)}'"  # brackets mean something to a shell
    print(f"next: kit train {recipe} {stored.slug} --set {setting} --suffix {chosen}")
    if recipe == "RECIPE":
        print(f"RECIPE: what {stored.name} was trained with, and its --set; then the two can be compared")


def _recipe_of(experiment: "Experiment") -> str:
    """The recipe to name again: RECIPE where it was a file, or changed by --set."""
    from pipeline.recipe import load_recipe, shipped_recipes

    name = str(experiment.manifest["recipe"]["name"])
    same = name in shipped_recipes() and load_recipe(name).fingerprint() == experiment.manifest["fingerprint"]
    return name if same else "RECIPE"


def _extra(competition: "Competition", experiment: "Experiment", name: str) -> str:
    """The new rows beside the declared ones that the experiment had."""
    declared = [one for one in experiment.manifest["recipe"].get("extra", ()) if one in competition.extra]
    return f"[{','.join([*declared, name])}]"
