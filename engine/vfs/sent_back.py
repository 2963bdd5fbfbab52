"""Threads that were sent back with ESTALE, and will come again: in memory that a successor of this process finds.

A slot for each number that a thread's id leaves modulo their number; another thread of the same slot takes it over, and the first
one is then sent back once more. u64 thread @0 (0: nothing; written last), f64 time @8, u64 inode @16 (0: no place), u64 hash of
the name there @24, u64 number of the newest note then @32, u64 mark of its system call @40 (0: not known). Times are those of the
machine's monotonic clock.
"""

import struct
from typing import NamedTuple

import mmh3

from cairnfs.ext.shm import SharedMemory
from cairnfs.types import Inode

MAX_SENT_BACK = 1 << 15
UNKNOWN_PID = 0  # of threads outside of the PID namespace of the mount: one number for many
_MANY = 1 << 32  # stands for these in the slots
_SLOT = struct.Struct("=QdQQQQ")
_PID = struct.Struct("=Q")
SENT_BACK_BYTES = MAX_SENT_BACK * _SLOT.size


class Place(NamedTuple):
    """A name of a directory; of the name the hash."""

    ino: Inode
    name_hash: int


def place_of(ino: Inode, name: bytes) -> Place:
    """The place of a name."""
    return Place(ino, mmh3.hash64(name, signed=False)[0])


class SentBack(NamedTuple):
    """A thread was sent back in a call; with a `place`, it has since looked up that name, when the newest note was `number`."""

    when_s: float
    call: int = 0
    place: Place | None = None
    number: int = 0

    def may_be_in(self, call: int) -> bool:
        """Whether that system call may be this one; 0: not known."""
        return not (self.call and call) or self.call == call


class SentBackRecords:
    """The slots. For one thread at a time."""

    def __init__(self, memory: SharedMemory | None = None) -> None:
        self.memory = SharedMemory("sent", SENT_BACK_BYTES) if memory is None else memory
        self._view = self.memory.view

    def put(self, pid: int, sent: SentBack) -> None:
        at = pid % MAX_SENT_BACK * _SLOT.size
        ino, name_hash = sent.place or (0, 0)
        _PID.pack_into(self._view, at, 0)
        _SLOT.pack_into(self._view, at, 0, sent.when_s, ino, name_hash, sent.number, sent.call)
        _PID.pack_into(self._view, at, pid or _MANY)

    def take(self, pid: int) -> SentBack | None:
        """What was put for a thread last; it is forgotten, but not of those without a number, of whom each may come again."""
        at = pid % MAX_SENT_BACK * _SLOT.size
        found, when_s, ino, name_hash, number, call = _SLOT.unpack_from(self._view, at)
        if found != (pid or _MANY):
            return None
        if pid != UNKNOWN_PID:
            _PID.pack_into(self._view, at, 0)
        return SentBack(when_s, call, Place(Inode(ino), name_hash) if ino else None, number)
