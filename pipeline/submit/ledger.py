"""The ledger: what was submitted, with which OOF score, and what the leaderboard said.

    submissions/<slug>/log.csv   one row a submission, oldest first

A row is written before anything is sent, so that a process that is killed leaves a trace. Its tag stands in the
description that the server keeps, which is how the submission is found again.
"""

import csv
import io
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime
from enum import StrEnum
from math import isfinite
from typing import Any

from pipeline.artifacts import Workspace, lock, write_text
from pipeline.errors import DataError, SubmissionError


class Status(StrEnum):
    """How far a submission has come."""

    SENDING = "SENDING"
    """Being sent, or its sender was killed: whether it arrived is not known."""
    PENDING = "PENDING"
    """It arrived and is being scored."""
    COMPLETE = "COMPLETE"
    ERROR = "ERROR"
    """It arrived, and the server found no score for it."""
    FAILED = "FAILED"
    """It never arrived."""


@dataclass(frozen=True)
class Entry:
    """One row.

    Attributes:
        time: UTC, ISO 8601 to the second: when sending began.
        server: `kaggle.com` or `rehearsal`.
        file: Path of the CSV, or `owner/slug/version` of a kernel.
        sha256: Of the CSV, or of the kernel's code.
        experiment: Empty where it is not known.
        ref: The server's number for it, from PENDING on.
        message: What the user noted, and what went wrong.
        tag: 8 hexadecimal digits, unique in the ledger.
    """

    time: str
    server: str
    file: str
    sha256: str
    experiment: str
    oof_score: float | None
    oof_score_se: float | None
    public_score: float | None
    private_score: float | None
    ref: int | None
    status: Status
    message: str
    tag: str


COLUMNS = tuple(field.name for field in fields(Entry))
_SCORES = ("oof_score", "oof_score_se", "public_score", "private_score")
_ARRIVED = (Status.PENDING, Status.COMPLETE, Status.ERROR)
OPEN = (Status.SENDING, Status.PENDING)
"""What is not settled yet."""


def new_tag() -> str:
    return secrets.token_hex(4)


def mark(tag: str) -> str:
    """A tag as it stands in a description."""
    return f"[kit {tag}]"


class Ledger:
    """The ledger of one competition."""

    def __init__(self, workspace: Workspace, slug: str) -> None:
        self.slug = slug
        self.folder = workspace.submissions(slug)
        self.path = self.folder / "log.csv"

    def read(self) -> list[Entry]:
        """All rows, oldest first; none where nothing was submitted yet.

        Raises:
            DataError: It cannot be read, or was edited into something that is no ledger.
        """
        try:
            text = self.path.read_text("utf-8-sig")
        except FileNotFoundError:
            return []
        except OSError as error:
            raise self._unusable("read", error) from None
        except UnicodeDecodeError as error:
            raise self._broken(str(error)) from None
        try:
            lines = list(csv.reader(io.StringIO(text, newline=""), strict=True))
        except csv.Error as error:
            raise self._broken(str(error)) from None
        if not lines or tuple(lines[0]) != COLUMNS:
            raise self._broken(f"its columns are {', '.join(lines[0]) if lines else 'missing'}")
        entries: list[Entry] = []
        for number, cells in enumerate(lines[1:], start=1):
            try:
                entries.append(_entry(cells))
            except ValueError as error:
                raise self._broken(f"row {number}: {error}") from None
        repeated = sorted({entry.tag for entry in entries if sum(other.tag == entry.tag for other in entries) > 1})
        if repeated:
            raise self._broken(f"the tag {repeated[0]} stands in several rows")
        return entries

    def begin(self, entry: Entry, *, again: bool = False) -> None:
        """Add a row for a submission that is about to be sent.

        Args:
            again: Send what was sent before.

        Raises:
            SubmissionError: The same content has been sent to the same server.
        """
        with self._changing() as entries:
            self.refuse_repeated(entries, entry.sha256, server=entry.server, again=again)
            entries.append(entry)

    def refuse_repeated(self, entries: Sequence[Entry], sha256: str, *, server: str, again: bool = False) -> None:
        """Raise `SubmissionError` if this content has been sent to this server, as far as the rows know."""
        same = [entry for entry in entries if (entry.sha256, entry.server) == (sha256, server)]
        same = [entry for entry in same if entry.status is not Status.FAILED]
        if again or not same:
            return
        last = same[-1]
        score = "" if last.public_score is None else f", public score {last.public_score:g}"
        look = "`kit submissions` shows its row"
        if last.status in OPEN:
            look = f"`kit submit --sync --competition {self.slug}` asks what became of it"
        raise SubmissionError(
            f"this content was sent to {server} before: {last.file} at {last.time}, {last.status}{score}",
            expected="content that was not sent yet, because each submission counts against the daily limit",
            next_step=f"{look}; --again sends it once more",
        )

    def update(self, tag: str, **changes: Any) -> Entry:
        """Change the row with this tag; returns it as it is now.

        Raises:
            DataError: There is no such row any more.
        """
        with self._changing() as entries:
            for position, entry in enumerate(entries):
                if entry.tag == tag:
                    entries[position] = replace(entry, **changes)
                    return entries[position]
            raise self._broken(f"the row of {mark(tag)} is gone")

    def sending(self) -> AbstractContextManager[None]:
        """Held by whoever sends, from the row to the ref: one sender at a time, and none mistaken for a dead one.

        Raises:
            BusyError: Another process is sending.
        """
        return lock(self.folder / ".sending.lock", what=f"submitting to {self.slug}")

    @contextmanager
    def _changing(self) -> Iterator[list[Entry]]:
        with lock(self.folder / ".log.lock", what=str(self.path), wait=lambda: None):
            entries = self.read()
            yield entries
            text = io.StringIO()
            writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows({key: _cell(value) for key, value in asdict(entry).items()} for entry in entries)
            try:
                write_text(self.path, text.getvalue())
            except OSError as error:
                raise self._unusable("written", error) from None

    def _unusable(self, done: str, error: OSError) -> DataError:
        return DataError(
            f"{self.path} cannot be {done}: {error.strerror}",
            expected="a file that you may read and write, in a folder where you may too, with room on the disk",
            next_step="see to it: it keeps account of what was sent",
        )

    def _broken(self, why: str) -> DataError:
        return DataError(
            f"{self.path} is damaged: {why}",
            expected="the columns " + ", ".join(COLUMNS) + ", a row a submission",
            next_step="mend it, or move it away: it is never overwritten",
        )


def list_ledgers(workspace: Workspace) -> list[str]:
    """Slugs of the competitions something was submitted to, sorted."""
    return sorted(path.parent.name for path in (workspace.root / "submissions").glob("*/log.csv"))


def _cell(value: Any) -> str:
    if value is None:
        return ""
    # A float's own text is the shortest that reads back as the same number.
    return repr(float(value)) if isinstance(value, float) else str(value)


def _entry(cells: Sequence[str]) -> Entry:
    """Read one row; raises `ValueError` with what is wrong with it."""
    if len(cells) != len(COLUMNS):
        raise ValueError(f"{len(cells)} cells instead of {len(COLUMNS)}")
    row: dict[str, Any] = dict(zip(COLUMNS, cells, strict=True))
    for name in _SCORES:
        row[name] = _number(name, row[name])
    if row["ref"] and not re.fullmatch("[0-9]+", row["ref"]):
        raise ValueError(f"ref is {row['ref']!r}, not a number")
    row["ref"] = int(row["ref"]) if row["ref"] else None
    if row["status"] not in Status.__members__:
        raise ValueError(f"status is {row['status']!r}, not one of {', '.join(Status)}")
    row["status"] = Status(row["status"])
    if row["status"] in _ARRIVED and row["ref"] is None:
        raise ValueError(f"{row['status']} without a ref")
    for name, pattern in (("sha256", "[0-9a-f]{64}"), ("tag", "[0-9a-f]{8}"), ("server", r"\S+")):
        if not re.fullmatch(pattern, row[name]):
            raise ValueError(f"{name} is {row[name]!r}")
    try:
        moment = datetime.fromisoformat(row["time"])
    except ValueError:
        raise ValueError(f"time is {row['time']!r}") from None
    if moment.tzinfo is None:
        raise ValueError(f"time is {row['time']!r}, without its zone (+00:00)")
    return Entry(**row)


def _number(name: str, text: str) -> float | None:
    if not text:
        return None
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not isfinite(number):
        raise ValueError(f"{name} is {text!r}, not a number")
    return number
