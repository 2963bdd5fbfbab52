"""Two mounts, a few names, many versions: whoever opens a file gets a whole version, and none older than was promised before.

Each name has one process that changes it; version numbers, begun and acknowledged, are in memory that all share. Versions of some
names come by renaming over, of others by writing in place; every fifth version is that there is no such file. On the mount that
changes a name everything is seen at once. On the other, content is seen by the next open, but a name may lead to a file that is
still open somewhere until the follower has told the kernel. On SQLite and on Redis, for CAIRN_VERSIONS_SECONDS.
"""

import mmap
import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.answers import sustained, totals, until
from support.mounts import MountFactory
from support.versions import MEMORY_BYTES, N_NAMES, Worker, owned_by

pytestmark = [pytest.mark.fuse, pytest.mark.slow]

SECONDS = float(os.environ.get("CAIRN_VERSIONS_SECONDS", "10"))


@pytest.fixture(params=["sqlite", "redis"])
def tops(request: pytest.FixtureRequest, mounts: MountFactory) -> Iterator[list[Path]]:
    server = request.getfixturevalue("redis_server") if request.param == "redis" else None
    one = mounts.new(mounts.volume(url=None if server is None else f"{server.url}/5"), "--heartbeat", "30")
    two = mounts.new(one.volume, "--heartbeat", "30")
    (one.path / "d").mkdir()
    until((two.path / "d").exists)
    yield [one.path / "d", two.path / "d"]
    for mount in (one, two):
        found = totals(mount).compiled
        assert found["LOOKUP"] > 20, found  # opens are Python's while others change names: it looks whether these led there
    until(lambda: sustained(one.volume) == [])


def test_every_open_gets_a_whole_version_that_is_not_too_old(tops: list[Path]) -> None:
    with mmap.mmap(-1, MEMORY_BYTES) as memory, memoryview(memory) as view, view.cast("q") as shared:
        run_workers(tops, shared[:N_NAMES], shared[N_NAMES : 2 * N_NAMES])


def run_workers(tops: list[Path], begun: memoryview, promised: memoryview) -> None:
    context = multiprocessing.get_context("fork")
    workers = [Worker(tops[i % 2], i % 2, i, owned_by(i) if i < 2 else [], begun, promised) for i in range(5)]
    processes = [context.Process(target=worker.run, args=(SECONDS,)) for worker in workers]
    for process in processes:
        process.start()
    for process in processes:
        process.join(SECONDS + 50)
    assert [process.exitcode for process in processes] == [0] * len(processes)
    assert sum(promised) > 100
    begun.release()
    promised.release()
