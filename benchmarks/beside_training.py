"""What does the training input cost the network that trains beside it on the same cores?

    python benchmarks/beside_training.py --pictures DIR [--against CHECKOUT]

Trains MobileNet 0.75 from nothing, once with the kit's input (preset `light`) and once with one batch that stays in
memory, and prints the seconds of a step. Each measurement is a process of its own; the sides take turns; medians. Set
TF_ENABLE_ONEDNN_OPTS=1 where TensorFlow leaves oneDNN off: it is passed on to all sides.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.files import find_pictures
from pipeline.data.inputs import TrainingInput, training_dataset
from pipeline.data.workers import WorkerPool
from pipeline.training.device import import_tensorflow_quietly
from pipeline.training.fold import Machine

BATCH, CLASSES, SETTLING = 32, 10, 4  # the first steps do not count


def seconds_of_a_step(batches: Any, side: int, steps: int) -> float:
    import keras

    network = keras.applications.MobileNet((side, side, 3), alpha=0.75, weights=None, classes=CLASSES)
    network.compile("adam", "categorical_crossentropy")
    ends: list[float] = []
    tick = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: ends.append(time.perf_counter()))
    network.fit(batches, steps_per_epoch=SETTLING + steps, callbacks=[tick], verbose=0)
    return (ends[-1] - ends[SETTLING - 1]) / steps


def with_input(paths: list[str], side: int, folder: Path, workers: int, steps: int) -> float:
    source = TrainingInput(
        pictures=Machine(cache_gb=100).open(paths, (side, side), folder),
        ids=paths,
        labels=np.arange(len(paths), dtype=np.int64) % CLASSES,
        classes=CLASSES,
        rows=np.arange(len(paths)),
        batch_size=BATCH,
        augment="light",
        seed=0,
        fold=0,
        stage=0,
    )
    with WorkerPool(workers) as pool:
        return seconds_of_a_step(training_dataset(source, pool, epochs=range(10**6)), side, steps)


def with_constant(side: int, steps: int) -> float:
    import tensorflow as tf

    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (BATCH, side, side, 3), dtype=np.uint8)
    targets = np.eye(CLASSES, dtype=np.float32)[rng.integers(0, CLASSES, BATCH)]
    batch = pictures, targets, np.ones(BATCH, dtype=np.float32)
    return seconds_of_a_step(tf.data.Dataset.from_tensors(batch).repeat(), side, steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, required=True, help="folder of pictures")
    parser.add_argument("--side", type=int, default=160, help="height and width")
    parser.add_argument("--against", type=Path, help="another checkout of the kit")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--measure", choices=["kit", "against", "constant"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        import_tensorflow_quietly()
        if arguments.measure == "constant":
            print(with_constant(arguments.side, arguments.steps))
            return
        paths = [str(path) for path in find_pictures(arguments.pictures)]
        print(with_input(paths, arguments.side, arguments.folder, arguments.workers, arguments.steps))
        return
    print(
        f"MobileNet 0.75, {arguments.side}x{arguments.side}, batch {BATCH}, {arguments.workers} workers, medians of "
        f"{arguments.rounds}; {os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, "
        f"TF_ENABLE_ONEDNN_OPTS={os.environ.get('TF_ENABLE_ONEDNN_OPTS', 'not set')}"
    )
    found: dict[str, list[float]] = {"constant": [], "kit": [], **({"against": []} if arguments.against else {})}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(arguments.rounds):
            for side, seconds in found.items():
                home = arguments.against if side == "against" else Path(__file__).parents[1]
                call = [sys.executable, __file__, *sys.argv[1:], "--measure", side, "--folder", folder]
                environment = os.environ | {"PYTHONPATH": str(home.resolve())}
                result = subprocess.run(call, env=environment, capture_output=True, text=True)
                if result.returncode:
                    raise SystemExit(f"{side} failed:\n{result.stderr}")
                seconds.append(float(result.stdout.split()[-1]))
            now = ", ".join(f"{side} {seconds[-1]:.3f} s" for side, seconds in found.items())
            print(now, file=sys.stderr, flush=True)
    for side, seconds in found.items():
        ratio = statistics.median(one / base for one, base in zip(seconds, found["constant"], strict=True))
        print(f"{side:>9}: {statistics.median(seconds):.3f} s a step, {ratio:.2f} of the constant batch's")


if __name__ == "__main__":
    main()
