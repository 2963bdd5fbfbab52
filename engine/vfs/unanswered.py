"""Reads that a store has not answered in time: asked again at once, they fail without waiting for as long once more.

When readahead fails, the kernel asks for the page that is wanted a second time before it tells the application. Whoever tries
again later than REMEMBERED_S waits for the store anew, and so does a read of other bytes.
"""

import errno

from cairnfs.clock import Clock
from cairnfs.const import MIB
from cairnfs.errors import FsError
from cairnfs.types import Inode

REMEMBERED_S = 3.0  # the second request may wait for a second before it comes here, for a worker that fetches
WORTH_S = 0.5  # what failed sooner can be tried again
PIECE_BYTES = MIB  # as much as one request reads
MAX_PIECES = 4096


class Unanswered:
    """Pieces of files. Thread-safe: every access is one operation on a dictionary."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._until_s: dict[tuple[Inode, int], float] = {}

    def now_s(self) -> float:
        return self._clock.monotonic_s()

    def check(self, ino: Inode, offset: int) -> None:
        """FsError (EIO) if these bytes could not be read a moment ago."""
        until_s = self._until_s.get((ino, offset // PIECE_BYTES)) if self._until_s else None
        if until_s is not None and self.now_s() < until_s:
            raise FsError(errno.EIO, f"inode {ino} at {offset}: the store has not answered")

    def note(self, ino: Inode, offset: int, size: int, began_s: float) -> None:
        """A read that began at a time has just failed because of a store."""
        now_s = self.now_s()
        if now_s - began_s < WORTH_S:
            return
        if len(self._until_s) >= MAX_PIECES:
            self._until_s = {piece: until_s for piece, until_s in list(self._until_s.items()) if until_s > now_s}
        for no in range(offset // PIECE_BYTES, (offset + size - 1) // PIECE_BYTES + 1):
            self._until_s[ino, no] = now_s + REMEMBERED_S
