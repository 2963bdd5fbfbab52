"""Names through the Vfs: checks of names, dots, removal while something is open, removed directories, extended attributes."""

import errno
import json
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from cairnfs.errors import CairnError
from cairnfs.types import Caller, Inode
from cairnfs.vfs.info import MAX_INFO_BYTES
from support.engine import ME, ROOT, Engine, new_volume


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with Engine(new_volume(tmp_path)) as engine:
        yield engine


def failing(code: int) -> pytest.RaisesExc[CairnError]:
    return pytest.raises(CairnError, check=lambda error: error.errno == code)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        (b"x" * 256, errno.ENAMETOOLONG),
        (b"", errno.EINVAL),
        (b".", errno.EINVAL),
        (b"..", errno.EINVAL),
        (b"a/b", errno.EINVAL),
        (b"a\0b", errno.EINVAL),
    ],
)
def test_impossible_names_are_refused_everywhere(engine: Engine, name: bytes, code: int) -> None:
    engine.files.write("f", b"")
    vfs = engine.vfs
    for call in (
        lambda: vfs.create(ME, ROOT, name, 0o600, os.O_RDWR),
        lambda: vfs.mkdir(ME, ROOT, name, 0o700),
        lambda: vfs.mknod(ME, ROOT, name, stat.S_IFIFO),
        lambda: vfs.symlink(ME, ROOT, name, b"target"),
        lambda: vfs.link(ME, engine.files.ino("f"), ROOT, name),
        lambda: vfs.unlink(ME, ROOT, name),
        lambda: vfs.rename(ME, ROOT, name, ROOT, b"g"),
        lambda: vfs.rename(ME, ROOT, b"f", ROOT, name),
    ):
        with failing(code):
            call()
    assert engine.files.names() == {"f"}


def test_a_name_may_have_255_bytes_of_any_other_kind(engine: Engine) -> None:
    name = bytes(b for b in range(1, 256) if b != ord("/"))
    engine.vfs.mkdir(ME, ROOT, name, 0o700)
    engine.vfs.mkdir(ME, ROOT, b"y" * 255, 0o700)
    with failing(errno.ENAMETOOLONG):
        engine.vfs.lookup(ME, ROOT, b"y" * 256)
    assert [entry.name for entry in engine.files.list()] == [name, b"y" * 255]


def test_dots_can_be_looked_up(engine: Engine) -> None:
    files = engine.files
    files.mkdir("a")
    files.mkdir("a/b")
    inner = files.ino("a/b")
    assert engine.vfs.lookup(ME, inner, b".").ino == inner
    assert engine.vfs.lookup(ME, inner, b"..").ino == files.ino("a")
    assert engine.vfs.lookup(ME, ROOT, b"..").ino == ROOT
    files.rename("a/b", "c")
    assert engine.vfs.lookup(ME, inner, b"..").ino == ROOT
    files.write("f", b"")
    with failing(errno.ENOTDIR):
        engine.vfs.lookup(ME, files.ino("f"), b"..")
    assert engine.vfs.lookup(ME, files.ino("f"), b".").ino == files.ino("f")  # by a file handle


def test_symbolic_links(engine: Engine) -> None:
    attr = engine.vfs.symlink(ME, ROOT, b"l", b"some/where")
    assert (attr.size, stat.S_IFMT(attr.mode)) == (10, stat.S_IFLNK)
    assert engine.vfs.readlink(ME, attr.ino) == b"some/where"
    with failing(errno.EINVAL):
        engine.vfs.readlink(ME, ROOT)
    with failing(errno.ENOENT):
        engine.vfs.symlink(ME, ROOT, b"m", b"")
    with failing(errno.ENAMETOOLONG):
        engine.vfs.symlink(ME, ROOT, b"m", b"x" * 4096)


def test_special_files_keep_type_and_device(engine: Engine) -> None:
    for name, kind in ((b"p", stat.S_IFIFO), (b"s", stat.S_IFSOCK), (b"c", stat.S_IFCHR), (b"b", stat.S_IFBLK)):
        engine.vfs.mknod(ME, ROOT, name, kind | 0o640, os.makedev(8, 300))
        attr = engine.vfs.lookup(ME, ROOT, name)
        assert (attr.mode, attr.rdev) == (kind | 0o640, os.makedev(8, 300))
    assert {entry.name: entry.type for entry in engine.files.list()}[b"s"] == stat.S_IFSOCK


def test_the_umask_is_applied_to_what_is_created(engine: Engine) -> None:
    attr = engine.vfs.mkdir(Caller(umask=0o027), ROOT, b"d", 0o777)
    assert stat.S_IMODE(attr.mode) == 0o750


def test_a_removed_directory_can_still_be_asked_about(engine: Engine) -> None:
    files = engine.files
    files.mkdir("d")
    ino = files.ino("d")
    fh = engine.vfs.opendir(ME, ino).fh
    engine.vfs.rmdir(ME, ROOT, b"d")
    attr = engine.vfs.getattr(ME, ino)
    assert (attr.nlink, stat.S_IFMT(attr.mode)) == (0, stat.S_IFDIR)
    assert list(engine.vfs.readdir(ME, fh, 0, True)) == []
    engine.vfs.releasedir(ME, fh)
    with failing(errno.ENOENT):
        engine.vfs.mkdir(ME, ino, b"new", 0o700)
    engine.vfs.releasedir(ME, engine.vfs.opendir(ME, ino).fh)
    engine.vfs.forget(ino, 1)
    with failing(errno.ESTALE):
        engine.vfs.getattr(ME, ino)


def test_a_directory_replaced_by_a_rename_can_still_be_asked_about(engine: Engine) -> None:
    files = engine.files
    files.mkdir("a")
    files.mkdir("b")
    ino = files.ino("b")
    files.rename("a", "b")
    assert engine.vfs.getattr(ME, ino).nlink == 0


def test_removing_dots_fails_as_on_linux(engine: Engine) -> None:
    engine.files.mkdir("d")
    with failing(errno.EINVAL):
        engine.vfs.rmdir(ME, engine.files.ino("d"), b".")
    with failing(errno.ENOTEMPTY):
        engine.vfs.rmdir(ME, engine.files.ino("d"), b"..")


def test_operations_on_inodes_that_are_gone_say_so(engine: Engine) -> None:
    gone = Inode(12345)
    for call in (
        lambda: engine.vfs.getattr(ME, gone),
        lambda: engine.vfs.open(ME, gone, 0),
        lambda: engine.vfs.opendir(ME, gone),
    ):
        with failing(errno.ESTALE):
            call()
    assert not len(engine.vfs._state.files)


# Extended attributes


def test_extended_attributes_are_stored_listed_and_removed(engine: Engine) -> None:
    engine.files.write("f", b"")
    ino, vfs = engine.files.ino("f"), engine.vfs
    vfs.setxattr(ME, ino, b"user.a", b"1")
    vfs.setxattr(ME, ino, b"user.b", b"")
    assert vfs.getxattr(ME, ino, b"user.a") == b"1"
    assert vfs.listxattr(ME, ino) == [b"user.a", b"user.b"]
    vfs.removexattr(ME, ino, b"user.a")
    with failing(errno.ENODATA):
        vfs.getxattr(ME, ino, b"user.a")
    with failing(errno.ERANGE):
        vfs.setxattr(ME, ino, b"user." + b"x" * 300, b"")
    with failing(errno.E2BIG):
        vfs.setxattr(ME, ino, b"user.c", bytes(65537))


def acl(*entries: tuple[int, int, int]) -> bytes:
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def test_a_default_acl_decides_the_mode_of_new_files(engine: Engine) -> None:
    attr = engine.files.mkdir("d")
    nobody = 0xFFFFFFFF
    text = acl((1, 7, nobody), (2, 5, 1000), (4, 5, nobody), (16, 7, nobody), (32, 0, nobody))
    engine.vfs.setxattr(ME, attr.ino, b"system.posix_acl_default", text)
    made = engine.vfs.mknod(Caller(umask=0o077), attr.ino, b"f", stat.S_IFREG | 0o666)
    assert stat.S_IMODE(made.mode) == 0o660
    assert engine.vfs.getxattr(ME, made.ino, b"system.posix_acl_access")[:4] == text[:4]


def test_info_tells_where_the_bytes_of_a_file_are(engine: Engine) -> None:
    files = engine.files
    files.mkdir("d")
    with files.created("d/f") as fh:
        files.pwrite(fh, 1000, b"x" * 500)
        assert json.loads(engine.vfs.getxattr(ME, files.ino("d/f"), b"cairnfs.info"))["dirty"]
    info = json.loads(engine.vfs.getxattr(ME, files.ino("d/f"), b"cairnfs.info"))
    assert (info["path"], info["type"], info["size"], info["dirty"]) == ("/d/f", "file", 1500, False)
    hole, data = info["extents"]
    assert (hole["offset"], hole["length"], "pack" in hole) == (0, 1000, False)
    assert (data["offset"], data["length"], len(data["pack"])) == (1000, 500, 16)
    assert not info["truncated"]
    assert engine.vfs.listxattr(ME, files.ino("d/f")) == []
    for name in (b"cairnfs.info", b"cairnfs.other"):
        with failing(errno.EPERM):
            engine.vfs.setxattr(ME, files.ino("d/f"), name, b"")
    with failing(errno.ENODATA):
        engine.vfs.getxattr(ME, files.ino("d/f"), b"cairnfs.other")


def test_info_of_a_very_long_layout_is_cut(engine: Engine) -> None:
    files = engine.files
    with files.created("f") as fh:
        for i in range(1000):
            files.pwrite(fh, i * 10, b"x")
    text = engine.vfs.getxattr(ME, files.ino("f"), b"cairnfs.info")
    assert len(text) <= MAX_INFO_BYTES
    info = json.loads(text)
    assert info["truncated"] and len(info["extents"]) > 300


def test_info_of_an_empty_giant_is_bounded(engine: Engine) -> None:
    files = engine.files
    with files.created("f") as fh:
        engine.vfs.fallocate(ME, fh, 0, 0, 1 << 60)
    assert json.loads(engine.vfs.getxattr(ME, files.ino("f"), b"cairnfs.info"))["truncated"]
