"""Submitting, over HTTP with the real client: sent once, scored, and a ledger that is true whatever goes wrong."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from pipeline.artifacts import Workspace
from pipeline.competition import Competition
from pipeline.errors import BusyError, KitError, SubmissionError
from pipeline.predictions.store import finish_experiment, prediction_frame
from pipeline.rehearsal.faults import Fault
from pipeline.rehearsal.server import Rehearsal
from pipeline.submit.kaggle_answers import CompetitionInfo
from pipeline.submit.kaggle_client import Kaggle
from pipeline.submit.kaggle_errors import DailyLimit, KaggleError, NoAccess, RulesNotAccepted, Unreachable, UploadFailed
from pipeline.submit.ledger import Entry, Ledger, Status, new_tag
from pipeline.submit.outgoing import Outgoing, outgoing_experiment, outgoing_file, outgoing_kernel
from pipeline.submit.send import StillOpen, preflight, submit_file, submit_kernel, wait_for_score
from pipeline.submit.sync import LOST_AFTER, sync
from tests.conftest import manifest_scores

TRUTH = ["blue", "green", "red", "blue", "green", "red"]
IDS = [f"t{number}.jpg" for number in range(6)]
CLASSES = ["blue", "green", "red"]
NOW = datetime(2026, 2, 3, 4, 5, 6)
Rehearse = Callable[..., Rehearsal]


def no_sleep(_seconds: float) -> None:
    pass


def connected() -> Kaggle:
    return Kaggle.connect(timeout=30, attempts=3, sleep=no_sleep)


def write_csv(path: Path, labels: Sequence[str] = TRUTH, ids: Sequence[str] = IDS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [f"{key},{label}" for key, label in zip(ids, labels, strict=True)]
    path.write_text("\n".join(["id,label", *rows]) + "\n", "utf-8")
    return path


def finish(workspace: Path, name: str = "made", *, labels: Sequence[str] = TRUTH, tta: bool = False) -> None:
    """A finished experiment that predicts `labels`: OOF score 0.75 ± 0.0625, with TTA 0.875 ± 0.03125."""
    test = prediction_frame(IDS, np.eye(3)[[CLASSES.index(label) for label in labels]], CLASSES)
    oof = prediction_frame(["a"], np.eye(3)[:1], CLASSES, fold=0)
    manifest = {
        "competition": "tiny",
        "experiment": name,
        "metric": "accuracy",
        "target": "single",
        "greater_is_better": True,
        **manifest_scores(0.75, 0.03125 if tta else 0.0625, tta=0.875 if tta else None, folds=[0]),
        "classes": CLASSES,
        "floors": {},
        "stages": [],
        "created": "2026-01-01T00:00:00+00:00",
    }
    frames = {"oof.parquet": oof, "test.parquet": test, "oof_tta.parquet": oof, "test_tta.parquet": test}
    finish_experiment(Workspace(workspace).oof("tiny", name), frames, manifest)


@pytest.fixture
def ledger(tiny_competition: Competition, tmp_path: Path) -> Ledger:
    return Ledger(Workspace(tmp_path), "tiny")


@pytest.fixture
def csv_file(ledger: Ledger) -> Path:
    return write_csv(ledger.folder / "mine.csv")


def of(path: Path, **changes: object) -> Outgoing:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return replace(Outgoing("tiny", str(path), digest, 6, "made", 0.75, 0.0625, folds="1"), **changes)  # type: ignore[arg-type]


def sent(server: Rehearsal) -> int:
    """How many submissions the server holds."""
    with server.protocol.store.read() as state:
        return len(state.submissions)


def only(ledger: Ledger) -> Entry:
    [entry] = ledger.read()
    return entry


def public_ids(server: Rehearsal) -> frozenset[str]:
    return server.hosted["tiny"].public_ids()


def test_a_file_is_sent_scored_and_entered(rehearsal: Rehearsal, ledger: Ledger, tmp_path: Path) -> None:
    public = sorted(public_ids(rehearsal))
    private = sorted(set(IDS) - set(public))
    wrong = {public[0], private[0]}
    labels = [
        "red" if key in wrong and true != "red" else "blue" if key in wrong else true
        for key, true in zip(IDS, TRUTH, strict=True)
    ]
    path = write_csv(tmp_path / "mine.csv", labels)
    kaggle = connected()
    before = datetime.now(UTC).replace(microsecond=0)
    assert preflight(kaggle, "tiny").left == 5
    entry = submit_file(kaggle, ledger, of(path), path)
    assert entry == only(ledger)
    assert (entry.status, entry.ref, entry.public_score) == (Status.PENDING, 1, None)
    scored = wait_for_score(kaggle, ledger, entry, minutes=1, sleep=no_sleep)
    assert scored == only(ledger)
    assert scored == replace(
        entry,
        status=Status.COMPLETE,
        public_score=pytest.approx(1 - 1 / len(public), abs=1e-5),
        private_score=pytest.approx(1 - 1 / len(private), abs=1e-5),
    )
    assert before <= datetime.fromisoformat(scored.time) <= datetime.now(UTC)
    assert (scored.server, scored.file, scored.sha256) == ("rehearsal", str(path), of(path).sha256)
    [remote] = kaggle.submissions("tiny")
    assert remote.description == f"made 0.7500 #{of(path).sha256[:12]} [kit {entry.tag}]"
    assert remote.file_name == "mine.csv"
    assert preflight(kaggle, "tiny").left == 4


def test_a_note_stands_in_the_description_and_the_ledger(rehearsal: Rehearsal, ledger: Ledger, csv_file: Path) -> None:
    kaggle = connected()
    entry = submit_file(kaggle, ledger, of(csv_file, experiment="", oof_score=None), csv_file, message="first\n try")
    assert entry.message == "first try"
    again = submit_file(kaggle, ledger, of(csv_file, experiment="", oof_score=None), csv_file, again=True)
    descriptions = [remote.description for remote in kaggle.submissions("tiny")]
    content = f"#{of(csv_file).sha256[:12]}"
    assert descriptions == [f"mine.csv {content} [kit {again.tag}]", f"first try {content} [kit {entry.tag}]"]
    long = submit_file(kaggle, ledger, of(csv_file), csv_file, again=True, message="long " * 1000)
    [description, *_] = [remote.description for remote in kaggle.submissions("tiny")]
    assert len(description) < 200
    assert description.endswith(f" 0.7500 {content} [kit {long.tag}]")


def test_the_same_content_is_not_sent_twice(rehearsal: Rehearsal, ledger: Ledger, csv_file: Path) -> None:
    kaggle = connected()
    submit_file(kaggle, ledger, of(csv_file), csv_file)
    renamed = csv_file.rename(csv_file.with_name("renamed.csv"))
    with pytest.raises(SubmissionError, match=r"was sent to rehearsal before: .*mine\.csv"):
        submit_file(kaggle, ledger, of(renamed), renamed)
    assert (len(ledger.read()), sent(rehearsal)) == (1, 1)
    submit_file(kaggle, ledger, of(renamed), renamed, again=True)
    assert (len(ledger.read()), sent(rehearsal)) == (2, 2)


@pytest.mark.parametrize(
    ("changes", "error", "named"),
    [
        ({"entered": False}, RulesNotAccepted, r"rehearsal-user has not .*\n.*\n.*https://www.kaggle.com/c/tiny/rules"),
        ({"code_only": True}, SubmissionError, r"code competition[\s\S]*kit submit --kernel predict"),
        (
            {"daily_limit": 0},
            DailyLimit,
            r"no submission to tiny is left today \(0 sent\)[\s\S]*midnight UTC, in \d+ h",
        ),
    ],
)
def test_what_would_be_refused_is_not_sent(
    rehearse: Rehearse, ledger: Ledger, changes: dict[str, object], error: type[KitError], named: str
) -> None:
    server = rehearse(**changes)
    with pytest.raises(error, match=named):
        preflight(connected(), "tiny")
    assert "StartSubmissionUpload" not in [name for _, name in server.requests]
    if "code_only" in changes:
        assert preflight(connected(), "tiny", kernel=True).left == 5


def test_a_misspelt_or_closed_competition_is_refused(rehearsal: Rehearsal) -> None:
    kaggle = connected()
    with pytest.raises(NoAccess, match="tinny"):
        preflight(kaggle, "tinny")

    class Closed(Kaggle):  # the server knows none that is
        def competition(self, slug: str) -> CompetitionInfo:
            return replace(super().competition(slug), closed=True)

    with pytest.raises(SubmissionError, match="tiny takes no submissions any more"):
        preflight(Closed.connect(sleep=no_sleep), "tiny")


def test_the_limit_is_reached_while_sending(rehearse: Rehearse, ledger: Ledger, csv_file: Path) -> None:
    server = rehearse(daily_limit=0)
    with pytest.raises(DailyLimit):
        submit_file(connected(), ledger, of(csv_file), csv_file)
    assert only(ledger).status is Status.FAILED
    assert "left" in only(ledger).message
    assert sent(server) == 0


@pytest.mark.parametrize(
    ("fault", "error", "named"),
    [
        ("Upload=403", UploadFailed, "403"),
        ("Upload=503*0", UploadFailed, "503"),
        ("Upload=308*0", UploadFailed, "only a part"),
        ("StartSubmissionUpload=429*0", KaggleError, "429"),
        ("CreateSubmission=400", KaggleError, "400"),
        ("CreateSubmission=nested:400", KaggleError, "400"),
        ("CreateSubmission=nested:403", KaggleError, "403"),
        ("CreateSubmission=429*0", KaggleError, "429"),
    ],
)
def test_what_never_arrived_is_entered_as_failed_and_may_be_sent_again(
    rehearsal: Rehearsal, ledger: Ledger, csv_file: Path, fault: str, error: type[KaggleError], named: str
) -> None:
    rehearsal.faults.append(Fault.parse(fault))
    with pytest.raises(error, match=named):
        submit_file(connected(), ledger, of(csv_file), csv_file)
    entry = only(ledger)
    assert (entry.status, entry.ref) == (Status.FAILED, None)
    assert named in entry.message
    assert sent(rehearsal) == 0
    rehearsal.faults.clear()
    submit_file(connected(), ledger, of(csv_file), csv_file)
    assert [entry.status for entry in ledger.read()] == ["FAILED", "PENDING"]
    assert sent(rehearsal) == 1


@pytest.mark.parametrize(
    "fault", ["Upload=503", "Upload=308", "Upload=drop", "CreateSubmission=429", "CreateSubmission=lost"]
)
def test_trouble_that_passes_is_no_failure(rehearsal: Rehearsal, ledger: Ledger, csv_file: Path, fault: str) -> None:
    rehearsal.faults.append(Fault.parse(fault))
    entry = submit_file(connected(), ledger, of(csv_file), csv_file)
    assert (entry.status, entry.ref) == (Status.PENDING, 1)
    assert sent(rehearsal) == 1


def lose(rehearsal: Rehearsal, ledger: Ledger, path: Path) -> Entry:
    """Submit, and never hear of it."""
    rehearsal.faults += [Fault.parse("CreateSubmission=lost"), Fault.parse("ListSubmissions=503*0")]
    with pytest.raises(StillOpen, match=r"not known whether .* arrived[\s\S]*kit submit --sync --competition tiny"):
        submit_file(connected(), ledger, of(path), path, message="note")
    rehearsal.faults.clear()
    return only(ledger)


def test_a_submission_that_nobody_heard_of_is_found_by_its_tag(
    rehearsal: Rehearsal, ledger: Ledger, csv_file: Path
) -> None:
    entry = lose(rehearsal, ledger, csv_file)
    assert (entry.status, entry.ref) == (Status.SENDING, None)
    with pytest.raises(SubmissionError, match=r"--sync"):
        submit_file(connected(), ledger, of(csv_file), csv_file)
    rehearsal.faults.append(Fault.parse("ListSubmissions=503*0"))
    with pytest.raises(Unreachable):
        sync(connected(), ledger)
    assert only(ledger) == entry
    rehearsal.faults.clear()
    [settled] = sync(connected(), ledger).settled
    assert (settled.status, settled.ref, settled.public_score) == (Status.COMPLETE, 1, 1.0)
    assert settled.message == "note"
    assert settled == only(ledger)
    assert sent(rehearsal) == 1
    assert sync(connected(), ledger).settled == ()


@pytest.mark.parametrize("fault", ["503", "nested:500", "drop"])
@pytest.mark.parametrize("arrived", [True, False])
def test_a_submission_that_is_not_to_be_seen_is_sent_once_and_settled_later(
    rehearsal: Rehearsal, ledger: Ledger, csv_file: Path, fault: str, arrived: bool
) -> None:
    def posts() -> int:
        return rehearsal.requests.count(("POST", "CreateSubmission"))

    kaggle = connected()
    rehearsal.faults.append(Fault.parse(f"CreateSubmission={fault}"))
    with pytest.raises(StillOpen, match=r"not known whether .* arrived[\s\S]*kit submit --sync") as caught:
        submit_file(kaggle, ledger, of(csv_file), csv_file)
    assert caught.value.exit_code == 4
    assert (posts(), only(ledger).status, only(ledger).ref) == (1, Status.SENDING, None)
    if arrived:  # it had, and the list of submissions was late
        made = kaggle.submit("tiny", csv_file, description=f"made 0.7500 [kit {only(ledger).tag}]")
        [settled] = sync(kaggle, ledger).settled
        assert (settled.status, settled.ref, settled.public_score) == (Status.COMPLETE, made, 1.0)
        assert posts() == 2, "the one of this test"
    else:
        assert [entry.status for entry in sync(kaggle, ledger).open] == ["SENDING"]
        [settled] = sync(kaggle, ledger, now=datetime.now(UTC) + LOST_AFTER + timedelta(seconds=1)).settled
        assert settled.status is Status.FAILED
        assert posts() == 1
    assert settled == only(ledger)


def test_a_row_that_never_arrived_is_failed_when_it_is_old_and_its_sender_dead(
    rehearsal: Rehearsal, ledger: Ledger, csv_file: Path
) -> None:
    kaggle = connected()
    rehearsal.faults.append(Fault.parse("CreateSubmission=drop*0"))
    rehearsal.faults.append(Fault.parse("ListSubmissions=503*0"))
    with pytest.raises(StillOpen):
        submit_file(kaggle, ledger, of(csv_file), csv_file)
    rehearsal.faults.clear()
    young = sync(kaggle, ledger)
    assert [entry.status for entry in young.open] == ["SENDING"]
    later = datetime.now(UTC) + LOST_AFTER + timedelta(seconds=1)
    with ledger.sending():  # its sender lives
        assert [entry.status for entry in sync(kaggle, ledger, now=later).open] == ["SENDING"]
    [failed] = sync(kaggle, ledger, now=later).settled
    assert failed == only(ledger)
    assert failed.status is Status.FAILED
    assert failed.message.endswith("it never arrived")
    submit_file(kaggle, ledger, of(csv_file), csv_file)
    assert sent(rehearsal) == 1


def test_the_deadline_is_no_failure_and_sync_goes_on(rehearse: Rehearse, ledger: Ledger, csv_file: Path) -> None:
    server = rehearse(scoring_seconds=0.7)
    kaggle = connected()
    entry = submit_file(kaggle, ledger, of(csv_file), csv_file)
    with pytest.raises(
        StillOpen, match=r"submission 1 has no score after 0\.001 minutes[\s\S]*kit submit --sync"
    ) as caught:
        wait_for_score(kaggle, ledger, entry, minutes=0.001)
    assert caught.value.exit_code == 4
    assert only(ledger) == entry
    assert sync(kaggle, ledger).open == (entry,)
    waited = wait_for_score(kaggle, ledger, entry, minutes=1)
    assert (waited.status, waited.public_score) == (Status.COMPLETE, 1.0)
    assert sync(kaggle, ledger).open == ()
    assert sent(server) == 1


@pytest.mark.parametrize(
    "fault", ["GetSubmission=503*7", "GetSubmission=429*7", "GetSubmission=drop*7", "GetSubmission=unknown*2"]
)
def test_trouble_while_waiting_is_waited_out(rehearsal: Rehearsal, ledger: Ledger, csv_file: Path, fault: str) -> None:
    kaggle = connected()
    entry = submit_file(kaggle, ledger, of(csv_file), csv_file)
    rehearsal.faults.append(Fault.parse(fault))
    assert wait_for_score(kaggle, ledger, entry, minutes=1, sleep=no_sleep).status is Status.COMPLETE
    rehearsal.faults.append(Fault.parse("GetSubmission=503*0"))
    with pytest.raises(StillOpen, match="503"):
        wait_for_score(kaggle, ledger, entry, minutes=0)


@pytest.mark.parametrize("way", ["wait", "sync"])
def test_what_cannot_be_scored_is_an_error_with_the_servers_words(
    rehearsal: Rehearsal, ledger: Ledger, tmp_path: Path, way: str
) -> None:
    path = write_csv(tmp_path / "short.csv", TRUTH[:4], IDS[:4])
    kaggle = connected()
    entry = submit_file(kaggle, ledger, of(path), path, message="note")
    if way == "wait":
        with pytest.raises(SubmissionError, match=r"submission 1 .*2 ids are missing: t4\.jpg, t5\.jpg"):
            wait_for_score(kaggle, ledger, entry, minutes=1, sleep=no_sleep)
    else:
        assert [found.status for found in sync(kaggle, ledger).settled] == ["ERROR"]
    assert only(ledger).status is Status.ERROR
    assert only(ledger).message.startswith("note; ")
    assert "2 ids are missing" in only(ledger).message


def test_a_rehearsal_started_afresh_gives_no_row_another_ones_score(
    rehearse: Rehearse, ledger: Ledger, tmp_path: Path
) -> None:
    path, other = write_csv(tmp_path / "one.csv"), write_csv(tmp_path / "other.csv", TRUTH[::-1])
    server = rehearse(scoring_seconds=60)
    lost = submit_file(connected(), ledger, of(path), path)
    with server.protocol.store.change() as state:
        state.submissions.clear()
    rehearse()
    kaggle = connected()
    assert submit_file(kaggle, ledger, of(other), other).ref == lost.ref == 1
    sync(kaggle, ledger)
    gone, scored = ledger.read()
    assert (gone.status, gone.public_score) == (Status.ERROR, None)
    assert "started afresh" in gone.message
    assert (scored.status, scored.ref) == (Status.COMPLETE, 1)


def test_rows_of_another_server_are_left_alone(rehearsal: Rehearsal, ledger: Ledger, csv_file: Path) -> None:
    row = Entry(
        time="2026-01-01T00:00:00+00:00", server="kaggle.com", file="x.csv", sha256="a" * 64, experiment="",
        oof_score=None, oof_score_se=None, public_score=None, private_score=None, ref=1, status=Status.PENDING,
        message="", tag=new_tag(),
    )  # fmt: skip
    ledger.begin(row)
    submit_file(connected(), ledger, of(csv_file), csv_file)
    found = sync(connected(), ledger)
    assert found.open == ()
    assert [entry.server for entry in found.settled] == ["rehearsal"]
    assert ledger.read()[0] == row


def test_one_sender_at_a_time(rehearsal: Rehearsal, ledger: Ledger, csv_file: Path) -> None:
    with ledger.sending(), pytest.raises(BusyError, match="submitting to tiny"):
        submit_file(connected(), ledger, of(csv_file), csv_file)
    assert ledger.read() == []
    assert sent(rehearsal) == 0


def test_a_kernel_that_is_not_there_is_refused_and_entered(rehearse: Rehearse, ledger: Ledger) -> None:
    server = rehearse(code_only=True)
    kaggle = connected()
    outgoing = outgoing_kernel("tiny", f"{kaggle.user}/kit-predict", 3, sha256="b" * 64, experiment=None)
    with pytest.raises(KaggleError):
        submit_kernel(
            kaggle, ledger, outgoing, kernel=f"{kaggle.user}/kit-predict", version=3, file_name="submission.csv"
        )
    assert (only(ledger).status, only(ledger).file) == (Status.FAILED, "rehearsal-user/kit-predict/3")
    assert sent(server) == 0


def test_a_file_of_an_experiment_is_known_by_its_content(
    tiny_competition: Competition, ledger: Ledger, tmp_path: Path
) -> None:
    workspace = Workspace(tmp_path)
    finish(tmp_path)
    made = outgoing_experiment(tiny_competition, "made", workspace=workspace, now=NOW)
    path = ledger.folder / "20260203-040506-made-0.7500.csv"
    assert made == of(path)
    assert made == outgoing_file(tiny_competition, path, workspace=workspace)
    # A copy elsewhere is known for as long as what it is a copy of is there.
    copy = tmp_path / "mine.csv"
    copy.write_bytes(path.read_bytes())
    assert outgoing_file(tiny_competition, copy, workspace=workspace) == of(copy)
    # The same bytes under another name: nobody says which experiment's it is.
    path.unlink()
    assert outgoing_file(tiny_competition, copy, workspace=workspace) == of(
        copy, experiment="", oof_score=None, oof_score_se=None, folds=""
    )
    # Other bytes under its name: it is not what the experiment predicts now.
    write_csv(path, TRUTH[::-1])
    assert outgoing_file(tiny_competition, path, workspace=workspace).oof_score is None


def test_a_file_in_another_order_is_outgoing_and_says_so(tiny_competition: Competition, tmp_path: Path) -> None:
    path = write_csv(tmp_path / "reversed.csv", TRUTH[::-1], IDS[::-1])
    outgoing = outgoing_file(tiny_competition, path, workspace=Workspace(tmp_path))
    assert "from row 1 on: t5.jpg instead of t0.jpg" in outgoing.order


def test_an_experiment_is_sent_as_it_predicts_now(
    tiny_competition: Competition, ledger: Ledger, tmp_path: Path
) -> None:
    workspace = Workspace(tmp_path)
    finish(tmp_path, labels=TRUTH[::-1])
    finish(tmp_path, "made-more")
    old = outgoing_experiment(tiny_competition, "made", workspace=workspace, now=NOW)
    other = outgoing_experiment(tiny_competition, "made-more", workspace=workspace, now=NOW + timedelta(hours=1))
    finish(tmp_path, labels=TRUTH, tta=True)
    new = outgoing_experiment(tiny_competition, "made", workspace=workspace, now=NOW + timedelta(hours=2))
    assert len({old.file, other.file, new.file}) == 3
    assert other.sha256 == new.sha256
    assert (new.oof_score, new.oof_score_se, new.experiment) == (0.875, 0.03125, "made")
    assert outgoing_experiment(tiny_competition, "made", workspace=workspace, now=NOW + timedelta(hours=3)) == new
    assert len(list(ledger.folder.glob("*.csv"))) == 3


def test_a_bad_file_is_not_outgoing(tiny_competition: Competition, tmp_path: Path) -> None:
    path = write_csv(tmp_path / "bad.csv", TRUTH[:5], IDS[:5])
    with pytest.raises(SubmissionError, match=r"1 id is missing: t5\.jpg"):
        outgoing_file(tiny_competition, path, workspace=Workspace(tmp_path))
