"""What the benchmarks with rivals share: the machine in words, commands measured, sides that take turns, a workspace.

Only Python's own library is imported here, so that a rival's interpreter can, too.
"""

import importlib.metadata
import json
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

HERE = Path(__file__).resolve().parent.parent
T = TypeVar("T")


@dataclass(frozen=True)
class Measured:
    """A command that ended well: its seconds, and the user and system seconds and page faults of all its processes."""

    seconds: float
    user: float
    system: float
    faults: int
    output: str


def hardware() -> str:
    """Cores, processor and memory, and whether the processor has AVX2 and VNNI (Linux)."""
    facts = dict(re.findall(r"^(\w[\w ]*?)\s*:[ \t]*(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE))
    flags = facts.get("flags", "").split()
    has = [name if found else f"no {name}" for name, found in (("AVX2", "avx2" in flags), ("VNNI", _vnni(flags)))]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    processor = facts.get("model name", platform.machine())
    return f"{os.cpu_count()} cores, {processor} ({', '.join(has)}), {memory:.0f} GB of memory"


def _vnni(flags: Sequence[str]) -> bool:
    return any(flag.endswith("_vnni") for flag in flags)


def versions(*packages: str) -> str:
    """Of Python and of the packages, as they are installed for this interpreter."""
    found = [f"Python {platform.python_version()}"]
    for package in packages:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{package} not installed")
    return ", ".join(found)


def build(checkout: Path) -> str:
    """The commit of a checkout, `-dirty` if it was changed since."""
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--exclude=*"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() or "no commit known"


def measure(command: Sequence[str], *, folder: Path, environment: Mapping[str, str]) -> Measured:
    """Run a command in `folder`, with `environment` added to this process's own.

    Bytecode is written, whatever this process was told: else each process would compile all modules again.

    Raises:
        SystemExit: It failed; the end of its output is shown.
    """
    own = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        command, cwd=folder, env={**own, **environment}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\nended with code {done.returncode}:\n{done.stdout[-4000:]}")
    return Measured(
        seconds=seconds,
        user=after.ru_utime - before.ru_utime,
        system=after.ru_stime - before.ru_stime,
        faults=after.ru_minflt + after.ru_majflt - before.ru_minflt - before.ru_majflt,
        output=done.stdout,
    )


def kit(*arguments: str) -> list[str]:
    """The command `kit` of the checkout that PYTHONPATH names, whatever is installed."""
    return [sys.executable, "-c", "from pipeline.cli import main; main()", *arguments]


def alternating(sides: Mapping[str, Callable[[], T]], *, rounds: int) -> dict[str, list[T]]:
    """Each side once a round; every other round begins with the last, so that neither always comes first.

    How long each took is said on standard error at once.
    """
    found: dict[str, list[T]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in list(sides) if number % 2 == 0 else reversed(list(sides)):
            started = time.perf_counter()
            found[name].append(sides[name]())
            seconds = time.perf_counter() - started
            print(f"run {number + 1} of {rounds}, {name}: {seconds:.0f} s", file=sys.stderr, flush=True)
    return found


def middle(values: Sequence[float]) -> str:
    """The median, and the least and the greatest where there are several."""
    return f"{median(values):.1f}" + (f" ({min(values):.1f} to {max(values):.1f})" if len(values) > 1 else "")


def fresh_workspace(folder: Path, described: Path) -> Path:
    """A workspace with nothing but one competition, whose data is linked to.

    Args:
        folder: A temporary folder; an earlier workspace in it is removed.
        described: `competitions/<slug>` of another workspace.
    """
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(described, folder / "competitions" / described.name, symlinks=True)
    return folder


def manifest(workspace: Path, slug: str) -> dict[str, Any] | None:
    """Of the one experiment in a workspace; None where it is not finished."""
    files = list((workspace / "oof" / slug).glob("*/manifest.json"))
    found: dict[str, Any] | None = json.loads(files[0].read_text("utf-8")) if files else None
    return found
