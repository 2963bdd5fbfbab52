"""A node that is killed, or cut off for so long that it is taken for dead: what the others get, and what it may still do."""

import json
import os
import select
import sys
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import Popen

import pytest

from cairnfs.check import gc
from cairnfs.check.report import GcReport
from cairnfs.const import DEFAULT_BLOCK_BYTES
from cairnfs.volume import open_volume
from support.answers import sustained
from support.hosts import HostMount, Network
from support.mounts import MountFactory, Volume, cairnfs
from support.programs import ended, says

pytestmark = [pytest.mark.fuse, pytest.mark.slow]

BEATS = ("--heartbeat", "1")  # so a session that was not heard of for 5 s is dead
DEAD_S = 7.0  # and that is found out with the next heartbeat of another
BEFORE = b"before" * 10
LATE_S = 20.0  # what a busy machine may add

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
large = open("large", "wb", buffering=0)
large.write(b"l" * int(sys.argv[2]))  # a block, which goes out at once; the commit is due later
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
print("ready", flush=True)
sys.stdin.readline()
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
    holder = mount.host.popen(sys.executable, "-c", HOLD, mount.path, DEFAULT_BLOCK_BYTES)
    assert says(holder) == "holding"
    return holder


def take(mount: HostMount) -> "Popen[str]":
    taker = mount.host.popen(sys.executable, "-c", TAKE, mount.path)
    assert says(taker) == "ready"
    tell(taker)
    return taker


def tell(process: "Popen[str]") -> None:
    assert process.stdin is not None
    process.stdin.write("go on\n")
    process.stdin.flush()


def sessions(volume: Volume) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(cairnfs("status", volume.url, "--json").stdout)["sessions"]
    return found


def until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def is_silent(process: "Popen[str]") -> bool:
    return not select.select([process.stdout], [], [], 0)[0]


def work(folder: Path, n: int) -> None:
    """All kinds of things, none of which may fail; also with a file that another node has open and has written to."""
    data = b"%d;" % n * 1000
    (folder / "made").write_bytes(data)
    os.rename(folder / "made", folder / "moved")
    assert (folder / "moved").read_bytes() == data
    assert {"moved", "written"} <= set(os.listdir(folder))
    assert (folder / "written").read_bytes() == BEFORE
    (folder / "moved").unlink()


def collectable(volume: Volume) -> GcReport:
    with open_volume(volume.url, data=False) as opened:
        return gc.run(opened)


def until_it_is_taken_for_dead(beta: HostMount, taker: "Popen[str]") -> None:
    """alpha has just gone. For five heartbeats beta goes on with everything but what is locked, which nobody gets."""
    n_rounds = 0
    with open_volume(beta.volume.url, data=False) as volume:
        while True:
            work(beta.top, n_rounds)
            kept_out = is_silent(taker)
            alive = [session for session in volume.meta.sessions.list() if session.host == "alpha" and not session.is_buried]
            if not alive:
                break
            assert kept_out, "the locks were given up before their node was taken for dead"
            last = alive[0]
            n_rounds += 1
            time.sleep(0.02)
        assert n_rounds >= 3, "beta did not get on with its work"
        silent_s = volume.meta.sessions.now_ns() / 1e9 - last.heartbeat
    print(f"{n_rounds} rounds of work until it was taken for dead, {silent_s:.1f} s after its last heartbeat")
    assert silent_s >= last.stale_s == 5


def test_a_killed_node_leaves_neither_locks_nor_files(network: Network, volume: Volume, mounts: MountFactory) -> None:
    alpha, beta = (network.mount(mounts, network.host(name), volume, *BEATS) for name in ("alpha", "beta"))
    assert [session["host"] for session in sessions(volume)] == ["alpha", "beta"]
    holder = hold(alpha)
    until((beta.top / "large").exists, LATE_S)
    assert len(sustained(volume)) == 1
    n_known = collectable(volume).live_packs
    until(lambda: len(volume.packs) > n_known, LATE_S)
    taker = take(beta)
    with ended(holder, taker):
        alpha.host.cut()
        alpha.host.kill()
        alpha.mounted = False
        began_s = time.monotonic()
        until_it_is_taken_for_dead(beta, taker)
        assert says(taker) == "taken"
        assert time.monotonic() - began_s < DEAD_S + LATE_S
    until(lambda: [session["host"] for session in sessions(volume)] == ["beta"], LATE_S)
    assert sustained(volume) == []
    assert (beta.top / "flocked").read_bytes() == (beta.top / "locked").read_bytes() == b"of the living" + BEFORE[13:]
    assert (beta.top / "written").read_bytes() == BEFORE
    until(lambda: not collectable(volume).garbage_packs, LATE_S)  # beta deletes what it has freed
    beta.stop()
    volume.assert_clean("--verify-data")
    check_what_it_left(volume)


def check_what_it_left(volume: Volume) -> None:
    """What it had stored and not committed, which a collection finds; nothing of its file without a name, which beta removed."""
    stored = {info.name: info.size for info in volume.stored()}
    first, second = (collected(volume, *options) for options in (["--delete"], []))
    left = {info.name: info.size for info in volume.stored()}
    assert first["unknown_objects"] == len(stored) - first["live_packs"] >= 1
    assert first["unknown_bytes"] == sum(stored.values()) - first["live_bytes"]
    assert left.items() <= stored.items()
    for found in (first, second):
        assert not any(found[name] for name in ("garbage_packs", "deleted_files", "young_objects", "foreign_objects")), found
        assert (found["live_packs"], found["live_bytes"]) == (len(left), sum(left.values()))
    assert second["unknown_objects"] == 0
    volume.assert_clean("--verify-data")


def collected(volume: Volume, *options: str) -> dict[str, int]:
    found: dict[str, int] = json.loads(cairnfs("gc", volume.url, "--json", "--grace", "0", *options).stdout)
    return found


def test_a_node_that_comes_back_knows_what_it_has_lost(network: Network, volume: Volume, mounts: MountFactory) -> None:
    alpha, beta = (network.mount(mounts, network.host(name), volume, *BEATS) for name in ("alpha", "beta"))
    first = sessions(volume)[0]["id"]
    alpha.expected_log += ["heartbeat", "change log", "its locks were given up", "taken for dead", "Redis at .* Error"]
    holder = hold(alpha)
    taker = take(beta)
    with ended(holder, taker):
        alpha.host.cut()
        until_it_is_taken_for_dead(beta, taker)
        assert says(taker) == "taken"
        until(lambda: [session["host"] for session in sessions(volume)] == ["beta"], LATE_S)
        alpha.host.mend()
        tell(holder)
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
