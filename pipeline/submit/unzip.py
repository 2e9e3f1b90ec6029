"""Unpacking a zip that is not trusted: whole or not at all.

Whatever would leave the folder, fill the disk or is not what it seems refuses the whole zip. Kaggle's data often
holds zips of pictures inside the zip; these are unpacked, too, each into a folder of its name.
"""

import lzma
import os
import re
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pipeline.errors import DataError
from pipeline.progress import Progress

_CHUNK = 1 << 20
_SPARE = 1 << 28  # bytes of the disk that are left free
# What zipfile raises on bytes that are no zip, or not the ones that were packed.
_DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, struct.error, ValueError, IndexError)


@dataclass(frozen=True)
class Bounds:
    """When a zip is a bomb: if it grows by more than this factor, and to more than this size, bytes.

    Pictures hardly shrink in a zip, and tables by ten or twenty times.
    """

    factor: float = 100.0
    size: int = 1 << 30


@dataclass(frozen=True)
class _Member:
    path: PurePosixPath
    info: zipfile.ZipInfo
    is_folder: bool


class _Refusal(Exception):
    """Why a zip is not unpacked."""


def unpack(
    archive: Path, folder: Path, *, name: str, progress: bool, bounds: Bounds | None = None, keep: bool = False
) -> int:
    """Unpack a zip into `folder`, which appears whole or not at all; returns the number of files.

    The checksum of every member is checked on the way. A damaged zip is deleted, because of the right size it
    would count as downloaded. What an earlier, killed call left behind is removed.

    Args:
        folder: Empty, or not there.
        name: Tells this unpacking from another one into the same folder.
        keep: Keep a damaged zip, too.

    Raises:
        DataError: The zip is damaged or refused, or the disk is full.
    """
    folder = folder.resolve()  # a link to an empty folder stays
    scratch = folder.parent / f".{folder.name}.{name}"
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        files = _unpack(archive, scratch, bounds or Bounds(), progress=progress)
        files += _unpack_inner(scratch, bounds or Bounds(), progress=progress)
        os.replace(scratch, folder)
    except _Refusal as error:
        raise DataError(
            f"{archive} is not unpacked: {error}",
            expected="a zip of plain files, each in its own place below the folder",
            next_step="look at it (`unzip -l`), unpack what you trust by hand, then: kit init SLUG --data FOLDER",
        ) from None
    except OSError as error:
        raise DataError(
            f"{archive} cannot be unpacked: {error}",
            expected="a folder to write to",
            next_step="mend that and run this again: the zip is kept, and nothing was unpacked",
        ) from None
    except _DAMAGE as error:
        if not keep:
            archive.unlink(missing_ok=True)
        raise DataError(
            f"{archive} is damaged: {error}",
            expected="a whole zip; nothing was unpacked" + ("" if keep else ", and it is deleted"),
            next_step="attach it again" if keep else "run the same command again: it downloads the zip anew",
        ) from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return files


def _unpack(archive: Path, folder: Path, bounds: Bounds, *, progress: bool) -> int:
    try:
        with zipfile.ZipFile(archive) as opened:
            members = _members(opened)
            total = sum(member.info.file_size for member in members)
            _require_no_bomb(opened, archive.stat().st_size, bounds)
            folder.mkdir(parents=True)
            _require_room(total, folder)
            label = f"unpacking {archive.name}"
            with Progress(total=total, desc=label, unit="B", unit_scale=True, disable=not progress or None) as bar:
                for member in members:
                    _write(opened, member, folder, advance=bar.update)
    except NotImplementedError as error:
        raise _Refusal(f"it is packed in a way that Python cannot read ({error})") from None
    except OSError as error:
        if error.errno is None:  # bz2's word for damage
            raise zipfile.BadZipFile(str(error)) from None
        raise
    return sum(not member.is_folder for member in members)


def _unpack_inner(folder: Path, bounds: Bounds, *, progress: bool) -> int:
    """Unpack the zips in a folder, one level deep; returns how many files they add."""
    added = 0
    for archive in sorted(path for path in folder.rglob("*") if path.suffix.lower() == ".zip" and path.is_file()):
        target = archive.with_suffix("")
        if target.exists() or not zipfile.is_zipfile(archive):
            continue
        try:
            added += _unpack(archive, target, bounds, progress=progress) - 1
        except (*_DAMAGE, _Refusal) as error:
            raise _Refusal(f"its member {archive.relative_to(folder).as_posix()!r}: {error}") from None
        archive.unlink()
        hoist(target)
    return added


def hoist(folder: Path) -> None:
    """`train/train/…`, of a zip `train.zip` that holds `train/…`, becomes `train/…`."""
    inner = folder / folder.name
    if inner.is_dir() and len(list(folder.iterdir())) == 1:
        aside = folder.with_name(f".{folder.name}.hoisted")
        os.replace(inner, aside)
        os.replace(aside, folder)


def _write(opened: zipfile.ZipFile, member: _Member, folder: Path, *, advance: Callable[[int], object]) -> None:
    target = folder / member.path
    if member.is_folder:
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    # "x": two members that the file system takes for one are refused. The checksum is compared at the end.
    with opened.open(member.info) as source, target.open("xb") as out:
        while chunk := source.read(_CHUNK):
            out.write(chunk)
            advance(len(chunk))
        if out.tell() != member.info.file_size:
            raise zipfile.BadZipFile(f"{member.info.orig_filename!r} is shorter than it says")


def _members(opened: zipfile.ZipFile) -> list[_Member]:
    """The members with the paths they go to, each looked at before anything is written."""
    members = [member for info in opened.infolist() if (member := _member(info)).path.parts]
    files: set[PurePosixPath] = set()
    for member in members:
        if not member.is_folder:
            if member.path in files:
                raise _Refusal(f"two of its members are called {str(member.path)!r}")
            files.add(member.path)
    if not files:
        raise _Refusal("it holds no files")
    for member in members:
        taken = [*member.path.parents, *([member.path] if member.is_folder else [])]
        clash = next((path for path in taken if path in files), None)
        if clash:
            raise _Refusal(f"{str(clash)!r} is both a file and a folder")
    return members


def _member(info: zipfile.ZipInfo) -> _Member:
    # Some Windows programs divide names by backslashes.
    name = info.orig_filename.replace("\\", "/")
    path = PurePosixPath(*(part for part in name.split("/") if part not in ("", ".")))
    kind = stat.S_IFMT(info.external_attr >> 16)
    fault = ""
    if name.startswith("/") or re.match("[A-Za-z]:", name):
        fault = "has an absolute name"
    elif ".." in path.parts:
        fault = "leaves the folder"
    elif "\0" in name:
        fault = "has a zero byte in its name"
    elif kind == stat.S_IFLNK:
        fault = "is a link"
    elif kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        fault = "is neither a file nor a folder"
    elif info.flag_bits & 0x1:
        fault = "is encrypted"
    if fault:
        raise _Refusal(f"its member {info.orig_filename!r} {fault}")
    return _Member(path, info, name.endswith("/"))


def _require_no_bomb(opened: zipfile.ZipFile, size: int, bounds: Bounds) -> None:
    infos = opened.infolist()
    total, largest = sum(info.file_size for info in infos), max(infos, key=lambda info: info.file_size)
    # An honest zip has room for each of its members; one whose members share their bytes has not.
    if sum(info.compress_size for info in infos) > size:
        raise _Refusal(f"its members overlap, {largest.orig_filename!r} among them")
    if total > bounds.size and total > bounds.factor * size:
        raise _Refusal(
            f"its {_bytes(size)} would become {_bytes(total)}, {_bytes(largest.file_size)} of it by "
            f"{largest.orig_filename!r}"
        )


def _require_room(total: int, folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if total + _SPARE > free:
        raise DataError(
            f"the data needs {_bytes(total)} unpacked, and {folder.parent} has {_bytes(free)} free",
            expected="room for all of it",
            next_step="make room and run this again (the zip is kept), or choose another disk: --to FOLDER",
        )


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
