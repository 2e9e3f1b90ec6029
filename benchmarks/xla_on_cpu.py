"""Does XLA pay on this machine's CPU? Seconds a training step, with and without, in one run.

    python benchmarks/xla_on_cpu.py [--backbone mobilenet-0.75] [--size 160x160]

Random weights, everything unfrozen, batch 32, the median of the steps after the first two.
"""

import argparse
import os
import platform
import time

import numpy as np

from pipeline.model.classifier import build_classifier
from pipeline.model.freezing import unfreeze
from pipeline.recipe import Head
from pipeline.training.device import import_tensorflow_quietly

BATCH, CLASSES, STEPS = 32, 10, 6


def seconds_a_step(backbone: str, size: tuple[int, int], *, jit_compile: bool) -> float:
    import keras

    keras.utils.set_random_seed(0)
    network = build_classifier(backbone=backbone, weights="none", head=Head(), classes=CLASSES)
    unfreeze(network.get_layer("backbone"), backbone, 1.0, batch_norm="frozen")
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    network.compile(optimizer="adam", loss=loss, jit_compile=jit_compile)
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (BATCH, *size, 3), dtype=np.uint8)
    targets = np.eye(CLASSES, dtype=np.float32)[rng.integers(0, CLASSES, BATCH)]
    seconds = []
    for _ in range(STEPS + 2):
        started = time.perf_counter()
        network.train_on_batch(pictures, targets)
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds[2:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="mobilenet-0.75")
    parser.add_argument("--size", default="160x160", help="height x width")
    arguments = parser.parse_args()
    import_tensorflow_quietly()
    import keras
    import tensorflow as tf

    height, width = (int(side) for side in arguments.size.split("x"))
    print(
        f"{arguments.backbone} at {height}x{width}, batch {BATCH}; {os.cpu_count()} cores, {platform.machine()}, "
        f"TensorFlow {tf.__version__}, Keras {keras.__version__}"
    )
    plain = seconds_a_step(arguments.backbone, (height, width), jit_compile=False)
    xla = seconds_a_step(arguments.backbone, (height, width), jit_compile=True)
    print(f"without XLA {plain:.3f} s a step, with XLA {xla:.3f} s: {xla / plain:.1f} times as long")


if __name__ == "__main__":
    main()
