"""Pushes on a local Kaggle: on record before they are sent, found again by their build, never made twice."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from datetime import UTC, datetime

import pytest

from pipeline.artifacts import Workspace, write_json
from pipeline.errors import BusyError, DataError, KitError
from pipeline.rehearsal.bent import BENT
from pipeline.rehearsal.faults import Fault
from pipeline.rehearsal.server import Rehearsal
from pipeline.submit import kernel_run
from pipeline.submit.kaggle_client import Kaggle
from pipeline.submit.kaggle_errors import GpuQuota, OutcomeUnknown, SourceDropped, Unreachable
from pipeline.submit.kernel_run import KernelFailed
from pipeline.submit.pushes import LOST_AFTER, Pushed, list_pushed, list_sending, take_up
from tests.submit.test_kernel_run import REF, SLUG, Site, write_files

KILLED = """
import os, signal, sys
from pathlib import Path
from pipeline.artifacts import Workspace
from pipeline.submit.job import Job
from pipeline.submit.kaggle_client import Kaggle
from pipeline.submit.kernel import Built
from pipeline.submit.kernel_run import push

def killed(_seconds):
    os.kill(os.getpid(), signal.SIGKILL)

job = Job("tiny", "demo", {"backbone": "tiny", "weights": "none"}, 600.0, "files", ["train.csv"], build=sys.argv[2])
push(Kaggle.connect(timeout=20, sleep=killed), Built(Path(sys.argv[1]), job), workspace=Workspace(Path(sys.argv[3])))
"""
OPTIONS = {"server": "rehearsal"}


@pytest.fixture
def site(rehearse: Callable[..., Rehearsal], tmp_path: object) -> Site:
    return Site(rehearse, Workspace(tmp_path / "workspace"))  # type: ignore[operator]


def versions(site: Site) -> int:
    with site.server.protocol.store.read() as state:
        return len(state.kernels[SLUG].versions) if SLUG in state.kernels else 0


def sending(site: Site) -> list[Pushed]:
    return [
        Pushed(**json.loads(file.read_text())) for file in list_sending("train", workspace=site.workspace, **OPTIONS)
    ]


def known(site: Site) -> list[Pushed]:
    return list_pushed("train", workspace=site.workspace, **OPTIONS)


def kill_a_push(site: Site, fault: str) -> str:
    """A push that is killed as soon as its answer is lost; returns its build."""
    built = site.built()
    site.fail("SaveKernel", fault)
    command = [sys.executable, "-c", KILLED, str(built.folder), built.job.build, str(site.root)]
    done = subprocess.run(command, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    return built.job.build


def test_a_push_that_is_killed_after_it_arrived_is_found_and_not_made_again(site: Site) -> None:
    build = kill_a_push(site, "lost")
    assert versions(site) == 1 and known(site) == []
    [note] = sending(site)
    assert (note.version, note.build, note.ref) == (0, build, REF)
    with pytest.raises(KitError, match=r"version 1, is .* has not been fetched"):
        site.push()
    assert versions(site) == 1 and sending(site) == []
    [pushed] = known(site)
    assert (pushed.version, pushed.build) == (1, build)
    site.ended()
    assert site.fetch(pushed).state == "finished"
    assert site.push().version == 2


def test_a_push_that_is_killed_before_it_arrived_is_made_once_that_is_sure(site: Site) -> None:
    kill_a_push(site, "drop")
    with pytest.raises(KitError, match=r"ended at .* without an answer, and its version is not to be seen yet"):
        site.push()
    assert versions(site) == 0
    [note] = sending(site)
    write_json(note.sending(site.workspace), asdict(replace(note, time=(datetime.now(UTC) - LOST_AFTER).isoformat())))
    assert site.push().version == 1
    assert sending(site) == []


def test_a_push_that_is_killed_is_found_behind_a_version_pushed_elsewhere(site: Site) -> None:
    build = kill_a_push(site, "lost")
    built = site.built()
    built.change(id=REF)
    site.kaggle.push_kernel(built.folder)
    take_up(site.kaggle, "train", workspace=site.workspace)
    assert [(pushed.version, pushed.build) for pushed in known(site)] == [(1, build)]
    assert versions(site) == 2


def test_two_pushes_at_once_make_one_version(site: Site) -> None:
    site.runner.go.clear()
    built = site.built()

    def push(_number: int) -> object:
        try:
            return kernel_run.push(Kaggle.connect(timeout=20, attempts=1), built, workspace=site.workspace)
        except KitError as error:
            return error

    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(push, range(4)))
    assert versions(site) == 1
    assert sum(isinstance(outcome, Pushed) for outcome in outcomes) == 1
    refused = [outcome for outcome in outcomes if not isinstance(outcome, Pushed)]
    assert all(isinstance(each, BusyError) or "has not been fetched" in str(each) for each in refused), refused


@pytest.mark.parametrize("shape", BENT)
def test_a_version_whose_answer_is_bent_is_on_record(site: Site, shape: str) -> None:
    site.kaggle = Kaggle.connect(timeout=10, attempts=2, sleep=lambda _seconds: None)
    site.fail("SaveKernel", f"answer:{shape}")
    pushed = site.push()
    assert (pushed.version, versions(site), known(site), sending(site)) == (1, 1, [pushed], [])


def test_a_push_of_which_nothing_is_known_stays_on_record(site: Site) -> None:
    site.kaggle = Kaggle.connect(timeout=10, attempts=1, sleep=lambda _seconds: site.fail("GetKernel", "503"))
    site.fail("SaveKernel", "lost")
    with pytest.raises(OutcomeUnknown):
        site.push()
    assert len(sending(site)) == 1
    site.server.faults.clear()
    take_up(site.kaggle, "train", workspace=site.workspace)
    assert [pushed.version for pushed in known(site)] == [1] and sending(site) == []


def test_a_push_that_is_refused_leaves_what_was_known(site: Site) -> None:
    before = site.run()
    site.fetch(before)
    before = site.last()
    site.fail("SaveKernel", "quota")
    with pytest.raises(GpuQuota):
        site.push()
    assert known(site) == [before] and sending(site) == []
    site.fail("SaveKernel", "503")
    site.kaggle = Kaggle.connect(timeout=10, attempts=1, sleep=lambda _seconds: None)
    with pytest.raises(Unreachable):
        site.push()
    assert known(site) == [before] and len(sending(site)) == 1


def test_a_version_without_its_source_is_on_record_and_its_page_is_named(site: Site) -> None:
    site.runner.go.clear()
    with pytest.raises(SourceDropped, match="runs version 1 without them: dataset nobody/nothing") as dropped:
        site.push(dataset_sources=["nobody/nothing"])
    assert "cancel the session at http" in dropped.value.next_step and REF in dropped.value.next_step
    assert [pushed.version for pushed in known(site)] == [1] and sending(site) == []
    with pytest.raises(KitError, match="has not been fetched"):
        site.push()


def test_a_version_pushed_elsewhere_is_not_ours(site: Site) -> None:
    pushed = site.run()
    site.runner.ends = "ERROR"
    built = site.built()
    built.change(id=REF)
    site.kaggle.push_kernel(built.folder)
    site.ended()
    assert site.kaggle.kernel_status(REF).state == "ERROR"
    assert site.kaggle.kernel_status(REF, pushed.version).state == "COMPLETE"
    kernel_run.wait(site.kaggle, pushed, seconds=5, on_state=lambda _state: None)
    with pytest.raises(KernelFailed):
        kernel_run.wait(site.kaggle, replace(pushed, version=2), seconds=5, on_state=lambda _state: None)


def test_some_files_of_an_output_are_fetched_alone(site: Site) -> None:
    site.runner.leaves = {"submission.csv": "id,label\n", "runs/big.h5": "weights"}
    pushed = site.run()
    assert kernel_run.fetch_some(site.kaggle, pushed, "*.csv", workspace=site.workspace, progress=False) == 1
    output = pushed.output(site.workspace)
    assert [path.name for path in output.rglob("*")] == ["submission.csv"]
    assert site.last().state == "", "its output has not been fetched"


@pytest.mark.parametrize("text", ['{"build": "b', "[1, 2]", "{}", '{"build": 7}', "null"])
def test_a_damaged_report_of_a_kernel_is_named(site: Site, text: str) -> None:
    site.runner.leaves, site.runner.says = {"kernel.json": text}, ""
    pushed = site.run()
    with pytest.raises(KitError, match=r"kernel\.json is damaged, so it is not known which build"):
        site.fetch(pushed)
    assert (pushed.output(site.workspace) / "kernel.log").is_file()


@pytest.mark.parametrize("text", ['{"ref": ', "[]", "{}", ""])
def test_a_damaged_record_is_named(site: Site, text: str) -> None:
    pushed = site.run()
    write_files(site.root, {str(pushed.record(site.workspace).relative_to(site.root)): text})
    with pytest.raises(DataError, match=rf"{SLUG}\.json is damaged"):
        site.push()


def test_waiting_for_a_kernel_ends_in_its_time_though_the_server_hangs(site: Site) -> None:
    pushed = site.started()
    site.server.faults.append(Fault("GetKernelSessionStatus", "hang", 0))
    kaggle, began = Kaggle.connect(timeout=60, attempts=5), time.monotonic()
    with pytest.raises(KitError):
        kernel_run.wait(kaggle, pushed, seconds=1.5, on_state=lambda _state: None)
    assert time.monotonic() - began < 1.5 + 3
