"""Do `kit init`, decoding and an epoch of training input take time in proportion to the number of pictures?

    python benchmarks/scaling.py [--counts 1000 4000 16000 64000] [--only init]

Renders small JPEGs, describes them, decodes them as a training does, and takes one epoch of augmented batches. Prints
the seconds of each, the peak memory of `kit init`, and how well a straight line fits the seconds (R²). Tools are
loaded, and workers started, before the clock of the others runs.
"""

import argparse
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from pipeline.data.inputs import TrainingInput, training_dataset
from pipeline.data.pictures import Pictures
from pipeline.data.workers import WorkerPool
from pipeline.training.device import import_tensorflow_quietly
from pipeline.training.fold import Machine

SIZE, BATCH, WORKERS = (64, 64), 32, os.cpu_count() or 1


def render(folder: Path, count: int) -> list[str]:
    """JPEGs of a rectangle on noise."""

    def one(number: int) -> str:
        rng = np.random.default_rng(number)
        picture = rng.integers(0, 80, (*SIZE, 3), dtype=np.uint8)
        top, left = rng.integers(0, 40, 2).tolist()
        cv2.rectangle(picture, (left, top), (left + 20, top + 20), rng.integers(0, 256, 3).tolist(), -1)
        path = folder / f"{number}.jpg"
        cv2.imwrite(str(path), picture)
        return str(path)

    with ThreadPoolExecutor(WORKERS) as threads:
        return list(threads.map(one, range(count)))


def init(paths: list[str], home: Path) -> tuple[float, float]:
    """Seconds of `kit init` for these pictures in one table, in a process of its own, and its peak memory in MB."""
    data = home / "data" / "train"
    data.mkdir(parents=True)
    rows = []
    for number, path in enumerate(paths):
        os.link(path, data / Path(path).name)
        rows.append(f"{Path(path).name},class_{number % 20}\n")
    (home / "data" / "train.csv").write_text("id,label\n" + "".join(rows))
    command = [sys.executable, "-c", "from pipeline.cli import main; main()", "init", "many", "--data", "data"]
    took = seconds(lambda: subprocess.run(command, cwd=home, check=True, capture_output=True))
    return took, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1000  # of the largest yet: counts ascend


def epoch(pictures: Pictures, pool: WorkerPool) -> None:
    source = TrainingInput(
        pictures=pictures,
        ids=[str(row) for row in range(len(pictures))],
        labels=np.arange(len(pictures), dtype=np.int64) % 10,
        classes=10,
        rows=np.arange(len(pictures)),
        batch_size=BATCH,
        augment="light",
        seed=0,
        fold=0,
        stage=0,
    )
    for _ in training_dataset(source, pool, epochs=range(1)):
        pass


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def straight_line(counts: list[int], times: list[float]) -> tuple[float, float, float]:
    """Seconds for no picture, seconds for a thousand more, R²."""
    slope, start = np.polyfit(counts, times, 1)
    rest = np.array(times) - (start + slope * np.array(counts))
    return float(start), float(slope * 1000), float(1 - rest.var() / np.var(times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", nargs="+", type=int, default=[1000, 4000, 16000, 64000])
    parser.add_argument("--only", choices=["init"], help="nothing that needs TensorFlow")
    asked = parser.parse_args()
    counts = sorted(asked.counts)
    with tempfile.TemporaryDirectory() as name:
        paths = render(Path(name), counts[-1])
        print(f"{'pictures':>9}  {'kit init s':>10}  {'peak MB':>8}")
        found = []
        for count in counts:
            found.append(init(paths[:count], Path(name) / f"init-{count}"))
            print(f"{count:9d}  {found[-1][0]:10.2f}  {found[-1][1]:8.0f}", flush=True)
        start, slope, fit = straight_line(counts, [took for took, _ in found])
        print(f"kit init: {start:.2f} s + {slope:.3f} s a thousand pictures, R² = {fit:.4f}")
    if not asked.only:
        training_input(counts)


def training_input(counts: list[int]) -> None:
    import_tensorflow_quietly()
    import tensorflow as tf

    print(
        f"pictures of {SIZE[0]}x{SIZE[1]}, batch {BATCH}, preset light, {WORKERS} workers; {os.cpu_count()} cores, "
        f"{platform.machine()}, Python {platform.python_version()}, TensorFlow {tf.__version__}"
    )
    taken: dict[str, list[float]] = {"decoding": [], "epoch": []}
    with tempfile.TemporaryDirectory() as name, WorkerPool(WORKERS) as pool:
        paths = render(Path(name), counts[-1])
        decoded = partial(Machine(cache_gb=100).open, size=SIZE, folder=Path(name) / "decoded")
        epoch(decoded(paths[:BATCH]), pool)
        print(f"{'pictures':>9}  {'decoding s':>10}  {'epoch s':>8}")
        for count in counts:
            taken["decoding"].append(seconds(lambda: decoded(paths[:count])))  # noqa: B023
            pictures = decoded(paths[:count])
            taken["epoch"].append(seconds(lambda: epoch(pictures, pool)))  # noqa: B023
            print(f"{count:9d}  {taken['decoding'][-1]:10.2f}  {taken['epoch'][-1]:8.2f}")
    for what, times in taken.items():
        start, slope, fit = straight_line(counts, times)
        print(f"{what}: {start:.2f} s + {slope:.3f} s a thousand pictures, R² = {fit:.4f}")


if __name__ == "__main__":
    main()
