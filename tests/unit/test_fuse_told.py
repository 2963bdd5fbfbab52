"""What the kernel is told of own commits: with the reply to the change of names that has made them, elsewhere at once."""

import errno
import stat
import struct
from collections.abc import Iterator

import pytest

from cairnfs.errors import FsError
from support.fuse_peer import FusePeer
from support.memory_handler import MemoryHandler
from support.storing import wait

INVAL_INODE = struct.Struct("=Qqq")
NOTIFIED = 2  # FUSE_NOTIFY_INVAL_INODE


@pytest.fixture
def handler() -> MemoryHandler:
    found = MemoryHandler()
    found.add(1, b"name", stat.S_IFREG | 0o644)
    return found


@pytest.fixture
def peer(handler: MemoryHandler) -> Iterator[FusePeer]:
    with FusePeer(handler, min_threads=1, max_threads=4) as found:
        found.init()
        yield found


def told(peer: FusePeer) -> int:
    """The inode whose attributes the kernel is told to ask for again next."""
    reply = peer.receive()
    assert (reply.unique, reply.error) == (0, NOTIFIED)
    ino, offset, _ = INVAL_INODE.unpack(reply.body)
    assert offset < 0, "pages stay"
    return int(ino)


def test_what_a_removal_has_changed_is_told_before_its_reply_and_not_sooner(peer: FusePeer, handler: MemoryHandler) -> None:
    silent = []

    def change(*_: object) -> None:
        peer.channel.inval_own([1, 77])
        peer.channel.inval_own([78])
        silent.append(peer.is_silent())

    handler.before["unlink"] = change
    unique = peer.send("UNLINK", b"name\0")
    assert [told(peer) for _ in range(3)] == [1, 77, 78]
    reply = peer.receive()
    assert (reply.unique, reply.error) == (unique, 0)
    assert silent == [True]
    assert peer.call("STATFS").error == 0, "told once"


def test_what_a_request_has_changed_that_fails_is_told_all_the_same(peer: FusePeer, handler: MemoryHandler) -> None:
    def fail(*_: object) -> None:
        peer.channel.inval_own([1])
        raise FsError(errno.EIO)

    handler.hooks["unlink"] = fail
    unique = peer.send("UNLINK", b"name\0")
    assert told(peer) == 1
    reply = peer.receive()
    assert (reply.unique, reply.error) == (unique, errno.EIO)


@pytest.mark.parametrize(("opcode", "n"), [("UNLINK", 9), ("STATFS", 1)])
def test_more_than_there_is_room_for_and_what_other_requests_change_is_told_at_once(
    peer: FusePeer, handler: MemoryHandler, opcode: str, n: int
) -> None:
    silent = []

    def change(*_: object) -> None:
        peer.channel.inval_own(list(range(100, 100 + n)))
        silent.append(peer.is_silent())

    handler.before[opcode.lower()] = change
    unique = peer.send(opcode, b"name\0")
    wait(lambda: bool(silent), "it is not served")  # before anything is taken away here
    assert silent == [False]
    assert [told(peer) for _ in range(n)] == list(range(100, 100 + n))
    assert peer.receive().unique == unique


def test_what_no_request_has_changed_is_told_at_once(peer: FusePeer) -> None:
    peer.channel.inval_own([5])
    assert told(peer) == 5
