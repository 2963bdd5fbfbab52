"""The SQLite and the Redis store beside the reference in memory: whatever is done to both, both answer the same."""

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from cairnfs.errors import StoreError
from cairnfs.meta.stores import open_store, redis_store
from cairnfs.meta.stores.base import (
    Absent,
    Add,
    AtMost,
    Committed,
    Condition,
    ConditionFailed,
    Delete,
    Effect,
    Exists,
    Key,
    LogTrimmed,
    Max,
    Put,
    Row,
    Store,
    Unchanged,
)
from cairnfs.meta.stores.memory import MemoryStore
from cairnfs.meta.stores.sqlite import SqliteStore
from cairnfs.types import Position, SessionId
from support.redis_server import RedisServer

# Few keys, and four much used ones, so that commits meet; bytes at both ends of the range, so that order and prefixes are tried.
PARTS = st.sampled_from([b"d", b"d\0", b"d\xff", b"i", b"\xff"])
SUBKEYS = st.sampled_from([b"", b"\0", b"a", b"a\0", b"ab", b"a\xff", b"b", b"\xff", b"\xff\xff"])
HOT_KEYS: list[Key] = [(b"d", b"a"), (b"d", b"b"), (b"i", b""), (b"i", b"a\xff")]
KEYS: st.SearchStrategy[Key] = st.one_of(st.sampled_from(HOT_KEYS), st.sampled_from(HOT_KEYS), st.tuples(PARTS, SUBKEYS))
OFFSETS = st.sampled_from([0, 1, 8, 16])
NUMBERS = st.one_of(st.integers(-3, 3), st.sampled_from([2**52, -(2**52), 2**53, -(2**53)]))
VALUES = st.one_of(st.binary(max_size=30), st.integers(-5, 5).map(lambda n: n.to_bytes(8, "big", signed=True)))
POSITIONS = st.integers(0, 60).map(Position)

CONDITIONS: st.SearchStrategy[Condition] = st.one_of(
    st.builds(Exists, KEYS),
    st.builds(Absent, KEYS),
    st.builds(Unchanged, KEYS, POSITIONS),
    st.builds(AtMost, KEYS, OFFSETS, NUMBERS, NUMBERS),
)
EFFECTS: st.SearchStrategy[Effect] = st.one_of(
    st.builds(Put, KEYS, VALUES),
    st.builds(Delete, KEYS),
    st.builds(Add, KEYS, OFFSETS, NUMBERS, st.just(False)),
    st.builds(Max, KEYS, OFFSETS, st.binary(min_size=8, max_size=8)),
)

Outcome = Committed | tuple[Key, Row | None, Condition | Effect] | type[StoreError]


class TwoStores(RuleBasedStateMachine):
    """Does everything twice."""

    @initialize()
    def start(self) -> None:
        self.reference: Store = MemoryStore()
        self.tried: Store = self.opened()

    def opened(self) -> Store:
        """The store to try, which keeps what it had when it was opened before."""
        raise NotImplementedError

    def teardown(self) -> None:
        self.tried.close()

    @rule(conditions=st.lists(CONDITIONS, max_size=3), effects=st.lists(EFFECTS, max_size=6), origin=st.integers(0, 3))
    def commit(self, conditions: list[Condition], effects: list[Effect], origin: int) -> None:
        self.reference.origin = self.tried.origin = SessionId(origin)
        assert outcome(self.tried, conditions, effects) == outcome(self.reference, conditions, effects)

    @rule(effects=st.lists(EFFECTS, min_size=1, max_size=6))
    def commit_always(self, effects: list[Effect]) -> None:
        assert outcome(self.tried, [], effects) == outcome(self.reference, [], effects)

    @rule(key=KEYS, effects=st.lists(EFFECTS, min_size=1, max_size=4))
    def commit_if_unchanged(self, key: Key, effects: list[Effect]) -> None:
        row = self.reference.read([key])[0]
        condition = Absent(key) if row is None else Unchanged(key, row.version)
        assert outcome(self.tried, [condition], effects) == outcome(self.reference, [condition], effects)

    @rule(keys=st.lists(KEYS, max_size=100))
    def read(self, keys: list[Key]) -> None:
        assert self.tried.read(keys) == self.reference.read(keys)

    @rule(part=PARTS, after=st.none() | SUBKEYS, limit=st.integers(0, 5), prefix=SUBKEYS)
    def scan(self, part: bytes, after: bytes | None, limit: int, prefix: bytes) -> None:
        assert self.tried.scan(part, after, limit, prefix=prefix) == self.reference.scan(part, after, limit, prefix=prefix)

    @rule(prefix=st.just(b"") | PARTS, after=st.none() | PARTS, limit=st.integers(0, 5))
    def partitions(self, prefix: bytes, after: bytes | None, limit: int) -> None:
        assert self.tried.partitions(prefix, after, limit) == self.reference.partitions(prefix, after, limit)

    @rule(after=POSITIONS, limit=st.integers(0, 100))
    def log(self, after: Position, limit: int) -> None:
        assert followed(self.tried, after, limit) == followed(self.reference, after, limit)

    @rule()
    def open_again(self) -> None:
        self.tried.close()
        self.tried = self.opened()
        self.tried.origin = self.reference.origin

    @rule()
    def wipe(self) -> None:
        self.tried.wipe()
        self.reference.wipe()

    @invariant()
    def hold_the_same_rows(self) -> None:
        assert self.tried.position() == self.reference.position()
        parts = self.reference.partitions(b"", None, 100)
        assert self.tried.partitions(b"", None, 100) == parts
        for part in parts:
            assert self.tried.scan(part, None, 100) == self.reference.scan(part, None, 100)


def outcome(store: Store, conditions: list[Condition], effects: list[Effect]) -> Outcome:
    """What a commit does, without the mark, which is the store's own."""
    try:
        return store.commit(conditions, effects)._replace(mark=None)
    except ConditionFailed as failed:
        return failed.key, failed.row, failed.condition
    except StoreError:
        return StoreError


def followed(store: Store, after: Position, limit: int) -> object:
    try:
        return store.log(after, limit)
    except LogTrimmed:
        return LogTrimmed


class SqliteBesideMemory(TwoStores):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="cairnfs-model-"))

    def opened(self) -> Store:
        return SqliteStore(self.folder / "m.db", "sqlite3://m.db", create=True, io_timeout_s=5)

    def teardown(self) -> None:
        super().teardown()
        shutil.rmtree(self.folder)


class RedisBesideMemory(TwoStores):
    def __init__(self, server: RedisServer) -> None:
        super().__init__()
        self.server = server
        with server.client() as client:
            client.flushall()

    def opened(self) -> Store:
        return open_store(f"{self.server.url}/4")


TestSqliteAgainstMemory = SqliteBesideMemory.TestCase


def test_redis_against_memory(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_store, "INDEX_FROM", 1)  # so that partitions of two rows have an index
    run_state_machine_as_test(lambda: RedisBesideMemory(redis_server))
