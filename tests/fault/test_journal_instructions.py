"""Deaths at every instruction that changes the journal: a successor finds what was there before, or what is new, and all room."""

from collections.abc import Callable
from typing import NamedTuple

import pytest

from cairnfs.ext import journal as journal_module
from cairnfs.ext.journal import Ring
from cairnfs.ext.shm import SharedMemory
from support.stepping import SUPPORTED, Deaths, Memory, code_of

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not SUPPORTED, reason="single steps are for x86-64")]

RING_BYTES = 4096
HEADER = range(128)  # numbers and the ring's lock
END = 1 << 40
GRANTED, OTHER, FREE = 5, 6, 7  # inodes: two with a grant, one without
OLD, NEW = b"old" * 20, b"new" * 25
APPEND, EARLIER = 77, 76  # requests

Written = tuple[int, int, bytes]


class World(NamedTuple):
    ring: Ring
    memory: Memory
    places: list[int]


def made() -> World:
    """A ring whose first record is dead, and whose end is near; records of Python's, of a grant, and an append."""
    shared, memory = Memory.made("cairnfs-journal", lambda: SharedMemory("journal", Ring.region_bytes(RING_BYTES)))
    ring = Ring(shared.view, RING_BYTES)
    first = ring.add(1, 0, bytes(3000), 0, 0)
    places = [first, ring.add(1, 0, OLD, 0, 1), ring.add(2, 9, OLD, EARLIER, 2)]
    for ino in (GRANTED, OTHER):
        assert ring.grant(ino, 1, 1000, END, True)
        assert ring.add_granted(ino, 3, OLD)
    ring.free(places[:1])
    return World(ring, memory, places[1:])


def found_by_successor(ring: Ring) -> tuple[tuple[Written, ...], bool]:
    """What counts, and whether the append is known."""
    written = tuple((ino, offset, bytes(data)) for ino, (_, offset, data, _) in ring.resume())
    return written, ring.appended(APPEND)


def assert_works(ring: Ring, when: object) -> None:
    """All locks can be taken, and all of the ring can be used."""
    ring.check()
    ring.free([place for _, (place, *_) in ring.resume()])
    for _ in range(2):
        places = []
        while (place := ring.add(8, 0, bytes(216), 0, 0)) >= 0:
            places.append(place)
        assert len(places) == RING_BYTES // 256, f"room is lost after {when}"
        ring.check()
        ring.free(places)
    for ino in (GRANTED, OTHER, FREE):
        assert ring.pending(ino) == 0
        assert ring.grant(ino, 2, 1000, END, True)
        assert ring.add_granted(ino, 0, NEW)
        ring.check()
        assert [bytes(data) for _, _, data, _ in ring.end(ino)] == [NEW]
    ring.check()


Work = Callable[[World], Callable[[], object]]
"""Prepares a ring; what it returns is the work."""


def after(prepare: Callable[[World], object], work: Callable[[World], object]) -> Work:
    return lambda world: (prepare(world), lambda: work(world))[1]


def filled(world: World) -> None:
    """No room is left but that of what is dead."""
    while world.ring.add(3, 0, bytes(100), 0, 0) >= 0:
        pass


def emptied(world: World) -> None:
    """All but the latest record is dead."""
    taken = [place for ino in (GRANTED, OTHER) for place, *_ in world.ring.take(ino)]
    world.ring.free([*world.places, *taken[:-1]])
    world.places[:] = taken[-1:]


WORKS: dict[str, Work] = {
    "add": lambda w: lambda: w.ring.add(3, 7, NEW, 0, 5),
    "add behind a filler": lambda w: lambda: w.ring.add(3, 7, NEW * 10, 0, 5),
    "add an append": lambda w: lambda: w.ring.add(3, 7, NEW, APPEND, 5),
    "add where records were": after(lambda w: (filled(w), w.ring.free(w.places)), lambda w: w.ring.add(3, 7, NEW, 0, 5)),
    "add granted": lambda w: lambda: w.ring.add_granted(GRANTED, 63, NEW),
    "free": lambda w: lambda: w.ring.free(w.places),
    "free the last": after(emptied, lambda w: w.ring.free(w.places)),
    "grant": lambda w: lambda: w.ring.grant(FREE, 1, 1000, END, True),
    "grant again": lambda w: lambda: w.ring.grant(GRANTED, 4, 10, 20, False),
    "unplain": lambda w: lambda: w.ring.unplain(GRANTED),
    "hold": lambda w: lambda: w.ring.hold(GRANTED),
    "let": after(lambda w: w.ring.hold(GRANTED), lambda w: w.ring.let(GRANTED, True)),
    "take": lambda w: lambda: w.ring.take(GRANTED),
    "end": lambda w: lambda: w.ring.end(GRANTED),
    "resume": lambda w: w.ring.resume,
    "resume after an append that was not noted": after(lambda w: w.ring.add_unnoted(3, NEW, APPEND), lambda w: w.ring.resume()),
}
IN_PIECES = ("free",)  # several records, one by one


@pytest.mark.parametrize("name", WORKS)
def test_a_death_at_any_change_leaves_what_was_written(name: str) -> None:
    world = made()
    work = WORKS[name](world)
    state = world.memory.read()
    allowed = [found_by_successor(world.ring)]
    world.memory.write(state)
    work()
    world.ring.check()
    allowed.append(found_by_successor(world.ring))
    world.memory.write(state)
    world.ring.check()
    deaths = Deaths(work, world.memory, HEADER, code_of(journal_module))
    for n in deaths.at_changes():
        when = f"change {n} of {deaths.n_changes}"
        written, appended = found_by_successor(world.ring)
        if name in IN_PIECES:
            assert set(allowed[-1][0]) <= set(written) <= set(allowed[0][0]), when
        else:
            assert (written, appended) in allowed, when
        assert found_by_successor(world.ring) == (written, appended), f"another successor finds something else, {when}"
        assert_works(world.ring, when)


def test_whoever_dies_while_it_takes_over_is_followed_by_the_next() -> None:
    world = made()
    killed = Deaths(lambda: world.ring.tear(3, 100), world.memory, HEADER, code_of(journal_module))
    assert list(killed.at_changes())[-1] == killed.n_changes
    state = world.memory.read()
    expected = found_by_successor(world.ring)
    world.memory.write(state)
    deaths = Deaths(world.ring.resume, world.memory, HEADER, code_of(journal_module))
    for n in deaths.at_changes(max(deaths.n_changes // 40, 1)):
        assert found_by_successor(world.ring) == expected, n
        assert_works(world.ring, n)
