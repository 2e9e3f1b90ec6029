"""Files to and from the storage behind Kaggle: an upload that goes on where it broke off, a download into one file.

The storage speaks Google's protocol of resumable uploads. Its addresses carry their own permission: no credentials
are sent there. Downloading a competition's data is left to Kaggle's own client, which resumes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests

from pipeline.artifacts import atomic_path
from pipeline.progress import Progress
from pipeline.submit.kaggle_errors import KaggleError, RateLimited, Refused, Unreachable, UploadFailed, translated
from pipeline.submit.kaggle_retry import Retry

_BLOCK = 1 << 20


def upload(file: Path, address: str, *, server: str, retry: Retry, timeout: float, progress: bool) -> None:
    """PUT `file` to `address`, resuming after what can be mended.

    Raises:
        UploadFailed: The storage refused it, or it broke off too often.
    """
    going = _Upload(file, address, server=server, timeout=timeout, progress=progress)
    try:
        retry(going.go_on)
    except KaggleError as error:
        trouble = isinstance(error, Unreachable | RateLimited)
        raise UploadFailed(
            f"{file.name} was not uploaded: {error.problem}",
            expected="an upload that is taken",
            next_step="run the command again" + ("" if trouble else "; if it is refused again, check the file"),
        ) from None


class _Upload:
    """One file on its way; `go_on` may be called again after it has failed."""

    def __init__(self, file: Path, address: str, *, server: str, timeout: float, progress: bool) -> None:
        self._file = file
        self._size = file.stat().st_size
        self._address = address
        self._server = server
        self._timeout = timeout
        self._progress = progress
        self._begun = False

    def go_on(self) -> None:
        start = self._arrived() if self._begun else 0
        self._begun = True
        if start is not None:
            self._send(start)

    def _send(self, start: int) -> None:
        headers = {"Content-Range": f"bytes {start}-{self._size - 1}/{self._size}"} if start else {}
        with (
            self._file.open("rb") as file,
            Progress.wrapattr(
                file,
                "read",
                desc=self._file.name,
                total=self._size,
                initial=start,
                unit="B",
                unit_scale=True,
                unit_divisor=1024,
                disable=not self._progress or None,
            ) as body,
        ):
            file.seek(start)
            # A body of no bytes at all would be sent in chunks, without a length, which the storage does not take.
            answer = self._put(body if start < self._size else b"", headers)
        if answer.status_code == 308:
            raise Unreachable(
                f"only a part of {self._file.name} arrived", expected="all of it", next_step="run the command again"
            )

    def _arrived(self) -> int | None:
        """How many bytes the storage holds; None when it has all of them."""
        answer = self._put(b"", {"Content-Range": f"bytes */{self._size}"})
        if answer.status_code != 308:
            return None
        last = answer.headers.get("Range", "").rpartition("-")[2]
        return int(last) + 1 if last.isdecimal() else 0

    def _put(self, body: object, headers: dict[str, str]) -> requests.Response:
        with translated("an upload", server=self._server):
            answer = requests.put(
                self._address, data=body, headers=headers, timeout=self._timeout, allow_redirects=False
            )
            answer.raise_for_status()
        if answer.status_code not in (200, 201, 308):
            raise Refused(
                f"{self._server} answered an upload with HTTP {answer.status_code}",
                expected="200 or 201",
                next_step="is there a proxy in between?",
            )
        return answer


def fetch(address: str, target: Path, *, server: str, timeout: float) -> None:
    """GET `address` into `target`: all of it or nothing.

    Raises:
        KaggleError: It cannot be had, or not be written.
    """
    with (
        writing(target),
        translated(f"the download of {target.name}", server=server),
        requests.get(address, stream=True, timeout=timeout) as answer,
    ):
        answer.raise_for_status()
        with atomic_path(target) as temporary, temporary.open("wb") as file:
            for block in answer.iter_content(_BLOCK):
                file.write(block)


def inside(folder: Path, name: str) -> Path:
    """The path that the server's `name` has in `folder`.

    Raises:
        KaggleError: It leads out of it.
    """
    if name and "\0" not in name:
        target, base = (folder / name).resolve(), folder.resolve()
        if target != base and target.is_relative_to(base):
            return target
    raise KaggleError(
        f"a file of the server has the name {name!r}, which leads out of {folder}",
        expected="a path inside it",
        next_step="do not trust where it comes from",
    )


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """A failure of the disk in the block is raised as a `KaggleError`."""
    try:
        yield
    except OSError as error:
        raise KaggleError(
            f"{target} cannot be written: {error.strerror}",
            expected="room on the disk, and the right to write there",
            next_step="see to it, then run the command again",
        ) from None
