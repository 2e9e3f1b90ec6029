"""Everything that goes wrong on the way to Kaggle and back, made to happen by a rehearsal."""

import random
import time
import traceback
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.rehearsal.faults import Fault
from pipeline.rehearsal.server import Rehearsal
from pipeline.submit.kaggle_client import Kaggle
from pipeline.submit.kaggle_errors import (
    GpuBusy,
    GpuQuota,
    InvalidKernel,
    KaggleError,
    NoAccess,
    NoCredentials,
    OutcomeUnknown,
    RateLimited,
    Refused,
    Unreachable,
    UploadFailed,
)
from tests.rehearsal.conftest import PlainRunner, until, write_csv, write_kernel

ATTEMPTS = 3


@pytest.fixture
def pauses() -> list[float]:
    """Seconds that the client wanted to wait; it does not."""
    return []


@pytest.fixture
def kaggle(rehearsal: Rehearsal, pauses: list[float]) -> Kaggle:
    return Kaggle.connect(timeout=20, attempts=ATTEMPTS, sleep=pauses.append)


@pytest.fixture
def hasty(rehearsal: Rehearsal, pauses: list[float]) -> Kaggle:
    """For a server that never answers; any other one may be too slow for it on a busy machine."""
    return Kaggle.connect(timeout=0.4, attempts=ATTEMPTS, sleep=pauses.append)


@pytest.fixture
def csv(rehearsal: Rehearsal, tmp_path: Path) -> Path:
    return write_csv(tmp_path / "right.csv", rehearsal.hosted["tiny"].solution)


@pytest.fixture
def big(rehearsal: Rehearsal) -> bytes:
    """What is downloaded: more than the 1 MiB that the real client writes at a time."""
    content = random.Random(0).randbytes(3 << 20)
    (rehearsal.hosted["tiny"].data / "big.bin").write_bytes(content)
    return content


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    return write_kernel(tmp_path / "kernel", "")


@pytest.fixture
def fail(rehearsal: Rehearsal) -> Callable[..., None]:
    """Let this go wrong from now on, and forget what was asked before."""

    def set_faults(*faults: str) -> None:
        rehearsal.faults[:] = map(Fault.parse, faults)
        rehearsal.requests.clear()

    return set_faults


Fail = Callable[..., None]


def count(rehearsal: Rehearsal, name: str) -> int:
    return [call for _, call in rehearsal.requests].count(name)


def puts(rehearsal: Rehearsal) -> int:
    return [method for method, _ in rehearsal.requests].count("PUT")


def test_a_question_is_asked_again(kaggle: Kaggle, rehearsal: Rehearsal, fail: Fail, pauses: list[float]) -> None:
    for fault in ("429", "nested:429", "500", "nested:503", "drop", "lost"):
        fail(f"GetSubmissionLimits={fault}*{ATTEMPTS - 1}")
        pauses.clear()
        assert kaggle.limits("tiny").left == 5, fault
        assert count(rehearsal, "GetSubmissionLimits") == ATTEMPTS
        if "429" in fault:
            assert pauses == [0.0, 0.0], "Retry-After: 0"
        else:
            assert 1 <= pauses[0] <= 2 <= pauses[1] <= 4


def test_what_stays_wrong_becomes_an_error_of_its_kind(kaggle: Kaggle, rehearsal: Rehearsal, fail: Fail) -> None:
    kinds: dict[str, type[KaggleError]] = {
        "400": Refused,
        "401": NoCredentials,
        "403": NoAccess,
        "404": NoAccess,
        "429": RateLimited,
        "500": Unreachable,
        "503": Unreachable,
    }
    for status, error in kinds.items():
        for fault in (status, f"nested:{status}"):
            fail(f"GetSubmission={fault}*0")
            with pytest.raises(error) as failed:
                kaggle.submission(1)
            assert type(failed.value) is error
            assert f"GetSubmission: HTTP {status}, The rehearsal was asked for status {status}" in failed.value.problem
            assert count(rehearsal, "GetSubmission") == (ATTEMPTS if error in (RateLimited, Unreachable) else 1)


def test_a_server_that_never_answers_is_given_up(hasty: Kaggle, rehearsal: Rehearsal, fail: Fail) -> None:
    for fault in ("drop", "hang"):
        fail(f"GetSubmission={fault}*0")
        began = time.monotonic()
        with pytest.raises(Unreachable):
            hasty.submission(1)
        assert time.monotonic() - began < 7 and count(rehearsal, "GetSubmission") == ATTEMPTS


def test_a_download_goes_on_where_it_broke_off(
    kaggle: Kaggle, big: bytes, fail: Fail, pauses: list[float], tmp_path: Path
) -> None:
    whole = kaggle.download("tiny", tmp_path / "whole", progress=False).read_bytes()
    fail("Download=drop*3")  # the second one meets the request that only asks whose bytes they are
    path = kaggle.download("tiny", tmp_path / "parts", progress=False)
    assert path.read_bytes() == whole
    assert len(pauses) == 2
    assert list(path.parent.iterdir()) == [path], "no note of the broken one is left"


def test_a_later_download_goes_on_too(big: bytes, fail: Fail, tmp_path: Path) -> None:
    kaggle = Kaggle.connect(attempts=1)
    whole = kaggle.download("tiny", tmp_path / "whole", progress=False).read_bytes()
    fail("Download=drop")
    with pytest.raises(Unreachable):
        kaggle.download("tiny", tmp_path, progress=False)
    part = bytearray((tmp_path / "tiny.zip").read_bytes())
    assert part == whole[: len(part)] and len(whole) / 4 < len(part) < len(whole)
    part[9] ^= 255  # so that it can be seen that these bytes are kept
    (tmp_path / "tiny.zip").write_bytes(part)
    rest = kaggle.download("tiny", tmp_path, progress=False).read_bytes()
    assert rest == bytes(part) + whole[len(part) :]


def test_a_download_of_other_data_begins_anew(rehearsal: Rehearsal, big: bytes, fail: Fail, tmp_path: Path) -> None:
    kaggle = Kaggle.connect(attempts=1)
    fail("Download=drop")
    with pytest.raises(Unreachable):
        kaggle.download("tiny", tmp_path, progress=False)
    (rehearsal.hosted["tiny"].data / "added.txt").write_text("meanwhile", "utf-8")
    with zipfile.ZipFile(kaggle.download("tiny", tmp_path, progress=False)) as archive:
        assert archive.testzip() is None and archive.read("added.txt") == b"meanwhile"


def test_a_download_is_tried_again(kaggle: Kaggle, hasty: Kaggle, fail: Fail, tmp_path: Path) -> None:
    for fault in ("429", "503", "hang", "lost"):
        fail(f"Download={fault}", f"DownloadDataFiles={fault}")
        client = hasty if fault == "hang" else kaggle
        assert zipfile.is_zipfile(client.download("tiny", tmp_path / fault, progress=False))


def test_a_full_disk_is_said_to_be_one(kaggle: Kaggle, tmp_path: Path) -> None:
    (tmp_path / "tiny.zip").symlink_to("/dev/full")
    with pytest.raises(KaggleError, match=r"tiny\.zip cannot be written: No space left"):
        kaggle.download("tiny", tmp_path, progress=False)


def test_an_upload_goes_on_where_it_broke_off(
    kaggle: Kaggle, hasty: Kaggle, rehearsal: Rehearsal, fail: Fail, tmp_path: Path
) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    content = bytes(range(256)) * 2000
    (folder / "a.bin").write_bytes(content)
    began = time.monotonic()
    for number, fault in enumerate(("503", "308", "drop", "lost", "429", "hang")):
        slug = f"wheels-{number}"
        fail(f"Upload={fault}")
        client = hasty if fault == "hang" else kaggle
        client.upload_dataset(folder, ref=f"rehearsal-user/{slug}", title=slug, notes="", progress=False)
        assert (rehearsal.protocol.store.dataset(slug, 1) / "a.bin").read_bytes() == content, fault
        assert count(rehearsal, "StartBlobUpload") == 1
        # The first one; how much has arrived; the rest, if there is one.
        assert puts(rehearsal) == (2 if fault == "lost" else 3), fault
    assert time.monotonic() - began < 7


def test_a_failed_upload_submits_nothing(kaggle: Kaggle, rehearsal: Rehearsal, csv: Path, fail: Fail) -> None:
    # Between two attempts it is asked how much has arrived.
    for fault, sent in {"403": 1, "nested:403": 1, "302": 1, "503": 2 * ATTEMPTS - 1}.items():
        fail(f"Upload={fault}*0")
        with pytest.raises(UploadFailed, match=r"right\.csv was not uploaded"):
            kaggle.submit("tiny", csv, description="one")
        assert (puts(rehearsal), count(rehearsal, "CreateSubmission")) == (sent, 0), fault


def test_an_unanswered_submission_is_made_once(
    rehearse: Callable[..., Rehearsal], pauses: list[float], tmp_path: Path
) -> None:
    rehearsal = rehearse(daily_limit=10)
    csv = write_csv(tmp_path / "right.csv", rehearsal.hosted["tiny"].solution)
    kaggle = Kaggle.connect(attempts=ATTEMPTS, sleep=pauses.append)
    refs = {"before": kaggle.submit("tiny", csv, description="before")}
    rehearsal.requests.clear()
    rehearsal.faults.append(Fault.parse("CreateSubmission=lost"))
    refs["lost"] = kaggle.submit("tiny", csv, description="lost")
    assert (count(rehearsal, "CreateSubmission"), pauses) == (1, [1.0])
    listed = [(one.description, one.ref) for one in kaggle.submissions("tiny")]
    assert listed[::-1] == list(refs.items())


def test_a_submission_that_is_not_to_be_seen_is_not_sent_again(
    kaggle: Kaggle, hasty: Kaggle, rehearsal: Rehearsal, csv: Path, fail: Fail, pauses: list[float]
) -> None:
    # The next request would be answered: it is not made.
    for fault in ("drop", "503", "nested:500", "hang"):
        fail(f"CreateSubmission={fault}")
        pauses.clear()
        with pytest.raises(OutcomeUnknown, match="may or may not have been made") as failed:
            (hasty if fault == "hang" else kaggle).submit("tiny", csv, description="this one")
        assert "kit submit --sync --competition tiny" in failed.value.next_step
        assert count(rehearsal, "CreateSubmission") == 1, fault
        assert (count(rehearsal, "ListSubmissions"), pauses) == (3, [1.0, 5.0, 20.0]), fault
    assert kaggle.submissions("tiny") == []


def test_a_submission_refused_for_the_rate_then_lost_is_not_sent_again(
    kaggle: Kaggle, rehearsal: Rehearsal, csv: Path, fail: Fail
) -> None:
    fail("CreateSubmission=429", "CreateSubmission=503")
    with pytest.raises(OutcomeUnknown):
        kaggle.submit("tiny", csv, description="this one")
    assert count(rehearsal, "CreateSubmission") == 2


def test_a_version_that_is_not_to_be_seen_is_not_submitted_again(
    kaggle: Kaggle, rehearsal: Rehearsal, fail: Fail
) -> None:
    for fault in ("drop", "503"):
        fail(f"CreateCodeSubmission={fault}")
        with pytest.raises(OutcomeUnknown, match="a submission to tiny may or may not have been made"):
            kaggle.submit_kernel("tiny", "rehearsal-user/a-kernel", 1, file_name="out.csv", description="one")
        assert count(rehearsal, "CreateCodeSubmission") == 1


def test_a_submission_is_repeated_after_a_429(
    kaggle: Kaggle, rehearsal: Rehearsal, csv: Path, fail: Fail, pauses: list[float]
) -> None:
    fail("CreateSubmission=429")
    assert kaggle.submit("tiny", csv, description="one") == 1
    assert pauses == [0.0] and count(rehearsal, "ListSubmissions") == 0, "it was refused before anything was done"


def test_a_submission_that_may_have_been_made_is_not_repeated(
    kaggle: Kaggle, rehearsal: Rehearsal, csv: Path, fail: Fail
) -> None:
    for fault in ("503", "403", "429"):
        fail("CreateSubmission=lost", f"ListSubmissions={fault}*0")
        with pytest.raises(OutcomeUnknown, match="a submission to tiny may or may not have been made"):
            kaggle.submit("tiny", csv, description="one")
        assert count(rehearsal, "CreateSubmission") == 1


def test_a_push_without_a_gpu_fails(kaggle: Kaggle, rehearsal: Rehearsal, kernel: Path, fail: Fail) -> None:
    for fault, error, said in (("quota", GpuQuota, "30.00 hours"), ("busy", GpuBusy, "count of 2")):
        fail(f"SaveKernel={fault}")
        with pytest.raises(error, match=said):
            kaggle.push_kernel(kernel)
        assert count(rehearsal, "SaveKernel") == 1


def test_a_push_that_lost_its_sources_fails(kaggle: Kaggle, tmp_path: Path, fail: Fail) -> None:
    fail("SaveKernel=dropped")
    with pytest.raises(InvalidKernel, match=r"dropped sources .* dataset rehearsal-user/wheels"):
        kaggle.push_kernel(write_kernel(tmp_path / "kernel", "", dataset_sources=["rehearsal-user/wheels"]))


def test_an_unanswered_push_is_done_once(
    kaggle: Kaggle, hasty: Kaggle, rehearsal: Rehearsal, kernel: Path, fail: Fail
) -> None:
    for version, fault in enumerate(("lost", "503", "hang", "lost", "drop", "429"), start=1):  # the first is a new one
        fail(f"SaveKernel={fault}")
        pushed = (hasty if fault == "hang" else kaggle).push_kernel(kernel)
        assert (pushed.ref, pushed.version) == ("rehearsal-user/a-kernel", version), fault
        assert count(rehearsal, "SaveKernel") == (1 if fault == "lost" else 2)
    assert kaggle.kernel_version(pushed.ref) == version


def test_a_new_kernel_whose_push_never_arrived_is_pushed_again(
    kaggle: Kaggle, rehearsal: Rehearsal, kernel: Path, fail: Fail
) -> None:
    fail("SaveKernel=drop")
    assert kaggle.push_kernel(kernel).version == 1


def test_an_unanswered_push_is_found_out_to_lack_a_source(kaggle: Kaggle, tmp_path: Path, fail: Fail) -> None:
    fail("SaveKernel=lost")
    with pytest.raises(InvalidKernel, match=r"without them: competition tyni\n"):
        kaggle.push_kernel(write_kernel(tmp_path / "kernel", "", competition_sources=["tiny", "tyni"]))


def test_a_push_that_may_have_been_done_is_not_repeated(rehearsal: Rehearsal, kernel: Path, fail: Fail) -> None:
    def then_break(_seconds: float) -> None:
        rehearsal.faults.append(Fault.parse("GetKernel=503*0"))

    kaggle = Kaggle.connect(attempts=ATTEMPTS, sleep=then_break)
    fail("SaveKernel=lost")
    with pytest.raises(OutcomeUnknown, match="a version of the kernel rehearsal-user/a-kernel may or may not"):
        kaggle.push_kernel(kernel)
    assert count(rehearsal, "SaveKernel") == 1


def test_output_is_fetched_again(rehearse: Callable[..., Rehearsal], tmp_path: Path) -> None:
    rehearsal = rehearse(runner=PlainRunner())
    kaggle = Kaggle.connect(attempts=ATTEMPTS, sleep=lambda _: None)
    hasty = Kaggle.connect(timeout=0.4, attempts=ATTEMPTS, sleep=lambda _: None)
    pushed = kaggle.push_kernel(write_kernel(tmp_path / "kernel", "open('out.bin', 'wb').write(bytes(300_000))"))
    until(lambda: kaggle.kernel_status(pushed.ref).state == "COMPLETE")
    began = time.monotonic()
    for fault in ("429", "503", "drop", "lost", "hang"):
        rehearsal.faults.append(Fault.parse(f"Output={fault}"))
        (hasty if fault == "hang" else kaggle).kernel_output(pushed.ref, tmp_path / fault, progress=False)
        assert (tmp_path / fault / "out.bin").read_bytes() == bytes(300_000), fault
    assert time.monotonic() - began < 7


def test_an_unanswered_data_set_is_made_once(kaggle: Kaggle, rehearsal: Rehearsal, tmp_path: Path, fail: Fail) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "a.txt").write_text("a", "utf-8")
    for number, fault in enumerate(("lost", "503", "429")):
        slug = f"wheels-{number}"
        fail(f"CreateDataset={fault}")
        kaggle.upload_dataset(folder, ref=f"rehearsal-user/{slug}", title=slug, notes="", progress=False)
        assert kaggle.dataset_status(f"rehearsal-user/{slug}") is not None
        assert count(rehearsal, "CreateDataset") == (1 if fault == "lost" else 2)

    fail("CreateDatasetVersion=lost")
    with pytest.raises(OutcomeUnknown, match="a version of the data set"):
        kaggle.upload_dataset(folder, ref="rehearsal-user/wheels-0", title="wheels-0", notes="", progress=False)
    assert count(rehearsal, "CreateDatasetVersion") == 1


def test_a_server_that_is_not_there_is_said_not_to_be(
    kaggle: Kaggle, monkeypatch: pytest.MonkeyPatch, pauses: list[float]
) -> None:
    monkeypatch.setenv("http_proxy", "http://user:geheim@127.0.0.1:9")
    with pytest.raises(Unreachable) as failed:
        kaggle.quota()
    assert "kit rehearse" in failed.value.next_step and len(pauses) == ATTEMPTS - 1
    assert "geheim" not in "".join(traceback.format_exception(failed.value))


def test_no_error_holds_a_secret(
    kaggle: Kaggle, rehearsal: Rehearsal, csv: Path, kernel: Path, fail: Fail, tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    calls: dict[str, Callable[[], object]] = {
        "GetSubmissionLimits": lambda: kaggle.limits("tiny"),
        "Download": lambda: kaggle.download("tiny", tmp_path / "data", progress=False),
        "Upload": lambda: kaggle.submit("tiny", csv, description="one"),
        "SaveKernel": lambda: kaggle.push_kernel(kernel),
        "IntrospectToken": lambda: Kaggle.connect(attempts=1),
    }
    token = rehearsal.environment["KAGGLE_API_TOKEN"]
    texts = []
    for method, call in calls.items():
        for fault in ("401", "403", "503", "drop"):
            fail(f"{method}={fault}*0")
            with pytest.raises(KaggleError) as failed:
                call()
            texts.append("".join(traceback.format_exception(failed.value)))
    fail()
    texts += [*capfd.readouterr(), *(path.name for path in tmp_path.rglob("*"))]
    signature = "/upload/"  # an upload's address is its own password
    assert [text for text in texts if token in text or signature in text or "storage" in text] == []
