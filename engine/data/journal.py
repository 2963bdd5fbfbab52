"""What was written and is not committed, in shared memory: a successor of a process that is killed finds every byte of it.

A ring of records (`ext.journal`). A record lives from before its write is acknowledged until its inode has nothing dirty any
more. Records are added here, and by compiled code for inodes that have a grant; these become known here when they are taken.
"""

import threading
from collections import defaultdict
from typing import NamedTuple

from cairnfs.const import KIB, MIB
from cairnfs.ext.journal import Ring
from cairnfs.ext.shm import SharedMemory
from cairnfs.types import Buffer, Inode

RECORD_BYTES = 40
RESERVED_BYTES = 4 * MIB  # of the ring; more as it is used
SMALL_BYTES = 16 * KIB  # records up to this long that adjoin each other are joined: a copy costs less than a write more


class Written(NamedTuple):
    """One write that is not committed, and when it was made (0: not known, UNTIMED_NS: the modification time was set since)."""

    ino: Inode
    offset: int
    data: bytes
    when_ns: int = 0


class Journal:
    """The ring, by one of the processes that use it. Thread-safe. Made before these processes, which inherit it."""

    def __init__(self, n_bytes: int, memory: SharedMemory | None = None) -> None:
        """`memory`: of a journal of `n_bytes` that another process has made. ValueError when it is of another size."""
        self.ring_bytes = n_bytes // 8 * 8
        all_bytes = Ring.region_bytes(self.ring_bytes)
        self.memory = SharedMemory("journal", all_bytes, reserved=Ring.region_bytes(RESERVED_BYTES)) if memory is None else memory
        if self.memory.n_bytes != all_bytes:
            raise ValueError(f"a journal of {n_bytes} bytes in {self.memory.n_bytes} bytes")
        self.ring = Ring(self.memory.view, self.ring_bytes)
        self._lock = threading.Lock()
        self._of: defaultdict[int, list[int]] = defaultdict(list)  # inode -> places of its live records

    @property
    def longest_bytes(self) -> int:
        """The longest write that fits into an empty ring wherever it begins, even if there is no more memory."""
        return min(self.ring_bytes, RESERVED_BYTES) // 2 - RECORD_BYTES

    def add(self, ino: Inode, offset: int, data: Buffer, request: int = 0, when_ns: int = 0) -> bool:
        """Note a write before it is acknowledged. False when there is no room: what is oldest must be committed first."""
        with self._lock:
            place = self.ring.add(ino, offset, data, request, when_ns)
            if place >= 0:
                self._of[ino].append(place)
        return place >= 0

    def take(self, ino: Inode, ends: bool = False) -> list[tuple[int, Buffer, int]]:
        """What compiled code has written to an inode since the last time: (offset, bytes, ns), valid until `free`.
        With `ends` its grant is over.
        """
        found = self.ring.end(ino) if ends else self.ring.take(ino)
        if not found:
            return []
        with self._lock:
            self._of[ino] += [place for place, *_ in found]
        return _joined(found) if len(found) > 1 else [found[0][1:]]

    def free(self, ino: Inode) -> None:
        """Nothing of the inode is dirty."""
        with self._lock:
            places = self._of.pop(ino, None)
            if places:
                self.ring.free(places)

    def mtime_set(self, ino: Inode) -> None:
        """The modification time is about to be set, and what was written before must leave it alone, a successor too."""
        with self._lock:
            self.ring.untime(self._of.get(ino, []))

    def oldest(self) -> Inode | None:
        """The inode of the oldest record; None when the ring is empty."""
        return Inode(found) if (found := self.ring.oldest()) else None

    def appended(self, request: int) -> bool:
        """Whether an append of this request is, or was, in the ring."""
        return self.ring.appended(request)

    def resume(self) -> list[Written]:
        """Take the ring over from a process that has died: everything that lives in it, in order. The records stay."""
        with self._lock:
            self._of.clear()
            found = []
            for ino, (place, offset, data, when_ns) in self.ring.resume():
                self._of[ino].append(place)
                found.append(Written(Inode(ino), offset, bytes(data), when_ns))
            return found


def _joined(records: list[tuple[int, int, memoryview, int]]) -> list[tuple[int, Buffer, int]]:
    """Small records that follow each other as one, as of the last of them."""
    joined: list[tuple[int, Buffer, int]] = []
    parts: list[memoryview] = []
    start = end = when_ns = 0
    for _, offset, data, data_ns in records:
        if parts and (offset != end or max(len(data), len(parts[-1])) > SMALL_BYTES):
            joined.append((start, parts[0] if len(parts) == 1 else b"".join(parts), when_ns))
            parts = []
        if not parts:
            start = offset
        parts.append(data)
        end, when_ns = offset + len(data), data_ns
    joined.append((start, parts[0] if len(parts) == 1 else b"".join(parts), when_ns))
    return joined
