"""Running a built kernel on Kaggle: push it, wait for it, bring its results home.

    kernels/<name>/output/<slug>/     its output as fetched     (ignored)

What is fetched is what was pushed: the output names the build it is of.
"""

import hashlib
import re
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from pipeline.artifacts import Workspace, atomic_folder, read_json, write_json
from pipeline.errors import KitError, counted
from pipeline.submit.adopt import adopt
from pipeline.submit.bundle import needs_bundle
from pipeline.submit.job import Job
from pipeline.submit.kaggle_answers import PushedKernel
from pipeline.submit.kaggle_client import Kaggle
from pipeline.submit.kaggle_errors import (
    GpuQuota,
    KaggleError,
    NoAccess,
    OutcomeUnknown,
    RateLimited,
    SourceDropped,
    Unreachable,
)
from pipeline.submit.kernel import Built
from pipeline.submit.pushes import Pushed, list_pushed, settle

LOG = "kernel.log"
_CANCELLED = {"CANCEL_REQUESTED", "CANCEL_ACKNOWLEDGED"}
_ENDED_BADLY = {"ERROR", *_CANCELLED}


class KernelFailed(KitError):
    """The kernel ended with an error, or was cancelled."""

    exit_code = 3


class StillRunning(KitError):
    """The kernel has not ended in the time we wait; it goes on without us."""

    exit_code = 4


class KernelStopped(KitError):
    """The kernel stopped by itself before its session's limit: what is finished has been fetched."""

    exit_code = 6


@dataclass(frozen=True)
class Fetched:
    """What a kernel brought home.

    Attributes:
        state: Whether it finished its job, stopped in time to go on later, or failed.
        output: Everything it left.
        adopted: The folders in oof/ and runs/ that now have its results.
    """

    state: str
    message: str
    output: Path
    adopted: tuple[Path, ...]


def push(kaggle: Kaggle, built: Built, *, workspace: Workspace, again: bool = False) -> Pushed:
    """Push a built kernel, which starts it.

    Args:
        again: Even if the version before is running, or its output was not fetched: it is out of reach then.

    Raises:
        BusyError: Another process is pushing it.
        SourceDropped: It runs without one of its sources, and is on record.
        GpuQuota: No GPU time is left this week.
        KitError: Its bundle is not attached, or the version before is not fetched.
        KaggleError: As `Kaggle.push_kernel` raises.
    """
    job, attached = built.job, built.metadata.get("dataset_sources", [])
    if needs_bundle(job) and f"{kaggle.user}/{job.bundle}" not in attached:
        raise KitError(
            f"the kernel {built.slug} needs the data set {kaggle.user}/{job.bundle}, which is not attached",
            expected="its bundle on Kaggle",
            next_step=f"kit kernel bundle {built.name}, then push again",
        )
    ref, code = f"{kaggle.user}/{built.slug}", built.code_file.read_text("utf-8").replace(job.build, "")
    pushed = Pushed(
        ref=ref,
        version=0,
        url=f"https://www.kaggle.com/code/{ref}",
        server=kaggle.server,
        name=built.name,
        competition=job.competition,
        experiment=job.experiment,
        folds=None if job.folds is None else list(job.folds),
        build=job.build,
        sha256=hashlib.sha256(code.encode()).hexdigest(),
        time=datetime.now(UTC).isoformat(timespec="milliseconds"),
    )
    with pushed.lock(workspace):
        settle(kaggle, pushed, workspace=workspace, again=again)
        if not again:
            require_fetched(kaggle, built, workspace=workspace)
        if built.metadata.get("enable_gpu"):
            _require_gpu_time(kaggle)
        built.change(id=ref)
        return _push(kaggle, built, pushed, workspace=workspace)


def _push(kaggle: Kaggle, built: Built, pushed: Pushed, *, workspace: Workspace) -> Pushed:
    sending = pushed.sending(workspace)
    write_json(sending, asdict(pushed))
    try:
        made = kaggle.push_kernel(built.folder, session_seconds=int(built.job.session_seconds), build=built.job.build)
    except SourceDropped as error:
        _record(pushed, error.pushed, workspace)
        raise
    except (OutcomeUnknown, Unreachable):
        raise  # what is being sent stays on record until it is found out what became of it
    except KaggleError:
        sending.unlink()
        raise
    return _record(pushed, made, workspace)


def _record(pushed: Pushed, made: PushedKernel, workspace: Workspace) -> Pushed:
    known = replace(pushed, ref=made.ref, version=made.version, url=made.url)
    write_json(known.record(workspace), asdict(known))
    pushed.sending(workspace).unlink()
    return known


def require_fetched(kaggle: Kaggle, built: Built, *, workspace: Workspace) -> None:
    """Refuse to push while the version before runs, or has an output that was not fetched: only the newest can be.

    Raises:
        KitError: It does, or has.
    """
    for before in list_pushed(built.name, workspace=workspace, server=kaggle.server):
        if before.slug != built.slug or before.state:
            continue
        try:
            state = kaggle.kernel_status(before.ref, before.version).state
        except NoAccess:
            continue  # it was deleted
        if state not in _ENDED_BADLY:
            raise KitError(
                f"{before.ref}, version {before.version}, is {state}, and its output has not been fetched",
                expected="one version at a time: Kaggle gives out the newest one's output only",
                next_step=f"kit kernel output {built.name}; or push all the same: --again",
            )


def _require_gpu_time(kaggle: Kaggle) -> None:
    try:
        quota = kaggle.quota()
    except KaggleError:
        return  # the push itself is refused where there is none
    if quota.allowed_s and quota.used_s >= quota.allowed_s:
        raise GpuQuota(
            f"the {quota.allowed_s / 3600:.0f} GPU hours of this week are used up",
            expected="GPU time for this kernel",
            next_step=f"wait until {quota.refresh or 'the week is over'}, or build it without a GPU: --no-gpu",
        )


def earlier_parts(name: str, job: Job, *, workspace: Workspace, server: str) -> tuple[int, list[str]]:
    """Which part of its experiment this job will be, and the refs of the kernels it goes on from.

    A kernel of its own for each part, as a kernel cannot be its own input; and several that trained a fold each
    can be gone on from together. Only those that ended well can be an input.

    Raises:
        KitError: There is none, or one that was not fetched.
    """
    of_same = [
        pushed
        for pushed in list_pushed(name, workspace=workspace, server=server)
        if (pushed.competition, pushed.experiment) == (job.competition, job.experiment)
        and (job.folds is None or pushed.folds is None or set(job.folds) & set(pushed.folds))
    ]
    ended = [pushed.ref for pushed in of_same if pushed.state in ("finished", "stopped")]
    waiting = [pushed.slug for pushed in of_same if not pushed.state]
    if waiting:
        raise KitError(
            f"not fetched yet, and their work would be done again: {', '.join(waiting)}",
            expected=f"every kernel of {job.experiment} on {job.competition} fetched before going on from them",
            next_step=f"kit kernel output {name} --slug {waiting[0]}",
        )
    if not ended:
        raise KitError(
            f"there is no kernel of {job.experiment} on {job.competition} to go on from",
            expected="one that finished folds or stages, and was fetched",
            next_step="leave --resume out",
        )
    parts = [int(found[1]) for pushed in of_same if (found := re.search(r"-part-(\d+)$", pushed.slug))]
    return max(parts, default=1) + 1, ended


def wait(
    kaggle: Kaggle,
    pushed: Pushed,
    *,
    seconds: float,
    on_state: Callable[[str], None],
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Wait until the kernel has ended well.

    Args:
        on_state: Called with each state once.

    Raises:
        KernelFailed: It ended with an error or was cancelled.
        StillRunning: It has not ended in this time.
    """
    deadline, pause, last = time.monotonic() + seconds, 1.0, ""
    while last != "COMPLETE":
        try:
            with kaggle.until(deadline) if seconds else nullcontext():
                status = kaggle.kernel_status(pushed.ref, pushed.version)
        except (Unreachable, RateLimited) as error:
            # The kernel does not care whether we can ask after it.
            if time.monotonic() > deadline:
                raise
            on_state(f"no answer ({error.problem}); asking again")
        else:
            if status.state != last:
                on_state(status.state)
                last, pause = status.state, 1.0
            if status.state in _ENDED_BADLY:
                raise KernelFailed(
                    f"the kernel {pushed.ref}, version {pushed.version}, ended with {status.state}"
                    + (f": {status.failure}" if status.failure else ""),
                    expected="COMPLETE",
                    next_step=f"push it again: kit kernel push {pushed.name}"
                    if status.state in _CANCELLED
                    else f"mend what the log says; it is on {pushed.url}, too",
                )
        if last != "COMPLETE":
            if time.monotonic() + pause > deadline:
                waited = counted(round(seconds / 60), "minute", "minutes")
                raise StillRunning(
                    f"the kernel {pushed.ref} is {last or 'not heard of'} after {waited}",
                    expected="COMPLETE",
                    next_step=fetch_later(pushed),
                )
            sleep(pause)
            pause = min(1.5 * pause, 30.0)


def fetch_later(pushed: Pushed) -> str:
    """What becomes of a kernel that nobody waits for, and how to come by its output."""
    how_long = "by itself" if pushed.server == "kaggle.com" else "only while the rehearsal does"
    return f"the kernel goes on {how_long}; fetch it later: kit kernel output {pushed.name}"


def fetch_some(kaggle: Kaggle, pushed: Pushed, pattern: str, *, workspace: Workspace, progress: bool) -> int:
    """Download the files of a kernel's output whose names match, and how many there were; nothing is taken over.

    Raises:
        KitError: The output is of another version.
    """
    _require_newest(kaggle, pushed)
    target = pushed.output(workspace)
    kaggle.kernel_output(pushed.ref, target, progress=progress, only=pattern)
    return sum(fnmatch(path.relative_to(target).as_posix(), pattern) for path in target.rglob("*") if path.is_file())


def _require_newest(kaggle: Kaggle, pushed: Pushed) -> None:
    newest = kaggle.kernel_version(pushed.ref)
    if newest != pushed.version:
        raise KitError(
            f"{pushed.ref} is at version {newest} by now, and Kaggle gives out the newest one's output only",
            expected=f"version {pushed.version}, which was pushed from here",
            next_step="push again, or look for the output of that version on its page on Kaggle",
        )


def fetch(kaggle: Kaggle, pushed: Pushed, *, workspace: Workspace, progress: bool = False) -> Fetched:
    """Download a kernel's output, and take its predictions and weights over into oof/ and runs/.

    Of a kernel that failed, the folds and stages it had finished are taken over.

    Raises:
        KitError: The output is of another version or build, or does not fit what is here; it stays in
            kernels/<name>/output.
    """
    _require_newest(kaggle, pushed)
    target = pushed.output(workspace)
    with atomic_folder(target) as folder:
        log = kaggle.kernel_output(pushed.ref, folder, progress=progress)
        (folder / LOG).write_text(log, "utf-8")
    report = _report(target, pushed)
    if report["build"] != pushed.build:
        raise KitError(
            f"the output of {pushed.ref} is of build {report['build']}, not of what was pushed ({pushed.build})",
            expected=f"the output of version {pushed.version}",
            next_step=f"it lies in {target}; read {target / LOG}, or push again",
        )
    state, message = str(report.get("state", "failed")), str(report.get("message", ""))
    adopted = adopt(target, pushed.competition, pushed.experiment, workspace=workspace)
    write_json(pushed.record(workspace), asdict(replace(pushed, state=state)))
    return Fetched(state, message, target, adopted)


def _report(output: Path, pushed: Pushed) -> dict[str, Any]:
    """What a kernel said of its work; of one that was ended before it could, or in the middle of it, that it failed."""
    file = output / "kernel.json"
    try:
        report = read_json(file)
    except FileNotFoundError:
        return {"build": pushed.build, "message": "it left no kernel.json"}
    except (OSError, ValueError):
        report = None
    if isinstance(report, dict) and isinstance(report.get("build"), str):
        return report
    raise KitError(
        f"{file} is damaged, so it is not known which build the output of {pushed.ref} is of",
        expected="what the kernel writes at its end: a build, a state, a message",
        next_step=f"its output lies in {output}; read {output / LOG}, or push again",
    )
