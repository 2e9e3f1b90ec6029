"""Uploads: the body of a request, and the file it becomes, piece by piece where the client resumes."""

import re
from collections.abc import Iterator
from email.message import Message
from io import BufferedIOBase
from pathlib import Path

from pipeline.rehearsal.wire import Refused

_CHUNK = 1 << 16


class Body:
    """A request's body, which is read once."""

    def __init__(self, headers: Message, stream: BufferedIOBase) -> None:
        self._stream = stream
        length = headers.get("Content-Length", "0")
        self._left = int(length) if length.isdecimal() else 0

    def pieces(self) -> Iterator[bytes]:
        """What is left of it; it ends early where the client goes away."""
        while self._left:
            piece = self._stream.read1(min(self._left, _CHUNK))
            if not piece:
                return
            self._left -= len(piece)
            yield piece


def receive(body: Body, path: Path, *, content_range: str | None, size: int, keep: float = 1.0) -> int:
    """Write a body to its place in the file; return how many bytes the file has now.

    Args:
        content_range: `bytes 10-99/100`: where these bytes belong; `bytes */100`: none, it is only asked how many
            there are.
        size: What the file has when it is whole.
        keep: The part of the body that is kept, 0..1; the rest is thrown away.

    Raises:
        Refused: The range fits neither the file nor its promised size, or more bytes came than promised.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    present = path.stat().st_size if path.exists() else 0
    start = 0
    if content_range is not None:
        found = re.fullmatch(r"bytes (\*|(\d+)-\d+)/(\d+)", content_range)
        if not found or int(found[3]) != size:
            raise Refused(400, f"Content-Range {content_range!r} does not fit {size} bytes")
        start = present if found[1] == "*" else int(found[2])
        if start > present:
            raise Refused(400, f"Byte {start} follows on byte {present}: some are missing")
    limit = start + int((size - start) * keep)
    with path.open("r+b" if path.exists() else "wb") as file:
        file.truncate(start)
        file.seek(start)
        for piece in body.pieces():
            if file.tell() + len(piece) > size:
                file.truncate(0)
                raise Refused(400, f"More than the {size} bytes that were promised")
            file.write(piece[: max(0, limit - file.tell())])
            if keep < 1 and file.tell() >= limit:
                break
        return file.tell()
