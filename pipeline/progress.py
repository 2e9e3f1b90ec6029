"""Progress of what takes long: a bar on a terminal; elsewhere, as in a log, a line now and then."""

import io
import sys
import threading
import time
from typing import Any

from tqdm import tqdm

FIRST, QUIET = 2.0, 30.0
"""Seconds until the first line, and between lines: work does not fill a log."""

# Its own lock is between processes, too: a semaphore that outlives one that is killed. No two of ours share a bar.
tqdm.set_lock(threading.RLock())


class Progress(tqdm):  # type: ignore[type-arg]
    """tqdm, that with `disable=None` writes lines to standard error where tqdm writes nothing: it is no terminal."""

    _next = 0.0

    def __init__(self, *args: Any, **options: Any) -> None:
        self._in_lines = options.get("disable", False) is None and not sys.stderr.isatty()
        if self._in_lines:
            self._next = time.monotonic() + FIRST
            # What tqdm writes to move about on a terminal goes nowhere.
            options |= {"disable": False, "file": io.StringIO(), "mininterval": 1.0, "miniters": 1}
        super().__init__(*args, **options)

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:  # type: ignore[override]  # None by the stubs
        """Write the bar as it is now, or a line where it is time for one; whether anything was written."""
        if not self._in_lines:
            return bool(super().display(msg, pos))
        if msg is not None or time.monotonic() < self._next:
            return False
        self._next = time.monotonic() + QUIET
        done, total = (
            self.format_sizeof(n, self.unit, self.unit_divisor) if self.unit_scale else f"{n:,}"
            for n in (self.n, self.total or 0)
        )
        of = f" of {total}" if self.total else ""
        spent = self.format_interval(self.format_dict["elapsed"])
        print(f"{self.desc.removesuffix(': ')}: {done}{of}, {spent} so far", file=sys.stderr, flush=True)
        return True
