"""Limits of bandwidth: what may be sent to the object store, and what may be got from it, in a second.

A request waits for its turn before it is sent, below the retries, so that each attempt pays. Turns are given in order: the next
one is due when all bytes that were asked for before are paid for, whoever asked for them (`Turns` may be in memory that
all processes of a mount share). So any object may pass at any limit, and what was begun up to any time is at most

    limit * (time + CATCH_UP_S) + one object for each direction.

The bytes of a whole object of unknown size are paid for afterwards, by those who come next.
"""

import fcntl
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from cairnfs.clock import Clock
from cairnfs.metrics import Cells
from cairnfs.objects.base import Get, ObjectInfo, ObjectStore, Outcome, Put, Request
from cairnfs.types import Buffer

CATCH_UP_S = 0.1  # unused time that counts later: threads wake up late, and the rate must not suffer from it
UPLOAD, DOWNLOAD = 0, 1
N_TURNS = 2
_NS = 10**9
_BITS = 8


class Limits(NamedTuple):
    """In megabits (10**6) per second, as networks are sold; 0 for no limit."""

    upload_mbps: float = 0.0
    download_mbps: float = 0.0


class Turns:
    """When everything asked for so far is paid for, for each direction: CLOCK_MONOTONIC in ns. Thread-safe.

    `cells` may be memory that several processes share; `fd` is then that of the memory, whose first bytes are locked.
    """

    def __init__(self, cells: Cells | None = None, fd: int | None = None) -> None:
        self._cells: Cells = [0] * N_TURNS if cells is None else cells
        self._fd = fd
        self._lock = threading.Lock()

    def take(self, direction: int, cost_ns: int, now_ns: int) -> int:
        """A turn for something that takes `cost_ns` at the limit; returns for how long to wait before it, in ns."""
        with self._lock, self._others_out(direction):
            paid_ns = self._cells[direction]
            self._cells[direction] = max(paid_ns, now_ns - int(CATCH_UP_S * _NS)) + cost_ns
        return max(0, paid_ns - now_ns)

    @contextmanager
    def _others_out(self, direction: int) -> Iterator[None]:
        if self._fd is None:
            yield
            return
        fcntl.lockf(self._fd, fcntl.LOCK_EX, 1, direction)  # the kernel takes it back from a process that dies
        try:
            yield
        finally:
            fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, direction)


class LimitedObjects:
    """The store it is given, at the speed it is allowed. After `close` nothing waits any more."""

    def __init__(
        self,
        store: ObjectStore,
        limits: Limits,
        turns: Turns,
        clock: Clock,
        wait: Callable[[float], object] | None = None,
    ) -> None:
        self._store = store
        self._limits = limits
        self._turns = turns
        self._clock = clock
        self._closing = threading.Event()
        self._wait = wait or self._closing.wait
        self._waited = threading.local()

    def put(self, name: str, parts: Sequence[Buffer]) -> None:
        self._pay(UPLOAD, sum(map(len, parts)))
        self._store.put(name, parts)

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        self._pay(DOWNLOAD, length or 0)
        data = self._store.get(name, offset, length)
        if length is None:
            self._take(DOWNLOAD, len(data))
        return data

    def head(self, name: str) -> ObjectInfo:
        return self._store.head(name)

    def delete(self, name: str) -> None:
        self._store.delete(name)

    def list(self, prefix: str = "", after: str = "") -> Iterator[ObjectInfo]:
        return self._store.list(prefix, after)

    @property
    def depth(self) -> int:
        return self._store.depth

    def many(self, requests: Iterable[Request]) -> Iterator[tuple[int, Outcome]]:
        return self._store.many(map(self._paid, requests))

    def check(self) -> None:
        self._store.check()

    def sync(self) -> None:
        self._store.sync()

    def close(self) -> None:
        self._closing.set()
        self._store.close()

    def waited_s(self) -> float:
        """For how long the calling thread has waited for its turns, in all: time that is not the store's fault."""
        return getattr(self._waited, "seconds", 0.0)

    def _paid(self, request: Request) -> Request:
        if isinstance(request, Put):
            self._pay(UPLOAD, sum(map(len, request.parts)))
        elif isinstance(request, Get):
            self._pay(DOWNLOAD, request.length)
        return request

    def _pay(self, direction: int, n_bytes: int) -> None:
        wait_s = self._take(direction, n_bytes)
        if wait_s > 0 and not self._closing.is_set():
            began_s = self._clock.monotonic_s()
            self._wait(wait_s)
            self._waited.seconds = self.waited_s() + self._clock.monotonic_s() - began_s

    def _take(self, direction: int, n_bytes: int) -> float:
        limit_mbps = self._limits[direction]
        if not limit_mbps:
            return 0.0
        cost_ns = round(n_bytes * _BITS * 1000 / limit_mbps)
        return self._turns.take(direction, cost_ns, round(self._clock.monotonic_s() * _NS)) / _NS
