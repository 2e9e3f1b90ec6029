"""Which experiments have a result, and what their manifests say; the predictions beside them belong to `store.py`.

Nothing heavy is imported here: what lists or names experiments does not wait for pandas.
"""

import difflib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.artifacts import Workspace, file_sha256, read_json
from pipeline.errors import DataError

MANIFEST = "manifest.json"


def list_experiments(workspace: Workspace, slug: str | None = None) -> list[tuple[str, str]]:
    """(slug, experiment) of every experiment that has a result, of all folds or of some, sorted."""
    pattern = f"{slug or '*'}/*/{MANIFEST}"
    found = (workspace.root / "oof").glob(pattern)
    return sorted((path.parent.parent.name, path.parent.name) for path in found)


def find_experiment(workspace: Workspace, name: str, *, slug: str | None) -> tuple[str, str]:
    """(slug, experiment): the slug may be left out where one competition alone has an experiment of that name.

    Raises:
        DataError: None has, or several have.
    """
    known = list_experiments(workspace, slug)
    slugs = [where for where, experiment in known if experiment == name]
    if len(slugs) == 1:
        return slugs[0], name
    if slugs:
        raise DataError(
            f"experiment {name!r} exists in {len(slugs)} competitions: {', '.join(slugs)}",
            expected="one of them",
            next_step=f"name it: --competition {slugs[0]}",
        )
    begun = sorted(workspace.root.glob(f"runs/{slug or '*'}/{name}/run.json"))
    if begun:
        raise DataError(
            f"experiment {name!r} in {begun[0].parent.parent.name} has no result yet: none of its folds is trained "
            "to its end, or they have not been scored",
            expected="an experiment with one trained fold or more",
            next_step="give its `kit train` command again: it goes on from there",
        )
    names = sorted({experiment for _, experiment in known})
    close = difflib.get_close_matches(name, names, n=1)
    raise DataError(
        f"there is no finished experiment {name!r}" + (f" in {slug}" if slug else ""),
        expected="one of " + ", ".join(names) if names else "an experiment trained with `kit train`",
        next_step=f"did you mean {close[0]!r}?" if close else "`kit oof list` shows what there is",
    )


def read_manifest(workspace: Workspace, slug: str, name: str) -> dict[str, Any]:
    """Read an experiment's manifest.

    Raises:
        DataError: It has none, that is, it does not exist or has no result yet, or an earlier build made it.
    """
    file = workspace.oof(slug, name) / MANIFEST
    if not file.is_file():
        raise DataError(
            f"{slug} has no finished experiment {name!r} ({file} does not exist)",
            expected="an experiment with one trained fold or more",
            next_step=f"run: kit train {name} {slug}",
        )
    manifest: dict[str, Any] = read_json(file)
    if not {"folds", "target"} <= set(manifest):
        raise DataError(
            f"{file} is of an earlier build of the kit: it does not say which folds or which target it is of",
            expected="a result of this build",
            next_step=f"move {file.parent} away, and train {name} again",
        )
    return manifest


def folds_in_words(manifest: Mapping[str, Any]) -> str:
    """How many folds a result is of: "5", or "1 of 5" where some are not trained."""
    done, missing = len(manifest["folds"]), len(manifest["missing_folds"])
    return f"{done} of {done + missing}" if missing else str(done)


def require_all_folds(manifest: Mapping[str, Any], *, why: str) -> None:
    """Refuse an experiment that is trained on some of its folds.

    Args:
        why: What needs all of them, and how come.

    Raises:
        DataError: It is.
    """
    if manifest["missing_folds"]:
        raise DataError(
            f"{manifest['experiment']} is trained on {folds_in_words(manifest)} folds",
            expected=f"all of them: {why}",
            next_step="give its `kit train` command again without --fold: it trains the others",
        )


def extra_in_words(counts: Mapping[str, Mapping[str, int]]) -> str:
    """`extra_rows`, how many rows of each source a fold has: `more 40, pseudo 131 to 143 a fold`."""
    return ", ".join(
        f"{name} {low}" if low == high else f"{name} {low} to {high} a fold"
        for name, each in counts.items()
        for low, high in [(min(each.values()), max(each.values()))]
    )


def stage_rule(select_on: str, monitor: str, metric: str) -> str:
    """What an earlier stage is better by where a stage is left aside; see `Recipe.end_on`.

    Args:
        monitor: Of the stage that is left aside.
    """
    if select_on == "last":
        return f"more than the standard error of the difference, in {metric} on the scored fold"
    return (
        f"{metric if monitor == 'score' else 'loss'} on the {'inner rows' if select_on == 'inner' else 'scored fold'}"
    )


def ended_on(manifest: Mapping[str, Any]) -> dict[int, int]:
    """The number of the stage that each fold of an experiment ends on; the last where its manifest does not say."""
    numbers = {stage["name"]: number for number, stage in enumerate(manifest["stages"])}
    ends, last = manifest.get("ends_on", {}), manifest["stages"][-1]["name"]
    return {fold: numbers[ends.get(str(fold), last)] for fold in manifest["folds"]}


def left_aside(manifest: Mapping[str, Any]) -> dict[str, list[int]]:
    """Stages that were left aside, and in which folds; none of a blend."""
    return {stage["name"]: folds for stage in manifest["stages"] if (folds := stage.get("left_aside"))}


def stages_in_words(manifest: Mapping[str, Any]) -> str:
    """Which stages the folds end on and were left aside, by which rule; "" where there is nothing to say."""
    if len(manifest["stages"]) < 2:  # none: a blend
        chosen = "stages" in flattered_by(manifest)
        return "members left some aside by the scored rows, which flatters the score a little" if chosen else ""
    if manifest["recipe"].get("end_on", "last") == "last":  # of an earlier build, too
        return "the last in every fold (end_on: last)"
    aside = left_aside(manifest)
    if not aside:
        return "the last in every fold, none was left aside (end_on: best)"
    ends = ended_on(manifest)
    names = {number: stage["name"] for number, stage in enumerate(manifest["stages"])}
    by_stage = {names[number]: [fold for fold in ends if ends[fold] == number] for number in sorted(set(ends.values()))}
    stages = manifest["recipe"]["stages"]
    monitors = [stage["monitor"] for stage in stages if stage["name"] in aside]
    rules = dict.fromkeys(stage_rule(manifest["select_on"], one, manifest["metric"]) for one in monitors)
    flatters = ", which flatters the score a little" if manifest["select_on"] != "inner" else ""
    return (
        f"{_of_folds(by_stage)} (end_on: best); left aside: {_of_folds(aside)}, as an earlier stage was better by "
        f"{' or '.join(rules)}{flatters}"
    )


def _of_folds(folds: Mapping[str, Sequence[int]]) -> str:
    return ", ".join(
        f"{name} (fold{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))})" for name, numbers in folds.items()
    )


def flattered_by(manifest: Mapping[str, Any]) -> list[str]:
    """What was chosen on the scored rows, which flatters the score a little: `epochs`, `stages`, both or nothing."""
    epochs = manifest["select_on"] == "fold"
    return ["epochs"] * epochs + ["stages"] * bool(manifest.get("stages_chosen_on") == "fold")


def chosen_on(manifest: Mapping[str, Any]) -> str:
    """`select_on`, for a table; with where stages were chosen if it does not say so."""
    found = str(manifest["select_on"])
    return f"{found}, stages: fold" if flattered_by(manifest) == ["stages"] else found


def require_networks(manifest: Mapping[str, Any]) -> None:
    """Refuse a blend where fold models are needed.

    Raises:
        DataError: It is one.
    """
    if manifest["recipe"] is None:
        raise DataError(
            f"{manifest['experiment']} is a blend and has no networks of its own",
            expected="a trained experiment",
            next_step="name one of its members",
        )


def finished_weights(
    workspace: Workspace, slug: str, experiment: str, fold: int, *, stage: int, fingerprint: str
) -> Path:
    """The file of a finished fold's weights.

    Args:
        stage: The number of the stage that the fold ends on.
        fingerprint: Of the recipe that the experiment's result was made by.

    Raises:
        DataError: The fold is not trained to its end, was trained by another recipe, or its weights are gone or not
            those that it ended on.
    """
    folder = workspace.fold(slug, experiment, fold)
    done, weights = folder / "fold.json", folder / f"stage-{stage}" / "best.weights.h5"
    next_step = f"give the `kit train` command that made {experiment} again, or fetch its kernel's output again"
    known: dict[str, Any] = {}
    with suppress(OSError, ValueError, TypeError):
        known = dict(read_json(done))
    # Weights are written from the first epoch on: `fold.json` says that there is none to come.
    if not done.is_file():
        problem = f"fold {fold} of {experiment} is not trained to its end ({done} does not exist)"
    elif not known:
        problem = f"{done} is damaged"
        next_step = f"remove {folder}, then {next_step}"
    elif known.get("fingerprint") != fingerprint:
        problem = f"{folder} was trained by another recipe than the result of {experiment}"
        next_step = f"remove {workspace.run(slug, experiment)}, then {next_step}"
    elif not weights.is_file():
        problem = f"the weights {weights} do not exist"
        next_step = f"remove {folder}, then {next_step}"
    elif known.get("weights_sha256") != file_sha256(weights):
        problem = f"the weights {weights} are damaged, or of another build: they are not those that the fold ended on"
        next_step = f"remove {folder}, then {next_step}"
    else:
        return weights
    raise DataError(problem, expected="the weights of every fold that the result was made by", next_step=next_step)
