"""Handles and marks: counted exactly, whatever else is kept, and silence where there is no room for a mark."""

import random
import threading
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairnfs.ext.arena import ADOPTED, BARRED, DIRTY, Arena
from support.arenas import MIB, ended, in_child, inode_row, note

WAYS, SPARE = 16, 4  # of a bucket; those that are left to marks
N_BUCKETS = 64  # in the smallest arena

OPS = st.lists(
    st.tuples(st.sampled_from(["open", "close", "close own", "mark", "bar", "unmark"]), st.integers(1, 5), st.integers(1, 7)),
    max_size=80,
)


@pytest.fixture
def arena() -> Arena:
    return Arena(MIB)


def mixed(x: int) -> int:
    """As ar_mix()."""
    mask = 2**64 - 1
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        x = (x ^ x >> 33) * factor & mask
    return x ^ x >> 33


def neighbours(n: int) -> list[int]:
    """Inodes of one bucket."""
    found, ino = list[int](), 0
    while len(found) < n:
        ino += 1
        if mixed(ino) % N_BUCKETS == 5:
            found.append(ino)
    return found


class Model:
    """What arena.h says of one inode."""

    def __init__(self) -> None:
        self.handles = self.marks = 0

    def apply(self, op: str, marks: int) -> int:
        if op == "open":
            admitted = not self.marks & ~ADOPTED
            self.handles += admitted
            return admitted
        if op == "mark":
            self.marks |= marks
            return self.handles
        if op == "bar":
            self.marks |= ADOPTED if self.handles else BARRED
            return self.handles
        if op == "unmark":
            self.marks &= ~marks
            return 0
        if self.handles == 0 or (op == "close" and self.marks & ADOPTED):
            return -1
        self.handles -= 1
        if self.handles == 0:
            self.marks &= ~ADOPTED
        return self.handles


@given(OPS)
def test_handles_and_marks_against_a_model(ops: list[tuple[str, int, int]]) -> None:
    arena, models = Arena(MIB), {ino: Model() for ino in range(1, 6)}
    do = {
        "open": lambda ino, marks: arena.open(ino),
        "close": lambda ino, marks: arena.close(ino, False),
        "close own": lambda ino, marks: arena.close(ino),
        "mark": arena.mark,
        "bar": lambda ino, marks: arena.bar(ino),
        "unmark": lambda ino, marks: arena.unmark(ino, marks) or 0,
    }
    for op, ino, marks in ops:
        assert do[op](ino, marks) == models[ino].apply(op, marks)
        assert arena.marks(ino) == models[ino].marks
    assert arena.counts[4] == sum(model.handles for model in models.values())
    arena.check()


def test_a_mark_hides_where_the_bytes_are(arena: Arena) -> None:
    note(arena, inode_row(7, 1))
    assert arena.piece(7) is not None
    arena.mark(7, DIRTY)
    assert arena.piece(7) is None
    arena.unmark(7, DIRTY)
    assert arena.piece(7) is not None


def test_nothing_of_it_is_dropped_with_the_rest(arena: Arena) -> None:
    arena.open(7)
    arena.mark(8, BARRED)
    arena.drop_all()
    arena.changed([inode_row(7, 1)[0], inode_row(8, 1)[0]], 9)
    assert (arena.counts[4], arena.marks(8)) == (1, BARRED)


def test_handles_leave_room_for_marks(arena: Arena) -> None:
    inos = neighbours(WAYS)
    assert [arena.open(ino) for ino in inos] == [True] * (WAYS - SPARE) + [False] * SPARE
    assert [arena.mark(ino, DIRTY) for ino in inos] == [1] * (WAYS - SPARE) + [0] * SPARE
    assert [arena.marks(ino) for ino in inos] == [DIRTY] * WAYS
    assert arena.open(inos[0] + 10_000_000), "other buckets have room"
    arena.check()


def test_more_marks_than_there_is_room_for(arena: Arena) -> None:
    inos = neighbours(WAYS + 3)
    assert all(arena.mark(ino, DIRTY) == 0 for ino in inos)
    assert [arena.bar(ino) for ino in inos[-2:]] == [0, 0]
    assert not any(arena.open(ino) for ino in [*inos, *range(1, 20)]), "nothing may be opened for want of a mark"
    assert [arena.marks(ino) for ino in inos] == [DIRTY] * (WAYS + 1) + [DIRTY | BARRED] * 2
    arena.check()
    for ino in inos:
        arena.unmark(ino, DIRTY)
    assert [arena.marks(ino) for ino in inos] == [0] * (WAYS + 1) + [BARRED] * 2
    for ino in inos[-2:]:
        arena.unmark(ino, BARRED)
    assert not any(arena.marks(ino) for ino in inos)
    assert all(arena.open(ino) for ino in inos[-2:])
    arena.check()


def test_nothing_is_opened_in_silence(arena: Arena) -> None:
    assert arena.open(7)
    arena.hush(True)
    arena.hush(True)
    assert not arena.open(7)
    arena.hush(False)
    assert not arena.open(7)
    assert arena.close(7) == 0
    arena.hush(False)
    assert arena.open(7)


def use(arena: Arena, seed: int, rounds: int) -> None:
    """Open and close, and mark and unmark, the same few inodes; all is given back in the end."""
    rng, opened = random.Random(seed), Counter[int]()
    mine = DIRTY if seed % 2 else BARRED
    for _ in range(rounds):
        ino = rng.randrange(1, 20)
        if rng.random() < 0.5:
            opened[ino] += arena.open(ino)
        elif opened[ino]:
            opened[ino] -= 1
            assert arena.close(ino) >= opened[ino]
        if rng.random() < 0.1:
            arena.mark(100 * seed + ino, mine)
            assert arena.marks(100 * seed + ino) == mine
            arena.unmark(100 * seed + ino, mine)
            assert arena.marks(100 * seed + ino) == 0
    for ino, n in opened.items():
        for _ in range(n):
            assert arena.close(ino) >= 0


def test_processes_and_threads_lose_no_handle(arena: Arena) -> None:
    children = [in_child(lambda seed=seed: use(arena, seed, 20_000)) for seed in (1, 2)]
    threads = [threading.Thread(target=use, args=(arena, seed, 5000)) for seed in (3, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [ended(pid) for pid in children] == [0, 0]
    assert arena.counts[4] == 0
    assert not any(arena.marks(ino) for ino in range(1, 500))
    arena.check()
