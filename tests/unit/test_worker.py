"""A worker as its supervisor sees it: when it has ended, and when it must be replaced."""

import ctypes
import itertools
import os
import platform
import threading
import time
from types import SimpleNamespace

import pytest

from cairnfs.const import MIB
from cairnfs.daemon.supervisor import MAX_FAILURES, _Supervisor
from cairnfs.daemon.worker import HALF_DEAD_S, LONGEST_LOOK_S, LONGEST_RESTART_S, NOT_NOW, RESTART_S, Worker
from cairnfs.ext.arena import Arena
from cairnfs.vfs.carried import Carried

SYS_EXIT = 60 if platform.machine() == "x86_64" else 93


def leave_a_thread(exit_code: int) -> int:
    """End the first thread of a process alone, as one that dies leaves threads that wait in the kernel."""
    threading.Thread(target=time.sleep, args=(20 * HALF_DEAD_S,), daemon=True).start()
    ctypes.CDLL(None).syscall(SYS_EXIT, exit_code)
    raise AssertionError("still here")


@pytest.mark.parametrize("exit_code", [0, 1], ids=["well", "failed"])
def test_a_process_whose_threads_take_their_time_was_not_killed(exit_code: int) -> None:
    worker = Worker(0, Carried(Arena(MIB), MIB), lambda number: leave_a_thread(exit_code))
    worker.start()
    deadline = time.monotonic() + 30
    while (status := worker.status()) is None:
        assert time.monotonic() < deadline
    assert status == exit_code
    if exit_code:  # that one is not waited for
        os.waitpid(worker.pid, 0)


def test_what_the_stores_did_not_let_begin_is_no_failure() -> None:
    code = 0
    worker = Worker(0, Carried(Arena(MIB), MIB), lambda number: code)
    seen = []
    for code in (1, NOT_NOW, 1, NOT_NOW, 0):
        worker.start()
        deadline = time.monotonic() + 30
        while (status := worker.status()) is None:
            assert time.monotonic() < deadline
        assert status == code
        seen.append(worker.n_failures)  # before this one
    assert seen == [0, 1, 1, 2, 2]


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


def test_a_worker_that_fetches_is_never_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it needs, an object store or a key, may be away for longer than a few attempts, which become rarer."""
    now_s = 1000.0
    monkeypatch.setattr("cairnfs.daemon.worker.time.monotonic", lambda: now_s)
    worker = Worker(1, carried := Carried(Arena(MIB), MIB), lambda number: 1)
    supervisor = object.__new__(_Supervisor)
    supervisor._fetching = [worker]
    supervisor._inherited = SimpleNamespace(slots=SimpleNamespace(end_jobs_of=lambda number: 0))  # type: ignore[assignment]

    def pause_s() -> float:
        """How long the process that has ended is not followed by another one."""
        nonlocal now_s
        n_before, began_s = carried.restarts, now_s
        while worker.status() is None:
            time.sleep(0.001)
        while carried.restarts == n_before:
            assert now_s < began_s + 2 * LONGEST_RESTART_S, "it is given up"
            now_s += RESTART_S
            supervisor._look_after_fetching()
        return now_s - began_s

    supervisor._look_after_fetching()
    pauses_s = [pause_s() for _ in range(MAX_FAILURES + 2)]
    assert pauses_s[0] <= 2 * RESTART_S and pauses_s == sorted(pauses_s) and pauses_s[-1] >= LONGEST_RESTART_S
    worker.answers = True
    pause_s()
    assert pause_s() <= 2 * RESTART_S
    os.waitpid(worker.pid, 0)


def test_who_takes_a_mount_over_that_the_stores_do_not_let_serve_tries_again_after_a_pause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also when nobody has been let serve under this supervisor yet."""
    n_looks = itertools.count()
    worker = Worker(0, carried := Carried(Arena(MIB), MIB), lambda number: NOT_NOW)
    carried.answered = True

    def look(*_: object) -> None:
        if carried.restarts or (worker.status() is not None and next(n_looks) == 50):
            raise KeyboardInterrupt
        time.sleep(0.001)

    monkeypatch.setattr("cairnfs.daemon.supervisor.next_signal", look)
    monkeypatch.setattr("cairnfs.daemon.supervisor.is_mounted", lambda mountpoint: True)
    monkeypatch.setattr("cairnfs.daemon.worker.time.monotonic", lambda: 1000.0)
    supervisor = object.__new__(_Supervisor)
    supervisor._serving, supervisor._ready, supervisor._stopping = worker, False, False
    supervisor._request = SimpleNamespace(mountpoint="/mnt")  # type: ignore[assignment]
    outcomes = SimpleNamespace(heard=list)
    supervisor._inherited = SimpleNamespace(carried=carried, outcomes=outcomes)  # type: ignore[assignment]
    supervisor._look_for_life = lambda worker: None  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        supervisor._watch()
    assert carried.restarts == 0
