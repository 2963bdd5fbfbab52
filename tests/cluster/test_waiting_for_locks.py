"""Waiting for a lock that another node holds: nobody has it before it is given back, then the waiter is woken by the change log,
soon, and without asking for it all the time.
"""

import statistics
import sys
import time

import pytest

from support.hosts import HostMount, Network
from support.mounts import MountFactory, Volume
from support.programs import ended, says
from support.redis_server import RedisServer

pytestmark = [pytest.mark.fuse, pytest.mark.slow]

ROUNDS = 30
SOON_S = 0.5  # half of the hand-overs; who is not woken tries again after 5 s
GIVEN_AND_TAKEN = 2  # commits
REFUSED = 3  # before it waits, as it begins to, and when the log tells that the other has the lock
HELD_S = 0.1
WAITED_S = 2.0
FOLLOWING_A_SECOND = 11  # reads of the log by a mount where nothing happens
BEATS = ("--heartbeat", "30")

PING_PONG = """
import fcntl, os, sys, time
kind, path = sys.argv[1:]
take = fcntl.flock if kind == "flock" else fcntl.lockf
file = open(path, "r+b")
for line in sys.stdin:
    if line == "take\\n":
        print("asking", time.monotonic(), flush=True)
        take(file, fcntl.LOCK_EX)
        print("taken", time.monotonic(), flush=True)
    else:
        print("given", time.monotonic(), flush=True)
        take(file, fcntl.LOCK_UN)
"""


class Taker:
    """A program on a host that takes and gives back one lock as it is told."""

    def __init__(self, mount: HostMount, kind: str) -> None:
        self.process = mount.host.popen(sys.executable, "-c", PING_PONG, kind, mount.path / "f")

    def tell(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()

    def heard(self, word: str) -> float:
        """When it was done, by the clock that all processes of this machine share."""
        said, when_s = says(self.process).split()
        assert said == word
        return float(when_s)

    def take(self) -> None:
        self.tell("take")
        self.heard("asking")


def n_tries(*mounts: HostMount) -> int:
    """How often these have asked Redis for a lock, or given one back."""
    name = 'cairnfs_meta_operations_total{op="locks.setlk"} '
    lines = [line for mount in mounts for line in (mount.top / ".stats").read_text().splitlines()]
    return sum(int(line[len(name) :]) for line in lines if line.startswith(name))


@pytest.mark.parametrize("kind", ["flock", "fcntl"])
def test_a_waiter_is_woken_when_the_lock_is_given_back(network: Network, volume: Volume, mounts: MountFactory, kind: str) -> None:
    one, two = (network.mount(mounts, network.host(name), volume, *BEATS) for name in ("alpha", "beta"))
    (one.top / "f").write_bytes(b"x")
    delays_s = []
    has, waits = (Taker(mount, kind) for mount in (one, two))
    with ended(has.process, waits.process):
        has.take()
        has.heard("taken")
        before = n_tries(one, two)
        for _ in range(ROUNDS):
            waits.take()
            time.sleep(HELD_S)
            has.tell("give")
            given_s = has.heard("given")  # said before it is done: whoever has it earlier was not kept out
            delays_s.append(waits.heard("taken") - given_s)
            has, waits = waits, has
        tried = n_tries(one, two) - before
    print(f"{kind}: woken after {statistics.median(delays_s) * 1e3:.0f} ms (median), {max(delays_s) * 1e3:.0f} ms (worst)")
    assert min(delays_s) > 0, "two had the lock at the same time"
    assert statistics.median(delays_s) < SOON_S
    least = ROUNDS * GIVEN_AND_TAKEN
    assert least <= tried <= least + ROUNDS * (REFUSED + 1), "a waiter asks again although nothing has changed"


def n_calls(server: RedisServer) -> int:
    with server.client() as client:
        found = client.info("commandstats")
        return sum(found[name]["calls"] for name in found if name.startswith("cmdstat_eval"))


def test_waiting_asks_for_nothing(network: Network, server: RedisServer, volume: Volume, mounts: MountFactory) -> None:
    one, two = (network.mount(mounts, network.host(name), volume, *BEATS) for name in ("alpha", "beta"))
    (one.top / "f").write_bytes(b"x")
    takers = [Taker(one, "flock"), *(Taker(two, "flock") for _ in range(8))]
    with ended(*(taker.process for taker in takers)):
        takers[0].take()
        takers[0].heard("taken")
        for taker in takers[1:]:
            taker.take()
        time.sleep(1)
        before = n_calls(server), n_tries(one, two)
        time.sleep(WAITED_S)
        asked, tried = n_calls(server) - before[0], n_tries(one, two) - before[1]
        for taker in takers:
            taker.tell("give")
        given_s = takers[0].heard("given")
        had = sorted((taker.heard("taken"), taker.heard("given")) for taker in takers[1:])
    for taken_s, next_given_s in had:
        assert given_s < taken_s, "two had the lock at the same time"
        given_s = next_given_s
    assert tried <= len(takers) - 1, "more than the one try of each in 5 s, in case that it was not woken"
    assert asked <= 2 * FOLLOWING_A_SECOND * (WAITED_S + 0.5), "more than two followers of the log that do nothing else"
