"""The client over real HTTP, with the real `kaggle` package, against a rehearsal that works."""

import json
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipeline.rehearsal.faults import Fault
from pipeline.rehearsal.server import Rehearsal
from pipeline.submit import kaggle_session
from pipeline.submit.kaggle_answers import Limits
from pipeline.submit.kaggle_client import Kaggle
from pipeline.submit.kaggle_errors import (
    DailyLimit,
    InvalidKernel,
    KaggleError,
    NoAccess,
    Refused,
    RulesNotAccepted,
    SourceTooLarge,
)
from tests.rehearsal.conftest import PlainRunner, until, write_csv, write_kernel

Start = Callable[..., Rehearsal]


def connect() -> Kaggle:
    def never(seconds: float) -> None:
        raise AssertionError(f"nothing failed, but something was to be repeated after {seconds} s")

    return Kaggle.connect(timeout=10, sleep=never)


@pytest.fixture
def kaggle(rehearsal: Rehearsal) -> Kaggle:
    return connect()


@pytest.fixture
def csv(rehearsal: Rehearsal, tmp_path: Path) -> Path:
    """A submission without a fault."""
    return write_csv(tmp_path / "right.csv", rehearsal.hosted["tiny"].solution)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder for a data set: a file, an empty one, and a zip."""
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "a.bin").write_bytes(bytes(range(256)) * 300)
    (folder / "empty.txt").touch()
    with zipfile.ZipFile(folder / "wheels.zip", "w") as archive:
        archive.writestr("one.whl", "a wheel")
    return folder


def test_the_user_is_known(kaggle: Kaggle) -> None:
    assert (kaggle.user, kaggle.server) == ("rehearsal-user", "rehearsal")


def test_a_competition_is_described(rehearse: Start) -> None:
    rehearse(daily_limit=3, code_only=True)
    info = connect().competition("tiny")
    assert (info.slug, info.entered, info.code_only, info.closed) == ("tiny", True, True, False)
    assert (info.daily_limit, info.metric) == (3, "accuracy")
    assert info.url.endswith("/competitions/tiny")


def test_a_competition_that_is_not_entered_is_described_too(rehearse: Start) -> None:
    rehearse(entered=False)
    assert not connect().competition("tiny").entered


def test_rules_that_are_not_accepted_are_told_from_a_wrong_slug(rehearse: Start, tmp_path: Path) -> None:
    csv = write_csv(tmp_path / "right.csv", rehearse(entered=False).hosted["tiny"].solution)
    kaggle = connect()
    calls: list[Callable[[str], object]] = [
        kaggle.limits,
        kaggle.data_files,
        kaggle.submissions,
        lambda slug: kaggle.download(slug, tmp_path, progress=False),
        lambda slug: kaggle.submit(slug, csv, description="one"),
        lambda slug: kaggle.submit_kernel(slug, "me/a-kernel", 1, file_name="s.csv", description="one"),
    ]
    for call in calls:
        with pytest.raises(RulesNotAccepted) as refused:
            call("tiny")
        assert "https://www.kaggle.com/c/tiny/rules" in refused.value.next_step
        with pytest.raises(NoAccess) as unknown:
            call("tyni")
        assert not isinstance(unknown.value, RulesNotAccepted)
        assert "no competition tyni, or its rules are not accepted" in unknown.value.problem
        assert "https://www.kaggle.com/c/tyni/rules" in unknown.value.next_step


def test_a_misspelt_competition_has_no_description(kaggle: Kaggle) -> None:
    with pytest.raises(NoAccess, match="no competition tyni"):
        kaggle.competition("tyni")


def test_every_file_of_the_data_is_listed(
    kaggle: Kaggle, rehearsal: Rehearsal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kaggle_session, "_PAGE", 7)
    data = rehearsal.hosted["tiny"].data
    listed = [(file.name, file.bytes) for file in kaggle.data_files("tiny")]
    found = [path for path in data.rglob("*") if path.is_file()]
    assert sorted(listed) == sorted((path.relative_to(data).as_posix(), path.stat().st_size) for path in found)
    assert rehearsal.requests.count(("POST", "ListDataFiles")) == 5  # 32 files


def test_the_data_are_downloaded_once(kaggle: Kaggle, rehearsal: Rehearsal, tmp_path: Path) -> None:
    path = kaggle.download("tiny", tmp_path / "new" / "folder", progress=False)
    assert path == tmp_path / "new" / "folder" / "tiny.zip" and list(path.parent.iterdir()) == [path]
    data = rehearsal.hosted["tiny"].data
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.read("test/t0.jpg") == (data / "test" / "t0.jpg").read_bytes()
    content, before = path.read_bytes(), path.stat()
    assert kaggle.download("tiny", path.parent, progress=False).stat().st_mtime_ns == before.st_mtime_ns

    # The real client takes a file that is too long for a whole one.
    path.write_bytes(content + b"of another time")
    assert kaggle.download("tiny", path.parent, progress=False).read_bytes() == content


def test_a_submission_is_scored(kaggle: Kaggle, csv: Path) -> None:
    ref = kaggle.submit("tiny", csv, description="the first [7f3a]")
    found = kaggle.submission(ref)
    assert ref > 0 and found.ref == ref
    assert (found.status, found.public, found.private, found.error) == ("COMPLETE", 1.0, 1.0, "")
    assert (found.file_name, found.description) == ("right.csv", "the first [7f3a]")
    assert found.time is not None and abs(datetime.now(UTC) - found.time) < timedelta(minutes=1)


def test_a_pending_submission_has_no_score_yet(rehearse: Start, tmp_path: Path) -> None:
    rehearsal = rehearse(scoring_seconds=60)
    kaggle = connect()
    csv = write_csv(tmp_path / "right.csv", rehearsal.hosted["tiny"].solution)
    found = kaggle.submission(kaggle.submit("tiny", csv, description="one"))
    assert (found.status, found.public, found.private) == ("PENDING", None, None)


def test_a_csv_that_cannot_be_scored_ends_in_an_error(kaggle: Kaggle, csv: Path) -> None:
    csv.write_text("\n".join(csv.read_text("utf-8").splitlines()[:-1]), "utf-8")
    found = kaggle.submission(kaggle.submit("tiny", csv, description="one"))
    assert (found.status, found.public) == ("ERROR", None)
    assert "t5.jpg" in found.error


def test_submissions_are_listed_to_the_last_page(
    rehearse: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kaggle_session, "_PAGE", 2)
    csv = write_csv(tmp_path / "right.csv", rehearse().hosted["tiny"].solution)
    kaggle = connect()
    refs = [kaggle.submit("tiny", csv, description=f"number {number}") for number in range(5)]
    listed = kaggle.submissions("tiny")
    assert [one.ref for one in listed] == refs[::-1]
    assert [one.description for one in listed] == [f"number {number}" for number in range(4, -1, -1)]


def test_the_daily_limit_is_told(rehearse: Start, tmp_path: Path) -> None:
    csv = write_csv(tmp_path / "right.csv", rehearse(daily_limit=1).hosted["tiny"].solution)
    kaggle = connect()
    assert kaggle.limits("tiny") == Limits(today=0, total=0, left=1, limited_by_total=False)
    kaggle.submit("tiny", csv, description="one")
    assert kaggle.limits("tiny") == Limits(today=1, total=1, left=0, limited_by_total=False)
    with pytest.raises(DailyLimit) as refused:
        kaggle.submit("tiny", csv, description="two")
    assert "allowance" in refused.value.problem, "Kaggle's own words are told, too"
    assert "midnight UTC" in refused.value.next_step
    assert len(kaggle.submissions("tiny")) == 1


def test_another_refusal_is_not_taken_for_the_daily_limit(rehearse: Start, tmp_path: Path) -> None:
    csv = write_csv(tmp_path / "right.csv", rehearse(code_only=True).hosted["tiny"].solution)
    with pytest.raises(Refused, match="only accepts Submissions from Notebooks") as refused:
        connect().submit("tiny", csv, description="one")
    assert not isinstance(refused.value, DailyLimit)


def test_the_competition_of_the_environment_is_never_used(
    kaggle: Kaggle, csv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAGGLE_COMPETITION", "another")
    other = connect()
    other.submit("tiny", csv, description="one")
    assert [one.description for one in kaggle.submissions("tiny")] == ["one"]


@pytest.fixture
def running(rehearse: Start) -> Rehearsal:
    """A rehearsal that runs kernels."""
    return rehearse(runner=PlainRunner())


def test_a_kernel_is_pushed_run_and_fetched(running: Rehearsal, tmp_path: Path) -> None:
    kaggle = connect()
    code = "import os; print('hello'); os.mkdir('deep'); open('deep/out.txt', 'w').write('one')"
    pushed = kaggle.push_kernel(write_kernel(tmp_path / "kernel", code))
    assert (pushed.ref, pushed.version) == ("rehearsal-user/a-kernel", 1)
    assert pushed.url.endswith("/code/rehearsal-user/a-kernel")
    until(lambda: kaggle.kernel_status(pushed.ref).state == "COMPLETE")
    assert kaggle.kernel_output(pushed.ref, tmp_path / "output", progress=False) == "hello\n"
    assert (tmp_path / "output" / "deep" / "out.txt").read_text("utf-8") == "one"

    again = kaggle.push_kernel(write_kernel(tmp_path / "kernel", "raise ValueError('no')"))
    assert again.version == kaggle.kernel_version(pushed.ref) == 2
    failed = until(lambda: kaggle.kernel_status(pushed.ref).state == "ERROR" and kaggle.kernel_status(pushed.ref))
    assert failed.failure == "it raised"
    assert "ValueError: no" in kaggle.kernel_output(pushed.ref, tmp_path / "output", progress=False)


def test_what_the_folder_says_arrives(rehearse: Start, tmp_path: Path) -> None:
    runner = PlainRunner()
    rehearse(runner=runner)
    folder = write_kernel(tmp_path / "kernel", "", enable_internet=False, competition_sources=["tiny"])
    connect().push_kernel(folder, session_seconds=77)
    [call] = until(lambda: runner.calls)
    assert (call["internet"], call["seconds"], list(call["inputs"])) == (False, 77.0, ["competitions/tiny"])


def test_a_version_of_a_kernel_is_submitted(running: Rehearsal, tmp_path: Path) -> None:
    kaggle = connect()
    rows = "".join(f"{key},{label}\n" for key, label in running.hosted["tiny"].solution.items())
    for code in (f"open('out.csv', 'w').write({'id,label' + chr(10) + rows!r})", "pass"):
        pushed = kaggle.push_kernel(write_kernel(tmp_path / "kernel", code))
        until(lambda version=pushed.version: kaggle.kernel_status("rehearsal-user/a-kernel").state == "COMPLETE")
    ref = kaggle.submit_kernel("tiny", pushed.ref, 1, file_name="out.csv", description="version one")
    scored = until(lambda: (found := kaggle.submission(ref)).status == "COMPLETE" and found)
    assert (scored.public, scored.description) == (1.0, "version one")


def test_a_kernel_that_kaggle_would_not_take_is_not_sent(kaggle: Kaggle, rehearsal: Rehearsal, tmp_path: Path) -> None:
    wrong: list[tuple[dict[str, object], str]] = [
        ({"title": "Four"}, "at least 5 characters"),
        ({"id": "rehearsal-user/four"}, "at least 5 characters"),
        ({"id": "rehearsal-user/four", "title": "Four"}, "at least 5 characters"),
        ({"title": "Another kernel"}, "whose slug is 'another-kernel'"),
        ({"id": "a-kernel"}, "names no kernel"),
        ({"id": "rehearsal-user/a-kernel/3"}, "names no kernel"),
        ({"code_file": "other.py"}, "a code_file that is not there: other.py"),
        ({"code_file": None}, "a code_file that is not there"),
        ({"language": "perl"}, "valid language"),
        ({"dataset_sources": ["nobody"]}, "Dataset must be specified"),
    ]
    for metadata, said in wrong:
        with pytest.raises(InvalidKernel, match=said):
            kaggle.push_kernel(write_kernel(tmp_path / "kernel", "", **metadata))
    assert ("POST", "SaveKernel") not in rehearsal.requests


def test_a_kernel_that_does_not_say_whether_it_has_internet_is_not_sent(
    kaggle: Kaggle, rehearsal: Rehearsal, tmp_path: Path
) -> None:
    file = write_kernel(tmp_path, "") / "kernel-metadata.json"
    metadata = json.loads(file.read_text("utf-8"))
    del metadata["enable_internet"]
    file.write_text(json.dumps(metadata), "utf-8")
    with pytest.raises(InvalidKernel, match="does not say enable_internet"):
        kaggle.push_kernel(tmp_path)
    assert ("POST", "SaveKernel") not in rehearsal.requests


def test_a_folder_without_metadata_is_no_kernel(kaggle: Kaggle, tmp_path: Path) -> None:
    for text in (None, "{", "[]"):
        if text is not None:
            (tmp_path / "kernel-metadata.json").write_text(text, "utf-8")
        with pytest.raises(InvalidKernel, match=r"kernel-metadata\.json"):
            kaggle.push_kernel(tmp_path)


def test_a_source_of_a_megabyte_is_not_sent(kaggle: Kaggle, rehearsal: Rehearsal, tmp_path: Path) -> None:
    folder = write_kernel(tmp_path / "kernel", "#" * 1_000_000)
    with pytest.raises(SourceTooLarge, match="1000000 bytes"):
        kaggle.push_kernel(folder)
    assert ("POST", "SaveKernel") not in rehearsal.requests
    (folder / "code.py").write_text("#" * 999_999, "utf-8")
    assert kaggle.push_kernel(folder).version == 1


def test_a_kernel_that_is_not_there_has_no_status(kaggle: Kaggle, tmp_path: Path) -> None:
    calls: list[Callable[[], object]] = [
        lambda: kaggle.kernel_status("rehearsal-user/nothing"),
        lambda: kaggle.kernel_version("rehearsal-user/nothing"),
        lambda: kaggle.kernel_output("rehearsal-user/nothing", tmp_path, progress=False),
    ]
    for call in calls:
        with pytest.raises(NoAccess, match=r"kernels\.get"):
            call()


def test_a_source_that_is_not_there_is_named(kaggle: Kaggle, tmp_path: Path) -> None:
    sources = {"dataset_sources": ["rehearsal-user/no-wheels"], "competition_sources": ["tyni"]}
    with pytest.raises(InvalidKernel, match=r"dataset rehearsal-user/no-wheels; competition tyni"):
        kaggle.push_kernel(write_kernel(tmp_path / "kernel", "", **sources))


def test_the_gpu_time_is_told(kaggle: Kaggle) -> None:
    quota = kaggle.quota()
    assert (quota.used_s, quota.allowed_s) == (0.0, 108_000.0)
    assert quota.refresh is not None and timedelta() < quota.refresh - datetime.now(UTC) <= timedelta(days=7)


def test_a_data_set_is_made_then_gets_a_version(
    kaggle: Kaggle, rehearsal: Rehearsal, files: Path, tmp_path: Path
) -> None:
    ref = "rehearsal-user/wheels"
    assert kaggle.dataset_status(ref) is None
    kaggle.upload_dataset(files, ref=ref, title="Wheels", notes="first", progress=False)
    assert [kaggle.dataset_status(ref) for _ in range(2)] == ["BLOBS_RECEIVED", "READY"]
    made = rehearsal.protocol.store.dataset("wheels", 1)
    assert (made / "a.bin").read_bytes() == (files / "a.bin").read_bytes()
    assert (made / "empty.txt").read_bytes() == b""
    assert (made / "wheels" / "one.whl").read_text("utf-8") == "a wheel"

    (files / "a.bin").write_bytes(b"another")
    kaggle.upload_dataset(files, ref=ref, title="Wheels", notes="second", progress=False)
    assert (rehearsal.protocol.store.dataset("wheels", 2) / "a.bin").read_bytes() == b"another"
    assert rehearsal.requests.count(("POST", "CreateDataset")) == 1


def test_a_data_set_that_kaggle_would_not_take_is_not_sent(
    kaggle: Kaggle, rehearsal: Rehearsal, files: Path, tmp_path: Path
) -> None:
    (tmp_path / "nothing").mkdir()
    (tmp_path / "deep" / "folder").mkdir(parents=True)
    for folder, ref, title, said in (
        (files, "rehearsal-user/short", "A title", "slug 'short' has 5 characters"),
        (files, "rehearsal-user/long-enough", "Title", "title 'Title' has 5 characters"),
        (files, "rehearsal-user/" + "s" * 51, "s" * 50, "has 51 characters"),
        (files, "wheels", "Wheels", "names no data set"),
        (tmp_path / "deep", "rehearsal-user/wheels", "Wheels", "holds the folder folder"),
        (tmp_path / "nothing", "rehearsal-user/wheels", "Wheels", "holds no file"),
    ):
        with pytest.raises(KaggleError, match=said):
            kaggle.upload_dataset(folder, ref=ref, title=title, notes="", progress=False)
    assert {call for _, call in rehearsal.requests} <= {"IntrospectToken", "GetDatasetStatus"}


def test_a_title_in_use_is_refused(kaggle: Kaggle, files: Path) -> None:
    kaggle.upload_dataset(files, ref="rehearsal-user/wheels", title="Wheels", notes="", progress=False)
    with pytest.raises(Refused, match="already in use"):
        kaggle.upload_dataset(files, ref="rehearsal-user/wheels-2", title="Wheels", notes="", progress=False)


def test_a_status_that_nobody_knows_is_no_end(kaggle: Kaggle, rehearsal: Rehearsal, csv: Path, tmp_path: Path) -> None:
    ref = kaggle.submit("tiny", csv, description="one")
    kaggle.push_kernel(write_kernel(tmp_path / "kernel", ""))
    for method in ("GetSubmission", "ListSubmissions", "GetKernelSessionStatus"):
        rehearsal.faults.append(Fault.parse(f"{method}=unknown"))
    assert kaggle.submission(ref).status == "PENDING"
    assert [one.status for one in kaggle.submissions("tiny")] == ["PENDING"]
    assert kaggle.kernel_status("rehearsal-user/a-kernel").state == "UNHEARD_OF"
    assert not rehearsal.faults


def test_only_progress_is_shown_and_only_where_it_is_wanted(
    kaggle: Kaggle, files: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.progress.FIRST", -1.0)  # at once
    for progress in (False, True):
        kaggle.download("tiny", tmp_path / str(progress), progress=progress)
        kaggle.upload_dataset(files, ref="rehearsal-user/wheels", title="Wheels", notes="", progress=progress)
        shown = capfd.readouterr()
        assert shown.out == ""
        assert ("a.bin: 0.00B of " in shown.err and "it/s" not in shown.err) if progress else shown.err == ""
