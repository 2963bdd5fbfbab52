"""Many requests of one thread under way in a pool: how many, what ends them, and that the engine makes use of it."""

import errno
import os
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import count

import pytest

from cairnfs.clock import SystemClock
from cairnfs.errors import ObjectError
from cairnfs.ext import rados_io
from cairnfs.objects import MARKER
from cairnfs.objects.base import Delete, Get, Outcome, Put, Request
from cairnfs.objects.limits import CATCH_UP_S, DOWNLOAD, UPLOAD, LimitedObjects, Limits, Turns
from cairnfs.objects.rados import DEPTH, UNDER_WAY_BYTES, Access, RadosStore
from cairnfs.objects.retry import Retrying

_names = count()
TIMEOUT_S = 4.0


@pytest.fixture
def store(open_pool: Access, request: pytest.FixtureRequest) -> Iterator[RadosStore]:
    made = RadosStore(open_pool, f"many-{next(_names)}", getattr(request, "param", 60.0))
    made.put(MARKER, [b"uuid"])
    yield made
    made.close()


class Asking:
    """`many` of a store on a thread of its own: how many requests it has taken, and what came of them."""

    def __init__(self, store: RadosStore, requests: Iterable[Request]) -> None:
        self.n_taken = 0
        self.outcomes: dict[int, Outcome] = {}
        self._requests = requests
        self._thread = threading.Thread(target=self._run, args=(store,))
        self._thread.start()

    def _run(self, store: RadosStore) -> None:
        for no, outcome in store.many(self._taken()):
            self.outcomes[no] = outcome

    def _taken(self) -> Iterator[Request]:
        for request in self._requests:
            self.n_taken += 1
            yield request

    def settle(self) -> None:
        """Until no more requests are taken, for want of an answer."""
        before = -1
        while before != self.n_taken:
            before = self.n_taken
            time.sleep(0.3)

    def end(self) -> dict[int, Outcome]:
        self._thread.join(60)
        assert not self._thread.is_alive()
        return self.outcomes


@pytest.mark.parametrize(("n_bytes", "n_taken"), [(1000, DEPTH), (8 << 20, UNDER_WAY_BYTES // (8 << 20) + 1)])
def test_one_thread_has_many_requests_under_way(
    store: RadosStore, osd_stopped: Callable[[bool], None], n_bytes: int, n_taken: int
) -> None:
    n = n_taken + 3
    data = os.urandom(n_bytes)
    osd_stopped(True)
    puts = Asking(store, (Put(f"packs/00/{i:04d}", [data[:7], data[7:]]) for i in range(n)))
    puts.settle()
    assert puts.n_taken == n_taken  # one of the large ones waits for room
    assert puts.outcomes == {}
    osd_stopped(False)
    assert puts.end() == dict.fromkeys(range(n))
    assert all(outcome == data for _, outcome in store.many(Get(f"packs/00/{i:04d}", 0, n_bytes) for i in range(n)))


@pytest.mark.parametrize("store", [TIMEOUT_S], indirect=True)
def test_what_is_not_answered_fails_together_within_the_timeout(store: RadosStore, osd_stopped: Callable[[bool], None]) -> None:
    osd_stopped(True)
    started_s = time.monotonic()
    asked = [Delete("packs/00/x"), Put("packs/00/y", [b"y"]), *(Get("packs/00/z", 0, 10) for _ in range(50))]
    outcomes = [outcome for _, outcome in store.many(asked)]
    assert time.monotonic() - started_s < TIMEOUT_S  # half of it, which is a request's, and some more
    assert [type(outcome) for outcome in outcomes] == [ObjectError] * 52
    assert {outcome.errno for outcome in outcomes if isinstance(outcome, ObjectError)} == {errno.EIO}


def test_who_gives_up_waits_for_what_is_under_way(store: RadosStore) -> None:
    large = os.urandom(4 << 20)
    store.put("packs/00/large", [large])
    for _ in range(20):  # buffers that are read into must not go before the reader
        next(store.many(Get("packs/00/large", 0, len(large)) for _ in range(12)))
    assert store.get("packs/00/large") == large


class StandingClock(SystemClock):
    def monotonic_s(self) -> float:
        return 1000.0


def test_limits_count_every_byte_of_many_under_way(store: RadosStore) -> None:
    """Time stands still and waits are only noted, so that these say exactly what was paid for before each request."""
    n, n_bytes = 3 * DEPTH, 5000
    limits, ns_a_byte, waits_s = Limits(8.0, 4.0), (1000, 2000), list[float]()
    cells = [0, 0]
    limited = LimitedObjects(store, limits, Turns(cells), StandingClock(), waits_s.append)
    retrying = Retrying(limited, 60.0, StandingClock(), random.Random(1), waited_s=limited.waited_s)
    assert retrying.depth == DEPTH
    data = os.urandom(n_bytes)
    puts = (Put(f"packs/00/{i:04d}", [data[:7], data[7:]]) for i in range(n))
    assert dict(retrying.many(puts)) == dict.fromkeys(range(n))
    gets = (Get(f"packs/00/{i:04d}", 100, n_bytes - 200) for i in range(n))
    assert dict(retrying.many(gets)) == dict.fromkeys(range(n), data[100:-100])
    begun_ns = 1000 * 10**9 - int(CATCH_UP_S * 1e9)
    assert [cell - begun_ns for cell in cells] == [n * n_bytes * ns_a_byte[UPLOAD], n * (n_bytes - 200) * ns_a_byte[DOWNLOAD]]
    due_s = [i * size * ns / 1e9 - CATCH_UP_S for size, ns in ((n_bytes, 1000), (n_bytes - 200, 2000)) for i in range(n)]
    assert waits_s == pytest.approx([wait_s for wait_s in due_s if wait_s > 0])


def test_a_queue_takes_as_many_as_it_is_deep(open_pool: Access) -> None:
    pool = rados_io.Pool(open_pool.pool, "client.admin", open_pool.conf, "", {})
    requests = pool.requests(2)
    with pytest.raises(ValueError, match="no request is under way"):
        requests.next()
    requests.put("a", f"queue-{os.getpid()}", [b"some", b" bytes"])
    requests.get("b", f"no-queue-{os.getpid()}", 0, 5)
    with pytest.raises(ValueError, match="2 requests are under way"):
        requests.remove("c", "x")
    answers = dict(requests.next() for _ in range(2))
    assert answers["a"] is None
    assert answers["b"].errno == errno.ENOENT
    requests.stat("d", f"queue-{os.getpid()}")
    requests.get("e", f"queue-{os.getpid()}", 5, 100)
    assert requests.n_under_way == 2
    answers = dict(requests.next() for _ in range(2))
    assert answers["d"][0] == 10 and answers["e"] == b"bytes"
    for wrong in (0, rados_io.MAX_DEPTH + 1):
        with pytest.raises(ValueError, match="depth must be between"):
            pool.requests(wrong)
