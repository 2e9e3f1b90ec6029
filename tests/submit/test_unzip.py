"""Unpacking: what an honest zip holds arrives whole; anything else leaves nothing behind."""

import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import DataError
from pipeline.submit.unzip import Bounds, unpack

FILES = {"train.csv": b"id,label\n1,a\n", "train/1.jpg": os.urandom(3000), "train/deep/2.jpg": b"", "ä b.txt": b"x"}


def pack(path: Path, files: dict[str, bytes], *, kind: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def left(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def refused(archive: Path, *, bounds: Bounds | None = None) -> str:
    """The reason; nothing may have been written, inside the target's folder or out of it."""
    before = left(archive.parent)
    with pytest.raises(DataError) as caught:
        unpack(archive, archive.parent / "data", name="x", progress=False, bounds=bounds)
    assert left(archive.parent) == before, "the zip is kept, and nothing else is there"
    return str(caught.value)


@pytest.mark.parametrize("kind", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_an_honest_zip_arrives_whole(tmp_path: Path, kind: int) -> None:
    archive = pack(tmp_path / "x.zip", FILES, kind=kind)
    assert unpack(archive, tmp_path / "new" / "data", name="x", progress=False) == len(FILES)
    assert files_of(tmp_path / "new" / "data") == FILES
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["data"]


def test_names_of_other_systems_and_folders_are_understood(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("./a/", "")
        archive.writestr("./a/b.txt", "1")
        for name in ("c\\d.txt", "empty\\"):
            info = zipfile.ZipInfo(name)
            info.filename = info.orig_filename = name
            archive.writestr(info, "2" if name == "c\\d.txt" else "")
    assert unpack(tmp_path / "x.zip", tmp_path / "data", name="x", progress=False) == 2
    assert left(tmp_path / "data") == ["a", "a/b.txt", "c", "c/d.txt", "empty"]


def test_an_empty_folder_and_a_link_to_one_are_filled(tmp_path: Path) -> None:
    archive = pack(tmp_path / "x.zip", FILES)
    (tmp_path / "disk" / "empty").mkdir(parents=True)
    (tmp_path / "data").symlink_to(tmp_path / "disk" / "empty")
    unpack(archive, tmp_path / "data", name="x", progress=False)
    assert (tmp_path / "data").is_symlink()
    assert files_of(tmp_path / "data") == FILES
    assert left(tmp_path / "disk")[0] == "empty"


def test_zips_inside_are_unpacked_into_folders_of_their_names(tmp_path: Path) -> None:
    inner = {
        "plain.zip": {"1.jpg": b"1", "2.jpg": b"2"},
        "named.zip": {"named/1.jpg": b"3", "named/named/2.jpg": b"4"},
        "sub/both.zip": {"both/1.jpg": b"5", "other/2.jpg": b"6"},
        "taken.zip": {"1.jpg": b"7"},
    }
    files = {"taken/0.jpg": b"0", "odd.zip": b"no zip at all"}
    for name, content in inner.items():
        files[name] = pack(tmp_path / "inner.zip", content).read_bytes()
    (tmp_path / "inner.zip").unlink()
    count = unpack(pack(tmp_path / "x.zip", files), tmp_path / "data", name="x", progress=False)
    found = files_of(tmp_path / "data")
    assert count == len(found)
    assert found == {
        "taken/0.jpg": b"0",
        "taken.zip": files["taken.zip"],
        "odd.zip": b"no zip at all",
        "plain/1.jpg": b"1",
        "plain/2.jpg": b"2",
        "named/1.jpg": b"3",
        "named/named/2.jpg": b"4",
        "sub/both/both/1.jpg": b"5",
        "sub/both/other/2.jpg": b"6",
    }


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("../x.txt", "leaves the folder"),
        ("a/../../x.txt", "leaves the folder"),
        ("a/b/..", "leaves the folder"),
        ("..\\x.txt", "leaves the folder"),
        ("/etc/x.txt", "has an absolute name"),
        ("\\x.txt", "has an absolute name"),
        ("C:\\x.txt", "has an absolute name"),
        ("c:x.txt", "has an absolute name"),
        ("a.txt\0.jpg", "has a zero byte in its name"),
    ],
)
@pytest.mark.parametrize("depth", ["outer", "inner"])
def test_a_member_that_would_leave_the_folder_is_refused(tmp_path: Path, name: str, why: str, depth: str) -> None:
    (tmp_path / "here").mkdir()
    archive = tmp_path / "here" / "x.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("fine.txt", "fine")
        info = zipfile.ZipInfo("placeholder")
        info.filename = info.orig_filename = name
        opened.writestr(info, "evil")
    if depth == "inner":
        pack(archive, {"fine.txt": b"fine", "in.zip": archive.read_bytes()})
    message = refused(archive)
    assert why in message
    assert repr(name) in message
    assert left(tmp_path) == ["here", "here/x.zip"]


@pytest.mark.parametrize(
    ("mode", "why"),
    [(stat.S_IFLNK | 0o777, "is a link"), (stat.S_IFIFO, "is neither a file"), (stat.S_IFCHR, "is neither a file")],
)
def test_links_and_devices_are_refused(tmp_path: Path, mode: int, why: str) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        info = zipfile.ZipInfo("passwords.txt")
        info.external_attr = mode << 16
        archive.writestr(info, "/etc/passwd")
    assert f"its member 'passwords.txt' {why}" in refused(tmp_path / "x.zip")


def test_an_encrypted_member_is_refused(tmp_path: Path) -> None:
    archive = pack(tmp_path / "x.zip", {"a.txt": b"secret"})
    content = bytearray(archive.read_bytes())
    for signature, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        content[content.index(signature) + place] |= 1
    archive.write_bytes(content)
    assert "its member 'a.txt' is encrypted" in refused(archive)


@pytest.mark.filterwarnings("ignore:Duplicate name")  # zipfile's, when the test writes one
@pytest.mark.parametrize(
    ("names", "why"),
    [
        (["a.txt", "a.txt"], "two of its members are called 'a.txt'"),
        (["a.txt", "./a.txt"], "two of its members are called 'a.txt'"),
        (["a", "a/b.txt"], "'a' is both a file and a folder"),
        (["a/b.txt", "a"], "'a' is both a file and a folder"),
        (["a", "a/"], "'a' is both a file and a folder"),
        (["only/"], "it holds no files"),
        ([], "it holds no files"),
    ],
)
def test_two_members_cannot_have_one_place(tmp_path: Path, names: list[str], why: str) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name in names:
            archive.writestr(name, "")
    assert why in refused(tmp_path / "x.zip")


def test_a_bomb_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    archive = pack(tmp_path / "x.zip", {"small.txt": b"x", "zeros.bin": bytes(2_000_000)})
    message = refused(archive, bounds=Bounds(factor=100, size=1_000_000))
    assert "would become 2 MB" in message
    assert "'zeros.bin'" in message
    pack(archive, {"inner.zip": archive.read_bytes()})
    assert "'inner.zip'" in refused(archive, bounds=Bounds(factor=100, size=1_000_000))
    # As large, but not grown: and grown, but small.
    pack(archive, {"noise.bin": os.urandom(2_000_000)})
    unpack(archive, tmp_path / "one", name="x", progress=False, bounds=Bounds(factor=100, size=1_000_000))
    pack(archive, {"zeros.bin": bytes(900_000)})
    unpack(archive, tmp_path / "two", name="x", progress=False, bounds=Bounds(factor=100, size=1_000_000))


def test_more_than_the_disk_holds_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a.bin", b"1234567890")
        archive.infolist()[0].file_size = 10**18
    message = refused(tmp_path / "x.zip", bounds=Bounds(factor=1e18))
    assert "needs 1e+06 TB unpacked" in message
    assert "make room" in message


def _claim(archive: Path, *, size: int) -> None:
    """Let the only member say that it is so large, in both places."""
    content = bytearray(archive.read_bytes())
    for signature, place in ((b"PK\3\4", 22), (b"PK\1\2", 24)):
        start = content.index(signature) + place
        content[start : start + 4] = size.to_bytes(4, "little")
    archive.write_bytes(content)


@pytest.mark.parametrize("size", [5, 20_000])
def test_a_member_that_lies_about_its_size_is_damage(tmp_path: Path, size: int) -> None:
    archive = pack(tmp_path / "x.zip", {"a.bin": b"1234567890" * 10})
    _claim(archive, size=size)
    with pytest.raises(DataError, match="damaged"):
        unpack(archive, tmp_path / "data", name="x", progress=False)
    assert left(tmp_path) == []


def test_members_that_share_their_bytes_are_refused(tmp_path: Path) -> None:
    archive = pack(tmp_path / "x.zip", {f"{number}.bin": os.urandom(5000) for number in range(3)})
    with zipfile.ZipFile(archive) as opened:
        first = opened.infolist()[0]
        start = opened.start_dir
    content = bytearray(archive.read_bytes())
    directory = content[start:]
    entry = directory[: directory.index(b"PK\1\2", 4)]
    many = b"".join(bytes(entry).replace(b"0.bin", f"{number}.bin".encode()) for number in range(9))
    end = bytearray(directory[directory.index(b"PK\5\6") :])
    end[8:10] = end[10:12] = (9).to_bytes(2, "little")
    end[12:16] = len(many).to_bytes(4, "little")
    assert first.filename == "0.bin"
    archive.write_bytes(bytes(content[:start]) + many + bytes(end))
    assert "overlap" in refused(archive)


def corrupt_middle(content: bytearray) -> bytearray:
    content[len(content) // 2] ^= 0xFF
    return content


@pytest.mark.parametrize(
    "damage",
    [
        corrupt_middle,
        lambda content: content[:-30],
        lambda content: content[: len(content) // 2],
        lambda content: bytearray(2000) + content[2000:],
        lambda content: bytearray(),
        lambda content: bytearray(b"<html>Not what you wanted</html>"),
    ],
)
def test_a_damaged_zip_is_deleted(tmp_path: Path, damage: Callable[[bytearray], bytearray]) -> None:
    archive = pack(tmp_path / "x.zip", {"a.jpg": os.urandom(5000), "b.txt": b"b"})
    archive.write_bytes(damage(bytearray(archive.read_bytes())))
    with pytest.raises(DataError, match=r"x\.zip is damaged[\s\S]*run the same command again"):
        unpack(archive, tmp_path / "data", name="x", progress=False)
    assert left(tmp_path) == []


def test_a_damaged_zip_inside_is_not_blamed_on_the_download(tmp_path: Path) -> None:
    inner = corrupt_middle(bytearray(pack(tmp_path / "in.zip", {"a.jpg": os.urandom(5000)}).read_bytes()))
    (tmp_path / "in.zip").unlink()
    archive = pack(tmp_path / "x.zip", {"in.zip": bytes(inner)})
    assert "its member 'in.zip': Bad CRC-32" in refused(archive)


def test_no_byte_that_is_wrong_breaks_more_than_the_zip(tmp_path: Path) -> None:
    whole = pack(tmp_path / "x.zip", FILES).read_bytes()
    chance = random.Random(0)
    outcomes = set()
    for _ in range(400):
        content = bytearray(whole)
        for _ in range(chance.choice((1, 1, 4))):
            content[chance.randrange(len(content))] = chance.randrange(256)
        (tmp_path / "x.zip").write_bytes(content)
        try:
            unpack(tmp_path / "x.zip", tmp_path / "data", name="x", progress=False)
        except DataError as error:
            outcomes.add(error.problem.split(": ")[0].rpartition("/")[2])
            assert left(tmp_path) in ([], ["x.zip"])
        else:
            outcomes.add("whole")
            shutil.rmtree(tmp_path / "data")
    assert {"x.zip is damaged", "x.zip is not unpacked", "whole"} <= outcomes


def test_an_unwritable_place_is_an_error_and_keeps_the_zip(tmp_path: Path) -> None:
    archive = pack(tmp_path / "x.zip", {"a" * 300: b"too long a name"})
    assert "cannot be unpacked" in refused(archive)
    pack(archive, FILES)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.txt").write_text("mine", "utf-8")
    assert "cannot be unpacked" in refused(archive)
    assert files_of(tmp_path / "data") == {"mine.txt": b"mine"}


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_what_a_killed_unpacking_leaves_is_gone_after_the_next(tmp_path: Path, how: signal.Signals) -> None:
    archive = pack(tmp_path / "x.zip", {f"{number}.bin": os.urandom(20_000) for number in range(400)})
    code = f"""
import pathlib, time
import pipeline.submit.unzip as unzip
write = unzip._write
unzip._write = lambda *given, **more: (write(*given, **more), time.sleep(0.01))
unzip.unpack(pathlib.Path({str(archive)!r}), pathlib.Path({str(tmp_path / "data")!r}), name="x", progress=False)
"""
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen([sys.executable, "-c", code], cwd=root, stderr=subprocess.DEVNULL) as process:
        end = time.monotonic() + 30
        while not (tmp_path / ".data.x" / "50.bin").exists():
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.01)
        process.send_signal(how)
        process.wait(timeout=30)
    assert not (tmp_path / "data").exists()
    assert (tmp_path / ".data.x").exists() == (how == signal.SIGKILL)
    assert unpack(archive, tmp_path / "data", name="x", progress=False) == 400
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "x.zip"]
