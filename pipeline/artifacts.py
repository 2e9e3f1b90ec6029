"""Where every file the kit writes lies, and how it is written: whole or not at all.

    runs/<slug>/<experiment>/fold-<n>/stage-<n>/          checkpoints and logs: can be made again
    runs/<slug>/<experiment>/budget.json                  what `kit train --budget` chose
    runs/<slug>/_decoded/                                 decoded pictures: can be made again, may lie elsewhere
    runs/<slug>/_features/                                features of the backbones compared: can be made again
    runs/<slug>/_parts/                                   in how many parts a batch fits a machine: likewise
    oof/<slug>/<experiment>/                              predictions and manifest: the lasting result
    oof/<slug>/_report/                                   a page about them, and figures: can be made again
    submissions/<slug>/                                   CSV files

The folder of a competition (its data, folds.csv) belongs to `competition.py`.
"""

import fcntl
import hashlib
import json
import logging
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import BusyError, DataError

log = logging.getLogger(__name__)
_SILENCE = 2.0  # seconds of waiting for another process


@dataclass(frozen=True)
class Workspace:
    """The folder that holds `competitions/`, `runs/`, `oof/` and `submissions/`.

    Attributes:
        scratch: Where decoded pictures go instead of `runs/`, which may be a folder that is handed on whole.
    """

    root: Path
    scratch: Path | None = None

    def run(self, slug: str, experiment: str) -> Path:
        return self.root / "runs" / slug / experiment

    def fold(self, slug: str, experiment: str, fold: int) -> Path:
        return self.run(slug, experiment) / f"fold-{fold}"

    def cache(self, slug: str) -> Path:
        # No experiment can have this name.
        return (self.scratch or self.root / "runs") / slug / "_decoded"

    def features(self, slug: str) -> Path:
        # No experiment can have this name.
        return self.root / "runs" / slug / "_features"

    def parts(self, slug: str) -> Path:
        # No experiment can have this name.
        return self.root / "runs" / slug / "_parts"

    def oof(self, slug: str, experiment: str) -> Path:
        return self.root / "oof" / slug / experiment

    def report(self, slug: str) -> Path:
        # No experiment can have this name.
        return self.root / "oof" / slug / "_report"

    def submissions(self, slug: str) -> Path:
        return self.root / "submissions" / slug


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends without an error.

    It keeps `path`'s suffixes, which libraries read the format from.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{os.getpid()}-", suffix=f"-{path.name}", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path` that becomes `path` when the block ends without an error.

    An earlier folder there is moved aside first and removed last: whenever the process dies, one of the two is whole.
    Where `path` is a link, the folder it leads to is the one that is replaced.
    """
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    earlier = temporary.with_name(f"{temporary.name}-earlier")
    try:
        temporary.chmod(0o755)
        yield temporary
        if path.is_dir():
            os.rename(path, earlier)
        os.replace(temporary, path)
    finally:
        if earlier.exists() and not path.exists():
            os.rename(earlier, path)
        for folder in (earlier, temporary):
            shutil.rmtree(folder, ignore_errors=True)


def require_writable(folder: Path) -> None:
    """See that `atomic_folder` can write there, before the work for it is done.

    Raises:
        DataError: It cannot.
    """
    try:
        path = folder.resolve()
        there = next((parent for parent in path.parents if parent.exists()), path)
        # As long a name as `atomic_folder` takes.
        tempfile.TemporaryDirectory(prefix=f".{path.name}-", suffix="-earlier", dir=there).cleanup()
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"the folder {folder} cannot be written: {getattr(error, 'strerror', None) or error}",
            expected="a folder that can be made here",
            next_step="name another one",
        ) from None


def home_expanded(path: Path) -> Path:
    """A path that a user gave, with `~` and `~name` replaced.

    Raises:
        DataError: There is no user of that name.
    """
    try:
        return path.expanduser()
    except RuntimeError:
        raise DataError(
            f"{path} is in the folder of a user that is not known here",
            expected="`~` for your own folder, or the name of a user of this machine behind it",
            next_step=f"check the path; if the name itself begins with ~, write ./{path}",
        ) from None


def write_text(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, "utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write JSON; a NaN or an infinity, which JSON has no word for, is refused."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def lock(path: Path, *, what: str, wait: Callable[[], object] | None = None) -> Iterator[None]:
    """Hold `path` against other processes; the system lets go of it when this process dies, however it dies.

    Args:
        wait: Called several times a second while another process holds it; what it raises ends the waiting. After two
            seconds the log says for whom it waits.

    Raises:
        BusyError: Another process holds it, and there is no `wait`.
        DataError: It cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        opened = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise DataError(
            f"{what}: the lock {path} cannot be written: {error.strerror}",
            expected="a folder where you may write, with room on the disk",
            next_step="see to it, then run the command again; nothing was done",
        ) from None
    with opened as file:
        told = time.monotonic() + _SILENCE
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                file.seek(0)
                holder = file.read().strip() or "unknown"
                if wait:
                    if time.monotonic() > told:
                        log.warning("waiting for the process %s, which has %s", holder, what)
                        told = math.inf
                    wait()
                    time.sleep(0.2)
                    continue
                raise BusyError(
                    f"{what} is in use by another process (pid {holder})",
                    expected="one process at a time",
                    next_step="wait until it has ended, or end it",
                ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
