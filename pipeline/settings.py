"""What every YAML file of the kit has in common: immutable settings, and errors that name the key."""

import difflib
import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.errors import KitError

NAME = r"[a-z0-9][a-z0-9._-]*"  # of a recipe, of an experiment and of extra rows


class Settings(BaseModel):
    """Base of all settings: immutable, and without room for a misspelt key."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def parse_mapping(text: str, *, source: str) -> dict[str, Any]:
    """Read YAML text that must hold a mapping; `source` is named in errors."""
    content = parse_yaml(text, source=source)
    if not isinstance(content, dict):
        raise KitError(
            f"{source} holds {type(content).__name__}, not settings",
            expected="lines of the form `key: value`",
            next_step="mend the file",
        )
    return content


def parse_yaml(text: str, *, source: str) -> Any:
    """Read YAML text; `source` is named in errors."""
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # it reads 0x_ and 2001-99-99 as values
        raise KitError(
            f"{source} is not YAML: {error}", expected="YAML, as in `key: value`", next_step="mend it"
        ) from None


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a YAML file that must hold a mapping."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise KitError(f"{path} cannot be read: {error}", expected="text in UTF-8", next_step="mend it") from None
    return parse_mapping(text, source=str(path))


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """One line a fault: where, what is wrong, what was received; a misspelt key gets a suggestion."""
    lines: dict[str, list[str]] = {}
    known = _all_keys(model)
    faults = error.errors()
    for fault in faults:
        inside = any(
            len(other["loc"]) > len(fault["loc"]) and other["loc"][: len(fault["loc"])] == fault["loc"]
            for other in faults
        )
        if fault["type"] == "too_short" and inside:
            continue  # pydantic counts the entries that hold; what does not hold has a line of its own
        place = [str(part) for part in fault["loc"][:-1] if not _is_branch(part)]
        if fault["loc"] and (fault["type"] == "extra_forbidden" or not _is_branch(fault["loc"][-1])):
            place.append(str(fault["loc"][-1]))
        where = ".".join(place) or "as a whole"
        if fault["type"] == "extra_forbidden":
            key = str(fault["loc"][-1])
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            message = "has no effect here" if key in known else "unknown key" + hint
        elif fault["type"] == "missing":
            message = "missing"
        else:
            message = fault["msg"].removeprefix("Value error, ")
            if not isinstance(fault["input"], dict):
                message += f"; received {fault['input']!r}"
        lines.setdefault(where, [])
        if message not in lines[where]:
            lines[where].append(message)
    return "\n".join(f"  - {where}: " + ", or ".join(messages) for where, messages in lines.items())


def _is_branch(part: int | str) -> bool:
    """Whether pydantic put this part of a location in to name the branch of a union."""
    return isinstance(part, str) and (
        part in {"Square", "adam", "adamw", "sgd", "constant", "exponential", "cosine", "plateau"}
        or bool(re.match(r"^(tuple|literal|float|str|constrained|function|list|dict)[\[\-(]|^(float|str)$", part))
    )


@cache
def _all_keys(model: type[BaseModel]) -> set[str]:
    keys: set[str] = set()

    def collect(schema: Any) -> None:
        if isinstance(schema, dict):
            keys.update(schema.get("properties", {}))
            for value in schema.values():
                collect(value)
        elif isinstance(schema, list):
            for value in schema:
                collect(value)

    collect(model.model_json_schema())
    return keys
