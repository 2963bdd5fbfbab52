"""Threads that commit to a Redis store, one commit after the other, and what of that is there in the end."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from cairnfs.meta.stores.base import Add
from cairnfs.meta.stores.redis_store import RedisStore
from support.redis_rows import COUNT, counted

N_THREADS = 8
ROWS = b"rows"  # one for each commit
LIMIT_S = 60
QUIET_S = 0.3  # a server that is stopped has got all that is sent


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, "it has not come about"
        time.sleep(0.01)


class Load:
    """Threads that commit one after the other. Each commit adds 1 to a counter of all, and to a row of its own."""

    def __init__(self, store: RedisStore) -> None:
        self.store = store
        self.begun: list[bytes] = []
        self.acknowledged: list[bytes] = []
        self.ended = threading.Event()

    def work(self, thread: int) -> None:
        n = 0
        while not self.ended.is_set():
            name = b"%d-%d" % (thread, n)
            self.begun.append(name)
            self.store.commit([], [Add(COUNT, 0, 1), Add((ROWS, name), 0, 1)])
            self.acknowledged.append(name)
            n += 1

    def goes_on(self, n_more: int = 50) -> None:
        n = len(self.acknowledged) + n_more
        until(lambda: len(self.acknowledged) >= n)

    def stands_still(self) -> None:
        """Until each thread waits for a server that has been stopped."""
        n = -1
        while n != (n := len(self.begun) + len(self.acknowledged)):
            time.sleep(QUIET_S)

    def lost(self) -> set[bytes]:
        """Commits that were acknowledged and are not there; each of the others has been made once."""
        rows = dict(self.store.scan(ROWS, None, 1_000_000))
        assert {row.value for row in rows.values()} == {(1).to_bytes(8, "big")}, "commits were made twice"
        assert counted(self.store) == len(rows)
        assert sorted(self.begun) == sorted(self.acknowledged)
        assert rows.keys() <= set(self.acknowledged)
        return set(self.acknowledged) - rows.keys()


@contextmanager
def load(store: RedisStore) -> Iterator[Load]:
    running = Load(store)
    with ThreadPoolExecutor(N_THREADS) as pool:
        done = [pool.submit(running.work, thread) for thread in range(N_THREADS)]
        try:
            yield running
        finally:
            running.ended.set()
        for each in done:
            each.result()
