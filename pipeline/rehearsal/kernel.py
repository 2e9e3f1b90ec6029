"""What the server asks of whatever runs its kernels, and what it gets back."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol


@dataclass(frozen=True)
class KernelResult:
    """How a session ended.

    Attributes:
        failure: What the user is told; empty when COMPLETE.
        log: Standard output and standard error, in the order written.
        output: /kaggle/working as left behind.
        seconds: How long the session lasted.
    """

    state: Literal["COMPLETE", "ERROR", "CANCEL_ACKNOWLEDGED"]
    failure: str
    log: str
    output: Path
    seconds: float


class KernelRunner(Protocol):
    """Runs one pushed kernel to its end, in a process of its own.

    Args:
        script: The pushed text, saved by the server.
        inputs: Path below /kaggle/input → the folder to show there, read-only.
        folder: A fresh folder for this session; the runner makes `src`, `working` and `input` in it.
        internet: Whether the kernel may reach the network.
        cancelled: Set when the session is to end early.
        seconds: The session's limit.
    """

    def __call__(
        self,
        script: Path,
        *,
        inputs: Mapping[str, Path],
        folder: Path,
        internet: bool,
        cancelled: threading.Event,
        seconds: float,
    ) -> KernelResult: ...
