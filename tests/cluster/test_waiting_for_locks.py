"""Waiting for a lock that another node holds: woken by the change log, soon, and without asking for it all the time."""

import statistics
import sys
import time
from contextlib import ExitStack

import pytest

from support.hosts import HostMount, Network
from support.mounts import MountFactory, Volume
from support.programs import ended, says
from support.redis_server import RedisServer

pytestmark = [pytest.mark.fuse, pytest.mark.slow]

ROUNDS = 10
SOON_S = 2.0
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


@pytest.mark.parametrize("kind", ["flock", "fcntl"])
def test_a_waiter_is_woken_soon(network: Network, volume: Volume, mounts: MountFactory, kind: str) -> None:
    one, two = (network.mount(mounts, network.host(name), volume, *BEATS) for name in ("alpha", "beta"))
    (one.top / "f").write_bytes(b"x")
    delays_s = []
    with ExitStack() as stack:
        has, waits = (Taker(mount, kind) for mount in (one, two))
        stack.enter_context(ended(has.process, waits.process))
        has.tell("take")
        has.heard("taken")
        for _ in range(ROUNDS):
            waits.tell("take")
            time.sleep(0.15)
            has.tell("give")
            given_s = has.heard("given")
            delays_s.append(waits.heard("taken") - given_s)
            has, waits = waits, has
    print(f"{kind}: woken after {statistics.median(delays_s) * 1e3:.0f} ms (median), {max(delays_s) * 1e3:.0f} ms (worst)")
    assert max(delays_s) < SOON_S


def n_calls(server: RedisServer) -> int:
    with server.client() as client:
        found = client.info("commandstats")
        return sum(found[name]["calls"] for name in found if name.startswith("cmdstat_eval"))


def test_waiting_asks_for_nothing(network: Network, server: RedisServer, volume: Volume, mounts: MountFactory) -> None:
    one, two = (network.mount(mounts, network.host(name), volume, *BEATS) for name in ("alpha", "beta"))
    (one.top / "f").write_bytes(b"x")
    takers = [Taker(one, "flock"), *(Taker(two, "flock") for _ in range(8))]
    with ended(*(taker.process for taker in takers)):
        takers[0].tell("take")
        takers[0].heard("taken")
        for taker in takers[1:]:
            taker.tell("take")
        time.sleep(1)
        before = n_calls(server)
        time.sleep(WAITED_S)
        asked = n_calls(server) - before
        for taker in takers:
            taker.tell("give")
    assert asked <= 2 * FOLLOWING_A_SECOND * (WAITED_S + 0.5), "more than two followers of the log that do nothing else"
