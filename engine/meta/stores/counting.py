"""A metadata store that counts its round trips and how long they took, and tells of commits; the rest is the store given."""

from collections.abc import Callable, Mapping, Sequence
from threading import Event
from time import perf_counter_ns

from cairnfs.errors import StoreError
from cairnfs.ext.arena import Watch
from cairnfs.meta.stores.base import (
    NO_SESSION,
    NOTHING,
    Absent,
    Along,
    AtMost,
    Committed,
    Condition,
    ConditionFailed,
    Effect,
    EndLink,
    Exists,
    Hazard,
    Key,
    LogRecord,
    Max,
    NotSince,
    Row,
    Scanned,
    Store,
    Unchanged,
    Via,
)
from cairnfs.metrics import Metrics
from cairnfs.types import Position, SessionId

CONDITION_NAMES: dict[type, str] = {
    Unchanged: "unchanged",
    NotSince: "not_since",
    Exists: "exists",
    Absent: "absent",
    AtMost: "at_most",
    Max: "max",
}


Rows = Mapping[Key, bytes | None]


def _nobody(rows: Rows) -> None:
    """Who is told of commits unless somebody else is."""


class CountingStore:
    """The store it is given. Calls that fail are counted as well: they took their time.

    `on_commit` is called with the rows that every commit has touched and their values now (None: gone), on the thread that made
    it and before that goes on. When `ended` says why, every call for rows, the log or the disk fails: StoreError.
    """

    def __init__(self, store: Store, metrics: Metrics) -> None:
        self._store = store
        self.on_commit: Callable[[Rows], None] = _nobody
        self.ended = ""
        seconds = metrics.meta_store_s
        self._reads, self._scans, self._commits = seconds["read"], seconds["scan"], seconds["commit"]
        self._logs, self._positions, self._syncs = seconds["log"], seconds["position"], seconds["sync"]
        self._conflicts = metrics.meta_conflicts

    @property
    def origin(self) -> SessionId:
        return self._store.origin

    @origin.setter
    def origin(self, session: SessionId) -> None:
        self._store.origin = session

    def _check(self) -> None:
        if self.ended:
            raise StoreError(self.ended)

    def read(self, keys: Sequence[Key]) -> list[Row | None]:
        self._check()
        started_ns = perf_counter_ns()
        try:
            return self._store.read(keys)
        finally:
            self._reads.observe_ns(perf_counter_ns() - started_ns)

    def read_via(self, key: Key, prefix: bytes, subkey: bytes, along: Along = NOTHING) -> Via:
        self._check()
        started_ns = perf_counter_ns()
        try:
            return self._store.read_via(key, prefix, subkey, along)
        finally:
            self._reads.observe_ns(perf_counter_ns() - started_ns)

    def scan_via(
        self, partition: bytes, after: bytes | None, limit: int, prefix: bytes, subkey: bytes, *, with_named: bool = True
    ) -> Scanned:
        self._check()
        started_ns = perf_counter_ns()
        try:
            return self._store.scan_via(partition, after, limit, prefix, subkey, with_named=with_named)
        finally:
            self._scans.observe_ns(perf_counter_ns() - started_ns)

    def scan(self, partition: bytes, after: bytes | None, limit: int, *, prefix: bytes = b"") -> list[tuple[bytes, Row]]:
        self._check()
        started_ns = perf_counter_ns()
        try:
            return self._store.scan(partition, after, limit, prefix=prefix)
        finally:
            self._scans.observe_ns(perf_counter_ns() - started_ns)

    def partitions(self, prefix: bytes, after: bytes | None, limit: int) -> list[bytes]:
        self._check()
        started_ns = perf_counter_ns()
        try:
            return self._store.partitions(prefix, after, limit)
        finally:
            self._scans.observe_ns(perf_counter_ns() - started_ns)

    def commit(self, conditions: Sequence[Condition], effects: Sequence[Effect]) -> Committed:
        self._check()
        started_ns = perf_counter_ns()
        try:
            committed = self._store.commit(conditions, effects)
        except ConditionFailed as failure:
            self._conflicts[CONDITION_NAMES[type(failure.condition)]].add()
            raise
        finally:
            self._commits.observe_ns(perf_counter_ns() - started_ns)
        self.on_commit(committed.rows)
        return committed

    def position(self) -> Position:
        self._check()
        started_ns = perf_counter_ns()
        try:
            return self._store.position()
        finally:
            self._positions.observe_ns(perf_counter_ns() - started_ns)

    def log(self, after: Position, limit: int, *, rings: bool = False) -> list[LogRecord]:
        self._check()
        started_ns = perf_counter_ns()
        try:
            return self._store.log(after, limit, rings=rings)
        finally:
            self._logs.observe_ns(perf_counter_ns() - started_ns)

    def listen(self, rung: Callable[[], None], ended: Event) -> None:
        self._store.listen(rung, ended)

    def now_ns(self) -> int | None:
        return self._store.now_ns()

    def watch(self) -> Watch | None:
        return self._store.watch()

    def mark(self) -> bytes | None:
        return self._store.mark()

    def end_link(self) -> EndLink | None:
        return self._store.end_link()

    def sync(self) -> None:
        self._check()
        started_ns = perf_counter_ns()
        try:
            self._store.sync()
        finally:
            self._syncs.observe_ns(perf_counter_ns() - started_ns)

    def wipe(self, first: SessionId = NO_SESSION) -> None:
        self._store.wipe(first)

    def hazards(self) -> list[Hazard]:
        return self._store.hazards()

    def close(self) -> None:
        self._store.close()
