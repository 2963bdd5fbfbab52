"""Shared memory that is handed on by its descriptor: it is taken only as what it is said to be."""

import errno
import fcntl
import gc
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from cairnfs.data.journal import RESERVED_BYTES, Journal
from cairnfs.ext.arena import VERSION, Arena
from cairnfs.ext.fuse_slots import Slots
from cairnfs.ext.journal import Ring
from cairnfs.ext.shm import SharedMemory
from cairnfs.vfs.carried import HANDLES_BYTES, HandleRecords
from support.arenas import in_child

MIB = 1 << 20
SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
ARENA_HEADER = {"magic": 0, "version": 8, "total": 16, "offset of attributes": 24, "buckets of attributes": 32, "segments": 104}
ARENA_HEADER |= {"filter": 152, "bits of the filter": 160}


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_two_mappings_show_the_same_bytes_and_close_their_descriptors() -> None:
    first = SharedMemory("test", 5000)
    assert bytes(first.view) == bytes(first.n_bytes) == bytes(5000)
    second = SharedMemory("test", 5000, os.dup(first.fd))
    first.view[4990:] = b"0123456789"
    assert bytes(second.view[4990:]) == b"0123456789"
    fds = [first.fd, second.fd]
    assert not os.get_inheritable(first.fd)
    view = first.view
    del first, second
    gc.collect()
    assert [is_open(fd) for fd in fds] == [True, False], "a view keeps its memory"
    view.release()
    del view
    assert not is_open(fds[0])


def test_memory_is_there_from_the_beginning_unless_it_is_asked_for_later() -> None:
    for memory, expected_bytes in (
        (SharedMemory("test", 3 * MIB), 3 * MIB),
        (SharedMemory("test", 3 * MIB, reserved=MIB), MIB),
        (HandleRecords().memory, HANDLES_BYTES),
        (Journal(32 * MIB).memory, Ring.region_bytes(RESERVED_BYTES)),
    ):
        assert os.fstat(memory.fd).st_blocks * 512 == (expected_bytes + 4095) // 4096 * 4096


def test_memory_that_cannot_be_had_is_an_error() -> None:
    """A limit on the size of files is the one that can be set for a single process: without any, Linux kills somebody."""

    def tries() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, MIB))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        for make in (lambda: SharedMemory("test", 2 * MIB), lambda: Arena(8 * MIB), lambda: Journal(32 * MIB)):
            with pytest.raises(OSError) as refused:
                make()
            assert refused.value.errno == errno.EFBIG

    assert os.waitstatus_to_exitcode(os.waitpid(in_child(tries), 0)[1]) == 0


def test_memory_cannot_be_resized_by_anybody() -> None:
    memory = SharedMemory("test", 5000)
    for n_bytes in (0, 4999, 5001):
        with pytest.raises(PermissionError):
            os.ftruncate(memory.fd, n_bytes)


@pytest.mark.parametrize(
    "make",
    [
        lambda path: sized(os.memfd_create("unsealed"), 5000),
        lambda path: sized(os.memfd_create("grows", os.MFD_ALLOW_SEALING), 5000, fcntl.F_SEAL_GROW),
        lambda path: sized(os.memfd_create("short", os.MFD_ALLOW_SEALING), 4999, SEALS),
        lambda path: sized(os.memfd_create("long", os.MFD_ALLOW_SEALING), 5001, SEALS),
        lambda path: sized(os.open(path / "file", os.O_RDWR | os.O_CREAT), 5000),
        lambda path: os.open("/dev/null", os.O_RDWR),
    ],
    ids=["no seals", "may shrink", "short", "long", "a file", "a device"],
)
def test_what_is_not_such_memory_is_refused_and_stays_the_callers(tmp_path: Path, make: Callable[[Path], int]) -> None:
    fd = make(tmp_path)
    for refused in (lambda: SharedMemory("test", 5000, fd), lambda: Arena(5000, fd)):
        with pytest.raises(OSError):
            refused()
    assert is_open(fd)
    os.close(fd)


def sized(fd: int, n_bytes: int, seals: int = 0) -> int:
    os.ftruncate(fd, n_bytes)
    if seals:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


def test_an_arena_is_found_again_by_its_descriptor() -> None:
    first = Arena(4 * MIB)
    assert first.slice_put(7, 0, b"bytes" * 100) and first.open(9)
    second = Arena(first.n_bytes, os.dup(first.fd))
    assert second.slice_get(7, 0) == b"bytes" * 100
    assert second.counts[4] == 1
    second.check()
    fd = second.fd
    del second
    gc.collect()
    assert not is_open(fd) and first.slice_get(7, 0)


@pytest.mark.parametrize("field", ARENA_HEADER)
def test_an_arena_whose_header_does_not_hold_is_refused(field: str) -> None:
    arena = Arena(4 * MIB)
    for value in (0, 2**64 - 1, VERSION + 2):
        fd = os.memfd_create("copy", os.MFD_ALLOW_SEALING)
        os.sendfile(fd, arena.fd, 0, 0)
        sized(fd, arena.n_bytes)
        os.pwrite(fd, os.pread(arena.fd, 1 << 16, 0), 0)
        os.pwrite(fd, value.to_bytes(8, "little"), ARENA_HEADER[field])
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
        with pytest.raises(OSError, match="no arena"):
            Arena(arena.n_bytes, fd)
        os.close(fd)
    with pytest.raises(OSError, match="no arena"):
        Arena(arena.n_bytes - 4096, arena.fd)


def test_slots_are_found_again_in_their_memory() -> None:
    first = Slots(8, 70_000)
    assert (first.n_slots, first.request_bytes) == (8, 70_000)
    second = Slots(8, 70_000, SharedMemory("slots", first.memory.n_bytes, os.dup(first.memory.fd)))
    assert not second.agreed and second.waiting() == []
    first.memory.view[0] = 1
    assert second.agreed
    for n_slots, n_bytes in ((7, 70_000), (9, 70_000), (8, 80_000)):
        with pytest.raises(ValueError):
            Slots(n_slots, n_bytes, first.memory)
