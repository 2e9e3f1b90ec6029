"""The server itself: credentials, faults, its end, its state; the command `kaggle` against it."""

import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from kaggle.api.kaggle_api_extended import KaggleApi

from pipeline.artifacts import read_json
from pipeline.errors import BusyError, KitError
from pipeline.rehearsal.faults import Fault
from pipeline.rehearsal.server import Rehearsal
from tests.conftest import host_tiny
from tests.rehearsal.conftest import PlainRunner, kaggle, until, write_csv, write_kernel

Rehearse = Callable[..., Rehearsal]
Connect = Callable[[], KaggleApi]


@pytest.fixture
def csv(rehearsal: Rehearsal, tmp_path: Path) -> Path:
    return write_csv(tmp_path / "all-right.csv", rehearsal.hosted["tiny"].solution)


def call(rehearsal: Rehearsal, method: str = "GetSubmissionLimits", **options: Any) -> requests.Response:
    """One call past the client, straight to the port."""
    url = f"{rehearsal.url}/api/v1/competitions.CompetitionApiService/{method}"
    headers = {"Authorization": f"Bearer {rehearsal.environment['KAGGLE_API_TOKEN']}"}
    defaults = {"json": {"competitionName": "tiny"}, "headers": headers, "timeout": 5}
    return requests.post(url, proxies={"http": ""}, **{**defaults, **options})


def test_the_command_line_talks_to_it(rehearsal: Rehearsal, csv: Path, tmp_path: Path) -> None:
    submitted = kaggle("competitions", "submit", "tiny", "-f", str(csv), "-m", "by hand")
    assert "Successfully submitted to tiny" in submitted.stdout and submitted.returncode == 0, submitted
    assert "4 submissions remaining today." in submitted.stdout
    listed = kaggle("competitions", "submissions", "tiny", "--csv")
    header, row = listed.stdout.strip().splitlines()[-2:]
    assert dict(zip(header.split(","), row.split(","), strict=True))["publicScore"] == "1.00000"
    downloaded = kaggle("competitions", "download", "tiny", "-p", str(tmp_path / "to"), "-q")
    assert downloaded.returncode == 0, downloaded
    with zipfile.ZipFile(tmp_path / "to" / "tiny.zip") as archive:
        assert archive.testzip() is None and len(archive.namelist()) == 32
    assert not {method for method, _ in rehearsal.requests} - {"POST", "PUT", "GET"}


def test_the_command_line_runs_kernels(rehearse: Rehearse, runner: PlainRunner, tmp_path: Path) -> None:
    rehearse(runner=runner)
    folder = write_kernel(tmp_path / "k", "open('made.txt', 'w').write('made')")
    assert "Kernel version 1 successfully pushed" in kaggle("kernels", "push", "-p", str(folder)).stdout
    ref = "rehearsal-user/a-kernel"
    until(lambda: "COMPLETE" in kaggle("kernels", "status", ref).stdout)
    fetched = kaggle("kernels", "output", ref, "-p", str(tmp_path / "out"))
    assert (tmp_path / "out" / "made.txt").read_text() == "made", fetched
    assert "0.00h" in kaggle("quota").stdout


def test_bad_credentials(rehearsal: Rehearsal, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    token = rehearsal.environment["KAGGLE_API_TOKEN"]
    assert call(rehearsal).status_code == 200
    assert call(rehearsal, headers={}, auth=("rehearsal-user", token)).status_code == 200
    for options in (
        {"headers": {}},
        {"headers": {"Authorization": "Bearer wrong"}},
        {"headers": {"Authorization": "Basic ???"}},
        {"headers": {}, "auth": ("rehearsal-user", "wrong")},
        {"headers": {}, "auth": ("somebody", token)},
    ):
        answer = call(rehearsal, **options)
        assert (answer.status_code, answer.json()["code"]) == (401, 401)
    monkeypatch.setenv("KAGGLE_API_TOKEN", "wrong")
    with pytest.raises(SystemExit):
        connect()


def test_an_old_key_is_taken(rehearsal: Rehearsal, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAGGLE_KEY", rehearsal.environment["KAGGLE_API_TOKEN"])
    monkeypatch.setenv("KAGGLE_USERNAME", "rehearsal-user")
    monkeypatch.delenv("KAGGLE_API_TOKEN")
    assert connect().competition_get_submission_limits("tiny").num_allowed_now == 5


def test_nothing_leaves_it(rehearsal: Rehearsal) -> None:
    with pytest.raises(requests.exceptions.ProxyError, match="403"):
        requests.get("https://www.kaggle.com/", timeout=5)
    answer = requests.get("http://www.kaggle.com/api/v1/x", timeout=5)
    assert (answer.status_code, answer.json()["message"]) == (
        403,
        "This is a rehearsal: nothing goes to www.kaggle.com",
    )
    assert rehearsal.requests == [("CONNECT", "www.kaggle.com:443"), ("GET", "/api/v1/x")]


def test_without_a_rehearsal_nothing_leaves_the_machine(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAGGLE_API_TOKEN", "whatever")
    with pytest.raises(requests.exceptions.ProxyError):
        connect()


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({"data": b"no json"}, 400),
        ({"json": [1]}, 400),
        ({"method": "NoSuchMethod"}, 404),
        ({"json": {"competitionName": "tiny", "pageToken": "x"}, "method": "ListSubmissions"}, 400),
        ({"json": {"competitionName": ["tiny"]}}, 403),
    ],
)
def test_nonsense_is_refused(rehearsal: Rehearsal, options: dict[str, Any], status: int) -> None:
    if "data" in options:
        options = {"json": None, **options}
    assert call(rehearsal, **options).status_code == status
    assert call(rehearsal).status_code == 200


@pytest.mark.parametrize("status", [403, 429, 500, 503, 308])
def test_errors_have_two_shapes(rehearsal: Rehearsal, status: int) -> None:
    rehearsal.faults += [Fault("*", str(status)), Fault("GetSubmissionLimits", f"nested:{status}")]
    flat, nested = call(rehearsal), call(rehearsal)
    assert (flat.status_code, nested.status_code) == (status, status)
    assert flat.json() == nested.json()["error"] and flat.json()["code"] == status
    assert flat.headers.get("Retry-After") == ("0" if status == 429 else None)
    assert call(rehearsal).status_code == 200


def test_a_lost_answer_is_of_work_that_was_done(api: KaggleApi, rehearsal: Rehearsal, csv: Path) -> None:
    for what, count in (("drop", 0), ("lost", 1)):
        rehearsal.faults.append(Fault("CreateSubmission", what))
        with pytest.raises(requests.ConnectionError):
            api.competition_submit(str(csv), what, "tiny", quiet=True)
        assert len(api.competition_submissions("tiny")) == count


def test_a_status_that_no_client_knows(api: KaggleApi, rehearsal: Rehearsal, csv: Path) -> None:
    api.competition_submit(str(csv), "", "tiny", quiet=True)
    rehearsal.faults.append(Fault("ListSubmissions", "unknown"))
    with pytest.raises(KeyError):
        api.competition_submissions("tiny")
    assert api.competition_submissions("tiny")[0].status.name == "COMPLETE"


def test_a_server_that_never_answers(rehearsal: Rehearsal) -> None:
    rehearsal.faults.append(Fault("GetSubmissionLimits", "hang"))
    with pytest.raises(requests.ReadTimeout):
        call(rehearsal, timeout=0.2)
    assert call(rehearsal).status_code == 200


def test_it_stops_at_once_with_connections_open(rehearse: Rehearse) -> None:
    rehearsal = rehearse(faults=[Fault("GetSubmissionLimits", "hang", 0)])
    outcomes: list[type[BaseException]] = []

    def ask() -> None:
        try:
            call(rehearsal, timeout=30)
        except requests.RequestException as error:
            outcomes.append(type(error))

    asking = threading.Thread(target=ask)
    with socket.create_connection(("127.0.0.1", rehearsal.port)) as silent:
        asking.start()  # it is accepted after the silent one
        until(lambda: rehearsal.requests)
        began = time.monotonic()
        rehearsal.__exit__()
        assert time.monotonic() - began < 5
        assert silent.recv(1) == b""
    asking.join(timeout=5)
    assert outcomes == [requests.ConnectionError]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", rehearsal.port))


def test_wait_ends_with_the_server(rehearsal: Rehearsal) -> None:
    waiting = threading.Thread(target=rehearsal.wait)
    waiting.start()
    assert waiting.is_alive()
    rehearsal.__exit__()
    waiting.join(timeout=5)
    assert not waiting.is_alive()


def test_ctrl_c_ends_a_process_that_waits(tmp_path: Path) -> None:
    host_tiny(tmp_path)
    code = (
        "import pathlib, sys\n"
        "from pipeline.competition import load_competition\n"
        "from pipeline.rehearsal.hosted import hosted_from\n"
        "from pipeline.rehearsal.server import Rehearsal\n"
        "root = pathlib.Path(sys.argv[1])\n"
        "tiny = hosted_from(load_competition('tiny', root=root), solution=root / 'solution.csv')\n"
        "try:\n"
        "    with Rehearsal(root / 'state', [tiny]) as rehearsal:\n"
        "        print(rehearsal.port, flush=True)\n"
        "        rehearsal.wait()\n"
        "except KeyboardInterrupt:\n"
        "    print('stopped')\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        with socket.create_connection(("127.0.0.1", port)):
            process.send_signal(2)
            try:
                assert process.wait(timeout=10) == 0
            finally:
                process.kill()  # else a failure is waited for without end
        assert process.stdout.read() == "stopped\n"


def test_its_state_outlives_it(rehearse: Rehearse, runner: PlainRunner, connect: Connect, tmp_path: Path) -> None:
    rehearsal = rehearse(runner=runner)
    csv = write_csv(tmp_path / "s.csv", rehearsal.hosted["tiny"].solution)
    api = connect()
    assert api.competition_submit(str(csv), "before", "tiny", quiet=True).ref == 1
    api.kernels_push(str(write_kernel(tmp_path / "k", "open('made.txt', 'w'); print('ran')")))
    ref = "rehearsal-user/a-kernel"
    until(lambda: api.kernels_status(ref).status.name == "COMPLETE")
    token = rehearsal.environment["KAGGLE_API_TOKEN"]

    rehearsal = rehearse(runner=runner)
    assert rehearsal.environment["KAGGLE_API_TOKEN"] == token
    api = connect()
    assert api.competition_submit(str(csv), "after", "tiny", quiet=True).ref == 2
    assert [submission.description for submission in api.competition_submissions("tiny")] == ["after", "before"]
    assert api.competition_get_submission_limits("tiny").num_today == 2
    files, _ = api.kernels_output(ref, str(tmp_path / "out"))
    assert [Path(file).name for file in files] == ["made.txt", "a-kernel.log"]
    assert api.kernels_push(str(tmp_path / "k")).version_number == 2


def test_a_running_kernel_is_ended_with_it(
    rehearse: Rehearse, runner: PlainRunner, connect: Connect, tmp_path: Path
) -> None:
    rehearse(runner=runner)
    runner.go.clear()
    connect().kernels_push(str(write_kernel(tmp_path / "k", "")))
    until(lambda: runner.calls)
    began = time.monotonic()
    rehearse(runner=runner)
    assert time.monotonic() - began < 5
    assert connect().kernels_status("rehearsal-user/a-kernel").status.name == "CANCEL_ACKNOWLEDGED"


def test_a_kernel_that_nobody_ended_is_ended_by_the_next(
    rehearse: Rehearse, runner: PlainRunner, connect: Connect, tmp_path: Path
) -> None:
    rehearsal = rehearse(runner=runner)
    runner.go.clear()
    connect().kernels_push(str(write_kernel(tmp_path / "k", "")))
    until(lambda: runner.calls)
    killed = (rehearsal.folder / "state.json").read_bytes()  # as a killed process leaves it
    rehearsal.__exit__()
    (rehearsal.folder / "state.json").write_bytes(killed)
    rehearse(runner=runner)
    status = connect().kernels_status("rehearsal-user/a-kernel")
    assert (status.status.name, status.failure_message) == ("ERROR", "The rehearsal ended while the kernel ran.")


def test_one_folder_has_one_rehearsal(rehearsal: Rehearsal) -> None:
    with pytest.raises(BusyError, match="is in use"):
        Rehearsal(rehearsal.folder, []).__enter__()
    assert call(rehearsal).status_code == 200


def test_a_port_that_is_taken(rehearsal: Rehearsal, tmp_path: Path) -> None:
    for port in (rehearsal.port, 70_000):
        with pytest.raises(KitError, match=f"cannot listen on port {port}"):
            Rehearsal(tmp_path / "other", [], port=port).__enter__()
    with Rehearsal(tmp_path / "other", []) as other:  # the failures above hold nothing back
        assert other.port != rehearsal.port


@pytest.mark.parametrize("content", ["", "{", "[]", '{"token": "x", "submissions": [{"ref": "y"}]}'])
def test_a_state_that_cannot_be_read(tmp_path: Path, content: str) -> None:
    (tmp_path / "state.json").write_text(content)
    with pytest.raises(KitError, match=r"state\.json cannot be read"):
        Rehearsal(tmp_path, []).__enter__()
    assert (tmp_path / "state.json").read_text() == content


def test_many_at_once(rehearse: Rehearse, connect: Connect, tmp_path: Path) -> None:
    rehearsal = rehearse(daily_limit=10)
    csv = write_csv(tmp_path / "s.csv", rehearsal.hosted["tiny"].solution)
    api = connect()
    refs: list[int] = []

    def submit() -> None:
        try:
            refs.append(api.competition_submit(str(csv), "", "tiny", quiet=True).ref)
        except requests.HTTPError:
            refs.append(0)

    threads = [threading.Thread(target=submit) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(refs) == [0] * 10 + list(range(1, 11))
    assert len(read_json(rehearsal.folder / "state.json")["submissions"]) == 10
