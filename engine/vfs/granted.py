"""Grants: leave for compiled code to take writes of an inode through one handle, and the memory that these may fill.

Compiled code puts such a write into the journal and answers it; `OpenFile.collect` brings it into the write buffer before
anybody looks. Memory is reserved before (a file's *credit*), so that collecting never waits. All credits together are a small
share of the memory for buffers: whoever asks when it is used up gets what the file that asked longest ago has left.
"""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from cairnfs.const import KIB, MIB
from cairnfs.data.budget import Budget
from cairnfs.data.journal import Journal
from cairnfs.errors import CairnError
from cairnfs.types import Inode
from cairnfs.vfs.capacity import Capacity

if TYPE_CHECKING:
    from cairnfs.vfs.openfile import OpenFile

FIRST_BYTES = 256 * KIB  # for a file that was just opened: most files are smaller
MOST_BYTES = 4 * MIB  # for one that is being written on and on: some 30 requests, a millisecond or two to collect
SHARE = 8  # of the memory for buffers, that all credits together may take
MAX_FILES = 256  # half of the places for grants, so that there is one almost always


def _ignored(n_bytes: int) -> None:
    """Who is told how many bytes were written unless somebody else is."""


class Grants:
    """Which files have one, the one that asked longest ago first. Thread-safe."""

    def __init__(self, journal: Journal, budget: Budget, capacity: Capacity) -> None:
        self.ring = journal.ring
        self.on_collected: Callable[[int], None] = _ignored
        self._budget = budget
        self._capacity = capacity
        self._limit_bytes = budget.limit_bytes // SHARE
        self._lock = threading.Lock()
        self._used_bytes = 0
        self._files: dict[Inode, OpenFile] = {}

    def files(self) -> "list[OpenFile]":
        with self._lock:
            return list(self._files.values())

    def reserve(self, file: "OpenFile", n_bytes: int) -> bool:
        """More credit for a file, whose own lock for collecting is not held. False when there is no memory, or little space left
        in the volume: then each write must be looked at.
        """
        try:
            if not self._capacity.has_room(self._limit_bytes):
                return False
        except CairnError:
            return False  # whoever needs to know is told by another call
        with self._lock:
            self._files.pop(file.ino, None)
            if self._try(file, n_bytes):
                return True
            idle = next(iter(self._files.values()), None)
        if idle is not None and idle.change.acquire(blocking=False):  # else somebody is just changing it
            try:
                idle.end_grant()
            finally:
                idle.change.release()
        with self._lock:
            if not self._try(file, n_bytes):
                if file.granted:
                    self._files[file.ino] = file
                return False
            return True

    def _try(self, file: "OpenFile", n_bytes: int) -> bool:
        full = self._used_bytes + n_bytes > self._limit_bytes or len(self._files) >= MAX_FILES
        if full or not self._budget.try_reserve(n_bytes):
            return False
        self._used_bytes += n_bytes
        self._files[file.ino] = file
        return True

    def spent(self, n_bytes: int) -> None:
        """So much credit has become memory of the write buffer."""
        with self._lock:
            self._used_bytes -= n_bytes
        self.on_collected(n_bytes)

    def ended(self, file: "OpenFile", n_bytes: int) -> None:
        """A grant is over, and this is the credit that is left."""
        with self._lock:
            self._used_bytes -= n_bytes
            if self._files.get(file.ino) is file:
                del self._files[file.ino]
        self._budget.release(n_bytes)

    def collect(self) -> None:
        """Bring everything that compiled code has taken into the write buffers."""
        for file in self.files():
            file.collect()
