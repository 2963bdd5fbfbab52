"""The arena and the journal of a mount that serves, mapped into the test's process as a successor of its supervisor maps them.

Only root, or who runs the mount, may open another process's memory.
"""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from cairnfs.ext.arena import Arena
from cairnfs.ext.journal import Ring
from cairnfs.ext.shm import SharedMemory
from support.mounts import Mount
from support.stopping import stop_process

TRIES = 20  # a process may have been stopped amid a change, but not each time


@dataclass
class Live:
    """Of a mount: what its processes share. The words are those of the same memory."""

    arena: Arena
    ring: Ring
    arena_words: memoryview
    journal_words: memoryview

    def check(self) -> None:
        """ValueError when an invariant is broken. The mount must be quiet."""
        self.arena.check()
        self.ring.check()


def _memory(pid: int, name: str) -> SharedMemory:
    folder = Path(f"/proc/{pid}/fd")
    for entry in folder.iterdir():
        if os.readlink(entry).startswith(f"/memfd:cairnfs-{name} "):
            fd = os.open(entry, os.O_RDWR | os.O_CLOEXEC)
            return SharedMemory(name, os.fstat(fd).st_size, fd)
    raise AssertionError(f"process {pid} has no memory named {name}")


def live(mount: Mount) -> Live:
    """The memory of a mount, through its supervisor."""
    supervisor = mount.pids[0]
    arena, journal = _memory(supervisor, "arena"), _memory(supervisor, "journal")
    return Live(
        Arena(arena.n_bytes, os.dup(arena.fd)),
        Ring(journal.view, journal.n_bytes - Ring.region_bytes(0)),
        arena.view.cast("Q"),
        journal.view.cast("Q"),
    )


@contextmanager
def quiet(mount: Mount) -> Iterator[None]:
    """No process of the mount does anything while the block runs, which must not use the mount."""
    pids = mount.pids
    try:
        for pid in pids:  # the supervisor first: it would replace workers that are stopped
            stop_process(pid)
        yield
    finally:
        for pid in reversed(pids):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def check_invariants(mount: Mount) -> None:
    """What arena.h and journal_impl.h say of their memory holds in that of a mount which nobody uses."""
    shared = live(mount)
    for left in reversed(range(TRIES)):
        with quiet(mount):
            try:
                return shared.check()
            except ValueError:
                if not left:
                    raise
        time.sleep(0.05)
