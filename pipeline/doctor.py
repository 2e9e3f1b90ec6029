"""What this machine has for the kit, what will be slow on it and why, and what to do about it.

A package that is broken is something to be found: what may be is imported inside a check, TensorFlow and all that a
training imports in a process of their own. Nothing is changed, and nothing is asked of the network unless told to.
"""

import importlib.util
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from importlib import metadata
from pathlib import Path

from pipeline.errors import KitError, counted

KIT = "kaggle-image-kit"
EXTRAS = {
    "export": "ONNX files",
    "jax": "training on JAX",
    "lite": "ImageNet weights of EfficientNet-Lite",
    "serve": "the local page",
}
_SHOWN = ("tensorflow", "keras", "numpy", "pandas", "albumentations", "kaggle")
_NAMED = 6  # of the backbones whose weights are here
_DISK_GB, _LEAST_DISK_GB = 20, 1  # room for decoded pictures, as `--cache-gb` has it; for weights and predictions alone
_MEMORY_GIB = 4  # TensorFlow, a small network and its workers
_SHARED_GIB = 1  # twice the batches ahead of a training with large pictures
_PATIENCE = 300.0  # seconds for importing TensorFlow
_PROBE = """
import json
from pipeline.training.device import import_tensorflow_quietly, seen
import_tensorflow_quietly()
print(json.dumps(seen()), flush=True)
import albumentations, pipeline.report.plots, pipeline.training.cross_validate
"""


class Level(StrEnum):
    """How bad it is."""

    ok = "ok"
    note = "note"
    """Slow, or something is missing that a training does not need."""
    problem = "problem"
    """To be mended before a training works."""


@dataclass(frozen=True)
class Finding:
    """One thing found: how bad it is, what it is about, what there is, and what to do if anything is to be done."""

    level: Level
    about: str
    found: str
    next_step: str = ""


def examine(root: Path, *, online: bool = False) -> Iterator[Finding]:
    """Look at everything, the slow last; each finding comes as soon as it is known.

    Args:
        root: The workspace.
        online: Sign in to Kaggle, and ask it one thing.
    """
    checks: dict[str, Callable[[], Iterator[Finding]]] = {
        "Python": _python,
        "packages": _packages,
        "processor": _processor,
        "disk": lambda: _disk(root),
        "bytecode": _bytecode,
        "extras": _extras,
        "weights": _weights,
        "Kaggle": lambda: _kaggle(online=online),
        "training": _training,
    }
    for about, check in checks.items():
        try:
            yield from check()
        except Exception as error:  # whatever a broken package raises
            found = f"cannot be looked at: {type(error).__name__}: {error}"
            missing = error.name if isinstance(error, ModuleNotFoundError) else None
            yield Finding(Level.problem, about, found, f"pip install {missing}" if missing else "mend that")


def _python() -> Iterator[Finding]:
    from packaging.specifiers import SpecifierSet

    needed = str(metadata.metadata(KIT)["Requires-Python"])
    found = f"{platform.python_version()}, kit {metadata.version(KIT)}"
    if platform.python_version() in SpecifierSet(needed, prereleases=True):
        yield Finding(Level.ok, "Python", found)
    else:
        yield Finding(Level.problem, "Python", f"{found}; it has to be {needed}", "make .venv anew with such a Python")


def _packages() -> Iterator[Finding]:
    faulty = _unmet()
    if faulty:
        what = ", ".join(f"{name} {_version(name) or 'is missing'}" for name in faulty)
        wanted = " ".join(f"'{requirement}'" for requirement in faulty.values())
        yield Finding(Level.problem, "packages", f"not what the kit needs: {what}", f"pip install {wanted}")
    shown = ", ".join(f"{name} {version}" for name in _SHOWN if name not in faulty and (version := _version(name)))
    yield Finding(Level.ok, "packages", shown + ("" if faulty else "; all within the kit's bounds"))


def _unmet(extra: str = "") -> dict[str, str]:
    """What is missing or has a version out of bounds, with the requirement: of the kit, or of an extra alone."""
    from packaging.requirements import Requirement

    found = {}
    for text in metadata.requires(KIT) or ():
        wanted = Requirement(text)
        needed = wanted.marker is None or wanted.marker.evaluate({"extra": ""})
        of_extra = wanted.marker is not None and not needed and wanted.marker.evaluate({"extra": extra})
        version = _version(wanted.name)
        fits = version is not None and wanted.specifier.contains(version, prereleases=True)
        if (of_extra if extra else needed) and not fits:
            found[wanted.name] = f"{wanted.name}{wanted.specifier}"
    return found


def _version(name: str) -> str | None:
    with suppress(metadata.PackageNotFoundError):
        return metadata.version(name)
    return None


def _processor() -> Iterator[Finding]:
    from pipeline.training.memory import available_memory, machine_memory

    cores, free = _cores(), available_memory() / 2**30
    started = os.cpu_count() or 1
    found = f"{counted(cores, 'core', 'cores')}, {machine_memory()[-1]} of memory"
    found += f", {free:.1f} GiB of it free" * (free > 0)
    if cores < min(8, started):
        step = f"kit train … --workers {cores}"
        found += f"; {started} cores are there, but not all for this process"
        yield Finding(Level.note, "processor", found, step)
    elif 0 < free < _MEMORY_GIB:
        step = "end other programs; or --workers 1 and smaller batches"
        yield Finding(Level.note, "processor", f"{found}: a training may run out of it", step)
    else:
        yield Finding(Level.ok, "processor", found)


def _cores() -> int:
    """How many cores this process may use: of its affinity, and of its container (cgroups 2)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):  # `max` is no number
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text("utf-8").split()
        cores = min(cores, max(1, int(quota) // int(period)))
    return cores


def _disk(root: Path) -> Iterator[Finding]:
    free = shutil.disk_usage(root).free / 1e9
    found, where = f"{free:.0f} GB free for this folder", f"another folder than {root.resolve()}"
    if not os.access(root, os.W_OK):
        yield Finding(Level.problem, "disk", "this folder cannot be written", where)
    elif free < _LEAST_DISK_GB:
        yield Finding(Level.problem, "disk", f"{free:.1f} GB free for this folder", f"make room, or take {where}")
    elif free < _DISK_GB:
        step = "make room; or let it be fewer: --cache-gb"
        yield Finding(Level.note, "disk", f"{found}, where decoded pictures may take {_DISK_GB}", step)
    else:
        yield Finding(Level.ok, "disk", found)
    shared = Path("/dev/shm")
    if shared.is_dir():
        room = shutil.disk_usage(shared).free / 2**30
        if room < _SHARED_GIB:
            step = "in a container: docker run --shm-size=2g"
            found = f"{room:.2f} GiB free in {shared}: batches of large pictures go through files on disk instead"
            yield Finding(Level.note, "shared", found, step)
        else:
            yield Finding(Level.ok, "shared", f"{room:.1f} GiB free in {shared} for batches")


def _bytecode() -> Iterator[Finding]:
    spec = importlib.util.find_spec("tensorflow")
    if spec is None or spec.origin is None or not sys.dont_write_bytecode:
        return
    if Path(importlib.util.cache_from_source(spec.origin)).is_file():
        yield Finding(Level.ok, "bytecode", "PYTHONDONTWRITEBYTECODE is set, but TensorFlow's is there")
    else:
        found = "PYTHONDONTWRITEBYTECODE is set: each process, which each fold is, compiles TensorFlow anew"
        yield Finding(Level.note, "bytecode", found, "unset PYTHONDONTWRITEBYTECODE, once at least")


def _extras() -> Iterator[Finding]:
    missing = [extra for extra in EXTRAS if _unmet(extra)]
    there = ", ".join(f"{extra} ({what})" for extra, what in EXTRAS.items() if extra not in missing)
    if there:
        yield Finding(Level.ok, "extras", there)
    for extra in missing:
        yield Finding(Level.note, "extras", f"without {extra}: {EXTRAS[extra]}", f"pip install '{KIT}[{extra}]'")


def _weights() -> Iterator[Finding]:
    from pipeline.model.backbones import BACKBONES
    from pipeline.model.weights import models_folder

    here = [
        name if weights == "imagenet" else f"{name}={weights}"
        for name, backbone in BACKBONES.items()
        for weights, file in backbone.files.items()
        if file.here()
    ]
    if here:
        more = f" and {len(here) - _NAMED} more" if len(here) > _NAMED else ""
        yield Finding(Level.ok, "weights", f"here, others are downloaded: {', '.join(here[:_NAMED])}{more}")
    else:
        step = f"nothing; without internet put the files into {models_folder()}"
        yield Finding(Level.note, "weights", "of no backbone here: they are downloaded at their first use", step)


def _kaggle(*, online: bool) -> Iterator[Finding]:
    from pipeline.submit.kaggle_client import Kaggle
    from pipeline.submit.kaggle_errors import no_credentials
    from pipeline.submit.kaggle_sign_in import credentials_here

    if not online:
        where = credentials_here()
        if where:
            yield Finding(Level.ok, "Kaggle", f"credentials in {where}; --online tries them")
            return
        found = "no credentials, which `kit download`, `kit submit` and `kit kernel` need"
        yield Finding(Level.note, "Kaggle", found, no_credentials("", server="kaggle.com").next_step)
        return
    try:
        kaggle = Kaggle.connect(timeout=15, attempts=1)
        quota = kaggle.quota()
    except KitError as error:
        yield Finding(Level.note, "Kaggle", error.problem, error.next_step)
        return
    hours = (quota.allowed_s - quota.used_s) / 3600
    name = f"{kaggle.server} takes the credentials" + f" of {kaggle.user}" * bool(kaggle.user)
    yield Finding(Level.ok, "Kaggle", f"{name}; {hours:.1f} hours of GPU are left this week")


def _training() -> Iterator[Finding]:
    """What TensorFlow sees, and whether all that a training imports can be imported; it may end its process."""
    command = [sys.executable, "-c", _PROBE]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        found = f"importing TensorFlow takes longer than {_PATIENCE:.0f} s"
        yield Finding(Level.problem, "training", found, "look at what else this machine does, then try again")
        return
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            yield from _devices(json.loads(line))
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        step = "on an old processor: an older TensorFlow; else install it anew"
        yield Finding(Level.problem, "training", f"importing what it needs ends with {name}", step)
    elif done.returncode:
        yield _import_failed(done.stderr)
    else:
        yield Finding(Level.ok, "training", "all that it needs can be imported")


def _import_failed(trace: str) -> Finding:
    """Name the package at fault: the one that is not found, else the one whose code raised."""
    reason = next((line for line in reversed(trace.splitlines()) if line.strip()), "no reason")
    named = re.search(r"No module named '(\w+)", reason)
    raised = re.findall(r"site-packages/(\w+)", trace)
    module = named[1] if named else raised[-1] if raised else ""
    package = next(iter(metadata.packages_distributions().get(module, [])), None)
    step = "install the package that holds it"
    if package:
        step = f"pip install --force-reinstall --no-deps {package}=={_version(package)}"
    return Finding(Level.problem, "training", f"what it needs cannot be imported: {reason[:300]}", step)


def _devices(seen: dict[str, str]) -> Iterator[Finding]:
    from pipeline.training.memory import nvidia_gpus

    cards, tool = nvidia_gpus(), shutil.which("nvidia-smi")
    framework = "TensorFlow" if seen["backend"] == "tensorflow" else seen["backend"].upper()
    found = f"{framework} on {seen['devices']}"
    if "gpu" in seen["devices"] or "tpu" in seen["devices"]:
        yield Finding(Level.ok, "device", f"{found} ({'; '.join(cards) or 'its memory is not known'})")
    elif tool:
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        step = f"pip install '{KIT}[gpu]'" if framework == "TensorFlow" else "pip install 'jax[cuda12]'"
        if not cards:
            step = "nvidia-smi finds no card: see what it says about the driver"
        elif hidden is not None:
            step = f"unset CUDA_VISIBLE_DEVICES, which is '{hidden}'"
        card = "; ".join(cards) or "an NVIDIA card"
        yield Finding(Level.note, "device", f"{found}, though there is {card}: many times slower than on it", step)
    else:
        step = "`progressive-lite` and `probe` are for this; `kit kernel run train` trains on Kaggle's GPUs"
        yield Finding(Level.note, "device", f"{found}, no GPU: large networks are slow", step)
    yield Finding(Level.ok, "precision", f"auto is {seen['precision']} here")
    if os.environ.get("TF_ENABLE_ONEDNN_OPTS") == "0":
        found = "off by TF_ENABLE_ONEDNN_OPTS=0: convolutions are slower on a CPU"
        yield Finding(Level.note, "oneDNN", found, "unset TF_ENABLE_ONEDNN_OPTS")
    elif seen["onednn"] == "on":
        yield Finding(Level.ok, "oneDNN", "on")
