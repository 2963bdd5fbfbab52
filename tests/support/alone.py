"""What a machine has once and tests change: one test after the other, in whichever process of whichever run."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

LOCKS = Path("/run/lock")


@contextmanager
def alone(what: str, *, shared: bool = False) -> Iterator[None]:
    """While the block runs, nobody else is in a block about the same; `shared`: nobody who is not `shared`, too.

    Whoever waits keeps the later ones out: a process that goes from one block to the next would leave others no gap.
    """
    with ExitStack() as held:
        with ExitStack() as waiting:
            waiting.enter_context(locked(f"{what}-next", fcntl.LOCK_EX))
            held.enter_context(locked(what, fcntl.LOCK_SH if shared else fcntl.LOCK_EX))
        yield


@contextmanager
def locked(name: str, kind: int) -> Iterator[None]:
    lock = os.open(LOCKS / f"cairnfs-{name}", os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(lock, kind)
        yield
    finally:
        os.close(lock)
