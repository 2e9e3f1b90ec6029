"""The command that plays Kaggle on this machine: rehearse."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.output import ROOT, CompetitionOption
from pipeline.errors import DataError, KitError, counted

if TYPE_CHECKING:
    from pipeline.rehearsal.server import Rehearsal


def rehearse(
    command: Annotated[
        list[str] | None, typer.Argument(help="After --: a command to run; else the server runs until Ctrl-C.")
    ] = None,
    competition: CompetitionOption = None,
    solution: Annotated[
        Path | None, typer.Option(help="CSV of id and label, held back; if not competitions/SLUG/solution.csv.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget earlier rehearsals of this competition.")] = False,
    port: Annotated[int, typer.Option(help="0: any that is free.", min=0, max=65535)] = 0,
    fault: Annotated[
        list[str] | None, typer.Option(help="What goes wrong: CreateSubmission=503*2; may be repeated.")
    ] = None,
    daily_limit: Annotated[int, typer.Option(help="Submissions a day.", min=0)] = 5,
    session_minutes: Annotated[float, typer.Option(help="How long a kernel may run.", min=0.01)] = 720,
    python: Annotated[Path | None, typer.Option(help="The Python that runs kernels, if not this one.")] = None,
    code_only: Annotated[bool, typer.Option("--code-only", help="Take kernels only, no files.")] = False,
) -> None:
    """Play Kaggle on this machine: a server that takes submissions, scores them and runs kernels.

    The real `kaggle` package talks to it, and nothing leaves this machine. The demo competition is hosted unless
    another one is named.

    Example: kit rehearse --fresh -- kit submit demo --again
    """
    from pipeline.competition import load_competition
    from pipeline.rehearsal.faults import Fault
    from pipeline.rehearsal.hosted import hosted_from
    from pipeline.rehearsal.kernels import KernelLimits
    from pipeline.rehearsal.sandbox import Sandbox
    from pipeline.rehearsal.server import Rehearsal

    slug = competition or "demo"
    described = load_competition(slug, root=ROOT)
    hosted = hosted_from(
        described, solution=_solution(slug, solution, described.folder), daily_limit=daily_limit, code_only=code_only
    )
    faults = [Fault.parse(text) for text in fault or ()]
    runner, limits = Sandbox(_interpreter(python)), KernelLimits(session_seconds=session_minutes * 60)
    folder = ROOT / "runs" / ".rehearsal" / slug
    if fresh:
        _forget(folder, slug)
    with Rehearsal(folder, [hosted], port=port, faults=faults, runner=runner, limits=limits) as server:
        if command:
            code = _run(command, server.environment)
            _tell_what_ends(server)
            raise typer.Exit(code)
        print(f"a rehearsal of {slug} on this machine; nothing leaves it. State: {folder}")
        print("in another terminal, then any kit or kaggle command there:\n")
        for name, value in server.environment.items():
            print(f"export {name}={shlex.quote(value)}")
        unset = f"unset {' '.join(server.environment)}"
        print(f"\nonce it is over, so that kit can work there again:\n\n{unset}\n")
        print(f"the exports are right for the next one, too, with --port {server.port} and without --fresh")
        print("Ctrl-C ends it", flush=True)
        try:
            server.wait()
        except KeyboardInterrupt:
            print("\nthe rehearsal is over; the next one goes on with its state, or anew with --fresh")
            _tell_what_ends(server)
            print(f"in the other terminal:\n\n{unset}")


def _tell_what_ends(server: "Rehearsal") -> None:
    """What the user may not expect of an end that comes now."""
    for fault in server.faults:
        if not fault.struck:
            print(f"the fault {fault} did not happen: nothing asked for it")
    if running := server.running():
        print(f"cancelled, because the rehearsal is over: {', '.join(running)}")
        print("for separate steps keep `kit rehearse` running in a terminal of its own")


def _solution(slug: str, given: Path | None, folder: Path) -> Path:
    path = given or folder / "solution.csv"
    if path.is_file():
        return path
    next_step = "kit demo"
    if given:
        next_step = "check the path"
    elif slug != "demo":
        next_step = (
            "name it: --solution CSV. Kaggle keeps these labels back: to have some, hold out a part of the training "
            "pictures, and describe it as a competition of its own with `kit init`"
        )
    raise DataError(
        f"{path} does not exist",
        expected="the labels of the test pictures, which a rehearsal scores against: a CSV of id and label",
        next_step=next_step,
    )


def _interpreter(given: Path | None) -> Path:
    found = shutil.which(given or sys.executable)
    if found is None:
        raise DataError(
            f"there is no program {given}",
            expected="a Python with the packages that the kernels need",
            next_step="check --python, or leave it out",
        )
    return Path(found)


def _forget(folder: Path, slug: str) -> None:
    """Remove what earlier rehearsals left, unless one is running; their rows stay in the ledger."""
    from pipeline.artifacts import Workspace, lock
    from pipeline.submit.ledger import Ledger

    ledger = Ledger(Workspace(ROOT), slug)
    kept = sum(entry.server == "rehearsal" for entry in ledger.read())
    with lock(folder / "lock", what=f"the rehearsal in {folder}"):
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != "lock":
                path.unlink()
    if kept:
        rows = counted(kept, "row", "rows")
        print(f"{ledger.path} keeps the {rows} of earlier rehearsals; what was sent then is sent anew with --again")


def _run(command: list[str], environment: Mapping[str, str]) -> int:
    """Run a command in this terminal with more environment; returns its exit code, as a shell would."""
    print("rehearsal: a server on this machine plays Kaggle; nothing leaves it", flush=True)
    with _signals_passed_on() as started:
        try:
            process = subprocess.Popen(command, env={**os.environ, **environment})
        except OSError as error:
            raise KitError(
                f"{command[0]} cannot be run: {error}",
                expected="a program and its arguments, after --",
                next_step="check its name: kit rehearse -- kit submit demo",
            ) from None
        with process:
            started(process)
            # A signal that comes just before an endless wait begins is not passed on until that ends.
            while (code := process.poll()) is None:
                time.sleep(0.05)
    return code if code >= 0 else 128 - code


@contextmanager
def _signals_passed_on() -> "Iterator[Callable[[subprocess.Popen[bytes]], None]]":
    """The command decides what a signal means; the server stays until it has ended. Yields whom to tell its process."""
    processes: list[subprocess.Popen[bytes]] = []
    early: list[int] = []  # came before there was a process

    def terminate(number: int, _frame: object) -> None:
        for process in processes:
            process.send_signal(number)
        if not processes:
            early.append(number)

    def started(process: "subprocess.Popen[bytes]") -> None:
        processes.append(process)
        for number in early:
            process.send_signal(number)

    # Ctrl-C reaches the command by itself: it is in the same foreground group.
    before = {signal.SIGINT: signal.signal(signal.SIGINT, lambda *_: None)}
    before[signal.SIGTERM] = signal.signal(signal.SIGTERM, terminate)
    try:
        yield started
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
