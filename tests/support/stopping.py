"""Processes that are stopped (SIGSTOP) for a while."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LIMIT_S = 20


def stop_process(pid: int) -> None:
    """Return when all of its threads stand still: kill(2) returns when they have been told, and one on another CPU may run on."""
    os.kill(pid, signal.SIGSTOP)
    deadline = time.monotonic() + LIMIT_S
    while set(states(pid)) != {"T"}:
        assert time.monotonic() < deadline, f"process {pid} has not stopped"
        time.sleep(0.001)


@contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """Processes stand still. Of a mount, `Mount.pids` has the one first that would take a worker which does so for dead."""
    for pid in pids:
        stop_process(pid)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def states(pid: int) -> list[str]:
    """The state of each of its threads, as in proc(5)."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            found.append((task / "stat").read_text().rpartition(")")[2].split()[0])
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended meanwhile
    return found
