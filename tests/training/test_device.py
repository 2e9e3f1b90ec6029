"""A network shared by two devices gives what one device gives."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from pipeline.artifacts import read_json
from pipeline.model.classifier import build_classifier
from pipeline.predictions.store import read_predictions
from pipeline.recipe import Head
from pipeline.training import device
from pipeline.training.network import load_network
from pipeline.training.predict import predict_folds
from pipeline.training.validation import predict
from tests.training.conftest import Run, stage

CLASSES = ["blue", "green", "red"]
# 12 training rows in batches of 5: neither the batch nor the rows of the last one divide by two. The second stage takes
# one row at a time on each device.
CALM = {"augment": "none", "batch_norm": "frozen", "batch_size": 5}
STAGES = (stage("one", **CALM, epochs=3), stage("two", **CALM, epochs=2, accumulate=5))

TWO_DEVICES = """
import json, sys
from pathlib import Path

import numpy as np
import tensorflow as tf

from pipeline.training import device

if __name__ == "__main__":
    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    device.accelerators = lambda: ["CPU:0", "CPU:1"]

    from pipeline.artifacts import Workspace
    from pipeline.competition import load_competition
    from pipeline.training.fold import Machine
    from pipeline.training.predict import predict_folds
    from pipeline.training.network import load_network
    from pipeline.training.validation import predict
    from tests.training.conftest import Run, recipe_of

    root = Path(sys.argv[1])
    settings = json.loads(sys.argv[2])
    run = Run(load_competition("tiny", root=root), Workspace(root), recipe_of(*settings.pop("stages"), **settings))
    run.train(folds=[0], machine=Machine(workers=0))
    if sys.argv[3:]:
        print("FOUND", json.dumps({"devices": device.replicas()}))
        sys.exit()
    task, data = run.task(0), run.data
    pictures = task.machine.open(list(data.train["path"]), (32, 32), run.workspace.cache("tiny"))
    network = load_network(run.recipe, classes=3, weights=task.weights)
    order = np.random.default_rng(0).permutation(len(pictures))
    found = {
        f"{count} rows in batches of {size}":
            predict(network, pictures, order[:count], target="single", batch_size=size).tolist()
        for count, size in ((1, 8), (7, 3), (8, 4), (9, 4), (5, 1))
    }
    two = [task.weights] * 2
    views = predict_folds(run.recipe, two, [pictures] * 2, classes=3, target="single", with_views=True).tolist()
    found = {"predictions": found, "views": views, "order": order.tolist(), "devices": device.replicas()}
    print("FOUND", json.dumps(found))
"""


def on_two_devices(run: Run, *only: str, **settings: Any) -> Any:
    """What the script prints; `"train"` alone leaves the predictions out."""
    content = json.dumps({"stages": [*run.recipe.model_dump(mode="json", exclude_none=True)["stages"]], **settings})
    command = [sys.executable, "-c", TWO_DEVICES, str(run.workspace.root), content, *only]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("FOUND "))
    return json.loads(line.removeprefix("FOUND "))


@pytest.mark.slow
def test_two_devices_give_what_one_gives(begin: Callable[..., Run], tmp_path: Path) -> None:
    settings: dict[str, Any] = {"head": {"dropout": 0}, "tta": {"views": ["flip"]}}
    run = begin(*STAGES, **settings)
    found = on_two_devices(run, **settings)
    task = run.task(0)
    shared = task.folder.rename(tmp_path / "shared")
    run.train(folds=[0])

    assert found["devices"] == 2
    assert read_json(shared / "stage-1" / "stage.json")["devices"] == 2
    assert read_json(task.stage_folder(1) / "stage.json")["devices"] == 1
    for number in (0, 1):
        logs = [pd.read_csv(folder / f"stage-{number}" / "log.csv") for folder in (shared, task.folder)]
        for column in ("loss", "val_loss", "accuracy"):
            np.testing.assert_allclose(*(log[column] for log in logs), rtol=1e-4)
    for name in ("oof.parquet", "oof_tta.parquet", "test.parquet", "test_tta.parquet"):
        one, other = (read_predictions(folder / name) for folder in (task.folder, shared))
        assert list(one["id"]) == list(other["id"])
        np.testing.assert_allclose(one[CLASSES], other[CLASSES], atol=1e-4)

    # The weights that two devices left give the same predictions on one, row by row.
    network = load_network(run.recipe, classes=3, weights=shared / "stage-1" / "best.weights.h5")
    pictures = task.machine.open(list(run.data.train["path"]), (32, 32), run.workspace.cache("tiny"))
    expected = predict(network, pictures, np.array(found["order"]), target="single", batch_size=5)
    assert np.abs(expected - expected[0]).max() > 0.1
    for what, rows in found["predictions"].items():
        assert len(rows) == int(what.split()[0])
        np.testing.assert_allclose(rows, expected[: len(rows)], atol=1e-5, err_msg=what)
    one = predict_folds(
        run.recipe, [shared / "stage-1" / "best.weights.h5"], [pictures], classes=3, target="single", with_views=True
    )
    np.testing.assert_allclose(found["views"], one, atol=1e-5)


@pytest.mark.slow
def test_two_devices_train_with_mixed_precision_dropout_and_batch_norm(begin: Callable[..., Run]) -> None:
    settings: dict[str, Any] = {"precision": "mixed_float16", "head": {"dropout": 0.2}}
    frozen = stage("frozen", unfreeze=0, batch_norm="frozen", learning_rate=1e-3)  # trains the head on features
    run = begin(stage("one", epochs=6), stage("parts", batch_size=4, accumulate=2), frozen, **settings)
    assert on_two_devices(run, "train", **settings)["devices"] == 2
    results = [read_json(run.task(0).stage_folder(number) / "stage.json") for number in (0, 1, 2)]
    assert min(result["score"] for result in results) >= 0.75
    assert [result["views_kept"] for result in results] == [0, 0, 2]


def batch(size: int, real: int) -> tuple[Any, Any, Any]:
    """Pictures and targets that tell their row."""
    rows = np.arange(size)
    weights = (rows < real).astype(np.float32)
    return rows.astype(np.uint8)[:, None, None, None], np.eye(size, dtype=np.float32), weights


@pytest.mark.parametrize("replicas", [1, 2, 3])
@pytest.mark.parametrize(("size", "real"), [(6, 6), (6, 4), (5, 5), (5, 1)])
def test_the_mean_over_all_rows_is_the_mean_over_the_real_ones(
    monkeypatch: pytest.MonkeyPatch, replicas: int, size: int, real: int
) -> None:
    monkeypatch.setattr(device, "replicas", lambda: replicas)
    given = tf.data.Dataset.from_tensors(batch(size, real))
    ((pictures, targets, weights),) = device.for_training(given, batch_size=size, parts=1).as_numpy_iterator()
    assert len(pictures) == len(targets) == len(weights)
    assert len(pictures) % replicas == 0
    assert len(pictures) - size < replicas
    losses = np.arange(10.0, 10 + len(pictures))
    assert (losses * weights).mean() == pytest.approx(losses[:real].mean())
    assert weights[real:].max(initial=0) == 0
    assert pictures[:size].ravel().tolist() == list(range(size))
    assert targets.argmax(axis=1).tolist() == pictures.ravel().tolist()


def test_a_full_batch_is_left_as_it_is() -> None:
    given = batch(6, 6)
    (made,) = device.for_training(tf.data.Dataset.from_tensors(given), batch_size=6, parts=1).as_numpy_iterator()
    for one, other in zip(given, made, strict=True):
        np.testing.assert_array_equal(one, other)


def test_without_several_gpus_nothing_is_shared() -> None:
    if len(device.accelerators()) > 1:
        pytest.skip("this machine has several GPUs")
    assert device.replicas() == 1
    assert device.divisible(7) == 7
    with device.distribution():
        assert not tf.distribute.has_strategy()


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ([], "float32"),
        ([(6, 0)], "float32"),
        ([(7, 5), (7, 5)], "mixed_float16"),
        ([(9, 0)], "mixed_bfloat16"),
        ([(9, 0), (7, 5)], "mixed_float16"),
        ([None], "float32"),  # not NVIDIA's
    ],
)
def test_precision_auto_is_what_the_weakest_gpu_gains_by(
    capabilities: list[Any], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: list(enumerate(capabilities)))
    of = lambda gpu: {} if gpu[1] is None else {"compute_capability": gpu[1]}  # noqa: E731
    monkeypatch.setattr(tf.config.experimental, "get_device_details", of)
    assert device.resolved_precision("auto") == expected
    assert device.resolved_precision("mixed_bfloat16") == "mixed_bfloat16"


@pytest.mark.parametrize(("backbone", "depthwise"), [("tiny", False), ("mobilenet-0.75", True), ("xception", True)])
def test_what_a_cpu_is_slow_at_is_said(backbone: str, depthwise: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    network = build_classifier(backbone=backbone, weights="none", head=Head(), classes=3)
    monkeypatch.setattr(device, "device", lambda: "CPU")
    assert device.slow_here(network, "float32") == []
    assert "mixed_float16 is several times slower" in device.slow_here(network, "mixed_float16")[0]
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    assert ["depthwise" in note for note in device.slow_here(network, "float32")] == [True] * depthwise
    monkeypatch.setattr(device, "device", lambda: "GPU")
    assert device.slow_here(network, "mixed_float16") == []


@pytest.mark.parametrize(("given", "expected"), [(None, "1"), ("0", "0")])
def test_tensorflow_is_imported_with_onednn_unless_the_user_says_otherwise_and_without_what_nobody_asked_for(
    given: str | None, expected: str
) -> None:
    code = (
        "import os, sys; from pipeline.training import device as d; d.import_tensorflow_quietly(); "
        "print(os.environ.get('TF_ENABLE_ONEDNN_OPTS'), d.onednn()); "
        "print(*{'sklearn', 'matplotlib', 'jax'} & set(sys.modules))"
    )
    if given is None:  # and what was not imported still can be
        code += "; import keras, sklearn.base, matplotlib.pyplot, jax.numpy"
    environment = {name: value for name, value in os.environ.items() if name != "TF_ENABLE_ONEDNN_OPTS"}
    environment |= {} if given is None else {"TF_ENABLE_ONEDNN_OPTS": given}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    if platform.machine() not in {"x86_64", "AMD64"}:
        expected = given or "None"
    assert done.stdout.split() == [expected, str(expected == "1")]


def test_the_backend_is_the_one_that_keras_will_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    assert device.keras_backend() == "tensorflow"
    (tmp_path / "keras.json").write_text('{"backend": "jax"}', "utf-8")
    assert device.keras_backend() == "jax"
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    assert device.keras_backend() == "torch"
    monkeypatch.delenv("KERAS_BACKEND")
    (tmp_path / "keras.json").write_text("no JSON", "utf-8")
    assert device.keras_backend() == "tensorflow"
