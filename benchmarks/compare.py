"""How long do comparing and blending experiments take, and how much memory?

    python benchmarks/compare.py [--rows 100000] [--classes 100] [--compared 3] [--blended 5] [--metric roc_auc …]

Random predictions that lean towards the labels, in five folds; a process each, reading and storing left out. Linux
only (peak memory in kilobytes).
"""

import argparse
import multiprocessing
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import numpy as np

from pipeline.predictions.aligned import Aligned
from pipeline.predictions.blend import make_blend
from pipeline.predictions.compare import compare
from pipeline.predictions.metrics import METRICS

WORK: dict[str, Callable[[Aligned], object]] = {"compare": compare, "blend": make_blend}


def made(metric: str, rows: int, classes: int, experiments: int) -> Aligned:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, rows)
    probabilities = {}
    for number in range(experiments):
        found = rng.random((rows, classes), dtype=np.float32)
        found[np.arange(rows), labels] += 0.3 + 0.1 * number
        found /= found.sum(axis=1, keepdims=True)
        probabilities[f"experiment {number}"] = found
    return Aligned(
        metric=METRICS[metric],
        classes=[str(number) for number in range(classes)],
        ids=[f"{row:07}" for row in range(rows)],
        labels=labels,
        folds=np.arange(rows) % 5,
        probabilities=probabilities,
    )


def cost(work: str, metric: str, rows: int, classes: int, experiments: int) -> tuple[float, float, float]:
    """Seconds, seconds of computing, and the peak in MB of 10**6 bytes with the predictions themselves."""
    aligned = made(metric, rows, classes, experiments)
    start, computed = time.monotonic(), time.process_time()
    WORK[work](aligned)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    return time.monotonic() - start, time.process_time() - computed, peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--compared", type=int, default=3)
    parser.add_argument("--blended", type=int, default=5)
    parser.add_argument("--metric", nargs="+", choices=METRICS, default=list(METRICS))
    given = parser.parse_args()
    print(f"{given.rows} rows, {given.classes} classes; {given.compared} compared, {given.blended} blended")
    for metric in given.metric:
        for work, experiments in (("compare", given.compared), ("blend", given.blended)):
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                job = pool.submit(cost, work, metric, given.rows, given.classes, experiments)
                seconds, computed, megabytes = job.result()
            print(f"{metric:16} {work:8} {seconds:6.1f} s  {computed:6.1f} s of CPU  {megabytes:6.0f} MB", flush=True)


if __name__ == "__main__":
    main()
