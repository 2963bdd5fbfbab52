"""What a reader of a file will want next. Pure policy: no I/O, no clock; one `Readahead` per open handle.

A reader is sequential when its requests follow each other, give or take the disorder in which a kernel sends its own
readahead. The window doubles with each step until it is `max_bytes`, and closes at the first jump.
"""

import threading
from typing import NamedTuple

from cairnfs.const import KIB, MIB

FIRST_WINDOW_BYTES = MIB
SLACK_BYTES = MIB  # the kernel has up to max_readahead bytes under way, and its requests are served by several threads
SEQUENTIAL_BYTES = 128 * KIB  # read in a row before a reader counts as sequential; less is the head of a file


class Advice(NamedTuple):
    """What a request tells. `ahead` is the range [start, end) worth fetching now, None for nothing new."""

    sequential: bool
    ahead: tuple[int, int] | None


class Readahead:
    """Watches the requests of one handle. Thread-safe."""

    __slots__ = ("_ahead", "_lock", "_max_bytes", "_next", "_run_bytes", "_window")

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._next = 0  # where the request after the furthest one of this run would begin
        self._run_bytes = 0  # bytes read since the last jump
        self._window = 0
        self._ahead = 0  # up to where readahead was advised in this run

    def observe(self, offset: int, size: int) -> Advice:
        """Note a request and say what follows from it."""
        with self._lock:
            if abs(offset - self._next) > SLACK_BYTES or (self._run_bytes == 0 and offset != self._next):
                self._run_bytes = 0
                self._window = 0
                self._next = self._ahead = offset
            sequential = self._run_bytes >= SEQUENTIAL_BYTES
            self._run_bytes += size
            self._next = max(self._next, offset + size)
            return Advice(sequential, self._advance() if sequential else None)

    def _advance(self) -> tuple[int, int] | None:
        start = max(self._next, self._ahead)
        if start - self._next > self._window // 2:
            return None  # enough is under way; asking in large steps keeps this off most requests
        self._window = min(self._max_bytes, max(FIRST_WINDOW_BYTES, self._window * 2))
        end = self._next + self._window
        if end <= start:
            return None
        self._ahead = end
        return start, end
