"""The ledger: what is written is read again, nonsense is refused and never overwritten, and nothing is sent twice."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.artifacts import Workspace
from pipeline.errors import BusyError, DataError, SubmissionError
from pipeline.submit.ledger import COLUMNS, Entry, Ledger, Status, list_ledgers, mark, new_tag

SHA = "0123456789abcdef" * 4
ENTRY = Entry(
    time="2026-02-03T04:05:06+00:00",
    server="kaggle.com",
    file="submissions/cards/mine, the second.csv",
    sha256=SHA,
    experiment="demo",
    oof_score=0.1 + 0.2,
    oof_score_se=1e-17,
    public_score=None,
    private_score=None,
    ref=None,
    status=Status.SENDING,
    message='said "no"; ä',
    tag="00c0ffee",
)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(Workspace(tmp_path), "cards")


def with_row(ledger: Ledger, **cells: str) -> str:
    """The text of a ledger with one row, some of its cells replaced; also written."""
    row = dict(
        zip(COLUMNS, ["2026-02-03T04:05:06+00:00", "kaggle.com", "x.csv", SHA, *[""] * 5, "7", "PENDING"], strict=False)
    )
    row |= {"message": "", "tag": "00c0ffee", **cells}
    text = ",".join(COLUMNS) + "\n" + ",".join(row[name] for name in COLUMNS) + "\n"
    ledger.folder.mkdir(parents=True, exist_ok=True)
    ledger.path.write_text(text, "utf-8")
    return text


def test_rows_are_read_as_they_were_written(ledger: Ledger) -> None:
    assert ledger.read() == []
    ledger.begin(ENTRY)
    second = replace(ENTRY, sha256="f" * 64, tag=new_tag(), oof_score=None, message="two\nlines, and a ; too")
    ledger.begin(second)
    assert ledger.read() == [ENTRY, second]
    assert list_ledgers(Workspace(ledger.folder.parents[1])) == ["cards"]


def test_a_row_is_changed_alone(ledger: Ledger) -> None:
    other = replace(ENTRY, sha256="f" * 64, tag=new_tag())
    ledger.begin(ENTRY)
    ledger.begin(other)
    ledger.update(ENTRY.tag, status=Status.PENDING, ref=12345678901)
    changed = ledger.update(ENTRY.tag, status=Status.COMPLETE, public_score=0.5)
    assert changed == replace(ENTRY, status=Status.COMPLETE, ref=12345678901, public_score=0.5)
    assert ledger.read() == [changed, other]
    with pytest.raises(DataError, match=r"row of \[kit 12345678\] is gone"):
        ledger.update("12345678", status=Status.FAILED)
    assert ledger.read() == [changed, other]


@pytest.mark.parametrize("status", [Status.SENDING, Status.PENDING, Status.COMPLETE, Status.ERROR])
def test_what_was_sent_is_not_sent_again_unless_asked(ledger: Ledger, status: Status) -> None:
    ledger.begin(ENTRY)
    ledger.update(ENTRY.tag, status=status, ref=None if status == "SENDING" else 7)
    twin = replace(ENTRY, tag=new_tag(), file="renamed.csv")
    with pytest.raises(SubmissionError, match=f"sent to kaggle.com before: .*{status}") as caught:
        ledger.begin(twin)
    assert ("--sync" in caught.value.next_step) == (status in ("SENDING", "PENDING"))
    assert len(ledger.read()) == 1
    ledger.begin(replace(twin, server="rehearsal"))  # another server
    ledger.begin(replace(twin, tag=new_tag(), sha256="f" * 64))  # another content
    ledger.begin(replace(twin, tag=new_tag()), again=True)
    assert len(ledger.read()) == 4


def test_what_never_arrived_may_be_sent_again(ledger: Ledger) -> None:
    ledger.begin(ENTRY)
    ledger.update(ENTRY.tag, status=Status.FAILED)
    ledger.begin(replace(ENTRY, tag=new_tag()))
    assert [entry.status for entry in ledger.read()] == ["FAILED", "SENDING"]


@pytest.mark.parametrize(
    ("cells", "named"),
    [
        ({"status": "DONE"}, "status is 'DONE', not one of SENDING, PENDING, COMPLETE, ERROR, FAILED"),
        ({"status": ""}, "status is ''"),
        ({"public_score": "good"}, "public_score is 'good', not a number"),
        ({"oof_score": "0,95"}, "14 cells instead of 13"),
        ({"oof_score": "nan"}, "oof_score is 'nan'"),
        ({"ref": "7.0"}, "ref is '7.0'"),
        ({"ref": "-7"}, "ref is '-7'"),
        ({"ref": ""}, "PENDING without a ref"),
        ({"sha256": "01234"}, "sha256 is '01234'"),
        ({"sha256": "1.23457E+63"}, "sha256 is"),
        ({"tag": ""}, "tag is ''"),
        ({"server": ""}, "server is ''"),
        ({"time": "yesterday"}, "time is 'yesterday'"),
        ({"time": "03/02/2026 04:05"}, "time is"),
        ({"time": "2026-02-03T04:05:06"}, "time is '2026-02-03T04:05:06', without its zone"),
    ],
)
def test_nonsense_is_named_and_never_overwritten(ledger: Ledger, cells: dict[str, str], named: str) -> None:
    text = with_row(ledger, **cells)
    calls = (
        ledger.read,
        lambda: ledger.begin(replace(ENTRY, tag=new_tag(), sha256="f" * 64)),
        lambda: ledger.update("00c0ffee", status=Status.FAILED),
    )
    for call in calls:
        with pytest.raises(DataError) as caught:
            call()
        assert f"row 1: {named}" in caught.value.problem
        assert "log.csv" in caught.value.problem
    assert ledger.path.read_text("utf-8") == text
    assert sorted(path.name for path in ledger.folder.iterdir()) == [".log.lock", "log.csv"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"id,label\na.jpg,blue\n",
        ",".join(COLUMNS[:-1]).encode() + b"\n",
        ",".join((*COLUMNS, "mine")).encode() + b"\n",
        b"\xff\xfe\x00" * 20,
        ",".join(COLUMNS).encode() + b'\n"2026,kaggle.com\n',
    ],
)
def test_another_file_in_its_place_is_refused(ledger: Ledger, content: bytes) -> None:
    ledger.folder.mkdir(parents=True)
    ledger.path.write_bytes(content)
    with pytest.raises(DataError, match=r"log\.csv is damaged"):
        ledger.begin(ENTRY)
    assert ledger.path.read_bytes() == content


def test_a_tag_that_stands_twice_is_refused(ledger: Ledger) -> None:
    text = with_row(ledger)
    ledger.path.write_text(text + text.splitlines()[1] + "\n", "utf-8")
    with pytest.raises(DataError, match="tag 00c0ffee stands in several rows"):
        ledger.read()


def test_what_a_spreadsheet_writes_is_read(ledger: Ledger) -> None:
    text = with_row(ledger, public_score=".5")
    ledger.path.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    [entry] = ledger.read()
    assert (entry.public_score, entry.ref, entry.tag) == (0.5, 7, "00c0ffee")


def test_tags_differ_and_are_found_in_a_description() -> None:
    tags = {new_tag() for _ in range(1000)}
    assert len(tags) == 1000
    assert all(mark(tag) == f"[kit {tag}]" for tag in tags)


def test_two_processes_lose_no_row_and_one_sends_at_a_time(ledger: Ledger) -> None:
    code = f"""
from dataclasses import replace
from pathlib import Path
from pipeline.artifacts import Workspace
from pipeline.submit.ledger import Ledger, new_tag
from tests.submit.test_ledger import ENTRY
ledger = Ledger(Workspace(Path({str(ledger.folder.parents[1])!r})), "cards")
for _ in range(25):
    entry = replace(ENTRY, tag=new_tag())
    ledger.begin(entry, again=True)
    ledger.update(entry.tag, ref=5, status="PENDING")
"""
    root = Path(__file__).resolve().parents[2]
    processes = [subprocess.Popen([sys.executable, "-c", code], cwd=root) for _ in range(2)]
    assert [process.wait(timeout=60) for process in processes] == [0, 0]
    assert [entry.ref for entry in ledger.read()] == [5] * 50
    with ledger.sending(), pytest.raises(BusyError, match="submitting to cards is in use"):
        with ledger.sending():
            pass
    with ledger.sending():
        pass
