"""Finding out what became of submissions, and writing it into the ledger. Nothing here sends anything."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pipeline.errors import BusyError
from pipeline.submit.kaggle_answers import RemoteSubmission
from pipeline.submit.kaggle_client import Kaggle
from pipeline.submit.ledger import OPEN, Entry, Ledger, Status, mark

LOST_AFTER = timedelta(minutes=10)
"""A submission whose sender died may still be on its way for so long."""


@dataclass(frozen=True)
class Synced:
    """What `sync` found.

    Attributes:
        settled: Rows that were open and are not any more.
        open: Rows that still are.
    """

    settled: tuple[Entry, ...]
    open: tuple[Entry, ...]


def sync(kaggle: Kaggle, ledger: Ledger, *, now: datetime | None = None) -> Synced:
    """Ask the server once what became of its open rows, and whether one that failed is there after all. Sends nothing.

    A row that was being sent is looked for by its tag, or where the description was edited by its time and file. One
    that is not there `LOST_AFTER` it was begun, and that no living process is sending, never arrived.
    """
    moment, before = now or datetime.now(UTC), {row.tag: row for row in ledger.read() if is_asked(row, kaggle.server)}
    if not before:
        return Synced((), ())
    try:
        with ledger.sending():
            # Read again: a sender may have ended since.
            rows = _ask(kaggle, ledger, [row for row in ledger.read() if row.tag in before], now=moment)
    except BusyError:
        # A row that is being sent at this moment is its sender's.
        waiting = [row for row in before.values() if row.status is Status.PENDING]
        asked = _ask(kaggle, ledger, waiting, now=moment)
        rows = [*asked, *(row for row in before.values() if row.status is Status.SENDING)]
    settled = tuple(row for row in rows if row.status not in OPEN and before[row.tag].status is not row.status)
    return Synced(settled, tuple(row for row in rows if row.status in OPEN))


def is_asked(entry: Entry, server: str) -> bool:
    """Whether `sync` asks this server after a row: one that is open, or that is said never to have arrived."""
    return entry.server == server and entry.status in (*OPEN, Status.FAILED)


def _ask(kaggle: Kaggle, ledger: Ledger, rows: Sequence[Entry], *, now: datetime) -> list[Entry]:
    known = kaggle.submissions(ledger.slug) if rows else []
    return [_settle_from(kaggle, ledger, entry, known, now=now) for entry in rows]


def _settle_from(
    kaggle: Kaggle, ledger: Ledger, entry: Entry, known: Sequence[RemoteSubmission], *, now: datetime
) -> Entry:
    for found in known:
        if mark(entry.tag) in found.description:
            return settle(ledger, entry, found)
    # A server may keep descriptions as it likes, and a user may edit them; but one with another tag is another one.
    untagged = [found for found in known if not re.search(r"\[kit [0-9a-f]{8}\]", found.description)]
    for found in untagged:
        if found.ref == entry.ref:
            return settle(ledger, entry, found)
    if entry.ref is None:
        taken, begun = {other.ref for other in ledger.read()}, datetime.fromisoformat(entry.time)
        alike = [one for one in untagged if one.ref not in taken and one.time and abs(one.time - begun) < LOST_AFTER]
        named = [one for one in alike if one.file_name == Path(entry.file).name]
        if len(named) == 1:
            return settle(ledger, entry, named[0])
        if alike:
            return entry  # one of them may be it
    if entry.status is Status.SENDING and now - datetime.fromisoformat(entry.time) > LOST_AFTER:
        return ledger.update(entry.tag, status=Status.FAILED, message=joined(entry.message, "it never arrived"))
    if entry.status is Status.PENDING and kaggle.server == "rehearsal":
        gone = "the rehearsal was started afresh before it was scored"
        return ledger.update(entry.tag, status=Status.ERROR, message=joined(entry.message, gone))
    return entry


def settle(ledger: Ledger, entry: Entry, found: RemoteSubmission) -> Entry:
    """Write what the server says into the row, where it says something new."""
    changes: dict[str, object] = {"ref": found.ref, "status": Status(found.status)}
    if found.status == "COMPLETE":
        changes |= {"public_score": _finite(found.public), "private_score": _finite(found.private)}
    if found.status == "ERROR":
        changes["message"] = joined(entry.message, found.error)
    if all(getattr(entry, name) == value for name, value in changes.items()):
        return entry
    return ledger.update(entry.tag, **changes)


def _finite(score: float | None) -> float | None:
    return score if score is not None and math.isfinite(score) else None


def joined(*parts: str) -> str:
    return "; ".join(" ".join(part.split()) for part in parts if part)
