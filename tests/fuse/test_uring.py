"""FUSE over io_uring: when it is used and what is said of it, and what must not happen to requests on their way."""

import errno
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ExpectedLogs, missing

from cairnfs.daemon.front_channel import ChannelFront
from cairnfs.daemon.mountpoint import is_mounted, unmount
from cairnfs.daemon.shown import SERVING
from cairnfs.errors import MountError
from cairnfs.ext import fuse_chan
from cairnfs.options import FuseOptions
from support.memory_handler import MemoryHandler
from support.mounts import Mount, MountFactory, cairnfs
from support.toy_mount import NEEDS_ROOT, PATIENCE_S, ToyMount, eventually
from support.uring import N_CPUS, may_switch, switched

pytestmark = [pytest.mark.fuse, NEEDS_ROOT]

MANY = 40  # more than a queue has lanes in the beginning

STAT = "import os, sys; os.stat(sys.argv[1])"
ON_ONE_CPU = """
import fcntl, os, sys, threading
os.sched_setaffinity(0, {0})
def work(n):
    if sys.argv[2] == "stat":
        os.stat(f"{sys.argv[1]}/w{n}")
    else:
        fcntl.flock(open(f"{sys.argv[1]}/f"), fcntl.LOCK_EX)
threads = [threading.Thread(target=work, args=(n,)) for n in range(int(sys.argv[3]))]
for thread in threads:
    thread.start()
"""
LOAD = """
import os, sys
os.chdir(sys.argv[1])
try:
    open(sys.argv[2], "x").close()  # others see it before it is closed, and may end the mount by then
    for n in range(10**9):
        path = f"f{n % 50}"
        with open(path, "wb") as file:
            file.write(b"x" * 70000)
        with open(path, "rb") as file:
            file.read()
except OSError:
    pass
"""


@pytest.fixture(autouse=True)
def need_parameter() -> None:
    if not may_switch():
        missing("a fuse module whose parameter enable_uring can be set")


@pytest.fixture
def on() -> Iterator[None]:
    """It counts when the kernel takes the answer to INIT, which may be after mount(2)."""
    with switched(on=True):
        yield


@pytest.fixture
def toy(tmp_path: Path, on: None) -> Iterator[ToyMount]:
    with ToyMount(tmp_path / "mnt", uring_queues=N_CPUS) as mount:
        os.stat(mount.path)
        assert mount.channel.over_uring
        yield mount


def started(script: str, *args: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", script, *map(str, args)], stderr=subprocess.DEVNULL)


def config(mount: Mount) -> tuple[str, str | None]:
    """The transport and why, as the mount and its session show it."""
    found = json.loads((mount.path / ".config").read_text())
    (session,) = json.loads(cairnfs("status", mount.volume.url, "--json").stdout)["sessions"]
    assert {name: session[name] for name in SERVING} == {name: found[name] for name in SERVING}
    return found["transport"], found["transport_reason"]


# When it is used


def test_one_process_uses_it_where_it_is_switched_on(mounts: MountFactory) -> None:
    with switched(on=True):
        mount = mounts.new(None, "--workers", "0")
    assert config(mount) == ("io_uring", None)
    assert re.search("mounted .*transport io_uring", mount.log.read_text())
    data = os.urandom((3 << 20) + 7)
    (mount.path / "f").write_bytes(data)
    assert (mount.path / "f").read_bytes() == data
    assert subprocess.run(["ls", "-l", str(mount.path)], capture_output=True, text=True, check=True).stdout.count("f\n") == 1


def test_it_goes_on_when_it_is_switched_off_for_new_mounts(mounts: MountFactory) -> None:
    with switched(on=True):
        mount = mounts.new(None, "--workers", "0")
    with switched(on=False):
        (mount.path / "f").write_bytes(b"x")
    assert config(mount)[0] == "io_uring"


@pytest.mark.parametrize(
    ("on", "options", "reason"),
    [
        (False, ("--workers", "0"), "switched off in the kernel"),
        (True, ("--workers", "0", "--no-io-uring"), "--no-io-uring"),
        (True, ("--workers", "0", "-o", "io-uring=no"), "--no-io-uring"),
        (True, ("--workers", "1"), "needs --workers 0"),
        (True, ("--workers", "0", "--threads", "1"), "threads"),
    ],
)
def test_otherwise_the_descriptor_is_used_and_the_reason_is_shown(
    mounts: MountFactory, on: bool, options: tuple[str, ...], reason: str
) -> None:
    with switched(on=on):
        mount = mounts.new(None, *options)
    transport, why = config(mount)
    assert transport == "descriptor" and why is not None and reason in why
    assert re.search("mounted .*transport descriptor", mount.log.read_text())
    (mount.path / "f").write_bytes(b"x")


class FailingThreads:
    """`threading` as the channel sees it: the first threads cannot be started."""

    def __init__(self, n_failures: int) -> None:
        self.n_failures = n_failures

    def __getattr__(self, name: str) -> object:
        return getattr(threading, name)

    def Thread(self, **options: Any) -> threading.Thread:
        thread = threading.Thread(**options)
        if self.n_failures:
            self.n_failures -= 1
            thread.start = self._fail  # type: ignore[method-assign]
        return thread

    def _fail(self) -> None:
        raise RuntimeError("can't start new thread")


def test_when_a_queue_cannot_be_had_the_kernel_goes_on_with_the_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected_logs: ExpectedLogs, on: None
) -> None:
    expected_logs.add("cannot start another thread")
    monkeypatch.setattr(fuse_chan, "threading", FailingThreads(2 * N_CPUS - 1))
    with ToyMount(tmp_path / "mnt", uring_queues=N_CPUS) as mount:
        assert mount.run("echo x > f; cat f") == "x\n"
        assert not mount.channel.over_uring and mount.channel.uring_error == errno.ENOMEM


def test_a_channel_that_cannot_make_a_ring_uses_the_descriptor(tmp_path: Path, on: None) -> None:
    with ToyMount(tmp_path / "mnt", uring_queues=1 << 20) as mount:
        assert mount.run("echo x > f; cat f") == "x\n"
        assert not mount.channel.over_uring and mount.channel.uring_error == errno.EINVAL


def test_a_kernel_that_does_not_offer_it_is_not_asked(tmp_path: Path) -> None:
    with switched(on=False), ToyMount(tmp_path / "mnt", uring_queues=N_CPUS) as mount:
        assert mount.run("echo x > f; cat f") == "x\n"
        assert not mount.channel.over_uring and mount.channel.uring_error == 0


# Requests that wait


def test_more_requests_of_one_cpu_than_it_has_threads_are_all_answered(toy: ToyMount) -> None:
    toy.handler.before["lookup"] = lambda *args: threading.Event().wait(0.01)
    assert started(ON_ONE_CPU, toy.path, "stat", MANY).wait(PATIENCE_S) == 0
    assert len([args for args in toy.handler.called("lookup") if args[2].startswith(b"w")]) == MANY


def test_callers_that_wait_for_a_lock_do_not_keep_out_others_of_their_cpu(toy: ToyMount) -> None:
    toy.run("touch f")
    waiting, free = threading.Semaphore(0), threading.Event()

    def wait(*args: object) -> None:
        waiting.release()
        assert free.wait(PATIENCE_S)

    toy.handler.hooks["setlk"] = wait
    callers = started(ON_ONE_CPU, toy.path, "lock", MANY)
    for _ in range(MANY):
        assert waiting.acquire(timeout=PATIENCE_S)
    other = started(ON_ONE_CPU, toy.path, "stat", 1)
    other.wait(PATIENCE_S)
    assert any(args[2] == b"w0" for args in toy.handler.called("lookup"))
    free.set()
    assert callers.wait(PATIENCE_S) == 0


def test_threads_started_by_python_may_run_everywhere(toy: ToyMount) -> None:
    seen = []
    toy.handler.before["lookup"] = lambda *args: seen.append(os.sched_getaffinity(0))
    for n in range(5):
        started(STAT, toy.path / f"n{n}").wait(PATIENCE_S)
    assert len(seen) >= 5 and all(cpus == os.sched_getaffinity(0) for cpus in seen)


# The end


class Running:
    """A front over io_uring that runs in a thread."""

    def __init__(self, path: Path) -> None:
        self.handler = MemoryHandler()
        self.front = ChannelFront(self.handler, path, FuseOptions())  # type: ignore[arg-type]
        self.thread = threading.Thread(target=self.front.run)
        with switched(on=True):
            self.thread.start()
            eventually(lambda: is_mounted(path))
            os.stat(path)
        assert self.front.transport().name == "io_uring"

    def end(self) -> None:
        self.thread.join(PATIENCE_S)
        assert not self.thread.is_alive(), "run() does not return"


def under_load(path: Path, end: Callable[[], None]) -> None:
    callers = [started(LOAD, path, f"caller{n}") for n in range(4)]
    try:
        eventually(lambda: len(list(path.glob("caller*"))) == len(callers) and (path / "f7").exists())
        end()
    finally:
        ended = [caller.wait(PATIENCE_S) for caller in callers]
    assert ended == [0] * len(callers), "a caller did not end with the mount"


def test_stop_under_load_fails_all_calls_and_ends_every_thread(tmp_path: Path) -> None:
    before = threading.active_count()
    running = Running(tmp_path)
    under_load(tmp_path, running.front.stop)
    running.end()
    assert threading.active_count() == before


def test_stop_ends_calls_that_wait_for_a_thread(tmp_path: Path) -> None:
    running = Running(tmp_path)
    inside, go_on = threading.Event(), threading.Event()

    def wait(*args: object) -> None:
        inside.set()
        go_on.wait(PATIENCE_S)

    running.handler.before["lookup"] = wait
    callers = [started(STAT, tmp_path / f"w{n}") for n in range(8)]
    assert inside.wait(PATIENCE_S)
    stopping = threading.Thread(target=running.front.stop)
    stopping.start()
    go_on.set()
    stopping.join(PATIENCE_S)
    running.end()
    for caller in callers:
        assert caller.wait(PATIENCE_S) != 0


def test_unmounting_ends_it(tmp_path: Path) -> None:
    running = Running(tmp_path)
    (tmp_path / "f").write_bytes(b"x" * 100_000)
    unmount(tmp_path)
    running.end()


def test_forced_unmount_under_load(mounts: MountFactory) -> None:
    with switched(on=True):
        mount = mounts.new(None, "--workers", "0")

    def end() -> None:
        subprocess.run([sys.executable, "-m", "cairnfs.daemon.cli", "umount", "--force", str(mount.path)], check=True)

    under_load(mount.path, end)
    mount.mounted = False


def test_a_killed_process_leaves_no_call_waiting(mounts: MountFactory) -> None:
    with switched(on=True):
        mount = mounts.new(None, "--workers", "0")
    under_load(mount.path, mount.kill_processes)
    with pytest.raises(OSError) as caught:
        os.listdir(mount.path)
    assert caught.value.errno == errno.ENOTCONN
    mount.clear()
    mount.start()
    (mount.path / "after").write_bytes(b"x")


def test_mounting_again_and_again_leaves_nothing(tmp_path: Path) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        running = Running(tmp_path)
        (tmp_path / "f").write_bytes(b"x")
        try:
            unmount(tmp_path)
        except MountError:
            unmount(tmp_path, lazy=True)
        running.end()
    assert len(os.listdir("/proc/self/fd")) == descriptors
