"""Does training memory grow with the number of pictures?

    python benchmarks/memory.py --pictures DIR [--size 224x224]

Runs the training input over the pictures once as they are and once with each ten times over, each in a fresh
process, and prints the peak of its anonymous memory (what the process needs; pages of mapped files, which the system
takes back when it needs them, are not counted). Linux only.
"""

import argparse
import multiprocessing
import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from pipeline.data.index import find_pictures
from pipeline.data.inputs import TrainingInput, training_dataset
from pipeline.data.workers import WorkerPool
from pipeline.training.device import import_tensorflow_quietly
from pipeline.training.fold import Machine

BATCH, EPOCHS = 32, 2


def peak_megabytes(paths: list[str], size: tuple[int, int]) -> float:
    """Largest anonymous memory seen at a batch, in MB of 10**6 bytes."""
    import_tensorflow_quietly()
    with tempfile.TemporaryDirectory() as folder, WorkerPool(os.cpu_count() or 1) as pool:
        source = TrainingInput(
            pictures=Machine(cache_gb=100).open(paths, size, Path(folder)),
            ids=[str(row) for row in range(len(paths))],
            labels=np.zeros(len(paths), dtype=np.int64),
            classes=2,
            rows=np.arange(len(paths)),
            batch_size=BATCH,
            augment="light",
            seed=0,
            fold=0,
            stage=0,
        )
        return max(_anonymous() for _ in training_dataset(source, pool, epochs=range(EPOCHS)))


def _anonymous() -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, required=True, help="folder of pictures")
    parser.add_argument("--size", default="224x224", help="height x width")
    arguments = parser.parse_args()
    height, width = (int(side) for side in arguments.size.split("x"))
    paths = [str(path) for path in find_pictures(arguments.pictures)]
    for times in (1, 10):
        # Not multiprocessing.Pool: its processes may not have children, which the input's workers are.
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            peak = pool.submit(peak_megabytes, paths * times, (height, width)).result()
        print(f"{len(paths) * times:7d} pictures of {height}x{width}: peak {peak:.0f} MB")


if __name__ == "__main__":
    main()
