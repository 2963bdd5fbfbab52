"""Reads that a store has not answered in time: asked again at once, they fail without waiting for as long once more.

When readahead fails, the kernel asks for the page that is wanted a second time before it tells the application; and whoever else
waits for that page asks for it then. The second request fails at once in any case, others only while the object store has
answered nobody since. Other bytes, and whoever tries again later than REMEMBERED_S, wait for the store anew.
"""

import errno
from collections.abc import Callable
from dataclasses import dataclass

from cairnfs.clock import Clock
from cairnfs.const import MIB
from cairnfs.errors import FsError
from cairnfs.types import Inode

REMEMBERED_S = 3.0  # the second request may wait for a second before it comes here, for a worker that fetches
WORTH_S = 0.5  # what failed sooner can be tried again
PIECE_BYTES = MIB  # as much as one request reads
MAX_PIECES = 4096


@dataclass(slots=True)
class _Failure:
    until_s: float
    n_answers: int | None  # of the object store, when it failed; None: it was the metadata store
    is_used: bool = False


class Unanswered:
    """Pieces of files. Thread-safe: every access is one operation on a dictionary."""

    def __init__(self, clock: Clock, n_answers: Callable[[], int]) -> None:
        """`n_answers` grows with what the object store answers."""
        self._clock = clock
        self._n_answers = n_answers
        self._failures: dict[tuple[Inode, int], _Failure] = {}

    def now_s(self) -> float:
        return self._clock.monotonic_s()

    def check(self, ino: Inode, offset: int) -> None:
        """FsError (EIO) if these bytes could not be read a moment ago."""
        found = self._failures.get((ino, offset // PIECE_BYTES)) if self._failures else None
        if found is None or self.now_s() >= found.until_s:
            return
        if found.is_used and found.n_answers is not None and found.n_answers != self._n_answers():
            return
        found.is_used = True
        raise FsError(errno.EIO, f"inode {ino} at {offset}: the store has not answered")

    def note(self, ino: Inode, offset: int, size: int, began_s: float, *, is_metadata: bool) -> None:
        """A read that began at a time has just failed because of a store."""
        now_s = self.now_s()
        if now_s - began_s < WORTH_S:
            return
        if len(self._failures) >= MAX_PIECES:
            self._failures = {piece: found for piece, found in list(self._failures.items()) if found.until_s > now_s}
        n_answers = None if is_metadata else self._n_answers()
        for no in range(offset // PIECE_BYTES, (offset + size - 1) // PIECE_BYTES + 1):
            self._failures[ino, no] = _Failure(now_s + REMEMBERED_S, n_answers)
