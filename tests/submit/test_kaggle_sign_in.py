"""Signing in: where credentials are found, what is said where they fail, and that nothing else is said or done.

What the real client reads when it is imported is tried in processes of their own.
"""

import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.rehearsal.faults import Fault
from pipeline.rehearsal.server import Rehearsal
from pipeline.submit.kaggle_client import Kaggle
from pipeline.submit.kaggle_errors import KaggleError, NoCredentials, Unreachable
from pipeline.submit.kaggle_sign_in import credentials_here

USER = "rehearsal-user"
SECRET = "KGAT_sehr-geheim"

CONNECT = """
import logging, sys
from pipeline.errors import KitError
from pipeline.submit.kaggle_client import Kaggle
assert "kaggle" not in sys.modules and "kagglesdk" not in sys.modules
try:
    kaggle = Kaggle.connect(timeout=float(sys.argv[1]), attempts=1)
    print(kaggle.user, kaggle.server, kaggle.limits("tiny").left)
except KitError as error:
    print(type(error).__name__, error)
assert not logging.root.handlers, "logging is as it was"
print(sys.stdin.read())
"""

Connect = Callable[..., list[str]]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home" / ".kaggle").mkdir(parents=True)
    return tmp_path / "home"


@pytest.fixture
def connect(rehearsal: Rehearsal, home: Path) -> Connect:
    """Connect in a new process; returns the lines it printed, all of them."""

    def run(*, timeout: float = 20, **changes: str | None) -> list[str]:
        wanted = {**os.environ, "HOME": str(home), **changes}
        environment = {name: value for name, value in wanted.items() if value is not None}
        done = subprocess.run(
            [sys.executable, "-c", CONNECT, str(timeout)],
            env=environment,
            input="still open",
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert done.stderr == ""
        *lines, last = done.stdout.splitlines()
        assert last == "still open", "stdin is as it was"
        return lines

    return run


def test_without_credentials_it_is_said_how_to_get_them(connect: Connect) -> None:
    lines = connect(KAGGLE_API_TOKEN=None, KAGGLE_API_ENVIRONMENT=None, KAGGLE_CONFIG_DIR=None)
    assert lines[0] == "NoCredentials there are no credentials for Kaggle"
    assert "https://www.kaggle.com/settings/api" in lines[2] and "KAGGLE_API_TOKEN" in lines[2] and len(lines) == 3


def test_a_token_in_a_file_is_found_and_nothing_is_printed(connect: Connect, rehearsal: Rehearsal, home: Path) -> None:
    (home / ".kaggle" / "access_token").write_text(rehearsal.environment["KAGGLE_API_TOKEN"] + "\n", "utf-8")
    assert connect(KAGGLE_API_TOKEN=None, VERBOSE="1") == ["rehearsal-user rehearsal 5"]


def test_a_key_in_kaggle_json_is_found_but_not_behind_a_bad_token(
    connect: Connect, rehearsal: Rehearsal, tmp_path: Path
) -> None:
    file = Path(rehearsal.environment["KAGGLE_CONFIG_DIR"]) / "kaggle.json"
    file.write_text(json.dumps({"username": USER, "key": rehearsal.environment["KAGGLE_API_TOKEN"]}))
    file.chmod(0o644)  # the real client prints a warning
    assert connect(KAGGLE_API_TOKEN=None) == ["rehearsal-user rehearsal 5"]
    lines = connect(KAGGLE_API_TOKEN=SECRET)
    assert lines[0].startswith("NoCredentials the rehearsal does not take the token in KAGGLE_API_TOKEN, which goes")
    assert SECRET not in "".join(lines)


def test_a_server_that_never_answers_is_not_waited_for_even_when_kaggle_is_imported(
    connect: Connect, rehearsal: Rehearsal
) -> None:
    rehearsal.faults.append(Fault.parse("IntrospectToken=hang*0"))
    began = time.monotonic()
    assert connect(timeout=0.3)[0] == "Unreachable the rehearsal did not answer the sign-in in time"
    assert time.monotonic() - began < 20
    assert rehearsal.requests == [("POST", "IntrospectToken")]


def test_a_folder_for_settings_that_cannot_be_made_is_named(connect: Connect, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    lines = connect(KAGGLE_CONFIG_DIR=str(tmp_path / "file" / "config"))
    assert lines[0].startswith("KaggleError the package kaggle cannot be imported") and "KAGGLE_CONFIG_DIR" in lines[2]


def test_where_credentials_lie_is_told_in_the_order_of_the_real_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert credentials_here() is None
    assert not list(tmp_path.iterdir()), "the real client would make a folder"
    elsewhere = tmp_path / ".config" / "kaggle" / "kaggle.json"
    elsewhere.parent.mkdir(parents=True)
    elsewhere.write_text(SECRET, "utf-8")
    assert credentials_here() == str(elsewhere)
    own = tmp_path / ".kaggle"
    own.mkdir()
    (own / "access_token").touch()
    assert credentials_here() is None, "where ~/.kaggle is, the other folder is not looked at, and this file is empty"
    for name in ("credentials.json", "kaggle.json", "access_token"):
        (own / name).write_text(SECRET, "utf-8")
        assert credentials_here() == str(own / name)
    monkeypatch.setenv("KAGGLE_USERNAME", USER)
    monkeypatch.setenv("KAGGLE_KEY", SECRET)
    assert credentials_here() == str(own / "access_token")
    (own / "access_token").unlink()
    assert credentials_here() == "the variables KAGGLE_USERNAME and KAGGLE_KEY"
    monkeypatch.setenv("KAGGLE_API_TOKEN", SECRET)
    assert credentials_here() == "the variable KAGGLE_API_TOKEN"


def test_a_bad_token_is_refused(rehearsal: Rehearsal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAGGLE_API_TOKEN", SECRET)
    with pytest.raises(NoCredentials, match="does not take the token in KAGGLE_API_TOKEN") as failed:
        Kaggle.connect(attempts=1)
    assert "kit rehearse" in failed.value.next_step
    assert SECRET not in "".join(traceback.format_exception(failed.value))


@pytest.mark.parametrize("token", [SECRET + "\nX", "\t" + SECRET, SECRET + "€", SECRET * 30, SECRET + "\0"])
def test_a_token_that_is_no_token_is_not_shown(
    rehearsal: Rehearsal, home: Path, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    if "\0" in token:  # no variable can hold it
        monkeypatch.delenv("KAGGLE_API_TOKEN")
        monkeypatch.setenv("HOME", str(home))
        (home / ".kaggle" / "access_token").write_text(token, "utf-8")
    else:
        monkeypatch.setenv("KAGGLE_API_TOKEN", token)
    with pytest.raises(NoCredentials) as failed:
        Kaggle.connect(attempts=1)
    assert SECRET not in "".join(traceback.format_exception(failed.value))


def test_the_login_of_the_kaggle_command_is_found(
    rehearsal: Rehearsal, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    login = {
        "refresh_token": "refresh",
        "access_token": rehearsal.environment["KAGGLE_API_TOKEN"],
        "access_token_expiration": "2100-01-01T00:00:00+00:00",
        "username": USER,
    }
    (home / ".kaggle" / "credentials.json").write_text(json.dumps(login), "utf-8")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("KAGGLE_API_TOKEN")
    kaggle = Kaggle.connect(attempts=1)
    assert (kaggle.user, kaggle.limits("tiny").left) == (USER, 5)


def test_a_wrong_key_is_refused_at_the_first_question(rehearsal: Rehearsal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KAGGLE_API_TOKEN")
    monkeypatch.setenv("KAGGLE_USERNAME", USER)
    monkeypatch.setenv("KAGGLE_KEY", SECRET)
    kaggle = Kaggle.connect(attempts=1)
    with pytest.raises(NoCredentials, match="HTTP 401") as failed:
        kaggle.limits("tiny")
    assert SECRET not in "".join(traceback.format_exception(failed.value))


@pytest.mark.parametrize(
    ("fault", "error"), [("401", NoCredentials), ("503", Unreachable), ("nested:500", Unreachable)]
)
def test_a_sign_in_that_fails_is_explained(
    rehearsal: Rehearsal, fault: str, error: type[KaggleError], capfd: pytest.CaptureFixture[str]
) -> None:
    pauses: list[float] = []
    rehearsal.faults.append(Fault.parse(f"IntrospectToken={fault}*0"))
    with pytest.raises(error):
        Kaggle.connect(attempts=3, sleep=pauses.append)
    assert len(pauses) == (2 if error is Unreachable else 0)
    rehearsal.faults[:] = [Fault.parse("IntrospectToken=503")]
    assert Kaggle.connect(attempts=2, sleep=pauses.append).user == USER
    assert capfd.readouterr() == ("", "")


def test_the_environment_counts_when_it_is_asked_not_when_kaggle_was_imported(
    rehearsal: Rehearsal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KAGGLE_API_ENVIRONMENT")  # the real Kaggle, then, which lies behind a tunnel
    with pytest.raises(Unreachable, match=r"connection to kaggle\.com failed"):
        Kaggle.connect(attempts=1)
    assert rehearsal.requests == [("CONNECT", "api.kaggle.com:443")]
