"""Backbones against their originals: same features, same files, and errors that say what to do."""

import hashlib
import importlib
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from pipeline.errors import RecipeError
from pipeline.model import layers
from pipeline.model import weights as weights_module
from pipeline.model.backbones import BACKBONES, build_backbone, check_backbone
from pipeline.model.layers import preprocessing_layer
from pipeline.model.weights import PublishedFile, models_folder

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared"

# One of each family, with what keras.applications does to a picture before that network.
apps = keras.applications
FAMILIES: dict[str, Callable[[Any], Any]] = {
    "efficientnet-v2-b0": apps.efficientnet_v2.preprocess_input,
    "convnext-tiny": apps.convnext.preprocess_input,
    "mobilenet-0.25": apps.mobilenet.preprocess_input,
    "mobilenet-v2-0.35": apps.mobilenet_v2.preprocess_input,
    "mobilenet-v3-small": apps.mobilenet_v3.preprocess_input,
    "resnet-50": apps.resnet.preprocess_input,
    "xception": apps.xception.preprocess_input,
    "densenet-121": apps.densenet.preprocess_input,
}
SLOW_FAMILIES: dict[str, Callable[[Any], Any]] = {
    "mobilenet-v3-large": apps.mobilenet_v3.preprocess_input,
    "resnet-v2-50": apps.resnet_v2.preprocess_input,
}


def pictures(height: int, width: int, *, batch: int = 1) -> np.ndarray:
    return np.random.default_rng(height * width).integers(0, 256, (batch, height, width, 3)).astype("float32")


def numpy(tensor: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(tensor))


def randomise(model: Any, seed: int = 0) -> None:
    """Random BatchNorm statistics too: with fresh ones (0 and 1) a mixed-up order would not be seen."""
    random = np.random.default_rng(seed)
    for weight in model.weights:
        if weight.path.endswith(("gamma", "moving_variance")):
            weight.assign(random.uniform(0.5, 1.5, weight.shape))
        elif weight.path.endswith(("beta", "moving_mean", "bias")):
            weight.assign(random.normal(0.0, 0.2, weight.shape))


def draw_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of 0, where their values do not matter: drawing them is half of the time of building a network."""
    for draws in (keras.initializers.VarianceScaling, keras.initializers.TruncatedNormal):
        monkeypatch.setattr(draws, "__call__", lambda self, shape, dtype=None, **_: keras.ops.zeros(shape, dtype))


def original(name: str, **arguments: Any) -> Any:
    """Build the network as keras.applications does, with its own preprocessing layers where it has some."""
    backbone = BACKBONES[name]
    options = {k: v for k, v in backbone.options.items() if k != "include_preprocessing"}
    return getattr(apps, backbone.network)(include_top=False, **options, **arguments)


# --- networks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*FAMILIES, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW_FAMILIES)])
def test_features_are_those_of_keras_applications(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through a file as keras.applications' networks are published in."""
    side = 96 if name == "xception" else 64
    reference = original(name, weights=None, input_shape=(side, side, 3))
    randomise(reference)
    reference.save(tmp_path / "published.h5")
    with monkeypatch.context() as patch:
        draw_nothing(patch)  # what is drawn is replaced
        backbone = build_backbone(name, weights=str(tmp_path / "published.h5"))
    x = pictures(side, side)
    expected = numpy(reference({**FAMILIES, **SLOW_FAMILIES}[name](x.copy())))
    received = numpy(backbone(x))
    assert np.isfinite(received).all() and received.std() > 0
    np.testing.assert_allclose(received, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    # Free height and width: another size, not square, through the same network.
    other = numpy(backbone(pictures(side, side + 32)))
    assert other.shape[1] < other.shape[2] and other.shape[3] == received.shape[3]
    assert backbone.input_shape == (None, None, None, 3)


def test_tiny() -> None:
    backbone = build_backbone("tiny", weights="none")
    # Convolutions: 3·3·(3·16 + 16·32 + 32·64 + 64·128); BatchNorm: 4·(16 + 32 + 64 + 128).
    assert backbone.count_params() == 97_200 + 960
    assert backbone(pictures(32, 32)).shape == (1, 4, 4, 128)
    assert backbone(pictures(70, 33, batch=2)).shape == (2, 8, 4, 128)


def efficientnets(size: int) -> tuple[Any, Any]:
    """Build the package's network and keras.applications', with the same weights."""
    package = build_backbone(f"efficientnet-b{size}", weights="none")
    from_keras = build_backbone(f"keras-efficientnet-b{size}", weights="none")
    assert type(package.get_layer("block2b_drop")).__name__ == "FixedDropout", "not the package's network"
    assert [w.path for w in package.weights] == [w.path for w in from_keras.weights]
    assert [w.shape for w in package.weights] == [w.shape for w in from_keras.weights]
    randomise(package)
    from_keras.set_weights(package.get_weights())
    return package, from_keras


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "efficientnet" in metafunc.fixturenames:
        every = metafunc.config.getoption("--every-backbone")
        metafunc.parametrize("efficientnet", range(8) if every else [0])


def test_both_efficientnets_are_one_network(efficientnet: int) -> None:
    pytest.importorskip("efficientnet")
    package, from_keras = efficientnets(efficientnet)
    x = pictures(64, 96)
    expected = numpy(package(x))
    assert expected.std() > 0.01
    np.testing.assert_allclose(numpy(from_keras(x)), expected, atol=1e-4)


def test_efficientnet_without_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Weights saved where the package is installed give the same features where it is not."""
    pytest.importorskip("efficientnet")
    package = build_backbone("efficientnet-b0", weights="none")
    randomise(package)
    legacy, modern = tmp_path / "b0.h5", tmp_path / "b0.weights.h5"
    package.save(legacy)
    package.save_weights(modern)
    monkeypatch.setitem(sys.modules, "efficientnet.tfkeras", None)
    x = pictures(64, 64)
    for file in (legacy, modern):
        backbone = build_backbone("efficientnet-b0", weights=str(file))
        assert type(backbone.get_layer("block2b_drop")) is keras.layers.Dropout
        np.testing.assert_allclose(numpy(backbone(x)), numpy(package(x)), atol=1e-4)


@pytest.mark.slow
@pytest.mark.jax
def test_on_jax_efficientnet_predicts_the_same_and_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """EfficientNet-Lite; with `--every-backbone` EfficientNet as well, whose compiling takes half a minute."""
    pytest.importorskip("jax")
    pytest.importorskip("efficientnet")
    # EfficientNet-Lite with fewer blocks, of all kinds: most of this is compiling.
    few = [(*block, 2 if number == 1 else 1) for number, (*block, _) in enumerate(layers._LITE_BLOCKS)]
    monkeypatch.setattr(layers, "_LITE_BLOCKS", few)
    names = [*["efficientnet-b0"] * request.config.getoption("--every-backbone"), "efficientnet-lite0"]
    for name in names:
        network = build_backbone(name, weights="none")
        network.save_weights(tmp_path / f"{name}.weights.h5")
        np.save(tmp_path / f"{name}.npy", numpy(network(pictures(64, 64))))
    program = f"""
import sys, numpy as np, keras
from pipeline.model import layers
from pipeline.model.backbones import build_backbone
layers._LITE_BLOCKS = {few}
assert keras.backend.backend() == "jax"
# The weights are read: JAX need not compile a random draw for every shape there is, which takes half a minute.
keras.initializers.VarianceScaling.__call__ = lambda self, shape, dtype=None: np.zeros(shape, dtype)
x = np.random.default_rng(64 * 64).integers(0, 256, (1, 64, 64, 3)).astype("float32")
for name in {names}:
    network = build_backbone(name, weights=f"{{sys.argv[1]}}/{{name}}.weights.h5")
    # predict, as one program: called eagerly, JAX compiles every operation by itself.
    np.testing.assert_allclose(network.predict(x, verbose=0), np.load(f"{{sys.argv[1]}}/{{name}}.npy"), atol=1e-3)
network.compile("sgd", "mse")
network.fit(x, np.zeros((1, 2, 2, 1280)), verbose=0)
"""
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, cwd=ROOT, env=environment)


def test_importing_and_checking_need_no_keras() -> None:
    program = """
import sys
import pipeline.model.backbones, pipeline.model.classifier, pipeline.model.freezing
pipeline.model.backbones.check_backbone("efficientnet-b7", weights="noisy-student", sizes=[(32, 32)])
loaded = {"keras", "tensorflow", "jax", "efficientnet", "h5py"} & set(sys.modules)
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


# --- preprocessing --------------------------------------------------------------------------------------


def prepared(name: str, colour: tuple[int, int, int]) -> Any:
    layer = build_backbone(name, weights="none").get_layer("preprocessing")
    return numpy(layer(np.full((1, 2, 2, 3), colour, "uint8")))[0, 0, 0]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("tiny", [10 / 127.5 - 1, 20 / 127.5 - 1, 1]),
        (
            "keras-efficientnet-b0",
            [-1.946656, -1.685574, 2.64],
        ),  # (10/255 − 0.485)/0.229, (20/255 − 0.456)/0.224 …
        ("resnet-50", [151.061, -96.779, -113.68]),  # BGR: 255 − 103.939, 20 − 116.779, 10 − 123.68
    ],
)
def test_preprocessing_values(name: str, expected: list[float]) -> None:
    np.testing.assert_allclose(prepared(name, (10, 20, 255)), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("white", "names"),
    [
        ([1, 1, 1], ["tiny", "mobilenet", "resnet-v2", "xception"]),
        (
            [2.2489083, 2.4285715, 2.64],
            ["efficientnet-b", "keras", "efficientnet-v2-b", "convnext", "densenet"],
        ),
        ([151.061, 138.221, 131.32], ["resnet-50", "resnet-101", "resnet-152"]),
        ([0.9921875] * 3, ["efficientnet-v2-s", "efficientnet-v2-m", "efficientnet-v2-l"]),
    ],
)
def test_every_backbone_makes_this_of_white(white: list[float], names: list[str]) -> None:
    from dataclasses import asdict

    matching = [name for name in BACKBONES if name.startswith(tuple(names))]
    assert len(matching) >= len(names)
    for name in matching:
        layer = preprocessing_layer()(**asdict(BACKBONES[name].preprocessing), dtype="float32")
        received = numpy(layer(np.full((1, 1, 1, 3), 255, "uint8")))[0, 0, 0]
        np.testing.assert_allclose(received, white, rtol=1e-6, err_msg=name)


def test_preprocessing_layer_round_trip() -> None:
    layer = build_backbone("tiny", weights="none").get_layer("preprocessing")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    x = pictures(3, 3)
    np.testing.assert_array_equal(numpy(again(x)), numpy(layer(x)))


# --- weights --------------------------------------------------------------------------------------------


def home(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    """Make a Keras home, for this kit and for keras.applications, which reads the variable on import."""
    monkeypatch.setenv("KERAS_HOME", str(folder))
    monkeypatch.setattr("keras.src.backend.config._KERAS_DIR", str(folder))
    (folder / "models").mkdir(parents=True)
    return folder / "models"


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("mobilenet-0.75", "mobilenet_7_5_224_tf_no_top.h5"),
        ("mobilenet-v2-0.35", "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0.35_224_no_top.h5"),
    ],
)
def test_published_weights_on_a_photograph(
    name: str, file: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if not (SHARED / "weights" / file).is_file():
        pytest.skip(f"needs the published weights {file} in {SHARED / 'weights'}")
    from PIL import Image

    photograph = sorted((SHARED / "data" / "cars10" / "train").rglob("*.jpg"))[0]
    x = np.asarray(Image.open(photograph).convert("RGB").resize((224, 224)))[None]
    (home(monkeypatch, tmp_path) / file).symlink_to(SHARED / "weights" / file)
    reference = original(name, weights="imagenet", input_shape=(224, 224, 3))
    expected = numpy(reference(FAMILIES.get(name, apps.mobilenet.preprocess_input)(x.astype("float32"))))
    for weights in ("imagenet", str(SHARED / "weights" / file)):
        received = numpy(build_backbone(name, weights=weights)(x))
        np.testing.assert_allclose(received, expected, atol=1e-4)


def test_efficientnet_file_of_keras_applications(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Through a file like the published one: normalisation's weights in it, std in place of the variance."""
    folder = home(monkeypatch, tmp_path)
    whole = apps.EfficientNetB0(include_top=False, weights=None, input_shape=(64, 64, 3))
    randomise(whole)
    normalization = next(layer for layer in whole.layers if isinstance(layer, keras.layers.Normalization))
    normalization.set_weights([np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225]), np.array(0)])
    file = folder / "efficientnetb0_notop.h5"
    whole.save(file)
    digest = hashlib.md5(file.read_bytes()).hexdigest()
    table = importlib.import_module("keras.src.applications.efficientnet").WEIGHTS_HASHES
    monkeypatch.setitem(table, "b0", ("", digest))
    reference = apps.EfficientNetB0(include_top=False, weights="imagenet", input_shape=(64, 64, 3))
    x = pictures(64, 64)
    expected = numpy(reference(x))
    np.testing.assert_allclose(
        numpy(build_backbone("keras-efficientnet-b0", weights="imagenet")(x)), expected, atol=1e-4
    )


class Requested(Exception):
    """Carries what get_file was asked for."""


def request(monkeypatch: pytest.MonkeyPatch, module: Any, build: Callable[[], Any]) -> tuple[str, str, str]:
    def get_file(name: str, origin: str, *, file_hash: str = "", **_: Any) -> None:
        raise Requested(name, origin, file_hash)

    monkeypatch.setattr(module, "get_file", get_file)
    with pytest.raises(Requested) as caught:
        build()
    name, origin, file_hash = caught.value.args
    return name, origin, file_hash


QUICK_FILES = ("mobilenet-0.25", "mobilenet-v2-0.35", "mobilenet-v3-small", "efficientnet-v2-b0")
# Bigger sibling, for whom keras.applications has a table: the test after the next.
BIGGER = re.compile(r"keras-efficientnet-b[1-7]|efficientnet-v2-(b[1-3]|s|m|l)|convnext-(?!tiny).*|resnet-.*1[05].")
KERAS_NAMES = [n for n, backbone in BACKBONES.items() if backbone.source == "keras" and not BIGGER.fullmatch(n)]


@pytest.mark.parametrize(
    "name", [n if n in QUICK_FILES else pytest.param(n, marks=pytest.mark.slow) for n in KERAS_NAMES]
)
@pytest.mark.filterwarnings("ignore:`input_shape` is undefined:UserWarning")
def test_keras_applications_asks_for_the_same_file(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    draw_nothing(monkeypatch)  # it builds the network before it asks
    file_utils = importlib.import_module("keras.src.utils.file_utils")
    file = BACKBONES[name].files["imagenet"]
    asked = request(monkeypatch, file_utils, lambda: original(name, weights="imagenet"))
    assert asked == (file.name, file.url, file.expected_digest())


@pytest.mark.parametrize("name", [name for name in BACKBONES if BIGGER.fullmatch(name)])
def test_the_file_of_a_bigger_sibling_is_the_one_in_the_table_of_keras_applications(name: str) -> None:
    network = getattr(apps, BACKBONES[name].network)
    file = BACKBONES[name].files["imagenet"]
    found = re.match(r"(?:efficientnet(?:v2(?=-[sml])|v2-)?)?(.+?)_(?:notop|weights)", file.name)
    assert found
    module = "resnet" if "resnet" in name else network.__module__.rpartition(".")[2]
    digests = importlib.import_module(f"keras.src.applications.{module}").WEIGHTS_HASHES
    assert file.expected_digest() == digests[found[1]][1]
    smallest = re.sub(r"b\d$|v2-.*$|(?<=convnext-).*|\d+$", "*", name)
    assert [n for n in KERAS_NAMES if re.fullmatch(smallest.replace("*", ".*"), n)], "one of the family is asked for"


@pytest.mark.parametrize("weights", ["imagenet", "noisy-student"])
def test_the_package_asks_for_the_same_file(weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("efficientnet")
    package = importlib.import_module("efficientnet.tfkeras")
    table = importlib.import_module("efficientnet.weights")
    utils = importlib.import_module("tensorflow.keras").utils
    file = BACKBONES["efficientnet-b0"].files[weights]
    asked = request(monkeypatch, utils, lambda: package.EfficientNetB0(include_top=False, weights=weights))
    assert asked == (file.name, file.url, file.expected_digest())
    digests = table.IMAGENET_WEIGHTS_HASHES if weights == "imagenet" else table.NS_WEIGHTS_HASHES
    for size in range(8):
        name = f"efficientnet-b{size}"
        assert BACKBONES[name].files[weights].expected_digest() == digests[name][1]
        assert name in BACKBONES[name].files[weights].name


def test_download_lands_in_the_models_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = home(monkeypatch, tmp_path / "home")
    content = b"not really weights"
    (tmp_path / "served.h5").write_bytes(content)
    monkeypatch.setitem(weights_module.ADDRESSES, "here", tmp_path.as_uri() + "/")
    good = PublishedFile("served.h5", "here", digest=hashlib.sha256(content).hexdigest())
    bad = PublishedFile("served.h5", "here", digest="0" * 32)
    with pytest.raises(RecipeError, match="cannot download"):
        weights_module.obtain(bad)
    assert list(folder.iterdir()) == []
    assert weights_module.obtain(good) == folder / "served.h5"
    assert [f.name for f in folder.iterdir()] == ["served.h5"]
    (tmp_path / "served.h5").unlink()
    assert weights_module.obtain(good).read_bytes() == content, "the second time comes from the folder"
    with pytest.raises(RecipeError, match="is not the file published"):
        weights_module.obtain(bad)
    assert (folder / "served.h5").is_file(), "a file put there by hand is never deleted"


def test_models_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    assert models_folder() == tmp_path / "models"
    monkeypatch.delenv("KERAS_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    assert models_folder() == Path("/tmp/.keras/models")


# --- errors ---------------------------------------------------------------------------------------------


def refused(name: str, weights: str = "none", sizes: tuple[tuple[int, int], ...] = ()) -> str:
    with pytest.raises(RecipeError) as caught:
        check_backbone(name, weights=weights, sizes=sizes)
    return str(caught.value)


def test_unknown_backbone_gets_a_suggestion() -> None:
    message = refused("eficientnet-b7")
    assert "'eficientnet-b7'" in message and "did you mean 'efficientnet-b7'" in message
    assert "name one of those" in refused("zzz")


def test_weights_that_are_not_offered() -> None:
    assert "none, or the path" in refused("tiny", "imagenet")
    assert "none, imagenet, or the path" in refused("keras-efficientnet-b0", "noisy-student")
    assert "none, imagenet, noisy-student, or the path" in refused("efficientnet-b0", "imagnet")


@pytest.mark.parametrize("file", ["model.keras", "some/model.pkl", "some/folder"])
def test_files_that_may_run_code_are_not_read(file: str, tmp_path: Path) -> None:
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_bytes(b"")
    assert "may run code" in refused("tiny", str(tmp_path / file))


def test_missing_weights_file() -> None:
    message = refused("tiny", "runs/none.weights.h5")
    assert "there is no weights file runs/none.weights.h5" in message


def test_size_below_the_smallest() -> None:
    assert "64×70 pixels" in refused("xception", sizes=((71, 71), (64, 70)))
    assert "at least 71" in refused("xception", sizes=((71, 71), (64, 70)))
    assert "at least 32" in refused("resnet-50", sizes=((200, 31),))
    for name, backbone in BACKBONES.items():
        check_backbone(name, weights="none", sizes=[(backbone.smallest, 500)])


def test_refused_download_names_file_address_and_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        address = f"http://127.0.0.1:{held.getsockname()[1]}/"
        monkeypatch.setenv("KERAS_HOME", str(tmp_path))
        monkeypatch.setitem(weights_module.ADDRESSES, "noisy-student", address)
        with pytest.raises(RecipeError) as caught:
            build_backbone("efficientnet-b7", weights="noisy-student")
    message = str(caught.value)
    assert f"{address}efficientnet-b7_noisy-student_notop.h5" in message
    assert f"put efficientnet-b7_noisy-student_notop.h5 into the folder {tmp_path / 'models'} by hand" in message
    assert "refused" in message
    assert list((tmp_path / "models").iterdir()) == []


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    tiny = build_backbone("tiny", weights="none")
    legacy, modern, damaged = tmp_path / "a.h5", tmp_path / "a.weights.h5", tmp_path / "b.h5"
    tiny.save(legacy)
    tiny.save_weights(modern)
    damaged.write_bytes(legacy.read_bytes()[:1000])
    for file in (legacy, modern, damaged):
        with pytest.raises(RecipeError) as caught:
            build_backbone("mobilenet-0.25", weights=str(file))
        assert f"the weights file {file} does not fit the backbone mobilenet-0.25" in str(caught.value)
    garbage = tmp_path / "garbage.weights.h5"
    garbage.write_bytes(b"garbage")
    for name in ("tiny", "keras-efficientnet-b0"):
        with pytest.raises(RecipeError, match="does not fit"):
            build_backbone(name, weights=str(garbage))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "other"), [("convnext-tiny", "convnext-small"), ("resnet-50", "resnet-101")])
def test_weights_of_a_bigger_sibling_do_not_fit(
    name: str, other: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_nothing(monkeypatch)
    file = tmp_path / "bigger.weights.h5"
    build_backbone(other, weights="none").save_weights(file)
    with pytest.raises(RecipeError, match="does not fit"):
        build_backbone(name, weights=str(file))
