"""A mount whose processes stand still for so long that others take it for dead, and that then goes on; and one that only waited.

Other than behind a cut link, nothing of it notices the time that passes: threads go on in any order, with what they knew.
"""

import sys
import time
from subprocess import Popen

import pytest

from cairnfs.check import gc
from cairnfs.meta.sessions import SessionInfo
from cairnfs.volume import open_volume
from support.hosts import HostMount, Network
from support.mounts import MountFactory, Volume
from support.programs import ended, says
from support.redis_server import RedisServer
from support.stopping import stopped

pytestmark = [pytest.mark.fuse, pytest.mark.slow]

BEATS = ("--heartbeat", "1")  # so a session that was not heard of for 5 s is dead
STALE_S = 5.0
PATIENCE_S = 30
AWAY = ["Redis at .* Error", "change log", "no heartbeat", "its locks were given up", "taken for dead"]
LOG = "{cairnfs:0}log"
N_READ = 20
OLD, NEW = b"old;" * 5000, b"new;" * 5000  # of one size: attributes do not tell that pages are old

USE = """
import errno, fcntl, os, sys, threading
os.chdir(sys.argv[1])

def outcome(call, *args):
    try:
        found = call(*args)
        return found.decode() if isinstance(found, bytes) else "done"
    except OSError as error:
        return errno.errorcode[error.errno]

def opened(name):
    fd = os.open(name, os.O_RDWR)
    os.pread(fd, 20_000, 0)
    return fd

read = [opened(f"read{i}") for i in range(int(sys.argv[2]))]
for fd in read:
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)  # so the next read of it asks the mount
kept, flocked, locked, gone, replaced, free = map(opened, ("kept", "flocked", "locked", "gone", "replaced", "free"))
fcntl.flock(flocked, fcntl.LOCK_EX)
fcntl.lockf(locked, fcntl.LOCK_EX, 10, 5)
own = os.open("own", os.O_RDWR | os.O_CREAT)
os.pwrite(own, b"own;" * 50_000, 0)
os.fsync(own)
os.unlink("own")
for fd in (flocked, locked, gone, replaced, own, free):
    os.pwrite(fd, b"late", 0)
print("holding", flush=True)
sys.stdin.readline()

seen = {}
readers = [threading.Thread(target=lambda fd=fd: seen.update({fd: outcome(os.pread, fd, 4, 0)})) for fd in read]
for reader in readers:
    reader.start()
print("asked", flush=True)
for reader in readers:
    reader.join()
print(*sorted(set(seen.values())), outcome(lambda: open("kept", "rb").read(4)), outcome(os.pread, kept, 4, 0), flush=True)
for fd in (flocked, locked, gone, replaced, own, free):
    print(outcome(os.fsync, fd), outcome(os.pwrite, fd, b"more", 4), outcome(os.close, fd), flush=True)
new = os.open("flocked", os.O_RDWR)
again = fcntl.LOCK_EX | fcntl.LOCK_NB
print(outcome(fcntl.flock, new, again), outcome(os.pwrite, new, b"again", 0), outcome(os.close, new), flush=True)
"""

TAKE = """
import fcntl, os, sys
os.chdir(sys.argv[1])
flocked, locked = (os.open(name, os.O_RDWR) for name in ("flocked", "locked"))
fcntl.flock(flocked, fcntl.LOCK_EX)
fcntl.lockf(locked, fcntl.LOCK_EX, 10, 5)
for fd in (flocked, locked):
    os.pwrite(fd, b"taken", 0)
    os.close(fd)
"""


def go_on(process: "Popen[str]") -> None:
    assert process.stdin is not None
    process.stdin.write("go on\n")
    process.stdin.flush()


def sessions(volume: Volume) -> dict[str, SessionInfo]:
    """Of each host, those that nobody buries."""
    with open_volume(volume.url, data=False) as opened:
        return {session.host: session for session in opened.meta.sessions.list() if not session.is_buried}


def until_sessions(volume: Volume, *hosts: str) -> dict[str, SessionInfo]:
    deadline = time.monotonic() + PATIENCE_S
    while set(found := sessions(volume)) != set(hosts):
        assert time.monotonic() < deadline, f"there are sessions of {found.keys()}"
        time.sleep(0.05)
    return found


def until_it_beats(volume: Volume, host: str) -> SessionInfo:
    before = sessions(volume)[host]
    deadline = time.monotonic() + PATIENCE_S
    while (found := sessions(volume)[host]) == before:
        assert time.monotonic() < deadline, f"{host} has no heartbeat"
        time.sleep(0.02)
    return found


def change(beta: HostMount) -> None:
    for name in ("kept", *(f"read{i}" for i in range(N_READ))):
        with (beta.top / name).open("r+b") as file:
            file.write(NEW)
    (beta.top / "gone").unlink()
    (beta.top / "next").write_bytes(NEW)
    (beta.top / "next").rename(beta.top / "replaced")


def test_a_mount_that_stood_still_relies_on_nothing_of_before(
    network: Network, volume: Volume, server: RedisServer, mounts: MountFactory
) -> None:
    beta = network.mount(mounts, network.host("beta"), volume, *BEATS)
    alpha = network.mount(mounts, network.host("alpha"), volume, *BEATS, "--workers", "2", "--worker-timeout", "3")
    for mount in (alpha, beta):  # which may be a record behind when the log is cut
        mount.expected_log += AWAY
    for name in ("kept", "flocked", "locked", "gone", "replaced", "free", *(f"read{i}" for i in range(N_READ))):
        (beta.top / name).write_bytes(OLD)
    before = sessions(volume)["alpha"]
    user = alpha.host.popen(sys.executable, "-c", USE, alpha.path, N_READ)
    with ended(user):
        assert says(user) == "holding"
        with stopped(*alpha.pids):
            change(beta)
            go_on(user)
            assert says(user) == "asked"
            beta.host.run(sys.executable, "-c", TAKE, beta.path)
            until_sessions(volume, "beta")
            with server.client() as client:
                client.ltrim(LOG, -1, -1)
        assert says(user) == "new; new; new;", "reads that waited, an open, an open file"
        under_locks = [says(user) for _ in range(2)]
        without_names = [says(user) for _ in range(3)]
        assert under_locks == ["EIO EIO done"] * 2
        assert without_names == ["ESTALE ESTALE done"] * 3
        assert says(user) == "done done done", "what was written without a lock"
        assert says(user) == "done done done", "the lock, taken again"
    assert until_sessions(volume, "alpha", "beta")["alpha"].id != before.id
    assert (beta.top / "flocked").read_bytes() == b"again" + OLD[5:]
    assert (beta.top / "locked").read_bytes() == b"taken" + OLD[5:]
    assert (beta.top / "free").read_bytes() == b"latemore" + OLD[8:]
    assert (beta.top / "replaced").read_bytes() == NEW
    assert "cairnfs_worker_restarts 0\n" in (alpha.top / ".stats").read_text()
    check_that_nothing_is_left(volume, alpha, beta)


def check_that_nothing_is_left(volume: Volume, *used_by: HostMount) -> None:
    for mount in used_by:
        mount.stop()
    volume.assert_clean("--verify-data")
    with open_volume(volume.url, data=False) as opened:
        found = gc.run(opened, grace_s=0)
    assert (found.unknown_objects, found.deleted_files) == (0, 0)


def test_a_mount_that_comes_back_a_moment_after_the_store_has_lost_nothing(
    network: Network, volume: Volume, server: RedisServer, mounts: MountFactory
) -> None:
    alpha, beta = (network.mount(mounts, network.host(name), volume, *BEATS) for name in ("alpha", "beta"))
    for mount in (alpha, beta):
        mount.expected_log += AWAY
    (alpha.top / "flocked").write_bytes(OLD)
    holder = alpha.host.popen("flock", alpha.path / "flocked", "sh", "-c", "echo locked; read line")
    with ended(holder):
        assert says(holder) == "locked"
        before = until_it_beats(volume, "beta"), sessions(volume)["alpha"]
        with stopped(*alpha.pids):
            with stopped(server.pid):
                time.sleep(STALE_S + 1.5)
            until_it_beats(volume, "beta")
            time.sleep(0.3)  # and then it looks after the others
        after = sessions(volume)["beta"], until_it_beats(volume, "alpha")
        assert [session.id for session in after] == [session.id for session in before]
        done = beta.host.run("flock", "--nonblock", "--conflict-exit-code", "0", beta.path / "flocked", "echo", "taken from it")
        assert done == ""
