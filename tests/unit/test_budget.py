"""The memory budget: bytes are counted, waited for and given back."""

import threading

from cairnfs.data.budget import Budget


def test_bytes_are_counted() -> None:
    budget = Budget(100)
    assert budget.try_reserve(60)
    assert not budget.try_reserve(41)
    assert budget.try_reserve(40)
    budget.release(100)
    assert budget.used_bytes == 0


def test_more_than_the_limit_is_granted_alone() -> None:
    budget = Budget(100)
    assert budget.try_reserve(500)
    assert not budget.try_reserve(1)
    budget.release(500)


def test_waiting_ends_with_the_time_limit() -> None:
    budget = Budget(100)
    budget.try_reserve(100)
    assert not budget.reserve(1, 0.01)
    assert budget.used_bytes == 100


def test_who_waits_gets_what_is_released_before_those_who_do_not() -> None:
    budget = Budget(100)
    budget.try_reserve(100)
    got = threading.Event()

    def wait() -> None:
        if budget.reserve(80, 30):
            got.set()

    waiter = threading.Thread(target=wait)
    waiter.start()
    while not budget.under_pressure or budget._n_waiting == 0:
        pass
    budget.release(30)
    assert not budget.try_reserve(10)
    budget.release(60)
    waiter.join()
    assert got.is_set()
    assert budget.used_bytes == 90


def test_pressure_is_felt_before_the_limit() -> None:
    budget = Budget(100)
    budget.try_reserve(75)
    assert not budget.under_pressure
    budget.try_reserve(1)
    assert budget.under_pressure


def test_all_of_many_waiters_get_through() -> None:
    budget = Budget(10)
    done: list[int] = []

    def work(i: int) -> None:
        for _ in range(50):
            assert budget.reserve(7, 30)
            budget.release(7)
        done.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sorted(done) == list(range(6))
    assert budget.used_bytes == 0
