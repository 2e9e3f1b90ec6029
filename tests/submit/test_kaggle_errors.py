"""Answers that no rehearsal gives: other shapes, pages of HTML, hostile names; a server that says what it is told."""

import base64
import json
import threading
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from pipeline.submit.kaggle_client import Kaggle
from pipeline.submit.kaggle_errors import (
    BadAnswer,
    GpuBusy,
    GpuQuota,
    InvalidKernel,
    KaggleError,
    NoAccess,
    NoCredentials,
    OutcomeUnknown,
    RateLimited,
    Refused,
    RulesNotAccepted,
    Unreachable,
)
from tests.rehearsal.conftest import write_kernel

TOKEN = "KGAT_sehr-geheim"
USER = "somebody"


class Said:
    """One answer of the server: status, headers, body (JSON where it is no text); of a 206 the part asked for."""

    def __init__(self, status: int, body: Any, length: int | None = None, **headers: str) -> None:
        self.status = status
        self.body = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.length = len(self.body) if length is None else length
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, list[Said]] = {}
        self.ranges: list[tuple[str | None, bytes]] = []  # Content-Range and body of every PUT

    def say(self, name: str, *answers: Said) -> None:
        """Answer calls of this method, or of this path, in this order; the last one for ever."""
        self.answers[name] = list(answers)


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.command == "PUT":
            self.server.ranges.append((self.headers["Content-Range"], body))
        name = urlsplit(self.path).path.rpartition("/")[2]
        answers = self.server.answers.get(name, [])
        if name == "IntrospectToken" and not answers:
            answers = [Said(200, {"active": True, "username": USER})]
        said = answers[0] if len(answers) == 1 else answers.pop(0)
        start = int(self.headers["Range"].strip("bytes=-")) if said.status == 206 else 0
        self.send_response(said.status)
        kind = "application/json" if said.body[:1] in (b"{", b"[") else "text/html"
        length = str(said.length - start)
        for header, value in {"Content-Type": kind, "Content-Length": length, **said.headers}.items():
            self.send_header(header, value)
        self.end_headers()
        self.wfile.write(said.body[start:])

    do_GET = do_PUT = do_POST

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{server.server_address[1]}")
        monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def pauses() -> list[float]:
    return []


@pytest.fixture
def kaggle(server: Server, pauses: list[float]) -> Kaggle:
    return Kaggle.connect(timeout=20, attempts=2, sleep=pauses.append)


@pytest.mark.parametrize(
    ("said", "error", "problem"),
    [
        (Said(400, {"code": 400, "message": "flat"}), Refused, "HTTP 400, flat"),
        (Said(400, {"error": {"code": 400, "message": "nested"}}), Refused, "HTTP 400, nested"),
        (Said(400, {"error": "text"}), Refused, "HTTP 400, text"),
        (Said(200, {"code": 404, "message": "in a 200"}), NoAccess, "HTTP 404, in a 200"),
        (Said(200, {"code": 429, "message": "in a 200"}), RateLimited, "HTTP 429, in a 200"),
        (Said(418, {}), Refused, "HTTP 418, I'm a Teapot"),
        (Said(403, "<html>a long page</html>"), NoAccess, "HTTP 403, Forbidden"),
        (Said(502, "<html>a long page</html>"), Unreachable, "HTTP 502, Bad Gateway"),
        (Said(200, "<html>please sign in</html>"), BadAnswer, "not its protocol"),
        (Said(200, ""), BadAnswer, "not its protocol"),
        (Said(200, [1, 2]), BadAnswer, "not its protocol"),
        (Said(503, "{broken"), Unreachable, "HTTP 503, Service Unavailable"),
        (Said(200, '{"ref": 1', length=100), Unreachable, "connection"),
        (Said(400, {"message": "a\x1b[31m\nred\x00" + "d" * 999}), Refused, "HTTP 400, a[31m redd"),
        (Said(400, {"message": ["a", "list"]}), Refused, "HTTP 400, Bad Request"),
    ],
)
def test_every_shape_of_an_answer_is_read(
    kaggle: Kaggle, server: Server, said: Said, error: type[KaggleError], problem: str
) -> None:
    server.say("GetSubmission", said)
    with pytest.raises(error) as failed:
        kaggle.submission(1)
    assert type(failed.value) is error and problem in failed.value.problem
    assert "html" not in failed.value.problem and len(failed.value.problem) < 600
    assert failed.value.problem.isprintable()


def test_the_rules_are_told_by_kaggle_s_words_too(kaggle: Kaggle, server: Server) -> None:
    words = "You must accept this competition's rules before you'll be able to download files."
    server.say("GetCompetition", Said(200, {"userHasEntered": True}))
    server.say("GetSubmissionLimits", Said(403, {"code": 403, "message": words}))
    with pytest.raises(RulesNotAccepted, match="You must accept"):
        kaggle.limits("tiny")


def test_a_refusal_to_somebody_who_has_entered_is_left_as_it_is(kaggle: Kaggle, server: Server) -> None:
    server.say("GetCompetition", Said(200, {"userHasEntered": True}))
    server.say("GetSubmissionLimits", Said(403, {"code": 403, "message": "You are disqualified"}))
    with pytest.raises(NoAccess, match=r"^the rehearsal gives no access .*You are disqualified") as failed:
        kaggle.limits("tiny")
    assert not isinstance(failed.value, RulesNotAccepted)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_secret_that_the_server_repeats_is_blanked_out(
    server: Server, monkeypatch: pytest.MonkeyPatch, legacy: bool
) -> None:
    if legacy:
        monkeypatch.delenv("KAGGLE_API_TOKEN")
        monkeypatch.setenv("KAGGLE_USERNAME", USER)
        monkeypatch.setenv("KAGGLE_KEY", TOKEN)
    header = base64.b64encode(f"{USER}:{TOKEN}".encode()).decode() if legacy else TOKEN
    kaggle = Kaggle.connect(timeout=20, attempts=1)
    for status in (400, 401, 403, 429, 500):
        server.say("GetSubmission", Said(status, {"message": f"{TOKEN} is wrong, so is {header}"}))
        with pytest.raises(KaggleError, match=r"\*\*\* is wrong, so is \*\*\*") as failed:
            kaggle.submission(1)
        told = "".join(traceback.format_exception(failed.value))
        assert TOKEN not in told and header not in told


def seconds_from_now(seconds: float) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize(
    ("header", "least", "most"),
    [
        (lambda: "7", 7, 7),
        (lambda: seconds_from_now(30), 20, 30),
        (lambda: seconds_from_now(-30), 0, 0),
        (lambda: "86400", 60, 60),
        (lambda: "soon", 1, 2),
        (None, 1, 2),
    ],
)
def test_the_pause_is_what_kaggle_asks_for(
    kaggle: Kaggle,
    server: Server,
    pauses: list[float],
    header: Callable[[], str] | None,
    least: float,
    most: float,
) -> None:
    headers = {"Retry_After": header()} if header else {}
    server.say("GetSubmission", Said(429, {"message": "slowly"}, **headers), Said(200, {"ref": 1}))
    assert kaggle.submission(1).ref == 1
    assert len(pauses) == 1 and least <= pauses[0] <= most


def test_an_error_in_the_place_of_data_is_never_appended_to(kaggle: Kaggle, server: Server, tmp_path: Path) -> None:
    whole = "PK" + "d" * (3 << 20)
    facts = {"ETag": '"1"', "Accept_Ranges": "bytes"}
    server.say("DownloadDataFiles", Said(302, "", Location="http://localhost/data.zip"))
    server.say(
        "data.zip",
        Said(200, whole[: 2 << 20], length=len(whole), **facts),  # breaks off
        Said(200, whole, **facts),  # the next attempt asks what there is,
        Said(503, "no"),  # is refused the rest,
        Said(503, "no"),  # and the whole
        Said(200, whole, **facts),
    )
    with pytest.raises(Unreachable):
        kaggle.download("tiny", tmp_path, progress=False)
    server.say("data.zip", Said(200, whole, **facts), Said(206, whole, **facts))
    assert kaggle.download("tiny", tmp_path, progress=False).read_text("utf-8") == whole


def test_a_newer_version_of_kaggle_is_not_announced(
    kaggle: Kaggle, server: Server, capfd: pytest.CaptureFixture[str]
) -> None:
    server.say("GetSubmission", Said(200, {"ref": 1}, X_Kaggle_APIVersion="99.0"))
    assert kaggle.submission(1).ref == 1
    assert capfd.readouterr() == ("", "")


def test_an_upload_is_resumed_at_the_byte_that_is_missing(kaggle: Kaggle, server: Server, tmp_path: Path) -> None:
    content = bytes(range(256))
    (tmp_path / "out.csv").write_bytes(content)
    server.say("StartSubmissionUpload", Said(200, {"token": "t", "createUrl": "http://localhost/place"}))
    server.say("place", Said(503, ""), Said(308, "", Range="bytes=0-99"), Said(201, ""))
    server.say("CreateSubmission", Said(200, {"ref": 8}))
    assert kaggle.submit("tiny", tmp_path / "out.csv", description="one") == 8
    assert server.ranges == [(None, content), ("bytes */256", b""), ("bytes 100-255/256", content[100:])]


@pytest.mark.parametrize("name", ["../out", "/etc/out", "a/../../out", "", ".", "link/out", "a\0b"])
def test_output_stays_in_its_folder(kaggle: Kaggle, server: Server, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "output"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    url = "http://localhost/file"
    files = [{"url": url, "fileName": "good"}, {"url": url, "fileName": name}]
    server.say("ListKernelSessionOutput", Said(200, {"files": files, "log": ""}))
    server.say("file", Said(200, "content"))
    with pytest.raises(KaggleError, match="leads out of"):
        kaggle.kernel_output("somebody/a-kernel", folder, progress=False)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["link", "output"]


def test_output_that_breaks_off_is_fetched_again(kaggle: Kaggle, server: Server, tmp_path: Path) -> None:
    files = [{"url": f"http://localhost/file?signature={TOKEN}", "fileName": "deep/out.txt"}]
    server.say("ListKernelSessionOutput", Said(200, {"files": files, "log": "plain"}))
    server.say("file", Said(200, "cont", length=7), Said(200, "content"))
    assert kaggle.kernel_output("somebody/a-kernel", tmp_path, progress=False) == "plain"
    assert (tmp_path / "deep" / "out.txt").read_text("utf-8") == "content"
    server.say("file", Said(404, ""))
    with pytest.raises(NoAccess, match=r"the download of out\.txt: HTTP 404") as failed:
        kaggle.kernel_output("somebody/a-kernel", tmp_path, progress=False)
    assert TOKEN not in "".join(traceback.format_exception(failed.value))
    server.say("file", Said(200, "other", length=9))
    with pytest.raises(Unreachable):
        kaggle.kernel_output("somebody/a-kernel", tmp_path, progress=False)
    assert (tmp_path / "deep" / "out.txt").read_text("utf-8") == "content", "no half of another file"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out.txt"]


def test_pages_without_an_end_end(kaggle: Kaggle, server: Server) -> None:
    server.say("ListSubmissions", Said(200, {"submissions": [{"ref": "7"}], "nextPageToken": "again"}))
    with pytest.raises(BadAnswer, match="answered ListSubmissions with the same page again and again"):
        kaggle.submissions("tiny")


def test_a_submission_without_a_number_is_none(kaggle: Kaggle, server: Server) -> None:
    server.say("CreateCodeSubmission", Said(200, {"message": "Could not submit to competition", "ref": 0}))
    server.say("ListSubmissions", Said(200, {"submissions": []}))
    server.say("GetSubmissionLimits", Said(500, {}))
    with pytest.raises(Refused, match="no submission to tiny was made: Could not submit to competition"):
        kaggle.submit_kernel("tiny", "somebody/a-kernel", 1, file_name="out.csv", description="one")


def test_a_submission_without_a_number_that_is_there_was_made(kaggle: Kaggle, server: Server) -> None:
    server.say("CreateCodeSubmission", Said(200, {"message": "Could not submit to competition", "ref": 0}))
    server.say("ListSubmissions", Said(200, {"submissions": [{"ref": 7, "description": "one"}]}))
    assert kaggle.submit_kernel("tiny", "somebody/a-kernel", 1, file_name="out.csv", description="one") == 7


@pytest.mark.parametrize("said", [Said(503, {}), Said(200, ""), Said(200, '{"ref": 1', length=100)])
@pytest.mark.parametrize("appears", [True, False])
def test_a_submission_that_appears_late_is_taken_and_never_made_twice(
    kaggle: Kaggle, server: Server, pauses: list[float], said: Said, appears: bool
) -> None:
    nothing, there = Said(200, {"submissions": []}), Said(200, {"submissions": [{"ref": "7", "description": "one"}]})
    server.say("CreateCodeSubmission", said, Said(200, {"ref": 8}))
    server.say("ListSubmissions", nothing, nothing, there if appears else nothing, there)
    if appears:
        assert kaggle.submit_kernel("tiny", "somebody/a-kernel", 1, file_name="out.csv", description="one") == 7
    else:
        with pytest.raises(OutcomeUnknown, match="it is not to be seen yet"):
            kaggle.submit_kernel("tiny", "somebody/a-kernel", 1, file_name="out.csv", description="one")
    assert pauses == [1.0, 5.0, 20.0]
    assert len(server.answers["CreateCodeSubmission"]) == 1, "asked once"


@pytest.mark.parametrize(
    ("answer", "error", "said"),
    [
        ({"error": "Maximum weekly GPU quota of 30.00 hours reached."}, GpuQuota, "30.00 hours"),
        ({"error": "Maximum batch GPU session count of 2 reached."}, GpuBusy, "count of 2"),
        ({"error": "Something else.", "versionNumber": 3}, InvalidKernel, "Something else"),
        ({"error": "Phone verification is needed."}, InvalidKernel, r"(?s)needed.*next: verify your phone number at"),
        ({"error": "", "versionNumber": 0}, BadAnswer, "answered SaveKernel without the number of a version"),
        ({"versionNumber": 1, "invalidKernelSources": ["a/b"]}, InvalidKernel, "kernel a/b"),
        ({"versionNumber": 1, "invalidModelSources": ["m/n"]}, InvalidKernel, "model m/n"),
    ],
)
def test_a_push_answered_with_200_may_have_failed(
    kaggle: Kaggle, server: Server, tmp_path: Path, answer: dict[str, Any], error: type[KaggleError], said: str
) -> None:
    server.say("GetKernel", Said(403, {}))
    server.say("SaveKernel", Said(200, answer))
    with pytest.raises(error, match=said):
        kaggle.push_kernel(write_kernel(tmp_path, "", id="somebody/a-kernel"))


def test_an_unanswered_push_is_found_out_to_lack_a_source(kaggle: Kaggle, server: Server, tmp_path: Path) -> None:
    attached = {"datasetDataSources": ["Somebody/Wheels/3"], "competitionDataSources": []}
    before, after = {"currentVersionNumber": 4}, {"currentVersionNumber": 5, **attached}
    server.say("GetKernel", Said(200, {"metadata": before}), Said(200, {"metadata": after}))
    server.say("SaveKernel", Said(503, {}))
    folder = write_kernel(tmp_path, "", id="somebody/a-kernel", dataset_sources=["somebody/wheels"])
    assert kaggle.push_kernel(folder).version == 5
    server.say("GetKernel", Said(200, {"metadata": before}), Said(200, {"metadata": after}))
    write_kernel(tmp_path, "", id="somebody/a-kernel", competition_sources=["tiny"])
    with pytest.raises(InvalidKernel, match=r"without them: competition tiny\n"):
        kaggle.push_kernel(tmp_path)


def test_a_data_set_that_kaggle_will_not_make_is_refused(kaggle: Kaggle, server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    server.say("GetDatasetStatus", Said(200, {"status": ""}))
    assert kaggle.dataset_status("somebody/wheels") == "NOT_YET_PERSISTED"
    server.say("StartBlobUpload", Said(401, {"code": 401, "message": "expired"}))
    with pytest.raises(NoCredentials, match="expired"):
        kaggle.upload_dataset(tmp_path, ref="somebody/wheels", title="Wheels", notes="", progress=False)
