"""When training must end: at a moment, such as the end of a session on a rented machine, or because it was asked to.

It decides only when training stops, never what comes out: what is stopped goes on from its state the next time.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from pipeline.errors import OutOfTime

_now = time.time


@dataclass(frozen=True)
class TimeLimit:
    """When training must have ended.

    Attributes:
        stop_at: Unix time in seconds; None for no limit.
        kept: What is finished, in words, for the message.
    """

    stop_at: float | None = None
    kept: str = "nothing yet"

    def holds(self, seconds: float = 0.0) -> bool:
        """Whether there are as many seconds left."""
        return self.stop_at is None or _now() + seconds <= self.stop_at

    def check(self, doing: str) -> None:
        """Go on while there is time.

        Args:
            doing: What is to be reached, for the message.

        Raises:
            OutOfTime: It is over.
        """
        if not self.holds():
            raise self.over(doing)

    def over(self, doing: str) -> OutOfTime:
        moment = datetime.fromtimestamp(self.stop_at or 0, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        return OutOfTime(
            f"the time for training ends before {doing}",
            expected=f"to be done by {moment}",
            next_step=f"run the same command again: it goes on from what is kept ({self.kept})",
        )


@dataclass
class Ending:
    """Whether this process has been asked to end.

    Attributes:
        waits: Whether what runs looks at it by itself, at moments that it can go on from.
    """

    asked: bool = False
    waits: bool = False


ending = Ending()
"""Of this process: signals are for it as a whole."""


@contextmanager
def ends_by_itself() -> Iterator[None]:
    """While the block runs, a signal to end does no more than setting `ending.asked`."""
    ending.waits = True
    try:
        yield
    finally:
        ending.waits = False
    if ending.asked:
        raise KeyboardInterrupt
