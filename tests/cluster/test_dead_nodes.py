"""A node that is killed, or cut off for so long that it is taken for dead: what the others get, and what it may still do."""

import json
import sys
import time
from collections.abc import Callable
from subprocess import Popen

import pytest

from support.hosts import HostMount, Network
from support.mounts import MountFactory, Volume, cairnfs
from support.programs import ended, says

pytestmark = [pytest.mark.fuse, pytest.mark.slow]

BEATS = ("--heartbeat", "1")  # so a session that was not heard of for 5 s is dead
DEAD_S = 7.0  # and that is found out with the next heartbeat of another
BEFORE = b"before" * 10
LATE_S = 10.0  # what a busy machine may add

HOLD = """
import errno, fcntl, os, sys
os.chdir(sys.argv[1])
flocked, locked, written = (open(name, "r+b", buffering=0) for name in ("flocked", "locked", "written"))
fcntl.flock(flocked, fcntl.LOCK_EX)
fcntl.lockf(locked, fcntl.LOCK_EX, 10, 5)
gone = open("gone", "w+b", buffering=0)
gone.write(b"g" * 100_000)
os.fsync(gone)
os.unlink("gone")
for file in (flocked, locked, written):
    file.write(b"of the dead one" * 10_000)
print("holding", flush=True)

def outcome(call, *args):
    try:
        call(*args)
        return "done"
    except OSError as error:
        return errno.errorcode[error.errno]

for line in sys.stdin:
    print(*[outcome(os.fsync, file.fileno()) for file in (flocked, locked, written)], flush=True)
    print(*[outcome(os.pwrite, file.fileno(), b"late", 0) for file in (flocked, locked, written)], flush=True)
    print(outcome(fcntl.flock, flocked, fcntl.LOCK_EX | fcntl.LOCK_NB), outcome(os.pread, gone.fileno(), 10, 0), flush=True)
    print(*[outcome(os.close, file.fileno()) for file in (flocked, locked, written, gone)], flush=True)
    new = open("flocked", "r+b", buffering=0)
    print(outcome(fcntl.flock, new, fcntl.LOCK_EX | fcntl.LOCK_NB), outcome(new.write, b"again"), outcome(new.close), flush=True)
"""

TAKE = """
import fcntl, os, sys
os.chdir(sys.argv[1])
flocked, locked = (open(name, "r+b", buffering=0) for name in ("flocked", "locked"))
fcntl.flock(flocked, fcntl.LOCK_EX)
fcntl.lockf(locked, fcntl.LOCK_EX, 10, 5)
for file in (flocked, locked):
    file.write(b"of the living")
    file.close()
print("taken", flush=True)
sys.stdin.readline()
"""


def hold(mount: HostMount) -> "Popen[str]":
    for name in ("flocked", "locked", "written"):
        (mount.top / name).write_bytes(BEFORE)
    holder = mount.host.popen(sys.executable, "-c", HOLD, mount.path)
    assert says(holder) == "holding"
    return holder


def take(mount: HostMount) -> "Popen[str]":
    return mount.host.popen(sys.executable, "-c", TAKE, mount.path)


def sessions(volume: Volume) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(cairnfs("status", volume.url, "--json").stdout)["sessions"]
    return found


def until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def test_a_killed_node_leaves_neither_locks_nor_files(network: Network, volume: Volume, mounts: MountFactory) -> None:
    alpha, beta = (network.mount(mounts, network.host(name), volume, *BEATS) for name in ("alpha", "beta"))
    assert [session["host"] for session in sessions(volume)] == ["alpha", "beta"]
    holder = hold(alpha)
    until((beta.top / "written").exists, 5)
    taker = take(beta)
    with ended(holder, taker):
        time.sleep(1)
        alpha.host.cut()
        alpha.host.kill()
        alpha.mounted = False
        began_s = time.monotonic()
        assert says(taker) == "taken"
        assert time.monotonic() - began_s < DEAD_S + LATE_S
    until(lambda: [session["host"] for session in sessions(volume)] == ["beta"], LATE_S)
    assert (beta.top / "flocked").read_bytes() == (beta.top / "locked").read_bytes() == b"of the living" + BEFORE[13:]
    assert (beta.top / "written").read_bytes() == BEFORE
    beta.stop()
    volume.assert_clean("--verify-data")
    cairnfs("gc", volume.url, "--delete", "--grace", "0", check=False)
    left = json.loads(cairnfs("gc", volume.url, "--json", "--grace", "0").stdout)
    assert not any(left[name] for name in ("garbage_packs", "unknown_objects", "deleted_files")), left


def test_a_node_that_comes_back_knows_what_it_has_lost(network: Network, volume: Volume, mounts: MountFactory) -> None:
    alpha, beta = (network.mount(mounts, network.host(name), volume, *BEATS) for name in ("alpha", "beta"))
    first = sessions(volume)[0]["id"]
    alpha.expected_log += ["heartbeat", "change log", "its locks were given up", "taken for dead", "Redis at .* Error"]
    holder = hold(alpha)
    taker = take(beta)
    with ended(holder, taker):
        alpha.host.cut()
        assert says(taker) == "taken"
        until(lambda: [session["host"] for session in sessions(volume)] == ["beta"], LATE_S)
        alpha.host.mend()
        assert holder.stdin is not None
        holder.stdin.write("go on\n")
        holder.stdin.flush()
        stored, more, without, closed, again = [says(holder) for _ in range(5)]
    assert stored == "EIO EIO done", "what was written under a lock that was lost"
    assert more == "EIO EIO done"
    assert without == "EIO ESTALE"
    assert again == "done done done"
    until(lambda: [session["host"] for session in sessions(volume)] == ["beta", "alpha"], LATE_S)
    assert first not in [session["id"] for session in sessions(volume)]
    assert (beta.top / "flocked").read_bytes() == b"againe living" + BEFORE[13:]
    assert (beta.top / "locked").read_bytes() == b"of the living" + BEFORE[13:]
    assert (beta.top / "written").read_bytes() == b"late" + (b"of the dead one" * 10_000)[4:]
    assert "were given up" in alpha.log.read_text()
