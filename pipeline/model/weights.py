"""Where pretrained weights come from, and how a weights file gets into a network.

Owns the published files' names, addresses and digests, the download into `$KERAS_HOME/models`, and the
loading of `.h5` files. Files of others are untrusted: nothing but `.h5` weights is read, into a network built
by `backbones.py` (a `.keras` file, a pickle or a Lambda layer can run code of its author's choosing).
"""

import hashlib
import http.client
import importlib
import os
import re
import tempfile
import urllib.error
import urllib.request
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import RecipeError

if TYPE_CHECKING:
    import keras

# The folders that keras.applications and the efficientnet package download from.
ADDRESSES = {
    "keras": "https://storage.googleapis.com/keras-applications/",
    "keras-tf": "https://storage.googleapis.com/tensorflow/keras-applications/",
    "efficientnet": "https://github.com/Callidior/keras-applications/releases/download/efficientnet/",
    "noisy-student": "https://github.com/qubvel/efficientnet/releases/download/v0.0.1/",
}

# The efficientnet package's own table, repeated because these weights are offered without the package too:
# SHA-256 of the AutoAugment files, MD5 of the Noisy Student ones, B0 to B7, all without the top.
EFFICIENTNET_DIGESTS = {
    "imagenet": (
        "c1421ad80a9fc67c2cc4000f666aa50789ce39eedb4e06d531b0c593890ccff3",
        "75de265d03ac52fa74f2f510455ba64f9c7c5fd96dc923cd4bfefa3d680c4b68",
        "433b60584fafba1ea3de07443b74cfd32ce004a012020b07ef69e22ba8669333",
        "c5d42eb6cfae8567b418ad3845cfd63aa48b87f1bd5df8658a49375a9f3135c7",
        "7942c1407ff1feb34113995864970cd4d9d91ea64877e8d9c38b6c1e0767c411",
        "9d197bc2bfe29165c10a2af8c2ebc67507f5d70456f09e584c71b822941b1952",
        "1d0923bb038f2f8060faaf0a0449db4b96549a881747b7c7678724ac79f427ed",
        "60b56ff3a8daccc8d96edfd40b204c113e51748da657afd58034d54d3cec2bac",
    ),
    "noisy-student": (
        "a5b48ae7547fc990c7e4f3951230290d",
        "4d35baa41ca36f175506a33918f7e334",
        "e496e531f41242598288ff3a4b4199f9",
        "47da5b154de1372b557a65795d3e6135",
        "47c10902a4949eec589ab92fe1c35ed8",
        "4d53ef3544d4114e2d8080d6d777a74c",
        "71f96d7e15d9f891f3729b4f4e701f77",
        "e112b00c464fe929b821edbb35d1af55",
    ),
}


@dataclass(frozen=True)
class PublishedFile:
    """A weights file that somebody publishes.

    Attributes:
        name: Its name, at its address and in `$KERAS_HOME/models`.
        host: A key of `ADDRESSES`.
        folder: The folder below that address, ending in a slash, or nothing.
        digest: MD5 or SHA-256 in hexadecimal; or `module:key`, to be looked up in the table that
            `keras.applications` keeps in that module; or nothing, where its publisher gives none.
    """

    name: str
    host: str
    folder: str = ""
    digest: str = ""

    @property
    def url(self) -> str:
        return ADDRESSES[self.host] + self.folder + self.name

    def here(self) -> bool:
        """Whether it can be had without a network."""
        return (models_folder() / self.name).is_file()

    def expected_digest(self) -> str:
        """MD5 or SHA-256 in hexadecimal, or nothing where none is published. Imports Keras for its tables."""
        module, colon, key = self.digest.partition(":")
        if not colon:
            return self.digest
        table = importlib.import_module(f"keras.src.applications.{module}").WEIGHTS_HASHES
        return str(table[key][1])  # [0] is the digest of the file with the classifier on top


def models_folder() -> Path:
    """Where Keras keeps downloaded weights: `$KERAS_HOME/models`, by default `~/.keras/models`."""
    home = os.environ.get("KERAS_HOME")
    if home is None:
        base = Path("~").expanduser()
        home = str((base if os.access(base, os.W_OK) else Path("/tmp")) / ".keras")
    return Path(home).expanduser() / "models"


def obtain(file: PublishedFile) -> Path:
    """Path of a published file: the one in `models_folder()`, else downloaded into it.

    Raises:
        RecipeError: The file is there but is not the published one, or is not there and cannot be fetched.
    """
    path = models_folder() / file.name
    if path.is_file():
        _verify(path, file)
    else:
        _download(file, path)
    return path


def reachable(host: str, *, seconds: float = 5.0) -> bool:
    """Whether the server of a key of `ADDRESSES` answers, whatever it says."""
    try:
        urllib.request.urlopen(urllib.request.Request(ADDRESSES[host], method="HEAD"), timeout=seconds).close()
    except urllib.error.HTTPError:
        return True
    except (OSError, http.client.HTTPException):
        return False
    return True


def _verify(path: Path, file: PublishedFile) -> None:
    expected = file.expected_digest()
    if not expected:
        return
    kind = "sha256" if len(expected) == 64 else "md5"
    with path.open("rb") as opened:
        found = hashlib.file_digest(opened, kind).hexdigest()
    if found != expected:
        raise RecipeError(
            f"{path} is not the file published at {file.url}: its {kind} is {found}",
            expected=expected,
            next_step="delete it to have it downloaded again; to use it all the same, copy it to another "
            "folder and name that path in `weights`",
        )


def _download(file: PublishedFile, path: Path) -> None:
    import keras

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Into a folder of its own first: a download that is killed leaves no half file under the real
        # name, and two processes that both need the file do not write into one another's.
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".download-") as folder:
            fetched = keras.utils.get_file(
                file.name,
                file.url,
                file_hash=file.expected_digest() or None,
                cache_dir=folder,
                cache_subdir="",
            )
            os.replace(fetched, path)
    except Exception as error:  # get_file raises a bare Exception where an address cannot be reached
        raise RecipeError(
            f"cannot download the weights {file.name} from {file.url}: {error}",
            expected="a network connection, or the file in place already",
            next_step=f"put {file.name} into the folder {path.parent} by hand, or set `weights` to its path "
            "(on Kaggle: of a data set that holds it) or to `none`",
        ) from error


def load_weights(network: "keras.Model", path: Path, *, given_name: str) -> None:
    """Load an `.h5` weights file, legacy or Keras 3 (`.weights.h5`), into a network of the same layers.

    Args:
        network: Built by `backbones.py`; its weights are overwritten.
        path: The file.
        given_name: The backbone's name, for the message.

    Raises:
        RecipeError: The file is no HDF5 file of weights, or its weights do not fit the network.
    """
    try:
        with warnings.catch_warnings():
            # Where Keras only warns, it says that some layers keep their random weights.
            warnings.simplefilter("error", UserWarning)
            network.load_weights(str(path))
    except (ValueError, TypeError, KeyError, AttributeError, OSError, UserWarning) as error:
        # Keras pours the whole network into some of these messages; the first line holds the reason.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RecipeError(
            f"the weights file {path} does not fit the backbone {given_name}: {reason[:400]}",
            expected=f"HDF5 weights of {given_name} without its top ({len(network.weights)} arrays)",
            next_step="choose the file that belongs to this backbone, or the backbone that belongs to this "
            "file; if it may be damaged, fetch it again",
        ) from error


def holds_normalization(path: Path) -> bool:
    """Whether a legacy `.h5` file holds the weights of a Normalization layer.

    The files that `keras.applications` publishes for EfficientNet do: ImageNet's mean and variance.
    """
    import h5py

    try:
        with h5py.File(path) as file:
            group = file.get("model_weights", file)
            # Layer names are the groups' names; `layer_names`, the attribute, may be split into chunks.
            return any(re.fullmatch(r"normalization(_\d+)?", name) and len(group[name]) > 0 for name in group)
    except (OSError, KeyError, TypeError):
        return False  # no HDF5 file of weights: `load_weights` says so
