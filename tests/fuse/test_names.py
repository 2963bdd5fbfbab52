"""Names, links and directories through a real mount, on both fronts."""

import errno
import os
import stat
from pathlib import Path

import pytest

from support.mounts import Mount
from support.syscalls import RENAME_EXCHANGE, RENAME_NOREPLACE, file_handle, open_handle, renameat2

pytestmark = pytest.mark.fuse


def fails(code: int, call: object, *args: object) -> None:
    with pytest.raises(OSError) as caught:
        call(*args)  # type: ignore[operator]
    assert caught.value.errno == code, errno.errorcode[caught.value.errno or 0]


def test_files_directories_links_and_special_files_are_what_they_were_made(mount: Mount) -> None:
    top = mount.path
    (top / "file").write_bytes(b"hello")
    (top / "dir").mkdir(mode=0o750)
    (top / "link").symlink_to("no/such/place")
    os.mkfifo(top / "fifo", 0o600)
    os.link(top / "file", top / "hard")
    assert (top / "hard").read_bytes() == b"hello"
    assert os.stat(top / "file").st_ino == os.stat(top / "hard").st_ino
    assert os.stat(top / "file").st_nlink == 2
    assert os.readlink(top / "link") == "no/such/place"
    assert os.lstat(top / "link").st_size == len("no/such/place")
    assert stat.S_ISFIFO(os.stat(top / "fifo").st_mode)
    assert stat.S_IMODE(os.stat(top / "dir").st_mode) == 0o750
    assert os.stat(top).st_nlink == 3


@pytest.mark.skipif(os.geteuid() != 0, reason="mknod of devices needs root")
def test_device_numbers_are_kept(mount: Mount) -> None:
    os.mknod(mount.path / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(mount.path / "disk", stat.S_IFBLK | 0o600, os.makedev(259, 70000))
    assert os.stat(mount.path / "null").st_rdev == os.makedev(1, 3)
    assert os.stat(mount.path / "disk").st_rdev == os.makedev(259, 70000)


def test_names_are_bytes(mount: Mount) -> None:
    top = os.fsencode(mount.path)
    names = [b"\xff\xfe", b" ", b"new\nline", b"\\", b"a" * 255, "żółw".encode(), b"-rf", b"..."]
    for name in names:
        with open(top + b"/" + name, "wb") as file:
            file.write(name)
    assert sorted(os.listdir(top)) == sorted(names)
    for name in names:
        with open(top + b"/" + name, "rb") as file:
            assert file.read() == name
    fails(errno.ENAMETOOLONG, os.mkdir, top + b"/" + b"b" * 256)


def test_errors_of_names_are_those_of_posix(mount: Mount) -> None:
    top = mount.path
    (top / "file").touch()
    (top / "full").mkdir()
    (top / "full" / "inside").touch()
    fails(errno.ENOENT, os.stat, top / "missing")
    fails(errno.ENOTDIR, os.stat, top / "file" / "x")
    fails(errno.EEXIST, os.mkdir, top / "file")
    fails(errno.ENOTEMPTY, os.rmdir, top / "full")
    fails(errno.ENOTDIR, os.rmdir, top / "file")
    fails(errno.EISDIR, os.unlink, top / "full")
    fails(errno.EPERM, os.link, top / "full", top / "hard")
    fails(errno.EINVAL, os.rename, top / "full", top / "full" / "below")
    fails(errno.EEXIST, os.symlink, "x", top / "file")
    fails(errno.ENOENT, os.rename, top / "missing", top / "y")


def test_rename_replaces_and_refuses_as_posix_says(mount: Mount) -> None:
    top = mount.path
    (top / "a").write_bytes(b"a")
    (top / "b").write_bytes(b"b")
    os.rename(top / "a", top / "b")
    assert (top / "b").read_bytes() == b"a" and not (top / "a").exists()
    for name in ("d1", "d2", "d3"):
        (top / name).mkdir()
    (top / "d2" / "x").touch()
    os.rename(top / "d1", top / "d3")
    fails(errno.ENOTEMPTY, os.rename, top / "d3", top / "d2")
    fails(errno.EISDIR, os.rename, top / "b", top / "d2")
    fails(errno.ENOTDIR, os.rename, top / "d2", top / "b")
    os.link(top / "b", top / "same")
    os.rename(top / "b", top / "same")
    assert (top / "b").exists() and (top / "same").exists()


def test_rename_flags(mount: Mount) -> None:
    top = mount.path
    (top / "dir").mkdir()
    (top / "dir" / "sub").mkdir()
    (top / "file").write_bytes(b"file")
    (top / "other").write_bytes(b"other")
    fails(errno.EEXIST, renameat2, top / "file", top / "other", RENAME_NOREPLACE)
    renameat2(top / "file", top / "moved", RENAME_NOREPLACE)
    renameat2(top / "moved", top / "other", RENAME_EXCHANGE)
    assert (top / "moved").read_bytes() == b"other" and (top / "other").read_bytes() == b"file"
    renameat2(top / "dir" / "sub", top / "other", RENAME_EXCHANGE)
    assert (top / "other").is_dir() and (top / "dir" / "sub").read_bytes() == b"file"
    assert os.stat(top / "dir").st_nlink == 2 and os.stat(top).st_nlink == 4
    assert os.stat(top / "other" / "..").st_ino == os.stat(top).st_ino
    fails(errno.ENOENT, renameat2, top / "missing", top / "other", RENAME_EXCHANGE)


def test_removed_names_live_on_while_open(mount: Mount) -> None:
    path = mount.path / "gone"
    with open(path, "w+b") as file:
        file.write(b"before")
        file.flush()
        path.unlink()
        file.write(b" after")
        file.flush()
        file.seek(0)
        assert file.read() == b"before after"
        assert os.fstat(file.fileno()).st_nlink == 0
        assert os.fstat(file.fileno()).st_size == 12
        fails(errno.ENOENT, os.stat, path)
        path.write_bytes(b"another")
        assert path.read_bytes() == b"another"


def test_renamed_over_file_lives_on_while_open(mount: Mount) -> None:
    (mount.path / "old").write_bytes(b"old")
    (mount.path / "new").write_bytes(b"new")
    with open(mount.path / "old", "rb") as file:
        os.rename(mount.path / "new", mount.path / "old")
        assert file.read() == b"old"
        assert (mount.path / "old").read_bytes() == b"new"


def test_setgid_directories_hand_down_their_group(mount: Mount) -> None:
    parent = mount.path / "shared"
    parent.mkdir()
    if os.geteuid() == 0:
        os.chown(parent, 0, 4321)
    parent.chmod(0o2775)
    (parent / "file").touch()
    (parent / "dir").mkdir()
    group = os.stat(parent).st_gid
    assert os.stat(parent / "file").st_gid == group
    assert os.stat(parent / "dir").st_gid == group
    assert os.stat(parent / "dir").st_mode & stat.S_ISGID
    assert not os.stat(parent / "file").st_mode & stat.S_ISGID


def test_umask_applies_to_everything_made(mount: Mount) -> None:
    old = os.umask(0o027)
    try:
        (mount.path / "f").touch(mode=0o666)
        (mount.path / "d").mkdir(mode=0o777)
        os.mkfifo(mount.path / "p", 0o666)
    finally:
        os.umask(old)
    modes = [stat.S_IMODE(os.stat(mount.path / name).st_mode) for name in "fdp"]
    assert modes == [0o640, 0o750, 0o640]


@pytest.mark.skipif(os.geteuid() != 0, reason="opening file handles is for root")
def test_file_handles_outlive_what_the_kernel_remembers(mount: Mount) -> None:
    (mount.path / "d").mkdir()
    (mount.path / "d" / "f").write_bytes(b"content")
    handles = [file_handle(mount.path / "d"), file_handle(mount.path / "d" / "f")]
    os.rename(mount.path / "d" / "f", mount.path / "g")
    mount.restart()
    with open_handle(mount.path, handles[1]) as fd:  # first: for a directory the kernel lists the root, and then knows the file
        assert os.pread(fd, 100, 0) == b"content"
    with open_handle(mount.path, handles[0]) as fd:
        assert os.listdir(fd) == []
    (mount.path / "g").unlink()
    mount.restart()
    with pytest.raises(OSError) as caught, open_handle(mount.path, handles[1]):
        pass
    assert caught.value.errno == errno.ESTALE


def test_everything_is_there_after_a_remount(mount: Mount) -> None:
    top = mount.path
    for i in range(50):
        (top / f"d{i}").mkdir()
        (top / f"d{i}" / "f").write_bytes(b"%d" % i * 1000)
    inodes = {p: os.stat(top / p).st_ino for p in os.listdir(top)}
    mount.restart()
    assert {p: os.stat(top / p).st_ino for p in os.listdir(top)} == inodes
    for i in range(50):
        assert (top / f"d{i}" / "f").read_bytes() == b"%d" % i * 1000
    (top / "fresh").touch()
    assert os.stat(top / "fresh").st_ino not in inodes.values()


def list_with(top: Path) -> set[str]:
    return set(os.listdir(top))


def test_listing_is_whole_while_others_create_and_delete(mount: Mount) -> None:
    top = mount.path / "busy"
    top.mkdir()
    stay = {f"stay-{i:04}" for i in range(3000)}
    for name in stay:
        (top / name).touch()
    for i in range(300):
        (top / f"go-{i:04}").touch()
    seen = []
    with os.scandir(top) as entries:
        for n, entry in enumerate(entries):
            seen.append(entry.name)
            if n % 10 == 0 and n < 3000:
                (top / f"come-{n}").touch()
                victim = top / f"go-{n // 10:04}"
                if victim.exists():
                    victim.unlink()
    assert len(seen) == len(set(seen)), "an entry was listed twice"
    assert stay <= set(seen), "an entry that was there all the time was not listed"


def test_a_directory_is_emptied_while_it_is_listed(mount: Mount) -> None:
    top = mount.path / "many"
    top.mkdir()
    for i in range(2500):
        (top / f"f{i}").touch()
    with os.scandir(top) as entries:
        for entry in entries:
            os.unlink(entry.path)
    assert list_with(top) == set()
    top.rmdir()
