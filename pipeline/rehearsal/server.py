"""Rehearsal: the local server, its life and its state.

The real `kaggle` package reaches it as its HTTP proxy: the client believes it talks to http://localhost, and every
request arrives here, on whatever port. How a request is answered belongs to `handler.py`.
"""

import socket
import socketserver
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from pipeline.artifacts import lock
from pipeline.errors import KitError
from pipeline.rehearsal.faults import Fault
from pipeline.rehearsal.handler import Handler, Site
from pipeline.rehearsal.hosted import Hosted
from pipeline.rehearsal.kernel import KernelRunner
from pipeline.rehearsal.kernels import KernelLimits, Mounts
from pipeline.rehearsal.protocol import Protocol
from pipeline.rehearsal.state import Store
from pipeline.rehearsal.wire import USER


class Rehearsal:
    """A server for `with`: it runs in threads of this process until the block ends.

    Attributes:
        hosted: The competitions by slug; may be changed while it runs.
        faults: What goes wrong next; may be changed while it runs.
        requests: What was asked, in order: the HTTP method, and the method of the API or the path.
    """

    def __init__(
        self,
        folder: Path,
        hosted: Iterable[Hosted],
        *,
        port: int = 0,
        faults: Sequence[Fault] = (),
        runner: KernelRunner | None = None,
        scoring_seconds: float = 0.0,
        limits: KernelLimits | None = None,
        mounts: Mounts = "new",
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Prepare it; `with` starts it.

        Args:
            folder: Keeps the state; a rehearsal on the same folder goes on where another one ended.
            port: 0 for any that is free.
            runner: Runs the kernels; without one every kernel ends in an error.
            scoring_seconds: How long a submission stays pending.
            limits: Of kernels; those of Kaggle by default.
            mounts: Where kernels find their inputs: Kaggle's images have had two layouts.
            now: The clock that submissions are dated and counted by, with a time zone.
        """
        self.folder = folder.resolve()
        self.hosted = {one.slug: one for one in hosted}
        self.faults = list(faults)
        self.requests: list[tuple[str, str]] = []
        self.stopping = threading.Event()
        self._wanted_port = port
        self._settings: dict[str, Any] = {
            "runner": runner,
            "limits": limits or KernelLimits(),
            "mounts": mounts,
            "scoring_seconds": scoring_seconds,
            "now": now,
        }
        self._closing = ExitStack()

    def __enter__(self) -> Self:
        """Start it.

        Raises:
            BusyError: Another rehearsal runs on this folder.
            KitError: The port is taken, or the state cannot be read.
        """
        with ExitStack() as opened:
            opened.enter_context(lock(self.folder / "lock", what=f"the rehearsal in {self.folder}"))
            self.stopping.clear()
            store = Store(self.folder)
            opened.callback(store.close)
            self.protocol = Protocol(store, self.hosted, **self._settings)
            (self.folder / "config").mkdir(exist_ok=True)
            self._server = self._listen()
            opened.callback(self._server.server_close)
            opened.callback(self.protocol.stop)
            # 0.05 s: how long an end may take at most.
            thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="rehearsal", daemon=True)
            thread.start()
            opened.callback(thread.join)
            opened.callback(self._server.shutdown)
            opened.callback(self.stopping.set)
            self._closing = opened.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop it: open connections are closed, running kernels are ended, the state is kept."""
        self._closing.close()

    def wait(self) -> None:
        """Until it is stopped, or Ctrl-C."""
        # A signal that comes just before a wait begins does not end it: an endless one could miss Ctrl-C for good.
        while not self.stopping.wait(0.2):
            pass

    @property
    def port(self) -> int:
        port: int = self._server.server_address[1]
        return port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def running(self) -> list[str]:
        """What an end would cancel: kernels, and submissions whose kernel runs, as a message names them."""
        with self.protocol.store.read() as state:
            versions = [(slug, version) for slug, kernel in state.kernels.items() for version in kernel.versions]
            kernels = [f"{USER}/{slug}" for slug, version in versions if version.state in ("QUEUED", "RUNNING")]
            return kernels + [f"submission {one.ref}" for one in state.submissions if one.status == "PENDING"]

    @property
    def environment(self) -> dict[str, str]:
        """What makes the real client of a process talk to this server, and to nothing else."""
        proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), self.url)
        return {
            **proxies,
            "no_proxy": "",
            "NO_PROXY": "",
            "KAGGLE_API_ENVIRONMENT": "LOCALHOST",
            "KAGGLE_API_TOKEN": self.protocol.store.token,
            "KAGGLE_CONFIG_DIR": str(self.folder / "config"),
        }

    def _listen(self) -> "_Server":
        try:
            return _Server(self._wanted_port, Site(self.protocol, self.faults, self.requests, self.stopping))
        except (OSError, OverflowError) as error:
            raise KitError(
                f"a rehearsal cannot listen on port {self._wanted_port}: {error}",
                expected="a port that is free",
                next_step="choose another port, or 0 for any",
            ) from None


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False  # connections are closed below, also those that hang
    request_queue_size = 128

    def __init__(self, port: int, site: Site) -> None:
        self._open: set[socket.socket] = set()
        self._guard = threading.Lock()
        super().__init__(("127.0.0.1", port), type("BoundHandler", (Handler,), {"site": site}))

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._guard:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._guard:
            self._open.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        super().server_close()
        with self._guard:
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away in the middle of a request is none of our business."""
