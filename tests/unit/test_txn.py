"""Transactions: what they read, what they commit, when they try again and when they give up."""

import errno
from collections.abc import Sequence

import pytest

from cairnfs.errors import FsError, StoreError
from cairnfs.meta.recall import Recall
from cairnfs.meta.stores.base import Absent, Condition, ConditionFailed, Delete, Effect, Exists, Key, Put, Row, Unchanged
from cairnfs.meta.stores.memory import MemoryStore
from cairnfs.meta.txn import MAX_ATTEMPTS, Txn, transact, transact_at
from cairnfs.types import Position

A: Key = (b"p", b"a")
B: Key = (b"p", b"b")


class CountingStore(MemoryStore):
    """A store that counts round trips, and runs `meanwhile` before each commit as another writer would."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[list[Key]] = []
        self.n_commits = 0
        self.meanwhile: list[Effect] = []
        self.n_meanwhile = 0

    def read(self, keys: Sequence[Key]) -> list[Row | None]:
        self.reads.append(list(keys))
        return super().read(keys)

    def commit(self, conditions: Sequence[Condition], effects: Sequence[Effect]):  # type: ignore[no-untyped-def]
        self.n_commits += 1
        if self.n_meanwhile:
            self.n_meanwhile -= 1
            super().commit([], self.meanwhile)
        return super().commit(conditions, effects)

    def value(self, key: Key) -> bytes | None:
        row = super().read([key])[0]
        return None if row is None else row.value


@pytest.fixture
def store() -> CountingStore:
    return CountingStore()


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cairnfs.meta.txn.time.sleep", lambda seconds: None)


def i64(number: int) -> bytes:
    return number.to_bytes(8, "big", signed=True)


# --- reading ---


def test_row_is_fetched_once(store: CountingStore) -> None:
    txn = Txn(store)
    assert txn.get(A) is None
    assert txn.get(A) is None
    assert txn.get_many([A, A]) == [None, None]
    assert store.reads == [[A]]


def test_many_rows_are_fetched_in_one_round_trip_without_the_known_ones(store: CountingStore) -> None:
    store.commit([], [Put(A, b"a")])
    txn = Txn(store)
    txn.get(A)
    found = txn.get_many([B, A, (b"p", b"c"), B])
    assert [row and row.value for row in found] == [None, b"a", None, None]
    assert store.reads == [[A], [B, (b"p", b"c")]]


def test_own_effects_are_seen_by_later_reads(store: CountingStore) -> None:
    store.commit([], [Put(A, i64(1))])
    txn = Txn(store)
    txn.add(A, 0, 4)
    assert txn.get(A) == Row(i64(5), Position(0))
    txn.max(A, 0, i64(9))
    assert txn.get_many([A]) == [Row(i64(9), Position(0))]
    txn.delete(A)
    assert txn.get(A) is None
    txn.put(A, b"new")
    assert txn.get(A) == Row(b"new", Position(0))
    assert store.value(A) == i64(1)


def test_add_to_an_unread_missing_row_is_seen(store: CountingStore) -> None:
    txn = Txn(store)
    txn.add(A, 8, 3)
    assert txn.get(A) == Row(bytes(8) + i64(3), Position(0))


# --- conditions ---


def test_unchanged_means_as_read_whether_present_or_not(store: CountingStore) -> None:
    store.commit([], [Put(A, b"a")])
    txn = Txn(store)
    txn.get_many([A, B])
    txn.put(A, b"own")
    txn.unchanged(A)
    txn.unchanged(B)
    assert txn.conditions == [Unchanged(A, Position(1)), Absent(B)]


def test_unchanged_reads_a_row_that_was_not_read(store: CountingStore) -> None:
    txn = Txn(store)
    txn.unchanged(A)
    assert txn.conditions == [Absent(A)]
    assert store.reads == [[A]]


def test_failed_condition_means_another_attempt_with_fresh_reads(store: CountingStore) -> None:
    store.commit([], [Put(A, b"old")])
    store.meanwhile, store.n_meanwhile = [Put(A, b"theirs")], 1
    seen: list[bytes] = []

    def build(txn: Txn) -> str:
        row = txn.get(A)
        assert row is not None
        seen.append(row.value)
        txn.unchanged(A)
        txn.put(A, row.value + b"+mine")
        return "done"

    assert transact(store, build) == "done"
    assert seen == [b"old", b"theirs"]
    assert store.value(A) == b"theirs+mine"


@pytest.mark.parametrize(
    ("kind", "code"), [("absent", errno.EEXIST), ("exists", errno.ENOENT), ("at_most", errno.ENOSPC), ("at_most", errno.EDQUOT)]
)
def test_condition_with_an_error_raises_it_at_once(store: CountingStore, kind: str, code: int) -> None:
    store.commit([], [Put(A, i64(5))])

    def build(txn: Txn) -> None:
        txn.exists(A)
        txn.put(B, b"1")
        if kind == "absent":
            txn.absent(A, FsError(code))
        elif kind == "exists":
            txn.exists(B, FsError(code))
        else:
            txn.at_most(A, 0, 1, 100, error=FsError(errno.EIO))
            txn.at_most(A, 0, 1, 5, error=FsError(code))

    store.n_commits = 0
    with pytest.raises(FsError) as raised:
        transact(store, build)
    assert raised.value.errno == code
    assert store.n_commits == 1
    assert store.value(B) is None


def test_an_error_is_made_only_when_its_condition_does_not_hold(store: CountingStore) -> None:
    store.commit([], [Put(A, b"1")])
    made: list[FsError] = []

    def gone() -> FsError:
        made.append(FsError(errno.ENOENT))
        return made[-1]

    transact(store, lambda txn: txn.exists(A, gone))
    assert not made
    with pytest.raises(FsError) as raised:
        transact(store, lambda txn: txn.exists(B, gone))
    assert made == [raised.value]


def test_a_row_supposed_absent_is_not_read_before_the_guess_was_wrong(store: CountingStore) -> None:
    store.commit([], [Put(A, b"theirs")])
    recall = Recall(store)
    recall.start()
    seen: list[Row | None] = []

    def build(txn: Txn) -> None:
        seen.append(txn.get_many((B, A), absent=A)[1])
        txn.unchanged(A)
        txn.put(B, b"mine")

    transact(store, build, recall)
    assert seen == [None, Row(b"theirs", Position(1))]
    assert store.reads == [[B], [B, A]]
    assert store.value(B) == b"mine"


def test_same_condition_with_and_without_error_reports_the_error(store: CountingStore) -> None:
    def build(txn: Txn) -> None:
        txn.exists(A)
        txn.exists(A, FsError(errno.ENOENT))

    with pytest.raises(FsError):
        transact(store, build)


def test_operation_gives_up_after_many_conflicts(store: CountingStore) -> None:
    store.commit([], [Put(A, b"")])
    store.meanwhile, store.n_meanwhile = [Put(A, b"")], 10**9
    n_built = 0

    def build(txn: Txn) -> None:
        nonlocal n_built
        n_built += 1
        txn.unchanged(A)
        txn.put(B, b"1")

    with pytest.raises(StoreError, match="gave up") as raised:
        transact(store, build)
    assert raised.value.errno == errno.EIO
    assert isinstance(raised.value.__cause__, ConditionFailed)
    assert n_built == MAX_ATTEMPTS
    assert store.value(B) is None


def test_max_on_a_row_that_vanished_means_another_attempt(store: CountingStore) -> None:
    def build(txn: Txn) -> None:
        if txn.get(A) is None:
            raise FsError(errno.ENOENT)
        txn.max(A, 0, i64(1))

    store.commit([], [Put(A, i64(0))])
    store.meanwhile, store.n_meanwhile = [Delete(A)], 1
    with pytest.raises(FsError):
        transact(store, build)


# --- the commit ---


def test_error_of_the_operation_ends_it_without_a_commit(store: CountingStore) -> None:
    def build(txn: Txn) -> None:
        txn.put(A, b"1")
        raise FsError(errno.EISDIR)

    with pytest.raises(FsError):
        transact(store, build)
    assert store.n_commits == 0


def test_operation_that_only_reads_commits_nothing(store: CountingStore) -> None:
    assert transact(store, lambda txn: txn.get(A)) is None
    assert store.n_commits == 0


def test_operation_with_conditions_only_is_checked(store: CountingStore) -> None:
    with pytest.raises(FsError):
        transact(store, lambda txn: txn.exists(A, FsError(errno.ENOENT)))
    assert store.position() == 0


def test_position_and_sums_are_known_after_the_commit(store: CountingStore) -> None:
    def build(txn: Txn) -> tuple[int, int]:
        first = txn.add(A, 0, 5)
        txn.put(B, b"1")
        txn.max(A, 8, i64(1))
        return first, txn.add(A, 0, 6)

    (first, second), committed = transact_at(store, build)
    assert (committed.added[first], committed.added[second]) == (5, 11)
    assert committed.position == store.position() == 1


def test_scan_shows_stored_rows(store: CountingStore) -> None:
    store.commit([], [Put(A, b"1"), Put(B, b"2")])
    txn = Txn(store)
    txn.delete(A)
    assert [key for key, _ in txn.scan(b"p", None, 10)] == [b"a", b"b"]
    assert txn.conditions == []
    assert Exists(A) not in txn.conditions
