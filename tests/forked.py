"""Fresh processes that begin with TensorFlow imported: forked from one that has done nothing else.

Importing it takes four seconds of computing, and the tests start such processes by the dozen.
"""

import multiprocessing
import os
from collections.abc import Callable
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tensorflow", "pandas", "albumentations", "pipeline.training.fold"])


class Forked:
    """In the place of `multiprocessing.get_context("spawn")`."""

    Pipe = staticmethod(_CONTEXT.Pipe)

    @staticmethod
    def Process(*, target: Callable[..., None], args: tuple[Any, ...]) -> Any:
        return _CONTEXT.Process(target=_in, args=(dict(os.environ), target, args))


def _in(environment: dict[str, str], target: Callable[..., None], args: tuple[Any, ...]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    target(*args)
