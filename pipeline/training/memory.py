"""How much memory processes have needed at most; how much there is."""

import os
import re
import resource
import subprocess
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


def available_memory() -> int:
    """Bytes that a process may still take without harm to others; 0 where the system does not tell, or limits it."""
    own = [resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA)]
    with suppress(OSError):
        found = re.search(r"MemAvailable: *(\d+) kB", Path("/proc/meminfo").read_text("utf-8"))
        if found and all(limit == resource.RLIM_INFINITY for limit in own):
            return min(int(found[1]) * 1024, _whole_memory())
    return 0


def machine_memory() -> list[str]:
    """What tells machines of different memory apart: the kind and memory of each NVIDIA GPU, and the machine's own."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "all")
    return [*nvidia_gpus(), f"visible: {visible}", f"{_whole_memory() / 2**30:.1f} GiB"]


def nvidia_gpus() -> list[str]:
    """Kind and memory of each NVIDIA GPU, as `nvidia-smi` tells; none where it fails, or is not there."""
    command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    with suppress(OSError):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout.splitlines() if done.returncode == 0 else []
    return []


def _whole_memory() -> int:
    """This machine's memory in bytes, or its container's, if that may take less (cgroups 2 and 1)."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # `max` is no number
            found.append(int((Path("/sys/fs/cgroup") / name).read_text("utf-8")))
    return min(found)


def _peak(process: str) -> int | None:
    try:
        lines = Path(f"/proc/{process}/status").read_text("utf-8").splitlines()
    except OSError:
        return None
    found = [line for line in lines if line.startswith("VmHWM:")]
    return int(found[0].split()[1]) * 1024 if found else None
