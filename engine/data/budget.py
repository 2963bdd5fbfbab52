"""How much memory write buffers and readahead may hold together, and what happens when it is used up.

Writers wait (back-pressure) while uploads give memory back; readahead does without. A reservation larger than the whole
budget is granted when nothing else is reserved, so that a small budget slows down and does not block for ever.
"""

import threading


class Budget:
    """A counter of bytes with a limit. `reserve` waits, `try_reserve` does not; each byte reserved is released once."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._used_bytes = 0
        self._n_waiting = 0
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)

    @property
    def used_bytes(self) -> int:
        return self._used_bytes

    @property
    def under_pressure(self) -> bool:
        """Whether someone waits, or a writer soon will: then uploads should not wait for more to gather."""
        return self._n_waiting > 0 or self._used_bytes * 4 > self.limit_bytes * 3

    def try_reserve(self, n_bytes: int) -> bool:
        """Reserve unless that exceeds the limit or someone is waiting already."""
        with self._lock:
            if self._n_waiting or not self._fits(n_bytes):
                return False
            self._used_bytes += n_bytes
            return True

    def reserve(self, n_bytes: int, timeout_s: float) -> bool:
        """Reserve, waiting at most `timeout_s`; False when there was no room in that time."""
        with self._changed:
            self._n_waiting += 1
            try:
                if not self._changed.wait_for(lambda: self._fits(n_bytes), timeout_s):
                    return False
                self._used_bytes += n_bytes
                return True
            finally:
                self._n_waiting -= 1

    def release(self, n_bytes: int) -> None:
        with self._lock:
            self._used_bytes -= n_bytes
            if self._n_waiting:
                self._changed.notify_all()

    def _fits(self, n_bytes: int) -> bool:
        return self._used_bytes + n_bytes <= self.limit_bytes or self._used_bytes == 0
