"""What an arena counts of itself, and that it is exactly what happened."""

import pytest

from cairnfs.ext.arena import Arena
from support.arenas import MIB, inode_row, name_row, note

N = 4000  # more attributes and names than an arena of 1 MiB has room for


def test_attributes_and_names_that_give_way_are_counted() -> None:
    arena = Arena(MIB)
    for ino in range(1, N + 1):
        note(arena, inode_row(ino, 1))
        note(arena, name_row(1, b"name%d" % ino, ino, 1))
    kept = sum(arena.attr(ino) is not None for ino in range(1, N + 1))
    named = sum(arena.name(1, b"name%d" % ino) is not None for ino in range(1, N + 1))
    assert 0 < kept < N and 0 < named < N
    assert arena.evicted == (0, N - kept, N - named)
    for ino in range(1, N + 1):  # nothing gives way to what is there already
        if arena.attr(ino) is not None:
            note(arena, inode_row(ino, 2))
        if arena.name(1, b"name%d" % ino) is not None:
            note(arena, name_row(1, b"name%d" % ino, ino, 2))
    assert arena.evicted == (0, N - kept, N - named)
    arena.check()


def kept_names() -> set[int]:
    arena = Arena(MIB)
    for ino in range(1, N + 1):
        note(arena, name_row(1, b"name%d" % ino, ino, 1))
    return {ino for ino in range(1, N + 1) if arena.name(1, b"name%d" % ino) is not None}


def test_which_names_meet_in_a_bucket_is_a_secret_or_what_the_seed_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAIRN_HASH_SEED", "one")
    seeded = kept_names()
    assert kept_names() == seeded
    monkeypatch.setenv("CAIRN_HASH_SEED", "two")
    assert kept_names() != seeded
    monkeypatch.setenv("CAIRN_HASH_SEED", "")
    assert kept_names() != kept_names()


def test_what_is_used_outlasts_what_is_not() -> None:
    """Attributes and names that somebody looks at now and then, among many that nobody looks at again."""
    arena = Arena(MIB)
    used = range(1, 31)
    for ino in used:
        note(arena, inode_row(ino, 1), name_row(1, b"name%d" % ino, ino, 1))
    for ino in range(1001, 1001 + 4 * N):
        note(arena, inode_row(ino, 1), name_row(1, b"name%d" % ino, ino, 1))
        if ino % 20 == 0:
            for each in used:
                arena.attr(each)
                arena.name(1, b"name%d" % each)
    assert arena.evicted[1] > 3 * N and arena.evicted[2] > 3 * N
    assert sum(arena.attr(ino) is not None for ino in used) >= 28
    assert sum(arena.name(1, b"name%d" % ino) is not None for ino in used) >= 28
    arena.check()


def test_what_is_dropped_does_not_give_way() -> None:
    """Few enough for no bucket to overflow by chance, whatever the seed; together twice as many as the table of names holds."""
    arena = Arena(MIB)
    for first in range(1, N // 4, 30):
        for ino in range(first, first + 30):
            note(arena, inode_row(ino, 1), name_row(1, b"name%d" % ino, ino, 1))
        arena.drop_all()
    assert arena.evicted == (0, 0, 0)


def test_slices_are_counted_as_they_are_looked_for_and_emptied() -> None:
    arena = Arena(4 * MIB)
    plain = bytes(arena.max_slice_bytes)
    n_put = 0
    while arena.evicted[0] < 3:
        assert arena.slice_put(n_put, 0, plain)
        n_put += 1
    assert arena.looked_up == (0, 0)
    n_hits = sum(arena.slice_get(pack, 0) is not None for pack in range(n_put))
    assert 0 < n_hits < n_put and arena.looked_up == (n_hits, 0)
    assert arena.counts[:3] == (n_hits, 0, 3)
    assert arena.table_bytes + arena.counts[3] <= arena.n_bytes
