"""What a mount's processes hand on: the arena, what was written and is not committed, and which handles the kernel has.

Made by the process that outlives the others, before it starts one of them; memory is shared by fork, and handed by descriptors to
a process that takes over from that one. Handles: a table of slots, u64 number low @0, u64 number high @8, u64 inode @16, u32
flags @24 (O_*; DIRECTORY for directories), u32 state @28 (1 in use, written last), u64 owner of an fcntl lock @32, u64 owner of a
flock @40 (0: none; one of the former is all that is kept), u64 the request that opened it @48. Removed directories: a ring, u64
inode @0 (0: nothing; written last), the head of its inode record @8.
"""

import struct
import threading
from collections.abc import Mapping
from typing import NamedTuple

from cairnfs.data.journal import RESERVED_BYTES, Journal
from cairnfs.ext.arena import Arena
from cairnfs.ext.shm import SharedMemory
from cairnfs.meta.records import TAIL_AT, decode_kept_attr, encode_attr
from cairnfs.metrics import Cells
from cairnfs.types import Attr, Inode, serving
from cairnfs.vfs.sent_back import SENT_BACK_BYTES, SentBackRecords

LEAST_JOURNAL_BYTES = RESERVED_BYTES  # of a mount: the longest write is one record then, and so an append is there whole or not
N_CELLS = 1 << 13  # of metrics
N_HANDLES = 1 << 16  # open at a time; those beyond are not handed on
DIRECTORY = 1 << 31
GENERATION_SHIFT = 40  # handle numbers of a process begin here times the number of its predecessors, plus one

_SLOT = struct.Struct("=QQQIIQQQ")
_STATE = struct.Struct("=I")
_STATE_AT = 28
_OWNERS = struct.Struct("=QQ")
_NUMBER = struct.Struct("=Q")
_FIRST_TURN = 8  # of the numbers
_FIRST_PULSE = 16

MAX_REMOVED = 1024
REMOVED_BYTES = MAX_REMOVED * (8 + TAIL_AT)
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
            _STATE.pack_into(self._view, at + _STATE_AT, 1)

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
                _STATE.pack_into(self._view, slot * _SLOT.size + _STATE_AT, 0)
                self._free.append(slot)

    def resume(self) -> list[HeldHandle]:
        """Take the table over from a process that has died."""
        found = []
        with self._lock:
            self._at.clear()
            states = self._view.cast("I")[_STATE_AT // 4 :: _SLOT.size // 4].tolist()
            self._free = [slot for slot in range(N_HANDLES - 1, -1, -1) if states[slot] != 1]
            for slot in range(N_HANDLES - 1, -1, -1):
                if states[slot] != 1:
                    continue
                low, high, ino, flags, _, *rest = _SLOT.unpack_from(self._view, slot * _SLOT.size)
                fh = high << 64 | low
                self._at[fh] = slot
                found.append(HeldHandle(fh, Inode(ino), flags, *rest))
        return found


class RemovedRecords:
    """Directories that were removed, the latest ones, for those who are still in them. For one thread at a time."""

    def __init__(self, memory: SharedMemory | None = None) -> None:
        self.memory = _memory("removed", REMOVED_BYTES, memory)
        self._view = self.memory.view
        self._next = 0
        self._at: dict[Inode, int] = {}

    def add(self, attr: Attr) -> None:
        at = self._next * (8 + TAIL_AT)
        self._next = (self._next + 1) % MAX_REMOVED
        _NUMBER.pack_into(self._view, at, 0)
        self._view[at + 8 : at + 8 + TAIL_AT] = encode_attr(attr)[:TAIL_AT]
        _NUMBER.pack_into(self._view, at, attr.ino)
        self._at[attr.ino] = at

    def remove(self, ino: Inode) -> None:
        at = self._at.pop(ino, None)
        if at is not None and _NUMBER.unpack_from(self._view, at)[0] == ino:
            _NUMBER.pack_into(self._view, at, 0)

    def resume(self) -> list[Attr]:
        """Take the table over from a process that has died."""
        found = []
        for at in range(0, REMOVED_BYTES, 8 + TAIL_AT):
            ino = Inode(_NUMBER.unpack_from(self._view, at)[0])
            if ino:
                self._at[ino] = at
                found.append(decode_kept_attr(ino, bytes(self._view[at + 8 : at + 8 + TAIL_AT])))
        self._next = len(found) % MAX_REMOVED
        return found


class _Number:
    """One of the page's numbers, as an attribute."""

    def __init__(self, at: int) -> None:
        self._at = at

    def __get__(self, carried: "Carried", _: type) -> int:
        return carried._get(self._at)

    def __set__(self, carried: "Carried", value: int) -> None:
        carried._set(self._at, value)


class Carried:
    """Everything that is handed on, and a page of numbers."""

    def __init__(
        self, arena: Arena, journal_bytes: int, n_workers: int = 1, received: Mapping[str, SharedMemory] | None = None
    ) -> None:
        """`n_workers`: one that serves, number 0, and others that count for themselves.

        `received`: the `memories` of another process's, which may have had another number of workers: what those counted stays.
        KeyError when one is missing, ValueError when one is of another size.
        """
        nothing = {"journal": None, "handles": None, "removed": None, "sent": None, "page": None}
        given: Mapping[str, SharedMemory | None] = nothing if received is None else received
        self.arena = arena
        self.journal = Journal(journal_bytes, given["journal"])
        self.handles = HandleRecords(given["handles"])
        self.removed = RemovedRecords(given["removed"])
        self.sent_back = SentBackRecords(_memory("sent", SENT_BACK_BYTES, given["sent"]))
        self._page = _memory("page", PAGE_BYTES, given["page"])
        self._numbers = self._page.view
        n_counts = max(n_workers, len(given) - len(nothing))
        self._counts = [_memory("counts", N_CELLS * 8, given.get(f"counts{i}")) for i in range(n_counts)]
        self.cells = [memory.view.cast("q") for memory in self._counts]  # what each counts

    @property
    def memories(self) -> dict[str, SharedMemory]:
        """All memory but the arena, by name."""
        counts = {f"counts{i}": memory for i, memory in enumerate(self._counts)}
        tables = {"handles": self.handles.memory, "removed": self.removed.memory, "sent": self.sent_back.memory}
        return {"journal": self.journal.memory, **tables, "page": self._page, **counts}

    def forget_counts(self) -> None:
        """Counting begins again. No other process may count meanwhile."""
        for memory in self._counts:
            memory.view[:] = bytes(N_CELLS * 8)

    # Numbers: each is written by one process at a time, in one step

    generation = _Number(0)  # processes that have served before this one
    session = _Number(1)  # that they share, 0 before there is one
    told = _Number(2)  # the position up to which the kernel was told of all that changed
    restarts = _Number(4)  # workers that died and were replaced
    notes = _Number(5)  # how often others had changed names that were noted (`moved`)
    closing = _Number(6)  # the session that whoever ends the mount began to close, which may be gone by now

    def _get(self, i: int) -> int:
        found: int = _NUMBER.unpack_from(self._numbers, 8 * i)[0]
        return found

    def _set(self, i: int, value: int) -> None:
        _NUMBER.pack_into(self._numbers, 8 * i, value)

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
