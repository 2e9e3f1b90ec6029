"""How long does it take to train heads on a frozen network, against `fit` on that network?

    python benchmarks/head_stage.py --data DATA [--against CHECKOUT] [--size 128x224] [--epochs 10] [--runs 1]

DATA is a competition's folder, as `kit init` takes it. A recipe of one stage with nothing unfrozen, MobileNet 0.75 with
ImageNet weights, is trained on five folds by this build of the kit, by another checkout if one is named, and by
`plain_keras.py` on pictures kept in memory, each in a fresh workspace; oneDNN is on for all. Seconds of the stage are
those that each side's own log gives it, all folds together; the whole command has the start of the processes, decoding
and the predictions, too. Weights are taken from `$KERAS_HOME/models`, or downloaded.
"""

import argparse
import re
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import NamedTuple

import yaml
from common import HERE, alternating, build, fresh_workspace, hardware, kit, manifest, measure, middle, versions
from end_to_end import SLUG, prepare, run_plain_keras


class Run(NamedTuple):
    """Seconds of the whole command, of the stage, and of its epochs alone; the OOF score and its standard error."""

    whole: float
    stage: float
    epochs: float | None
    score: float
    error: float


def recipe(size: str, epochs: int) -> str:
    """The stage `head` of `progressive-mobilenet`, longer, as YAML."""
    height, width = map(int, size.split("x"))
    stage = {
        "name": "head",
        "unfreeze": 0,
        "size": [height, width],
        "epochs": epochs,
        "batch_size": 16,
        "learning_rate": 0.01,
        "schedule": {"kind": "cosine", "warmup_epochs": 0.5},
        "augment": "light",
    }
    head = {"name": "frozen", "backbone": "mobilenet-0.75", "head": {"dropout": 0.3}, "label_smoothing": 0.1}
    return yaml.safe_dump({**head, "stages": [stage]})


def run_kit(checkout: Path, folder: Path, described: Path) -> Run:
    workspace = fresh_workspace(folder / "workspace", described)
    environment = {"TF_ENABLE_ONEDNN_OPTS": "1", "PYTHONPATH": str(checkout)}
    done = measure(kit("train", str(folder / "frozen.yaml"), SLUG), folder=workspace, environment=environment)
    logged = [float(seconds) for seconds in re.findall(r"^fold \d+ .* (\d+) s$", done.output, re.MULTILINE)]
    result = manifest(workspace, SLUG)
    if result is None or len(logged) != len(result["oof_fold_scores"]):
        raise SystemExit(f"not one line a fold in the log of {checkout}:\n{done.output}")
    epochs = result["stages"][0]["seconds"]
    return Run(done.seconds, sum(logged), epochs, result["oof_score"], result["oof_score_se"])


def run_rival(folder: Path) -> Run:
    seconds, result = run_plain_keras(folder)
    return Run(seconds, result["seconds"]["head"], None, result["score"], result["error"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of a competition's data")
    parser.add_argument("--against", type=Path, help="another checkout of the kit")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--size", default="128x224", help="height x width")
    parser.add_argument("--runs", type=int, default=1)
    given = parser.parse_args()
    print(hardware())
    print(versions("tensorflow", "keras", "albumentations"))
    print(f"{given.folds} folds, {given.epochs} epochs, {given.size}")
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "frozen.yaml").write_text(recipe(given.size, given.epochs), "utf-8")
        described = prepare(given.data, folder, folds=given.folds, recipe=str(folder / "frozen.yaml"))
        sides = {f"kit {build(HERE)}": partial(run_kit, HERE, folder, described)}
        if given.against:
            sides[f"kit {build(given.against)}"] = partial(run_kit, given.against.resolve(), folder, described)
        sides["plain Keras"] = partial(run_rival, folder)
        found = alternating(sides, rounds=given.runs)
    ours = next(iter(found.values()))
    for name, runs in found.items():
        alone = [run.epochs for run in runs if run.epochs is not None]
        print(
            f"{name}: stage {middle([run.stage for run in runs])} s"
            + (f", of them epochs {middle(alone)} s" if alone else "")
            + f"; whole command {middle([run.whole for run in runs])} s; "
            + f"OOF accuracy {', '.join(f'{run.score:.4f} ± {run.error:.4f}' for run in runs)}"
        )
        if runs is not ours:
            stage = median(run.stage for run in runs) / median(run.stage for run in ours)
            whole = median(run.whole for run in runs) / median(run.whole for run in ours)
            print(f"  takes {stage:.2f} times as long for the stage, {whole:.2f} times for the whole command")


if __name__ == "__main__":
    main()
