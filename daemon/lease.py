"""The lease: how long this process may go on answering from caches without having read the change log.

The follower renews it whenever it has caught up. When it ends, a thread of its own drops every cache (the follower's may be
what is stuck, in a store or in the kernel), and again after each further period for which it is not renewed.

That thread may be late, where all of the process was stopped for a while: whoever goes on before it and is about to answer from
what is known has that forgotten first.
"""

import logging
import threading
from collections.abc import Callable

from cairnfs.clock import Clock, SleeplessClock

log = logging.getLogger(__name__)

LEASE_S = 5.0
CHECK_S = 0.5  # so caches are dropped after LEASE_S - CHECK_S at the earliest, and at LEASE_S at the latest


class Lease(threading.Thread):
    """Calls `drop` when it ends, and `regained` when it is renewed after that; `forget`, which is a part of `drop`, for a request
    that comes before.
    """

    def __init__(
        self, drop: Callable[[], None], regained: Callable[[], None], forget: Callable[[], None], clock: Clock | None = None
    ) -> None:
        super().__init__(name="lease", daemon=True)
        self._drop = drop
        self._regained = regained
        self._forget = forget
        self._clock = clock or SleeplessClock()
        self._lock = threading.Lock()  # so that what is regained is not dropped by a check that began before
        self._forgetting = threading.Lock()
        self._ends_s = self._known_s = self._clock.monotonic_s() + LEASE_S  # `_known_s`: until then what is known may be used
        self._lost = False
        self._ended = threading.Event()

    def now_s(self) -> float:
        """The time to `renew` from."""
        return self._clock.monotonic_s()

    def renew(self, from_s: float) -> None:
        """Everything that was committed until `from_s` is known, and nothing older is cached."""
        with self._lock:
            self._ends_s = max(self._ends_s, from_s + LEASE_S)
            self._known_s = max(self._known_s, from_s + LEASE_S)
            if self._lost:
                self._lost = False
                log.info("the change log is followed again")
                self._regained()

    def check(self) -> None:
        """Drop everything if the lease ends before the next check."""
        with self._lock:
            now_s = self._clock.monotonic_s()
            if now_s + CHECK_S < self._ends_s:
                return
            if not self._lost:
                log.warning("the change log could not be followed for %g s: dropping every cache", LEASE_S)
            self._lost = True
            self._ends_s = now_s + LEASE_S
            self._drop()
            self._known_s = max(self._known_s, now_s + LEASE_S)

    def hold(self) -> None:
        """Return when nothing is known that is older than the lease allows. For requests: never waits for the kernel."""
        if self._clock.monotonic_s() < self._known_s:
            return
        with self._forgetting:
            now_s = self._clock.monotonic_s()
            if now_s >= self._known_s:
                self._forget()
                self._known_s = max(self._known_s, now_s + LEASE_S)

    def run(self) -> None:
        while not self._ended.wait(CHECK_S):
            try:
                self.check()
            except Exception:
                log.exception("cannot drop the caches")

    def stop(self) -> None:
        """End the thread and wait for it. Also when it was never started."""
        self._ended.set()
        if self.ident is not None:
            self.join()
