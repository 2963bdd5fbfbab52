"""How the channel serves: failures, interrupts, threads, notifications, without a mount."""

import errno
import fcntl
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import ExpectedLogs

from cairnfs.ext.fuse_chan import Channel
from cairnfs.types import Attr, Inode, Lock, SetAttr
from support.fuse_peer import OPCODE, FusePeer, Reply
from support.memory_handler import MemoryHandler

SETLKW = struct.pack("=QQQQIIII", 2, 9, 0, 2**63 - 1, fcntl.F_WRLCK, 4242, 0, 0)


@pytest.fixture
def handler() -> MemoryHandler:
    return MemoryHandler()


@pytest.fixture
def peer(handler: MemoryHandler) -> Iterator[FusePeer]:
    with FusePeer(handler, min_threads=1, max_threads=4) as found:
        found.init()
        yield found


# Failing


def raising(error: BaseException) -> Callable[..., Any]:
    def fail(*args: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.EDQUOT, "over quota"), errno.EDQUOT),
        (FileNotFoundError(errno.ENOENT, "gone"), errno.ENOENT),
        (OSError("no number"), errno.EIO),
        (OSError(0, "zero"), errno.EIO),
        (OSError(-5, "negative"), errno.EIO),
        (OSError(512, "kernel-internal"), errno.EIO),
        (OSError("text", "no number"), errno.EIO),
    ],
)
def test_oserror_is_answered_by_its_number(peer: FusePeer, handler: MemoryHandler, error: OSError, expected: int) -> None:
    handler.hooks["statfs"] = raising(error)
    assert peer.call("STATFS").error == expected


@pytest.mark.parametrize("error", [ValueError("boom"), KeyboardInterrupt(), SystemExit(3), MemoryError()])
def test_other_exceptions_are_logged_and_eio(
    peer: FusePeer, handler: MemoryHandler, error: BaseException, expected_logs: ExpectedLogs, caplog: pytest.LogCaptureFixture
) -> None:
    expected_logs.add("STATFS of inode 1 failed")
    handler.hooks["statfs"] = raising(error)
    assert peer.call("STATFS").error == errno.EIO
    assert type(error).__name__ in caplog.text
    del handler.hooks["statfs"]
    assert peer.call("STATFS").error == 0


@pytest.mark.parametrize("value", [None, Attr(Inode(-1), 0, 0, 0, 0, 0), Attr(Inode(1), 0, 2**32, 0, 0, 0)])
def test_values_that_cannot_be_said_are_eio(
    peer: FusePeer, handler: MemoryHandler, value: object, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add("of inode 1 failed")
    handler.hooks["lookup"] = handler.hooks["getattr"] = lambda *args: value
    assert peer.call("LOOKUP", b"a\0").error == errno.EIO
    assert peer.call("GETATTR", bytes(16)).error == errno.EIO


def test_methods_a_handler_does_not_have_are_enosys() -> None:
    class OnlyStatfs:
        def statfs(self, c: object) -> object:
            return MemoryHandler.statfs(MemoryHandler(), c)

    with FusePeer(OnlyStatfs()) as peer:
        peer.init()
        assert peer.call("STATFS").error == 0
        assert peer.call("LOOKUP", b"a\0").error == errno.ENOSYS
        assert peer.call("SETLKW", bytes(48)).error == errno.ENOSYS
        peer.send("FORGET", bytes(8))
        assert peer.call("IOCTL", bytes(32)).error == errno.ENOTTY
        assert peer.call("DESTROY").error == 0


def test_requests_are_counted_by_name(peer: FusePeer) -> None:
    for _ in range(3):
        peer.call("STATFS")
    peer.call("LOOKUP", b"a\0")
    peer.call(60)
    assert peer.channel.counts() == {"STATFS": 3, "LOOKUP": 1, "UNKNOWN": 1}


def test_a_channel_serves_once(peer: FusePeer) -> None:
    with pytest.raises(ValueError, match="once"):
        peer.channel.serve()


@pytest.mark.parametrize(
    "options",
    [
        {"min_threads": 0},
        {"min_threads": 3, "max_threads": 2},
        {"max_write_bytes": 5000},
        {"attr_timeout_s": -1.0},
        {"linger_s": 0},
    ],
)
def test_senseless_options_are_refused(handler: MemoryHandler, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Channel(0, handler, set_attr=SetAttr, lock=Lock, **options)


def test_a_descriptor_that_is_none_is_refused(handler: MemoryHandler) -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        Channel(-1, handler, set_attr=SetAttr, lock=Lock)


# Interrupts


def interrupt(peer: FusePeer, unique: int) -> None:
    peer.send("INTERRUPT", struct.pack("=Q", unique), unique=unique | 1)


def wait_interrupted(handler: MemoryHandler, entered: threading.Event) -> None:
    """Make STATFS wait until it is interrupted."""

    def wait(c: Any) -> None:
        entered.set()
        while not c.interrupted():
            pass
        raise OSError(errno.EINTR, "interrupted")

    handler.hooks["statfs"] = wait


def test_interrupt_reaches_the_request_it_names(peer: FusePeer, handler: MemoryHandler) -> None:
    entered = threading.Event()
    wait_interrupted(handler, entered)
    unique = peer.send("STATFS")
    assert entered.wait(10)
    interrupt(peer, unique + 2)  # another's
    assert peer.call("BMAP").error == errno.ENOSYS
    interrupt(peer, unique)
    assert peer.receive() == Reply(errno.EINTR, unique, b"")


def test_interrupt_that_overtakes_its_request_is_remembered(peer: FusePeer, handler: MemoryHandler) -> None:
    wait_interrupted(handler, threading.Event())
    interrupt(peer, 1000)
    peer.send("STATFS", unique=1000)
    assert peer.receive() == Reply(errno.EINTR, 1000, b"")


def test_interrupts_without_a_request_get_no_answer_and_do_no_harm(peer: FusePeer, handler: MemoryHandler) -> None:
    for unique in range(2000, 2400, 2):
        interrupt(peer, unique)
    peer.send("INTERRUPT", b"", unique=5)
    seen: list[bool] = []
    handler.before["statfs"] = lambda c: seen.append(c.interrupted())
    assert peer.call("STATFS").error == 0
    assert seen == [False] and peer.is_silent()


def test_caller_kept_beyond_its_request_is_not_interrupted(peer: FusePeer, handler: MemoryHandler) -> None:
    kept: list[Any] = []
    handler.before["statfs"] = kept.append
    peer.call("STATFS")
    peer.call("BMAP")
    assert kept[0].interrupted() is False


def test_waiting_requests_are_interrupted_when_the_kernel_hangs_up(handler: MemoryHandler) -> None:
    entered = threading.Event()
    wait_interrupted(handler, entered)
    with FusePeer(handler, min_threads=2) as peer:
        peer.init()
        peer.send("STATFS")
        assert entered.wait(10)


# Threads


def gated(handler: MemoryHandler, method: str) -> tuple[threading.Event, threading.Semaphore]:
    """Make a method wait for the event; the semaphore counts who has come."""
    gate, entered = threading.Event(), threading.Semaphore(0)

    def wait(*args: object) -> None:
        entered.release()
        gate.wait(20)

    handler.before[method] = wait
    return gate, entered


def test_a_thread_is_added_when_all_work_and_ends_when_idle(handler: MemoryHandler) -> None:
    gate, entered = gated(handler, "statfs")
    with FusePeer(handler, min_threads=1, max_threads=5, linger_s=0.02) as peer:
        peer.init()
        sent = {peer.send("STATFS") for _ in range(5)}
        for _ in sent:
            assert entered.acquire(timeout=10)
        assert peer.channel.n_threads == 5
        peer.send("STATFS")
        assert not entered.acquire(timeout=0.05), "max_threads is a limit"
        gate.set()
        assert {peer.receive().unique for _ in range(6)} > sent
        deadline = threading.Event()
        while peer.channel.n_threads > 1 and not deadline.wait(0.01):
            pass
        assert peer.channel.n_idle == 1
        assert peer.call("STATFS").error == 0


def test_waiting_for_locks_does_not_use_up_the_threads(handler: MemoryHandler) -> None:
    gate, entered = gated(handler, "setlk")
    with FusePeer(handler, min_threads=1, max_threads=1) as peer:
        peer.init()
        waiting = {peer.send("SETLKW", SETLKW) for _ in range(6)}
        for _ in waiting:
            assert entered.acquire(timeout=10)
        assert peer.call("STATFS").error == 0
        gate.set()
        assert {peer.receive().unique for _ in waiting} == waiting


def test_stop_answers_what_is_in_work_and_ends(handler: MemoryHandler) -> None:
    gate, entered = gated(handler, "statfs")
    with FusePeer(handler) as peer:
        peer.init()
        unique = peer.send("STATFS")
        assert entered.acquire(timeout=10)
        peer.channel.stop()
        gate.set()
        peer.join()
        assert peer.failure is None
        assert peer.receive().unique == unique
        assert peer.channel.n_threads == 0


# Notifications


def test_notifications_say_what_they_are_about(peer: FusePeer) -> None:
    def sent(ok: bool) -> tuple[int, bytes]:
        assert ok
        reply = peer.receive()
        assert reply.unique == 0
        return reply.error, reply.body

    assert sent(peer.channel.inval_inode(5, 10, 20)) == (2, struct.pack("=Qqq", 5, 10, 20))
    assert sent(peer.channel.inval_entry(1, b"name")) == (3, struct.pack("=QII", 1, 4, 0) + b"name\0")
    assert sent(peer.channel.inval_entry(1, b"n", expire_only=True)) == (3, struct.pack("=QII", 1, 1, 1) + b"n\0")
    assert sent(peer.channel.delete(1, 5, b"name")) == (6, struct.pack("=QQII", 1, 5, 4, 0) + b"name\0")
    assert sent(peer.channel.store(5, 4096, memoryview(b"data"))) == (4, struct.pack("=QQII", 5, 4096, 4, 0) + b"data")
    assert sent(peer.channel.inc_epoch()) == (8, b"")


def test_every_opcode_of_the_table_has_its_own_number() -> None:
    assert len(OPCODE) == 51 and OPCODE["LOOKUP"] == 1 and OPCODE["COPY_FILE_RANGE_64"] == 53
