"""Time as an argument: policy code takes a clock, so property tests need not wait."""

import time
from typing import Protocol

FUTURE_NS = 1_000_000_000  # clocks of nodes differ by less; what is further ahead came from a wrong clock, or an application


def is_ahead(time_ns: int, now_ns: int) -> bool:
    """Whether a time is further in the future than the clocks of nodes differ."""
    return time_ns > now_ns + FUTURE_NS


class Clock(Protocol):
    def now_ns(self) -> int: ...
    def monotonic_s(self) -> float: ...
    def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """The machine's clock."""

    def now_ns(self) -> int:
        return time.time_ns()

    def monotonic_s(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class Since:
    """How long ago this was made, by whichever clock says longer: the wall clock may be set back meanwhile, and the monotonic one
    stands still while the machine does.
    """

    __slots__ = ("_began_ns", "_began_s", "_clock")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._began_ns, self._began_s = clock.now_ns(), clock.monotonic_s()

    def is_longer(self, than_s: float) -> bool:
        """Whether it may have been so long ago."""
        wall_s = (self._clock.now_ns() - self._began_ns) / 1e9
        return not 0 <= wall_s < than_s or self._clock.monotonic_s() - self._began_s >= than_s


class SleeplessClock(SystemClock):
    """The same, whose monotonic time goes on while the machine is suspended: for what others rely on."""

    def monotonic_s(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)
