"""What a machine has once and tests change: one test after the other, in whichever process of whichever run."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCKS = Path("/run/lock")


@contextmanager
def alone(what: str, *, shared: bool = False) -> Iterator[None]:
    """While the block runs, nobody else is in a block about the same; `shared`: nobody who is not `shared`, too."""
    lock = os.open(LOCKS / f"cairnfs-{what}", os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
