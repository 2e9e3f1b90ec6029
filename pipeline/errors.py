"""The errors a user can cause or mend: what was given, what was expected, what to do next.

Everything else that is raised is a bug and keeps its traceback. The command line, and `on_kaggle.py` inside a kernel,
turn these into a message and an exit code; nothing below them prints or exits.
"""

import errno
from collections.abc import Iterable


class KitError(Exception):
    """A problem the user can act on.

    Args:
        problem: What was given or found, naming it.
        expected: What would have been right.
        next_step: What to do now.
    """

    exit_code = 1

    def __init__(self, problem: str, *, expected: str, next_step: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.expected = expected
        self.next_step = next_step

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments are lost by the default pickling, and errors travel between processes.
        return (_rebuild, (type(self), self.problem, self.expected, self.next_step))

    def __str__(self) -> str:
        return f"{self.problem}\n  expected: {self.expected}\n  next: {self.next_step}"


def disk_full(error: BaseException) -> KitError | None:
    """What to tell the user of an error that says, in any library's words, that a disk is full; None of another one."""
    number, name = getattr(error, "errno", None), getattr(error, "filename", None)
    by_text = isinstance(error, OSError) or type(error).__name__ == "ResourceExhaustedError"  # HDF5's, TensorFlow's
    if number not in (errno.ENOSPC, errno.EDQUOT) and not (by_text and "No space left on device" in str(error)):
        return None
    return KitError(
        f"the disk is full{f' ({name})' if name else ''}: {getattr(error, 'strerror', None) or error}",
        expected="room for what is to be written; nothing is left half-written",
        next_step="make room, then run the same command again: a training goes on from what is saved",
    )


def counted(number: float, one: str, many: str) -> str:
    """A number and what it is of, for a message: `1 row`, `2 rows`."""
    return f"{str(number).removesuffix('.0')} {one if number == 1 else many}"


def name_some(items: Iterable[object], *, limit: int = 5) -> str:
    """The first few, and how many more."""
    listed = [str(item) for item in items]
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(listed[:limit]) + more


def duration(seconds: float) -> str:
    """How long something takes, for a person: `90 s`, `12 min`, `2.5 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _rebuild(kind: type[KitError], problem: str, expected: str, next_step: str) -> KitError:
    return kind(problem, expected=expected, next_step=next_step)


class RecipeError(KitError):
    """A recipe that cannot be run: an unknown key, a wrong type, a value out of range."""


class DataError(KitError):
    """Competition data that does not fit together: missing files, unknown ids, unreadable pictures."""


class PictureError(DataError):
    """A file that is missing, damaged or no picture."""


class SubmissionError(KitError):
    """A CSV that the competition would not take."""


class BusyError(KitError):
    """Another process is working on the same files."""


class OutOfMemory(KitError):
    """A process needed more memory than this machine, or its GPU, has."""


class DoesNotFit(KitError):
    """A training is longer than the time it was given."""


class OutOfTime(KitError):
    """Training stopped because the time it was given is over; the same command goes on from what is kept."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h: a later try is to be made
