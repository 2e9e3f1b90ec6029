"""The real `kaggle` package, turned to a rehearsal: as a library and as a command."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from kaggle.api.kaggle_api_extended import KaggleApi

from pipeline.rehearsal.kernel import KernelResult
from pipeline.rehearsal.server import Rehearsal


@pytest.fixture
def connect() -> Callable[[], KaggleApi]:
    """A new client, with the credentials of the environment."""

    def connected() -> KaggleApi:
        client = KaggleApi()
        client.authenticate()
        return client

    return connected


@pytest.fixture
def api(rehearsal: Rehearsal, connect: Callable[[], KaggleApi]) -> KaggleApi:
    """The client of a rehearsal that runs no kernels."""
    return connect()


def kaggle(*words: str) -> "subprocess.CompletedProcess[str]":
    """The command `kaggle`, in a process of its own."""
    command = [sys.executable, "-m", "kaggle", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def write_csv(path: Path, labels: Mapping[str, str]) -> Path:
    path.write_text("id,label\n" + "".join(f"{key},{label}\n" for key, label in labels.items()), "utf-8")
    return path


def until(condition: Callable[[], Any], *, seconds: float = 10.0) -> Any:
    """What `condition` returns as soon as it is true."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)
    return found


def state_of(api: KaggleApi, ref: str = "rehearsal-user/a-kernel") -> str:
    return str(api.kernels_status(ref).status.name)


class PlainRunner:
    """Runs a kernel in a process, without a sandbox, once `go` is set. The script finds its inputs in `input/`."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.go.set()
        self.calls: list[dict[str, Any]] = []

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
        self.calls.append({"inputs": dict(inputs), "internet": internet, "seconds": seconds})
        working = folder / "working"
        working.mkdir()
        for mount, path in inputs.items():
            (folder / "input" / mount).parent.mkdir(parents=True, exist_ok=True)
            (folder / "input" / mount).symlink_to(path)
        while not self.go.wait(0.01):
            if cancelled.is_set():
                return KernelResult("CANCEL_ACKNOWLEDGED", "cancelled", "", working, 0.0)
        began = time.monotonic()
        ran = subprocess.run(
            [sys.executable, "-I", "-S", str(script)],
            cwd=working,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        spent = time.monotonic() - began
        if spent > seconds:
            return KernelResult("ERROR", "Your session ran out of time", ran.stdout, working, spent)
        state = "ERROR" if ran.returncode else "COMPLETE"
        return KernelResult(state, "it raised" if ran.returncode else "", ran.stdout, working, spent)


@pytest.fixture
def runner() -> PlainRunner:
    return PlainRunner()


def write_kernel(folder: Path, code: str, *, slug: str = "a-kernel", **metadata: Any) -> Path:
    """A folder to push, with `code` as its script."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "code.py").write_text(code, "utf-8")
    content = {
        "id": f"rehearsal-user/{slug}",
        "title": slug.replace("-", " ").capitalize(),
        "code_file": "code.py",
        "language": "python",
        "kernel_type": "script",
        "enable_internet": False,
        **metadata,
    }
    (folder / "kernel-metadata.json").write_text(json.dumps(content), "utf-8")
    return folder
