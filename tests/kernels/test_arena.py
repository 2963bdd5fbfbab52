"""What an arena keeps of rows, what it refuses to keep, and how much."""

import os
import random
import stat
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairnfs.ext.arena import Arena
from cairnfs.ext.slicer import RECORD_BYTES
from cairnfs.meta.records import (
    NEVER_GIVEN,
    SECURITY_KEY,
    TAIL_AT,
    WAS_GIVEN,
    chunk_key,
    dentry_key,
    dentry_part,
    inode_key,
    inode_part,
    locked_key,
    locks_key,
    pack_key,
    sustained_key,
    xattr_key,
)
from cairnfs.meta.stores.base import Key, Row
from cairnfs.types import Position
from support.arenas import FILE, MIB, commit, inode_row, name_row, note, piece, version_of

OTHER, EMPTY, SLICE, PIECES = 0, 1, 2, 3  # enum ar_layout


@pytest.fixture
def arena() -> Arena:
    return Arena(MIB)


# Rows


def test_rows_that_were_noted_are_found(arena: Arena) -> None:
    note(arena, inode_row(7, 3, 5), name_row(1, b"a", 7, 3))
    assert arena.attr(7) == (3, FILE, 5, 3, 0, PIECES)
    assert arena.name(1, b"a") == 7
    assert (arena.attr(8), arena.name(1, b"b"), arena.name(2, b"a")) == (None, None, None)
    arena.check()


def test_a_name_that_does_not_exist_is_known_as_such(arena: Arena) -> None:
    keys = [dentry_key(1, b"gone"), inode_key(8)]
    arena.note(keys, [None, None], arena.token())
    assert arena.name(1, b"gone") == 0
    assert arena.attr(8) is None
    note(arena, name_row(1, b"gone", 9, 1))
    assert arena.name(1, b"gone") == 9


def test_names_that_a_scan_finds_are_kept(arena: Arena) -> None:
    found = [(name, name_row(1, name, ino, 2)[1]) for ino, name in enumerate((b"a", b"\xff" * 255, b"12345678"), 10)]
    arena.note_names(dentry_part(1), found, arena.token())
    assert [arena.name(1, name) for name, _ in found] == [10, 11, 12]
    assert arena.name(1, b"1234567") is None
    assert arena.name(1, b"12345678\0") is None


def test_other_rows_are_none_of_its_business(arena: Arena) -> None:
    value = inode_row(7, 3)[1]
    keys: list[Key] = [
        *(chunk_key(7, 1), xattr_key(7, b"a"), locks_key(7), sustained_key(7, 7), locked_key(7, 7), pack_key(7)),
        *((b"v", b"usage"), (inode_part(7), b""), (inode_part(7)[:-1], b"a"), (inode_part(7) + b"0", b"a"), (b"", b"a")),
    ]
    arena.note(keys, [value] * len(keys), arena.token())
    note(arena, inode_row(7, 3))
    arena.changed(keys, 4)
    assert version_of(arena, 7) == 3
    assert arena.newest == 4


def test_a_commit_leaves_its_rows(arena: Arena) -> None:
    note(arena, inode_row(7, 1), inode_row(8, 1), name_row(1, b"a", 7, 1), name_row(1, b"b", 8, 1))
    token = arena.token()
    arena.committing()
    rows: dict[Key, bytes | None] = {
        inode_key(7): inode_row(7, 2, 9)[1].value,
        inode_key(8): None,
        dentry_key(1, b"a"): None,
        dentry_key(1, b"c"): name_row(1, b"c", 7, 2)[1].value,
    }
    arena.committed(rows, 2, token, None)
    assert arena.attr(7) == (2, FILE, 9, 2, 0, PIECES)
    assert arena.attr(8) is None
    assert [arena.name(1, name) for name in (b"a", b"b", b"c")] == [0, 8, 7]
    assert arena.newest == 2
    arena.check()


def test_what_others_changed_is_dropped_and_no_more(arena: Arena) -> None:
    note(arena, inode_row(7, 1), inode_row(8, 1), name_row(1, b"a", 7, 1), name_row(1, b"b", 8, 1))
    arena.changed([inode_key(7), dentry_key(1, b"a"), dentry_key(1, b"never seen")], 2)
    assert (version_of(arena, 7), version_of(arena, 8)) == (None, 1)
    assert (arena.name(1, b"a"), arena.name(1, b"b")) == (None, 8)
    arena.check()


def test_attributes_newer_than_the_change_that_is_told_of_stay(arena: Arena) -> None:
    note(arena, inode_row(7, 5))
    arena.changed([inode_key(7)], 4)
    assert version_of(arena, 7) == 5


def test_drop_all_drops_all(arena: Arena) -> None:
    note(arena, inode_row(7, 1), name_row(1, b"a", 7, 1))
    arena.drop_all()
    assert (arena.attr(7), arena.name(1, b"a")) == (None, None)
    note(arena, inode_row(7, 1), name_row(1, b"a", 7, 1))
    assert (version_of(arena, 7), arena.name(1, b"a")) == (1, 7)


@pytest.mark.parametrize("version", [1, 5])
def test_forgetting_drops_attributes_of_any_version(arena: Arena, version: int) -> None:
    note(arena, inode_row(7, version), inode_row(8, version), name_row(1, b"a", 7, version))
    arena.changed([], 3)
    arena.forget(7)
    assert (version_of(arena, 7), version_of(arena, 8), arena.name(1, b"a")) == (None, version, 7)
    arena.check()


def test_a_row_fetched_before_the_newest_commit_stays_forgotten(arena: Arena) -> None:
    token = arena.token()
    arena.changed([], 3)
    arena.forget(7)
    note(arena, inode_row(7, 1), token=token)
    assert arena.attr(7) is None


def test_versions_from_before_everything_was_dropped_do_not_count(arena: Arena) -> None:
    note(arena, inode_row(7, 9))
    arena.drop_all()
    note(arena, inode_row(7, 1))
    assert version_of(arena, 7) == 1


def test_there_is_no_inode_0(arena: Arena) -> None:
    assert (arena.attr(0), arena.piece(0)) == (None, None)
    note(arena, inode_row(0, 1))
    assert (arena.attr(0), arena.piece(0)) == (None, None)
    arena.check()


def test_an_older_row_replaces_no_newer_one(arena: Arena) -> None:
    token = arena.token()
    note(arena, inode_row(7, 5), token=token)
    note(arena, inode_row(7, 4), token=token)
    assert version_of(arena, 7) == 5


# Tokens


@pytest.mark.parametrize("change", ["changed", "committed", "deleted", "drop_all"])
def test_what_was_fetched_before_a_change_comes_too_late(arena: Arena, change: str) -> None:
    note(arena, inode_row(7, 1), name_row(1, b"a", 7, 1))
    token = arena.token()
    if change == "changed":
        arena.changed([inode_key(7), dentry_key(1, b"a")], 2)
    elif change == "committed":
        commit(arena, inode_row(7, 2), name_row(1, b"a", 8, 2))
    elif change == "deleted":
        arena.committing()
        arena.committed({inode_key(7): None, dentry_key(1, b"a"): None}, 2, token, None)
    else:
        arena.drop_all()
    before = version_of(arena, 7), arena.name(1, b"a")
    note(arena, inode_row(7, 1), name_row(1, b"a", 7, 1), token=token)
    assert (version_of(arena, 7), arena.name(1, b"a")) == before
    assert before == {"committed": (2, 8), "deleted": (None, 0)}.get(change, (None, None))


def test_a_commit_that_is_told_of_late_replaces_nothing_newer(arena: Arena) -> None:
    first = arena.token()
    commit(arena, inode_row(7, 3), name_row(1, b"a", 7, 3))
    arena.committing()
    arena.committed({inode_key(7): inode_row(7, 2)[1].value, dentry_key(1, b"a"): None}, 2, first, None)
    assert version_of(arena, 7) == 3
    assert arena.name(1, b"a") is None


def test_a_commit_begun_before_everything_was_dropped_leaves_nothing(arena: Arena) -> None:
    token = arena.token()
    arena.committing()
    arena.drop_all()
    arena.committed({inode_key(7): inode_row(7, 1)[1].value}, 1, token, None)
    assert (arena.attr(7), arena.newest) == (None, 1)


# Records


LAYOUTS = {
    "empty": (0, b"", FILE, EMPTY),
    "one piece": (100, piece(100), FILE, SLICE),
    "one piece within its slice": (100, piece(100, off=7), FILE, SLICE),
    "all hole": (100, b"", FILE, PIECES),
    "a hole behind": (100, piece(60), FILE, PIECES),
    "a hole before": (100, piece(90, pos=10), FILE, PIECES),
    "longer than the file": (50, piece(100), FILE, PIECES),
    "something in an empty file": (0, piece(100), FILE, PIECES),
    "two pieces": (100, piece(50) + piece(50, pos=50, pack=8), FILE, PIECES),
    "two pieces and a hole": (100, piece(50) + piece(40, pos=60), FILE, PIECES),
    "short": (100, piece(100)[:-1], FILE, PIECES),
    "padded": (100, piece(100)[:-1] + b"x", FILE, PIECES),
    "long": (100, piece(100) + b"x", FILE, PIECES),
    "zeros": (100, bytes(RECORD_BYTES), FILE, PIECES),
    "a symbolic link": (40, piece(40), stat.S_IFLNK | 0o777, OTHER),
    "a directory": (0, b"", stat.S_IFDIR | 0o755, OTHER),
    "a pipe": (0, b"", stat.S_IFIFO | 0o644, OTHER),
}


@pytest.mark.parametrize("kind", LAYOUTS)
def test_where_the_bytes_are_is_known_of_files_of_one_piece(arena: Arena, kind: str) -> None:
    size, tail, mode, layout = LAYOUTS[kind]
    note(arena, inode_row(7, 1, size, tail, mode))
    assert arena.attr(7) == (1, mode, size, 1, 0, layout)
    if layout == SLICE:
        off = int.from_bytes(tail[8:12], "big")
        assert arena.piece(7) == (size, off, 9, 512, 300, 4096, 0xABCD, 1)
    else:
        assert arena.piece(7) == ((0,) * 8 if layout == EMPTY else None)


@given(st.integers(0, TAIL_AT - 1), st.integers(0, 255))
def test_records_that_cannot_be_read_are_not_kept(length: int, version: int) -> None:
    arena = Arena(MIB)
    key, row = inode_row(7, 1)
    damaged = row.value[:length] if version == 1 else bytes((version,)) + row.value[1:]
    arena.note([key], [Row(damaged, Position(1))], arena.token())
    assert arena.attr(7) is None
    arena.committing()
    arena.committed({key: damaged}, 2, arena.token(), None)
    assert arena.attr(7) is None
    arena.check()


@pytest.mark.parametrize("value", [b"", bytes(7), b"\1" * 8, b"\1" * 10, bytes(9)])
def test_names_that_cannot_be_read_are_not_kept(arena: Arena, value: bytes) -> None:
    key = dentry_key(1, b"a")
    arena.note([key], [Row(value, Position(1))], arena.token())
    arena.note_names(key[0], [(key[1], Row(value, Position(1)))], arena.token())
    assert arena.name(1, b"a") is None
    note(arena, name_row(1, b"a", 7, 1))
    arena.committing()
    arena.committed({key: value}, 2, arena.token(), None)
    assert arena.name(1, b"a") is None


@given(st.binary(min_size=TAIL_AT, max_size=TAIL_AT + 3 * RECORD_BYTES))
def test_no_record_does_harm(value: bytes) -> None:
    arena = Arena(MIB)
    arena.note([inode_key(7)], [Row(b"\1" + value[1:], Position(1))], arena.token())
    found = arena.attr(7)
    assert found is not None and found[5] in (OTHER, EMPTY, SLICE, PIECES)
    arena.check()


# Pages


def test_what_pages_show_is_kept_of_a_hundred_thousand_inodes() -> None:
    arena, inos = Arena(32 * MIB), list(range(1, 100_001))
    assert not any(arena.shown_opened(ino, 1) for ino in inos)
    for ino in inos:
        arena.shown_dropped(ino, 1)
        arena.shown_committed(ino, 2)
    random.Random(1).shuffle(inos)
    assert all(arena.shown_opened(ino, 2) for ino in inos)
    arena.shown_drop_all()
    assert not any(arena.shown_opened(ino, 2) for ino in inos[:1000])
    assert all(arena.shown_newest(ino) == 2 for ino in inos)
    for ino in inos:
        arena.shown_forget(ino)
    assert all(arena.shown_newest(ino) == -1 for ino in inos)
    arena.check()


@pytest.mark.parametrize(("load", "lost"), [(0.8, 0.004), (0.9, 0.02)])
def test_a_table_of_what_pages_show_loses_little_until_it_is_full(load: float, lost: float) -> None:
    arena, n = Arena(4 * MIB), int(load * 32768)
    for ino in range(1, n + 1):
        assert not arena.shown_opened(ino, ino)
    arena.check()
    newest = [arena.shown_newest(ino) for ino in range(1, n + 1)]
    assert all(found in (ino, -1) for ino, found in enumerate(newest, 1))
    assert newest.count(-1) < lost * n


# Bounds


@given(st.integers(MIB, 12 * MIB))
def test_it_takes_no_more_memory_than_it_may(n_bytes: int) -> None:
    arena = Arena(n_bytes)
    assert n_bytes * 3 // 4 < arena.n_bytes <= n_bytes
    assert 16 << 10 <= arena.max_slice_bytes <= arena.n_bytes // 16
    arena.check()


def mapped() -> list[str]:
    with open("/proc/self/maps") as maps:
        return [line for line in maps if "cairnfs-arena" in line]


def test_memory_is_given_back_with_its_descriptor() -> None:
    before, descriptors = mapped(), os.listdir("/proc/self/fd")
    arena = Arena(3 * MIB)
    assert len(mapped()) == len(before) + 1
    assert len(os.listdir("/proc/self/fd")) == len(descriptors) + 1
    del arena
    assert mapped() == before
    assert len(os.listdir("/proc/self/fd")) == len(descriptors)


@pytest.mark.parametrize("n_bytes", [0, MIB - 1, 1 << 62])
def test_senseless_sizes_are_refused(n_bytes: int) -> None:
    with pytest.raises(OSError, match="no arena of"):
        Arena(n_bytes)


def test_far_more_rows_than_fit_leave_some_and_none_wrong(arena: Arena) -> None:
    n = 20_000
    for ino in range(1, n + 1):
        note(arena, inode_row(ino, ino), name_row(1, b"%d" % ino, ino, ino))
    arena.check()
    versions = {ino: version_of(arena, ino) for ino in range(1, n + 1)}
    names = {ino: arena.name(1, b"%d" % ino) for ino in range(1, n + 1)}
    assert 400 < sum(version is not None for version in versions.values()) < n
    assert 400 < sum(name is not None for name in names.values()) < n
    assert all(version in (None, ino) for ino, version in versions.items())
    assert all(found in (None, ino) for ino, found in names.items())


def test_a_store_that_has_gone_back_is_begun_anew() -> None:
    arena = Arena(4 * MIB)
    arena.saw(100, None)
    note(arena, inode_row(5, 90), name_row(1, b"name", 5, 90))
    assert arena.slice_put(3, 512, b"x" * 1000)
    before = arena.token()
    commit(arena, inode_row(6, 101))
    arena.restart(40)
    assert (arena.newest, arena.attr(5), arena.attr(6), arena.name(1, b"name")) == (40, None, None, None)
    assert arena.slice_get(3, 512) is None
    note(arena, inode_row(5, 39), token=before)
    assert arena.attr(5) is None, "it was fetched from the store of before"
    commit(arena, inode_row(6, 41))
    note(arena, inode_row(5, 39))
    assert (version_of(arena, 5), version_of(arena, 6)) == (39, 41)
    assert arena.slice_put(3, 512, b"y" * 1000)
    assert arena.slice_get(3, 512) == b"y" * 1000
    arena.check()


# Whether there were ever attributes in security.


def told(arena: Arena, value: bytes | None, token: int | None = None) -> bool | None:
    """What is known of it, after its row was fetched."""
    row = None if value is None else Row(value, Position(1))
    arena.note([SECURITY_KEY], [row], arena.token() if token is None else token)
    return arena.security


def test_what_the_row_says_of_security_is_kept(arena: Arena) -> None:
    assert arena.security is None
    assert told(arena, NEVER_GIVEN) is False
    assert told(arena, WAS_GIVEN) is True
    assert told(Arena(MIB), None) is True, "a volume that keeps no account may have any"
    assert told(Arena(MIB), b"") is told(Arena(MIB), b"\0\0") is True


@pytest.mark.parametrize("change", ["others", "own"])
def test_once_given_it_was_given_whatever_was_fetched_before(arena: Arena, change: str) -> None:
    token = arena.token()
    assert told(arena, NEVER_GIVEN) is False
    if change == "others":
        arena.changed([SECURITY_KEY, inode_key(7)], 5)
    else:
        arena.committing()
        arena.committed({SECURITY_KEY: WAS_GIVEN}, 5, token, None)
    assert arena.security is True
    assert told(arena, NEVER_GIVEN, token) is told(arena, NEVER_GIVEN) is True


@pytest.mark.parametrize("drop", [Arena.drop_all, Arena.resume, lambda arena: arena.restart(1)])
@pytest.mark.parametrize("value", [NEVER_GIVEN, WAS_GIVEN])
def test_when_all_is_dropped_nobody_knows_of_security_either(arena: Arena, drop: Callable[[Arena], None], value: bytes) -> None:
    token = arena.token()
    told(arena, value)
    drop(arena)
    assert arena.security is None
    assert told(arena, NEVER_GIVEN, token) is None, "it was fetched before"
    assert told(arena, NEVER_GIVEN) is False


def test_another_process_knows_it_too(arena: Arena) -> None:
    told(arena, NEVER_GIVEN)
    assert Arena(arena.n_bytes, os.dup(arena.fd)).security is False
