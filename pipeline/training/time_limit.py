"""A moment by which training must have ended, such as the end of a session on a rented machine.

It decides only when training stops, never what comes out: a stage that is stopped begins anew the next time.
"""

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pipeline.errors import OutOfTime

_SAVING = 5.0  # seconds that are left for writing what an epoch or a stage has made
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

    def check(self, doing: str, *, seconds: float = 0.0) -> None:
        """Go on if `doing`, which takes `seconds` more, ends in time.

        Raises:
            OutOfTime: It does not.
        """
        if self.stop_at is None or _now() + seconds <= self.stop_at:
            return
        moment = datetime.fromtimestamp(self.stop_at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        need = f", which takes about {seconds:.0f} s" if seconds else ""
        raise OutOfTime(
            f"the time for training ends before {doing}{need}",
            expected=f"to be done by {moment}",
            next_step=f"run the same command again: it goes on after what is finished and kept ({self.kept}). "
            "A stage is done whole or begun anew: one that is too long for any session needs fewer epochs",
        )


def time_callback(limit: TimeLimit, label: str, *, epochs: int) -> Any:
    """Callback that raises `OutOfTime` once the time is over, or at the end of an epoch if it will be in the next.

    The next epoch is taken to be as long as the longest so far, validation included: so it stands last.
    """
    import keras

    class WithinTime(keras.callbacks.Callback):
        def __init__(self) -> None:
            super().__init__()
            self.longest = 0.0

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self.epoch, self.started = epoch, time.monotonic()

        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            limit.check(f"the end of {label}, epoch {self.epoch + 1} of {epochs}")

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self.longest = max(self.longest, time.monotonic() - self.started)
            if epoch + 1 < epochs and not self.model.stop_training:
                what = f"the end of {label}, epoch {epoch + 2} of {epochs}"
                limit.check(what, seconds=self.longest + _SAVING)

    return WithinTime()
