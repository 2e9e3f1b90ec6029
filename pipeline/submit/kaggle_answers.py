"""What Kaggle answers, read from its JSON: a status it invents tomorrow is text like any other.

The client's own classes raise KeyError on a status they do not know, so they are not used for answers.
"""

import json
import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, Self

from pipeline.submit.kaggle_shapes import Answer


@dataclass(frozen=True)
class CompetitionInfo:
    """A competition, as Kaggle describes it to this user.

    Attributes:
        entered: The user has accepted the rules.
        code_only: Submissions are made of kernels; a CSV is refused.
        closed: No submission is taken at all.
        daily_limit: Submissions a team may make a day.
        metric: The metric's name in Kaggle's words.
    """

    slug: str
    entered: bool
    code_only: bool
    closed: bool
    daily_limit: int
    metric: str
    url: str

    @classmethod
    def read(cls, slug: str, answer: Answer) -> Self:
        return cls(
            slug=slug,
            entered=bool(answer.get("userHasEntered")),
            code_only=bool(answer.get("isKernelsSubmissionsOnly")),
            closed=bool(answer.get("submissionsDisabled")),
            daily_limit=_whole(answer, "maxDailySubmissions"),
            metric=_text(answer, "evaluationMetric"),
            url=_text(answer, "url") or f"https://www.kaggle.com/c/{slug}",
        )


@dataclass(frozen=True)
class RemoteFile:
    """A file of a competition's data; its size in bytes."""

    name: str
    bytes: int

    @classmethod
    def read(cls, answer: Answer) -> Self:
        return cls(_text(answer, "name"), _whole(answer, "totalBytes"))


@dataclass(frozen=True)
class Limits:
    """Submissions made today (UTC) and in all, and how many may be made now.

    Attributes:
        limited_by_total: `left` is what remains of a limit for the whole competition, not of today's.
    """

    today: int
    total: int
    left: int
    limited_by_total: bool

    @classmethod
    def read(cls, answer: Answer) -> Self:
        return cls(
            today=_whole(answer, "numToday"),
            total=_whole(answer, "numTotal"),
            left=_whole(answer, "numAllowedNow"),
            limited_by_total=bool(answer.get("limitedByTotal")),
        )


@dataclass(frozen=True)
class RemoteSubmission:
    """A submission on the server.

    Attributes:
        time: When it was made, UTC; None where Kaggle does not say.
        status: A status that is not known counts as PENDING: it is not an end.
        public: Score on the public leaderboard, where there is one yet.
        private: Score on the private leaderboard, shown after the competition's end.
        error: Why it could not be scored.
    """

    ref: int
    time: datetime | None
    status: Literal["PENDING", "COMPLETE", "ERROR"]
    public: float | None
    private: float | None
    error: str
    file_name: str
    description: str

    @classmethod
    def read(cls, answer: Answer) -> Self:
        status = state(answer, first="PENDING")
        return cls(
            ref=_whole(answer, "ref"),
            time=_time(answer, "date"),
            status="COMPLETE" if status == "COMPLETE" else "ERROR" if status == "ERROR" else "PENDING",
            public=_number(answer, "publicScore"),
            private=_number(answer, "privateScore"),
            error=_text(answer, "errorDescription"),
            file_name=_text(answer, "fileName"),
            description=_text(answer, "description"),
        )


@dataclass(frozen=True)
class PushedKernel:
    """A kernel's new version. `ref` is `owner/slug`."""

    ref: str
    url: str
    version: int


@dataclass(frozen=True)
class KernelStatus:
    """State of a kernel's latest version in Kaggle's words: QUEUED, RUNNING, COMPLETE, ERROR, CANCEL_… or another."""

    state: str
    failure: str


@dataclass(frozen=True)
class Quota:
    """GPU time of the week, in seconds, and when it begins anew (UTC)."""

    used_s: float
    allowed_s: float
    refresh: datetime | None

    @classmethod
    def read(cls, answer: Answer) -> Self:
        gpu = answer.get("gpuQuota") or {}
        return cls(_seconds(gpu, "timeUsed"), _seconds(gpu, "totalTimeAllowed"), _time(answer, "quotaRefreshTime"))


def state(answer: Answer, *, first: str) -> str:
    """A status in capitals. The `first` one of its kind may be left out of an answer, as every default may."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", _text(answer, "status"))
    return words.upper() or first


def plain_log(log: str) -> str:
    """The text a kernel wrote. Kaggle wraps it in JSON, an entry a piece; a log of another form is left as it is."""
    try:
        entries = json.loads(log)
        return "".join(entry["data"] for entry in entries)
    except (ValueError, TypeError, KeyError):
        return log


def _text(answer: Answer, key: str) -> str:
    value = answer.get(key)
    return value if isinstance(value, str) else ""


def _whole(answer: Answer, key: str) -> int:
    """A whole number; JSON made from 64-bit numbers has them as text."""
    number = _number(answer, key)
    return 0 if number is None else int(number)


def _number(answer: Answer, key: str) -> float | None:
    try:
        number = float(answer[key])
    except (KeyError, OverflowError, TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _seconds(answer: Answer, key: str) -> float:
    try:
        return float(_text(answer, key).removesuffix("s"))
    except ValueError:
        return 0.0


def _time(answer: Answer, key: str) -> datetime | None:
    try:
        time = datetime.fromisoformat(_text(answer, key))
    except ValueError:
        return None
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
