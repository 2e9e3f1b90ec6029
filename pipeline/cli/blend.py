"""The command that makes one experiment of several: blend."""

from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli import completion
from pipeline.cli.output import ROOT, CompetitionOption, Format, FormatOption, say_left_out, show
from pipeline.errors import DataError

if TYPE_CHECKING:
    from pipeline.predictions.blend import Blend


class Method(StrEnum):
    """How members are blended: the names in `METHODS`."""

    single = "single"
    mean = "mean"
    geometric = "geometric"
    rank = "rank"
    convex = "convex"
    hill = "hill"
    stacking = "stacking"


def blend(
    experiments: Annotated[
        list[str], typer.Argument(metavar="EXPERIMENT", show_default=False, autocompletion=completion.experiments)
    ],
    competition: CompetitionOption = None,
    method: Annotated[
        Method | None, typer.Option(help="Instead of the simplest within one standard error of the best.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Of the new experiment, instead of blend-A-B.")] = None,
    temperature: Annotated[
        bool, typer.Option("--temperature", help="Scale each member's temperature by log loss first.")
    ] = False,
    format: FormatOption = Format.table,
) -> None:
    """Blend finished experiments into a new one; every method is scored on rows that it was not fitted on.

    Example: kit blend head progressive --name both
    """
    from pipeline.artifacts import Workspace
    from pipeline.competition import load_competition
    from pipeline.predictions.manifests import find_experiment, require_all_folds

    repeated = [one for one in experiments if experiments.count(one) > 1]
    if repeated:
        raise DataError(
            f"{repeated[0]} is named {len(repeated)} times",
            expected="each experiment once",
            next_step="name it once; --method convex and --method hill give weights",
        )
    workspace = Workspace(ROOT)
    members = [find_experiment(workspace, one, slug=competition) for one in experiments]

    from pipeline.data.competition_data import sample_form
    from pipeline.data.index import train_index
    from pipeline.predictions.aligned import align
    from pipeline.predictions.blend import (
        Calibration,
        blend_fingerprint,
        blend_name,
        check_members,
        claim_name,
        make_blend,
        store_blend,
    )
    from pipeline.predictions.store import read_experiment

    stored = [read_experiment(workspace, *member) for member in members]
    slug, told = stored[0].slug, method.value if method else None
    calibration: Calibration = "temperature" if temperature else "none"
    described = load_competition(slug, root=ROOT)
    rows = train_index(described)
    say_left_out(described)
    for one in stored:
        if one.manifest["folds"] != stored[0].manifest["folds"]:
            require_all_folds(one.manifest, why="members of a blend have the same folds")
            require_all_folds(stored[0].manifest, why="members of a blend have the same folds")
    labels = dict(zip(rows["id"], rows["label"], strict=True))
    aligned = align(stored, labels, competition=described, form=sample_form)
    chosen = name or blend_name(experiments, method=told, calibration=calibration)
    fingerprint = blend_fingerprint(stored, method=told, calibration=calibration)
    claim_name(chosen, stored[0], fingerprint=fingerprint, workspace=workspace)
    check_members(stored, aligned)
    found = make_blend(aligned, method=told, calibration=calibration)
    store_blend(found, aligned, stored, name=chosen, fingerprint=fingerprint, workspace=workspace)
    if format is not Format.table:
        head = {"competition": slug, "experiment": chosen, "metric": aligned.metric.name}
        show(_rows(found, head, experiments), format)
        return
    show(_short_rows(found, aligned.metric.name, experiments), format)
    print(f"\n{_words(found, experiments)}")
    print(f"stored as {chosen}: {workspace.oof(slug, chosen)}")
    if len(stored[0].test):
        print(f"next: kit submission make {chosen} --competition {slug}")


def _rows(found: "Blend", head: dict[str, Any], members: Sequence[str]) -> list[dict[str, Any]]:
    """One row a method, from the simplest on, with all there is to know."""
    return [
        {
            **head,
            "method": one.name,
            "score": one.score,
            "score_se": one.score_se,
            "gain": one.gain,
            "gain_se": one.gain_se,
            "chosen": one.name == found.method,
            **{f"weight_{name}": one.weights[place] if one.weights else None for place, name in enumerate(members)},
        }
        for one in found.scored
    ]


def _short_rows(found: "Blend", metric: str, members: Sequence[str]) -> list[dict[str, Any]]:
    """The same for a person."""
    return [
        {
            "method": one.name,
            metric: one.score,
            "± se": one.score_se,
            "over best member": f"{one.gain:+.4f} ± {one.gain_se:.4f}",
            "chosen": "yes" if one.name == found.method else "",
            "weights": _shares(one.weights, members) if one.weights else "by class",
        }
        for one in found.scored
    ]


def _words(found: "Blend", members: Sequence[str]) -> str:
    lines = [f"chosen: {found.method}, {found.reason}"]
    if len(found.result.fold_scores) > 1:
        lines.append("scores: of each fold's rows, blended by what the other folds taught; weights: of all rows")
        lines.append("single: the member that the other folds call the best; it may be another one in each fold")
    if found.temperatures:
        lines.append(f"temperatures (above 1: less sure than predicted): {_shares(found.temperatures, members)}")
    return "\n".join(lines)


def _shares(values: Sequence[float], members: Sequence[str]) -> str:
    return ", ".join(f"{name} {value:.2f}" for name, value in zip(members, values, strict=True) if value)
