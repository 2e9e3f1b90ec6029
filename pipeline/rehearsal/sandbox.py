"""One pushed kernel, really run: a fresh process in a fresh folder laid out as Kaggle's.

Linux namespaces give the session a /kaggle of its own, inputs that cannot be written to, and no network. Where they
are not allowed it runs without, and the first lines of its log say so. What happens inside is in `inside.py`.

It keeps a kernel from leaning on this machine by mistake; it does not hold back one that means harm.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import IO, Any

from pipeline.rehearsal.kernel import KernelResult

_INSIDE = files("pipeline.rehearsal").joinpath("inside.py").read_text("utf-8")
_KIT = Path(__file__).resolve().parents[1]
_FILES = ("--mount", "--propagation", "private")
_PROCESSES = ("--pid", "--fork", "--kill-child", "--mount-proc")
_NETWORK = ("--net",)
_AS_USER = ("--user", "--map-root-user")
# The interpreter reads none of its own variables, finds no installed package by itself, and does not hold output back.
_PYTHON = ("-I", "-S", "-u", "-X", "utf8")
_KEPT = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")
_ROOT = ".root"  # in the session's folder: where its new root is mounted
_POLL = 0.05  # seconds
_PATIENCE = 10.0  # seconds for the session's processes to end


@dataclass(frozen=True)
class Sandbox:
    """A `KernelRunner`.

    Attributes:
        python: The interpreter that runs the script, with its installed packages but without the kit.
        isolate: Whether to use namespaces where the system allows them.
    """

    python: Path = Path(sys.executable)
    isolate: bool = True

    def __call__(
        self,
        script: Path,
        *,
        inputs: Mapping[str, Path],
        folder: Path,
        internet: bool,
        cancelled: threading.Event,
        seconds: float,
    ) -> KernelResult:
        """Run the script to its end, the session's limit or its cancellation; no process outlives the call.

        The log is also written to `folder`/log.txt while the script runs.
        """
        folder = folder.resolve()
        namespaces, refusal = _namespaces(self.python, internet) if self.isolate else ((), "namespaces are turned off")
        mounted = "--mount" in namespaces
        root = Path("/kaggle") if mounted else folder
        _lay_out(folder, script, inputs, link=not mounted)
        place = "mounted as /kaggle" if mounted else f"{folder}, there is no /kaggle here: {refusal}"
        lines = (
            f"Rehearsal: the session's folder is {place}\n"
            f"Rehearsal: {_network_line(internet, '--net' in namespaces, refusal)}\n"
        )
        with (folder / "log.txt").open("w+b") as log:
            header = log.write(lines.encode())
            log.flush()
            plan = _plan(namespaces, folder=folder, inputs=inputs)
            command = self._command(namespaces, plan, root / "src" / "script.py")
            environment = _environment(root, mounted=mounted)
            began = time.monotonic()
            with _started(command, log, folder / "working", environment) as process:
                stopped = _wait(process, cancelled, began + seconds)
            took = time.monotonic() - began
            log.seek(0)
            text = log.read()
        for name in ("tmp", _ROOT):
            shutil.rmtree(folder / name, ignore_errors=True)  # which leaves links, and what they lead to, alone
        written = text[header:].decode("utf-8", "replace")
        output, whole = folder / "working", text.decode("utf-8", "replace")
        if stopped == "cancelled":
            return KernelResult("CANCEL_ACKNOWLEDGED", "cancelled", whole, output, took)
        if stopped:
            return KernelResult("ERROR", f"session limit of {seconds:g} s exceeded", whole, output, took)
        if process.returncode:
            return KernelResult("ERROR", _failure(process.returncode, written), whole, output, took)
        return KernelResult("COMPLETE", "", whole, output, took)

    def _command(self, namespaces: tuple[str, ...], plan: dict[str, Any], script: Path) -> list[str]:
        packages = _packages(self.python)
        hidden = [str(_KIT), *(str(Path(folder) / _KIT.name) for folder in packages)]
        inner = {"packages": packages, "hidden": _KIT.name, "hidden_places": hidden}
        python = [str(self.python), *_PYTHON, "-c", _INSIDE]
        return [
            *(("unshare", *namespaces) if namespaces else ()),
            *(*python, "supervise", json.dumps(plan)),
            *(*python, "script", json.dumps(inner), str(script)),
        ]


def _plan(namespaces: tuple[str, ...], *, folder: Path, inputs: Mapping[str, Path]) -> dict[str, Any]:
    """What `inside.set_up` is to do."""
    return {
        "mount_namespace": "--mount" in namespaces,
        "network_namespace": "--net" in namespaces,
        "folder": str(folder),
        "root": str(folder / _ROOT),
        "inputs": {where: str(source.resolve()) for where, source in inputs.items()},
    }


def _lay_out(folder: Path, script: Path, inputs: Mapping[str, Path], *, link: bool) -> None:
    for name in ("src", "working", "input", "home", "tmp", _ROOT):
        (folder / name).mkdir(parents=True, exist_ok=True)
    shutil.copyfile(script, folder / "src" / "script.py")
    for where, source in inputs.items():
        place = folder / "input" / where
        if link:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(source.resolve(strict=True), target_is_directory=True)
        else:
            place.mkdir(parents=True)


def _environment(root: Path, *, mounted: bool) -> dict[str, str]:
    """Kaggle's variables and few of ours: no credentials, no proxies, nothing that Python reads."""
    kept = {name: value for name, value in os.environ.items() if name in _KEPT or name.startswith("TF_")}
    # Elsewhere the folder's path may be too long for the sockets that Python makes in its temporary folder.
    temporary = {"TMPDIR": str(root / "tmp")} if mounted else {}
    return {
        **kept,
        **temporary,
        "HOME": str(root / "home"),
        "KAGGLE_ROOT": str(root),
        "KAGGLE_KERNEL_RUN_TYPE": "Batch",
    }


@contextmanager
def _started(
    command: list[str], log: IO[bytes], folder: Path, environment: dict[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """The running session; at the end of the block it is over, with all its processes."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=subprocess.STDOUT,
        cwd=folder,
        env=environment,
        start_new_session=True,  # Ctrl+C in a terminal is for whoever runs this
    )
    try:
        yield process
    finally:
        if process.stdin:
            process.stdin.close()  # the supervisor inside takes it as the end
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen[bytes], cancelled: threading.Event, end: float) -> str:
    """Why the session is to be stopped; empty once it has ended by itself."""
    while process.poll() is None:
        if cancelled.is_set():
            return "cancelled"
        if time.monotonic() >= end:
            return "limit"
        cancelled.wait(min(_POLL, max(0.0, end - time.monotonic())))
    return ""


def _network_line(internet: bool, blocked: bool, refusal: str) -> str:
    if internet:
        return "the network is allowed"
    return "the network is blocked" if blocked else f"network could not be blocked here: {refusal}"


def _failure(code: int, written: str) -> str:
    lines = [line.strip() for line in written.splitlines() if line.strip()]
    killed = f" (killed by signal {code - 128})" if code > 128 else ""
    return f"exit code {code}{killed}" + (f": {lines[-1][:500]}" if lines else "")


@cache
def _packages(python: Path) -> list[str]:
    """The folders of the interpreter's installed packages."""
    code = "import json, os, site; print(json.dumps([p for p in site.getsitepackages() if os.path.isdir(p)]))"
    found = subprocess.run([str(python), "-I", "-c", code], capture_output=True, text=True, check=True)
    folders: list[str] = json.loads(found.stdout)
    return folders


@cache
def _namespaces(python: Path, internet: bool) -> tuple[tuple[str, ...], str]:
    """The options of `unshare` that work here, the most isolating that do, and what the system said of the others."""
    own_files = [(*_FILES, *_PROCESSES), _FILES]
    wanted = own_files if internet else [*((*each, *_NETWORK) for each in own_files), _NETWORK, *own_files]
    refusal = ""
    for options in wanted:
        for user in ((), _AS_USER):
            said = _try_out(python, (*user, *options))
            if said is None:
                return (*user, *options), refusal
            refusal = said
    return (), refusal


def _try_out(python: Path, namespaces: tuple[str, ...]) -> str | None:
    """What the system says to these namespaces and all that is to be mounted in them; None if it allows them."""
    with tempfile.TemporaryDirectory(prefix="kit-try-") as name:
        folder, source = Path(name) / "kaggle", Path(name) / "source"
        for path in (source, folder / _ROOT, folder / "input" / "source", folder / "working"):
            path.mkdir(parents=True)
        plan = _plan(namespaces, folder=folder, inputs={"source": source})
        command = ["unshare", *namespaces, str(python), *_PYTHON, "-c", _INSIDE, "try", json.dumps(plan)]
        try:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
    if done.returncode == 0:
        return None
    return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
