"""flock and fcntl locks between processes, on one mount and on two mounts of one volume, through the channel."""

import errno
import fcntl
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.answers import run_all
from support.mounts import Mount, MountFactory

pytestmark = pytest.mark.fuse

HOLDER = """
import fcntl, sys, time
f = open(sys.argv[1], "r+b")
if sys.argv[2] == "flock":
    fcntl.flock(f, fcntl.LOCK_EX)
else:
    fcntl.lockf(f, fcntl.LOCK_EX, 10, 5)
print("held", flush=True)
sys.stdin.readline()
"""


class Holder:
    """Another process that holds a lock until told to let go."""

    def __init__(self, path: Path, kind: str) -> None:
        command = [sys.executable, "-c", HOLDER, str(path), kind]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "held\n"

    def __enter__(self) -> "Holder":
        return self

    def release(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            try:
                self.release()
            except BrokenPipeError:
                pass
        self.process.wait(10)
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()


def busy(call: object, *args: object) -> bool:
    try:
        call(*args)  # type: ignore[operator]
    except OSError as error:
        assert error.errno in (errno.EAGAIN, errno.EACCES)
        return True
    return False


def two_paths(mounts: MountFactory, shared: bool) -> tuple[Path, Path]:
    one = mounts.new()
    two = one if shared else mounts.new(one.volume)
    (one.path / "f").write_bytes(b"x" * 100)
    return one.path / "f", two.path / "f"


@pytest.mark.parametrize("same_mount", [True, False], ids=["one-mount", "two-mounts"])
def test_locks_exclude(mounts: MountFactory, same_mount: bool) -> None:
    here, there = two_paths(mounts, same_mount)
    with open(here, "r+b") as file:
        with Holder(there, "flock"):
            assert busy(fcntl.flock, file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            assert not busy(fcntl.lockf, file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.lockf(file, fcntl.LOCK_UN)
        deadline_s = time.monotonic() + 10
        while busy(fcntl.flock, file, fcntl.LOCK_EX | fcntl.LOCK_NB):  # RELEASE frees it, for which no close waits
            assert time.monotonic() < deadline_s, "the lock outlives its descriptor"
            time.sleep(0.01)
        with Holder(there, "fcntl") as holder:
            assert busy(fcntl.lockf, file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 12)
            assert not busy(fcntl.lockf, file, fcntl.LOCK_EX | fcntl.LOCK_NB, 5, 0)
            query = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            found = struct.unpack("hhqqi4x", fcntl.fcntl(file, fcntl.F_GETLK, query))
            assert (found[0], found[2], found[3]) == (fcntl.F_WRLCK, 5, 10)
            if same_mount:
                assert found[4] == holder.process.pid
        assert not busy(fcntl.lockf, file, fcntl.LOCK_EX | fcntl.LOCK_NB)


COUNTER = """
import fcntl, os, sys
for _ in range(int(sys.argv[2])):
    fd = os.open(sys.argv[1], os.O_RDWR)
    getattr(fcntl, sys.argv[3])(fd, fcntl.LOCK_EX)
    os.pwrite(fd, b"%020d" % (int(os.pread(fd, 20, 0)) + 1), 0)
    os.close(fd)
"""


@pytest.mark.parametrize("kind", ["flock", "lockf"])
def test_processes_count_under_locks_that_their_closes_give_back(mounts: MountFactory, kind: str) -> None:
    """The next open file of a process often has the address of the one before, by which the kernel names owners of a flock; all
    of a process have one owner of fcntl locks.
    """
    here, there = two_paths(mounts, True)
    here.write_bytes(b"%020d" % 0)
    n_rounds = 300
    run_all(COUNTER, [(there, n_rounds, kind)] * 4)
    assert int(here.read_bytes()) == 4 * n_rounds


def test_a_process_gets_the_lock_again_that_it_has_just_closed(mounts: MountFactory) -> None:
    """Without waiting for the RELEASE, some 40 of 600 were refused; on a busy machine it may still take longer."""
    here, _ = two_paths(mounts, True)
    n_refused = 0
    for flags in (os.O_RDONLY, os.O_RDWR):
        for _ in range(300):
            fd = os.open(here, flags)
            n_refused += busy(fcntl.flock, fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.close(fd)
    assert n_refused <= 6


@pytest.mark.parametrize("kind", ["flock", "fcntl"])
def test_a_waiter_gets_the_lock_when_it_is_released(mounts: MountFactory, kind: str) -> None:
    here, there = two_paths(mounts, True)
    with Holder(here, kind):
        waiter = subprocess.Popen([sys.executable, "-c", HOLDER, str(there), kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        time.sleep(0.3)
        assert waiter.poll() is None
    assert waiter.stdout is not None and waiter.stdin is not None
    assert waiter.stdout.readline() == b"held\n"
    waiter.communicate(b"\n", timeout=10)


@pytest.mark.parametrize("kind", ["flock", "fcntl"])
def test_waiting_can_be_interrupted(mounts: MountFactory, kind: str) -> None:
    here, there = two_paths(mounts, True)
    with Holder(here, kind):
        waiter = subprocess.Popen([sys.executable, "-c", HOLDER, str(there), kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        time.sleep(0.5)
        waiter.send_signal(signal.SIGTERM)
        assert waiter.wait(10) == -signal.SIGTERM
        waiter.communicate()


def test_a_dead_process_leaves_no_lock(mounts: MountFactory) -> None:
    here, there = two_paths(mounts, True)
    for kind in ("flock", "fcntl"):
        with Holder(there, kind) as holder:
            holder.process.kill()
            holder.process.wait()
            with open(here, "r+b") as file:
                deadline = time.monotonic() + 10
                while busy(fcntl.flock if kind == "flock" else fcntl.lockf, file, fcntl.LOCK_EX | fcntl.LOCK_NB):
                    assert time.monotonic() < deadline


def test_a_dead_mount_leaves_no_lock(mounts: MountFactory) -> None:
    one = mounts.new()
    two = mounts.new(one.volume)
    (one.path / "f").write_bytes(b"x")
    file = open(one.path / "f", "r+b")
    fcntl.flock(file, fcntl.LOCK_EX)
    one.kill()
    with pytest.raises(OSError):
        file.close()
    one.start()
    with open(two.path / "f", "r+b") as other:
        deadline = time.monotonic() + 20
        while busy(fcntl.flock, other, fcntl.LOCK_EX | fcntl.LOCK_NB):
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_closing_one_descriptor_drops_fcntl_locks(channel_mount: Mount) -> None:
    path = channel_mount.path / "f"
    path.write_bytes(b"x" * 100)
    first = open(path, "r+b")
    fcntl.lockf(first, fcntl.LOCK_EX)
    open(path, "rb").close()
    with Holder(path, "fcntl"):
        pass
    first.close()


def test_a_lock_taken_through_a_descriptor_whose_close_is_silent_ends_with_it(channel_mount: Mount) -> None:
    path = channel_mount.path / "f"
    path.write_bytes(b"x" * 100)
    reader = open(path, "rb")  # nothing is locked yet, so the kernel need not announce the close
    fcntl.lockf(reader, fcntl.LOCK_SH)
    with open(path, "r+b") as writer:  # another process, for this one's own lock is no obstacle
        query = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        blocked = [sys.executable, "-c", HOLDER, str(path), "fcntl"]
        waiter = subprocess.Popen(blocked, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        time.sleep(0.3)
        assert waiter.poll() is None
        assert struct.unpack("hhqqi4x", fcntl.fcntl(writer, fcntl.F_GETLK, query))[0] == fcntl.F_UNLCK
        reader.close()
        assert waiter.stdout is not None
        assert waiter.stdout.readline() == b"held\n"
        waiter.communicate(b"\n", timeout=10)
