"""The commands that talk to Kaggle, and the one that plays it: what a user sees, and what a kill cannot break."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from pipeline.artifacts import Workspace, write_json
from pipeline.cli import app
from pipeline.competition import Competition
from pipeline.rehearsal.faults import Fault
from pipeline.rehearsal.server import Rehearsal
from pipeline.submit import kaggle_retry
from pipeline.submit.kaggle_client import Kaggle
from pipeline.submit.ledger import COLUMNS, Entry, Ledger, Status
from pipeline.submit.pushes import Pushed
from tests.conftest import write_table
from tests.rehearsal.conftest import PlainRunner, write_kernel
from tests.submit.test_send import IDS, TRUTH, finish, sent, write_csv

ROOT = Path(__file__).resolve().parents[1]
KIT = [sys.executable, "-c", "from pipeline.cli import main; main()"]
Rehearse = Callable[..., Rehearsal]


def kit(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def done(*words: str) -> str:
    result = kit(*words)
    assert result.exit_code == 0, result.output + str(result.exception)
    return str(result.stdout)


def refused(*words: str, code: int = 1) -> str:
    """The message on stderr of a call that must fail as a user's error does."""
    result = kit(*words)
    assert result.exit_code == code, result.output
    assert isinstance(result.exception, SystemExit), result.exception
    for part in ("error: ", "\n  expected: ", "\n  next: "):
        assert part in result.stderr
    return str(result.stderr)


@pytest.fixture
def workspace(tiny_competition: Competition, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny competition and a finished experiment `made` that is right about all, where the commands run."""
    finish(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def ledger(workspace: Path) -> Ledger:
    return Ledger(Workspace(Path()), "tiny")


@contextmanager
def running(*words: str, folder: Path) -> Iterator["subprocess.Popen[str]"]:
    """A command in a process of its own; it is ended with the block."""
    with subprocess.Popen(
        [*KIT, *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def until(true: Callable[[], Any], process: "subprocess.Popen[str] | None" = None) -> None:
    end = time.monotonic() + 60
    while not true():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)


def statuses(ledger: Ledger) -> list[str]:
    return [entry.status.value for entry in ledger.read()]


def test_a_submission_is_shown_sent_scored_and_listed(rehearsal: Rehearsal, ledger: Ledger) -> None:
    text = done("submit", "made")
    [entry] = ledger.read()
    [path] = ledger.folder.glob("*-made-0.7500.csv")
    for fact in ("tiny", "rehearsal (a server on this machine", str(path), entry.sha256, "0.7500 ± 0.0625"):
        assert fact in text
    assert "left today  5, this one included" in text
    assert text.index(entry.sha256) < text.index("sent: submission 1 of rehearsal-user")
    assert "public 1.0000, private 1.0000, OOF 0.7500 ± 0.0625" in text
    listed = done("submissions", "tiny")
    assert "made" in listed
    assert "COMPLETE" in listed
    assert "kit submit --sync" not in listed
    with Image.open(ledger.folder / "leaderboard.png") as picture:
        assert picture.format == "PNG"
    message = refused("submit", "made")
    assert "sent to rehearsal before" in message
    assert "public score 1" in message
    done("submit", str(path), "--again", "--message", "once more")
    assert [(entry.ref, entry.experiment, entry.message) for entry in ledger.read()] == [
        (1, "made", ""),
        (2, "made", "once more"),
    ]
    assert sent(rehearsal) == 2


def test_a_dry_run_needs_neither_account_nor_network(ledger: Ledger, workspace: Path) -> None:
    assert "KAGGLE_API_TOKEN" not in os.environ  # and nothing listens where the proxies point to
    text = done("submit", "made", "--dry-run")
    assert "0.7500 ± 0.0625" in text
    assert "nothing was sent" in text
    assert not ledger.path.exists()
    write_csv(workspace / "short.csv", TRUTH[:4], IDS[:4])
    assert "2 ids are missing: t4.jpg, t5.jpg" in refused("submit", "short.csv", "--dry-run")
    assert "absent.csv does not exist" in refused("submit", "absent.csv", "--dry-run")
    assert "no finished experiment 'mad'" in refused("submit", "mad", "--dry-run")
    assert "submissions is a folder" in refused("submission", "check", "submissions", "--competition", "tiny")
    code = "import sys; from pipeline.cli import app; app(sys.argv[1:], standalone_mode=False); print(*sys.modules)"
    words = [sys.executable, "-c", code, "submit", "made", "--dry-run"]
    loaded = subprocess.run(
        words, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True
    )
    assert "pandas" in loaded.stdout.split()
    assert not {"kaggle", "tensorflow"} & set(loaded.stdout.split())


def test_a_file_in_another_order_is_sent_with_a_warning(rehearsal: Rehearsal, ledger: Ledger, workspace: Path) -> None:
    write_csv(workspace / "reversed.csv", TRUTH[::-1], IDS[::-1])
    checked, submitted = kit("submission", "check", "reversed.csv"), kit("submit", "reversed.csv")
    for result in (checked, submitted):
        assert result.exit_code == 0, result.output
        assert "warning: the rows are in another order than the sample's" in result.stderr
    assert "public 1.0000, private 1.0000" in submitted.stdout


def test_a_folder_without_competitions_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for words in (["submit", "made"], ["submit", "made.csv", "--dry-run"], ["submission", "check", "made.csv"]):
        assert f"this folder, {tmp_path}, holds no competitions" in refused(*words)


def test_without_an_account_a_submission_says_how_to_get_one(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KAGGLE_API_ENVIRONMENT")
    message = refused("submit", "made")
    assert "KAGGLE_API_TOKEN" in message
    assert "https://www.kaggle.com/settings" in message
    assert not ledger.path.exists()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"entered": False}, "https://www.kaggle.com/c/tiny/rules"),
        ({"code_only": True}, "code competition"),
        ({"daily_limit": 0}, "midnight UTC"),
    ],
)
def test_what_kaggle_would_refuse_is_refused_before_sending(
    rehearse: Rehearse, ledger: Ledger, changes: dict[str, object], named: str
) -> None:
    rehearse(**changes)
    assert named in refused("submit", "made")
    assert not ledger.path.exists()


def test_options_without_effect_are_refused(workspace: Path) -> None:
    for words in (
        [],
        ["made", "--sync"],
        ["made", "--kernel", "predict"],
        ["--sync", "--again"],
        ["--sync", "--dry-run"],
    ):
        result = kit("submit", *words)
        assert result.exit_code == 2, words
        assert ("give only one of" in result.output) == (len(words) > 1 and words[0] == "made")
        assert "Traceback" not in result.output


def test_a_wait_that_was_killed_is_picked_up_and_nothing_sent_twice(
    rehearse: Rehearse, ledger: Ledger, workspace: Path
) -> None:
    server = rehearse(scoring_seconds=3600)
    with running("submit", "made", folder=workspace) as process:
        until(lambda: statuses(ledger) == ["PENDING"], process)
        process.kill()
        process.wait(timeout=60)
    assert "--sync" in refused("submit", "made")
    assert "not settled yet" in refused("submit", "--sync", code=4)
    assert statuses(ledger) == ["PENDING"]
    assert "not settled yet" in done("submissions")
    with server.protocol.store.change() as state:
        state.submissions[0].seen_at = 0.0
    assert "public 1.0000" in done("submit", "--sync")
    [entry] = ledger.read()
    assert (entry.status, entry.ref, entry.public_score) == (Status.COMPLETE, 1, 1.0)
    assert "nothing is open" in done("submit", "--sync")
    assert sent(server) == 1


def test_killed_before_the_answer_it_is_found_by_its_tag(rehearsal: Rehearsal, ledger: Ledger, workspace: Path) -> None:
    rehearsal.faults.append(Fault.parse("CreateSubmission=lost"))
    with running("submit", "made", folder=workspace) as process:
        until(lambda: sent(rehearsal) == 1, process)  # a second later it looks for it
        process.kill()
        process.wait(timeout=60)
    assert statuses(ledger) == ["SENDING"]
    assert "COMPLETE" in done("submit", "--sync", "--competition", "tiny")
    [entry] = ledger.read()
    assert (entry.status, entry.ref, entry.public_score) == (Status.COMPLETE, 1, 1.0)
    assert sent(rehearsal) == 1


def test_killed_before_it_arrived_it_fails_after_a_while_and_may_be_sent_again(
    rehearsal: Rehearsal, ledger: Ledger, workspace: Path
) -> None:
    rehearsal.faults.append(Fault.parse("CreateSubmission=hang"))
    with running("submit", "made", folder=workspace) as process:
        until(lambda: ("POST", "CreateSubmission") in rehearsal.requests, process)
        # While its sender lives a row is not taken for lost, however old.
        [entry] = ledger.read()
        old = (datetime.now(UTC) - timedelta(hours=1)).isoformat(timespec="seconds")
        ledger.update(entry.tag, time=old)
        synced = kit("submit", "--sync")
        assert synced.exit_code == 4
        assert "1 submission is not settled yet" in synced.stderr
        assert "another process is sending it" in synced.stdout
        assert "in use by another process" in refused("submit", "made", "--again")
        process.kill()
        process.wait(timeout=60)
    begun = datetime.now(UTC)
    ledger.update(entry.tag, time=begun.isoformat(timespec="seconds"))
    still = kit("submit", "--sync").stdout
    assert f"counted as never arrived at {begun + timedelta(minutes=10):%H:%M} UTC (10 minutes after" in still
    assert statuses(ledger) == ["SENDING"]
    ledger.update(entry.tag, time=old)
    assert "it never arrived" in done("submit", "--sync")
    assert statuses(ledger) == ["FAILED"]
    done("submit", "made")
    assert statuses(ledger) == ["FAILED", "COMPLETE"]
    assert sent(rehearsal) == 1


def test_a_submission_whose_answer_was_lost_is_sent_once_and_settled_by_sync(
    rehearsal: Rehearsal, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kaggle_retry, "_LOOKS", (0.0, 0.0, 0.0))
    rehearsal.faults.append(Fault.parse("CreateSubmission=503"))
    assert "kit submit --sync --competition tiny" in refused("submit", "made", code=4)
    assert "--sync" in refused("submit", "made")
    refused("submit", "--sync", code=4)
    assert statuses(ledger) == ["SENDING"]
    [entry] = ledger.read()
    ledger.update(entry.tag, time=(datetime.now(UTC) - timedelta(hours=1)).isoformat(timespec="seconds"))
    assert "it never arrived" in done("submit", "--sync")
    assert statuses(ledger) == ["FAILED"]
    assert rehearsal.requests.count(("POST", "CreateSubmission")) == 1


def test_an_interrupted_wait_says_what_to_do(rehearse: Rehearse, ledger: Ledger, workspace: Path) -> None:
    rehearse(scoring_seconds=60)
    with running("submit", "made", folder=workspace) as process:
        until(lambda: statuses(ledger) == ["PENDING"], process)
        time.sleep(0.3)
        process.terminate()
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "kit submit --sync" in stderr
    assert "Traceback" not in stderr
    assert statuses(ledger) == ["PENDING"]


def test_the_deadline_has_its_own_exit_code(rehearse: Rehearse, ledger: Ledger) -> None:
    rehearse(scoring_seconds=60)
    assert "kit submit --sync" in refused("submit", "made", "--wait", "0.005", code=4)
    assert "not waiting" in done("submit", "made", "--again", "--wait", "0")
    assert statuses(ledger) == ["PENDING", "PENDING"]


def test_rows_of_another_server_need_no_account(ledger: Ledger) -> None:
    ledger.begin(row(1, 0.5, 0.5, status=Status.PENDING))
    text = done("submit", "--sync")  # there are no credentials, and no network
    assert "1.csv: left alone, it was sent to kaggle.com; ask there: kit submit --sync (outside the rehearsal)" in text
    assert "nothing is open: every submission to rehearsal" in text
    assert statuses(ledger) == ["PENDING"]


def test_rows_of_a_rehearsal_are_asked_for_in_one(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KAGGLE_API_ENVIRONMENT")
    ledger.begin(row(1, 0.5, 0.5, status=Status.PENDING, server="rehearsal"))
    ask = "kit rehearse --competition tiny --solution CSV -- kit submit --sync"
    assert f"left alone, it was sent to rehearsal; ask there: {ask}\n" in done("submit", "--sync")
    assert f"not settled yet; ask: {ask}\n" in done("submissions")
    ledger.begin(row(2, 0.5, 0.5, status=Status.PENDING))
    assert "not settled yet; ask: kit submit --sync\n" in done("submissions")


def test_a_file_that_ends_in_an_error_is_reported_by_either_way(rehearse: Rehearse, ledger: Ledger) -> None:
    server = rehearse()
    tiny = server.hosted["tiny"]
    more = {**tiny.solution, "t9.jpg": "red"}  # the server wants a row more
    server.hosted["tiny"] = replace(tiny, solution=more, rows=tuple(more))
    assert "1 id is missing: t9.jpg" in refused("submit", "made")
    done("submit", "made", "--again", "--wait", "0")
    assert "1 id is missing: t9.jpg" in refused("submit", "--sync")
    assert statuses(ledger) == ["ERROR", "ERROR"]
    listed = done("submissions")
    assert listed.count("1 id is missing: t9.jpg") == 2
    assert not (ledger.folder / "leaderboard.png").exists()


def test_a_failed_upload_is_an_error_and_a_row(rehearsal: Rehearsal, ledger: Ledger) -> None:
    rehearsal.faults.append(Fault.parse("Upload=403"))
    assert "403" in refused("submit", "made")
    assert statuses(ledger) == ["FAILED"]
    assert "FAILED 20" in done("submissions")
    done("submit", "made")
    assert sent(rehearsal) == 1


def record_push(workspace: Path, ref: str, version: int) -> None:
    """Let a kernel `predict` have been pushed from here to the rehearsal."""
    pushed = Pushed(
        *(ref, version, "http://x", "rehearsal", "predict", "tiny", "made", None, "b", "c" * 64),
        time="2026-01-01T00:00:00+00:00",
    )
    write_json(pushed.record(Workspace(workspace)), asdict(pushed))


def test_the_version_of_a_kernel_that_was_pushed_is_submitted(
    rehearse: Rehearse, ledger: Ledger, workspace: Path
) -> None:
    assert "no kernel 'predict' has been pushed" in refused("submit", "--kernel", "predict")
    server = rehearse(runner=PlainRunner(), code_only=True)
    rows = "".join(f"{key},{label}\n" for key, label in zip(IDS, TRUTH, strict=True))
    code = f"open('submission.csv', 'w').write('id,label' + chr(10) + {rows!r})"
    folder = write_kernel(workspace / "kernels" / "predict" / "build" / "a-kernel", code)
    kaggle = Kaggle.connect()
    first = kaggle.push_kernel(folder)
    until(lambda: kaggle.kernel_status(first.ref).state == "COMPLETE")
    record_push(workspace, first.ref, first.version)
    write_kernel(workspace / "other", "raise SystemExit")
    assert kaggle.push_kernel(workspace / "other").version == 2  # what was pushed from here is version 1
    assert "rehearsal-user/a-kernel/1" in done("submit", "--kernel", "predict", "--dry-run")
    text = done("submit", "--kernel", "predict")
    assert "kernel      rehearsal-user/a-kernel/1" in text
    assert "public 1.0000, private 1.0000, OOF 0.7500 ± 0.0625" in text
    [entry] = ledger.read()
    assert (entry.file, entry.sha256, entry.experiment) == ("rehearsal-user/a-kernel/1", "c" * 64, "made")
    assert "was sent to rehearsal before" in refused("submit", "--kernel", "predict")
    assert sent(server) == 1


def test_a_kernel_that_was_pushed_to_a_rehearsal_is_not_unknown_outside(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KAGGLE_API_ENVIRONMENT")
    record_push(workspace, "rehearsal-user/a-kernel", 1)
    message = refused("kernel", "status", "predict")
    assert "no kernel 'predict' has been pushed to kaggle.com from here, but a-kernel was pushed to a rehear" in message
    assert "kit rehearse --competition tiny --solution CSV -- kit kernel status predict" in message
    (workspace / "competitions" / "tiny" / "solution.csv").touch()
    message = refused("kernel", "status", "predict")
    assert "kit rehearse --competition tiny -- kit kernel status predict" in message


def test_a_wait_for_a_kernel_is_not_silent(
    rehearse: Rehearse, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.cli.kernel._QUIET", 0.0)
    runner = PlainRunner()
    runner.go.clear()
    rehearse(runner=runner)
    kaggle = Kaggle.connect()
    ref = kaggle.push_kernel(write_kernel(workspace / "a-kernel", "pass")).ref
    until(lambda: kaggle.kernel_status(ref).state == "RUNNING")
    record_push(workspace, ref, 1)
    waited = kit("kernel", "output", "predict", "--wait-hours", "0.0005")
    assert waited.exit_code == 4, waited.output
    assert waited.stdout.count("  RUNNING\n") == 2
    assert waited.stderr.startswith("signing in to rehearsal\n")
    assert (
        "the kernel goes on only while the rehearsal does; fetch it later: kit kernel output predict" in waited.stderr
    )


def test_a_kernel_that_runs_is_cancelled_on_its_page_and_some_files_of_one_that_ended_are_fetched(
    rehearse: Rehearse, workspace: Path
) -> None:
    runner = PlainRunner()
    runner.go.clear()
    rehearse(runner=runner)
    kaggle = Kaggle.connect()
    code = "open('submission.csv', 'w').write('id'); open('big.bin', 'w').write('big')"
    ref = kaggle.push_kernel(write_kernel(workspace / "a-kernel", code)).ref
    record_push(workspace, ref, 1)
    assert "cannot be cancelled from here" in (told := refused("kernel", "cancel", "predict"))
    assert "cancel it at http://x" in told
    runner.go.set()
    until(lambda: kaggle.kernel_status(ref).state == "COMPLETE")
    assert "does not run: COMPLETE" in done("kernel", "cancel", "predict")
    assert "fetched 1 file into kernels/predict/output/a-kernel" in done(
        "kernel", "output", "predict", "--only", "*.csv"
    )
    assert [path.name for path in Path("kernels/predict/output/a-kernel").iterdir()] == ["submission.csv"]


def test_a_kernel_is_built_before_the_sign_in(workspace: Path) -> None:
    message = refused("kernel", "run", "absent")  # there are no credentials
    assert "there is no kernel 'absent'" in message
    assert "signing in" not in message
    template = ROOT / "kernels" / "train"
    assert f"mkdir -p kernels/train && cp {template}/*.* kernels/train/" in refused("kernel", "build", "train")


def test_what_is_asked_again_is_said(rehearsal: Rehearsal, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    rehearsal.faults += [Fault.parse("IntrospectToken=503"), Fault.parse("GetCompetition=503")]
    result = kit("submit", "made")
    assert result.exit_code == 0, result.output
    assert result.stderr.startswith("signing in to rehearsal\n")
    assert result.stderr.count("asking again in") == 2


def row(number: int, oof: float, public: float, **more: Any) -> Entry:
    return Entry(
        **{
            "time": f"2026-01-01T00:00:{number:02}+00:00", "server": "kaggle.com", "file": f"{number}.csv",
            "sha256": f"{number:064x}", "experiment": f"e{number}", "oof_score": oof, "oof_score_se": 0.01,
            "public_score": public, "private_score": None, "ref": number, "status": Status.COMPLETE, "message": "",
            "tag": f"{number:08x}", **more,
        }
    )  # fmt: skip


def test_the_picture_is_drawn_anew_only_where_the_ledger_or_the_competition_has_changed(ledger: Ledger) -> None:
    def drawn() -> int:
        done("submissions", "tiny")
        return (ledger.folder / "leaderboard.png").stat().st_mtime_ns

    ledger.begin(row(1, 0.1, 0.1))
    first = drawn()
    assert drawn() == first
    ledger.begin(row(2, 0.2, 0.3))
    second = drawn()
    assert second > first
    Path("competitions/tiny/competition.yaml").touch()
    assert drawn() > second


def test_submissions_are_listed_in_each_format_with_their_agreement(ledger: Ledger) -> None:
    for entry in (row(1, 0.1, 0.1), row(2, 0.2, 0.3), row(3, 0.3, 0.2), row(4, 0.4, 0.4, private_score=0.5)):
        ledger.begin(entry)
    text = done("submissions", "tiny")
    [line] = [line for line in text.splitlines() if " public " in line and "kaggle.com" in line and "e" not in line[-1]]
    assert line.split() == ["tiny", "kaggle.com", "public", "0.8000", "0.6667", "4"]  # 1 - 6·2/60, (5 - 1)/6
    assert "submissions/tiny/leaderboard.png" in text
    found = json.loads(done("submissions", "--format", "json"))
    assert [(entry["competition"], entry["tag"], entry["public_score"]) for entry in found] == [
        ("tiny", f"{number:08x}", score) for number, score in ((1, 0.1), (2, 0.3), (3, 0.2), (4, 0.4))
    ]
    table = list(csv.DictReader(io.StringIO(done("submissions", "--format", "csv"))))
    assert [entry["sha256"] for entry in table] == [entry["sha256"] for entry in found]


def test_nothing_submitted_is_no_error_and_a_misspelt_slug_is(workspace: Path) -> None:
    assert "nothing submitted yet" in done("submissions")
    assert "nothing submitted yet" in done("submissions", "tiny")
    assert json.loads(done("submissions", "--format", "json")) == []
    [header] = done("submissions", "--format", "csv").splitlines()
    assert header.split(",") == ["competition", *COLUMNS]
    assert "nothing is open" in done("submit", "--sync")
    assert "did you mean 'tiny'?" in refused("submissions", "tinny")
    assert "did you mean 'tiny'?" in refused("submit", "--sync", "--competition", "tinny")


def test_a_ledger_edited_into_nonsense_is_left_as_it_is(rehearsal: Rehearsal, ledger: Ledger) -> None:
    ledger.folder.mkdir(parents=True)
    ledger.path.write_text("my notes\n", "utf-8")
    for words in (["submissions"], ["submit", "made"], ["submit", "--sync"], ["submit", "made", "--dry-run"]):
        assert "log.csv is damaged" in refused(*words)
    assert ledger.path.read_text("utf-8") == "my notes\n"
    assert sent(rehearsal) == 0


def test_a_download_describes_the_competition(
    rehearsal: Rehearsal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "new"
    work.mkdir()
    monkeypatch.chdir(work)
    text = done("download", "tiny")
    assert "32 files" in text or "31 files" in text
    assert "kit train progressive-lite tiny" in text
    assert (work / "competitions" / "tiny" / "competition.yaml").is_file()
    assert not (work / "competitions" / "tiny" / "data").is_symlink()
    before = len(rehearsal.requests)
    again = done("download", "tiny")
    assert "the data is there: competitions/tiny/data" in again
    assert "described already" in again
    (work / "competitions" / "tiny" / "competition.yaml").unlink()
    assert "kit train progressive-lite tiny" in done("download", "tiny")  # what was interrupted in between
    assert len(rehearsal.requests) == before


def test_a_download_to_another_place_is_linked_to(
    rehearsal: Rehearsal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "new"
    work.mkdir()
    monkeypatch.chdir(work)
    done("download", "tiny", "--to", "disk/tiny")
    data = work / "competitions" / "tiny" / "data"
    assert data.is_symlink()
    assert data.resolve() == work / "disk" / "tiny"
    assert sorted(path.name for path in (work / "disk").iterdir()) == ["tiny"]
    assert "is not empty" in refused("download", "tiny", "--to", "disk/tiny")
    data.unlink()
    data.mkdir()
    done("download", "tiny", "--to", "other")
    assert data.resolve() == work / "other"
    text = done("download", "tiny", "--to", "third")
    assert "described already" in text
    assert data.resolve() == work / "other"


def test_what_cannot_be_downloaded(rehearse: Rehearse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = tmp_path / "new"
    work.mkdir()
    monkeypatch.chdir(work)
    server = rehearse(entered=False)
    assert "https://www.kaggle.com/c/tiny/rules" in refused("download", "tiny")
    assert "'../tiny' cannot be a competition's name" in refused("download", "../tiny")
    server = rehearse()
    assert "tinny" in refused("download", "tinny")
    server.faults.append(Fault.parse("Download=corrupt"))
    assert "is damaged" in refused("download", "tiny")
    assert not (work / "competitions").exists() or not list((work / "competitions").rglob("*.*"))
    done("download", "tiny")


# The command `rehearse`


@pytest.fixture
def solution(workspace: Path) -> Path:
    return write_table(
        workspace / "competitions" / "tiny" / "solution.csv",
        "id,label",
        *(f"{key},{label}" for key, label in zip(IDS, TRUTH, strict=True)),
    )


def rehearsed(*words: str) -> Result:
    """`kit rehearse` in this process; what a command in it prints goes past the result, to `capfd`."""
    return kit("rehearse", "--competition", "tiny", *words)


ASK = """
import json, os, sys, urllib.request
def ask(method, **request):
    call = urllib.request.Request(
        os.environ["http_proxy"] + "/v1/" + method,
        json.dumps(request).encode(),
        {"Authorization": "Bearer " + os.environ["KAGGLE_API_TOKEN"]},
    )
    return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(call).read().decode()
"""
ASK_OF_TINY = ASK + 'print(ask("competitions.CompetitionApiService/" + sys.argv[1], competitionName="tiny"))'
PUSH_KERNEL = (
    ASK
    + """
import time
of = "kernels.KernelsApiService/"
text = "import time; time.sleep(60)"
title = {"slug": "rehearsal-user/sleeper", "newTitle": "sleeper", "language": "python", "kernelType": "script"}
ask(of + "SaveKernel", text=text, **title)
answer = ""
"""
)
RUN_KERNEL = (
    PUSH_KERNEL
    + """
while '"status": "ERROR"' not in answer:
    time.sleep(0.05)
    answer = ask(of + "GetKernelSessionStatus", userName="rehearsal-user", kernelSlug="sleeper")
print(answer)
"""
)


def asking(method: str) -> list[str]:
    """A command that asks the rehearsal, and prints its answer."""
    return ["--", sys.executable, "-c", ASK_OF_TINY, method]


@pytest.mark.slow
def test_a_submission_in_a_rehearsal(
    solution: Path, ledger: Ledger, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    first = rehearsed("--", *KIT, "submit", "made")
    assert first.exit_code == 0, capfd.readouterr()
    assert "rehearsal: a server on this machine plays Kaggle; nothing leaves it" in first.stdout
    assert "server      rehearsal" in capfd.readouterr().out
    [entry] = ledger.read()
    assert (entry.server, entry.status, entry.public_score) == ("rehearsal", Status.COMPLETE, 1.0)
    # Its state goes on: one was sent today.
    again = rehearsed("--daily-limit", "1", "--", *KIT, "submit", "made", "--again")
    assert again.exit_code == 1
    assert "no submission to tiny is left today (1 sent)" in capfd.readouterr().err


def test_the_exit_code_of_a_command_counts(solution: Path) -> None:
    assert rehearsed("--", "true").exit_code == 0
    assert rehearsed("--", "sh", "-c", "exit 7").exit_code == 7
    assert rehearsed("--", "sh", "-c", "kill -9 $$").exit_code == 137


def test_the_options_reach_the_server(solution: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def answer(method: str, *options: str) -> Any:
        result = rehearsed(*options, *asking(method))
        assert result.exit_code == 0, capfd.readouterr()
        return json.loads(capfd.readouterr().out)

    plain = answer("GetCompetition")
    assert (plain["maxDailySubmissions"], plain["isKernelsSubmissionsOnly"]) == (5, False)
    changed = answer("GetCompetition", "--daily-limit", "3", "--code-only")
    assert (changed["maxDailySubmissions"], changed["isKernelsSubmissionsOnly"]) == (3, True)
    assert rehearsed("--fault", "GetCompetition=418", *asking("GetCompetition")).exit_code == 1
    assert "HTTP Error 418" in capfd.readouterr().err


def test_a_kernel_runs_with_the_python_and_for_the_time_that_are_given(
    solution: Path, workspace: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    python = workspace / "python"
    python.write_text(f'#!/bin/sh\ntouch "{workspace}/used"\nexec "{sys.executable}" "$@"\n', "utf-8")
    python.chmod(0o755)
    options = ("--python", str(python), "--session-minutes", "0.01")
    assert rehearsed(*options, "--", sys.executable, "-c", RUN_KERNEL).exit_code == 0, capfd.readouterr()
    assert "session limit of 0.6 s exceeded" in capfd.readouterr().out
    assert (workspace / "used").exists()


def test_the_end_of_a_rehearsal_says_what_it_cancels_and_what_never_happened(solution: Path) -> None:
    faults = ("--fault", "GetKernel=503", "--fault", "SaveKernel=503*0")
    ended = rehearsed("--", sys.executable, "-c", PUSH_KERNEL)
    assert "cancelled, because the rehearsal is over: rehearsal-user/sleeper\n" in ended.stdout
    assert "keep `kit rehearse` running in a terminal of its own" in ended.stdout
    ended = rehearsed(*faults, "--", sys.executable, "-c", PUSH_KERNEL)
    assert "the fault GetKernel=503 did not happen" in ended.stdout
    assert "SaveKernel" not in ended.stdout
    assert "cancelled" not in ended.stdout


def test_a_rehearsal_that_cannot_be(workspace: Path, solution: Path) -> None:
    tiny = ("rehearse", "--competition", "tiny")
    assert "no-such-program cannot be run" in refused(*tiny, "--", "no-such-program")
    assert "CreateSubmission" in refused(*tiny, "--fault", "nonsense", "--", "true")
    assert "'Bogus=503' is no fault" in refused(*tiny, "--fault", "Bogus=503", "--", "true")
    message = refused(*tiny, "--solution", "other.csv")
    assert "other.csv does not exist" in message
    assert "next: check the path" in message
    assert "there is no program no-python" in refused(*tiny, "--python", "no-python", "--", "true")
    solution.write_text("id,label\nt0.jpg,blue\n", "utf-8")
    assert "lacks 5 ids" in refused(*tiny, "--", "true")
    solution.unlink()
    assert "hold out a part of the training pictures" in refused(*tiny, "--", "true")
    assert "there is no competition 'demo'" in refused("rehearse")


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_rehearsal_serves_until_it_is_interrupted(workspace: Path, solution: Path, how: signal.Signals) -> None:
    with running("rehearse", "--competition", "tiny", folder=workspace) as process:
        assert process.stdout
        lines = [process.stdout.readline()]
        assert "rehearsal of tiny on this machine; nothing leaves it" in lines[0]
        while "Ctrl-C ends it" not in lines[-1]:
            lines.append(process.stdout.readline())
            assert lines[-1], process.communicate()
        exports = "".join(line for line in lines if line.startswith("export "))
        script = f'{exports}\n"$0" -c "$1" GetCompetition'
        used = subprocess.run(
            ["bash", "-c", script, sys.executable, ASK_OF_TINY], capture_output=True, text=True, check=False
        )
        assert '"maxDailySubmissions": 5' in used.stdout, used.stderr
        assert "in use by another process" in refused("rehearse", "--competition", "tiny", "--fresh", "--", "true")
        assert (workspace / "runs" / ".rehearsal" / "tiny" / "state.json").exists()
        [unset] = [line for line in lines if line.startswith("unset ")]
        assert unset.split()[1:] == [line.split("=")[0].removeprefix("export ") for line in exports.splitlines()]
        process.send_signal(how)
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    assert "over" in stdout
    assert unset in stdout


@pytest.mark.slow
def test_a_signal_reaches_the_command_and_the_server_waits_for_it(workspace: Path, solution: Path) -> None:
    script = "trap 'sleep 0.3; echo cleaned up; exit 5' TERM; echo ready; while :; do sleep 0.05; done"
    with running("rehearse", "--competition", "tiny", "--", "bash", "-c", script, folder=workspace) as process:
        assert process.stdout
        while process.stdout.readline() != "ready\n":
            assert process.poll() is None
        process.terminate()
        stdout, _ = process.communicate(timeout=60)
    assert "cleaned up" in stdout
    assert process.returncode == 5


def test_forgetting_leaves_the_ledger_and_says_so(ledger: Ledger, solution: Path) -> None:
    ledger.begin(row(1, 0.5, 0.5))
    assert "log.csv" not in rehearsed("--fresh", "--", "true").stdout
    ledger.begin(row(2, 0.5, 0.5, server="rehearsal"))
    assert f"{ledger.path} keeps the 1 row of earlier rehearsals" in rehearsed("--fresh", "--", "true").stdout
    assert len(ledger.read()) == 2


def test_forgetting_leaves_the_rest_of_the_folder(workspace: Path, solution: Path) -> None:
    def token() -> str:
        return str(json.loads((state / "state.json").read_text("utf-8"))["token"])

    state = workspace / "runs" / ".rehearsal" / "tiny"
    assert rehearsed("--fresh", "--", "true").exit_code == 0  # there is nothing yet
    (state / "note.txt").write_text("", "utf-8")
    (state.parent / "other").mkdir()
    before = token()
    rehearsed("--", "true")
    assert token() == before
    rehearsed("--fresh", "--", "true")
    assert token() != before
    assert not (state / "note.txt").exists()
    assert (state.parent / "other").exists()
