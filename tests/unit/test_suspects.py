"""Opens by paths that lead elsewhere by now: refused once for every thread, for a while."""

import pytest

from cairnfs.types import Inode
from cairnfs.vfs.suspects import GRACE_S, RETRY_S, Suspects

A, B = Inode(5), Inode(6)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now_s = [1000.0]
    monkeypatch.setattr("cairnfs.vfs.suspects.time.monotonic", lambda: now_s[0])
    return now_s


def test_every_thread_is_sent_back_once(clock: list[float]) -> None:
    found = Suspects()
    assert not found.refuses(A, 1)
    found.add([A])
    assert not found.refuses(B, 1)
    assert [found.refuses(A, pid) for pid in (1, 1, 2, 1, 2)] == [True, False, True, False, False]
    found.add([A])
    assert found.refuses(A, 1), "another change"


def test_suspicion_ends_some_time_after_the_kernel_was_told(clock: list[float]) -> None:
    found = Suspects()
    found.add([A])
    clock[0] += 100
    assert found.refuses(A, 1)
    found.told(found.untold())
    clock[0] += GRACE_S * 0.9
    assert found.refuses(A, 2)
    clock[0] += GRACE_S * 0.2
    assert not found.refuses(A, 3)
    found.told(found.untold())
    assert not found._until and not found._refused


def test_what_was_found_while_the_kernel_was_told_is_not_taken_for_told(clock: list[float]) -> None:
    found = Suspects()
    found.add([A])
    untold = found.untold()
    found.add([A, B])
    found.told(untold)
    clock[0] += 2 * GRACE_S
    assert found.refuses(A, 1)
    assert found.refuses(B, 2)


def test_beyond_a_directory_everything_is_suspected(clock: list[float]) -> None:
    found = Suspects()
    found.add([A], beyond=True)
    assert found.refuses(B, 1)
    assert not found.refuses(B, 1)
    found.told(found.untold())
    clock[0] += 2 * GRACE_S
    assert not found.refuses(B, 2)


def test_whoever_was_sent_back_is_not_sent_back_again(clock: list[float]) -> None:
    found = Suspects()
    found.add([A])
    found.sent_back(1)  # by an inode that was gone
    assert not found.refuses(A, 1)
    assert not found.refuses(A, 1)
    assert found.refuses(A, 2)
    assert not found.refuses(B, 2)
    found.sent_back(3)
    clock[0] += 2 * RETRY_S
    assert found.refuses(A, 3), "that was another open"
