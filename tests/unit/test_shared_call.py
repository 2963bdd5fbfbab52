"""A fence for everybody who waits: begun after each of them came, and no more often than it must be."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from cairnfs.daemon.shared_call import SharedCall


class Gate:
    """A call that waits until it is let go, and fails as told."""

    def __init__(self) -> None:
        self.n_calls = 0
        self.begun = threading.Semaphore(0)
        self.go_on = threading.Semaphore(0)
        self.failing = False

    def __call__(self) -> None:
        self.n_calls += 1
        failing = self.failing
        self.begun.release()
        assert self.go_on.acquire(timeout=20)
        if failing:
            raise OSError("away")


def test_who_waits_while_a_call_runs_shares_the_next() -> None:
    gate = Gate()
    call = SharedCall(gate)
    with ThreadPoolExecutor(10) as pool:
        first = pool.submit(call)
        assert gate.begun.acquire(timeout=20)
        late = [pool.submit(call) for _ in range(9)]
        gate.go_on.release()
        first.result(20)
        assert gate.begun.acquire(timeout=20)
        assert not any(each.done() for each in late), "the first call began before they came"
        while len(call._changed._waiters) < 8:  # type: ignore[attr-defined]
            pass
        gate.go_on.release()
        for each in late:
            each.result(20)
    assert gate.n_calls == 2


def test_alone_each_call_is_made() -> None:
    calls: list[int] = []
    call = SharedCall(lambda: calls.append(1))
    for n in range(3):
        call()
        assert len(calls) == n + 1


def test_all_who_share_a_failure_are_told_and_the_next_call_is_made_anew() -> None:
    gate = Gate()
    gate.failing = True
    call = SharedCall(gate)
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(call)
        assert gate.begun.acquire(timeout=20)
        late = [pool.submit(call) for _ in range(2)]
        gate.go_on.release(2)
        for each in [first, *late]:
            with pytest.raises(OSError, match="away"):
                each.result(20)
    gate.failing = False
    gate.go_on.release()
    call()
