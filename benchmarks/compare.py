"""How long does comparing experiments take, and how much memory?

    python benchmarks/compare.py [--rows 100000] [--classes 100] [--experiments 3]

Compares random predictions by each metric, a process a metric. Linux only (peak memory in kilobytes).
"""

import argparse
import multiprocessing
import resource
import time
from concurrent.futures import ProcessPoolExecutor

import numpy as np

from pipeline.predictions.aligned import Aligned
from pipeline.predictions.compare import compare
from pipeline.predictions.metrics import METRICS


def seconds_and_megabytes(metric: str, rows: int, classes: int, experiments: int) -> tuple[float, float]:
    """Of one comparison; the peak in MB of 10**6 bytes, with the predictions themselves."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, rows)
    probabilities = {}
    for number in range(experiments):
        found = rng.random((rows, classes), dtype=np.float32)
        found[np.arange(rows), labels] += 0.3 + 0.1 * number
        probabilities[f"experiment {number}"] = found / found.sum(axis=1, keepdims=True)
    aligned = Aligned(
        metric=METRICS[metric],
        classes=[str(number) for number in range(classes)],
        ids=[f"{row:07}" for row in range(rows)],
        labels=labels,
        folds=np.arange(rows) % 5,
        probabilities=probabilities,
    )
    start = time.monotonic()
    compare(aligned)
    return time.monotonic() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--experiments", type=int, default=3)
    given = parser.parse_args()
    print(f"{given.experiments} experiments, {given.rows} rows, {given.classes} classes")
    for metric in METRICS:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            job = pool.submit(seconds_and_megabytes, metric, given.rows, given.classes, given.experiments)
            seconds, megabytes = job.result()
        print(f"{metric:16} {seconds:6.1f} s  {megabytes:6.0f} MB", flush=True)


if __name__ == "__main__":
    main()
