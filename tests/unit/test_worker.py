"""A worker as its supervisor sees it: when it has ended, and when it must be replaced."""

import ctypes
import os
import platform
import threading
import time

import pytest

from cairnfs.const import MIB
from cairnfs.daemon.worker import HALF_DEAD_S, LONGEST_LOOK_S, Worker
from cairnfs.ext.arena import Arena
from cairnfs.vfs.carried import Carried

SYS_EXIT = 60 if platform.machine() == "x86_64" else 93


def leave_a_thread(exit_code: int) -> int:
    """End the first thread of a process alone, as one that dies leaves threads that wait in the kernel."""
    threading.Thread(target=time.sleep, args=(20 * HALF_DEAD_S,), daemon=True).start()
    ctypes.CDLL(None).syscall(SYS_EXIT, exit_code)
    raise AssertionError("still here")


@pytest.mark.parametrize(("exit_code", "seen"), [(0, 0), (1, -1)], ids=["well", "crashed"])
def test_a_process_whose_threads_take_their_time_is_followed_only_if_it_did_not_end_well(exit_code: int, seen: int) -> None:
    worker = Worker(0, Carried(Arena(MIB), MIB), lambda number: leave_a_thread(exit_code))
    worker.start()
    deadline = time.monotonic() + 30
    while (status := worker.status()) is None:
        assert time.monotonic() < deadline
    assert status == seen
    if status < 0:
        os.waitpid(worker.pid, 0)


def test_silence_counts_only_while_somebody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    """A supervisor that was stopped together with its workers hears nothing of them when it goes on first."""
    now_s = 1000.0
    monkeypatch.setattr("cairnfs.daemon.worker.time.monotonic", lambda: now_s)
    worker = Worker(0, carried := Carried(Arena(MIB), MIB), lambda number: 0)
    carried.beat(0)
    worker.silent_s()
    assert worker.silent_s() == 0
    now_s += 3600
    assert worker.silent_s() <= LONGEST_LOOK_S
    carried.beat(0)
    assert worker.silent_s() == 0
    for _ in range(100):
        now_s += LONGEST_LOOK_S
        silent_s = worker.silent_s()
    assert silent_s == pytest.approx(100 * LONGEST_LOOK_S)
