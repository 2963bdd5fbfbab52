"""Early ENOSPC: a write() that cannot possibly be committed fails at once instead of at close.

The exact limit is a condition of each commit (`engine.meta`). Here is only an estimate that errs on the side of letting
writes through: used bytes as last read, plus bytes that extend files and are not committed yet. Thread-safe.
"""

import errno
import threading

from cairnfs.clock import Clock
from cairnfs.errors import FsError
from cairnfs.meta import Meta

USAGE_AGE_S = 1.0  # how old the usage may be while the volume looks far from full


class Capacity:
    """Counts what this process is about to add against the volume's capacity; does nothing when there is none."""

    def __init__(self, meta: Meta, clock: Clock) -> None:
        self._meta = meta
        self._clock = clock
        self._lock = threading.Lock()
        self._used_bytes = 0
        self._pending_bytes = 0
        self._read_at_s: float | None = None

    def has_room(self, n_bytes: int) -> bool:
        """Whether so much, and what is on its way, will fit into the volume as far as is known."""
        limit = self._meta.format.capacity_bytes
        if not limit:
            return True
        now = self._clock.monotonic_s()
        if self._read_at_s is None or now - self._read_at_s >= USAGE_AGE_S:
            used = self._meta.attrs.statfs().used_bytes
            with self._lock:
                self._used_bytes, self._read_at_s = used, now
        return self._used_bytes + self._pending_bytes + n_bytes <= limit

    def reserve(self, n_bytes: int, *, sure: bool = False) -> None:
        """Count `n_bytes` that a write appends to a file. ENOSPC when the volume is known to be full; not if the write is `sure`,
        because it has been acknowledged.
        """
        limit = self._meta.format.capacity_bytes
        if not limit or n_bytes <= 0:
            return
        now = self._clock.monotonic_s()
        with self._lock:
            if sure:
                self._pending_bytes += n_bytes
                return
            fresh = self._read_at_s is not None and now - self._read_at_s < USAGE_AGE_S
            if fresh and self._used_bytes + self._pending_bytes + n_bytes <= limit:
                self._pending_bytes += n_bytes
                return
        used = self._meta.attrs.statfs().used_bytes
        with self._lock:
            self._used_bytes, self._read_at_s = used, now
            if used + self._pending_bytes + n_bytes > limit:
                raise FsError(errno.ENOSPC)
            self._pending_bytes += n_bytes

    def settle(self, n_bytes: int, committed: bool) -> None:
        """`n_bytes` counted by `reserve` are committed, or will never be."""
        if not n_bytes:
            return
        with self._lock:
            self._pending_bytes -= n_bytes
            if committed:
                self._used_bytes += n_bytes
