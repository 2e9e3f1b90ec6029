"""Sessions: kernels that run, each in a thread, and that all end when the server does."""

import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path

from pipeline.rehearsal.kernel import KernelResult, KernelRunner

_GRACE = 15.0  # seconds that running kernels get to end in


class Sessions:
    def __init__(self, runner: KernelRunner | None) -> None:
        self._runner = runner
        self._cancelled = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(
        self,
        script: Path,
        *,
        inputs: Mapping[str, str],
        folder: Path,
        internet: bool,
        seconds: float,
        end: Callable[[KernelResult], None],
        begin: Callable[[], None] = lambda: None,
    ) -> None:
        """Run a kernel in the background; `begin` and `end` are told when it does."""

        def run() -> None:
            begin()
            end(self._result(script, inputs=inputs, folder=folder, internet=internet, seconds=seconds))

        thread = threading.Thread(target=run, name=f"kernel {script.parent}", daemon=True)
        self._threads = [*(known for known in self._threads if known.is_alive()), thread]
        thread.start()

    def stop(self) -> None:
        """Cancel what runs and wait for it."""
        self._cancelled.set()
        deadline = time.monotonic() + _GRACE
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _result(
        self, script: Path, *, inputs: Mapping[str, str], folder: Path, internet: bool, seconds: float
    ) -> KernelResult:
        folder.mkdir(parents=True)
        if self._runner is None:
            return KernelResult("ERROR", "This rehearsal runs no kernels.", "", folder, 0.0)
        began = time.monotonic()
        try:
            return self._runner(
                script,
                inputs={mount: Path(path) for mount, path in inputs.items()},
                folder=folder,
                internet=internet,
                cancelled=self._cancelled,
                seconds=seconds,
            )
        except Exception as error:
            # Whatever it is, the session has ended, and whoever waits for it is told.
            failure = f"The rehearsal could not run the kernel: {error}"
            return KernelResult("ERROR", failure, traceback.format_exc(), folder, time.monotonic() - began)
