"""Locks between two mounts of one volume on Redis, as two nodes have them: each sees what the other holds, and is kept out.

One process stands for two here: what it locks through different mounts has different owners.
"""

import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from support.answers import run_all
from support.mounts import Mount, MountFactory
from support.redis_server import RedisServer

pytestmark = pytest.mark.fuse

SHARED, EXCLUSIVE, GIVE = fcntl.LOCK_SH, fcntl.LOCK_EX, fcntl.LOCK_UN
FLOCK = "hhqqi4x"
TAKE = {"flock": fcntl.flock, "lockf": fcntl.lockf}


class Found(NamedTuple):
    """What F_GETLK says is in the way; pid is 0 for a process of another mount."""

    type: int
    start: int
    length: int
    pid: int = 0


@pytest.fixture
def pair(request: pytest.FixtureRequest, mounts: MountFactory, redis_server: RedisServer) -> tuple[Mount, Mount]:
    """On Redis unless the test says what else."""
    on_redis = getattr(request, "param", "redis") == "redis"
    one = mounts.new(mounts.volume(url=f"{redis_server.url}/5" if on_redis else None))
    (one.path / "f").write_bytes(b"%020d" % 0)
    return one, mounts.new(one.volume)


@pytest.fixture
def fds(pair: tuple[Mount, Mount]) -> Iterator[tuple[int, int]]:
    """Of one file, through either mount."""
    one, two = (os.open(mount.path / "f", os.O_RDWR) for mount in pair)
    yield one, two
    os.close(one)
    os.close(two)


def refused(kind: str, fd: int, how: int, *span: int) -> bool:
    """Whether a lock cannot be had without waiting; `span` is length and start of a range."""
    try:
        TAKE[kind](fd, how | fcntl.LOCK_NB, *span)
    except OSError as error:
        assert error.errno == errno.EWOULDBLOCK == errno.EAGAIN
        return True
    return False


def in_the_way(fd: int, how: int, start: int, length: int) -> Found | None:
    query = struct.pack(FLOCK, how, os.SEEK_SET, start, length, 0)
    kind, _, start, length, pid = struct.unpack(FLOCK, fcntl.fcntl(fd, fcntl.F_GETLK, query))
    return None if kind == fcntl.F_UNLCK else Found(kind, start, length, pid)


@pytest.mark.parametrize("kind", ["flock", "lockf"])
def test_who_is_kept_out(fds: tuple[int, int], kind: str) -> None:
    for here, there in (fds, fds[::-1]):
        for held, wanted in ((SHARED, SHARED), (SHARED, EXCLUSIVE), (EXCLUSIVE, SHARED), (EXCLUSIVE, EXCLUSIVE)):
            TAKE[kind](here, held)
            assert refused(kind, there, wanted) == (EXCLUSIVE in (held, wanted)), (held, wanted)
            TAKE[kind](here, GIVE)
            assert not refused(kind, there, wanted), "it was given back"
            TAKE[kind](there, GIVE)


def test_the_kinds_ignore_each_other(fds: tuple[int, int]) -> None:
    fcntl.flock(fds[0], EXCLUSIVE)
    assert not refused("lockf", fds[1], EXCLUSIVE)
    assert refused("flock", fds[1], SHARED)
    assert refused("lockf", fds[0], SHARED)


def test_a_flock_is_made_exclusive_when_the_other_mount_has_let_go(fds: tuple[int, int]) -> None:
    one, two = fds
    fcntl.flock(one, SHARED)
    fcntl.flock(two, SHARED)
    assert refused("flock", one, EXCLUSIVE)  # and has lost the shared one, as on Linux
    assert not refused("flock", two, EXCLUSIVE)
    assert refused("flock", one, SHARED)
    fcntl.flock(two, SHARED)
    assert not refused("flock", one, SHARED)


def test_ranges_of_fcntl_locks(fds: tuple[int, int]) -> None:
    one, two = fds
    fcntl.lockf(one, EXCLUSIVE, 10, 10)
    fcntl.lockf(one, SHARED, 10, 30)
    written, read = Found(fcntl.F_WRLCK, 10, 10), Found(fcntl.F_RDLCK, 30, 10)
    assert in_the_way(two, fcntl.F_WRLCK, 0, 0) == in_the_way(two, fcntl.F_RDLCK, 19, 1) == written
    assert in_the_way(two, fcntl.F_WRLCK, 20, 0) == in_the_way(two, fcntl.F_WRLCK, 39, 1) == read
    assert in_the_way(two, fcntl.F_RDLCK, 20, 0) is in_the_way(two, fcntl.F_WRLCK, 40, 0) is None
    assert in_the_way(one, fcntl.F_WRLCK, 0, 0) is None, "what is one's own"
    for how, length, start in ((SHARED, 1, 10), (SHARED, 1, 19), (EXCLUSIVE, 1, 30), (EXCLUSIVE, 1, 39), (SHARED, 0, 0)):
        assert refused("lockf", two, how, length, start), (how, length, start)
    for how, length, start in ((EXCLUSIVE, 10, 0), (EXCLUSIVE, 10, 20), (SHARED, 10, 30), (EXCLUSIVE, 0, 40)):
        assert not refused("lockf", two, how, length, start), (how, length, start)
    assert in_the_way(one, fcntl.F_WRLCK, 25, 20) == Found(fcntl.F_WRLCK, 20, 10)
    assert refused("lockf", one, EXCLUSIVE, 10, 30), "both read there"


def test_a_part_that_is_given_back_can_be_had(fds: tuple[int, int]) -> None:
    one, two = fds
    fcntl.lockf(one, EXCLUSIVE, 10, 10)
    fcntl.lockf(one, GIVE, 3, 13)
    assert refused("lockf", two, EXCLUSIVE, 4, 13)
    assert not refused("lockf", two, EXCLUSIVE, 3, 13)
    assert in_the_way(two, fcntl.F_RDLCK, 0, 15) == Found(fcntl.F_WRLCK, 10, 3)
    assert in_the_way(two, fcntl.F_RDLCK, 13, 7) == Found(fcntl.F_WRLCK, 16, 4)
    assert in_the_way(one, fcntl.F_RDLCK, 0, 0) == Found(fcntl.F_WRLCK, 13, 3)
    assert refused("lockf", one, SHARED, 10, 10)


@pytest.mark.parametrize("pair", ["redis", "sqlite"], indirect=True)
@pytest.mark.parametrize("kind", ["flock", "lockf"])
def test_who_has_the_lock_reads_what_was_written_under_it_just_before(fds: tuple[int, int], kind: str) -> None:
    """At once, through files that are open all the while: before the log could tell."""
    for i in range(100):
        fd = fds[i % 2]
        TAKE[kind](fd, EXCLUSIVE)
        assert int(os.pread(fd, 20, 0)) == i
        os.pwrite(fd, b"%020d" % (i + 1), 0)
        TAKE[kind](fd, GIVE)


COUNT = """
import fcntl, os, sys
path, kind, n_rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
take = getattr(fcntl, kind)
held = os.open(path, os.O_RDWR)
for i in range(n_rounds):
    fd = held if i % 2 else os.open(path, os.O_RDWR)
    take(fd, fcntl.LOCK_EX)
    os.pwrite(fd, b"%020d" % (int(os.pread(fd, 20, 0)) + 1), 0)
    if i % 2:
        take(fd, fcntl.LOCK_UN)
    else:
        os.close(fd)  # which gives the lock back, too
"""


@pytest.mark.parametrize("kind", ["flock", "lockf"])
def test_processes_on_both_mounts_count_under_a_lock(pair: tuple[Mount, Mount], kind: str) -> None:
    """Nothing is lost: who has the lock is alone, and reads what the one before has written, on whichever mount."""
    n_rounds = 40
    run_all(COUNT, [(mount.path / "f", kind, n_rounds) for mount in pair for _ in range(2)], timeout=240)
    assert [int((mount.path / "f").read_bytes()) for mount in pair] == [4 * n_rounds] * 2
