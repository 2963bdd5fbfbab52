"""WRITE answered by compiled code on real mounts: which requests, and that files are what they would be on any file system."""

import mmap
import os
import random
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from support.answers import served, totals
from support.mounts import Mount, MountFactory
from support.syscalls import FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE, fallocate

pytestmark = [pytest.mark.fuse, pytest.mark.usefixtures("kernel_caches")]

N_FILES = 50
KIB = 1 << 10
QUIET = ("--heartbeat", "30")
KILLED = r"the process that served was killed: another one takes over"


@pytest.fixture
def mount(mounts: MountFactory) -> Mount:
    return mounts.new(None, *QUIET, "--workers", "1")


def create(folder: Path, n_bytes: int, n_writes: int = 1) -> None:
    folder.mkdir()
    for i in range(N_FILES):
        fd = os.open(folder / f"f{i}", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        for _ in range(n_writes):
            assert os.write(fd, bytes([i]) * (n_bytes // n_writes)) == n_bytes // n_writes
        os.close(fd)


@pytest.mark.parametrize(("n_bytes", "n_writes"), [(100, 1), (16 * KIB, 1), (64 * KIB, 16)])
def test_new_files_are_written_without_python(mount: Mount, n_bytes: int, n_writes: int) -> None:
    found = served(mount, lambda: create(mount.path / "d", n_bytes, n_writes))
    assert (found.compiled["WRITE"], found.python["WRITE"]) == (N_FILES * n_writes, 0)
    assert found.python["FLUSH"] == N_FILES
    for i in range(N_FILES):
        assert (mount.path / "d" / f"f{i}").read_bytes() == bytes([i]) * n_bytes
    mount.restart()
    for i in range(N_FILES):
        assert (mount.path / "d" / f"f{i}").read_bytes() == bytes([i]) * n_bytes


def test_a_large_file_asks_python_now_and_then(mount: Mount) -> None:
    piece = os.urandom(128 * KIB)

    def write() -> None:
        with (mount.path / "large").open("wb", buffering=0) as file:
            for _ in range(256):
                assert file.write(piece) == len(piece)

    found = served(mount, write)
    assert found.compiled["WRITE"] + found.python["WRITE"] >= 256
    assert found.python["WRITE"] <= 16
    assert (mount.path / "large").read_bytes() == piece * 256


def test_every_byte_is_counted_once_whoever_took_it(mount: Mount) -> None:
    create(mount.path / "d", 5000, 5)
    with (mount.path / "d" / "f0").open("ab") as file:
        file.write(b"x" * 100)
    lines = dict(line.rsplit(" ", 1) for line in (mount.path / ".stats").read_text().splitlines())
    assert float(lines["cairnfs_written_bytes_total"]) == 5000 * N_FILES + 100


def test_closing_what_was_opened_for_writing_and_not_written_does_not_enter_python(mount: Mount) -> None:
    path = mount.path / "file"
    path.write_bytes(b"content")

    def look() -> None:
        for _ in range(N_FILES):
            os.close(os.open(path, os.O_RDWR))

    found = served(mount, look)
    assert (found.compiled["FLUSH"], found.python["FLUSH"]) == (N_FILES, 0)


def test_an_ordinary_user_writes_without_python_unless_there_are_privileges_to_lose(mounts: MountFactory) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    mount = mounts.new(None, *QUIET, "--workers", "1", "-o", "allow_other")
    folder = mount.path / "d"
    folder.mkdir()
    os.chmod(folder, 0o777)
    script = (
        "import os, sys; os.setgid(65534); os.setuid(65534); path = sys.argv[1]\n"
        "fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o755); assert os.write(fd, b'a') == 1\n"
        "os.fchmod(fd, 0o4755); assert os.fstat(fd).st_mode & 0o7000 == 0o4000\n"
        "assert os.write(fd, b'b') == 1; assert os.fstat(fd).st_mode & 0o7000 == 0\n"
        "os.close(fd)\n"
    )
    found = served(mount, lambda: subprocess.run([sys.executable, "-c", script, folder / "f"], check=True))
    assert (found.compiled["WRITE"], found.python["WRITE"]) == (1, 1)
    assert (folder / "f").read_bytes() == b"ab"
    assert stat.S_IMODE((folder / "f").stat().st_mode) == 0o755


def test_a_mapping_shows_what_is_written_beside_it(mount: Mount) -> None:
    with (mount.path / "file").open("x+b", buffering=0) as file:
        file.write(b"a" * 10_000)
        with mmap.mmap(file.fileno(), 10_000) as mapped:
            assert mapped[5000:5003] == b"aaa"
            os.pwrite(file.fileno(), b"bbb", 5000)
            assert mapped[4999:5004] == b"abbba"
            mapped[5001:5002] = b"C"
            mapped.flush()
            os.pwrite(file.fileno(), b"d", 5002)
            assert os.pread(file.fileno(), 5, 4999) == b"abCda"
    assert (mount.path / "file").read_bytes() == b"a" * 5000 + b"bCd" + b"a" * 4997


def worker(mount: Mount) -> int:
    """The process that serves: one of the mount's whose parent is another."""
    pids = mount.pids
    return next(pid for pid in pids if int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]) in pids)


class Twin:
    """The same operations on a file of the mount and on one of the local file system, through the same three descriptors."""

    FLAGS = (os.O_RDWR | os.O_CREAT, os.O_RDWR, os.O_RDWR | os.O_APPEND)

    def __init__(self, mounted: Path, native: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.paths = (mounted, native)

    @contextmanager
    def opened(self) -> Iterator[None]:
        with ExitStack() as stack:
            self.fds = []
            for path in self.paths:
                self.fds.append([os.open(path, flags, 0o644) for flags in self.FLAGS])
                for fd in self.fds[-1]:
                    stack.callback(os.close, fd)
            yield

    def step(self) -> None:
        act = self.random.choice(["write"] * 6 + ["append", "append", "read", "read", "cut", "size", "punch", "sync", "end"])
        which, at = self.random.randrange(3), self.random.randrange(300_000)
        n_bytes = self.random.choice([1, 100, 4096, 70_000])
        data = self.random.randbytes(n_bytes)
        results = [self._do(act, fds[which], fds[2], at, data) for fds in self.fds]
        assert results[0] == results[1], (act, which, at, n_bytes)

    def _do(self, act: str, fd: int, appending: int, at: int, data: bytes) -> object:
        if act == "write":
            return os.pwrite(fd, data, at) if fd != appending else os.write(fd, data)
        if act == "append":
            return os.write(appending, data)
        if act == "read":
            return os.pread(fd, len(data), at)
        if act == "cut":
            return os.ftruncate(fd, at)
        if act == "punch":
            return fallocate(fd, FALLOC_KEEP_SIZE | FALLOC_PUNCH_HOLE, at, len(data))
        if act == "sync":
            return os.fsync(fd)
        if act == "end":
            return os.lseek(fd, 0, os.SEEK_END)
        return os.fstat(fd).st_size

    def compare(self) -> None:
        mounted, native = (path.read_bytes() for path in self.paths)
        assert mounted == native


@pytest.mark.parametrize("seed", range(4))
def test_random_operations_leave_what_they_leave_elsewhere(mount: Mount, tmp_path: Path, seed: int) -> None:
    twin = Twin(mount.path / "file", tmp_path / "native", seed)
    for _ in range(5):
        with twin.opened():
            for _ in range(120):
                twin.step()
        twin.compare()
    assert totals(mount).compiled["WRITE"] > 0
    mount.restart()
    twin.compare()


def test_so_they_do_while_the_process_that_serves_is_killed(mount: Mount, tmp_path: Path) -> None:
    mount.expected_log.append(KILLED)
    twin = Twin(mount.path / "file", tmp_path / "native", 7)
    for _ in range(8):
        with twin.opened():
            for i in range(60):
                twin.step()
                if i % 20 == 10:
                    os.kill(worker(mount), signal.SIGKILL)
        twin.compare()
    mount.stop()
    mount.start()
    twin.compare()
