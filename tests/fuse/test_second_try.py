"""A file that is removed twice within one open(2), each time between LOOKUP and OPEN: as on a disk, it is opened."""

import errno
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from support.mounts import Mount, MountFactory
from support.takeovers import take_over
from support.toy_mount import eventually

pytestmark = [pytest.mark.fuse]

# Each OPEN of one that writes says that it has come, and waits to be let go on.
HELD_UP = """
import itertools, os, time
from cairnfs.vfs import Vfs
serve, numbers = Vfs.open, itertools.count()
def opening(self, c, ino, flags, *more):
    if flags & os.O_RDWR:
        n, until_s = next(numbers), time.monotonic() + 30
        open(f"{folder}/came{{n}}-{{os.getpid()}}", "w").close()
        while not os.path.exists(f"{folder}/go{{n}}") and time.monotonic() < until_s: time.sleep(0.001)
    return serve(self, c, ino, flags, *more)
Vfs.open = opening
"""


@pytest.fixture
def mount(mounts: MountFactory, tmp_path: Path) -> Mount:
    mount = mounts.new(None, "--workers", "1", front="channel")
    take_over(mount, change=HELD_UP.format(folder=tmp_path))
    return mount


class Opener:
    """Opens a file in a thread. `result`: its descriptor, or the negative errno."""

    def __init__(self, path: Path, folder: Path) -> None:
        self.result = 0
        self.folder = folder
        self._path = path
        self._thread = threading.Thread(target=self._open)
        self._thread.start()

    def _open(self) -> None:
        try:
            self.result = os.open(self._path, os.O_RDWR)
        except OSError as error:
            self.result = -(error.errno or errno.EIO)

    def before_open(self, n: int, change: Callable[[int], None]) -> None:
        """Do something, given the process that serves, while the n-th OPEN waits; then let it go on."""
        eventually(lambda: any(self.folder.glob(f"came{n}-*")))
        change(int(next(self.folder.glob(f"came{n}-*")).name.rpartition("-")[2]))
        (self.folder / f"go{n}").touch()

    def join(self) -> int:
        self._thread.join(60)
        assert not self._thread.is_alive()
        return self.result


def n_inodes(mount: Mount) -> int:
    found = os.statvfs(mount.path)
    return found.f_files - found.f_ffree


def removed_twice(mount: Mount, folder: Path, and_then: Callable[[int], None] = lambda _: None) -> int:
    """What comes of an open whose file is replaced before its first OPEN, and removed before the second one."""
    path = mount.path / "f"
    path.write_bytes(b"before")
    opener = Opener(path, folder)

    def replace(_: int) -> None:
        path.unlink()
        path.write_bytes(b"after")

    def remove(pid: int) -> None:
        path.unlink()
        and_then(pid)

    opener.before_open(0, replace)
    opener.before_open(1, remove)
    return opener.join()


def test_a_file_removed_twice_within_one_open_is_opened(mount: Mount, tmp_path: Path) -> None:
    n_before = n_inodes(mount)
    fd = removed_twice(mount, tmp_path)
    assert fd > 0, os.strerror(-fd)
    assert os.pread(fd, 100, 0) == b"after"
    assert os.fstat(fd).st_nlink == 0
    assert os.pwrite(fd, b"more", 5) == 4
    os.close(fd)
    eventually(lambda: n_inodes(mount) == n_before)
    mount.stop()
    mount.volume.assert_clean()


def test_nothing_is_left_of_it_when_the_worker_is_killed(mount: Mount, tmp_path: Path) -> None:
    mount.expected_log += [r"the process that served was killed: another one takes over"]
    n_before = n_inodes(mount)
    result = removed_twice(mount, tmp_path, and_then=lambda pid: os.kill(pid, signal.SIGKILL))
    assert result == -errno.ESTALE  # its successor holds nothing that has neither a name nor a handle
    eventually(lambda: n_inodes(mount) == n_before)
    mount.stop()
    mount.volume.assert_clean()
