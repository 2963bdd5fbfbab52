"""Deaths at every instruction that changes what requests in work leave: each is answered, what may happen once happens once, and
whoever comes next finds slots, jobs, handles and written bytes as they should be.
"""

import errno
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest

from cairnfs.errors import FsError
from cairnfs.types import Attr, Inode
from support.arenas import inode_row, name_row, note, piece
from support.fuse_peer import NO_REPLY, Reply
from support.memory_handler import MemoryHandler
from support.stepping import SUPPORTED, stepped
from support.taking_over import NOW, Here, Sent, World, request

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not SUPPORTED, reason="single steps are for x86-64")]

ROOT, FILE, OTHER = 1, 77, 78
CONTENT = bytes(range(256)) * 3  # longer than the replies that slots have room for
FH, COMPILED_FH = 10, 1 << 63 | 1
N_OPEN = 2  # handles of the file that compiled code has given out
FETCHER = 1
WANTED, TAKEN = 1 << 8, 2 << 8
WRITTEN = b"written" * 9


def rw(n_bytes: int, fh: int) -> bytes:
    """The fixed part of READ and WRITE."""
    return struct.pack("=QQIIQII", fh, 0, n_bytes, 0, 0, 0, 0)


def release(fh: int) -> bytes:
    return struct.pack("=QIIQ", fh, 0, 0, 0)


def known(world: World) -> None:
    """The arena knows a file, its name, and its bytes; compiled code has two handles of it."""
    row = inode_row(FILE, 3, len(CONTENT), piece(len(CONTENT), plain_len=len(CONTENT)))
    note(world.arena, row, name_row(ROOT, b"file", FILE, 3))
    assert world.arena.slice_put(9, 512, CONTENT)
    assert all(world.arena.open(FILE) for _ in range(N_OPEN))


def granted(world: World) -> None:
    known(world)
    assert world.ring.grant(FILE, FH >> 1, 1000, 1 << 20, True)


def handler(world: World) -> MemoryHandler:
    """It knows what the arena knows, and what processes have done that have died."""
    h = MemoryHandler()
    h.attrs[ROOT].mtime_ns = h.attrs[ROOT].btime_ns = 0
    for ino, name in ((FILE, b"file"), (OTHER, b"other")):
        h.attrs[ino], h.names[ROOT][name] = Attr(Inode(ino), 0o100644, 0, 0, 1, len(CONTENT)), ino
        h.data[ino] = bytearray(CONTENT)
    h.handles[FH >> 1] = FILE
    if world.effects.found():
        h.add(ROOT, b"made", 0o40755)
    for method in ("mkdir", "write", "release"):
        h.before[method] = lambda *_: world.effects.add()
    h.hooks["read"] = lambda c, fh, offset, size: [CONTENT[offset : offset + size]]
    return h


def nothing(_: object) -> None: ...


class Case(NamedTuple):
    """Requests, and what must have become of them when somebody has died of them and somebody else was there."""

    sent: Sequence[Sent]
    prepare: Callable[[World], object] = nothing
    judge: Callable[["Outcome"], object] = nothing
    handler: Callable[[World], MemoryHandler] = handler
    n_lanes: int = 1
    order: Sequence[int] = (0,)  # in which they run; none: the first does, and its handler says what is stepped through


class Outcome(NamedTuple):
    world: World
    replies: dict[int, Reply]
    effects: dict[int, int]  # how often requests were carried out
    written: list[tuple[int, int, bytes]]  # what the journal says: inode, offset, bytes


@contextmanager
def made(case: Case) -> Iterator[World]:
    world = World(case.handler, case.n_lanes, case.order)
    try:
        case.prepare(world)
        world.sent = list(case.sent)
        yield world
    finally:
        world.close()


def judge(case: Case, world: World, when: object, earlier: Sequence[Reply] = (), n_deaths: int = 1) -> None:
    """Somebody has died, and somebody else comes."""
    waiting, held, began, effects = world.slots.waiting(), world.held(), world.slots.began(), world.effects.found()
    given, unread = world.survived()
    assert began in (None, NOW), f"the log is read from where it was long ago, {when}"
    assert began == NOW or not [unique for _, unique, _ in waiting if effects[unique]], f"a commit is not looked for, {when}"
    world.arena.resume()
    written = [(ino, offset, bytes(data)) for ino, (_, offset, data, _) in world.ring.resume()]
    found = world.take_over(unread)
    replies = {}
    for one in case.sent:
        got = [reply for reply in (*earlier, *given, *found) if reply.unique == one.unique]
        if one.opcode in NO_REPLY:
            assert not got, when
            continue
        assert 1 <= len(got) <= 1 + n_deaths, f"{one.opcode} has {len(got)} replies {when}"
        assert got == got[:1] * len(got), f"{one.opcode} has different replies {when}"
        assert len(got) == 1 or one.unique in held, f"{one.opcode} was over, and is answered again {when}"
        replies[one.unique] = got[0]
    for opcode in {one.opcode for one in case.sent}:
        n = world.counted.get(opcode, 0) - world.counts.get(opcode, 0)
        n_sent = len([one for one in case.sent if one.opcode == opcode])
        assert n_sent - n_deaths <= n <= n_sent, f"{n} times {opcode} were counted {when}"
    assert world.slots.waiting() == [] and world.held() == {}
    assert set(world.jobs()) == {0}, f"a lane waits for a job {when}"
    world.arena.check()
    world.ring.check()
    case.judge(Outcome(world, replies, world.effects.found(), written))


# What became of them


def answered(*errors: int) -> Callable[[Outcome], object]:
    def look(outcome: Outcome) -> None:
        assert [reply.error for reply in outcome.replies.values()] == list(errors)

    return look


def made_once(outcome: Outcome) -> None:
    assert outcome.replies[100].error == 0 and outcome.effects == {100: 1}


def opened(outcome: Outcome) -> None:
    """A handle may be counted that nobody has; one that somebody has is."""
    is_compiled = struct.unpack_from("=Q", outcome.replies[100].body)[0] & COMPILED_FH > 1
    assert outcome.replies[100].error == 0
    assert outcome.world.arena.handles()[FILE] in (N_OPEN + is_compiled, N_OPEN + 1)


def released(outcome: Outcome) -> None:
    assert outcome.replies[100].error == 0
    assert outcome.world.arena.handles()[FILE] in (N_OPEN, N_OPEN - 1)


def was_read(outcome: Outcome) -> None:
    assert outcome.replies[100] == (0, 100, CONTENT)


def was_written(outcome: Outcome) -> None:
    """By compiled code, or after its death by Python: what was said to be written is found."""
    assert outcome.replies[100] == (0, 100, struct.pack("=II", len(WRITTEN), 0))
    assert outcome.written or outcome.effects
    assert outcome.written in ([], [(FILE, 0, WRITTEN)])


def kept_view(world: World) -> MemoryHandler:
    h = handler(world)
    kept = []

    def write(c: Any, fh: int, offset: int, data: memoryview, *_: bool) -> int:
        kept.append(data)
        return len(data)

    h.hooks["write"] = write
    return h


def waits_for_interrupt(world: World) -> MemoryHandler:
    h = handler(world)

    def wait(c: Any, ino: int, fh: int | None = None) -> Attr:
        if len(Here.lanes) > 1 and not c.interrupted():
            stepped(Here.lanes[1].run)
        deadline_s = time.monotonic() + 5
        while not c.interrupted():
            assert time.monotonic() < deadline_s, "it is not interrupted"
            time.sleep(0.001)
        raise FsError(errno.EINTR)

    h.hooks["getattr"] = wait
    return h


GETATTR = request("GETATTR", 100, bytes(16))
INTERRUPT = request("INTERRUPT", 101, struct.pack("=Q", 100))
MKDIR = request("MKDIR", 100, struct.pack("=II", 0o755, 0) + b"made\0")
FORGET = request("FORGET", 101, struct.pack("=Q", 1), FILE)
WRITE = request("WRITE", 100, rw(len(WRITTEN), FH) + WRITTEN, FILE)

CASES = {
    "Python": Case([GETATTR, request("GETATTR", 101, bytes(16), 99)], judge=answered(0, errno.ENOENT)),
    "Python, a change": Case([MKDIR], judge=made_once),
    "Python, a long reply": Case([request("READ", 100, rw(len(CONTENT), FH), FILE)], judge=was_read),
    "Python, a view is kept": Case([WRITE], judge=answered(0), handler=kept_view),
    "Python, interrupted": Case(
        [GETATTR, INTERRUPT], judge=answered(errno.EINTR), handler=waits_for_interrupt, n_lanes=2, order=()
    ),
    "lookup": Case([request("LOOKUP", 100, b"file\0")], known, answered(0)),
    "open": Case([request("OPEN", 100, bytes(8), FILE)], known, opened),
    "read": Case([request("READ", 100, rw(len(CONTENT), COMPILED_FH), FILE)], known, was_read),
    "release": Case([request("RELEASE", 100, release(COMPILED_FH), FILE)], known, released),
    "forget": Case(
        [request("FORGET", 100, bytes([1, *bytes(7)]), FILE), request("FLUSH", 102, bytes(24), FILE)], known, answered(0)
    ),
    "write": Case([WRITE], granted, was_written),
}


@pytest.mark.parametrize("name", CASES)
def test_a_death_at_any_change_leaves_no_request_without_its_reply(name: str) -> None:
    case = CASES[name]
    with made(case) as world:
        deaths = world.deaths()
        for n in deaths.at_changes():
            judge(case, world, f"after change {n} of {deaths.n_changes}")


# Those who take over


def was_read_only(world: World) -> bool:
    return bool(world.slots.waiting()) and world.slots.began() is None


def was_done(world: World) -> bool:
    return bool(world.slots.waiting()) and bool(world.effects.found())


def was_answered(world: World) -> bool:
    return bool(world.held()) and not world.slots.waiting()


@pytest.mark.parametrize("state", [was_read_only, was_done, was_answered])
def test_who_dies_while_it_takes_over_is_followed_by_the_next(state: Callable[[World], bool]) -> None:
    case = CASES["Python, a change"]
    with made(case) as world:
        first = world.deaths().at_changes()
        assert any(state(world) for _ in first)
        given, world.sent = world.survived()[0], []
        world.effects.keep()
        world.arena.resume()
        assert world.ring.resume() == []
        world.arena.saw(NOW, None)
        deaths = world.deaths()
        for n in deaths.at_changes():
            judge(case, world, f"after change {n} of {deaths.n_changes} of the second", given, 2)


def test_an_interrupt_that_comes_before_its_request_is_not_lost_with_a_process() -> None:
    """Both were read when everything died; the next one comes to the interrupt first, and dies, too."""
    case = Case([GETATTR, INTERRUPT], nothing, answered(errno.EINTR), waits_for_interrupt, 2, (1, 0))
    with made(case) as world:
        world.sent = []
        for slot, sent in enumerate(case.sent):
            world.put(slot, sent)
        deaths = world.deaths()
        for n in deaths.at_changes():
            judge(case, world, f"after change {n} of {deaths.n_changes}", (), 2)


# Jobs


def has_lanes(world: World) -> MemoryHandler:
    """While the process that is to die is in Python, another lane of it has a request."""
    h = handler(world)
    h.before["getattr"] = lambda *_: stepped(Here.lanes[1].run) if len(Here.lanes) > 1 else None
    return h


def can_fetch(world: World) -> None:
    """A thread of a worker sleeps until there is something to fetch."""
    world.slots.n_fetchers = FETCHER
    world.sleeps(FETCHER, 1)


class Fetching:
    """What the worker does when there is a job."""

    def __init__(self, world: World, how_far: str) -> None:
        self._world, self._how_far = world, how_far

    def __call__(self) -> bool:
        world = self._world
        if self._how_far == "not at all" or WANTED | FETCHER not in world.jobs():
            return False
        assert world.slots.take_job(FETCHER, 0) == (1, ROOT, b"other", False)
        if self._how_far == "to the end":
            note(world.arena, inode_row(OTHER, 3), name_row(ROOT, b"other", OTHER, 3))
            world.slots.end_job(FETCHER, 1)
        return True


def found_other(outcome: Outcome) -> None:
    reply = outcome.replies[101]
    assert (reply.error, struct.unpack_from("=Q", reply.body)[0]) == (0, OTHER)
    assert outcome.world.slots.n_fetched <= 1
    outcome.world.slots.end_job(FETCHER, 1)  # too late, and for nobody
    assert set(outcome.world.jobs()) == {0}


@pytest.mark.parametrize("how_far", ["not at all", "to the end", "half-way"])
def test_a_death_of_a_lane_that_waits_for_a_job_loses_neither_request_nor_slot(how_far: str, pytestconfig: pytest.Config) -> None:
    if how_far == "half-way" and not pytestconfig.getoption("--full"):
        pytest.skip("lanes are patient with who has begun, for a second each: --full")
    case = Case([GETATTR, request("LOOKUP", 101, b"other\0")], can_fetch, found_other, has_lanes, 2, ())
    with made(case) as world:
        deaths = world.deaths(react=Fetching(world, how_far))
        fetched = set()
        for n in deaths.at_changes():
            judge(case, world, f"after change {n} of {deaths.n_changes}")
            fetched.add(world.slots.n_fetched)
        assert fetched == ({0, 1} if how_far == "to the end" else {0})
