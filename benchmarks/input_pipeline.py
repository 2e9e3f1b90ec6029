"""How fast is the training input, against plain tf.data with one `numpy_function` a picture?

    python benchmarks/input_pipeline.py --pictures DIR [--sizes 224x224 352x640]

Both sides decode the same files, stretch them to the same size and run the same albumentations transforms
(the preset `light`). The naive side decodes in every epoch, as most published notebooks do; the kit's side keeps
the decoded pictures and augments in worker processes. Timed is epoch 2, alternating between the sides, and the
best of the rounds is taken on each: other work on the machine only ever slows a round down.
"""

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from pipeline.data.augment import Augmenter
from pipeline.data.index import find_pictures
from pipeline.data.inputs import TrainingInput, training_dataset
from pipeline.data.workers import WorkerPool
from pipeline.training.device import import_tensorflow_quietly
from pipeline.training.fold import Machine

BATCH = 32
PRESET = "light"


def naive_dataset(paths: list[str], size: tuple[int, int]) -> Any:
    """tf.data as it is mostly written: decode, resize and one `numpy_function` a picture, in parallel."""
    import tensorflow as tf

    augmenter = Augmenter(PRESET)
    compose = augmenter._compose

    def augment(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return np.asarray(compose(image=picture)["image"]) if compose else picture

    def load(path: Any) -> Any:
        picture = tf.io.decode_image(tf.io.read_file(path), channels=3, expand_animations=False)
        picture = tf.cast(tf.image.resize(picture, size), tf.uint8)
        picture = tf.numpy_function(augment, [picture], tf.uint8)
        return tf.ensure_shape(picture, (*size, 3))

    dataset = tf.data.Dataset.from_tensor_slices(paths).shuffle(len(paths), seed=0)
    return dataset.map(load, num_parallel_calls=tf.data.AUTOTUNE).batch(BATCH).prefetch(tf.data.AUTOTUNE)


def naive_epochs(paths: list[str], size: tuple[int, int]) -> Iterator[float]:
    """Pictures a second of each epoch."""
    dataset = naive_dataset(paths, size)
    while True:
        started = time.perf_counter()
        count = sum(len(batch) for batch in dataset)
        yield count / (time.perf_counter() - started)


def kit_epochs(paths: list[str], size: tuple[int, int], folder: Path, workers: int, *, epochs: int) -> Iterator[float]:
    """Pictures a second of each epoch; the first includes decoding and starting the workers."""
    started = time.perf_counter()
    pictures = Machine(cache_gb=100).open(paths, size, folder)
    source = TrainingInput(
        pictures=pictures,
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
        dataset = iter(training_dataset(source, pool, epochs=range(epochs)))
        for _ in range(epochs):
            for _ in range(source.steps_per_epoch):
                next(dataset)
            yield len(paths) / (time.perf_counter() - started)
            started = time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, required=True, help="folder of pictures")
    parser.add_argument("--sizes", nargs="+", default=["224x224", "352x640"], help="height x width")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    import_tensorflow_quietly()
    import albumentations
    import tensorflow as tf

    paths = [str(path) for path in find_pictures(arguments.pictures)]
    print(
        f"{len(paths)} pictures, batch {BATCH}, preset {PRESET}, {arguments.workers} workers; "
        f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, "
        f"TensorFlow {tf.__version__}, albumentations {albumentations.__version__}"
    )
    print(f"{'size':>9}  {'naive /s':>9}  {'kit /s':>9}  {'kit / naive':>11}")
    for text in arguments.sizes:
        height, width = (int(side) for side in text.split("x"))
        with tempfile.TemporaryDirectory() as folder:
            sides: dict[str, Callable[[], Iterator[float]]] = {
                "naive": lambda: naive_epochs(paths, (height, width)),  # noqa: B023
                "kit": lambda: kit_epochs(paths, (height, width), Path(folder), arguments.workers, epochs=2),  # noqa: B023
            }
            best = dict.fromkeys(sides, 0.0)
            for _ in tqdm(range(arguments.rounds), desc=text, unit="round", leave=False, disable=None):
                for name, start in sides.items():
                    epochs = start()
                    next(epochs)
                    best[name] = max(best[name], next(epochs))
                    for _ in epochs if name == "kit" else ():
                        pass
            ratio = best["kit"] / best["naive"]
            print(f"{text:>9}  {best['naive']:9.0f}  {best['kit']:9.0f}  {ratio:11.2f}")


if __name__ == "__main__":
    main()
