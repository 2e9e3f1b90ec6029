"""A kernel's folder before it is pushed, and what Kaggle says of the push.

Kaggle answers 200 to a push it refuses and to one it takes without its inputs, so the answer is read to the end.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.submit.kaggle_answers import PushedKernel
from pipeline.submit.kaggle_errors import (
    GpuBusy,
    GpuQuota,
    InvalidKernel,
    Refused,
    SourceDropped,
    SourceTooLarge,
    next_step_for,
)

SOURCE_LIMIT = 1_000_000
"""Bytes that a code file must stay below."""

_SHORTEST = 5
_SOURCES = ("Dataset", "Competition", "Kernel", "Model")


def split(ref: str) -> tuple[str, str]:
    """Owner and slug of `owner/slug`.

    Raises:
        InvalidKernel: It is something else.
    """
    owner, _, slug = ref.partition("/")
    if not owner or not slug or "/" in slug:
        raise InvalidKernel(f"{ref!r} names no kernel", expected="OWNER/SLUG", next_step="as in your-name/train")
    return owner, slug


def read(folder: Path) -> dict[str, Any]:
    """What `kernel-metadata.json` in `folder` says, held against Kaggle's rules before anything is sent.

    Raises:
        InvalidKernel: It breaks one of them.
        SourceTooLarge: The code file is too large.
    """
    file = folder / "kernel-metadata.json"
    try:
        metadata = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise _broken(file, f"cannot be read: {error}") from None
    if not isinstance(metadata, dict):
        raise _broken(file, "is no JSON object")
    _check_name(file, str(metadata.get("id", "")), str(metadata.get("title", "")))
    if "enable_internet" not in metadata:
        # Left out it is on, whatever Kaggle's documentation says, and a code competition refuses the kernel.
        raise _broken(file, "does not say enable_internet: true or false")
    code = folder / str(metadata.get("code_file") or "")
    if not code.is_file():
        raise _broken(file, f"names a code_file that is not there: {code.name}")
    size = code.stat().st_size
    if size >= SOURCE_LIMIT:
        raise SourceTooLarge(
            f"{code} has {size} bytes",
            expected=f"fewer than {SOURCE_LIMIT}",
            next_step="move what is large into a data set and attach it",
        )
    return metadata


def _check_name(file: Path, ref: str, title: str) -> None:
    from slugify import slugify  # it comes with kaggle, which slugifies with it too

    _, slug = split(ref)
    if len(slug) < _SHORTEST or len(title) < _SHORTEST:
        raise _broken(file, f"has the title {title!r} and the id {ref!r}: Kaggle wants at least 5 characters of each")
    if slugify(title) != slug.lower():
        raise _broken(file, f"has the title {title!r}, whose slug is {slugify(title)!r}, but the id {ref!r}")


def _broken(file: Path, problem: str) -> InvalidKernel:
    return InvalidKernel(
        f"{file} {problem}", expected="metadata that Kaggle takes", next_step="mend the file, then push again"
    )


def pushed(ref: str, answer: Mapping[str, Any]) -> PushedKernel:
    """The version that an answer to SaveKernel tells of.

    Raises:
        InvalidKernel, GpuQuota, GpuBusy: It tells of none.
        SourceDropped: It tells of one that lacks a source.
    """
    if error := answer.get("error"):
        raise _refusal(ref, str(error))
    # The answer's ref is a path, /code/owner/slug.
    owner_and_slug = "/".join(str(answer.get("ref") or ref).strip("/").split("/")[-2:])
    made = PushedKernel(owner_and_slug, str(answer.get("url") or _url(ref)), number(answer))
    dropped = {kind.lower(): answer.get(f"invalid{kind}Sources") for kind in _SOURCES}
    if any(dropped.values()):
        named = "; ".join(f"{kind} {', '.join(names)}" for kind, names in dropped.items() if names)
        raise SourceDropped(made, named)
    return made


def number(answer: Mapping[str, Any]) -> int:
    """Number of the version that an answer to SaveKernel tells of; 0 if it tells of none."""
    return int(float(answer.get("versionNumber") or 0))


def version(kernel: Mapping[str, Any]) -> int:
    """Number of the latest version, from what GetKernel says of a kernel."""
    return int(float(kernel.get("currentVersionNumber") or 0))


def labelled(version: int | None) -> dict[str, str]:
    """Field of a request that asks for a version; none for the latest."""
    return {} if version is None else {"version_label": f"v{version}"}


def found(metadata: Mapping[str, Any], kernel: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to a push that was lost, made up from what GetKernel says of the version."""
    dropped = {
        f"invalid{kind}Sources": _missing(
            metadata.get(f"{kind.lower()}_sources"), kernel.get(f"{kind.lower()}DataSources")
        )
        for kind in _SOURCES
    }
    return {"versionNumber": version(kernel), **dropped}


def _missing(wanted: Sequence[str] | None, attached: Sequence[str] | None) -> list[str]:
    """The sources that are not attached; none where Kaggle does not list what is."""
    if attached is None:
        return []
    # Kaggle may or may not name the version of a source: owner/slug is enough.
    known = {"/".join(source.lower().split("/")[:2]) for source in attached}
    return [source for source in wanted or [] if "/".join(source.lower().split("/")[:2]) not in known]


def _refusal(ref: str, error: str) -> Refused:
    if re.search(r"quota", error, re.IGNORECASE):
        return GpuQuota(
            f"{ref} was not pushed: {error}", expected="GPU hours left this week", next_step="wait for the next week"
        )
    if re.search(r"session count", error, re.IGNORECASE):
        return GpuBusy(
            f"{ref} was not pushed: {error}",
            expected="fewer sessions with a GPU at a time",
            next_step="wait until one has ended, or cancel one on its page",
        )
    return InvalidKernel(
        f"{ref} was not pushed: {error}", expected="a push that is taken", next_step=next_step_for(error)
    )


def _url(ref: str) -> str:
    return f"https://www.kaggle.com/code/{ref}"
