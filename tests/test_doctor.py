"""kit doctor: what it says of this machine, and of one where something is broken, missing or hidden."""

import configparser
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from pipeline import doctor
from pipeline.doctor import EXTRAS, KIT, Finding, Level, examine
from pipeline.model.backbones import BACKBONES
from pipeline.rehearsal.faults import Fault
from pipeline.rehearsal.server import Rehearsal

ROOT = Path(__file__).resolve().parents[1]
SECRET = "KGAT_sehr-geheim"


def kit_doctor(folder: Path, **changes: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from pipeline.cli import main; main()", "doctor"]
    environment = {**os.environ, **changes}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def found(about: str, root: Path, *, online: bool = False) -> Finding:
    """The finding of this name; what comes later, such as TensorFlow, is not looked at."""
    return next(finding for finding in examine(root, online=online) if finding.about == about)


def module(folder: Path, name: str, code: str) -> str:
    """A package of this name that comes before the installed one, where PYTHONPATH is what is returned."""
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(code, "utf-8")
    return str(folder)


def installed(folder: Path, name: str, number: str, *more: str) -> str:
    """A package's metadata likewise."""
    (folder / f"{name.replace('-', '_')}-{number}.dist-info").mkdir()
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {number}", *more]
    (folder / f"{name.replace('-', '_')}-{number}.dist-info" / "METADATA").write_text("\n".join(lines) + "\n", "utf-8")
    return str(folder)


@pytest.mark.slow
def test_a_machine_that_works_with_a_card_that_tensorflow_does_not_see(tmp_path: Path) -> None:
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho 'NVIDIA T4, 15360 MiB'\n", "utf-8")
    tool.chmod(0o755)
    done = kit_doctor(
        tmp_path,
        PATH=f"{tool.parent}{os.pathsep}{os.environ['PATH']}",
        CUDA_VISIBLE_DEVICES="-1",
        TF_ENABLE_ONEDNN_OPTS="0",
        KAGGLE_API_TOKEN=SECRET,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == f"ok       Python     {platform.python_version()}, kit {version(KIT)}"
    assert f"tensorflow {version('tensorflow')}, keras {version('keras')}" in lines[1]
    assert all(line.split()[0] in ("ok", "note", "next:") for line in lines)
    hidden = next(number for number, line in enumerate(lines) if " device " in line)
    assert lines[hidden].startswith("note     device     TensorFlow on cpu:0, though there is NVIDIA T4, 15360 MiB")
    assert lines[hidden + 1].strip() == "next: unset CUDA_VISIBLE_DEVICES, which is '-1'"
    assert "auto is float32" in done.stdout
    assert "next: unset TF_ENABLE_ONEDNN_OPTS" in done.stdout
    assert "the variable KAGGLE_API_TOKEN" in done.stdout
    assert SECRET not in done.stdout + done.stderr
    assert lines[-1].startswith("ok       training")
    assert len(lines) < 24
    assert list(tmp_path.iterdir()) == [tool.parent], "nothing is written"


@pytest.mark.parametrize(
    ("code", "says", "step"),
    [
        (
            "raise ImportError('libcudart.so: no such file')",
            "ImportError: libcudart.so: no such file",
            f"pip install --force-reinstall --no-deps tensorflow=={version('tensorflow')}",
        ),
        (
            "import not_there_at_all",
            "ModuleNotFoundError: No module named 'not_there_at_all'",
            "install the package that holds it",
        ),
        ("import os; os.kill(os.getpid(), 4)", "ends with SIGILL", "an older TensorFlow"),
    ],
)
def test_a_tensorflow_that_cannot_be_imported_comes_after_all_the_rest(
    tmp_path: Path, code: str, says: str, step: str
) -> None:
    # In a folder named as pip's are: by it the package at fault is known.
    (tmp_path / "site-packages").mkdir()
    done = kit_doctor(tmp_path, PYTHONPATH=module(tmp_path / "site-packages", "tensorflow", code))
    assert done.returncode == 1
    *before, problem, next_step = done.stdout.splitlines()
    assert sum(line.startswith("ok") for line in before) >= 4
    assert problem.startswith("problem  training") and says in problem
    assert step in next_step
    assert "1 problem to mend" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_what_breaks_a_check_is_a_finding_and_the_others_go_on(tmp_path: Path) -> None:
    path = module(tmp_path, "requests", "raise RuntimeError('half installed')")
    module(tmp_path, "tensorflow", "raise ImportError('not now')")
    done = kit_doctor(tmp_path, PYTHONPATH=path)
    assert "problem  Kaggle     cannot be looked at: RuntimeError: half installed" in done.stdout
    assert "not now" in done.stdout
    assert done.returncode == 1


def test_versions_are_held_against_the_bounds_of_the_kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found("packages", tmp_path).level is Level.ok
    monkeypatch.syspath_prepend(installed(tmp_path, "pandas", "1.5.3"))
    packages = found("packages", tmp_path)
    assert packages.level is Level.problem
    assert packages.found == "not what the kit needs: pandas 1.5.3"
    assert packages.next_step == "pip install 'pandas>=2.2'"
    needs = ["Requires-Python: >=3.99", "Requires-Dist: absent-package<2,>=1", "Requires-Dist: numpy>=1"]
    needs += ["Requires-Dist: absent-too>=3; extra == 'serve'", "Requires-Dist: absent-as-well; python_version < '3'"]
    installed(tmp_path, KIT, "0.0.1", *needs)
    assert found("packages", tmp_path).next_step == "pip install 'absent-package<2,>=1'"
    python = found("Python", tmp_path)
    assert (python.level, "has to be >=3.99" in python.found) == (Level.problem, True)
    notes = [finding for finding in examine(tmp_path) if finding.about == "extras" and finding.level is Level.note]
    assert [note.next_step for note in notes] == [f"pip install '{KIT}[serve]'"]


def test_every_extra_is_looked_for() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", "utf-8")
    # `gpu` asks for nothing by a name of its own: whether a card is seen says more. `dev` is the others.
    assert set(setup["options.extras_require"]) - {"gpu", "dev"} == set(EXTRAS)


def test_weights_that_are_here_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    assert "mobilenet-0.25" not in found("weights", tmp_path).found
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / BACKBONES["mobilenet-0.25"].files["imagenet"].name).touch()
    (tmp_path / "models" / BACKBONES["efficientnet-b1"].files["noisy-student"].name).touch()
    weights = found("weights", tmp_path)
    assert weights.level is Level.ok
    assert "efficientnet-b1=noisy-student, mobilenet-0.25" in weights.found


@pytest.mark.parametrize(
    ("limit", "about", "level", "step"),
    [
        ("_LEAST_DISK_GB", "disk", Level.problem, "make room"),
        ("_DISK_GB", "disk", Level.note, "--cache-gb"),
        ("_SHARED_GIB", "shared", Level.note, "--shm-size"),
        ("_MEMORY_GIB", "processor", Level.note, "--workers 1"),
    ],
)
def test_where_there_is_little_room_it_is_said_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, about: str, level: Level, step: str
) -> None:
    assert found(about, tmp_path).level is not Level.problem
    monkeypatch.setattr(doctor, limit, 10**9)
    little = found(about, tmp_path)
    assert little.level is level
    assert step in little.next_step


def test_kaggle_is_asked_only_when_told_to(
    tmp_path: Path, rehearsal: Rehearsal, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "--online tries them" in found("Kaggle", tmp_path).found
    assert rehearsal.requests == []
    asked = found("Kaggle", tmp_path, online=True)
    assert asked.level is Level.ok
    assert "rehearsal takes the credentials of rehearsal-user; 30.0 hours of GPU" in asked.found
    rehearsal.faults.append(Fault.parse("IntrospectToken=503"))
    assert found("Kaggle", tmp_path, online=True).level is Level.note
    monkeypatch.setenv("KAGGLE_API_TOKEN", SECRET)
    refused = found("Kaggle", tmp_path, online=True)
    assert (refused.level, SECRET in str(refused)) == (Level.note, False)
    assert "does not take the token" in refused.found
    monkeypatch.delenv("KAGGLE_API_TOKEN")
    without = found("Kaggle", tmp_path)
    assert without.level is Level.note
    assert "KAGGLE_API_TOKEN" in without.next_step
