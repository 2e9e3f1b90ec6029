import multiprocessing
import os
import signal
import stat
import time
from contextlib import suppress
from pathlib import Path

import pytest

from pipeline import artifacts
from pipeline.artifacts import (
    Workspace,
    atomic_folder,
    atomic_path,
    home_expanded,
    lock,
    read_json,
    require_writable,
    write_json,
    write_text,
)
from pipeline.errors import BusyError, DataError


def listing(folder):
    return sorted(os.listdir(folder))


class Broken(Exception):
    pass


def test_atomic_path_takes_the_place_at_the_end(tmp_path):
    path = tmp_path / "new" / "deeper" / "result.weights.h5"
    with atomic_path(path) as temporary:
        assert temporary.parent == path.parent
        assert temporary.name.endswith("result.weights.h5")
        temporary.write_text("content")
        assert not path.exists()
    assert path.read_text() == "content"
    assert listing(path.parent) == ["result.weights.h5"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_atomic_path_leaves_the_old_file_after_an_error(tmp_path):
    path = tmp_path / "result.csv"
    path.write_text("old")
    with suppress(Broken), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise Broken
    assert path.read_text() == "old"
    assert listing(tmp_path) == ["result.csv"]


def test_atomic_folder(tmp_path):
    with atomic_folder(tmp_path / "made") as draft:
        (draft / "a").write_text("1")
        assert not (tmp_path / "made").exists()
    assert (tmp_path / "made" / "a").read_text() == "1"
    with suppress(Broken), atomic_folder(tmp_path / "other") as draft:
        (draft / "a").write_text("1")
        raise Broken
    assert listing(tmp_path) == ["made"]


def test_an_earlier_folder_stays_until_the_new_one_is_in_its_place(tmp_path, monkeypatch):
    def make(text):
        with atomic_folder(tmp_path / "made") as draft:
            (draft / "a").write_text(text)

    make("old")
    with suppress(Broken), atomic_folder(tmp_path / "made"):
        raise Broken
    assert (tmp_path / "made" / "a").read_text() == "old"
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("the disk is gone")))
        with pytest.raises(OSError, match="the disk is gone"):
            make("new")
    assert (tmp_path / "made" / "a").read_text() == "old"
    assert listing(tmp_path) == ["made"]
    make("new")
    assert (tmp_path / "made" / "a").read_text() == "new"
    assert listing(tmp_path) == ["made"]


def _die_at_replace(path):
    os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    with atomic_folder(path) as draft:
        (draft / "a").write_text("new")


def test_a_kill_loses_neither_the_earlier_folder_nor_the_new_one(tmp_path):
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "a").write_text("old")
    process = multiprocessing.get_context("spawn").Process(target=_die_at_replace, args=(tmp_path / "made",))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert sorted(file.read_text() for file in tmp_path.glob("*/a")) == ["new", "old"]


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_to_a_folder_stays_and_the_folder_is_replaced(tmp_path, exists):
    if exists:
        (tmp_path / "disk" / "made").mkdir(parents=True)
        (tmp_path / "disk" / "made" / "b").write_text("old")
    (tmp_path / "link").symlink_to("disk/made")
    with atomic_folder(tmp_path / "link") as draft:
        (draft / "a").write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert listing(tmp_path / "disk" / "made") == ["a"]
    assert (listing(tmp_path), listing(tmp_path / "disk")) == (["disk", "link"], ["made"])


@pytest.mark.parametrize(
    "name", ["a-file/out", "a-file/deep/out", "n" * 300, "n" * 250, "/proc/out", "n" * 300 + "/out"]
)
def test_a_folder_that_cannot_be_written_is_refused_before_the_work(tmp_path, name):
    (tmp_path / "a-file").write_text("no folder")
    with pytest.raises(DataError, match=r"out cannot be written|n cannot be written"):
        require_writable(tmp_path / name)
    with pytest.raises(OSError), atomic_folder(tmp_path / name):  # noqa: PT011
        pass
    assert listing(tmp_path) == ["a-file"]


@pytest.mark.parametrize("name", ["new", "new/below", "n" * 230, "here", ""])
def test_a_folder_that_can_be_written_is_not_made_by_the_look_at_it(tmp_path, name):
    (tmp_path / "here").mkdir()
    require_writable(tmp_path / name)
    assert listing(tmp_path) == ["here"]


def test_a_users_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert home_expanded(Path("~/a")) == tmp_path / "a"
    with pytest.raises(DataError, match=r"~no-such-user/a is in the folder of a user that is not known"):
        home_expanded(Path("~no-such-user/a"))


def test_text_and_json_read_back(tmp_path):
    write_text(tmp_path / "t.txt", "Größe 画像\n")
    assert (tmp_path / "t.txt").read_text("utf-8") == "Größe 画像\n"
    content = {"ä": [1, 2.5, None, True], "b": {"c": "画"}}
    write_json(tmp_path / "t.json", content)
    assert read_json(tmp_path / "t.json") == content
    assert "画" in (tmp_path / "t.json").read_text("utf-8")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object()])
def test_what_json_has_no_word_for_is_refused(tmp_path, value):
    path = tmp_path / "t.json"
    write_json(path, {"score": 1})
    with pytest.raises((ValueError, TypeError)):
        write_json(path, {"score": value})
    assert read_json(path) == {"score": 1}
    assert listing(tmp_path) == ["t.json"]


def _hold(path, release):
    with lock(path, what="the fold"):
        release.send("held")
        release.recv()


@pytest.fixture
def holder(tmp_path):
    context = multiprocessing.get_context("spawn")
    # A pipe, not an Event: to set an Event on which a killed process waited hangs.
    release, theirs = context.Pipe()
    process = context.Process(target=_hold, args=(tmp_path / "in" / "lock", theirs))
    process.start()
    assert release.recv() == "held"
    yield process, release
    process.kill()
    process.join(30)


def test_a_second_process_is_refused_or_waits_with_the_pid_of_the_first(tmp_path, holder, monkeypatch, caplog):
    process, release = holder
    path = tmp_path / "in" / "lock"
    for _ in range(2):  # being refused does not loosen it
        with pytest.raises(BusyError, match=rf"the fold is in use by another process \(pid {process.pid}\)"):
            with lock(path, what="the fold"):
                pass
    monkeypatch.setattr(artifacts, "_SILENCE", 0.1)
    with pytest.raises(IndexError), lock(path, what="the fold", wait=[0, 0, 0].pop):
        pass
    assert caplog.messages == [f"waiting for the process {process.pid}, which has the fold"]
    release.send("go")
    with lock(path, what="the fold", wait=lambda: None):
        assert Path(path).read_text() == str(os.getpid())
    with lock(path, what="the fold"):
        pass


def test_the_lock_of_a_killed_process_is_free(tmp_path, holder):
    process, _ = holder
    os.kill(process.pid, signal.SIGKILL)
    process.join(30)
    start = time.monotonic()
    with lock(tmp_path / "in" / "lock", what="the fold", wait=lambda: None):
        pass
    assert time.monotonic() - start < 5


def test_an_error_inside_lets_go(tmp_path):
    with pytest.raises(Broken), lock(tmp_path / "lock", what="x"):
        raise Broken
    with lock(tmp_path / "lock", what="x"):
        with pytest.raises(BusyError, match=str(os.getpid())), lock(tmp_path / "lock", what="x"):
            pass


def test_no_two_artifacts_share_a_place(tmp_path):
    space = Workspace(tmp_path)
    places = [
        space.run("c", "e"),
        space.fold("c", "e", 1),
        space.fold("c", "e", 11),
        space.cache("c"),
        space.oof("c", "e"),
        space.submissions("c"),
    ]
    assert len(set(places)) == len(places)
    assert space.fold("c", "e", 1) == tmp_path / "runs" / "c" / "e" / "fold-1"


def test_decoded_pictures_can_lie_elsewhere_and_nothing_else_does(tmp_path):
    plain, apart = Workspace(tmp_path / "root"), Workspace(tmp_path / "root", scratch=tmp_path / "scratch")
    assert apart.cache("c").is_relative_to(tmp_path / "scratch")
    assert apart.cache("c") != apart.cache("d")
    assert plain.cache("c").is_relative_to(tmp_path / "root" / "runs")
    for place in ("run", "oof"):
        assert getattr(apart, place)("c", "e") == getattr(plain, place)("c", "e")
    assert apart.fold("c", "e", 0) == plain.fold("c", "e", 0)
    assert apart.submissions("c") == plain.submissions("c")
