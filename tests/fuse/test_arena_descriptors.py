"""Descriptors that compiled code has given out: what Python does to their files, and what they are used for besides reading."""

import errno
import fcntl
import mmap
import os
import signal
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.answers import open_compiled, run_all, served, sustained, until, used_inodes
from support.mounts import Mount, MountFactory, cairnfs
from support.syscalls import FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE, fallocate

pytestmark = [pytest.mark.fuse, pytest.mark.usefixtures("kernel_caches")]

SIZE = 30_000
QUIET = ("--heartbeat", "30")
CONTENT = bytes(range(256)) * (SIZE // 256) + bytes(SIZE % 256)


def quiet_mount(mounts: MountFactory) -> Mount:
    volume = mounts.volume()
    return mounts.new(volume, *QUIET, *volume.compiled_opens)


@pytest.fixture
def quiet(mounts: MountFactory) -> Mount:
    return quiet_mount(mounts)


@pytest.fixture
def path(quiet: Mount) -> Path:
    """A small file that was read before."""
    path = quiet.path / "f"
    path.write_bytes(CONTENT)
    assert path.read_bytes() == CONTENT
    return path


@pytest.fixture
def fd(quiet: Mount, path: Path) -> Iterator[int]:
    fd = open_compiled(quiet, path)
    yield fd
    os.close(fd)


def forget_pages(fd: int) -> None:
    """So that the next read asks the mount."""
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def content(fd: int) -> bytes:
    forget_pages(fd)
    return os.pread(fd, 1 << 20, 0)


def nothing_is_kept(mount: Mount, inodes_before: int) -> None:
    until(lambda: sustained(mount.volume) == [], "an inode without a name is still kept")
    until(lambda: used_inodes(mount) == inodes_before, "space was not given back")
    assert cairnfs("fsck", mount.volume.url, "--json", check=False).returncode == 0


# The end of a file


@pytest.mark.parametrize("n_descriptors", [1, 3])
@pytest.mark.parametrize("how", ["unlink", "rename"])
def test_a_file_without_a_name_is_readable_to_the_last_close(mounts: MountFactory, how: str, n_descriptors: int) -> None:
    mount = quiet_mount(mounts)
    path = mount.path / "f"
    (mount.path / "g").write_bytes(b"other")
    n_before = used_inodes(mount)
    path.write_bytes(CONTENT)
    assert path.read_bytes() == CONTENT
    fds = [open_compiled(mount, path) for _ in range(n_descriptors)]
    if how == "unlink":
        path.unlink()
        assert not path.exists()
    else:
        os.rename(mount.path / "g", path)
        assert path.read_bytes() == b"other"
    for fd in fds:
        assert content(fd) == CONTENT
        found = os.fstat(fd)
        assert (found.st_nlink, found.st_size) == (0, SIZE)
    assert sustained(mount.volume), "it is kept for its descriptors"
    again = os.open(f"/proc/self/fd/{fds[0]}", os.O_RDWR)
    os.pwrite(again, b"changed", 0)
    assert os.pread(fds[-1], 7, 0) == b"changed"
    os.close(again)
    for fd in fds[:-1]:
        os.close(fd)
    time.sleep(0.1)
    assert content(fds[-1]) == b"changed" + CONTENT[7:]
    assert os.fstat(fds[-1]).st_nlink == 0
    os.close(fds[-1])
    nothing_is_kept(mount, n_before)


def test_a_file_that_still_has_a_name_stays(quiet: Mount, path: Path, fd: int) -> None:
    os.link(path, quiet.path / "other")
    path.unlink()
    assert content(fd) == CONTENT
    assert os.fstat(fd).st_nlink == 1
    assert sustained(quiet.volume) == []
    os.close(os.open(quiet.path / "other", os.O_RDONLY))
    assert (quiet.path / "other").read_bytes() == CONTENT


def test_compiled_code_opens_the_file_again_when_removing_it_has_failed(quiet: Mount, path: Path) -> None:
    (quiet.path / "d").mkdir()
    for _ in range(3):
        with pytest.raises(OSError):
            os.rename(path, quiet.path / "d")
        with pytest.raises(OSError):
            os.rename(quiet.path / "d", path)
    os.close(open_compiled(quiet, path))


def test_unlinking_opening_and_closing_by_many_processes_leaves_nothing(mounts: MountFactory) -> None:
    """Each file's content is its own number, so whoever reads something else has read a stranger."""
    mount = quiet_mount(mounts)
    (mount.path / "d").mkdir()
    n_before = used_inodes(mount)
    script = """
import errno, os, random, sys, time
top, seed = sys.argv[1], int(sys.argv[2])
rng, end = random.Random(seed), time.monotonic() + 5
open_files = []

def read(fd, ino, head):
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    data = os.pread(fd, 100000, 0)
    assert os.fstat(fd).st_ino == ino
    assert data == head, (data[:8], head[:8])

n = 0
while time.monotonic() < end:
    n += 1
    path = os.path.join(top, rng.choice("abcd"))
    roll = rng.random()
    try:
        if roll < 0.2:
            temporary = os.path.join(top, f"t{seed}-{n}")
            with open(temporary, "wb") as file:
                file.write(b"%d-%d;" % (seed, n) * rng.choice((1, 50, 2000)))
            os.rename(temporary, path)
        elif roll < 0.3:
            os.unlink(path)
        elif roll < 0.35:
            os.link(path, os.path.join(top, rng.choice("abcd")))
        elif roll < 0.7 or not open_files:
            fd = os.open(path, os.O_RDONLY)
            data = os.pread(fd, 100000, 0)
            assert data and data == data[: data.index(b";") + 1] * data.count(b";"), data[:20]
            open_files.append((fd, os.fstat(fd).st_ino, data))
        elif roll < 0.8:
            read(*rng.choice(open_files))
        else:
            fd, *rest = open_files.pop(rng.randrange(len(open_files)))
            read(fd, *rest)
            os.close(fd)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EEXIST):
            raise
for fd, *rest in open_files:
    read(fd, *rest)
    os.close(fd)
"""
    found = served(mount, lambda: run_all(script, [(mount.path / "d", seed) for seed in range(4)]))
    assert found.compiled["OPEN"] > 50
    for name in os.listdir(mount.path / "d"):
        (mount.path / "d" / name).unlink()
    nothing_is_kept(mount, n_before)


# Changes through other descriptors


def test_what_another_descriptor_writes_is_seen_at_once(path: Path, fd: int) -> None:
    with open(path, "r+b", buffering=0) as writer:
        for i in range(20):
            writer.seek(i * 3)
            writer.write(b"%03d" % i)
            assert content(fd)[: i * 3 + 3][-3:] == b"%03d" % i
            if i % 3 == 0:
                os.fsync(writer.fileno())
                assert content(fd)[: i * 3 + 3][-3:] == b"%03d" % i
        writer.seek(SIZE)
        writer.write(b"end")
        assert os.fstat(fd).st_size == os.stat(path).st_size == SIZE + 3
        assert content(fd)[-3:] == b"end"
    assert os.fstat(fd).st_size == os.stat(path).st_size == SIZE + 3
    assert content(fd)[-3:] == b"end"


def test_sizes_change_under_a_descriptor(path: Path, fd: int) -> None:
    for size in (SIZE - 1, 100, 5000, 0, 10, SIZE):
        os.truncate(path, size)
        found = content(fd)
        assert len(found) == size == os.fstat(fd).st_size == os.stat(path).st_size
    assert found == bytes(SIZE), "cut off and extended again"
    path.write_bytes(b"new")
    assert content(fd) == b"new"
    os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))
    assert content(fd) == b""
    with open(path, "ab") as file:
        file.write(b"appended")
    assert content(fd) == b"appended"


def test_holes_and_copies_change_under_a_descriptor(quiet: Mount, path: Path, fd: int) -> None:
    with open(path, "r+b") as file:
        fallocate(file.fileno(), FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE, 0, 4096)
        assert content(fd) == bytes(4096) + CONTENT[4096:]
        os.copy_file_range(fd, file.fileno(), 100, 8192, 0)
        assert content(fd)[:100] == CONTENT[8192:8292]
        fallocate(file.fileno(), 0, 0, SIZE + 10)
        assert len(content(fd)) == SIZE + 10


def test_modes_change_and_privileges_go(quiet: Mount, path: Path, fd: int) -> None:
    if os.geteuid() != 0:
        pytest.skip("writing as somebody else needs root")
    os.chmod(path, 0o6777)
    assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o6777
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o6777
    script = "import os, sys; os.setuid(65534); f = os.open(sys.argv[1], os.O_WRONLY); os.write(f, b'x'); os.close(f)"
    subprocess.run([sys.executable, "-c", script, path], check=True)
    assert stat.S_IMODE(os.stat(path).st_mode) & 0o6000 == 0
    assert stat.S_IMODE(os.fstat(fd).st_mode) & 0o6000 == 0
    assert content(fd)[:1] == b"x"


def test_what_another_mount_does_is_seen_through_a_descriptor(mounts: MountFactory) -> None:
    one = mounts.new(None, *QUIET)
    two = mounts.new(one.volume, *QUIET, *one.volume.compiled_opens)
    (one.path / "f").write_bytes(CONTENT)
    until((two.path / "f").exists)
    (two.path / "f").read_bytes()
    (two.path / "f").read_bytes()
    fd = open_compiled(two, two.path / "f")
    (one.path / "f").write_bytes(b"changed")
    until(lambda: os.fstat(fd).st_size == 7)
    until(lambda: os.pread(fd, 100, 0) == b"changed")
    (one.path / "f").chmod(0o600)
    until(lambda: stat.S_IMODE(os.fstat(fd).st_mode) == 0o600)
    os.close(fd)


# What else a descriptor is used for


def test_every_way_to_read(quiet: Mount, path: Path, fd: int) -> None:
    assert (os.lseek(fd, 0, os.SEEK_DATA), os.lseek(fd, 0, os.SEEK_HOLE), os.lseek(fd, 0, os.SEEK_END)) == (0, SIZE, SIZE)
    with pytest.raises(OSError) as caught:
        os.lseek(fd, SIZE, os.SEEK_DATA)
    assert caught.value.errno == errno.ENXIO
    os.fsync(fd)
    os.fdatasync(fd)
    with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as mapped:
        assert mapped[:] == CONTENT
    with open(quiet.path / "copy", "w+b") as copy:
        assert os.copy_file_range(fd, copy.fileno(), SIZE, 0, 0) == SIZE
        assert os.pread(copy.fileno(), SIZE, 0) == CONTENT
    with open(quiet.path / "sent", "w+b") as sent:
        assert os.sendfile(sent.fileno(), fd, 0, SIZE) == SIZE
        assert os.pread(sent.fileno(), SIZE, 0) == CONTENT
    direct = os.open(path, os.O_RDONLY | os.O_DIRECT)
    with mmap.mmap(-1, 32768) as room:
        assert os.readv(direct, [room]) == SIZE
        assert room[:SIZE] == CONTENT
    os.close(direct)
    for refused in (lambda: os.write(fd, b"x"), lambda: os.ftruncate(fd, 0), lambda: fallocate(fd, 0, 0, 10)):
        with pytest.raises(OSError) as caught:
            refused()
        assert caught.value.errno in (errno.EBADF, errno.EINVAL)
    duplicate = os.dup(fd)
    assert content(duplicate) == CONTENT
    os.close(duplicate)
    assert content(fd) == CONTENT


def test_stats_count_descriptors_of_compiled_code(quiet: Mount, path: Path, fd: int) -> None:
    def gauges() -> list[str]:
        return [line for line in (quiet.path / ".stats").read_text().splitlines() if line.startswith("cairnfs_open_")]

    assert "cairnfs_open_handles 1" in gauges() and "cairnfs_open_inodes 1" in gauges()
    os.lseek(fd, 0, os.SEEK_DATA)  # known to Python from now on
    assert "cairnfs_open_handles 1" in gauges() and "cairnfs_open_inodes 1" in gauges()


HOLD = """
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
fcntl.flock(fd, int(sys.argv[3])) if sys.argv[2] == "flock" else fcntl.lockf(fd, fcntl.LOCK_SH)
print("held", flush=True)
for line in sys.stdin:
    if line == "close\\n":
        os.close(fd)
        print("closed", flush=True)
"""


class Holder:
    """Another process that takes a lock through a descriptor for reading."""

    def __init__(self, path: Path, kind: str, operation: int = fcntl.LOCK_EX) -> None:
        command = [sys.executable, "-c", HOLD, str(path), kind, str(operation)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.hears("held")

    def hears(self, what: str) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == what + "\n"

    def close_descriptor(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("close\n")
        self.process.stdin.flush()
        self.hears("closed")

    def __enter__(self) -> "Holder":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


def taken(path: Path, kind: str) -> bool:
    """Is a lock in the way of an exclusive one?"""
    with open(path, "r+b") as file:
        try:
            (fcntl.flock if kind == "flock" else fcntl.lockf)(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@pytest.mark.parametrize("end", ["close", "exit"])
@pytest.mark.parametrize("kind", ["flock", "fcntl"])
def test_locks_through_a_descriptor_of_compiled_code(quiet: Mount, path: Path, kind: str, end: str) -> None:
    holders: list[Holder] = []
    found = served(quiet, lambda: holders.append(Holder(path, kind)))
    with holders[0] as holder:
        assert (found.compiled["OPEN"], found.python["OPEN"]) == (1, 0)
        assert found.python["SETLK"] + found.python["SETLKW"] == 1
        assert taken(path, kind)
        if kind == "fcntl":
            with open(path, "r+b") as file:
                query = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
                answer = struct.unpack("hhqqi4x", fcntl.fcntl(file, fcntl.F_GETLK, query))
            assert (answer[0], answer[4]) == (fcntl.F_RDLCK, holder.process.pid)
        if end == "close":
            holder.close_descriptor()
        else:
            holder.process.send_signal(signal.SIGKILL)
            holder.process.wait()
        until(lambda: not taken(path, kind), "the lock was never given back")
    assert path.read_bytes() == CONTENT


def test_flock_is_shared_and_given_back(quiet: Mount, path: Path) -> None:
    one, two = open_compiled(quiet, path), open_compiled(quiet, path)
    fcntl.flock(one, fcntl.LOCK_SH)
    fcntl.flock(two, fcntl.LOCK_SH | fcntl.LOCK_NB)
    with pytest.raises(BlockingIOError):
        fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(one, fcntl.LOCK_UN)
    fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)
    duplicate = os.dup(two)
    os.close(two)
    time.sleep(0.1)
    with pytest.raises(BlockingIOError):
        fcntl.flock(one, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(duplicate)
    until(lambda: not taken(path, "flock"))
    os.close(one)


def test_a_locked_descriptor_of_a_removed_file(quiet: Mount, path: Path) -> None:
    n_before = used_inodes(quiet) - 1
    fd = open_compiled(quiet, path)
    fcntl.flock(fd, fcntl.LOCK_EX)
    path.unlink()
    assert content(fd) == CONTENT
    os.close(fd)
    nothing_is_kept(quiet, n_before)


# The end of a mount


def test_an_open_descriptor_keeps_the_mount(quiet: Mount, path: Path, fd: int) -> None:
    refused = cairnfs("umount", quiet.path, check=False)
    assert refused.returncode != 0
    assert "it is in use" in refused.stderr
    assert content(fd) == CONTENT


@pytest.mark.parametrize("removed", [False, True])
def test_a_mount_that_is_told_to_end_frees_what_descriptors_kept(mounts: MountFactory, removed: bool) -> None:
    mount = quiet_mount(mounts)
    path = mount.path / "f"
    path.write_bytes(CONTENT)
    path.read_bytes()
    fd = open_compiled(mount, path)
    if removed:
        path.unlink()
    pid = mount.pids[0]
    os.kill(pid, signal.SIGTERM)
    os.kill(pid, signal.SIGTERM)  # do not wait for the descriptor
    until(lambda: not mount.pids, "the mount does not end", 20)
    mount.mounted = False
    mount.expected_log.append("asked again|detaching")
    assert sustained(mount.volume) == []
    with pytest.raises(OSError):
        content(fd)
    os.close(fd)
    mount.volume.assert_clean()
    mount.start()
    assert path.exists() != removed
