"""The channel against the real kernel: every operation of a file system in memory, seen through a mount."""

import errno
import fcntl
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ExpectedLogs

from cairnfs.daemon.mountpoint import unmount
from cairnfs.options import FuseOptions
from support.toy_mount import NEEDS_ROOT, ToyMount, eventually

pytestmark = [pytest.mark.fuse, NEEDS_ROOT]

LONG_S = 3600.0
SLOW_FILE = b"slow"


@pytest.fixture
def toy(tmp_path: Path) -> Iterator[ToyMount]:
    with ToyMount(tmp_path / "mnt") as found:
        yield found


@pytest.fixture
def cached(tmp_path: Path) -> Iterator[ToyMount]:
    """The kernel may keep everything for an hour."""
    with ToyMount(tmp_path / "mnt", attr_timeout_s=LONG_S, entry_timeout_s=LONG_S, dir_entry_timeout_s=LONG_S) as found:
        yield found


# Operations


def test_files_directories_and_links(toy: ToyMount) -> None:
    toy.run("mkdir d; echo one > d/a; ln -s d/a s; ln d/a b; mv d/a d/c; cat b; echo two >> b")
    assert toy.run("cat d/c; readlink s; ls d") == "one\ntwo\nd/a\nc\n"
    assert os.stat(toy.path / "b").st_nlink == 2
    toy.run("rm b d/c s; rmdir d")
    assert os.listdir(toy.path) == []


def test_creation_applies_mode_umask_and_device(toy: ToyMount) -> None:
    toy.run("umask 027; mkdir d; touch f; mkfifo p; mknod c c 260 70000; mknod -m 600 b b 1 2")
    modes = {name: oct(os.stat(toy.path / name).st_mode) for name in "dfpcb"}
    assert modes == {"d": "0o40750", "f": "0o100640", "p": "0o10640", "c": "0o20640", "b": "0o60600"}
    device = os.stat(toy.path / "c").st_rdev
    assert (os.major(device), os.minor(device)) == (260, 70000)


def test_times_reach_from_before_1970_to_nanoseconds(toy: ToyMount) -> None:
    path = toy.path / "f"
    path.touch()
    for ns in (-1, -(10**18) - 7, 0, 1_700_000_000_123_456_789):
        os.utime(path, ns=(ns, ns + 1))
        found = os.stat(path)
        assert (found.st_atime_ns, found.st_mtime_ns) == (ns, ns + 1)


def test_statx_shows_time_of_birth(toy: ToyMount) -> None:
    toy.run("touch f")
    toy.handler.attrs[2].btime_ns = 1_000_000_000 * 10**9
    assert "2001-09-09" in toy.run("TZ=UTC stat -c %w f")
    assert toy.channel.counts()["STATX"] >= 1


def test_contents_of_many_sizes_come_back(toy: ToyMount) -> None:
    for n in (0, 1, 4095, 4096, 4097, 131072, 1 << 20, (3 << 20) + 5):
        data = os.urandom(n)
        path = toy.path / f"f{n}"
        path.write_bytes(data)
        assert path.read_bytes() == data
        os.posix_fadvise(fd := os.open(path, os.O_RDONLY), 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)
        assert path.read_bytes() == data


def test_direct_requests_are_a_mebibyte(toy: ToyMount) -> None:
    toy.run("dd if=/dev/urandom of=f bs=4M count=1 oflag=direct status=none; dd if=f of=/dev/null bs=4M iflag=direct status=none")
    counts = toy.channel.counts()
    assert (counts["WRITE"], counts["READ"]) == (4, 4)


def test_truncation_by_open_and_by_call(toy: ToyMount) -> None:
    path = toy.path / "f"
    path.write_bytes(b"x" * 5000)
    os.truncate(path, 10)
    assert path.read_bytes() == b"x" * 10
    path.write_bytes(b"")
    assert os.stat(path).st_size == 0
    assert any(args[2] & os.O_TRUNC for args in toy.handler.called("open")), "O_TRUNC comes with OPEN"


def write_mapped(path: Path, flags: int, offset: int, data: bytes) -> None:
    script = (
        "import mmap, os, sys\n"
        "path, flags, offset, data = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4].encode()\n"
        "m = mmap.mmap(os.open(path, flags), 0)\n"
        "m[offset : offset + len(data)] = data\n"
        "m.flush()\n"
    )
    subprocess.run([sys.executable, "-c", script, str(path), str(flags), str(offset), data.decode()], check=True, timeout=20)


def test_mapped_writes_arrive(toy: ToyMount) -> None:
    (toy.path / "f").write_bytes(bytes(8192))
    script = (
        "import mmap,sys; f=open(sys.argv[1],'r+b'); m=mmap.mmap(f.fileno(),0); m[4090:4100]=b'0123456789'; m.flush(); m.close()"
    )
    subprocess.run([sys.executable, "-c", script, str(toy.path / "f")], check=True, timeout=20)
    assert toy.handler.data[2][4090:4100] == b"0123456789"


def test_mapped_writes_say_that_they_go_to_their_offset(toy: ToyMount) -> None:
    (toy.path / "f").write_bytes(bytes(4096))
    write_mapped(toy.path / "f", os.O_RDWR | os.O_APPEND, 5, b"x")
    assert [args[2] for args in toy.handler.called("write_mapped")] == [0]


@pytest.mark.usefixtures("kernel_caches")
def test_large_directory_is_listed_whole_both_ways(cached: ToyMount) -> None:
    names = [f"{'n' * (i % 200)}{i:05d}" for i in range(3000)]
    for name in names:
        cached.handler.add(1, name.encode(), stat.S_IFREG | 0o644)
    assert sorted(os.listdir(cached.path)) == sorted(names)
    before = cached.channel.counts().get("LOOKUP", 0)
    sizes = {entry.name: entry.stat().st_size for entry in os.scandir(cached.path)}
    assert len(sizes) == 3000
    assert cached.channel.counts().get("LOOKUP", 0) - before < 300, "READDIRPLUS brings the attributes"


def test_extended_attributes(toy: ToyMount) -> None:
    path = toy.path / "f"
    path.touch()
    value = os.urandom(60000)
    os.setxattr(path, "user.a", value)
    os.setxattr(path, "user.b", b"")
    assert os.getxattr(path, "user.a") == value
    assert os.getxattr(path, "user.b") == b""
    assert sorted(os.listxattr(path)) == ["user.a", "user.b"]
    os.removexattr(path, "user.a")
    with pytest.raises(OSError) as caught:
        os.getxattr(path, "user.a")
    assert caught.value.errno == errno.ENODATA


def test_ranges(toy: ToyMount) -> None:
    (toy.path / "f").write_bytes(b"abcdef")
    (toy.path / "g").touch()
    with open(toy.path / "f", "rb") as f, open(toy.path / "g", "r+b") as g:
        assert os.copy_file_range(f.fileno(), g.fileno(), 4, 1) == 4
        assert os.lseek(f.fileno(), 2, os.SEEK_DATA) == 2
        assert os.lseek(f.fileno(), 2, os.SEEK_HOLE) == 6
        os.posix_fallocate(g.fileno(), 0, 100)
    assert (toy.path / "g").read_bytes() == b"bcde"
    assert toy.handler.called("fallocate")[0][2:] == (0, 0, 100)


def test_sync_calls_reach_the_handler(toy: ToyMount) -> None:
    fd = os.open(toy.path / "f", os.O_RDWR | os.O_CREAT)
    os.fsync(fd)
    os.fdatasync(fd)
    os.close(fd)
    os.fsync(fd := os.open(toy.path, os.O_RDONLY))
    os.close(fd)
    assert [args[2] for args in toy.handler.called("fsync")] == [False, True]
    assert [args[2] for args in toy.handler.called("fsyncdir")] == [False]


def test_what_is_not_supported_says_so(toy: ToyMount) -> None:
    (toy.path / "f").touch()
    with open(toy.path / "f", "rb") as f, pytest.raises(OSError) as caught:
        fcntl.ioctl(f, 0x80086601, bytes(8))  # FS_IOC_GETFLAGS
    assert caught.value.errno == errno.ENOTTY
    with pytest.raises(OSError) as caught:
        os.open(toy.path, os.O_TMPFILE | os.O_RDWR)
    assert caught.value.errno == errno.EOPNOTSUPP


def test_rename_flags_reach_the_handler(toy: ToyMount) -> None:
    toy.run("touch a b; mv -n a b; mv --exchange a b 2>/dev/null || true; mv a c")
    assert toy.handler.called("rename")[-1][5] in (0, 1)
    assert sorted(os.listdir(toy.path)) == ["b", "c"]


def test_statfs_shows_the_volume(toy: ToyMount) -> None:
    found = os.statvfs(toy.path)
    assert (found.f_blocks * found.f_frsize, found.f_files, found.f_ffree, found.f_namemax) == (1 << 40, 1000, 993, 255)


# Privileges


def test_writer_without_privileges_is_told_of(tmp_path: Path) -> None:
    with ToyMount(tmp_path / "mnt", FuseOptions(allow_other=True)) as toy:
        toy.run("touch f; chmod 6777 f")
        toy.run("exec setpriv --reuid 12345 --clear-groups sh -c 'echo x >> f; : > f'")
        assert toy.handler.called("write")[-1][4:] == (True, True)
        assert toy.handler.called("open")[-1][3:] == (True,)
        toy.run("echo x >> f")
        assert toy.handler.called("write")[-1][4:] == (False, True)


def test_mode_is_asked_for_again_when_a_write_has_changed_it(tmp_path: Path) -> None:
    with ToyMount(tmp_path / "mnt", FuseOptions(allow_other=True), attr_timeout_s=LONG_S, entry_timeout_s=LONG_S) as toy:
        attr = toy.handler.add(1, b"f", stat.S_IFREG | 0o6777)

        def drop(*args: object) -> None:
            attr.mode = stat.S_IFREG | 0o777

        toy.handler.before["write"] = drop
        assert toy.run("stat -c %a f") == "6777\n"
        toy.run("exec setpriv --reuid 12345 --clear-groups sh -c 'echo x >> f'")
        assert toy.run("stat -c %a f") == "777\n"


def test_kernel_checks_permissions(tmp_path: Path) -> None:
    with ToyMount(tmp_path / "mnt", FuseOptions(allow_other=True)) as toy:
        toy.run("echo secret > f; chmod 600 f; mkdir d; chmod 700 d")
        shown = toy.run("setpriv --reuid 12345 --clear-groups sh -c 'cat f; ls d; touch n'", check=False)
        assert shown.count("Permission denied") == 3


# Locks, interrupts, threads


def test_locks_have_owners_and_are_flushed(toy: ToyMount) -> None:
    toy.run("touch f")
    with open(toy.path / "f", "r+b") as f:
        fcntl.lockf(f, fcntl.LOCK_EX, 10, 5)
        fcntl.flock(f, fcntl.LOCK_SH)
    locks = [args[3] for args in toy.handler.called("setlk")]
    assert [(lock.type, lock.start, lock.end, lock.flock) for lock in locks] == [
        (fcntl.F_WRLCK, 5, 14, False),
        (fcntl.F_RDLCK, 0, 2**63 - 1, True),
    ]
    assert locks[0].pid == os.getpid()
    assert toy.handler.called("flush")[-1][2] == locks[0].owner
    fhs = {args[2] for args in toy.handler.called("setlk")}
    eventually(lambda: fhs <= {args[1] for args in toy.handler.called("release")})
    assert len(fhs) == 1


def wait_for_lock(toy: ToyMount) -> subprocess.Popen[bytes]:
    """A process that waits for a lock which nobody ever gives."""
    entered = threading.Event()

    def never(c: object, ino: int, fh: int, lock: object, wait: bool) -> None:
        entered.set()
        eventually(lambda: c.interrupted())  # type: ignore[attr-defined]
        raise OSError(errno.EINTR, "interrupted")

    toy.handler.hooks["setlk"] = never
    waiting = subprocess.Popen(["flock", str(toy.path / "f"), "true"])
    assert entered.wait(20)
    return waiting


def test_signal_ends_a_wait_for_a_lock(toy: ToyMount) -> None:
    toy.run("touch f")
    with wait_for_lock(toy) as waiting:
        waiting.send_signal(signal.SIGTERM)
        assert waiting.wait(20) == -signal.SIGTERM


def test_killed_process_ends_its_wait_for_a_lock(toy: ToyMount) -> None:
    toy.run("touch f")
    with wait_for_lock(toy) as waiting:
        waiting.kill()
        assert waiting.wait(20) == -signal.SIGKILL


def test_slow_requests_do_not_hold_up_others(toy: ToyMount) -> None:
    gate, entered = threading.Event(), threading.Semaphore(0)

    def slow(c: object, parent: int, name: bytes) -> None:
        if name == SLOW_FILE:
            entered.release()
            gate.wait(20)

    toy.handler.before["lookup"] = slow
    (toy.path / "d").mkdir()
    waiting = [threading.Thread(target=os.path.exists, args=(toy.path / "d" / os.fsdecode(SLOW_FILE),)) for _ in range(10)]
    for thread in waiting:
        thread.start()
    assert entered.acquire(timeout=20)
    assert os.stat(toy.path).st_ino == 1
    gate.set()
    for thread in waiting:
        thread.join(20)
        assert not thread.is_alive()


def test_error_numbers_and_exceptions_reach_the_caller(toy: ToyMount, expected_logs: ExpectedLogs) -> None:
    expected_logs.add("of inode 1 failed")

    def fail(c: object, parent: int, name: bytes) -> None:
        if name == b"quota":
            raise OSError(errno.EDQUOT, "no more")
        if name == b"bug":
            raise ZeroDivisionError

    toy.handler.before["lookup"] = fail
    for name, code in (("quota", errno.EDQUOT), ("bug", errno.EIO)):
        with pytest.raises(OSError) as caught:
            os.stat(toy.path / name)
        assert caught.value.errno == code
    assert os.stat(toy.path).st_ino == 1


# Notifications


def test_invalidated_inode_is_read_again(cached: ToyMount) -> None:
    path = cached.path / "f"
    path.write_bytes(b"old")
    assert path.read_bytes() == b"old"
    cached.handler.data[2][:] = b"new"
    assert path.read_bytes() == b"old", "the kernel was told that it may keep it"
    assert cached.channel.inval_inode(2)
    assert path.read_bytes() == b"new"
    assert not cached.channel.inval_inode(999)


@pytest.mark.parametrize("expire_only", [False, True])
def test_invalidated_name_is_looked_up_again(cached: ToyMount, expire_only: bool) -> None:
    (cached.path / "f").touch()
    (cached.path / "g").touch()
    os.stat(cached.path / "f")
    cached.handler.names[1][b"f"] = cached.handler.names[1][b"g"]
    assert os.stat(cached.path / "f").st_ino == 2
    assert cached.channel.inval_entry(1, b"f", expire_only=expire_only)
    assert os.stat(cached.path / "f").st_ino == 3
    assert not cached.channel.inval_entry(1, b"never seen", expire_only=expire_only)


def test_deleted_name_is_gone(cached: ToyMount) -> None:
    (cached.path / "f").touch()
    del cached.handler.names[1][b"f"]
    assert (cached.path / "f").exists()
    assert cached.channel.delete(1, 2, b"f")
    assert not (cached.path / "f").exists()


@pytest.mark.usefixtures("kernel_caches")
def test_stored_pages_need_no_read(cached: ToyMount) -> None:
    cached.handler.add(1, b"f", stat.S_IFREG | 0o644).size = 6
    os.stat(cached.path / "f")
    assert cached.channel.store(2, 0, b"pushed")
    assert (cached.path / "f").read_bytes() == b"pushed"
    assert "READ" not in cached.channel.counts()


@pytest.mark.usefixtures("kernel_caches")
def test_epoch_makes_every_name_be_looked_up_again(cached: ToyMount) -> None:
    (cached.path / "d").mkdir()
    (cached.path / "d" / "f").touch()
    os.stat(cached.path / "d" / "f")
    before = cached.channel.counts()["LOOKUP"]
    if not cached.channel.inc_epoch():
        pytest.skip("this kernel has no INC_EPOCH")
    os.stat(cached.path / "d" / "f")
    assert cached.channel.counts()["LOOKUP"] == before + 2


# The end


def test_unmounting_ends_serving(tmp_path: Path) -> None:
    with ToyMount(tmp_path / "mnt") as toy:
        os.stat(toy.path)
        unmount(toy.path)
        toy.join()
        assert toy.channel.n_threads == 0
        assert not toy.channel.inval_inode(1)


def test_busy_mount_is_not_unmounted_and_lazily_ends_with_its_last_user(tmp_path: Path) -> None:
    with ToyMount(tmp_path / "mnt") as toy:
        fd = os.open(toy.path / "f", os.O_CREAT | os.O_RDWR)
        with pytest.raises(OSError, match="in use") as caught:
            unmount(toy.path)
        assert caught.value.errno == errno.EBUSY
        unmount(toy.path, lazy=True)
        assert not os.path.ismount(toy.path)
        assert os.write(fd, b"still served") == 12
        os.close(fd)
        toy.join()


def test_force_fails_what_waits(tmp_path: Path) -> None:
    with ToyMount(tmp_path / "mnt") as toy:
        toy.run("touch f")
        with wait_for_lock(toy) as waiting:
            unmount(toy.path, force=True)
            assert waiting.wait(20) != 0
        toy.join()
