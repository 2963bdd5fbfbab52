"""How many objects are stored at a time: any number, until an attempt ends for want of time.

An attempt ends after a part of the io-timeout, so objects that share a link which is too slow for all of them would all fail, and
all again. After such an attempt they take turns: one at a time first, and one more whenever there is time enough for that. A
thread that waits for its turn while others get on does not wait for a store that is away: that time does not count.
"""

import threading
from collections.abc import Callable

from cairnfs.clock import Clock
from cairnfs.objects.base import TimedOut

MOST = 64  # where nobody has to wait any more
SPARE = 4  # as many times as long may what is stored take
LOOK_AGAIN_S = 0.2


class Pace:
    """Thread-safe. `closed` says that nobody is to wait any more."""

    def __init__(self, clock: Clock, io_timeout_s: float, closed: Callable[[], bool]) -> None:
        self._clock = clock
        self._attempt_s = io_timeout_s / 2
        self._closed = closed
        self._free = threading.Condition()
        self._width = 0  # how many may be under way; 0: any number
        self._under_way = 0
        self._n_stored = 0
        self._waited = threading.local()

    def waited_s(self) -> float:
        """For how long the calling thread has waited in all while others have got on."""
        return getattr(self._waited, "seconds", 0.0)

    def run(self, store: Callable[[], None]) -> None:
        """One attempt to store an object, in its turn. TimedOut, also when others do not get on."""
        in_turn = bool(self._width)
        if in_turn:
            self._enter()
        began_s = self._clock.monotonic_s()
        try:
            store()
        except TimedOut:
            self._width = 1
            raise
        else:
            if in_turn:
                self._stored(self._clock.monotonic_s() - began_s)
        finally:
            if in_turn:
                self._leave()

    def _enter(self) -> None:
        began_s = got_on_s = self._clock.monotonic_s()
        with self._free:
            n_stored = self._n_stored
            while self._under_way >= self._width > 0 and not self._closed():
                self._free.wait(LOOK_AGAIN_S)
                if self._n_stored != n_stored:
                    n_stored, got_on_s = self._n_stored, self._clock.monotonic_s()
                elif self._clock.monotonic_s() - got_on_s > self._attempt_s:
                    self._waited.seconds = self.waited_s() + got_on_s - began_s
                    raise TimedOut(f"nothing could be stored for {self._attempt_s:g} s")
            self._under_way += 1
        self._waited.seconds = self.waited_s() + got_on_s - began_s

    def _stored(self, took_s: float) -> None:
        with self._free:
            self._n_stored += 1
            if self._width and took_s * (self._width + 1) / max(1, self._under_way) < self._attempt_s / SPARE:
                self._width = (self._width + 1) % MOST

    def _leave(self) -> None:
        with self._free:
            self._under_way -= 1
            self._free.notify_all()
