"""Does the training input need more memory for more pictures?

    python benchmarks/memory.py --pictures DIR [--size 224x224]

Decodes the pictures and runs the training input over them for two epochs, once with the pictures as they are and once
with each ten times over, each in a fresh process. Printed is the peak of the memory that this process and its workers
need together: their anonymous memory and the shared memory in which batches are handed over, each page divided among
those that map it. The decoded pictures are a mapped file on the disk, whose pages the system takes back when it needs
them: they are not counted. Linux only.
"""

import argparse
import multiprocessing
import os
import statistics
import tempfile
import threading
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from pipeline.data.files import find_pictures
from pipeline.data.inputs import TrainingInput, training_dataset
from pipeline.data.workers import WorkerPool
from pipeline.training.device import import_tensorflow_quietly
from pipeline.training.fold import Machine

BATCH, EPOCHS, WORKERS = 32, 2, os.cpu_count() or 1


class Watch:
    """Samples the memory of this process and its children in a thread of its own."""

    def __init__(self) -> None:
        self.peak = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.05):
            processes = [os.getpid(), *(child.pid for child in multiprocessing.active_children())]
            self.peak = max(self.peak, sum(megabytes(process) for process in processes))


def megabytes(process: int | None) -> float:
    """Anonymous and shared memory of a process in MB of 10**6 bytes, its part of what it shares."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    kinds = {line.split()[0]: int(line.split()[1]) for line in lines[1:]}
    return (kinds["Pss_Anon:"] + kinds["Pss_Shmem:"]) * 1024 / 1e6


def peaks(paths: list[str], size: tuple[int, int]) -> tuple[float, float]:
    """The peak while pictures are decoded, and while batches are made of them."""
    import_tensorflow_quietly()
    with tempfile.TemporaryDirectory() as folder:
        with Watch() as decoding:
            pictures = Machine(cache_gb=100).open(paths, size, Path(folder))
        source = TrainingInput(
            pictures=pictures,
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
        with WorkerPool(WORKERS) as pool, Watch() as feeding:
            for pictures, _, _ in training_dataset(source, pool, epochs=range(EPOCHS)):
                np.asarray(memoryview(pictures)).max()  # a page that nobody looks at counts for nobody
    return decoding.peak, feeding.peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, required=True, help="folder of pictures")
    parser.add_argument("--size", default="224x224", help="height x width")
    parser.add_argument("--rounds", type=int, default=3, help="each a pair of processes; medians are printed")
    arguments = parser.parse_args()
    height, width = (int(side) for side in arguments.size.split("x"))
    paths = [str(path) for path in find_pictures(arguments.pictures)]
    found: dict[int, list[tuple[float, float]]] = {1: [], 10: []}
    for _ in range(arguments.rounds):
        for times, measured in found.items():
            # Not multiprocessing.Pool: its processes may not have children, which the input's workers are.
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                measured.append(pool.submit(peaks, paths * times, (height, width)).result())
    middle = {
        times: [statistics.median(part) for part in zip(*measured, strict=True)] for times, measured in found.items()
    }
    for times, (decoding, feeding) in middle.items():
        print(
            f"{len(paths) * times:7d} pictures of {arguments.size}: decoding {decoding:.0f}, batches {feeding:.0f} MB"
        )
    print("ten times the pictures: " + ", ".join(f"{ten / one:.2f}" for one, ten in zip(*middle.values(), strict=True)))


if __name__ == "__main__":
    main()
