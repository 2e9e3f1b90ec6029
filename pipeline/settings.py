"""What every YAML file of the kit has in common: immutable settings, and errors that name the key."""

import difflib
import re
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.errors import KitError


class Settings(BaseModel):
    """Base of all settings: immutable, and without room for a misspelt key."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def parse_mapping(text: str, *, source: str) -> dict[str, Any]:
    """Read YAML text that must hold a mapping; `source` is named in errors."""
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise KitError(
            f"{source} is not YAML: {error}", expected="a mapping of settings", next_step="mend the file"
        ) from None
    if not isinstance(content, dict):
        raise KitError(
            f"{source} holds {type(content).__name__}, not settings",
            expected="lines of the form `key: value`",
            next_step="mend the file",
        )
    return content


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """One line a fault: where, what is wrong, what was received; a misspelt key gets a suggestion."""
    lines: dict[str, list[str]] = {}
    known = _all_keys(model)
    for fault in error.errors():
        where = ".".join(str(part) for part in fault["loc"] if not _is_branch(part)) or "recipe"
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
        part in {"adam", "adamw", "sgd", "constant", "exponential", "cosine", "plateau"}
        or bool(re.match(r"^(tuple|literal|float|str|constrained|function|list|dict)[\[\-(]|^(float|str)$", part))
    )


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
