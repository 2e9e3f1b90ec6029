"""How much memory processes have needed at most."""

import os
import resource
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_RESET_PEAK = "5"  # see `man 5 proc`, clear_refs


def peak_memory(others: Iterable[int] = ()) -> int:
    """Largest resident memory of this process, and of those with these ids, in bytes.

    Pages that processes share, and those of mapped files that the system can take back, are counted for each.
    """
    own = _peak("self")
    if own is None:  # the system's own count, which on Linux begins with that of the process that started this one
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return own + sum(_peak(str(process)) or 0 for process in others)


def reset_peak_memory(others: Iterable[int] = ()) -> None:
    """Let the peak of this process, and of those with these ids, begin anew from what it holds now.

    Where the system cannot, it goes on.
    """
    for process in (os.getpid(), *others):
        with suppress(OSError):
            Path(f"/proc/{process}/clear_refs").write_text(_RESET_PEAK)


def _peak(process: str) -> int | None:
    try:
        lines = Path(f"/proc/{process}/status").read_text("utf-8").splitlines()
    except OSError:
        return None
    found = [line for line in lines if line.startswith("VmHWM:")]
    return int(found[0].split()[1]) * 1024 if found else None
