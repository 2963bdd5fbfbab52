"""Requests that a process had in work when it was killed are served by the next one, once."""

import errno
import os
import signal
import stat
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from cairnfs.ext.arena import Arena
from cairnfs.ext.fuse_chan import Channel
from cairnfs.ext.fuse_slots import Slots
from cairnfs.types import Lock, SetAttr, serving
from support.fuse_peer import FusePeer
from support.memory_handler import MemoryHandler

MKDIR = struct.pack("=II", 0o755, 0)
CREATE = struct.pack("=IIII", os.O_CREAT | os.O_EXCL | os.O_RDWR, stat.S_IFREG | 0o644, 0, 0)
REQUEST_BYTES = (1 << 20) + 4096


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def killed(request: Callable[[FusePeer], Any], method: str, *, done: bool, **options: Any) -> Iterator[tuple[FusePeer, int]]:
    """A channel that takes over from one whose process was killed in `method`; `done`: the effects are there."""
    slots, handler = Slots(8, REQUEST_BYTES), MemoryHandler()
    peer = FusePeer(handler, min_threads=1, max_threads=4, slots=slots, serving=serving, **options)
    peer.send("INIT", struct.pack("=IIIII44x", 7, 45, 131072, 0xFFFFFFFF, 0xFFFFFFFF))
    unique = request(peer)
    pid = os.fork()
    if pid == 0:
        try:
            handler.before[method] = die
            theirs = peer._theirs.fileno()
            Channel(theirs, handler, set_attr=SetAttr, lock=Lock, min_threads=1, max_threads=4, slots=slots).serve()
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    assert peer.receive().error == 0, "INIT"
    assert slots.agreed
    assert [(u, op) for _, u, op in slots.waiting()] == [(unique, slots.waiting()[0][2])]
    if done:
        handler.add(1, b"made", stat.S_IFDIR | 0o755 if method == "mkdir" else stat.S_IFREG | 0o644)
    peer.channel = Channel(
        peer._theirs.fileno(),
        handler,
        set_attr=SetAttr,
        lock=Lock,
        min_threads=1,
        max_threads=4,
        slots=slots,
        serving=serving,
        done={unique} if done else (),
    )
    with peer:
        yield peer, unique
    assert slots.waiting() == []


def test_a_request_is_served_again() -> None:
    with killed(lambda peer: peer.send("MKDIR", MKDIR + b"made\0"), "mkdir", done=False) as (peer, unique):
        reply = peer.receive()
        assert (reply.unique, reply.error) == (unique, 0)
        assert peer.call("LOOKUP", b"made\0").error == 0


def test_what_was_done_is_not_done_again() -> None:
    with killed(lambda peer: peer.send("MKDIR", MKDIR + b"made\0"), "mkdir", done=True) as (peer, unique):
        reply = peer.receive()
        assert (reply.unique, reply.error) == (unique, 0)
        assert struct.unpack_from("=Q", reply.body)[0] == 2


def test_a_file_that_was_created_is_opened() -> None:
    with killed(lambda peer: peer.send("CREATE", CREATE + b"made\0"), "create", done=True) as (peer, unique):
        reply = peer.receive()
        assert (reply.unique, reply.error) == (unique, 0)
        assert len(reply.body) == 128 + 16


def test_a_removal_that_was_done_has_succeeded() -> None:
    with killed(lambda peer: peer.send("UNLINK", b"gone\0"), "unlink", done=True) as (peer, unique):
        assert peer.receive() == (0, unique, b"")
    with killed(lambda peer: peer.send("UNLINK", b"gone\0"), "unlink", done=False) as (peer, unique):
        assert peer.receive() == (errno.ENOENT, unique, b"")


def test_what_was_made_and_is_gone_again_is_said_to_be_gone() -> None:
    with killed(lambda peer: peer.send("MKDIR", MKDIR + b"other\0"), "mkdir", done=True) as (peer, unique):
        assert peer.receive() == (errno.ENOENT, unique, b"")


def test_requests_that_are_left_when_the_kernel_has_hung_up_are_nobodys() -> None:
    """Of a worker that is killed just before an unmount, whose successor comes after it."""
    slots, handler = Slots(8, REQUEST_BYTES), MemoryHandler()
    handler.before["mkdir"] = lambda *_: time.sleep(60)
    peer = FusePeer(handler, min_threads=1, max_threads=8, slots=slots)
    peer.send("INIT", struct.pack("=IIIII44x", 7, 45, 131072, 0xFFFFFFFF, 0xFFFFFFFF))
    for i in range(4):
        peer.send("MKDIR", MKDIR + b"made%d\0" % i)
    pid = os.fork()
    if pid == 0:
        try:
            theirs = peer._theirs.fileno()
            Channel(theirs, handler, set_attr=SetAttr, lock=Lock, min_threads=1, max_threads=8, slots=slots).serve()
        finally:
            os._exit(1)
    deadline = time.monotonic() + 20
    while len(slots.waiting()) < 4:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    handler.before.clear()
    peer.kernel.close()
    successor = Channel(peer._theirs.fileno(), handler, set_attr=SetAttr, lock=Lock, min_threads=1, max_threads=8, slots=slots)
    successor.stop()
    thread = threading.Thread(target=successor.serve, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive(), "a channel that is over opens lanes for ever"
    peer._theirs.close()


def test_a_request_that_every_process_dies_of_fails() -> None:
    slots, handler = Slots(8, REQUEST_BYTES), MemoryHandler()
    handler.before["mkdir"] = die
    peer = FusePeer(handler, min_threads=1, max_threads=4, slots=slots)
    peer.send("INIT", struct.pack("=IIIII44x", 7, 45, 131072, 0xFFFFFFFF, 0xFFFFFFFF))
    unique = peer.send("MKDIR", MKDIR + b"poison\0")
    for _ in range(21):
        pid = os.fork()
        if pid == 0:
            try:
                theirs = peer._theirs.fileno()
                Channel(theirs, handler, set_attr=SetAttr, lock=Lock, min_threads=1, max_threads=4, slots=slots).serve()
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
        assert len(slots.waiting()) == 1
    assert peer.receive().error == 0, "INIT"
    with peer:
        assert peer.receive() == (errno.EIO, unique, b"")
        handler.before.clear()
        assert peer.call("MKDIR", MKDIR + b"fine\0").error == 0


def test_what_a_request_commits_is_looked_for_from_where_the_log_was_when_it_began() -> None:
    slots, handler, arena = Slots(4, REQUEST_BYTES), MemoryHandler(), Arena(4 << 20)
    inside, go_on = threading.Event(), threading.Event()
    handler.before["mkdir"] = lambda *_: (inside.set(), go_on.wait(20))
    arena.saw(41, None)
    with FusePeer(handler, min_threads=2, max_threads=4, slots=slots, arena=arena) as peer:
        peer.init()
        assert slots.began() is None
        peer.send("MKDIR", MKDIR + b"made\0")
        assert inside.wait(20)
        arena.saw(50, None)  # its own commit among them: the log is followed while nobody is answered
        assert slots.began() == 41
        go_on.set()
        assert peer.receive().error == 0
        assert peer.call("STATFS").error == 0
        assert slots.began() is None


def test_commits_carry_the_number_of_the_request() -> None:
    seen = []
    handler = MemoryHandler()
    handler.before["statfs"] = lambda *_: seen.append(serving.request)
    with FusePeer(handler, min_threads=1, max_threads=2, slots=Slots(4, REQUEST_BYTES), serving=serving) as peer:
        peer.init()
        assert peer.call("STATFS").error == 0
        unique = peer.send("STATFS")
        assert peer.receive().unique == unique
    assert seen == [unique - 2, unique]
    assert serving.request == 0, "it is the thread's own"


@pytest.mark.parametrize(("n_slots", "n_bytes"), [(0, 1 << 20), (2000, 1 << 20), (4, 100), (4, 1 << 30)])
def test_slots_are_bounded(n_slots: int, n_bytes: int) -> None:
    with pytest.raises(ValueError, match="slots"):
        Slots(n_slots, n_bytes)


def test_more_threads_than_slots_are_refused() -> None:
    slots = Slots(8, REQUEST_BYTES)
    with open(os.devnull, "rb") as file, pytest.raises(ValueError, match="slots"):
        Channel(file.fileno(), MemoryHandler(), set_attr=SetAttr, lock=Lock, max_threads=9, slots=slots)
