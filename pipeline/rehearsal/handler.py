"""HTTP: one request to a rehearsal, its credentials, its faults, and the files that travel."""

import base64
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from pipeline.rehearsal.bent import BENT
from pipeline.rehearsal.faults import Fault, take
from pipeline.rehearsal.protocol import Protocol
from pipeline.rehearsal.uploads import Body, receive
from pipeline.rehearsal.wire import USER, Answer, Redirect, Refused

_CHUNK = 1 << 16
_MAX_CALL = 1 << 26  # bytes of a call's JSON
_INVERTED = bytes(255 - value for value in range(256))
_REFUSED_PUSH = {
    "quota": "Maximum weekly GPU quota of 30.00 hours reached.",
    "busy": "Maximum batch GPU session count of 2 reached.",
}


@dataclass(frozen=True)
class Site:
    """What every request sees of the server."""

    protocol: Protocol
    faults: list[Fault]
    requests: list[tuple[str, str]]
    stopping: threading.Event


class _Closed(Exception):
    """The connection is to be closed, without an answer or in the middle of one."""


class Handler(BaseHTTPRequestHandler):
    """One request; the connection is closed after it, so that none is left open when the server stops."""

    protocol_version = "HTTP/1.1"
    server_version = "KitRehearsal"
    site: Site

    def do_CONNECT(self) -> None:
        self._answer(self._refuse_tunnel)

    def do_POST(self) -> None:
        self._answer(self._call)

    def do_PUT(self) -> None:
        self._answer(self._upload)

    def do_GET(self) -> None:
        self._answer(self._download)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed."""

    def _answer(self, method: Callable[[SplitResult], None]) -> None:
        self.close_connection = True
        self._body = Body(self.headers, self.rfile)
        try:
            try:
                method(self._target())
            except Refused as refusal:
                self._fail(refusal)
            # A connection that is closed with bytes unread is reset, and the client may never see the answer.
            for _ in self._body.pieces():
                pass
        except (_Closed, OSError):
            return
        except Exception as error:
            self._fail(Refused(500, f"The rehearsal failed: {type(error).__name__}: {error}"))

    def _target(self) -> SplitResult:
        """What is asked for. A client that takes this server for its proxy asks for a whole address."""
        name = self.path if self.command == "CONNECT" else urlsplit(self.path).path
        call = re.fullmatch(r"/(?:api/)?v1/[\w.]+/(\w+)", name)
        self.site.requests.append((self.command, call[1] if call else name))
        target = urlsplit(self.path)
        if self.command != "CONNECT" and target.netloc and target.hostname not in ("localhost", "127.0.0.1"):
            raise Refused(403, f"This is a rehearsal: nothing goes to {target.hostname}")
        return target

    def _refuse_tunnel(self, _target: SplitResult) -> None:
        raise Refused(403, f"This is a rehearsal: nothing goes to {self.path}")

    def _call(self, target: SplitResult) -> None:
        """A method of the API."""
        found = re.fullmatch(r"/(?:api/)?v1/[\w.]+/(\w+)", target.path)
        if not found:
            raise Refused(404, f"There is nothing at {target.path}")
        name, request = found[1], self._request()
        what = take(self.site.faults, name)
        self._fault(what)
        if name != "IntrospectToken" and not self._has_credentials():
            raise Refused(401, "Unauthenticated")
        if what in _REFUSED_PUSH:
            self._send_json(200, {"error": _REFUSED_PUSH[what], "versionNumber": 0, "ref": "", "url": ""})
            return
        if what == "dropped":
            dropped, request["datasetDataSources"] = request.get("datasetDataSources") or ["nobody/nothing"], []
        base = f"http://{target.netloc or self.headers.get('Host', '')}"
        bent = BENT.get((what or "").removeprefix("answer:"))
        if what == "answer:pages":
            request.pop("pageToken", None)  # one of those that were made up
        answer = self.site.protocol.call(name, request, base)
        if what == "lost":
            raise _Closed
        if bent:
            text = bent({} if isinstance(answer, Redirect) else answer)
            kind = "application/json" if text[:1] not in ("", "<") else "text/html"
            self._send(200, text.encode(), {"Content-Type": kind})
            return
        if isinstance(answer, Redirect):
            self._send(302, b"", {"Location": answer.url})
            return
        if what == "dropped":
            answer["invalidDatasetSources"] = dropped
        if what == "unknown":
            for part in [answer, *answer.get("submissions", [])]:
                part.update({key: "UNHEARD_OF" for key in part if key == "status"})
        self._send_json(200, answer)

    def _request(self) -> dict[str, Any]:
        text = b""
        for piece in self._body.pieces():
            text += piece
            if len(text) > _MAX_CALL:
                raise Refused(413, "The request is too large")
        try:
            request = json.loads(text or b"{}")
        except ValueError:
            raise Refused(400, "The request is no JSON") from None
        if not isinstance(request, dict):
            raise Refused(400, "The request is no JSON object")
        return request

    def _has_credentials(self) -> bool:
        kind, _, value = self.headers.get("Authorization", "").partition(" ")
        if kind == "Basic":
            try:
                user, _, value = base64.b64decode(value, validate=True).decode().partition(":")
            except ValueError:
                return False
            return user == USER and self.site.protocol.store.is_token(value)
        return kind == "Bearer" and self.site.protocol.store.is_token(value)

    def _upload(self, target: SplitResult) -> None:
        """The bytes of a file, whole or from where the client was interrupted."""
        store = self.site.protocol.store
        token = target.path.removeprefix("/upload/")
        with store.read() as state:
            blob = state.blobs.get(token)
        if blob is None:
            raise Refused(404, "There is no such upload")
        if "Transfer-Encoding" in self.headers:
            raise Refused(411, "An upload needs a Content-Length")
        content_range = self.headers.get("Content-Range")
        is_question = (content_range or "").startswith("bytes */")  # how much is there? nothing goes wrong with it
        what = None if is_question else take(self.site.faults, "Upload")
        if what in ("503", "308", "drop"):  # a server that fails in the middle has half of it
            present = receive(self._body, store.blob(token), content_range=content_range, size=blob.size, keep=0.5)
            if what == "308":
                self._send(308, b"", _received(present))
                return
        self._fault(what)
        present = receive(self._body, store.blob(token), content_range=content_range, size=blob.size)
        if what == "lost":
            raise _Closed
        if present < blob.size:
            self._send(308, b"", _received(present))
        else:
            self._send(200, b"", {})

    def _download(self, target: SplitResult) -> None:
        """A file, or its end."""
        signed = target.path + ("?" + target.query if target.query else "")
        if self.site.protocol.store.sign(target.path) != signed:
            raise Refused(403, "The address is not signed")
        what = take(self.site.faults, "Output" if target.path.startswith("/output/") else "Download")
        if what != "drop":
            self._fault(what)
        path = self.site.protocol.file_at(target.path)
        if path is None:
            raise Refused(404, f"There is nothing at {target.path}")
        self._send_file(path, what)

    def _send_file(self, path: Path, what: str | None) -> None:
        with path.open("rb") as file:
            size, facts = path.stat().st_size, path.stat()
            headers = {
                "Content-Type": "application/octet-stream",
                "ETag": f'"{size:x}-{facts.st_mtime_ns:x}"',
                "Last-Modified": formatdate(facts.st_mtime, usegmt=True),
                "Accept-Ranges": "bytes",
            }
            start, end, code = 0, size, 200
            wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            is_same = self.headers.get("If-Range", headers["ETag"]) in (headers["ETag"], headers["Last-Modified"])
            if wanted and is_same:
                start, end, code = int(wanted[1]), min(size, int(wanted[2] or size) + 1), 206
                if start >= end:
                    self._send(416, b"", {"Content-Range": f"bytes */{size}"})
                    return
                headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
            self._send_head(code, {**headers, "Content-Length": str(end - start)})
            middle = (start + end) // 2
            file.seek(start)
            while (at := file.tell()) < end:
                piece = file.read(min(_CHUNK, (middle if at < middle else end) - at))
                if what in ("drop", "lost") and at >= middle:
                    raise _Closed
                if what == "corrupt" and at == middle:
                    piece = piece[:64].translate(_INVERTED) + piece[64:]
                self.wfile.write(piece)

    def _fault(self, what: str | None) -> None:
        """Go wrong, where that takes no work."""
        if what == "hang":
            self.site.stopping.wait()
        if what in ("hang", "drop"):
            raise _Closed
        found = re.fullmatch(r"(nested:)?(\d{3})", what or "")
        if found:
            raise Refused(int(found[2]), f"The rehearsal was asked for status {found[2]}", nested=bool(found[1]))

    def _fail(self, refusal: Refused) -> None:
        error: Answer = {"code": refusal.code, "message": str(refusal)}
        headers = {"Retry-After": "0"} if refusal.code == 429 else {}
        self._send_json(refusal.code, {"error": error} if refusal.nested else error, headers)

    def _send_json(self, code: int, content: Answer, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(content).encode()
        self._send(code, body, {"Content-Type": "application/json", **(headers or {})})

    def _send(self, code: int, body: bytes, headers: dict[str, str]) -> None:
        self._send_head(code, {**headers, "Content-Length": str(len(body))})
        self.wfile.write(body)

    def _send_head(self, code: int, headers: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in {**headers, "Connection": "close"}.items():
            self.send_header(name, value)
        self.end_headers()


def _received(present: int) -> dict[str, str]:
    return {"Range": f"bytes=0-{present - 1}"} if present else {}
