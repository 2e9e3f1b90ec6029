"""A fold in a process of its own: what goes wrong there is told here."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import DataError, KitError, PictureError
from pipeline.training import engines
from pipeline.training.engines import fresh_process, local_process, out_of_memory
from tests.training.conftest import Run, stage


@pytest.mark.slow
def test_an_error_in_the_process_arrives_as_it_was_raised(begin: Callable[..., Run]) -> None:
    run = begin(stage("one"))
    picture = Path(run.data.train["path"].iloc[3])
    picture.write_bytes(b"no picture")
    with pytest.raises(DataError) as caught:
        local_process(run.task(0))
    assert type(caught.value) is PictureError
    assert str(picture) in caught.value.problem
    assert "picture file" in caught.value.expected
    assert "quarantine.csv" in caught.value.next_step
    assert multiprocessing.active_children() == []


def when_the_child_is_there(action: Callable[[int], None]) -> threading.Thread:
    def wait() -> None:
        while not (children := multiprocessing.active_children()):
            time.sleep(0.01)
        action(children[0].pid or 0)

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def test_a_process_that_is_killed_is_an_error_that_says_so(begin: Callable[..., Run]) -> None:
    task = begin(stage("one")).task(1)
    killer = when_the_child_is_there(lambda pid: os.kill(pid, signal.SIGKILL))
    with pytest.raises(KitError, match=r"process of fold 1 ended with code -9[\s\S]*memory"):
        local_process(task)
    killer.join()
    assert not task.done


def take_more_than_there_is(count: int) -> int:
    import tensorflow as tf

    return int(tf.zeros([count], tf.uint8)[0])


def test_a_network_too_large_is_an_error_that_says_what_to_change(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KitError, match="memory ran out") as caught:
        fresh_process(take_more_than_there_is, 2**60, what="a network that is too large")
    assert "(`accumulate`)" in caught.value.next_step
    assert "Traceback" not in "".join(capfd.readouterr())


def test_which_errors_say_that_memory_ran_out() -> None:
    assert out_of_memory(MemoryError())
    assert out_of_memory(RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 8 bytes"))
    assert not out_of_memory(RuntimeError("no such operation"))


def end_when_told(folder: Path) -> None:
    (folder / "begun").touch()
    try:
        time.sleep(120)
    except KeyboardInterrupt:
        time.sleep(0.5)  # a second signal must not come between
        (folder / "cleaned up").touch()
        raise


@pytest.mark.parametrize("from_the_terminal", [None, signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_lets_the_process_clean_up(tmp_path: Path, from_the_terminal: signal.Signals | None) -> None:
    """Sent to this process alone, as `kill -INT` does, or to both."""

    def interrupt(child: int) -> None:
        while not (tmp_path / "begun").exists():
            time.sleep(0.01)
        if from_the_terminal:
            os.kill(child, from_the_terminal)
        os.kill(os.getpid(), signal.SIGINT)

    killer = when_the_child_is_there(interrupt)
    with pytest.raises(KeyboardInterrupt):
        fresh_process(end_when_told, tmp_path, what="a process that is told to end")
    killer.join()
    assert multiprocessing.active_children() == []
    assert (tmp_path / "cleaned up").exists()


def test_a_process_that_starts_is_ended_by_an_interrupt_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_TO_END", 0.5)
    killer = when_the_child_is_there(lambda _: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        fresh_process(end_when_told, tmp_path, what="a process that is told to end")
    killer.join()
    assert multiprocessing.active_children() == []
    assert not (tmp_path / "begun").exists()


STARTED = """
import time
from pathlib import Path
from pipeline.training.engines import fresh_process

def wait_for_the_end(folder):
    (folder / "begun").touch()
    try:
        time.sleep(120)
    finally:
        (folder / "ended").touch()

if __name__ == "__main__":
    fresh_process(wait_for_the_end, Path.cwd(), what="a process")
"""


@pytest.mark.slow
def test_a_process_ends_when_the_one_that_started_it_is_gone(tmp_path: Path) -> None:
    (tmp_path / "started.py").write_text(STARTED, encoding="utf-8")
    with subprocess.Popen([sys.executable, "started.py"], cwd=tmp_path) as process:
        wait_until((tmp_path / "begun").exists)
        process.kill()
    wait_until((tmp_path / "ended").exists)


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)
