"""The lease: caches are dropped when the change log could not be followed for too long, and trusted again when it can."""

import pytest
from conftest import ExpectedLogs

from cairnfs.daemon.lease import CHECK_S, LEASE_S, Lease


class HandClock:
    """Stands still unless moved."""

    def __init__(self) -> None:
        self.s = 1000.0

    def now_ns(self) -> int:
        return int(self.s * 10**9)

    def monotonic_s(self) -> float:
        return self.s

    def sleep(self, seconds: float) -> None:
        self.s += seconds


class Node:
    def __init__(self) -> None:
        self.clock = HandClock()
        self.happened: list[str] = []
        say = self.happened.append
        self.lease = Lease(lambda: say("drop"), lambda: say("regained"), lambda: say("forget"), self.clock)

    def after(self, seconds: float) -> list[str]:
        """What has happened when so much time has passed, with a check at the end of it."""
        self.clock.sleep(seconds)
        self.lease.check()
        return self.happened


@pytest.fixture
def node() -> Node:
    return Node()


def test_nothing_is_dropped_while_the_lease_is_renewed(node: Node) -> None:
    for _ in range(10):
        assert node.after(LEASE_S - 2 * CHECK_S) == []
        node.lease.renew(node.lease.now_s())


def test_everything_is_dropped_before_the_lease_ends_and_trusted_after_the_next_renewal(
    node: Node, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add("dropping every cache")
    assert node.after(LEASE_S - 2 * CHECK_S) == []
    assert node.after(CHECK_S) == ["drop"], "the next check would be too late"
    node.lease.renew(node.lease.now_s())
    assert node.happened == ["drop", "regained"]
    assert node.after(LEASE_S / 2) == ["drop", "regained"]


def test_while_it_is_lost_everything_is_dropped_again_and_again(node: Node, expected_logs: ExpectedLogs) -> None:
    expected_logs.add("dropping every cache")
    node.after(LEASE_S)
    assert node.after(LEASE_S) == ["drop", "drop"]


def test_catching_up_counts_from_its_beginning(node: Node, expected_logs: ExpectedLogs) -> None:
    expected_logs.add("dropping every cache")
    began_s = node.lease.now_s()
    node.clock.sleep(LEASE_S - 2 * CHECK_S)
    node.lease.renew(began_s)
    assert node.after(CHECK_S) == ["drop"]


def test_thread_ends_when_told_and_may_be_told_before_it_began(node: Node) -> None:
    node.lease.stop()
    other = Node()
    other.lease.start()
    other.lease.stop()
    assert not other.lease.is_alive()


def test_a_request_that_comes_before_the_check_has_forgotten_what_was_known(node: Node, expected_logs: ExpectedLogs) -> None:
    """The whole process was stopped, and threads go on in any order."""
    expected_logs.add("dropping every cache")
    node.lease.hold()
    node.clock.sleep(LEASE_S - CHECK_S)
    node.lease.hold()
    assert node.happened == []
    node.clock.sleep(CHECK_S)
    node.lease.hold()
    node.lease.hold()
    assert node.happened == ["forget"], "once for all"
    assert node.after(0) == ["forget", "drop"], "the kernel forgets as it would have"
    node.clock.sleep(LEASE_S - CHECK_S)
    node.lease.renew(node.lease.now_s())
    node.clock.sleep(LEASE_S - CHECK_S)
    node.lease.hold()
    assert node.happened == ["forget", "drop", "regained"]
