"""Processes that share an arena and are killed: whatever they held or had begun, the others go on, and nothing is wrong."""

import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from cairnfs.ext.arena import ADOPTED, BARRED, DIRTY, Arena
from support.arenas import (
    MARK_AT,
    MIB,
    Shown,
    commit,
    ended,
    in_child,
    inode_row,
    killed_after,
    mark_of,
    name_row,
    note,
    version_of,
)

LOG_LOCK, FENCE_LOCK, FILTER_LOCK = -1, -2, -3
LOCKS = [*range(64), LOG_LOCK, FENCE_LOCK, FILTER_LOCK]
INOS = range(1, 301)


@pytest.fixture
def arena() -> Arena:
    """One with something in all its tables, and several buckets to a lock."""
    arena = Arena(8 * MIB)
    for ino in INOS:
        note(arena, inode_row(ino, 1), name_row(1, b"%d" % ino, ino, 1))
        arena.shown_opened(ino, 1)
        assert arena.open(ino)
        assert arena.slice_put(ino, 0, content(ino))
    arena.mark(1000, DIRTY)
    return arena


def content(ino: int) -> bytes:
    return ino.to_bytes(8, "big") * 100


def assert_good(arena: Arena) -> Counter[str]:
    """How much of each kind is still known; all that is, is right."""
    known = Counter[str]()
    for ino in INOS:
        for kind, found, right in (
            ("attributes", version_of(arena, ino), 1),
            ("names", arena.name(1, b"%d" % ino), ino),
            ("shown", arena.shown_newest(ino), 1),
            ("slices", arena.slice_get(ino, 0), content(ino)),
        ):
            if found == right:
                known[kind] += 1
            else:
                assert found in (None, -1, 2**63 - 1), f"{kind} of {ino}"
    assert arena.counts[4] == len(INOS)
    assert arena.marks(1000) == DIRTY
    return known


def assert_works(arena: Arena) -> None:
    """All that can be kept is kept again."""
    for ino in INOS:
        note(arena, inode_row(ino, 1), name_row(1, b"%d" % ino, ino, 1))
        assert (version_of(arena, ino), arena.name(1, b"%d" % ino)) == (1, ino)
        arena.shown_opened(ino, 1)
        assert arena.slice_put(ino, 0, content(ino))
    known = assert_good(arena)
    assert known["slices"] == len(INOS)
    assert known["shown"] == len(INOS)
    for (
        number
    ) in LOCKS:  # who takes a lock repairs its buckets, and in one run of 100 no name is of some lock: the hash has a salt
        arena.hold_lock(number)
        arena.give_lock(number)
    arena.check()


# Locks


@pytest.mark.parametrize("number", LOCKS)
def test_a_lock_whose_holder_was_killed_is_taken_over(arena: Arena, number: int) -> None:
    before = assert_good(arena)
    for _ in range(2):
        killed_after(lambda: arena.hold_lock(number))
        arena.hold_lock(number)
        arena.give_lock(number)
    assert assert_good(arena) == before
    assert_works(arena)


def test_all_locks_at_once(arena: Arena) -> None:
    killed_after(lambda: [arena.hold_lock(number) for number in LOCKS])
    assert_works(arena)


def test_a_thread_of_a_child_that_ends_leaves_its_lock_too(arena: Arena) -> None:
    assert ended(in_child(lambda: arena.hold_lock(5))) == 0
    arena.hold_lock(5)
    arena.give_lock(5)
    assert_works(arena)


@pytest.mark.parametrize("number", [-4, 64])
def test_there_are_no_other_locks(arena: Arena, number: int) -> None:
    for use in (arena.hold_lock, arena.tear):
        with pytest.raises(ValueError, match="there is no lock"):
            use(number)


# What was half written


@pytest.mark.parametrize("number", [0, 1, 31, 63])
def test_half_written_buckets_are_emptied(arena: Arena, number: int) -> None:
    before = assert_good(arena)
    killed_after(lambda: arena.tear(number))
    torn = assert_good(arena)
    for kind in ("attributes", "names", "shown"):
        assert before[kind] - 30 < torn[kind] <= before[kind]
    assert torn["attributes"] < before["attributes"]
    assert torn["slices"] == before["slices"]
    arena.hold_lock(number)
    arena.give_lock(number)
    arena.check()
    assert assert_good(arena) == torn
    assert_works(arena)


def test_all_buckets_half_written(arena: Arena) -> None:
    killed_after(lambda: [arena.tear(number) for number in LOCKS])
    assert not assert_good(arena)
    assert_works(arena)


def test_what_was_fetched_before_a_half_told_change_comes_too_late(arena: Arena) -> None:
    token = arena.token()

    def half() -> None:
        arena.changed([], 2)
        for number in range(64):
            arena.tear(number)

    killed_after(half)
    note(arena, *(inode_row(ino, 1) for ino in INOS), *(name_row(1, b"%d" % ino, ino, 1) for ino in INOS), token=token)
    known = assert_good(arena)
    assert (known["attributes"], known["names"]) == (0, 0)
    assert_works(arena)


def test_a_half_written_log_loses_slices_and_no_memory(arena: Arena) -> None:
    before, taken = assert_good(arena), arena.counts[3]
    killed_after(lambda: arena.tear(LOG_LOCK))
    assert assert_good(arena)["slices"] < before["slices"]
    arena.slice_drop(999, 999)
    assert arena.counts[3] == taken
    arena.check()
    for off in range(5000):
        assert arena.slice_put(5000, off, b"%04d" % off * 500)
        assert arena.slice_get(5000, off) == b"%04d" % off * 500
    assert arena.counts[3] < arena.n_bytes
    arena.check()


def test_a_half_written_fence_is_not_trusted_until_somebody_looks(arena: Arena, tmp_path: Path) -> None:
    shown = Shown(tmp_path / "shown")
    arena.watch(shown.watch, MARK_AT)
    shown.show(mark_of(5))
    arena.saw(5, mark_of(5))
    killed_after(lambda: arena.tear(FENCE_LOCK))
    shown.show(b"\xa5" * 40)
    assert not arena.fresh()
    arena.hold_lock(FENCE_LOCK)
    arena.give_lock(FENCE_LOCK)
    assert not arena.fresh()
    shown.show(mark_of(5))
    assert not arena.fresh()
    arena.saw(5, mark_of(5))
    assert arena.fresh()


def test_a_commit_whose_process_was_killed_is_never_taken_for_known(arena: Arena, tmp_path: Path) -> None:
    shown = Shown(tmp_path / "shown")
    arena.watch(shown.watch, MARK_AT)
    killed_after(arena.committing)
    shown.show(mark_of(2))
    arena.saw(2, mark_of(2))
    assert not arena.fresh()


# At any moment


def load(arena: Arena, seed: int) -> None:
    """A bit of everything; handles that are opened are closed at once, but for a death in between."""
    rng = random.Random(seed)
    position = 10
    while True:
        ino, position = rng.randrange(1, 400), position + 1
        step = rng.randrange(7)
        if step == 0:
            note(arena, inode_row(ino, 1), name_row(1, b"%d" % ino, ino, 1))
        elif step == 1:
            arena.changed([inode_row(ino, 1)[0], name_row(1, b"%d" % ino, ino, 1)[0]], position)
        elif step == 2:
            commit(arena, inode_row(ino, position), name_row(1, b"%d" % ino, ino, position))
        elif step == 3:
            if arena.open(ino):
                assert arena.close(ino) >= 0
        elif step == 4:
            arena.mark(1000 * seed + ino, BARRED | ADOPTED)
            arena.unmark(1000 * seed + ino, BARRED | ADOPTED)
        elif step == 5:
            assert arena.slice_put(ino, 0, content(ino) * rng.randrange(1, 20))
            arena.slice_drop(rng.randrange(1, 400), 0)
        else:
            arena.shown_opened(ino, 1)
            arena.shown_forget(rng.randrange(1, 400))


def look(arena: Arena) -> None:
    """Everything that is found is something that somebody put."""
    for ino in range(1, 400):
        attr, data = arena.attr(ino), arena.slice_get(ino, 0)
        assert attr is None or attr[0] == attr[3], "version and data version are one"
        assert arena.name(1, b"%d" % ino) in (None, ino)
        assert arena.shown_newest(ino) in (-1, 1, 2**63 - 1)
        assert data is None or data == content(ino) * (len(data) // 800)


def test_deaths_at_random_moments_under_load() -> None:
    arena, rng, n_kills = Arena(MIB), random.Random(7), 30
    for ino in range(1, 50):
        assert arena.open(ino)
    children = [in_child(lambda seed=seed: load(arena, seed)) for seed in range(3)]
    for seed in range(3, 3 + n_kills):
        time.sleep(rng.uniform(0.01, 0.08))
        victim = children.pop(rng.randrange(3))
        os.kill(victim, signal.SIGKILL)
        assert ended(victim) == -signal.SIGKILL
        children.append(in_child(lambda seed=seed: load(arena, seed)))
        look(arena)
    for victim in children:
        os.kill(victim, signal.SIGKILL)
        assert ended(victim) == -signal.SIGKILL
    for number in LOCKS:
        arena.hold_lock(number)
        arena.give_lock(number)
    arena.check()
    look(arena)
    n_open = arena.counts[4]
    assert 49 <= n_open <= 49 + 3 + n_kills, "each death leaves one handle at most"
    for ino in range(1, 50):
        assert arena.close(ino) >= 0
    assert arena.counts[4] == n_open - 49
