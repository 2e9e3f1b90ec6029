"""How long do folds, stages and predictions take in all, against a plain Keras script of the same stages?

    python benchmarks/end_to_end.py --data DATA [--epochs 4 4 3 4] [--sizes 96x160 96x160 96x160 128x224] [--runs 1]

DATA is a competition's folder, as `kit init` takes it; it is described once, which no side's time counts. Both train
the four stages of the recipe `progressive-mobilenet` on the same folds and predict the held-out and the test pictures,
plain and mirrored: the kit by `kit train` in a fresh workspace, the rival by `plain_keras.py`. Seconds are of the whole
commands, from the first process to the last, decoding included; oneDNN is on for both. MobileNet's weights are taken
from `$KERAS_HOME/models`, or downloaded.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
from common import HERE, alternating, build, fresh_workspace, hardware, kit, manifest, measure, middle, versions

from pipeline.data.competition_data import load_data
from pipeline.data.describe import init_competition
from pipeline.data.infer_wishes import Wishes
from pipeline.recipe import load_recipe

RECIPE, SLUG = "progressive-mobilenet", "competition"


def prepare(data: Path, folder: Path, *, folds: int, recipe: str, overrides: Sequence[str] = ()) -> Path:
    """Describe the data in `folder`, and write rows.csv and recipe.json there for the rival.

    Returns:
        The competition's folder.
    """
    competition, _, _ = init_competition(SLUG, data.resolve(), root=folder, wishes=Wishes(folds=folds))
    found = load_data(competition)
    rows = found.train[["path", "label"]].assign(fold=found.folds.frame["fold"].to_numpy())
    table = pd.concat([rows, found.test[["path"]]])
    table["path"] = [str(Path(path).resolve()) for path in table["path"]]
    table.to_csv(folder / "rows.csv", index=False)
    (folder / "recipe.json").write_text(load_recipe(recipe, overrides=overrides).model_dump_json(), "utf-8")
    competition.folds_file.unlink()  # the kit makes its own, the same
    return competition.folder


def run_plain_keras(folder: Path, *options: str) -> tuple[float, dict[str, Any]]:
    """Seconds of the whole script, and its result: score, error, and seconds by stage."""
    script = Path(__file__).with_name("plain_keras.py")
    command = [sys.executable, str(script), "rows.csv", "recipe.json", "result.json", *options]
    done = measure(command, folder=folder, environment={"TF_ENABLE_ONEDNN_OPTS": "1"})
    return done.seconds, json.loads((folder / "result.json").read_text("utf-8"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of a competition's data")
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--epochs", type=int, nargs=4, default=[4, 4, 3, 4], help="of the four stages")
    parser.add_argument("--sizes", nargs=4, default=["96x160"] * 3 + ["128x224"], help="height x width")
    parser.add_argument("--no-cache", action="store_true", help="the rival reads the files in every epoch")
    parser.add_argument("--runs", type=int, default=1)
    given = parser.parse_args()
    overrides = ["tta.use=always"]
    for number, (epochs, size) in enumerate(zip(given.epochs, given.sizes, strict=True)):
        overrides += [f"stages.{number}.epochs={epochs}", f"stages.{number}.size=[{size.replace('x', ',')}]"]
    print(hardware())
    print(versions("tensorflow", "keras", "albumentations"), "· kit", build(HERE))
    rival = "every epoch reads the files" if given.no_cache else "decoded pictures kept in memory"
    print(f"{given.folds} folds, epochs {given.epochs}, sizes {given.sizes}; plain Keras: {rival}")
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        described = prepare(given.data, folder, folds=given.folds, recipe=RECIPE, overrides=overrides)
        changes = [part for override in overrides for part in ("--set", override)]

        def by_kit() -> tuple[float, float, float]:
            workspace = fresh_workspace(folder / "workspace", described)
            environment = {"TF_ENABLE_ONEDNN_OPTS": "1", "PYTHONPATH": str(HERE)}
            done = measure(kit("train", RECIPE, SLUG, *changes), folder=workspace, environment=environment)
            result = manifest(workspace, SLUG) or {}
            return done.seconds, result["oof_score"], result["oof_score_se"]

        def by_keras() -> tuple[float, float, float]:
            seconds, result = run_plain_keras(folder, *(["--no-cache"] if given.no_cache else []))
            return seconds, result["score"], result["error"]

        found = alternating({"kit": by_kit, "plain Keras": by_keras}, rounds=given.runs)
    for name, runs in found.items():
        scores = ", ".join(f"{score:.4f} ± {error:.4f}" for _, score, error in runs)
        print(f"{name:<12} {middle([run[0] for run in runs])} s, OOF accuracy {scores}")
    medians = {name: median(run[0] for run in runs) for name, runs in found.items()}
    print(f"plain Keras takes {medians['plain Keras'] / medians['kit']:.2f} times as long as the kit")


if __name__ == "__main__":
    main()
