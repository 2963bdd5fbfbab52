"""What every metadata store must do over time: its log, being opened again, several threads. Run over each store."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest

from cairnfs.errors import StoreError
from cairnfs.meta.stores.base import (
    DENTRY_PREFIX,
    Absent,
    Add,
    AtMost,
    Condition,
    ConditionFailed,
    Delete,
    Effect,
    Exists,
    Key,
    LogRecord,
    LogTrimmed,
    Max,
    Put,
    Row,
    Store,
)
from cairnfs.meta.stores.memory import MemoryStore
from cairnfs.meta.txn import Txn, transact
from cairnfs.types import Position, SessionId, serving
from support.rows import LOG_RECORDS, A, B, C, Opener, i64, put, value

T = TypeVar("T")


# --- log ---


def test_log_tells_who_touched_which_rows(store: Store) -> None:
    store.origin = SessionId(7)
    store.commit([Absent(A)], [Put(B, b"1"), Add(C, 0, 1), Add(B, 8, 1)])
    store.origin = SessionId(2**53)
    store.commit([], [Delete(A), Max(C, 0, i64(5))])
    assert store.log(Position(0), 10) == [
        LogRecord(Position(1), SessionId(7), [B, C]),
        LogRecord(Position(2), SessionId(2**53), [A, C]),
    ]


def name(ino: int, text: bytes) -> Key:
    return DENTRY_PREFIX + ino.to_bytes(8, "big"), text


def test_log_tells_of_commits_that_only_add_names(store: Store) -> None:
    old, new = name(5, b"old"), name(6, b"new")
    commits: list[tuple[list[Condition], list[Effect], bool]] = [
        ([Absent(old)], [Put(old, b"1"), Put(A, b"inode"), Delete(B)], True),
        ([Absent(new), Exists(old)], [Put(new, b"1"), Delete(old)], False),  # renamed
        ([Exists(new)], [Put(new, b"2")], False),  # replaced
        ([Absent(old)], [Put(old, b"1"), Put(new, b"1")], False),
        ([Absent(A)] * 0, [Put(A, b"2")], False),
        ([], [Delete(new)], False),
        ([Absent(name(7, b"a")), Absent(name(7, b"b"))], [Put(name(7, b"a"), b"1"), Put(name(7, b"b"), b"1")], True),
    ]
    for request in (0, 1 << 40):
        serving.request = request
        try:
            for conditions, effects, _ in commits:
                store.commit(conditions, effects)
        finally:
            serving.request = 0
        records = store.log(Position(store.position() - len(commits)), 10)
        assert [record.only_adds for record in records] == [expected for _, _, expected in commits]
        for record, (_, effects, _) in zip(records, commits, strict=True):
            assert {effect.key for effect in effects} == set(record.keys)
            named = any(part[:1] == DENTRY_PREFIX for part, _ in record.keys)
            assert record.request == (request if named and not isinstance(store, MemoryStore) else 0)
        store.wipe()


def test_log_keeps_keys_of_any_bytes_and_length(store: Store) -> None:
    keys: list[Key] = [(b"\0" * 255, b"\xff" * 300), (b"p", b""), (bytes(range(9)), b"\0")]
    store.commit([], [Delete(key) for key in keys])
    assert store.log(Position(0), 1)[0].keys == keys


def test_log_is_read_in_pages(store: Store) -> None:
    for n in range(10):
        put(store, A, i64(n))
    assert [record.position for record in store.log(Position(0), 4)] == [1, 2, 3, 4]
    assert [record.position for record in store.log(Position(7), 4)] == [8, 9, 10]
    assert store.log(Position(10), 4) == []


def test_failed_commit_leaves_no_log_record(store: Store) -> None:
    with pytest.raises(ConditionFailed):
        store.commit([Exists(A)], [Put(A, b"")])
    put(store, A, b"")
    assert [record.position for record in store.log(Position(0), 10)] == [1]


def test_follower_behind_the_trimmed_log_is_told(store: Store) -> None:
    n_commits = 4 * LOG_RECORDS
    for n in range(n_commits):
        put(store, A, i64(n))
    with pytest.raises(LogTrimmed):
        store.log(Position(0), 10)
    kept = store.log(Position(n_commits - LOG_RECORDS), n_commits)
    assert [record.position for record in kept] == list(range(n_commits - LOG_RECORDS + 1, n_commits + 1))
    oldest_kept = Position(next(p for p in range(n_commits) if not is_trimmed(store, Position(p))))
    assert n_commits - 3 * LOG_RECORDS < oldest_kept <= n_commits - LOG_RECORDS
    assert store.position() == n_commits


def is_trimmed(store: Store, after: Position) -> bool:
    try:
        store.log(after, 1)
    except LogTrimmed:
        return True
    return False


def test_position_never_reached_counts_as_a_gap(store: Store) -> None:
    put(store, A, b"")
    with pytest.raises(LogTrimmed):
        store.log(Position(2), 10)


# --- life ---


def test_wipe_leaves_nothing_but_positions_go_on(store: Store) -> None:
    for n in range(5):
        put(store, (b"p%d" % n, b"k"), b"")
    store.wipe()
    assert store.partitions(b"", None, 10) == []
    assert store.position() > 5
    with pytest.raises(LogTrimmed):
        store.log(Position(5), 10)
    assert put(store, A, b"1") == store.position()
    assert store.log(Position(store.position() - 1), 10)[0].keys == [A]


def test_sessions_of_a_wiped_volume_commit_nothing(open_again: Opener) -> None:
    """They were not told, and would put their things among those of the next volume; the latest of several wipes counts."""
    former, tool, next_one = open_again(), open_again(), open_again()
    former.origin = SessionId(7)
    put(former, B, b"1")
    for first in (2**32 + 8, 2**33):
        tool.wipe(SessionId(first))
        next_one.origin = SessionId(first)
        for store in (tool, next_one):
            assert put(store, A, b"1") == tool.position()
        with pytest.raises(StoreError, match="volume of this session was destroyed"):
            former.commit([Exists(A)], [Put(B, b"2")])
        with pytest.raises(StoreError, match="volume of this session was destroyed"):
            former.commit([], [Delete(A)])
        assert (value(tool, A), value(tool, B)) == (b"1", None)
        assert [record.keys for record in tool.log(Position(tool.position() - 2), 10)] == [[A], [A]]
        former.origin = next_one.origin  # which the next wipe leaves behind
        put(former, C, b"1")


def test_second_user_sees_commits_of_the_first_at_once(open_again: Opener) -> None:
    first, second = open_again(), open_again()
    first.origin, second.origin = SessionId(1), SessionId(2)
    for n in range(20):
        put(first, A, i64(n))
        assert value(second, A) == i64(n)
        put(second, B, i64(n))
        assert value(first, B) == i64(n)
    assert [record.origin for record in first.log(Position(0), 100)] == [1, 2] * 20


def test_store_opened_again_has_everything(open_again: Opener) -> None:
    first = open_again()
    put(first, A, b"1")
    first.sync()
    first.close()
    second = open_again()
    assert second.read([A]) == [Row(b"1", Position(1))]
    assert put(second, B, b"2") == 2


def test_closing_twice_is_no_error(store: Store) -> None:
    store.close()
    store.close()


# --- several threads ---

N_THREADS = 6
N_STEPS = 60


def run_threads(work: Callable[[int], T]) -> list[T]:
    with ThreadPoolExecutor(N_THREADS) as pool:
        return list(pool.map(work, range(N_THREADS)))


def test_threads_lose_no_increment(store: Store) -> None:
    positions: list[Position] = []
    lock = threading.Lock()

    def work(thread: int) -> None:
        for _ in range(N_STEPS):
            committed = store.commit([], [Add(A, 0, 1), Add((b"t", i64(thread)), 0, 1)])
            with lock:
                positions.append(committed.position)

    run_threads(work)
    assert value(store, A) == i64(N_THREADS * N_STEPS)
    assert sorted(positions) == list(range(1, N_THREADS * N_STEPS + 1))


def test_threads_never_pass_a_limit(store: Store) -> None:
    def work(thread: int) -> int:
        n_done = 0
        for _ in range(N_STEPS):
            try:
                store.commit([AtMost(A, 0, 1, 100)], [Add(A, 0, 1)])
                n_done += 1
            except ConditionFailed:
                pass
        return n_done

    done = run_threads(work)
    assert sum(done) == 100
    assert value(store, A) == i64(100)


def test_transactions_of_threads_lose_no_update(store: Store) -> None:
    put(store, A, i64(0))

    def step(txn: Txn) -> None:
        row = txn.get(A)
        assert row is not None
        txn.unchanged(A)
        txn.put(A, i64(int.from_bytes(row.value, "big") + 1))

    def work(thread: int) -> None:
        for _ in range(N_STEPS):
            transact(store, step)

    run_threads(work)
    assert value(store, A) == i64(N_THREADS * N_STEPS)


def test_readers_see_whole_commits_only(store: Store) -> None:
    keys: list[Key] = [(b"p", i64(n)) for n in range(100)]
    store.commit([], [Put(key, i64(0)) for key in keys])
    stop = threading.Event()

    def write() -> None:
        for n in range(1, 100):
            store.commit([], [Put(key, i64(n)) for key in keys])
        stop.set()

    def read(thread: int) -> None:
        while not stop.is_set():
            for rows in (store.read(keys[:2]), store.read(keys), [row for _, row in store.scan(b"p", None, 100)]):
                assert len({row and row.value for row in rows}) == 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        run_threads(read)
    finally:
        stop.set()
        writer.join()
