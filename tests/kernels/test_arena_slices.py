"""Slices in an arena: what is found is what was put, whatever is put, dropped and evicted meanwhile."""

import random
import threading
import time

import pytest

from cairnfs.ext.arena import Arena
from support.arenas import MIB, ended, in_child


def content(pack: int, off: int) -> bytes:
    """Bytes that only this slice has, every eight of them; of no two keys that tests use next to one another the same length."""
    return (pack << 32 | off).to_bytes(8, "big") * (1 + (pack * 37 + off * 11) % 2000)


@pytest.fixture
def arena() -> Arena:
    return Arena(MIB)


def test_what_was_put_is_found_until_it_is_dropped(arena: Arena) -> None:
    assert arena.slice_get(1, 2) is None
    assert arena.slice_bytes(1, 2) == 0
    assert arena.slice_put(1, 2, content(1, 2))
    assert arena.slice_put(1, 3, memoryview(bytearray(content(1, 3))))
    assert arena.slice_get(1, 2) == content(1, 2)
    assert arena.slice_bytes(1, 3) == len(content(1, 3))
    arena.slice_drop(1, 2)
    assert arena.slice_get(1, 2) is None
    assert arena.slice_get(1, 3) == content(1, 3)
    assert arena.counts[:3] == (2, 0, 0)
    arena.check()


def test_a_slice_is_stored_once(arena: Arena) -> None:
    assert arena.slice_put(1, 2, b"x" * 1000)
    assert arena.counts[3] == 1024
    assert arena.slice_put(1, 2, b"x" * 1000)
    assert arena.counts[3] == 1024
    assert arena.slice_put(1, 2, b"y" * 2000)
    assert arena.slice_get(1, 2) == b"y" * 2000


@pytest.mark.parametrize("n_bytes", [MIB, 3 * MIB, 9 * MIB])
def test_lengths_are_bounded(n_bytes: int) -> None:
    arena = Arena(n_bytes)
    longest = arena.max_slice_bytes
    assert not arena.slice_put(1, 0, b"")
    assert not arena.slice_put(1, 0, bytes(longest + 1))
    assert arena.slice_put(1, 0, bytes(longest))
    assert arena.slice_get(1, 0) == bytes(longest)
    assert arena.slice_put(1, 1, b"x")
    assert arena.slice_get(1, 1) == b"x"
    arena.check()


def test_memory_is_bounded_and_used(arena: Arena) -> None:
    most = 0
    for off in range(3000):
        assert arena.slice_put(1, off, content(1, off))
        most = max(most, arena.counts[3])
    found = [arena.slice_get(1, off) for off in range(3000)]
    assert all(data in (None, content(1, off)) for off, data in enumerate(found))
    assert arena.n_bytes // 2 < most < arena.n_bytes
    assert arena.counts[2] > 0
    assert sum(len(data) for data in found if data is not None) > arena.n_bytes // 3
    arena.check()


def test_what_is_used_outlasts_what_is_not(arena: Arena) -> None:
    hot = range(8)
    for off in hot:
        assert arena.slice_put(1, off, bytes(8000))
    for off in range(1000):
        arena.slice_put(2, off, bytes(8000))
        for used in hot:
            assert arena.slice_get(1, used) is not None
    assert arena.slice_get(2, 0) is None
    assert arena.counts[2] > 50


def test_random_puts_and_drops_against_a_dictionary(arena: Arena) -> None:
    rng, model = random.Random(1), dict[tuple[int, int], bytes]()
    for _ in range(5000):
        key = rng.randrange(3), rng.randrange(60)
        if rng.random() < 0.3:
            arena.slice_drop(*key)
            model.pop(key, None)
        else:
            model[key] = content(*key)[: rng.choice((None, 64, 100))]
            assert arena.slice_put(*key, model[key])
        look = rng.randrange(3), rng.randrange(60)
        assert arena.slice_get(*look) in (None, model.get(look))
        assert arena.slice_get(*key) == model.get(key)
    arena.check()


# While others write


def write(arena: Arena, seed: int, until: float) -> None:
    """Evict all the time."""
    rng = random.Random(seed)
    while time.monotonic() < until:
        for _ in range(50):
            pack, off = rng.randrange(4), rng.randrange(100)
            assert arena.slice_put(pack, off, content(pack, off))
            if rng.random() < 0.1:
                arena.slice_drop(rng.randrange(4), rng.randrange(100))


def read(arena: Arena, seed: int, until: float) -> int:
    """How many slices were found; each was whole."""
    rng, found = random.Random(seed), 0
    while time.monotonic() < until:
        for _ in range(50):
            pack, off = rng.randrange(4), rng.randrange(100)
            data = arena.slice_get(pack, off)
            if data is not None:
                assert data == content(pack, off), f"slice {pack}, {off} is not what was put"
                found += 1
    return found


def test_processes_never_see_a_slice_that_is_half_overwritten(arena: Arena) -> None:
    until = time.monotonic() + 3
    writers = [in_child(lambda seed=seed: write(arena, seed, until)) for seed in range(2)]
    readers = [in_child(lambda seed=seed: read(arena, seed, until)) for seed in range(2, 4)]
    assert [ended(pid) for pid in writers + readers] == [0] * 4
    hits, _, evictions, _, _ = arena.counts
    assert hits > 1000
    assert evictions > 100
    arena.check()


def test_threads_share_it(arena: Arena) -> None:
    until, found, failures = time.monotonic() + 1, [0], list[BaseException]()

    def work(seed: int) -> None:
        try:
            write(arena, seed, time.monotonic() + 0.02)
            while time.monotonic() < until:
                found[0] += read(arena, seed, time.monotonic() + 0.02)
                write(arena, seed, time.monotonic() + 0.02)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert found[0] > 0
    arena.check()
