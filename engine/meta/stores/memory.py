"""A store in this process's memory: the reference implementation for tests, written to be obviously right.

Stores opened under one name share their rows for the life of the process. Nothing survives the process.
"""

import threading
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Sequence
from itertools import islice

from cairnfs.errors import StoreError
from cairnfs.ext.arena import Watch
from cairnfs.meta.stores import named
from cairnfs.meta.stores.base import (
    FORMER,
    NO_SESSION,
    NOTHING,
    Absent,
    Add,
    Along,
    AtMost,
    Committed,
    Condition,
    ConditionFailed,
    Delete,
    Effect,
    EndLink,
    Exists,
    Hazard,
    Key,
    LogRecord,
    LogTrimmed,
    Max,
    NotSince,
    Put,
    Row,
    Scanned,
    Unchanged,
    Via,
)
from cairnfs.meta.stores.fields import added, field, raised
from cairnfs.meta.stores.log_keys import only_adds
from cairnfs.types import Position, SessionId

LOG_RECORDS = 100_000


class _Partition:
    """Rows of one partition and their keys in order."""

    def __init__(self) -> None:
        self.rows: dict[bytes, Row] = {}
        self.keys: list[bytes] = []

    def put(self, key: bytes, row: Row) -> None:
        if key not in self.rows:
            insort(self.keys, key)
        self.rows[key] = row

    def delete(self, key: bytes) -> None:
        if self.rows.pop(key, None) is not None:
            del self.keys[bisect_left(self.keys, key)]


class _Volume:
    """What all stores of one name share."""

    def __init__(self, log_records: int) -> None:
        self.lock = threading.Lock()
        self.partitions: dict[bytes, _Partition] = {}
        self.position = 0
        self.first = NO_SESSION  # that may commit
        self.log: list[LogRecord] = []
        self.log_records = log_records

    def row(self, key: Key) -> Row | None:
        partition = self.partitions.get(key[0])
        return None if partition is None else partition.rows.get(key[1])

    def scan(self, partition: bytes, after: bytes | None, limit: int, prefix: bytes) -> list[tuple[bytes, Row]]:
        held = self.partitions.get(partition)
        if held is None:
            return []
        start = bisect_left(held.keys, prefix)
        if after is not None:
            start = max(start, bisect_right(held.keys, after))
        return [(key, held.rows[key]) for key in held.keys[start : start + limit] if key.startswith(prefix)]

    def append(self, origin: SessionId, keys: list[Key], only_adds: bool) -> Position:
        self.position += 1
        self.log.append(LogRecord(Position(self.position), origin, keys, only_adds=only_adds))
        if len(self.log) > 2 * self.log_records:
            del self.log[: -self.log_records]
        return Position(self.position)

    def store(self, changed: dict[Key, bytes | None], position: Position) -> None:
        for (part, key), value in changed.items():
            if value is not None:
                self.partitions.setdefault(part, _Partition()).put(key, Row(value, position))
            elif part in self.partitions:
                self.partitions[part].delete(key)
                if not self.partitions[part].keys:
                    del self.partitions[part]


_volumes: dict[str, _Volume] = {}
_volumes_lock = threading.Lock()


class MemoryStore:
    """The store contract over dictionaries, one lock around everything."""

    def __init__(self, name: str | None = None, log_records: int = LOG_RECORDS) -> None:
        """Open the rows of `name`, shared with every other store of that name; without a name, rows of its own."""
        self.origin = SessionId(0)
        if name is None:
            self._volume = _Volume(log_records)
            return
        with _volumes_lock:
            self._volume = _volumes.setdefault(name, _Volume(log_records))

    def read(self, keys: Sequence[Key]) -> list[Row | None]:
        with self._volume.lock:
            return [self._volume.row(key) for key in keys]

    def read_via(self, key: Key, prefix: bytes, subkey: bytes, along: Along = NOTHING) -> Via:
        return named.read_via(self, key, prefix, subkey, along)

    def scan_via(
        self, partition: bytes, after: bytes | None, limit: int, prefix: bytes, subkey: bytes, *, with_named: bool = True
    ) -> Scanned:
        with self._volume.lock:
            found = self._volume.scan(partition, after, limit, b"")
            others = [self._volume.row((prefix + row.value[:8], subkey)) for _, row in found] if with_named else None
            return Scanned(self._volume.row((prefix + partition[1:], subkey)), named.page_of(found, others))

    def scan(self, partition: bytes, after: bytes | None, limit: int, *, prefix: bytes = b"") -> list[tuple[bytes, Row]]:
        with self._volume.lock:
            return self._volume.scan(partition, after, limit, prefix)

    def partitions(self, prefix: bytes, after: bytes | None, limit: int) -> list[bytes]:
        with self._volume.lock:
            names = sorted(self._volume.partitions)
        wanted = (name for name in names if name.startswith(prefix) and (after is None or name > after))
        return list(islice(wanted, limit))

    def commit(self, conditions: Sequence[Condition], effects: Sequence[Effect]) -> Committed:
        with self._volume.lock:
            for condition in conditions:
                self._check(condition)
            if not effects:
                return Committed(Position(self._volume.position), [], {})
            if NO_SESSION < self.origin < self._volume.first:
                raise StoreError(FORMER)
            changed, totals = self._apply(effects)
            position = self._volume.append(self.origin, list(changed), only_adds(conditions, effects))
            self._volume.store(changed, position)
            return Committed(position, totals, changed)

    def position(self) -> Position:
        with self._volume.lock:
            return Position(self._volume.position)

    def log(self, after: Position, limit: int, *, rings: bool = False) -> list[LogRecord]:
        with self._volume.lock:
            records = self._volume.log
            oldest = records[0].position if records else self._volume.position + 1
            if after + 1 < oldest or after > self._volume.position:
                raise LogTrimmed(after)
            start = after + 1 - oldest
            return records[start : start + limit]

    def listen(self, rung: Callable[[], None], ended: threading.Event) -> None:
        return

    def now_ns(self) -> int | None:
        return None

    def watch(self) -> Watch | None:
        return None

    def mark(self) -> bytes | None:
        return None

    def end_link(self) -> EndLink | None:
        return None

    def sync(self) -> None:
        """Memory survives nothing, so there is nothing to wait for."""

    def wipe(self, first: SessionId = NO_SESSION) -> None:
        with self._volume.lock:
            self._volume.first = max(self._volume.first, first)
            self._volume.partitions.clear()
            self._volume.log.clear()
            self._volume.position += 1  # without a record: the gap that makes every follower drop what it has
            self._volume.append(self.origin, [], False)

    def hazards(self) -> list[Hazard]:
        return []

    def close(self) -> None:
        """The rows stay for other stores of the same name."""

    def _check(self, condition: Condition) -> None:
        row = self._volume.row(condition.key)
        match condition:
            case Exists():
                holds = row is not None
            case Absent():
                holds = row is None
            case Unchanged():
                holds = row is not None and row.version == condition.version
            case NotSince():
                holds = row is None or row.version <= condition.position
            case AtMost():
                present = field(None if row is None else row.value, condition.offset)
                holds = present + condition.n <= condition.limit
        if not holds:
            raise ConditionFailed(condition.key, row, condition)

    def _apply(self, effects: Sequence[Effect]) -> tuple[dict[Key, bytes | None], list[int]]:
        """New values of all rows touched (None: deleted) and the totals of the Adds; changes nothing yet."""
        changed: dict[Key, bytes | None] = {}
        totals: list[int] = []
        for effect in effects:
            row = self._volume.row(effect.key)
            value = changed.get(effect.key, None if row is None else row.value)
            match effect:
                case Put():
                    changed[effect.key] = effect.value
                case Delete():
                    changed[effect.key] = None
                case Add():
                    changed[effect.key], total = added(value, effect.offset, effect.n)
                    totals.append(total)
                case Max():
                    if value is None:
                        raise ConditionFailed(effect.key, row, effect)
                    changed[effect.key] = raised(value, effect.offset, effect.value)
        return changed, totals
