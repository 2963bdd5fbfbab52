"""What a store shows of its newest commit changes with every commit of anybody, and what a commit tells is so."""

import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cairnfs.ext.arena import Arena
from cairnfs.meta.stores import sqlite, sqlite_checkpoint
from cairnfs.meta.stores.base import MARK_AT, Absent, Add, ConditionFailed, Delete, Effect, Key, Max, Put, Store
from cairnfs.meta.stores.memory import MemoryStore
from cairnfs.meta.stores.sqlite import SqliteStore
from cairnfs.meta.stores.sqlite_watch import counter
from cairnfs.types import Position
from support.arenas import ended, in_child
from support.rows import A, B, C, i64, put

KEYS = [A, B, C]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "m.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    opened = SqliteStore(path, str(path), create=True)
    yield opened
    opened.close()


def mark_of(store: Store) -> bytes:
    mark = store.mark()
    assert mark is not None
    return mark


def elsewhere(path: Path, statements: str) -> str:
    """Run SQL in another process; "done", or what SQLite says."""
    script = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], timeout=0, isolation_level=None)\n"
        "try: c.executescript(sys.argv[2]); print('done')\n"
        "except sqlite3.Error as error: print(error)\n"
        "c.close()"
    )
    command = [sys.executable, "-c", script, str(path), statements]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


# The mark


def test_the_mark_is_in_the_memory_that_is_watched(store: SqliteStore) -> None:
    watch = store.watch()
    assert watch is not None
    for n in range(5):
        put(store, A, i64(n))
        assert watch.read(MARK_AT, len(mark_of(store))) == store.mark()


def test_it_changes_with_commits_and_not_with_reads(store: SqliteStore) -> None:
    before = mark_of(store)
    store.read(KEYS)
    store.scan(b"p", None, 10)
    store.position()
    store.commit([Absent(A)], [])
    with pytest.raises(ConditionFailed):
        store.commit([Absent(A)], [Max(B, 0, b"x" * 8)])
    store.sync()
    assert store.mark() == before
    put(store, A, b"a")
    after = store.mark()
    put(store, A, b"a")
    assert len({before, after, store.mark()}) == 3
    store.wipe()
    assert store.mark() not in (before, after)


def test_it_changes_with_commits_of_others(path: Path, store: SqliteStore) -> None:
    seen = {mark_of(store)}
    other = SqliteStore(path, str(path), create=False)
    put(other, A, b"a")
    assert other.mark() == store.mark()
    seen.add(mark_of(store))
    other.close()
    assert store.mark() in seen
    assert elsewhere(path, "INSERT INTO log(origin, keys) VALUES(1, x'')") == "done"
    seen.add(mark_of(store))
    assert elsewhere(path, "BEGIN IMMEDIATE; DELETE FROM log; ROLLBACK") == "done"
    assert store.mark() in seen
    assert len(seen) == 3


def test_no_mark_comes_back_when_the_log_begins_again(path: Path, store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_checkpoint, "PASSIVE_PAGES", 20)
    monkeypatch.setattr(sqlite_checkpoint, "RESTART_PAGES", 40)
    seen, restarts, length = set[bytes](), 0, 0
    for n in range(600):
        committed = store.commit([], [Put(A, b"%d" % n * 100)])
        assert committed.mark is not None
        assert committed.mark not in seen
        seen.add(committed.mark)
        if n % 100 == 50:
            assert elsewhere(path, "PRAGMA wal_checkpoint(TRUNCATE)") == "done"
            assert store.position() == committed.position
        n_frames = int.from_bytes(mark_of(store)[8:12], sys.byteorder)
        restarts += n_frames < length
        length = n_frames
    assert restarts >= 6


def test_a_commit_tells_its_own_mark(path: Path, store: SqliteStore) -> None:
    other = SqliteStore(path, str(path), create=False)
    for n in range(20):
        committed = store.commit([], [Put(A, i64(n))])
        assert committed.mark == store.mark() == other.mark()
        assert other.commit([], [Put(A, i64(-n))]).mark == store.mark()
    assert store.commit([], []).mark is None
    other.close()


def test_without_a_watch_everything_works(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: Path) -> None:
        raise PermissionError(1, "not here")

    monkeypatch.setattr(sqlite, "WalIndex", fails)
    for store in (SqliteStore(path, str(path), create=True), MemoryStore()):
        committed = store.commit([], [Put(A, b"a")])
        assert (store.watch(), store.mark(), committed.mark) == (None, None, None)
        store.close()


def test_a_closed_store_shows_nothing(path: Path) -> None:
    store = SqliteStore(path, str(path), create=True)
    watch = store.watch()
    assert watch is not None
    store.close()
    assert (store.watch(), store.mark()) == (None, None)
    assert not Path(f"{path}-shm").exists()
    watch.read(0, watch.n_bytes)


# Several processes at once


def commit_now_and_then(path: Path, seed: int, until: float) -> None:
    """Commits of another process, some close upon one another."""
    store, rng = SqliteStore(path, str(path), create=True), random.Random(seed)
    while time.monotonic() < until:
        for n in range(rng.randrange(1, 30)):
            put(store, B, i64(n))
        time.sleep(rng.uniform(0, 0.01))
    store.close()


def catch_up(store: Store, arena: Arena) -> Position:
    """As a follower does it."""
    mark = store.mark()
    position = store.position()
    arena.saw(position, mark)
    return position


@pytest.mark.parametrize("checkpoint_pages", [None, 30])
def test_fresh_means_that_nobody_has_committed_since(
    path: Path, checkpoint_pages: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if checkpoint_pages is not None:
        monkeypatch.setattr(sqlite_checkpoint, "PASSIVE_PAGES", checkpoint_pages)
        monkeypatch.setattr(sqlite_checkpoint, "RESTART_PAGES", 2 * checkpoint_pages)
    until = time.monotonic() + 3
    others = [in_child(lambda seed=seed: commit_now_and_then(path, seed, until)) for seed in range(2)]
    store, arena = SqliteStore(path, str(path), create=True), Arena(1 << 20)
    arena.watch(store.watch(), MARK_AT)
    n_fresh = n_overtaken = 0
    differences = set[int]()
    while time.monotonic() < until:
        applied = catch_up(store, arena)
        for _ in range(3):
            token = arena.token()
            arena.committing()
            committed = store.commit([], [Add(A, 0, 1)])
            arena.committed(committed.rows, committed.position, token, committed.mark)
            if committed.mark is not None:
                differences.add(counter(committed.mark) - committed.position)
            if committed.position == applied + 1:
                applied = committed.position
            fresh = arena.fresh()
            position = store.position()
            if not arena.fresh():
                n_overtaken += 1
            elif fresh:
                assert position == applied, "somebody has committed, and nobody noticed"
                n_fresh += 1
    assert [ended(pid) for pid in others] == [0, 0]
    assert len(differences) == 1, "a mark counts commits, as positions do, so each must be that of its very commit"
    assert n_fresh > 20
    assert n_overtaken > 20
    catch_up(store, arena)
    assert arena.fresh()
    arena.watch(None)
    store.close()


# What a commit says of rows


@pytest.mark.parametrize("seed", range(5))
def test_a_commit_tells_what_its_rows_are_now(store: SqliteStore, seed: int) -> None:
    rng, memory = random.Random(seed), MemoryStore()
    for _ in range(60):
        effects: list[Effect] = []
        for _ in range(rng.randrange(1, 5)):
            key: Key = rng.choice(KEYS)
            kinds = [
                Put(key, rng.randbytes(rng.randrange(20))),
                Delete(key),
                Add(key, rng.randrange(0, 40), rng.randrange(-9, 9)),
            ]
            if memory.read([key])[0] is not None and Delete(key) not in effects:
                kinds.append(Max(key, rng.randrange(0, 40), i64(rng.randrange(99))))
            effects.append(rng.choice(kinds))
        try:
            expected = memory.commit([], effects)
        except Exception as error:
            with pytest.raises(type(error)):
                store.commit([], effects)
            continue
        committed = store.commit([], effects)
        assert committed.rows == expected.rows
        assert set(committed.rows) == {effect.key for effect in effects}
        for each in (store, memory):
            found = dict(zip(KEYS, each.read(KEYS), strict=True))
            for changed, value in committed.rows.items():
                row = found[changed]
                assert (None if row is None else row.value) == value
                assert row is None or row.version == committed.position


# Locks


def test_mapping_leaves_the_locks_of_sqlite_alone(path: Path, store: SqliteStore) -> None:
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    assert elsewhere(path, "BEGIN IMMEDIATE") == "database is locked"
    other = SqliteStore(path, str(path), create=False)
    assert other.mark() is not None
    assert elsewhere(path, "BEGIN IMMEDIATE") == "database is locked"
    other.close()
    assert elsewhere(path, "BEGIN IMMEDIATE") == "database is locked"
    holder.execute("ROLLBACK")
    assert elsewhere(path, "BEGIN IMMEDIATE") == "done"
    holder.close()


def test_mapping_keeps_no_descriptor(path: Path, store: SqliteStore) -> None:
    def of_index() -> int:
        links = [fd.readlink() for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink() and fd.exists()]
        return links.count(Path(f"{path}-shm"))

    before = of_index()
    index = sqlite.WalIndex(path)
    assert index.mark() == store.mark()
    assert of_index() == before == 1
