"""How many pictures a second do the larger networks train on and predict, against timm's in PyTorch on the same GPU?

    python benchmarks/gpu.py [--rival PYTHON] [--only b0@224 v2-s@300 b7@224 b7@600] [--json FILE] [--toy]

PYTHON is an interpreter that has torch and timm; by default this one. Each network trains and predicts in a process of
its own: one batch of uint8 pictures is sent to the device again and again, so that the network is timed and not what
feeds it. All of it is trained but BatchNorm, which is frozen, as the kit's recipes have it; on both sides with Adam and
dropped connections. The kit runs as it does in training, on JAX where TensorFlow has no GPU build (KERAS_BACKEND
overrules); the rival is channels-last, with autocast and compiled. `float32` may use TF32 on both. `mixed` is bfloat16,
or float16 on a GPU without it. A batch that does not fit is halved. The share of the GPU's peak counts a training step
as three forward passes. `--toy` is a run on a CPU to see that it works: its numbers say nothing.
"""

import argparse
import importlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from common import HERE, build, hardware, versions

# Dense bfloat16 TFLOPS of NVIDIA's data sheets of each (half of what a sheet gives "with sparsity"); float16 for T4 and
# P100, which have no bfloat16. The first that is found in the GPU's name.
PEAKS = {
    r"A100": 312.0,
    r"H100 PCIe": 756.0,
    r"H[12]00 NVL": 835.5,
    r"H[12]00": 989.5,
    r"\bT4\b": 65.0,
    r"P100": 18.7,
    r"\bL4\b": 121.0,
}
SIDES = ("kit", "timm")
PRECISIONS = ("float32", "mixed")
CLASSES, ROUNDS = 100, 5
OUT_OF_MEMORY = 3  # exit code


class Network(NamedTuple):
    """What both sides call it, the side of its square pictures in pixels, and the batch to begin with."""

    kit: str
    timm: str
    side: int
    batch: int


NETWORKS = {
    "b0@224": Network("efficientnet-b0", "efficientnet_b0", 224, 256),
    "v2-s@300": Network("efficientnet-v2-s", "tf_efficientnetv2_s", 300, 128),
    "b7@224": Network("efficientnet-b7", "efficientnet_b7", 224, 128),
    "b7@600": Network("efficientnet-b7", "efficientnet_b7", 600, 32),
}


def gpu() -> tuple[str, float] | None:
    """Name and compute capability of the first GPU, as its driver knows them."""
    command = ["nvidia-smi", "--query-gpu=name,compute_cap", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        name, capability = answer.splitlines()[0].split(", ")
        return name, float(capability)
    except (OSError, subprocess.CalledProcessError, IndexError, ValueError):
        return None


def peak_of(name: str) -> float | None:
    return next((peak for pattern, peak in PEAKS.items() if re.search(pattern, name)), None)


def time_kit(network: Network, precision: str, batch: int, steps: int) -> dict[str, Any]:
    """Pictures a second of each round in training and in predicting, and FLOPs of a forward pass."""
    import numpy as np

    if "KERAS_BACKEND" not in os.environ and gpu():
        import tensorflow as tf

        os.environ["KERAS_BACKEND"] = "tensorflow" if tf.test.is_built_with_cuda() else "jax"
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.95")  # JAX takes 0.75 by default
    from pipeline.training.device import device, for_training, import_tensorflow_quietly

    import_tensorflow_quietly()
    import keras
    import tensorflow as tf

    from pipeline.model.classifier import build_classifier
    from pipeline.model.cost import network_cost
    from pipeline.model.freezing import unfreeze
    from pipeline.recipe import Head, Stage
    from pipeline.training.schedule import make_optimizer

    if gpu() and device() != "GPU":
        raise SystemExit(f"there is a GPU, but Keras on {keras.backend.backend()} sees none: install the extra `jax`")
    model = build_classifier(backbone=network.kit, weights="none", head=Head(), classes=CLASSES, precision=precision)
    unfreeze(model.get_layer("backbone"), network.kit, 1, batch_norm="frozen")
    flops = network_cost(model, (network.side, network.side)).flops
    stage = Stage(name="all", unfreeze=1, epochs=1, learning_rate=1e-4)
    model.compile(
        optimizer=make_optimizer(stage, steps_per_epoch=steps, precision=precision, scales={}),
        loss=keras.losses.CategoricalCrossentropy(from_logits=True),
        weighted_metrics=["accuracy"],
    )
    pictures = np.random.default_rng(0).integers(0, 256, (batch, network.side, network.side, 3), dtype=np.uint8)
    targets = np.eye(CLASSES, dtype=np.float32)[np.arange(batch) % CLASSES]
    fed = tf.data.Dataset.from_tensors((pictures, targets, np.ones(batch, np.float32))).repeat().prefetch(2)
    ends: list[float] = []

    def end(epoch: int, logs: dict[str, Any]) -> None:
        float(logs["loss"])  # waits for the device
        ends.append(time.perf_counter())

    done = keras.callbacks.LambdaCallback(on_epoch_end=end)
    model.fit(
        for_training(fed, batch_size=batch, parts=1),
        epochs=1 + ROUNDS,
        steps_per_epoch=steps,
        callbacks=[done],
        verbose=0,
    )
    trained = [after - before for before, after in pairwise(ends)]
    asked = tf.data.Dataset.from_tensors(pictures).repeat(steps).prefetch(2)
    predicted = timed(lambda: model.predict(asked, verbose=0))
    return {
        "train": [batch * steps / seconds for seconds in trained],
        "predict": [batch * steps / seconds for seconds in predicted],
        "flops": flops,
        "device": f"{keras.backend.backend()} on {device()}",
        "versions": versions("keras", "tensorflow", "jax"),
    }


def time_timm(network: Network, precision: str, batch: int, steps: int) -> dict[str, Any]:
    """The same of timm's network; `precision` is float32, bfloat16 or float16."""
    # By their names, as mypy would want to see them, and they are not installed with the kit.
    timm, torch = (importlib.import_module(name) for name in ("timm", "torch"))
    on = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    model = timm.create_model(network.timm, num_classes=CLASSES, drop_rate=0.2, drop_path_rate=0.2)
    model = model.to(on, memory_format=torch.channels_last)
    frozen = [layer for layer in model.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    for layer in frozen:
        layer.requires_grad_(False)
    # timm's default mean and std, on pictures in 0..255.
    mean, std = (
        torch.tensor(c, device=on).view(1, 3, 1, 1) * 255 for c in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    half = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(precision)
    optimizer = torch.optim.Adam((p for p in model.parameters() if p.requires_grad), lr=1e-4, fused=True)
    scaler = torch.amp.GradScaler(on.type, enabled=half is torch.float16)
    # On a CPU the default would have a C++ compiler at work for minutes.
    backend = "inductor" if on.type == "cuda" else "aot_eager"
    compiled = torch.compile(lambda pictures: model((pictures.float() - mean) / std), backend=backend)
    pictures = torch.randint(0, 256, (batch, network.side, network.side, 3), dtype=torch.uint8)
    targets = torch.arange(batch) % CLASSES
    if on.type == "cuda":
        pictures, targets = pictures.pin_memory(), targets.pin_memory()

    def logits() -> Any:
        # Rows of pixels as they are stored: seen as channels first, that is channels-last in memory.
        sent = pictures.to(on, non_blocking=True).permute(0, 3, 1, 2)
        with torch.autocast(on.type, dtype=half, enabled=half is not None):
            return compiled(sent)

    def train() -> None:
        for _ in range(steps):
            loss = torch.nn.functional.cross_entropy(logits().float(), targets.to(on, non_blocking=True))
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        if on.type == "cuda":
            torch.cuda.synchronize()

    def predict() -> None:
        with torch.inference_mode():
            torch.cat([logits() for _ in range(steps)]).cpu()

    model.train()
    for layer in frozen:
        layer.eval()
    trained = timed(train)
    model.eval()
    predicted = timed(predict)
    return {
        "train": [batch * steps / seconds for seconds in trained],
        "predict": [batch * steps / seconds for seconds in predicted],
        "device": f"torch on {on.type}",
        "versions": versions("torch", "timm"),
    }


def timed(work: Callable[[], object]) -> list[float]:
    """Seconds of each round, after one that compiles."""
    work()
    seconds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return seconds


def in_own_process(side: str, python: str, network: Network, precision: str, steps: int) -> dict[str, Any]:
    """What one side measured, with the batch it did; `error` where it could not.

    A batch that does not fit into the memory is halved until it does.
    """
    batch = network.batch
    while batch:
        asked = json.dumps([side, list(network), precision, batch, steps])
        command = [python, str(Path(__file__).resolve()), "--measure", asked]
        environment = {**os.environ, "PYTHONPATH": str(HERE), "TF_CPP_MIN_LOG_LEVEL": "3"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode == 0:
            return {"batch": batch, **json.loads(done.stdout.splitlines()[-1])}
        if done.returncode not in (OUT_OF_MEMORY, -9, 137) and not says_out_of_memory(done.stderr):
            return {"batch": batch, "error": (done.stderr.strip().splitlines() or ["no message"])[-1][:300]}
        batch //= 2
    return {"batch": 0, "error": "not one picture fits into the memory"}


def says_out_of_memory(text: str) -> bool:
    return "RESOURCE_EXHAUSTED" in text or "out of memory" in text.lower() or "ResourceExhausted" in text


def measure_and_print(asked: str) -> None:
    side, network, precision, batch, steps = json.loads(asked)
    try:
        result = (time_kit if side == "kit" else time_timm)(Network(*network), precision, batch, steps)
    except Exception as error:
        if isinstance(error, MemoryError) or says_out_of_memory(f"{type(error).__name__}: {error}"):
            sys.exit(OUT_OF_MEMORY)
        raise
    print(json.dumps(result))


def rows_of(found: dict[str, Any], peak: float | None) -> Iterator[dict[str, Any]]:
    """A row for training and one for predicting: medians, the ratio, and shares of the peak."""
    flops = found["kit"].get("flops")
    for work, passes in (("train", 3), ("predict", 1)):
        row: dict[str, Any] = {"network": found["network"], "precision": found["precision"], "work": work}
        for side in SIDES:
            speeds = found.get(side, {}).get(work)
            speed = median(speeds) if speeds else None
            row |= {f"{side}_batch": found.get(side, {}).get("batch"), f"{side}_per_second": speed}
            row[f"{side}_share"] = speed * flops * passes / peak / 1e12 if speed and flops and peak else None
        ours, theirs = row["kit_per_second"], row["timm_per_second"]
        yield row | {"kit / timm": ours / theirs if ours and theirs else None}


def show(row: dict[str, Any]) -> str:
    def cell(key: str, form: str) -> str:
        return "–" if row[key] is None else format(row[key], form)

    sides = "  ".join(
        f"{cell(f'{side}_batch', 'd'):>5} {cell(f'{side}_per_second', '.1f'):>9} {cell(f'{side}_share', '.1%'):>6}"
        for side in SIDES
    )
    return f"{row['network']:<9} {row['precision']:<8} {row['work']:<8} {sides}  {cell('kit / timm', '.2f'):>10}"


def rival_of(python: str) -> bool:
    """Whether the interpreter has torch and timm; says what is missing."""
    asked = "import timm, torch; print(f'rival: torch {torch.__version__}, timm {timm.__version__}')"
    try:
        done = subprocess.run([python, "-c", asked], capture_output=True, text=True)
    except OSError as error:
        print(f"no rival: {error}")
        return False
    answer = done.stderr if done.returncode else done.stdout
    print(("no rival: " if done.returncode else "") + (answer.strip().splitlines() or ["no message"])[-1])
    return done.returncode == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rival", default=sys.executable, help="an interpreter that has torch and timm")
    parser.add_argument("--only", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--steps", type=int, default=20, help="batches a round")
    parser.add_argument("--json", type=Path, help="where to write all that was measured")
    parser.add_argument("--toy", action="store_true", help="on a CPU: 64 pixels, batches of 4")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        measure_and_print(given.measure)
        return
    name, capability = gpu() or ("no GPU", 0.0)
    if not capability and not given.toy:
        raise SystemExit("no GPU is here\n  expected: one that nvidia-smi shows\n  next: --toy tries it on the CPU")
    peak, half = peak_of(name), "float16" if 0 < capability < 8 else "bfloat16"
    print(hardware())
    print(f"{name}; peak {f'{peak:g} TFLOPS' if peak else 'not known'}; mixed is {half}; kit {build(HERE)}")
    sides = {"kit": sys.executable} | ({"timm": given.rival} if rival_of(given.rival) else {})
    print(f"{'':27} {'kit':>5} {'pics/s':>9} {'peak':>6}  {'timm':>5} {'pics/s':>9} {'peak':>6}  {'kit / timm':>10}")
    measured, rows = [], []
    for key in given.only:
        network = NETWORKS[key]._replace(side=64, batch=4) if given.toy else NETWORKS[key]
        for precision in given.precision:
            found: dict[str, Any] = {"network": key, "precision": precision}
            for side, python in sides.items():
                dtype = precision if precision == "float32" else half if side == "timm" else f"mixed_{half}"
                found[side] = in_own_process(side, python, network, dtype, 2 if given.toy else given.steps)
                if "error" in found[side]:
                    print(f"{side}, {key}, {precision}: {found[side]['error']}")
            measured.append(found)
            for row in rows_of(found, peak):
                rows.append(row)
                print(show(row), flush=True)
    for side in sides:
        said = {f"{found[side]['device']}: {found[side]['versions']}" for found in measured if "device" in found[side]}
        print(f"{side}: {', '.join(sorted(said)) or 'nothing measured'}")
    if given.json:
        content = {"gpu": name, "peak_tflops": peak, "toy": given.toy, "rows": rows, "measured": measured}
        given.json.write_text(json.dumps(content, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
