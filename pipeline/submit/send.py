"""Submitting: look before sending, send once, wait for the score, and pick up what was interrupted.

The ledger is true at every moment: a row stands in it before anything is sent, and what is not known is said to be
SENDING until `sync` has asked the server.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from pipeline.errors import DataError, KitError, SubmissionError, counted
from pipeline.submit.kaggle_answers import Limits
from pipeline.submit.kaggle_client import Kaggle
from pipeline.submit.kaggle_errors import (
    DailyLimit,
    KaggleError,
    OutcomeUnknown,
    RateLimited,
    RulesNotAccepted,
    Unreachable,
)
from pipeline.submit.ledger import Entry, Ledger, Status, mark, new_tag
from pipeline.submit.outgoing import Outgoing
from pipeline.submit.sync import joined, settle

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0  # seconds
_LOOK = 30.0  # seconds for a look at what was sent from elsewhere
_LONGEST_NAME = 150  # letters of a description: were it cut short on the way, the tag would be lost


class StillOpen(KitError):
    """Not a failure: what became of a submission is not known yet, and `kit submit --sync` asks later."""

    exit_code = 4


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
        SubmissionError: It was sent before, from here or from elsewhere.
        DataError: The ledger cannot be read or written; nothing was sent.
        KaggleError: It was refused; the row is FAILED and has the reason.
        StillOpen: It is not known whether it arrived, or it did and the ledger could not be written.
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
            with kaggle.until(end):
                found = kaggle.submission(_ref(entry))
        except (Unreachable, RateLimited) as error:
            trouble = f" ({error.problem})"  # asking failed; the submission is where it was
        except KaggleError as error:
            raise StillOpen(
                f"submission {entry.ref} is made and safe, but nothing is told of it: {error.problem}",
                expected="a score, or that it is being scored",
                next_step=f"{error.next_step}; then ask: kit submit --sync --competition {ledger.slug}",
            ) from None
        else:
            entry, trouble = settle(ledger, entry, found), ""
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
        try:
            if not again:
                _refuse_sent_elsewhere(kaggle, ledger, outgoing)
            ledger.begin(entry, again=again)
        except DataError as error:
            raise _unwritten("nothing was submitted", error) from None
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
            try:
                ledger.update(entry.tag, status=Status.FAILED, message=joined(note, error.problem))
            except DataError as unwritten:
                raise _unwritten(f"{outgoing.file} was not submitted: {error.problem}", unwritten) from None
            raise
        try:
            return ledger.update(entry.tag, status=Status.PENDING, ref=ref)
        except DataError as error:
            raise StillOpen(
                f"{outgoing.file} was submitted, as number {ref}, but its row was not written: {error.problem}",
                expected="a ledger that can be written",
                next_step=f"{error.next_step}; then: kit submit --sync --competition {ledger.slug}",
            ) from None


def _unwritten(what: str, error: DataError) -> DataError:
    return DataError(f"{what}; {error.problem}", expected=error.expected, next_step=error.next_step)


def _refuse_sent_elsewhere(kaggle: Kaggle, ledger: Ledger, outgoing: Outgoing) -> None:
    """Refuse what Kaggle's own list has, by the hash in its description; this ledger may not know of it."""
    ledger.refuse_repeated(ledger.read(), outgoing.sha256, server=kaggle.server)
    try:
        with kaggle.until(time.monotonic() + _LOOK):
            made = kaggle.submissions(ledger.slug)
    except KaggleError:
        return  # the ledger knows what was sent from here
    for one in made:
        if content_mark(outgoing.sha256) in one.description:
            raise SubmissionError(
                f"{kaggle.server} has this content already: submission {one.ref}, {one.description!r}, {one.status}",
                expected="content that was not sent yet, because each submission counts against the daily limit",
                next_step=f"kit submit --sync --competition {ledger.slug} looks for rows of this ledger; "
                "--again sends it once more",
            )


def _description(outgoing: Outgoing, note: str, tag: str) -> str:
    name = note or outgoing.experiment or outgoing.file.rpartition("/")[2]
    score = "" if outgoing.oof_score is None else f" {outgoing.oof_score:.4f}"
    return f"{name[:_LONGEST_NAME]}{score} {content_mark(outgoing.sha256)} {mark(tag)}"


def content_mark(sha256: str) -> str:
    """What tells the same content in a description, whoever sent it from wherever."""
    return f"#{sha256[:12]}"


def _ref(entry: Entry) -> int:
    if entry.ref is None:
        raise ValueError(f"{mark(entry.tag)} has no ref")
    return entry.ref


def _next_midnight() -> str:
    now = datetime.now(UTC)
    seconds = 86400 - (now.hour * 3600 + now.minute * 60 + now.second)
    return f"the count begins anew at midnight UTC, in {seconds // 3600} h {seconds % 3600 // 60} min"
