"""Limits of bandwidth: exact by a clock of the test's own, also for several threads, processes, and attempts."""

import os
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cairnfs.clock import SystemClock
from cairnfs.ext.shm import SharedMemory
from cairnfs.objects import MARKER
from cairnfs.objects.base import Delete, Get, ObjectStore, Put, Request
from cairnfs.objects.file import FileStore
from cairnfs.objects.limits import CATCH_UP_S, DOWNLOAD, N_TURNS, UPLOAD, LimitedObjects, Limits, Turns
from cairnfs.objects.retry import Retrying
from support.faulty import FaultyObjects

MBPS = 8.0  # one byte in a microsecond
CATCH_UP_NS = int(CATCH_UP_S * 1e9)


class FakeClock(SystemClock):
    """Time that passes only by waiting."""

    def __init__(self) -> None:
        self.at_s = 1000.0
        self.waits_s: list[float] = []

    def monotonic_s(self) -> float:
        return self.at_s

    def sleep(self, seconds: float) -> None:
        self.at_s += seconds

    def wait(self, seconds: float) -> None:
        self.waits_s.append(round(seconds, 9))
        self.at_s += seconds


class Setup:
    def __init__(self, folder: Path, limits: Limits) -> None:
        folder.mkdir()
        (folder / MARKER).write_text("uuid")
        self.clock = FakeClock()
        self.faulty = FaultyObjects(FileStore(str(folder)))
        self.limited = LimitedObjects(self.faulty, limits, Turns(), self.clock, self.clock.wait)
        self.store = Retrying(self.limited, 60.0, self.clock, random.Random(3), waited_s=self.limited.waited_s)

    def many(self, requests: list[Request], store: ObjectStore | None = None) -> list[object]:
        """Outcomes, in the order of the requests."""
        return [outcome for _, outcome in sorted((store or self.limited).many(requests), key=lambda found: found[0])]


def test_turns_are_exact() -> None:
    turns, now = Turns(), 50_000_000_000
    assert turns.take(UPLOAD, 1000, now) == 0
    assert turns.take(UPLOAD, CATCH_UP_NS, now) == 0  # what was not used before counts for so long
    assert turns.take(UPLOAD, 500, now) == 1000
    assert turns.take(DOWNLOAD, 500, now) == 0
    assert turns.take(UPLOAD, 500, now + 200) == 1300
    assert turns.take(UPLOAD, 0, now + 200) == 1800
    assert turns.take(UPLOAD, 7, now + 2000) == 0
    assert turns.take(UPLOAD, 1, now + 2000) == 7


def test_whatever_is_asked_for_it_is_never_faster() -> None:
    for seed in range(50):
        rng, turns, begun = random.Random(seed), Turns(), []
        first = now = 10**12
        for _ in range(200):
            now += rng.choice((0, 0, 0, rng.randrange(10**7), rng.randrange(10**9)))
            cost = rng.randrange(10**8)
            begun.append((now + turns.take(UPLOAD, cost, now), cost))
        begun.sort()
        largest, spent = max(cost for _, cost in begun), 0
        for at, cost in begun:
            spent += cost
            assert spent <= at - first + CATCH_UP_NS + largest
        # and no slower: whoever waits does so because all time up to then is used
        assert all(at <= now or spent >= at - now for at, _ in begun[-1:])


def test_bytes_pay_by_direction(tmp_path: Path) -> None:
    setup = Setup(tmp_path / "objects", Limits(MBPS, MBPS * 2))
    data = bytes(1_000_000)
    for n in range(4):
        setup.store.put(f"packs/00/{n}", [data[:400_000], data[400_000:]])
    assert setup.clock.waits_s == [0.9, 1.0, 1.0]  # a second each, but for what may be caught up
    setup.clock.waits_s.clear()
    setup.clock.at_s += 100
    for _ in range(3):
        setup.store.get("packs/00/0", 0, 800_000)
    assert setup.clock.waits_s == [0.3, 0.4]
    assert len(setup.store.get("packs/00/0")) == 1_000_000
    assert len(setup.store.get("packs/00/0", 5, 1)) == 1
    assert setup.clock.waits_s == [0.3, 0.4, 0.4, 0.5]  # of unknown size: whoever comes next pays
    setup.store.head("packs/00/0")
    setup.store.delete("packs/00/3")
    assert len(list(setup.store.list("packs/"))) == 3
    setup.store.check()
    assert len(setup.clock.waits_s) == 4


def test_many_pays_for_every_byte(tmp_path: Path) -> None:
    setup = Setup(tmp_path / "objects", Limits(MBPS, MBPS * 2))
    data = random.Random(1).randbytes(1_000_000)
    puts: list[Request] = [Put(f"packs/00/{n}", [data[:400_000], data[400_000:]]) for n in range(4)]
    assert setup.many(puts) == [None] * 4
    assert setup.clock.waits_s == [0.9, 1.0, 1.0]
    setup.clock.waits_s.clear()
    setup.clock.at_s += 100
    gets: list[Request] = [Get(f"packs/00/{n}", 100_000, 800_000) for n in range(3)]
    assert setup.many(gets) == [data[100_000:900_000]] * 3
    assert setup.clock.waits_s == [0.3, 0.4]
    assert setup.many([Put("packs/00/4", [b"x"]), Get("packs/00/4", 0, 1)]) == [None, b"x"]
    assert setup.clock.waits_s == [0.3, 0.4, 0.4]  # each direction has turns of its own
    assert setup.many([Delete(f"packs/00/{n}") for n in range(5)]) == [None] * 5
    assert len(setup.clock.waits_s) == 3


def test_many_takes_no_request_before_its_turn(tmp_path: Path) -> None:
    setup = Setup(tmp_path / "objects", Limits(MBPS, 0))
    begun_s = []

    def puts() -> Iterator[Request]:
        for n in range(4):
            begun_s.append(setup.clock.at_s)
            yield Put(f"packs/00/{n}", [bytes(1_000_000)])

    stored_s = [setup.clock.at_s for _ in setup.limited.many(puts())]
    assert [round(at_s - 1000, 6) for at_s in stored_s] == [0, 0.9, 1.9, 2.9]
    assert begun_s[1:] == stored_s[:-1]


def test_a_direction_without_a_limit_never_waits(tmp_path: Path) -> None:
    setup = Setup(tmp_path / "objects", Limits(0, 1))
    for n in range(5):
        setup.store.put(f"packs/00/{n}", [bytes(100_000)])
    assert setup.clock.waits_s == []


def test_each_attempt_pays_and_waiting_is_no_failure(tmp_path: Path, expected_logs: Any) -> None:
    expected_logs.add("trying again")
    setup = Setup(tmp_path / "objects", Limits(MBPS, 0))
    data = bytes(100_000_000)  # for 100 s, with an io-timeout of 60
    setup.store.put("packs/00/first", [data])
    for n in (1, 2):
        setup.faulty.fail_once("put", n)
    setup.store.put("packs/00/second", [data])
    assert setup.faulty.calls["put"] == 4
    assert len(setup.clock.waits_s) == 3
    assert sum(setup.clock.waits_s) == pytest.approx(300, abs=1)


def test_each_attempt_of_many_pays_and_waiting_is_no_failure(tmp_path: Path, expected_logs: Any) -> None:
    expected_logs.add("trying again")
    setup = Setup(tmp_path / "objects", Limits(MBPS, 0))
    setup.faulty.depth = 4  # else `Retrying` makes single requests
    for n in (2, 4):
        setup.faulty.fail_once("put", n)
    data = bytes(50_000_000)  # for 50 s each, with an io-timeout of 60
    assert setup.many([Put(f"packs/00/{n}", [data]) for n in range(3)], setup.store) == [None] * 3
    assert setup.faulty.calls["put"] == 5
    assert sum(setup.clock.waits_s) == pytest.approx(200, abs=1)


def test_closing_ends_all_waiting(tmp_path: Path) -> None:
    setup = Setup(tmp_path / "objects", Limits(1, 1))
    limited = LimitedObjects(setup.faulty, Limits(1, 1), Turns(), SystemClock())
    limited.put("packs/00/0", [bytes(10_000_000)])
    threads = [threading.Thread(target=limited.put, args=(f"packs/00/{n}", [b"x"])) for n in range(1, 5)]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    assert setup.faulty.calls["put"] == 1
    started_s = time.monotonic()
    limited.close()
    for thread in threads:
        thread.join()
    assert time.monotonic() - started_s < 20  # and not 80
    assert setup.faulty.calls["put"] == 5


def test_processes_share_turns() -> None:
    memory = SharedMemory("turns", 4096)
    cells = memory.view.cast("q")[8 : 8 + N_TURNS]
    turns = Turns(cells, memory.fd)
    children = []
    for _ in range(4):
        pid = os.fork()
        if pid == 0:
            for _ in range(5000):
                turns.take(UPLOAD, 1000, 0)
                turns.take(DOWNLOAD, 1, 0)
            os._exit(0)
        children.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 4
    assert list(cells) == [4 * 5000 * 1000, 4 * 5000]
    cells.release()


def test_processes_that_ask_for_many_share_turns(tmp_path: Path) -> None:
    """Time stands still and nobody waits, so that when all is paid for says how many bytes were counted."""
    n_procs, n_each, n_put, n_got = 4, 100, 3000, 200
    memory = SharedMemory("turns", 4096)
    cells = memory.view.cast("q")[8 : 8 + N_TURNS]
    setup = Setup(tmp_path / "objects", Limits(MBPS, MBPS / 2))
    limited = LimitedObjects(setup.faulty, Limits(MBPS, MBPS / 2), Turns(cells, memory.fd), setup.clock, lambda seconds: None)
    children = []
    for child in range(n_procs):
        pid = os.fork()
        if pid == 0:
            names = [f"packs/{child:02x}/{n}" for n in range(n_each)]
            stored = setup.many([Put(name, [bytes(n_put - 1), b"x"]) for name in names], limited)
            found = setup.many([Get(name, 10, n_got) for name in names], limited)
            os._exit((stored, found) != ([None] * n_each, [bytes(n_got)] * n_each))
        children.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * n_procs
    begun_ns = round(setup.clock.at_s * 1e9) - CATCH_UP_NS
    assert [cell - begun_ns for cell in cells] == [n_procs * n_each * n_put * 1000, n_procs * n_each * n_got * 2000]
    cells.release()
