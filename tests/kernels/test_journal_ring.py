"""The ring of the journal: what grants let compiled code add, who takes it, and what the death of a process leaves."""

import mmap
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from cairnfs.ext.journal import Ring
from support.arenas import in_child

RING_BYTES = 4096
END = 1 << 40


def new_ring(ring_bytes: int = RING_BYTES) -> Ring:
    return Ring(mmap.mmap(-1, Ring.region_bytes(ring_bytes)), ring_bytes)


def contents(ring: Ring) -> list[tuple[int, int, bytes]]:
    """What a successor finds."""
    return [(ino, offset, bytes(data)) for ino, (_, offset, data, _) in ring.resume()]


def dies(act: Callable[[], object]) -> None:
    pid = in_child(act)
    os.waitpid(pid, 0)


def test_memory_of_another_size_is_refused() -> None:
    memory = mmap.mmap(-1, Ring.region_bytes(RING_BYTES))
    Ring(memory, RING_BYTES).add(1, 0, b"kept", 0, 0)
    assert contents(Ring(memory, RING_BYTES)) == [(1, 0, b"kept")], "the second to use it has begun anew"
    with pytest.raises(ValueError):
        Ring(memory, RING_BYTES - 8)
    with pytest.raises(ValueError):
        Ring(bytearray(100), RING_BYTES)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small tmpfs")
def test_without_memory_there_is_no_room(tmp_path: Path) -> None:
    """Where only part of the ring can be had, that part is used, again and again; nobody gets SIGBUS."""
    ring_bytes, there_bytes, record_bytes = 16 << 20, 6 << 20, 100_000
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={there_bytes}", "tmpfs", str(tmp_path)], check=True)
    try:
        with (tmp_path / "ring").open("w+b") as file:
            file.truncate(Ring.region_bytes(ring_bytes))
            ring = Ring(mmap.mmap(file.fileno(), 0), ring_bytes)
        for _ in range(3):
            places = []
            while (place := ring.add(1, 0, os.urandom(record_bytes), 0, 0)) >= 0:
                places.append(place)
            assert there_bytes - (2 << 20) < len(places) * record_bytes <= there_bytes
            ring.check()
            ring.free(places)
        assert ring.grant(2, 1, 1 << 30, END, True)
        while ring.add_granted(2, 0, bytes(record_bytes)):
            ring.check()
        assert len(ring.take(2)) * record_bytes > there_bytes - (2 << 20)
        del ring
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def test_a_record_that_was_being_filled_never_was() -> None:
    ring = new_ring()
    ring.add(1, 0, b"before", 0, 0)
    dies(lambda: ring.tear(2, 100))
    assert ring.add(3, 0, b"after", 0, 0) >= 0, "the lock is lost with who held it"
    assert contents(ring) == [(1, 0, b"before"), (3, 0, b"after")]


def test_its_room_comes_back() -> None:
    ring = new_ring()
    dies(lambda: ring.tear(2, 3000))
    assert ring.add(1, 0, bytes(3000), 0, 0) == -1
    assert contents(ring) == []
    assert ring.add(1, 0, bytes(3000), 0, 0) >= 0


def test_an_append_that_lives_is_remembered_by_a_successor_whenever_its_process_died() -> None:
    ring = new_ring()
    dies(lambda: ring.add_unnoted(1, b"appended", 77))
    assert not ring.appended(77)
    ((_, (place, *_)),) = ring.resume()
    ring.free([place])
    assert ring.appended(77)


def test_a_grant_whose_lock_died_is_over_for_a_successor() -> None:
    ring = new_ring()
    assert ring.grant(5, 1, 1000, END, True)
    dies(lambda: ring.hold_grant(5))
    ring.resume()
    assert ring.hold(5) == 0
    assert ring.grant(5, 1, 1000, END, True)


def test_there_is_a_last_grant() -> None:
    ring = new_ring()
    granted = [ino for ino in range(1, 2000) if ring.grant(ino, 1, 1, END, False)]
    assert 256 <= len(granted) <= 512, "a place for a grant was given twice, or is lost"
    for ino in granted:
        assert ring.end(ino) == []
    assert [ino for ino in range(1, 2000) if ring.grant(ino, 1, 1, END, False)] == granted
