"""Deaths at every instruction of a worker that changes jobs: the job is over or was never taken, and the next worker does it."""

import struct
from collections.abc import Callable

import pytest

from cairnfs.ext import fuse_slots as slots_module
from cairnfs.ext.fuse_slots import Slots
from support.fuse_peer import IN_HEADER, OPCODE
from support.stepping import SUPPORTED, Deaths, Memory, code_of

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not SUPPORTED, reason="single steps are for x86-64")]

JOBS_AT, SLEEPS_AT, WORDS_AT = 20480, 272, 528  # as in fuse_slot.h and fuse_jobs.h
REQUESTS_AT, PAGE_BYTES = 28672, 4096
WANTED, TAKEN, DONE = 1 << 8, 2 << 8, 3 << 8
DEAD, NEXT = 1, 2  # workers
SLOT, INO = 1, 77
WATCHED = range(JOBS_AT, JOBS_AT + WORDS_AT + 16)


class World:
    """Slots with one request in work, for which something is wanted of a worker."""

    def __init__(self, wanted: bool) -> None:
        self.slots, self.memory = Memory.made("cairnfs-slots", lambda: Slots(3, 8192))
        self.slots.n_fetchers = NEXT
        at = REQUESTS_AT + SLOT * (PAGE_BYTES + 8192) + PAGE_BYTES
        IN_HEADER.pack_into(self.slots.memory.view, at, IN_HEADER.size, OPCODE["GETATTR"], 2, INO, 0, 0, 0, 0, 0)
        if wanted:
            self.want(DEAD)

    def want(self, worker: int) -> None:
        struct.pack_into("=I", self.slots.memory.view, JOBS_AT + WORDS_AT + 4 * SLOT, WANTED | worker)

    @property
    def word(self) -> int:
        found: int = struct.unpack_from("=I", self.slots.memory.view, JOBS_AT + WORDS_AT + 4 * SLOT)[0]
        return found

    def sleeps(self, worker: int) -> int:
        found: int = struct.unpack_from("=I", self.slots.memory.view, JOBS_AT + SLEEPS_AT + 4 * worker)[0]
        return found


def take_and_end(world: World) -> None:
    assert world.slots.take_job(DEAD, 0) == (SLOT, INO, None, False)
    world.slots.end_job(DEAD, SLOT)


def take_and_bury(world: World) -> None:
    assert world.slots.take_job(DEAD, 0) == (SLOT, INO, None, False)
    world.slots.end_jobs_of(DEAD)


WORKS: dict[str, tuple[bool, Callable[[World], object]]] = {
    "a job is done": (True, take_and_end),
    "nothing is wanted": (False, lambda world: world.slots.take_job(DEAD, 0)),
    "those of a dead worker are ended": (True, take_and_bury),
}


@pytest.mark.parametrize("name", WORKS)
def test_a_death_at_any_change_holds_nobody_up(name: str) -> None:
    wanted, work = WORKS[name]
    world = World(wanted)
    deaths = Deaths(lambda: work(world), world.memory, WATCHED, code_of(slots_module))
    for n in deaths.at_changes():
        assert world.word in ((WANTED | DEAD, TAKEN | DEAD, DONE) if wanted else (0,)), n
        world.slots.end_jobs_of(DEAD)
        assert world.word in ((WANTED | DEAD, DONE) if wanted else (0,)), f"the lane waits for a dead worker after {n}"
        assert world.sleeps(DEAD) == 0, "a dead worker would be given jobs"
        assert world.slots.take_job(NEXT, 0) is None
        world.want(NEXT)
        assert world.slots.take_job(NEXT, 0) == (SLOT, INO, None, False)
        world.slots.end_job(DEAD, SLOT)
        assert world.word == TAKEN | NEXT, "a job of another worker was ended"
        world.slots.end_job(NEXT, SLOT)
        assert (world.word, world.sleeps(NEXT)) == (DONE, 0)
