"""A link that is too slow for all uploads at once, each of which has a limited time."""

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import ExpectedLogs

from cairnfs.clock import SystemClock
from cairnfs.errors import ObjectError
from cairnfs.objects.base import TimedOut
from cairnfs.objects.pace import MOST, Pace
from cairnfs.objects.retry import Retrying
from support.faulty import FaultyObjects

IO_TIMEOUT_S = 3.0


class SlowLink:
    """What it takes to store an object grows with how many are under way, and none may take longer than half the io-timeout."""

    def __init__(self, alone_s: float) -> None:
        self.alone_s = alone_s
        self.is_away = False
        self.stored: list[str] = []
        self._under_way = 0
        self._lock = threading.Lock()

    def put(self, name: str, parts: object) -> None:
        left_s = self.alone_s
        until_s = time.monotonic() + IO_TIMEOUT_S / 2
        with self._lock:
            self._under_way += 1
        try:
            while left_s > 0 or self.is_away:
                if time.monotonic() > until_s:
                    raise TimedOut("no time left")
                began_s, n = time.monotonic(), self._under_way
                time.sleep(0.01)
                left_s -= (time.monotonic() - began_s) / n
        finally:
            with self._lock:
                self._under_way -= 1
        self.stored.append(name)


def put_many(link: SlowLink, n: int) -> list[Exception]:
    store = Retrying(FaultyObjects(link), IO_TIMEOUT_S, SystemClock(), random.Random(1))  # type: ignore[arg-type]

    def put(no: int) -> Exception | None:
        try:
            store.put(str(no), [b"x"])
        except ObjectError as error:
            return error
        return None

    with ThreadPoolExecutor(n) as pool:
        return [error for error in pool.map(put, range(n)) if error is not None]


def test_objects_take_turns_on_a_slow_link(expected_logs: ExpectedLogs) -> None:
    expected_logs.add("trying again")
    link = SlowLink(alone_s=0.15)  # twenty at a time take 3 s, and have half of that
    assert put_many(link, 20) == []
    assert sorted(map(int, link.stored)) == list(range(20))


def test_a_store_that_is_away_is_an_error_for_all_at_the_same_time(expected_logs: ExpectedLogs) -> None:
    expected_logs.add("trying again")
    link = SlowLink(alone_s=0.0)
    link.is_away = True
    began_s = time.monotonic()
    assert len(put_many(link, 20)) == 20
    assert time.monotonic() - began_s < 20  # and not 20 times 1.5 s


def test_turns_end_when_there_is_time_for_all() -> None:
    pace = Pace(SystemClock(), IO_TIMEOUT_S, lambda: False)

    def times_out() -> None:
        raise TimedOut("no time left")

    with pytest.raises(TimedOut):
        pace.run(times_out)
    for _ in range(MOST):
        assert pace._width > 0
        pace.run(lambda: None)
        if pace._width == 0:
            break
    assert pace._width == 0
