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

Each measurement is a process of its own: batches flow without end, those of the first seconds do not count. The sides
take turns; printed are medians of the rounds, and the medians of the ratios within a round.
"""

import argparse
import importlib.util
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.data.augment import Augmenter
from pipeline.data.index import find_pictures
from pipeline.data.pictures import KeptPictures
from pipeline.training.fold import Machine

BATCH, PRESET = 32, "light"
SETTLING, MEASURING = 1.5, 3.0  # seconds

Size = tuple[int, int]


def rate(counts: Iterable[int]) -> float:
    """Pictures a second of an endless stream of pieces of work, given how many pictures each holds."""
    begun = last = None
    done = 0
    for count in counts:
        now = time.perf_counter()
        begun = begun or now
        if last is None:
            last = now if now - begun > SETTLING else None
            continue
        done += count
        if now - last > MEASURING:
            return done / (now - last)
    raise RuntimeError("the stream ended")


def kept(paths: list[str], size: Size, folder: Path) -> KeptPictures:
    pictures = Machine(cache_gb=100).open(paths, size, folder)
    if not isinstance(pictures, KeptPictures):
        raise SystemExit(f"{folder} has no room for the decoded pictures")
    return pictures


def compose() -> Any:
    import albumentations

    return albumentations.Compose(Augmenter(PRESET).transforms)


def kit(paths: list[str], size: Size, folder: Path, workers: int) -> float:
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
        return rate(len(batch) for batch, _, _ in training_dataset(source, pool, epochs=range(10**6)))


def tf_data(paths: list[str], size: Size, folder: Path, workers: int) -> float:
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
    return rate(len(batch) for batch in dataset)


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


def torch_loader(paths: list[str], size: Size, folder: Path, workers: int) -> float:
    from torch.utils.data import DataLoader, RandomSampler

    pictures = TorchPictures(kept(paths, size, folder))
    # One epoch without end, so that the workers never wait for the next one to begin.
    sampler = RandomSampler(pictures, num_samples=10**6 * len(pictures))
    return rate(len(batch) for batch in DataLoader(pictures, BATCH, sampler=sampler, num_workers=workers))


def bare(paths: list[str], size: Size, folder: Path, workers: int) -> float:
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager:
        found, start = manager.list(), context.Barrier(workers)
        work = [
            context.Process(target=transform_alone, args=(paths, size, folder, start, found)) for _ in range(workers)
        ]
        for process in work:
            process.start()
        for process in work:
            process.join()
        return float(sum(found))


def transform_alone(paths: list[str], size: Size, folder: Path, start: Barrier, found: list[float]) -> None:
    cv2.setNumThreads(0)
    array, transforms = np.asarray(kept(paths, size, folder).array), compose()

    def work() -> Iterator[int]:
        while True:
            for picture in array:
                transforms(image=picture)
                yield 1

    start.wait()
    found.append(rate(work()))


SIDES = {"kit": kit, "against": kit, "tf.data": tf_data, "torch": torch_loader, "bare": bare}


def measured(side: str, size: str, folder: str, arguments: argparse.Namespace) -> float:
    """One measurement in a process of its own, which imports the kit from the checkout in question."""
    home = arguments.against if side == "against" else Path(__file__).parents[1]
    call = [sys.executable, __file__, "--pictures", str(arguments.pictures), "--workers", str(arguments.workers)]
    result = subprocess.run(
        [*call, "--sizes", size, "--side", side, "--folder", folder],
        env=os.environ | {"PYTHONPATH": str(home.resolve())},
        capture_output=True,
        text=True,
    )
    if result.returncode:
        raise SystemExit(f"{side} failed:\n{result.stderr}")
    return float(result.stdout)


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
        print(SIDES[arguments.side](paths, size, arguments.folder, arguments.workers))
        return
    has_torch = importlib.util.find_spec("torch") is not None
    sides = ["kit", *["against"] * bool(arguments.against), "tf.data", *["torch"] * has_torch, "bare"]
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
        with tempfile.TemporaryDirectory() as folder:
            kept(paths, size, Path(folder))
            found: dict[str, list[float]] = {side: [] for side in sides}
            for _ in range(arguments.rounds):
                for side in sides:
                    found[side].append(measured(side, text, folder, arguments))
                now = ", ".join(f"{side} {rates[-1]:.0f}" for side, rates in found.items())
                print(f"{text}: {now}", file=sys.stderr, flush=True)
        for side, rates in found.items():
            ratio = statistics.median(one / other for one, other in zip(found["kit"], rates, strict=True))
            low, middle, high = min(rates), statistics.median(rates), max(rates)
            print(f"{text:>9}  {side:>8}  {middle:10.0f}  {low:6.0f} {high:6.0f}  {ratio:10.2f}")


if __name__ == "__main__":
    main()
