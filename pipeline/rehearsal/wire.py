"""What every method of the protocol needs: how a call is refused, how a list is paged, how a time is written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NoReturn, TypeVar

USER = "rehearsal-user"

Request = Mapping[str, Any]
Answer = dict[str, Any]
Item = TypeVar("Item")


class Refused(Exception):
    """A call that is answered with an HTTP error; `nested` gives it the other of Kaggle's two shapes."""

    def __init__(self, code: int, message: str, *, nested: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.nested = nested


@dataclass(frozen=True)
class Redirect:
    """The answer to a download: where the bytes are."""

    url: str


def deny(permission: str) -> NoReturn:
    """Refuse as Kaggle does, for what is not there as for what is not allowed."""
    raise Refused(403, f"Permission '{permission}' was denied")


def stamp(time: datetime) -> str:
    """UTC, without an offset: the client reads nothing else."""
    return time.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"


def page(items: Sequence[Item], request: Request) -> tuple[Sequence[Item], str]:
    """One page of a list, and the token of the next; empty after the last.

    Raises:
        Refused: The token is not one of ours.
    """
    size = min(int(request.get("pageSize") or 20), 200)
    try:
        start = int(request.get("pageToken") or (int(request.get("page") or 1) - 1) * size)
    except ValueError:
        raise Refused(400, "Invalid page token") from None
    end = start + size
    return items[start:end], str(end) if end < len(items) else ""


def text_of(request: Request, name: str) -> str:
    """A text of the request; empty where there is none."""
    value = request.get(name)
    return value if isinstance(value, str) else ""
