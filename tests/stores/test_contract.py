"""What every metadata store must do with rows: effects, conditions, reading. One suite, run over each store."""

import pytest

from cairnfs.errors import StoreError
from cairnfs.meta.stores.base import (
    Absent,
    Add,
    Along,
    AtMost,
    Condition,
    ConditionFailed,
    Delete,
    Effect,
    Exists,
    Key,
    Max,
    NotSince,
    Put,
    Row,
    Store,
    Unchanged,
)
from cairnfs.meta.stores.named import Neighbour, neighbours
from cairnfs.types import Position
from support.rows import A, B, C, i64, put, value

# --- effects ---


def test_empty_store_has_no_rows_and_position_0(store: Store) -> None:
    assert store.position() == 0
    assert store.read([A]) == [None]
    assert store.scan(b"p", None, 10) == []
    assert store.partitions(b"", None, 10) == []
    assert store.log(Position(0), 10) == []


def test_put_row_is_read_with_the_position_of_its_commit_as_version(store: Store) -> None:
    assert put(store, A, b"1") == 1
    assert put(store, B, b"2") == 2
    assert put(store, A, b"3") == 3
    assert store.read([A, B]) == [Row(b"3", Position(3)), Row(b"2", Position(2))]
    assert store.position() == 3


def test_all_rows_of_a_commit_have_one_version(store: Store) -> None:
    store.commit([], [Put(A, b"1"), Put(B, b"2"), Add(C, 0, 1)])
    assert [row and row.version for row in store.read([A, B, C])] == [1, 1, 1]


def test_deleted_row_is_gone_and_deleting_a_missing_row_is_no_error(store: Store) -> None:
    put(store, A, b"1")
    store.commit([], [Delete(A), Delete(B)])
    assert store.read([A, B]) == [None, None]
    assert store.scan(b"p", None, 10) == []


def test_keys_and_values_may_be_empty_long_and_of_any_bytes(store: Store) -> None:
    everything = bytes(range(256))
    rows = {(b"p", b""): b"", (everything[:255], everything * 4): everything * 4096, (b"\0", b"\0\0"): b"\0" * 9}
    store.commit([], [Put(key, stored) for key, stored in rows.items()])
    assert [row and row.value for row in store.read(list(rows))] == list(rows.values())


@pytest.mark.parametrize(
    ("effects", "expected"),
    [
        ([Put(A, b"1"), Put(A, b"2")], b"2"),
        ([Put(A, b"1"), Delete(A)], None),
        ([Delete(A), Put(A, b"1")], b"1"),
        ([Put(A, i64(5)), Add(A, 0, 2), Add(A, 0, 3)], i64(10)),
        ([Add(A, 0, 7), Delete(A), Add(A, 0, 1)], i64(1)),
        ([Put(A, i64(5)), Max(A, 0, i64(4)), Max(A, 0, i64(6)), Max(A, 0, i64(5))], i64(6)),
        ([Add(A, 8, 1), Max(A, 0, i64(3)), Add(A, 0, 1)], i64(4) + i64(1)),
    ],
)
def test_effects_on_one_row_apply_in_order(store: Store, effects: list[Effect], expected: bytes | None) -> None:
    put(store, A, b"before")
    store.commit([], [Delete(A), *effects])
    assert value(store, A) == expected


def test_add_returns_the_new_value_of_each_in_order(store: Store) -> None:
    store.commit([], [Put(A, i64(10) + i64(-5))])
    committed = store.commit([], [Add(A, 8, -1), Put(B, b""), Add(A, 0, 1), Add(C, 0, 100), Add(A, 0, 1)])
    assert committed.added == [-6, 11, 100, 12]
    assert value(store, A) == i64(12) + i64(-6)


def test_add_creates_a_missing_row_filled_with_zeros(store: Store) -> None:
    assert store.commit([], [Add(A, 16, -3)]).added == [-3]
    assert value(store, A) == bytes(16) + i64(-3)


def test_fields_beyond_the_end_of_a_row_are_zero_until_changed(store: Store) -> None:
    store.commit([], [Put(A, b"abc"), Put(B, b"abc")])
    store.commit([AtMost(A, 4, 1, 1)], [Add(A, 4, 9), Max(B, 4, i64(2))])
    assert value(store, A) == b"abc\0" + i64(9)
    assert value(store, B) == b"abc\0" + i64(2)


def test_bytes_around_a_changed_field_stay(store: Store) -> None:
    store.commit([], [Put(A, b"head" + i64(1) + i64(1) + b"tail")])
    store.commit([], [Add(A, 4, 1), Max(A, 12, b"\xff" * 8)])
    assert value(store, A) == b"head" + i64(2) + b"\xff" * 8 + b"tail"


def test_max_orders_by_bytes(store: Store) -> None:
    put(store, A, b"\x7f" + b"\xff" * 7)
    store.commit([], [Max(A, 0, b"\x80" + b"\0" * 7)])
    assert value(store, A) == b"\x80" + b"\0" * 7


def test_max_on_a_missing_row_fails_the_whole_commit(store: Store) -> None:
    effects: list[Effect] = [Put(B, b"1"), Max(A, 0, i64(1))]
    with pytest.raises(ConditionFailed) as failed:
        store.commit([], effects)
    assert (failed.value.key, failed.value.row, failed.value.condition) == (A, None, effects[1])
    assert value(store, B) is None
    assert store.position() == 0


def test_max_on_a_row_deleted_by_the_same_commit_fails(store: Store) -> None:
    put(store, A, i64(1))
    with pytest.raises(ConditionFailed):
        store.commit([], [Delete(A), Max(A, 0, i64(2))])
    assert value(store, A) == i64(1)


@pytest.mark.parametrize("start", [2**53, -(2**53)])
def test_counter_that_would_pass_2_to_the_53_fails_the_commit(store: Store, start: int) -> None:
    store.commit([], [Add(A, 0, start)])
    with pytest.raises(StoreError):
        store.commit([], [Put(B, b"1"), Add(A, 0, 1 if start > 0 else -1)])
    assert value(store, A) == i64(start)
    assert value(store, B) is None


# --- conditions ---


HOLD = [NotSince(A, Position(1)), NotSince(A, Position(2)), NotSince(A, Position(2**52)), NotSince(B, Position(0))]


@pytest.mark.parametrize(
    "condition",
    [
        Exists(B),
        Absent(A),
        Unchanged(A, Position(1)),
        Unchanged(B, Position(1)),
        Unchanged(B, Position(0)),
        NotSince(A, Position(1)),
        NotSince(A, Position(0)),
        AtMost(A, 0, 1, 5),
        AtMost(B, 0, 1, 0),
        AtMost(A, 0, 0, -1),
    ],
)
def test_failed_condition_applies_nothing_and_tells_the_present_row(store: Store, condition: Condition) -> None:
    put(store, C, b"earlier")
    put(store, A, i64(5))
    with pytest.raises(ConditionFailed) as failed:
        store.commit([Exists(C), condition, Exists((b"never", b"there"))], [Put(C, b"new"), Delete(A)])
    assert failed.value.key == condition.key
    assert failed.value.row == (Row(i64(5), Position(2)) if condition.key == A else None)
    assert failed.value.condition == condition
    assert store.read([C, A]) == [Row(b"earlier", Position(1)), Row(i64(5), Position(2))]
    assert store.position() == 2


@pytest.mark.parametrize(
    "condition",
    [Exists(A), Absent(B), Unchanged(A, Position(1)), *HOLD, AtMost(A, 0, 1, 6), AtMost(B, 0, 3, 3), AtMost(A, 0, -9, -4)],
)
def test_condition_that_holds_lets_the_commit_through(store: Store, condition: Condition) -> None:
    put(store, A, i64(5))
    store.commit([condition], [Put(C, b"new")])
    assert value(store, C) == b"new"


def test_conditions_look_at_the_state_before_the_commit(store: Store) -> None:
    store.commit([Absent(A), AtMost(A, 0, 9, 9)], [Put(A, i64(100))])
    with pytest.raises(ConditionFailed):
        store.commit([Exists(B)], [Put(B, b"1")])


def test_commit_without_effects_only_checks(store: Store) -> None:
    put(store, A, b"1")
    committed = store.commit([Exists(A), Absent(B)], [])
    assert (committed.position, committed.added) == (1, [])
    with pytest.raises(ConditionFailed):
        store.commit([Exists(B)], [])
    assert store.position() == 1
    assert len(store.log(Position(0), 10)) == 1


def test_row_put_again_with_equal_bytes_has_changed(store: Store) -> None:
    put(store, A, b"1")
    put(store, A, b"1")
    with pytest.raises(ConditionFailed):
        store.commit([Unchanged(A, Position(1))], [])


# --- reading ---


def test_read_keeps_the_order_asked_with_duplicates_and_missing_rows(store: Store) -> None:
    store.commit([], [Put(A, b"a"), Put(B, b"b")])
    found = store.read([B, (b"p", b"missing"), A, B])
    assert [row and row.value for row in found] == [b"b", None, b"a", b"b"]
    assert store.read([]) == []


def test_a_row_comes_with_the_one_it_names(store: Store) -> None:
    named: Key = (b"q" + bytes(range(8)), b"key")
    assert store.read_via(A, b"q", b"key")[:2] == (None, None)
    first = put(store, A, bytes(range(8)) + b"and more")
    assert store.read_via(A, b"q", b"key")[:2] == (Row(bytes(range(8)) + b"and more", first), None)
    second = put(store, named, b"")
    found = store.read_via(A, b"q", b"key")
    assert found[:2] == (Row(bytes(range(8)) + b"and more", first), Row(b"", second))
    assert found.position in (0, second)
    assert len(found.page) == 0


def names(n: int) -> list[Neighbour]:
    """Rows of a partition that name others, which the odd ones have."""
    return [
        (b"%05d" % i, Row(i64(i) + b"and more", Position(1)), Row(b"named" * i, Position(1)) if i % 2 else None) for i in range(n)
    ]


def put_names(store: Store, n: int) -> list[Neighbour]:
    rows = names(n)
    effects: list[Effect] = [Put((b"p", key), row.value) for key, row, _ in rows]
    effects += [Put((b"q" + row.value[:8], b"key"), named.value) for _, row, named in rows if named is not None]
    store.commit([], effects)
    return rows


def scanned(store: Store, part: bytes, after: bytes | None, limit: int) -> list[Neighbour]:
    return neighbours(store.scan_via(part, after, limit, b"q", b"key").page)


@pytest.mark.parametrize("n_rows", [1, 100, 128, 129, 3000])
def test_a_page_comes_with_the_rows_that_it_names(store: Store, n_rows: int) -> None:
    rows = put_names(store, n_rows)
    assert scanned(store, b"p", None, 5000) == rows
    assert scanned(store, b"p", rows[0][0], 50) == rows[1:51]
    assert scanned(store, b"p", rows[-1][0], 50) == []
    assert scanned(store, b"nothing", None, 50) == []
    alone = store.scan_via(b"p", rows[0][0], 50, b"q", b"key", with_named=False)
    assert list(alone.page) == [(key, row, None) for key, row, _ in rows[1:51]]


def test_a_page_comes_with_the_row_that_it_belongs_to(store: Store) -> None:
    store.commit([], [Put((b"p7", b"name"), i64(1)), Put((b"p", b""), i64(2))])
    assert store.scan_via(b"p7", None, 5, b"q", b"key").owner is None
    owner = put(store, (b"q7", b"key"), b"owner")
    for with_named in (False, True):
        found = store.scan_via(b"p7", None, 5, b"q", b"key", with_named=with_named)
        assert (found.owner, found.page.names()) == (Row(b"owner", owner), [b"name"])
        assert found.position in (0, owner)
    assert store.scan_via(b"p", None, 5, b"q", b"key").page.names() == [b""]


@pytest.mark.parametrize("n_rows", [1, 32, 33, 128, 129, 3000])
def test_a_row_brings_others_along(store: Store, n_rows: int) -> None:
    rows = put_names(store, n_rows)
    few = store.read_via((b"p", b"00000"), b"q", b"key", Along(32))
    assert (few.row, few.named, few.n_rows) == (rows[0][1], None, n_rows)
    assert sorted(few.page) == (rows if n_rows <= 32 else [])
    after = store.read_via((b"p", b"absent"), b"q", b"key", Along(64, 64, b"00010"))
    assert (after.row, after.named) == (None, None)
    if n_rows > 128:
        assert sorted(after.page) == rows[11:75]
    else:  # a store may give more than was asked for
        assert set(rows[11:75]) <= set(after.page) <= set(rows)
    everything = store.read_via((b"p", b"00000"), b"q", b"key", Along(n_rows))
    assert sorted(everything.page) == rows


@pytest.mark.parametrize("n_rows", [64, 65, 1000])
def test_read_takes_many_keys(store: Store, n_rows: int) -> None:
    keys: list[Key] = [(b"p", i64(n)) for n in range(n_rows)]
    store.commit([], [Put(key, key[1]) for key in keys[::2]])
    assert store.read(keys) == [Row(key[1], Position(1)) if n % 2 == 0 else None for n, key in enumerate(keys)]


def test_commit_takes_many_conditions_and_effects(store: Store) -> None:
    keys: list[Key] = [(b"p", i64(n)) for n in range(500)]
    store.commit([Absent(key) for key in keys], [Add(key, 0, 1) for key in keys])
    store.commit([Exists(key) for key in keys], [Delete(key) for key in keys[:499]])
    assert store.scan(b"p", None, 1000) == [(keys[499][1], Row(i64(1), Position(1)))]


AWKWARD_KEYS = [
    b"",
    b"\0",
    b"\0\0",
    b"a",
    b"a\0",
    b"aa",
    b"ab",
    b"a\xff",
    b"b",
    b"\x7f",
    b"\x80",
    b"\xff",
    b"\xff\0",
    b"\xff\xff",
]


def test_scan_orders_by_bytes(store: Store) -> None:
    store.commit([], [Put((b"p", key), key) for key in reversed(AWKWARD_KEYS)])
    assert [key for key, _ in store.scan(b"p", None, 100)] == AWKWARD_KEYS
    assert all(row == Row(key, Position(1)) for key, row in store.scan(b"p", None, 100))


@pytest.mark.parametrize("prefix", [b"", b"a", b"aa", b"\xff", b"\xff\xff", b"\0", b"none"])
@pytest.mark.parametrize("page", [1, 2, 100])
def test_scan_pages_through_a_prefix_without_gaps_or_repeats(store: Store, prefix: bytes, page: int) -> None:
    store.commit([], [Put((b"p", key), b"") for key in AWKWARD_KEYS])
    found: list[bytes] = []
    while rows := store.scan(b"p", found[-1] if found else None, page, prefix=prefix):
        assert len(rows) <= page
        found += [key for key, _ in rows]
    assert found == [key for key in AWKWARD_KEYS if key.startswith(prefix)]


@pytest.mark.parametrize(("after", "expected"), [(b"", [b"ba", b"bb"]), (b"ba", [b"bb"]), (b"baa", [b"bb"]), (b"c", [])])
def test_scan_starts_after_a_key_that_need_not_exist(store: Store, after: bytes, expected: list[bytes]) -> None:
    store.commit([], [Put((b"p", key), b"") for key in (b"a", b"ba", b"bb", b"c")])
    assert [key for key, _ in store.scan(b"p", after, 10, prefix=b"b")] == expected


def test_partitions_are_separate_even_when_names_begin_alike(store: Store) -> None:
    store.commit([], [Put((part, b"k"), part) for part in (b"d", b"d\0", b"dd")])
    assert store.scan(b"d", None, 10) == [(b"k", Row(b"d", Position(1)))]
    store.commit([], [Delete((b"d", b"k"))])
    assert store.scan(b"d", None, 10) == []
    assert value(store, (b"dd", b"k")) == b"dd"


def test_partitions_lists_non_empty_ones_in_order_and_in_pages(store: Store) -> None:
    parts = [b"a", b"d", b"d\0", b"d\xff", b"dd", b"e", b"\xff", b"\xff\xff"]
    store.commit([], [Put((part, key), b"") for part in reversed(parts) for key in (b"1", b"2")])
    store.commit([], [Delete((b"dd", b"1")), Delete((b"dd", b"2"))])
    parts.remove(b"dd")
    assert store.partitions(b"", None, 100) == sorted(parts)
    assert store.partitions(b"d", None, 100) == [b"d", b"d\0", b"d\xff"]
    assert store.partitions(b"d", None, 2) == [b"d", b"d\0"]
    assert store.partitions(b"d", b"d\0", 2) == [b"d\xff"]
    assert store.partitions(b"\xff", None, 100) == [b"\xff", b"\xff\xff"]
