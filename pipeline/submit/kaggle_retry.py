"""Retry: how often and after which pause something is asked again; the one place where that is decided."""

import math
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from pipeline.submit.kaggle_errors import KaggleError, NotSeen, OutcomeUnknown, RateLimited, Unreachable

Result = TypeVar("Result")

_LONGEST_PAUSE = 60.0
_LOOKS = (1.0, 5.0, 20.0)
"""Pauses, in seconds, before each look for what an unanswered request may have made: it can appear late."""


_SHORTEST = 1.0
"""Seconds that a server gets for an answer however little time is left: asked, it should be able to."""


@dataclass
class Patience:
    """How long to wait for an answer.

    Attributes:
        silence: Seconds a server may stay silent, in any request.
        end: When all asking is to have ended, by the monotonic clock.
    """

    silence: float
    end: float = math.inf

    @property
    def left(self) -> float:
        return self.end - time.monotonic()

    @property
    def seconds(self) -> float:
        """What the next request gets."""
        return min(self.silence, max(self.left, _SHORTEST))

    @contextmanager
    def until(self, end: float) -> Iterator[None]:
        """In the block no request goes on after `end`, and none is repeated."""
        before, self.end = self.end, min(self.end, end)
        try:
            yield
        finally:
            self.end = before


@dataclass(frozen=True)
class Retry:
    """How patient to be.

    Attributes:
        attempts: How often something is tried in all.
        sleep: Waits for so many seconds.
    """

    attempts: int
    sleep: Callable[[float], None]
    patience: Patience

    def __call__(self, work: Callable[[], Result]) -> Result:
        """Do `work`, which is safe to repeat, until it is answered.

        Raises:
            RateLimited, Unreachable: It was not, `attempts` times.
        """
        for attempt in range(1, self.attempts):
            try:
                return work()
            except (RateLimited, Unreachable) as failure:
                pause = _pause(attempt, failure)
                if pause >= self.patience.left:
                    raise
                self.sleep(pause)
        return work()

    def once(
        self,
        work: Callable[[], Result],
        *,
        find: Callable[[], Result | None],
        what: str,
        settle: str | None = None,
    ) -> Result:
        """Do `work`, which must not be done twice.

        Being asked to slow down comes before the work, so that is repeated. After an answer was lost, `find` tells
        first what the work made, if it was done.

        Args:
            find: Gives the result of work that was done, and None where none is to be seen.
            what: What is made, as a message names it.
            settle: Next step that finds out later what became of the work. Where there is one, the work is never
                repeated after a lost answer: what it made can appear later than anybody looks for it.

        Raises:
            OutcomeUnknown: An answer was lost, and `find` failed, or found nothing and there is a `settle`.
            RateLimited, Unreachable, NotSeen: It was not done.
        """

        def work_or_find() -> Result:
            try:
                return work()
            except (Unreachable, NotSeen) as failure:
                found = self._look(find, what, failure, settle)
                if found is not None:
                    return found
                if settle is None or isinstance(failure, NotSeen):
                    raise
                raise _unknown(what, f"{failure.problem}; it is not to be seen yet", settle) from None

        return self(work_or_find)

    def _look(
        self, find: Callable[[], Result | None], what: str, failure: KaggleError, settle: str | None
    ) -> Result | None:
        for pause in _LOOKS:
            self.sleep(pause)
            try:
                found = find()
            except KaggleError as error:
                raise _unknown(what, f"{failure.problem}; then {error.problem}", settle) from None
            if found is not None:
                return found
        return None


def _unknown(what: str, reason: str, settle: str | None) -> OutcomeUnknown:
    return OutcomeUnknown(
        f"{what} may or may not have been made: {reason}",
        expected="an answer",
        next_step=settle or "look whether it was made before you try again",
    )


def _pause(attempt: int, failure: KaggleError) -> float:
    """Seconds before attempt number `attempt` + 1: what Kaggle asks for, else twice as long each time."""
    if isinstance(failure, RateLimited) and failure.wait is not None:
        return min(failure.wait, _LONGEST_PAUSE)
    # Spread out, so that several clients that failed together do not come back together.
    return min(float(2**attempt) * random.uniform(0.5, 1.0), _LONGEST_PAUSE)
