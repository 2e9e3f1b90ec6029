"""Where a fold runs. An engine only decides that: `train_fold` is the unit of work, whoever calls it."""

import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any, TypeVar, cast

from tqdm.contrib.logging import logging_redirect_tqdm

from pipeline.errors import KitError, OutOfMemory, disk_full
from pipeline.training.device import import_tensorflow_quietly
from pipeline.training.fold import FoldTask, train_fold
from pipeline.training.time_limit import ending

log = logging.getLogger(__name__)

Engine = Callable[[FoldTask], None]
T = TypeVar("T")
R = TypeVar("R")
CONTEXT = multiprocessing.get_context("spawn")
_SMALLER = "take a smaller size, or let the stage's batches through in parts (`accumulate`)"
_ENDING = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
_ASKED = 130  # the exit code of a process that was asked to end
_TO_END = 600.0  # seconds
_GOES_ON = "the same command goes on from what was saved last"


def local_process(task: FoldTask) -> None:
    """Run the fold in a fresh process: fold after fold in one process leaks memory (keras #17458).

    Raises:
        KitError: As `train_fold` does, or: memory ran out, the process was killed.
    """
    fresh_process(train_fold, task, what=f"fold {task.fold}", afterwards=_GOES_ON)


def fresh_process(work: Callable[[T], R], argument: T, *, what: str, afterwards: str = "") -> R:
    """What `work(argument)` returns in a process of its own, with TensorFlow imported; all of it must pickle.

    It logs as this process does: to standard output after `log_to_stdout`, else warnings alone, to standard error.

    Args:
        what: What the process does, for the message.
        afterwards: What a further run of the command does, for the message.

    Raises:
        KitError: As `work` does, or the process failed.
        OutOfMemory: Memory ran out, or the process was killed, which is mostly for that.
    """
    ours, theirs = CONTEXT.Pipe(duplex=False)
    logger = logging.getLogger("pipeline")
    level = logger.level if logger.handlers else None
    # Not a daemon: it has children of its own, the augmentation workers.
    process = CONTEXT.Process(target=_run, args=(theirs, work, argument, level))
    # A signal while it starts and imports waits until `_run` can answer it, and is not told by a traceback.
    resource_tracker.ensure_running()  # which the first start would do, and lift the block
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    answer: tuple[KitError | None, Any]
    try:
        process.start()
    except BaseException:  # the mask is this thread's: a signal may have come by way of another one
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        if process.pid:
            _interrupt(process)
        raise
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)  # a signal that came meanwhile is raised here
        theirs.close()
        answer = ours.recv()
    except EOFError:
        answer = None, None
    except BaseException:
        _interrupt(process)
        raise
    finally:
        process.join()
    error, result = answer
    if error is not None:
        raise error
    if process.exitcode:
        why = "the traceback above says what failed"
        if process.exitcode == -signal.SIGKILL:
            why = f"it was killed, mostly because memory ran out: {_SMALLER}"
        elif process.exitcode < 0:
            why = f"it died of {signal.Signals(-process.exitcode).name}: what is above may say why"
        elif process.exitcode == _ASKED:
            why = "it was asked to end"
        raise (OutOfMemory if process.exitcode == -signal.SIGKILL else KitError)(
            f"the process of {what} ended with code {process.exitcode}",
            expected="one that ends by itself",
            next_step=why + (f"; {afterwards}" if afterwards else ""),
        )
    return cast(R, result)


def _interrupt(process: SpawnProcess) -> None:
    """Let a process end by itself, cleaning up; kill it if it takes long, or if this is interrupted in its turn.

    A signal from the terminal has reached it already, one that came to this process alone has not.
    """
    try:
        if process.is_alive() and process.pid:
            os.kill(process.pid, signal.SIGINT)
        process.join(timeout=1)
        if process.is_alive():
            log.warning("ending: the state is saved after this batch, or what is being predicted; again: ends at once")
        process.join(timeout=_TO_END)
    finally:
        process.kill()


def _end(_number: int, _frame: object) -> None:
    for number in _ENDING:  # once is enough: what cleans up is not to be interrupted; who waits for it may kill it
        signal.signal(number, signal.SIG_IGN)
    ending.asked = True
    if not ending.waits:
        raise KeyboardInterrupt


def _end_with_parent() -> None:
    """Ask this process to end once the one that started it is gone: it must not go on alone."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


def log_to_stdout(level: int = logging.INFO) -> None:
    """Let the package's log lines appear on the standard output of this process."""
    logger = logging.getLogger("pipeline")
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
    logger.setLevel(level)


def out_of_memory(error: Exception) -> bool:
    """Whether it says that memory ran out, of this machine or of a GPU: Python's, TensorFlow's or JAX's error."""
    named = type(error).__name__ == "ResourceExhaustedError" or "RESOURCE_EXHAUSTED" in str(error)
    return named or isinstance(error, MemoryError)


def _run(connection: Connection, work: Callable[[Any], Any], argument: Any, level: int | None) -> None:
    import_tensorflow_quietly()
    if level is not None:
        log_to_stdout(level)
    for number in _ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup does
            signal.signal(number, _end)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
        with logging_redirect_tqdm([logging.getLogger("pipeline")]):
            result = work(argument)
        connection.send((None, result))
    except KeyboardInterrupt:
        sys.exit(_ASKED)
    except KitError as error:
        connection.send((error, None))
    except Exception as error:
        if full := disk_full(error):
            connection.send((full, None))
            return
        if not out_of_memory(error):
            raise
        short = OutOfMemory(
            f"memory ran out ({type(error).__name__})",
            expected="a network whose batches fit into the memory of this machine and its GPU",
            next_step=_SMALLER,
        )
        connection.send((short, None))
