"""How fast are pictures predicted by five fold models in four views?

    python benchmarks/inference.py --pictures DIR [--size 160x160] [--against CHECKOUT]

The sides, each from the files of five fold models of MobileNet 0.75 (ImageNet weights, heads of their own):

kit       what `kit predict` and the prediction kernel do: decode, then `predict_folds`
files     a loop of `model.predict` over tf.data from the files, fold by fold, view by view, a model built for each fold
memory    `model.predict` alone, on decoded pictures and views that lie in memory as one array, its network compiled
today     with --against: the same as `kit`, by the package in another checkout, in a process of its own

Times are of all 5 × 4 predictions of every picture; but for `memory` they begin with the files and hold the building
and compiling of the networks. The sides alternate; the ratio is of the medians.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax
from tqdm import tqdm

from pipeline.data.files import find_pictures
from pipeline.predictions.tta import PLAIN, view
from pipeline.recipe import Recipe, parse_recipe
from pipeline.training.device import import_tensorflow_quietly
from pipeline.training.fold import Machine
from pipeline.training.network import load_network
from pipeline.training.predict import predict_folds

FOLDS, CLASSES, BATCH = 5, 10, 32
VIEWS = ("flip", "zoom_in", "shift_left")


@dataclass
class Job:
    """What every side predicts: these pictures, by the fold models in `folder`."""

    paths: list[str]
    size: tuple[int, int]
    folder: Path

    @property
    def weights(self) -> list[Path]:
        return [self.folder / f"fold-{fold}.weights.h5" for fold in range(FOLDS)]

    @property
    def recipe(self) -> Recipe:
        stage = {"name": "all", "unfreeze": 1, "size": list(self.size), "epochs": 1, "learning_rate": 1e-3}
        content = {"name": "benchmark", "backbone": "mobilenet-0.75", "stages": [stage], "tta": {"views": VIEWS}}
        return parse_recipe(content, source="of the benchmark")

    def write_models(self) -> None:
        network = load_network(self.recipe, classes=CLASSES, weights=None)
        for fold, file in enumerate(self.weights):
            head = network.get_layer("logits")
            kernel = np.random.default_rng(fold).normal(0, 0.05, head.kernel.shape)
            head.set_weights([kernel, np.zeros(CLASSES)])
            network.save_weights(file)

    def seen(self) -> NDArray[np.uint8]:
        """Every picture in every view: uint8 of shape (views × pictures, height, width, 3)."""
        with tempfile.TemporaryDirectory() as folder:
            pictures = Machine(cache_gb=100).open(self.paths, self.size, Path(folder))
            plain = pictures.take(np.arange(len(pictures)))
        return np.concatenate([view(name)(plain) for name in (PLAIN, *VIEWS)])


def kit(job: Job) -> NDArray[np.float32]:
    """The mean probabilities, float32 of shape (pictures, classes); as all sides."""
    with tempfile.TemporaryDirectory() as folder:
        pictures = Machine(cache_gb=100).open(job.paths, job.size, Path(folder))
        each = [pictures] * len(job.weights)
        return predict_folds(job.recipe, job.weights, each, classes=CLASSES, target="single", with_views=True)


def files(job: Job) -> NDArray[np.float32]:
    """A notebook's loop, its views by TensorFlow: close to the kit's, not equal to them."""
    import keras
    import tensorflow as tf

    height, width = job.size

    def shifted(picture: Any) -> Any:
        columns = round(0.06 * width)
        return tf.pad(picture, [[0, 0], [0, columns], [0, 0]], mode="REFLECT")[:, columns:]

    ways: list[Callable[[Any], Any]] = [
        lambda picture: picture,
        tf.image.flip_left_right,
        lambda picture: tf.image.resize(tf.image.central_crop(picture, 1 / 1.12), job.size),
        shifted,
    ]
    found = []
    for file in job.weights:
        keras.backend.clear_session()
        network = load_network(job.recipe, classes=CLASSES, weights=file)
        for way in ways:

            def load(path: Any, way: Callable[[Any], Any] = way) -> Any:
                picture = tf.io.decode_image(tf.io.read_file(path), channels=3, expand_animations=False)
                return tf.ensure_shape(way(tf.image.resize(picture, job.size)), (height, width, 3))

            dataset = tf.data.Dataset.from_tensor_slices(job.paths).map(load, num_parallel_calls=tf.data.AUTOTUNE)
            logits = network.predict(dataset.batch(BATCH).prefetch(tf.data.AUTOTUNE), verbose=0)
            found.append(softmax(logits, axis=1))
    return np.asarray(np.mean(found, axis=0))


class Memory:
    """`model.predict` on an array, again and again by one network that is compiled already."""

    def __init__(self, job: Job) -> None:
        self.array = job.seen()
        self.network = load_network(job.recipe, classes=CLASSES, weights=job.weights[0])
        self.weights = []
        for file in job.weights:
            self.network.load_weights(file)
            self.weights.append(self.network.get_weights())
        self.network.predict(self.array, batch_size=BATCH, verbose=0)

    def __call__(self, job: Job) -> NDArray[np.float32]:
        found = []
        for weights in self.weights:
            self.network.set_weights(weights)
            logits = self.network.predict(self.array, batch_size=BATCH, verbose=0)
            found.append(softmax(logits.reshape(1 + len(VIEWS), len(job.paths), CLASSES), axis=2))
        return np.asarray(np.mean(found, axis=(0, 1)))


def seconds(side: Callable[[Job], NDArray[np.float32]], job: Job) -> tuple[float, NDArray[np.float32]]:
    started = time.perf_counter()
    found = side(job)
    return time.perf_counter() - started, found


def elsewhere(checkout: Path, arguments: list[str], folder: Path) -> float:
    """Seconds of the side `kit` with the package of another checkout."""
    command = [sys.executable, __file__, *arguments, "--models", str(folder)]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(checkout)}, check=True, capture_output=True, text=True
    )
    return float(done.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, required=True, help="folder of pictures")
    parser.add_argument("--size", default="160x160", help="height x width")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--against", type=Path, help="a checkout of another build")
    parser.add_argument("--models", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    import_tensorflow_quietly()
    import keras

    height, width = (int(side) for side in arguments.size.split("x"))
    paths = [str(path) for path in find_pictures(arguments.pictures)]
    if arguments.models:
        keras.backend.clear_session()
        print(seconds(kit, Job(paths, (height, width), arguments.models))[0])
        return
    import tensorflow as tf

    print(
        f"{len(paths)} pictures at {arguments.size}, {FOLDS} folds × {1 + len(VIEWS)} views, batch {BATCH}; "
        f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, TensorFlow "
        f"{tf.__version__}, Keras {keras.__version__}, TF_ENABLE_ONEDNN_OPTS={os.environ.get('TF_ENABLE_ONEDNN_OPTS')}"
    )
    with tempfile.TemporaryDirectory() as folder:
        job = Job(paths, (height, width), Path(folder))
        job.write_models()
        memory = Memory(job)
        times: dict[str, list[float]] = {"kit": [], "files": [], "memory": []}
        for _ in tqdm(range(arguments.rounds), unit="round", leave=False, disable=None):
            found = {}
            for name, side in (("kit", kit), ("files", files), ("memory", memory)):
                taken, found[name] = seconds(side, job)
                times[name].append(taken)
            if arguments.against:
                options = ["--pictures", str(arguments.pictures), "--size", arguments.size]
                times.setdefault("today", []).append(elsewhere(arguments.against, options, job.folder))
            difference = float(np.abs(found["kit"] - found["memory"]).max())
            if difference > 1e-5:
                raise SystemExit(f"the kit's probabilities differ from those of memory by {difference:.2g}")
    passes, own = len(paths) * FOLDS * (1 + len(VIEWS)), statistics.median(times["kit"])
    print(f"{'side':>8}  {'seconds':>7}  {'from':>6}  {'to':>6}  {'pictures/s':>10}  {'kit is … times as fast':>22}")
    for name, each in times.items():
        middle = statistics.median(each)
        print(
            f"{name:>8}  {middle:7.1f}  {min(each):6.1f}  {max(each):6.1f}  {passes / middle:10.0f}  "
            f"{middle / own:22.2f}"
        )


if __name__ == "__main__":
    main()
