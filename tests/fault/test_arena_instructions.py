"""Deaths at every instruction that changes the arena: what is found afterwards was there before, is new, or is lost; never half.

Handles and marks are no hints: they are as before, or as after.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from cairnfs.ext import arena as arena_module
from cairnfs.ext import listing as listing_module
from cairnfs.ext.arena import ADOPTED, BARRED, DIRTY, Arena
from cairnfs.ext.listing import Listing, read_on
from cairnfs.meta.records import dentry_key, dentry_part
from support.arenas import MARK_AT, MIB, Shown, commit, inode_row, killed_after, mark_of, name_row, note, version_of
from support.stepping import SUPPORTED, Deaths, Memory, code_of

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not SUPPORTED, reason="single steps are for x86-64")]

LOG_LOCK, FENCE_LOCK, FILTER_LOCK = -1, -2, -3
LOCKS = [*range(64), LOG_LOCK, FENCE_LOCK, FILTER_LOCK]
HEADER = range(4096)  # of the arena: numbers, locks and the first segments
WAYS, N_BUCKETS = 8, 64
SHOWN_LOST = 2**63 - 1
DIR, WHOLE, PARENT = 900, 901, 1
DENTRIES = dentry_part(77)
OLD, NEW = b"old" * 100, b"new" * 200
OLD_MARK, NEW_MARK = mark_of(1), mark_of(2)
OLD_USAGE, NEW_USAGE = (1, 2, 3, 4), (5, 6, 7, 8)


def mixed(x: int) -> int:
    """As ar_mix()."""
    mask = 2**64 - 1
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        x = (x ^ x >> 33) * factor & mask
    return x ^ x >> 33


INOS = [ino for ino in range(1, 10_000) if mixed(ino) % N_BUCKETS == 5][: WAYS + 1]
FIRST, *_, NEXT = INOS  # of one bucket of attributes and of handles, which all but the last fill
MARKED, OPENED = INOS[1], INOS[2]
BUCKET_LOCK = mixed(FIRST) % 64


class World(NamedTuple):
    arena: Arena
    memory: Memory
    shown: Shown


@pytest.fixture
def world(tmp_path: Path) -> World:
    """An arena with something in all its tables, and a bucket that is full."""
    arena, memory = Memory.made("cairnfs-arena", lambda: Arena(MIB))
    for ino in INOS[:-1]:
        note(arena, inode_row(ino, 1), name_row(PARENT, b"%d" % ino, ino, 1))
        arena.shown_opened(ino, 1)
        arena.slice_put(ino, 0, OLD)
    note(arena, inode_row(WHOLE, 1, mode=0o040755))
    arena.mark(MARKED, DIRTY)
    assert arena.open(OPENED)
    shown = Shown(tmp_path / "shown")
    arena.watch(shown.watch, MARK_AT)
    shown.show(OLD_MARK)
    arena.saw(1, OLD_MARK)
    arena.usage_put(1, *OLD_USAGE)
    return World(arena, memory, shown)


def keep_listing(arena: Arena, version: int) -> None:
    listing = Listing(arena, DIR, version, PARENT)
    for i in range(20):
        listing.add(i, b"%d-%d" % (version, i), 100 + i, 0o100000)
    assert listing.keep()


def hints(world: World) -> dict[str, Any]:
    """What may be lost; None when it is."""
    arena, found = world.arena, dict[str, Any]()
    for ino in INOS:
        shown = arena.shown_newest(ino)
        found[f"attributes {ino}"] = arena.attr(ino)
        found[f"name {ino}"] = arena.name(PARENT, b"%d" % ino)
        found[f"shown {ino}"] = None if shown in (-1, SHOWN_LOST) else shown
        found[f"slice {ino}"] = arena.slice_get(ino, 0)
    for version in (1, 2):
        found[f"listing {version}"] = read_on(arena, DIR, version, 2)
    found["usage"] = arena.usage()
    found["name that a whole directory lacks"] = arena.name(WHOLE, b"none")
    found["name that is being made"] = arena.name(WHOLE, b"made")
    for kind, mark in (("old", OLD_MARK), ("new", NEW_MARK)):
        world.shown.show(mark)
        found[f"fresh {kind}"] = arena.fresh() or None
    for whole in range(1, 5):  # half an old mark and half a new one must never be taken for known
        for mark in (NEW_MARK[: 8 * whole] + OLD_MARK[8 * whole :], OLD_MARK[: 8 * whole] + NEW_MARK[8 * whole :]):
            world.shown.show(mark)
            assert not arena.fresh()
    return found


def facts(arena: Arena) -> tuple[dict[int, int], list[int]]:
    """What is never lost: handles and marks."""
    return arena.handles(), [arena.marks(ino) for ino in INOS]


def assert_works(arena: Arena) -> None:
    """Everything can be kept and found again."""
    for ino in INOS:
        newest = arena.newest + 1
        commit(arena, inode_row(ino, newest), name_row(PARENT, b"%d" % ino, ino, newest))
        assert (version_of(arena, ino), arena.name(PARENT, b"%d" % ino)) == (newest, ino)
        arena.shown_forget(ino)
        arena.shown_opened(ino, newest)
        assert arena.shown_newest(ino) == newest
        assert arena.slice_put(ino, 1, NEW)
        assert arena.slice_get(ino, 1) == NEW
        before = arena.handles().get(ino, 0)
        assert arena.mark(ino, BARRED) == before
        arena.unmark(ino, BARRED | ADOPTED | DIRTY)
        assert arena.open(ino)
        assert arena.close(ino) == before
    keep_listing(arena, 3)
    assert len(read_on(arena, DIR, 3, 2) or []) == 20
    arena.check()


class Judge:
    """Compares what a death has left with what was there before the work and what is there after it."""

    def __init__(self, world: World, work: Callable[[], object]) -> None:
        self._world = world
        state = world.memory.read()
        self._allowed = [(hints(world), facts(world.arena))]
        world.memory.write(state)
        work()
        self._allowed.append((hints(world), facts(world.arena)))
        world.memory.write(state)

    def look(self, when: object) -> None:
        for kind, found in hints(self._world).items():
            assert found is None or found in [before[kind] for before, _ in self._allowed], f"{kind} after {when}"
        assert facts(self._world.arena) in [facts for _, facts in self._allowed], f"after {when}"

    def judge(self, when: object) -> None:
        """Readers come first, then the next holders of all locks, then everybody."""
        arena = self._world.arena
        self.look(f"{when}, found without a lock")
        for number in LOCKS:
            arena.hold_lock(number)
            arena.give_lock(number)
        arena.check()
        self.look(when)
        assert_works(arena)


Work = Callable[[Arena], Callable[[], object]]
"""Prepares an arena; what it returns is the work."""


def put_slice_evicting(arena: Arena) -> Callable[[], object]:
    n = 0
    while arena.counts[2] == 0:  # until the first segment is emptied, and on to the next one
        arena.slice_put(10_000 + n, 0, bytes(arena.max_slice_bytes))
        n += 1
    while arena.counts[2] == 1:
        before = arena.counts
        arena.slice_put(10_000 + n, 0, bytes(1000))
        n += 1
    assert before[2] == 1
    return lambda: arena.slice_put(NEXT, 0, NEW)


def make_with_full_filter(arena: Arena) -> Callable[[], object]:
    arena.committing([(DENTRIES, b"%d" % n) for n in range(10_000)])  # it was emptied, and is in its second generation
    killed_after(lambda: arena.tear(FILTER_LOCK))
    note(arena, inode_row(WHOLE, 2, mode=0o040755))
    return lambda: arena.committing([dentry_key(WHOLE, b"made")])


def opened(arena: Arena, ino: int) -> Arena:
    assert arena.open(ino)
    return arena


def row_of(ino: int) -> tuple[bytes, bytes]:
    return inode_row(ino, 1)[0]


WORKS: dict[str, Work] = {
    "attributes put": lambda a: lambda: note(a, inode_row(FIRST, 2)),
    "attributes put, others go": lambda a: lambda: note(a, inode_row(NEXT, 2)),
    "attributes drop": lambda a: lambda: a.changed([row_of(FIRST)], 2),
    "attributes forget": lambda a: lambda: a.forget(FIRST),
    "name put": lambda a: lambda: note(a, name_row(PARENT, b"%d" % FIRST, 77, 2)),
    "name drop": lambda a: lambda: a.changed([name_row(PARENT, b"%d" % FIRST, 1, 1)[0]], 2),
    "shown opened": lambda a: lambda: a.shown_opened(NEXT, 2),
    "shown opened, newer": lambda a: lambda: a.shown_opened(FIRST, 2),
    "shown dropped": lambda a: lambda: a.shown_dropped(FIRST, 1),
    "shown committed": lambda a: lambda: a.shown_committed(FIRST, 2),
    "shown drop": lambda a: (a.shown_dropped(FIRST, 1), lambda: a.shown_drop(FIRST))[1],
    "shown forget": lambda a: lambda: a.shown_forget(FIRST),
    "open": lambda a: lambda: a.open(FIRST),
    "open, again": lambda a: lambda: a.open(OPENED),
    "close": lambda a: lambda: a.close(OPENED),
    "close, others have it": lambda a: (opened(a, OPENED), lambda: a.close(OPENED))[1],
    "mark": lambda a: lambda: a.mark(NEXT, DIRTY),
    "mark, open": lambda a: lambda: a.mark(OPENED, DIRTY),
    "bar": lambda a: lambda: a.bar(NEXT),
    "bar, open": lambda a: lambda: a.bar(OPENED),
    "unmark": lambda a: lambda: a.unmark(MARKED, DIRTY),
    "slice put": lambda a: lambda: a.slice_put(NEXT, 0, NEW),
    "slice put, longer": lambda a: lambda: a.slice_put(FIRST, 0, NEW),
    "slice put, others go": put_slice_evicting,
    "slice drop": lambda a: lambda: a.slice_drop(FIRST, 0),
    "drop all": lambda a: a.drop_all,
    "committing": lambda a: a.committing,
    "committing, with a name": lambda a: lambda: a.committing([dentry_key(WHOLE, b"made")]),
    "refused": lambda a: (a.committing(), a.refused)[1],
    "saw": lambda a: lambda: a.saw(2, NEW_MARK),
    "saw, mark not known": lambda a: lambda: a.saw(2, None),
    "usage put": lambda a: lambda: a.usage_put(1, *NEW_USAGE),
    "usage drop": lambda a: a.usage_drop,
    "listing put, newer": lambda a: (keep_listing(a, 1), lambda: keep_listing(a, 2))[1],
}


def deaths_of(world: World, work: Callable[[], object]) -> tuple[Deaths, Judge]:
    judge = Judge(world, work)
    return Deaths(work, world.memory, HEADER, code_of(arena_module, listing_module)), judge


@pytest.mark.parametrize("name", WORKS)
def test_a_death_at_any_change_leaves_nothing_half_done(world: World, name: str) -> None:
    deaths, judge = deaths_of(world, WORKS[name](world.arena))
    for n in deaths.at_changes():
        judge.judge(f"change {n} of {deaths.n_changes}")


def test_who_dies_while_it_empties_the_filter_is_followed_by_the_next(world: World) -> None:
    deaths, judge = deaths_of(world, make_with_full_filter(world.arena))
    for n in deaths.at_changes(stride=max(deaths.n_changes // 30, 1)):
        judge.judge(f"change {n} of {deaths.n_changes}")


def test_a_commit_that_dies_on_the_way_is_not_taken_for_known(world: World) -> None:
    """Applied: attributes, names, and where the fence stands."""
    arena = world.arena
    arena.committing()
    token = arena.token()
    rows = {key: row.value for key, row in (inode_row(FIRST, 2), name_row(PARENT, b"%d" % FIRST, 77, 2))}
    deaths, judge = deaths_of(world, lambda: arena.committed(rows, 2, token, NEW_MARK))
    for n in deaths.at_changes(stride=4):
        world.shown.show(NEW_MARK)
        if arena.fresh():
            assert (version_of(arena, FIRST), arena.name(PARENT, b"%d" % FIRST)) == (2, 77)
        judge.judge(f"change {n} of {deaths.n_changes}")


def test_no_position_is_known_after_a_death_that_nobody_has_told_of(world: World) -> None:
    """Nor are those that were known before forgotten; what was beyond a gap may be, until the log is looked at."""
    arena = world.arena
    arena.watch(None)
    arena.heard([3, 4, 6])
    deaths = Deaths(lambda: arena.heard([2]), world.memory, HEADER, code_of(arena_module))
    found = set()
    for _ in deaths.at_changes():
        found.add(arena.applied)
        arena.hold_lock(FENCE_LOCK)
        arena.give_lock(FENCE_LOCK)
        assert arena.applied in (1, 4)
        before = arena.applied
        arena.heard([before + 1])
        assert arena.applied in ((2, 4) if before == 1 else (5, 6))
        arena.saw(9, None)
        assert arena.applied == 9
    assert found == {1, 4}


def test_a_death_at_any_instruction_leaves_locks_that_can_be_taken(world: World) -> None:
    """Between two changes of the arena a thread notes, in memory of its own, which lock it has or is about to take."""
    deaths = Deaths(lambda: world.arena.open(OPENED), world.memory, HEADER, code_of(arena_module))
    found = set()
    for _ in deaths.at_instructions():
        world.arena.hold_lock(BUCKET_LOCK)
        world.arena.give_lock(BUCKET_LOCK)
        found.add(world.arena.handles()[OPENED])
        world.arena.check()
    assert found == {1, 2}


@pytest.mark.parametrize("number", [BUCKET_LOCK, LOG_LOCK, FENCE_LOCK, FILTER_LOCK])
def test_who_dies_while_it_repairs_what_another_left_is_followed_by_the_next(world: World, number: int) -> None:
    arena = world.arena
    judge = Judge(world, lambda: None)
    killed_after(lambda: arena.tear(number))
    take = Deaths(lambda: (arena.hold_lock(number), arena.give_lock(number)), world.memory, HEADER, code_of(arena_module))
    stride = max(take.n_changes // 20, 1)
    for n in take.at_changes(stride):
        judge.judge(f"change {n} of {take.n_changes}")


def test_a_fence_that_is_half_moved_is_not_trusted_while_it_is_repaired(world: World) -> None:
    arena = world.arena
    judge = Judge(world, lambda: arena.saw(2, NEW_MARK))
    code = code_of(arena_module)
    deaths = Deaths(lambda: arena.saw(2, NEW_MARK), world.memory, HEADER, code)
    for n in deaths.at_changes():
        take = Deaths(lambda: (arena.hold_lock(FENCE_LOCK), arena.give_lock(FENCE_LOCK)), world.memory, HEADER, code)
        for m in take.at_changes():
            judge.look(f"change {n} of {deaths.n_changes} and change {m} of {take.n_changes} of the repair")


def test_who_dies_while_it_takes_over_is_followed_by_the_next(world: World) -> None:
    arena = world.arena
    killed_after(lambda: [arena.tear(number) for number in (BUCKET_LOCK, FENCE_LOCK)])
    deaths = Deaths(arena.resume, world.memory, HEADER, code_of(arena_module))
    for n in deaths.at_changes(max(deaths.n_changes // 8, 1)):
        arena.resume()
        assert facts(arena) == ({OPENED: 1}, [0] * len(INOS)), n
        assert not any(value for kind, value in hints(world).items() if kind.startswith(("attributes", "name", "fresh")))
        arena.check()
        assert_works(arena)
