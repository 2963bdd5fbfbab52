"""FUSE over io_uring is switched on for the whole machine, by a parameter of the module that counts when something is mounted."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PARAMETER = Path("/sys/module/fuse/parameters/enable_uring")
LOCK = Path("/run/lock/cairnfs-enable-uring")  # of everybody who changes the parameter
N_CPUS = len(list(Path("/sys/devices/system/cpu").glob("cpu[0-9]*")))


def may_switch() -> bool:
    """Can this process change the parameter?"""
    try:
        PARAMETER.write_text(PARAMETER.read_text())
    except OSError:
        return False
    return True


@contextmanager
def switched(on: bool) -> Iterator[None]:
    """While the block runs, what is mounted may use io_uring, or may not."""
    with open(LOCK, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = PARAMETER.read_text()
        PARAMETER.write_text("Y" if on else "N")
        try:
            yield
        finally:
            PARAMETER.write_text(before)
