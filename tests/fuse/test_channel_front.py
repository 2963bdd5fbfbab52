"""The compiled front: how a mount begins, ends, is stopped, and keeps its hands off what others mount."""

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cairnfs.daemon.front_channel import ChannelFront
from cairnfs.daemon.mountpoint import find_mount, is_mounted, unmount
from cairnfs.errors import MountError
from cairnfs.options import FuseOptions
from support.memory_handler import MemoryHandler
from support.toy_mount import NEEDS_ROOT, ToyMount, eventually

pytestmark = [pytest.mark.fuse, NEEDS_ROOT]


class Running:
    """A front that runs in a thread; `error` is what ended it."""

    def __init__(self, mountpoint: Path, **options: Any) -> None:
        self.handler = MemoryHandler()
        self.front = ChannelFront(self.handler, mountpoint, FuseOptions(**options))  # type: ignore[arg-type]
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.front.run()
        except BaseException as error:
            self.error = error

    def join(self) -> None:
        self._thread.join(20)
        assert not self._thread.is_alive(), "run() does not return"


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    running = Running(tmp_path)
    eventually(lambda: is_mounted(tmp_path))
    assert os.stat(tmp_path).st_ino == 1
    yield running
    running.front.stop()
    running.join()
    assert running.error is None
    assert not is_mounted(tmp_path)


def test_run_mounts_and_ends_with_the_mount(tmp_path: Path, running: Running) -> None:
    (tmp_path / "f").write_bytes(b"x")
    assert running.front.counts()["CREATE"] == 1
    unmount(tmp_path)
    running.join()
    assert running.front.counts() == {}


def test_stop_detaches_a_mount_in_use_and_fails_its_calls(tmp_path: Path, running: Running) -> None:
    fd = os.open(tmp_path / "f", os.O_CREAT | os.O_RDWR)
    running.front.stop()
    running.join()
    assert not is_mounted(tmp_path)
    with pytest.raises(OSError) as caught:
        os.write(fd, b"x")
    assert caught.value.errno in (errno.ENOTCONN, errno.ECONNABORTED, errno.EIO)
    with pytest.raises(OSError):
        os.close(fd)
    running.front.stop()


def test_stop_ends_calls_that_wait_for_ever(tmp_path: Path, running: Running) -> None:
    entered = threading.Event()

    def wait(c: Any, parent: int, name: bytes) -> None:
        entered.set()
        while not c.interrupted():
            pass

    running.handler.before["lookup"] = wait
    waiting = threading.Thread(target=os.path.exists, args=(tmp_path / "never",))
    waiting.start()
    assert entered.wait(20)
    running.front.stop()
    running.join()
    waiting.join(20)
    assert not waiting.is_alive()


def test_stop_before_run_leaves_nothing_mounted(tmp_path: Path) -> None:
    front = ChannelFront(MemoryHandler(), tmp_path, FuseOptions())  # type: ignore[arg-type]
    front.stop()
    front.run()
    assert not is_mounted(tmp_path)


def test_what_prevents_the_mount_is_raised_by_run(tmp_path: Path) -> None:
    running = Running(tmp_path / "missing")
    running.join()
    assert isinstance(running.error, MountError)


def test_later_mount_on_the_same_path_is_left_alone(tmp_path: Path, running: Running) -> None:
    """The old mount lives on, detached, for its open file; its end must not take the new one along."""
    fd = os.open(tmp_path / "f", os.O_CREAT | os.O_RDWR)
    unmount(tmp_path, lazy=True)
    with ToyMount(tmp_path) as newer:
        running.front.stop()
        running.join()
        assert find_mount(tmp_path) is not None
        assert os.stat(newer.path).st_ino == 1
        with pytest.raises(OSError):
            os.close(fd)


def test_senselessly_large_settings_are_cut_to_what_is_possible(tmp_path: Path) -> None:
    running = Running(tmp_path, max_threads=100_000, max_background=10**6, attr_timeout_s=1e12, entry_timeout_s=float("inf"))
    eventually(lambda: is_mounted(tmp_path))
    assert os.stat(tmp_path).st_ino == 1
    unmount(tmp_path)
    running.join()
    assert running.error is None


def test_notifications_without_a_mount_do_nothing(tmp_path: Path) -> None:
    front = ChannelFront(MemoryHandler(), tmp_path, FuseOptions())  # type: ignore[arg-type]
    front.invalidate([], [])
    front.invalidate_all()
    front.invalidate_attributes([])
