"""What was written and is not committed, in shared memory: a successor of a process that is killed finds every byte of it.

A ring of records: header, data, padding to 8 bytes. A record lives from before its write is acknowledged until its inode has
nothing dirty any more. Region: u64 head @0, u64 tail @8 (both count bytes ever used; positions in the ring are modulo its size),
then at 64 the ring. Record: u32 state @0 (1 live, 2 dead, 3 filler up to the end of the ring), u32 length @4, u64 inode @8,
u64 file offset @16, u64 request @24 (for appends, whose offset a second try would not find again; else 0), data @32. A record
counts once the head has passed it, and the head is written last: a death in between leaves nothing.

The requests of the latest appends are noted apart (a table of u64 behind the ring), because their records may be gone by then.
"""

import struct
import threading
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from cairnfs.ext.shm import SharedMemory
from cairnfs.types import Buffer, Inode

RING_AT = 64
RECORD_BYTES = 32
LIVE, DEAD, FILLER = 1, 2, 3
N_APPENDS = 1024  # more than requests can be in work at a time

_U64 = struct.Struct("=Q")
_STATE = struct.Struct("=I")
_RECORD = struct.Struct("=IIQQQ")


class Written(NamedTuple):
    """One write that is not committed."""

    ino: Inode
    offset: int
    data: bytes


class Journal:
    """The ring, as the process that writes sees it. Thread-safe. Made before the processes that use it, which inherit it."""

    def __init__(self, n_bytes: int, memory: SharedMemory | None = None) -> None:
        """`memory`: of a journal of `n_bytes` that another process has made. ValueError when it is of another size."""
        self.ring_bytes = n_bytes // 8 * 8
        all_bytes = RING_AT + self.ring_bytes + 8 * N_APPENDS
        self.memory = SharedMemory("journal", all_bytes) if memory is None else memory
        if self.memory.n_bytes != all_bytes:
            raise ValueError(f"a journal of {n_bytes} bytes in {self.memory.n_bytes} bytes")
        self._view = self.memory.view
        self._lock = threading.Lock()
        self._of: defaultdict[int, list[int]] = defaultdict(list)  # inode -> positions of its live records
        self._head = self._tail = 0
        self._n_appends = 0

    @property
    def longest_bytes(self) -> int:
        """The longest write that fits into an empty ring wherever it begins."""
        return self.ring_bytes // 2 - RECORD_BYTES

    def add(self, ino: Inode, offset: int, data: Buffer, request: int = 0) -> bool:
        """Note a write before it is acknowledged. False when there is no room: what is oldest must be committed first."""
        n_bytes = len(data)
        n_used = RECORD_BYTES + (n_bytes + 7) // 8 * 8
        with self._lock:
            at = self._head % self.ring_bytes
            filler = self.ring_bytes - at if at + n_used > self.ring_bytes else 0
            if self._head - self._tail + filler + n_used > self.ring_bytes:
                return False
            if filler:
                _STATE.pack_into(self._view, RING_AT + at, FILLER)
                self._head += filler
                at = 0
            start = RING_AT + at
            _RECORD.pack_into(self._view, start, LIVE, n_bytes, ino, offset, request)
            self._view[start + RECORD_BYTES : start + RECORD_BYTES + n_bytes] = data
            self._of[ino].append(self._head)
            self._head += n_used
            if request:
                self._note_append(request)
            _U64.pack_into(self._view, 0, self._head)
        return True

    def free(self, ino: Inode) -> None:
        """Nothing of the inode is dirty."""
        with self._lock:
            positions = self._of.pop(ino, ())
            for position in positions:
                _STATE.pack_into(self._view, RING_AT + position % self.ring_bytes, DEAD)
            if positions:
                self._move_tail()

    def oldest(self) -> Inode | None:
        """The inode of the oldest record; None when the ring is empty."""
        with self._lock:
            for _, state, _, ino, _, _ in self._records():
                if state == LIVE:
                    return Inode(ino)
        return None

    def appended(self, request: int) -> bool:
        """Whether an append of this request is, or was, in the ring."""
        start = RING_AT + self.ring_bytes
        return any(_U64.unpack_from(self._view, start + 8 * i)[0] == request for i in range(N_APPENDS))

    def resume(self) -> list[Written]:
        """Take the ring over from a process that has died: everything that lives in it, in order. The records stay."""
        with self._lock:
            self._head = _U64.unpack_from(self._view, 0)[0]
            self._tail = _U64.unpack_from(self._view, 8)[0]
            self._head = max(self._head, self._tail)
            self._of.clear()
            found = []
            for position, state, n_bytes, ino, offset, _ in self._records():
                if state == LIVE:
                    self._of[ino].append(position)
                    start = RING_AT + position % self.ring_bytes + RECORD_BYTES
                    found.append(Written(Inode(ino), offset, bytes(self._view[start : start + n_bytes])))
            return found

    def _records(self) -> Iterator[tuple[int, int, int, int, int, int]]:
        """(position, state, length, inode, offset, request) from tail to head, fillers left out."""
        position = self._tail
        while position < self._head:
            start = RING_AT + position % self.ring_bytes
            state = _STATE.unpack_from(self._view, start)[0]
            if state == FILLER:
                position += self.ring_bytes - position % self.ring_bytes
                continue
            _, n_bytes, ino, offset, request = _RECORD.unpack_from(self._view, start)
            yield position, state, n_bytes, ino, offset, request
            position += RECORD_BYTES + (n_bytes + 7) // 8 * 8

    def _move_tail(self) -> None:
        """To the oldest record that lives. An empty ring begins at its beginning again, so that little of it is ever touched."""
        for position, state, *_ in self._records():
            if state == LIVE:
                self._tail = position
                _U64.pack_into(self._view, 8, self._tail)
                return
        self._head = self._tail = -(-self._head // self.ring_bytes) * self.ring_bytes
        _U64.pack_into(self._view, 8, self._tail)  # the tail first: what is not before the head is nothing
        _U64.pack_into(self._view, 0, self._head)

    def _note_append(self, request: int) -> None:
        _U64.pack_into(self._view, RING_AT + self.ring_bytes + 8 * (self._n_appends % N_APPENDS), request)
        self._n_appends += 1
