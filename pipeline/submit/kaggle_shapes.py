"""Shapes: what the answer to each call looks like, so that nobody who reads one meets another.

The one place where an answer of any shape becomes either one that can be read or a problem in words. A key that is null
is a key that is left out, as every default may be; keys that are not known here are nobody's business.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import requests

Answer = Mapping[str, Any]
Check = Callable[[object], bool]


@dataclass(frozen=True)
class Shape:
    """An object.

    Attributes:
        fields: Key → whether a value can be what it stands for.
        needs: Keys that must be there; where there are none, one of `fields` must.
    """

    fields: Mapping[str, Check]
    needs: tuple[str, ...] = ()

    def __call__(self, value: object) -> bool:
        return isinstance(value, dict) and not self.problem(value)

    def problem(self, answer: Mapping[Any, Any]) -> str:
        """What is wrong with an object, in words; empty if nothing is."""
        there = {key: value for key, value in answer.items() if value is not None}
        lacking = [key for key in self.needs if key not in there]
        if lacking or not any(key in there for key in self.fields):
            return f"without {lacking[0] if lacking else 'a word of what was asked'}"
        wrong = [key for key, check in self.fields.items() if key in there and not check(there[key])]
        return f"with a {wrong[0]} that cannot be one" if wrong else ""


def _text(value: object) -> bool:
    return isinstance(value, str)


def _flag(value: object) -> bool:
    return isinstance(value, bool)


def _scalar(value: object) -> bool:
    """A number, or a text: of a score that is not there yet there are many."""
    return isinstance(value, str | int | float) and not isinstance(value, bool)


def _number(value: object) -> bool:
    """A number; JSON made from 64-bit numbers has them as text."""
    return _scalar(value) and _finite(value) is not None


def _positive(value: object) -> bool:
    return _scalar(value) and (_finite(value) or 0) >= 1


def _seconds(value: object) -> bool:
    return isinstance(value, str) and _finite(value.removesuffix("s") or 0) is not None


def _finite(value: Any) -> float | None:
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _list(check: Check) -> Check:
    return lambda value: isinstance(value, list) and all(map(check, value))


_SUBMISSION = Shape(
    {
        "ref": _positive,
        "publicScore": _scalar,
        "privateScore": _scalar,
        **dict.fromkeys(("date", "status", "errorDescription", "fileName", "description"), _text),
    },
    needs=("ref",),
)
_CREATED = Shape({"message": _text, "ref": _number})
_PLACE = Shape({"token": _text, "createUrl": _text}, needs=("token", "createUrl"))
_DATA_SET = Shape(dict.fromkeys(("status", "error", "ref", "url"), _text))
_TIMES = Shape(dict.fromkeys(("timeUsed", "totalTimeAllowed"), _seconds))
_SOURCES = ("Dataset", "Competition", "Kernel", "Model")
_FILE = Shape({"name": _text, "totalBytes": _number}, needs=("name",))
_OUTPUT_FILE = Shape({"url": _text, "fileName": _text}, needs=("url", "fileName"))
_ANSWERS = {
    "CreateCodeSubmission": _CREATED,
    "CreateDataset": _DATA_SET,
    "CreateDatasetVersion": _DATA_SET,
    "CreateSubmission": _CREATED,
    "GetAcceleratorQuotaStatistics": Shape({"gpuQuota": _TIMES, "quotaRefreshTime": _text}, needs=("gpuQuota",)),
    "GetCompetition": Shape(
        {
            **dict.fromkeys(("userHasEntered", "isKernelsSubmissionsOnly", "submissionsDisabled"), _flag),
            "maxDailySubmissions": _number,
            "evaluationMetric": _text,
            "url": _text,
        }
    ),
    "GetDatasetStatus": Shape({"status": _text}),
    "GetKernel": Shape(
        {
            "metadata": Shape(
                {
                    "currentVersionNumber": _number,
                    **{f"{kind.lower()}DataSources": _list(_text) for kind in _SOURCES},
                }
            ),
            "blob": lambda value: isinstance(value, dict) and _text(value.get("source") or ""),
        },
        needs=("metadata",),
    ),
    "GetKernelSessionStatus": Shape({"status": _text, "failureMessage": _text}),
    "GetSubmission": _SUBMISSION,
    "GetSubmissionLimits": Shape(
        {**dict.fromkeys(("numToday", "numTotal", "numAllowedNow"), _number), "limitedByTotal": _flag}
    ),
    "IntrospectToken": Shape({"active": _flag, "username": _text}),
    "ListDataFiles": Shape({"files": _list(_FILE), "nextPageToken": _text}, needs=("files",)),
    "ListKernelSessionOutput": Shape({"files": _list(_OUTPUT_FILE), "log": _text, "nextPageToken": _text}),
    "ListSubmissions": Shape({"submissions": _list(_SUBMISSION), "nextPageToken": _text}, needs=("submissions",)),
    "SaveKernel": Shape(
        {
            **dict.fromkeys(("ref", "url", "error"), _text),
            "versionNumber": _number,
            **{f"invalid{kind}Sources": _list(_text) for kind in _SOURCES},
        }
    ),
    "StartBlobUpload": _PLACE,
    "StartSubmissionUpload": _PLACE,
}


def problem_with(method: str, answer: Answer) -> str:
    """What is wrong with the answer to `method`, in words; empty if nothing is."""
    return _ANSWERS[method].problem(answer) if method in _ANSWERS else ""


def json_of(response: requests.Response) -> dict[str, Any]:
    """The JSON object that an answer is.

    Raises:
        requests.HTTPError: It is a refusal, be it in an answer of HTTP 200.
        requests.exceptions.InvalidJSONError: It is no JSON object.
    """
    response.raise_for_status()
    try:
        content = response.json()
    except RecursionError:
        content = None
    if not isinstance(content, dict) or response.status_code >= 300:
        raise requests.exceptions.InvalidJSONError
    code = content.get("code")
    if isinstance(code, int) and code >= 400:
        raise requests.HTTPError(response=response)
    return content
