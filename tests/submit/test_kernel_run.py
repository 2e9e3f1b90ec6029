"""Built kernels on a local Kaggle: pushed, waited for, fetched, taken over. None really runs: its files are made up."""

import json
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.artifacts import Workspace, write_json
from pipeline.errors import KitError
from pipeline.predictions.store import prediction_frame, read_predictions, write_predictions
from pipeline.rehearsal.faults import Fault
from pipeline.rehearsal.kernel import KernelResult
from pipeline.rehearsal.kernels import KernelLimits
from pipeline.rehearsal.server import Rehearsal
from pipeline.submit import kernel_run
from pipeline.submit.adopt import adopt
from pipeline.submit.job import Job
from pipeline.submit.kaggle_client import Kaggle
from pipeline.submit.kaggle_errors import GpuBusy, GpuQuota, RateLimited, Unreachable
from pipeline.submit.kernel import METADATA, Built
from pipeline.submit.kernel_run import KernelFailed, StillRunning
from pipeline.submit.pushes import Pushed, find_pushed, list_pushed
from tests.rehearsal.conftest import until

SLUG = "kit-train-tiny-demo"
REF = f"rehearsal-user/{SLUG}"
RUN, OOF = Path("runs", "tiny", "demo"), Path("oof", "tiny", "demo")
IDENTITY = {
    "fingerprint": "f",
    "data_sha256": "d",
    "folds_sha256": "s",
    "classes": ["a", "b"],
    "metric": "accuracy",
    "target": "single",
}
JOB = Job("tiny", "demo", {"backbone": "tiny", "weights": "none"}, 600.0, "kit-train-tiny-demo-files", ["train.csv"])


class Runner:
    """Runs no script: once `go` is set it leaves the files of `leaves`, and a kernel.json unless `says` is empty."""

    def __init__(self) -> None:
        self.go, self.leaves = threading.Event(), dict[str, str]()
        self.go.set()
        self.says, self.of_build, self.ends, self.seconds = "finished", "", "COMPLETE", 1.0

    def __call__(self, script: Path, *, folder: Path, cancelled: threading.Event, **_: object) -> KernelResult:
        while not (self.go.wait(0.005) or cancelled.is_set()):
            pass
        output = folder / "working"
        write_files(output, self.leaves)
        if self.says:
            build = self.of_build or script.read_text("utf-8").split('"')[1]
            write_json(output / "kernel.json", {"build": build, "state": self.says, "message": "so it said"})
        return KernelResult(self.ends, "it raised" * (self.ends == "ERROR"), "what it printed\n", output, self.seconds)


class Site:
    """A user's folder, a local Kaggle, and what its kernels leave."""

    def __init__(self, rehearse: Callable[..., Rehearsal], workspace: Workspace, **limits: Any) -> None:
        self.runner, self.workspace, self.root = Runner(), workspace, workspace.root
        self.server = rehearse(runner=self.runner, limits=KernelLimits(**limits))
        self.kaggle = Kaggle.connect(timeout=10, attempts=1)

    def built(self, job: Job = JOB, *, slug: str = SLUG, code: str = "pass", **metadata: Any) -> Built:
        job = replace(job, build=f"build-{time.monotonic_ns()}")
        folder = self.root / "kernels" / "train" / "build" / slug
        write_files(folder, {"train.py": f'BUILD = "{job.build}"\n{code}\n'})
        described = {"id": f"OWNER/{slug}", "title": slug, "code_file": "train.py", "language": "python"}
        write_json(folder / METADATA, {**described, "kernel_type": "script", "enable_internet": False, **metadata})
        return Built(folder, job)

    def push(self, job: Job = JOB, *, again: bool = False, **build: Any) -> Pushed:
        return kernel_run.push(self.kaggle, self.built(job, **build), workspace=self.workspace, again=again)

    def run(self, job: Job = JOB, **options: Any) -> Pushed:
        pushed = self.push(job, **options)
        self.ended()
        return pushed

    def ended(self) -> None:
        until(lambda: self.kaggle.kernel_status(REF).state not in ("QUEUED", "RUNNING"))

    def started(self) -> Pushed:
        """A kernel that runs until the runner may `go`."""
        self.runner.go.clear()
        pushed = self.push()
        until(lambda: self.kaggle.kernel_status(REF).state == "RUNNING")
        return pushed

    def fetch(self, pushed: Pushed) -> kernel_run.Fetched:
        return kernel_run.fetch(self.kaggle, pushed, workspace=self.workspace)

    def fail(self, method: str, *what: str) -> None:
        self.server.faults += [Fault(method, each) for each in what]

    def last(self) -> Pushed:
        return find_pushed("train", None, workspace=self.workspace, server="rehearsal")


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "workspace")


@pytest.fixture
def site(rehearse: Callable[..., Rehearsal], workspace: Workspace) -> Site:
    return Site(rehearse, workspace)


def write_files(root: Path, files: Mapping[str, str]) -> None:
    """Files of these texts; of those that `oof` made, tables."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".parquet"):
            rows = json.loads(text)
            write_predictions(root / name, prediction_frame(list(rows), np.array([*rows.values()]), ["a", "b"]))
        else:
            (root / name).write_text(text, "utf-8")


def contents(root: Path) -> dict[str, str]:
    def text(path: Path) -> str:
        if path.suffix != ".parquet":
            return path.read_text("utf-8")
        return json.dumps({row.id: [row.a, row.b] for row in read_predictions(path).itertuples()})

    return {path.relative_to(root).as_posix(): text(path) for path in root.rglob("*") if path.is_file()}


def oof(*folds: int, sure: float = 0.75) -> str:
    """Predictions of a row a fold."""
    return json.dumps({f"row-{fold}": [sure, 1 - sure] for fold in folds})


def inside(folder: Path, files: Mapping[str, str]) -> dict[str, str]:
    return {str(Path(name).relative_to(folder)): text for name, text in files.items() if folder in Path(name).parents}


def a_fold(number: int, *, weights: str = "", sure: float = 0.75, done: bool = True) -> dict[str, str]:
    folder = f"{RUN}/fold-{number}"
    files = {f"{folder}/stage-0/best.weights.h5": f"weights {weights or number}"}
    if done:
        files |= {f"{folder}/oof.parquet": oof(number, sure=sure), f"{folder}/fold.json": "{}"}
    return files


def a_run(*folds: dict[str, str], **identity: Any) -> dict[str, str]:
    files = {f"{RUN}/run.json": json.dumps({**IDENTITY, **identity})}
    return {**files, **{key: text for fold in folds for key, text in fold.items()}}


def a_result(*, sure: float = 0.75, folds: Sequence[int] = (0, 1), **identity: Any) -> dict[str, str]:
    return {
        f"{OOF}/manifest.json": json.dumps({**IDENTITY, "folds": folds, **identity}),
        f"{OOF}/oof.parquet": oof(*folds, sure=sure),
    }


def record(workspace: Workspace, slug: str, *, server: str = "rehearsal", **changes: Any) -> Pushed:
    facts: dict[str, Any] = {"ref": f"rehearsal-user/{slug}", "version": 1, "url": "", "server": server}
    facts |= {"name": "train", "competition": "tiny", "experiment": "demo", "folds": None, "build": "b", "sha256": "s"}
    pushed = Pushed(**{**facts, "time": f"2026-{len(list(workspace.root.rglob('*.json'))):04}", **changes})
    write_json(pushed.record(workspace), asdict(pushed))
    return pushed


def test_what_is_fetched_is_what_was_pushed(site: Site) -> None:
    site.runner.leaves = {**a_run(a_fold(0), a_fold(1)), **a_result(), "submission.csv": "id,label\n"}
    pushed = site.run(replace(JOB, folds=[0, 1]))
    assert (pushed.ref, pushed.version, pushed.folds, pushed.state) == (REF, 1, [0, 1], "")
    fetched = site.fetch(pushed)
    assert (fetched.state, fetched.message) == ("finished", "so it said")
    assert fetched.adopted == (site.root / RUN, site.root / OOF)
    assert set(contents(fetched.output)) == {*site.runner.leaves, "kernel.json", "kernel.log"}
    assert (fetched.output / "kernel.log").read_text() == "what it printed\n"
    for where in (RUN, OOF):
        assert contents(site.root / where) == contents(fetched.output / where)
    assert site.last().state == "finished"


def test_the_output_of_another_build_or_version_is_not_taken_over(site: Site) -> None:
    site.runner.leaves, site.runner.of_build = a_run(a_fold(0)), "another"
    pushed = site.run()
    with pytest.raises(KitError, match=rf"is of build another, not of what was pushed \({pushed.build}\)"):
        site.fetch(pushed)
    assert (pushed.output(site.workspace) / RUN / "fold-0" / "fold.json").is_file(), "it is kept to be looked at"
    site.runner.of_build = pushed.build
    site.kaggle.push_kernel(site.root / "kernels" / "train" / "build" / SLUG)  # by somebody else
    site.ended()
    with pytest.raises(KitError, match="at version 2 by now") as refused:
        site.fetch(pushed)
    assert refused.value.expected == "version 1, which was pushed from here"
    assert not (site.root / "runs").exists()
    assert site.last().state == ""


def test_an_output_takes_the_place_of_an_earlier_one_when_it_is_whole(site: Site) -> None:
    site.runner.leaves = {"first.txt": "1"}
    before = site.run()
    site.fetch(before)
    site.runner.leaves = {"second.txt": "2"}
    pushed = site.run()
    assert before.build != pushed.build and before.sha256 == pushed.sha256
    output = pushed.output(site.workspace)
    site.fail("Output", "drop")
    with pytest.raises(Unreachable):
        site.fetch(pushed)
    assert set(contents(output.parent)) == {f"{SLUG}/{name}" for name in ("first.txt", "kernel.json", "kernel.log")}
    assert site.fetch(pushed).state == "finished"
    assert set(contents(output.parent)) == {f"{SLUG}/{name}" for name in ("second.txt", "kernel.json", "kernel.log")}


def test_of_a_kernel_that_failed_finished_folds_are_taken_over(site: Site) -> None:
    here = a_run(a_fold(1, weights="half, here", done=False), a_fold(2))
    write_files(site.root, here)
    whole, half = a_run(a_fold(0)), {**a_fold(1, done=False), **a_fold(2, weights="worse", done=False)}
    site.runner.leaves, site.runner.says, site.runner.ends = {**whole, **half}, "", "ERROR"
    fetched = site.fetch(site.run())
    assert (fetched.state, fetched.message) == ("failed", "it left no kernel.json")
    assert contents(site.root / RUN) == inside(RUN, {**here, **whole})
    assert site.last().state == "failed"


@pytest.mark.parametrize(
    ("ends", "said", "next_step"),
    [
        ("ERROR", "ERROR: it raised", "mend what the log says"),
        ("CANCEL_ACKNOWLEDGED", "ACKNOWLEDGED$", "kit kernel push train"),
    ],
)
def test_a_kernel_that_ends_badly_is_a_failure(site: Site, ends: str, said: str, next_step: str) -> None:
    site.runner.ends, states = ends, list[str]()
    pushed = site.run()
    with pytest.raises(KernelFailed, match="version 1, ended with") as failed:
        kernel_run.wait(site.kaggle, pushed, seconds=1, on_state=states.append, sleep=lambda _: None)
    assert failed.value.exit_code == 3 and re.search(said, failed.value.problem)
    assert next_step in failed.value.next_step
    assert states == [ends]


def test_a_wait_ends_with_the_kernel_whatever_the_server_says_meanwhile(site: Site) -> None:
    pushed, states, pauses = site.started(), list[str](), list[float]()
    site.fail("GetKernelSessionStatus", "503", "429", "unknown", "drop")

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 15:
            site.runner.go.set()
            site.ended()

    kernel_run.wait(site.kaggle, pushed, seconds=3600, on_state=states.append, sleep=sleep)
    assert [state.partition(" ")[0] for state in states] == ["no", "no", "UNHEARD_OF", "no", "RUNNING", "COMPLETE"]
    assert "HTTP 503" in states[0] and "HTTP 429" in states[1]
    assert pauses[:6] == [1.0, 1.5, 1.0, 1.5, 1.0, 1.5], "each news is followed by a short pause"
    assert max(pauses) == pauses[-1] == 30.0


def test_a_wait_has_its_deadline(site: Site) -> None:
    pushed = site.started()
    with pytest.raises(StillRunning, match="is RUNNING after 0 minutes") as waited:
        kernel_run.wait(site.kaggle, pushed, seconds=0.3, on_state=str, sleep=lambda _: pytest.fail("too late"))
    assert (waited.value.exit_code, "kit kernel output train" in waited.value.next_step) == (4, True)
    assert "by itself" not in waited.value.next_step
    assert "goes on by itself" in kernel_run.fetch_later(replace(pushed, server="kaggle.com"))
    site.fail("GetKernelSessionStatus", "unknown", "503", "429")
    for kind in (StillRunning, Unreachable, RateLimited):
        with pytest.raises(kind):
            kernel_run.wait(site.kaggle, pushed, seconds=-1, on_state=str, sleep=lambda _: pytest.fail("too late"))


def test_used_up_gpu_time_is_seen_before_the_push(rehearse: Callable[..., Rehearsal], workspace: Workspace) -> None:
    site = Site(rehearse, workspace, gpu_seconds=7200)
    site.runner.seconds = 7200.0
    before = site.run(enable_gpu=True)
    with pytest.raises(GpuQuota, match="the 2 GPU hours of this week are used up") as refused:
        site.push(enable_gpu=True, again=True)
    assert (refused.value.exit_code, site.server.requests.count(("POST", "SaveKernel"))) == (5, 1)
    pushed = site.push(enable_gpu=False, again=True, code="another")
    assert pushed.version == 2 and pushed.sha256 != before.sha256


def test_a_quota_that_is_not_told_stops_nothing(site: Site) -> None:
    answers: list[dict[str, Any]] = [{}, {"gpuQuota": {}}, {"gpuQuota": {"timeUsed": "9s"}}]
    for answer in answers:
        site.server.protocol._methods["GetAcceleratorQuotaStatistics"] = lambda *_, answer=answer: answer
        site.push(enable_gpu=True, again=True)
    site.fail("GetAcceleratorQuotaStatistics", "503")
    assert site.push(enable_gpu=True, again=True).version == 4
    assert site.server.requests.count(("POST", "GetAcceleratorQuotaStatistics")) == 4


def test_a_push_that_is_refused_is_not_noted(site: Site) -> None:
    for what, kind, code in (("quota", GpuQuota, 5), ("busy", GpuBusy, 5)):
        site.fail("SaveKernel", what)
        with pytest.raises(kind) as refused:
            site.push(enable_gpu=True)
        assert refused.value.exit_code == code
    assert list_pushed("train", workspace=site.workspace, server="rehearsal") == []


def test_a_version_that_is_not_fetched_is_not_pushed_over(site: Site) -> None:
    site.started()
    with pytest.raises(KitError, match="version 1, is RUNNING, and its output has not been fetched"):
        site.push()
    site.runner.go.set()
    site.ended()
    with pytest.raises(KitError, match=r"is COMPLETE, and its output(.|\n)*--again"):
        site.push()
    site.fail("GetKernelSessionStatus", "503")
    with pytest.raises(Unreachable):
        site.push()
    assert site.server.requests.count(("POST", "SaveKernel")) == 1
    assert site.push(slug="kit-train-tiny-other").version == 1

    site.fetch(site.run(again=True))
    site.runner.ends = "ERROR"
    assert site.run().version == 3
    assert site.run().version == 4  # there is nothing to fetch of version 3
    site.runner.ends = "COMPLETE"
    assert site.run().version == 5
    with site.server.protocol.store.change() as state:
        state.kernels.clear()
    assert site.run().version == 1


def test_each_server_has_its_own_records(site: Site) -> None:
    """What is noted of kaggle.com neither stops a rehearsal nor is overwritten by it."""
    with pytest.raises(KitError, match=r"no kernel 'train' has been pushed to rehearsal from here") as refused:
        site.last()
    assert refused.value.expected == "a kernel that was pushed"
    options: dict[str, Any] = {"workspace": site.workspace, "server": "kaggle.com"}
    late, early = (record(slug=slug, time=f"2026-{day}", **options) for slug, day in ((SLUG, "02"), ("b-slug", "01")))
    assert site.run().record(site.workspace) != late.record(site.workspace)
    assert site.last().build != late.build
    (late.record(site.workspace).parent / ".1-a.json").touch()  # what a killed process was writing
    assert list_pushed("train", **options) == [early, late]
    assert find_pushed("train", None, **options) == late
    assert find_pushed("train", "b-slug", **options) == early
    with pytest.raises(KitError, match=r"no kernel 'c-slug' has been pushed to kaggle\.com") as refused:
        find_pushed("train", "c-slug", **options)
    assert refused.value.expected == f"one of b-slug, {SLUG}"


def test_which_kernels_are_gone_on_from(workspace: Workspace) -> None:
    def parts(**changes: Any) -> tuple[int, list[str]]:
        job = replace(JOB, **changes)
        number, refs = kernel_run.earlier_parts("train", job, workspace=workspace, server="rehearsal")
        return number, [ref.removeprefix("rehearsal-user/") for ref in refs]

    for fold in (0, 1):
        record(workspace, f"fold-{fold}", folds=[fold], state="finished")
    record(workspace, "fold-0-part-2", folds=[0], state="stopped")
    record(workspace, "fold-1-part-7", folds=[1], state="failed")
    record(workspace, "other", experiment="other", state="finished")
    record(workspace, "cars", competition="cars", state="finished")
    record(workspace, "there", server="kaggle.com", state="finished")
    assert parts(folds=[0]) == (3, ["fold-0", "fold-0-part-2"])
    assert parts(folds=[1]) == (8, ["fold-1"])
    assert parts() == (8, ["fold-0", "fold-1", "fold-0-part-2"])
    with pytest.raises(KitError, match=r"no kernel of demo on tiny to go on from\n") as refused:
        parts(folds=[2])
    assert refused.value.next_step == "leave --resume out"
    record(workspace, "all", state="stopped")
    assert parts(folds=[2]) == (2, ["all"])
    record(workspace, "waiting", experiment="another")
    with pytest.raises(KitError, match=r"not fetched yet, .*: waiting\n") as refused:
        parts(experiment="another")
    assert refused.value.next_step == "kit kernel output train --slug waiting"


@pytest.mark.parametrize(
    ("theirs", "named"),
    [
        (a_run(a_fold(1), fingerprint="another"), "fingerprint"),
        (a_run(a_fold(1), a_fold(0, sure=0.5)), "fold-0"),
        ({**a_run(a_fold(1)), **a_result(sure=0.5)}, "predictions"),
        ({**a_run(a_fold(1)), **a_result(sure=0.5, folds=(0, 1, 2))}, "predictions"),
        ({**a_run(a_fold(2)), **a_result(sure=0.5, folds=(1, 2))}, "predictions"),
        ({**a_run(a_fold(1)), **a_result(data_sha256="o", metric="o")}, "data_sha256, metric"),
    ],
)
def test_another_experiment_is_left_alone(workspace: Workspace, theirs: dict[str, str], named: str) -> None:
    here = {**a_run(a_fold(0)), **a_result()}
    output = workspace.root / "output"
    write_files(workspace.root, here)
    write_files(output, theirs)
    with pytest.raises(KitError, match=f"another experiment of that name: {named} differ"):
        adopt(output, "tiny", "demo", workspace=workspace)
    assert contents(workspace.root / RUN) == inside(RUN, here)
    assert contents(workspace.root / OOF) == inside(OOF, here)
    assert contents(output) == theirs


def test_taking_over_twice_changes_nothing(workspace: Workspace) -> None:
    """A half fold here gives way to a whole one, and only that."""
    write_files(workspace.root, a_run(a_fold(0), a_fold(1, weights="half", done=False)))
    write_files(workspace.root, {f"{RUN}/fold-0/log.csv": "mine", f"{OOF}/curves.png": "old"})
    output, theirs = workspace.root / "output", {**a_run(a_fold(0), a_fold(1), a_fold(2)), **a_result()}
    write_files(output, theirs)
    for _ in range(2):
        assert len(adopt(output, "tiny", "demo", workspace=workspace)) == 2
        assert contents(workspace.root / RUN) == {**inside(RUN, theirs), "fold-0/log.csv": "mine"}
        assert contents(workspace.root / OOF) == inside(OOF, theirs)


@pytest.mark.parametrize(
    ("ours", "theirs", "kept"),
    [
        ([0], [0, 1], [0, 1]),
        ([0, 1], [0], [0, 1]),
        ([0], [1], [0]),
    ],
)
def test_a_result_of_more_folds_takes_the_place_of_one_of_fewer(
    workspace: Workspace, ours: list[int], theirs: list[int], kept: list[int]
) -> None:
    write_files(workspace.root, {**a_run(*map(a_fold, ours)), **a_result(folds=ours)})
    output = workspace.root / "output"
    write_files(output, {**a_run(*map(a_fold, theirs)), **a_result(folds=theirs)})
    adopt(output, "tiny", "demo", workspace=workspace)
    assert contents(workspace.root / OOF) == inside(OOF, a_result(folds=kept))
    assert {path.name for path in (workspace.root / RUN).glob("fold-*")} == {f"fold-{n}" for n in {*ours, *theirs}}


def test_a_kill_in_the_middle_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs, left = {**a_run(a_fold(0), a_fold(1)), **a_result()}, 0
    half = a_fold(0, weights="half, here", done=False)
    write_files(tmp_path / "output", theirs)

    def copy_until_killed(source: Path, target: Path, **_: object) -> None:
        nonlocal left
        left -= 1
        Path(target).write_bytes(Path(source).read_bytes()[: 3 if left < 0 else None])
        if left < 0:
            raise KeyboardInterrupt

    for copies in range(len(theirs) + 1):
        workspace, left = Workspace(tmp_path / f"killed-after-{copies}"), copies
        write_files(workspace.root, half)
        with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
            patch.setattr("shutil.copyfile", copy_until_killed)
            adopt(tmp_path / "output", "tiny", "demo", workspace=workspace)
        here = {key: text for key, text in contents(workspace.root).items() if not key.startswith("kernels")}
        assert set(here.items()) <= {*theirs.items(), *half.items()}, copies
        adopt(tmp_path / "output", "tiny", "demo", workspace=workspace)
        assert {**contents(workspace.root), **theirs} == contents(workspace.root)
    assert left == 0, "it was never killed, or not at the last file"
