"""A page on this machine that takes pictures and shows what the fold models make of them.

Only the page that this server itself sent may ask it. A page from elsewhere that a browser on this machine has open
could send it pictures too, by this server's address or, with a name of its own that it lets point here (DNS rebinding),
by that; so both the Host and the Origin of a request are looked at. Pictures stay in memory, and no file is served.
"""

import importlib.util
import ipaddress
import logging
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from pipeline.data.decode import decode_bytes
from pipeline.errors import KitError
from pipeline.report.page import data_uri, render_page
from pipeline.training.predict import top_classes

if TYPE_CHECKING:
    from flask import Flask

LIMIT_MB = 20
LIMIT_PIXELS = 64_000_000  # about 1 GB while it is decoded: few bytes may say that there are many pixels
_TOP = 5
_SIDE = 640  # pixels of the longer side of the picture that is sent back: enough to look at it enlarged
_PACKAGES = ("flask", "waitress")
Predict = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


def require_packages() -> None:
    """Refuse to start without the extra `serve`.

    Raises:
        KitError: A package is missing.
    """
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise KitError(
            f"the page takes packages that are not installed: {', '.join(missing)}",
            expected="the extra `serve`",
            next_step="pip install 'kaggle-image-kit[serve]'",
        )


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there, so that a port that is taken is known before the networks are loaded.

    Args:
        port: 0 for any that is free.

    Raises:
        KitError: It cannot.
    """
    if not host:  # to the system that would be every address
        raise KitError(
            "the address to listen on is empty",
            expected="an address of this machine",
            next_step="leave --host out; 0.0.0.0 lets others on the network in",
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, UnicodeError) as error:
        raise KitError(
            f"cannot listen on {host}, port {port}: {error}",
            expected="an address of this machine and a port that is free",
            next_step="choose another port, or any that is free: --port 0",
        ) from None


def address(listening: socket.socket) -> str:
    """Where a browser on this machine finds it."""
    host, port = listening.getsockname()[:2]
    if on_every_address(host):
        host = "::1" if listening.family == socket.AF_INET6 else "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def on_every_address(host: str) -> bool:
    """Whether it stands for all addresses of this machine, and so for none of its names."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def build_app(predict: Predict, *, classes: Sequence[str], title: str, facts: Mapping[str, str], host: str) -> "Flask":
    """The page as a WSGI application.

    Args:
        predict: RGB picture → float32 of shape (classes,). Called by one thread at a time.
        facts: Names and values for the head of the page.
        host: The name or address that it is reached by, beside localhost and plain addresses.
    """
    from flask import Flask, Response, request
    from werkzeug.exceptions import HTTPException

    app, one_at_a_time = Flask("pipeline", static_folder=None), threading.Lock()
    app.config["MAX_CONTENT_LENGTH"] = LIMIT_MB * 1_000_000
    page = render_page("serve.html.j2", title=title, facts=facts, limit_mb=LIMIT_MB, top=min(_TOP, len(classes)))

    @app.before_request
    def only_the_page_itself() -> tuple[dict[str, Any], int] | None:
        if not _is_own_name(request.host, host):
            own = "by this machine's IP address" if on_every_address(host) else f"as localhost or {host}"
            return _refusal(f"{request.host!r} is not a name of this server", f"open the page {own}")
        if request.method not in {"GET", "HEAD"} and request.headers.get("Origin") != f"http://{request.host}":
            return _refusal("this request does not come from the page itself", "open the page and use it")
        return None

    @app.get("/")
    def show() -> str:
        return page

    @app.post("/predict")
    def answer() -> dict[str, Any]:
        content, started = request.get_data(), time.perf_counter()
        with one_at_a_time:
            picture = decode_bytes(content, most_pixels=LIMIT_PIXELS)
            found = predict(picture)
        seconds = time.perf_counter() - started
        return {
            "picture": data_uri(picture, side=_SIDE),
            "height": picture.shape[0],
            "width": picture.shape[1],
            "classes": [
                {"class": name, "probability": value} for name, value in top_classes(found, classes, count=_TOP)
            ],
            "seconds": round(seconds, 3),
        }

    @app.errorhandler(KitError)
    def explain(error: KitError) -> dict[str, Any]:
        # No failure of the server, nor one that the browser's console should complain of: the page shows it.
        return {"problem": error.problem, "expected": error.expected, "next": error.next_step}

    @app.errorhandler(HTTPException)
    def in_json(error: HTTPException) -> tuple[dict[str, Any], int]:
        known = {413: f"this picture is larger than {LIMIT_MB} MB", 500: "this went wrong; the terminal shows why"}
        code = error.code or 500
        return {"problem": known.get(code, error.name)}, code

    @app.after_request
    def to_nobody_else(response: Response) -> Response:
        response.headers |= {
            "Cache-Control": "no-store",
            "Content-Security-Policy": "frame-ancestors 'none'",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        }
        return response

    return app


def run(app: "Flask", listening: socket.socket) -> None:
    """Answer requests until Ctrl-C."""
    from waitress import create_server

    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # that requests wait is as it should be
    bound = 2 * LIMIT_MB * 1_000_000  # the app itself refuses what is over the limit, and says why
    server = create_server(
        app, sockets=[listening], threads=4, ident=None, max_request_body_size=bound, inbuf_overflow=bound
    )
    try:
        server.run()
    finally:
        listening.close()


def _is_own_name(requested: str, host: str) -> bool:
    """Whether a browser that asks for this Host means this server: no name of another site can be a plain address."""
    try:
        name = urlsplit(f"//{requested}").hostname or ""
        if name not in {"localhost", host.lower()}:
            ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _refusal(problem: str, next_step: str) -> tuple[dict[str, Any], int]:
    return {"problem": problem, "expected": "a request of the page that this server sent", "next": next_step}, 403
