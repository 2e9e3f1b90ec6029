"""What is said while something takes long: a bar on a terminal, lines in a log."""

import os
import pty
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

WORK = """
import logging, sys, time
from tqdm.contrib.logging import logging_redirect_tqdm
from pipeline import progress
progress.FIRST, progress.QUIET = 0.2, {quiet}
log = logging.getLogger("pipeline")
log.addHandler(logging.StreamHandler(sys.stdout))
log.setLevel("INFO")
with logging_redirect_tqdm([log]):
    for number in progress.Progress(range({steps}), desc="counting", leave=False, disable=None):
        time.sleep({pause})
        if number == {steps} // 2:
            log.info("half is done")
log.info("the end")
"""


def logged(steps: int, pause: float, quiet: float = 60.0) -> list[bytes]:
    script = WORK.format(steps=steps, pause=pause, quiet=quiet)
    done = subprocess.run(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True, timeout=60
    )
    return done.stdout.split(b"\n")


def test_a_log_has_whole_lines_and_the_first_after_a_while() -> None:
    lines = logged(30, 0.1)
    assert not any(b"\r" in line or b"\x1b" in line for line in lines)
    assert [line for line in lines if not line.startswith(b"counting: ")] == [b"half is done", b"the end", b""]
    [said] = [line for line in lines if line.startswith(b"counting: ")]
    assert said.endswith((b" of 30, 00:01 so far", b" of 30, 00:02 so far"))
    assert sum(line.startswith(b"counting: ") for line in logged(30, 0.1, quiet=0.0)) >= 2


def test_short_work_says_nothing_in_a_log() -> None:
    assert logged(30, 0.001) == [b"half is done", b"the end", b""]


def test_a_terminal_has_a_bar_that_is_gone_afterwards() -> None:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(ours, (40, 100))
    process = subprocess.Popen(
        [sys.executable, "-c", WORK.format(steps=30, pause=0.02, quiet=60)], stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    shown = b""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            shown += os.read(ours, 4096)
        except OSError:  # the other side is closed
            break
    os.close(ours)
    assert process.wait() == 0
    assert b"30 [" in shown
    assert screen(shown) == ["half is done", "the end"]


def screen(shown: bytes) -> list[str]:
    """What is left on a terminal of all that was written: a carriage return goes back to the line's beginning."""
    lines = []
    for line in shown.decode().replace("\r\n", "\n").split("\n"):
        seen = ""
        for part in line.replace("\x1b[A", "").split("\r"):
            seen = part + seen[len(part) :]
        lines.append(seen.rstrip())
    return [line for line in lines if line]


@pytest.mark.parametrize(("shown", "left"), [(b"ab\rc\r\n", ["cb"]), (b"ab\r  \rc\n", ["c"])])
def test_the_screen_is_read_as_a_terminal_draws_it(shown: bytes, left: list[str]) -> None:
    assert screen(shown) == left


KILLED = """
import multiprocessing, os, signal
from pipeline.progress import Progress

def work():
    for _ in Progress(range(2), disable=None):
        os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    process = multiprocessing.get_context("spawn").Process(target=work)
    process.start()
    process.join()
    print(process.exitcode)
"""


def test_a_process_that_is_killed_leaves_no_semaphore_behind(tmp_path: Path) -> None:
    script = tmp_path / "killed.py"
    script.write_text(KILLED, encoding="utf-8")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True, timeout=60)
    assert (done.stdout, done.stderr) == ("-9\n", "")
