"""What runs inside a kernel's sandbox. `sandbox.py` hands this text to `python -I -S -c`: it imports nothing of ours.

    set_up      mounts the session's folder as /kaggle, in a mount namespace of its own
    supervise   sets up, starts the script, ends with it, and takes every process that it started along
    script      becomes the script

The parent holds the other end of standard input: when it closes it, or dies, the session is over.
"""

import contextlib
import ctypes
import fcntl
import importlib.machinery
import json
import os
import signal
import site
import socket
import struct
import sys
import threading
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_RDONLY, _REMOUNT, _BIND, _REC, _RELATIME = 1, 32, 4096, 16384, 1 << 21  # of mount(2)
_ST_RELATIME, _ST_KEPT = 4096, 2 | 4 | 8 | 1024 | 2048  # of statvfs(3); those kept have the same number as mount flags
_CHILD_SUBREAPER = 36  # of prctl(2)
_STOPPED = 137


def set_up(plan: dict[str, Any]) -> None:
    """Make the system look like Kaggle's to this process and those it starts.

    Raises:
        OSError: The system does not allow it.
    """
    if plan["network_namespace"]:
        _raise_loopback()
    if not plan["mount_namespace"]:
        return
    # A new root, as the system's own may not be written to: its folders, and /kaggle beside them.
    root = Path(plan["root"])
    _mount("tmpfs", root, kind="tmpfs")
    for entry in os.scandir("/"):
        place = root / entry.name
        if entry.is_symlink():
            place.symlink_to(os.readlink(entry.path))
        elif entry.is_dir() and entry.name != "kaggle":
            place.mkdir()
            _mount(entry.path, place, flags=_BIND | _REC)
    kaggle = root / "kaggle"
    kaggle.mkdir()
    _mount(plan["folder"], kaggle, flags=_BIND)
    for where, source in plan["inputs"].items():
        _mount(source, kaggle / "input" / where, flags=_BIND)
        _make_read_only(kaggle / "input" / where)
    os.chroot(root)
    os.chdir("/kaggle/working")


def _mount(source: str, target: Path, *, kind: str = "", flags: int = 0) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(os.fsencode(source), os.fsencode(target), kind.encode() or None, ctypes.c_ulong(flags), None):
        number = ctypes.get_errno()
        raise OSError(number, f"mount: {os.strerror(number)}", source, None, str(target))


def _make_read_only(target: Path) -> None:
    # In a user namespace the flags a mount has already must be named again, or the kernel refuses.
    has = os.statvfs(target).f_flag
    kept = has & _ST_KEPT | (_RELATIME if has & _ST_RELATIME else 0)
    _mount("none", target, flags=_REMOUNT | _BIND | _RDONLY | kept)


def _raise_loopback() -> None:
    """Let processes of the session talk to each other over 127.0.0.1."""
    get_flags, set_flags, up = 0x8913, 0x8914, 1
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sH14x", b"lo", 0)
        (flags,) = struct.unpack_from("H", fcntl.ioctl(control, get_flags, request), 16)
        fcntl.ioctl(control, set_flags, struct.pack("16sH14x", b"lo", flags | up))


def supervise(plan: dict[str, Any], script: Sequence[str]) -> int:
    """Run the command `script` to its end, or until standard input ends; nothing it started is left.

    Returns:
        Its exit code; 128 and the number of the signal that ended it.
    """
    set_up(plan)
    with contextlib.suppress(AttributeError):  # of Linux alone
        # Processes whose parent has ended become children of this one, however they detached themselves.
        ctypes.CDLL(None).prctl(_CHILD_SUBREAPER, 1, 0, 0, 0)
    nothing = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
    child = os.posix_spawn(script[0], list(script), os.environ, file_actions=[nothing], setpgroup=0)

    def wait_for_the_parent() -> None:
        while os.read(0, 1):
            pass
        _end_all()
        os._exit(_STOPPED)

    threading.Thread(target=wait_for_the_parent, daemon=True).start()
    while True:
        try:
            ended, status = os.wait()
        except ChildProcessError:  # taken by the other thread, which ends this process
            threading.Event().wait()
        if ended == child:
            break
    _end_all()
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _end_all() -> None:
    """Kill every process below this one; again, as they may have started others meanwhile."""
    while True:
        for process in _descendants():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        try:
            os.wait()
        except ChildProcessError:
            return


def _descendants() -> list[int]:
    parents = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(file.parent.name)] = int(file.read_text(errors="replace").rpartition(")")[2].split()[1])
    found = [os.getpid()]
    for process in found:
        found += [child for child, parent in parents.items() if parent == process]
    return found[1:]


class HiddenPackage(importlib.machinery.PathFinder):
    """Refuses to import the kit from where this machine has it; one that the kernel brought along is none of those."""

    name = ""
    places: frozenset[str] = frozenset()

    @classmethod
    def find_spec(
        cls, fullname: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname == cls.name:
            spec = super().find_spec(fullname, path, target)
            found = list(spec.submodule_search_locations or [os.path.dirname(spec.origin or "")]) if spec else []
            if {os.path.realpath(place) for place in found} & cls.places:
                raise ModuleNotFoundError(
                    f"No module named {fullname!r}: it is installed here, but not on Kaggle", name=fullname
                )
        return None


def script(plan: dict[str, Any], path: str) -> None:
    """Run the file at `path` as the main program, with the installed packages but the kit."""
    site.setquit()  # what -S leaves out
    sys.path += plan["packages"]
    HiddenPackage.name = plan["hidden"]
    HiddenPackage.places = frozenset(map(os.path.realpath, plan["hidden_places"]))
    sys.meta_path.insert(0, HiddenPackage)
    sys.path.insert(0, os.path.dirname(path))
    sys.argv = [path]
    # Not `runpy`, which takes the module away again before threads and exit handlers of the script have ended.
    main = types.ModuleType("__main__")
    main.__file__ = path
    sys.modules["__main__"] = main
    with open(path, "rb") as file:
        code = compile(file.read(), path, "exec")
    exec(code, main.__dict__)


if __name__ == "__main__":
    role, content, *rest = sys.argv[1:]
    if role == "script":
        script(json.loads(content), rest[0])
    elif role == "supervise":
        sys.exit(supervise(json.loads(content), rest))
    else:
        set_up(json.loads(content))
