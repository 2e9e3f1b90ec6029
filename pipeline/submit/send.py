"""Submitting: look before sending, send once, wait for the score, and pick up what was interrupted.

The ledger is true at every moment: a row stands in it before anything is sent, and what is not known is said to be
SENDING until `sync` has asked the server.
"""

import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pipeline.errors import BusyError, KitError, SubmissionError, counted
from pipeline.submit.kaggle_answers import Limits, RemoteSubmission
from pipeline.submit.kaggle_client import Kaggle
from pipeline.submit.kaggle_errors import (
    DailyLimit,
    KaggleError,
    OutcomeUnknown,
    RateLimited,
    RulesNotAccepted,
    Unreachable,
)
from pipeline.submit.ledger import OPEN, Entry, Ledger, Status, mark, new_tag
from pipeline.submit.outgoing import Outgoing

LOST_AFTER = timedelta(minutes=10)
"""A submission whose sender died may still be on its way for so long."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0  # seconds
_LONGEST_NAME = 150  # letters of a description: were it cut short on the way, the tag would be lost


class StillOpen(KitError):
    """Not a failure: what became of a submission is not known yet, and `kit submit --sync` asks later."""

    exit_code = 4


@dataclass(frozen=True)
class Synced:
    """What `sync` found.

    Attributes:
        settled: Rows that were open and are not any more.
        open: Rows that still are.
    """

    settled: tuple[Entry, ...]
    open: tuple[Entry, ...]


def preflight(kaggle: Kaggle, slug: str, *, kernel: bool = False) -> Limits:
    """Ask whether the competition would take a submission now.

    Args:
        kernel: The submission is a kernel's version, not a file.

    Raises:
        RulesNotAccepted, NoAccess: The competition is not entered, or not there.
        SubmissionError: It is closed, or takes kernels only.
        DailyLimit: No submission is left today.
    """
    info = kaggle.competition(slug)
    if not info.entered:
        raise RulesNotAccepted(
            f"{kaggle.user} has not accepted the rules of {slug}",
            expected="accepted rules, which no program can do for you",
            next_step=f"accept them at https://www.kaggle.com/c/{slug}/rules and run this again",
        )
    if info.closed:
        raise SubmissionError(
            f"{slug} takes no submissions any more",
            expected="a competition that is open, or takes late submissions",
            next_step=f"see {info.url}",
        )
    if info.code_only and not kernel:
        raise SubmissionError(
            f"{slug} is a code competition: it takes a kernel's output, and no files",
            expected="a kernel that writes the submission",
            next_step="kit kernel run predict, then: kit submit --kernel predict",
        )
    limits = kaggle.limits(slug)
    if limits.left <= 0:
        raise DailyLimit(
            f"no submission to {slug} is left{'' if limits.limited_by_total else f' today ({limits.today} sent)'}",
            expected="at least one",
            next_step="the competition's total is used up" if limits.limited_by_total else _next_midnight(),
        )
    return limits


def submit_file(
    kaggle: Kaggle, ledger: Ledger, outgoing: Outgoing, path: Path, *, message: str = "", again: bool = False
) -> Entry:
    """Submit a CSV; returns its row, PENDING.

    Args:
        message: Stands in the description instead of the experiment's name.
        again: Send what was sent before.

    Raises:
        SubmissionError: It was sent before.
        KaggleError: It was refused; the row is FAILED and has the reason.
        StillOpen: It is not known whether it arrived.
        BusyError: Another process is submitting to this competition.
    """

    def send(description: str) -> int:
        return kaggle.submit(outgoing.slug, path, description=description)

    return _send(kaggle, ledger, outgoing, send, message=message, again=again)


def submit_kernel(
    kaggle: Kaggle,
    ledger: Ledger,
    outgoing: Outgoing,
    *,
    kernel: str,
    version: int,
    file_name: str,
    message: str = "",
    again: bool = False,
) -> Entry:
    """Submit the output file of a kernel's version; otherwise as `submit_file`.

    Args:
        kernel: `owner/slug`.
        file_name: The output file, such as `submission.csv`.
    """

    def send(description: str) -> int:
        return kaggle.submit_kernel(outgoing.slug, kernel, version, file_name=file_name, description=description)

    return _send(kaggle, ledger, outgoing, send, message=message, again=again)


def wait_for_score(
    kaggle: Kaggle, ledger: Ledger, entry: Entry, *, minutes: float, sleep: Callable[[float], None] = time.sleep
) -> Entry:
    """Ask for the score, less and less often, until it is there; returns the row, COMPLETE.

    Raises:
        SubmissionError: The server could not score it; the row is ERROR and has the reason.
        StillOpen: The time is up; the row stays PENDING.
    """
    end, pause, trouble = time.monotonic() + minutes * 60, _FIRST_PAUSE, ""
    while True:
        try:
            entry, trouble = _settle(ledger, entry, kaggle.submission(_ref(entry))), ""
        except (Unreachable, RateLimited) as error:
            trouble = f" ({error.problem})"  # asking failed; the submission is where it was
        if entry.status is not Status.PENDING:
            break
        left = end - time.monotonic()
        if left <= 0:
            raise StillOpen(
                f"submission {entry.ref} has no score after {counted(minutes, 'minute', 'minutes')}{trouble}",
                expected="a score; it is still being scored, and nothing is lost",
                next_step=f"ask later: kit submit --sync --competition {ledger.slug}",
            )
        sleep(min(pause, left))
        pause = min(pause * 1.6, _LONGEST_PAUSE)
    require_score(entry)
    return entry


def require_score(entry: Entry) -> None:
    """Raise `SubmissionError` if the server could not score it."""
    if entry.status is Status.ERROR:
        raise SubmissionError(
            f"submission {entry.ref} ({entry.file}) ended in an error: {entry.message or 'without a reason'}",
            expected="a file that the competition can score",
            next_step="mend it and submit again; the row stays in the ledger",
        )


def sync(kaggle: Kaggle, ledger: Ledger, *, now: datetime | None = None) -> Synced:
    """Ask the server once what became of its open rows. Sends nothing.

    A row that was being sent is looked for by its tag. One that is not there `LOST_AFTER` it was begun, and that
    no living process is sending, never arrived.
    """
    rows = [entry for entry in ledger.read() if entry.status in OPEN and entry.server == kaggle.server]
    if not rows:
        return Synced((), ())
    try:
        with ledger.sending():
            # Read again: a sender may have ended since.
            open_ = {entry.tag for entry in rows}
            rows = [entry for entry in ledger.read() if entry.tag in open_]
            rows = _ask(kaggle, ledger, rows, now=now or datetime.now(UTC))
    except BusyError:
        # A row that is being sent at this moment is its sender's.
        waiting = [entry for entry in rows if entry.status is Status.PENDING]
        asked = _ask(kaggle, ledger, waiting, now=now or datetime.now(UTC))
        rows = [*asked, *(entry for entry in rows if entry.status is Status.SENDING)]
    settled = tuple(entry for entry in rows if entry.status not in OPEN)
    return Synced(settled, tuple(entry for entry in rows if entry not in settled))


def _ask(kaggle: Kaggle, ledger: Ledger, rows: Sequence[Entry], *, now: datetime) -> list[Entry]:
    known = kaggle.submissions(ledger.slug) if rows else []
    return [_settle_from(kaggle, ledger, entry, known, now=now) for entry in rows]


def _settle_from(
    kaggle: Kaggle, ledger: Ledger, entry: Entry, known: Sequence[RemoteSubmission], *, now: datetime
) -> Entry:
    for found in known:
        if mark(entry.tag) in found.description:
            return _settle(ledger, entry, found)
    for found in known:
        # A server may keep descriptions as it likes; but one with another tag is another submission.
        if found.ref == entry.ref and not re.search(r"\[kit [0-9a-f]{8}\]", found.description):
            return _settle(ledger, entry, found)
    if entry.status is Status.SENDING and now - datetime.fromisoformat(entry.time) > LOST_AFTER:
        return ledger.update(entry.tag, status=Status.FAILED, message=_joined(entry.message, "it never arrived"))
    if entry.status is Status.PENDING and kaggle.server == "rehearsal":
        gone = "the rehearsal was started afresh before it was scored"
        return ledger.update(entry.tag, status=Status.ERROR, message=_joined(entry.message, gone))
    return entry


def _send(
    kaggle: Kaggle, ledger: Ledger, outgoing: Outgoing, send: Callable[[str], int], *, message: str, again: bool
) -> Entry:
    note = " ".join(message.split())
    with ledger.sending():
        entry = Entry(
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            server=kaggle.server,
            file=outgoing.file,
            sha256=outgoing.sha256,
            experiment=outgoing.experiment,
            oof_score=outgoing.oof_score,
            oof_score_se=outgoing.oof_score_se,
            public_score=None,
            private_score=None,
            ref=None,
            status=Status.SENDING,
            message=note,
            tag=new_tag(),
        )
        ledger.begin(entry, again=again)
        try:
            ref = send(_description(outgoing, note, entry.tag))
        except OutcomeUnknown as error:
            # The row stays SENDING, for `sync`.
            raise StillOpen(
                f"it is not known whether {outgoing.file} arrived: {error.problem}",
                expected="the submission's number as an answer",
                next_step=f"kit submit --sync --competition {ledger.slug} looks for it, and sends nothing",
            ) from None
        except KaggleError as error:
            ledger.update(entry.tag, status=Status.FAILED, message=_joined(note, error.problem))
            raise
        return ledger.update(entry.tag, status=Status.PENDING, ref=ref)


def _description(outgoing: Outgoing, note: str, tag: str) -> str:
    name = note or outgoing.experiment or outgoing.file.rpartition("/")[2]
    score = "" if outgoing.oof_score is None else f" {outgoing.oof_score:.4f}"
    return f"{name[:_LONGEST_NAME]}{score} {mark(tag)}"


def _settle(ledger: Ledger, entry: Entry, found: RemoteSubmission) -> Entry:
    """Write what the server says into the row, where it says something new."""
    changes: dict[str, object] = {"ref": found.ref, "status": Status(found.status)}
    if found.status == "COMPLETE":
        changes |= {"public_score": _finite(found.public), "private_score": _finite(found.private)}
    if found.status == "ERROR":
        changes["message"] = _joined(entry.message, found.error)
    if all(getattr(entry, name) == value for name, value in changes.items()):
        return entry
    return ledger.update(entry.tag, **changes)


def _finite(score: float | None) -> float | None:
    return score if score is not None and math.isfinite(score) else None


def _joined(*parts: str) -> str:
    return "; ".join(" ".join(part.split()) for part in parts if part)


def _ref(entry: Entry) -> int:
    if entry.ref is None:
        raise ValueError(f"{mark(entry.tag)} has no ref")
    return entry.ref


def _next_midnight() -> str:
    now = datetime.now(UTC)
    seconds = 86400 - (now.hour * 3600 + now.minute * 60 + now.second)
    return f"the count begins anew at midnight UTC, in {seconds // 3600} h {seconds % 3600 // 60} min"
