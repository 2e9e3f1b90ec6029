"""Kernels as the real client sees them: pushed, run, fetched, submitted."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests
from kaggle.api.kaggle_api_extended import KaggleApi
from kagglesdk.competitions.types.competition_api_service import ApiGetSubmissionRequest
from kagglesdk.kernels.types.kernels_api_service import (
    ApiGetKernelRequest,
    ApiGetKernelSessionStatusRequest,
    ApiListKernelSessionOutputRequest,
)

from pipeline.rehearsal.faults import Fault
from pipeline.rehearsal.kernel import KernelResult
from pipeline.rehearsal.kernels import KernelLimits
from pipeline.rehearsal.server import Rehearsal
from tests.rehearsal.conftest import PlainRunner, state_of, until, write_kernel

Rehearse = Callable[..., Rehearsal]
REF = "rehearsal-user/a-kernel"


@pytest.fixture
def running(rehearse: Rehearse, runner: PlainRunner) -> Rehearsal:
    return rehearse(runner=runner)


@pytest.fixture
def api(running: Rehearsal, connect: Callable[[], KaggleApi]) -> KaggleApi:
    """The client of a rehearsal that runs kernels."""
    return connect()


def kernel_of(api: KaggleApi, slug: str) -> Any:
    request = ApiGetKernelRequest()
    request.user_name, request.kernel_slug = "rehearsal-user", slug
    with api.build_kaggle_client() as client:
        return client.kernels.kernels_api_client.get_kernel(request)


def finished(api: KaggleApi, ref: str = REF) -> str:
    """The state in which the session of the latest version ended."""
    until(lambda: state_of(api, ref) not in ("QUEUED", "RUNNING"))
    return state_of(api, ref)


def test_a_kernel_is_pushed_run_and_fetched(
    api: KaggleApi, running: Rehearsal, runner: PlainRunner, tmp_path: Path
) -> None:
    runner.go.clear()
    code = "import os; os.mkdir('sub'); open('sub/a b.txt', 'w').write('done'); print('hällo'); print('twice')"
    answer = api.kernels_push(str(write_kernel(tmp_path / "k", code)))
    assert (answer.error, answer.version_number, answer.url) == ("", 1, "http://localhost/code/rehearsal-user/a-kernel")
    assert not answer.invalid_dataset_sources and not answer.invalid_competition_sources
    until(lambda: state_of(api) == "RUNNING")
    assert api.kernels_output(REF, str(tmp_path / "early"))[0] == []
    runner.go.set()
    assert finished(api) == "COMPLETE" and api.kernels_status(REF).failure_message == ""
    api.kernels_output(REF, str(tmp_path / "out"))
    assert (tmp_path / "out" / "sub" / "a b.txt").read_text() == "done"
    log = json.loads((tmp_path / "out" / "a-kernel.log").read_text())
    assert [entry["data"] for entry in log] == ["hällo\n", "twice\n"]
    assert running.requests[-1] == ("GET", "/output/a-kernel/1/sub/a%20b.txt")
    assert runner.calls == [{"inputs": {}, "internet": False, "seconds": 12 * 3600.0}]


def test_a_kernel_that_raises_ends_in_an_error(api: KaggleApi, tmp_path: Path) -> None:
    api.kernels_push(str(write_kernel(tmp_path / "k", "open('a.txt', 'w'); raise ValueError('so it was')")))
    assert finished(api) == "ERROR" and api.kernels_status(REF).failure_message == "it raised"
    api.kernels_output(REF, str(tmp_path / "out"))
    assert "ValueError: so it was" in api.kernels_logs(REF)
    assert (tmp_path / "out" / "a.txt").exists()


def test_a_session_over_its_limit_leaves_nothing(
    rehearse: Rehearse, runner: PlainRunner, connect: Callable[[], KaggleApi], tmp_path: Path
) -> None:
    rehearse(runner=runner, limits=KernelLimits(session_seconds=0.001))
    api = connect()
    api.kernels_push(str(write_kernel(tmp_path / "k", "open('a.txt', 'w'); print('written')")), timeout="60")
    assert finished(api) == "ERROR" and runner.calls[0]["seconds"] == 0.001
    files, _ = api.kernels_output(REF, str(tmp_path / "out"))
    assert [Path(file).name for file in files] == ["a-kernel.log"]
    assert "written" in api.kernels_logs(REF)


def test_output_comes_in_pages(api: KaggleApi, tmp_path: Path) -> None:
    api.kernels_push(str(write_kernel(tmp_path / "k", "for n in range(5): print(open(f'{n}.txt', 'w').write(str(n)))")))
    assert finished(api) == "COMPLETE"
    files, token = api.kernels_output(REF, str(tmp_path / "out"), page_size=2)
    assert not token and {Path(file).name for file in files} == {*(f"{n}.txt" for n in range(5)), "a-kernel.log"}
    files, token = api.kernels_output(REF, str(tmp_path / "page"), page_size=2, page_token="2")
    assert token == "4" and [Path(file).name for file in files] == ["2.txt", "3.txt"]


def test_versions_count_up_and_the_latest_one_answers(api: KaggleApi, runner: PlainRunner, tmp_path: Path) -> None:
    for number in (1, 2):
        folder = write_kernel(tmp_path / "k", f"open('{number}.txt', 'w')" if number == 1 else "raise ValueError")
        assert api.kernels_push(str(folder)).version_number == number
        assert finished(api) == ("COMPLETE" if number == 1 else "ERROR")

    with api.build_kaggle_client() as client:
        kernels = client.kernels.kernels_api_client

        def ask(kind: Any, method: Any, label: str = "") -> Any:
            request = kind()
            request.user_name, request.kernel_slug, request.version_label = "rehearsal-user", "a-kernel", label
            return method(request)

        assert ask(ApiGetKernelRequest, kernels.get_kernel).metadata.current_version_number == 2
        assert ask(ApiGetKernelRequest, kernels.get_kernel).blob.source == "raise ValueError"
        assert ask(ApiGetKernelRequest, kernels.get_kernel, "v1").blob.source == "open('1.txt', 'w')"
        status = ask(ApiGetKernelSessionStatusRequest, kernels.get_kernel_session_status, "v1").status
        assert status.name == "COMPLETE"
        output = ask(ApiListKernelSessionOutputRequest, kernels.list_kernel_session_output, "v1")
        assert [file.file_name for file in output.files] == ["1.txt"]
        for wrong in ("1", "v3"):
            with pytest.raises(requests.HTTPError, match="has no version"):
                ask(ApiGetKernelRequest, kernels.get_kernel, wrong)


def test_inputs_are_found_where_kaggle_shows_them(
    api: KaggleApi, running: Rehearsal, runner: PlainRunner, tmp_path: Path
) -> None:
    api.kernels_push(str(write_kernel(tmp_path / "k", "open('made.txt', 'w').write('by the first')")))
    assert finished(api) == "COMPLETE"
    api.kernels_push(str(write_kernel(tmp_path / "k", "raise ValueError('so version 1 is the last that is whole')")))
    assert finished(api) == "ERROR"
    second = write_kernel(
        tmp_path / "l",
        "print(sorted(map(str, __import__('pathlib').Path('../input').glob('*/*/*'))))",
        slug="the-second",
        competition_sources=["tiny"],
        kernel_sources=[REF, "somebody/a-kernel"],
        enable_internet=True,
    )
    answer = api.kernels_push(str(second), timeout="60")
    assert (answer.invalid_kernel_sources, answer.invalid_competition_sources) == (["somebody/a-kernel"], [])
    assert finished(api, "rehearsal-user/the-second") == "COMPLETE"
    metadata = kernel_of(api, "the-second").metadata
    assert (metadata.competition_data_sources, metadata.kernel_data_sources) == (["tiny"], [REF])
    call = runner.calls[-1]
    assert set(call["inputs"]) == {"competitions/tiny", "notebooks/rehearsal-user/a-kernel"}
    assert call["inputs"]["competitions/tiny"] == running.hosted["tiny"].data
    assert (call["inputs"]["notebooks/rehearsal-user/a-kernel"] / "made.txt").read_text() == "by the first"
    assert (call["internet"], call["seconds"]) == (True, 60.0)


def test_the_old_layout(
    rehearse: Rehearse, runner: PlainRunner, connect: Callable[[], KaggleApi], tmp_path: Path
) -> None:
    rehearse(runner=runner, mounts="old")
    api = connect()
    api.kernels_push(str(write_kernel(tmp_path / "k", "", competition_sources=["tiny"])))
    assert finished(api) == "COMPLETE"
    assert set(runner.calls[-1]["inputs"]) == {"tiny"}


def test_sources_that_are_not_there_are_named(api: KaggleApi, running: Rehearsal, tmp_path: Path) -> None:
    running.hosted["tiny"] = replace(running.hosted["tiny"], entered=False)
    folder = write_kernel(
        tmp_path / "k",
        "",
        dataset_sources=["rehearsal-user/no-such", "somebody/else"],
        competition_sources=["tiny", "tinny"],
        kernel_sources=["rehearsal-user/no-such"],
        model_sources=["a/b/keras/c/1"],
    )
    answer = api.kernels_push(str(folder))
    assert answer.version_number == 1 and answer.error == ""
    assert answer.invalid_dataset_sources == ["rehearsal-user/no-such", "somebody/else"]
    assert answer.invalid_competition_sources == ["tiny", "tinny"]
    assert answer.invalid_kernel_sources == ["rehearsal-user/no-such"]
    assert answer.invalid_model_sources == ["a/b/keras/c/1"]
    metadata = kernel_of(api, "a-kernel").metadata
    assert not metadata.dataset_data_sources and not metadata.competition_data_sources
    assert not metadata.kernel_data_sources and not metadata.model_data_sources


@pytest.mark.parametrize(
    ("metadata", "status", "complaint"),
    [
        ({"id": "rehearsal-user/tiny1", "title": "????????"}, 400, "Title must be at least five"),
        ({"id": "rehearsal-user/Big-Letters"}, 400, "slug must be at least five"),
        ({"id": "somebody/a-kernel"}, 403, "was denied"),
        ({"kernel_type": "notebook"}, 400, "Python scripts only"),
        ({"language": "r"}, 400, "Python scripts only"),
    ],
)
def test_kernels_that_cannot_be(
    api: KaggleApi, tmp_path: Path, metadata: dict[str, str], status: int, complaint: str
) -> None:
    code = "{}" if metadata.get("kernel_type") else "print()"
    with pytest.raises(requests.HTTPError, match=complaint) as failed:
        api.kernels_push(str(write_kernel(tmp_path / "k", code, **metadata)))
    assert failed.value.response.status_code == status


def test_the_source_has_its_limit(api: KaggleApi, tmp_path: Path) -> None:
    assert api.kernels_push(str(write_kernel(tmp_path / "k", "#" * 1_000_000))).version_number == 1
    with pytest.raises(requests.HTTPError, match="must not exceed 1000000 bytes") as failed:
        api.kernels_push(str(write_kernel(tmp_path / "k", "#" * 999_999 + "ä")))
    assert failed.value.response.status_code == 400


def test_a_new_kernel_is_named_by_its_title(api: KaggleApi, tmp_path: Path) -> None:
    answer = api.kernels_push(str(write_kernel(tmp_path / "k", "", title="Another name")))
    assert answer.url.endswith("/rehearsal-user/another-name")
    with pytest.raises(ValueError, match="Cannot access kernel"):
        api.kernels_status(REF)


@pytest.mark.parametrize("ref", ["rehearsal-user/no-such-kernel", "somebody/a-kernel"])
def test_other_kernels_are_denied(api: KaggleApi, tmp_path: Path, ref: str) -> None:
    api.kernels_push(str(write_kernel(tmp_path / "k", "")))
    with pytest.raises(ValueError, match=r"Permission 'kernels\.get' was denied"):
        api.kernels_status(ref)
    with pytest.raises(ValueError, match=r"Permission 'kernels\.get' was denied"):
        api.kernels_output(ref, str(tmp_path / "out"))


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ("quota", "Maximum weekly GPU quota of 30.00 hours reached."),
        ("busy", "Maximum batch GPU session count of 2 reached."),
    ],
)
def test_pushes_are_refused_with_status_200(
    api: KaggleApi, running: Rehearsal, tmp_path: Path, what: str, error: str
) -> None:
    running.faults.append(Fault("SaveKernel", what))
    answer = api.kernels_push(str(write_kernel(tmp_path / "k", "")))
    assert (answer.error, answer.version_number) == (error, 0)
    assert api.kernels_push(str(write_kernel(tmp_path / "k", ""))).version_number == 1


def test_sources_are_dropped(api: KaggleApi, running: Rehearsal, tmp_path: Path) -> None:
    running.faults.append(Fault("SaveKernel", "dropped"))
    answer = api.kernels_push(str(write_kernel(tmp_path / "k", "")))
    assert answer.version_number == 1 and answer.invalid_dataset_sources == ["nobody/nothing"]


def test_a_runner_that_fails_is_an_error_of_the_kernel(
    rehearse: Rehearse, connect: Callable[[], KaggleApi], tmp_path: Path
) -> None:
    def broken(*_: object, **__: object) -> Any:
        raise RuntimeError("no sandbox here")

    for runner, failure in ((broken, "could not run the kernel: no sandbox here"), (None, "runs no kernels")):
        rehearse(runner=runner)
        api = connect()
        api.kernels_push(str(write_kernel(tmp_path / "k", "")))
        assert finished(api) == "ERROR"
        assert failure in api.kernels_status(REF).failure_message


def test_gpu_time_is_counted(rehearse: Rehearse, connect: Callable[[], KaggleApi], tmp_path: Path) -> None:
    def two_hours(*_: object, folder: Path, **__: object) -> KernelResult:
        return KernelResult("COMPLETE", "", "", folder, 7200.0)

    rehearse(runner=two_hours)
    api = connect()
    api.kernels_push(str(write_kernel(tmp_path / "k", "", enable_gpu=True)))
    api.kernels_push(str(write_kernel(tmp_path / "l", "", slug="on-the-cpu")))
    assert finished(api) == finished(api, "rehearsal-user/on-the-cpu") == "COMPLETE"
    quota = api.quota_view().gpu_quota
    assert (quota.time_used.total_seconds(), quota.total_time_allowed.total_seconds()) == (7200, 108_000)


PREDICT = """
import pathlib
[tests] = pathlib.Path("../input").glob("*/tiny/test")
labels = {file.name: ("blue", "green", "red")[int(file.stem[1:]) % 3] for file in sorted(tests.iterdir())}
pathlib.Path("submission.csv").write_text("id,label\\n" + "".join(f"{k},{v}\\n" for k, v in labels.items()))
"""


@pytest.fixture
def pushed(api: KaggleApi, running: Rehearsal, tmp_path: Path) -> Rehearsal:
    """A code competition whose full test set only a submitted kernel sees; the kernel's version 1 predicts it."""
    shown = running.hosted["tiny"].data
    hidden = tmp_path / "hidden"
    for file in sorted((shown / "test").iterdir()):
        (hidden / "test").mkdir(parents=True, exist_ok=True)
        (hidden / "test" / file.name).write_bytes(file.read_bytes())
        if file.name != "t0.jpg":
            file.unlink()
    running.hosted["tiny"] = replace(running.hosted["tiny"], code_only=True, hidden_test=hidden)
    api.kernels_push(str(write_kernel(tmp_path / "k", PREDICT, competition_sources=["tiny"])))
    assert finished(api) == "COMPLETE"
    return running


def submission_of(api: KaggleApi, ref: int) -> Any:
    request = ApiGetSubmissionRequest()
    request.ref = ref
    with api.build_kaggle_client() as client:
        return client.competitions.competition_api_client.get_submission(request)


def judged(api: KaggleApi, ref: int) -> Any:
    until(lambda: submission_of(api, ref).status.name != "PENDING")
    return submission_of(api, ref)


def test_a_kernel_is_submitted_by_its_version(
    api: KaggleApi, pushed: Rehearsal, runner: PlainRunner, tmp_path: Path
) -> None:
    api.kernels_push(str(write_kernel(tmp_path / "k", "raise ValueError", competition_sources=["tiny"])))
    assert finished(api) == "ERROR"
    runner.go.clear()
    answer = api.competition_submit_code("submission.csv", "by version", "tiny", REF, 1)
    assert answer.ref == 1 and submission_of(api, 1).status.name == "PENDING"
    runner.go.set()
    submission = judged(api, 1)
    assert (submission.status.name, submission.public_score, submission.private_score) == (
        "COMPLETE",
        "1.00000",
        "1.00000",
    )
    assert (submission.file_name, submission.description) == ("submission.csv", "by version")
    assert runner.calls[-1]["inputs"] == {"competitions/tiny": tmp_path / "hidden"}
    assert state_of(api) == "ERROR"  # of version 2: a submission's session is not the kernel's


@pytest.mark.parametrize(
    ("ref", "version", "name", "status"),
    [
        (REF, 2, "submission.csv", 404),
        (REF, 1, "other.csv", 400),
        ("rehearsal-user/no-such", 1, "submission.csv", 404),
        ("somebody/a-kernel", 1, "submission.csv", 403),
    ],
)
def test_only_a_version_that_left_the_file_is_submitted(
    api: KaggleApi, pushed: Rehearsal, ref: str, version: int, name: str, status: int
) -> None:
    with pytest.raises(requests.HTTPError) as failed:
        api.competition_submit_code(name, "", "tiny", ref, version)
    assert failed.value.response.status_code == status
    assert api.competition_submissions("tiny") == []


def test_a_kernel_that_fails_on_the_hidden_data(api: KaggleApi, pushed: Rehearsal, tmp_path: Path) -> None:
    code = PREDICT + "if len(labels) > 1: raise ValueError"
    api.kernels_push(str(write_kernel(tmp_path / "k", code, competition_sources=["tiny"])))
    silent = PREDICT + "if len(labels) > 1: pathlib.Path('submission.csv').unlink()"
    assert finished(api) == "COMPLETE"
    api.kernels_push(str(write_kernel(tmp_path / "k", silent, competition_sources=["tiny"])))
    assert finished(api) == "COMPLETE"
    for version, error in (
        (2, "Notebook Threw Exception: it raised"),
        (3, "Submission file not found: submission.csv"),
    ):
        ref = api.competition_submit_code("submission.csv", "", "tiny", REF, version).ref
        submission = judged(api, ref)
        assert (submission.status.name, submission.error_description) == ("ERROR", error)


def test_the_daily_limit_holds_for_kernels(api: KaggleApi, pushed: Rehearsal) -> None:
    pushed.hosted["tiny"] = replace(pushed.hosted["tiny"], daily_limit=1)
    judged(api, api.competition_submit_code("submission.csv", "", "tiny", REF, 1).ref)
    with pytest.raises(requests.HTTPError, match="daily Submission allowance"):
        api.competition_submit_code("submission.csv", "", "tiny", REF, 1)


def test_links_that_leave_the_output_are_not_served(api: KaggleApi, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    code = f"import os; os.symlink({str(tmp_path / 'secret.txt')!r}, 'link.txt'); os.symlink({str(tmp_path)!r}, 'all')"
    api.kernels_push(str(write_kernel(tmp_path / "k", code + "; open('own.txt', 'w')")))
    assert finished(api) == "COMPLETE"
    files, _ = api.kernels_output(REF, str(tmp_path / "out"))
    assert [Path(file).name for file in files] == ["own.txt", "a-kernel.log"]
