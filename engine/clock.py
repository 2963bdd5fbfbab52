"""Time as an argument: policy code takes a clock, so property tests need not wait."""

import time
from typing import Protocol


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


class SleeplessClock(SystemClock):
    """The same, whose monotonic time goes on while the machine is suspended: for what others rely on."""

    def monotonic_s(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)
