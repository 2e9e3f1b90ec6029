"""How fast is the training input, against its rivals and against the transforms alone?

    python benchmarks/input_pipeline.py --pictures DIR [--sizes 224x224 448x608] [--against CHECKOUT]

Every side makes batches of the same pictures, stretched to the same size, by the same albumentations transforms (the
preset `light`), as uint8:

* `kit`: decoded pictures kept, augmented in worker processes, handed to TensorFlow.
* `tf.data`: decoding and one `numpy_function` a picture in every epoch, as most published notebooks do.
* `torch`: PyTorch's `DataLoader` with as many workers over the kit's decoded pictures; only where torch is installed.
* `bare`: as many processes as there are workers run the transforms over the kit's decoded pictures and keep nothing:
  no batches, no seeds, nothing handed over. No input of these transforms can do much better.
* `against`: the kit of another checkout.

Each side is a process of its own, in which batches flow without end. They take turns, and wait for one another; those
batches do not count that a side makes in its first second. Printed are medians of the rounds, and the medians of the
ratios within a round.
"""

import argparse
import importlib.util
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.data.augment import Augmenter
from pipeline.data.files import find_pictures
from pipeline.data.pictures import KeptPictures
from pipeline.training.fold import Machine

BATCH, PRESET = 32, "light"
SETTLING, MEASURING = 1.0, 3.0  # seconds

Size = tuple[int, int]


def rates(counts: Iterator[int]) -> Generator[float]:
    """Pictures a second, again and again, of an endless stream of pieces of work: how many pictures each holds."""
    while True:
        begun = time.perf_counter()
        while time.perf_counter() - begun < SETTLING:
            next(counts)
        begun, done = time.perf_counter(), 0
        while (taken := time.perf_counter() - begun) < MEASURING:
            done += next(counts)
        yield done / taken


def kept(paths: list[str], size: Size, folder: Path) -> KeptPictures:
    pictures = Machine(cache_gb=100).open(paths, size, folder)
    if not isinstance(pictures, KeptPictures):
        raise SystemExit(f"{folder} has no room for the decoded pictures")
    return pictures


def compose() -> Any:
    import albumentations

    return albumentations.Compose(Augmenter(PRESET).transforms)


def kit(paths: list[str], size: Size, folder: Path, workers: int) -> Generator[float]:
    from pipeline.data.inputs import TrainingInput, training_dataset
    from pipeline.data.workers import WorkerPool

    source = TrainingInput(
        pictures=kept(paths, size, folder),
        ids=paths,
        labels=np.zeros(len(paths), dtype=np.int64),
        classes=2,
        rows=np.arange(len(paths)),
        batch_size=BATCH,
        augment=PRESET,
        seed=0,
        fold=0,
        stage=0,
    )
    with WorkerPool(workers) as pool:
        yield from rates(len(batch) for batch, _, _ in training_dataset(source, pool, epochs=range(10**6)))


def tf_data(paths: list[str], size: Size, folder: Path, workers: int) -> Generator[float]:
    import tensorflow as tf

    transforms = compose()

    def augment(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return np.asarray(transforms(image=picture)["image"])

    def load(path: Any) -> Any:
        picture = tf.io.decode_image(tf.io.read_file(path), channels=3, expand_animations=False)
        picture = tf.cast(tf.image.resize(picture, size), tf.uint8)
        picture = tf.numpy_function(augment, [picture], tf.uint8)
        return tf.ensure_shape(picture, (*size, 3))

    dataset = tf.data.Dataset.from_tensor_slices(paths).shuffle(len(paths), seed=0).repeat()
    dataset = dataset.map(load, num_parallel_calls=tf.data.AUTOTUNE).batch(BATCH).prefetch(tf.data.AUTOTUNE)
    return rates(len(batch) for batch in dataset)


class TorchPictures:
    """A data set as PyTorch knows it: `array` and `transforms` are opened in each worker."""

    def __init__(self, pictures: KeptPictures) -> None:
        self.pictures = pictures
        self.transforms: Any = None

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, row: int) -> Any:
        import torch

        if self.transforms is None:
            cv2.setNumThreads(0)
            self.transforms = compose()
        return torch.from_numpy(self.transforms(image=self.pictures.take(np.array([row]))[0])["image"])


def torch_loader(paths: list[str], size: Size, folder: Path, workers: int) -> Generator[float]:
    from torch.utils.data import DataLoader, RandomSampler

    pictures = TorchPictures(kept(paths, size, folder))
    # One epoch without end, so that the workers never wait for the next one to begin.
    sampler = RandomSampler(pictures, num_samples=10**6 * len(pictures))
    return rates(len(batch) for batch in DataLoader(pictures, BATCH, sampler=sampler, num_workers=workers))


def bare(paths: list[str], size: Size, folder: Path, workers: int) -> Generator[float]:
    with ProcessPoolExecutor(workers, initializer=_begin_alone, initargs=(paths, size, folder)) as pool:
        while True:
            yield sum(pool.map(_rate_alone, range(workers)))


_alone: Iterator[float]


def _begin_alone(paths: list[str], size: Size, folder: Path) -> None:
    global _alone
    cv2.setNumThreads(0)
    array, transforms = np.asarray(kept(paths, size, folder).array), compose()

    def work() -> Iterator[int]:
        while True:
            for picture in array:
                transforms(image=picture)
                yield 1

    _alone = rates(work())


def _rate_alone(_: int) -> float:
    return next(_alone)


SIDES = {"kit": kit, "against": kit, "tf.data": tf_data, "torch": torch_loader, "bare": bare}


class Side:
    """A side in a process of its own, which imports the kit from the checkout in question."""

    def __init__(self, name: str, size: str, folder: Path, arguments: argparse.Namespace) -> None:
        home = arguments.against if name == "against" else Path(__file__).parents[1]
        call = [sys.executable, __file__, "--pictures", arguments.pictures, "--workers", str(arguments.workers)]
        self.name, self.found = name, list[float]()
        self._errors = folder / f"{name}.txt"
        self._process = subprocess.Popen(
            [*call, "--sizes", size, "--side", name, "--folder", folder],
            env=os.environ | {"PYTHONPATH": str(home.resolve())},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors.open("w"),
            text=True,
        )

    def measure(self) -> None:
        print(file=self._process.stdin, flush=True)
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            raise SystemExit(f"{self.name} failed:\n{self._errors.read_text()}")
        self.found.append(float(line))

    def end(self) -> None:
        self._process.communicate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, required=True, help="folder of pictures")
    parser.add_argument("--sizes", nargs="+", default=["224x224", "448x608"], help="height x width")
    parser.add_argument("--against", type=Path, help="another checkout of the kit")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)  # measure this one, once
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    paths = [str(path) for path in find_pictures(arguments.pictures)]
    sizes = {text: (int(text.split("x")[0]), int(text.split("x")[1])) for text in arguments.sizes}
    if arguments.side:
        [size] = sizes.values()
        measurements = SIDES[arguments.side](paths, size, arguments.folder, arguments.workers)
        for _ in sys.stdin:
            print(next(measurements), flush=True)
        measurements.close()
        return
    has_torch = importlib.util.find_spec("torch") is not None
    names = ["kit", *["against"] * bool(arguments.against), "tf.data", *["torch"] * has_torch, "bare"]
    packages = ["tensorflow", "albumentations", "opencv-python-headless", *["torch"] * has_torch]
    print(
        f"{len(paths)} pictures, batch {BATCH}, preset {PRESET}, {arguments.workers} workers, medians of "
        f"{arguments.rounds}; {os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, "
        + ", ".join(f"{name} {version(name)}" for name in packages)
    )
    if not has_torch:
        print("torch is not installed: its DataLoader is left out")
    print(f"{'size':>9}  {'side':>8}  {'pictures/s':>10}  {'from':>6} {'to':>6}  {'kit / side':>10}")
    for text, size in sizes.items():
        with tempfile.TemporaryDirectory() as name:
            kept(paths, size, Path(name))
            sides = [Side(side, text, Path(name), arguments) for side in names]
            for _ in range(1 + arguments.rounds):  # in the first they load their tools
                for side in sides:
                    side.measure()
            for side in sides:
                side.end()
        for side in sides:
            ratio = statistics.median(
                one / other for one, other in zip(sides[0].found[1:], side.found[1:], strict=True)
            )
            low, middle, high = min(side.found[1:]), statistics.median(side.found[1:]), max(side.found[1:])
            print(f"{text:>9}  {side.name:>8}  {middle:10.0f}  {low:6.0f} {high:6.0f}  {ratio:10.2f}", flush=True)


if __name__ == "__main__":
    main()
