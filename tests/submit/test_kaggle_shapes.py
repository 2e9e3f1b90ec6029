"""Answers of any shape to every call of the API, once and always: a typed error that names the call, or the truth."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipeline.rehearsal.bent import BENT
from pipeline.rehearsal.faults import METHODS, Fault
from pipeline.rehearsal.server import Rehearsal
from pipeline.submit.kaggle_client import Kaggle
from pipeline.submit.kaggle_errors import BadAnswer, KaggleError, NoAccess, NoCredentials, OutcomeUnknown
from pipeline.submit.kaggle_shapes import problem_with
from tests.rehearsal.conftest import PlainRunner, until, write_csv, write_kernel

MADE_UP = "HTTP 400, Invalid page token"
NEVER_ASKED = {"DownloadDataFile"}
REF, WHEELS = "rehearsal-user/a-kernel", "rehearsal-user/the-wheels"


class Site:
    """A rehearsal with a submission, a data set, and a kernel that has ended; and every call there is."""

    def __init__(self, server: Rehearsal, folder: Path) -> None:
        self.server, self.folder = server, folder
        self.csv = write_csv(folder / "right.csv", server.hosted["tiny"].solution)
        self.files = folder / "files"
        self.files.mkdir()
        (self.files / "a.txt").write_text("a", "utf-8")
        self.kernel = write_kernel(folder / "kernel", "open('out.csv', 'w').write('made')")
        self.number = 0
        self.kaggle = kaggle = self.connected()
        self.submission = kaggle.submit("tiny", self.csv, description="before")
        kaggle.upload_dataset(self.files, ref=WHEELS, title="The wheels", notes="", progress=False)
        kaggle.push_kernel(self.kernel)
        until(lambda: kaggle.kernel_status(REF).state == "COMPLETE")
        self.calls: dict[str, Callable[[], object]] = {
            "CreateCodeSubmission": lambda: kaggle.submit_kernel(
                "tiny", REF, 1, file_name="out.csv", description=self.name()
            ),
            "CreateDataset": lambda: self.upload(f"rehearsal-user/{self.name()}"),
            "CreateDatasetVersion": lambda: self.upload(WHEELS),
            "CreateSubmission": lambda: kaggle.submit("tiny", self.csv, description=self.name()),
            "DownloadDataFiles": lambda: kaggle.download("tiny", folder / self.name(), progress=False),
            "GetAcceleratorQuotaStatistics": kaggle.quota,
            "GetCompetition": lambda: kaggle.competition("tiny"),
            "GetDatasetStatus": lambda: kaggle.dataset_status(WHEELS),
            "GetKernel": lambda: kaggle.kernel_version(REF),
            "GetKernelSessionStatus": lambda: kaggle.kernel_status(REF),
            "GetSubmission": lambda: kaggle.submission(self.submission),
            "GetSubmissionLimits": lambda: kaggle.limits("tiny"),
            "IntrospectToken": lambda: self.connected().user,
            "ListDataFiles": lambda: kaggle.data_files("tiny"),
            "ListKernelSessionOutput": lambda: kaggle.kernel_output(REF, folder / self.name(), progress=False),
            "ListSubmissions": lambda: kaggle.submissions("tiny"),
            "SaveKernel": lambda: kaggle.push_kernel(self.kernel),
            "StartBlobUpload": lambda: self.upload(WHEELS),
            "StartSubmissionUpload": lambda: kaggle.submit("tiny", self.csv, description=self.name()),
        }

    def connected(self) -> Kaggle:
        return Kaggle.connect(timeout=20, attempts=2, sleep=lambda _seconds: None)

    def name(self) -> str:
        self.number += 1
        return f"number-{self.number}"

    def upload(self, ref: str) -> None:
        self.kaggle.upload_dataset(self.files, ref=ref, title=ref.partition("/")[2], notes="", progress=False)

    def made(self) -> tuple[int, int]:
        """How many submissions, and versions of the kernel."""
        with self.server.protocol.store.read() as state:
            return len(state.submissions), len(state.kernels["a-kernel"].versions)


@pytest.fixture
def site(rehearse: Callable[..., Rehearsal], tmp_path: Path) -> Site:
    return Site(rehearse(runner=PlainRunner(), daily_limit=100, now=lambda: datetime(2026, 2, 3, tzinfo=UTC)), tmp_path)


def test_every_call_is_asked(site: Site) -> None:
    assert {*site.calls, *NEVER_ASKED} == set(METHODS)


@pytest.mark.parametrize("times", [1, 0], ids=["once", "always"])
@pytest.mark.parametrize("shape", BENT)
def test_an_answer_of_any_shape(site: Site, shape: str, times: int) -> None:
    for method, call in site.calls.items():
        if method == "GetDatasetStatus":
            until(lambda: site.kaggle.dataset_status(WHEELS) == "READY")
        is_question = method.startswith(("Get", "ListD", "ListS", "Intro"))
        right, before = call() if is_question else None, site.made()
        site.server.faults[:] = [Fault(method, f"answer:{shape}", times)]
        site.server.requests.clear()
        what = f"{method} answered {shape}"
        try:
            found = call()
        except KaggleError as error:
            told = "the download" if method == "DownloadDataFiles" else method
            told = "the sign-in" if method == "IntrospectToken" and told not in error.problem else told
            assert told in error.problem, what
            assert isinstance(error, BadAnswer | OutcomeUnknown) or MADE_UP in error.problem, what
            only_once = method in ("CreateSubmission", "CreateCodeSubmission", "CreateDatasetVersion")
            assert times == 0 or only_once or shape == "pages", f"{what}: asking again is safe"
        else:
            assert not is_question or found == right, what
        finally:
            site.server.faults.clear()
        after = site.made()
        assert sum(after) - sum(before) <= 1, f"{what}: nothing is done twice"
        asked = [name for _, name in site.server.requests]
        if method in ("CreateSubmission", "CreateCodeSubmission", "CreateDatasetVersion", "SaveKernel"):
            assert asked.count(method) <= (2 if method == "SaveKernel" and after == before else 1), what


@pytest.mark.parametrize("status", ["403", "404", "308"])
def test_a_proxy_at_the_sign_in_is_not_held_against_the_token(rehearsal: Rehearsal, status: str) -> None:
    rehearsal.faults.append(Fault.parse(f"IntrospectToken={status}*0"))
    with pytest.raises(KaggleError) as failed:
        Kaggle.connect(attempts=1)
    assert isinstance(failed.value, NoAccess | BadAnswer) and not isinstance(failed.value, NoCredentials)
    assert "does not take" not in str(failed.value)


def test_a_submission_that_kaggle_denies_is_looked_for(rehearsal: Rehearsal, tmp_path: Path) -> None:
    pauses: list[float] = []
    kaggle = Kaggle.connect(attempts=2, sleep=pauses.append)
    csv = write_csv(tmp_path / "right.csv", rehearsal.hosted["tiny"].solution)
    for shape in ("empty", "nulls", "html", "words"):
        rehearsal.faults.append(Fault("CreateSubmission", f"answer:{shape}"))
        ref = kaggle.submit("tiny", csv, description=f"one of {shape}")
        assert kaggle.submission(ref).description == f"one of {shape}"
    assert pauses == [1.0] * 4


@pytest.mark.parametrize(
    ("method", "answer", "problem"),
    [
        ("CreateSubmission", {"ref": 7}, ""),
        ("CreateSubmission", {"ref": "7", "other": [1]}, ""),
        ("CreateSubmission", {"ref": True}, "with a ref that cannot be one"),
        ("CreateSubmission", {"ref": 10**400}, "with a ref that cannot be one"),
        ("CreateSubmission", {"ref": None}, "without a word of what was asked"),
        ("GetSubmission", {"status": "COMPLETE"}, "without ref"),
        ("GetSubmission", {"ref": 0}, "with a ref that cannot be one"),
        ("GetSubmission", {"ref": 7, "publicScore": "-"}, ""),
        ("ListSubmissions", {"submissions": []}, ""),
        ("ListSubmissions", {"submissions": [{"ref": 7}, None]}, "with a submissions that cannot be one"),
        ("ListSubmissions", {"nextPageToken": ""}, "without submissions"),
        ("GetKernelSessionStatus", {"failureMessage": ""}, ""),
        (
            "SaveKernel",
            {"versionNumber": 1, "invalidDatasetSources": "a/b"},
            "with a invalidDatasetSources that cannot",
        ),
        ("Unheard", {}, ""),
    ],
)
def test_what_is_wrong_with_an_answer(method: str, answer: dict[str, object], problem: str) -> None:
    found = problem_with(method, answer)
    assert found.startswith(problem) and bool(found) == bool(problem)
