"""How much does it flatter a score to choose the epoch by the scored fold?

    python benchmarks/selection.py RECIPE COMPETITION --root WORKSPACE [--suffix NAME] [--set PATH=VALUE …]

Trains the recipe with `select_on: fold`, `inner` and `last` (what is finished is not trained again), each as an
experiment of the workspace: RECIPE[-NAME], …-inner and …-last. Prints the OOF score of each stage, without TTA, and
what `fold` has over the other two on the same rows. The difference to `last` is part flattery, part what a choice
is worth; `inner` makes the same choice honestly, but from fewer rows to train on, a tenth by default.
"""

import argparse
from pathlib import Path

import pandas as pd

from pipeline.artifacts import Workspace
from pipeline.competition import load_competition
from pipeline.data.index import train_index
from pipeline.predictions.aligned import align
from pipeline.predictions.manifests import read_manifest
from pipeline.predictions.metrics import METRICS, paired_gain
from pipeline.predictions.store import CURVES, Experiment, read_predictions
from pipeline.recipe import load_recipe
from pipeline.training.cross_validate import cross_validate
from pipeline.training.engines import log_to_stdout

KINDS = ("fold", "inner", "last")


def train(arguments: argparse.Namespace) -> dict[str, str]:
    """The experiment of each kind, trained."""
    # All first: `last` is refused where a stage stops early, and hours of training are too late to hear of it.
    recipes = {kind: load_recipe(arguments.recipe, overrides=[*arguments.set, f"select_on={kind}"]) for kind in KINDS}
    experiments = {}
    for kind, recipe in recipes.items():
        parts = [recipe.name, *([arguments.suffix] if arguments.suffix else []), *([kind] if kind != "fold" else [])]
        experiments[kind] = "-".join(parts)
        competition = load_competition(arguments.competition, root=arguments.root)
        cross_validate(recipe, competition, experiment=experiments[kind], workspace=Workspace(arguments.root))
    return experiments


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("competition")
    parser.add_argument("--root", type=Path, default=Path("."))
    parser.add_argument("--suffix", default="")
    parser.add_argument("--set", action="append", default=[])
    arguments = parser.parse_args()
    log_to_stdout()
    workspace, slug = Workspace(arguments.root), arguments.competition
    stored = []
    for kind, name in train(arguments).items():
        manifest = read_manifest(workspace, slug, name)
        oof = read_predictions(workspace.oof(slug, name) / "oof.parquet")
        stored.append(Experiment(slug, kind, manifest, oof, oof.iloc[:0]))
        stages = "  ".join(f"{stage['name']} {stage['score']:.4f}" for stage in manifest["stages"])
        if kind == "fold":
            curves = pd.read_csv(workspace.oof(slug, name) / CURVES)
            trained = [part.sort_values("epoch") for _, part in curves.groupby(["fold", "stage"])]
            last = sum(part["val_loss"].argmin() == len(part) - 1 for part in trained)
            print(f"the last epoch has the lowest validation loss in {last} of {len(trained)} stages of folds")
        print(f"{kind:<6} {stages}  OOF {manifest['score']:.4f} ± {manifest['score_se']:.4f}")
    rows = train_index(load_competition(slug, root=arguments.root))
    aligned = align(stored, dict(zip(rows["id"], rows["label"], strict=True)))
    for metric in (aligned.metric, METRICS["log_loss"]):
        for kind in ("inner", "last"):
            found = aligned.probabilities
            gain, error = paired_gain(metric, aligned.labels, found[kind], found["fold"])
            print(f"{metric.name}: fold better than {kind} by {gain:+.4f} ± {error:.4f}")


if __name__ == "__main__":
    main()
