"""What the server remembers, and keeps through a restart: submissions, kernels, data sets, uploads.

state.json                   all but the files
blobs/<token>                what was uploaded, or as much of it as came
archives/<slug>-<hash>.zip   a competition's data, packed for download
datasets/<slug>/<version>/   a data set's files
kernels/<slug>/<version>/    script.py, log.txt and session/, where it ran
submissions/<ref>/           the same, of a kernel that was submitted
"""

import hashlib
import hmac
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ValidationError

from pipeline.artifacts import read_json, write_json
from pipeline.errors import KitError

SessionState = Literal["QUEUED", "RUNNING", "COMPLETE", "ERROR", "CANCEL_ACKNOWLEDGED"]
_INTERRUPTED = "The rehearsal ended while the kernel ran."


class Blob(BaseModel):
    """An upload. `purpose` is a competition's slug, or empty for a data set's file."""

    name: str
    size: int
    purpose: str = ""


class Submission(BaseModel):
    """A submission. `seen_at` is when its outcome may be seen, seconds since the epoch."""

    ref: int
    competition: str
    time: datetime
    description: str
    file_name: str
    size: int = 0
    status: Literal["PENDING", "COMPLETE", "ERROR"] = "PENDING"
    public: float | None = None
    private: float | None = None
    error: str = ""
    seen_at: float = 0.0


class Version(BaseModel):
    """A kernel's version, and the session that ran it.

    Attributes:
        limit: Of the session, seconds.
        sources: What it was given, by the name that the API has for it: `datasetDataSources` and so on.
        inputs: Mount → folder.
        output: The folder that the session left; empty where there is none.
    """

    number: int
    time: datetime
    internet: bool
    gpu: bool
    limit: float
    sources: dict[str, list[str]]
    inputs: dict[str, str]
    state: SessionState = "QUEUED"
    failure: str = ""
    seconds: float = 0.0
    output: str = ""


class Kernel(BaseModel):
    id: int
    title: str
    versions: list[Version] = []


class DataSet(BaseModel):
    title: str
    versions: int = 0
    ready: bool = False


class State(BaseModel):
    """Kernels and data sets are keyed by slug: all belong to the one user."""

    token: str
    blobs: dict[str, Blob] = {}
    submissions: list[Submission] = []
    kernels: dict[str, Kernel] = {}
    datasets: dict[str, DataSet] = {}


class Store:
    """The state of one server, shared by its threads."""

    def __init__(self, folder: Path) -> None:
        """Read what is there.

        Raises:
            KitError: The state cannot be read.
        """
        self.folder = folder
        self._file = folder / "state.json"
        self._lock = threading.RLock()
        self._is_closed = False
        self._state = self._load()
        with self.change() as state:
            _end_interrupted(state)

    @contextmanager
    def read(self) -> Iterator[State]:
        """The state, which nobody else changes meanwhile."""
        with self._lock:
            yield self._state

    @contextmanager
    def change(self) -> Iterator[State]:
        """The state, to be changed; written when the block ends. Whatever is refused is refused before a change."""
        with self._lock:
            yield self._state
            if not self._is_closed:
                write_json(self._file, self._state.model_dump(mode="json"))

    def close(self) -> None:
        """Write no more: the folder may be another server's from now on."""
        with self._lock:
            self._is_closed = True

    @property
    def token(self) -> str:
        """The one user's key to the API."""
        return self._state.token

    def is_token(self, token: str) -> bool:
        return hmac.compare_digest(token.encode(), self.token.encode())

    def sign(self, path: str) -> str:
        """An address that only this server gives out: who has it may fetch what is there, without credentials."""
        return f"{path}?signature={hmac.digest(self.token.encode(), path.encode(), hashlib.sha256).hex()}"

    def blob(self, token: str) -> Path:
        return self.folder / "blobs" / token

    def dataset(self, slug: str, version: int) -> Path:
        return self.folder / "datasets" / slug / str(version)

    def version(self, slug: str, number: int) -> Path:
        return self.folder / "kernels" / slug / str(number)

    def submission(self, ref: int) -> Path:
        return self.folder / "submissions" / str(ref)

    def _load(self) -> State:
        if not self._file.exists():
            return State(token=secrets.token_hex(16))
        try:
            return State.model_validate(read_json(self._file))
        except (OSError, ValueError, ValidationError) as error:
            raise KitError(
                f"{self._file} cannot be read: {error}",
                expected="the state that a rehearsal left",
                next_step=f"remove {self.folder} to begin anew; its submissions and kernels are lost",
            ) from None


def _end_interrupted(state: State) -> None:
    for kernel in state.kernels.values():
        for version in kernel.versions:
            if version.state in ("QUEUED", "RUNNING"):
                version.state, version.failure = "ERROR", _INTERRUPTED
    for submission in state.submissions:
        if submission.status == "PENDING":
            submission.status, submission.error = "ERROR", _INTERRUPTED
