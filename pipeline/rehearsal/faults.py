"""Fault: what the server does wrong on purpose, so that a client can be seen to bear it.

    CreateSubmission=503*2    the next two calls are answered 503
    Upload=drop               the next upload is cut off in its middle
    Download=corrupt*0        every download has the right size and wrong bytes
    SaveKernel=answer:html    the next push is done, and answered with a page

Which answer a fault makes belongs to `handler.py`.
"""

import re
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Self

from pipeline.errors import KitError
from pipeline.rehearsal.bent import BENT

METHODS = (
    "CreateCodeSubmission",
    "CreateDataset",
    "CreateDatasetVersion",
    "CreateSubmission",
    "DownloadDataFile",
    "DownloadDataFiles",
    "GetAcceleratorQuotaStatistics",
    "GetCompetition",
    "GetDatasetStatus",
    "GetKernel",
    "GetKernelSessionStatus",
    "GetSubmission",
    "GetSubmissionLimits",
    "IntrospectToken",
    "ListDataFiles",
    "ListKernelSessionOutput",
    "ListSubmissions",
    "SaveKernel",
    "StartBlobUpload",
    "StartSubmissionUpload",
)
"""The methods of the API that a rehearsal answers."""
TRANSFERS = ("Upload", "Download", "Output")
"""What may fail besides the methods of the API: the PUT of a file, the GET of data, the GET of a kernel's output."""

_PLAIN = (
    "an HTTP status from 300 to 599 (`503`), `nested:` and a status, `drop`, `hang`, `lost`, or `answer:` and one of "
    + ", ".join(BENT)
)
# A fault that only some methods know: what it does → where.
_SPECIAL = {
    "corrupt": ("Download", "Output"),
    "quota": ("SaveKernel",),
    "busy": ("SaveKernel",),
    "dropped": ("SaveKernel",),
    "unknown": ("GetSubmission", "ListSubmissions", "GetKernelSessionStatus", "GetDatasetStatus"),
}


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong.

    Attributes:
        method: A method of the API (`CreateSubmission`), one of `TRANSFERS`, or `*` for all of them.
        what: An HTTP status (`503`; `nested:503` for Kaggle's other shape of an error), `drop` (the connection is
            closed in the middle, or before a method is done), `hang` (no answer until the server stops), `lost`
            (done, then closed without an answer), `corrupt` (right size, wrong bytes), `quota` and `busy` (a push
            is refused with status 200), `dropped` (a push without its data sets), `unknown` (a status that no
            client knows), `answer:null` and the like (done, then answered with that).
        times: How often; 0 for always.
        struck: How often it has happened.
    """

    method: str
    what: str
    times: int = 1
    struck: int = field(default=0, compare=False)

    def __str__(self) -> str:
        return f"{self.method}={self.what}" + ("" if self.times == 1 else f"*{self.times}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `METHOD=WHAT` or `METHOD=WHAT*TIMES`.

        Raises:
            KitError: The text says something else, there is no such method, or it knows no such fault.
        """
        found = re.fullmatch(r"(\w+|\*)=([a-z0-9:]+)(?:\*(\d+))?", text.strip())
        if not found:
            raise _error(text, "METHOD=WHAT or METHOD=WHAT*TIMES, as in CreateSubmission=503*2")
        method, what, times = found.groups(default="1")
        if method not in (*METHODS, *TRANSFERS, "*"):
            raise _error(text, f"before the = one of {', '.join((*METHODS, *TRANSFERS))}, or * for all of them")
        if what in _SPECIAL and method not in _SPECIAL[what]:
            raise _error(text, f"{what} with {' or '.join(_SPECIAL[what])}")
        plain = rf"(nested:)?[345]\d\d|drop|hang|lost|answer:({'|'.join(BENT)})"
        if what not in _SPECIAL and not re.fullmatch(plain, what):
            raise _error(text, f"after the = {_PLAIN}, or one of {', '.join(_SPECIAL)}")
        return cls(method, what, int(times))


_LOCK = Lock()


def take(faults: list[Fault], method: str) -> str | None:
    """What goes wrong with this call of `method`, if anything; a fault that is used up leaves the list."""
    with _LOCK:
        for place, fault in enumerate(faults):
            if fault.method in (method, "*"):
                if fault.times == 1:
                    del faults[place]
                else:
                    faults[place] = replace(fault, times=max(0, fault.times - 1), struck=fault.struck + 1)
                return fault.what
    return None


def _error(text: str, expected: str) -> KitError:
    return KitError(
        f"{text!r} is no fault", expected=expected, next_step="correct it, as in: --fault CreateSubmission=503*2"
    )
