"""A submission is made once and known, whatever its answer, its description and the ledger's file are like."""

import itertools
import random
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Lock
from typing import TypeVar

import pytest

from pipeline.artifacts import Workspace
from pipeline.competition import Competition
from pipeline.errors import DataError, KitError, SubmissionError
from pipeline.rehearsal import handler
from pipeline.rehearsal.bent import BENT
from pipeline.rehearsal.faults import Fault
from pipeline.rehearsal.server import Rehearsal
from pipeline.submit.kaggle_client import Kaggle
from pipeline.submit.kaggle_errors import KaggleError, UploadFailed
from pipeline.submit.ledger import Entry, Ledger, Status
from pipeline.submit.send import StillOpen, submit_file, wait_for_score
from pipeline.submit.sync import LOST_AFTER, sync
from tests.submit.test_send import IDS, TRUTH, connected, no_sleep, of, only, sent, write_csv

T = TypeVar("T")


def later() -> datetime:
    return datetime.now(UTC) + 2 * LOST_AFTER


@pytest.fixture
def ledger(tiny_competition: Competition, tmp_path: Path) -> Ledger:
    return Ledger(Workspace(tmp_path), "tiny")


@pytest.fixture
def csv_file(tmp_path: Path) -> Path:
    return write_csv(tmp_path / "mine.csv")


def submit(ledger: Ledger, path: Path, **options: bool) -> Entry:
    return submit_file(connected(), ledger, of(path), path, **options)


def describe(server: Rehearsal, text: str, *, number: int = -1) -> None:
    """Edit a description, as on Kaggle's site."""
    with server.protocol.store.change() as state:
        state.submissions[number].description = text


@pytest.mark.parametrize("shape", BENT)
def test_an_answer_of_any_shape_leaves_a_true_row(
    rehearsal: Rehearsal, ledger: Ledger, csv_file: Path, shape: str
) -> None:
    rehearsal.faults.append(Fault("CreateSubmission", f"answer:{shape}"))
    entry = submit(ledger, csv_file)
    assert (entry.status, entry.ref, sent(rehearsal)) == (Status.PENDING, 1, 1)
    with pytest.raises(SubmissionError, match="was sent to rehearsal before"):
        submit(ledger, csv_file)
    rehearsal.faults.append(Fault("GetSubmission", f"answer:{shape}"))
    scored = wait_for_score(connected(), ledger, entry, minutes=1, sleep=no_sleep)
    assert (scored.status, scored.public_score, only(ledger)) == (Status.COMPLETE, 1.0, scored)


@pytest.mark.parametrize("shape", BENT)
def test_no_list_of_any_shape_makes_a_submission_lost(
    rehearsal: Rehearsal, ledger: Ledger, csv_file: Path, shape: str
) -> None:
    rehearsal.faults += [Fault("CreateSubmission", "lost"), Fault("ListSubmissions", f"answer:{shape}", 0)]
    with pytest.raises(StillOpen):
        submit(ledger, csv_file, again=True)
    with pytest.raises(KaggleError, match="ListSubmissions"):
        sync(connected(), ledger, now=later())
    assert only(ledger).status is Status.SENDING
    rehearsal.faults.clear()
    assert [row.status for row in sync(connected(), ledger, now=later()).settled] == [Status.COMPLETE]
    assert sent(rehearsal) == 1


def lost(rehearsal: Rehearsal, ledger: Ledger, path: Path) -> Entry:
    """A row that is being sent, though its submission was made."""
    rehearsal.faults += [Fault("ListSubmissions", "403"), Fault("CreateSubmission", "lost")]
    rehearsal.faults.append(Fault("ListSubmissions", "403"))
    with pytest.raises(StillOpen):
        submit(ledger, path)
    return only(ledger)


def test_a_failed_row_whose_submission_is_there_is_settled(
    rehearsal: Rehearsal, ledger: Ledger, csv_file: Path
) -> None:
    entry = lost(rehearsal, ledger, csv_file)
    ledger.update(entry.tag, status=Status.FAILED, message="it never arrived")
    [settled] = sync(connected(), ledger).settled
    assert (settled.ref, settled.status) == (1, Status.COMPLETE)
    assert only(ledger) == settled


def test_a_description_that_was_edited_does_not_make_it_lost(
    rehearsal: Rehearsal, ledger: Ledger, csv_file: Path
) -> None:
    lost(rehearsal, ledger, csv_file)
    describe(rehearsal, "my best one")
    [settled] = sync(connected(), ledger, now=later()).settled
    assert (settled.ref, settled.status) == (1, Status.COMPLETE)


def test_one_of_two_that_it_may_be_is_not_chosen(rehearsal: Rehearsal, ledger: Ledger, csv_file: Path) -> None:
    kaggle = connected()
    kaggle.submit("tiny", csv_file, description="by hand")
    lost(rehearsal, ledger, csv_file)
    describe(rehearsal, "edited")
    [row] = sync(kaggle, ledger, now=later()).open
    assert row.status is Status.SENDING, "not never arrived"


def test_another_file_sent_by_hand_long_before_is_not_it(
    rehearse: Callable[..., Rehearsal], ledger: Ledger, csv_file: Path
) -> None:
    moments = [datetime.now(UTC) - timedelta(hours=1)]
    rehearsal = rehearse(now=lambda: moments[0])
    connected().submit("tiny", csv_file, description="by hand")
    rehearsal.faults += [Fault("CreateSubmission", "drop")]
    with pytest.raises(StillOpen):
        submit(ledger, csv_file)
    [row] = sync(connected(), ledger, now=later()).settled
    assert (row.status, row.ref) == (Status.FAILED, None)


def test_the_same_file_sent_from_elsewhere_is_seen(
    rehearsal: Rehearsal, ledger: Ledger, csv_file: Path, tmp_path: Path
) -> None:
    elsewhere = Ledger(Workspace(tmp_path / "elsewhere"), "tiny")
    submit(elsewhere, csv_file)
    with pytest.raises(SubmissionError, match=r"rehearsal has this content already: submission 1, 'made 0\.7500 #"):
        submit(ledger, csv_file)
    assert ledger.read() == [] and sent(rehearsal) == 1
    assert submit(ledger, csv_file, again=True).ref == 2


def test_a_ledger_that_cannot_be_read_is_named_and_nothing_is_sent(
    rehearsal: Rehearsal, ledger: Ledger, csv_file: Path
) -> None:
    ledger.path.mkdir(parents=True)
    with pytest.raises(DataError, match=r"nothing was submitted; .*log\.csv cannot be read: Is a directory"):
        submit(ledger, csv_file)
    assert sent(rehearsal) == 0


def test_a_folder_that_cannot_be_written_is_named_and_nothing_is_sent(
    rehearsal: Rehearsal, ledger: Ledger, csv_file: Path
) -> None:
    ledger.folder.parent.mkdir(exist_ok=True, parents=True)
    if ledger.folder.exists():
        ledger.folder.rmdir()
    ledger.folder.symlink_to("/proc/self/nowhere")
    with pytest.raises(DataError, match=r"the lock .* cannot be written"):
        submit(ledger, csv_file)
    assert sent(rehearsal) == 0


@pytest.mark.parametrize("fault", [None, "Upload=403"])
def test_a_ledger_that_is_lost_while_sending_leaves_no_doubt_about_the_submission(
    rehearsal: Rehearsal, ledger: Ledger, csv_file: Path, fault: str | None
) -> None:
    kept: list[str] = []

    class Clumsy(Kaggle):
        """Somebody makes the ledger a folder while a submission is on its way."""

        def submit(self, *args: object, **options: object) -> int:
            kept.append(ledger.path.read_text("utf-8"))
            ledger.path.unlink()
            ledger.path.mkdir()
            return super().submit(*args, **options)  # type: ignore[arg-type]

    kaggle = Clumsy.connect(timeout=30, attempts=1, sleep=no_sleep)
    if fault:
        rehearsal.faults.append(Fault.parse(fault))
    told = (
        r"mine\.csv was not submitted: .* 403.*log\.csv cannot be read"
        if fault
        else r"as number 1, but its row was not"
    )
    with pytest.raises(KitError, match=told) as failed:
        submit_file(kaggle, ledger, of(csv_file), csv_file)
    assert isinstance(failed.value, DataError if fault else StillOpen)
    ledger.path.rmdir()
    ledger.path.write_text(kept[0], "utf-8")
    if not fault:
        assert [row.ref for row in sync(connected(), ledger).settled] == [1]


def test_a_wait_ends_in_its_time_though_the_server_hangs(rehearsal: Rehearsal, ledger: Ledger, csv_file: Path) -> None:
    entry = submit(ledger, csv_file)
    rehearsal.faults.append(Fault("GetSubmission", "hang", 0))
    began = time.monotonic()
    with pytest.raises(StillOpen, match="has no score after"):
        wait_for_score(Kaggle.connect(timeout=60, attempts=5), ledger, entry, minutes=1.5 / 60)
    assert time.monotonic() - began < 1.5 + 2


@pytest.mark.parametrize("status", ["400", "403", "404", "401"])
def test_a_refusal_while_waiting_says_that_the_submission_is_safe(
    rehearsal: Rehearsal, ledger: Ledger, csv_file: Path, status: str
) -> None:
    entry = submit(ledger, csv_file)
    rehearsal.faults.append(Fault("GetSubmission", status, 0))
    with pytest.raises(StillOpen, match=f"submission 1 is made and safe, but nothing is told of it: .*HTTP {status}"):
        wait_for_score(connected(), ledger, entry, minutes=1, sleep=no_sleep)
    assert only(ledger) == entry


def test_a_secret_in_what_kaggle_says_is_not_kept(rehearsal: Rehearsal, ledger: Ledger, csv_file: Path) -> None:
    entry, token = submit(ledger, csv_file), rehearsal.environment["KAGGLE_API_TOKEN"]
    with rehearsal.protocol.store.change() as state:
        state.submissions[0].status, state.submissions[0].error = "ERROR", f"{token} is no label"
    with pytest.raises(SubmissionError, match=r"\*\*\* is no label"):
        wait_for_score(connected(), ledger, entry, minutes=1, sleep=no_sleep)
    assert token not in ledger.path.read_text("utf-8")
    assert replace(only(ledger), message="") == replace(entry, status=Status.ERROR)


def test_an_upload_that_is_refused_is_said_to_be(rehearsal: Rehearsal, ledger: Ledger, csv_file: Path) -> None:
    rehearsal.faults.append(Fault("StartSubmissionUpload", "answer:nulls", 0))
    with pytest.raises(KaggleError, match="answered StartSubmissionUpload without token") as failed:
        submit(ledger, csv_file)
    assert not isinstance(failed.value, UploadFailed)
    assert (only(ledger).status, sent(rehearsal)) == (Status.FAILED, 0)


GOES_WRONG = ("429", "500", "503", "nested:503", "drop", "lost", *(f"answer:{shape}" for shape in BENT))


def test_of_many_submissions_by_many_clients_none_is_lost_and_none_made_twice(
    rehearse: Callable[..., Rehearsal],
    tiny_competition: Competition,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    """A fifth of all calls go wrong; `--submissions 1000` for the long form."""
    count, clients, rng, lock = request.config.getoption("--submissions"), 8, random.Random(0), Lock()
    server = rehearse(daily_limit=10**6)
    struck = Counter[str]()

    def sometimes(_faults: list[Fault], method: str) -> str | None:
        with lock:
            if rng.random() > 0.2:
                return None
            what = rng.choice(("503", "drop") if method == "Upload" else GOES_WRONG)
            struck[f"{method} {what}"] += 1
            return what

    signed_in = [connected() for _ in range(clients)]
    monkeypatch.setattr(handler, "take", sometimes)
    files = [write_csv(tmp_path / "files" / f"{number}.csv", *rows_of(number)) for number in range(count)]
    assert len({file.read_bytes() for file in files}) == count

    def client(number: int) -> Ledger:
        ledger = Ledger(Workspace(tmp_path / f"client-{number}"), "tiny")
        for file in files[number::clients]:
            make(signed_in[number], ledger, file)
        return ledger

    with ThreadPoolExecutor(clients) as pool:
        ledgers = list(pool.map(client, range(clients)))
    with server.protocol.store.read() as state:
        there = Counter(submission.description.split()[-1] for submission in state.submissions)
    rows = [row for ledger in ledgers for row in ledger.read() if row.status is not Status.FAILED]
    assert sent(server) == count == len(rows)
    assert sum(struck.values()) > count / 4
    assert {row.status for row in rows} <= {Status.PENDING, Status.COMPLETE}
    assert len({row.ref for row in rows}) == count
    assert set(there.values()) == {1}


def rows_of(number: int) -> tuple[list[str], list[str]]:
    """Labels and ids of a file that no other number has."""
    order = next(itertools.islice(itertools.permutations(range(len(IDS))), number % 720, None))
    labels = [TRUTH[place] if number < 720 else TRUTH[place - 1] for place in order]
    return labels, [IDS[place] for place in order]


def make(kaggle: Kaggle, ledger: Ledger, path: Path) -> None:
    """Submit a file as somebody patient does: after an error ask, and send again only what never arrived."""
    status = Status.FAILED
    while status is Status.FAILED:
        with suppress(KitError):
            submit_file(kaggle, ledger, of(path), path)
        while until_it_works(lambda: sync(kaggle, ledger, now=later()).open):
            pass
        status = ledger.read()[-1].status


def until_it_works(ask: Callable[[], T]) -> T:
    while True:
        with suppress(KitError):
            return ask()
