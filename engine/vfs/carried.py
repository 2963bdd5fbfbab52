"""What a mount's processes hand on: the arena, what was written and is not committed, and which handles the kernel has.

Made by the process that outlives the others, before it starts one of them; memory is shared by fork, and handed by descriptors to
a process that takes over from that one. Handles: a table of slots, u64 number low @0, u64 number high @8, u64 inode @16, u32
flags @24 (O_*; DIRECTORY for directories), u32 state @28 (1 in use, written last), u64 owner of an fcntl lock @32, u64 owner of a
flock @40 (0: none; one of each kind is all that is kept), u64 the request that opened it @48.
"""

import struct
import threading
from collections.abc import Mapping
from typing import NamedTuple

from cairnfs.data.journal import Journal
from cairnfs.ext.arena import Arena
from cairnfs.ext.shm import SharedMemory
from cairnfs.metrics import Cells
from cairnfs.types import Inode, serving

N_CELLS = 1 << 13  # of metrics
N_HANDLES = 1 << 16  # open at a time; those beyond are not handed on
DIRECTORY = 1 << 31
GENERATION_SHIFT = 40  # handle numbers of a process begin here times the number of its predecessors, plus one

_SLOT = struct.Struct("=QQQIIQQQ")
_STATE = struct.Struct("=I")
_OWNERS = struct.Struct("=QQ")
_NUMBER = struct.Struct("=Q")
_FIRST_TURN = 8  # of the numbers
_FIRST_PULSE = 16

HANDLES_BYTES = N_HANDLES * _SLOT.size
PAGE_BYTES = 4096


def _memory(name: str, n_bytes: int, received: SharedMemory | None) -> SharedMemory:
    if received is None:
        return SharedMemory(name, n_bytes)
    if received.n_bytes != n_bytes:
        raise ValueError(f"{name} has {received.n_bytes} bytes, not {n_bytes}")
    return received


class HeldHandle(NamedTuple):
    """A handle as the table has it; owners are 0 for none."""

    fh: int
    ino: Inode
    flags: int
    lock_owner: int
    flock_owner: int
    request: int


class HandleRecords:
    """The table. Thread-safe."""

    def __init__(self, memory: SharedMemory | None = None) -> None:
        self.memory = _memory("handles", HANDLES_BYTES, memory)
        self._view = self.memory.view
        self._free = list(range(N_HANDLES - 1, -1, -1))
        self._at: dict[int, int] = {}
        self._lock = threading.Lock()

    def add(self, fh: int, ino: Inode, flags: int) -> None:
        with self._lock:
            if fh in self._at or not self._free:
                return
            slot = self._at[fh] = self._free.pop()
            at = slot * _SLOT.size
            _SLOT.pack_into(self._view, at, fh & 2**64 - 1, fh >> 64, ino, flags & 0xFFFFFFFF, 0, 0, 0, serving.request)
            _STATE.pack_into(self._view, at + 28, 1)

    def owners(self, fh: int, lock_owner: int, flock_owner: int) -> None:
        """Who has locks that were taken through a handle."""
        with self._lock:
            slot = self._at.get(fh)
            if slot is not None:
                _OWNERS.pack_into(self._view, slot * _SLOT.size + 32, lock_owner, flock_owner)

    def remove(self, fh: int) -> None:
        with self._lock:
            slot = self._at.pop(fh, None)
            if slot is not None:
                _STATE.pack_into(self._view, slot * _SLOT.size + 28, 0)
                self._free.append(slot)

    def resume(self) -> list[HeldHandle]:
        """Take the table over from a process that has died."""
        found = []
        with self._lock:
            self._at.clear()
            self._free.clear()
            for slot in range(N_HANDLES - 1, -1, -1):
                low, high, ino, flags, state, *rest = _SLOT.unpack_from(self._view, slot * _SLOT.size)
                if state != 1:
                    self._free.append(slot)
                    continue
                fh = high << 64 | low
                self._at[fh] = slot
                found.append(HeldHandle(fh, Inode(ino), flags, *rest))
        return found


class Carried:
    """Everything that is handed on, and a page of numbers."""

    def __init__(
        self, arena: Arena, journal_bytes: int, n_workers: int = 1, received: Mapping[str, SharedMemory] | None = None
    ) -> None:
        """`n_workers`: one that serves, number 0, and others that count for themselves.

        `received`: the `memories` of another process's, which may have had another number of workers: what those counted stays.
        KeyError when one is missing, ValueError when one is of another size.
        """
        nothing = {"journal": None, "handles": None, "page": None}
        given: Mapping[str, SharedMemory | None] = nothing if received is None else received
        self.arena = arena
        self.journal = Journal(journal_bytes, given["journal"])
        self.handles = HandleRecords(given["handles"])
        self._page = _memory("page", PAGE_BYTES, given["page"])
        self._numbers = self._page.view
        n_counts = max(n_workers, len(given) - len(nothing))
        self._counts = [_memory("counts", N_CELLS * 8, given.get(f"counts{i}")) for i in range(n_counts)]
        self.cells = [memory.view.cast("q") for memory in self._counts]  # what each counts

    @property
    def memories(self) -> dict[str, SharedMemory]:
        """All memory but the arena, by name."""
        counts = {f"counts{i}": memory for i, memory in enumerate(self._counts)}
        return {"journal": self.journal.memory, "handles": self.handles.memory, "page": self._page, **counts}

    def forget_counts(self) -> None:
        """Counting begins again. No other process may count meanwhile."""
        for memory in self._counts:
            memory.view[:] = bytes(N_CELLS * 8)

    # Numbers: each is written by one process at a time, in one step

    def _get(self, i: int) -> int:
        found: int = _NUMBER.unpack_from(self._numbers, 8 * i)[0]
        return found

    def _set(self, i: int, value: int) -> None:
        _NUMBER.pack_into(self._numbers, 8 * i, value)

    @property
    def generation(self) -> int:
        """Processes that have served before this one."""
        return self._get(0)

    @generation.setter
    def generation(self, value: int) -> None:
        self._set(0, value)

    @property
    def session(self) -> int:
        """The session that they share, 0 before there is one."""
        return self._get(1)

    @session.setter
    def session(self, value: int) -> None:
        self._set(1, value)

    @property
    def told(self) -> int:
        """The position up to which the kernel was told of all that changed."""
        return self._get(2)

    @told.setter
    def told(self, value: int) -> None:
        self._set(2, value)

    @property
    def turns(self) -> tuple[Cells, int]:
        """Numbers by which all processes of the mount keep to its limits of bandwidth together, and what to lock for them."""
        return self._numbers.cast("q")[_FIRST_TURN:_FIRST_PULSE], self._page.fd

    def pulse(self, worker: int) -> int:
        """Grows while a worker is able to do anything."""
        return self._get(_FIRST_PULSE + worker)

    def beat(self, worker: int) -> None:
        """It is."""
        self._set(_FIRST_PULSE + worker, self.pulse(worker) + 1)

    @property
    def restarts(self) -> int:
        """Workers that died and were replaced."""
        return self._get(4)

    @restarts.setter
    def restarts(self, value: int) -> None:
        self._set(4, value)

    def tell(self, position: int) -> None:
        """The kernel was told of everything up to a position."""
        self.told = position

    @property
    def answered(self) -> bool:
        """Whether the mount has been in use."""
        return bool(self._get(3))

    @answered.setter
    def answered(self, value: bool) -> None:
        self._set(3, int(value))
