"""Running a built kernel on Kaggle: push it, wait for it, bring its results home.

    kernels/<name>/build/<slug>/pushed.json     which version was pushed where   (ignored)
    kernels/<name>/output/<slug>/               its output as fetched            (ignored)

What is fetched is what was pushed: the output names the build it is of. Results move into oof/ and runs/ only where
they fit what is there.
"""

import hashlib
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pipeline.artifacts import Workspace, atomic_folder, read_json, write_json
from pipeline.errors import KitError
from pipeline.submit.kaggle_client import Kaggle
from pipeline.submit.kaggle_errors import GpuQuota, RateLimited, Unreachable
from pipeline.submit.kernel import Built, Job, list_built

PUSHED = "pushed.json"
LOG = "kernel.log"
_ENDED_BADLY = {"ERROR", "CANCEL_REQUESTED", "CANCEL_ACKNOWLEDGED"}
_GOES_ON = {"QUEUED", "RUNNING", "NEW_SCRIPT"}


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
class Pushed:
    """A version of a kernel on Kaggle.

    Attributes:
        ref: owner/slug.
        sha256: Of the code file.
    """

    ref: str
    version: int
    url: str
    server: str
    build: str
    sha256: str
    time: str


@dataclass(frozen=True)
class Fetched:
    """What a kernel brought home.

    Attributes:
        state: Whether it finished its job, or stopped in time to go on later.
        output: Everything it left.
        adopted: The folders in oof/ and runs/ that are now its results.
    """

    state: Literal["finished", "stopped", "failed"]
    message: str
    output: Path
    adopted: tuple[Path, ...]


def push(kaggle: Kaggle, built: Built, *, now: datetime | None = None) -> Pushed:
    """Push a built kernel, which starts it.

    Raises:
        GpuQuota: No GPU time is left this week.
        KaggleError: As `Kaggle.push_kernel` raises.
    """
    built.change(id=f"{kaggle.user}/{built.slug}")
    if built.metadata.get("enable_gpu"):
        quota = kaggle.quota()
        if quota and quota.used_s >= quota.allowed_s:
            raise GpuQuota(
                f"the {quota.allowed_s / 3600:.0f} GPU hours of this week are used up",
                expected="GPU time for this kernel",
                next_step=f"wait until {quota.refresh or 'the week is over'}, or build it without a GPU: --no-gpu",
            )
    pushed = kaggle.push_kernel(built.folder, session_seconds=int(built.job.session_seconds))
    record = Pushed(
        ref=pushed.ref,
        version=pushed.version,
        url=pushed.url,
        server=kaggle.server,
        build=built.job.build,
        sha256=hashlib.sha256(built.code_file.read_bytes()).hexdigest(),
        time=(now or datetime.now(UTC)).isoformat(timespec="seconds"),
    )
    write_json(built.folder / PUSHED, asdict(record))
    return record


def read_pushed(built: Built, *, server: str) -> Pushed:
    """The version that was pushed.

    Raises:
        KitError: It was not, or to another server.
    """
    file = built.folder / PUSHED
    if not file.is_file():
        raise KitError(
            f"the kernel {built.slug} has not been pushed",
            expected=f"a build that was pushed ({file})",
            next_step=f"kit kernel push {built.folder.parent.parent.name}",
        )
    pushed = Pushed(**read_json(file))
    if pushed.server != server:
        raise KitError(
            f"the kernel {built.slug} was pushed to {pushed.server}, and this is {server}",
            expected=f"a kernel on {server}",
            next_step="push it here, too" if server == "kaggle.com" else "run the command without the rehearsal",
        )
    return pushed


def earlier_part(name: str, job: Job, *, workspace: Workspace) -> tuple[int, str]:
    """Which part of its experiment this job will be, and the ref of the kernel that was pushed last for it.

    A kernel of its own for each part, as a kernel cannot be its own input.

    Raises:
        KitError: None was pushed.
    """
    of_same = [
        built
        for built in list_built(name, workspace)
        if (built.job.competition, built.job.experiment) == (job.competition, job.experiment)
    ]
    pushed = [read_json(built.folder / PUSHED) for built in of_same if (built.folder / PUSHED).is_file()]
    if not pushed:
        raise KitError(
            f"no kernel of {job.experiment} on {job.competition} has been pushed",
            expected="one that was pushed, to go on from",
            next_step="leave --resume out",
        )
    parts = [int(found[1]) for built in of_same if (found := re.search(r"-part-(\d+)$", built.slug))]
    return max(parts, default=1) + 1, str(max(pushed, key=lambda each: str(each["time"]))["ref"])


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
            status = kaggle.kernel_status(pushed.ref)
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
                    next_step=f"read its log: kit kernel output, or {pushed.url}",
                )
        if last != "COMPLETE":
            if time.monotonic() + pause > deadline:
                raise StillRunning(
                    f"the kernel {pushed.ref} is {last or 'not heard of'} after {seconds / 60:.0f} minutes",
                    expected="COMPLETE",
                    next_step="it goes on by itself; fetch it later: kit kernel output",
                )
            sleep(pause)
            pause = min(1.5 * pause, 30.0)


def fetch(kaggle: Kaggle, built: Built, pushed: Pushed, *, workspace: Workspace, progress: bool = False) -> Fetched:
    """Download a kernel's output, and take its predictions and weights over into oof/ and runs/.

    Raises:
        KitError: The output is of another version or build, or does not fit what is here; it stays in
            kernels/<name>/output.
    """
    newest = kaggle.kernel_version(pushed.ref)
    if newest != pushed.version:
        raise KitError(
            f"{pushed.ref} is at version {newest} by now, and Kaggle gives out the newest one's output only",
            expected=f"version {pushed.version}, which was pushed from here",
            next_step="push again, or look for the output of that version on its page on Kaggle",
        )
    target = built.folder.parent.parent / "output" / built.slug
    shutil.rmtree(target, ignore_errors=True)
    with atomic_folder(target) as folder:
        log = kaggle.kernel_output(pushed.ref, folder, progress=progress)
        (folder / LOG).write_text(log, "utf-8")
    report = _read_report(target, pushed)
    adopted = adopt(target, competition=built.job.competition, experiment=built.job.experiment, workspace=workspace)
    return Fetched(report["state"], report["message"], target, adopted)


def fetch_log(kaggle: Kaggle, built: Built, pushed: Pushed) -> Path:
    """Download the log of a kernel that failed; what it left is not taken over."""
    target = built.folder.parent.parent / "output" / built.slug
    shutil.rmtree(target, ignore_errors=True)
    with atomic_folder(target) as folder:
        (folder / LOG).write_text(kaggle.kernel_output(pushed.ref, folder, progress=False), "utf-8")
    return target / LOG


def _read_report(output: Path, pushed: Pushed) -> dict[str, Any]:
    file = output / "kernel.json"
    report: dict[str, Any] = read_json(file) if file.is_file() else {}
    if report.get("build") != pushed.build:
        found = f"of build {report.get('build')}" if report else "without kernel.json"
        raise KitError(
            f"the output of {pushed.ref} is {found}, not of what was pushed ({pushed.build})",
            expected=f"the output of version {pushed.version}",
            next_step=f"it lies in {output}; read {output / LOG}, or push again",
        )
    return report


def adopt(output: Path, *, competition: str, experiment: str, workspace: Workspace) -> tuple[Path, ...]:
    """Move an output's run and result into runs/ and oof/; folds that are done here already stay as they are.

    Raises:
        KitError: There is an experiment of that name made from another recipe, other data or other folds.
    """
    adopted = []
    run, here = output / "runs" / competition / experiment, workspace.run(competition, experiment)
    if (run / "run.json").is_file():
        _require_same(run / "run.json", here / "run.json", experiment)
        for folder in sorted(run.glob("fold-*")):
            done, begun = (folder / "fold.json").is_file(), (here / folder.name).exists()
            if not (here / folder.name / "fold.json").is_file() and (done or not begun):
                _replace(folder, here / folder.name)
        for file in (path for path in run.iterdir() if path.suffix == ".json"):
            _copy(file, here / file.name)
        adopted.append(here)
    result, here = output / "oof" / competition / experiment, workspace.oof(competition, experiment)
    if (result / "manifest.json").is_file():
        _require_same(result / "manifest.json", here / "manifest.json", experiment)
        _replace(result, here)
        adopted.append(here)
    return tuple(adopted)


def _require_same(theirs: Path, ours: Path, experiment: str) -> None:
    keys = ("fingerprint", "data_sha256", "folds_sha256", "classes", "metric")
    if not ours.is_file():
        return
    found, here = read_json(theirs), read_json(ours)
    changed = [key for key in keys if found.get(key) != here.get(key)]
    if changed:
        raise KitError(
            f"{ours.parent} holds another {experiment} than the kernel made: {', '.join(changed)} differ",
            expected="the same experiment, or none of that name",
            next_step=f"the output lies in {theirs.parent}; remove {ours.parent}, or build the kernel with a --suffix",
        )


def _replace(source: Path, target: Path) -> None:
    """A copy, so that the output as fetched stays whole."""
    shutil.rmtree(target, ignore_errors=True)
    with atomic_folder(target) as folder:
        shutil.copytree(source, folder, dirs_exist_ok=True)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
