"""The access log without a mount: lines, slow readers, waiting; and the Vfs of a mount, counted and observed."""

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cairnfs.const import ROOT_INO
from cairnfs.errors import FsError
from cairnfs.types import Caller, Inode, Lock, SetAttr
from cairnfs.vfs.accesslog import KEEP_ALIVE, MAX_QUEUED_BYTES, AccessLog, LogReader, format_line
from cairnfs.vfs.mounted import MountedVfs
from cairnfs.vfs.virtual import FIRST_FH
from support.engine import Engine, new_volume

ME = Caller(1000, 100, 4711)
ROOT = Inode(ROOT_INO)


@pytest.fixture
def vfs(tmp_path: Path) -> Iterator[MountedVfs]:
    with Engine(new_volume(tmp_path)) as engine:
        volume = engine.volume
        mounted = MountedVfs(volume.meta, volume.data, volume.options, volume.clock, volume.metrics, lambda: {"front": "none"})
        yield mounted
        mounted.close()


def open_virtual(vfs: MountedVfs, name: bytes) -> int:
    opened = vfs.open(ME, vfs.lookup(ME, ROOT, name).ino, os.O_RDONLY)
    assert opened.direct_io and not opened.keep_cache
    return opened.fh


def read(vfs: MountedVfs, fh: int, size: int = 1 << 20) -> bytes:
    return b"".join(vfs.read(ME, fh, 0, size))


@pytest.mark.parametrize(
    ("op", "args", "outcome", "shown"),
    [
        ("open", (17, 32768), 3, "open (17,32768): OK (3)"),
        ("unlink", (1, b"a\nb"), None, r"unlink (1,a\nb): OK"),
        ("unlink", (1, b"\xff"), None, r"unlink (1,\xff): OK"),
        ("write", (5, 0, b"private"), 7, "write (5,0,7): OK (7)"),
        ("setxattr", (5, b"user.a", b"private", 0), None, "setxattr (5,user.a,7,0): OK"),
        ("read", (5, 0, 100), [memoryview(b"ab"), memoryview(b"c")], "read (5,0,100): OK (3)"),
        ("setattr", (5, SetAttr(mode=0o644)), None, "setattr (5,420:::::::False): OK"),
        ("getlk", (5, 6, Lock(1, 0, 9, 2, 3)), None, "getlk (5,6,1:0:9:2:3:False): OK"),
        ("lookup", (1, b"x"), FsError(errno.ENOENT), "lookup (1,x): No such file or directory"),
        ("lookup", (1, b"x"), KeyError("a\nb"), r"lookup (1,x): KeyError('a\nb')"),
    ],
)
def test_a_line_shows_who_asked_for_what_and_what_came_of_it(op: str, args: tuple[Any, ...], outcome: Any, shown: str) -> None:
    line = format_line(1_700_000_000_123_456_789, op, (ME, *args), outcome, 1_234_567).decode()
    when, _, rest = line.partition(" [")
    assert when.endswith(".123456")
    assert rest == f"uid:1000,gid:100,pid:4711] {shown} <0.001235>\n"


def test_a_slow_reader_is_told_how_many_lines_it_lost() -> None:
    reader = LogReader()
    line = bytes(1023) + b"\n"
    for _ in range(MAX_QUEUED_BYTES // 1024 + 5):
        reader.put(line)
    assert len(reader.read(ME, 2 * MAX_QUEUED_BYTES)) == MAX_QUEUED_BYTES
    assert reader.read(ME, 1000) == b"# 5 lines lost: reading is too slow\n"
    reader.put(b"next\n")
    assert reader.read(ME, 1000) == b"next\n"


def test_a_line_may_be_read_in_pieces() -> None:
    reader = LogReader()
    reader.put(b"0123456789\n")
    reader.put(b"abc\n")
    assert [reader.read(ME, 4), reader.read(ME, 4), reader.read(ME, 100)] == [b"0123", b"4567", b"89\nabc\n"]


def test_a_read_waits_for_a_line_but_not_for_ever() -> None:
    reader = LogReader()
    assert reader.read(ME, 100) == KEEP_ALIVE
    timer = threading.Timer(0.05, reader.put, [b"late\n"])
    timer.start()
    assert reader.read(ME, 100) == b"late\n"
    timer.join()


def test_a_waiting_read_can_be_interrupted() -> None:
    with pytest.raises(FsError) as caught:
        LogReader().read(Caller(interrupted=lambda: True), 100)
    assert caught.value.errno == errno.EINTR


def test_nothing_is_noted_when_nobody_reads(vfs: MountedVfs, monkeypatch: pytest.MonkeyPatch) -> None:
    noted: list[str] = []
    monkeypatch.setattr(AccessLog, "note", lambda self, op, *_: noted.append(op))
    vfs.mkdir(ME, ROOT, b"before", 0o755)
    fh = open_virtual(vfs, b".accesslog")
    vfs.mkdir(ME, ROOT, b"while", 0o755)
    vfs.release(ME, fh)
    vfs.mkdir(ME, ROOT, b"after", 0o755)
    assert noted == ["mkdir"]


def test_every_reader_gets_every_line(vfs: MountedVfs) -> None:
    one, other = open_virtual(vfs, b".accesslog"), open_virtual(vfs, b".accesslog")
    vfs.mkdir(ME, ROOT, b"d", 0o755)
    with pytest.raises(FsError):
        vfs.mkdir(ME, ROOT, b"d", 0o755)
    listing = vfs.opendir(ME, ROOT).fh
    assert [entry.name for entry in vfs.readdir(ME, listing, 0)] == [b".", b"..", b"d"]
    vfs.releasedir(ME, listing)
    seen = read(vfs, one)
    assert seen == read(vfs, other)
    assert [line.split()[3] for line in seen.splitlines()] == [b"mkdir", b"mkdir", b"opendir", b"readdir", b"releasedir"]
    assert b"): File exists <" in seen and b"readdir (1,0): OK (3) <" in seen.replace(b"(%d,0)" % listing, b"(1,0)")
    vfs.release(ME, one)
    vfs.release(ME, other)


def test_operations_are_counted_and_virtual_files_are_not(vfs: MountedVfs) -> None:
    def counts() -> dict[str, str]:
        fh = open_virtual(vfs, b".stats")
        try:
            return dict(line.split(" ") for line in read(vfs, fh).decode().splitlines())
        finally:
            vfs.flush(ME, fh)
            vfs.release(ME, fh)

    before = counts()
    assert counts() == before
    attr, opened = vfs.create(ME, ROOT, b"f", 0o644, os.O_RDWR)
    vfs.write(ME, opened.fh, 0, b"12345")
    assert b"".join(vfs.read(ME, opened.fh, 1, 100)) == b"2345"
    with pytest.raises(FsError):
        vfs.lookup(ME, ROOT, b"missing")
    with pytest.raises(FsError):
        list(vfs.readdir(ME, 999, 0))
    after = counts()
    assert after["cairnfs_open_handles"] == "1"
    vfs.release(ME, opened.fh)
    assert (after["cairnfs_written_bytes_total"], after["cairnfs_read_bytes_total"]) == ("5", "4")
    for op, n_errors in (("create", 0), ("write", 0), ("read", 0), ("lookup", 1), ("readdir", 1)):
        assert after[f'cairnfs_operation_seconds_count{{op="{op}"}}'] == "1"
        assert after[f'cairnfs_operation_errors_total{{op="{op}"}}'] == str(n_errors)
    assert counts()["cairnfs_open_handles"] == "0"


def test_handles_of_virtual_files_are_refused_what_they_cannot_do(vfs: MountedVfs) -> None:
    ino = vfs.lookup(ME, ROOT, b".config").ino
    fh = open_virtual(vfs, b".config")
    assert fh >= FIRST_FH
    vfs.fsync(ME, fh)
    vfs.access(ME, ino, os.R_OK)
    assert vfs.listxattr(ME, ino) == []
    for code, act in (
        (errno.EINVAL, lambda: vfs.lseek(ME, fh, 0, os.SEEK_DATA)),
        (errno.EXDEV, lambda: vfs.copy_file_range(ME, fh, 0, fh, 0, 1)),
        (errno.EBADF, lambda: vfs.write(ME, fh, 0, b"x")),
        (errno.ENODATA, lambda: vfs.getxattr(ME, ino, b"user.a")),
        (errno.EPERM, lambda: vfs.removexattr(ME, ino, b"user.a")),
        (errno.EPERM, lambda: vfs.rmdir(ME, ROOT, b".config")),
        (errno.EEXIST, lambda: vfs.create(ME, ROOT, b".config", 0o644, os.O_RDWR)),
        (errno.EEXIST, lambda: vfs.mknod(ME, ROOT, b".config", 0o644)),
        (errno.ESTALE, lambda: vfs.getattr(ME, Inode(ino + 10))),
    ):
        with pytest.raises(FsError) as caught:
            act()
        assert caught.value.errno == code
    vfs.release(ME, fh)
    with pytest.raises(FsError) as caught:
        read(vfs, fh)
    assert caught.value.errno == errno.EBADF
