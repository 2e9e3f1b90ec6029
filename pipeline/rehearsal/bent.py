"""Bent answers: what a proxy, a bug or a new version of Kaggle may send in the place of an answer, after the work is
done."""

import json
import uuid
from collections.abc import Callable
from typing import Any

from pipeline.rehearsal.wire import Answer

_NUMBERS = ("ref", "version", "total", "num", "max", "public", "private")
_PAGE = "<html><body>Sign in to go on</body></html>"


def _other_type(value: Any) -> Any:
    """A value of another type."""
    if isinstance(value, bool):
        return "perhaps"
    return {"not": "this"} if isinstance(value, str | int | float) else 7


def _no_number(key: str, value: Any) -> Any:
    """Words where a number belongs; the rest as it was."""
    if isinstance(value, list):
        return [_no_number("", each) for each in value]
    if isinstance(value, dict):
        return {name: _no_number(name, each) for name, each in value.items()}
    is_number = key.startswith(_NUMBERS) or (isinstance(value, int) and not isinstance(value, bool))
    return "seven" if is_number and not isinstance(value, bool) else value


BENT: dict[str, Callable[[Answer], str]] = {
    "null": lambda _: "null",
    "empty": lambda _: "{}",
    "list": lambda _: "[]",
    "number": lambda _: "7",
    "text": lambda _: '"done"',
    "nothing": lambda _: "",
    "html": lambda _: _PAGE,
    "cut": lambda answer: json.dumps(answer)[: len(json.dumps(answer)) // 2],
    "wrong": lambda answer: json.dumps({key: _other_type(value) for key, value in answer.items()}),
    "nulls": lambda answer: json.dumps(dict.fromkeys(answer)),
    "words": lambda answer: json.dumps(_no_number("", answer)),
    "pages": lambda answer: json.dumps({**answer, "nextPageToken": uuid.uuid4().hex}),
}
"""Name → an answer's text made of what it would have been: the last is a list whose pages never end."""
