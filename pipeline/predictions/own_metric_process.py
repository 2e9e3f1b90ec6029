"""The process that a competition's metric runs in: `own_metric.py` starts this file, and the kit never imports it.

It reads nothing of the kit. Told where the metric's file is, it answers each pair of tables with what `score` returns.
"""

import importlib.util
import numbers
import sys
import types
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any


def kaggle_metric_utilities() -> types.ModuleType:
    """What published metrics take from Kaggle's module of this name, which no registry has.

    Kaggle's `safe_call_score` also decides which errors a participant is shown; here all are.
    """
    module = types.ModuleType("kaggle_metric_utilities")
    visible = type("ParticipantVisibleError", (Exception,), {})

    def safe_call_score(metric_function: Any, solution: Any, submission: Any, **settings: Any) -> Any:
        return metric_function(solution, submission, **settings)

    def verify_valid_probabilities(df: Any, df_name: str) -> None:
        if any(kind.kind not in "biuf" for kind in df.dtypes):
            raise visible(f"{df_name} holds values that are no numbers")
        if df.to_numpy().min() < 0 or df.to_numpy().max() > 1:
            raise visible(f"{df_name} holds values outside 0..1")
        if ((df.sum(axis=1) - 1).abs() > 1e-5).any():
            raise visible(f"{df_name} has rows that do not sum to one")

    vars(module).update(
        ParticipantVisibleError=visible,
        HostVisibleError=type("HostVisibleError", (Exception,), {}),
        safe_call_score=safe_call_score,
        verify_valid_probabilities=verify_valid_probabilities,
    )
    return module


def load(file: Path) -> types.ModuleType:
    sys.path.insert(0, str(file.parent))  # another file that it imports may lie beside it
    if importlib.util.find_spec("kaggle_metric_utilities") is None:
        sys.modules["kaggle_metric_utilities"] = kaggle_metric_utilities()
    spec = importlib.util.spec_from_file_location("competition_metric", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["competition_metric"] = module
    spec.loader.exec_module(module)
    return module


def serve(file: Path, connection: Connection) -> None:
    """Answers are pairs: "ready", "score" or what went wrong, and the number or the words that go with it."""
    try:
        score = getattr(load(file), "score", None)
    except BaseException as error:  # whatever it is, a file that ends the interpreter included
        connection.send(("cannot be loaded", f"{type(error).__name__}: {error}"))
        return
    if not callable(score):
        connection.send(("has no function score", ""))
        return
    connection.send(("ready", ""))
    while True:
        try:
            tables = connection.recv()
        except EOFError:
            return
        try:
            found = score(*tables)
        except BaseException as error:
            connection.send(("raised", f"{type(error).__name__}: {error}"))
            continue
        if isinstance(found, numbers.Real):
            connection.send(("score", float(found)))
        else:
            connection.send(("no number", repr(found)[:200]))


if __name__ == "__main__":
    serve(Path(sys.argv[1]), Connection(int(sys.argv[2])))
