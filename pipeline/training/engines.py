"""Where a fold runs. An engine only decides that: `train_fold` is the unit of work, whoever calls it."""

import logging
import multiprocessing
import signal
import sys
from collections.abc import Callable
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection

from tqdm.contrib.logging import logging_redirect_tqdm

from pipeline.errors import KitError
from pipeline.training.device import import_tensorflow_quietly
from pipeline.training.fold import FoldTask, train_fold

Engine = Callable[[FoldTask], None]


def local_process(task: FoldTask) -> None:
    """Run the fold in a fresh process: fold after fold in one process leaks memory (keras #17458).

    Raises:
        KitError: As `train_fold` does, or: the process was killed.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    level = logging.getLogger("pipeline").level
    # Not a daemon: it has children of its own, the augmentation workers.
    process = context.Process(target=_run, args=(theirs, task, level))
    # An interrupt while it starts and imports waits until `_run` can answer it, and is not told by a traceback.
    resource_tracker.ensure_running()  # which the first start would do, and lift the block
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    process.start()
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    theirs.close()
    try:
        error = ours.recv()
    except EOFError:
        error = None
    except BaseException:
        # An interrupt from the terminal reaches the fold's process, too, which then ends by itself. One that
        # reached this process alone must not leave it behind.
        process.join(timeout=5)
        process.terminate()
        raise
    finally:
        process.join()
    if error is not None:
        raise error
    if process.exitcode:
        killed = "it was killed, mostly because memory ran out: take a smaller batch_size or size"
        failed = "the traceback above says what failed"
        raise KitError(
            f"the process of fold {task.fold} ended with code {process.exitcode}",
            expected="a fold that ends by itself",
            next_step=f"{killed if process.exitcode < 0 else failed}; "
            "the same command goes on after the last finished stage",
        )


def log_to_stdout(level: int = logging.INFO) -> None:
    """Let the package's log lines appear on the standard output of this process."""
    logger = logging.getLogger("pipeline")
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
    logger.setLevel(level)


def _run(connection: Connection, task: FoldTask, level: int) -> None:
    import_tensorflow_quietly()
    log_to_stdout(level)
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        with logging_redirect_tqdm([logging.getLogger("pipeline")]):
            train_fold(task)
        connection.send(None)
    except KeyboardInterrupt:
        sys.exit(130)
    except KitError as error:
        connection.send(error)
