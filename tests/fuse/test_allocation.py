"""Threads of a mount share malloc's arenas, unless the environment says otherwise: each arena keeps what its thread has freed."""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest

from support.mounts import Mount, MountFactory

pytestmark = [pytest.mark.fuse, pytest.mark.skipif(sys.platform != "linux", reason="needs /proc/PID/maps")]

HEAP_BYTES = 64 << 20  # what glibc reserves for each arena but the first, at a multiple of that


def n_heaps(pid: int) -> int:
    """Arenas of a process besides the first, by what glibc reserves for them."""
    lines = [line.split() for line in Path(f"/proc/{pid}/maps").read_text().splitlines()]
    maps = [(*(int(word, 16) for word in words[0].split("-")), words[1]) for words in lines if len(words) < 6]  # without a file
    return sum(
        begin % HEAP_BYTES == 0
        and (rights, next_rights) == ("rw-p", "---p")
        and end == next_begin
        and next_end - begin == HEAP_BYTES
        for (begin, end, rights), (next_begin, next_end, next_rights) in pairwise(maps)
    )


def busy(mount: Mount) -> list[int]:
    """Heaps of each process after many threads have served."""

    def write(n: int) -> None:
        (mount.path / f"f{n}").write_bytes(os.urandom(70_000))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(200)))
    return [n_heaps(pid) for pid in mount.pids]


@pytest.mark.parametrize("workers", ["0", "2"])
def test_threads_share_two_arenas(mounts: MountFactory, workers: str) -> None:
    assert max(busy(mounts.new(None, "--workers", workers))) == 1


def test_the_environment_has_the_last_word(mounts: MountFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_ARENA_MAX", "5")
    assert 1 < max(busy(mounts.new())) <= 4
