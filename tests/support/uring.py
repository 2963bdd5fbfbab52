"""FUSE over io_uring is switched on for the whole machine, by a parameter of the module that counts when something is mounted."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.alone import alone

PARAMETER = Path("/sys/module/fuse/parameters/enable_uring")
LOCK = "enable-uring"  # of everybody who changes the parameter, or mounts what must not see it changed
N_CPUS = len(list(Path("/sys/devices/system/cpu").glob("cpu[0-9]*")))


_switched = 0  # blocks of this process in which the parameter is as they say


def may_switch() -> bool:
    """Can this process change the parameter?"""
    return os.access(PARAMETER, os.W_OK)


@contextmanager
def switched(on: bool) -> Iterator[None]:
    """While the block runs, what is mounted may use io_uring, or may not."""
    global _switched
    with alone(LOCK):
        before = PARAMETER.read_text()
        PARAMETER.write_text("Y" if on else "N")
        _switched += 1
        try:
            yield
        finally:
            _switched -= 1
            PARAMETER.write_text(before)


@contextmanager
def as_it_is() -> Iterator[None]:
    """While the block runs, no other process changes the parameter: a mount gets what its own test says."""
    if _switched or not may_switch():
        yield
        return
    with alone(LOCK, shared=True):
        yield
