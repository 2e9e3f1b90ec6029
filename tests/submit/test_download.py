"""Downloading, over HTTP with the real client: the data whole, or nothing; nothing half-written left."""

import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.artifacts import Workspace, lock
from pipeline.errors import BusyError, DataError
from pipeline.rehearsal.faults import Fault
from pipeline.rehearsal.server import Rehearsal
from pipeline.submit.download import download, holds_data
from pipeline.submit.kaggle_client import Kaggle
from pipeline.submit.kaggle_errors import NoAccess, NoCredentials, RulesNotAccepted, Unreachable

ROOT = Path(__file__).resolve().parents[2]


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fetch(work: Path, *, slug: str = "tiny") -> int:
    kaggle = Kaggle.connect(timeout=30, attempts=2, sleep=lambda _seconds: None)
    return download(kaggle, slug, folder=work / "data", workspace=Workspace(work), progress=False)


def left(work: Path) -> list[str]:
    """What is there besides the data and the lock."""
    found = (path.relative_to(work).as_posix() for path in work.rglob("*") if path.is_file())
    return sorted(name for name in found if not name.startswith("data/") and name != "runs/tiny/_download.lock")


def zipped(server: Rehearsal, content: Callable[[zipfile.ZipFile], None]) -> None:
    """Let the server give out another zip than that of the data."""
    [archive] = (server.folder / "archives").glob("tiny-*.zip")
    with zipfile.ZipFile(archive, "w") as opened:
        content(opened)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


def test_the_data_arrives_whole_and_alone(rehearsal: Rehearsal, work: Path) -> None:
    given = files_of(rehearsal.hosted["tiny"].data)
    assert fetch(work) == len(given) == 32
    assert files_of(work / "data") == given
    assert left(work) == []
    assert [path.name for path in (work / "runs" / "tiny").iterdir()] == ["_download.lock"]


def test_a_download_that_broke_off_goes_on_where_it_was(rehearsal: Rehearsal, work: Path) -> None:
    # The client writes a megabyte at a time.
    (rehearsal.hosted["tiny"].data / "large.bin").write_bytes(os.urandom(5_000_000))
    rehearsal.faults.append(Fault.parse("Download=drop"))
    assert fetch(work) == 33
    shutil.rmtree(work)
    rehearsal.faults.append(Fault.parse("Download=drop*0"))
    with pytest.raises(Unreachable):
        fetch(work)
    archive = work / "runs" / "tiny" / "_download" / "tiny.zip"
    [packed] = (rehearsal.folder / "archives").glob("tiny-*.zip")
    part = archive.read_bytes()
    assert 0 < len(part) < packed.stat().st_size
    assert packed.read_bytes().startswith(part)
    assert not (work / "data").exists()
    rehearsal.faults.clear()
    # What is there is not asked for again: were it, this byte would be mended, and the checksum right.
    archive.write_bytes(part[:40] + bytes([part[40] ^ 0xFF]) + part[41:])
    with pytest.raises(DataError, match="damaged"):
        fetch(work)
    assert left(work) == []
    assert fetch(work) == 33


def test_a_zip_of_the_right_size_and_wrong_bytes_is_found_out_and_deleted(rehearsal: Rehearsal, work: Path) -> None:
    rehearsal.faults.append(Fault.parse("Download=corrupt"))
    with pytest.raises(DataError, match=r"tiny\.zip is damaged[\s\S]*run the same command again"):
        fetch(work)
    assert left(work) == []
    assert not (work / "data").exists()
    assert fetch(work) == 32


@pytest.mark.parametrize(
    ("name", "mode", "why"),
    [
        ("../escaped.txt", 0o100644, "leaves the folder"),
        ("/tmp/kit-escaped.txt", 0o100644, "has an absolute name"),
        ("link", 0o120777, "is a link"),
    ],
)
def test_a_zip_that_is_not_to_be_trusted_is_kept_and_not_unpacked(
    rehearsal: Rehearsal, work: Path, name: str, mode: int, why: str
) -> None:
    def evil(archive: zipfile.ZipFile) -> None:
        archive.writestr("train.csv", "id,label\n")
        info = zipfile.ZipInfo(name)
        info.external_attr = mode << 16
        archive.writestr(info, "/etc/passwd")

    fetch(work)  # the server packs
    shutil.rmtree(work)
    zipped(rehearsal, evil)
    with pytest.raises(DataError, match=why) as caught:
        fetch(work)
    assert repr(name) in caught.value.problem
    assert "runs/tiny/_download/tiny.zip" in left(work)
    assert not (work / "data").exists()
    assert not (work.parent / "escaped.txt").exists()


def test_a_folder_with_something_in_it_is_left_alone(rehearsal: Rehearsal, work: Path) -> None:
    (work / "data").mkdir()
    (work / "data" / "mine.txt").write_text("mine", "utf-8")
    with pytest.raises(DataError, match=r"is not empty[\s\S]*kit init tiny --data"):
        fetch(work)
    assert files_of(work / "data") == {"mine.txt": b"mine"}
    assert "DownloadDataFiles" not in [name for _, name in rehearsal.requests]


def test_two_downloads_of_one_competition_exclude_each_other(rehearsal: Rehearsal, work: Path) -> None:
    with lock(work / "runs" / "tiny" / "_download.lock", what="x"):
        with pytest.raises(BusyError, match="the download of tiny"):
            fetch(work)
    assert fetch(work) == 32


def test_who_may_not_download_is_told_why(
    rehearse: Callable[..., Rehearsal], work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rehearse(entered=False)
    with pytest.raises(RulesNotAccepted, match=r"https://www\.kaggle\.com/c/tiny/rules"):
        fetch(work)
    with pytest.raises(NoAccess, match="tinny"):
        fetch(work, slug="tinny")
    assert [path.name for path in (work / "runs" / "tinny").iterdir()] == ["_download.lock"]
    monkeypatch.setenv("KAGGLE_API_TOKEN", "wrong")
    with pytest.raises(NoCredentials, match="KAGGLE_API_TOKEN"):
        fetch(work)
    assert left(work) in ([], ["runs/tinny/_download.lock"])


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_download_leaves_nothing_that_the_next_one_trips_over(
    rehearsal: Rehearsal, work: Path, how: signal.Signals
) -> None:
    rehearsal.faults.append(Fault.parse("Download=hang"))
    command = [sys.executable, "-c", "from pipeline.cli import main; main()", "download", "tiny", "--to", "data"]
    with subprocess.Popen(
        command, cwd=work, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True
    ) as process:
        end = time.monotonic() + 60
        while not any(name.startswith("/storage/") for _, name in rehearsal.requests):
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.01)
        process.send_signal(how)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == (143 if how == signal.SIGTERM else -how)
    assert "Traceback" not in stderr
    assert not (work / "data").exists()
    assert fetch(work) == 32
    assert left(work) == []


def test_data_is_there_or_not(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("", "utf-8")
    (tmp_path / "astray").symlink_to(tmp_path / "gone")
    (tmp_path / "link").symlink_to(tmp_path)
    assert not holds_data(tmp_path / "absent")
    assert not holds_data(tmp_path / "empty")
    assert holds_data(tmp_path / "link")
    with pytest.raises(DataError, match="is a file"):
        holds_data(tmp_path / "file")
    with pytest.raises(DataError, match=r"is a link to .*gone, which does not exist"):
        holds_data(tmp_path / "astray")
